"Loaders that are shared, copied, forked or handed to a learner: what each of them must not change for the others."

import copy
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from tiny import TinyNet, make_dls, make_pictures, same_weights, tiny_net
from torch import nn

from vislearn.data.loaders import DataLoaders
from vislearn.data.normalize import Normalize
from vislearn.data.resize import Resize
from vislearn.interpret.cam import grad_cam
from vislearn.learner import Learner, load_learner, vision_learner
from vislearn.train.events import on

pytestmark = pytest.mark.filterwarnings('ignore:.*multi-threaded')


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp('pictures'), 9)


def plain_dls(pictures, path, **kwargs):
    "Loaders that do not normalise: 21 training items, 6 for validation."
    dls = make_dls(pictures, path, 2, **kwargs)
    loaders = [dl.new(batch_tfms=[t for t in dl.batch_tfms if not isinstance(t, Normalize)]) for dl in dls]
    return DataLoaders(*loaders, path=path)


class NeedsNorm(TinyNet):
    "A network that says what normalisation it was trained with."

    def __init__(self, mean: float, std: float):
        super().__init__()
        self.data_cfg = {'mean': [mean] * 3, 'std': [std] * 3}


def learner_with(dls, mean, std):
    learn = Learner(dls, tiny_net(), default_cbs=False, seed=0)
    learn.input_norm = Normalize([mean] * 3, [std] * 3)
    learn.dls = dls
    return learn


def test_two_networks_on_one_dls(pictures, tmp_path, recwarn):
    """Each has its own normalisation, the user's loaders have none, and nobody is warned about a Normalize never
    written.
    """
    dls = plain_dls(pictures, tmp_path)
    first, second = learner_with(dls, 0.5, 0.25), learner_with(dls, 0.1, 2.0)
    assert dls.train.batch_tfms.find(Normalize) is None and dls.valid.batch_tfms.find(Normalize) is None
    assert first.dls.valid.batch_tfms.find(Normalize).mean == [0.5] * 3
    assert second.dls.valid.batch_tfms.find(Normalize).mean == [0.1] * 3
    third = learner_with(first.dls, 0.1, 2.0)  # on the first learner's view
    alone = learner_with(plain_dls(pictures, tmp_path), 0.1, 2.0)
    for learn in (second, third):
        assert torch.equal(learn.get_preds()[0], alone.get_preds()[0])
    assert not [w for w in recwarn if 'Normalize' in str(w.message)]


def test_loaders_of_the_user_are_normalised_when_a_learner_is_given_them(pictures, tmp_path):
    dls = plain_dls(pictures, tmp_path)
    learn = learner_with(dls, 0.5, 0.25)
    want = learn.get_preds()[0]
    for dl in (dls.valid, learn.dls.valid, dls.test_dl(dls.valid.items)):
        assert torch.equal(learn.get_preds(dl=dl)[0], want)
    assert learn.validate(dl=dls.valid) == learn.validate()
    one = torch.stack([learn.predict(item)[2] for item in dls.valid.items])
    assert torch.allclose(one, want, atol=1e-5)
    learn.dls = plain_dls(pictures, tmp_path)  # assigned later, as for another picture size
    assert torch.equal(learn.get_preds()[0], want)


def test_a_normalize_of_the_user_stays(pictures, tmp_path):
    dls = make_dls(pictures, tmp_path)
    with pytest.warns(UserWarning, match='leave Normalize out'):
        learn = learner_with(dls, 0.1, 2.0)
    assert learn.dls is dls and dls.valid.batch_tfms.find(Normalize).mean == [0.5] * 3


