"Labels that are places in the picture follow its pixels through every step, and predictions come back in pixels."

from pathlib import Path

import numpy as np
import pytest
import torch
from bad_images import enc, exif
from PIL import Image
from torch import nn

from vislearn.data.augment import RandomErasing, aug_transforms
from vislearn.data.block import DataBlock, ImageBlock, PointBlock
from vislearn.data.files import get_image_files
from vislearn.data.policies import RandAugment
from vislearn.data.resize import CropPad, DihedralItem, FlipItem, RandomResizedCrop, Resize
from vislearn.data.sources import ImageDataLoaders
from vislearn.data.split import RandomSplitter
from vislearn.data.targets import Points, Target
from vislearn.interpret.interpretation import Interpretation
from vislearn.learner import Learner, load_learner, vision_learner
from vislearn.train.features import body_features


def spot(h: int, w: int, x: float, y: float) -> np.ndarray:  # (h,w,3) uint8
    a, (ys, xs) = np.full((h, w, 3), 40, np.uint8), np.mgrid[:h, :w] + 0.5
    a[(xs - x) ** 2 + (ys - y) ** 2 < 64] = 255, 220, 60
    return a


@pytest.fixture(scope='module')
def spots(tmp_path_factory) -> tuple[Path, dict]:
    "48 pictures (JPEG, PNG, a few lying on their side) of a yellow disc, and its place in each as it is seen."
    d, rng, at = tmp_path_factory.mktemp('spots'), np.random.default_rng(0), {}
    for i in range(48):
        h, w = rng.integers(70, 300, 2)
        x, y = rng.uniform(0.35, 0.65) * w, rng.uniform(0.35, 0.65) * h
        a = spot(h, w, x, y)
        kind, more = ('PNG', {}) if i % 3 else ('JPEG', {'quality': 95})
        if i % 6 == 0:
            a, more = np.rot90(a).copy(), more | {'exif': exif(6)}  # upright again after a quarter turn
        f = d / f'{i:02}.{kind.lower()}'
        f.write_bytes(enc(a, kind, **more))
        at[f.name] = x, y
    return d, at


def block(at, **kw) -> DataBlock:
    return DataBlock(
        **{
            **dict(
                blocks=(ImageBlock, PointBlock),
                get_items=get_image_files,
                splitter=RandomSplitter(seed=0),
                get_y=lambda f: at[f.name],
                item_tfms=Resize(64, 'squish'),
            ),
            **kw,
        }
    )


def yellow(xb: torch.Tensor) -> torch.Tensor:  # (n,2), -1..1
    m = (xb[:, 0] - xb[:, 2] - 0.3).clamp(min=0)
    h, w = m.shape[1:]

    def place(n):
        return (torch.arange(n) + 0.5) * 2 / n - 1

    return torch.stack([(m.sum(1) * place(w)).sum(1), (m.sum(2) * place(h)).sum(1)], 1) / m.sum((1, 2))[:, None]


@pytest.mark.parametrize(
    'item,batch',
    [
        (Resize(64, 'squish'), []),
        (Resize((60, 90), 'pad', 'zeros'), []),
        (RandomResizedCrop(64, min_scale=0.8), []),
        ([Resize(70), FlipItem(), DihedralItem(), CropPad(80)], []),
        (Resize(64, 'squish'), aug_transforms(mult=2.0, pad_mode='zeros')),
        (
            Resize(80, 'squish'),
            [*aug_transforms(size=56, min_scale=0.8, flip_vert=True, pad_mode='zeros'), RandomErasing()],
        ),
    ],
    ids=range(6),
)
def test_labels_are_where_the_pixels_are(spots, item, batch):
    path, at = spots
    dls = block(at, item_tfms=item, batch_tfms=batch).dataloaders(path, bs=19, num_workers=2, seed=3, drop_last=False)
    for dl in dls:
        if dl is dls.train and any(isinstance(t, RandomErasing) for t in batch):
            dl = dl.new(batch_tfms=batch[:-1])
        for xb, yb in dl:
            seen, inside = yellow(xb), (yb[:, 0].abs() < 0.7).all(1)
            assert yb.shape == (len(xb), 1, 2) and inside.float().mean() > 0.4
            assert (seen - yb[:, 0])[inside].abs().max() < 0.07
    x, y = dls.valid_ds[0]
    assert (yellow(x[None] / 255) - y).abs().max() < 0.07 or y.abs().max() > 0.7


def test_workers_and_seeds_give_the_same(spots):
    path, at = spots

    def make(n, kind):
        return block(at, batch_tfms=aug_transforms()).dataloaders(path, bs=19, num_workers=n, workers=kind, seed=3)

    a, *others = ([y for _, y in make(n, kind).train] for n, kind in ((0, 'thread'), (2, 'thread'), (2, 'process')))
    for b in others:
        assert all(map(torch.equal, a, b))


class Net(nn.Module):
    def __init__(self, c=2):
        super().__init__()

        def conv(i, o):
            return nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), nn.BatchNorm2d(o), nn.ReLU())

        self.m = nn.Sequential(conv(3, 16), conv(16, 32), conv(32, 32), nn.Flatten(), nn.Linear(32 * 64, c))

    def forward(self, x):
        return self.m(x)


@pytest.fixture(scope='module')
def trained(spots):
    path, at = spots
    torch.manual_seed(0)
    learn = Learner(
        block(at, batch_tfms=aug_transforms(max_rotate=3, max_warp=0)).dataloaders(
            path, bs=19, num_workers=0, seed=3, path=path.parent / 'out', device='cpu'
        ),
        Net(),
        seed=0,
    )
    with learn.no_logging():
        learn.fit_one_cycle(25, 5e-3)
    return learn


