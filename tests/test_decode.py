"""What reads pictures works without torch, gives the pixels that everything else gets, and reads files wherever they
stand.
"""

import base64
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from bad_images import RGB, enc, kinds
from PIL import Image

from vislearn.data.decode import ImageError, decode, read_header
from vislearn.data.image import open_image

ROOT = Path(__file__).parent.parent
PNG = enc(RGB, 'PNG')

WITHOUT_TORCH = """
import hashlib, json, sys, warnings
for name in ('torch', 'torchvision', 'fastcore', 'timm'):
    sys.modules[name] = None  # importing it fails
warnings.simplefilter('ignore')
from vislearn.data.decode import ImageError, decode
found = {}
for path in json.loads(sys.stdin.read()):
    try:
        a = decode(path)
    except ImageError as e:
        found[path] = [e.kind, str(e)]
    else:
        found[path] = [list(a.shape), hashlib.sha256(a.tobytes()).hexdigest()]
print(json.dumps(found))
"""


def seen_by_open_image(path: str) -> list:
    "What the process without torch should report."
    try:
        a = open_image(path).permute(1, 2, 0).contiguous().numpy()
    except ImageError as e:
        return [e.kind, str(e)]
    return [list(a.shape), hashlib.sha256(a.tobytes()).hexdigest()]


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_decoding_without_torch_gives_the_same_pixels_and_errors(tmp_path):
    paths = []
    for k in kinds():
        if isinstance(k.make, bytes) and k.name.isascii():
            paths.append(os.fspath(k.write(tmp_path)))
    r = subprocess.run(
        [sys.executable, '-c', WITHOUT_TORCH], input=json.dumps(paths), capture_output=True, text=True, cwd=ROOT
    )
    assert r.returncode == 0, r.stderr
    found = json.loads(r.stdout)
    assert len(found) > 150
    assert found == {p: seen_by_open_image(p) for p in paths}


def test_an_array_of_decode_is_upright_8_bit_and_contiguous():
    a = decode(PNG)
    assert a.dtype == np.uint8 and a.flags['C_CONTIGUOUS'] and (a == RGB).all()
    assert decode(PNG, 'L').shape == (48, 64, 1)
    assert (decode(Image.fromarray(RGB)) == RGB).all()
    with pytest.raises(ValueError, match="'RGBA'"):
        decode(PNG, 'RGBA')


def test_jpeg_is_decoded_at_the_scale_that_is_needed():
    data = enc(np.zeros((64, 128, 3), np.uint8), 'JPEG')
    assert decode(data, scale=1).shape == (64, 128, 3)
    assert decode(data, scale=0.5).shape == (32, 64, 3)
    assert decode(data, scale=0.26).shape == (24, 48, 3)  # eighths
    assert decode(data, scale=0.25).shape == (16, 32, 3)
    assert decode(PNG, scale=0.25).shape == (48, 64, 3)  # only JPEG can do that


def spooled() -> tempfile.SpooledTemporaryFile:
    f = tempfile.SpooledTemporaryFile(max_size=10)  # on disk after ten bytes
    f.write(PNG)
    return f


class Upload:
    "As FastAPI hands uploads over: the reader is asynchronous, the ordinary file is inside."

    def __init__(self):
        self.file = spooled()

    async def read(self, size: int = -1) -> bytes:
        return self.file.read(size)


def test_open_files_are_read_from_their_beginning(tmp_path):
    (tmp_path / 'a.png').write_bytes(PNG)
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as z:
        z.writestr('a.png', PNG)
    saved = io.BytesIO()
    Image.fromarray(RGB).save(saved, 'PNG')
    checked = io.BytesIO(PNG)
    Image.open(checked).verify()
    used_up = io.BytesIO(PNG)
    used_up.read()
    in_zip = zipfile.ZipFile(tmp_path / 'a.zip').open('a.png')
    with open(tmp_path / 'a.png', 'rb') as on_disk, tempfile.NamedTemporaryFile() as named:
        named.write(PNG)
        for f in (saved, checked, used_up, spooled(), Upload(), in_zip, on_disk, named):
            for _ in range(2):
                assert (decode(f) == RGB).all()
                assert (open_image(f).permute(1, 2, 0).numpy() == RGB).all()
        assert read_header(on_disk) == read_header(tmp_path / 'a.png')


