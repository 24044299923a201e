"Labels as users have them: in sub-folders, as codes, with gaps, badly spelt, of odd types, in tables that Excel wrote."

import datetime
import enum
import io
import json
import subprocess
import sys
import unicodedata
import warnings
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from vislearn.data.answers import Answer
from vislearn.data.block import CategoryBlock, DataBlock, ImageBlock, MultiCategoryBlock, RegressionBlock
from vislearn.data.files import get_files, get_image_files
from vislearn.data.labels import ColReader, parent_label
from vislearn.data.resize import Resize
from vislearn.data.sources import ImageDataLoaders
from vislearn.data.split import GrandparentSplitter, IndexSplitter
from vislearn.data.tables import read_names, read_table
from vislearn.data.targets import Category, MultiCategory, Points, Regression, target_of

SMALL = dict(item_tfms=Resize(8), bs=4, num_workers=0, seed=0)


def png(level: int) -> bytes:
    f = io.BytesIO()
    Image.new('RGB', (8, 8), (level, level, level)).save(f, 'PNG')
    return f.getvalue()


def pictures(folder: Path, *names: str) -> list[Path]:
    "Small files of these names, each with a picture of its own."
    for i, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(i))
    return [folder / name for name in names]


def labels_of(dl) -> list:
    return [dl.dataset.target.decode(y) for y in dl.dataset.y]


@pytest.fixture
def eight(tmp_path) -> list[Path]:
    return pictures(tmp_path, *(f'{i}.png' for i in range(8)))


def from_lists(files, labels, **kw):
    return ImageDataLoaders.from_lists('.', files, labels, **{**SMALL, **kw})


# sub-folders of class folders


@pytest.fixture
def cameras(tmp_path) -> Path:
    names = [
        f'{part}/{label}/{camera}{i}.png'
        for part, n in (('train', 3), ('valid', 2))
        for label in ('red', 'blue')
        for camera in ('', 'camera1/', 'camera2/day1/')
        for i in range(n)
    ]
    pictures(tmp_path, *names)
    return tmp_path


def test_sub_folders_of_class_folders_belong_to_the_class(cameras):
    dls = ImageDataLoaders.from_folder(cameras, **SMALL)
    assert dls.vocab == ['blue', 'red']
    assert [len(dl.dataset) for dl in dls] == [18, 12]
    assert all(label in f.parts for f, label in zip(dls.valid.dataset.items, labels_of(dls.valid)))
    assert {f.parts[-2] for f in dls.train.dataset.items} == {'red', 'blue', 'camera1', 'day1'}


@pytest.mark.parametrize('below', ['', 'train'], ids=['splits and all', 'one split'])
def test_a_random_share_of_nested_folders_has_the_same_classes(cameras, below):
    dls = ImageDataLoaders.from_folder(cameras / below, valid_pct=0.25, **SMALL)
    assert dls.vocab == ['blue', 'red']
    assert sum(len(dl.dataset) for dl in dls) == (18 if below else 30)


@pytest.mark.parametrize('parts', [('train', 'test'), ('Training', 'val', 'dev')], ids=str)
def test_usual_names_of_splits_are_no_labels(tmp_path, parts):
    "A random share of data that came in other folders than train and valid; folders with pictures in them are labels."
    pictures(tmp_path, *(f'{part}/{label}/{i}.png' for part in parts for label in ('cat', 'dog') for i in range(2)))
    dls = ImageDataLoaders.from_folder(tmp_path, valid_pct=0.25, **SMALL)
    assert dls.vocab == ['cat', 'dog'] and sum(len(dl.dataset) for dl in dls) == 4 * len(parts)
    pictures(tmp_path / 'flat', *(f'{part}/{i}.png' for part in parts for i in range(4)))
    assert ImageDataLoaders.from_folder(tmp_path / 'flat', valid_pct=0.25, **SMALL).vocab == sorted(parts)


