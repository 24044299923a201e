"Optimizers, groups and schedules, beyond what nbs/train/10_optim.ipynb shows."

import math
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from vislearn.models.create import create_model
from vislearn.models.groups import ParamGroup
from vislearn.train.loop import TrainLoop
from vislearn.train.optim import *
from vislearn.train.recorder import Recorder
from vislearn.train.schedules import *


def run(make, n=20, moms=None, shape=(6, 4)):
    "The parameter after `n` steps on the same random gradients, some of them missing."
    torch.manual_seed(0)
    p, other = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.randn(3))
    opt = make([p, other])
    for i in range(n):
        p.grad, other.grad = torch.randn(shape), torch.randn(3) if i % 3 else None
        if moms:
            set_hyper(opt, 'mom', moms[i])
        opt.step()
        opt.zero_grad()
    assert p.grad is None
    return p.data, other.data


def same(a, b, **kwargs):
    return all(torch.allclose(x, y, atol=1e-6) for x, y in zip(run(a, **kwargs), run(b, **kwargs)))


@pytest.mark.parametrize('wd', [0.0, 0.1])
def test_adam_is_torchs_adamw(wd):
    moms = [0.95 - 0.01 * i for i in range(20)]
    theirs = partial(torch.optim.AdamW, lr=0.01, betas=(0.9, 0.99), eps=1e-5, weight_decay=wd, foreach=False)
    assert same(partial(Adam, lr=0.01, wd=wd), theirs) and same(partial(Adam, lr=0.01, wd=wd), theirs, moms=moms)
    assert same(
        partial(Adam, lr=0.01, wd=wd, decouple_wd=False),
        partial(torch.optim.Adam, lr=0.01, betas=(0.9, 0.99), eps=1e-5, weight_decay=wd, foreach=False),
    )
    assert not same(partial(Adam, lr=0.01, wd=wd, sqr_mom=0.9), theirs)


def test_sgd_is_torchs():
    assert same(partial(SGD, lr=0.1), partial(torch.optim.SGD, lr=0.1))
    assert same(
        partial(SGD, lr=0.1, mom=0.9, wd=0.1, decouple_wd=False),
        partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1),
    )
    p = nn.Parameter(torch.tensor([1.0, 2.0]))
    p.grad = torch.tensor([1.0, 1.0])
    SGD([p], lr=0.1, wd=0.5).step()
    assert torch.allclose(p, torch.tensor([1.0, 2.0]) * (1 - 0.05) - 0.1)


def test_rmsprop():
    assert same(
        partial(RMSProp, lr=0.01, wd=0.1, decouple_wd=False),
        partial(torch.optim.RMSprop, lr=0.01, alpha=0.99, eps=1e-8, weight_decay=0.1),
    )
    p = nn.Parameter(torch.tensor([1.0]))
    opt = RMSProp([p], lr=0.1, mom=0.9, eps=0.0)
    grads = [2.0, -1.0]
    sqr = avg = 0.0
    want = 1.0
    for g in grads:  # fastai's order: the momentum is taken of the gradient, and divided afterwards
        p.grad = torch.tensor([g])
        opt.step()
        sqr, avg = 0.99 * sqr + 0.01 * g * g, 0.9 * avg + g
        want -= 0.1 * avg / math.sqrt(sqr)
    assert math.isclose(p.item(), want, rel_tol=1e-5)


@pytest.mark.parametrize('opt_func', [Adam, partial(SGD, mom=0.9), partial(RMSProp, mom=0.9)])
def test_layout_in_memory_does_not_matter(opt_func):
    "torch's fused kernels read memory in order and silently mix up tensors whose layouts differ."
    torch.manual_seed(0)
    w, grads = torch.randn(8, 4, 3, 3), torch.randn(3, 8, 4, 3, 3)
    res = []
    for relayout in (False, True):
        p = nn.Parameter(w.clone())
        opt = opt_func([p], lr=0.1)
        for i, g in enumerate(grads):
            if relayout and i == 1:
                p.data = p.data.contiguous(memory_format=torch.channels_last)
            p.grad = g.clone()
            opt.step()
        res.append(p.data)
    assert torch.allclose(*res) and not torch.equal(res[0], w)


