"Transforms of users, written as fastai's are or as plain classes; the same seeds for the same numbers of another kind."

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from bad_images import enc, picture
from PIL import Image

from vislearn.all import TensorCategory
from vislearn.core import DisplayedTransform, ItemTransform, RandTransform, Transform, batch_rng, item_rng, set_seed
from vislearn.data.batches import BatchPipeline
from vislearn.data.dataset import Dataset
from vislearn.data.image import PILImage, PILImageBW
from vislearn.data.loaders import DataLoaders, Loader
from vislearn.data.normalize import Normalize, imagenet_stats
from vislearn.data.policies import RandAugment
from vislearn.data.resize import DihedralItem, FlipItem, ItemPipeline, RandomResizedCrop, RatioResize, Resize
from vislearn.data.targets import Category

SRC = picture()


class Inverted(Transform):
    def encodes(self, img: PILImage):
        assert isinstance(img, PILImage)
        return PILImage.create(255 - np.array(img))


class TrainOnly(Inverted):
    split_idx = 0


class ValidOnly(Inverted):
    split_idx = 1


class Augmented(RandTransform):
    "As in fastai's tutorial on other libraries' augmentation."

    split_idx, order = None, 2

    def __init__(self, train_aug, valid_aug):
        self.train_aug, self.valid_aug = train_aug, valid_aug

    def before_call(self, b, split_idx):
        self.idx = split_idx

    def encodes(self, img: PILImage):
        aug = self.train_aug if self.idx == 0 else self.valid_aug
        return PILImage.create(aug(image=np.array(img)))


def mean_of(pipeline: ItemPipeline, **kw) -> float:
    return pipeline(SRC, **kw).float().mean().item()


def test_encodes_is_given_a_picture_where_split_idx_says():
    plain, inverted = mean_of(ItemPipeline()), 255 - mean_of(ItemPipeline())
    for cls, train, valid in (
        (Inverted, inverted, inverted),
        (TrainOnly, inverted, plain),
        (ValidOnly, plain, inverted),
    ):
        p = ItemPipeline([cls])
        assert mean_of(p) == pytest.approx(train) and mean_of(p.valid()) == pytest.approx(valid), cls
        assert mean_of(p.valid().valid()) == pytest.approx(valid)


def test_before_call_tells_training_from_validation():
    t = Augmented(lambda image: image * 0, lambda image: image * 0 + 7)
    p = ItemPipeline(t)
    assert mean_of(p) == 0 and mean_of(p.valid()) == 7
    im = PILImage.create(SRC)
    assert np.array(t(im, split_idx=0)).max() == 0 and np.array(t(im, split_idx=1)).min() == 7
    assert 'Augmented' in repr(p) and 'Augmented' in t.name


def test_rand_transform_draws_for_each_picture_from_its_seed():
    class Negative(RandTransform):
        def encodes(self, img):
            return Image.fromarray(255 - np.array(img))

    p = ItemPipeline(Negative(p=0.5))
    first = [mean_of(p, rng=item_rng(0, 0, i)) for i in range(40)]
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda i: mean_of(p, rng=item_rng(0, 0, i)), range(40)))
    assert first == again and 10 < sum(v == first[0] for v in first) < 30
    assert p.valid().tfms == []


def test_fastais_dumb_transform():
    t = RandTransform(enc=lambda x: x + 1, p=0.5)
    seen = set()
    for _ in range(40):
        y = t(2, split_idx=0)
        assert y == (3 if t.do else 2)
        seen.add(y)
    assert seen == {2, 3} and t(2, split_idx=1) == 2


