"""What users of fastai have stumbled over with their data, an assertion for each; the numbers are those of the issues at github.com/fastai/fastai where there is one.

(Number 40, downloads that fail in silence, is in test_download.py: test_download_images_accounts_for_every_url, test_the_query_stays_and_the_final_url_is_told, test_fastais_call.)
"""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from bad_images import TURNED, enc, exif, picture
from PIL import Image

from vislearn.core import default_device
from vislearn.data.augment import aug_transforms
from vislearn.data.block import CategoryBlock, DataBlock, ImageBlock, MultiCategoryBlock
from vislearn.data.files import get_image_files
from vislearn.data.image import open_image
from vislearn.data.labels import RegexLabeller, parent_label
from vislearn.data.resize import Resize
from vislearn.data.sources import ImageDataLoaders
from vislearn.data.split import FuncSplitter, GrandparentSplitter, RandomSplitter, StratifiedSplitter


@pytest.fixture
def folder(tmp_path) -> Path:
    "30 pictures of 'a', 10 of 'b'."
    for label, n in (('a', 30), ('b', 10)):
        (tmp_path / label).mkdir()
        for i in range(n):
            (tmp_path / label / f'{label}{i:02}.jpg').write_bytes(enc(np.full((20, 24, 3), i * 8, np.uint8), 'JPEG'))
    return tmp_path


def block(**kw) -> DataBlock:
    return DataBlock(
        **{
            **dict(
                blocks=(ImageBlock, CategoryBlock),
                get_items=get_image_files,
                splitter=RandomSplitter(seed=0),
                get_y=parent_label,
                item_tfms=Resize(16),
            ),
            **kw,
        }
    )


def complaint(f) -> str:
    "The error that `f` ends with, and its notes."
    with pytest.raises(Exception) as e:
        f()
    return '\n'.join([f'{e.type.__name__}: {e.value}', *getattr(e.value, '__notes__', [])])


def test_14_photos_stand_upright():
    "EXIF orientation (3565): in every way in, the same."
    for turn in range(1, 9):
        data, want = enc(picture(), 'JPEG', quality=95, exif=exif(turn)), TURNED[turn](picture())
        for x in (open_image(data), open_image(Image.open(__import__('io').BytesIO(data)))):
            assert np.abs(x.permute(1, 2, 0).numpy().astype(int) - want).mean() < 3


def test_15_one_bad_file_does_not_kill_an_epoch_and_is_named(folder):
    (folder / 'a' / 'cut.jpg').write_bytes(enc(picture(90, 90), 'JPEG')[:600])
    dls = block(splitter=FuncSplitter(lambda f: f.stem in ('a00', 'b00'))).dataloaders(
        folder, bs=8, num_workers=2, drop_last=False
    )
    with pytest.warns(UserWarning, match='cut.jpg'):
        assert sum(len(x) for x, _ in dls.train) == 38
    assert [(b.item.name, b.split, b.kind) for b in dls.bad_files] == [('cut.jpg', 'training', 'damaged')]
    strict = block(splitter=FuncSplitter(lambda f: f.stem in ('a00', 'b00'))).dataloaders(
        folder, bs=8, drop_last=False, bad_images='raise'
    )
    assert 'cut.jpg' in complaint(lambda: list(strict.train))


@pytest.mark.parametrize('mode', ['P', 'LA', 'CMYK', 'I;16', '1', 'RGBA'])
def test_15_any_colour_mode(folder, mode):
    im = Image.new('I;16', (20, 20), 40000) if mode == 'I;16' else Image.fromarray(picture(20, 20)).convert(mode)
    im.save(folder / 'a' / 'odd.tif' if mode != 'P' else folder / 'a' / 'odd.png')
    dls = block().dataloaders(folder, bs=41, num_workers=0, drop_last=False, bad_images='raise')
    assert dls.train.one_batch()[0].shape[1:] == dls.valid.one_batch()[0].shape[1:] == (3, 16, 16)