@pytest.mark.parametrize('sampler', [None, 'balanced'])
def test_predictions_on_the_training_loader(pictures, tmp_path, sampler):
    "All 21 items, in their order, without augmentation and without random draws."
    dls = make_dls(pictures, tmp_path, bs=8)
    if sampler:
        dls.loaders[0].weights = torch.rand(dls.train.n).double()
    learn = Learner(dls, tiny_net(), default_cbs=False)
    probs, targs = learn.get_preds(dl=dls.train)
    assert len(probs) == dls.train.n > len(dls.train) * 8 and targs.tolist() == dls.train_ds.y.tolist()
    assert torch.equal(probs, learn.get_preds(0)[0]) and torch.equal(probs, learn.get_preds(dl=dls.train)[0])
    assert learn.validate(dl=dls.train) == learn.validate(0)
    assert len(learn.tta(dl=dls.train, n=2)[0]) == dls.train.n
    assert len(dls.train) == dls.train.n // 8  # the loader itself is as it was


def test_added_transforms_reach_predict(pictures, tmp_path):
    learn = Learner(make_dls(pictures, tmp_path), tiny_net(), default_cbs=False)
    item = learn.dls.valid.items[0]
    before = learn.predict(item)[2]
    learn.dls.add_tfms([Resize(16)], 'after_item')
    assert torch.allclose(learn.predict(item)[2], learn.get_preds()[0][0], atol=1e-5)
    assert not torch.allclose(learn.predict(item)[2], before, atol=1e-4)


def test_a_view_shares_items_and_reports(pictures, tmp_path):
    dls = make_dls(pictures, tmp_path)
    view = dls.view()
    view.add_tfms([Resize(16)], 'after_item')
    assert dls.one_batch()[0].shape[-1] == 32 and view.one_batch()[0].shape[-1] == 16
    view.train_ds.bad[0] = 'broken', 'damaged'
    assert len(dls.bad_files) == 1


# after a fork
def in_child(f) -> int:
    "The exit code of a copy of this process that calls `f`; -14 if it takes more than 30 seconds."
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        try:
            f()
            os._exit(0)
        except BaseException as e:
            print(repr(e))
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


needs_fork = pytest.mark.skipif(not hasattr(os, 'fork'), reason='this system copies no processes')


