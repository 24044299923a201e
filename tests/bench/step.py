"""Steps of training, in milliseconds.

    python tests/bench/step.py [--quick] [--rounds 3] [--fastai-python PATH]

`frozen` and `unfrozen`: a step on 32 pictures of 224x224 that are at hand, with only the head or with all layers learning (the limit: a PyTorch loop with
vislearn's arithmetic, so that the ratio is what the loop costs). fastai's frozen norms learn, as is its default.
"""

from bench import report, result
from sides import SIDES, compare, options, present, shares, timed

CASES = ['frozen efficientnet_lite0', 'unfrozen efficientnet_lite0', 'frozen resnet18', 'unfrozen resnet18']


def fakes(path, n: int = 10) -> list:
    "Files enough to make loaders of."
    from PIL import Image

    for i in range(n):
        (path / 'xy'[i % 2]).mkdir(exist_ok=True)
        Image.new('RGB', (32, 32)).save(path / 'xy'[i % 2] / f'{i}.jpg')
    return sorted(path.glob('*/*.jpg'))


def work(side: str, case: str, quick: bool) -> None:
    import tempfile
    from pathlib import Path

    import torch

    size, bs, n, reps = (
        (64, 4, 2, 1) if quick else (224, 32, 4 if side == 'fastai' else 16 if case.startswith('unfrozen') else 32, 1)
    )
    side_, cl = SIDES[side](fakes(Path(tempfile.mkdtemp())), size), side != 'fastai'
    state, arch = case.split()
    xb = torch.rand(bs, 3, size, size)
    batches = [(xb.contiguous(memory_format=torch.channels_last) if cl else xb, torch.randint(0, 2, (bs,)))] * n
    result(ms=1000 * timed(side_.steps(arch, state == 'frozen', batches), reps) / n)


def main() -> None:
    args = options(__doc__).parse_args()
    if args.worker:
        return work(args.worker, args.case, args.quick)
    raws = {case: compare(__file__, case, present(SIDES, args), args) for case in (CASES[:1] if args.quick else CASES)}
    report('step', [shares(case, raw, 'ms') for case, raw in raws.items()], raws, args)


if __name__ == '__main__':
    main()
