"Where data can come from, and what is said when it does not fit."

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from bad_images import enc, exif, picture
from PIL import Image

from vislearn.collect.samples import sample_data
from vislearn.data.block import CategoryBlock, DataBlock, ImageBlock, MultiCategoryBlock, RegressionBlock
from vislearn.data.files import get_image_files
from vislearn.data.image import PILImageBW
from vislearn.data.labels import parent_label
from vislearn.data.loaders import DataLoaders
from vislearn.data.pipelines import TfmdLists
from vislearn.data.resize import RandomResizedCrop, Resize
from vislearn.data.sources import ImageDataLoaders
from vislearn.data.split import KFoldSplitter, RandomSplitter
from vislearn.data.tables import read_list, read_names, read_table
from vislearn.learner import load_learner, vision_learner

SMALL = dict(item_tfms=Resize(8), num_workers=0, bs=4, device='cpu', seed=0)


def grey(v: int) -> bytes:
    return enc(np.full((10, 12, 3), v, np.uint8), 'PNG')


def level(x: torch.Tensor) -> list[int]:
    "The grey of each picture of a batch."
    return (x[:, 0, 4, 4] * 255).round().long().tolist()


@pytest.fixture
def files(tmp_path) -> Path:
    "24 pictures in train, valid and test folders of two classes; a picture's grey says which it is."
    i = 0
    for part, n in (('train', 6), ('valid', 4), ('test', 2)):
        for label in 'ab':
            (tmp_path / part / label).mkdir(parents=True)
            for _ in range(n):
                (tmp_path / part / label / f'{i}.png').write_bytes(grey(i * 10))
                i += 1
    return tmp_path


def labels_by_level(dl) -> dict[int, object]:
    dl = dl.new(shuffle=False, drop_last=False)
    return {v: dl.target.decode(y) for xb, yb in dl for v, y in zip(level(xb), yb)}


TRUTH = {
    part: {i * 10: 'ab'[k] for k in (0, 1) for i in range(a + k * n, a + (k + 1) * n)}
    for part, a, n in (('train', 0, 6), ('valid', 12, 4), ('test', 20, 2))
}


def test_from_folders(files):
    dls = ImageDataLoaders.from_folders(files / 'train', files / 'valid', files / 'test', **SMALL)
    assert [labels_by_level(dl) for dl in dls] == [TRUTH[p] for p in ('train', 'valid', 'test')]
    assert dls[2].dataset.name == 'test' and dls.path == files and not dls.multi_label and dls.c == 2
    split = ImageDataLoaders.from_folders(files / 'train', test_dir=files / 'test', valid_pct=0.25, **SMALL)
    assert [dl.n for dl in split] == [9, 3, 4] and labels_by_level(split[2]) == TRUTH['test']
    assert labels_by_level(split.train) | labels_by_level(split.valid) == TRUTH['train']
    given = ImageDataLoaders.from_folders(files / 'train', files / 'valid', vocab=['b', 'a', 'c'], **SMALL)
    assert given.vocab == ['b', 'a', 'c'] and labels_by_level(given.valid) == TRUTH['valid']


