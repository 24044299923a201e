"""Training with worker processes, for test_workers.py: python worker_run.py FOLDER START_METHOD KILLS

Kills a worker process after each of the first KILLS batches; prints the end's sum of weights and the processes, then waits if KILLS is 'wait'."""

import multiprocessing
import os
import signal
import sys
import time
import warnings
from pathlib import Path


def main(folder: Path, kills: str) -> None:
    from tiny import make_dls, tiny_net

    from vislearn.learner import Learner
    from vislearn.train.events import on

    learn = Learner(make_dls(folder / 'pictures', folder, 2, 'process'), tiny_net(), default_cbs=False, seed=0)
    left = [int(kills) if kills.isdigit() else 0]

    def kill(learn):
        pids = learn.dls.train._procs.pids
        if kills == 'wait':
            print(*pids, flush=True)
            time.sleep(100)
        if left[0] and pids:
            left[0] -= 1
            os.kill(pids[0], getattr(signal, 'SIGKILL', signal.SIGTERM))

    warnings.simplefilter('ignore', UserWarning)
    learn.fit(2, 1e-2, cbs=on('after_step', kill))
    print(sum(p.double().sum().item() for p in learn.model.parameters()).hex())


if __name__ == '__main__':
    multiprocessing.set_start_method(sys.argv[2])
    main(Path(sys.argv[1]), sys.argv[3])