def test_class_folders_below_a_common_folder(tmp_path):
    pictures(tmp_path, *(f'images/{label}/{i}.png' for label in ('cat', 'dog') for i in range(4)))
    assert ImageDataLoaders.from_folder(tmp_path, valid_pct=0.25, **SMALL).vocab == ['cat', 'dog']


def test_from_folders_labels_by_the_first_level(cameras):
    dls = ImageDataLoaders.from_folders(cameras / 'train', cameras / 'valid', **SMALL)
    assert dls.vocab == ['blue', 'red'] and [len(dl.dataset) for dl in dls] == [18, 12]


def test_pictures_in_no_class_folder_are_left_out_and_named(cameras):
    pictures(cameras, 'train/overview.png')
    with pytest.warns(UserWarning, match='1 of 31 pictures are left out.*overview.png'):
        dls = ImageDataLoaders.from_folder(cameras, **SMALL)
    assert dls.vocab == ['blue', 'red']


def test_new_files_with_labels_may_lie_elsewhere(cameras, tmp_path_factory):
    dls = ImageDataLoaders.from_folder(cameras, **SMALL)
    new = pictures(tmp_path_factory.mktemp('new'), 'blue/1.png', 'red/2.png')
    assert dls.test_dl(new, with_labels=True).dataset.y.tolist() == [0, 1]


# numbers that are codes, or numbers


def test_codes_with_a_gap_stay_classes_and_the_gap_is_named(eight):
    codes = pd.DataFrame({'f': [f.name for f in eight], 'y': [0, 1, 2, None, 0, 1, 2, 0]})
    assert codes.y.dtype == float
    with pytest.raises(ValueError, match='no label') as e:
        ImageDataLoaders.from_df(codes, eight[0].parent, valid_pct=0.3, **SMALL)
    assert '3.png' in str(e.value) + ''.join(e.value.__notes__)
    whole = codes.dropna()
    with pytest.warns(UserWarning, match='taken as classes; y_block=RegressionBlock'):
        dls = ImageDataLoaders.from_df(whole, eight[0].parent, valid_pct=0.3, **SMALL)
    assert dls.vocab == [0, 1, 2] and {type(o) for o in dls.vocab} == {int}


@pytest.mark.parametrize('labels', [[0, 0.5, 1.25] * 2 + [1, 2], [1.5, 2, 3] * 2 + [1, 2]], ids=str)
def test_the_first_label_alone_does_not_decide(eight, labels):
    with pytest.warns(UserWarning, match='taken as numbers to predict; y_block=CategoryBlock'):
        dls = from_lists(eight, labels)
    assert type(dls.target) is Regression


def test_a_missing_number_is_named(eight):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with pytest.raises(ValueError, match='missing') as e:
            from_lists(eight, [0.5, 1.5, float('nan'), 2.5, 1.25, 3.5, 4.5, 5.5], valid_pct=0)
    assert '2.png' in str(e.value) + ''.join(getattr(e.value, '__notes__', []))


@pytest.mark.parametrize('mark', ['nan', 'NaN', 'NA', '#N/A', 'null'])
def test_a_number_that_a_table_marks_as_missing_is_named(eight, mark):
    table = eight[0].parent / 'labels.csv'
    table.write_text('f,y\n' + ''.join(f'{f.name},{mark if i == 5 else i + 0.5}\n' for i, f in enumerate(eight)))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with pytest.raises(ValueError, match='missing|no label') as e:
            ImageDataLoaders.from_csv(table.parent, valid_pct=0, **SMALL)
    assert '5.png' in str(e.value) + ''.join(getattr(e.value, '__notes__', []))
    table.write_text('f,y\n' + ''.join(f'{f.name},{(mark, "naan")[i % 2]}\n' for i, f in enumerate(eight)))
    assert ImageDataLoaders.from_csv(table.parent, **SMALL).vocab == sorted([mark, 'naan'])  # text is text


