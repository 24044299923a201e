"""Rows of a table, folders and single pictures, wherever items are taken: read as the rows of training were, also
after an export.
"""

import copy

import pandas as pd
import pytest
import torch
from tiny import make_pictures, tiny_net

from vislearn.data.block import CategoryBlock, DataBlock, ImageBlock
from vislearn.data.labels import ColReader
from vislearn.data.resize import Resize
from vislearn.data.sources import ImageDataLoaders
from vislearn.data.split import RandomSplitter
from vislearn.learner import Learner, load_learner, vision_learner

SMALL = {'item_tfms': Resize(32), 'bs': 8, 'seed': 0, 'num_workers': 0, 'device': 'cpu'}


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp('pictures'), 6)


@pytest.fixture(scope='module')
def df(pictures):
    files = sorted(pictures.rglob('*.png'))
    names = [f.relative_to(pictures).with_suffix('').as_posix() for f in files]
    return pd.DataFrame({'label': [f.parent.name for f in files], 'name': names})


def from_df(pictures, df):
    return ImageDataLoaders.from_df(df, pictures, fn_col='name', label_col='label', suff='.png', **SMALL)


def from_csv(pictures, df):
    df.to_csv(pictures / 'labels.csv', index=False)
    return ImageDataLoaders.from_csv(pictures, fn_col='name', label_col='label', suff='.png', **SMALL)


def from_block(pictures, df):
    db = DataBlock(
        (ImageBlock, CategoryBlock),
        get_x=ColReader('name', pref=pictures, suff='.png'),
        get_y=ColReader('label'),
        splitter=RandomSplitter(seed=0),
        item_tfms=Resize(32),
    )
    return db.dataloaders(df, path=pictures, bs=8, seed=0, num_workers=0, device='cpu')


@pytest.fixture(params=[from_df, from_csv, from_block], ids=lambda f: f.__name__)
def learn(request, pictures, df):
    dls = request.param(pictures, df)
    return vision_learner(dls, 'resnet18', pretrained=False, metrics=[], default_cbs=False)


def test_rows_are_read_as_in_training(learn, pictures, df):
    files = [pictures / f'{name}.png' for name in df['name']]
    want = learn.get_preds(dl=learn.dls.test_dl(files))[0]
    assert torch.equal(learn.get_preds(dl=learn.dls.test_dl(df))[0], want)
    assert torch.equal(learn.get_preds(dl=learn.dls.test_dl(df.to_dict('records')))[0], want)
    one = learn.dls.test_dl(df.iloc[3])
    assert len(one) == 1 and torch.allclose(learn.get_preds(dl=one)[0][0], want[3], atol=1e-5)
    for row in (df.iloc[3], df.iloc[3].to_dict(), next(df.iloc[3:].itertuples())):
        assert torch.allclose(learn.predict(row)[2], want[3], atol=1e-5)
    many = learn.predict_batch(df)
    assert torch.allclose(torch.stack([o[2] for o in many]), want, atol=1e-5)
    labelled = learn.dls.test_dl(df, with_labels=True)
    assert [learn.dls.target.decode(y) for y in labelled.dataset.y] == list(df['label'])


def test_an_export_reads_rows(learn, df, tmp_path):
    want = learn.get_preds(dl=learn.dls.test_dl(df))[0]
    again = load_learner(learn.export(tmp_path / 'm.pkl'))
    assert torch.equal(again.get_preds(dl=again.dls.test_dl(df))[0], want)
    assert torch.allclose(again.predict(df.iloc[3])[2], want[3], atol=1e-5)
    copied = copy.deepcopy(learn)
    assert torch.equal(copied.get_preds(dl=copied.dls.test_dl(df))[0], want)


