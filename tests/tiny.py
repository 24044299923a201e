"Small things to train with: a folder of coloured squares, loaders on it, a network of a few thousand weights."

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from vislearn.data.augment import aug_transforms
from vislearn.data.block import CategoryBlock, DataBlock, ImageBlock
from vislearn.data.files import get_image_files
from vislearn.data.labels import parent_label
from vislearn.data.normalize import Normalize
from vislearn.data.resize import Resize
from vislearn.data.split import RandomSplitter

FULL = bool(os.environ.get('VISLEARN_FULL'))  # the fault tests in full length
COLOURS = {'blue': (40, 60, 200), 'green': (40, 180, 60), 'red': (200, 50, 40)}


def make_pictures(path: Path, n: int = 16) -> Path:
    "`n` noisy little pictures in a folder for each colour."
    rng = np.random.default_rng(0)
    for name, rgb in COLOURS.items():
        (path / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            a = np.clip(np.array(rgb) + rng.normal(0, 60, (40, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(a).save(path / name / f'{name}_{i:02}.png')
    return path


def make_dls(pictures: Path, path: Path, workers: int = 0, kind: str = 'thread', bs: int = 8, seed: int | None = 0):
    "Loaders of those pictures at 32 pixels, augmented and normalised."
    db = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=get_image_files,
        splitter=RandomSplitter(0.25, seed=1),
        get_y=parent_label,
        item_tfms=Resize(32),
        batch_tfms=[*aug_transforms(), Normalize([0.5] * 3, [0.25] * 3)],
    )
    return db.dataloaders(pictures, path=path, bs=bs, num_workers=workers, workers=kind, seed=seed, device='cpu')


class TinyNet(nn.Module):
    "Two convolutions with batch normalisation, dropout, and a head."

    def __init__(self, n_out: int = 3):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(16, n_out))

    def forward(self, x):
        return self.head(self.body(x))

    def param_groups(self):
        return [[*self.body.parameters()], [*self.head.parameters()]]


def tiny_net(seed: int = 0) -> TinyNet:
    "A `TinyNet` with the same weights each time."
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return TinyNet()


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    "Are all parameters and buffers equal to the last bit?"
    sa, sb = a.state_dict(), b.state_dict()
    return sa.keys() == sb.keys() and all(torch.equal(sa[k], sb[k]) for k in sa)
