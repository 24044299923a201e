"The cleaner's face, without a browser: what a click does is setting a widget's value."

import csv
import datetime
import subprocess
import sys
from decimal import Decimal
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('ipywidgets')
import ipywidgets as w
from pretend import pretend_learner

from vislearn.clean.cards import CHANGED, ImagesCleaner, thumb_jpeg
from vislearn.clean.cleaner import CsvLabels
from vislearn.clean.review import ALL, DECIDED, DELETE, KEEP
from vislearn.clean.widgets import ImageClassifierCleaner, predicted_pictures


def draw(path, n=15, classes=('ant', 'bee', 'cow')):
    rng = np.random.default_rng(0)
    for c in classes:
        (path / c).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(path / c / f'{c}_{i:02}.jpg')
    return sorted(path.rglob('*.jpg'))


@pytest.fixture
def files(tmp_path):
    return draw(tmp_path / 'data')


@pytest.fixture
def learn(files, tmp_path):
    return pretend_learner(tmp_path / 'data', files)


def click(c, i, value):
    c.iw.cards[i].choice.widget.value = value


def tree(path):
    return {
        f.relative_to(path).as_posix(): f.read_bytes()
        for f in path.rglob('*')
        if f.is_file() and '.vislearn_trash' not in f.parts
    }


# ---- fastai's face
def test_face(learn):
    c = ImageClassifierCleaner(learn, max_n=5)
    assert [o for o, _ in c.dd_cats.options] == ['ant', 'bee', 'cow', ALL, DECIDED] and c.dd_cats.value == 'ant'
    assert tuple(c.dd_ds.options) == ('Train', 'Valid') and c.dd_ds.value == 'Train'
    assert len(c.fns) == 5 and all(isinstance(f, Path) and f.parent.name == 'ant' for f in c.fns)
    assert list(c.values()) == [KEEP] * 5 and list(c.delete()) == [] and list(c.change()) == []
    click(c, 1, DELETE)
    click(c, 3, 'cow')
    assert (
        list(c.delete()) == [1]
        and list(c.change()) == [(3, 'cow')]
        and list(c.iw.delete()) == [1]
        and c.iw.fns == c.fns
    )
    assert isinstance(c.widget, w.VBox)


def test_the_most_wrong_come_first(learn):
    c = ImageClassifierCleaner(learn)
    by = {p.path: p for p in predicted_pictures(learn, 0)}
    losses = [p.loss for p in c.review.shown]
    assert losses == sorted(losses, reverse=True) and losses[0] > 1 and set(c.fns) <= set(by)
    c.dd_sort.value = 'confidence'
    conf = [p.conf for p in c.review.shown]
    assert conf == sorted(conf)


def test_choices_survive_views_and_a_second_widget(learn):
    c = ImageClassifierCleaner(learn, max_n=4)
    click(c, 0, DELETE)
    chosen = c.fns[0]
    c.dd_cats.value = 'bee'
    assert list(c.delete()) == []
    click(c, 2, 'cow')
    c.dd_ds.value = 'Valid'
    click(c, 0, DELETE)
    c.dd_sort.value = 'name'
    c.btn_next.click()
    c.dd_ds.value = 'Train'
    assert '2 to delete, 1 to change' in c.count.value
    c.dd_cats.value = 'ant'
    c.dd_sort.value = 'loss'
    assert c.fns[list(c.delete())[0]] == chosen
    other = ImageClassifierCleaner(learn)
    assert '2 to delete, 1 to change' in other.count.value and [other.fns[i] for i in other.delete()] == [chosen]
    other.dd_cats.value = DECIDED
    assert len(other.fns) == 2 and set(other.values()) == {DELETE, 'cow'}