def test_an_export_reads_items_of_the_data_it_was_trained_on(pictures, df, tmp_path):
    "Items of loaders made from two tables, or from lists, are pictures with their labels."
    for name, rows in (('train', df[::2]), ('valid', df[1::2])):
        rows.to_csv(tmp_path / f'{name}.csv', index=False)
    tables = dict(valid_csv=tmp_path / 'valid.csv', fn_col='name', label_col='label', suff='.png')
    files = [pictures / f'{name}.png' for name in df['name']]
    for dls in (
        ImageDataLoaders.from_csv(pictures, tmp_path / 'train.csv', **tables, **SMALL),
        ImageDataLoaders.from_lists(pictures, files, list(df['label']), **SMALL),
    ):
        learn = vision_learner(dls, 'resnet18', pretrained=False, metrics=[], default_cbs=False)
        again = load_learner(learn.export(tmp_path / 'm.pkl'))
        want, _ = learn.get_preds()
        item = dls.valid.items[0]
        assert torch.allclose(again.predict(item)[2], want[0], atol=1e-5)
        assert torch.equal(again.predict(item)[2], learn.predict(item)[2])
        assert torch.equal(again.get_preds(dl=again.dls.test_dl(dls.valid.items))[0], want)
        with pytest.raises(TypeError if again.dls.valid.dataset.get_x is None else KeyError, match='column'):
            again.predict({'picture': str(files[0])})


def test_a_folder_and_one_picture(pictures, df):
    dls = from_df(pictures, df)
    assert len(dls.test_dl(pictures / 'red').items) == 6
    assert len(dls.test_dl(str(pictures)).items) == 18
    one = dls.test_dl(pictures / 'red' / 'red_00.png')
    assert one.one_batch()[0].shape == (1, 3, 32, 32)


def test_rows_without_a_table_are_told_what_to_give(pictures, df):
    dls = ImageDataLoaders.from_path_func(pictures, sorted(pictures.rglob('*.png')), lambda f: f.parent.name, **SMALL)
    with pytest.raises(TypeError, match="which column names the file.*df\\['name'\\]"):
        dls.test_dl(df).one_batch()
    with pytest.raises(TypeError, match='which column names the file'):
        Learner(dls, tiny_net(), default_cbs=False).predict(df.iloc[0])
    with pytest.raises(TypeError, match='items are a list'):
        dls.test_dl(3)


def test_columns_as_fastai_takes_them(pictures, df):
    files = [pictures / f'{name}.png' for name in df['name']]
    db = DataBlock.from_columns((ImageBlock, CategoryBlock), splitter=RandomSplitter(seed=0), item_tfms=Resize(32))
    dls = db.dataloaders((files, list(df['label'])), bs=4, seed=0, num_workers=0)
    assert dls.vocab == ['blue', 'green', 'red'] and dls.train.n == 15
    with pytest.raises(ValueError, match='different lengths'):
        db.datasets((files, [1]))


def test_calls_of_fastais_tutorials(pictures, df):
    files = [pictures / f'{name}.png' for name in df['name']]
    common = {'get_items': lambda fs: fs, 'splitter': RandomSplitter(seed=0), 'item_tfms': Resize(32)}
    db = DataBlock((ImageBlock, CategoryBlock), n_inp=1, get_y=[lambda f: f.parent, lambda p: p.name], **common)
    dls = ImageDataLoaders.from_dblock(db, files, bs=4, seed=0)
    assert dls.vocab == ['blue', 'green', 'red'] and dls.n == 15 and dls.n_inp == 1
    weights = [1.0 if f.parent.name == 'red' else 0.0 for f in db.datasets(files).train.items]
    for weighted in (
        db.weighted_dataloaders(files, weights, bs=4),
        db.datasets(files).weighted_dataloaders(weights, 4),
    ):
        assert {weighted.vocab[y] for y in weighted.train.one_batch()[1]} == {'red'}
    assert db.datasets(files).dataloaders(bs=4, seed=0).one_batch()[0].shape == (4, 3, 32, 32)
    with pytest.raises(ValueError, match='n_inp=2'):
        DataBlock((ImageBlock, CategoryBlock), n_inp=2)
    x, y = dls.train_ds[0]
    x.show()
    assert dls.after_batch is dls.train.batch_tfms
    b = dls.one_batch()
    dls.show_batch(b)
    assert dls.show_batch(b, max_n=2) is None
    (picture, label), *_ = dls.decode_batch(b)
    assert picture.shape == (3, 32, 32) and label == dls.vocab[b[1][0]]
    assert torch.equal(dls.train.decode((b[0],))[0], dls.train.decode(b[0]))


