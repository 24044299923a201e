"The training loop where a notebook can't go: real interrupts, GPUs, odd loaders."

import _thread
import copy
import gc
import multiprocessing
import os
import pickle
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny import FULL
from torch import nn
from torch.nn import functional as F

from vislearn.train.events import EVENTS, Callback, CancelBatchException, CancelStepException, on
from vislearn.train.loop import TrainLoop
from vislearn.train.precision import resolve_precision
from vislearn.train.safety import NonFiniteLoss

x = torch.randn(96, 4)
y = (x.sum(1) > 0).long()
batches = [*zip(x.split(16), y.split(16))]


def net():
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def loop(*cbs, **kwargs):
    return TrainLoop(
        (batches[:4], batches[4:]),
        net(),
        nn.CrossEntropyLoss(),
        lambda groups, lr: torch.optim.SGD(groups, lr, momentum=0.9),
        cbs=cbs,
        **{'lr': 0.1, **kwargs},
    )


def press_ctrl_c(learn):
    _thread.interrupt_main()


def at(epoch, batch, f):
    return lambda learn: f(learn) if (learn.epoch, learn.iter, learn.training) == (epoch, batch, True) else None


@pytest.mark.parametrize('event', ['before_batch', 'after_pred', 'before_step', 'after_step', 'after_batch'])
def test_ctrl_c_waits_for_the_end_of_the_batch(event, capsys):
    learn = loop()
    with pytest.raises(KeyboardInterrupt):
        learn.fit(3, cbs=on(event, at(1, 2, press_ctrl_c)))
    assert learn.position == (1, 3) and learn.interrupted and not learn.mid_batch
    assert 'Stopped in epoch 1 (of 3), batch 3 of 4;' in capsys.readouterr().out
    same = loop()  # all that was done was done in full: going on gives what would have been
    with pytest.raises(RuntimeError):
        same.fit(3, cbs=on('before_batch', at(1, 3, lambda learn: (_ for _ in ()).throw(RuntimeError))))
    assert all(torch.equal(a, b) for a, b in zip(learn.model.state_dict().values(), same.model.state_dict().values()))


def test_a_validation_that_failed_holds_no_batch():
    learn = loop()

    def fail(learn):
        raise MemoryError

    for _ in range(2):
        with pytest.raises(MemoryError):
            learn.validate(cbs=on('after_pred', fail))
        assert learn.xb is None and learn.pred is None
        assert learn.validate()[0] > 0
        assert learn.xb is None and not learn.mid_batch


def test_second_ctrl_c_does_not_wait():
    def stuck(learn):
        _thread.interrupt_main()
        time.sleep(0.01)
        _thread.interrupt_main()
        time.sleep(5)
        raise AssertionError('the second Ctrl-C was held back')

    learn = loop()
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1, cbs=on('after_pred', stuck))
    assert learn.mid_batch


def test_ctrl_c_in_the_last_moment_is_not_lost():
    with pytest.raises(KeyboardInterrupt):
        loop().fit(1, cbs=on('after_fit', press_ctrl_c))


@pytest.mark.parametrize('seed', range(30 if FULL else 6))
def test_ctrl_c_at_a_random_moment(seed):
    learn, told = loop(), []
    learn.add_cb(on('after_fit', lambda learn: told.append('after_fit')))
    before = [*learn.cbs]
    timer = threading.Timer(0.02 + 0.02 * (seed % 10), _thread.interrupt_main)
    with pytest.raises(KeyboardInterrupt):
        timer.start()
        learn.fit(10**6, cbs=Callback())
    assert told == ['after_fit'] and learn.cbs == before and not learn.training and not learn.model.training
    assert [o['epoch'] for o in learn.history] == list(range(len(learn.history)))
    assert learn.validate()[0] > 0
    learn.fit(1)


