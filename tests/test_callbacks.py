"What callbacks do when things go wrong: kills, full disks, unwritable folders, wrong names; and what the screen shows."

import copy
import csv
import errno
import io
import json
import multiprocessing
import os
import pickle
import random
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections import namedtuple
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from tiny import FULL, make_dls, make_pictures, same_weights, tiny_net
from torch import nn

from vislearn.app.report import html_rows
from vislearn.io import atomic_save, plain_data, writable
from vislearn.learner import Learner
from vislearn.progress import progress_bar
from vislearn.train.averaging import EMA
from vislearn.train.checkpoint import Checkpoint, read_run
from vislearn.train.events import CancelBatchException, CancelEpochException, on
from vislearn.train.freezing import Unfreeze
from vislearn.train.hooks import ActivationStats, Hook
from vislearn.train.loggers import CSVLogger, JSONLogger, LineLogger, TensorBoardCallback, TrainMetrics
from vislearn.train.loop import TrainLoop
from vislearn.train.lr_find import LRFinder, slide, suggest_lrs
from vislearn.train.metrics import accuracy
from vislearn.train.mix import MixUp
from vislearn.train.progress import ProgressCallback
from vislearn.train.recorder import Recorder
from vislearn.train.saving import load_model, save_model
from vislearn.train.schedules import ParamScheduler, TorchScheduler, one_cycle
from vislearn.train.steps import GradientAccumulation, GradientClip, MixedPrecision, ShortEpochCallback
from vislearn.train.tracking import (
    EarlyStoppingCallback,
    ReduceLROnPlateau,
    SaveModelCallback,
    TerminateOnNaNCallback,
    TrackerCallback,
)

HERE = Path(__file__).parent
x = torch.randn(96, 4, generator=torch.Generator().manual_seed(0))
y = (x.sum(1) > 0).long()
batches = [*zip(x.split(16), y.split(16))]


def loop(path: Path, *cbs, **kwargs):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))
    learn = TrainLoop(
        (batches[:4], batches[4:]),
        net,
        nn.CrossEntropyLoss(),
        lambda groups, lr: torch.optim.SGD(groups, lr, momentum=0.9),
        cbs=cbs,
        **{'lr': 0.1, **kwargs},
    )
    learn.path = path
    return learn


# files that survive


def save_forever(file, started):
    big = torch.randn(500_000)
    for n in range(10**6):
        atomic_save({'n': n, 'big': big.add_(1), 'check': big.sum()}, file)
        started.set()


def test_killed_while_saving(tmp_path):
    "Whenever the program is killed, the file can be read and is whole."
    rng, file = random.Random(0), tmp_path / 'a.pth'
    mp = multiprocessing.get_context('fork' if 'fork' in multiprocessing.get_all_start_methods() else 'spawn')
    for i in range(100 if FULL else 8):
        started = mp.Event()
        p = mp.Process(target=save_forever, args=(file, started))
        p.start()
        started.wait(60)
        time.sleep(rng.random() * 0.2)
        p.kill()
        p.join()
        o = torch.load(file, weights_only=True)
        assert o['big'].sum() == o['check']
    for o in tmp_path.iterdir():
        os.utime(o, (0, 0))
    atomic_save({}, file)
    assert [*tmp_path.iterdir()] == [file], 'temporary files of killed runs stay behind'


def full_disk(monkeypatch, free=1000):
    "A disk that runs full while a file is written."
    save = torch.save

    def fail(obj, f):
        f.write(b'x' * 500)
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(torch, 'save', fail)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(10**9, 10**9 - free, free))
    return save


def test_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    file = atomic_save({'a': torch.ones(2)}, tmp_path / 'a.pth')
    full_disk(monkeypatch)
    with pytest.raises(
        OSError,
        match=r'cannot write .*a\.pth: it needs 38\.1 MB and 0\.0 MB are free\. The file there before is unchanged',
    ):
        atomic_save({'b': torch.ones(10**7)}, file)
    assert [*tmp_path.iterdir()] == [file] and torch.load(file, weights_only=True)['a'].tolist() == [1, 1]