@pytest.mark.parametrize('bs', [8.0, '8', torch.tensor(8)])
def test_bs_of_other_kinds(pictures, df, bs):
    assert (
        ImageDataLoaders.from_df(df, pictures, fn_col=1, label_col=0, suff='.png', bs=bs, item_tfms=Resize(8)).bs == 8
    )


@pytest.mark.parametrize('bs', [8.5, 'many', [8]])
def test_bs_that_is_no_number_of_pictures(pictures, df, bs):
    with pytest.raises((TypeError, ValueError), match='bs is a whole number'):
        ImageDataLoaders.from_df(df, pictures, fn_col=1, label_col=0, suff='.png', bs=bs, item_tfms=Resize(8))


def test_get_x_is_called_with_names_and_paths_too(pictures):
    "Also where the items are texts, which could be opened themselves; other pictures are opened as they are."
    files = sorted(pictures.rglob('*.png'))
    names = [f.relative_to(pictures).as_posix() for f in files]
    db = DataBlock(
        (ImageBlock, CategoryBlock),
        get_x=lambda name: pictures / name,
        get_y=lambda name: name.split('/')[0],
        splitter=RandomSplitter(seed=0),
        item_tfms=Resize(32),
    )
    dls = db.dataloaders(names, bs=8, seed=0, num_workers=0, device='cpu', bad_images='raise')
    learn = Learner(dls, tiny_net(), default_cbs=False)
    want = learn.get_preds(dl=dls.test_dl(names))[0]
    assert torch.equal(learn.get_preds(dl=dls.test_dl([f.read_bytes() for f in files]))[0], want)
    for item in (names[0], files[0], files[0].read_bytes()):
        torch.testing.assert_close(learn.predict(item)[2], want[0], rtol=1e-4, atol=1e-5)
    swapped = DataBlock(
        (ImageBlock, CategoryBlock),
        get_x=lambda f: f.parent.parent / 'red' / files[-1].name,
        get_y=lambda f: f.parent.name,
        item_tfms=Resize(32),
    ).dataloaders(files, bs=4, seed=0, num_workers=0, device='cpu')
    first = swapped.train_ds[0][0]
    assert all(torch.equal(x, first) for x, _ in swapped.train_ds)


def test_rows_as_named_tuples_and_as_arrays(pictures, df):
    "pandas' `itertuples` begins with the index, which is no column; rows of `to_numpy` are arrays of objects."
    named = df[['name', 'label']]
    dls = ImageDataLoaders.from_df(named, pictures, suff='.png', **SMALL)
    learn = Learner(dls, tiny_net(), default_cbs=False)
    want = learn.get_preds(dl=dls.test_dl([pictures / f'{name}.png' for name in named['name'][:3]]))[0]
    for rows in (list(named.itertuples())[:3], list(named.itertuples(index=False))[:3], named.to_numpy()[:3]):
        assert torch.equal(learn.get_preds(dl=dls.test_dl(rows))[0], want)


def test_predict_takes_a_table_of_one_row_and_names_what_takes_more(learn, df):
    assert torch.equal(learn.predict(df.iloc[3:4])[2], learn.predict(df.iloc[3])[2])
    with pytest.raises(TypeError, match='a table of 2 rows: use learn.predict_batch'):
        learn.predict(df.iloc[:2])