def test_state_goes_to_disk_and_back(tmp_path):
    def train(opt, p, seed):
        torch.manual_seed(seed)
        for _ in range(5):
            p.grad = torch.randn(3)
            opt.step()

    p = nn.Parameter(torch.ones(3))
    opt = Adam([dict(params=[p], layer=0, name='x', lr_mult=1.0)], lr=0.1)
    train(opt, p, 0)
    torch.save(opt.state_dict(), tmp_path / 'opt.pth')
    q = nn.Parameter(p.data.clone())
    again = Adam([dict(params=[q], layer=0, name='x', lr_mult=1.0)], lr=0.5)
    again.load_state_dict(torch.load(tmp_path / 'opt.pth', weights_only=True))
    r = nn.Parameter(p.data.clone())
    theirs = torch.optim.AdamW([dict(params=[r], layer=0, name='x', lr_mult=1.0)])
    theirs.load_state_dict(torch.load(tmp_path / 'opt.pth', weights_only=True))
    for o, x in ((opt, p), (again, q), (theirs, r)):
        train(o, x, 1)
    assert torch.equal(p, q) and torch.allclose(p, r)


def test_closure_and_torch_schedulers():
    p = nn.Parameter(torch.tensor([3.0]))
    opt = SGD([p], lr=0.1)
    sched = torch.optim.lr_scheduler.StepLR(opt, 1, gamma=0.5)

    def closure():
        opt.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    assert opt.step(closure).item() == 9 and math.isclose(p.item(), 3 - 0.6, rel_tol=1e-6)
    sched.step()
    assert get_hyper(opt.param_groups[0], 'lr') == 0.05


def test_no_compiler_is_imported():
    code = """if 1:
        import sys, torch
        from vislearn.train.optim import Adam
        p = torch.nn.Parameter(torch.ones(3)); opt = Adam([p])
        p.grad = torch.ones(3); opt.step(); opt.zero_grad(); opt.load_state_dict(opt.state_dict())
        print([m for m in ('torch._dynamo', 'timm', 'torchvision') if m in sys.modules], p[0].item() < 1)"""
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == '[] True'


@pytest.mark.parametrize(
    'opt',
    [
        'lamb',
        'ranger',
        'nadam',
        'lion',
        'adamw',
        Lamb,
        ranger,
        ('sgd', {'mom': 0.9}),
        partial(OptimWrapper, opt=torch.optim.Adagrad),
    ],
)
def test_optimizers_by_name_go_downhill(opt):
    torch.manual_seed(0)
    net, x = nn.Linear(4, 1), torch.randn(64, 4)
    y = x @ torch.tensor([[1.0], [-1], [2], [0]])
    o = get_opt_func(opt)(make_groups([[*net.parameters()]], lr=0.05), lr=0.05)
    losses = []
    for _ in range(60):
        loss = nn.functional.mse_loss(net(x), y)
        losses.append(loss.item())
        loss.backward()
        o.step()
        o.zero_grad()
    assert losses[-1] < 0.8 * losses[0]


def test_opt_func_errors():
    with pytest.raises(ValueError, match="did you mean 'adamw'"):
        get_opt_func('adamww')
    with pytest.raises(TypeError, match="did you mean 'sqr_mom'"):
        get_opt_func(('adam', {'sqrmom': 0.9}))
    with pytest.raises(TypeError, match='float'):
        get_opt_func(0.1)


def test_lr_list():
    assert lr_list(slice(1e-3), 1) == [1e-3] and lr_list(torch.tensor([1.0, 2.0]), 2) == [1, 2]
    assert [f'{o:.3g}' for o in lr_list(1.0, 4, lr_decay=0.38)] == ['0.0549', '0.144', '0.38', '1']
    for bad in (slice(None), [1e-3]):
        with pytest.raises(ValueError):
            lr_list(bad, 2)
    with pytest.raises(ValueError, match='last group'):
        lr_list(slice(1e-3), 2, lr_decay=0.38)
    with pytest.raises(ValueError, match='ends above 0'):
        lr_list(slice(1e-5, 0), 2)