def test_a_prompt_shows_what_a_block_does():
    block = DataBlock((ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label, item_tfms=Resize(8))
    shown = repr(block)
    assert shown.startswith('DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, splitter=Random')
    assert 'get_y=parent_label' in shown and 'Resize(' in shown and 'valid_tfms' not in shown
    assert repr(DataBlock()).startswith('DataBlock(blocks=(), splitter=')


def test_from_folder(files):
    dls = ImageDataLoaders.from_folder(files, **SMALL)
    assert labels_by_level(dls.train) == TRUTH['train'] and labels_by_level(dls.valid) == TRUTH['valid']
    assert ImageDataLoaders.from_folder(files / 'train', valid_pct=0.5, img_cls=PILImageBW, **SMALL).one_batch()[
        0
    ].shape == (4, 1, 8, 8)


def write(path: Path, *rows, sep=',') -> None:
    with open(path, 'w', newline='', encoding='utf-8') as f:
        csv.writer(f, delimiter=sep).writerows(rows)


@pytest.fixture
def posters(tmp_path) -> Path:
    "The layout of the movie posters: two folders with a table each."
    for part, ids in (('train', range(8)), ('val', range(8, 12))):
        (tmp_path / part).mkdir()
        for i in ids:
            (tmp_path / part / f'tt{i:03}.png').write_bytes(grey(i * 20))
        write(
            tmp_path / part / 'metadata.csv',
            ['Id', 'Comedy', 'Drama', 'War', 'genres', 'year', 'hold'],
            *(
                [
                    f'tt{i:03}',
                    i % 2,
                    int(i > 3),
                    int(i == 2),
                    ' | '.join(['Comedy'] * (i % 2) + ['New York'] * (i > 3)),
                    1990.5 + i,
                    i in (1, 5),
                ]
                for i in ids
            ),
        )
    return tmp_path


def test_label_columns(posters):
    dls = ImageDataLoaders.from_csv(
        posters,
        'train/metadata.csv',
        valid_csv='val/metadata.csv',
        suff='.png',
        label_col=['Comedy', 'Drama', 'War'],
        **SMALL,
    )
    assert dls.multi_label and dls.vocab == ['Comedy', 'Drama', 'War'] and (dls.train.n, dls.valid.n) == (8, 4)
    assert (
        labels_by_level(dls.train)[100] == ['Comedy', 'Drama']
        and labels_by_level(dls.train)[40] == ['War']
        and labels_by_level(dls.valid)[160] == ['Drama']
    )
    assert dls.loss_func(torch.zeros(1, 3), torch.ones(1, 3)).item() == pytest.approx(0.6931, abs=1e-4)


def test_a_warning_names_the_line_of_the_call_however_deep_it_arises():
    pictures = np.zeros((5, 8, 8, 3), np.uint8)
    block = DataBlock((ImageBlock, CategoryBlock), get_y='ababa'.__getitem__, splitter=lambda o: ([0, 1, 2, 3], [4]))
    with pytest.warns(UserWarning) as found:
        ImageDataLoaders.from_arrays(pictures, [0.5, 1, 2, 3, 4], **SMALL | {'bs': 64})
        block.dataloaders(range(5), bs=64)
    said = [str(o.message) for o in found]
    assert len(said) == 3, said  # a guess about labels, and twice a batch size
    assert {o.filename for o in found} == {__file__}


def test_other_columns(posters):
    def go(**kw):
        return ImageDataLoaders.from_csv(posters, 'train/metadata.csv', **{'suff': '.png', **SMALL, **kw})

    some = go(label_col='genres', label_delim='|', valid_pct=0)
    assert (
        some.vocab == ['Comedy', 'New York']
        and labels_by_level(some.train)[100] == ['Comedy', 'New York']
        and labels_by_level(some.train)[0] == []
    )
    years = go(label_col='year', valid_pct=0)
    assert years.target.c == 1 and labels_by_level(years.train)[40] == 1992.5
    held = go(label_col='Comedy', valid_col='hold')
    assert held.vocab == [0, 1] and list(labels_by_level(held.valid)) == [20, 100]
    with pytest.raises(ValueError, match=r'training item \d has no label') as e:
        go(label_col='genres', valid_pct=0)
    assert 'tt00' in e.value.__notes__[0]
    lists = ImageDataLoaders.from_lists(
        posters, get_image_files(posters / 'val'), ['a b', 'c, d', 'a b', 'e|f'], valid_pct=0, **SMALL
    )  # spaces and commas are not guessed at
    assert lists.vocab == ['a b', 'c, d', 'e|f']
    two = go(label_col=['year', 'Drama'], y_block=RegressionBlock(y_range=(0, 3000)), valid_pct=0)
    assert two.target.c == 2 and two.target.y_range == (0, 3000)
    with pytest.raises(ValueError, match='RegressionBlock'):
        go(label_col=['year', 'Drama'], valid_pct=0)
    with pytest.raises(KeyError, match="did you mean 'Comedy'"):
        go(label_col='Comedie')
    with pytest.raises(FileNotFoundError, match="give suff='.png'"):
        go(suff='')
    with pytest.raises(TypeError, match="did you mean 'valid_pct'"):
        go(vaild_pct=0.1)


def test_tables_need_no_pandas(posters):
    code = f"""
import sys; sys.modules['pandas'] = None
from vislearn.data.sources import ImageDataLoaders
from vislearn.data.resize import Resize
dls = ImageDataLoaders.from_csv({str(posters)!r}, 'train/metadata.csv', suff='.png', label_col=['Comedy', 'Drama'], item_tfms=Resize(8), num_workers=0)
print(dls.train_ds.y.sum(0).tolist(), 'pandas' in [k for k, v in sys.modules.items() if v])"""
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert 'False' in out.stdout, out.stderr


def test_frames_give_what_tables_give(posters):
    pd = pytest.importorskip('pandas')
    df, val = (pd.read_csv(posters / p / 'metadata.csv') for p in ('train', 'val'))
    kw = dict(suff='.png', label_col=['Comedy', 'Drama', 'War'], **SMALL)
    a = ImageDataLoaders.from_csv(posters, 'train/metadata.csv', valid_csv='val/metadata.csv', **kw)
    b = ImageDataLoaders.from_df(df, posters, folder='train', valid_pct=0, **kw)
    assert labels_by_level(a.train) == labels_by_level(b.train)
    for d in (df, val):
        d['Id'] = [f'{"train" if int(i[2:]) < 8 else "val"}/{i}' for i in d['Id']]
    c = ImageDataLoaders.from_df(df, posters, valid_df=val, **kw)
    assert labels_by_level(c.valid) == labels_by_level(a.valid)
    d = ImageDataLoaders.from_df(df.to_dict('records'), posters, valid_pct=0.25, **{**kw, 'label_col': 'hold'})
    assert d.vocab == [False, True]


@pytest.mark.parametrize(
    'text,want',
    [
        ('a,b\n1,2\n3,\n', [{'a': 1, 'b': 2}, {'a': 3, 'b': None}]),
        ('a,b\r\n"x, y",1.5\r\n', [{'a': 'x, y', 'b': 1.5}]),
        ('\ufeffa\n01\n2\n', [{'a': '01'}, {'a': '2'}]),
        ('a\nTrue\nfalse\n', [{'a': True}, {'a': False}]),
        ('a\n1\n2.5\n', [{'a': 1.0}, {'a': 2.5}]),
        ('a\nnan\n1\n', [{'a': None}, {'a': 1}]),
        ('a\nNA\nNone\n', [{'a': 'NA'}, {'a': 'None'}]),
        ('a,b\n-3,1e3\n', [{'a': -3, 'b': 1000.0}]),
    ],
)
def test_what_cells_hold(tmp_path, text, want):
    (tmp_path / 't.csv').write_text(text, encoding='utf-8', newline='')
    assert read_table(tmp_path / 't.csv') == want


def test_tables_that_do_not_fit(tmp_path):
    t = tmp_path / 't.csv'
    for text, why in (
        ('', 'is empty'),
        ('a,a\n1,2\n', 'two columns of one name'),
        ('a,b\n1,2\n1\n', 'line 3: 1 cells'),
        ('a;b\n1;2\n1,2\n', 'line 3: 2 cells for the 1 columns.*is it the delimiter'),
    ):
        t.write_text(text)
        with pytest.raises(ValueError, match=why):
            read_table(t)
    t.write_text('x.png,1\ny.png,2\n')
    assert read_table(t, header=None)[1] == {0: 'y.png', 1: 2}
    (tmp_path / 't.tsv').write_text('a\tb\n1\t2\n')
    assert read_table(tmp_path / 't.tsv') == [{'a': 1, 'b': 2}]
    t.write_text('f,l\nnone.png,1\n')
    with pytest.raises(FileNotFoundError, match='none.png is not in'):
        ImageDataLoaders.from_csv(tmp_path, 't.csv')
    t.write_text('f,l\nnone.png,1\n,2\n')
    (tmp_path / 'none.png').write_bytes(grey(1))
    with pytest.raises(ValueError, match='column 0, of the file names, is empty'):
        ImageDataLoaders.from_csv(tmp_path, 't.csv')


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux keeps names that are not text')
def test_names_that_are_not_text_survive_a_table(tmp_path):
    raw = os.path.join(os.fsencode(tmp_path), b'caf\xe9.png')
    with open(raw, 'wb') as f:
        f.write(grey(70))
    (tmp_path / 'b c.png').write_bytes(grey(90))
    (tmp_path / 'labels.csv').write_bytes(b'f,l\ncaf\xe9.png,x\nb c.png,y\n')
    (tmp_path / 'list.txt').write_bytes(b'caf\xe9.png x\nb c.png y\n')
    for dls in (
        ImageDataLoaders.from_csv(tmp_path, valid_pct=0, **SMALL),
        ImageDataLoaders.from_list_file(tmp_path, 'list.txt', valid_pct=0, **SMALL),
    ):
        assert labels_by_level(dls.train) == {70: 'x', 90: 'y'}


def test_list_files(files):
    def lines(part):
        return '\n'.join(f'{part}/{"ab"[k]}/{v // 10}.png {k}' for v, l in TRUTH[part].items() for k in ['ab'.index(l)])

    for part in TRUTH:
        (files / f'{part}.txt').write_text(lines(part) + '\n\n')
    (files / 'names.txt').write_text('0 first one\n1 second one\n')
    dls = ImageDataLoaders.from_list_file(files, 'train.txt', 'valid.txt', 'test.txt', 'names.txt', **SMALL)
    name = {'a': 'first one', 'b': 'second one'}
    assert [labels_by_level(dl) for dl in dls] == [
        {k: name[v] for k, v in TRUTH[p].items()} for p in TRUTH
    ] and dls.vocab == list(name.values())
    for name in ('train', 'names'):
        text = (files / f'{name}.txt').read_text().replace('first', 'première')
        (files / f'{name}.txt').write_bytes(text.encode('mac-roman'))
    given = ImageDataLoaders.from_list_file(
        files, 'train.txt', names='names.txt', encoding='mac-roman', valid_pct=0.5, **SMALL
    )
    assert given.vocab == ['première one', 'second one']
    plain = ImageDataLoaders.from_list_file(files, 'train.txt', valid_pct=0.5, **SMALL)
    assert plain.vocab == [0, 1] and plain.valid.n == 6
    (files / 'multi.txt').write_text('\n'.join(f'train/a/{i}.png\t{i % 2},1,0' for i in range(6)))
    multi = ImageDataLoaders.from_list_file(files, 'multi.txt', sep='\t', label_delim=',', valid_pct=0, **SMALL)
    assert multi.vocab == ['0', '1', '2'] and labels_by_level(multi.train)[10] == ['0', '1']


def test_lists_and_names_that_do_not_fit(tmp_path):
    t = tmp_path / 't.txt'
    t.write_text('a b.jpg 1\nc.jpg\n')
    with pytest.raises(ValueError, match=r"line 2, 'c.jpg': there is no ' '"):
        read_list(t)
    t.write_text('a b.jpg   1\n')
    assert read_list(t, 'd') == [(Path('d/a b.jpg'), 1)]
    with pytest.raises(ValueError, match="label '1' is not among the names"):
        read_list(t, names={0: 'x'})
    t.write_text('crane\nmaillot\ncrane\n')
    assert read_names(t) == {0: 'crane (0)', 1: 'maillot', 2: 'crane (2)'}
    t.write_text('1: b\n0: a\n')
    assert list(read_names(t).items()) == [(0, 'a'), (1, 'b')]
    t.write_text('3 musketeers\nother\n')
    assert read_names(t) == {0: '3 musketeers', 1: 'other'}


xs = np.stack([np.full((9, 11, 3), i * 10, np.uint8) for i in range(20)])
ys = [i % 2 for i in range(20)]
WANT = {i * 10: 'ab'[i % 2] for i in range(20)}


@pytest.mark.parametrize(
    'pictures',
    [
        xs,
        torch.from_numpy(xs).permute(0, 3, 1, 2),
        list(xs),
        [Image.fromarray(x) for x in xs],
        xs[..., 0],
        (xs / 255).astype(np.float32),
    ],
    ids=['numpy', 'torch', 'list', 'PIL', 'grey', 'float'],
)
@pytest.mark.parametrize('labels', [ys, np.array(ys), torch.tensor(ys)], ids=['list', 'numpy', 'torch'])
def test_arrays(pictures, labels):
    dls = ImageDataLoaders.from_arrays(pictures, labels, vocab=['a', 'b'], valid_pct=0, **SMALL)
    assert labels_by_level(dls.train) == WANT


def test_arrays_with_sets_of_their_own():
    dls = ImageDataLoaders.from_arrays(xs[:8], ys[:8], (xs[8:16], ys[8:16]), (xs[16:], ys[16:]), **SMALL)
    assert (
        [dl.n for dl in dls] == [8, 8, 4]
        and dls.vocab == [0, 1]
        and labels_by_level(dls[2]) == {160: 0, 170: 1, 180: 0, 190: 1}
    )
    many = np.eye(4)[np.arange(20) % 4]
    assert ImageDataLoaders.from_arrays(xs, many, vocab=list('wxyz'), valid_pct=0, **SMALL).multi_label
    assert ImageDataLoaders.from_arrays(xs, many * 7, y_block=RegressionBlock(), valid_pct=0, **SMALL).c == 4
    soft = ImageDataLoaders.from_arrays(xs, many * 0.25, vocab=list('wxyz'), valid_pct=0, **SMALL)
    assert soft.train_ds.y.max() == 0.25  # degrees of agreement are kept
    with pytest.raises(ValueError, match='4 numbers: name them'):
        ImageDataLoaders.from_arrays(xs, many)
    with pytest.raises(ValueError, match='20 pictures but 3 labels'):
        ImageDataLoaders.from_arrays(xs, [1, 2, 3])
    with pytest.raises(ValueError, match='label number 1 has no name'):
        ImageDataLoaders.from_arrays(xs, ys, vocab=['a'])
    assert (
        dls.check().problems and not ImageDataLoaders.from_arrays(xs[:8], ys[:8], (xs[:4], ys[:4]), **SMALL).check().ok
    )  # the same arrays on both sides


def test_check_says_when_training_sees_a_part_of_long_pictures():
    xs = np.zeros((20, 40, 100, 3), np.uint8)

    def said(crop):
        dls = ImageDataLoaders.from_arrays(xs, [0, 1] * 10, **SMALL | {'item_tfms': crop})
        return 'as wide as high' in str(dls.check())

    fits = RandomResizedCrop(8, ratio=(1.88, 3.33))
    assert [said(o) for o in (RandomResizedCrop(8), Resize(8), fits, Resize(8, 'squish'))] == [True, True, False, False]


class Torchvisionlike:
    "Data in memory, `targets`, `classes`; opening a picture is counted."

    def __init__(self, n=20, **attrs):
        self.n, self.opened = n, []
        vars(self).update(attrs)

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        self.opened.append(i)
        return Image.fromarray(xs[i]), i % 2


class Table:
    "What Hugging Face's data sets look like: columns, features, items as dicts."

    column_names = ['id', 'img', 'fine']

    class _F(dict):
        pass

    def __init__(self, n=20):
        label = type('ClassLabel', (), {'names': ['a', 'b']})()
        self.n, self.opened, self.features = n, [], {'id': None, 'img': None, 'fine': label}

    def __len__(self):
        return self.n

    def __getitem__(self, k):
        if isinstance(k, str):
            return [i % 2 for i in range(self.n)]
        self.opened.append(k)
        return {
            'id': k,
            'img': {'bytes': enc(xs[k], 'PNG'), 'path': None} if k % 2 else Image.fromarray(xs[k]),
            'fine': k % 2,
        }


@pytest.mark.parametrize(
    'make,kw,peeks',
    [
        (lambda: Torchvisionlike(targets=ys, classes=['a', 'b']), {}, 1),
        (lambda: Torchvisionlike(targets=torch.tensor(ys), classes=[('a',), ('b',)]), {}, 1),
        (lambda: Torchvisionlike(_labels=np.array(ys)), dict(vocab=['a', 'b']), 1),
        (
            lambda: Torchvisionlike(targets=[1 - y for y in ys], classes=['a', 'b'], target_transform=lambda y: 1 - y),
            {},
            1,
        ),
        (lambda: Torchvisionlike(), dict(vocab=['a', 'b']), 22),
        (Table, dict(y_key='fine'), 0),
    ],
    ids=['targets', 'tensor', '_labels', 'target_transform', 'nothing', 'table'],
)
def test_data_sets_are_not_decoded_for_their_labels(make, kw, peeks):
    d = make()
    dls = ImageDataLoaders.from_dataset(d, valid_pct=0, **kw, **SMALL)
    assert len(d.opened) == peeks, d.opened
    assert labels_by_level(dls.train) == WANT and dls.vocab == ['a', 'b']
    assert 'picture 3 of' in repr(next(o for o in dls.train.items if o.x.i == 3))


def test_torchs_subset_and_three_sets():
    base = Torchvisionlike(targets=ys, classes=['a', 'b'])

    def part(r):
        return torch.utils.data.Subset(base, list(r))

    dls = ImageDataLoaders.from_dataset(part(range(12)), part(range(12, 16)), part(range(16, 20)), **SMALL)
    assert len(base.opened) <= 3 and [labels_by_level(dl) for dl in dls] == [
        {k: v for k, v in WANT.items() if a * 10 <= k < b * 10} for a, b in ((0, 12), (12, 16), (16, 20))
    ]


def test_torchvisions_image_folder_is_read_upright(tmp_path):
    tv = pytest.importorskip('torchvision')
    for c in 'ab':
        (tmp_path / c).mkdir()
        for i in range(4):
            (tmp_path / c / f'{i}.jpg').write_bytes(enc(picture(), 'JPEG', exif=exif(6)))
    ds = tv.datasets.ImageFolder(tmp_path)
    dls = ImageDataLoaders.from_dataset(ds, valid_pct=0, **SMALL)
    assert dls.vocab == ['a', 'b'] and dls.train_ds.sources()[0].endswith('.jpg')
    assert ImageDataLoaders.from_dataset(ds, valid_pct=0, num_workers=0).train_ds.x(0).shape == (3, 64, 48)  # turned
    changed = tv.datasets.ImageFolder(
        tmp_path, transform=tv.transforms.Compose([tv.transforms.Resize((16, 16)), tv.transforms.ToTensor()])
    )
    assert ImageDataLoaders.from_dataset(changed, valid_pct=0, num_workers=0).train_ds.x(0).shape == (
        3,
        16,
        16,
    )  # the user's own way is respected


def test_a_dict_data_set_without_known_names_says_what_it_has():
    class Odd(Torchvisionlike):
        def __getitem__(self, i):
            return {'photo': Image.fromarray(xs[i]), 'kind': i % 2}

    with pytest.raises(ValueError, match=r"no 'image' or .* but \['photo', 'kind'\]; give x_key="):
        ImageDataLoaders.from_dataset(Odd())
    assert (
        labels_by_level(
            ImageDataLoaders.from_dataset(
                Odd(), x_key='photo', y_key='kind', vocab=['a', 'b'], valid_pct=0, **SMALL
            ).train
        )
        == WANT
    )


def test_pictures_that_cannot_be_opened_are_left_out_of_any_source(tmp_path):
    good, bad = grey(50), b'<html>'
    dls = ImageDataLoaders.from_arrays([good] * 30 + [bad], [i % 2 for i in range(31)], valid_pct=0, **SMALL)
    with pytest.warns(UserWarning, match='skipping training item'):
        assert sum(len(x) for x, _ in dls.train.new(drop_last=False)) == 30
    assert [b.kind for b in dls.bad_files] == ['not a picture']
    strict = ImageDataLoaders.from_arrays(
        [good] * 30 + [bad], [i % 2 for i in range(31)], valid_pct=0, bad_images='raise', **SMALL
    )
    with pytest.raises(ValueError, match='web page'):
        list(strict.train.new(drop_last=False))


def folder_of_files(path: Path, n: int = 12) -> Path:
    for i in range(n):
        (path / f'{i}.jpg').write_bytes(grey(50))
    return path


def test_a_table_without_names_of_columns_loses_no_row(tmp_path):
    folder_of_files(tmp_path)
    (tmp_path / 'labels.csv').write_text(''.join(f'{i}.jpg,{"ab"[i % 2]}\n' for i in range(12)))
    dls = ImageDataLoaders.from_csv(tmp_path, **SMALL)
    assert len(dls.train_ds) + len(dls.valid_ds) == 12


@pytest.mark.parametrize(
    'change, match',
    [
        (lambda df: df[['label', 'name']], 'a is not in .*column 0'),
        (lambda df: df.assign(name=df.name.str[:-4]), r"there is 0.jpg: give suff='.jpg'"),
        (lambda df: df.assign(name='..\\' + df.name), 'backslashes'),
    ],
)
def test_a_table_whose_files_are_not_there_is_refused_at_once(tmp_path, change, match):
    df = pd.DataFrame({'name': [f'{i}.jpg' for i in range(12)], 'label': ['a', 'b'] * 6})
    folder_of_files(tmp_path)
    (tmp_path / 'sub').mkdir()
    path = tmp_path / 'sub' if 'backslashes' in match else tmp_path
    with pytest.raises(FileNotFoundError, match=match):
        ImageDataLoaders.from_df(change(df), path, **SMALL)


def test_names_of_a_list_may_be_relative_to_the_path(tmp_path):
    folder_of_files(tmp_path)
    names, labels = sorted(os.listdir(tmp_path)), ['a', 'b'] * 6
    dls = ImageDataLoaders.from_lists(tmp_path, names, labels, **SMALL)
    by_name = ImageDataLoaders.from_name_func(tmp_path, names, lambda name: int(name[0]) % 2, **SMALL)
    assert len(dls.one_batch()[0]) and len(by_name.one_batch()[0])


def test_labels_in_doubt_are_warned_of(tmp_path):
    for name in ('pets/cat', 'pets/dog', 'wild/fox'):
        (tmp_path / name).mkdir(parents=True)
        folder_of_files(tmp_path / name, 4)
    with pytest.warns(UserWarning, match=r"\['pets', 'wild'\], which hold no pictures .*\['cat', 'dog', 'fox'\]"):
        ImageDataLoaders.from_folder(tmp_path, valid_pct=0.3, **SMALL)
    ages = [20 + i for i in range(12)]
    with pytest.warns(UserWarning, match='RegressionBlock'), pytest.raises(ValueError, match='not in the vocab'):
        ImageDataLoaders.from_lists(tmp_path, sorted(tmp_path.rglob('*.jpg')), ages, **SMALL)


def test_an_error_names_the_file_of_an_item_and_not_the_pair_of_file_and_label(tmp_path):
    files = [tmp_path / f'{i}.png' for i in range(4)]
    for file in files:
        file.write_bytes(grey(50))
    files[2].write_bytes(b'<html>')
    labels = ['a', 'b'] * 2
    dls = ImageDataLoaders.from_lists(tmp_path, files, labels, valid_pct=0, bad_images='raise', **SMALL)
    with pytest.raises(ValueError, match='web page') as e:
        list(dls.train)
    assert e.value.__notes__[0].endswith(f': {files[2]}')


def test_worker_processes_read_any_source():
    d = Torchvisionlike(targets=ys, classes=['a', 'b'])
    DataBlock((ImageBlock, CategoryBlock), get_x=None, get_y=parent_label)
    dls = ImageDataLoaders.from_dataset(d, valid_pct=0, **SMALL)
    dls.train.workers, dls.train.num_workers = 'process', 2
    dl = dls.train
    got = {v: dl.target.decode(y) for xb, yb in dl for v, y in zip(level(xb), yb)}
    assert got.items() <= WANT.items() and len(got) == 20


def test_sampler_and_cache_for_the_usual_layouts(files):
    for f in get_image_files(files / 'train' / 'b')[2:]:
        f.unlink()
    dls = ImageDataLoaders.from_folder(files, sampler='balanced', cache='ram', **SMALL)
    drawn = dls.train_ds.y[torch.tensor([i for e in range(40) for i in dls.train.order(e)])].float().mean()
    assert 0.4 < drawn < 0.6 and dls.train_ds.cache is not None and dls.valid_ds.cache is None


def test_kfold_with_a_block(files):
    seen = []
    for k in range(3):
        db = DataBlock(
            (ImageBlock, CategoryBlock),
            get_items=get_image_files,
            get_y=parent_label,
            splitter=KFoldSplitter(3, k),
            item_tfms=Resize(8),
        )
        seen += db.datasets(files / 'train').valid.items
    assert sorted(seen) == sorted(get_image_files(files / 'train'))


def test_valid_tfms(files):
    db = DataBlock(
        (ImageBlock, CategoryBlock),
        get_items=get_image_files,
        get_y=parent_label,
        splitter=RandomSplitter(seed=0),
        item_tfms=Resize(8),
        valid_tfms=Resize(16),
    )
    dls = db.dataloaders(files / 'train', bs=2, num_workers=0)
    assert (
        dls.train.one_batch()[0].shape[-1] == 8
        and dls.valid.one_batch()[0].shape[-1] == dls.test_dl(get_image_files(files)).one_batch()[0].shape[-1] == 16
    )


def test_limits_of_numbers_reach_the_network():
    from vislearn.learner import vision_learner

    dls = ImageDataLoaders.from_arrays(
        xs, [float(i) for i in range(20)], y_block=RegressionBlock(y_range=(2, 3)), **{**SMALL, 'item_tfms': Resize(32)}
    )
    learn = vision_learner(dls, 'resnet18', pretrained=False)
    preds, _ = learn.get_preds()
    assert 2 <= preds.min() and preds.max() <= 3 and learn.model.config()['y_range'] == (2.0, 3.0)


@pytest.mark.parametrize(
    'target,y',
    [
        (CategoryBlock().target().setup(['a', 'b', 'c']), torch.tensor([0, 1, 2, 0])),
        (MultiCategoryBlock().target().setup([['a'], ['b']]), torch.tensor([[0.0, 1], [1, 0], [1, 1], [0, 1]])),
        (RegressionBlock(2).target(), torch.rand(4, 2)),
    ],
    ids=lambda o: type(o).__name__,
)
def test_what_a_task_is_judged_by(target, y):
    "The names exist, and the functions take what the network gives."
    from vislearn.train import metrics

    values = [getattr(metrics, m)(torch.randn(4, target.c), y) for m in target.metrics]
    assert values and all(torch.isfinite(v) for v in values)


def test_a_data_set_of_hugging_faces(tmp_path):
    hf = pytest.importorskip(
        'datasets', reason='Hugging Face data sets are an extra that users bring: pip install datasets'
    )
    for i, x in enumerate(xs[:12]):
        Image.fromarray(x).save(tmp_path / f'{i}.png')
    ds = hf.Dataset.from_dict(
        {'image': [str(tmp_path / f'{i}.png') for i in range(12)], 'label': [i % 2 for i in range(12)]},
        features=hf.Features({'image': hf.Image(), 'label': hf.ClassLabel(names=['ants', 'bees'])}),
    )
    dls = ImageDataLoaders.from_dataset(ds, valid_pct=0.25, **SMALL)
    assert dls.vocab == ['ants', 'bees'] and (dls.train.n, dls.valid.n) == (9, 3) and all(len(y) for _, y in dls.train)


def test_timms_loss_for_several_labels(tmp_path):
    from timm.loss import AsymmetricLossMultiLabel

    from vislearn.data.block import MultiCategoryBlock
    from vislearn.data.sources import ImageDataLoaders
    from vislearn.learner import vision_learner

    fns = [tmp_path / f'{i}.png' for i in range(12)]
    for f, x in zip(fns, xs):
        Image.fromarray(x).save(f)
    dls = ImageDataLoaders.from_lists(
        tmp_path,
        fns,
        [['a'] if i % 2 else ['a', 'b'] for i in range(12)],
        y_block=MultiCategoryBlock,
        valid_pct=0.25,
        **SMALL,
    )
    learn = vision_learner(dls, 'resnet18', pretrained=False, loss_func=AsymmetricLossMultiLabel())
    learn.fit(1)
    assert learn.get_preds()[0].shape == (3, 2) and learn.history[0]['valid_loss'] > 0


def picture_bytes(i):
    f = io.BytesIO()
    Image.new('RGB', (8, 8), (i * 20, 0, 0)).save(f, 'png')
    return f.getvalue()


@pytest.fixture
def table():
    "Twelve pictures as bytes in an Arrow table, of two classes."
    hf = pytest.importorskip('datasets', reason='Hugging Face data sets are an extra: pip install vislearn[shards]')
    features = hf.Features(
        {'image': hf.Image(), 'label': hf.ClassLabel(names=['ants', 'bees']), 'kind': hf.Value('string')}
    )
    columns = {
        'image': [{'bytes': picture_bytes(i), 'path': None} for i in range(12)],
        'label': [i % 2 for i in range(12)],
        'kind': ['odd' if i % 2 else 'even' for i in range(12)],
    }
    return hf.Dataset.from_dict(columns, features=features)


def test_pictures_of_an_arrow_table_are_opened_by_us(table, monkeypatch):
    hf = pytest.importorskip('datasets', reason='Hugging Face data sets are an extra: pip install vislearn[shards]')
    monkeypatch.setattr(hf.Image, 'decode_example', lambda *args, **kwargs: pytest.fail('decoded by datasets'))
    dls = ImageDataLoaders.from_dataset(table, valid_pct=0.25, **SMALL)
    assert dls.vocab == ['ants', 'bees'] and (dls.train.n, dls.valid.n) == (9, 3)
    seen = []
    for ds in (dls.train_ds, dls.valid_ds):
        for i, (x, y) in enumerate(ds):
            number = int(x[0].max()) // 20
            assert number % 2 == int(y) and ds.items[i].y == ['ants', 'bees'][number % 2]
            seen.append(number)
    assert sorted(seen) == list(range(12))


def test_labels_of_an_arrow_table_by_text_and_by_numbers_without_names(table):
    dls = ImageDataLoaders.from_dataset(table, y_key='kind', **SMALL)
    assert dls.vocab == ['even', 'odd']
    hf = pytest.importorskip('datasets', reason='Hugging Face data sets are an extra: pip install vislearn[shards]')
    numbers = table.cast_column('label', hf.Value('int64'))
    assert ImageDataLoaders.from_dataset(numbers, **SMALL).vocab == [0, 1]
    assert ImageDataLoaders.from_dataset(numbers, vocab=['a', 'b'], **SMALL).vocab == ['a', 'b']


def test_parts_and_selections_of_an_arrow_table(table):
    train, valid, test = table.select([5, 3, 0, 1]), table.select(range(6, 9)), table.select([11])
    dls = ImageDataLoaders.from_dataset(train, valid, test, **SMALL | {'bs': 2})
    numbers = [[int(ds[i][0][0].max()) // 20 for i in range(len(ds))] for ds in (dl.dataset for dl in dls)]
    assert numbers == [[5, 3, 0, 1], [6, 7, 8], [11]]
    assert [dl.dataset.y.tolist() for dl in dls] == [[1, 1, 0, 1], [0, 1, 0], [1]]
    held_out = ImageDataLoaders.from_dataset(table.select(range(10)), test=table.select([10, 11]), **SMALL)
    assert [dl.n for dl in held_out] == [8, 2, 2] and held_out[2].dataset.y.tolist() == [0, 1]


def test_an_arrow_table_with_a_missing_label_says_which(table):
    hf = pytest.importorskip('datasets', reason='Hugging Face data sets are an extra: pip install vislearn[shards]')
    unlabelled = table.cast_column('label', hf.Value('int64')).map(lambda row: {'label': -1})
    with pytest.raises(ValueError, match='label number -1 has no name'):
        ImageDataLoaders.from_dataset(unlabelled, vocab=['ants', 'bees'], **SMALL)


def test_a_table_with_transforms_of_its_own_keeps_them(table):
    own = table.with_transform(lambda rows: rows | {'image': [Image.new('RGB', (8, 8), 'white')] * len(rows['image'])})
    dls = ImageDataLoaders.from_dataset(own, **SMALL)
    assert all(int(x.min()) == 255 for x, _ in dls.train_ds)


def test_a_learner_and_its_parts_work_with_lazy_items(table, tmp_path):
    from vislearn.learner import load_learner, vision_learner

    dls = ImageDataLoaders.from_dataset(table, path=tmp_path, valid_pct=0.25, sampler='balanced', **SMALL)
    learn = vision_learner(dls, 'test_efficientnet', pretrained=False)
    learn.fit(1)
    assert learn.get_preds()[0].shape == (3, 2) and learn.get_preds(ds_idx=0)[0].shape == (9, 2)
    dls.show_batch(max_n=4)
    answer = load_learner(learn.export()).predict(picture_bytes(3))
    assert answer[0] in ('ants', 'bees')
    assert [len(o) for o in (dls.train.items[:2], dls.train.items[[0, 3, 4]])] == [2, 3]


def test_an_export_of_table_data_takes_files_and_rows(tmp_path):
    "`learn.predict` of a loaded export opens a file as it is, and reads a row of a table by the column that it knows."
    files = sorted(get_image_files(sample_data(n_per_class=4, size=32, clean=True)))
    df = pd.DataFrame({'file': [str(f) for f in files], 'label': [f.parent.name for f in files]})
    dls = ImageDataLoaders.from_df(df, '.', fn_col='file', label_col='label', item_tfms=Resize(32), bs=4, seed=0)
    learn = vision_learner(dls, 'resnet18', pretrained=False)
    again = load_learner(learn.export(tmp_path / 'export.pkl'))
    by_file, by_row = again.predict(files[0])[2], again.predict(df.iloc[0])[2]
    assert torch.equal(by_file, by_row) and torch.allclose(by_file, learn.predict(files[0])[2], atol=1e-3)
    assert len(again.predict_batch([*files[:2], files[2].read_bytes()])) == 3


def colours(n: int) -> tuple[np.ndarray, list[str]]:
    return np.zeros((n, 8, 8, 3), np.uint8), ['red', 'blue'] * (n // 2)


def test_a_small_training_set_gets_small_batches_and_says_so(capsys, monkeypatch):
    monkeypatch.setattr('vislearn.data.loaders._told', set())
    xs, ys = colours(260)
    dls = ImageDataLoaders.from_arrays(xs[:200], ys[:200], (xs[200:], ys[200:]), seed=0, num_workers=0)
    assert capsys.readouterr().out == 'batches of 32: 200 training items are 6 steps an epoch; bs= decides otherwise\n'
    assert (dls.bs, dls.valid.bs, dls.test_dl(xs[:70]).bs, len(dls.train)) == (32, 64, 64, 6)
    assert 'bs' not in dls.made_by.args  # a configuration with more pictures chooses again
    again = ImageDataLoaders.from_arrays(xs[:200], ys[:200], (xs[200:], ys[200:]), seed=0, num_workers=0)
    given = ImageDataLoaders.from_arrays(xs[:200], ys[:200], (xs[200:], ys[200:]), bs=64, seed=0, num_workers=0)
    assert again.bs == 32  # which was said before
    assert (given.bs, given.valid.bs) == (64, 64)
    assert ImageDataLoaders.from_arrays(*colours(700), bs=12, num_workers=0).valid.bs == 12
    assert ImageDataLoaders.from_arrays(*colours(700), val_bs=100, num_workers=0).valid.bs == 100
    assert ImageDataLoaders.from_arrays(*colours(700), num_workers=0).bs == 64
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize(
    'n, bs', [(2, 2), (15, 15), (16, 8), (95, 8), (96, 16), (191, 16), (192, 32), (383, 32), (384, 64)]
)
def test_every_way_to_loaders_chooses_the_same_batch_size(n, bs, monkeypatch, capsys):
    monkeypatch.setenv('VISLEARN_PROGRESS', 'off')
    xs, ys = colours(n + n % 2)
    items = list(range(n + 1))
    common = dict(splitter=lambda _: (items[:n], items[n:]), get_y=lambda i: ys[i % 2])
    block = DataBlock((ImageBlock, CategoryBlock), get_x=lambda i: xs[0], **common)
    made = block.dataloaders(items, num_workers=0)
    by_weight = block.weighted_dataloaders(items, [1.0] * n, num_workers=0)
    of_sets = DataLoaders.from_dsets(made.train_ds, made.valid_ds, num_workers=0)
    tuples = TfmdLists(items, lambda i: (torch.zeros(3, 8, 8), i % 2), splits=(items[:n], items[n:])).dataloaders()
    assert [o.bs for o in (made, by_weight, of_sets, tuples)] == [bs] * 4
    assert len(next(iter(made.train))[0]) == bs
    assert capsys.readouterr().out == ''


def test_only_the_first_of_several_processes_says_the_batch_size(monkeypatch, capsys):
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('RANK', '1')
    assert ImageDataLoaders.from_arrays(*colours(120), num_workers=0, seed=0).bs == 16
    assert capsys.readouterr().out == ''