def test_15_too_many_bad_files_stop_the_run(folder):
    for f in sorted((folder / 'a').iterdir())[:8]:
        f.write_bytes(b'')
    dls = block().dataloaders(folder, bs=8, num_workers=0, drop_last=False)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert 'common cause' in complaint(lambda: [list(dl) for dl in dls])


def test_15_a_whole_class_of_bad_files_stops_the_run(folder):
    for i in range(200):
        (folder / 'a' / f'more{i}.jpg').write_bytes(enc(np.full((20, 24, 3), 9, np.uint8), 'JPEG'))
    for f in (folder / 'b').iterdir():
        f.write_bytes(b'<html>')
    dls = block().dataloaders(folder, bs=8, num_workers=0, drop_last=False)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert "of 'b' cannot be used" in complaint(lambda: [list(dl) for dl in dls])


def test_15_a_file_that_rots_between_epochs(folder):
    dls = block().dataloaders(folder, bs=8, num_workers=2, seed=0, drop_last=False)
    assert sum(len(x) for x, _ in dls.train) == 32
    dls.train.items[3].write_bytes(b'')
    with pytest.warns(UserWarning, match='empty'):
        assert sum(len(x) for x, _ in dls.train) == 31
    assert len(dls.bad_files) == 1


def test_16_wrong_paths_say_what_is_there(folder):
    "1252, 2271, 2459, 2749: TypeError and IndexError."
    near = str(folder)[:-1]
    assert f'there is no folder {near}' in complaint(lambda: block().dataloaders(near))
    (folder / 'empty').mkdir()
    (folder / 'empty' / 'notes.txt').write_text('x')
    assert 'no pictures in' in (says := complaint(lambda: block().dataloaders(folder / 'empty'))) and 'txt' in says
    assert f"{folder.name}': 40" in complaint(lambda: block(splitter=GrandparentSplitter()).dataloaders(folder))
    assert 'valid_pct' in complaint(lambda: ImageDataLoaders.from_folder(folder))
    assert 'a.jpg' in complaint(lambda: open_image('a.jpg'))
    for where in (folder, str(folder)):
        assert 'get_items=get_image_files' in complaint(lambda: block(get_items=None).dataloaders(where))


def test_16_names_that_lead_nowhere_say_what_is_there(folder):
    says = complaint(lambda: ImageDataLoaders.from_folder(folder / 'photographs'))
    assert f"{folder} holds the folders ['a', 'b']" in says
    assert 'holds no folders' in complaint(lambda: ImageDataLoaders.from_folder(folder / 'a' / 'photographs'))
    rows = [{'name': 'a00.jpg', 'label': 'a'}]
    says = complaint(lambda: ImageDataLoaders.from_df(rows, folder))
    assert f'there is {folder / "a" / "a00.jpg"}' in says and 'folder=' in says
    absolute = str(folder / 'elsewhere' / 'a00.jpg')
    says = complaint(lambda: ImageDataLoaders.from_df([{'name': absolute, 'label': 'a'}], folder))
    assert says.startswith('FileNotFoundError') and absolute in says


@pytest.mark.parametrize('match', [False, True])
def test_a_pattern_that_fits_but_for_its_case_says_so(match):
    label = RegexLabeller(r'(.+)_\d+\.jpg$', match=match)
    assert label('ants_1.jpg') == 'ants'
    assert '(?i)' in complaint(lambda: label('ants_1.JPG'))
    assert '(?i)' not in complaint(lambda: label('ants_1.png'))
    assert RegexLabeller(r'(?i)(.+)_\d+\.jpg$', match=match)('ants_1.JPG') == 'ants'


def test_17_fewer_items_than_a_batch(folder):
    "fit 'succeeded' having trained nothing."
    with pytest.warns(
        UserWarning,
        match='32 training items are fewer than bs=64: using batches of 32, one step an epoch; bs=8 learns more',
    ):
        dls = block().dataloaders(folder, bs=64)
    assert len(dls.train) == 1 and len(next(iter(dls.train))[0]) == 32
    assert len(block().dataloaders(folder).train) == 4  # where nothing is said, batches suit the set