def test_after_fit_comes_after_an_error_too():
    told = []
    learn = loop(on('after_fit', lambda learn: told.append(1)), on('after_loss', at(0, 1, lambda learn: 1 / 0)))
    with pytest.raises(ZeroDivisionError):
        learn.fit(1)
    assert told == [1] and not learn.model.training


def test_no_after_fit_is_missed_when_one_fails():
    learn = loop(on('after_fit', lambda learn: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        learn.fit(1)
    assert learn.xb is None and not learn.model.training


def test_a_bad_batch_leaves_weights_and_statistics():
    bad = [*batches[:3], (torch.full((16, 4), float('nan')), batches[0][1])]
    learn = TrainLoop((bad, batches[4:]), net(), nn.CrossEntropyLoss(), torch.optim.SGD, lr=0.1)
    with pytest.raises(NonFiniteLoss, match='epoch 0, batch 3 .lr 0.1, fp32.*weights are those of the last good step'):
        learn.fit(2)
    good = TrainLoop((batches[:3], batches[4:]), net(), nn.CrossEntropyLoss(), torch.optim.SGD, lr=0.1)
    good.fit(1)
    a, b = learn.model.state_dict(), good.model.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a if 'num_batches' not in k)
    assert all(p.grad is None for p in learn.model.parameters())


def test_lost_weights_are_called_lost():
    class Overflow(torch.autograd.Function):  # a finite loss with an infinite gradient
        forward = staticmethod(lambda ctx, x: x.clone())
        backward = staticmethod(lambda ctx, g: g * float('inf'))

    learn = loop()
    learn.loss_func = lambda p, t: Overflow.apply(F.cross_entropy(p, t))
    with pytest.raises(NonFiniteLoss, match='weights had already been lost'):
        learn.fit(1)


def test_cancelled_step_drops_gradients_cancelled_batch_keeps_them():
    for exc, kept in ((CancelStepException, False), (CancelBatchException, True)):

        def raise_(learn):
            raise exc

        learn = loop(
            on('before_step', at(0, 0, raise_)),
            on('before_batch', at(0, 1, lambda learn: seen.append(learn.model[0].weight.grad is not None))),
        )
        seen = []
        learn.fit(1)
        assert seen == [kept]


def test_cancelling_outside_its_part_is_an_error():
    def raise_(learn):
        raise CancelStepException

    with pytest.raises(CancelStepException):
        loop(on('after_pred', raise_)).fit(1)


def test_batch_events_respect_run_train_and_run_valid():
    class Count(Callback):
        def __init__(self, train, valid):
            self.run_train, self.run_valid, self.n = train, valid, 0

        def before_batch(self, learn):
            self.n += 1

    cbs = [Count(True, True), Count(True, False), Count(False, True)]
    loop(*cbs).fit(1)
    assert [cb.n for cb in cbs] == [6, 4, 2]


def test_callbacks_come_and_go_as_attributes():
    class MyThingCallback(Callback):
        pass

    learn = loop(MyThingCallback)
    assert isinstance(learn.my_thing, MyThingCallback)
    with learn.removed_cbs(MyThingCallback):
        assert not hasattr(learn, 'my_thing')
    assert learn.my_thing in learn.cbs
    assert not hasattr(learn.remove_cbs(MyThingCallback), 'my_thing') and not learn.cbs


def test_a_callback_named_like_a_method_does_not_hide_it():
    class Fit(Callback):
        pass

    loop(Fit()).fit(1)


def test_every_event_is_documented():
    assert len(EVENTS) == 24 and all(getattr(Callback, e).__doc__ for e in EVENTS)


def test_loaders_without_labels_or_validation():
    learn = TrainLoop((batches[:2],), net(), nn.CrossEntropyLoss(), torch.optim.SGD, lr=0.1)
    learn.fit(1)
    assert set(learn.history[0]) == {'epoch', 'train_loss', 'time'}
    assert learn.get_preds(dl=[(x[:3],), (x[3:5],)])[0].shape == (5, 2)
    with pytest.raises(ValueError, match='nothing to validate'):
        learn.validate(dl=[(x[:3],)])


def test_metrics_see_everything_at_once():
    sizes = []

    def size(preds, targs):
        sizes.append((preds.shape, targs.shape))
        return 1.0

    learn = loop(metrics=size)
    learn.fit(2)
    assert sizes == [((32, 2), (32,))] * 2 and learn.history[0]['size'] == 1.0


def test_a_failing_metric_says_which_and_what_it_was_given():
    def broken(preds, targs):
        raise TypeError('no')

    with pytest.raises(TypeError) as e:
        loop(metrics=broken).fit(1)
    assert "in the metric 'broken', given preds (32, 2) and targs (32,)" in e.value.__notes__[0]


def test_metrics_setter():
    learn = loop()
    learn.metrics = lambda p, t: 0.0
    assert len(learn.metrics) == 1
    learn.metrics = None
    assert learn.metrics == []


def test_seed_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    a = torch.rand(1)
    torch.manual_seed(3)
    loop(seed=1).fit(1)
    assert torch.equal(torch.rand(1), a)


def test_nothing_grows():  # tensors alive after 20 more epochs
    learn = loop()
    learn.fit(2)
    gc.collect()

    def count():
        return sum(isinstance(o, torch.Tensor) for o in gc.get_objects())

    n = count()
    learn.fit(20)
    gc.collect()
    assert count() <= n


def test_fp16_on_a_cpu_is_replaced_with_a_word():
    with pytest.warns(UserWarning, match='fp16 is for GPUs'):
        assert resolve_precision('fp16', torch.device('cpu')) in ('bf16', 'fp32')


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('precision', ['fp32', 'bf16', 'fp16'])
def test_no_batch_waits_for_the_gpu(precision):
    "In sync-debug mode CUDA raises when a program waits for it; fp16 alone may (its scaler asks for overflows)."
    dls = [[tuple(o.cuda() for o in b) for b in part] for part in (batches[:4], batches[4:])]
    learn = TrainLoop(dls, net().cuda(), nn.CrossEntropyLoss(), torch.optim.SGD, lr=0.1, precision=precision)
    learn.fit(1)

    def mode(on):
        return lambda learn: torch.cuda.set_sync_debug_mode(
            'error' if on and learn.training and precision != 'fp16' else 'default'
        )

    learn.fit(2, cbs=[on('before_train', mode(True)), on('after_train', mode(False))])
    assert len(learn.history) == 3 and learn.get_preds()[0].dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_a_bad_batch_is_found_on_a_gpu():
    bad = [*batches[:3], (torch.full((16, 4), float('nan')), batches[0][1])]
    dls = [[tuple(o.cuda() for o in b) for b in part] for part in (bad, batches[4:])]
    learn = TrainLoop(dls, net().cuda(), nn.CrossEntropyLoss(), torch.optim.SGD, lr=0.1)
    with pytest.raises(NonFiniteLoss):
        learn.fit(1)
    assert all(o.isfinite().all() for o in learn.model.state_dict().values())


def test_a_failing_loss_says_what_it_was_given():
    learn = TrainLoop(([(x[:16], y[:16] + 5)], batches[4:]), net(), nn.CrossEntropyLoss(), torch.optim.SGD)
    with pytest.raises(IndexError) as e:
        learn.fit(1)
    assert 'in the loss CrossEntropyLoss(), given pred (16, 2) float32 and targ (16,) int64' in e.value.__notes__


def test_nothing_to_train_on():
    with pytest.raises(ValueError, match='nothing to train on'):
        TrainLoop(([], batches), net(), nn.CrossEntropyLoss(), torch.optim.SGD).fit(1)


def test_show_training_loop(capsys):
    learn = loop(on('before_fit', print))
    learn.show_training_loop()
    assert capsys.readouterr().out == 'before_fit: Callback\n' and len(learn.ordered_cbs('before_fit')) == 1


def test_every_callback_that_began_is_ended():
    told = []

    class Says(Callback):
        def __init__(self, name, fails=''):
            self.name_, self.fails = name, fails

        def _say(self, event):
            told.append(f'{self.name_} {event}')
            if self.fails == event:
                raise RuntimeError(event)

        def before_fit(self, learn):
            self._say('before')

        def after_fit(self, learn):
            self._say('after')

    def events(*cbs):
        told.clear()
        with pytest.raises(RuntimeError):
            loop(*cbs).fit(1)
        return told

    assert events(Says('a'), Says('b', 'before'), Says('c')) == [
        'a before',
        'b before',
        'a after',
    ]  # nothing to put back in b and c
    assert events(Says('a', 'after'), Says('b')) == ['a before', 'b before', 'a after', 'b after']


def test_an_error_says_where():
    with pytest.raises(ZeroDivisionError) as e:
        loop(on('after_loss', at(1, 2, lambda learn: 1 / 0))).fit(3)
    assert 'Stopped in epoch 1 (of 3), batch 3 of 4' in e.value.__notes__[0]


# a fit trains what the model holds, by its own gradients and random numbers


def test_a_replaced_layer_learns_and_the_others_keep_their_momentum():
    learn = loop()
    learn.fit(1)
    old, first = learn.opt, learn.model[0].weight
    momentum = old.state[first]['momentum_buffer']
    learn.fit(1)
    assert learn.opt is old  # nothing new, no new optimizer
    learn.model[3] = nn.Linear(8, 2)
    before = learn.model[3].weight.detach().clone()
    learn.fit(1)
    assert not torch.equal(before, learn.model[3].weight)
    assert learn.opt.state[first]['momentum_buffer'] is momentum


def test_a_replaced_model_and_an_added_layer_learn():
    learn = loop()
    learn.fit(1)
    for model in net(), nn.Sequential(learn.model, nn.Linear(2, 2)):
        learn.model = model
        weights = [p for p in model.parameters() if p.ndim > 1]
        before = [p.detach().clone() for p in weights]
        learn.fit(1)
        assert not any(map(torch.equal, before, weights))


def test_an_optimizer_of_the_users_own_is_left_alone():
    learn = loop()
    learn.opt = torch.optim.SGD(learn.model[3].parameters(), lr=0.1)
    before = learn.model[0].weight.detach().clone()
    learn.fit(1)
    assert torch.equal(before, learn.model[0].weight)


def raise_(exc):
    def f(learn):
        raise exc

    return f


@pytest.mark.parametrize('cut', ['error', 'cancel', 'accumulation'])
def test_no_gradient_of_one_fit_goes_into_the_next(cut):
    learn, fresh = loop(lr=0.0), loop()
    last = dict(error=RuntimeError, cancel=CancelBatchException).get(cut)
    learn.n_acc = 10_000 if cut == 'accumulation' else 0
    try:
        learn.fit(1, cbs=on('after_backward', at(0, 3, raise_(last))) if last else None)
    except RuntimeError:
        pass
    assert all(p.grad is None for p in learn.model.parameters()) and learn.unstepped == 0
    learn.n_acc, learn.opt = 0, None
    learn.model.load_state_dict(fresh.model.state_dict())
    for o in learn, fresh:
        o.fit(1, lr=0.1)
    assert all(map(torch.equal, learn.model.state_dict().values(), fresh.model.state_dict().values()))


def test_accumulated_gradients_are_the_mean_of_the_pictures_they_were_made_of():
    "With n_acc=16 and batches of 6 a step sees 18 pictures, and is the step of one batch of 18."

    def step(loader, n_acc):
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            learn = TrainLoop((loader,), nn.Linear(4, 2), nn.CrossEntropyLoss(), torch.optim.SGD, lr=0.1)
        learn.n_acc = n_acc
        learn.fit(1)
        return learn.model.weight.detach()

    small = [*zip(x[:18].split(6), y[:18].split(6))]
    torch.testing.assert_close(step(small, 16), step([(x[:18], y[:18])], 0))


def test_the_weighted_validation_loss_does_not_depend_on_the_batch_size():
    weight = torch.tensor([1.0, 9.0])
    losses = []
    for bs in 3, 16, 96:
        learn = loop()
        learn.loss_func = nn.CrossEntropyLoss(weight=weight)
        losses.append(learn.validate(dl=[*zip(x.split(bs), y.split(bs))])[0])
    logits = learn.get_preds(dl=[(x, y)])[0]
    each = -logits.log_softmax(1)[range(96), y]
    by_hand = (each * weight[y]).sum() / weight[y].sum()
    assert losses == pytest.approx([by_hand.item()] * 3, rel=1e-5)


class Dropped(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(4, 32), nn.Dropout(0.5), nn.Linear(32, 2))

    def forward(self, x):
        time.sleep(1e-3)
        return self.net(x)


def seeded(seed):
    return TrainLoop((batches,), Dropped(), nn.CrossEntropyLoss(), torch.optim.SGD, lr=0.1, seed=seed)


def first_weight(learn):
    learn.fit(3)
    return learn.model.net[0].weight.detach()


def test_seeded_fits_in_two_threads_give_what_each_gives_alone():
    alone = [first_weight(seeded(1)), first_weight(seeded(2))]
    learners = [seeded(1), seeded(2)]
    with ThreadPoolExecutor(2) as pool:
        together = [*pool.map(first_weight, learners)]
    assert all(map(torch.equal, alone, together)) and not torch.equal(*alone)


def test_get_preds_from_several_threads():
    learn = loop()
    loaders = [[(x[i : i + 8], y[i : i + 8]) for i in range(j, 96, 8)] for j in (0, 8, 16, 24)]
    want = [learn.get_preds(dl=dl) for dl in loaders]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            got = [*pool.map(lambda dl: learn.get_preds(dl=dl), loaders)]
            assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(got, want))