def test_names_that_look_like_numbers(eight):
    table = eight[0].parent / 'labels.csv'
    table.write_text('f,y\n' + ''.join(f'{f.name},{("1.5", "1e5")[i % 2]}\n' for i, f in enumerate(eight)))
    with pytest.warns(UserWarning, match='y_block=CategoryBlock'):
        ImageDataLoaders.from_csv(table.parent, **SMALL)
    dls = ImageDataLoaders.from_csv(table.parent, y_block=CategoryBlock(), **SMALL)
    assert dls.vocab == ['1.5', '1e5']
    assert from_lists(eight, ['1.5', '1e5'] * 4).vocab == ['1.5', '1e5']  # text is text


# missing labels


MISSING = [None, float('nan'), np.float32('nan'), pd.NA, pd.NaT, Decimal('nan'), ' ', np.ma.masked]


@pytest.mark.parametrize('missing', MISSING, ids=lambda o: f'{type(o).__name__} {o}')
@pytest.mark.parametrize('at', [0, 5])
def test_a_missing_label_names_its_item(eight, missing, at):
    labels = ['a', 'b'] * 4
    labels[at] = missing
    for valid in ([6, 7], [at, 7]):
        block = DataBlock(
            (ImageBlock, CategoryBlock),
            get_y=lambda f: labels[int(f.stem)],
            splitter=IndexSplitter(valid),
            item_tfms=Resize(8),
        )
        with pytest.raises(ValueError, match='no label') as e:
            block.dataloaders(eight, bs=2)
        assert f'{at}.png' in str(e.value) + ''.join(getattr(e.value, '__notes__', []))


@pytest.mark.parametrize('missing', [None, float('nan'), pd.NA, ['a', float('nan')], ['a', None], ['']], ids=str)
def test_a_missing_label_among_lists_is_no_class(eight, missing):
    labels = [['a'], ['b'], missing, ['a', 'b'], [], ['a'], ['b'], ['a']]
    with pytest.raises(ValueError, match='no label|hold') as e:
        from_lists(eight, labels, valid_pct=0)
    assert '2.png' in str(e.value) + ''.join(getattr(e.value, '__notes__', []))


@pytest.mark.parametrize('cell', ['cat;dog', 'cat;dog;', ';cat;dog', 'cat;;dog', ' cat ; dog ', 'cat; dog; ;'])
def test_delimited_labels_have_no_blank_ones(cell):
    assert ColReader('y', label_delim=';')({'y': cell}) == ['cat', 'dog']


def test_an_empty_delimiter_is_named():
    with pytest.raises(ValueError, match="label_delim is what stands between two labels.*got ''"):
        ColReader('y', label_delim='')({'y': 'ab'})


def test_blank_cells_of_delimited_labels_are_no_label(eight):
    cells = ['cat dog', 'cat  dog', ' cat', 'dog ', '', ' ', 'cat', 'dog']
    df = pd.DataFrame({'f': [f.name for f in eight], 'y': cells})
    dls = ImageDataLoaders.from_df(df, eight[0].parent, label_delim=' ', valid_pct=0, **SMALL)
    assert dls.vocab == ['cat', 'dog']
    assert dls.train.dataset.y.sum(0).tolist() == [4, 4]


# the same label twice


def test_what_unicode_calls_equal_is_one_label(eight):
    spelt = [unicodedata.normalize(form, 'café') for form in ('NFC', 'NFD')]
    dls = from_lists(eight, [*spelt, 'tea', 'tea'] * 2)
    assert dls.vocab == ['café', 'tea'] and [dls.vocab.index_of(o) for o in spelt] == [0, 0]
    assert Category(vocab=[spelt[1], 'tea']).encode(spelt[0]) == 0


