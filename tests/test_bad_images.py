"""Every kind of file gives its right pixels, or is refused by name with a reason: opened alone, in training, in
prediction, and after an export.
"""

import csv
import io
import json
import os
import random
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from bad_images import Kind, enc, exif, kinds, picture
from torch import nn

from vislearn.data.batches import BatchPipeline
from vislearn.data.dataset import Dataset
from vislearn.data.decode import ImageError, read_header
from vislearn.data.files import get_image_files
from vislearn.data.image import open_image
from vislearn.data.loaders import DataLoaders, Loader
from vislearn.data.resize import ItemPipeline, RandomResizedCrop, Resize
from vislearn.data.targets import Category
from vislearn.data.verify import verify_images
from vislearn.deploy.bundle import bundle_pipelines, load_bundle, save_bundle

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')
KINDS = kinds()
SECONDS = 5  # for the largest; most take a few milliseconds


@pytest.fixture(scope='module')
def corpus(tmp_path_factory) -> Path:
    "A folder with all kinds, made once."
    folder = tmp_path_factory.mktemp('corpus')
    for k in KINDS:
        k.write(folder)
    return folder


def verdict(src, **kw) -> torch.Tensor | ImageError:
    try:
        return open_image(src, **kw)
    except ImageError as e:
        return e


def check(k: Kind, x: torch.Tensor | ImageError):
    "Is this what must come of it?"
    if k.pixels is None:
        assert isinstance(x, ImageError), f'{k.id} was accepted, as {tuple(x.shape)}'
        assert re.search(k.why, str(x)) and x.kind == k.kind, f'{x.kind}: {x}'
        return
    assert isinstance(x, torch.Tensor), f'{k.id} was refused: {x}'
    a = x.permute(1, 2, 0).numpy()
    assert a.shape == k.pixels.shape
    d = np.maximum(a, k.pixels) - np.minimum(a, k.pixels)
    assert d.mean() <= k.tol and d.max() <= 4 * k.tol + (k.tol > 0), (
        f'{k.id}: wrong by {d.mean():.2f}, at most {d.max()}'
    )


def test_there_are_enough():
    assert len(KINDS) > 250 and len({k.id for k in KINDS}) == len({k.name for k in KINDS}) == len(KINDS)
    assert sum(k.pixels is not None for k in KINDS) > 120 < sum(k.pixels is None for k in KINDS) + 60


@pytest.mark.parametrize('k', KINDS, ids=lambda k: ascii(k.id))
def test_right_pixels_or_a_reason(k, corpus):
    if k.id in ('link to its own folder', 'twin of a Mac'):
        return  # only the lister meets these
    path = corpus / k.name
    start = time.perf_counter()
    x = verdict(path)
    assert time.perf_counter() - start < SECONDS
    check(k, x)
    if isinstance(x, ImageError):
        assert repr(str(path)) in str(x), 'the message does not name the file'
    if isinstance(k.make, bytes) and (k.pixels is None or k.pixels.size < 10**6):  # by any other way in
        check(k, verdict(k.make))
        check(k, verdict(io.BytesIO(k.make)))
    if k.pixels is not None and k.pixels.size < 10**6:
        grey = verdict(path, mode='L')
        want = k.pixels @ [0.299, 0.587, 0.114]
        assert grey.shape == (1, *k.pixels.shape[:2]) and np.abs(grey[0].numpy() - want).mean() <= k.tol + 1


def test_headers_agree_with_pixels(corpus):
    for k in KINDS:
        if k.pixels is None or not isinstance(k.make, bytes):
            continue
        h = read_header(corpus / k.name)
        assert (h.height, h.width) == k.pixels.shape[:2] or k.id == 'png turned after its pixels', k.id
        assert h == read_header(k.make)
    for k in KINDS:
        if (
            k.kind in ('empty', 'missing', 'not a picture', 'too large')
            and isinstance(k.make, bytes)
            and 'passes' not in k.id
        ):
            with pytest.raises(ImageError, match=k.why):
                read_header(corpus / k.name)


def test_names_in_messages_are_harmless(corpus):
    "No line break, escape sequence or reversed text of a file name reaches the terminal."
    for k in KINDS:
        if not k.id.startswith('name '):
            continue
        bad = corpus.parent / 'renamed'
        bad.mkdir(exist_ok=True)
        (bad / k.name).write_bytes(b'not a picture')
        e = verdict(bad / k.name)
        assert isinstance(e, ImageError) and all(c.isprintable() for c in str(e)), k.name
        ds = Dataset([bad / k.name], torch.zeros(1, dtype=torch.long), Category(vocab=['a', 'b']))
        with pytest.raises(ImageError) as info:
            ds[0]
        assert all(c.isprintable() for n in info.value.__notes__ for c in n), k.name
        (bad / k.name).unlink()