def test_judging_in_another_thread_while_training_is_an_error_that_says_so():
    def ask(learn):
        with ThreadPoolExecutor(1) as pool:
            seen.append(pool.submit(learn.get_preds).exception())

    seen = []
    loop().fit(1, cbs=on('after_batch', at(0, 1, ask)))
    assert 'being trained in another thread' in str(seen[0])


def test_judging_within_a_training_batch_leaves_the_run_as_it_was():
    def judge(learn):
        before = learn.xb, learn.loss, learn.iter, learn.n_iter
        learn.validate()
        learn.get_preds()
        assert learn.model.training and learn.training
        assert all(a is b or a == b for a, b in zip(before, (learn.xb, learn.loss, learn.iter, learn.n_iter)))

    plain, judged = loop(), loop(on('after_loss', lambda learn: judge(learn) if learn.training else None))
    for learn in plain, judged:
        learn.fit(2)
    assert all(map(torch.equal, plain.model.state_dict().values(), judged.model.state_dict().values()))


@pytest.mark.parametrize('switch', [torch.inference_mode, torch.no_grad])
def test_fits_do_not_mind_torchs_switches(switch):
    plain, switched = loop(), loop()
    plain.fit(1)
    with switch():
        dls = ([(a + 0, b + 0) for a, b in batches[:4]], batches[4:])  # made in that mode
        switched.dls = dls
        switched.fit(1)
        assert switched.validate()[0] == plain.validate()[0]
    assert all(map(torch.equal, plain.model.state_dict().values(), switched.model.state_dict().values()))


