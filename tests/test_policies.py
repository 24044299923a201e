"The named policies: their tables against torchvision's, and what they must not depend on."

import random

import pytest
import torch

from vislearn.core import Pipeline, item_rng
from vislearn.data import policies as P

X = (torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(0)) * 255).byte()
EACH = pytest.mark.parametrize('name', P.list_policies())
v2 = pytest.importorskip('torchvision.transforms.v2')


def test_the_25_pairs_are_torchvisions():
    theirs = [tuple((op, p, m or 0) for op, p, m in pair) for pair in v2.AutoAugment()._policies]
    assert [tuple(pair) for pair in P.IMAGENET_POLICY] == theirs


@pytest.mark.parametrize('cls, column', [(v2.RandAugment, 0), (v2.TrivialAugmentWide, 1)])
def test_strengths_are_torchvisions(cls, column):
    space = cls()._AUGMENTATION_SPACE
    assert sorted(space) == sorted(set(P.OPERATIONS) - {'Invert'})
    for op, (magnitudes, signed) in space.items():
        ours, m = P.OPERATIONS[op], magnitudes(31, 224, 224)
        most = ours.most if column == 0 else ours.most_wide
        assert ours.is_signed == signed
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
        (lambda: P.Cutout(p=3), ValueError, 'from 0 to 1'),
        (lambda: P.AugMix(severity=0), ValueError, '1..10'),
        (lambda: P.EraseItem(sl=0.5), ValueError, 'sl <= sh'),
        (lambda: P.Cutout()(X.float()), TypeError, 'item_tfms'),
        (lambda: P.Cutout()(X[None]), TypeError, 'item_tfms'),
    ],
)
def test_errors(bad, error, says):
    with pytest.raises(error, match=says):
        bad()


def test_policies_are_listed_and_found_by_both_names():
    assert P.list_policies() == ['auto', 'rand', 'trivial', 'augmix', 'cutout', 'erase', 'hide_seek', 'gridmask']
    for name in P.list_policies():
        t = P.policy(name)
        assert P.policy(type(t).__name__) == t


@EACH
def test_default_device_and_dtype_do_no_harm(name):
    "torchvision's kernels compute in the default dtype: a level more or less, here and there."
    t = P.policy(name)
    want = [t(X, item_rng(0, i, 0)) for i in range(12)]
    for set_default, other, usual in (
        (torch.set_default_device, 'meta', None),
        (torch.set_default_dtype, torch.float64, torch.float32),
    ):
        set_default(other)
        try:
            got = [t(X, item_rng(0, i, 0)) for i in range(12)]
        finally:
            set_default(usual)
        for a, b in zip(got, want, strict=True):
            assert a.dtype == torch.uint8 and a.device == b.device
            assert (a.int() - b.int()).abs().float().mean() < 0.1
