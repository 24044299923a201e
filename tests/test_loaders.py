"What of the loaders does not teach: worker processes, abandoned epochs, errors in workers."

import gc
import threading
import warnings

import pytest
import torch
from PIL import Image
from tiny import make_dls, make_pictures

from vislearn.core import Transform
from vislearn.data.cache import PictureCache
from vislearn.data.dataset import Dataset
from vislearn.data.decode import ImageError
from vislearn.data.loaders import DataLoaders, Loader
from vislearn.data.resize import FlipItem, ItemPipeline, Resize
from vislearn.data.sources import ImageDataLoaders
from vislearn.data.targets import Category
from vislearn.data.tuples import TupleLoader

target = Category(vocab=['a', 'b'])


class Noise(Transform):
    "Random per item, in Python."

    def __call__(self, x, rng=None):
        return x ^ rng.randrange(256)


class Shift(Transform):
    "Random per batch."

    def __call__(self, xb, rng=None):
        return xb.float() / 510 + torch.rand(1, generator=rng) / 2


@pytest.fixture
def data(tmp_path):
    "22 small pictures of one grey each."
    fns = [tmp_path / f'{i}.png' for i in range(22)]
    for i, f in enumerate(fns):
        Image.new('RGB', (12, 10), (i * 10,) * 3).save(f)
    return Dataset(fns, torch.arange(22) % 2, target, [Resize(8), Noise(), FlipItem()])


def equal(a, b):
    return all(torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True))


def test_processes_give_what_threads_give(data):
    common = dict(bs=4, shuffle=True, batch_tfms=[Shift()], device='cpu', seed=3)
    t, p, s = (
        Loader(data, num_workers=2, **common),
        Loader(data, num_workers=2, workers='process', **common),
        Loader(data, num_workers=0, **common),
    )
    for _ in range(2):
        assert equal(list(t), list(p))
    assert equal(list(s.iter_from(1, 2)), list(p.iter_from(1, 2)))
    first = p._procs.pids
    list(p)
    assert first == p._procs.pids  # started once


def test_every_item_once_and_on_its_own_label(data):
    dl = Loader(Dataset(data.items, data.y, target), bs=5, shuffle=True, num_workers=3, device='cpu')
    got = [(round(x[0, 0, 0].item() * 25.5), y.item()) for xb, yb in dl for x, y in zip(xb, yb)]
    assert sorted(got) == [(i, i % 2) for i in range(22)]


def test_abandoned_epochs_leave_no_threads(data):
    before = threading.active_count()
    dl = Loader(data, bs=2, num_workers=3, device='cpu')
    for _ in range(20):
        for _ in dl:
            break
    assert threading.active_count() <= before + 3
    assert len(list(dl)) == 11
    del dl
    gc.collect()
    for t in threading.enumerate():
        if t.name.startswith('vislearn-loader'):
            t.join(5)
    assert threading.active_count() <= before


@pytest.mark.parametrize('n', [0, 2])
def test_an_unreadable_file_is_named(data, n):
    data.items[7].write_bytes(b'GIF89a, or so it says')
    with pytest.raises(ImageError, match='7.png') as e:
        list(Loader(data, bs=4, num_workers=n, device='cpu'))
    assert any('training item 7' in o for o in e.value.__notes__)


def test_batches_are_channels_last_floats(data):
    xb, _ = Loader(data, bs=4, device='cpu').one_batch()
    assert (
        xb.is_contiguous(memory_format=torch.channels_last)
        and xb.dtype == torch.float32
        and 0 <= xb.min()
        and xb.max() <= 1
    )


def test_wrong_arguments_are_named(data):
    with pytest.raises(ValueError, match='workers'):
        Loader(data, workers='threads')
    with pytest.raises(ValueError, match='bs is at least 1, got 0'):
        Loader(data, bs=0)
    with pytest.raises(ValueError, match='22 items but 3 weights'):
        Loader(data, weights=[1, 2, 3])
    with pytest.raises(ValueError, match='22 items but 1 labels'):
        Dataset(data.items, torch.zeros(1))
    with pytest.raises(ValueError, match='no training items'):
        Loader(Dataset([])).one_batch()
    with pytest.raises(ValueError, match='get_y'):
        DataLoaders(Loader(data), Loader(data)).test_dl(data.items, with_labels=True)
    with pytest.raises(ValueError, match='after_item'):
        DataLoaders(Loader(data), Loader(data)).add_tfms([], 'before_batch')


def test_validation_gets_the_validation_form_of_added_transforms(data):
    class TrainOnly(Transform):
        def valid(self):
            return None

        def __call__(self, x, rng=None):
            return x

    dls = DataLoaders(Loader(data), Loader(data.new(item_tfms=data.item_tfms.valid())))
    dls.add_tfms([TrainOnly()])
    assert dls.train.batch_tfms.find(TrainOnly) and not dls.valid.batch_tfms.find(TrainOnly)


