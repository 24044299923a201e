"""A training run that can be killed, for test_callbacks.py: python resume_run.py FOLDER WORKERS KIND [BATCH]

Starts a run in FOLDER, or resumes the one there, and kills itself without warning after BATCH batches.
At the end the weights are in FOLDER/end.pth."""

import os
import signal
import sys
from pathlib import Path

import torch
from tiny import make_dls, tiny_net

from vislearn.learner import Learner
from vislearn.train.averaging import EMA
from vislearn.train.checkpoint import Checkpoint
from vislearn.train.events import on
from vislearn.train.metrics import accuracy
from vislearn.train.tracking import EarlyStoppingCallback, SaveModelCallback


def main(folder: Path, workers: int, kind: str, kill_at: int | None) -> None:
    learn = Learner(make_dls(folder / 'pictures', folder, workers, kind), tiny_net(), metrics=accuracy)
    done = 0

    def count(learn):
        nonlocal done
        done += 1
        if done == kill_at:
            os.kill(os.getpid(), getattr(signal, 'SIGKILL', signal.SIGTERM))

    cbs = [SaveModelCallback(fname='best'), EMA(0.9), EarlyStoppingCallback(patience=5), on('after_step', count)]
    torch.manual_seed(
        5 if kill_at is None else 6 + kill_at
    )  # a resumed run must not depend on the state it wakes up in
    if (folder / 'runs/r/last.pth').exists():
        learn.resume('r', cbs=cbs)
    else:
        torch.manual_seed(1)
        learn.fine_tune(3, 1e-2, 2, cbs=cbs, checkpoint=Checkpoint('r', every=3))
    torch.save(
        {
            'weights': learn.model.state_dict(),
            'history': [{k: v for k, v in o.items() if k != 'time'} for o in learn.history],
            'losses': learn.recorder.losses,
            'lrs': learn.recorder.lrs,
        },
        folder / 'end.pth',
    )


if __name__ == '__main__':
    folder, workers, kind, *kill_at = sys.argv[1:]
    main(Path(folder), int(workers), kind, int(kill_at[0]) if kill_at else None)