def in_a_new_process(f, *args) -> None:
    """Calls `f(*args)` in a Python process that has done nothing else, and raises what it raises: torch lets no copy of
    a process train in which autograd's threads have started, as other tests start them here.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('spawn')) as pool:
        pool.submit(f, *args).result(timeout=100)


def learner_before_and_after_forks(pictures, path, kind):
    torch.set_num_threads(2)  # torch's own threads are not copied either
    learn = Learner(make_dls(pictures, path, 2, kind), tiny_net(), default_cbs=False, seed=0)
    learn.fit(1)
    want, item = learn.get_preds()[0], learn.dls.valid.items[0]
    learn.predict(item)

    def all_of_it():
        assert torch.allclose(learn.get_preds()[0], want, atol=1e-5)
        learn.validate()
        learn.predict(item)
        learn.fit(1)

    assert in_child(all_of_it) == 0
    for daemon in (True, False):  # a process that is no daemon may have processes of its own, and waits for them
        child = multiprocessing.get_context('fork').Process(target=all_of_it, daemon=daemon)
        child.start()
        child.join(60)
        assert child.exitcode == 0
    assert torch.equal(learn.get_preds()[0], want)  # the parent goes on


@needs_fork
@pytest.mark.parametrize('kind', ['thread', 'process'])
def test_a_learner_works_in_a_forked_process(pictures, tmp_path, kind):
    in_a_new_process(learner_before_and_after_forks, pictures, tmp_path, kind)


@needs_fork
@pytest.mark.parametrize('kind', ['thread', 'process'])
def test_a_pass_that_was_under_way_goes_on_in_a_forked_process(pictures, tmp_path, kind):
    "In the copy and in the original, with the same batches: what was begun by threads that are not there is done again."
    dl = make_dls(pictures, tmp_path, 2, kind, bs=4).train
    want = [xb.sum().item() for xb, _ in dl.iter_from(0)]
    batches = dl.iter_from(0)
    first = next(batches)[0].sum().item()

    def the_rest():
        return [first, *(xb.sum().item() for xb, _ in batches)] == want

    assert in_child(lambda: the_rest() or os._exit(3)) == 0
    assert the_rest() and len(want) == 5


def fit_with_a_fork_in_the_middle(pictures, path):
    learn = Learner(make_dls(pictures, path, 2), tiny_net(), default_cbs=False, seed=0)
    original = os.getpid()
    pids = []

    def fork(learn):
        if learn.epoch == 1 and not pids:
            pids.append(os.fork())
            if not pids[0]:
                signal.alarm(40)

    try:
        learn.fit(3, cbs=on('after_step', fork))
        if os.getpid() != original:
            thread = threading.Thread(target=lambda: torch.save(learn.get_preds()[0], path / 'preds'))
            thread.start()
            thread.join()
            learn.fit(1)
            os._exit(0)
    finally:
        if os.getpid() != original:
            os._exit(1)
    assert os.waitpid(pids[0], 0)[1] == 0
    torch.testing.assert_close(torch.load(path / 'preds'), learn.get_preds()[0], atol=1e-4, rtol=0)


@needs_fork
def test_a_fit_that_was_under_way_goes_on_in_a_forked_process(pictures, tmp_path):
    "A callback forks: both runs end with the same weights, and the copy can be used like the original."
    in_a_new_process(fit_with_a_fork_in_the_middle, pictures, tmp_path)


def new_things_after_a_fork(pictures, path):
    torch.set_num_threads(2)
    torch.rand(1000, 1000).exp()
    old = Learner(make_dls(pictures, path), tiny_net(), default_cbs=False)

    def all_of_it():
        torch.rand(1000, 1000).exp()
        Learner(make_dls(pictures, path, bs=16), tiny_net(), default_cbs=False).fit(1)
        grad_cam(old.model, torch.rand(2, 3, 200, 200))

    assert in_child(all_of_it) == 0 and torch.get_num_threads() == 2


@needs_fork
def test_things_that_are_new_in_a_forked_process(pictures, tmp_path):
    "The copy has none of torch's threads, whatever the original computed with them."
    in_a_new_process(new_things_after_a_fork, pictures, tmp_path)


AFTER_MAIN = """
import threading, sys
from pathlib import Path
from tiny import make_dls, tiny_net
from vislearn.learner import Learner

pictures, kind = Path(sys.argv[1]), sys.argv[2]
learn = Learner(make_dls(pictures, pictures, 2, kind), tiny_net(), default_cbs=False, seed=0)

def work():
    threading.main_thread().join()
    learn.fit(2)
    print(len(learn.history), len(learn.get_preds()[0]), len(learn.predict_batch(learn.dls.valid.items)))

