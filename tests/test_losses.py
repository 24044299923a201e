"Losses against their formulae, in training, with mixing, and through the learner."

import math
import warnings
from functools import partial

import pytest
import torch
from tiny import TinyNet, make_dls, make_pictures, tiny_net
from torch import nn
from torch.nn import functional as F

from vislearn.data.block import DataBlock, ImageBlock, MultiCategoryBlock
from vislearn.data.files import get_image_files
from vislearn.data.resize import Resize
from vislearn.data.split import RandomSplitter
from vislearn.fastai_names import FocalLossFlat, L1LossFlat, LabelSmoothingCrossEntropyFlat, MSELossFlat
from vislearn.learner import Learner
from vislearn.train.averaging import EMA
from vislearn.train.losses import (
    BCELossFlat,
    BCEWithLogitsLossFlat,
    CrossEntropyLossFlat,
    FocalLoss,
    LabelSmoothingCrossEntropy,
    get_loss,
    item_losses,
    list_losses,
)
from vislearn.train.mix import CutMix, MixUp
from vislearn.train.steps import GradientAccumulation, GradientClip

torch.manual_seed(0)
X, Y, W = torch.randn(12, 4), torch.randint(4, (12,)), torch.tensor([1.0, 2.0, 3.0, 4.0])
P = X.softmax(1)[range(12), Y]  # of the truth

PER_CLASS = [CrossEntropyLossFlat, LabelSmoothingCrossEntropy, LabelSmoothingCrossEntropyFlat, FocalLoss, FocalLossFlat]


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp('pictures'))


def test_formulae():
    assert torch.allclose(CrossEntropyLossFlat()(X, Y), -P.log().mean())
    assert torch.allclose(FocalLoss()(X, Y), -((1 - P) ** 2 * P.log()).mean())
    assert torch.allclose(FocalLoss(gamma=0.5)(X, Y), -((1 - P) ** 0.5 * P.log()).mean())
    assert torch.allclose(
        LabelSmoothingCrossEntropy(0.2)(X, Y), F.cross_entropy(X, Y, label_smoothing=0.2)
    )  # torch's smoothing is the same where classes weigh alike
    assert torch.allclose(
        LabelSmoothingCrossEntropy(weight=W)(X, Y), 0.9 * F.cross_entropy(X, Y, W) - 0.1 * X.log_softmax(1).mean()
    )  # fastai's: only the truth is weighted
    assert torch.allclose(FocalLoss(weight=W, reduction='none')(X, Y), -W[Y] * (1 - P) ** 2 * P.log(), atol=1e-5)


@pytest.mark.parametrize('weight,truth,value', [([5.0, 1.0], 0, 8.250), ([0.1, 1.0], 1, 2.3e-3 * 0.78)])
def test_focal_loss_weighs_the_loss_not_the_probability(weight, truth, value):
    p = math.exp([0.0, 2.0][truth]) / (1 + math.exp(2))
    by_hand = weight[truth] * (1 - p) ** 2 * -math.log(p)
    loss = FocalLoss(weight=weight)(torch.tensor([[0.0, 2.0]]), torch.tensor([truth]))
    soft = FocalLoss(weight=weight)(torch.tensor([[0.0, 2.0]]), F.one_hot(torch.tensor([truth]), 2).float())
    assert math.isclose(loss, by_hand, rel_tol=1e-5) and math.isclose(soft, by_hand, rel_tol=1e-5)
    assert math.isclose(by_hand, value, rel_tol=0.02)


class IgnoresReduction(torch.nn.Module):
    reduction = 'mean'

    def forward(self, pred, targ):
        return F.cross_entropy(pred, targ)


class RefusesNone(torch.nn.Module):
    reduction = 'mean'

    def forward(self, pred, targ):
        return {'mean': torch.mean, 'sum': torch.sum}[self.reduction](F.cross_entropy(pred, targ, reduction='none'))


class TrainingOnly(torch.nn.Module):
    "Like timm's: always the mean."

    def forward(self, x, target):
        return F.cross_entropy(x, target)


@pytest.mark.parametrize(
    'loss', [lambda p, t: F.cross_entropy(p, t), IgnoresReduction(), RefusesNone(), TrainingOnly(), F.cross_entropy]
)
def test_losses_of_items_whatever_the_loss_can_do(loss):
    assert torch.allclose(item_losses(loss, X, Y), -P.log(), atol=1e-6)
    assert torch.allclose(item_losses(loss, X[:1], Y[:1]), -P[:1].log(), atol=1e-6)
    assert getattr(loss, 'reduction', 'mean') == 'mean'


def test_losses_by_name():
    assert isinstance(get_loss('focal'), FocalLoss) and set(list_losses()) >= {'focal', 'cross_entropy', 'mse'}
    with pytest.raises(ValueError, match="unknown loss 'focla'; did you mean 'focal'"):
        get_loss('focla')


@pytest.mark.parametrize('cls', PER_CLASS)
def test_reductions_and_items(cls):
    each = cls(reduction='none')(X, Y)
    assert (
        each.shape == (12,)
        and torch.allclose(cls(reduction='sum')(X, Y), each.sum(), atol=1e-5)
        and torch.allclose(cls()(X, Y), each.mean())
    )
    f = cls()
    assert torch.allclose(item_losses(f, X, Y), each) and f.reduction == 'mean'
    assert torch.equal(f.activation(X), X.softmax(1)) and torch.equal(f.decodes(X), X.argmax(1))
    with pytest.raises(ValueError, match="reduction is 'mean'"):
        cls(reduction='avg')


