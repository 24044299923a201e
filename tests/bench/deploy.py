"""Deployment: the same model as export.pkl and as ONNX in fp32, fp16 and int8.

    python tests/bench/deploy.py [--quick] [--rounds 3] [--model FILE] [--data FOLDER]

For each file: its size, the accuracy on `val/`, the share of decisions that are PyTorch's, seconds and peak memory from the start of Python to the first answer
in a fresh process, and pictures per second through `records`. The model is `efficientnet_lite0`, `fine_tune(2)` at 160 pixels, unless `--model` gives another.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import call, interleave, mid, report, result
from sides import need_data, options, photos

PRECISIONS = ('fp32', 'fp16', 'int8')


def trained(args, folder: Path) -> Path:
    "An export of a network for ants and bees."
    from vislearn.all import ImageDataLoaders, RandomResizedCrop, aug_transforms, vision_learner

    size = 64 if args.quick else 160
    tfms = {'item_tfms': RandomResizedCrop(size, min_scale=0.35), 'batch_tfms': aug_transforms()}
    dls = ImageDataLoaders.from_folder(args.data, train='train', valid='val', bs=32, **tfms)
    learn = vision_learner(dls, 'efficientnet_lite0', path=folder, seed=1)
    learn.fine_tune(2, freeze_epochs=1) if not args.quick else learn.fit_head(1, views=1)
    return learn.export(folder / 'model.pkl')


def write(model: Path, val: list[Path], train: list[Path], folder: Path) -> dict[str, Path]:
    "The model in every form."
    from vislearn.deploy.onnx import write_onnx
    from vislearn.deploy.predictor import load_predictor

    predictor, files = load_predictor(model), {'export.pkl': model}
    for precision in PRECISIONS:
        files[f'onnx, {precision}'] = folder / f'{precision}.onnx'
        write_onnx(predictor, folder / f'{precision}.onnx', val, precision=precision, calibration=train, force=True)
    return files


FIRST = """import sys
sys.path.insert(0, {here!r})
if {onnx}:
    from vislearn.deploy.runtime import OnnxPredictor as load
else:
    from vislearn.deploy.predictor import load_predictor as load
next(iter(load({file!r}).records([{picture!r}])))
"""


WATCH = """import resource, subprocess, sys
subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def first_answer(file: Path, picture: Path) -> dict:
    "Seconds and megabytes of a fresh process up to its first answer."
    root = str(Path(__file__).resolve().parents[2])
    code = FIRST.format(here=root, onnx=file.suffix == '.onnx', file=str(file), picture=str(picture))
    start = time.perf_counter()
    r = subprocess.run([sys.executable, '-c', WATCH, code], capture_output=True, text=True, check=True)
    return {'seconds': time.perf_counter() - start, 'mb': int(r.stdout.split()[-1]) / 1024}


def work(file: Path, val: list[Path]) -> None:
    "Labels of the pictures, pictures per second, and what the first answer costs."
    from vislearn.app.predict import open_engine
    from vislearn.deploy.records import records

    engine = open_engine(file)
    list(records(engine, val[:8], bs=8))
    start = time.perf_counter()
    labels = [o.get('label') for o in records(engine, val, bs=32)]
    rate = len(val) / (time.perf_counter() - start)
    result(labels=labels, rate=rate, **first_answer(file, val[0]))


def compared(files: dict[str, Path], raw: dict[str, list[dict]], truth: list[str]) -> list[dict]:
    "A row for each file."
    torchs = raw['export.pkl'][0]['labels']
    whole = files['onnx, fp32'].stat().st_size

    def share(labels: list[str], others: list[str]) -> float:
        return sum(a == b for a, b in zip(labels, others)) / len(others)

    return [
        {
            'file': name,
            'MB': file.stat().st_size / 1e6,
            'of fp32': file.stat().st_size / whole,
            'accuracy': share(raw[name][0]['labels'], truth),
            "decides as PyTorch's": share(raw[name][0]['labels'], torchs),
            'first answer, s': mid(raw[name], 'seconds'),
            'peak MB': mid(raw[name], 'mb'),
            'pictures/s': mid(raw[name], 'rate'),
        }
        for name, file in files.items()
    ]


def main() -> None:
    p = options(__doc__)
    p.add_argument('--model', type=Path, help='an export to measure instead of training one')
    args = p.parse_args()
    need_data(args)
    val = [o for o in photos(args.data) if o.parts[-3] == 'val'][: 12 if args.quick else None]
    train = [o for o in photos(args.data) if o.parts[-3] == 'train'][:: 24 if args.quick else 4]
    if args.worker:
        work(Path(args.worker), val)
        return
    with tempfile.TemporaryDirectory() as folder:
        files = write(args.model or trained(args, Path(folder)), val, train, Path(folder))
        quick = ['--quick'] if args.quick else []

        def column(file: Path):
            return lambda i: call(__file__, '--worker', file, '--data', args.data, *quick)

        raw = interleave({k: column(f) for k, f in files.items()}, 1 if args.quick else args.rounds)
        rows = compared(files, raw, [o.parent.name for o in val])
    report('deploy', rows, raw, args)


if __name__ == '__main__':
    main()
