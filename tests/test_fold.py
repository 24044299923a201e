"Folding changes nothing that can be seen: not the answers, not the network, not other threads."

import copy
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune
from torch.utils._python_dispatch import TorchDispatchMode

from vislearn.models.create import create_model
from vislearn.models.fold import Folded, FrozenBody, KeptFold, conv_bn_pairs, fold, lean
from vislearn.models.memory import needs_contiguous, to_channels_last
from vislearn.train.loop import TrainLoop


@pytest.fixture
def xb():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def lived_in(net: nn.Module, seed: int = 0) -> nn.Module:
    "`net` in evaluation mode, its normalisations with statistics and weights as after some training."
    g = torch.Generator().manual_seed(seed)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            for o, low, high in ((m.running_mean, -1, 1), (m.running_var, 0.5, 2), (m.weight, 0.5, 2), (m.bias, -1, 1)):
                o.data.uniform_(low, high, generator=g)
    return net.eval()


class Net(nn.Module):
    "A convolution and a normalisation, used as `way` says."

    def __init__(self, way=lambda m, x: m.bn(m.conv(x)), conv=nn.Conv2d, norm=nn.BatchNorm2d):
        super().__init__()
        self.way, self.conv, self.bn = way, conv(3, 3, 3, padding=1), norm(3)

    def forward(self, x):
        return self.way(self, x)


class StandardisedConv(nn.Conv2d):
    def forward(self, x):
        w = self.weight
        return F.conv2d(x, (w - w.mean()) / (w.std() + 1e-5), self.bias, padding=self.padding)


class ClippedNorm(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).clamp(-1, 1)


class Counting(Net):
    "Keeps count of what it sees in a buffer."

    def __init__(self):
        super().__init__(lambda m, x: m.bn(m.conv(x)) + m.seen.add_(1))
        self.register_buffer('seen', torch.zeros(()))


def caching(m, x):
    if not hasattr(m, 'kept'):
        m.kept = torch.zeros_like(x)
    return m.bn(m.conv(x)) + m.kept


def with_hook(net):
    net.conv.register_forward_hook(lambda m, args, out: out.clamp(-0.1, 0.1))
    return net


def with_own_forward(net):
    net.bn.forward = lambda x: x * 2
    return net


def pruned(net):
    prune.l1_unstructured(net.conv, 'weight', 0.5)
    return net


UNFOLDABLE = {
    'subclass of Conv2d': Net(conv=StandardisedConv),
    'subclass of BatchNorm2d': Net(norm=ClippedNorm),
    'used twice': Net(lambda m, x: m.bn(m.conv(x)) + m.conv(x)),
    'output used elsewhere': Net(lambda m, x: [y := m.conv(x), m.bn(y) + y][1]),
    'output changed in between': Net(lambda m, x: m.bn(m.conv(x).relu_())),
    'output returned': Net(lambda m, x: [y := m.conv(x), (m.bn(y), y)][1]),
    'weight read elsewhere': Net(lambda m, x: m.bn(m.conv(x)) * m.conv.weight.mean()),
    'path depends on values': Net(lambda m, x: m.bn(m.conv(x)) if x.sum() > 0 else m.conv(x)),
    'path depends on a list of values': Net(lambda m, x: m.bn(m.conv(x)) if max(x.flatten().tolist()) < 9 else x),
    'path depends on an array': Net(lambda m, x: m.bn(m.conv(x)) if np.asarray(x).max() < 9 else x),
    'path depends on a mask': Net(lambda m, x: m.bn(m.conv(x)) if not len(x[x > 9]) else x),
    'path depends on the number of values': Net(lambda m, x: m.bn(m.conv(x)) if len(x.unique()) > 9 else x),
    'random in evaluation': Net(lambda m, x: F.dropout(m.bn(m.conv(x)), 0.5, training=True)),
    'a buffer that moves': Counting(),
    'a cache': Net(caching),
    'a hook': with_hook(Net()),
    'its own forward': with_own_forward(Net()),
    'pruned': pruned(Net()),
    'weight_norm': Net(conv=lambda *a, **k: nn.utils.parametrizations.weight_norm(nn.Conv2d(*a, **k))),
    'old weight_norm': Net(conv=lambda *a, **k: nn.utils.weight_norm(nn.Conv2d(*a, **k))),
    'spectral_norm': Net(conv=lambda *a, **k: nn.utils.parametrizations.spectral_norm(nn.Conv2d(*a, **k))),
    'old spectral_norm': Net(conv=lambda *a, **k: nn.utils.spectral_norm(nn.Conv2d(*a, **k))),
}