def test_epochs_of_other_kinds_of_numbers():
    learn = loop()
    learn.fit(1.0)
    learn.fit('1')
    assert len(learn.history) == 2
    for wrong in 1.5, 'one', None, -1:
        with pytest.raises((TypeError, ValueError), match='n_epoch'):
            learn.fit(wrong)


def test_copies_after_use():
    learn = loop(metrics='accuracy')
    learn.fit(1)
    for other in copy.deepcopy(learn), pickle.loads(pickle.dumps(loop_of_functions())):
        before = learn.model[0].weight.detach().clone()
        other.fit(1, lr=0.1)
        assert torch.equal(before, learn.model[0].weight) and other.validate()[0] > 0


def loop_of_functions():
    learn = TrainLoop((batches[:4], batches[4:]), net(), nn.CrossEntropyLoss(), torch.optim.SGD, lr=0.1)
    learn.fit(1)
    learn.get_preds()
    return learn


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork here')
def test_after_a_fork():
    learn = loop_of_functions()
    want = learn.get_preds()[0]
    context = multiprocessing.get_context('fork')
    queue = context.SimpleQueue()

    def child():
        same = torch.equal(learn.get_preds()[0], want)
        learn.fit(1)
        queue.put((same, len(learn.history)))

    p = context.Process(target=child)
    p.start()
    p.join(60)
    alive = p.is_alive()
    p.kill()
    assert not alive and queue.get() == (True, 2)


