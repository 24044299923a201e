"""Which network? Speed and memory of about 25 networks on the processor, beside the accuracy that timm publishes.

    python tests/bench/networks.py [--quick] [--rounds 3] [--only resnet18 vit_tiny_patch16_224] [--readme]

A batch of 4 pictures at the network's own size, one thread, the precision that vislearn chooses; frozen BatchNorm statistics, as `vision_learner` has them.
Milliseconds are of processor time, for each picture. Weights are random, which changes neither speed nor memory. Each network runs in a process of its own,
and in turns with it resnet18, to which the ratios are. `--readme` also draws images/networks.png.
"""

import tempfile
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import process_time

from ants_and_bees import peak_gb
from bench import HERE, call, interleave, mid, parser, report, result
from sides import Batches, Vislearn
from step import fakes

from vislearn.train.events import on

REFERENCE = 'resnet18'
SOURCE = 'huggingface/pytorch-image-models, results/results-imagenet.csv at commit 7479d45 (November 2024)'
# name: (weights that timm loads by default, pixels at which they were judged, ImageNet top-1 in %), all from SOURCE
PUBLISHED = {
    'lcnet_050': ('ra2_in1k', 224, 63.13),
    'mobilenetv3_small_100': ('lamb_in1k', 224, 67.638),
    'resnet18': ('a1_in1k', 224, 71.488),
    'mobilenetv4_conv_small': ('e2400_r224_in1k', 224, 73.73),
    'vit_tiny_patch16_224': ('augreg_in21k_ft_in1k', 224, 75.452),
    'efficientnet_lite0': ('ra_in1k', 224, 75.49),
    'densenet121': ('ra_in1k', 224, 75.576),
    'regnety_004': ('tv2_in1k', 224, 75.588),
    'convnext_atto': ('d2_in1k', 224, 75.668),
    'mobilenetv3_large_100': ('ra_in1k', 224, 75.786),
    'fastvit_t8': ('apple_in1k', 256, 76.184),
    'resnet34': ('a1_in1k', 224, 76.414),
    'levit_128s': ('fb_dist_in1k', 224, 76.522),
    'hgnetv2_b0': ('ssld_stage2_ft_in1k', 224, 77.342),
    'efficientnet_b0': ('ra_in1k', 224, 77.696),
    'mobilevit_s': ('cvnets_in1k', 256, 78.302),
    'convnext_pico': ('d1_in1k', 224, 79.516),
    'mobilenetv4_conv_medium': ('e500_r256_in1k', 256, 79.922),
    'repvit_m1_0': ('dist_300e_in1k', 224, 80.152),
    'resnet50': ('a1_in1k', 224, 80.382),
    'regnety_016': ('tv2_in1k', 224, 80.696),
    'swin_tiny_patch4_window7_224': ('ms_in1k', 224, 81.388),
    'vit_small_patch16_224': ('augreg_in21k_ft_in1k', 224, 81.414),
    'resnet101': ('a1h_in1k', 224, 81.95),
    'convnext_nano': ('in12k_ft_in1k', 224, 82.306),
    'tf_efficientnetv2_s': ('in21k_ft_in1k', 300, 83.374),
    'convnext_tiny': ('in12k_ft_in1k', 224, 84.192),
    'vit_base_patch16_224': ('augreg2_in21k_ft_in1k', 224, 85.11),
    'convnext_small': ('in12k_ft_in1k', 224, 85.164),
}


class Subject:
    "One network on one batch: what is timed, in prediction and in a training step of all layers."

    def __init__(self, name: str, size: int, bs: int):
        import torch

        side = Vislearn(fakes(Path(tempfile.mkdtemp())), size)
        xb = torch.rand(bs, 3, size, size).contiguous(memory_format=torch.channels_last)
        self.batch = xb, torch.randint(0, 2, (bs,))
        self.learn = side.learner(name)
        self.learn.unfreeze()
        self.dls = side.dls
        self.ms: dict[str, list[float]] = {'predict': [], 'train': []}

    def keep(self, kind: str, seconds: float) -> None:
        self.ms[kind].append(1000 * seconds / len(self.batch[0]))

    def predict(self) -> None:
        start = process_time()
        self.learn.get_preds(dl=[self.batch])
        self.keep('predict', process_time() - start)

    def train(self) -> None:
        "Three steps, timed from the end of one to the end of the next: what a fit does once is no part of a step."
        ends: list[float] = []
        self.learn.dls = Batches([self.batch] * 3, self.dls)
        self.learn.fit(1, 1e-5, cbs=on('after_batch', lambda learn: ends.append(process_time())))
        for start, end in pairwise(ends):
            self.keep('train', end - start)

    def measure(self) -> None:
        "Processor time, which other programs on the machine do not lengthen as they lengthen seconds."
        with self.learn.no_bar(), self.learn.no_logging():
            self.predict()
            self.train()