def test_lister_takes_each_file_once(corpus):
    found = [os.fspath(f.relative_to(corpus)) for f in get_image_files(corpus)]
    assert sorted(found) == sorted(k.name for k in KINDS if k.listed)


def test_verify_images_finds_exactly_the_bad(corpus):
    found = {f.name for f in verify_images(get_image_files(corpus))}
    assert found == {k.name for k in KINDS if k.listed and k.pixels is None}


@pytest.fixture(scope='module')
def listed() -> list[Kind]:
    return [k for k in KINDS if k.listed and (k.pixels is None or k.pixels.size < 10**6)]


@pytest.mark.parametrize('workers', ['thread', 'process'])
def test_training_leaves_out_exactly_the_bad(corpus, listed, workers):
    target = Category(vocab=['a', 'b'])
    ds = Dataset(
        [corpus / k.name for k in listed],
        torch.arange(len(listed)) % 2,
        target,
        [RandomResizedCrop(24)],
        bad_images='skip',
        max_bad=1,
    )
    dl = Loader(ds, bs=16, num_workers=2, workers=workers, device='cpu', seed=0)
    n = sum(len(xb) for xb, _ in dl)
    bad = [i for i, k in enumerate(listed) if k.pixels is None]
    assert sorted(ds.bad) == bad and n == len(listed) - len(bad)
    for i, b in zip(bad, ds.bad_files, strict=True):
        assert (
            b.item == corpus / listed[i].name
            and b.split == 'training'
            and b.kind == listed[i].kind
            and re.search(listed[i].why, b.reason)
        )
    out = DataLoaders(dl).bad_files_csv(corpus.parent / 'bad.csv')
    rows = list(csv.DictReader(out.open(newline='', encoding='utf-8')))
    assert [(r['split'], r['kind'], r['reason']) for r in rows] == [
        (b.split, b.kind, b.reason) for b in DataLoaders(dl).bad_files
    ]


def test_each_bad_file_is_named_when_it_ends_the_epoch(corpus, listed):
    for k in listed:
        if k.pixels is not None:
            continue
        dl = Loader(
            Dataset([corpus / k.name], torch.zeros(1, dtype=torch.long), Category(vocab=['a', 'b']), Resize(8)),
            bs=1,
            num_workers=0,
            device='cpu',
        )
        with pytest.raises(ImageError, match=re.escape(repr(str(corpus / k.name)))):
            list(dl)


def test_training_validation_prediction_and_export_see_the_same(corpus, listed, tmp_path):
    item = ItemPipeline([Resize(32)])
    state = load_bundle(
        save_bundle(tmp_path / 'm.pkl', nn.Linear(1, 2), Category(vocab=['a', 'b']), item.valid(), BatchPipeline())
    )
    exported, _ = bundle_pipelines(state)
    good = [k for k in listed if k.pixels is not None]
    train = Dataset([corpus / k.name for k in good], item_tfms=ItemPipeline([Resize(32, where='center')]))
    xb = torch.cat([b for (b,) in Loader(train, bs=32, num_workers=2, device='cpu')])
    for k, x in zip(good, xb, strict=True):
        path = corpus / k.name
        a, b = item.valid()(path), exported(path)
        assert torch.equal(a, b) and torch.equal(a / 255, x), k.id
        if isinstance(k.make, bytes):
            assert torch.equal(a, exported(k.make)), k.id
    for k in listed:
        if k.pixels is None:
            with pytest.raises(ImageError):
                exported(corpus / k.name)


def test_a_crop_while_decoding_is_a_crop_of_the_upright_picture():
    rng = random.Random(0)
    big = picture(400, 600)
    for turn in range(1, 9):
        data = enc(big, 'JPEG', quality=95, exif=exif(turn))
        whole = open_image(data)
        for _ in range(4):
            t = RandomResizedCrop(48)
            cut = t.cut(*whole.shape[1:], rng)
            a, b = (
                open_image(data, lambda h, w: cut),
                open_image(np.ascontiguousarray(whole.permute(1, 2, 0).numpy()), lambda h, w: cut),
            )
            assert (a.int() - b.int()).abs().float().mean() < 2, turn


def test_an_error_in_a_crop_is_not_a_bad_picture():
    def crop(h, w):
        raise KeyError('a mistake of the program')

    for fmt in ('JPEG', 'PNG'):
        with pytest.raises(KeyError):
            open_image(enc(picture(), fmt), crop)