@pytest.mark.parametrize(
    'pair', [('cat', 'cat '), (1, '1'), ('cat', 'Cat'), ('two words', 'two  words'), ('cat', 'cat\u200b')], ids=str
)
def test_labels_that_look_the_same_are_reported(eight, pair):
    report = from_lists(eight, [*pair, 'dog', 'dog'] * 2).check()
    assert 'labels that may be the same' in str(report) and repr(pair[1]).replace('\\', '') in str(report).replace(
        '\\', ''
    )


# types


class Colour(enum.Enum):
    RED, BLUE = 1, 2


class Shade(enum.StrEnum):
    DARK = 'dark'


PLAIN = [
    (Path('a/b'), 'a/b'), (Colour.RED, 'RED'), (Shade.DARK, 'dark'), (datetime.date(2024, 5, 1), '2024-05-01'),
    (pd.Timestamp('2024-05-01 12:00'), '2024-05-01T12:00:00'), (np.datetime64('2024-05-01'), '2024-05-01'),
    (Decimal('1.5'), 1.5), (Decimal('2'), 2), (Fraction(1, 2), 0.5), (b'cat', 'cat'), (pd.Interval(0, 5), '(0, 5]'),
    (np.int64(3), 3), (np.str_('cat'), 'cat'), (np.bool_(True), True), (np.float32(0.5), 0.5), (torch.tensor(3), 3),
    (np.array([3]), 3), (['cat'], 'cat'), (np.array('cat'), 'cat'), (('cat',), 'cat'), (torch.tensor([[2]]), 2),
]  # fmt: skip


@pytest.mark.parametrize('label,plain', PLAIN, ids=lambda o: f'{type(o).__name__} {o}')
def test_labels_become_plain(label, plain):
    target = Category().setup([label, 'other', label])
    assert plain in target.vocab and target.encode(label) == target.vocab.index(plain)
    (kept,) = [o for o in target.vocab if o != 'other']
    assert type(kept) is type(plain)
    torch.save(target.to_dict(), f := io.BytesIO())
    f.seek(0)
    assert torch.load(f, weights_only=True)['vocab'] == target.vocab


@pytest.mark.parametrize(
    'label', [{'a': 1}, object(), b'\xff', ['a', 'b'], 1j, len, ('a', 'b')], ids=lambda o: type(o).__name__
)
def test_labels_without_a_plain_form_are_refused_by_name(eight, label):
    get_y = {'4': label}
    block = DataBlock(
        (ImageBlock, CategoryBlock),
        get_y=lambda f: get_y.get(f.stem, 'a' if int(f.stem) % 2 else 'b'),
        splitter=IndexSplitter([0, 1]),
    )
    with pytest.raises(ValueError, match='the label') as e:
        block.datasets(eight)
    assert '4.png' in str(e.value) + ''.join(getattr(e.value, '__notes__', []))


def test_intervals_and_dates_keep_their_order():
    bins = pd.cut([1, 7, 12], [0, 5, 10, 15])
    assert Category().setup(list(bins)).vocab == ['(0, 5]', '(5, 10]', '(10, 15]']


# shapes and numbers


@pytest.mark.parametrize('ys', [np.arange(8)[:, None] % 2, torch.arange(8)[:, None] % 2, [[i % 2] for i in range(8)]])
def test_a_column_of_labels_is_squeezed(ys):
    dls = ImageDataLoaders.from_arrays(np.zeros((8, 8, 8, 3), np.uint8), ys, valid_pct=0, **SMALL)
    assert dls.vocab == [0, 1] and sorted(dls.train.dataset.y.tolist()) == [0] * 4 + [1] * 4


def test_a_vocab_may_be_an_array(eight):
    xs, ys = np.zeros((8, 8, 8, 3), np.uint8), np.arange(8) % 2
    dls = ImageDataLoaders.from_arrays(xs, ys, vocab=np.array(['no', 'yes']), **SMALL)
    assert dls.vocab == ['no', 'yes']
    assert CategoryBlock(vocab=np.array(['b', 'a'])).target().vocab == ['b', 'a']
    assert CategoryBlock(vocab=pd.Series(['b', 'a'])).target().vocab == ['b', 'a']


