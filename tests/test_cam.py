"Grad-CAM points at what decides, in networks of every family."

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from vislearn.interpret.cam import find_layout, grad_cam
from vislearn.interpret.heat import draw_heat
from vislearn.models.create import create_model

FAMILIES = [  # the smallest of ten families: convolutional, class token, mean of tokens, channels last
    'test_resnet',
    'test_efficientnet',
    'test_convnext',
    'test_mambaout',
    'test_vit',
    'shvit_s1',
    'pit_ti_224',
    'edgenext_xx_small',
    'efficientformer_l1',
    'tv:shufflenet_v2_x0_5',
]


def coloured_patches(n: int, size: int, seed: int):
    "Noise with one square, red (label 0) or blue (label 1), somewhere: pictures, labels, and the squares' corners."
    g = torch.Generator().manual_seed(seed)
    side = size // 4
    xb, yb = torch.randn(n, 3, size, size, generator=g) * 0.1, torch.arange(n) % 2
    colours = torch.tensor([[2.5, -1.5, -1.5], [-1.5, -1.5, 2.5]])
    corners = torch.randint(0, 7, (n, 2), generator=g) * (side // 2)
    for x, y, (top, left) in zip(xb, yb, corners.tolist()):
        x[:, top : top + side, left : left + side] += colours[y][:, None, None]
    return xb, yb, corners.tolist(), side


def fitted(arch: str, n: int = 24):
    "A random network whose last layer was fitted (ridge regression) to tell red from blue squares."
    torch.manual_seed(0)
    head = dict(lin_ftrs=[], concat_pool=False, first_bn=False, ps=0)
    model = create_model(arch, 2, pretrained=False, **head).eval()
    size = max(model.data_cfg['input_size'][1:])
    xb, yb, *_ = coloured_patches(n, size, seed=1)
    with torch.no_grad():
        feats = model.features(xb).double()
    mean, std = feats.mean(0), feats.std(0) + 1e-6
    z, targ = (feats - mean) / std, nn.functional.one_hot(yb, 2).double() * 2 - 1
    kernel = z @ z.T + 0.01 * z.shape[1] * torch.eye(n, dtype=torch.float64)
    weight = (z.T @ torch.linalg.solve(kernel, targ) / std[:, None]).T  # (2,nf)
    with torch.no_grad():
        model.head[-1].weight.copy_(weight)
        model.head[-1].bias.copy_(-weight @ mean)
    return model, size


@pytest.mark.parametrize('arch', FAMILIES)
def test_heat_moves_with_the_patch_that_decides(arch):
    model, size = fitted(arch)
    xb, yb, corners, side = coloured_patches(8, size, seed=2)
    with torch.no_grad():
        assert (model(xb).argmax(1) == yb).float().mean() >= 0.75  # it does look at the squares
    heat, _ = grad_cam(model, xb, yb)
    inside = [h[t : t + side, left : left + side].mean() for h, (t, left) in zip(heat, corners)]
    ratio = torch.stack(inside).mean() / heat.mean()
    assert ratio > 2, f'heat on the squares is only {ratio:.1f} times the average'


@pytest.mark.parametrize(
    'shape, n_ch, kind, grid',
    [
        ((1, 512, 7, 7), 512, 'nchw', (7, 7)),
        ((1, 7, 7, 768), 768, 'nhwc', (7, 7)),
        ((1, 49, 384), 384, 'tokens', (7, 7)),
        ((1, 201, 384), 384, 'tokens', (14, 14)),  # a class token and four registers
    ],
)
def test_layouts(shape, n_ch, kind, grid):
    layout = find_layout(shape, (224, 224), n_ch)
    assert (layout.kind, (layout.h, layout.w)) == (kind, grid)


def test_attention_is_not_taken_for_a_map():
    assert find_layout((1, 3, 197, 64), (224, 224), 192) is None  # heads, tokens, channels of a head
    assert find_layout((1, 3, 196, 196), (224, 224), 192) is None  # attention of tokens to tokens
    assert find_layout((1, 512, 1, 1), (224, 224), 512) is None


def test_no_spatial_map_says_so():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2))
    with pytest.raises(ValueError, match='has no spatial map'):
        grad_cam(net, torch.rand(1, 3, 8, 8))