def test_apply_undo_redo_by_button(learn, tmp_path):
    was, c = tree(tmp_path / 'data'), ImageClassifierCleaner(learn)
    assert c.btn_apply.disabled and c.btn_undo.disabled and c.btn_redo.disabled and c.btn_restore.disabled
    click(c, 0, DELETE)
    click(c, 1, 'bee')
    gone, moved = c.fns[0], c.fns[1]
    assert tree(tmp_path / 'data') == was and not c.btn_apply.disabled
    c.btn_apply.click()
    assert (
        c.confirm.layout.display == 'flex'
        and f'delete  ant/{gone.name}' in c.message.value
        and tree(tmp_path / 'data') == was
    )
    c.btn_no.click()
    assert c.confirm.layout.display == 'none' and c.message.value == ''
    c.btn_apply.click()
    c.btn_yes.click()
    assert (
        not gone.exists()
        and (moved.parent.parent / 'bee' / moved.name).exists()
        and gone not in c.fns
        and moved not in c.fns
    )
    assert 'Done: 2 pictures' in c.message.value and c.btn_apply.disabled and not c.btn_undo.disabled
    c.btn_undo.click()
    assert tree(tmp_path / 'data') == was and not c.btn_redo.disabled and '1 to delete, 1 to change' in c.count.value
    c.btn_redo.click()
    assert not gone.exists()
    c.btn_restore.click()
    assert tree(tmp_path / 'data') == was and '0 to delete, 0 to change' in c.count.value


def test_a_moved_picture_shows_up_in_its_new_class(learn):
    c = ImageClassifierCleaner(learn)
    f = c.fns[2]
    click(c, 2, 'bee')
    c.apply()
    c.dd_cats.value = 'bee'
    assert f.parent.parent / 'bee' / f.name in c.fns
    c.undo()
    assert f.parent.parent / 'bee' / f.name not in c.fns


def test_the_old_learner_after_apply(learn):
    c = ImageClassifierCleaner(learn)
    gone, moved = c.fns[0], c.fns[1]
    click(c, 0, DELETE)
    click(c, 1, 'bee')
    c.apply()
    again = ImageClassifierCleaner(learn, max_n=99)  # the cell is run again
    assert len(again.fns) == len(c.fns) and not {gone, moved} & set(again.fns)
    again.dd_cats.value = 'bee'
    assert moved.parent.parent / 'bee' / moved.name in again.fns


def test_the_books_loops(learn, tmp_path):
    import shutil

    c = ImageClassifierCleaner(learn, max_n=5)
    click(c, 0, DELETE)
    click(c, 1, 'bee')
    a, b = c.fns[0], c.fns[1]
    for idx in c.delete():
        c.fns[idx].unlink()
    for idx, cat in c.change():
        shutil.move(str(c.fns[idx]), tmp_path / 'data' / cat)
    assert not a.exists() and (tmp_path / 'data/bee' / b.name).exists()
    c.show()
    assert a not in c.fns and b not in c.fns and '0 to delete, 0 to change' in c.count.value
    assert len(c.apply()) == 0 and c.cleaner.state.decisions == {}


def test_own_label_is_keep(learn):
    c = ImageClassifierCleaner(learn)
    click(c, 0, 'ant')
    assert c.iw.cards[0].choice.widget.value == KEEP and c.cleaner.counts() == dict(delete=0, change=0)


def test_further_options(learn, tmp_path):
    c = ImageClassifierCleaner(learn, opts=['moth', 'bee'])
    assert c.labels == ['ant', 'bee', 'cow', 'moth']
    click(c, 0, 'moth')
    f = c.fns[0]
    c.apply()
    assert (tmp_path / 'data/moth' / f.name).exists()
    c.undo()
    assert not (tmp_path / 'data/moth').exists()
    assert ImageClassifierCleaner(learn).values()[0] == 'moth'  # chosen when there was such an option


def test_pages(learn):
    c = ImageClassifierCleaner(learn, max_n=5)
    assert c.where.value == '1–5 of 12' and c.btn_prev.disabled
    first = list(c.fns)
    c.btn_next.click()
    c.btn_next.click()
    assert c.where.value == '11–12 of 12' and c.btn_next.disabled and len(c.fns) == 2 and not set(first) & set(c.fns)
    c.btn_prev.click()
    c.btn_prev.click()
    assert list(c.fns) == first
    assert len(c.iw.cards) == 5  # cards are used again