def test_a_stream_is_read_once_and_then_says_so():
    reader, writer = os.pipe()
    os.write(writer, PNG)
    os.close(writer)
    with open(reader, 'rb') as f:
        assert (decode(f) == RGB).all()
        with pytest.raises(ImageError, match='cannot be rewound, and may have been read before'):
            decode(f)
    with pytest.raises(ImageError, match='is closed'):
        decode(f)
    with pytest.raises(TypeError, match="mode 'rb'"):
        decode(io.StringIO('text'))


def test_data_urls_are_read():
    url = 'data:image/png;base64,' + base64.b64encode(PNG).decode()
    assert (decode(url) == RGB).all()
    assert (decode(url.rstrip('=')) == RGB).all()
    assert (decode('data:image/png;base64,' + base64.urlsafe_b64encode(PNG).decode()) == RGB).all()
    assert read_header(url).width == read_header(url.replace('data:', 'DATA:')).width == 64
    with pytest.raises(ImageError, match='SVG'):
        decode('data:image/svg+xml,%3Csvg%3E%3C/svg%3E')
    with pytest.raises(ImageError, match='empty'):
        decode('data:image/png;base64,')


@pytest.mark.parametrize(
    ('src', 'says'),
    [
        ('https://example.com/a/cat.jpg', 'is a URL.*download_url'),
        (Path('https://example.com/cat.jpg'), 'is a URL'),
        ('s3://bucket/cat.jpg', 'is a URL'),
        ('x' * 8000, 'cannot be read'),
        ('data:image/png;base64,' + 'QUJD' * 3000, 'no known picture format'),
        ('data:' + 'A' * 9000, 'empty'),
        ('a\0b', 'null'),
        (base64.b64encode(PNG * 20).decode(), 'cannot be read'),
        (b'nothing' * 2000, 'no known picture format'),
        (['a.jpg'] * 3000, 'predict_batch'),
        (('a.jpg', 'b.jpg'), 'predict_batch'),
        ({'name': 'a.png', 'content': memoryview(PNG)}, r"give its \['content'\]"),
        (3, 'cannot open a int as a picture'),
        (None, 'cannot open a NoneType as a picture'),
    ],
    ids=lambda o: repr(o)[:20],
)
def test_errors_are_short_and_say_what_to_do(src, says):
    for f in (decode, open_image, read_header):
        with pytest.raises((ImageError, TypeError), match=says) as e:
            f(src)
        assert len(str(e.value)) < 700


def test_a_cache_keeps_only_what_has_a_file():
    from vislearn.data.cache import PictureCache

    url = 'data:image/png;base64,' + base64.b64encode(PNG).decode()
    cache = PictureCache(np.int64(24))
    for _ in range(2):
        assert cache(url).shape == (3, 24, 32)
    assert (cache.used, cache.hits) == (0, 0)


def test_threads_that_open_one_file_keep_it_once(tmp_path):
    from vislearn.data.cache import PictureCache
    from vislearn.threads import Threads

    (tmp_path / 'a.png').write_bytes(PNG)
    cache = PictureCache(24)
    all_here = threading.Barrier(4)
    cut = cache._cut

    def cut_together(h, w):
        all_here.wait(60)
        return cut(h, w)

    cache._cut = cut_together
    with Threads(4) as pool:
        x, *_ = pool.map(cache, [tmp_path / 'a.png'] * 4)
    assert cache.misses == 4 and cache.used == x.numel()


def test_a_picture_whose_file_was_closed_says_so(tmp_path):
    (tmp_path / 'a.png').write_bytes(PNG)
    checked = Image.open(tmp_path / 'a.png')
    checked.verify()
    with Image.open(tmp_path / 'a.png') as left:
        pass
    for im in (checked, left):
        with pytest.raises(ImageError, match='its file was closed.*open it again'):
            open_image(im)


@pytest.mark.parametrize('several', [np.array(['a.png', 'b.png']), ('a.png', 'b.png'), {'a.png'}])
def test_several_pictures_are_sent_to_predict_batch(several):
    with pytest.raises(TypeError, match='for several pictures use predict_batch'):
        open_image(several)


@pytest.mark.parametrize('kind', ['PNG', 'JPEG'])
def test_a_lack_of_memory_is_not_the_pictures_fault(kind, monkeypatch):
    def fails(*args, **kwargs):
        raise MemoryError

    data = enc(RGB, kind)
    monkeypatch.setattr('vislearn.data.decode._upright', fails)
    with pytest.raises(MemoryError):
        decode(data)
    monkeypatch.undo()
    monkeypatch.setattr(Image.Image, 'getexif', fails)
    with pytest.raises(MemoryError):  # not a picture that lies on its side
        read_header(data)
