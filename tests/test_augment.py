"Batch augmentation: against torch's own sampling, in distribution, and in what it must leave alone."

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vislearn.core import Pipeline, batch_rng
from vislearn.data.augment import Fused, RandomErasing, aug_transforms, fuse, setup_aug_tfms
from vislearn.data.colour import Brightness, Contrast, Hue, Saturation
from vislearn.data.geometry import (
    Dihedral,
    Flip,
    RandomResizedCropGPU,
    Resample,
    ResizeBatch,
    Rotate,
    Warp,
    Zoom,
    resample,
)
from vislearn.data.normalize import Normalize, imagenet_stats, mnist_stats, to_float

RANDOM = [
    Flip(),
    Dihedral(),
    Rotate(),
    Zoom(),
    Warp(),
    RandomResizedCropGPU(None),
    Brightness(),
    Contrast(),
    Saturation(),
    Hue(),
    RandomErasing(),
]


def rng(i=0):
    return batch_rng(0, 0, i)


@pytest.fixture(scope='module')
def xb():
    return (
        F.interpolate(torch.rand(6, 3, 8, 8, generator=rng()), size=(40, 40), mode='bicubic')
        .clamp(0, 1)
        .mul(255)
        .byte()
    )


@pytest.mark.parametrize('align_corners', [True, False])
@pytest.mark.parametrize('pad_mode', ['reflection', 'border', 'zeros'])
@pytest.mark.parametrize('size', [None, (30, 50)])
def test_affine_resample_is_torchs(xb, align_corners, pad_mode, size):
    m = Resample([Rotate(30, p=1), Zoom(0.8, 1.5, p=1)]).mats(6, (40, 40), rng())
    grid = F.affine_grid(m[:, :2].float(), [6, 3, *(size or (40, 40))], align_corners=align_corners)
    ref = F.grid_sample(to_float(xb), grid, padding_mode=pad_mode, align_corners=align_corners)
    torch.testing.assert_close(
        resample(xb, m, size, pad_mode=pad_mode, align_corners=align_corners), ref, atol=2e-4, rtol=0
    )


def test_perspective_places(xb):
    m = Warp(0.3, p=1).mats(6, (40, 40), rng())
    base = torch.stack(
        [*torch.meshgrid(torch.linspace(-1, 1, 40), torch.linspace(-1, 1, 40), indexing='xy'), torch.ones(40, 40)], -1
    ).double()
    p = torch.einsum('nij,hwj->nhwi', m, base)
    ref = F.grid_sample(to_float(xb), (p[..., :2] / p[..., 2:]).float(), padding_mode='zeros', align_corners=True)
    torch.testing.assert_close(resample(xb, m, pad_mode='zeros'), ref, atol=2e-4, rtol=0)


@pytest.mark.parametrize('align_corners', [True, False])
def test_strong_shrinking_keeps_its_place(align_corners):
    "Averaging down first must not move the picture: a ramp stays the same ramp."
    ramp = torch.linspace(0, 1, 123).expand(1, 3, 119, 123)
    ref = F.interpolate(ramp, size=(17, 20), mode='bilinear', antialias=True)
    assert (resample(ramp, torch.eye(3)[None], (17, 20), align_corners=align_corners) - ref)[
        ..., 1:-1, 1:-1
    ].abs().max() < (0.03 if align_corners else 0.01)


def test_pictures_that_need_different_treatment_mix(xb):
    t = Zoom(draw=[1, 1, 1.4, 1.4, 0.3, 0.3], draw_x=0.5, draw_y=0.5, p=1)
    one = torch.cat([Zoom(draw=d, draw_x=0.5, draw_y=0.5, p=1)(x[None]) for d, x in zip(t.draw, xb)])
    torch.testing.assert_close(t(xb), one, atol=1e-6, rtol=0)


def test_never_folds():
    "Even at three times the usual strength no place of the frame looks past the horizon."
    m = Warp(0.6, p=1).mats(500, (40, 40), rng())
    assert (m[:, 2, 2] - m[:, 2, :2].abs().sum(1)).min() > 0.1


