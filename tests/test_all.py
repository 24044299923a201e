"`vislearn.all` is complete and light: every public name is there or is kept in its room on purpose."

import importlib
import subprocess
import sys

import pytest
from nbtools import ROOT, modules

# Names that builders need and lessons don't: `from vislearn.ROOM import NAME`. A room that maps to None keeps all of its names.
ROOM_ONLY: dict[str, str | None] = {
    'all': None,
    'archive': None,
    'cache': None,
    'check': None,
    'cleaner': None,
    'cli': None,
    'draw': None,
    'features': None,
    'fold': None,
    'widgets': None,
    'audit': 'audit_kinds PictureStats picture_stats alike_pairs find_label_errors OutOfFold fit_linear AuditLimits outlier_scores',
    'augment': 'to_float BatchTransform resample ResizeBatch Geometry Resample ColourTransform Colour Fused fuse',
    'block': 'TargetBlock RawDataset',
    'bundle': 'PLAIN_NAMES FORMAT pickle_names bundle_model bundle_pipelines',
    'callbacks': """NOT_IN_TRIALS format_time text_row html_table suggest_lrs atomic_save writable model_file save_model load_model set_bn_eval
                    get_rng_state set_rng_state read_run plain_data""",
    'core': 'check_kwargs suggest did_you_mean item_rng batch_rng tfm_to_dict tfm_from_dict keep_memory compute_alone',
    'files': 'Scan scan_files read_col column image_extensions progress_mode progress_bar',
    'image': 'Header read_header Cut apply_cut ItemPipeline ItemGeometry to_source move_points CropTransform SquishCrop image_formats max_pixels to_tensor',
    'interpret': """palette shorten Table confusion plot_confusion confused_classes plot_confusion_multi plot_pr plot_roc plot_reliability rescale fit_temperature
                    divide_logits plot_threshold show_heat embed pca plot_map""",
    'learner': 'norm_params set_trainable PrettyString model_summary show_predictions tta_dl left_as_it_was add_normalize RECIPES set_bn_momentum',
    'loaders': 'encode_labels BatchPipeline stack_pictures default_workers',
    'loop': 'on SmoothLoss item_losses resolve_precision fast_bf16 PRECISIONS EVENTS',
    'metrics': 'metric_name metric_names compute_metric get_metric best_threshold best_thresholds',
    'mix': 'soft_targets Mixing',
    'models': """imagenet_cfg Named TimmBody CutBody PooledBody cut_body LoadReport load_state read_state adapt_input LazyModel ParamGroup resolve_arch
                 offline_weights""",
    'optim': 'OptFunc HYPERS Schedule SCHEDULES get_opt_func make_groups get_hyper set_hyper Scaled per_layer get_schedule cosine linear poly piecewise',
    'policies': 'policies ItemPolicy apply_op Mask EraseItem policy',
    'targets': 'Vocab LabelError CrossEntropy BCEWithLogits',
    'verify': 'what_is_wrong BadImages',
    'workers': 'Workers',
}


@pytest.mark.parametrize('room', [o for o in modules() if ROOM_ONLY.get(o, '') is not None])
def test_every_public_name_has_its_place(room):
    import vislearn.all as v

    public = set(importlib.import_module(f'vislearn.{room}').__all__)
    kept = set(ROOM_ONLY.get(room, '').split())
    lost = public - kept - set(v.__all__)
    assert not lost, (
        f'{sorted(lost)} of {room}: add them to 90_all (its import and its list), or to ROOM_ONLY in this file'
    )
    assert not (gone := kept - public), f'ROOM_ONLY names {sorted(gone)}, which {room} no longer has'


def fresh(code: str) -> str:
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert r.returncode == 0, r.stderr
    return r.stdout


HEAVY = (
    'torchvision',
    'timm',
    'matplotlib',
    'pandas',
    'ipywidgets',
    'IPython',
    'requests',
    'torchmetrics',
    'tqdm',
    'scipy',
    'torch._dynamo',
    'huggingface_hub',
)


def test_import_brings_nothing_heavy_along():
    seen = fresh(
        f'import torch, sys; before = set(sys.modules); from vislearn.all import *; print([o for o in {HEAVY} if o in set(sys.modules)-before])'
    )
    assert seen.strip() == '[]'


def test_star_import_fits_beside_the_builtins():
    "No name shadows a builtin, or is a single letter, `L` and `F` apart."
    import builtins

    import vislearn.all as v

    assert not (bad := [o for o in v.__all__ if hasattr(builtins, o) or len(o) == 1 and o not in 'LF']), bad
    assert len(v.__all__) == len(set(v.__all__))


BLOG = """os re sys json math time random shutil requests itertools functools operator types warnings tempfile Image models np pd plt torch nn F partial Path L Tensor
    tensor array Counter OrderedDict defaultdict namedtuple attrgetter itemgetter deepcopy contextmanager resnet18 resnet34 resnet50 resnet101 resnet152"""


def test_free_names_of_lessons():
    import vislearn.all as v

    assert not (missing := set(BLOG.split()) - set(v.__all__)), missing
    v.plt.rcParams['font.size'], v.pd.DataFrame({'a': [1]}), v.models.resnet18  # the stand-ins work
