"`vislearn.all` is light, fits beside the builtins, and holds what lessons use without importing it."

import subprocess
import sys

import pytest
from nbtools import ROOT


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


LESSONS = """os re sys json math time random shutil requests itertools functools operator types warnings tempfile Image models np pd plt
    torch nn F partial Path L Tensor tensor array Counter OrderedDict defaultdict namedtuple attrgetter itemgetter deepcopy
    contextmanager resnet18 resnet34 resnet50 resnet101 resnet152"""
FASTAI = """SimpleNamespace VBox HBox to_cpu to_np image2tensor TensorImage store_attr ifnone range_of is_listy parallel save_pickle
    load_pickle patch delegates matplotlib datetime test_eq BILINEAR tensor first noop"""


@pytest.mark.parametrize('names', [LESSONS, FASTAI], ids=['lessons', 'fastai'])
def test_names_that_lessons_use_without_importing_them(names):
    import vislearn.all as v

    assert not (missing := set(names.split()) - set(v.__all__)), missing


def test_stand_ins_work():
    import vislearn.all as v

    assert v.plt.rcParams['font.size'] and list(v.pd.DataFrame({'a': [1]})) == ['a']
    assert v.models.resnet18.__name__ == 'resnet18' and v.matplotlib.__name__ == 'matplotlib'


@pytest.mark.parametrize('name', ['unet_learner', 'tabular_learner'])
def test_a_fastai_name_without_counterpart_says_what_to_use(name):
    import vislearn.all as v

    with pytest.raises(NotImplementedError, match=f'{name} is not in vislearn'):
        getattr(v, name)()


def test_second_import_line():
    "`from vislearn.widgets import *` stands where fastai has `from fastai.vision.widgets import *`."
    names = {}
    exec('from vislearn.widgets import *', names)
    assert {'widgets', 'VBox', 'Button', 'FileUpload', 'ImageClassifierCleaner'} <= set(names)