@pytest.mark.parametrize('kind', UNFOLDABLE)
def test_what_cannot_be_folded_runs_as_it_is(kind, xb):
    net = lived_in(UNFOLDABLE[kind])
    keys, attributes = list(net.state_dict()), set(vars(net))
    assert lean(net, xb) is net and KeptFold()(net, xb) is net
    assert list(net.state_dict()) == keys and set(vars(net)) == attributes  # no traces
    with torch.no_grad():
        for answer in (Folded(net)(xb), net(xb)):  # and it still runs
            assert torch.is_tensor(answer) or len(answer) == 2


@pytest.mark.parametrize(
    'arch', ['resnet18', 'tf_efficientnet_lite0', 'mobilenetv3_small_050', 'tv:shufflenet_v2_x0_5']
)
def test_folded_networks_give_the_same(arch):
    model = lived_in(create_model(arch, 3, pretrained=False))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        pred, folded = model(x), lean(model, x)
        assert sum(isinstance(m, nn.BatchNorm2d) for m in folded.modules()) == 0
        torch.testing.assert_close(folded(x), pred, rtol=1e-3, atol=1e-3 * pred.abs().max().item())


class Copies(TorchDispatchMode):
    "Counts copies of whole maps: those that padding makes, and those that autograd makes of what is overwritten."

    def __init__(self):
        super().__init__()
        self.padded, self.cloned = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.constant_pad_nd.default:
            self.padded.append(args[0].shape[1])
        self.cloned += func is torch.ops.aten.clone.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('size', [224, 225, 96, 97, 33, (64, 33)])
def test_padding_to_the_same_size_is_right_at_every_size(size):
    model = lived_in(create_model('tf_efficientnet_lite0', 3, pretrained=False))
    x = torch.randn(2, 3, *(size if isinstance(size, tuple) else (size, size)))
    kinds, values = [type(m) for m in model.modules()], copy.deepcopy(model.state_dict())
    with torch.no_grad():
        pred = model(x)
        torch.testing.assert_close(lean(model, x)(x), pred, rtol=1e-3, atol=1e-3 * pred.abs().max().item())
    model, x = model.double(), x[:1].double()  # rounding would decide at the corners of activations
    early = list(model.parameters())[:60]
    for p in early:
        p.requires_grad_(False)  # larger kernels there, timm's padding behind
    ours = gradients_of(lean(model, x, training=True), model, x)
    for mine, plain in zip(ours, gradients_of(model, model, x), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-6, atol=1e-9 * plain.abs().max().item())
    assert len(ours) == len(list(model.parameters())) - 60
    assert kinds == [type(m) for m in model.modules()] and values.keys() == model.state_dict().keys()
    assert all(torch.equal(v, values[k].to(v)) for k, v in model.state_dict().items())


def gradients_of(net: nn.Module, model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    F.cross_entropy(net(x), torch.tensor([1])).backward()
    res = [p.grad for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return res


def test_maps_are_not_copied_to_be_padded_or_overwritten():
    model = lived_in(create_model('tf_efficientnet_lite0', 3, pretrained=False))
    x = torch.randn(2, 3, 64, 64)
    net = lean(model, x)
    with torch.no_grad(), Copies() as even:
        net(x)
    with torch.no_grad(), Copies() as odd:
        net(torch.randn(2, 3, 65, 65))
    assert even.padded == [3, 1, 1, 1, 1] and odd.padded == []  # pictures, then kernels; odd sizes stay odd
    net = lean(model, x, training=True)
    with Copies() as learning:
        net(x)
    assert learning.cloned == 0
    with Copies() as plain:
        model(x)
    assert plain.cloned > 30


@pytest.mark.parametrize('arch', ['efficientformerv2_s0', 'levit_128s'])
def test_networks_that_cache_in_evaluation_run_again_and_again(arch):
    model = create_model(arch, 2, pretrained=False).eval()
    net, x = Folded(model), torch.randn(1, 3, *model.data_cfg['input_size'][1:])
    with torch.no_grad():
        first, second = net(x), net(x)
    assert torch.equal(first, second)


def test_a_body_that_differs_in_training_is_not_replaced(xb):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = Net(lambda m, x: m.bn(m.conv(x)) * (5 if m.training else 1))
            self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))

        def forward(self, x):
            return self.head(self.body(x))

    model = lived_in(Model()).train()
    model.body.requires_grad_(False).bn.eval()
    net = lean(model, xb, training=True)
    assert not isinstance(net, FrozenBody)
    torch.testing.assert_close(net(xb), model(xb), rtol=1e-4, atol=1e-4)
    model.body.way = lambda m, x: m.bn(m.conv(x))
    assert isinstance(lean(model, xb, training=True), FrozenBody)


