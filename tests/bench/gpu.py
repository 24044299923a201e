"""What one GPU does: training rate, waiting for data, fine_tune, memory, compile, predict and ONNX.

    python tests/bench/gpu.py            # about 8 minutes on a GPU; parts that no longer fit into --minutes are left out
    python tests/bench/gpu.py --quick    # in small, on the CPU where there is no GPU: shows that it runs

Rates are of training steps on batches that are on the device already: `bare loop` is the same network and optimizer in ten lines of PyTorch, and
the goal is at most 1.05 of its time. `waiting` is the share of an epoch of JPEG files in which the loop waits for batches; the goal is below 10 % with
16 cores. As a GPU may still be busy with the batch before while the loop waits, the note compares the rate with that on batches in memory. A part
that fails is a row that says why, and the others go on.
"""

import gc
import io
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import torch
from bench import has, parser, report
from PIL import Image
from torch import nn

from vislearn.core import default_device
from vislearn.data.augment import aug_transforms
from vislearn.data.resize import RandomResizedCrop
from vislearn.data.sources import ImageDataLoaders
from vislearn.learner import Learner, load_learner, vision_learner
from vislearn.models.create import create_model
from vislearn.train.loggers import Speed

ON_GPU = torch.cuda.is_available()
DEVICE = default_device()
CLASSES = 10


class Sizes:
    "How large the parts are."

    def __init__(self, quick: bool):
        self.arch = 'resnet18' if quick else 'resnet50'
        self.px = 64 if quick else 224
        self.bs = 4 if quick else 256
        self.steps = 2 if quick else 40
        self.pictures = 24 if quick else 12800
        self.epochs = 1 if quick else 2
        self.answers = 3 if quick else 100
        self.precision = 'bf16' if ON_GPU else 'fp32'


def wait() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def peak_gb() -> float:
    "The most memory of the device since the last `fresh`."
    return torch.cuda.max_memory_allocated() / 2**30 if ON_GPU else 0.0


def fresh() -> None:
    "Nothing that an earlier part held."
    gc.collect()
    if ON_GPU:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def network(s: Sizes) -> nn.Module:
    torch.manual_seed(0)
    model = create_model(s.arch, n_out=CLASSES, pretrained=False)
    return model.to(DEVICE, memory_format=torch.channels_last)


def batches(s: Sizes) -> list:
    "The same batch again and again, on the device, in the memory order of photographs."
    xb = torch.rand(s.bs, 3, s.px, s.px, device=DEVICE).contiguous(memory_format=torch.channels_last)
    return [(xb, torch.arange(s.bs, device=DEVICE) % CLASSES)] * s.steps


def bare_loop(s: Sizes) -> dict:
    "The training loop that one would write by hand."
    model, loss_func = network(s).train(), nn.CrossEntropyLoss()
    opt = torch.optim.AdamW(model.parameters(), lr=1e-3)
    dtype = torch.bfloat16 if s.precision == 'bf16' else torch.float32
    dl = batches(s)

    def epoch() -> None:
        for xb, yb in dl:
            with torch.autocast(DEVICE.type, dtype, enabled=dtype != torch.float32):
                pred = model(xb)
            loss_func(pred.float(), yb).backward()
            opt.step()
            opt.zero_grad(set_to_none=True)
        wait()

    return rates(epoch, s)


def learner_loop(s: Sizes, compile: bool | str = False) -> dict:
    "The same through `Learner.fit`."
    learn = Learner(
        [batches(s)],
        network(s),
        nn.CrossEntropyLoss(),
        opt_func=torch.optim.AdamW,
        lr=1e-3,
        precision=s.precision,
        default_cbs=False,
        compile=compile,
    )

    def epoch() -> None:
        learn.fit(1)
        wait()

    return rates(epoch, s)


def rates(epoch: Callable[[], None], s: Sizes) -> dict:
    "Milliseconds of a step: the median of three epochs after a first one."
    start = time.perf_counter()
    epoch()
    first = time.perf_counter() - start
    took = []
    for _ in range(3):
        start = time.perf_counter()
        epoch()
        took.append(time.perf_counter() - start)
    ms = 1000 * median(took) / s.steps
    return {'ms a step': ms, 'pictures/s': 1000 * s.bs / ms, 'first epoch, s': first, 'peak GB': peak_gb()}


def make_jpegs(folder: Path, s: Sizes) -> Path:
    "Photograph-like JPEG files of 500 x 375 pixels in a folder for each class."
    for c in range(CLASSES):
        (folder / f'{c}').mkdir()

    def draw(i: int) -> None:
        coarse = np.random.default_rng(i).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        im = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
        im.save(folder / f'{i % CLASSES}' / f'{i}.jpg', 'JPEG', quality=90)

    with ThreadPoolExecutor() as threads:
        list(threads.map(draw, range(s.pictures)))
    return folder


def loaders(folder: Path, s: Sizes, num_workers: int | None = None):
    return ImageDataLoaders.from_folder(
        folder,
        valid_pct=0.2,
        seed=0,
        item_tfms=RandomResizedCrop(s.px, min_scale=0.35),
        batch_tfms=aug_transforms(),
        bs=s.bs,
        device=DEVICE,
        num_workers=num_workers,
    )


def real_data(s: Sizes, folder: Path, num_workers: int | None = None) -> dict:
    "An epoch on files: the share of it that the loop waits."
    dls = loaders(folder, s, num_workers)
    learn = vision_learner(dls, s.arch, pretrained=False, precision=s.precision, cbs=Speed)
    with learn.no_logging():
        learn.fit(2, 1e-3)  # in the first one files come from the disk
    row = learn.history[-1]
    return {'pictures/s': row['img_s'], 'waiting, %': 100 * row['wait'], 'peak GB': peak_gb()}