def test_groups_of_a_model():
    model = create_model('test_vit', 2, pretrained=False, layer_decay=0.5)
    groups = make_groups(model.param_groups(), lr=1.0, wd=0.05)
    ids = [id(p) for g in groups for p in g['params']]
    assert len(ids) == len(set(ids)) == len(list(model.parameters()))
    by_id = {id(p): g for g in groups for p in g['params']}
    net = model.body.net
    assert (
        by_id[id(net.pos_embed)]['weight_decay'] == 0
        and by_id[id(net.blocks[0].norm1.weight)]['weight_decay'] == 0
        and by_id[id(net.blocks[0].attn.qkv.weight)]['weight_decay'] == 0.05
    )
    assert by_id[id(model.head[-1].weight)]['lr'] == 1 and by_id[id(net.blocks[-1].attn.qkv.weight)]['lr'] == 0.5
    opt = Adam(groups, lr=1.0)
    set_hyper(opt, 'lr', 0.1)
    assert by_id[id(net.pos_embed)]['lr'] < 0.01 and math.isclose(opt.param_groups[-1]['lr'], 0.1)
    assert all(
        g.get('weight_decay') is None for g in make_groups(model.param_groups(), wd_bn_bias=True) if g['name'] == 'head'
    )


def test_group_options():
    a, b = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2, 2))
    groups = make_groups(
        [ParamGroup([a], 'a', {'lr': 0.5, 'wd': 0.3}), ParamGroup([b], 'b', {'lr_mult': 10})], lr=0.1, wd=0.01
    )
    assert [(g['lr'], g['weight_decay'], g['name']) for g in groups] == [(0.5, 0.3, 'a'), (1.0, 0.01, 'b')]
    opt = Adam(groups)
    set_hyper(opt, 'lr', [0.01, 0.2])
    assert [round(g['lr'], 9) for g in opt.param_groups] == [0.05, 2.0]
    set_hyper(opt, 'wd', 0.7)
    assert get_hyper(opt.param_groups[0], 'wd') == 0.7
    with pytest.raises(ValueError, match="'a' has a learning rate of its own, 0.5, .* give a rate above 0"):
        make_groups([ParamGroup([a], 'a', {'lr': 0.5}), [b]], lr=[0, 0.1])


def test_optimizers_do_not_change_the_groups_they_are_given():
    groups = make_groups([[nn.Parameter(torch.zeros(2, 2))]])
    Adam(groups, wd=0.5)
    assert 'weight_decay' not in groups[0]


STEPS = [i / 200 for i in range(201)]


@pytest.mark.parametrize('name', SCHEDULES)
def test_schedules_stay_in_range_and_end_low(name):
    f = get_schedule(name)
    values = [f(x) for x in STEPS]
    assert all(0 <= v <= 1 + 1e-9 for v in values) and max(values) > 0.99 and values[-1] < 0.05


def test_schedules_against_formulae():
    close = partial(math.isclose, abs_tol=1e-9)
    for x in STEPS:
        assert (
            close(cosine()(x), (1 + math.cos(math.pi * x)) / 2)
            and close(linear()(x), 1 - x)
            and close(poly(0.9)(x), (1 - x) ** 0.9)
        )
        w = 0.2

        def warm(fall):
            return x / w if x < w else fall((x - w) / (1 - w))

        assert (
            close(cosine(w)(x), warm(lambda q: (1 + math.cos(math.pi * q)) / 2))
            and close(linear(w, end=0.1)(x), warm(lambda q: 1 - 0.9 * q))
            and close(poly(3, w)(x), warm(lambda q: (1 - q) ** 3))
        )
        up, down = (x / 0.25, (x - 0.25) / 0.75)

        def cos(a, b, q):
            return a + (1 - math.cos(math.pi * q)) / 2 * (b - a)

        assert close(one_cycle()(x), cos(1 / 25, 1, up) if x < 0.25 else cos(1, 1e-5, down))
        assert close(flat_cos()(x), 1 if x < 0.75 else cos(1, 1e-5, (x - 0.75) / 0.25))
        assert piecewise()(x) == (1 if x < 1 / 3 else 0.1 if x < 2 / 3 else 0.01)