def test_numbers_written_as_text(eight):
    numbers = from_lists(eight, [f'{i}.5' for i in range(8)], y_block=RegressionBlock(), valid_pct=0)
    assert sorted(numbers.train.dataset.y.tolist()) == [i + 0.5 for i in range(8)]
    with pytest.raises(ValueError, match="expected a number, got 'tall'") as e:
        from_lists(eight, ['1', '2', '3', 'tall', '5', '6', '7', '8'], y_block=RegressionBlock(), valid_pct=0)
    assert '3.png' in str(e.value) + ''.join(getattr(e.value, '__notes__', []))


@pytest.mark.parametrize('wrap', [lambda o: [o], lambda o: np.array([[o]]), torch.tensor, Decimal, str])
def test_single_numbers_in_any_wrapping(wrap):
    target = Regression().setup([wrap(1.5), wrap(2.5)])
    assert target.c == 1 and target.encode_all([wrap(1.5), wrap(2.5)]).tolist() == [1.5, 2.5]


def test_labels_do_not_depend_on_torchs_defaults():
    targets = [
        Category(class_weights='balanced').setup(['a', 'b', 'b']),
        MultiCategory(pos_weight='balanced').setup([['a'], ['b'], ['b']]),
    ]
    labels = [['a', 'b'], [['a'], ['b']]]
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device('meta')
        ys = [t.encode_all(o) for t, o in zip(targets, labels)] + [Regression(1).encode_all([1.5, 2])]
        ys.append(Points(2).encode((3, 4)))
        weights = [next(iter(t.loss_func().buffers())) for t in targets]
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert {o.device.type for o in (*ys, *weights)} == {'cpu'}
    assert [o.dtype for o in ys] == [torch.int64, torch.float32, torch.float32, torch.float32]
    assert {o.dtype for o in weights} == {torch.float32}


# what a warning does instead of an error


def test_a_single_label_trains_with_a_warning(eight):
    with pytest.warns(UserWarning, match="the same label 'a'; there is nothing to tell apart"):
        dls = from_lists(eight, ['a'] * 8)
    assert dls.c == 1 and 'only one label' in str(dls.check())


def test_no_validation_folder_is_a_warning(tmp_path):
    files = pictures(tmp_path, *(f'train/{label}/{i}.png' for label in 'ab' for i in range(4)))
    block = DataBlock(
        (ImageBlock, CategoryBlock), get_y=parent_label, splitter=GrandparentSplitter(), item_tfms=Resize(8)
    )
    with pytest.warns(UserWarning, match='nothing is left to validate on'):
        dls = block.dataloaders(files, bs=4)
    assert len(dls.train.dataset) == 8 and len(dls.valid.dataset) == 0


def test_an_absent_folder_is_a_warning(tmp_path):
    pictures(tmp_path, 'train/a/1.png')
    with pytest.warns(UserWarning, match="no folder 'absent'.*it has .'train'."):
        assert get_files(tmp_path, folders=['absent']) == []
    with pytest.warns(UserWarning, match="no folder 'absent'"):
        assert len(get_image_files(tmp_path, folders=['train', 'absent'])) == 1


def test_several_functions_find_the_label(eight):
    block = DataBlock((ImageBlock, CategoryBlock), get_y=[lambda f: f.stem, int, lambda i: i % 2], item_tfms=Resize(8))
    assert block.datasets(eight).vocab == [0, 1]


# tables as Excel writes them


TABLE = 'name;kind\n{0};Käse\n{1};Brötchen\n{2};crème brûlée\n'


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'cp1252', 'mac_roman'])
@pytest.mark.parametrize('first', ['', 'sep=;\n'], ids=['plain', 'sep'])
@pytest.mark.parametrize('newline', ['\n', '\r\n', '\r'], ids=['unix', 'windows', 'mac'])
def test_spreadsheets(eight, encoding, first, newline):
    text = first + TABLE.format(*(f.name for f in eight))
    table = eight[0].parent / 'labels.csv'
    table.write_bytes(text.replace('\n', newline).encode(encoding))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        dls = ImageDataLoaders.from_csv(table.parent, valid_pct=0, **SMALL)
        assert dls.vocab == ['Brötchen', 'Käse', 'crème brûlée']
        dls.show_batch()


