"MixUp and CutMix in training: losses, what stays untouched, and repeatability."

import random

import numpy as np
import pytest
import torch
from torch import nn

from vislearn.train.events import Callback
from vislearn.train.loop import TrainLoop
from vislearn.train.mix import CutMix, MixSwitch, MixUp, soft_targets

BOTH = pytest.mark.parametrize('cls', [MixUp, CutMix, MixSwitch])


class Batches(list):
    "Batches with what mixing looks for in loaders."

    c, seed, epoch = 3, 0, 0

    def __iter__(self):
        self.epoch += 1
        return super().__iter__()


class Keep(Callback):
    order = 60

    def __init__(self):
        self.seen = []

    def before_batch(self, learn):
        self.seen.append((learn.training, learn.xb.clone(), learn.yb.clone()))


def batches(multi=False, n=3, bs=6):
    g = torch.Generator().manual_seed(0)

    def y():
        return (torch.rand(bs, 3, generator=g) > 0.5).float() if multi else torch.randint(3, (bs,), generator=g)

    return Batches((torch.rand(bs, 3, 8, 10, generator=g), y()) for _ in range(n))


def run(mix, dls=None, loss=None, epochs=1):
    torch.manual_seed(0)
    keep, dls = Keep(), dls or [batches(), batches()]
    if not hasattr(dls, 'c'):
        dls = type('Dls', (list,), {'c': 3})(dls)
    learn = TrainLoop(
        dls,
        nn.Sequential(nn.Flatten(), nn.Linear(240, 3)),
        loss or nn.CrossEntropyLoss(),
        lambda g, lr: torch.optim.SGD(g, lr),
        lr=0.1,
        cbs=[mix, keep],
    )
    learn.fit(epochs)
    return learn, keep.seen


@BOTH
def test_training_is_mixed_and_validation_is_not(cls):
    learn, seen = run(cls(), epochs=2)
    for training, x, y in seen:
        assert y.is_floating_point() == training and (y.shape == (6, 3)) == training
    originals = [x for x, _ in batches()]
    assert not any(
        torch.equal(x, o) for (t, x, _), o in zip(seen, originals)
    )  # the loader's own batches are as they were
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(learn.dls[0], batches()))


@BOTH
def test_the_same_seed_epoch_and_batch_mix_the_same(cls):
    a, b = (run(cls(), [batches()], epochs=2)[1] for _ in range(2))
    for (_, xa, ya), (_, xb, yb) in zip(a, b):
        assert torch.equal(xa, xb) and torch.equal(ya, yb)
    assert not torch.equal(a[0][1], a[3][1])  # another epoch, another mix
    other = [batches()]
    other[0].seed = 1
    assert not torch.equal(run(cls(), other)[1][0][1], a[0][1])


def test_without_a_seed_the_global_generator_decides():
    def plain():
        return [list(batches())]

    a, b = (run(MixUp(), plain())[1][0][1] for _ in range(2))
    assert torch.equal(a, b)  # `run` seeds it


@BOTH
@pytest.mark.parametrize(
    'loss', [nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0])), nn.CrossEntropyLoss(label_smoothing=0.1)]
)
def test_losses_with_options(cls, loss):
    assert run(cls(), loss=loss)[0].history[-1]['train_loss'] > 0


@BOTH
def test_several_labels(cls):
    learn, seen = run(cls(), [batches(True), batches(True)], nn.BCEWithLogitsLoss())
    y = seen[0][2]
    assert y.shape == (6, 3) and 0 <= y.min() and y.max() <= 1 and ((y > 0) & (y < 1)).any()


def test_numbers_are_mixed_as_numbers():
    y = torch.tensor([0.0, 10.0, 20.0])
    x, ym = MixUp(1.0).mix(torch.zeros(3, 1, 2, 2) + y[:, None, None, None], y, random.Random(0))
    torch.testing.assert_close(x[:, 0, 0, 0], ym)  # pictures and targets in the same proportions


@BOTH
def test_memory_format_and_dtype_stay(cls):
    x = torch.rand(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    for i in range(6):
        xm, ym = cls().mix(x, torch.eye(4), random.Random(i))
        assert (
            xm.is_contiguous(memory_format=torch.channels_last)
            and xm.shape == x.shape
            and xm.data_ptr() != x.data_ptr()
        )
        torch.testing.assert_close(ym.sum(1), torch.ones(4))
        assert cls().mix(x.bfloat16(), torch.eye(4), random.Random(i))[0].dtype == torch.bfloat16


@pytest.mark.parametrize('off, expected', [(None, 4), (1, 1), (-1, 3), (-4, 0), (0, 0), (9, 4)])
def test_switching_off(off, expected):
    seen = run(MixUp(off_epoch=off), [batches(n=1)], epochs=4)[1]
    assert [y.is_floating_point() for _, _, y in seen] == [True] * expected + [False] * (4 - expected)


def test_probability_and_weights():
    seen = run(MixUp(p=0.5), [batches(n=200, bs=2)])[1]
    assert 70 < sum(y.is_floating_point() for _, _, y in seen) < 130
    only = MixSwitch([MixUp(), CutMix()], weights=[0, 1])
    x = torch.stack([torch.ones(1, 8, 8), torch.zeros(1, 8, 8)])
    for i in range(20):
        assert set(only.mix(x, torch.eye(2), random.Random(i))[0].unique().tolist()) <= {
            0.0,
            1.0,
        }  # CutMix makes no greys


def test_alpha_shapes_the_shares():
    def own(a):
        return torch.cat(
            [MixUp(a).mix(torch.rand(50, 1, 1, 1), torch.eye(50), random.Random(i))[1].amax(1) for i in range(20)]
        )

    assert own(0.1).mean() > own(0.4).mean() > own(8.0).mean() and own(8.0).mean() < 0.65


@pytest.mark.parametrize(
    'bad, says',
    [
        (lambda: MixUp(0), 'above 0'),
        (lambda: CutMix(p=2), '0-1'),
        (lambda: MixSwitch(weights=[1]), '1 weights'),
        (lambda: run(MixUp(), type('Bare', (list,), {'c': None})([batches()])), 'c=...'),
    ],
)
def test_errors(bad, says):
    with pytest.raises(ValueError, match=says):
        bad()


def test_a_loss_of_class_numbers_says_why():
    with pytest.raises(RuntimeError) as e:
        run(MixUp(), loss=nn.NLLLoss())
    assert 'soft targets' in e.value.__notes__[0]


def test_soft_targets():
    assert soft_targets(torch.tensor([1, 0]), 2).tolist() == [[0, 1], [1, 0]]
    y = torch.rand(2, 3)
    assert soft_targets(y, 3) is y


@BOTH
def test_seeds_of_numpy_are_the_same_seeds(cls):
    runs = []
    for seed in (42, np.int64(42)):
        dls = [batches()]
        dls[0].seed = seed
        runs.append(run(cls(), dls)[1])
    for (_, x, y), (_, x_again, y_again) in zip(*runs):
        assert torch.equal(x, x_again) and torch.equal(y, y_again)