@pytest.mark.parametrize('event', ['before_fit', 'before_epoch', 'before_train'])
def test_a_layer_that_a_callback_puts_in_learns(event):
    learn = loop()

    def replace(self, learn):
        learn.model[3] = nn.Linear(8, 2)
        self.before = learn.model[3].weight.detach().clone()

    cb = type('Replace', (Callback,), {event: replace})()
    learn.fit(1, lr=0.05, cbs=cb)
    assert not torch.equal(learn.model[3].weight, cb.before)
    assert learn.opt.param_groups[0]['lr'] == 0.05


def test_an_optimizer_of_the_users_own_that_misses_a_new_layer_is_told():
    learn = loop()
    learn.opt = torch.optim.SGD(learn.model[3].parameters(), 0.1)  # part of the model: as the user likes
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        learn.fit(1)
    learn.model[3] = nn.Linear(8, 2)
    with pytest.warns(UserWarning, match='holds parameters that the model no longer has'):
        learn.fit(1)


def test_gradients_of_a_cancelled_batch_count_in_the_mean():
    xs, ys = torch.randn(18, 4), torch.randint(0, 2, (18,))
    model = nn.Linear(4, 2)
    by_hand = copy.deepcopy(model)

    class CancelSecond(Callback):
        def after_backward(self, learn):
            if learn.iter == 1:
                raise CancelBatchException

    loaders = [[*zip(xs.split(6), ys.split(6))], []]
    learn = TrainLoop(loaders, model, nn.CrossEntropyLoss(), torch.optim.SGD, lr=0.5, cbs=CancelSecond())
    learn.n_acc = 16
    learn.fit(1)
    F.cross_entropy(by_hand(xs), ys).backward()
    wanted = by_hand.weight - 0.5 * by_hand.weight.grad
    torch.testing.assert_close(model.weight, wanted)


@pytest.mark.parametrize('event', ['before_batch', 'after_pred', 'after_loss', 'after_batch'])
def test_judging_within_a_validation_batch_changes_nothing(event):
    def judge(self, learn):
        if learn.training or self.is_judging:
            return
        self.is_judging = True
        learn.get_preds(dl=[(x[:5], y[:5])])
        self.is_judging = False

    judging = type('Judging', (Callback,), {event: judge, 'is_judging': False})()
    plain, watched = loop(seed=0), loop(judging, seed=0)
    plain.fit(2)
    watched.fit(2)
    assert [r['valid_loss'] for r in watched.history] == [r['valid_loss'] for r in plain.history]


def test_a_learner_can_be_copied_in_the_middle_of_a_batch():
    copies = []

    class Copy(Callback):
        def after_loss(self, learn):
            if learn.training and not copies:
                copies.append(None)
                copies[0] = copy.deepcopy(learn)

    loop(Copy).fit(1)
    copies[0].fit(1)
    assert len(copies[0].history) == 1
