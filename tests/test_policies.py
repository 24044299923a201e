"The named policies: their tables against torchvision's, and what they must not depend on."

import random

import pytest
import torch

from vislearn.core import Pipeline, item_rng
from vislearn.data import policies as P

X = (torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(0)) * 255).byte()
EACH = pytest.mark.parametrize('name', P.policies)
v2 = pytest.importorskip('torchvision.transforms.v2')


def test_the_25_pairs_are_torchvisions():
    theirs = [tuple((op, p, m or 0) for op, p, m in pair) for pair in v2.AutoAugment()._policies]
    assert [tuple(pair) for pair in P._imagenet_policy] == theirs


@pytest.mark.parametrize('cls, column', [(v2.RandAugment, 0), (v2.TrivialAugmentWide, 1)])
def test_strengths_are_torchvisions(cls, column):
    space = cls()._AUGMENTATION_SPACE
    assert sorted(space) == sorted(P._rand_ops)
    for op, (magnitudes, signed) in space.items():
        most, m = P._ops[op][column], magnitudes(31, 224, 224)
        assert P._ops[op][2] == signed
        if m is None:
            assert most == 0
            continue
        theirs = {'Translate': m[-1] / 224, 'Posterize': 8 - m[-1], 'Solarize': 256 * (m[0] - m[-1])}.get(
            op.rstrip('XY'), m[-1]
        )
        assert abs(most - float(theirs)) < 1e-5, op


@pytest.mark.parametrize(
    'op, kernel, value',
    [
        ('Brightness', 'adjust_brightness', 1.45),
        ('Color', 'adjust_saturation', 1.45),
        ('Contrast', 'adjust_contrast', 1.45),
        ('Sharpness', 'adjust_sharpness', 1.45),
        ('Posterize', 'posterize', 6),
        ('Equalize', 'equalize', None),
        ('AutoContrast', 'autocontrast', None),
        ('Invert', 'invert', None),
    ],
)
def test_operations(op, kernel, value):
    assert torch.equal(P.apply_op(X, op, 0.5), getattr(v2.functional, kernel)(X, *([] if value is None else [value])))


def test_solarize_leaves_white_alone_at_no_strength():
    white = torch.full((3, 4, 4), 255, dtype=torch.uint8)
    assert torch.equal(P.apply_op(white, 'Solarize', 0), white) and (P.apply_op(white, 'Solarize', 0.1) == 0).all()


@EACH
def test_depends_on_its_generator_only(name):
    t = P.policy(name)
    random.seed(1)
    torch.manual_seed(1)
    a = [t(X, item_rng(0, i, 0)) for i in range(8)]
    random.seed(2)
    torch.manual_seed(2)
    before = random.getstate(), torch.get_rng_state()
    b = [t(X, item_rng(0, i, 0)) for i in range(8)]
    assert all(map(torch.equal, a, b))
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])


@EACH
def test_leaves_its_input_alone_and_keeps_its_form(name):
    t, kept = P.policy(name), X.clone()
    for i in range(8):
        y = t(X, item_rng(0, i, 0))
        assert y.shape == X.shape and y.dtype == torch.uint8
        assert t(X[:1], item_rng(0, i, 0)).shape == X[:1].shape  # a grey picture
        assert t(X.permute(1, 2, 0).contiguous().permute(2, 0, 1), item_rng(0, i, 0)).equal(
            y
        )  # channels last in memory
    assert X.equal(kept)
    assert t.valid() is None and Pipeline.from_list(Pipeline(t).to_list()).tfms == [t]
    t(X)  # without a generator


@EACH
def test_changes_pictures(name):
    t = P.policy(name)
    n = sum(not t(X, item_rng(0, i, 0)).equal(X) for i in range(40))
    assert n > 12


@pytest.mark.parametrize('ratio', [0.3, 0.5, 0.8])
@pytest.mark.parametrize('rotate', [0, 45, 90])
def test_gridmask_hides_its_share(ratio, rotate):
    white, t = (
        torch.full((3, 60, 80), 255, dtype=torch.uint8),
        P.GridMask(d1=60, d2=120, ratio=ratio, rotate=rotate, p=1),
    )
    share = torch.tensor([(t(white, item_rng(0, i, 0)) != white).float().mean() for i in range(150)])
    assert abs(share.mean() - ratio**2) < 0.02 and share.min() > 0


def test_gridmask_rotates():
    t = P.GridMask(rotate=45, p=1)
    masks = [t.hidden(40, 40, item_rng(0, i, 0)) for i in range(20)]
    straight = [len(torch.unique(m, dim=0)) <= 2 for m in masks]  # an unturned grid has two kinds of rows
    assert sum(straight) < 10


def test_mask_colours():
    y = P.Cutout(length=20, fill=[1, 2, 3])(X, item_rng(0, 0, 0))
    changed = (y != X).any(0)
    assert changed.sum() > 50 and y[:, changed].T.unique(dim=0).tolist() == [[1, 2, 3]]
    assert (P.Cutout(length=2000)(X[:1], item_rng(0, 0, 0)) == (124 + 116 + 104) // 3).sum() > 500


@pytest.mark.parametrize(
    'bad, error, says',
    [
        (lambda: P.policy('trivail'), ValueError, "'trivial'"),
        (lambda: P.policy('cutout', {'lenght': 3}), TypeError, "'length'"),
        (lambda: P.RandAugment(magnitude=31), ValueError, '0..30'),
        (lambda: P.GridMask(ratio=1), ValueError, 'between'),
        (lambda: P.GridMask(d1=9, d2=3), ValueError, 'd1 <= d2'),
        (lambda: P.Cutout(p=3), ValueError, '0-1'),
        (lambda: P.AugMix(severity=0), ValueError, '1..10'),
        (lambda: P.EraseItem(sl=0.5), ValueError, 'sl <= sh'),
        (lambda: P.Cutout()(X.float()), TypeError, 'item_tfms'),
        (lambda: P.Cutout()(X[None]), TypeError, 'item_tfms'),
    ],
)
def test_errors(bad, error, says):
    with pytest.raises(error, match=says):
        bad()
