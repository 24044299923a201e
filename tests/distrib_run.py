"""What test_distrib.py runs in several processes: torchrun --nproc-per-node N distrib_run.py WHAT FOLDER.

`cases` trains a tiny network in several ways; rank 0 writes the results of all of them to FOLDER/N.pth.
`killed` begins a run in which process 1 kills itself in mid-epoch, each time it is started."""

import os
import signal
import sys
import time
import warnings
from pathlib import Path

import torch
from tiny import COLOURS, TinyNet, make_dls
from torch import nn

from vislearn import learner as learner_module
from vislearn.data.augment import aug_transforms
from vislearn.data.block import CategoryBlock, DataBlock, ImageBlock
from vislearn.data.files import get_image_files
from vislearn.data.labels import parent_label
from vislearn.data.resize import Resize
from vislearn.data.split import RandomSplitter
from vislearn.distrib import RankLost, barrier, gather, is_main, rank, together, world_size
from vislearn.learner import Learner
from vislearn.models.vision_model import VisionModel
from vislearn.train.averaging import EMA
from vislearn.train.checkpoint import Checkpoint
from vislearn.train.distill import Distill
from vislearn.train.events import on
from vislearn.train.metrics import accuracy
from vislearn.train.mix import MixUp
from vislearn.train.steps import GradientAccumulation, GradientClip
from vislearn.train.tracking import EarlyStoppingCallback, SaveModelCallback


def net() -> TinyNet:
    "A tiny network without dropout; a process other than rank 0 begins with other weights, which must not matter."
    torch.manual_seed(rank())
    model = TinyNet(len(COLOURS))
    model.head[2].p = 0.0
    return model


def loaders(folder: Path, batch_tfms=None, **options):
    "Loaders with batches that no number of processes divides, the last of them of one picture."
    db = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=get_image_files,
        splitter=RandomSplitter(0.25, seed=1),
        get_y=parent_label,
        item_tfms=Resize(32),
        batch_tfms=aug_transforms() if batch_tfms is None else batch_tfms,
    )
    fixed = dict(path=folder, bs=7, val_bs=5, num_workers=0, seed=rank() if world_size() > 1 else 0, device='cpu')
    return db.dataloaders(folder / 'pictures', **fixed | {'drop_last': False} | options)


def learner(dls, **options) -> Learner:
    return Learner(dls, net(), metrics=accuracy, precision='fp32', opt_func='sgd', **options)


def result(learn: Learner) -> dict:
    "What must not depend on the number of processes."
    return {
        'losses': learn.recorder.raw,
        'rows': [{k: v for k, v in row.items() if k != 'time'} for row in learn.history],
        'weights': learn.model.state_dict(),
        'validate': learn.validate(),
        'training items': learn.get_preds(0, with_loss=True),
        'inputs': learn.get_preds(with_input=True)[0],
    }


def plain(folder: Path) -> dict:
    "BatchNorm in training, the pictures read by processes."
    learn = learner(loaders(folder, num_workers=1, workers='process'), moms=(0.9, 0.8, 0.9))
    with learn.distrib_ctx():
        learn.fit_one_cycle(2, 0.1)
        return result(learn)


def mixed(folder: Path) -> dict:
    "MixUp, an average of the weights, weights of classes that make means uneven, and clipped gradients."
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 5.0]))
    learn = learner(loaders(folder), loss_func=loss)
    with learn.distrib_ctx():
        learn.fit(1, 0.05, cbs=[GradientClip(0.1)])
        learn.fit(2, 0.05, cbs=[MixUp(), EMA(0.9)])
        return result(learn)


def balanced(folder: Path) -> dict:
    "Classes drawn equally often, gradients accumulated over batches, layers frozen and unfrozen, the best epoch kept."
    learn = learner(loaders(folder, sampler='balanced'), path=folder / str(world_size()))
    with learn.distrib_ctx():
        cbs = [GradientAccumulation(16), SaveModelCallback('accuracy', fname='best')]
        learn.fine_tune(2, 0.05, cbs=cbs)
        return result(learn)


def stopped(folder: Path) -> dict:
    "No progress without a learning rate: the fit ends after the second epoch, in all processes."
    learn = learner(loaders(folder))
    learn.freeze()
    with learn.distrib_ctx():
        learn.fit(5, 0.0, cbs=EarlyStoppingCallback('accuracy', patience=1))
        return {'epochs': gather(len(learn.history))[0], 'rows': [row['valid_loss'] for row in learn.history]}