def test_18_misspelt_arguments(folder):
    assert "did you mean 'num_workers'" in complaint(lambda: block().dataloaders(folder, num_worker=2))
    assert "unknown argument 'batchsize'" in complaint(lambda: block().dataloaders(folder, batchsize=2))
    assert "did you mean 'item_tfms'" in complaint(lambda: block(item_tfm=Resize(3)))
    assert "did you mean 'valid_pct'" in complaint(lambda: ImageDataLoaders.from_folder(folder, valid_pc=0.2))
    assert 'picture and what is predicted' in complaint(lambda: block(blocks=ImageBlock))


def test_19_errors_name_item_stage_and_step(folder):
    "3861, 2878: 'Could not do one pass in your dataloader'."

    def fails(x):
        raise RuntimeError('out of paint')

    def dls(**kw):
        return block(**kw).dataloaders(folder, num_workers=0, bs=4)

    says = complaint(lambda: dls(get_y=lambda f: 1 / 0))
    assert 'get_y' in says and '.jpg' in says
    says = complaint(lambda: block(get_items=lambda p: p.nope).dataloaders(folder))
    assert 'get_items' in says
    says = complaint(lambda: dls(item_tfms=[Resize(16), fails]).one_batch())
    assert (
        'in the item transform <function' in says
        and '(3, 16, 16)' in says
        and 'training item' in says
        and '.jpg' in says
    )
    says = complaint(lambda: dls(batch_tfms=fails).one_batch())
    assert 'in the batch transform <function' in says and '(4, 3, 16, 16)' in says
    (folder / 'a' / 'big.jpg').write_bytes(enc(picture(90, 90), 'JPEG'))
    says = complaint(
        lambda: list(block(item_tfms=None).dataloaders(folder, bs=41, num_workers=0, drop_last=False).train)
    )
    assert 'do not stack' in says and '(3, 90, 90)' in says and 'big.jpg' in says and 'Resize' in says


def test_19_check_reports_instead_of_raising(folder):
    def fails(x):
        raise RuntimeError('out of paint')

    wrong = [
        (block(), folder / 'nowhere', 'items'),
        (block(get_items=lambda p: []), folder, 'items'),
        (block(get_items=lambda p: 1 / 0), folder, 'items'),
        (block(splitter=lambda o: ([0, 1], [1])), folder, 'split'),
        (block(splitter=lambda o: 1 / 0), folder, 'split'),
        (block(splitter=lambda o: ([], [0])), folder, 'split'),
        (block(get_y=None), folder, 'labels'),
        (block(get_y=lambda f: 1 / 0), folder, 'labels'),
        (block(splitter=FuncSplitter(lambda f: f.parent.name == 'b')), folder, 'labels'),
        (block(get_items=None), None, 'items'),
        (block(get_items=None), 3, 'items'),
        (block(get_items=lambda p: None), folder, 'items'),
        (block(batch_tfms=7), folder, 'batch_tfms'),
        (block(item_tfms='resize'), folder, 'item_tfms'),
        (block(splitter=lambda o: None), folder, 'split'),
        (block(blocks=(ImageBlock, MultiCategoryBlock)), folder, 'labels'),
        (block(item_tfms=[Resize(9), fails]), folder, 'item_tfms'),
        (block(batch_tfms=fails), folder, 'batch_tfms'),
        (block(item_tfms=lambda im: 'no picture'), folder, 'item_tfms'),
    ]
    for db, source, stage in wrong:
        report = db.check(source)
        assert not report.ok and stage in [p.stage for p in report.problems if p.serious], (stage, report)
        with pytest.raises(Exception):
            list(db.dataloaders(source, bs=8, num_workers=0).train)
    for several in (MultiCategoryBlock(), MultiCategoryBlock(encoded=True, vocab=['a', 'b'])):
        db = block(
            blocks=(ImageBlock, several),
            get_y=lambda f: [0, 1] if several.encoded else [f.parent.name],
            splitter=lambda items: (range(len(items)), []),
        )
        for report in (db.check(folder), db.dataloaders(folder, bs=8, num_workers=0).check()):
            assert 'there is nothing to validate on' in str(report) and 'index' not in str(report)
    with pytest.warns(UserWarning, match='nothing to tell apart'):
        report = block(get_y=lambda f: 'x').check(folder)
    assert "only one label, 'x'" in str(report) and not report.ok
    (folder / 'a' / 'big.jpg').write_bytes(enc(picture(90, 90), 'JPEG'))
    assert 'do not stack' in str(
        block(item_tfms=None, splitter=FuncSplitter(lambda f: f.stem in ('a00', 'b00'))).check(folder, bs=40)
    )
    assert block(batch_tfms=aug_transforms()).check(folder).trace[-1][0] == 'to the network'