@pytest.mark.skipif(
    sys.platform != 'linux' or not hasattr(os, 'geteuid') or os.geteuid() != 0,
    reason='mounting a small disk needs root on Linux',
)
def test_really_full_disk(tmp_path):
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=3m', 'tmpfs', tmp_path], capture_output=True).returncode:
        pytest.skip('mounting is not allowed here')
    try:
        file = atomic_save({'a': torch.ones(10)}, tmp_path / 'a.pth')
        with pytest.raises(OSError, match='needs 3.8 MB and [0-3].* MB are free'):
            atomic_save({'b': torch.ones(10**6)}, file)
        assert [*tmp_path.iterdir()] == [file] and len(torch.load(file, weights_only=True)['a']) == 10
        learn = loop(tmp_path, Checkpoint('r', keep=100))
        learn.fit(1)
        (tmp_path / 'filler').write_bytes(b'x' * (shutil.disk_usage(tmp_path).free - 4096))
        with pytest.raises(OSError, match='cannot write'):
            learn.fit(1)
        (tmp_path / 'filler').unlink()
        assert read_run(learn, 'r')['position'] == (1, 0)  # the checkpoint from before
        learn.fit(1)  # and the learner can go on
    finally:
        subprocess.run(['umount', tmp_path], check=True)


def test_an_error_that_is_not_the_disk_stays_itself(tmp_path):
    with pytest.raises(Exception, match='pickle|local'):
        atomic_save(lambda: 0, tmp_path / 'a.pth')
    assert not [*tmp_path.iterdir()]


@pytest.mark.skipif(sys.platform == 'win32', reason='folders are locked differently there')
def test_unwritable_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'access', lambda path, mode: False)
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match='cannot be written to; using'):
        assert writable(tmp_path / 'data') == tmp_path
    learn = loop(tmp_path / 'data')
    with pytest.warns(UserWarning):
        file = save_model(learn, 'm')
    assert file == tmp_path / 'm.pth'
    load_model(learn, 'm')


def test_plain_data_can_be_read_back(tmp_path):
    o = {
        'a': np.float64(1.5),
        'b': [np.arange(3), Path('p'), (True, None)],
        'c': {1: torch.ones(2)},
        'd': torch.float16,
    }
    with pytest.warns(UserWarning, match='a dtype is not plain data'):
        plain = plain_data(o)
    back = torch.load(atomic_save(plain, tmp_path / 'o.pth'), weights_only=True)
    assert back['a'] == 1.5 and back['b'][0].tolist() == [0, 1, 2] and back['b'][1:] == ['p', (True, None)]


def test_metrics_that_are_numpy_do_not_spoil_checkpoints(tmp_path):
    learn = loop(tmp_path, Checkpoint('r'), metrics=[lambda p, t: np.float32(0.5), lambda p, t: np.array([1.0, 2.0])])
    learn.fit(1)
    assert read_run(learn, 'r')['history'][0]['<lambda>'] == 0.5


def test_load_optimizer_of_other_shape(tmp_path):
    a = loop(tmp_path)
    a.fit(1)
    save_model(a, 'a')
    b = loop(tmp_path)
    b.opt_func = lambda groups, lr: torch.optim.SGD([{'params': [p]} for g in groups for p in g['params']], lr)
    with pytest.warns(UserWarning, match='were loaded, but not its optimizer state'):
        load_model(b, 'a')
    assert same_weights(a.model, b.model)


# going on


def run(folder, workers, kind, kill_at=None):
    args = [sys.executable, HERE / 'resume_run.py', folder, str(workers), kind] + ([str(kill_at)] if kill_at else [])
    return subprocess.run(
        args,
        cwd=HERE,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'VISLEARN_PROGRESS': 'off'},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope='module')
def whole_run(tmp_path_factory):
    "What a run gives that nothing disturbs."
    folder = tmp_path_factory.mktemp('whole')
    make_pictures(folder / 'pictures')
    r = run(folder, 0, 'thread')
    assert r.returncode == 0, r.stderr[-3000:]
    return torch.load(folder / 'end.pth')


def killed_run(folder, workers, kind, rng):
    "A run killed at random batches until it gets through; how often that was, and what it ended with."
    make_pictures(folder / 'pictures')
    kills = 0
    while not (folder / 'end.pth').exists():
        r = run(folder, workers, kind, rng.randint(4, 12) if kills < 9 else None)
        kills += r.returncode != 0
        assert r.returncode in (0, -9, 15), r.stderr[-3000:]
    return kills, torch.load(folder / 'end.pth')


@pytest.mark.parametrize('workers,kind', [(0, 'thread'), (2, 'thread'), (2, 'process')])
def test_killed_and_resumed_is_the_same_to_the_last_bit(whole_run, tmp_path, workers, kind):
    """kill -9 at random batches, frozen phase and after; what is lost since the last checkpoint is done again.

    In full: 20 kills.
    """
    rng, kills = random.Random(workers + len(kind)), 0
    while kills < (20 if FULL else 1):
        n, end = killed_run(tmp_path / str(kills), workers, kind, rng)
        kills += n
        assert (
            end['history'] == whole_run['history']
            and end['losses'] == whole_run['losses']
            and end['lrs'] == whole_run['lrs']
        )
        assert all(torch.equal(v, whole_run['weights'][k]) for k, v in end['weights'].items())


