"""Every entry of fastai 2.8's learner, callbacks, optimizers and losses is here under its name and with its
arguments, or has a row in the table of differences (nbs/lessons/50_fastai).
"""

import copy
import inspect
import json
import re
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from nbtools import ROOT
from tiny import make_dls, make_pictures, tiny_net

import vislearn.all as v
from vislearn.core import NotHere
from vislearn.data.loaders import OTHER_LOADER_ATTRIBUTES
from vislearn.fastai_names import OTHER_TASKS, OTHER_WAYS
from vislearn.learner import OTHER_ATTRIBUTES
from vislearn.train.optim import set_hyper

NAMES = """
Learner: dls model loss_func opt_func lr splitter cbs metrics path model_dir wd wd_bn_bias train_bn moms default_cbs
Learner.fine_tune: epochs base_lr freeze_epochs lr_mult pct_start div
Learner.fit_one_cycle: n_epoch lr_max div div_final pct_start wd moms cbs reset_opt start_epoch
Learner.fit: n_epoch lr wd cbs reset_opt start_epoch
Learner.fit_flat_cos: n_epoch lr div_final pct_start wd cbs reset_opt start_epoch
Learner.fit_sgdr: n_cycles cycle_len lr_max cycle_mult cbs reset_opt wd start_epoch
Learner.lr_find: start_lr end_lr num_it stop_div show_plot suggest_funcs
Learner.freeze: Learner.unfreeze: Learner.freeze_to: n
Learner.validate: ds_idx dl cbs
Learner.get_preds: ds_idx dl with_input with_decoded with_loss act inner reorder cbs save_preds save_targs with_preds with_targs concat_dim
Learner.predict: item rm_type_tfms with_input
Learner.show_results: ds_idx dl max_n shuffle
Learner.tta: ds_idx dl n item_tfms batch_tfms beta use_max
Learner.save: file with_opt pickle_protocol
Learner.load: file device with_opt strict
Learner.export: fname pickle_module pickle_protocol
load_learner: fname cpu pickle_module
Learner.summary: Learner.no_bar: Learner.no_logging: Learner.no_mbar: Learner.validation_context: Learner.loss_not_reduced:
Learner.added_cbs: cbs
Learner.removed_cbs: cbs
Learner.add_cb: cb
Learner.add_cbs: cbs
Learner.remove_cb: cb
Learner.remove_cbs: cbs
Learner.show_training_loop: Learner.create_opt: Learner.one_batch: Learner.ordered_cbs: event
Learner.to_fp16: Learner.to_fp32: Learner.to_bf16: Learner.to_channelslast: Learner.to_non_native_fp16: Learner.to_native_fp16:
Recorder: add_time train_metrics valid_metrics beta
Recorder.plot_loss: skip_start with_valid log show_epochs ax
Recorder.plot_sched: keys figsize
Recorder.plot_lr_find: skip_end
SuggestionMethod.Valley: SuggestionMethod.Slide: SuggestionMethod.Minimum: SuggestionMethod.Steep: valley: slide: steep: minimum: num_it
Adam: params lr mom sqr_mom eps wd decouple_wd
SGD: params lr mom wd decouple_wd
RMSProp: params lr mom sqr_mom eps wd decouple_wd
Lamb: params lr mom sqr_mom eps wd decouple_wd
ranger: params lr mom wd eps k alpha
RAdam: params lr mom sqr_mom eps wd decouple_wd
QHAdam: params lr mom sqr_mom nu_1 nu_2 eps wd decouple_wd
Larc: params lr mom clip trust_coeff eps wd
Lookahead: opt k alpha
OptimWrapper: params opt
set_seed: reproducible
no_random: default_device: use
Callback: CancelStepException: CancelBackwardException: CancelBatchException: CancelTrainException: CancelValidException: CancelEpochException: CancelFitException:
MixUp: alpha
CutMix: alpha
SaveModelCallback: monitor comp min_delta fname every_epoch at_end with_opt reset_on_fit
EarlyStoppingCallback: monitor comp min_delta patience reset_on_fit
ReduceLROnPlateau: monitor comp min_delta patience factor min_lr reset_on_fit
CSVLogger: fname append
CSVLogger.read_log: ShowGraphCallback: GradientAccumulation: n_acc
GradientClip: max_norm norm_type
ParamScheduler: scheds
SchedCos: start end
SchedLin: start end
SchedExp: start end
SchedNo: start end
SchedPoly: start end power
combine_scheds: pcts scheds
combined_cos: pct start middle end
TerminateOnNaNCallback: BnFreeze: ChannelsLast: ProgressCallback: before_batch_cb: ShortEpochCallback: pct short_valid
MixedPrecision: amp_mode
ActivationStats: with_hist
ActivationStats.layer_stats: idx
ActivationStats.plot_layer_stats: idx
ActivationStats.hist: idx
ActivationStats.color_dim: idx figsize ax
Hook: m hook_func is_forward detach cpu
Hooks: ms hook_func is_forward detach cpu
hook_output: module detach cpu grad
hook_outputs: modules detach cpu grad
TensorBoardCallback: log_dir trace_model log_preds n_preds projector
WandbCallback: CrossEntropyLossFlat: axis weight ignore_index reduction
BCEWithLogitsLossFlat: axis floatify thresh weight reduction pos_weight
LabelSmoothingCrossEntropy: eps weight reduction
LabelSmoothingCrossEntropyFlat: axis eps weight reduction
FocalLoss: gamma weight reduction
FocalLossFlat: gamma axis weight reduction
MSELossFlat: axis floatify reduction
L1LossFlat: axis floatify reduction
BCELossFlat: axis floatify weight reduction
BaseLoss:
"""
ENTRIES = [(n, a.split()) for n, a in re.findall(r'([\w.]+):((?:\s+\w+(?![\w.]*:))*)', NAMES)]