def test_rotation_of_oblong_pictures_keeps_angles():
    m = Rotate(draw=30, p=1).mats(1, (100, 200))[0]
    u, v = (
        (m[:2, :2] @ torch.tensor(d, dtype=torch.float64)) * torch.tensor([200.0, 100.0])
        for d in ([1 / 200, 0], [0, 1 / 100])
    )
    assert abs(u @ v) < 1e-9 and math.isclose(u.norm(), v.norm())


@pytest.mark.parametrize('t', RANDOM, ids=lambda t: type(t).__name__)
def test_every_one(t, xb):
    x = to_float(xb).clone()
    kept = x.clone()
    a = t(x, rng(1))
    torch.testing.assert_close(x, kept, atol=0, rtol=0)  # the caller's batch is left alone
    assert a.data_ptr() != x.data_ptr() and a.dtype == torch.float32 and a.shape == x.shape
    torch.testing.assert_close(a, t(xb, rng(1)), atol=1e-5, rtol=0)  # bytes or floats
    assert (a != t(x, rng(2))).any()  # and it is random
    if not isinstance(t, RandomErasing):
        assert -1e-6 <= a.min() and a.max() <= 1 + 1e-6
    assert t.valid() is None
    torch.testing.assert_close(Pipeline.from_list(Pipeline(t).to_list())(x, rng(1)), a, atol=0, rtol=0)


@pytest.mark.parametrize('t', RANDOM[:-1], ids=lambda t: type(t).__name__)
def test_one_channel(t, xb):
    grey = to_float(xb)[:, :1]
    torch.testing.assert_close(t(grey, rng(3)), t(grey.expand(-1, 3, -1, -1), rng(3))[:, :1], atol=1e-4, rtol=0)


@pytest.mark.parametrize('cls', [Flip, Dihedral, Rotate, Zoom, Warp, Brightness, Contrast, Saturation, Hue])
def test_probability_and_batch(cls, xb):
    x = xb[:1].repeat(300, 1, 1, 1)[..., ::4, ::4].contiguous()

    def same(t):
        return ((t(x, rng(4)) - to_float(x)).abs().amax((1, 2, 3)) < 1e-5).float().mean()

    assert same(cls(p=0)) == 1
    p = 0.25 if cls is Warp else 0.5  # two tilts, each by itself
    assert abs(same(cls(p=0.5)) - p - (0.5 / 8 if cls is Dihedral else 0)) < 0.1
    y = cls(p=1, batch=True)(x, rng(5))
    assert (y == y[:1]).all()


def test_distributions():
    n, hw = 4000, (10, 10)

    def near(v, lo, hi):
        return (
            lo <= v.min() < lo + 0.05 * (hi - lo)
            and hi >= v.max() > hi - 0.05 * (hi - lo)
            and abs(v.mean() - (lo + hi) / 2) < 0.02 * (hi - lo)
        )

    r = Rotate(10, p=1).mats(n, hw, rng())
    assert near(torch.atan2(r[:, 0, 1], r[:, 0, 0]) * 180 / math.pi, -10, 10)
    assert near(1 / Zoom(1, 1.1, p=1).mats(n, hw, rng())[:, 0, 0], 1, 1.1)
    assert near(Brightness(0.2, p=1).mats(n, rng())[:, 0, 3].sigmoid(), 0.4, 0.6)
    assert near(Contrast(0.2, p=1).mats(n, rng())[:, 0, 0].log(), math.log(0.8), -math.log(0.8))
    assert near(
        Saturation(0.2, p=1).mats(n, rng()).diagonal(dim1=1, dim2=2)[:, 0].sub(0.299).div(0.701).log(),
        math.log(0.8),
        -math.log(0.8),
    )
    assert near(-Warp(0.2, p=1, draw_y=0).mats(n, hw, rng())[:, 0, 2], -0.2, 0.2)
    assert (
        torch.bincount(
            (
                Dihedral(p=1).mats(n, hw, rng())[:, :2, :2].flatten(1)
                @ torch.tensor([1.0, 3.0, 9.0, 27.0], dtype=torch.float64)
            ).long()
            + 40
        ).count_nonzero()
        == 8
    )


