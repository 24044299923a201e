"Several processes on the CPU do what one does; see distrib_run.py for what they run."

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import distrib_run
import pytest
import torch
from tiny import COLOURS, make_pictures

from vislearn.app.train_run import train
from vislearn.deploy.predictor import load_predictor
from vislearn.distrib import shares
from vislearn.train.ranks import loss_denominator, rate_factor

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(sys.platform == 'win32', reason='torchrun needs a POSIX system')


def launched(n: int, *words: str, max_restarts: int = 0) -> subprocess.CompletedProcess:
    "A script of this folder in `n` processes."
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '', 'VISLEARN_PROGRESS': 'off'}
    start = f'from vislearn.distrib import launch; launch({n}, {list(words)!r}, {max_restarts})'
    command = [sys.executable, '-c', start]
    return subprocess.run(command, cwd=HERE, env=env, capture_output=True, text=True, timeout=300)


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
    run = launched(2, str(HERE / 'distrib_run.py'), 'killed', str(tmp_path / 'b'), max_restarts=1)
    took = time.time() - float((tmp_path / 'b' / 'killed').read_text())
    # whoever notices first says why: torchrun that one was killed, or the other process that it no longer hears from it
    assert run.returncode != 0 and ('SIGKILL' in run.stderr or 'no longer hears' in run.stderr), run.stderr
    assert took < 30
    saved = torch.load(tmp_path / 'b' / 'runs' / 'r' / 'last.pth')
    assert saved['phase'] == 1 and len(saved['history']) == 2  # torchrun started all again, and they had gone on
    rest = distrib_run.run_to_end(tmp_path / 'b')
    assert_equal(whole.model.state_dict(), rest.model.state_dict())
    assert_equal([o['valid_loss'] for o in whole.history], [o['valid_loss'] for o in rest.history])


@pytest.fixture(scope='module')
def trained(tmp_path_factory) -> Path:
    "The folders `one` and `two`, trained by the command in one process and in two."
    path = tmp_path_factory.mktemp('command')
    pictures = make_pictures(path / 'pictures')
    shared = {'arch': 'resnet10t', 'size': 32, 'bs': 8, 'epochs': 1}
    # without dropout, whose random numbers belong to a process, and without Adam, whose first steps amplify rounding
    changes = 'learner.pretrained=false;learner.ps=0;learner.opt_func=sgd;learner.precision=fp32;run.sync_bn=true'
    train(str(pictures), path / 'one', set=changes, **shared)
    words = ['-m', 'vislearn', 'train', str(pictures), '--out', str(path / 'two'), '--set', changes]
    run = launched(2, *words, *[str(o) for k, v in shared.items() for o in (f'--{k}', v)])
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count('valid_loss ') == 1  # only rank 0 says how it went
    return path


def test_train_command_gives_what_one_process_gives(trained):
    one, two = (json.loads((trained / o / 'evaluation.json').read_text()) for o in ('one', 'two'))
    assert_equal(one, two)
    assert {o.name for o in (trained / 'one').iterdir()} == {o.name for o in (trained / 'two').iterdir()}
    assert len((trained / 'two' / 'log.jsonl').read_text().splitlines()) == 1  # one epoch, written once


def test_predict_command_shares_items_and_keeps_their_order(trained):
    files = sorted(str(o) for o in (trained / 'pictures').rglob('*.png'))[:13]
    items = [*files, str(trained / 'missing.jpg')]
    listed, out = trained / 'items.txt', trained / 'answers.jsonl'
    listed.write_text('\n'.join(items))
    model = str(trained / 'two' / 'export.pkl')
    words = ['-m', 'vislearn', 'predict', model, str(listed), '--out', str(out), '--resume']
    parts = trained / '.answers.jsonl.parts'  # of a run that was killed when it had one answer
    parts.mkdir()
    kept = {'item': files[0], 'label': 'known'}
    (parts / '00001.jsonl').write_text(json.dumps(kept) + '\n' + '{"item": "half a li')
    run = launched(2, *words)
    assert run.returncode == 0, run.stdout + run.stderr
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [o['item'] for o in found] == items and found[0] == kept
    wanted = list(load_predictor(model).records(items[1:]))
    for a, b in zip(wanted, found[1:]):
        assert a.get('label') == b.get('label') and a.get('error') == b.get('error')
        assert a.get('prob', 0.0) == pytest.approx(b.get('prob', 0.0), rel=1e-5)
    assert not parts.exists()


def test_evaluate_command_shares_pictures_and_reports_once(trained):
    pictures = trained / 'some'
    for file in sorted((trained / 'pictures').rglob('*.png'))[::4]:
        target = pictures / file.parent.name
        target.mkdir(parents=True, exist_ok=True)
        (target / file.name).write_bytes(file.read_bytes())
    (target / 'damaged.png').write_bytes(b'no picture')
    words = ['-m', 'vislearn', 'evaluate', str(trained / 'two' / 'export.pkl'), str(pictures), '--json-only']
    alone = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=300)
    run = launched(2, *words)
    assert run.returncode == 0, run.stdout + run.stderr
    one, two = json.loads(alone.stdout), json.loads(run.stdout)  # two reports would not be JSON
    assert one['items'] == two['items'] == 12 and len(two['failed']) == 1
    assert one.pop('failed') == two.pop('failed')
    assert_equal(one, two)


def test_ray_recipe_of_the_lesson(trained, monkeypatch):
    ray = pytest.importorskip('ray', reason='the recipe for Ray needs pip install ray, which the library does not')
    pd = pytest.importorskip('pandas', reason="needs pip install 'vislearn[dev]'")
    cells = json.loads((HERE.parent / 'nbs/lessons/37_processes.ipynb').read_text(encoding='utf-8'))['cells']
    code = next(''.join(o['source']) for o in cells if 'import ray' in ''.join(o['source']))
    (trained / 'export.pkl').write_bytes((trained / 'two' / 'export.pkl').read_bytes())
    code = code.replace("'cuda'", "'cpu'").replace(', num_gpus=1', '')
    monkeypatch.chdir(trained)
    from vislearn.data.files import get_image_files

    ray.init(num_cpus=4, include_dashboard=False)  # two for the actors, the others for reading and writing
    try:
        exec(code, {'__name__': '__main__', 'get_image_files': get_image_files})
    finally:
        ray.shutdown()
    found = [
        row for file in (trained / 'answers').glob('*.parquet') for row in pd.read_parquet(file).to_dict('records')
    ]
    assert len(found) == 48 and all(row['label'] in COLOURS for row in found)


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
    denominators = [loss_denominator(ce, targ[o], len(targ[o]), cpu) for o in parts]
    total = sum(m * ce(pred[o], targ[o]) for m, o in zip(denominators, parts)) / sum(denominators)
    torch.testing.assert_close(total, ce(pred, targ))
    assert loss_denominator(torch.nn.MSELoss(), None, 5, cpu) == 5


def test_unknown_scaling_of_rates_is_refused():
    with pytest.raises(ValueError, match="scale_lr is 'linear' or 'sqrt', got 'twice'"):
        rate_factor('twice', 2)