def test_keys(learn):
    c = ImageClassifierCleaner(learn, max_n=4)
    text = ''
    for k in 'dn2p':
        c.keys.value = text = text + k
    assert list(c.values()) == [DELETE, KEEP, 'bee', KEEP] and c.at == 2
    assert 'vl-here' in c.iw.cards[2].box._dom_classes and 'bee' in c.focus.value and c.focus.layout.display == 'block'
    c.keys.value = text = text + 'k'
    assert list(c.values())[2] == KEEP
    c.keys.value = text = text + '9x?'  # no such class, no such keys
    c.keys.value = text = text[:-2]  # taken back: no command
    assert list(c.values()) == [DELETE, KEEP, KEEP, KEEP]
    c.keys.value = text + ']]d['
    assert c.review.page == 1 and c.cleaner.counts()['delete'] == 2


def test_keys_turn_pages(learn):
    c = ImageClassifierCleaner(learn, max_n=5)
    c.keys.value = 'nnnnd'
    assert (c.review.page, c.at) == (1, 0) and c.focus.layout.display == 'block'
    c.keys.value += 'p'
    assert (c.review.page, c.at) == (0, 4) and list(c.delete()) == [4]
    c.keys.value += 'n' * 20
    assert (c.review.page, c.at) == (2, 1)  # the last one


def test_keys_typed_in_the_middle_of_the_box(learn):
    c = ImageClassifierCleaner(learn)
    c.keys.value = 'nn'
    c.keys.value = 'ndn'
    assert list(c.delete()) == [2]
    c.keys.value = 'x'
    c.keys.value = ''  # selected and replaced: no command
    assert list(c.delete()) == [2]


def test_typing_fast_loses_nothing(learn):
    c = ImageClassifierCleaner(learn)
    c.keys.value = 'dddnk2'
    assert list(c.delete()) == [0, 1, 2] and list(c.change()) == [(5, 'bee')]


# ---- several labels, CSV, data of other shapes
@pytest.fixture
def tags(files, tmp_path):
    labels = [[f.parent.name] + ['wild'] * (i % 2) for i, f in enumerate(files)]
    return pretend_learner(tmp_path / 'data', files, labels, many=True)


def test_several_labels(tags, tmp_path):
    was, c = tree(tmp_path / 'data'), ImageClassifierCleaner(tags, max_n=4)
    c.dd_cats.value = 'wild'
    assert all('wild' in p.label for p in c.review.shown)
    one, two, three = (x.choice for x in c.iw.cards[:3])
    own = c.review.shown[0].label
    new = next(l for l in ['ant', 'bee', 'cow'] if l not in own)
    one.menu.value = ('add', new)
    assert one.menu.value == CHANGED and list(one.tags.value) == [*own, new]
    two.tags.value = ['wild']
    three.menu.value = DELETE
    assert list(c.change()) == [(0, [*own, new]), (1, ['wild'])] and list(c.delete()) == [2]
    one.menu.value = KEEP
    assert list(one.tags.value) == own and c.values()[0] == KEEP
    one.menu.value = ('add', new)
    one.tags.value = [new, *own]
    assert c.values()[0] == [new, *own]
    one.tags.value = own[::-1]
    assert c.values()[0] == KEEP  # the order is no change
    f, g = c.fns[1], c.fns[2]
    c.dd_cats.value = 'ant'
    c.dd_cats.value = 'wild'
    assert list(c.delete()) == [2] and list(c.change()) == [(1, ['wild'])]
    c.apply()
    text = (tmp_path / 'data/labels_cleaned.csv').read_text()
    assert (
        f'{f.parent.name}/{f.name},wild,False\n' in text
        and g.name not in text
        and g.exists()
        and text.count('\n') == 45
    )
    c.undo()
    assert tree(tmp_path / 'data') == was


def test_several_labels_by_keys(tags):
    c = ImageClassifierCleaner(tags, max_n=4)
    i = c.labels.index('wild') + 1
    own = c.review.shown[0].label
    c.keys.value = str(i)
    assert (set(c.values()[0]) ^ set(own)) == {'wild'}
    c.keys.value = str(i) * 2
    assert c.values()[0] == KEEP  # the same key again