def test_an_encoding_that_was_guessed_is_named(tmp_path):
    (tmp_path / 't.csv').write_bytes('name,kind\na,café\n'.encode('cp1252'))
    with pytest.warns(UserWarning, match='read as cp1252.*café'):
        assert read_table(tmp_path / 't.csv') == [{'name': 'a', 'kind': 'café'}]
    assert read_table(tmp_path / 't.csv', encoding='cp1252') == [{'name': 'a', 'kind': 'café'}]


@pytest.mark.parametrize('encoding,word', [('cp1251', 'кошка'), ('shift_jis', '猫です'), ('cp1250', 'żółw')])
def test_an_encoding_that_can_not_be_told_is_asked_for(tmp_path, encoding, word):
    (tmp_path / 't.csv').write_bytes(f'name,kind\na,{word}\n'.encode(encoding))
    with pytest.raises(ValueError, match='encoding='):
        read_table(tmp_path / 't.csv')
    assert read_table(tmp_path / 't.csv', encoding=encoding)[0]['kind'] == word
    (tmp_path / 'names.txt').write_bytes(word.encode(encoding))
    with pytest.raises(ValueError, match='names.txt.*encoding='):
        read_names(tmp_path / 'names.txt')


def test_decimal_commas_and_workbooks(tmp_path):
    (tmp_path / 't.csv').write_text('name;x\na;1,5\nb;2\n')
    assert read_table(tmp_path / 't.csv') == [{'name': 'a', 'x': 1.5}, {'name': 'b', 'x': 2.0}]
    (tmp_path / 'list.csv').write_text('name,labels\na,cat;dog\nb,cat\n')
    assert read_table(tmp_path / 'list.csv')[0] == {'name': 'a', 'labels': 'cat;dog'}
    (tmp_path / 'book.csv').write_bytes(b'PK\x03\x04' + bytes(50))
    with pytest.raises(ValueError, match='Excel workbook.*save it as CSV'):
        read_table(tmp_path / 'book.csv')


@pytest.mark.parametrize('hint', ['SEP=;', '"sep=;"', 'Sep=;'])
def test_the_hint_of_a_delimiter_in_other_spellings(tmp_path, hint):
    (tmp_path / 't.csv').write_text(f'{hint}\nname;kind\na,1;x\nb,2;y\n')
    assert read_table(tmp_path / 't.csv') == [{'name': 'a,1', 'kind': 'x'}, {'name': 'b,2', 'kind': 'y'}]


@pytest.mark.parametrize('text', ['name,kind\n', '[{"name": "a", "kind": "x"}]'], ids=['header', 'json'])
def test_a_table_without_rows_says_so(tmp_path, text):
    (tmp_path / 't.csv').write_text(text)
    with pytest.raises(ValueError, match=r't.csv: it has no rows, only what was taken for the names of its columns'):
        read_table(tmp_path / 't.csv')


def test_what_spreadsheets_leave_at_the_edges(tmp_path):
    (tmp_path / 't.csv').write_text('name,kind,,\na,x,,\n,,,\nb,y,,\n')
    assert read_table(tmp_path / 't.csv') == [{'name': 'a', 'kind': 'x'}, {'name': 'b', 'kind': 'y'}]
    (tmp_path / 't.csv').write_text('name,kind,,\na,x,1,2\n')
    with pytest.raises(ValueError, match='two columns of one name'):
        read_table(tmp_path / 't.csv')


# answers


