"`vislearn train` as a person uses it: from a folder, from a configuration, interrupted and resumed, within a time."

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from nbtools import ROOT


@pytest.fixture(scope='module')
def pictures(tmp_path_factory) -> Path:
    from vislearn.collect.samples import sample_data

    folder = tmp_path_factory.mktemp('train') / 'pictures'
    shutil.copytree(sample_data(n_per_class=10, size=48, clean=True), folder)
    return folder


def command(*args: object) -> list[str]:
    return [sys.executable, '-m', 'vislearn', *map(str, args)]


def run(*args: object, cwd: Path) -> subprocess.CompletedProcess:
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    return subprocess.run(command(*args), cwd=cwd, capture_output=True, text=True, timeout=300, env=env)


SMALL = ('--arch', 'resnet18', '--size', 32, '--bs', 8, '-o', 'learner.pretrained=false')


def history(folder: Path) -> list[dict]:
    rows = [json.loads(o) for o in (folder / 'log.jsonl').read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != 'time'} for row in rows]


def test_killed_run_goes_on_to_the_same_end(pictures, tmp_path):
    whole = run('train', pictures, '--out', 'whole', '--epochs', 3, *SMALL, cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    p = subprocess.Popen(
        command('train', pictures, '--out', 'killed', '--epochs', 3, *SMALL),
        cwd=tmp_path,
        env=env,
        stdout=subprocess.DEVNULL,
    )
    log, until = tmp_path / 'killed/log.jsonl', time.monotonic() + 200
    while time.monotonic() < until and not (log.exists() and len(log.read_text().splitlines()) >= 2):
        time.sleep(0.05)
    p.send_signal(signal.SIGKILL)
    p.wait()
    assert not (tmp_path / 'killed/export.pkl').exists()
    again = run('train', pictures, '--out', 'killed', '--epochs', 3, *SMALL, '--resume', cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert history(tmp_path / 'killed')[-1] == history(tmp_path / 'whole')[-1]
    for name in ('config.toml', 'evaluation.json', 'export.pkl', 'history.csv', 'report.html'):
        assert (tmp_path / 'whole' / name).stat().st_size > 50, name


TWO_PHASES = """
[data]
path = "pictures"
valid_pct = 0.2
seed = 1
bs = 8
item_tfms = {type = "Resize", size = 32}
batch_tfms = "Flip"
device = "cpu"
[learner]
arch = "resnet18"
pretrained = false
metrics = "accuracy"
[[fit]]
type = "fit_one_cycle"
n_epoch = 2
[[fit]]
type = "freeze"
[[fit]]
type = "fit"
n_epoch = 1
[run]
seed = 3
name = "two"
"""


def test_a_run_stopped_between_two_phases_goes_on_to_the_same_end(pictures, tmp_path):
    (tmp_path / 'pictures').symlink_to(pictures)
    (tmp_path / 'two.toml').write_text(TWO_PHASES)
    assert run('train', 'two.toml', '--tta', cwd=tmp_path).returncode == 0
    whole, folder = history(tmp_path / 'runs/two'), tmp_path / 'runs/two'
    assert 'accuracy with tta' in (folder / 'report.html').read_text()
    assert [row['epoch'] for row in whole] == [0, 1, 0]
    assert 'resnet18' in next(folder.glob('*.md')).read_text()
    shutil.rmtree(folder / 'runs/phase1')
    shutil.rmtree(folder / 'runs/phase2')
    lines = (folder / 'log.jsonl').read_text().splitlines(keepends=True)
    (folder / 'log.jsonl').write_text(''.join(lines[:2]))
    again = run('train', 'two.toml', '--resume', cwd=tmp_path)
    assert again.returncode == 0 and 'phases done already: 1 of 3' in again.stdout, again.stderr
    assert history(folder) == whole


def test_a_stored_configuration_keeps_names_of_environment_variables(pictures, tmp_path, monkeypatch):
    monkeypatch.setenv('PICTURES_OF_MINE', str(pictures))
    monkeypatch.setenv('PHASE_OF_MINE', 'fit')
    text = TWO_PHASES.replace('"pictures"', '"${PICTURES_OF_MINE}"').partition('[[fit]]\ntype = "freeze"')[0]
    text = text.replace('"fit_one_cycle"', '"${PHASE_OF_MINE}"')
    (tmp_path / 'mine.toml').write_text(text)
    small = ('-o', 'fit.0.n_epoch=1', '-o', 'learner.arch=${ARCH_OF_MINE}')
    monkeypatch.setenv('ARCH_OF_MINE', 'resnet18')
    done = run('train', 'mine.toml', *small, '--out', 'mine', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    stored = (tmp_path / 'mine/config.toml').read_text()
    assert all(f'"${{{name}}}"' in stored for name in ('PICTURES_OF_MINE', 'PHASE_OF_MINE', 'ARCH_OF_MINE'))
    assert str(pictures) not in stored
    again = run('train', 'mine/config.toml', '--out', 'mine', '--resume', cwd=tmp_path)
    assert again.returncode == 0 and 'phases done already: 1 of 1' in again.stdout, again.stderr
    assert (tmp_path / 'mine/config.toml').read_text() == stored
    monkeypatch.delenv('PHASE_OF_MINE')
    without = run('train', 'mine.toml', *small, '--out', 'other', cwd=tmp_path)
    assert without.returncode == 1 and 'fit.0.type: there is no environment variable PHASE_OF_MINE' in without.stderr


def test_a_run_is_not_overwritten_by_accident(pictures, tmp_path):
    (tmp_path / 'runs/pictures').mkdir(parents=True)
    (tmp_path / 'runs/pictures/config.toml').write_text('')
    r = run('train', pictures, *SMALL, cwd=tmp_path)
    assert r.returncode == 1 and '--force replaces it' in r.stderr and 'Traceback' not in r.stderr


def test_force_replaces_a_run_and_no_other_folder(pictures, tmp_path):
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'photos/mine.jpg').write_bytes(b'irreplaceable')
    r = run('train', pictures, '--out', 'photos', '--force', *SMALL, cwd=tmp_path)
    assert r.returncode == 1 and 'no run that could be replaced' in r.stderr and 'Traceback' not in r.stderr
    assert (tmp_path / 'photos/mine.jpg').exists()


def test_a_rate_that_is_no_number_is_named(pictures, tmp_path):
    r = run('train', pictures, '--lr', 'fast', *SMALL, cwd=tmp_path)
    assert r.returncode == 1 and "lr is a number, got 'fast'" in r.stderr


def test_dry_run_leaves_nothing(pictures, tmp_path):
    r = run('train', pictures, '--dry-run', *SMALL, cwd=tmp_path)
    assert r.returncode == 0, r.stderr
    assert 'the dry run went through' in r.stdout and not list(tmp_path.glob('runs/*'))


def test_time_limit_plans_the_epochs_and_lr_auto_finds_the_rate(pictures, tmp_path):
    r = run('train', pictures, '--time-limit', '20s', '--lr', 'auto', '--out', 'quick', *SMALL, cwd=tmp_path)
    assert r.returncode == 0 and 'of all layers fit into' in r.stdout, r.stderr
    assert 'from a trial over rising rates' in r.stdout
    assert (tmp_path / 'quick/export.pkl').exists()


@pytest.mark.parametrize('given', ['pictures', 'pictures/labels.csv', 'pictures/list.txt'])
def test_a_small_class_has_a_validation_picture_without_a_configuration(pictures, tmp_path, monkeypatch, given):
    from vislearn.app.config import build_data, read_config, to_python, to_toml
    from vislearn.app.train_run import guess_config

    monkeypatch.chdir(tmp_path)
    labels = sorted(o.name for o in pictures.iterdir() if o.is_dir())
    shutil.copytree(pictures, 'pictures')
    for file in sorted(Path('pictures', labels[0]).iterdir())[3:]:
        file.unlink()
    files = sorted(Path('pictures').glob('*/*'))
    rows = [(f.relative_to('pictures').as_posix(), f.parent.name) for f in files]
    Path('pictures/labels.csv').write_text('\n'.join(['file,label', *map(','.join, rows)]))
    Path('pictures/list.txt').write_text('\n'.join(map(' '.join, rows)))
    for seed in range(5):
        cfg, _ = guess_config(given, seed=seed)
        dls = build_data(cfg)
        held = [Path(o).parent.name for o in dls.valid_ds.sources()]
        assert [held.count(label) for label in labels] == [1, *[2] * (len(labels) - 1)]
    assert 'stratify=True' in to_python(cfg)
    Path('run.toml').write_text(to_toml(cfg))
    again = build_data(read_config('run.toml'))
    assert again.valid_ds.sources() == dls.valid_ds.sources()


def test_numbers_are_split_at_random(pictures, tmp_path):
    from vislearn.app.train_run import guess_data

    files = sorted(pictures.rglob('*.*'))
    (tmp_path / 'sizes.csv').write_text('\n'.join(['file,size', *(f'{f},{i}.5' for i, f in enumerate(files))]))
    assert 'stratify' not in guess_data(str(tmp_path / 'sizes.csv'))


def test_config_errors_name_their_place(tmp_path):
    (tmp_path / 'run.toml').write_text('[data]\ntype = "from_fodler"\n[learner]\narch = "resnet18"\n')
    r = run('train', 'run.toml', cwd=tmp_path)
    assert r.returncode == 1 and "data: there is no type 'from_fodler'" in r.stderr and 'from_folder' in r.stderr
    (tmp_path / 'evil.toml').write_text(
        '[data]\nitem_tfms = {type = "os.system", command = "touch here"}\n[learner]\narch = "resnet18"\n'
    )
    r = run('train', 'evil.toml', cwd=tmp_path)
    assert r.returncode == 1 and not (tmp_path / 'here').exists()


def tiny_learner(**kw):
    import numpy as np
    from torch import nn

    from vislearn.data.sources import ImageDataLoaders
    from vislearn.learner import Learner

    xs = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
    dls = ImageDataLoaders.from_arrays(xs, ['cat', 'dog'] * 10, bs=4, seed=0, num_workers=0)
    return Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2)), metrics='accuracy', **kw)