def differences() -> str:
    "What fastai has, as the first columns of the tables name it, and the names that say themselves what to use."
    cells = json.loads((ROOT / 'nbs/lessons/50_fastai.ipynb').read_text(encoding='utf-8'))['cells']
    text = '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')
    rows = [re.split(r'(?<!\\)\|', row)[1] for row in text.splitlines() if row.startswith('|')]
    return '\n'.join([*rows, *OTHER_WAYS])


def lookup(name):
    "What has this name here; None for a stand-in that says what to use instead."
    o = v
    for a in name.split('.'):
        o = getattr(o, a, None)
    return None if isinstance(o, NotHere) else o


def test_the_list_is_read_as_meant():
    assert len(ENTRIES) > 90 and ('Learner.freeze', []) in ENTRIES and ('Learner.freeze_to', ['n']) in ENTRIES


@pytest.mark.parametrize('name,args', ENTRIES, ids=[n for n, _ in ENTRIES])
def test_it_is_here_or_in_the_table(name, args):
    o, table = lookup(name), differences()
    if o is None:
        assert re.search(rf'\b{name.split(".")[-1]}\b', table), f'{name} is neither here nor in the table'
        return
    have = inspect.signature(o).parameters if args else ()
    short = name.split('.')[-1]
    missing = [a for a in args if a not in have and not re.search(rf'\b{short}\([^)]*\b{a}=', table)]
    assert not missing, f'{name} lacks {missing}, and the table does not say so'


def test_the_table_claims_nothing_that_is_untrue():
    for name in (
        'before_batch_cb',
        'BaseLoss',
        'no_random',
        'Learner.one_batch',
        'Learner.validation_context',
        'Learner.to_native_fp16',
    ):
        assert lookup(name) is None, name


def test_a_name_that_is_not_here_says_what_to_use_instead():
    for name, way in {**OTHER_WAYS, **OTHER_TASKS}.items():
        assert name in v.__all__, name
        o = getattr(v, name)
        if isinstance(o, NotHere):
            with pytest.raises(NotImplementedError, match=re.escape(way)):
                o()


def test_attributes_that_are_not_here_say_what_to_use_instead(learn):
    with pytest.raises(AttributeError, match=r"no attribute 'one_batch'; use learn.dls.one_batch"):
        _ = learn.one_batch
    with pytest.raises(AttributeError, match="no attribute 'loss_fnc'$"):
        _ = learn.loss_fnc
    for name in OTHER_ATTRIBUTES:
        assert not hasattr(learn, name), name


def test_every_name_that_is_not_here_has_a_row_of_its_own_kind():
    assert not set(OTHER_WAYS) & set(OTHER_TASKS)
    assert all(isinstance(getattr(v, name), NotHere) for name in (*OTHER_WAYS, *OTHER_TASKS))


# and what they do


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp('pictures'))


@pytest.fixture
def learn(pictures, tmp_path):
    return v.Learner(make_dls(pictures, tmp_path), tiny_net(), metrics=v.accuracy, seed=0)


def test_events_in_order():
    from vislearn.train.events import EVENTS

    assert ' '.join(EVENTS) == (
        'after_create before_fit before_epoch before_train before_batch after_pred after_loss before_backward after_cancel_backward after_backward before_step after_cancel_step '
        'after_step after_cancel_batch after_batch after_cancel_train after_train before_validate after_cancel_validate after_validate after_cancel_epoch after_epoch after_cancel_fit after_fit'
    )


