"""Threads or processes? Pictures per second through a loader with four kinds of item transform.

    python tests/bench/workers.py [--quick] [--rounds 3] [--data FOLDER]

Photographs of ants and bees at 224 pixels, batches of 32, as many workers as processors. *none*: pictures of 32 pixels as they are; *crop*: RandomResizedCrop;
*Pillow*: the crop, then blur, contrast, colour and sharpness by Pillow, which lets other threads run; *Python*: the crop, then many small NumPy calls and a
loop in Python, as augmentation libraries have them, which hold Python's lock. `first` is the first pass (processes start in it), `later` the median of the next
two.
"""

import os
import random
import time
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from bench import mid, report, result
from PIL import Image, ImageEnhance, ImageFilter
from sides import compare, need_data, options, photos

WAYS = {
    'threads': dict(workers='thread'),
    'processes': dict(workers='process'),
    'neither': dict(num_workers=0),
}
CASES = ('none', 'crop', 'Pillow', 'Python')


def pillow(image: Image.Image) -> Image.Image:
    "Blur, contrast, colour and sharpness by Pillow."
    image = image.filter(ImageFilter.GaussianBlur(3))
    for kind in (ImageEnhance.Contrast, ImageEnhance.Color, ImageEnhance.Sharpness):
        image = kind(image).enhance(random.uniform(0.7, 1.3))
    return image


def python(image: Image.Image) -> Image.Image:
    "Forty rectangles moved in brightness and a table of grey values made in Python."
    pixels = np.array(image)
    for _ in range(40):
        y, x = random.randrange(200), random.randrange(200)
        part = pixels[y : y + 24, x : x + 24].astype(np.int16)
        pixels[y : y + 24, x : x + 24] = np.clip(part + random.randint(-30, 30), 0, 255)
    gamma = random.uniform(0.8, 1.25)
    table = [int(255 * (i / 255) ** gamma) for i in range(256)] * 3
    for i in range(20_000):  # the arithmetic that a pure Python transform does
        gamma += i
    return Image.fromarray(pixels).point(table)


def transforms(case: str) -> list:
    from vislearn.all import RandomResizedCrop

    crop = RandomResizedCrop(224, min_scale=0.35)
    return {'none': [], 'crop': [crop], 'Pillow': [crop, pillow], 'Python': [crop, python]}[case]


def small(files: list, folder: str) -> list:
    "The pictures as PNG files of 32 pixels, sixteen times over."
    res = []
    for i, f in enumerate(files):
        for k in range(16):
            res.append(os.path.join(folder, f'{i}_{k}.png'))
            Image.open(f).convert('RGB').resize((32, 32)).save(res[-1])
    return res


def work(way: str, case: str, args) -> None:
    from vislearn.all import CategoryBlock, DataBlock, EndSplitter, ImageBlock

    files = photos(args.data, 48 if args.quick else None)
    with TemporaryDirectory() as folder:
        files = small(files[:200], folder) if case == 'none' else files
        block = DataBlock(
            (ImageBlock, CategoryBlock), splitter=EndSplitter(0.1), get_y=label, item_tfms=transforms(case)
        )
        dl = block.dataloaders(files, bs=32, drop_last=False, seed=0, **WAYS[way]).train
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            n = sum(len(b[0]) for b in dl)
            seconds.append(time.perf_counter() - start)
    result(first=n / seconds[0], later=n / median(seconds[1:]))


def label(file: object) -> str:
    "Any two classes do: nothing is learned here."
    return 'ab'[len(os.path.basename(file)) % 2]


def main() -> None:
    args = options(__doc__).parse_args()
    if args.worker:
        return work(args.worker, args.case, args)
    need_data(args)
    rows, raws = [], {}
    for case in CASES[:1] if args.quick else CASES:
        raw = raws[case] = compare(__file__, case, list(WAYS), args)
        threads = mid(raw['threads'], 'later')
        rows += [
            {
                'item transforms': case,
                'workers': o,
                'first, pictures/s': f'{mid(raw[o], "first"):.0f}',
                'later, pictures/s': f'{mid(raw[o], "later"):.0f}',
                'later, of threads': mid(raw[o], 'later') / threads,
            }
            for o in raw
        ]
    report('workers', rows, raws, args)


if __name__ == '__main__':
    main()