def test_evaluation_goes_by_the_metrics_and_not_by_the_columns_of_a_fit():
    from vislearn.app.report import validation_numbers
    from vislearn.train.loggers import Speed, TrainMetrics

    learn = tiny_learner(cbs=[TrainMetrics(), Speed()])
    assert list(validation_numbers(learn)) == ['valid_loss', 'accuracy']  # nothing has been trained here
    learn.fit(1)
    numbers = validation_numbers(learn)
    assert list(numbers) == ['valid_loss', 'accuracy'] and numbers['accuracy'] == learn.row['accuracy']


def test_planning_epochs_leaves_no_trace():
    import torch

    from vislearn.train.trials import planned_epochs

    learn = tiny_learner(seed=0)
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    assert planned_epochs(learn, limit=60) >= 1
    assert not learn.history and learn.n_fits == 0 and learn.dls.train.epoch == 0
    assert all(torch.equal(v, before[k]) for k, v in learn.model.state_dict().items())


def test_a_trial_that_suggests_no_rate_changes_none(pictures, tmp_path, monkeypatch):
    from vislearn.app.train_run import train
    from vislearn.learner import Learner

    monkeypatch.setattr(Learner, 'lr_find', lambda *args, **kw: (None,))
    changes = 'learner.pretrained=false; learner.metrics=accuracy'
    out = tmp_path / 'run'
    train(str(pictures), out, arch='test_resnet', size=32, epochs=1, bs=8, set=changes, lr='auto')
    assert set(json.loads((out / 'evaluation.json').read_text())) == {'valid_loss', 'accuracy'}


def test_report_of_a_run_that_was_done_before_has_its_table(tmp_path):
    from vislearn.app.report import write_report

    learn = tiny_learner(path=tmp_path)
    learn.history.append({'epoch': 0, 'train_loss': 0.5, 'valid_loss': 0.7654321})
    text = write_report(learn, tmp_path / 'report.html', numbers={'accuracy with tta': 0.625}).read_text()
    assert '<h2>Training</h2>' in text and '0.765' in text
    assert '<b>0.6250</b>accuracy with tta' in text and 'valid_loss</div>' not in text