class Mixed(nn.Module):
    "Each point is given the mean of all of them, and `keep` of what it had."

    def __init__(self, keep: float = 0.0):
        super().__init__()
        self.keep = keep
        self.body, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 2)
        self.mix = nn.Identity()
        for p in self.parameters():
            p.data.abs_()

    def forward(self, x):
        fmap = self.body(x)
        fmap = self.mix(fmap.mean((2, 3), keepdim=True) + self.keep * fmap)
        return self.head(fmap.mean((2, 3)))


def test_features_that_are_the_same_everywhere_say_so():
    net = Mixed().eval()
    with pytest.raises(ValueError, match='same features at all 8 x 8 points.*layer='):
        grad_cam(net, torch.rand(3, 3, 32, 32))
    hardly = Mixed(keep=0.04).eval()
    assert not grad_cam(hardly, torch.rand(3, 3, 32, 32))[0].any()  # not shown as if it were warm everywhere
    heat, _ = grad_cam(net, torch.rand(3, 3, 32, 32), layer=net.body)
    assert heat.std() > 0
    with pytest.raises(ValueError, match='same features at all 4 x 4 points'):
        grad_cam(create_model('levit_128s', 2, pretrained=False), torch.rand(1, 3, 224, 224))


def test_the_page_marks_the_warmest_region_and_not_the_coldest():
    picture = np.full((3, 4, 4), 128, np.uint8)
    heat = np.full((4, 4), 0.9, np.float32)  # as maps of 3 x 3 points often are: warm all over
    heat[0, 0] = 1
    heat[3, 3] = 0.8
    shown = np.asarray(Image.open(io.BytesIO(draw_heat(picture, heat))))
    assert shown[3, 3].tolist() == [128, 128, 128]
    assert shown[0, 0, 0] > shown[1, 1, 0] > 128
    same = np.asarray(Image.open(io.BytesIO(draw_heat(picture, np.zeros((4, 4), np.float32)))))
    assert (same == 128).all()


def test_an_empty_picture_has_no_heat():
    "Neither does one without anything that the network knows."
    net = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    xb = torch.rand(2, 3, 32, 32)
    xb[1] = 0.3
    for label in (0, 1):
        heat, _ = grad_cam(net, xb, [label, label])
        assert not heat[1].any()
        assert torch.equal(grad_cam(net, xb[1:], [label])[0], heat[1:])
    net[0].bias.data.fill_(-100)
    assert not grad_cam(net, xb)[0].any()


def test_heat_does_not_depend_on_the_size_of_the_predictions():
    net, xb = Mixed(keep=1).eval(), torch.rand(2, 3, 32, 32)
    heat, labels = grad_cam(net, xb)
    assert heat.amax((1, 2)).tolist() == [1, 1]
    with torch.no_grad():
        net.head.weight.mul_(2.0**-40)
    torch.testing.assert_close(grad_cam(net, xb, labels)[0], heat)


@pytest.mark.parametrize('switch', [torch.no_grad, torch.inference_mode])
def test_cam_needs_no_gradients_to_be_on(switch):
    model = create_model('test_resnet', 2, pretrained=False).eval()
    xb = torch.rand(2, 3, 64, 64)
    heat, _ = grad_cam(model, xb, [0, 1])
    with switch():
        again, _ = grad_cam(model, xb.clone(), [0, 1])
    torch.testing.assert_close(again, heat)


def test_cam_leaves_modes_as_they_were():
    model = create_model('test_resnet', 2, pretrained=False).train()
    frozen = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    grad_cam(model, torch.rand(2, 3, 64, 64))
    assert model.training and not frozen.training


def test_cam_from_several_threads():
    "On one network, beside passes of others: each sees its own features."
    model = create_model('test_resnet', 2, pretrained=False).eval()
    pictures = [torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(i)) for i in range(8)]
    alone = [grad_cam(model, xb, [0])[0] for xb in pictures]

    def both(xb):
        with torch.no_grad():
            model(torch.rand(2, 3, 64, 64))
        return grad_cam(model, xb, [0])[0]

    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            torch.testing.assert_close([*pool.map(both, pictures)], alone)
