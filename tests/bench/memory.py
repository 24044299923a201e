"""Memory: the most that a process ever held, and whether it grows from epoch to epoch.

    python tests/bench/memory.py [--quick] [--rounds 3] [--fastai-python PATH] [--data FOLDER]

`fine_tune(1)`: a frozen and an unfrozen epoch of efficientnet_lite0 on the photographs of ants and bees, 224 pixels, batches of 32. The limit: a bare
PyTorch loop with the same arithmetic, its pictures read by the same threads. `20 epochs`: resnet18 at 64 pixels, held after 3 epochs and after 20.
"""

from itertools import islice
from pathlib import Path

from ants_and_bees import peak_gb
from bench import mid, report, result
from sides import SIDES, Vislearn, compare, need_data, options, photos, present, shares


def held_gb() -> float:
    "What the process holds now (Linux; elsewhere the most so far)."
    f = Path('/proc/self/statm')
    return int(f.read_text().split()[1]) * 4096 / 2**30 if f.exists() else peak_gb()


def bare(side, quick: bool) -> None:
    loader = Vislearn(side.fns, side.size, side.bs).loaders().train
    for frozen in (True, False):

        def normalised():
            for xb, yb in islice(iter(loader), 2 if quick else None):
                yield xb.mul_(2).sub_(1), yb

        side.steps('efficientnet_lite0', frozen, normalised())()


def work(name: str, case: str, args) -> None:
    quick = args.quick
    side = SIDES[name](
        photos(args.data, 24 if quick else None), 64 if quick or case == '20 epochs' else 224, 4 if quick else 32
    )
    if case == '20 epochs':
        learn, held = side.learner('resnet18'), []
        if name == 'fastai':
            from fastai.callback.core import Callback
        else:
            from vislearn.train.events import Callback

        class Watch(Callback):
            def after_epoch(self, learn=None):
                held.append(held_gb())

        with learn.no_bar(), learn.no_logging():
            learn.fit(4 if quick else 20, cbs=Watch())
        return result(peak_gb=peak_gb(), after_3=held[2], last=held[-1])
    if name == 'limit':
        bare(side, quick)
    else:
        learn = side.learner('efficientnet_lite0')
        with learn.no_bar(), learn.no_logging():
            learn.fine_tune(1)
    result(peak_gb=peak_gb())


def main() -> None:
    args = options(__doc__).parse_args()
    if args.worker:
        return work(args.worker, args.case, args)
    need_data(args)
    raws = {
        case: compare(__file__, case, [o for o in present(SIDES, args) if (o, case) != ('limit', '20 epochs')], args)
        for case in ('fine_tune(1)', '20 epochs')
    }
    grown = {o: f'{mid(rs, "last") / mid(rs, "after_3"):.3f}' for o, rs in raws['20 epochs'].items()}
    rows = [shares(case, raw, 'peak_gb') for case, raw in raws.items()]
    report(
        'memory',
        [
            {'limit peak_gb': '-'}
            | rows[i]
            | {
                'vislearn, epoch 20 of epoch 3': ['-', grown['vislearn']][i],
                'fastai, epoch 20 of epoch 3': ['-', grown.get('fastai', '-')][i],
            }
            for i in (0, 1)
        ],
        raws,
        args,
    )


if __name__ == '__main__':
    main()