@pytest.mark.parametrize('cls', [CrossEntropyLossFlat, LabelSmoothingCrossEntropyFlat, FocalLossFlat])
def test_flat(cls):
    x, y = X.view(3, 4, 4), Y.view(3, 4)
    assert (
        torch.allclose(cls()(x, y), cls()(X, Y))
        and torch.allclose(cls(axis=1)(x.transpose(1, 2), y), cls()(X, Y))
        and torch.allclose(cls()(X, Y.int()), cls()(X, Y))
    )


def test_ignored_answers():
    y = Y.clone()
    y[:6] = -100
    assert torch.allclose(CrossEntropyLossFlat()(X, y), CrossEntropyLossFlat()(X[6:], Y[6:]))


def test_yes_or_no():
    y = torch.randint(2, (12, 4))
    assert torch.allclose(
        BCEWithLogitsLossFlat(weight=W, pos_weight=W)(X, y),
        F.binary_cross_entropy_with_logits(X, y.float(), W, pos_weight=W),
    )
    assert BCEWithLogitsLossFlat()(X[:, :1], y[:, 0]).ndim == 0  # (n,1) and (n,)
    assert BCELossFlat(reduction='sum')(X.sigmoid(), y) > BCELossFlat()(X.sigmoid(), y)
    assert L1LossFlat()(X[:, :1], y[:, 0]) == (X[:, 0] - y[:, 0]).abs().mean() and math.isclose(
        MSELossFlat()(X[:, :1], y[:, 0]), (X[:, 0] - y[:, 0]).pow(2).mean(), rel_tol=1e-5
    )


@pytest.mark.parametrize('cls', PER_CLASS)
@pytest.mark.parametrize('mix', [None, MixUp, CutMix])
def test_training(pictures, tmp_path, cls, mix):
    learn = Learner(
        make_dls(pictures, tmp_path),
        tiny_net(),
        cls(weight=[1.0, 2.0, 1.0]),
        cbs=[*([mix()] if mix else []), EMA(), GradientClip(1.0), GradientAccumulation(16)],
        default_cbs=False,
        seed=0,
    )
    learn.fit(1, 1e-2)
    assert learn.history[-1]['valid_loss'] > 0
    probs, targs, losses = learn.get_preds(with_loss=True)
    assert losses.shape == targs.shape and torch.allclose(probs.sum(1), torch.ones(len(probs)))


def test_fastais_threshold_in_the_loss(pictures, tmp_path):
    db = DataBlock(
        (ImageBlock, MultiCategoryBlock),
        get_items=get_image_files,
        splitter=RandomSplitter(0.25, seed=1),
        get_y=lambda o: [o.parent.name, o.name[0]],
        item_tfms=Resize(32),
    )
    learn = Learner(
        db.dataloaders(pictures, bs=8, path=tmp_path, num_workers=0),
        TinyNet(6),
        BCEWithLogitsLossFlat(thresh=0.01),
        default_cbs=False,
    )
    assert len(learn.predict(get_image_files(pictures)[0])[0]) == 6  # more than .01: all


def test_balanced_class_weights_with_another_loss(pictures, tmp_path):
    dls = make_dls(pictures, tmp_path)
    dls.target.class_weights = 'balanced'
    dls.target.setup(['red'] * 8 + ['blue'] * 2 + ['green'] * 2)
    weight = dls.target.loss_func().weight
    assert weight.tolist() == [2.0, 2.0, 0.5]
    assert torch.allclose(LabelSmoothingCrossEntropy(weight=weight).weight, weight)


def test_a_loss_of_many_numbers_says_to_take_the_mean(tmp_path):
    batches = [(torch.ones(4, 2), torch.zeros(4).long())] * 2
    learn = Learner([batches, batches], nn.Linear(2, 2), partial(F.cross_entropy, reduction='none'), default_cbs=False)
    with pytest.raises(ValueError, match=r'the loss gives \(4,\) float32, not one number: return its mean'):
        learn.fit(1)
    learn.loss_func = lambda p, t: F.cross_entropy(p, t)[None]
    learn.fit(1)
    assert learn.loss is None and len(learn.history) == 1


class Fixed(nn.Module):
    "A loss whose `reduction` can only be read."

    @property
    def reduction(self):
        return 'mean'

    def forward(self, pred, targ):
        return F.cross_entropy(pred, targ)


def test_the_loss_of_each_item_where_reduction_cannot_be_set():
    torch.testing.assert_close(item_losses(Fixed(), X, Y), F.cross_entropy(X, Y, reduction='none'))


def test_a_class_is_a_loss_and_a_list_is_none():
    assert isinstance(get_loss(nn.CrossEntropyLoss), nn.CrossEntropyLoss)
    with pytest.raises(TypeError, match='a loss is a function of'):
        get_loss([nn.CrossEntropyLoss()])


def test_what_a_loss_gives_is_named(pictures, tmp_path):
    learn = Learner(
        make_dls(pictures, tmp_path), tiny_net(), lambda p, t: (F.cross_entropy(p, t), p), default_cbs=False
    )
    with pytest.raises(TypeError, match='the loss gives a tuple, not a tensor of one number'):
        learn.fit(1)


class Scaled(nn.Module):
    "A loss with a parameter of its own."

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, pred, targ):
        return F.cross_entropy(self.scale * pred, targ)


def test_a_loss_with_parameters_is_warned_of(pictures, tmp_path):
    "They are not among what the optimizer moves, unless the loss is a part of the model."
    loss = Scaled()
    learn = Learner(make_dls(pictures, tmp_path), tiny_net(), loss, default_cbs=False)
    with pytest.warns(UserWarning, match='the loss Scaled has parameters, which will not learn: scale'):
        learn.fit(1)
    assert loss.scale == 1
    learn.model.loss = loss
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        learn.fit(1)
    assert loss.scale != 1