threading.Thread(target=work).start()
"""


@pytest.mark.parametrize('kind', ['thread', 'process'])
def test_a_thread_goes_on_after_the_main_thread(pictures, kind):
    "The standard library's pools take no more jobs then."
    run = [sys.executable, '-c', AFTER_MAIN, pictures, kind]
    r = subprocess.run(run, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=100)
    assert r.stdout.splitlines()[-1:] == ['2 6 6'], r.stderr[-2000:]


# copies
@pytest.mark.parametrize('kind', ['thread', 'process'])
@pytest.mark.parametrize('way', [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=['deepcopy', 'pickle'])
def test_copies_after_first_use(pictures, tmp_path, kind, way):
    learn = Learner(make_dls(pictures, tmp_path, 2, kind), tiny_net(), default_cbs=False, seed=0)
    learn.fit(1)
    learn.predict(learn.dls.valid.items[0])
    other = way(learn)
    assert same_weights(learn.model, other.model) and torch.equal(learn.get_preds()[0], other.get_preds()[0])
    other.fit(1)
    assert not same_weights(learn.model, other.model)
    learn.fit(1)
    assert same_weights(learn.model, other.model)  # the copy went on where the original stood
    assert len(list(way(learn.dls).train)) == len(learn.dls.train)


def test_a_copy_that_fails_leaves_the_original(pictures, tmp_path):
    learn = Learner(make_dls(pictures, tmp_path, 2, 'process'), tiny_net(), default_cbs=False, seed=0)
    want = learn.get_preds()[0]
    learn.cannot = threading.Lock()
    with pytest.raises(TypeError):
        copy.deepcopy(learn)
    assert torch.equal(learn.get_preds()[0], want)


# threads
def test_predictions_from_several_threads_do_not_mix(pictures, tmp_path):
    learn = Learner(make_dls(pictures, tmp_path, 2), tiny_net(), default_cbs=False)
    want, got = learn.get_preds()[0], []
    threads = [threading.Thread(target=lambda: got.append(learn.get_preds()[0])) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(got) == 8 and all(torch.equal(o, want) for o in got)


# a batch of one
class WithNorm(nn.Module):
    "BatchNorm after pooling, as in the head of `vision_learner`: one value per channel and picture."

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(8), nn.Linear(8, 3)
        )

    def forward(self, xb):
        return self.net(xb)


@pytest.mark.parametrize('bs', [1, 4, 5])
def test_a_training_batch_of_one(pictures, tmp_path, bs):
    "21 items in batches of 1, 4 and 5: the last batch has one item."
    dls = make_dls(pictures, tmp_path, bs=bs)
    dls.train.drop_last = False
    learn = Learner(dls, WithNorm(), default_cbs=False, seed=0)
    seen = []
    learn.model.net[3].register_forward_hook(lambda m, args, out: seen.append((len(out), m.training)))
    learn.fit(1)
    learn.lr_find(num_it=8, show_plot=False, suggest_funcs=None)
    assert (1, False) in seen and (1, True) not in seen and (bs == 1 or (bs, True) in seen)
    assert learn.history[0]['train_loss'] > 0


def test_a_head_on_features_with_one_left_over(pictures, tmp_path):
    dls = plain_dls(pictures, tmp_path, bs=4)
    learn = vision_learner(dls, 'resnet18', pretrained=False, metrics=[], default_cbs=False)
    learn.fit_head(1)
    learn.dls.train.drop_last = False
    learn.fit(1)


def answers(learn, files) -> torch.Tensor:  # (n,c)
    "Asked one by one, together, and by several threads: always the same."
    one_by_one = torch.stack([learn.predict(f)[2] for f in files])
    together = [answer[2] for answer in learn.predict_batch(files)]
    with ThreadPoolExecutor(3) as threads:
        by_threads = [answer[2] for answer in threads.map(learn.predict, files)]
    for other in (together, by_threads):
        torch.testing.assert_close(torch.stack(other), one_by_one, atol=1e-5, rtol=0)
    return one_by_one


served = {}  # what copies of this process find


def ask(file) -> list[float]:
    return answers(served['learn'], [file])[0].tolist()


@needs_fork
@pytest.mark.parametrize('is_asked_first', [False, True])
def test_a_server_that_forks_its_workers(pictures, tmp_path, is_asked_first):
    "A model is loaded, three copies of the process answer at once, and copies of these; so do those of an executor."
    dls = make_dls(pictures, tmp_path, 2)
    learn = Learner(dls, tiny_net(), default_cbs=False, seed=0)
    again = served['learn'] = load_learner(learn.export(tmp_path / 'export.pkl'), model=TinyNet())
    files = list(dls.valid.items[:5])
    want = answers(learn, files)

    def check() -> None:
        torch.testing.assert_close(answers(again, files), want, atol=1e-5, rtol=0)

    def worker() -> None:
        check()
        assert in_child(check) == 0

    if is_asked_first:
        check()
    pids = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            os._exit(in_child(worker) & 255)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context('fork')) as executor:
        found = torch.tensor(list(executor.map(ask, files, timeout=60)))
    torch.testing.assert_close(found, want, atol=1e-5, rtol=0)
    check()  # the parent goes on