def test_predictions_are_pixels_of_the_picture(trained, spots, tmp_path):
    path, at = spots
    assert [m.__name__ for m in trained.metrics] == ['rmse', 'mae'] and trained.history[-1]['rmse'] < 0.15
    items = trained.dls.valid.items
    for f, (label, y, raw) in zip(items, trained.predict_batch(items, bs=4)):
        w, h = Image.open(f).size if int(f.stem) % 6 else Image.open(f).size[::-1]
        assert raw.shape == (2,) and y.shape == (1, 2)
        assert label[0] == pytest.approx(((y[0, 0].item() + 1) * w / 2, (y[0, 1].item() + 1) * h / 2), abs=0.01)
        assert np.hypot(*(np.array(label[0]) - at[f.name]) / (w, h)) < 0.15
    again = load_learner(trained.export(tmp_path / 'x.pkl'), model=Net())
    assert again.predict(items[0])[0] == trained.predict(items[0])[0] and isinstance(again.dls.target, Points)
    probs, targs = trained.get_preds()
    assert targs.shape == (9, 1, 2) and targs.abs().max() <= 1 and probs.shape == (9, 2)


def test_a_validation_crop_is_undone(spots):
    path, at = spots
    dls = block(at, item_tfms=RandomResizedCrop(64), batch_tfms=aug_transforms(size=48, min_scale=0.75)).dataloaders(
        path, bs=8, num_workers=0, device='cpu'
    )

    class Middle(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.zeros(2))

        def forward(self, x):
            return self.p.expand(len(x), 2) + torch.tensor([0.0, 1.0])  # the middle of the lower edge

    f = next(o for o in dls.valid.items if int(o.stem) % 6)
    w, h = Image.open(f).size
    ((x, y),) = Learner(dls, Middle()).predict(f)[0]
    assert x == pytest.approx(w / 2, abs=1.5) and 0.6 * h < y < 0.96 * h


def test_what_can_not_be_followed_is_refused(trained, spots):
    path, at = spots
    for kw in (
        dict(item_tfms=[Resize(64), lambda im: im]),
        dict(item_tfms=[Resize(64), RandAugment()]),
        dict(batch_tfms=lambda xb: xb),
    ):
        with pytest.raises(TypeError, match='moves pixels to is not known'):
            block(at, **kw).dataloaders(path)
        assert not block(at, **kw).check(path).ok
    with pytest.raises(TypeError, match='cache'):
        block(at).dataloaders(path, cache='ram')
    with pytest.raises(TypeError, match='mean means nothing'):
        trained.tta()

    def grey(im):
        return im.convert('L')

    grey.moves_pixels = False
    assert block(at, item_tfms=[Resize(32), grey]).dataloaders(path, bs=8).one_batch()[1].shape == (8, 1, 2)
    for wrong in ([1, 2, 3], 'x', [], 5, [float('nan'), 1]):
        with pytest.raises(ValueError):
            block(at, get_y=lambda f: wrong).dataloaders(path)


def test_pictures_of_places(trained):
    import matplotlib.pyplot as plt

    def dots(axs):
        return [len(ax.collections) for ax in axs]

    for how in ({}, {'unique': True}, {'stage': 'open'}):
        trained.dls.show_batch(max_n=4, **how)
        assert dots(plt.gcf().axes) == [1] * 4
    plt.close('all')
    trained.show_results(max_n=3)
    assert dots(plt.gcf().axes) == [2] * 3
    plt.close('all')
    Interpretation.from_learner(trained).plot_top_losses(2)
    assert dots(plt.gcf().axes) == [2] * 2
    plt.close('all')


def test_a_head_learns_each_view_with_its_own_places(spots):
    path, at = spots
    learn = vision_learner(
        block(at, batch_tfms=aug_transforms(max_warp=0)).dataloaders(path, bs=13, num_workers=0, seed=3, device='cpu'),
        'resnet18',
        pretrained=False,
    )
    feats, y = body_features(learn.model, learn.dls.train, views=3)
    assert feats.shape[:2] == y.shape[:2] == (3, 39) and not torch.equal(y[0], y[1])
    want = torch.cat([yb for _, yb in learn.dls.train.new(shuffle=False, drop_last=False).iter_from(1)])
    assert torch.equal(y[1], want)
    with learn.no_logging():
        learn.fit_head(2, views=2)
    assert len(learn.history) == 2


def test_other_ways_in(spots):
    path, at = spots
    pd = pytest.importorskip('pandas')
    df = pd.DataFrame([(n, x, y, x / 2, y / 2) for n, (x, y) in at.items()], columns=['name', 'x', 'y', 'x2', 'y2'])
    dls = ImageDataLoaders.from_df(
        df,
        path,
        label_col=['x', 'y', 'x2', 'y2'],
        y_block=PointBlock(y_range=(-1, 1)),
        item_tfms=Resize(32),
        bs=8,
        num_workers=0,
    )
    assert dls.c == 4 and dls.one_batch()[1].shape == (8, 2, 2)
    learn = vision_learner(dls, 'resnet18', pretrained=False)
    assert learn.get_preds()[0].abs().max() <= 1 and len(learn.predict(dls.valid.items[0])[0]) == 2
    given = block(at, blocks=(ImageBlock, PointBlock(1)), get_y=lambda f: torch.tensor(at[f.name])).dataloaders(
        path, bs=8
    )
    assert given.c == 2 and Target.from_dict(given.target.to_dict()).c == 2