def test_resume_with_accumulated_gradients(tmp_path):
    "Stopped between two halves of a step."

    def go(*cbs, state=None):
        learn = loop(tmp_path)
        learn.resuming = state
        torch.manual_seed(0)
        learn.fit(3, cbs=[GradientAccumulation(48), Checkpoint('r', every=1), *cbs])
        return learn

    whole = go()

    def stop(learn):
        if learn.iter == 1 and learn.epoch == 1:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        go(on('before_batch', stop))
    state = read_run(loop(tmp_path), 'r')
    assert state['unstepped'] and state['position'] == (1, 1)
    assert same_weights(go(state=state).model, whole.model)


def test_other_data_is_refused(tmp_path):
    learn = loop(tmp_path, Checkpoint('r'))
    learn.fit(1)
    other = loop(tmp_path, Checkpoint('r'))
    other.dls = (batches[:3], batches[4:])
    other.resuming = read_run(other, 'r')
    with pytest.raises(ValueError, match='saved with 4 batches in an epoch, but there are 3 now'):
        other.fit(1)


def test_missing_run_names_those_there(tmp_path):
    learn = loop(tmp_path, Checkpoint('bears'))
    learn.fit(1)
    with pytest.raises(FileNotFoundError, match="did you mean 'bears'"):
        read_run(learn, 'baers')


def test_missing_callbacks_are_named(tmp_path):
    learn = loop(tmp_path, Checkpoint('r'), EMA())
    learn.fit(1)
    other = loop(tmp_path, Checkpoint('r'))
    other.resuming = read_run(other, 'r')
    with pytest.warns(UserWarning, match=r"\['ema'\]"):
        other.fit(2)


def test_run_folder(tmp_path):
    learn = loop(tmp_path, Checkpoint('r', keep=2, monitor='+accuracy'), metrics=accuracy)
    learn.fit(5)
    assert sorted(o.name for o in (tmp_path / 'runs/r').iterdir()) == [
        'best.pth',
        'epoch_3.pth',
        'epoch_4.pth',
        'history.csv',
        'history.jsonl',
        'last.pth',
    ]
    best = read_run(learn, 'r', 'best')['history'][-1]['accuracy']
    assert best == max(o['accuracy'] for o in learn.history)


# watching a number


def test_the_run_folder_has_the_table_after_a_resume_too(tmp_path):
    learn = loop(tmp_path, Checkpoint('r'))
    learn.fit(3)
    rows = [json.loads(o) for o in (tmp_path / 'runs/r/history.jsonl').read_text().splitlines()]
    assert rows == learn.history and len((tmp_path / 'runs/r/history.csv').read_text().splitlines()) == 4
    again = loop(tmp_path, Checkpoint('r'))
    again.resuming = read_run(again, 'r')
    again.fit(5)
    rows = [json.loads(o) for o in (tmp_path / 'runs/r/history.jsonl').read_text().splitlines()]
    assert [o['epoch'] for o in rows] == [0, 1, 2, 3, 4] and rows == again.history


def test_unknown_monitor_names_the_known_ones(tmp_path):
    for cb in (TrackerCallback, EarlyStoppingCallback, SaveModelCallback, ReduceLROnPlateau):
        with pytest.raises(
            ValueError, match=f"{cb.__name__}: there is no 'accuracy' to monitor; there are: train_loss, valid_loss"
        ):
            loop(tmp_path, cb('accuracy')).fit(1)


def test_checkpoint_and_plateau_name_an_unknown_monitor_too(tmp_path):
    plateau = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=1)
    for cb in (Checkpoint('r', monitor='valid_los'), TorchScheduler(plateau, monitor='valid_los')):
        with pytest.raises(ValueError, match="no 'valid_los' to monitor; did you mean 'valid_loss'?"):
            loop(tmp_path, cb).fit(1)
    alone = loop(tmp_path, Checkpoint('alone'))
    alone.dls = alone.dls[:1]
    alone.fit(1)  # nothing is validated, so that there is no best model
    assert not (tmp_path / 'runs/alone/best.pth').exists()