def test_the_model_is_left_as_it_was(xb):
    model = lived_in(create_model('test_resnet', 2, pretrained=False))
    model.body.train()
    before = copy.deepcopy(model)
    lean(model, xb), lean(model, xb, training=True)
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.state_dict().values()))
    assert all(p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_folding_draws_no_random_numbers(xb):
    model = create_model('test_resnet', 2, pretrained=False)
    state = torch.get_rng_state()
    lean(model.eval(), xb), lean(model.train(), xb, training=True)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    'how', [torch.inference_mode, lambda: torch.autocast('cpu', torch.bfloat16), torch.enable_grad]
)
def test_folding_is_the_same_under_any_switch(how, xb):
    model = lived_in(Net())
    plain = conv_bn_pairs(model, xb)
    with how():
        net = lean(model, xb)
        assert conv_bn_pairs(model, xb) == plain == [('conv', 'bn')]
    with torch.no_grad():
        torch.testing.assert_close(net(xb), model(xb), rtol=1e-4, atol=1e-4)


def test_eight_threads_at_once_on_twenty_networks(xb):
    "Each thread's first answer, and the answer of a plain network beside them, is the right one."
    stop, failures = threading.Event(), []
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 900, 2)).eval()
    wanted = plain(xb).detach()

    def unrelated():
        while not stop.is_set():
            try:
                if not torch.equal(plain(xb), wanted):
                    failures.append('another answer')
            except Exception as e:
                failures.append(repr(e))

    beside = threading.Thread(target=unrelated)
    beside.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            for seed in range(20):
                model = lived_in(create_model('test_resnet', 3, pretrained=False), seed)
                with torch.no_grad():
                    pred, net, start = model(xb), Folded(model), threading.Barrier(8)

                def first(_):
                    start.wait()
                    with torch.no_grad():
                        return net(xb)

                for answer in pool.map(first, range(8)):
                    torch.testing.assert_close(answer, pred, rtol=1e-3, atol=1e-3 * pred.abs().max().item())
                    assert isinstance(net.net.body, nn.Module)
    finally:
        stop.set()
        beside.join()
    assert not failures, (len(failures), failures[0])


def test_folding_does_not_use_torch_fx():
    code = (
        'import torch; torch.fx.Tracer.trace = None; torch.fx._symbolic_trace = None\n'
        'from vislearn.models.create import create_model; from vislearn.models.fold import lean\n'
        "model = create_model('test_resnet', 2, pretrained=False).eval()\n"
        'print(lean(model, torch.rand(1, 3, 64, 64)) is not model)'
    )
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == 'True'


