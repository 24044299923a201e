"""Worker processes that are killed: nothing lost, nothing different, nothing left behind; too many deaths end the run
with a checkpoint and a cause.
"""

import faulthandler
import gc
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import FULL, make_dls, make_pictures, same_weights, tiny_net

from vislearn.core import Transform
from vislearn.data.dataset import Dataset
from vislearn.data.loaders import Loader
from vislearn.data.resize import Resize
from vislearn.data.workers import WorkerError, Workers
from vislearn.learner import Learner
from vislearn.train.checkpoint import Checkpoint
from vislearn.train.events import on

HERE = Path(__file__).parent
pytestmark = pytest.mark.filterwarnings('ignore:a worker process died', 'ignore:.*multi-threaded')
KILL = getattr(signal, 'SIGKILL', signal.SIGTERM)


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp('pictures'))


def learner(pictures, path, **kwargs):
    return Learner(make_dls(pictures, path, 2, 'process', **kwargs), tiny_net(), default_cbs=False, seed=0)


def gone(pid, timeout=10):
    "Has the process ended within `timeout` seconds?"
    for _ in range(timeout * 20):
        try:
            os.kill(pid, 0)
        except OSError:
            return True
        state = Path(f'/proc/{pid}/stat')
        if state.exists() and state.read_text().rsplit(')', 1)[1].split()[0] == 'Z':
            return True
        time.sleep(0.05)
    return False


def killing(at):
    "Kill a worker after these training steps, counted over the run."
    steps = iter(range(10**6))

    def kill(learn):
        if next(steps) in at:
            os.kill(learn.dls.train._procs.pids[0], KILL)

    return on('after_step', kill)


@pytest.mark.parametrize('round', range(10 if FULL else 1))
def test_killed_workers_change_nothing(pictures, tmp_path, round):
    "In full: 20 kills."
    whole, hurt = learner(pictures, tmp_path), learner(pictures, tmp_path)
    whole.fit(4, 1e-2)
    hurt.fit(4, 1e-2, cbs=killing({random.Random(round).randrange(4), 4 + random.Random(round + 1).randrange(8)}))
    assert same_weights(whole.model, hurt.model)
    assert [{k: v for k, v in r.items() if k != 'time'} for r in whole.history] == [
        {k: v for k, v in r.items() if k != 'time'} for r in hurt.history
    ]


def test_a_restart_is_said(pictures, tmp_path):
    dl = learner(pictures, tmp_path).dls.train
    list(dl)
    os.kill(dl._procs.pids[0], KILL)
    time.sleep(1)  # until the pool has noticed; a short epoch could be over before
    with pytest.warns(UserWarning, match='a worker process died; its jobs are done again'):
        list(dl)


def test_three_deaths_save_and_stop_and_the_run_can_go_on(pictures, tmp_path, capsys):
    "Killed at every look; then resumed where nobody kills."
    whole, hurt, last = (learner(pictures, tmp_path, bs=3) for _ in range(3))
    whole.fit(3, 1e-2)

    def kill_all(learn):
        if learn.epoch == 1 and learn.training:
            for pid in learn.dls.train._procs.pids:
                os.kill(pid, KILL)

    with pytest.raises(
        WorkerError,
        match=r'died 3 times in one pass; the last was reading .*(red|green|blue)_\d\d.png.* Most likely memory ran out.*workers=.thread',
    ) as e:
        hurt.fit(3, 1e-2, cbs=on('after_batch', kill_all), checkpoint=Checkpoint('r'))
    assert any('Stopped in epoch 1' in o for o in e.value.__notes__)
    assert "learn.resume('r')" in capsys.readouterr().out
    last.resume('r')
    assert same_weights(whole.model, last.model)


class Deadly(Transform):
    "Dies of one picture, the blue ones' seventh."

    def __call__(self, x, rng=None):
        if x.flatten()[0] == 77:
            faulthandler.disable()
            os.kill(os.getpid(), signal.SIGSEGV)
        return x