def test_aug_transforms_follow_their_arguments(xb):
    def names(**kw):
        return [type(t).__name__ for t in aug_transforms(**kw)]

    off = dict(do_flip=False, max_rotate=0, max_zoom=1, max_warp=0, max_lighting=0)
    assert (
        names(**off) == []
        and names(**{**off, 'do_flip': True}) == ['Flip']
        and names(**{**off, 'max_lighting': 0.3}) == ['Colour']
    )
    assert names(flip_vert=True, max_rotate=0, max_zoom=1, max_warp=0, max_lighting=0) == ['Dihedral']
    assert names(mult=0, max_zoom=1, do_flip=False) == []
    assert names(xtra_tfms=[Saturation(), RandomErasing(), torch.abs]) == [
        'Colour',
        'Resample',
        'RandomErasing',
        'builtin_function_or_method',
    ]
    strong = aug_transforms(mult=2)[1]
    assert [t.max_deg for t in strong.tfms if isinstance(t, Rotate)] == [20] and [
        t.magnitude for t in strong.tfms if isinstance(t, Warp)
    ] == [0.4]
    sized = Pipeline(aug_transforms(size=(24, 32), min_scale=0.5, max_warp=0))
    assert sized(xb, rng()).shape == sized.valid()(xb).shape == (6, 3, 24, 32)
    assert Pipeline(aug_transforms(size=20)).valid()(xb).shape[-1] == 20
    with pytest.raises(TypeError, match='max_rotat'):
        aug_transforms(max_rotation=5)


@pytest.mark.parametrize(
    'bad, says',
    [
        (lambda: Brightness(1.0), 'below 1'),
        (lambda: Flip(p=2), 'from 0 to 1'),
        (lambda: Normalize([0.5], [0.0]), 'above 0'),
        (lambda: Normalize([0.5] * 3, [0.2]), 'as many'),
        (lambda: Flip(size=(1, 2, 3)), 'height, width'),
        (lambda: RandomErasing(sl=0.5, sh=0.2), 'sl <= sh'),
        (lambda: RandomResizedCropGPU(8, min_scale=0), 'min_scale'),
        (lambda: Flip(draw=[1, 0])(torch.rand(3, 3, 4, 4)), '2 values for 3'),
    ],
)
def test_errors(bad, says):
    with pytest.raises(ValueError, match=says):
        bad()


@pytest.mark.parametrize('x', [torch.rand(3, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.int64), 'a.jpg'])
def test_what_is_no_batch(x):
    for t in (Flip(), Fused([Flip()])):
        with pytest.raises(TypeError, match='batch_tfms'):
            t(x)


def test_saturation_says_that_it_needs_colours():
    with pytest.raises(ValueError, match='4 channels'):
        Saturation(p=1)(torch.rand(2, 4, 8, 8))
    assert Normalize.from_stats(*mnist_stats)(torch.rand(2, 1, 8, 8)).shape == (2, 1, 8, 8)


@pytest.mark.parametrize('threads', [1, 3])
@pytest.mark.parametrize('fmt', [torch.contiguous_format, torch.channels_last])
def test_fused_is_the_same_in_any_pieces(threads, fmt):
    x = (torch.rand(30, 3, 150, 150, generator=rng()) * 255).byte().contiguous(memory_format=fmt)
    ts = setup_aug_tfms(
        [Flip(), Rotate(), Warp(), Brightness(), Saturation(), Normalize(*imagenet_stats), RandomErasing()]
    )
    was = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        a = Pipeline(fuse(ts))(x, rng(7))
    finally:
        torch.set_num_threads(was)
    torch.testing.assert_close(a, Pipeline(ts)(x, rng(7)), atol=1e-6, rtol=0)
    assert a.is_contiguous(memory_format=fmt)


def test_repr_is_short_and_tells_the_difference():
    assert repr(Rotate(20)) == 'Rotate(max_deg=20.0)' and repr(Flip()) == 'Flip()'
    assert hash(Rotate(20)) != hash(Rotate(21)) and Rotate(20) == Rotate(20.0) != Rotate(21)
    assert 'Flip' in repr(Resample([Flip(), Rotate()])) and '{' not in repr(aug_transforms())