def test_answers_need_no_torch():
    code = (
        'import sys\n'
        'sys.modules["torch"] = sys.modules["fastcore"] = None\n'
        'from vislearn.data.answers import Answer\n'
        'answer = Answer.from_dict({"type": "Category", "vocab": ["cat", "dog"]})\n'
        'import json\n'
        'print(json.dumps(answer.record([0.25, 0.75])))\n'
    )
    seen = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert json.loads(seen) == {'label': 'dog', 'index': 1, 'prob': 0.75, 'probs': {'dog': 0.75, 'cat': 0.25}}


@pytest.mark.parametrize(
    'target',
    [
        Category(['a', 'b', 'c']),
        MultiCategory(['a', 'b', 'c'], thresh=[0.1, 0.3, 0.9]),
        Regression(3),
        Points(4),
    ],
    ids=lambda o: type(o).__name__,
)
def test_an_answer_without_torch_is_the_targets_decision(target):
    logits = torch.randn(50, target.c, generator=torch.Generator().manual_seed(0))
    probs = target.probs(logits)
    answer = Answer.from_dict(target.answer().to_dict())
    for row, y in zip(probs, target.decide(probs)):
        record = answer.record(row.numpy())
        assert record == target.record(row)
        first = next(iter(record.values()))
        decoded = target.decode(y)
        assert first == ([list(o) for o in decoded] if isinstance(target, Points) else decoded)


@pytest.mark.parametrize(
    'y', [torch.tensor([0, 1, 2, 2]), torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1]])]
)
def test_mistakes_are_counted_as_by_hand(y):
    target = target_of(y, 3)
    answers = y.roll(1, 0)
    truth, seen = target.one_hot(y).tolist(), target.one_hot(answers).tolist()
    pairs = [
        (i, j)
        for t, s in zip(truth, seen)
        for i in range(3)
        for j in range(3)
        if t[i] and not s[i] and s[j] and not t[j]
    ]
    assert target.mistakes(y, answers).tolist() == [[pairs.count((i, j)) for j in range(3)] for i in range(3)]
    assert target.wrong(answers, y).tolist() == [t != s for t, s in zip(truth, seen)]


def test_what_several_labels_need_is_refused_elsewhere():
    with pytest.raises(TypeError, match='needs none'):
        Category(['a', 'b']).set_thresh(0.3)
    with pytest.raises(ValueError, match='one label per picture'):
        MultiCategoryBlock(vocab=['a', 'b']).target().balanced_weights(torch.ones(2, 2))
    with pytest.raises(TypeError, match='no labels'):
        Regression(1).one_hot(torch.ones(3))


@pytest.mark.parametrize('wrap', [list, np.array, lambda ys: pd.DataFrame({'y': [o[0] for o in ys]})])
def test_lists_of_one_name_and_tables_of_one_column_are_classes(eight, wrap):
    ys = [['cat'], ['dog']] * 4
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        dls = ImageDataLoaders.from_lists('.', eight, wrap(ys), **SMALL)
    assert isinstance(dls.target, Category) and dls.vocab == ['cat', 'dog'] and len(dls.train_ds) == 7


def test_a_share_that_is_text_is_named(eight):
    with pytest.raises(TypeError, match="valid_pct is a number from 0 to 1, got '0.2'"):
        ImageDataLoaders.from_lists('.', eight, list('abababab'), valid_pct='0.2', **SMALL)


@pytest.mark.parametrize('pair', [('1', '1.0'), ('1', '01'), (7, '007')])
def test_numbers_written_in_two_ways_are_reported(pair):
    from vislearn.data.check import alike_labels

    assert alike_labels([*pair, '10', 'x1']) == [list(pair)]


def test_one_element_sets_and_columns_are_sorted_by_what_they_hold():
    from vislearn.data.targets import Category

    for kind in (lambda o: frozenset([o]), lambda o: pd.Series([o]), lambda o: (o,)):
        assert Category().setup([kind('b'), kind('a'), kind('c')]).vocab == ['a', 'b', 'c']