@pytest.mark.parametrize(
    'cls,name',
    [
        ('CSVLogger', 'csv_logger'),
        ('ReduceLROnPlateau', 'reduce_lr_on_plateau'),
        ('SaveModelCallback', 'save_model'),
        ('MixUp', 'mix_up'),
        ('EMA', 'ema'),
        ('ActivationStats', 'activation_stats'),
        ('LRFinder', 'lr_finder'),
        ('JSONLogger', 'json_logger'),
        ('Recorder', 'recorder'),
    ],
)
def test_names_of_callbacks_on_the_learner(learn, cls, name):
    assert getattr(v, cls).name.fget(getattr(v, cls).__new__(getattr(v, cls))) == name


CALLBACKS = {
    'MixUp': lambda: v.MixUp(0.4),
    'CutMix': lambda: v.CutMix(1.0),
    'GradientAccumulation': lambda: v.GradientAccumulation(16),
    'GradientClip': lambda: v.GradientClip(1.0, 2.0),
    'CSVLogger': lambda: v.CSVLogger('h.csv'),
    'ShowGraphCallback': lambda: v.ShowGraphCallback(),
    'SaveModelCallback': lambda: v.SaveModelCallback(monitor='accuracy', comp=np.greater, with_opt=True),
    'SaveModelCallback of every epoch': lambda: v.SaveModelCallback(every_epoch=True),
    'EarlyStoppingCallback': lambda: v.EarlyStoppingCallback(monitor='valid_loss', patience=3),
    'ReduceLROnPlateau': lambda: v.ReduceLROnPlateau(monitor='valid_loss', min_delta=0.1, patience=2),
    'TerminateOnNaNCallback': lambda: v.TerminateOnNaNCallback(),
    'BnFreeze, the class': lambda: v.BnFreeze,
    'ShortEpochCallback': lambda: v.ShortEpochCallback(0.5),
    'ActivationStats': lambda: v.ActivationStats(with_hist=True),
    'ChannelsLast': lambda: v.ChannelsLast(),
    'ProgressCallback': lambda: v.ProgressCallback(),
    'Recorder': lambda: v.Recorder(beta=0.9),
    'MixedPrecision': lambda: v.MixedPrecision('bf16'),
    'ParamScheduler': lambda: v.ParamScheduler({'lr': v.SchedLin(1e-3, 1e-4)}),
    'ParamScheduler of two': lambda: v.ParamScheduler(
        {
            'lr': v.combine_scheds([0.3, 0.7], [v.SchedCos(1e-4, 1e-3), v.SchedExp(1e-3, 1e-5)]),
            'mom': v.SchedPoly(0.95, 0.85, 2),
        }
    ),
}


@pytest.mark.parametrize('name', CALLBACKS)
def test_callbacks_in_a_fit(learn, name):
    cb = CALLBACKS[name]()
    learn.fit(2, 1e-3, cbs=cb)
    learn.fit_one_cycle(1, cbs=cb)
    assert len(learn.history) == 3 and not [o for o in learn.cbs if o is cb]


OPTS = {
    'Adam': v.Adam,
    'SGD': v.SGD,
    'RMSProp': v.RMSProp,
    'ranger': v.ranger,
    'Lamb': v.Lamb,
    'wrapped AdamW': partial(v.OptimWrapper, opt=torch.optim.AdamW),
    'SGD with momentum': partial(v.SGD, mom=0.9),
    'Adam with decay': partial(v.Adam, sqr_mom=0.9, wd=0.1),
    "torch's SGD": torch.optim.SGD,
    'a name': 'adamw',
}


@pytest.mark.parametrize('name', OPTS)
def test_optimizers_in_a_fit(pictures, tmp_path, name):
    learn = v.Learner(make_dls(pictures, tmp_path), tiny_net(), opt_func=OPTS[name], default_cbs=False)
    learn.fit_one_cycle(1, 1e-2)
    assert len(learn.history) == 1


def test_16_bits_in_every_fit(learn):
    "A callback that stays works in the second fit too, and leaves the precision as it was."
    seen = []
    learn.precision = 'fp32'
    learn.add_cbs(
        [
            v.MixedPrecision('bf16'),
            type('See', (v.Callback,), {'before_train': lambda self, learn: seen.append(learn._amp)}),
        ]
    )
    learn.fit(1)
    learn.fit(1)
    assert seen == ['bf16', 'bf16'] and learn.precision == 'fp32'