def test_20_a_label_that_is_only_in_validation(folder):
    "3703, 956, 1843: KeyError in the middle of an epoch."
    says = complaint(
        lambda: block(splitter=FuncSplitter(lambda f: f.parent.name == 'b')).dataloaders(folder).one_batch()
    )
    assert 'same label' in says or "'b' is not in the vocab" in says
    (folder / 'c').mkdir()
    (folder / 'c' / 'c.jpg').write_bytes((folder / 'a' / 'a00.jpg').read_bytes())
    says = complaint(lambda: block(splitter=FuncSplitter(lambda f: f.parent.name == 'c')).dataloaders(folder))
    assert "label 'c' is not in the vocab ['a', 'b']" in says and 'c.jpg' in says and 'CategoryBlock(vocab=' in says
    add = block(
        blocks=(ImageBlock, CategoryBlock(add_na=True)), splitter=FuncSplitter(lambda f: f.parent.name == 'c')
    ).dataloaders(folder, bs=4)
    assert add.vocab == ['#na#', 'a', 'b'] and add.valid_ds.y.tolist() == [0]
    sided = dict(
        blocks=(ImageBlock, CategoryBlock(unknown='drop')),
        splitter=FuncSplitter(lambda f: f.parent.name == 'c' or f.stem == 'a01'),
    )
    with pytest.warns(UserWarning, match='leaving out 1 of 2 validation items.*: c'):
        fewer = block(**sided).dataloaders(folder, bs=4)
    assert (
        fewer.vocab == ['a', 'b']
        and [f.stem for f in fewer.valid.items] == ['a01']
        and fewer.valid_ds.y.tolist() == [0]
    )
    (found,) = [p for p in block(**sided).check(folder).problems if '1 of 41 items have no usable label' in p.what]
    assert not found.serious and 'left out' in found.cure
    with pytest.warns(UserWarning, match='training items'):
        ab = block(
            blocks=(ImageBlock, CategoryBlock(['a', 'b'], unknown='drop', class_weights='balanced')),
            splitter=RandomSplitter(0),
        ).dataloaders(folder, bs=4)  # some of the classes
    assert len(ab.train_ds) == 40 and ab.loss_func.weight.tolist() == pytest.approx([40 / (2 * 30), 40 / (2 * 10)])

    def both_labels(f):
        return ['a', f.parent.name]

    with pytest.warns(UserWarning, match='leaving out 1 of 2'):
        several = block(
            **{**sided, 'blocks': (ImageBlock, MultiCategoryBlock(unknown='drop')), 'get_y': both_labels}
        ).dataloaders(folder, bs=4)
    assert several.vocab == ['a', 'b'] and len(several.valid_ds) == 1
    with pytest.raises(ValueError, match="'raise' or 'drop'"):
        CategoryBlock(unknown='skip')
    both = block(splitter=StratifiedSplitter(seed=0)).datasets(folder)
    assert [sorted(set(d.y.tolist())) for d in both.sets] == [[0, 1, 2], [0, 1]]  # an only child stays in training


