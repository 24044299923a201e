"""How the cost grows with the number of pictures and of workers.

    python tests/bench/growth.py [--quick] [--rounds 3] [--fastai-python PATH]

1,000, 10,000 and 50,000 JPEG files of 32x32 pixels in two folders: seconds from the folder to loaders and to the first batch, and pictures per second over
the training epoch (Resize(32), batches of 64); then, with 10,000, by the number and kind of workers.
"""

import shutil
import tempfile
import time
from pathlib import Path

from bench import mid, report, result
from sides import compare, options, present


def make(path: Path, n: int, distinct: int = 500) -> Path:
    "A folder of `n` small pictures, of which `distinct` differ."
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(n):
        f = path / ('ab'[i % 2]) / f'{i:06}.jpg'
        f.parent.mkdir(parents=True, exist_ok=True)
        if i < distinct:
            Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((32, 32)).save(f)
        else:
            shutil.copyfile(path / ('ab'[i % 2]) / f'{(i % distinct) // 2 * 2 + i % 2:06}.jpg', f)
    return path


def work(side: str, path: Path, workers: str) -> None:
    if side == 'fastai':
        from fastai.vision.all import (
            CategoryBlock,
            DataBlock,
            ImageBlock,
            RandomSplitter,
            Resize,
            get_image_files,
            parent_label,
        )
    else:
        from vislearn.all import (
            CategoryBlock,
            DataBlock,
            ImageBlock,
            RandomSplitter,
            Resize,
            get_image_files,
            parent_label,
        )
    n, kind = workers.split()
    start = time.perf_counter()
    block = DataBlock(
        (ImageBlock, CategoryBlock),
        get_items=get_image_files,
        splitter=RandomSplitter(0.2, seed=0),
        get_y=parent_label,
        item_tfms=Resize(32),
    )
    dls = block.dataloaders(path, bs=64, num_workers=int(n), **({} if side == 'fastai' else dict(workers=kind, seed=0)))
    made = time.perf_counter()
    next(iter(dls.train))
    first = time.perf_counter()
    count = sum(len(b[0]) for b in dls.train)
    result(loaders=made - start, batch=first - made, per_second=count / (time.perf_counter() - first))


def main() -> None:
    args = options(__doc__).parse_args()
    if args.worker:
        return work(args.worker, args.data, args.case)
    cases = (
        [(200, '2 thread')]
        if args.quick
        else [
            *((n, '2 thread') for n in (1000, 10_000, 50_000)),
            *((10_000, o) for o in ('0 thread', '1 thread', '4 thread', '2 process')),
        ]
    )
    rows, raws = [], {}
    with tempfile.TemporaryDirectory() as tmp:
        for n, workers in cases:
            path = Path(tmp) / str(n)
            if not path.exists():
                make(path, n)
            raw = raws[f'{n} {workers}'] = compare(
                __file__,
                workers,
                [o for o in present(('vislearn', 'fastai'), args) if (o, workers) != ('fastai', '2 process')],
                args,
                path,
            )
            for o in raw:
                speed = mid(raw[o], 'per_second')
                rows.append(
                    {
                        'pictures': f'{n:,}',
                        'workers': workers if o == 'vislearn' else workers.replace('thread', 'process'),
                        'side': o,
                        'to loaders, s': mid(raw[o], 'loaders'),
                        'to the first batch, s': mid(raw[o], 'batch'),
                        'pictures/s': f'{speed:.0f}',
                        'times fastai': speed / mid(raw['fastai'], 'per_second') if 'fastai' in raw else '-',
                    }
                )
    report('growth', rows, raws, args)


if __name__ == '__main__':
    main()