def test_flat_lists_of_parameters_are_one_group(pictures, tmp_path):
    learn = v.Learner(make_dls(pictures, tmp_path), tiny_net(), splitter=v.trainable_params, default_cbs=False)
    learn.fit(1, 1e-3)
    assert len(learn.layer_groups()) == 1 and len(learn.layer_groups()[0]) == len([*learn.model.parameters()])


def test_records(learn):
    assert learn.final_record == []
    learn.fit(2)
    assert (
        learn.final_record
        == [learn.history[-1][k] for k in ('train_loss', 'valid_loss', 'accuracy')]
        == learn.recorder.values[-1]
    )
    assert (
        learn.recorder.iters == [4, 8]
        and len(learn.recorder.losses) == len(learn.recorder.lrs) == 8
        and learn.recorder.metric_names[1:-1] == ['train_loss', 'valid_loss', 'accuracy']
    )
    assert learn.recorder.losses[0].item() == pytest.approx(learn.recorder.raw[0])
    assert learn.recorder.plot_sched() is None
    assert len(plt.gcf().axes) == 1
    learn.recorder.plot_sched(['lr', 'mom'], figsize=(4, 2))
    assert len(plt.gcf().axes) == 2


def test_hooks_see_predictions_too(learn):
    "Also where the learner would otherwise use a folded copy of the model."
    with v.hook_output(learn.model.body[4]) as h, v.Hooks([learn.model.body[0], learn.model.head], cpu=True) as hs:
        learn.validate()
        assert h.stored.shape == (4, 16, 7, 7) and [o.shape[1] for o in hs.stored] == [8, 3]
    h.stored = None
    learn.validate()
    assert h.stored is None and h.removed


def test_get_preds_with_callbacks(learn):
    seen = []
    learn.get_preds(cbs=type('See', (v.Callback,), {'after_pred': lambda self, learn: seen.append(len(learn.xb))})())
    assert seen == [8, 4]


def test_contexts(learn, capsys):
    for f in (learn.no_bar, learn.no_mbar, learn.no_logging):
        with f() as o:
            assert o is learn
    with learn.added_cbs(v.GradientClip()):
        assert hasattr(learn, 'gradient_clip')
    with learn.removed_cbs(v.Recorder):
        assert not hasattr(learn, 'recorder')
    assert hasattr(learn, 'recorder') and not hasattr(learn, 'gradient_clip')


def test_metrics_as_fastai_makes_them():
    p, t = torch.tensor([[2.0, 0, 0], [0, 2, 0], [0, 0, 2], [2, 0, 0]]), torch.tensor([0, 1, 1, 2])

    def share(truth, answers, average=None):
        assert average == 'macro' and isinstance(answers, np.ndarray)
        return (truth == answers).mean()

    assert v.skm_to_fastai(share, average='macro')(p, t) == 0.5
    flat = v.AccumMetric(lambda a, b: (a - b).abs().max(), flatten=True)
    assert flat(torch.ones(2, 2), torch.zeros(2, 2)) == 1
    right = v.AccumMetric(lambda a, b: (a == b).float().mean(), dim_argmax=-1, name='right')
    assert right(p, t) == 0.5 and right.__name__ == 'right'
    # class 0: one of two pictures called or being it; class 1: one of two; class 2: none of two
    assert v.Jaccard(average=None)(p, t).tolist() == pytest.approx([0.5, 0.5, 0])
    assert v.JaccardMulti()(torch.tensor([[1.0, -1], [1, 1]]), torch.tensor([[1.0, 0], [0, 1]])) == pytest.approx(0.75)
    assert v.PearsonCorrCoef()(torch.tensor([1.0, 2, 3]), torch.tensor([2.0, 4, 6])) == pytest.approx(1)


def test_metric_classes_written_for_fastai_in_a_learner(pictures, tmp_path):
    class Seen(v.Metric):
        def reset(self):
            self.n = 0

        def accumulate(self, learn):
            self.n += len(learn.yb[0])

        @property
        def value(self):
            return self.n

    learn = v.Learner(make_dls(pictures, tmp_path), tiny_net(), metrics=[Seen(), v.accuracy], default_cbs=False)
    assert learn.validate()[1] == learn.dls.valid.n
    learn.fit(1)
    assert learn.history[0]['seen'] == learn.dls.valid.n


def test_hyperparameters_under_fastais_names(learn):
    learn.fit(1, 1e-3)
    assert learn.opt.hypers[-1]['lr'] == 1e-3 and learn.opt.hypers[0]['mom'] == 0.9
    assert {'lr', 'mom', 'sqr_mom', 'wd', 'eps'} <= set(learn.opt.hypers[0])
    set_hyper(learn.opt, 'lr', 0.5)
    assert learn.opt.hypers[0]['lr'] == 0.5
    with pytest.raises(TypeError, match='does not support item assignment'):
        learn.opt.hypers[0]['lr'] = 1