def test_fused_validates_and_travels(xb):
    f = Fused([*aug_transforms(size=20), Normalize(*imagenet_stats)])
    assert [type(t) for t in f.valid().tfms] == [ResizeBatch, Normalize] and Fused(aug_transforms()).valid() is None
    g = Pipeline.from_list(Pipeline(f).to_list())
    torch.testing.assert_close(g(xb, rng()), f(xb, rng()), atol=0, rtol=0)


def test_erasing_stays_inside_and_marks_the_right_share():
    x = torch.zeros(300, 3, 20, 30)
    hit = (RandomErasing(p=1, sl=0.1, sh=0.4, max_count=3)(x, rng()) != 0).any(1).float().mean((1, 2))
    assert 0.05 < hit.min() and hit.max() < 0.45 and abs(hit.mean() - 0.24) < 0.03


@pytest.mark.parametrize('device', ['cuda', 'mps'])
def test_other_devices_agree(device, xb):
    if not getattr(torch, device if device == 'cuda' else 'mps').is_available():
        pytest.skip(f'no {device} here')
    f = Fused(
        [
            *aug_transforms(size=32, min_scale=0.5, xtra_tfms=[Saturation(), Hue()]),
            Normalize(*imagenet_stats),
            RandomErasing(),
        ]
    )
    torch.testing.assert_close(f(xb.to(device), rng()).cpu(), f(xb, rng()), atol=1e-3, rtol=0)


@pytest.mark.parametrize('t', [Saturation(0.5, p=0.2), Hue(0.4, p=0.2), Brightness(0.5, p=0.2), Contrast(0.5, p=0.3)])
@pytest.mark.parametrize('fmt', [torch.contiguous_format, torch.channels_last])
def test_colours_do_not_depend_on_the_number_of_threads(t, fmt):
    "A picture's bits depend neither on its neighbours in a piece of the batch nor on how large the pieces are."
    x = (torch.rand(24, 3, 96, 128, generator=rng()) * 255).byte().contiguous(memory_format=fmt)
    was = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            found.append(Fused([t])(x, rng(3)))
    finally:
        torch.set_num_threads(was)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    alone = torch.stack([t.apply(x[i : i + 1], t.plan(24, (96, 128), rng(3))[i : i + 1])[0] for i in range(24)])
    assert torch.equal(found[0], alone)
    left_alone = (t.plan(24, (96, 128), rng(3)) == torch.eye(4)).flatten(1).all(1)
    assert 0 < left_alone.sum() < 24 and torch.equal(found[0][left_alone], to_float(x)[left_alone])


@pytest.mark.parametrize('t', [Saturation(0.5, p=0.6), Hue(0.4, p=0.6), Brightness(0.5, p=0.6), Contrast(0.5, p=0.6)])
@pytest.mark.parametrize('as_floats', [False, True])
def test_colours_of_odd_sizes_do_not_depend_on_the_number_of_threads(t, as_floats):
    "Alone or with others in a step, whatever the threads and the number of pixels."
    was = torch.get_num_threads()
    try:
        for n, size in ((3, 75), (5, 121), (16, 33), (3, 128)):
            x = torch.rand(n, 3, size, size, generator=rng())
            x = x if as_floats else (x * 255).byte()
            found = []
            for threads in (1, 2, 3, 8):
                torch.set_num_threads(threads)
                found += [t(x, rng(3)), Fused([t])(x, rng(3))]
            assert all(torch.equal(o, found[0]) for o in found), (n, size)
    finally:
        torch.set_num_threads(was)


def test_dihedral_numbers_its_symmetries_as_pillow_and_fastai_do(xb):
    from PIL import Image

    a = xb[0].permute(1, 2, 0).numpy()
    for k in range(8):
        want = np.asarray(Image.fromarray(a) if k == 0 else Image.fromarray(a).transpose(k - 1))
        got = Dihedral(p=1, draw=k)(xb[:1])[0].permute(1, 2, 0).mul(255).round().byte().numpy()
        assert (got == want).all(), k