def test_labels_from_names_go_to_a_csv(tmp_path):
    fs = draw(tmp_path / 'x')
    for f in fs:
        f.rename(tmp_path / f.name)
    (tmp_path / 'labels.csv').write_text('name,what\n' + ''.join(f'{f.stem},{f.name[:3]}\n' for f in fs))
    fs = sorted(tmp_path.glob('*.jpg'))
    learn = pretend_learner(tmp_path, fs, [f.name[:3] for f in fs])
    c = ImageClassifierCleaner(learn, csv=CsvLabels('labels.csv', 'name', 'what', suff='.jpg'))
    click(c, 0, 'cow')
    f = c.fns[0]
    c.btn_apply.click()
    assert 'no picture is touched' in c.message.value
    c.btn_yes.click()
    assert f'{f.stem},cow\n' in (tmp_path / 'labels.csv').read_text() and f.exists()
    c.dd_cats.value = 'cow'
    assert f in c.fns
    plain = ImageClassifierCleaner(learn)  # no CSV given: a new one
    click(plain, 0, 'cow')
    plain.apply()
    assert (tmp_path / 'labels_cleaned.csv').read_text().startswith('fname,label,is_valid\n')


def test_rows_as_items(files, tmp_path):
    rows = [dict(file=f) for f in files]
    c = ImageClassifierCleaner(
        pretend_learner(tmp_path / 'data', rows, [f.parent.name for f in files], get_x=lambda r: r['file'])
    )
    assert c.fns[0] in files


def test_true_and_false(tmp_path):
    fs = draw(tmp_path, classes=('False', 'True'))
    c = ImageClassifierCleaner(pretend_learner(tmp_path, fs, [f.parent.name == 'True' for f in fs]))
    assert c.dd_cats.value is False
    click(c, 0, True)
    f = c.fns[0]
    c.apply()
    assert (tmp_path / 'True' / f.name).exists()


class Animal(Enum):
    CAT = 'cat'
    DOG = 'dog'


@pytest.mark.parametrize(
    'labels',
    [
        [3, 7],
        [0.5, 1.5],
        [np.int64(3), np.int64(7)],
        [np.str_('x'), np.str_('y')],
        [Path('a/b'), Path('c')],
        [Animal.CAT, Animal.DOG],
        [datetime.date(2024, 5, 1), datetime.date(2025, 5, 1)],
        [Decimal('1.5'), Decimal('2')],
        [b'x', b'y'],
        ['<Keep it>', 'two words, and a comma'],
    ],
    ids=lambda labels: type(labels[0]).__name__,
)
def test_labels_of_any_kind(tmp_path, labels):
    files = draw(tmp_path / 'data', 6, classes=('all',))
    given = [labels[i % 2] for i in range(len(files))]
    learn = pretend_learner(tmp_path / 'data', files, given)
    c = ImageClassifierCleaner(learn)
    one, other = learn.dls.vocab
    c.dd_cats.value = one
    click(c, 0, DELETE)
    click(c, 1, other)
    assert list(c.delete()) == [0] and list(c.change()) == [(1, other)]
    again = ImageClassifierCleaner(learn)
    assert list(again.change()) == [(1, other)]
    name = c.fns[1].relative_to(tmp_path / 'data').as_posix()
    c.apply()
    with open(tmp_path / 'data' / 'labels_cleaned.csv', newline='') as f:
        rows = {r['fname']: r['label'] for r in csv.DictReader(f)}
    assert rows[name] == str(other) and len(rows) == len(files) - 1


def test_data_outside_the_learners_path(files, tmp_path, monkeypatch):
    (tmp_path / 'work').mkdir()
    monkeypatch.chdir(tmp_path / 'work')
    c = ImageClassifierCleaner(pretend_learner(Path('.'), files))
    assert c.cleaner.root == tmp_path / 'data'