def test_best_is_kept_over_phases_but_not_over_runs(tmp_path):
    t = TrackerCallback()
    learn = loop(tmp_path, t)
    for learn.phase, kept in ((0, False), (1, True), (0, False)):
        t.best = -1.0
        learn.fit(1)
        assert (t.best == -1.0) == kept


def test_save_model_variants(tmp_path):
    loop(tmp_path, SaveModelCallback(every_epoch=2, fname='e')).fit(5)
    assert sorted(o.name for o in (tmp_path / 'models').iterdir()) == ['e_0.pth', 'e_2.pth', 'e_4.pth']
    loop(tmp_path, SaveModelCallback(at_end=True, fname='end', with_opt=True)).fit(1)
    assert 'opt' in torch.load(tmp_path / 'models/end.pth', weights_only=True)


def test_nothing_to_save_is_a_warning_not_a_crash(tmp_path):
    learn = loop(tmp_path, SaveModelCallback(), TerminateOnNaNCallback(), lr=1e30)
    with pytest.warns(UserWarning, match='no best model was saved'):
        learn.fit(1)


def test_interrupted_run_has_its_best_model(tmp_path):
    def stop(learn):
        if learn.epoch == 3:
            raise KeyboardInterrupt

    learn = loop(
        tmp_path,
        SaveModelCallback(),
        on('before_epoch', lambda learn: learn.set_lr([0.1, 0.1, 5.0, 5.0][learn.epoch])),
        on('before_train', stop),
    )
    with pytest.raises(KeyboardInterrupt):
        learn.fit(4)
    assert learn.validate()[0] == min(o['valid_loss'] for o in learn.history) < learn.history[-1]['valid_loss']


def test_early_stopping_counts_epochs(tmp_path):
    learn = loop(tmp_path, EarlyStoppingCallback(patience=3), lr=0.0)
    learn.fit(20)
    assert len(learn.history) == 4


def test_early_stopping_leaves_out_cancelled_epochs(tmp_path):
    def cancel(learn):
        if 0 < learn.epoch < 4:
            raise CancelEpochException

    learn = loop(tmp_path, EarlyStoppingCallback(patience=2), on('before_train', cancel), lr=0.0)
    learn.fit(20)
    assert [row['epoch'] for row in learn.history] == [0, 4, 5]


def test_min_delta(tmp_path):
    learn = loop(tmp_path, EarlyStoppingCallback(min_delta=1e9, patience=1))
    learn.fit(20)
    assert len(learn.history) == 2


# averages, clipping, precision


def test_ema_is_what_is_saved_and_kept(tmp_path):
    learn = loop(tmp_path, EMA(0.9), SaveModelCallback())
    learn.fit(4)
    assert learn.validate()[0] == min(o['valid_loss'] for o in learn.history)


def test_ema_of_an_interrupted_run(tmp_path):
    def stop(learn):
        if learn.epoch == 1 and not learn.interrupted:
            raise KeyboardInterrupt

    for event in ('before_step', 'before_validate'):
        ema = EMA(0.5)
        learn = loop(tmp_path, ema, on(event, stop))
        with pytest.raises(KeyboardInterrupt):
            learn.fit(3)
        assert ema.shadow is None and not ema.swapped
        assert learn.validate()[0] > 0
        learn.fit(1)


def test_gradient_clip_by_largest_value(tmp_path):
    seen = []
    loop(
        tmp_path,
        GradientClip(1e-3, float('inf')),
        on('after_step', lambda learn: seen.append(max(p.grad.abs().max().item() for p in learn.model.parameters()))),
    ).fit(1)
    assert max(seen) <= 1.001e-3


def test_mixed_precision_for_one_fit(tmp_path):
    learn = loop(tmp_path)
    learn.fit(1, cbs=MixedPrecision('bf16'))
    assert learn.precision == 'fp32'


def test_short_epoch_takes_one_batch_at_least(tmp_path):
    learn = loop(tmp_path, Recorder(), ShortEpochCallback())
    learn.fit(1)
    assert len(learn.recorder.losses) == 1


def test_activation_stats_every_other_batch(tmp_path):
    learn = loop(tmp_path, ActivationStats(every=2))
    learn.fit(1)
    assert [len(o) for o in learn.activation_stats.stats] == [2, 2, 2]


def test_hooks_catch_named_tuples():
    "Some networks of torchvision give those of helper heads too."
    Outputs = namedtuple('Outputs', 'logits aux')

    class Net(nn.Module):
        def forward(self, x):
            return Outputs(x, x + 1)

    with Hook(net := Net()) as hook:
        net(torch.ones(1, requires_grad=True))
    assert type(hook.stored) is Outputs and not hook.stored.aux.requires_grad