def fine_tune(s: Sizes, folder: Path) -> dict:
    learn = vision_learner(loaders(folder, s), s.arch, pretrained=False, precision=s.precision)
    start = time.perf_counter()
    with learn.no_logging():
        learn.fine_tune(s.epochs)
    wait()
    return {'seconds': time.perf_counter() - start, 'peak GB': peak_gb()}


def fine_tune_fastai(s: Sizes, folder: Path) -> dict:
    from fastai.vision import all as fastai

    crop = fastai.RandomResizedCrop(s.px, min_scale=0.35)
    tfms = fastai.aug_transforms()
    dls = fastai.ImageDataLoaders.from_folder(
        folder, valid_pct=0.2, seed=0, item_tfms=crop, batch_tfms=tfms, bs=s.bs, device=DEVICE
    )
    learn = fastai.vision_learner(dls, getattr(fastai, s.arch), pretrained=False)
    learn = learn.to_bf16() if s.precision == 'bf16' and hasattr(learn, 'to_bf16') else learn
    start = time.perf_counter()
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(s.epochs)
    wait()
    return {'seconds': time.perf_counter() - start, 'peak GB': peak_gb()}


def a_jpeg() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (375, 500, 3), dtype=np.uint8)).save(file, 'JPEG')
    return file.getvalue()


def latency(answer: Callable[[], object], n: int) -> dict:
    "Milliseconds until one picture is answered."
    answer()
    took = []
    for _ in range(n):
        start = time.perf_counter()
        answer()
        took.append(time.perf_counter() - start)
    return {'ms an answer': 1000 * median(took)}


def predict(s: Sizes, folder: Path, out: Path) -> dict:
    learn = vision_learner(loaders(folder, s), s.arch, pretrained=False, precision=s.precision, path=out)
    answering = load_learner(learn.export(), cpu=False)
    picture = a_jpeg()
    return latency(lambda: answering.predict(picture), s.answers)


def onnx(s: Sizes, folder: Path, out: Path, provider: str) -> dict:
    from vislearn.deploy.runtime import OnnxPredictor

    file = out / 'model.onnx'
    if not file.exists():
        learn = vision_learner(loaders(folder, s), s.arch, pretrained=False, precision='fp32', path=out)
        file = learn.export_onnx(file, items=sorted(folder.rglob('*.jpg'))[:4], force=True)
    answering = OnnxPredictor(file, provider)
    picture = a_jpeg()
    return latency(lambda: answering.predict(picture), s.answers)


def onnx_providers() -> list[str]:
    if not has('onnxruntime'):
        return []
    import onnxruntime

    found = onnxruntime.get_available_providers()
    return ['cpu', 'cuda'] if 'CUDAExecutionProvider' in found else ['cpu']


def parts(s: Sizes, folder: Path) -> dict[str, Callable[[], dict]]:
    "What is measured, the most wanted first."
    pictures = folder / 'pictures'
    pictures.mkdir()
    make_jpegs(pictures, s)
    res: dict[str, Callable[[], dict]] = {
        'bare loop': lambda: bare_loop(s),
        'Learner.fit': lambda: learner_loop(s),
        'epoch of JPEG files': lambda: real_data(s, pictures),
        'fine_tune': lambda: fine_tune(s, pictures),
        'epoch of JPEG files, a thread per core': lambda: real_data(s, pictures, os.cpu_count()),
        'predict': lambda: predict(s, pictures, folder),
        'Learner.fit, compile=True': lambda: learner_loop(s, compile=True if ON_GPU else 'eager'),  # else minutes
    }
    if has('fastai'):
        res['fine_tune, fastai'] = lambda: fine_tune_fastai(s, pictures)
    for o in onnx_providers():
        res[f'ONNX Runtime, {o}'] = lambda o=o: onnx(s, pictures, folder, o)
    return res


COLUMNS = ['ms a step', 'pictures/s', 'first epoch, s', 'seconds', 'waiting, %', 'ms an answer', 'peak GB', 'note']


def measured(f: Callable[[], dict]) -> dict:
    fresh()
    try:
        return f()
    except Exception as e:  # the other parts are worth having
        return {'note': f'{type(e).__name__}: {str(e).strip().splitlines()[0][:100] if str(e).strip() else ""}'}


def compare(rows: list[dict]) -> None:
    "Put beside the rates what they are to be compared with."
    bare, fit = rows[0]['ms a step'], rows[1]['ms a step']
    if bare and fit:
        rows[1]['note'] = f'{fit / bare:.3f} of the bare loop'
    for row in rows[2:]:
        if row['waiting, %'] != '' and fit:
            row['note'] = f'{row["pictures/s"] / rows[1]["pictures/s"]:.2f} of the rate on batches in memory'


def main() -> None:
    p = parser(__doc__)
    p.add_argument('--minutes', type=float, default=8.0, help='begin no further part after so long')
    args = p.parse_args()
    args.rounds = 1
    if not ON_GPU and not args.quick:
        raise SystemExit('there is no GPU here; --quick runs it in small on the CPU')
    s, start, rows = Sizes(args.quick), time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        for name, f in parts(s, Path(folder)).items():
            late = time.monotonic() - start > 60 * args.minutes
            found = {'note': 'left out: no time'} if late else measured(f)
            rows.append({'': name, **{k: found.get(k, '') for k in COLUMNS}})
            print(name, found, flush=True)
    compare(rows)
    device = torch.cuda.get_device_name() if ON_GPU else 'no GPU'
    print(f'{device}, {s.arch}, {s.px} pixels, batches of {s.bs}, {s.precision}\n')
    report('gpu', rows, {'device': device}, args)


if __name__ == '__main__':
    main()
