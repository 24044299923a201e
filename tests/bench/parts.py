"""Where the time of an epoch goes: waiting for pictures, training steps, validation, and the rest.

    python tests/bench/parts.py [--quick] [--rounds 2] [--data FOLDER] [--avx2]

The second epoch of `efficientnet_lite0` on four fifths of the photographs of ants and bees, 224 pixels, batches of 32, RandomResizedCrop and `aug_transforms()`, with the head (*frozen*), all but the early layers (`fine_tune`'s default at this size) or all layers learning;
the other fifth validates. Pictures are read and augmented by threads while the network computes, so both share the processors: beside it stand the same steps in a bare loop on batches that are
there, and the same pictures read and augmented while nothing else runs. `--avx2` holds the processor to AVX2 and 32 bits.
"""

import time

from bench import avx2_option, hold_to_avx2, mid, report, result
from sides import SIDES, compare, need_data, options, photos

CASES = ['frozen', 'all but early layers', 'all layers']


def seconds(f) -> float:
    begun = time.perf_counter()
    f()
    return time.perf_counter() - begun


def epoch(side, case: str) -> dict[str, float]:
    "Seconds of the parts of the second epoch."
    from vislearn.models.groups import early_params
    from vislearn.train.events import Callback

    class Clock(Callback):
        "Notes when what begins and ends."

        def __init__(self):
            self.parts = dict.fromkeys(('waiting', 'steps', 'validation', 'all'), 0.0)
            self.last = 0.0

        def passed(self, part: str | None = None) -> None:
            now = time.perf_counter()
            if part:
                self.parts[part] += now - self.last
            self.last = now

        def before_epoch(self, learn):
            self.__init__()
            self.begun = time.perf_counter()

        def before_train(self, learn):
            self.passed()

        def before_batch(self, learn):
            if learn.training:
                self.passed('waiting')

        def after_batch(self, learn):
            if learn.training:
                self.passed('steps')

        def before_validate(self, learn):
            self.passed()

        def after_validate(self, learn):
            self.passed('validation')

        def after_epoch(self, learn):
            self.parts['all'] = time.perf_counter() - self.begun

    learn, clock = side.learner('efficientnet_lite0'), Clock()
    learn.freeze() if case == 'frozen' else learn.unfreeze()
    for p in early_params(learn.model.body) if case == 'all but early layers' else ():
        p.requires_grad_(False)
    with learn.no_bar(), learn.no_logging():
        learn.fit(2, 1e-5, cbs=clock)
    return clock.parts


def bare(side, loader, case: str) -> dict[str, float]:
    "Seconds of the same steps on batches that are there, and of reading them."
    import torch

    xb = torch.rand(side.bs, 3, side.size, side.size).contiguous(memory_format=torch.channels_last)
    batches = [(xb, torch.randint(0, 2, (side.bs,)))] * len(loader)
    steps = side.steps('efficientnet_lite0', case == 'frozen', batches, early_frozen=case == 'all but early layers')
    steps()

    def read() -> None:
        for _ in loader:
            pass

    read()
    return {'bare steps': seconds(steps), 'reading alone': seconds(read)}


def work(name: str, case: str, args) -> None:
    if args.avx2:
        hold_to_avx2()
    size, bs = (64, 4) if args.quick else (224, 32)
    fns = photos(args.data, 24 if args.quick else None)
    side = SIDES[name](fns, size, bs)
    if name == 'vislearn':
        return result(**epoch(side, case))
    result(**bare(side, SIDES['vislearn'](fns, size, bs).dls.train, case))


def main() -> None:
    p = options(__doc__)
    avx2_option(p)
    args = p.parse_args()
    need_data(args)
    if args.worker:
        return work(args.worker, args.case, args)
    raws = {o: compare(__file__, o, ['vislearn', 'limit'], args) for o in (CASES[:1] if args.quick else CASES)}
    report('parts', [row(case, raw['vislearn'], raw['limit']) for case, raw in raws.items()], raws, args)


def row(case: str, ours: list[dict], limit: list[dict]) -> dict:
    at = {k: mid(ours, k) for k in ours[0]}
    return {
        'epoch': case,
        'seconds': at['all'],
        'waiting for pictures': at['waiting'],
        'steps': at['steps'],
        'validation': at['validation'],
        'rest': at['all'] - at['waiting'] - at['steps'] - at['validation'],
        'bare steps': mid(limit, 'bare steps'),
        'reading alone': mid(limit, 'reading alone'),
    }


if __name__ == '__main__':
    main()