def test_another_size_of_pictures_is_checked_again():
    "A network whose path depends on the size of its pictures."
    net = lived_in(Net(lambda m, x: m.bn(m.conv(x)) if x.shape[-1] < 40 else m.bn(m.conv(x)) + m.conv(x)))
    kept, folded = KeptFold(), Folded(net)
    with torch.no_grad():
        for size in (32, 64, 32, 64):
            x = torch.randn(2, 3, size, size)
            torch.testing.assert_close(kept(net, x)(x), net(x), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(folded(x), net(x), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.net.modules())


ALONE_OR_NOT = {
    'one alone is not normalised': lambda m, x: m.conv(x) if len(x) == 1 else m.bn(m.conv(x)),
    'several are not normalised': lambda m, x: m.bn(m.conv(x)) if len(x) == 1 else m.conv(x),
    'they are compared with their mean': lambda m, x: m.bn(m.conv(x)) if len(x) == 1 else m.bn(m.conv(x - x.mean(0))),
    'several are looked into': lambda m, x: m.bn(m.conv(x)) if len(x) == 1 or x[0].sum() < 0 else m.conv(x) * 2,
}


@pytest.mark.parametrize('kind', ALONE_OR_NOT)
@pytest.mark.parametrize('sizes', [(1, 4, 1), (4, 1, 4)])
def test_networks_that_treat_a_lone_picture_otherwise(kind, sizes):
    net = lived_in(Net(ALONE_OR_NOT[kind]))
    kept, folded = KeptFold(), Folded(net)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for n in sizes:
            for x in torch.randn(8, n, 3, 16, 16, generator=g):
                torch.testing.assert_close(kept(net, x)(x), net(x), rtol=1e-4, atol=1e-4)
                torch.testing.assert_close(folded(x), net(x), rtol=1e-4, atol=1e-4)


def test_a_last_batch_of_one_is_judged_by_the_network_itself():
    net = lived_in(Net(lambda m, x: (m.conv(x) if len(x) == 1 else m.bn(m.conv(x))).mean((2, 3))))
    xs = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    data = [(xs[:4], torch.zeros(4, dtype=torch.long)), (xs[4:], torch.zeros(1, dtype=torch.long))]
    loop = TrainLoop([data, data], net, F.cross_entropy, torch.optim.SGD)
    pred = loop.get_preds(act=nn.Identity())[0]
    with torch.no_grad():
        wanted = torch.cat([net(xs[:4]), net(xs[4:])])
    torch.testing.assert_close(pred, wanted, rtol=1e-4, atol=1e-4)


def test_a_copy_that_other_sizes_agree_with_is_kept():
    net = lived_in(Net())
    kept, folded, used = KeptFold(), Folded(net), []
    with torch.no_grad():
        for size in (32, 64, 48):
            x = torch.randn(2, 3, size, size)
            used.append(kept(net, x))
            torch.testing.assert_close(folded(x), net(x), rtol=1e-4, atol=1e-4)
    assert used[0] is used[1] is used[2] is not net
    assert set(folded._nets.values()) == {folded.net}


def test_hooks_set_after_the_first_batch_are_obeyed(xb):
    "What a hook returns is the output, and without the hook everything is as before."
    net = lived_in(Net())
    kept, folded = KeptFold(), Folded(net)
    with torch.no_grad():
        plain = net(xb)
        for answer in (folded(xb), kept(net, xb)(xb)):
            torch.testing.assert_close(answer, plain, rtol=1e-4, atol=1e-4)
        for register in (net.conv.register_forward_hook, net.bn.register_forward_hook):
            handle = register(lambda m, args, out: out * 0)
            assert torch.equal(folded(xb), net(xb)) and torch.equal(kept(net, xb)(xb), net(xb))
            handle.remove()
        handle = net.register_forward_pre_hook(lambda m, args: (args[0] * 2,))
        torch.testing.assert_close(kept(net, xb)(xb), net(xb), rtol=1e-4, atol=1e-4)
        assert torch.equal(folded(xb), net(xb))
        handle.remove()
        for answer in (folded(xb), kept(net, xb)(xb)):
            torch.testing.assert_close(answer, plain, rtol=1e-4, atol=1e-4)


def test_three_dimensional_convolutions_keep_their_format():
    net = nn.Sequential(nn.Conv3d(3, 4, 3), nn.Flatten(1, 2), nn.Conv2d(24, 8, 3)).eval()
    to_channels_last(net)
    assert net[0].weight.is_contiguous() and net[2].weight.is_contiguous(memory_format=torch.channels_last)
    assert fold(net, [])(torch.rand(1, 3, 8, 8, 8)).shape == (1, 8, 4, 4)


@pytest.mark.parametrize('arch', ['repvgg_a0', 'mobileone_s0', 'fastvit_t8'])
def test_stems_that_crash_in_channels_last_stay_contiguous(arch):
    model = create_model(arch, 2, pretrained=False)
    assert needs_contiguous(model) and not needs_contiguous(create_model('test_resnet', 2, pretrained=False))
    assert all(p.is_contiguous() for p in to_channels_last(model).parameters())


CRASH = """
import sys, torch
from torch import nn
from vislearn.models.memory import needs_contiguous, to_channels_last
from vislearn.train.loop import TrainLoop
net = nn.Sequential(nn.Conv2d(int(sys.argv[1]), 48, 1, stride=2))
xb = torch.randn(8, int(sys.argv[1]), 64, 64).contiguous(memory_format=torch.channels_last)
xb = xb.contiguous() if needs_contiguous(net) else xb
for _ in range(12):
    to_channels_last(net)(xb).square().mean().backward()
"""


@pytest.mark.parametrize('channels', [2, 3, 7, 8])
def test_strided_convolutions_of_few_channels_survive_their_backward_pass(channels):
    "In a process of its own that computes with AVX2, where the memory format is harmful."
    env = dict(os.environ, ONEDNN_MAX_CPU_ISA='AVX2', ATEN_CPU_CAPABILITY='avx2')
    assert subprocess.run([sys.executable, '-c', CRASH, str(channels)], env=env).returncode == 0