def test_functions_as_transforms():
    @Transform
    def dark(img: PILImage):
        return img.point(lambda v: v // 2)

    assert isinstance(DisplayedTransform(lambda x: x), Transform)
    assert mean_of(ItemPipeline([dark])) < 0.6 * mean_of(ItemPipeline())
    xb = torch.full((2, 3, 4, 4), 51, dtype=torch.uint8)
    assert BatchPipeline([Transform(lambda x: x * 2)])(xb).unique().tolist() == pytest.approx([0.4])


def test_encodes_in_batch_transforms_sees_floats():
    class Doubled(RandTransform):
        def encodes(self, x):
            assert x.dtype == torch.float32 and x.ndim == 4
            return x * 2

        def decodes(self, x):
            return x / 2

    xb = torch.full((2, 3, 4, 4), 51, dtype=torch.uint8)
    p = BatchPipeline([Doubled(p=0.5)])
    seen = {round(p(xb, batch_rng(0, 0, i)).max().item(), 3) for i in range(20)}
    assert seen == {0.2, 0.4}
    assert p.decode(p(xb, batch_rng(0, 0, 0)) * 0 + 0.4).max().item() == pytest.approx(0.2)


def test_what_cannot_work_is_refused_when_it_is_written():
    with pytest.raises(TypeError, match='pictures only'):

        class OfLabels(Transform):
            def encodes(self, y: int):
                return y

    with pytest.raises(TypeError, match='encodes a TensorCategory'):

        class OfCategories(Transform):
            def encodes(self, y: TensorCategory):
                return y

    with pytest.raises(TypeError, match='two encodes'):

        class Two(Transform):
            def encodes(self, x: PILImage):
                return x

            def encodes(self, y: int):  # noqa: F811
                return y

    with pytest.raises(TypeError, match='only one of them'):

        class Both(Resize):
            def encodes(self, x):
                return x

    class Pair(ItemTransform):
        def encodes(self, xy):
            return xy[::-1]

    assert Pair()((1, 2)) == (2, 1)
    with pytest.raises(TypeError, match='MixUp'):
        ItemPipeline([Pair()])
    with pytest.raises(NotImplementedError, match='encodes'):
        Transform()(3)


@pytest.mark.parametrize('t', [Resize(24), RandomResizedCrop(24), RatioResize(24), FlipItem(1.0), DihedralItem()])
def test_transforms_take_and_give_pillow_pictures(t):
    for im, cls in ((PILImage.create(SRC), PILImage), (Image.fromarray(SRC).convert('L'), PILImageBW)):
        for split_idx in (None, 0, 1):
            y = t(im, split_idx=split_idx)
            assert type(y) is (cls if t.valid() is not None or split_idx != 1 else type(im))
    assert Resize(24)(PILImage.create(SRC)).shape == (24, 24)


def test_policies_take_and_give_pillow_pictures():
    im = PILImage.create(SRC)
    y = RandAugment()(im)
    assert isinstance(y, PILImage) and y.size == im.size
    assert RandAugment()(im, split_idx=1) is im


def test_names_of_transforms():
    assert Resize(224).name == (
        "Resize -- {'size': [224, 224], 'method': 'crop', 'pad_mode': 'reflection', 'where': 'random'}"
    )

    class Named(Transform):
        def __init__(self, name):
            self.name = name

        def __call__(self, x, rng=None):
            return x

    assert Named('mine').name == 'mine'


def test_seeds_of_numpy_are_the_same_seeds():
    for seed in (np.int64(42), np.uint8(42), np.int32(42)):
        assert item_rng(seed, np.int64(1), np.int32(2)).random() == item_rng(42, 1, 2).random()
        assert batch_rng(seed, 1, 2).initial_seed() == batch_rng(42, 1, 2).initial_seed()
        draws = []
        for s in (seed, 42):
            set_seed(s)
            draws.append((random.random(), np.random.rand(), torch.rand(1).item()))
        assert draws[0] == draws[1]
    with pytest.raises(TypeError, match='seed is a whole number'):
        set_seed('soon')


def pictures(mode: str = 'RGB') -> Dataset:
    rng = np.random.default_rng(0)
    items = [enc(rng.integers(0, 60 + 10 * i, (12, 12, 3), dtype=np.uint8), 'PNG') for i in range(12)]
    return Dataset(items, torch.arange(12) % 2, Category(vocab=['a', 'b']), ItemPipeline(Resize(8), mode))


def test_normalize_without_numbers_measures_a_training_batch():
    n = Normalize()
    train, valid = (Loader(pictures(), bs=12, batch_tfms=BatchPipeline(n), num_workers=0, device='cpu') for _ in 'ab')
    dls = DataLoaders(train, valid)
    xb, _ = dls.one_batch()
    assert xb.mean((0, 2, 3)).abs().max() < 1e-4 and (xb.std((0, 2, 3)) - 1).abs().max() < 1e-4
    assert dls.valid.batch_tfms.find(Normalize).mean == n.mean
    later = DataLoaders(*(Loader(pictures(), bs=12, num_workers=0, device='cpu') for _ in 'ab'))
    later.add_tfms([Normalize()], 'after_batch')
    assert later.valid.one_batch()[0].mean().abs() < 1e-4


def test_grey_pictures_reach_a_network_for_colours():
    dl = Loader(pictures('L'), bs=12, batch_tfms=BatchPipeline(Normalize(*imagenet_stats)), num_workers=0, device='cpu')
    xb, _ = dl.one_batch()
    assert xb.shape == (12, 3, 8, 8)
    grey = xb * torch.tensor(imagenet_stats[1]).view(3, 1, 1) + torch.tensor(imagenet_stats[0]).view(3, 1, 1)
    torch.testing.assert_close(grey[:, 0], grey[:, 2])


@pytest.mark.parametrize('what', ['dtype', 'device'])
def test_item_transforms_do_not_depend_on_torchs_defaults(what):
    tfms = [Resize(40, 'pad'), RandomResizedCrop(24), FlipItem(), DihedralItem(), lambda im: im.rotate(90)]
    src = enc(SRC, 'JPEG', quality=95)
    sides = []
    for is_changed in (False, True):
        trail: list[torch.Tensor] = []
        try:
            if is_changed and what == 'dtype':
                torch.set_default_dtype(torch.float64)
            elif is_changed:
                torch.set_default_device('meta')
            x = ItemPipeline(tfms[:-1])(src, item_rng(0, 0, 1), trail)
            y = ItemPipeline(tfms)(src, item_rng(0, 0, 1))
        finally:
            torch.set_default_dtype(torch.float32)
            torch.set_default_device(None)
        sides.append((x, y, *trail))
    assert all(torch.equal(a, b) for a, b in zip(*sides, strict=True))