def test_relative_paths(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    c = ImageClassifierCleaner(pretend_learner(Path('data'), [f.relative_to(tmp_path) for f in files]))
    assert not c.fns[0].is_absolute()
    click(c, 0, DELETE)
    f = c.fns[0]
    c.apply()
    assert not f.exists() and f not in c.fns


def test_pictures_in_memory_are_refused(files, tmp_path):
    with pytest.raises(TypeError, match='in files; item 0 is a'):
        ImageClassifierCleaner(
            pretend_learner(tmp_path, [Image.open(f) for f in files], [f.parent.name for f in files])
        )


def test_audit_scores(learn, files):
    import pandas as pd

    df = pd.DataFrame(
        [
            dict(path=files[3], score=0.9, kind='label', suggestion='bee'),
            dict(path=files[1], score=0.5, kind='dark'),
            dict(path=files[3], score=0.2, kind='blurry'),
        ]
    )
    c = ImageClassifierCleaner(learn, audit=df)
    c.show(cat=ALL, sort='audit')
    assert c.fns[:2] == [files[3], files[1]] and 'label, blurry' in c.iw.cards[0].picture.value
    assert 'audit' not in ImageClassifierCleaner(learn).dd_sort.options


# ---- trouble
def test_names_are_escaped(tmp_path):
    f = tmp_path / 'ant' / '<img src=x onerror=alert(1)>.jpg'
    fs = draw(tmp_path)
    try:
        fs[0].rename(f)
    except OSError:
        pytest.skip('this file system has no such names')
    fs = sorted(tmp_path.rglob('*.jpg'))
    c = ImageClassifierCleaner(pretend_learner(tmp_path, fs), max_n=99)
    c.dd_ds.value = 'Valid' if f not in c.fns else 'Train'
    i = list(c.fns).index(f)
    click(c, i, DELETE)
    c.btn_apply.click()
    c.keys.value = 'p' + 'n' * i
    for html in (c.iw.cards[i].picture.value, c.message.value, c.focus.value):
        assert '<img src=x' not in html and '&lt;img src=x' in html


def test_labels_are_escaped(tmp_path):
    fs = draw(tmp_path)
    c = ImageClassifierCleaner(
        pretend_learner(tmp_path, fs, ['<b>bold</b>' if f.parent.name == 'ant' else f.parent.name for f in fs])
    )
    assert '<b>bold' not in c.iw.cards[0].picture.value and '<b>bold' not in c.widget.children[-1].children[-1].value


def test_a_broken_picture_is_a_card_that_says_so(learn):
    c = ImageClassifierCleaner(learn)
    c.fns[0].write_bytes(b'no picture at all')
    c.show()
    i = next(i for i, p in enumerate(c.fns) if 'not a usable picture' in c.iw.cards[i].picture.value)
    click(c, i, DELETE)
    assert len(c.apply()) == 1


def test_errors_are_said_and_the_choice_goes_back(learn):
    c = ImageClassifierCleaner(learn)
    c.fns[0].unlink()
    click(c, 0, DELETE)
    assert (
        'there is no file' in c.message.value
        and 'vl-trouble' in c.message.value
        and c.iw.cards[0].choice.widget.value == KEEP
    )


def test_changed_meanwhile(learn):
    c = ImageClassifierCleaner(learn)
    click(c, 0, DELETE)
    f = c.fns[0]
    f.write_bytes(f.read_bytes() + b'!')
    c.apply()
    assert f.exists() and 'has changed' in c.message.value


def test_an_unreadable_picture_does_not_shift_the_others(files, tmp_path):
    "What the model says is matched by file, also when a file can't be opened and so has no prediction."
    from torch import nn

    from vislearn.data.block import CategoryBlock, DataBlock, ImageBlock
    from vislearn.data.labels import parent_label
    from vislearn.data.resize import Resize
    from vislearn.data.split import EndSplitter
    from vislearn.learner import Learner

    dls = DataBlock(
        (ImageBlock, CategoryBlock), splitter=EndSplitter(0.5), get_y=parent_label, item_tfms=Resize(16)
    ).dataloaders(files[::2] + files[1::2], num_workers=0, device='cpu')
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, dls.c)), path=tmp_path)
    right = {p.path: p.loss for p in predicted_pictures(learn, 1)}
    gone = dls.valid.items[2]
    gone.write_bytes(b'no picture')
    dls.valid_ds.max_bad = 1.0
    with pytest.warns(UserWarning, match=gone.name):
        left = {p.path: p.loss for p in predicted_pictures(learn, 1)}
    assert set(right) - set(left) == {gone}
    for f, loss in left.items():
        assert abs(loss - right[f]) < 1e-4, f


def test_no_classes():
    from types import SimpleNamespace

    from vislearn.data.targets import Regression

    class Dls(list):
        target = Regression(2)

    with pytest.raises(ValueError, match='classification'):
        predicted_pictures(SimpleNamespace(dls=Dls([None, None])), 1)


