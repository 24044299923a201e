"""A data set of a million small pictures: time to loaders, to the first batch, for an epoch, and memory per item.

    python tests/bench/large.py              # an Arrow file with a million pictures, made on the fly
    python tests/bench/large.py --kind lists # a million paths and labels in two lists
    python tests/bench/large.py --n 100000   # a smaller one

The pictures are JPEGs of 16 pixels in a memory-mapped Arrow file; memory is what the process holds of its own
(without the pages of the file) above what it held before the loaders were made.
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from vislearn.data.resize import Resize
from vislearn.data.sources import ImageDataLoaders

CLASSES = [f'class {i}' for i in range(100)]


def jpegs(n: int = 256) -> list[bytes]:
    "Different little pictures, to be used again and again."
    rng = np.random.default_rng(0)
    res = []
    for _ in range(n):
        f = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(f, 'jpeg')
        res.append(f.getvalue())
    return res


def write_table(folder: Path, n: int) -> Path:
    "An Arrow file of `n` pictures with their classes."
    from datasets import ClassLabel, Features
    from datasets import Image as Picture
    from datasets.arrow_writer import ArrowWriter

    features = Features({'image': Picture(), 'label': ClassLabel(names=CLASSES)})
    pictures = jpegs()
    file = folder / 'table.arrow'
    with ArrowWriter(features=features, path=str(file)) as writer:
        for start in range(0, n, 10_000):
            rows = range(start, min(start + 10_000, n))
            images = [{'bytes': pictures[i % len(pictures)], 'path': None} for i in rows]
            writer.write_batch({'image': images, 'label': [i * 7 % len(CLASSES) for i in rows]})
        writer.finalize()
    return file


def own_memory() -> int:
    "Bytes that this process holds, without pages of files."
    memory = psutil.Process().memory_info()
    return memory.rss - memory.shared


def write_pictures(folder: Path) -> list[str]:
    "The little pictures as files."
    files = []
    for i, picture in enumerate(jpegs()):
        file = folder / f'{i:03}.jpg'
        file.write_bytes(picture)
        files.append(str(file))
    return files


def sources(kind: str, n: int, folder: Path) -> tuple[Callable, Callable]:
    "How loaders are made of all items, and of a thousand of them."
    if kind == 'table':
        from datasets import Dataset

        table = Dataset.from_file(str(write_table(folder, n)))
        few = table.select(range(1000))
        make = ImageDataLoaders.from_dataset
        return (lambda **options: make(table, **options)), (lambda **options: make(few, **options))
    files = write_pictures(folder)
    paths = [files[i % len(files)] for i in range(n)]
    labels = [CLASSES[i * 7 % len(CLASSES)] for i in range(n)]
    listed = ImageDataLoaders.from_lists
    return (
        lambda **options: listed('.', paths, labels, **options),
        lambda **options: listed('.', paths[:1000], labels[:1000], **options),
    )


def measure(kind: str, n: int, bs: int, batches: int, passes: int) -> dict[str, str]:
    "What the loaders of such data cost."
    with tempfile.TemporaryDirectory() as folder:
        make, make_few = sources(kind, n, Path(folder))
        make_few(item_tfms=Resize(16), bs=bs, seed=0).one_batch()
        before = own_memory()
        start, used = time.perf_counter(), time.process_time()
        dls = make(item_tfms=Resize(16), bs=bs, seed=0)
        made, used = time.perf_counter(), time.process_time() - used
        per_item = (own_memory() - before) / n
        next(iter(dls.train))
        first = time.perf_counter()
        dls.train.order(0)
        ordered = time.perf_counter()
        rates = []
        for _ in range(passes):  # as far as `batches` goes
            begin = time.perf_counter()
            seen = sum(len(y) for _, (_, y) in zip(range(batches), dls.train))
            rates.append(seen / (time.perf_counter() - begin))
        return {
            'items': f'{n:,}',
            'time to loaders': f'{made - start:.2f} s, of which {used:.2f} s on the processor',
            'first batch after': f'{first - made:.2f} s',
            'order of an epoch': f'{ordered - first:.2f} s',
            'memory per item': f'{per_item:.0f} bytes',
            'pictures per second': ', then '.join(f'{r:,.0f}' for r in rates),
            'memory per item after that': f'{(own_memory() - before) / n:.0f} bytes',
        }


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--n', type=int, default=1_000_000, help='pictures')
    parser.add_argument('--bs', type=int, default=64, help='pictures per batch')
    parser.add_argument('--batches', type=int, default=200, help='batches of each pass')
    parser.add_argument('--passes', type=int, default=3, help='passes over so many batches')
    parser.add_argument('--kind', choices=['table', 'lists'], default='table', help='an Arrow file, or lists of paths')
    args = parser.parse_args()
    for name, value in measure(args.kind, args.n, args.bs, args.batches, args.passes).items():
        print(f'{name:28}{value}')
