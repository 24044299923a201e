"Large data: tar shards of webdataset, and a great many items, without a Python object for each."

import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vislearn.data.resize import Resize
from vislearn.data.sources import ImageDataLoaders


def write_shard(file: Path, first: int, n: int) -> None:
    "A tar with `NUMBER.jpg` and `NUMBER.cls` for each picture; its grey says its number, and one picture is damaged."
    with tarfile.open(file, 'w') as tar:
        for i in range(first, first + n):
            picture = io.BytesIO()
            Image.fromarray(np.full((20, 24, 3), i * 8, np.uint8)).save(picture, 'jpeg')
            content = b'no picture' if i == 3 else picture.getvalue()
            for suffix, data in (('jpg', content), ('cls', str(i % 3).encode())):
                member = tarfile.TarInfo(f'{i:05}.{suffix}')
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def test_webdataset_shards_are_read_without_decoding_for_labels(tmp_path, monkeypatch):
    datasets = pytest.importorskip(
        'datasets', reason='Hugging Face data sets are an extra: pip install vislearn[shards]'
    )
    monkeypatch.setattr(datasets.config, 'HF_DATASETS_OFFLINE', True, raising=False)
    files = [str(tmp_path / f'shard-{i}.tar') for i in range(2)]
    for i, file in enumerate(files):
        write_shard(Path(file), first=12 * i, n=12)
    table = datasets.load_dataset(
        'webdataset', data_files={'train': files}, split='train', cache_dir=str(tmp_path / 'c')
    )
    dls = ImageDataLoaders.from_dataset(
        table,
        x_key='jpg',
        y_key='cls',
        item_tfms=Resize(16),
        bs=4,
        seed=0,
        num_workers=0,
        device='cpu',
        bad_images='raise',
    )
    assert dls.vocab == [0, 1, 2] and dls.train.n + dls.valid.n == 24
    for i, item in enumerate(dls.train_ds.items):
        number = item.x.i
        if number == 3:
            continue  # the damaged one, which nobody has looked at
        x, y = dls.train.load([i])
        assert y.item() == number % 3 and abs(x.float().mean().item() - number * 8) < 3


def own_memory() -> int:
    psutil = pytest.importorskip('psutil', reason="memory is read with psutil: pip install 'vislearn[dev]'")
    memory = psutil.Process().memory_info()
    return memory.rss - memory.shared


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='memory is read from /proc')
def test_a_hundred_thousand_paths_take_less_than_a_kilobyte_each(tmp_path):
    file = tmp_path / 'picture.jpg'
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(file)
    n = 100_000
    paths, labels = [str(file)] * n, [f'class {i % 100}' for i in range(n)]
    few = ImageDataLoaders.from_lists('.', paths[:500], labels[:500], item_tfms=Resize(16), bs=8, seed=0, device='cpu')
    few.one_batch()
    before = own_memory()
    dls = ImageDataLoaders.from_lists('.', paths, labels, item_tfms=Resize(16), bs=8, seed=0, device='cpu')
    next(iter(dls.train))
    assert (own_memory() - before) / n < 1024
    assert dls.train_ds.y.shape == (80_000,) and dls.train_ds.y.element_size() <= 8