# ---- the rest
def test_images_cleaner(files):
    ic = ImagesCleaner(['a', 'b'], height=64, width=64, max_n=3)
    ic.set_fns(files)
    ic.cards[0].choice.widget.value = 'b'
    ic.cards[2].choice.widget.value = DELETE
    assert list(ic.fns) == files[:3] and list(ic.change()) == [(0, 'b')] and list(ic.delete()) == [2]
    ic.set_fns([])
    assert list(ic.values()) == []


def test_thumb(files, tmp_path):
    Image.new('RGB', (400, 100)).save(tmp_path / 'wide.png')
    from io import BytesIO

    assert Image.open(BytesIO(thumb_jpeg(tmp_path / 'wide.png', 128, 256))).size == (256, 64)
    assert Image.open(BytesIO(thumb_jpeg(files[0], 128, 256))).size == (32, 24)  # never larger than it is


def test_an_upload_given_whole_says_where_its_picture_is(tmp_path):
    from vislearn.data.image import open_image
    from vislearn.data.sources import ImageDataLoaders
    from vislearn.widgets import FileUpload

    Image.new('RGB', (8, 8)).save(tmp_path / 'a.png')
    content = memoryview((tmp_path / 'a.png').read_bytes())
    upload = {'name': 'a.png', 'type': 'image/png', 'size': len(content), 'content': content}
    button = FileUpload()
    with pytest.raises(TypeError, match=r"\.value\[0\]\['content'\]"):
        open_image(button)
    dls = ImageDataLoaders.from_lists(tmp_path, ['a.png'] * 8, ['a', 'b'] * 4, valid_pct=0.25, seed=1, num_workers=0)
    for items in (upload, [upload], [{**upload, 'content': bytes(content)}]):
        with pytest.raises(TypeError, match=r"\['content'\]"):
            dls.test_dl(items).one_batch()
    assert dls.test_dl([content]).one_batch()[0].shape == (1, 3, 8, 8)


def test_upload_data():
    from datetime import datetime

    from vislearn.widgets import FileUpload

    u = FileUpload()
    assert u.data == []
    u.value = [
        dict(name='a.jpg', type='image/jpeg', size=3, content=memoryview(b'abc'), last_modified=datetime(2026, 1, 1))
    ]
    assert u.data == [b'abc']


def test_names_of_the_book():
    ns = {}
    exec('from vislearn.widgets import *', ns)
    assert {
        'widgets',
        'VBox',
        'HBox',
        'Button',
        'Dropdown',
        'Label',
        'Output',
        'FileUpload',
        'Layout',
        'Box',
        'Checkbox',
        'ImageClassifierCleaner',
        'ImagesCleaner',
    } <= set(ns)


def test_without_a_notebook(files, tmp_path):
    code = (
        f'import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from pathlib import Path; from pretend import pretend_learner\nfrom vislearn.widgets import *\n'
        f"path = Path({str(tmp_path / 'data')!r}); c = ImageClassifierCleaner(pretend_learner(path, sorted(path.rglob('*.jpg')))); c.iw.cards[0].choice.widget.value = '<Delete>'\n"
        'print(c); print(c.apply(dry_run=True)); print(c.apply().counts()); print(len(c.undo()))'
    )
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert (
        'A widget: let a Jupyter cell end with it' in out
        and '1 to delete, 0 to change' in out
        and out.strip().endswith('1')
    )


def test_mime_bundle(learn):
    b = ImageClassifierCleaner(learn)._repr_mimebundle_()
    assert 'application/vnd.jupyter.widget-view+json' in b and b['text/plain'].startswith(
        'ImageClassifierCleaner(Train'
    )


def test_a_big_page_is_quick(tmp_path):
    import time

    rng = np.random.default_rng(0)
    (tmp_path / 'a').mkdir()
    (tmp_path / 'b').mkdir()
    im = Image.fromarray(rng.integers(0, 255, (600, 800, 3), dtype=np.uint8))
    for i in range(40):
        im.save(tmp_path / 'ab'[i % 2] / f'{i}.jpg')
    c = ImageClassifierCleaner(pretend_learner(tmp_path, sorted(tmp_path.rglob('*.jpg'))), max_n=16)
    start = time.perf_counter()
    c.dd_cats.value = 'b'
    assert time.perf_counter() - start < 5 and len(c.fns) == 16
    assert sum(len(x.picture.value) for x in c.iw.cards) < 3e6