def test_fastais_one_cycle_rates():
    "fit_one_cycle starts at lr/div, peaks at lr, ends at lr/div_final."
    f = per_layer(one_cycle(), lr_list(slice(1e-4, 1e-2), 3))
    assert [round(o(0) * 25, 9) for o in f] == [1e-4, 1e-3, 1e-2] == [round(o(0.25), 9) for o in f] and math.isclose(
        f[-1](1), 1e-7
    )


def test_schedule_errors():
    with pytest.raises(ValueError, match='share of the run'):
        cosine(warmup=5)
    with pytest.raises(ValueError, match='one value more'):
        piecewise([0.5], [1.0, 0.1, 0.01])
    with pytest.raises(ValueError, match='rising'):
        piecewise([0.5, 0.3], [1.0, 0.1, 0.01])
    with pytest.raises(ValueError, match='warmup'):
        piecewise([0.1], [1.0, 0.1], warmup=0.2)
    with pytest.raises(ValueError, match='cut_frac'):
        slanted_triangular(0)
    with pytest.raises(ValueError, match="did you mean 'sgdr'"):
        get_schedule('sgd_r')
    assert get_schedule(math.sin) is math.sin
    assert get_schedule((cosine, {'warmup': 0.1})) == get_schedule(('cosine', {'warmup': 0.1}))


def test_schedules_are_plain_values():
    import pickle

    for name in SCHEDULES:
        assert pickle.loads(pickle.dumps(get_schedule(name))) == get_schedule(name)
    assert one_cycle() != one_cycle(0.3)


def steps(opt, p, n=12):
    "`p` after `n` steps on the same gradients."
    torch.manual_seed(0)
    for _ in range(n):
        p.grad = torch.randn(3)
        opt.step()
    return p.detach()


def test_qhadam_follows_its_paper():
    "Ma & Yarats, equation 4, with the averages corrected for their start at 0 as in fastai."
    mom, sqr_mom, nu_1, nu_2, lr, eps, wd = 0.9, 0.99, 0.7, 0.8, 0.05, 1e-8, 0.1
    ours = steps(QHAdam([p := nn.Parameter(torch.ones(3))], lr, mom, sqr_mom, nu_1, nu_2, eps, wd), p)
    torch.manual_seed(0)
    want, avg, sqr = torch.ones(3), torch.zeros(3), torch.zeros(3)
    for n in range(1, 13):
        g = torch.randn(3)
        want = want * (1 - lr * wd)
        avg = mom * avg + (1 - mom) * g
        sqr = sqr_mom * sqr + (1 - sqr_mom) * g * g
        top = (1 - nu_1) * g + nu_1 * avg / (1 - mom**n)
        bottom = ((1 - nu_2) * g * g + nu_2 * sqr / (1 - sqr_mom**n)).sqrt() + eps
        want = want - lr * top / bottom
    torch.testing.assert_close(ours, want)


def test_radam_and_ranger_follow_their_formula():
    "Liu et al., algorithm 2: no scaling until the variance of the mean square can be told (rho above 5)."
    mom, sqr_mom, lr = 0.9, 0.99, 0.05
    ours = steps(RAdam([p := nn.Parameter(torch.ones(3))], lr, mom, sqr_mom, eps=0.0), p)
    torch.manual_seed(0)
    want, avg, sqr, rho_inf = torch.ones(3), torch.zeros(3), torch.zeros(3), 2 / (1 - sqr_mom) - 1
    for n in range(1, 13):
        g = torch.randn(3)
        avg = mom * avg + (1 - mom) * g
        sqr = sqr_mom * sqr + (1 - sqr_mom) * g * g
        direction = avg / (1 - mom**n)
        rho = rho_inf - 2 * n * sqr_mom**n / (1 - sqr_mom**n)
        if rho > 5:
            r = math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
            direction = direction * r / (sqr / (1 - sqr_mom**n)).sqrt()
        want = want - lr * direction
    torch.testing.assert_close(ours, want, rtol=1e-4, atol=1e-5)


