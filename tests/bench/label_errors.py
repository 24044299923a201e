"""How many false labels the audit finds: 5 % of the labels of ants and bees flipped at random, judged out of fold.

    python tests/bench/label_errors.py [--quick] [--rounds 5] [--share .05] [--size 224] [--data FOLDER]

Each round flips other labels and deals other folds. Precision: accused labels that were flipped; recall: flipped labels that were accused.
"""

import random
import time
from pathlib import Path

from ants_and_bees import is_photo
from bench import interleave, report
from sides import need_data, options


def one_round(files: list[Path], share: float, size: int, seed: int) -> dict[str, float]:
    from vislearn.clean.folds import cross_validate, find_label_errors
    from vislearn.data.block import CategoryBlock, DataBlock, ImageBlock
    from vislearn.data.labels import parent_label
    from vislearn.data.resize import Resize

    names = sorted({parent_label(f) for f in files})
    rng = random.Random(seed)
    flipped = set(rng.sample(files, round(share * len(files))))
    label = {
        f: rng.choice([o for o in names if o != parent_label(f)]) if f in flipped else parent_label(f) for f in files
    }
    block = DataBlock((ImageBlock, CategoryBlock), get_items=lambda o: files, get_y=label.get, item_tfms=Resize(size))
    start = time.perf_counter()
    oof = cross_validate(block, files, seed=seed)
    accused = [oof.items[i] for i, *_ in find_label_errors(oof.probs, oof.targs)]
    hits = sum(f in flipped for f in accused)
    return dict(
        flipped=len(flipped),
        accused=len(accused),
        hits=hits,
        precision=hits / max(1, len(accused)),
        recall=hits / max(1, len(flipped)),
        seconds=time.perf_counter() - start,
    )


def main() -> None:
    p = options(__doc__)
    p.add_argument('--share', type=float, default=0.05, help='of the labels that are flipped')
    p.add_argument('--size', type=int, default=224, help='pixels')
    args = p.parse_args()
    need_data(args)
    if args.quick:
        args.rounds, args.size = 1, 64
    files = sorted(f for f in args.data.glob('*/*/*') if is_photo(f))[:: 12 if args.quick else 1]
    raw = interleave({'vislearn': lambda i: one_round(files, args.share, args.size, i)}, args.rounds)
    rows = [{'round': i} | r for i, r in enumerate(raw['vislearn'])]
    rows.append({'round': 'mean'} | {k: sum(r[k] for r in raw['vislearn']) / args.rounds for k in raw['vislearn'][0]})
    report('label_errors', rows, raw, args)


if __name__ == '__main__':
    main()