def test_attributes_of_loaders_that_are_not_here_say_what_to_use_instead(learn):
    dls = learn.dls
    for o in (dls, dls.train):
        with pytest.raises(AttributeError, match="no attribute 'before_batch'; use item_tfms"):
            _ = o.before_batch
        with pytest.raises(AttributeError, match="no attribute 'nothing'$"):
            _ = o.nothing
    with pytest.raises(AttributeError, match="no attribute 'num_workers'; use dls.train.num_workers"):
        _ = dls.num_workers
    for name in OTHER_LOADER_ATTRIBUTES:
        assert not hasattr(dls, name), name
    assert copy.deepcopy(dls).vocab == dls.vocab


def test_loaders_of_data_sets(learn):
    dls = learn.dls
    made = v.DataLoaders.from_dsets(
        dls.train_ds, dls.valid_ds, bs=4, val_bs=3, after_item=v.Resize(16), after_batch=v.Normalize(), seed=0
    )
    assert made.one_batch()[0].shape == (4, 3, 16, 16) and len(made.valid.one_batch()[0]) == 3
    assert made.vocab == dls.vocab and list(made.valid.items) == list(dls.valid.items)
    assert (made.train.shuffle, made.valid.shuffle, made.valid.drop_last) == (True, False, False)
    weights = [float(y == 2) for y in dls.train_ds.y]
    drawn = v.DataLoaders.from_dsets(dls.train_ds, dls.valid_ds, bs=4, weights=weights).one_batch()[1]
    assert drawn.tolist() == [2] * 4
    with pytest.raises(TypeError, match='got a list; Datasets'):
        v.DataLoaders.from_dsets([1, 2])


def test_options_of_a_data_blocks_loaders(pictures):
    block = v.DataBlock(
        (v.ImageBlock, v.CategoryBlock),
        get_items=v.get_image_files,
        get_y=v.parent_label,
        splitter=v.RandomSplitter(seed=0),
        item_tfms=v.Resize(16),
    )
    dls = v.DataLoaders.from_dblock(
        block, pictures, bs=4, val_bs=2, shuffle=False, seed=3, num_workers=0, drop_last=False, device='cpu'
    )
    assert [len(x) for x in (dls.train.one_batch()[0], dls.valid.one_batch()[0])] == [4, 2]
    assert (dls.train.shuffle, dls.train.drop_last, dls.train.seed, dls.train.num_workers) == (False, False, 3, 0)
    with pytest.raises(TypeError, match="did you mean 'num_workers'"):
        v.DataLoaders.from_dblock(block, pictures, num_worker=0)
    n = len(block.datasets(pictures).train)
    weighted = block.weighted_dataloaders(pictures, [1.0] * n, bs=4, val_bs=2, num_workers=0, seed=3, device='cpu')
    assert weighted.train.order(0) == block.weighted_dataloaders(pictures, [1.0] * n, seed=3).train.order(0)
    assert (weighted.train.bs, weighted.valid.bs, weighted.train.num_workers) == (4, 2, 0)
    with pytest.raises(ValueError, match='weights'):
        block.weighted_dataloaders(pictures, [1.0])


def test_callbacks_written_for_fastai(pictures, tmp_path):
    "They take no learner; `self.x` is the batch, `self.learn.xb` a tuple, and attributes are the learner's."

    class Halved(v.Callback):
        run_valid = False

        def __init__(self):
            self.seen = []

        def before_batch(self):
            self.learn.xb = (self.x / 2,)
            self.seen.append((self.xb[0].abs().max().item(), self.y.shape, self.training))

        def after_loss(self):
            with v.NoneReduce(self.loss_func) as lf:
                self.learn.loss = lf(self.pred, self.y).mean() * 2

    dls = make_dls(pictures, tmp_path)
    plain = v.Learner(dls, tiny_net(), seed=0, default_cbs=False)
    half = Halved()
    learn = v.Learner(dls, tiny_net(), seed=0, default_cbs=False, cbs=half)
    largest = dls.train.one_batch()[0].abs().max().item()
    learn.fit(1)
    assert len(half.seen) == len(dls.train) and all(len(s) and t for _, s, t in half.seen)
    assert max(m for m, *_ in half.seen) <= largest / 2 + 0.05
    assert half.n_epoch == 1 and half.model is learn.model and not hasattr(half, 'nothing')
    plain.fit(1)
    assert learn.history[0]['train_loss'] > plain.history[0]['train_loss']
    copy.deepcopy(learn).fit(1)
