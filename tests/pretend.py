"A learner that guesses, so that the widget can be tested without training anything."

from types import SimpleNamespace

import torch

from vislearn.data.dataset import Dataset
from vislearn.data.loaders import DataLoaders, Loader
from vislearn.data.resize import Resize
from vislearn.data.targets import Category, MultiCategory


def pretend_learner(path, files, labels=None, many=False, wrong=0.25, seed=0, get_x=None):
    """What the cleaner needs of a Learner; every fifth file is a validation one. `files` may be any items that
    `get_x` opens.
    """
    labels = labels or [f.parent.name for f in files]
    target = (MultiCategory if many else Category)().setup(labels)

    def pick(idx):
        return Dataset(
            [files[i] for i in idx],
            torch.stack([target.encode(labels[i]) for i in idx]),
            target,
            Resize(32),
            get_x=get_x,
        )

    dls = DataLoaders(
        *(
            Loader(pick(idx), num_workers=0, device='cpu')
            for idx in ([i for i in range(len(files)) if i % 5], range(0, len(files), 5))
        ),
        path=path,
    )

    def get_preds(ds_idx=1, dl=None, with_loss=True):
        dl = dl or dls[ds_idx]
        for i in range(len(dl.dataset)):
            dl.dataset.source(i)
        y, g = dl.dataset.y, torch.Generator().manual_seed(seed)
        logits = 6 * (y if many else torch.eye(target.c)[y]) + 2 * torch.randn(len(y), target.c, generator=g) - 3 * many
        off = torch.rand(len(y), generator=g) < wrong
        logits[off] = 3 * torch.randn(len(y), target.c, generator=g)[off]
        loss = target.loss_func()
        loss.reduction = 'none'
        return target.probs(logits), y, loss(logits, y).reshape(len(y), -1).mean(1)

    return SimpleNamespace(dls=dls, path=path, get_preds=get_preds)
