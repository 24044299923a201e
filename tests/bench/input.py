"""The input pipeline: from JPEG files to augmented float batches, in pictures per second.

    python tests/bench/input.py [--quick] [--rounds 3] [--fastai-python PATH] [--data FOLDER]

Photographs of ants and bees, batches of 32; with RandomResizedCrop alone and with aug_transforms() after it, at 224 and 128 pixels. `later epochs`
are those after the first with cache='ram'. The limit is decoding the files alone, by simplejpeg in threads.
"""

from bench import mid, report, result
from sides import SIDES, compare, need_data, options, photos, present, timed

WAYS = {
    'limit': {},
    'fastai': {},
    'vislearn': {},
    'vislearn, processes': dict(workers='process'),
    'vislearn, 0 workers': dict(num_workers=0),
    'vislearn, later epochs': dict(cache='ram'),
}


def work(way: str, case: str, args) -> None:
    size, aug = int(case.split(':')[0]), case.endswith('aug')
    fns = photos(args.data, 48 if args.quick else None)
    side = SIDES[way.split(',')[0]](fns, size, aug=aug)
    secs = timed(side.epoch(**WAYS[way]), 1 if args.quick else 2)
    result(per_second=(len(fns) - int(0.2 * len(fns))) / secs)


def main() -> None:
    args = options(__doc__).parse_args()
    if args.worker:
        return work(args.worker, args.case, args)
    need_data(args)
    rows, raws = [], {}
    for case in ['64:aug'] if args.quick else ['224:crop', '224:aug', '128:crop', '128:aug']:
        raw = raws[case] = compare(__file__, case, present(WAYS, args), args)
        speed = {o: mid(raw[o], 'per_second') for o in raw}
        size, kind = case.split(':')
        rows += [
            {
                'pixels': size,
                'transforms': 'crop' if kind == 'crop' else 'crop, augment',
                '': o,
                'pictures/s': f'{speed[o]:.0f}',
                'times fastai': speed[o] / speed['fastai'] if 'fastai' in speed else '-',
                'of decoding alone': speed[o] / speed['limit'],
            }
            for o in raw
        ]
    report('input', rows, raws, args)


if __name__ == '__main__':
    main()