def test_21_rare_classes(folder):
    "3909, 1715, 192: weights on the wrong device, no helper."
    dls = block(
        blocks=(ImageBlock, CategoryBlock(class_weights='balanced')), splitter=StratifiedSplitter(seed=0)
    ).dataloaders(folder, bs=8)
    loss = dls.loss_func
    assert loss.weight.tolist() == pytest.approx([32 / (2 * 24), 32 / (2 * 8)])
    got, want = (
        loss(torch.tensor([[0.0, 1], [2, 0]]).to(torch.bfloat16), torch.tensor([1, 0])),
        torch.nn.CrossEntropyLoss(torch.tensor([2 / 3, 2.0]))(torch.tensor([[0.0, 1], [2, 0]]), torch.tensor([1, 0])),
    )
    assert got.item() == pytest.approx(want.item(), rel=0.02)  # whatever the predictions' type; and device:
    if torch.cuda.is_available():
        assert loss(torch.zeros(1, 2, device='cuda'), torch.tensor([0], device='cuda')).is_cuda
    bal = block(splitter=StratifiedSplitter(seed=0)).dataloaders(folder, bs=8, sampler='balanced', seed=0).train
    drawn = torch.cat([bal.dataset.y[torch.tensor(bal.order(e))] for e in range(30)]).float().mean()
    assert 0.45 < drawn < 0.55
    table = [o.split() for o in str(dls.check()).splitlines()]
    assert ['a', '24', '6'] in table and ['b', '8', '2'] in table


def test_24_one_device_argument_that_is_tried(monkeypatch, folder):
    "3953, 3952, 3662: a device that is there but can not compute."
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: True)
    real = torch.ones

    def ones(*args, device=None, **kw):
        if device in ('cuda', 'mps'):
            raise RuntimeError('no kernel image is available')
        return real(*args, device=device, **kw)

    monkeypatch.setattr(torch, 'ones', ones)
    assert default_device() == torch.device('cpu')
    dls = block().dataloaders(folder, bs=4, num_workers=0, device='cpu')
    assert {dls.device, *(dl.device for dl in dls)} == {torch.device('cpu')} and all(
        o.device.type == 'cpu' for o in dls.one_batch()
    )
    assert dls.to('meta').valid.device == torch.device('meta')


SPAWN = """
import sys, warnings, torch
from pathlib import Path
from vislearn.data.block import CategoryBlock, DataBlock, ImageBlock
from vislearn.data.normalize import Normalize
from vislearn.data.split import RandomSplitter
from vislearn.data.files import get_image_files
from vislearn.data.resize import Resize
if __name__ == '__main__':
    torch.multiprocessing.set_start_method('spawn')
    db = DataBlock((ImageBlock, CategoryBlock), get_items=get_image_files, get_y=lambda f: f.parent.name, splitter=RandomSplitter(seed=0), item_tfms=[Resize(8), lambda im: im.rotate(90)], batch_tfms=Normalize([.5]*3, [.5]*3))
    dls = db.dataloaders(sys.argv[1], bs=8, num_workers=2, workers=sys.argv[2], seed=0, device='cpu')
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter('always')
        n = sum(len(x) for x, _ in dls.train) + sum(len(x) for x, _ in dls.train)
    print(n, len(w), *(o.message for o in w))
"""


@pytest.mark.parametrize('workers,warned', [('thread', '0'), ('process', '1 reading in threads')])
def test_25_lambdas_where_processes_are_spawned(folder, tmp_path, workers, warned):
    "3394, 2899, 3079: Windows, macOS, and Linux from Python 3.14 on."
    (tmp_path / 'run.py').write_text(SPAWN)
    r = subprocess.run([sys.executable, tmp_path / 'run.py', folder, workers], capture_output=True, text=True)
    assert r.stdout.startswith(f'64 {warned}'), r.stdout + r.stderr


def test_25_labels_and_their_function_stay_at_home(folder):
    "A user's get_y is not in what is sent to workers, nor in an export."
    import pickle

    def marker(f):
        return f.parent.name

    ds = block(get_y=marker).datasets(folder).train
    assert b'<lambda>' not in pickle.dumps(ds)


def test_items_may_come_from_a_generator(folder):
    assert len(block(get_items=lambda p: (f for f in get_image_files(p))).datasets(folder).train) == 32
