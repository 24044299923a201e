"Datasets and TfmdLists as fastai's tutorials write them, and what their loaders, learners and exports do."

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny import make_pictures, tiny_net

import vislearn.all as v

TFMS = [[v.PILImage.create], [v.parent_label, v.Categorize]]
SMALL = {'after_item': [v.Resize(32), v.ToTensor], 'bs': 4, 'num_workers': 0, 'seed': 0, 'device': 'cpu'}


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp('pictures'), 4)


@pytest.fixture(scope='module')
def files(pictures):
    return sorted(pictures.rglob('*.png'))


@pytest.fixture(scope='module')
def splits(files):
    return v.RandomSplitter(0.25, seed=0)(files)


@pytest.fixture
def dsets(files, splits):
    return v.Datasets(files, TFMS, splits=splits)


def test_items_are_tuples_of_a_picture_and_an_encoded_label(dsets, files, splits):
    x, y = dsets[5]
    assert isinstance(x, v.PILImage) and np.array_equal(x, Image.open(files[5]))
    assert dsets.vocab == ['blue', 'green', 'red'] and dsets.c == 3
    assert y == dsets.vocab.index(files[5].parent.name) and dsets.decode((x, y)) == (x, files[5].parent.name)
    assert (len(dsets), len(dsets.train), len(dsets.valid)) == (12, 9, 3)
    assert dsets.n_subsets == 2 and list(dsets.subset(1).items) == list(dsets.valid.items)
    assert list(dsets.valid.items) == [files[i] for i in splits[1]]
    assert [y for _, y in dsets.valid] == [y for _, y in dsets[list(splits[1])]]
    assert len(dsets[:2]) == 2 and len(dsets[0]) == 2


def test_showing_draws_the_picture_with_its_label(dsets, files):
    import matplotlib.pyplot as plt

    _, ax = plt.subplots()
    dsets.show(dsets[0], ctx=ax)
    assert ax.get_title() == files[0].parent.name and len(ax.images) == 1
    plt.close()


def test_batches_are_those_of_the_data_block_that_says_the_same(dsets, files, splits):
    block = v.DataBlock(
        (v.ImageBlock, v.CategoryBlock),
        get_y=v.parent_label,
        splitter=v.IndexSplitter(splits[1]),
        item_tfms=v.Resize(32),
        batch_tfms=v.Normalize([0.5] * 3, [0.5] * 3),
    )
    tfms = [v.IntToFloatTensor(), v.Normalize([0.5] * 3, [0.5] * 3)]
    ours = dsets.dataloaders(after_batch=tfms, **SMALL)
    want = block.dataloaders(files, bs=4, num_workers=0, seed=0, device='cpu')
    assert sorted(ours.train.items) == sorted(want.train.items) and ours.vocab == want.vocab
    for a, b in zip(ours.valid, want.valid, strict=True):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_a_learner_trains_exports_and_predicts(dsets, files, tmp_path):
    dls = dsets.dataloaders(path=tmp_path, **SMALL)
    learn = v.vision_learner(dls, 'test_resnet', pretrained=False, metrics=v.accuracy, default_cbs=False)
    learn.fit(1)
    wanted = learn.predict(files[0])
    loaded = v.load_learner(learn.export())
    assert torch.equal(loaded.predict(files[0])[2], wanted[2])
    assert dls.test_dl(files[:2], with_labels=True).one_batch()[1].tolist() == [0, 0]


def opened(f):
    return np.asarray(Image.open(f).convert('L'))


def reader(col):
    return v.ColReader(col)


def x_side(name):
    return {
        'a function': v.PILImage.create,
        'with transforms': [v.PILImage.create, v.Resize(32), v.ToTensor()],
        'grey': [v.PILImageBW.create],
        'an opener of your own': [opened],
        'of Pillow': [Image.open],
        'a path first': [str, v.PILImage.create],
    }[name]