def test_larc_limits_the_step_by_the_size_of_the_weights():
    p = nn.Parameter(torch.tensor([3.0, 4.0]))  # of length 5
    p.grad = torch.tensor([100.0, 0.0])
    Larc([p], lr=0.5, mom=0.0, trust_coeff=0.02).step()
    torch.testing.assert_close(p.data, torch.tensor([3.0 - 0.02 * 5 / 100 * 100, 4.0]))


def test_optim_wrapper_takes_what_fastai_takes():
    p = nn.Parameter(torch.ones(2))
    sgd = OptimWrapper([p], torch.optim.SGD, momentum=0.9)
    assert type(sgd) is torch.optim.SGD and sgd.param_groups[0]['momentum'] == 0.9
    two = OptimWrapper([[p], [nn.Parameter(torch.ones(1))]], torch.optim.SGD, lr=0.3)
    assert [g['lr'] for g in two.param_groups] == [0.3, 0.3]
    adamw = partial(OptimWrapper, opt=torch.optim.AdamW, weight_decay=0.01, eps=1e-3)([p], lr=0.2)
    assert {k: adamw.param_groups[0][k] for k in ('lr', 'weight_decay', 'eps')} == {
        'lr': 0.2,
        'weight_decay': 0.01,
        'eps': 1e-3,
    }
    assert OptimWrapper(opt=sgd) is sgd
    with pytest.raises(TypeError, match='needs opt='):
        OptimWrapper([p])


@pytest.mark.parametrize('make', [np.array, torch.tensor, tuple])
def test_rates_as_arrays(make):
    rates = make([1e-4, 1e-2])
    assert lr_list(rates, 2) == pytest.approx([1e-4, 1e-2])
    opt = SGD(make_groups([[nn.Parameter(torch.ones(2, 2))], [nn.Parameter(torch.ones(2))]]))
    set_hyper(opt, 'lr', rates)
    assert [g['lr'] for g in opt.param_groups] == pytest.approx([1e-4, 1e-2])
    assert all(type(g['lr']) is float for g in opt.param_groups)
    with pytest.raises(ValueError, match='2 learning rates for 3 parameter groups'):
        lr_list(rates, 3)


@pytest.mark.parametrize('n', range(2, 40))
def test_cycles_begin_at_their_peak(n):
    "Where a border is a rounding error away from the quotient that progress is, too."
    sched = sgdr(n, cycle_mult=1)
    assert [sched(epoch / n) for epoch in range(n)] == pytest.approx([1.0] * n)
    steps = piecewise([i / n for i in range(1, n)], list(range(n)))
    assert [steps((epoch + batch / 8) / n) for epoch in range(n) for batch in range(8)] == [
        epoch for epoch in range(n) for _ in range(8)
    ]


def test_five_cycles_of_one_epoch_in_a_fit():
    x = torch.randn(16, 2)
    batches = [(x[:8], x[:8, :1]), (x[8:], x[8:, :1])]
    learn = TrainLoop([batches], nn.Linear(2, 1), nn.MSELoss(), SGD)
    learn.add_cbs([Recorder(), ParamScheduler({'lr': per_layer(sgdr(5, cycle_mult=1), [0.01])})])
    learn.fit(5)
    assert learn.recorder.lrs[::2] == pytest.approx([0.01] * 5) and learn.recorder.lrs[1::2] == pytest.approx(
        [0.005] * 5
    )


def test_registries_list_their_names():
    assert list_schedules() == list(SCHEDULES) and 'one_cycle' in list_schedules()
    assert set(OPTIMIZERS) < set(list_optimizers())


@pytest.mark.parametrize('lr', [-1, float('nan'), slice(1e-4, float('inf')), [1e-3, -1e-3]])
def test_rates_that_cannot_train_are_refused(lr):
    with pytest.raises(ValueError, match='a learning rate is a number from 0'):
        lr_list(lr, 2)