@pytest.mark.parametrize('workers', ['thread', 'process'])
def test_cached_pictures_are_decoded_once(data, tmp_path, workers):
    data.cache = PictureCache(8, 'disk', folder=tmp_path / 'kept')
    dl = Loader(data, bs=4, num_workers=2, workers=workers, device='cpu', seed=0)
    a = list(dl.iter_from(0))
    assert len(list((tmp_path / 'kept').glob('*.npy'))) == 22
    for f in data.items:
        f.touch() if f.stem == '3' else None
    assert equal(a, list(dl.iter_from(0)))  # 3.png looks changed and is decoded again
    assert len(list((tmp_path / 'kept').glob('*'))) == 23
    assert data.new(item_tfms=data.item_tfms.valid()).cache is None  # validation never comes from a cache


def test_torchvision_transforms_are_welcome(data):
    v2 = pytest.importorskip('torchvision.transforms.v2')
    ds = data.new(item_tfms=ItemPipeline([v2.Resize((9, 9)), v2.RandomHorizontalFlip(1.0), v2.ToImage()]))
    xb, _ = Loader(
        ds, bs=4, num_workers=2, device='cpu', batch_tfms=[v2.RandomAffine(10), v2.Normalize([0.5] * 3, [0.5] * 3)]
    ).one_batch()
    assert xb.shape == (4, 3, 9, 9) and xb.dtype == torch.float32 and xb.min() < 0
    one = Loader(
        data.new(
            item_tfms=ItemPipeline(v2.Compose([v2.CenterCrop(6), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]))
        ),
        bs=4,
        device='cpu',
    ).one_batch()
    assert one[0].shape == (4, 3, 6, 6) and one[0].max() <= 1


def test_who_does_the_batch_transforms(data):
    """The thread that reads a batch, by itself, where that is repeatable; the caller what is foreign. Neither changes
    how many threads others use.
    """
    seen = []

    def look():
        seen.append((threading.current_thread() is threading.main_thread(), torch.get_num_threads()))

    class Look(Transform):
        def __call__(self, xb, rng=None):
            look()
            return xb

    def foreign(xb):
        look()
        return xb

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for tfm, n, expected in ((Look(), 2, (False, 1)), (foreign, 2, (True, 3)), (Look(), 0, (True, 3))):
            seen.clear()
            list(Loader(data, bs=4, batch_tfms=[tfm], num_workers=n, device='cpu'))
            assert len(seen) == 6 and set(seen) == {expected}, tfm
        late = []
        t = threading.Thread(target=lambda: late.append(torch.get_num_threads()))
        t.start()
        t.join()
        assert late == [3] and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ('of', 'name', 'says'),
    [
        ('dls', 'bs', r"'bs' of DataLoaders cannot be set; dls.train.bs and dls.valid.bs can be set; or make .* bs="),
        ('dls', 'vocab', r"'vocab' of DataLoaders cannot be set; .* CategoryBlock\(vocab="),
        (
            'train',
            'item_tfms',
            r"'item_tfms' of Loader cannot be set; make the loaders with item_tfms=..., or add some",
        ),
        ('train', 'n', "'n' of Loader cannot be set; make loaders of other items"),
    ],
)
def test_what_cannot_be_set_says_what_to_do_instead(tmp_path, of, name, says):
    dls = make_dls(make_pictures(tmp_path / 'p', 4), tmp_path)
    with pytest.raises(AttributeError, match=says):
        setattr(dls if of == 'dls' else dls.train, name, 4)
    dls.train.bs = 2
    assert dls.bs == 2 and len(dls.one_batch()[0]) == 2


def test_pictures_of_different_sizes_are_told_when_the_loaders_are_made(tmp_path):
    folder = make_pictures(tmp_path / 'p', 4)
    how = dict(valid_pct=0.25, seed=0, bs=4, num_workers=0, device='cpu')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ImageDataLoaders.from_folder(folder, **how).one_batch()  # they are of one size
    for file in (folder / 'red').iterdir():
        Image.open(file).resize((30, 20)).save(file)
    with pytest.warns(UserWarning, match=r'different sizes .*30x20: .*give item_tfms=Resize\(224\)'):
        ImageDataLoaders.from_folder(folder, **how)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ImageDataLoaders.from_folder(folder, item_tfms=Resize(16), **how).one_batch()
        ImageDataLoaders.from_folder(folder, **how | {'bs': 1})


def test_loaders_of_tuples_have_no_size_of_pictures():
    pairs = TupleLoader([(torch.zeros(3, 8, 8), torch.zeros(3, 8, 8), 1)] * 4, bs=2, device='cpu')
    assert DataLoaders(pairs, pairs).picture_size == 0