@pytest.mark.skipif(os.name == 'nt', reason='Windows has no such signals to send')
def test_a_file_that_crashes_is_narrowed_down(tmp_path):
    from PIL import Image

    fns = [tmp_path / f'{i}.png' for i in range(12)]
    for i, f in enumerate(fns):
        Image.new('RGB', (8, 8), (77 if i == 7 else 0,) * 3).save(f)
    dl = Loader(Dataset(fns, item_tfms=[Resize(8), Deadly()]), bs=2, num_workers=2, workers='process', device='cpu')
    with pytest.raises(WorkerError, match='the last was reading .*a file crashes its decoder.*verify_images') as e:
        list(dl)
    named = str(e.value).split('was reading ')[1].split('. Most')[0]
    assert '7.png' in named and '6.png' in named and '3.png' not in named
    assert len(list(dl.new(Dataset(fns[:7], item_tfms=[Resize(8), Deadly()])))) == 4


class Draws(Transform):
    "Uses the global generators, as other people's transforms do."

    def __call__(self, x, rng=None):
        return x ^ random.randrange(256) ^ int(torch.randint(256, ()))


def test_global_random_numbers_do_not_depend_on_the_worker(pictures):
    fns = sorted(pictures.rglob('*.png'))[:20]

    def go(n, kill=False):
        dl = Loader(
            Dataset(fns, item_tfms=[Resize(8), Draws()]), bs=4, num_workers=n, workers='process', device='cpu', seed=1
        )
        got = []
        for b in dl:
            got.append(b[0])
            if kill:
                os.kill(dl._procs.pids[0], KILL)
                kill = False
        return torch.cat(got)

    a = go(2)
    assert torch.equal(a, go(1)) and torch.equal(a, go(2, True)) and a.std() > 0
    assert not torch.equal(a[0] - a[0].min(), a[4] - a[4].min())


def test_changed_transforms_reach_the_workers(pictures):
    fns = sorted(pictures.rglob('*.png'))[:4]
    dl = Loader(Dataset(fns, item_tfms=[Resize(8)]), bs=4, num_workers=1, workers='process', device='cpu')
    assert next(iter(dl))[0].shape[-1] == 8
    dl.dataset.item_tfms = Dataset([], item_tfms=[Resize(16)]).item_tfms
    assert next(iter(dl))[0].shape[-1] == 16


def test_nothing_is_left_behind(pictures, tmp_path):
    dl = learner(pictures, tmp_path).dls.train
    for _ in dl:
        break  # an abandoned pass
    pids = dl._procs.pids
    assert len(pids) == 2
    del dl
    gc.collect()
    assert all(map(gone, pids))


def run(folder, method, kills):
    r = subprocess.run(
        [sys.executable, HERE / 'worker_run.py', folder, method, str(kills)],
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert r.returncode == 0, r.stderr[-3000:]
    return r.stdout.strip()


@pytest.mark.parametrize('method', [m for m in multiprocessing.get_all_start_methods() if FULL or m != 'forkserver'])
def test_every_way_to_start_processes(pictures, tmp_path, method):
    (tmp_path / 'pictures').symlink_to(pictures)
    want = learner(pictures, tmp_path)
    want.fit(2, 1e-2)
    assert run(tmp_path, method, 1) == sum(p.double().sum().item() for p in want.model.parameters()).hex()


@pytest.mark.skipif(os.name == 'nt', reason='Windows has no kill -9')
def test_workers_end_with_a_killed_parent(pictures, tmp_path):
    (tmp_path / 'pictures').symlink_to(pictures)
    p = subprocess.Popen(
        [sys.executable, HERE / 'worker_run.py', tmp_path, multiprocessing.get_start_method(), 'wait'],
        cwd=HERE,
        stdout=subprocess.PIPE,
        text=True,
    )
    pids = [int(o) for o in p.stdout.readline().split()]
    assert len(pids) == 2 and not gone(pids[0], 0)
    p.kill()
    p.wait()
    p.stdout.close()
    assert all(map(gone, pids))


class Odd(Exception):
    "An error that can be sent but not received."

    def __init__(self, a, b):
        super().__init__(a)


def raise_odd(held):
    raise Odd('odd', 1)


def test_an_error_that_cannot_travel_is_told():
    w = Workers(raise_odd, None, 1)
    with pytest.raises(RuntimeError, match='Odd: odd'):
        list(w.run([()]))
    w.close()
    w.close()
    assert w.pids == [] or all(map(gone, w.pids))
