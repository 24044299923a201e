"""How many false labels the audit finds: 5 % of the labels of ants and bees flipped at random, judged out of fold.

    python tests/bench/label_errors.py [--rounds 5] [--share .05] [--size 224] [--data FOLDER]

Each round flips other labels and deals other folds. Precision: accused labels that were flipped; recall: flipped labels that were accused.
"""
import argparse, random, time
from pathlib import Path

from vislearn.audit import cross_validate, find_label_errors
from vislearn.block import CategoryBlock, DataBlock, ImageBlock
from vislearn.files import get_image_files, parent_label
from vislearn.image import Resize


def one_round(files: list[Path], share: float, size: int, seed: int) -> dict[str, float]:
    names = sorted({parent_label(f) for f in files})
    rng = random.Random(seed)
    flipped = set(rng.sample(files, round(share*len(files))))
    label = {f: rng.choice([o for o in names if o != parent_label(f)]) if f in flipped else parent_label(f) for f in files}
    block = DataBlock((ImageBlock, CategoryBlock), get_items=lambda o: files, get_y=label.get, item_tfms=Resize(size))
    start = time.perf_counter()
    oof = cross_validate(block, files, seed=seed)
    accused = [oof.items[i] for i, *_ in find_label_errors(oof.probs, oof.targs)]
    hits = sum(f in flipped for f in accused)
    return dict(flipped=len(flipped), accused=len(accused), hits=hits, precision=hits/max(1, len(accused)), recall=hits/max(1, len(flipped)), seconds=time.perf_counter()-start)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', type=Path, default=Path(__file__).resolve().parents[3]/'shared/data/ants_and_bees', help='folder with a folder for each class, at any depth')
    p.add_argument('--rounds', type=int, default=5)
    p.add_argument('--share', type=float, default=.05)
    p.add_argument('--size', type=int, default=224)
    a = p.parse_args()
    files, rows = get_image_files(a.data), []
    print(f'{len(files)} pictures\n\n| round | flipped | accused | of them flipped | precision | recall | seconds |\n|---|---|---|---|---|---|---|')
    for seed in range(a.rounds):
        rows.append(r := one_round(files, a.share, a.size, seed))
        print(f"| {seed} | {r['flipped']} | {r['accused']} | {r['hits']} | {r['precision']:.2f} | {r['recall']:.2f} | {r['seconds']:.0f} |", flush=True)
    mean = lambda k: sum(r[k] for r in rows)/len(rows)
    print(f"| mean | {mean('flipped'):.0f} | {mean('accused'):.1f} | {mean('hits'):.1f} | {mean('precision'):.2f} | {mean('recall'):.2f} | {mean('seconds'):.0f} |")


if __name__ == '__main__': main()
