"""The three sides of the benchmarks of parts: vislearn, fastai, and the bare limit (decoding alone; PyTorch loops with vislearn's arithmetic).

Each does the same work through its own usual code: photographs, RandomResizedCrop, `aug_transforms()`, a body with ImageNet statistics, batches of `bs`.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from statistics import median

from bench import call, has, interleave, mid, parser

HERE = Path(__file__).resolve().parent
MIN_SCALE = 0.35


def photos(path: Path, n: int | None = None) -> list[Path]:
    "The JPEG files two folders deep, their classes mixed."
    return sorted(path.glob('*/*/*.jpg'), key=lambda f: f.name)[:n]


def timed(f, reps: int) -> float:
    "Seconds of `f()`: the median of `reps` calls after one to warm up."
    f()
    secs = []
    for _ in range(reps):
        start = time.perf_counter()
        f()
        secs.append(time.perf_counter() - start)
    return median(secs)


class Vislearn:
    "What vislearn does."

    def __init__(self, fns: list[Path], size: int, bs: int = 32, aug: bool = True, **kw: object):
        from vislearn.all import (
            CategoryBlock,
            DataBlock,
            EndSplitter,
            ImageBlock,
            RandomResizedCrop,
            aug_transforms,
            parent_label,
        )

        self.block = DataBlock(
            (ImageBlock, CategoryBlock),
            splitter=EndSplitter(0.2),
            get_y=parent_label,
            item_tfms=RandomResizedCrop(size, min_scale=MIN_SCALE),
            batch_tfms=aug_transforms() if aug else None,
        )
        self.fns, self.bs, self.kw = fns, bs, kw
        self.dls = self.loaders()

    def loaders(self, **kw):
        return self.block.dataloaders(self.fns, bs=self.bs, drop_last=False, seed=0, **self.kw, **kw)

    def learner(self, arch: str, **kw):
        from vislearn.all import vision_learner

        return vision_learner(
            self.dls, arch, pretrained=arch.startswith('efficientnet_lite'), train_bn=False, bn_momentum=0.0, **kw
        )

    def epoch(self, **kw):
        "A pass over the training pictures as a function; with cache='ram' the passes after the first."
        dl = self.loaders(**kw).train
        if kw.get('cache'):
            sum(len(b[0]) for b in dl.iter_from(0))
        return lambda: sum(len(b[0]) for b in dl)

    def augment(self, xb):
        from vislearn.malloc import keep_memory

        keep_memory()  # as a loader does
        return self.dls.train.batch_tfms(xb)

    def steps(self, arch: str, frozen: bool, batches: list):
        "A pass of training over given batches as a function."
        learn = self.learner(arch)
        learn.freeze() if frozen else learn.unfreeze()
        learn.dls = Batches(batches, self.dls)

        def run():
            with learn.no_bar(), learn.no_logging():
                learn.fit(1, 1e-5)

        return run


class Batches(list):
    "Loaders (training alone) whose batches are given."

    def __init__(self, batches: list, dls):
        super().__init__([batches, []])
        self.target, self.device, self.path = dls.target, dls.device, dls.path


class Fastai:
    "The same in fastai."

    def __init__(self, fns: list[Path], size: int, bs: int = 32, aug: bool = True, workers: int | None = None):
        from fastai.vision.all import (
            CategoryBlock,
            DataBlock,
            EndSplitter,
            ImageBlock,
            Normalize,
            RandomResizedCrop,
            aug_transforms,
            parent_label,
        )

        block = DataBlock(
            (ImageBlock, CategoryBlock),
            splitter=EndSplitter(0.2),
            get_y=parent_label,
            item_tfms=RandomResizedCrop(size, min_scale=MIN_SCALE),
            batch_tfms=[*(aug_transforms() if aug else []), Normalize.from_stats([0.5] * 3, [0.5] * 3)],
        )
        self.fns, self.bs = fns, bs
        self.dls = block.dataloaders(
            fns, bs=bs, drop_last=False, num_workers=min(2, os.cpu_count()) if workers is None else workers
        )

    def learner(self, arch: str):
        from fastai.vision.all import ProgressCallback, resnet18, vision_learner

        return vision_learner(self.dls, resnet18 if arch == 'resnet18' else f'tf_{arch}', pretrained=False).remove_cb(
            ProgressCallback
        )

    def epoch(self, **kw):
        return lambda: sum(len(b[0]) for b in self.dls.train)

    def augment(self, xb):
        from fastai.vision.all import TensorImage

        return self.dls.train.after_batch((TensorImage(xb),))

    def steps(self, arch: str, frozen: bool, batches: list):
        from fastai.vision.all import DataLoaders

        learn = self.learner(arch)
        learn.freeze() if frozen else learn.unfreeze()
        learn.dls = DataLoaders(Plain(batches), Plain([]))

        def run():
            with learn.no_bar(), learn.no_logging():
                learn.fit(1, 1e-5)

        return run


class Plain(list):
    "Batches with what fastai asks of a loader."

    device, bs, n_inp, fake_l, dataset = None, 32, 1, None, ()


class Bare:
    "The limit: decoding alone; what any program must do with the same arithmetic."

    def __init__(self, fns: list[Path], size: int, bs: int = 32, aug: bool = True):
        from vislearn.malloc import keep_memory

        keep_memory()
        self.fns, self.size, self.bs = fns, size, bs

    def model(self, arch: str):
        import torch

        from vislearn.models.create import create_model

        return create_model(arch, 2, pretrained=arch.startswith('efficientnet_lite')).to(
            memory_format=torch.channels_last
        )

    def epoch(self, **kw):
        "Decoding the training pictures (80 %) at their full size, in threads."
        from concurrent.futures import ThreadPoolExecutor

        import simplejpeg

        fns = self.fns[: len(self.fns) - int(0.2 * len(self.fns))]
        pool = ThreadPoolExecutor(os.cpu_count())
        return lambda: len(list(pool.map(lambda f: simplejpeg.decode_jpeg(f.read_bytes()).shape, fns)))

    def augment(self, xb):
        return xb.float().mul_(2 / 255).sub_(1)  # to normalised floats and nothing else

    def steps(self, arch: str, frozen: bool, batches, early_frozen: bool = False):
        import torch
        from torch.nn import functional as F

        from vislearn.models.depthwise import DepthwiseGradients
        from vislearn.models.fold import lean
        from vislearn.models.groups import early_params
        from vislearn.train.precision import PRECISIONS, resolve_precision

        model = self.model(arch).train()
        model.body.requires_grad_(not frozen)
        for p in early_params(model.body, self.size) if early_frozen else ():
            p.requires_grad_(False)
        for m in model.body.modules():
            if isinstance(m, torch.nn.BatchNorm2d):
                m.eval()
        dtype = PRECISIONS[resolve_precision('auto', torch.device('cpu'))]
        example = torch.zeros(2, 3, self.size, self.size)  # only its shape matters
        net = lean(model, example, training=True, dtype=dtype)
        opt = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-5, fused=True)

        def run():
            for xb, yb in batches:
                with torch.autocast('cpu', dtype, enabled=dtype != torch.float32), DepthwiseGradients():
                    pred = net(xb)
                F.cross_entropy(pred.float(), yb).backward()
                opt.step()
                opt.zero_grad(set_to_none=True)

        return run


SIDES = {'vislearn': Vislearn, 'fastai': Fastai, 'limit': Bare}


def options(doc: str):
    "The arguments of a benchmark of parts."
    p = parser(doc)
    p.add_argument(
        '--data',
        type=Path,
        default=HERE.parents[2] / 'shared/data/ants_and_bees',
        help='a folder with train/ and val/, each with a folder for each class',
    )
    p.add_argument('--case', help=argparse.SUPPRESS)
    return p


def need_data(args: argparse.Namespace) -> None:
    if not args.data.exists():
        raise SystemExit(
            f'no pictures at {args.data}: give --data, a folder with train/ants, train/bees, val/ants and val/bees'
        )


def present(sides, args: argparse.Namespace) -> list[str]:
    "The sides that can be measured here: without fastai, not fastai's."
    return [o for o in sides if o != 'fastai' or has('fastai', args.fastai_python)]


def compare(
    script: str, case: object, sides: list[str], args: argparse.Namespace, data: Path | None = None
) -> dict[str, list[dict]]:
    "Results of `script --worker SIDE --case CASE` for each side, in turns."
    if args.quick:
        args.rounds = 1
    switches = [o for o in ('--quick', '--avx2') if getattr(args, o[2:], False)]

    def column(side: str):
        return lambda i: call(
            script,
            '--worker',
            side,
            '--case',
            case,
            '--data',
            data or args.data,
            *switches,
            python=args.fastai_python if side == 'fastai' else sys.executable,
        )

    return interleave({o: column(o) for o in sides}, args.rounds)


def shares(case: str, raw: dict[str, list[dict]], key: str) -> dict:
    "A row of the table: each side's median, and vislearn's share of the others'."
    at = {o: mid(raw[o], key) for o in raw}
    return {
        '': case,
        **{f'{o} {key}': at[o] for o in at},
        'of fastai': at['vislearn'] / at['fastai'] if 'fastai' in at else '-',
        'of the limit': at['vislearn'] / at['limit'] if 'limit' in at else '-',
    }
