"""Augmentation of a batch, in milliseconds; and whether the random crop should be part of its resample.

    python tests/bench/augment.py [--quick] [--rounds 3] [--fastai-python PATH] [--data FOLDER]

`augment`: 64 pictures of 224x224 uint8 to augmented, normalised floats by `aug_transforms()` (the limit: conversion alone). `one picture`: a decoded
photograph to the same, in one thread: the random crop resized on bytes and then augmented (vislearn), beside crop and augmentation as one resample (merged).
"""

from bench import mid, report, result
from sides import SIDES, compare, options, photos, present, shares, timed
from step import fakes


def batch(side: str, quick: bool) -> None:
    import tempfile
    from pathlib import Path

    import torch

    size = 64 if quick else 224
    side_ = SIDES[side](fakes(Path(tempfile.mkdtemp())), size)
    xb = torch.randint(0, 256, (8 if quick else 64, 3, size, size), dtype=torch.uint8)
    if side != 'fastai':
        xb = xb.contiguous(memory_format=torch.channels_last)
    result(ms=1000 * timed(lambda: side_.augment(xb), 1 if quick else 30))


def single(way: str, args) -> None:
    import random

    import torch

    from vislearn.all import Normalize, RandomResizedCrop, aug_transforms
    from vislearn.data.augment import Fused
    from vislearn.data.geometry import resample
    from vislearn.data.image import apply_cut, open_image
    from vislearn.malloc import keep_memory

    keep_memory()
    torch.set_num_threads(1)
    size, rng = 64 if args.quick else 224, random.Random(0)
    crop, norm, (colour, geometry) = (
        RandomResizedCrop(size, min_scale=0.35),
        Normalize([0.5] * 3, [0.5] * 3),
        aug_transforms(),
    )
    xs = [open_image(f) for f in photos(args.data, 8 if args.quick else 100)]
    both = Fused([colour, geometry, norm])

    def apart():
        for x in xs:
            both(apply_cut(x, crop.cut(*x.shape[-2:], rng))[None])

    def merged():
        for x in xs:
            (l, t, w, h), (_H, _W) = crop.cut(*x.shape[-2:], rng).box, x.shape[-2:]
            t, l = max(0, t - h // 8), max(0, l - w // 8)  # what the warp may show beyond the crop
            part = x[None, :, t : t + h + h // 4, l : l + w + w // 4]
            (ph, pw), m = part.shape[-2:], torch.eye(3, dtype=torch.float64)[None]
            m[:, 0, 0], m[:, 1, 1] = w / pw, h / ph
            norm(resample(colour(part), m @ geometry.plan(1, (size, size)), (size, size)))

    result(ms=1000 * timed({'vislearn': apart, 'merged': merged}[way], 1 if args.quick else 5) / len(xs))


def main() -> None:
    args = options(__doc__).parse_args()
    if args.worker:
        return batch(args.worker, args.quick) if args.case == 'augment' else single(args.worker, args)
    raws = {'augment': compare(__file__, 'augment', present(SIDES, args), args)}
    rows = [shares('augment', raws['augment'], 'ms')]
    if args.data.exists():
        raw = raws['one picture'] = compare(__file__, 'one picture', ['vislearn', 'merged'], args)
        at = {o: mid(raw[o], 'ms') for o in raw}
        rows = [
            rows[0] | {'merged ms': '-', 'of merged': '-'},
            {k: '-' for k in rows[0]}
            | {
                '': 'one picture',
                'vislearn ms': at['vislearn'],
                'merged ms': at['merged'],
                'of merged': at['vislearn'] / at['merged'],
            },
        ]
    report('augment', rows, raws, args)


if __name__ == '__main__':
    main()