def test_a_damaged_pillow_picture_is_named(tmp_path):
    from PIL import Image

    (tmp_path / 'cut.jpg').write_bytes(enc(picture(200, 200), 'JPEG')[:1500])
    with pytest.raises(ImageError, match='cut.jpg'):
        open_image(Image.open(tmp_path / 'cut.jpg'))


def test_arrays_are_taken_as_they_come():
    "Read-only, mirrored, transposed: without a warning, and without changing them."
    a = picture()
    a.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for b in (a, a[:, ::-1], a[::2, ::3], np.asfortranarray(a)):
            assert (open_image(b).permute(1, 2, 0).numpy() == b).all()


def test_without_simplejpeg_the_pixels_are_nearly_the_same(monkeypatch):
    data = enc(picture(300, 400), 'JPEG', quality=95, exif=exif(6))
    a = open_image(data, Resize(64).valid().cut)
    monkeypatch.setitem(sys.modules, 'simplejpeg', None)
    assert (a.int() - open_image(data, Resize(64).valid().cut).int()).abs().float().mean() < 1
    assert 'truncated' in str(verdict(data[:2000]))


def test_pillows_own_pixel_limit_stays_silent_and_as_it_was():
    from PIL import Image

    before = Image.MAX_IMAGE_PIXELS
    bomb = next(k for k in KINDS if k.id == 'png of 170 million pixels').make
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        check(next(k for k in KINDS if k.id == 'png of 170 million pixels'), verdict(bomb))
    assert Image.MAX_IMAGE_PIXELS == before


CHILD = """
import faulthandler, json, resource, sys, time, warnings
warnings.simplefilter('ignore')
sys.path.insert(0, {tests!r})
from pathlib import Path
from bad_images import SEEDS, kinds, mutant
from vislearn.data.decode import ImageError
from vislearn.data.resize import Resize
from vislearn.data.image import open_image
def peak() -> float: # MB
    try: return int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1])/2**10 # ru_maxrss would begin with the peak of the parent process
    except OSError: return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(2**20 if sys.platform == 'darwin' else 2**10)
"""


def child(code: str, timeout: float) -> dict:
    "What a fresh process prints in its last line; its crash or delay is a failure that shows how far it came."
    pytest.importorskip('resource')
    try:
        r = subprocess.run(
            [sys.executable, '-c', CHILD.format(tests=str(Path(__file__).parent)) + code],
            capture_output=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired as e:
        pytest.fail(f'no answer after {timeout} s; the last was {(e.stdout or b"")[-200:]}')
    assert r.returncode == 0, f'ended with {r.returncode}\n{r.stdout[-300:]}\n{r.stderr[-3000:]}'
    return json.loads(r.stdout.splitlines()[-1])


def test_memory(corpus):
    "Opening every bad file, one after the other, takes less than 300 MB; so does the largest good one."
    names = [k.name for k in KINDS if not k.pixels is not None or k.pixels.size > 10**6]
    res = child(
        f"""
open_image(Path({str(corpus)!r})/'c21.png'); base = peak(); rise = {{}}
for name in {names!r}:
    before = peak()
    try: open_image(Path({str(corpus)!r})/name)
    except ImageError: pass
    if peak() - before > 30: rise[name] = round(peak() - before)
print(json.dumps(dict(mb=peak()-base, rise=rise)))
""",
        120,
    )
    assert res['mb'] < 300, res


FULL = os.environ.get('VISLEARN_FULL') == '1'


def test_mutants(corpus):
    "Files with flipped, cut and misplaced bytes load or are refused; none crashes, hangs or fills the memory."
    n = 10_000 if FULL else 2000
    res = child(
        f"""
good = [k.make for k in kinds() if k.id in SEEDS]
assert len(good) == len(SEEDS)
crop = Resize(32).valid().cut
open_image(good[0]); base = peak(); out = dict(loaded=0, refused=0, other=[], slow=[])
for s in range({n}):
    data = mutant(s, good)
    if s % 100 == 0: print(s, flush=True)
    faulthandler.dump_traceback_later(30, exit=True)
    t = time.perf_counter()
    try: open_image(data, crop if s % 2 else None); out['loaded'] += 1
    except ImageError as e: out['refused'] += str(e).startswith('<')
    except Exception as e: out['other'].append(f'{{s}}: {{e!r}}')
    if time.perf_counter() - t > 5: out['slow'].append(s)
print(json.dumps(out | dict(mb=peak()-base)))
""",
        1200 if FULL else 120,
    )
    assert not res['other'] and not res['slow'], res
    assert res['loaded'] + res['refused'] == n and min(res['loaded'], res['refused']) > n / 10
    assert res['mb'] < 400, res