def head(folder: Path) -> dict:
    "Features that the processes compute in parts, and a head that is trained on them."
    model = net()
    model.body.is_map = True  # the head pools
    learn = Learner(loaders(folder), VisionModel(model.body, model.head), metrics=accuracy, precision='fp32')
    with learn.distrib_ctx():
        learn.fit_head(2, 0.01)
        return {'losses': learn.recorder.raw, 'weights': learn.model.state_dict(), 'validate': learn.validate()}


def distilled(folder: Path) -> dict:
    "A teacher's answers, kept from one epoch to the next, and its features, drawn near by a projection that learns too."
    torch.manual_seed(5)
    better = TinyNet(len(COLOURS))
    teacher, model = VisionModel(better.body, better.head), net()
    dls = loaders(folder, batch_tfms=[])
    learn = Learner(dls, VisionModel(model.body, model.head), precision='fp32', opt_func='sgd')
    cb = Distill(teacher, T=2, features=1.0)
    with learn.distrib_ctx():
        learn.fit(3, 0.05, cbs=cb)
    return {
        'losses': learn.recorder.raw,
        'weights': learn.model.state_dict(),
        'projection': cb.projection.layer.state_dict(),
    }


def unreadable(folder: Path) -> dict:
    "Two damaged files: all that is read is judged in order, and every process knows of both."
    learn = learner(loaders(folder), cbs=None)
    paths = [Path(o) for o in learn.dls.valid.items]
    for i in (1, 7):
        learn.dls.valid.items[i] = folder / 'damaged.png'
    learn.dls.valid.dataset.max_bad = 0.5
    warnings.simplefilter('ignore', UserWarning)
    with learn.distrib_ctx():
        preds, targs = learn.get_preds()
        known = gather([o.name for o in learn.dls.bad_files.attrgot('item')])
    assert all(o == known[0] for o in known)
    read = [str(paths[i].relative_to(folder)) for i in learn.dls.valid.read]
    return {'preds': preds, 'targs': targs, 'read': read, 'bad': known[0]}


def pushed(folder: Path) -> dict:
    "The first process alone sends a model to the Hub (here a list of what was sent), and all are told where it is."
    learn = learner(loaders(folder))
    sent = []

    def push(repo_id: str, file: Path, card: str, **options) -> str:
        sent.append((repo_id, file.stat().st_size > 1000, len(card) > 1000))
        return 'the address'

    before, learner_module.push_model = learner_module.push_model, push
    try:
        with learn.distrib_ctx():
            addresses = gather(learn.push_to_hub('someone/ants'))
            return {'sent': [o for part in gather(sent) for o in part], 'addresses': sorted(set(addresses))}
    finally:
        learner_module.push_model = before


CASES = (plain, mixed, balanced, stopped, head, distilled, unreadable, pushed)


def cases(folder: Path) -> dict[str, dict]:
    return {case.__name__: case(folder) for case in CASES}


def local_norms(folder: Path) -> dict:
    "Without `sync_bn`: statistics differ between processes while they train, but all judge by the same."
    learn = learner(make_dls(folder / 'pictures', folder))
    with learn.distrib_ctx(sync_bn=False, scale_lr='linear'):
        bs = learn.dls.bs
        learn.fit(1, 0.01)
        means = gather(learn.model.body[1].running_mean)
        return {'same': all(torch.equal(o, means[0]) for o in means), 'bs': bs, 'lr': learn.recorder.lrs[0]}


def lost() -> str:
    "What rank 0 is told when another process ends too early."
    if not is_main():
        os._exit(0)
    try:
        barrier()
    except RankLost as e:
        return str(e)
    return ''


def run_to_end(folder: Path, cbs=()) -> Learner:
    "Begin a run in FOLDER, or go on with the one that is there."
    learn = learner(loaders(folder), path=folder)
    with learn.distrib_ctx():
        if (folder / 'runs' / 'r' / 'last.pth').exists():
            learn.resume('r', cbs=[EMA(0.9), *cbs])
        else:
            learn.fine_tune(2, 0.05, checkpoint=Checkpoint('r', every=2), cbs=[EMA(0.9), *cbs])
    return learn


def kill_one(folder: Path):
    "A callback: process 1 dies without warning in the 9th step since it was started."
    done = [0]

    def step(learn):
        done[0] += 1
        if done[0] == 9 and rank() == 1:
            (folder / 'killed').write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)

    return on('after_step', step)


if __name__ == '__main__':
    what, folder = sys.argv[1], Path(sys.argv[2])
    if what == 'killed':
        run_to_end(folder, [kill_one(folder)])
    else:
        with together():
            found = cases(folder) | {'local_norms': local_norms(folder)}
            printed = gather(sys.stdout is not None)
            said = lost()
            torch.save(found | {'printed': printed, 'lost': said}, folder / f'{world_size()}.pth')