@pytest.mark.parametrize(
    'name,channels',
    [
        ('a function', 3),
        ('with transforms', 3),
        ('grey', 1),
        ('an opener of your own', 3),
        ('of Pillow', 3),
        ('a path first', 3),
    ],
)
def test_ways_to_open_pictures(files, splits, name, channels):
    dls = v.Datasets(files, [x_side(name), [v.parent_label, v.Categorize()]], splits=splits).dataloaders(**SMALL)
    xb, yb = dls.one_batch()
    assert xb.shape == (4, channels, 32, 32) and yb.shape == (4,)


def test_several_labels_numbers_and_zeros_and_ones(files, splits):
    def batch(*labels):
        return (
            v.Datasets(files, [v.PILImage.create, [*labels]], splits=splits).dataloaders(**SMALL).valid.one_batch()[1]
        )

    colours = [files[i].parent.name for i in splits[1]]
    both = batch(lambda f: ['any', f.parent.name], v.MultiCategorize(), v.OneHotEncode())
    assert both.tolist() == [[1.0, *(float(c == o) for o in ('blue', 'green', 'red'))] for c in colours]
    numbers = batch(lambda f: float(f.stem[-2:]), v.RegressionSetup())
    assert numbers.tolist() == [float(files[i].stem[-2:]) for i in splits[1]]
    coded = batch(lambda f: [1, 0], v.EncodedMultiCategorize(['a', 'b']))
    assert coded.tolist() == [[1.0, 0.0]] * 3


def test_rows_of_a_table(files, splits, pictures):
    df = pd.DataFrame({'name': [f.relative_to(pictures).as_posix() for f in files]})
    df['label'] = [f.parent.name for f in files]
    tfms = [[v.ColReader('name', pref=pictures), v.PILImage.create], [v.ColReader('label'), v.Categorize]]
    dls = v.Datasets(df, tfms, splits=splits).dataloaders(**SMALL)
    learn = v.Learner(dls, tiny_net(), default_cbs=False)
    want = learn.get_preds(dl=dls.test_dl(files[:3]))[0]
    assert torch.equal(learn.get_preds(dl=dls.test_dl(df.iloc[:3]))[0], want)


def test_transforms_in_a_list_know_their_part(files, splits):
    class Darker(v.Transform):
        split_idx = 0

        def encodes(self, im: v.PILImage):
            return im.point(lambda p: p // 2)

    lists = v.TfmdLists(files, [v.PILImage.create, Darker()], splits=splits)
    plain = v.TfmdLists(files, v.PILImage.create, splits=splits)
    assert np.asarray(lists.train[0]).max() <= 127
    assert np.array_equal(lists.valid[0], plain.valid[0]) and np.array_equal(lists[0], plain[0])


def test_plain_lists_of_anything():
    assert v.Datasets([1, 2, 3])[0] == (1,) and v.Datasets([1, 2], [[float], [str, len]])[1] == (2.0, 1)
    lists = v.TfmdLists(['b', 'a', 'c'], [str.upper, v.Categorize()], splits=[[0, 1], [2]])
    assert lists.vocab == ['A', 'B'] and lists.train[0] == 1 and lists.decode(lists.train[0]) == 'B'
    with pytest.raises(KeyError, match="'C' is not in the vocab"):
        lists.valid[0]


def test_what_cannot_be_batches_says_what_is_missing(files, splits):
    for tfms in ([v.PILImage.create], [[v.PILImage.create], [v.parent_label]], [v.PILImage.create] * 3):
        with pytest.raises(ValueError, match='the second with what labels are at its end'):
            v.Datasets(files, tfms, splits=splits).dataloaders()
    with pytest.raises(ValueError, match='n_inp=2'):
        v.Datasets(files, TFMS, n_inp=2)
    with pytest.raises(TypeError, match='got 3, a int'):
        v.Datasets(files, [[3]])
    with pytest.raises(ZeroDivisionError) as e:
        v.Datasets(files, [[lambda f: 1 / 0]])[2]
    assert any(files[2].name in note for note in e.value.__notes__)