# what is shown


def shown(path, capsys, **env):
    learn = loop(path, ProgressCallback(), metrics=accuracy)
    learn.fit(2)
    learn.validate()
    learn.get_preds()
    return capsys.readouterr()


def test_plain_when_piped(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv('VISLEARN_PROGRESS', raising=False)
    out, err = shown(tmp_path, capsys)
    lines = out.splitlines()
    assert (
        lines[0].split() == ['epoch', 'train_loss', 'valid_loss', 'accuracy', 'time']
        and len(lines) == 3
        and lines[1].endswith('00:00')
    )
    assert '\r' not in out and not err


def test_times_can_be_left_out_of_the_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('VISLEARN_TIMES', '0')
    assert shown(tmp_path, capsys).out.splitlines()[0].split() == ['epoch', 'train_loss', 'valid_loss', 'accuracy']


def test_off(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('VISLEARN_PROGRESS', 'off')
    assert shown(tmp_path, capsys).out == ''


def test_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('VISLEARN_PROGRESS', 'terminal')
    out, err = shown(tmp_path, capsys)
    assert len(out.splitlines()) == 3 and 'epoch 0/2' in err and 'valid' in err


@pytest.mark.skipif(sys.platform == 'win32', reason='no pseudo terminals')
def test_on_a_real_terminal(tmp_path):
    import fcntl
    import pty
    import struct
    import termios

    code = f"""if 1:
        import sys
        from pathlib import Path
        sys.path.insert(0, {str(HERE)!r})
        import test_callbacks as t
        t.loop(Path({str(tmp_path)!r}), t.ProgressCallback()).fit(2)"""
    env = {k: v for k, v in os.environ.items() if k != 'VISLEARN_PROGRESS'}
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0))  # 24 lines of 80 columns
    p = subprocess.Popen([sys.executable, '-c', code], stdin=slave, stdout=slave, stderr=slave, env=env)
    os.close(slave)
    out = b''
    try:
        while chunk := os.read(master, 4096):
            out += chunk
    except OSError:
        pass
    assert p.wait() == 0, out.decode()
    text = out.decode()
    assert 'epoch 0/2' in text and '\r' in text and 'valid_loss' in text


def test_notebook_table(tmp_path, monkeypatch):
    monkeypatch.setenv('VISLEARN_PROGRESS', 'notebook')
    seen = []
    import IPython.display

    class Handle:
        def update(self, o):
            seen.append(o.data)

    monkeypatch.setattr(IPython.display, 'display', lambda o, display_id=None: seen.append(o.data) or Handle())
    loop(tmp_path, ProgressCallback(), metrics=accuracy).fit(2)
    assert seen[-1].count('<tr>') == 3 and '<th>accuracy</th>' in seen[-1] and '<progress' not in seen[-1]
    assert any('<progress value="1" max="4"></progress> epoch 1/2' in o for o in seen)


def test_logs_survive_resume_and_append(tmp_path):
    log, lines = CSVLogger('logs/h.csv'), JSONLogger(append=True)
    learn = loop(tmp_path, log, lines)
    learn.fit(2)
    learn.fit(1)
    assert len(log.read_log()) == 1 and [json.loads(o)['epoch'] for o in lines.file.read_text().splitlines()] == [
        0,
        1,
        0,
    ]


def test_lr_finder_stops_when_the_loss_explodes(tmp_path):
    finder = LRFinder(num_it=200, end_lr=1e6)
    loop(tmp_path, finder).fit(50)
    assert len(finder.lrs) < 200


def test_unfreeze_needs_a_plan():
    with pytest.raises(ValueError, match='the plan is a dict'):
        Unfreeze('gradul')


def test_line_logger_looks_like_paddles(tmp_path):
    lines = []
    loop(tmp_path, LineLogger(2, lines.append), metrics=accuracy).fit(2)
    assert len(lines) == 6
    assert re.fullmatch(
        r'\[Train\]\[Epoch 1/2\]\[Iter: 2/4\] lr: 0\.10000, loss: \d\.\d{5}, [\d.]+ images/s, eta: \d\d:\d\d', lines[0]
    )
    assert lines[2].startswith('[Eval][Epoch 1/2] train_loss: ') and 'accuracy: ' in lines[2]


