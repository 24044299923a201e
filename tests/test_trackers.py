"Runs sent to Weights & Biases (a stand-in) and to MLflow (a file store)."

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from vislearn.train.events import Callback
from vislearn.train.loggers import MLflowCallback, WandbCallback
from vislearn.train.loop import TrainLoop
from vislearn.train.metrics import accuracy


def learner(*cbs):
    torch.manual_seed(0)
    batches = [(torch.randn(8, 4), torch.randint(2, (8,))) for _ in range(6)]
    net = nn.Linear(4, 2)
    return TrainLoop([batches, batches], net, nn.CrossEntropyLoss(), torch.optim.SGD, metrics=accuracy, cbs=cbs)


class FakeRun:
    def __init__(self, options):
        self.options, self.settings, self.logged, self.exit_code = options, {}, [], None
        self.config = SimpleNamespace(update=lambda d, allow_val_change: self.settings.update(d))

    def log(self, numbers):
        self.logged.append(numbers)

    def finish(self, exit_code):
        self.exit_code = exit_code
        sys.modules['wandb'].run = None


@pytest.fixture
def wandb(monkeypatch):
    module = SimpleNamespace(run=None, runs=[])

    def init(**options):
        module.run = FakeRun(options)
        module.runs.append(module.run)
        return module.run

    module.init = init
    monkeypatch.setitem(sys.modules, 'wandb', module)
    return module


class Fail(Callback):
    def before_epoch(self, learn):
        if learn.epoch == 1:
            raise RuntimeError('the disk is full')


def test_wandb_is_told_of_batches_epochs_and_settings(wandb):
    learn = learner(WandbCallback(project='pets', name='first', every=3, params={'note': 'x'}, tags=['a']))
    learn.fit(2)
    (run,) = wandb.runs
    assert run.options == {'project': 'pets', 'name': 'first', 'tags': ['a']}
    assert run.settings['epochs'] == 2 and run.settings['model'] == 'Linear' and run.settings['note'] == 'x'
    assert [o['batch'] for o in run.logged] == [3, 6, 6, 9, 12, 12]
    for row, logged in zip(learn.history, run.logged[2::3]):
        assert {k: logged[f'epoch/{k}'] for k in ('train_loss', 'valid_loss', 'accuracy')} == {
            k: row[k] for k in ('train_loss', 'valid_loss', 'accuracy')
        }
    assert run.exit_code == 0


def test_wandb_run_of_the_user_is_joined_and_stays_open(wandb):
    mine = wandb.init(project='mine')
    learn = learner(WandbCallback(project='other'))
    learn.fit(1)
    learn.fit(1)
    assert wandb.runs == [mine] and wandb.run is mine and mine.exit_code is None
    assert [o['batch'] for o in mine.logged if 'epoch/valid_loss' in o] == [6, 12]


def test_wandb_run_that_fails_ends_as_failed(wandb):
    with pytest.raises(RuntimeError, match='disk is full'):
        learner(WandbCallback(), Fail()).fit(2)
    assert wandb.runs[0].exit_code == 1 and wandb.run is None


def test_wandb_offline_writes_a_file(tmp_path, monkeypatch):
    wandb = pytest.importorskip('wandb', reason='needs pip install wandb, which the library does not')
    for name, value in {'WANDB_MODE': 'offline', 'WANDB_SILENT': 'true', 'WANDB_DIR': str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    learn = learner(WandbCallback(project='pets', name='first', every=3, params={'note': 'x'}))
    learn.fit(2)
    assert wandb.run is None
    (file,) = tmp_path.glob('wandb/offline-run-*/run-*.wandb')
    written = file.read_bytes()
    assert all(o in written for o in (b'pets', b'first', b'note', b'epoch/valid_loss', b'batch/train_loss'))
    last = learn.history[-1]['valid_loss']
    assert str(last).encode()[:12] in written


def test_wandb_not_installed_says_how(monkeypatch):
    monkeypatch.setitem(sys.modules, 'wandb', None)
    with pytest.raises(ImportError, match='pip install wandb'):
        learner(WandbCallback()).fit(1)


def test_mlflow_not_installed_says_how(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mlflow', None)
    with pytest.raises(ImportError, match='pip install mlflow-skinny'):
        learner(MLflowCallback()).fit(1)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv('MLFLOW_ALLOW_FILE_STORE', 'true')
    monkeypatch.setenv('MLFLOW_DISABLE_TELEMETRY', 'true')
    mlflow = pytest.importorskip('mlflow')
    before = mlflow.get_tracking_uri()
    yield mlflow, (tmp_path / 'runs').as_uri()
    mlflow.set_tracking_uri(before)


def test_mlflow_store_has_the_numbers(store):
    mlflow, uri = store
    learn = learner(MLflowCallback(experiment='pets', name='first', tracking_uri=uri, every=3))
    learn.fit(2)
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name('pets').experiment_id])
    assert run.info.run_name == 'first' and run.info.status == 'FINISHED'
    assert run.data.params['epochs'] == '2' and run.data.params['model'] == 'Linear'
    kept = client.get_metric_history(run.info.run_id, 'epoch/valid_loss')
    assert [o.step for o in kept] == [6, 12]
    assert [o.value for o in kept] == pytest.approx([row['valid_loss'] for row in learn.history])
    assert [o.step for o in client.get_metric_history(run.info.run_id, 'batch/train_loss')] == [3, 6, 9, 12]


def test_mlflow_run_of_the_user_takes_two_fits(store):
    mlflow, uri = store
    mlflow.set_tracking_uri(uri)
    with mlflow.start_run() as run:
        learn = learner(MLflowCallback())
        learn.fit(1)
        learn.fit(2)  # other settings than before: a parameter of a run can't be changed
        assert mlflow.active_run().info.run_id == run.info.run_id
    assert mlflow.get_run(run.info.run_id).data.params['epochs'] == '1'


def test_mlflow_run_that_fails_ends_as_failed(store):
    mlflow, uri = store
    with pytest.raises(RuntimeError, match='disk is full'):
        learner(MLflowCallback(tracking_uri=uri), Fail()).fit(2)
    (run,) = mlflow.MlflowClient(uri).search_runs(['0'])
    assert run.info.status == 'FAILED' and mlflow.active_run() is None


def test_a_configuration_names_them():
    from vislearn.app.config import made

    (cb,) = made([{'type': 'MLflowCallback', 'experiment': 'pets'}], 'learner.cbs', 'cbs')
    assert isinstance(cb, MLflowCallback) and cb.experiment == 'pets'
    assert isinstance(made({'type': 'WandbCallback', 'project': 'pets'}, 'fit.cbs', 'cbs'), WandbCallback)