def work(name: str, quick: bool) -> None:
    import torch

    torch.set_num_threads(1)
    fixed = name.startswith(('vit', 'swin', 'levit'))  # they take pictures of one size only
    size = 64 if quick and not fixed else PUBLISHED[name][1]
    subject = Subject(name, size, 2 if quick else 4)
    subject.measure()
    peak = peak_gb()
    base = Subject(REFERENCE, 64 if quick else 224, len(subject.batch[0]))
    base.measure()
    for o in (base, subject):  # the first prediction also prepares the network
        o.ms['predict'].clear()
    for _ in range(1 if quick else 2):  # in turns, so that a busy machine slows both
        base.measure()
        subject.measure()
    n_params = sum(o.numel() for o in subject.learn.model.body.parameters()) / 1e6
    ms = {k: median(v) for k, v in subject.ms.items()}
    result(ms=ms, ratio={k: ms[k] / median(base.ms[k]) for k in ms}, peak_gb=peak, params=n_params)


def row(name: str, found: list[dict]) -> dict:
    tag, size, top1 = PUBLISHED[name]
    return {
        'network': f'`{name}`',
        'weights': tag,
        'pixels': size,
        'top-1, %': f'{top1:.1f}',
        'parameters, M': f'{mid(found, "params"):.1f}',
        'predict, ms': f'{median(o["ms"]["predict"] for o in found):.0f}',
        'of resnet18': f'{median(o["ratio"]["predict"] for o in found):.2f}',
        'train, ms': f'{median(o["ms"]["train"] for o in found):.0f}',
        'train, of resnet18': f'{median(o["ratio"]["train"] for o in found):.2f}',
        'train, peak GB': f'{mid(found, "peak_gb"):.2f}',
    }


def plot(rows: list[dict], file: Path) -> None:
    "Published accuracy over the time of a training step, as shares of resnet18's."
    import matplotlib

    matplotlib.use('agg')
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(8.4, 5.2), layout='constrained')
    for i, o in enumerate(sorted(rows, key=lambda o: float(o['train, of resnet18']))):
        x, y = float(o['train, of resnet18']), float(o['top-1, %'])
        ax.scatter(x, y, s=12 + 2 * float(o['parameters, M']), color='#3465a4', alpha=0.6, linewidths=0)
        name = o['network'].strip('`').split('_patch')[0]
        dx, dy, ha = ((4, 3, 'left'), (-4, 3, 'right'), (4, -9, 'left'), (-4, -9, 'right'))[i % 4]
        ax.annotate(name, (x, y), (dx, dy), textcoords='offset points', fontsize=7, ha=ha)
    ax.set(xscale='log', xlabel='time of a training step, of that of resnet18', ylabel='ImageNet top-1, %, published')
    ax.set_xticks(ticks := [0.2, 0.5, 1, 2, 5, 10, 20], map(str, ticks))
    ax.set_xticks([], minor=True)
    ax.margins(x=0.12)
    ax.grid(alpha=0.3)
    fig.savefig(file, dpi=110)


def main() -> None:
    p = parser(__doc__)
    p.add_argument('--only', nargs='+', default=list(PUBLISHED), choices=list(PUBLISHED), metavar='NETWORK')
    args = p.parse_args()
    if args.worker:
        return work(args.worker, args.quick)
    quick = ['--quick'] if args.quick else []
    args.rounds = 1 if args.quick else args.rounds
    raw = interleave(
        {o: lambda i, o=o: call(__file__, '--worker', o, *quick, OMP_NUM_THREADS='1') for o in args.only}, args.rounds
    )
    rows = [row(o, raw[o]) for o in PUBLISHED if o in raw]
    report('networks', rows, raw, args)
    if args.readme and not args.quick:
        plot(rows, HERE.parents[1] / 'images/networks.png')


if __name__ == '__main__':
    main()