def test_saturation_is_fastais():
    "grey = .2989 red + .587 green + .114 blue, of logits that are cut off at 1e-7."
    x = torch.tensor([0.0, 0.5, 0.9]).view(1, 3, 1, 1)
    z = torch.log(x.clamp(1e-7, 1 - 1e-7) / (1 - x.clamp(1e-7, 1 - 1e-7)))
    grey = (z * torch.tensor([0.2989, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    for factor in (0.0, 0.5, 1.5):
        want = torch.sigmoid(factor * z + (1 - factor) * grey)
        torch.testing.assert_close(Saturation(draw=factor, p=1)(x), want, atol=1e-4, rtol=0)


def all_of_them(x: torch.Tensor) -> torch.Tensor:
    steps = [*aug_transforms(size=32, min_scale=0.5, flip_vert=True, xtra_tfms=[Saturation(), Hue()])]
    return Fused([*steps, Normalize(*imagenet_stats), RandomErasing(max_count=2)])(x, rng(1))


@pytest.mark.parametrize('what', ['dtype', 'device'])
def test_default_dtype_and_device_change_nothing(what, xb):
    want = all_of_them(xb)
    mats = [t.mats(6, (40, 40), rng(2)) for t in RANDOM[:6]]
    try:
        if what == 'dtype':
            torch.set_default_dtype(torch.float64)
        else:
            torch.set_default_device('meta')
        got = all_of_them(xb)
        again = [t.mats(6, (40, 40), rng(2)) for t in RANDOM[:6]]
        one = Normalize(*imagenet_stats).decode(Normalize(*imagenet_stats)(xb))
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert torch.equal(got, want) and got.dtype == torch.float32 == one.dtype
    assert all(torch.equal(a, b) for a, b in zip(mats, again, strict=True))


def test_split_idx_chooses_training_or_validation(xb):
    assert torch.equal(Flip(p=1)(xb, split_idx=0), to_float(xb).flip(-1))
    assert torch.equal(Flip(p=1)(xb, split_idx=1), xb)
    assert RandomResizedCropGPU(16)(xb, split_idx=1).shape[-2:] == (16, 16)


def test_grey_batches_become_colours_for_the_statistics_of_colours(xb):
    grey = xb[:, :1]
    n = Normalize(*imagenet_stats)
    for t in (n, Fused([Flip(), n])):
        want = t(grey.expand(-1, 3, -1, -1).contiguous(), rng(4))
        torch.testing.assert_close(t(grey, rng(4)), want, atol=1e-6, rtol=0)
    many = grey.repeat(40, 1, 4, 4)
    assert Fused([Flip(), n])(many).shape == (240, 3, 160, 160)  # in several pieces
    with pytest.raises(ValueError, match='3 channels, but the batch has 2'):
        n(xb[:, :2])


@pytest.mark.parametrize(
    ('made', 'same'),
    [
        (lambda: Flip(size=np.int64(8)), Flip(size=8)),
        (lambda: Flip(p='1e-1'), Flip(p=0.1)),
        (lambda: Rotate(np.float32(10), size=(8.0, '9')), Rotate(10, size=(8, 9))),
        (lambda: RandomErasing(max_count=np.int32(2)), RandomErasing(max_count=2)),
        (lambda: ResizeBatch(torch.tensor(8)), ResizeBatch(8)),
    ],
)
def test_numbers_of_other_kinds(made, same):
    assert made() == same


@pytest.mark.parametrize(
    ('made', 'says'),
    [
        (lambda: Flip(size='big'), "size is a whole number, got 'big'"),
        (lambda: Flip(size=8.5), 'size is a whole number, got 8.5'),
        (lambda: Rotate(None), 'max_deg is a number, got None'),
        (lambda: Normalize(['a'], [0.1]), "mean is a number, got 'a'"),
    ],
)
def test_what_is_no_number_names_its_argument(made, says):
    with pytest.raises((TypeError, ValueError), match=says):
        made()