def test_train_metrics_leave_mixed_batches_out(tmp_path):
    learn = Learner(make_dls(make_pictures(tmp_path / 'p'), tmp_path), tiny_net(), metrics=accuracy)
    learn.fit(1, cbs=TrainMetrics())
    learn.fit(1, cbs=[TrainMetrics(), MixUp()])
    assert 'train_accuracy' in learn.history[0] and 'train_accuracy' not in learn.history[1]


def test_columns_that_come_and_go_within_a_fit_stand_under_their_headings(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('VISLEARN_PROGRESS', 'plain')
    monkeypatch.setenv('VISLEARN_TIMES', '0')
    learn = Learner(make_dls(make_pictures(tmp_path / 'p'), tmp_path), tiny_net(), metrics=accuracy)
    log = CSVLogger()
    capsys.readouterr()
    learn.fit(2, cbs=[TrainMetrics(), MixUp(off_epoch=1), log, Checkpoint('r')])  # train_accuracy from epoch 1 on
    mixed, plain = learn.history[:2]
    assert 'train_accuracy' not in mixed and 'train_accuracy' in plain
    for file in (log.file, tmp_path / 'runs/r/history.csv'):
        with open(file, newline='') as f:
            rows = list(csv.DictReader(f))
        assert rows[0]['train_accuracy'] == ''
        assert [{k: float(v) for k, v in row.items() if v} for row in rows] == [mixed, plain]
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ['epoch', 'train_loss', 'valid_loss', 'accuracy']
    assert lines[2] == ['epoch', 'train_accuracy', 'train_loss', 'valid_loss', 'accuracy']
    assert float(lines[3][1]) == pytest.approx(plain['train_accuracy'], abs=1e-6)


def test_the_recorder_keeps_columns_that_come_and_go_apart(tmp_path):
    def note(learn):
        if learn.epoch == 1:
            learn.row['extra'] = 7.0

    recorder = Recorder()
    learn = loop(tmp_path, recorder, on('after_train', note))
    learn.fit(3)
    rows = [dict(zip(recorder.metric_names[1:-1], row, strict=True)) for row in recorder.values]
    assert [row['extra'] for row in rows] == [None, 7.0, None]
    assert [row['valid_loss'] for row in rows] == [row['valid_loss'] for row in learn.history]
    ax = plt.figure().gca()
    recorder.plot_loss(ax=ax)
    assert ax.lines[-1].get_ydata().tolist() == [row['valid_loss'] for row in learn.history]


@pytest.mark.parametrize('make', [partial(LineLogger, every=1), partial(TensorBoardCallback, every=1), Recorder])
def test_batches_that_are_skipped_are_not_logged(tmp_path, make):
    def skip(learn):
        if learn.training and learn.iter < 2:
            raise CancelBatchException

    if getattr(make, 'func', make) is TensorBoardCallback:
        pytest.importorskip('tensorboard', reason='needs pip install tensorboard')
    learn = loop(tmp_path, on('before_batch', skip))
    learn.fit(1, cbs=make())
    assert learn.history[0]['train_loss'] > 0


def test_lr_find_with_a_skipped_batch_and_functions_without_a_name_of_their_own(tmp_path):
    def skip(learn):
        if learn.iter == 0:
            raise CancelBatchException

    finder = LRFinder(num_it=3)
    loop(tmp_path, on('before_batch', skip)).fit(2, cbs=finder)
    assert len(finder.losses) == 3
    rates = [10 ** (i / 10 - 5) for i in range(40)]
    losses = [1 - i / 80 for i in range(40)]
    found = suggest_lrs(rates, losses, [partial(slide, lr_diff=5), lambda lrs, losses: 0.5])
    assert found.slide in rates and found[1] == 0.5


def test_a_report_has_the_columns_of_all_epochs():
    html = html_rows([{'epoch': 0, 'loss': 0.5}, {'epoch': 1, 'train_accuracy': 0.25, 'loss': 0.75}])
    assert '<tr><th>epoch</th><th>loss</th><th>train_accuracy</th></tr>' in html
    assert '<td>0</td><td>0.500</td><td></td>' in html and '<td>1</td><td>0.750</td><td>0.250</td>' in html


def test_tensorboard(tmp_path):
    pytest.importorskip('tensorboard', reason='needs pip install tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    learn = Learner(make_dls(make_pictures(tmp_path / 'p'), tmp_path), tiny_net(), metrics=accuracy)
    first = TensorBoardCallback(every=2, n_preds=3, with_hist=True, trace_model=True)
    learn.fit(2, cbs=first)
    learn.validate()
    log = EventAccumulator(str(tmp_path / 'tensorboard')).Reload()
    tags = log.Tags()
    assert {'batch/train_loss', 'batch/lr', 'epoch/accuracy', 'epoch/valid_loss'} <= set(tags['scalars']) and tags[
        'graph'
    ]
    assert [round(o.value, 4) for o in log.Scalars('epoch/accuracy')] == [
        round(o['accuracy'], 4) for o in learn.history
    ]
    assert (
        'head.3.weight' in tags['histograms']
        and any(o.startswith('valid/0') for o in tags['images'])
        and any('red' in o for o in tags['tensors'])
    )
    resumed = TensorBoardCallback(tmp_path / 'resumed', every=1)
    resumed.load_state_dict(first.state_dict())
    learn.fit(1, cbs=resumed)
    steps = [o.step for o in EventAccumulator(str(tmp_path / 'resumed')).Reload().Scalars('batch/train_loss')]
    n = len(learn.dls.train)
    assert steps == list(range(2 * n + 1, 3 * n + 1))


def test_activation_stats_of_a_frozen_body(tmp_path):
    "What is skipped for speed must run when it is watched."
    learn = Learner(make_dls(make_pictures(tmp_path / 'p'), tmp_path), tiny_net(), train_bn=False)
    learn.freeze()
    learn.fit(1, cbs=ActivationStats(), lr=1e-3)
    assert learn.lean


def test_an_error_between_batches_leaves_a_checkpoint_to_resume_from(tmp_path):
    "A loader that fails: the batches before it are not lost."

    class Rotten(list):
        def __iter__(self):
            yield from self[:2]
            raise OSError('the disk is gone')

    def go(train, state=None, **kwargs):
        learn = loop(tmp_path)
        learn.dls, learn.resuming = (train, batches[4:]), state
        torch.manual_seed(0)
        learn.fit(2, cbs=Checkpoint('r'), **kwargs)
        return learn

    whole = go(batches[:4])
    with pytest.raises(OSError, match='the disk is gone'):
        go(Rotten(batches[:4]))
    state = read_run(whole, 'r')
    assert state['position'] == (0, 2)
    assert same_weights(go(batches[:4], state).model, whole.model)


class Writer:
    "What some frameworks put in the place of stdout: it can write and nothing else."

    def __init__(self):
        self.text = ''

    def write(self, text):
        self.text += text


def closed_file():
    f = io.StringIO()
    f.close()
    return f


STDOUTS = {
    'none': lambda: None,
    'closed': closed_file,
    'writer': Writer,
    'ascii': lambda: io.TextIOWrapper(io.BytesIO(), encoding='ascii'),
}


@pytest.mark.parametrize('kind', STDOUTS)
@pytest.mark.parametrize('mode', [None, 'terminal'])
def test_a_fit_needs_no_proper_stdout(tmp_path, monkeypatch, kind, mode):
    out = STDOUTS[kind]()
    monkeypatch.delenv('VISLEARN_PROGRESS', raising=False)
    monkeypatch.setattr(sys, 'stdout', out)
    monkeypatch.setattr(sys, 'stderr', None if kind == 'none' else sys.stderr)

    def loss_of_café(preds, targs):
        return 0.5

    cbs = [ProgressCallback(mode), LineLogger(2), EarlyStoppingCallback('loss_of_café', patience=2)]
    learn = loop(tmp_path, *cbs, metrics=loss_of_café)
    learn.fit(9)
    learn.validate()
    assert len(learn.history) == 3
    if kind == 'writer':
        assert 'loss_of_café has not improved since epoch 0: stopping early\n' in out.text
    if kind == 'ascii':
        assert b'loss_of_caf? has not improved' in out.buffer.getvalue()


def test_progress_bars_need_no_proper_stdout(monkeypatch):
    monkeypatch.delenv('VISLEARN_PROGRESS', raising=False)
    for make in STDOUTS.values():
        monkeypatch.setattr(sys, 'stdout', make())
        assert list(progress_bar(range(3))) == [0, 1, 2]


CALLBACKS = [
    EMA,
    Checkpoint,
    ActivationStats,
    CSVLogger,
    JSONLogger,
    LineLogger,
    TrainMetrics,
    LRFinder,
    ProgressCallback,
    GradientClip,
    GradientAccumulation,
    MixedPrecision,
    ShortEpochCallback,
    EarlyStoppingCallback,
    ReduceLROnPlateau,
    SaveModelCallback,
    TerminateOnNaNCallback,
    partial(ParamScheduler, {'lr': one_cycle()}),
    partial(TorchScheduler, partial(torch.optim.lr_scheduler.StepLR, step_size=1)),
]


@pytest.mark.parametrize('make', CALLBACKS, ids=lambda o: getattr(o, 'func', o).__name__)
def test_callbacks_can_be_copied_and_pickled_after_use(tmp_path, make):
    "A copy of the learner goes on as the learner does."
    learn = loop(tmp_path, Recorder(), make(), seed=0)
    learn.fit(1)
    for cb in learn.cbs:
        assert repr(pickle.loads(pickle.dumps(cb))) == repr(cb)
    other = copy.deepcopy(learn)
    assert all(a is not b for a, b in zip(learn.cbs, other.cbs))
    learn.fit(1)
    other.fit(1)
    assert same_weights(learn.model, other.model)
    assert torch.equal(torch.stack(learn.recorder.losses), torch.stack(other.recorder.losses))


def test_accumulation_of_more_pictures_than_the_fit_has_warns_once(tmp_path):
    learn = loop(tmp_path)
    before = {k: v.clone() for k, v in learn.model.named_parameters()}
    with pytest.warns(UserWarning, match=r'n_acc=1000.* whole fit had 128;') as said:
        learn.fit(2, cbs=GradientAccumulation(1000))
    assert len(said) == 1 and all(torch.equal(v, before[k]) for k, v in learn.model.named_parameters())
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        learn.fit(2, cbs=GradientAccumulation(128))  # one step, in the second epoch
    assert not all(torch.equal(v, before[k]) for k, v in learn.model.named_parameters())


def test_only_callbacks_without_side_effects_take_part_in_trials():
    stays = {TrainMetrics, TerminateOnNaNCallback, GradientClip, GradientAccumulation, MixedPrecision, MixUp, Recorder}
    assert all(cb.in_trials for cb in stays)
    left_out = {EMA, Checkpoint, CSVLogger, LineLogger, ProgressCallback, SaveModelCallback, EarlyStoppingCallback}
    assert not any(cb.in_trials for cb in left_out)


def test_a_cancelled_epoch_has_no_row_anywhere(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('VISLEARN_PROGRESS', 'plain')

    def cancel(learn):
        if learn.epoch == 1:
            raise CancelEpochException

    log = CSVLogger()
    learn = loop(
        tmp_path, Recorder(), ProgressCallback(), log, JSONLogger(), Checkpoint('r'), on('after_train', cancel)
    )
    learn.fit(3)
    epochs = [row['epoch'] for row in learn.history]
    assert epochs == [0, 2]
    assert log.read_log()['epoch'].tolist() == epochs
    assert len(learn.recorder.values) == len(learn.recorder.iters) == 2
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert [json.loads(o)['epoch'] for o in (tmp_path / 'runs/r/history.jsonl').read_text().splitlines()] == epochs
    learn.recorder.plot_loss()


@pytest.mark.parametrize('kind', ['closed', 'detached', 'broken', 'odd'])
def test_more_kinds_of_stdout(kind, tmp_path, monkeypatch):
    "A terminal that is gone, a stream without its buffer, an object whose `isatty` is no method: training goes on."

    class Gone:
        encoding = 'utf-8'

        def write(self, text):
            raise BrokenPipeError('gone')

        def flush(self):
            raise BrokenPipeError('gone')

        def isatty(self):
            return True

    class Odd(io.StringIO):
        isatty = None

    streams = {'closed': io.StringIO(), 'detached': io.TextIOWrapper(io.BytesIO()), 'broken': Gone(), 'odd': Odd()}
    out = streams[kind]
    if kind == 'closed':
        out.close()
    if kind == 'detached':
        out.detach()
    learn = Learner(make_dls(make_pictures(tmp_path / 'pictures'), tmp_path), tiny_net(), seed=0)
    monkeypatch.setattr(sys, 'stdout', out)
    monkeypatch.setattr(sys, 'stderr', out)
    learn.fit(1)
    learn.show_training_loop()
    assert list(progress_bar(range(3))) == [0, 1, 2]
    assert len(learn.history) == 1


@pytest.mark.parametrize('n_epoch,drawn', [(1, 4), (2, 8), (3, 7)])
def test_a_short_fit_has_a_curve_of_its_training_loss(tmp_path, n_epoch, drawn):
    "Of four batches an epoch; the first five are left out where there are ten at least."
    learn = loop(tmp_path, Recorder())
    learn.fit(n_epoch)
    ax = plt.subplots()[1]
    learn.recorder.plot_loss(ax=ax)
    assert [len(line.get_xdata()) for line in ax.lines] == [drawn, n_epoch]
    plt.close('all')
