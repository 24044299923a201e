"Several processes on the CPU do what one does; see distrib_run.py for what they run."

import os
import subprocess
import sys
import time
from pathlib import Path

import distrib_run
import pytest
import torch
from tiny import make_pictures

from vislearn.distrib import shares
from vislearn.train.ranks import loss_mass, rate_factor

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(sys.platform == 'win32', reason='torchrun needs a POSIX system')


def launched(n: int, *words: str, restarts: int = 0, cwd: Path = HERE) -> subprocess.CompletedProcess:
    "A script of this folder in `n` processes."
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '', 'VISLEARN_PROGRESS': 'off'}
    start = f'from vislearn.distrib import launch; launch({n}, {list(words)!r}, max_restarts={restarts})'
    command = [sys.executable, '-c', start]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp('distrib')
    make_pictures(path / 'pictures')
    (path / 'damaged.png').write_bytes(b'no picture')
    return path


@pytest.fixture(scope='module')
def one(folder) -> dict:
    "What one process finds."
    return distrib_run.cases(folder)


@pytest.fixture(scope='module', params=[2, 3])
def several(request, folder) -> dict:
    "What two or three find."
    run = launched(request.param, str(HERE / 'distrib_run.py'), 'cases', str(folder))
    assert run.returncode == 0, run.stdout + run.stderr
    return torch.load(folder / f'{request.param}.pth') | {'n': request.param}


def assert_equal(a, b, where: str = '') -> None:
    "The same numbers, up to 1e-5 of the largest."
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for k in a:
            assert_equal(a[k], b[k], f'{where}.{k}')
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b)):
            assert_equal(x, y, f'{where}.{i}')
    elif isinstance(a, torch.Tensor):
        assert a.shape == b.shape and a.dtype == b.dtype, where
        scale = a.double().abs().max().item() if a.numel() else 1.0
        torch.testing.assert_close(b.double(), a.double(), rtol=0, atol=1e-5 * scale, msg=lambda m: f'{where}: {m}')
    elif isinstance(a, float):
        assert b == pytest.approx(a, rel=1e-5), where
    else:
        assert a == b, where


@pytest.mark.parametrize('case', [o.__name__ for o in distrib_run.CASES])
def test_several_processes_do_what_one_does(case, one, several):
    assert_equal(one[case], several[case], case)


def test_the_cases_put_dealing_out_to_the_test(one):
    plain = one['plain']
    assert len(plain['losses']) == 2 * 6 and len(plain['training items'][0]) == 36  # 36 = 5 * 7 + 1
    assert len(plain['inputs']) == 12 and one['stopped']['epochs'] == 2
    assert len(one['unreadable']['preds']) == 10 and one['unreadable']['bad'] == ['damaged.png'] * 2
    first, last = plain['losses'][0], plain['losses'][-1]
    assert last < 0.8 * first


def test_only_rank_0_prints(several):
    assert several['printed'] == [True] + [False] * (several['n'] - 1)


def test_a_process_that_ends_too_early_is_named_as_the_reason(several):
    said = several['lost']
    assert f'process 0 of {several["n"]}' in said and 'no longer hears' in said and '--resume' in said


def test_processes_judge_alike_without_synced_norms_and_rates_follow_the_batch(several):
    found = several['local_norms']
    assert found['same'] and found['bs'] == 8 * several['n']
    assert found['lr'] == pytest.approx(0.01 * several['n'])


def test_killed_process_ends_all_and_the_run_goes_on_with_another_number_of_processes(folder, tmp_path):
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'pictures').symlink_to(folder / 'pictures')
    whole = distrib_run.run_to_end(tmp_path / 'a')
    run = launched(2, str(HERE / 'distrib_run.py'), 'killed', str(tmp_path / 'b'), restarts=1)
    took = time.time() - float((tmp_path / 'b' / 'killed').read_text())
    assert run.returncode != 0 and 'SIGKILL' in run.stderr, run.stderr
    assert took < 30
    saved = torch.load(tmp_path / 'b' / 'runs' / 'r' / 'last.pth')
    assert saved['phase'] == 1 and len(saved['history']) == 2  # it was started twice, and had gone on in between
    rest = distrib_run.run_to_end(tmp_path / 'b')
    assert_equal(whole.model.state_dict(), rest.model.state_dict())
    assert_equal([o['valid_loss'] for o in whole.history], [o['valid_loss'] for o in rest.history])


def test_batches_are_dealt_out_evenly_and_completely():
    for n in range(12):
        for parts in (1, 2, 3, 5):
            cut = shares(n, parts)
            assert [i for start, stop in cut for i in range(start, stop)] == list(range(n))
            sizes = [stop - start for start, stop in cut]
            assert max(sizes) - min(sizes) <= 1 and sizes == sorted(sizes, reverse=True)


def test_weighted_parts_of_a_loss_add_up():
    ce = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 4.0, 0.5]), ignore_index=2)
    pred, targ = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 0, 1])
    cpu = torch.device('cpu')
    parts = [slice(0, 4), slice(4, 6)]
    masses = [loss_mass(ce, targ[o], len(targ[o]), cpu) for o in parts]
    total = sum(m * ce(pred[o], targ[o]) for m, o in zip(masses, parts)) / sum(masses)
    torch.testing.assert_close(total, ce(pred, targ))
    assert loss_mass(torch.nn.MSELoss(), None, 5, cpu) == 5


def test_unknown_scaling_of_rates_is_refused():
    with pytest.raises(ValueError, match="scale_lr is 'linear' or 'sqrt', got 'twice'"):
        rate_factor('twice', 2)
