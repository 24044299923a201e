"ONNX files: every architecture, the crops of large JPEGs, grey pictures, and what is measured at export."

import io
import os
import signal
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from vislearn.collect.samples import sample_data
from vislearn.core import set_seed
from vislearn.data.batches import BatchPipeline
from vislearn.data.normalize import Normalize, imagenet_stats
from vislearn.data.resize import ItemPipeline, RandomResizedCrop, RatioResize, Resize
from vislearn.data.targets import Category, Points
from vislearn.deploy.predictor import Predictor

pytestmark = pytest.mark.skipif(
    not all(map(find_spec, ('onnx', 'onnxscript', 'onnxruntime'))), reason="needs pip install 'vislearn[onnx]'"
)
ARCHS = """resnet18 resnet18d efficientnet_lite0 mobilenetv3_small_100 convnext_atto vit_tiny_patch16_224
    deit_tiny_patch16_224 swin_tiny_patch4_window7_224 mobilevit_xxs lcnet_050 hgnetv2_b0 regnety_002 repvgg_a0
    densenet121 ghostnet_050""".split()
QUICK = ('resnet18', 'efficientnet_lite0', 'vit_tiny_patch16_224')  # the others: VISLEARN_FULL=1


def jpeg(w: int, h: int, mode: str = 'RGB') -> bytes:
    "A JPEG of coloured noise."
    pixels = np.random.default_rng(w * h).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((w, h), Image.Resampling.BICUBIC).convert(mode).save(file, 'JPEG', quality=95)
    return file.getvalue()


def pictures(n: int = 8) -> list[Path]:
    files = sorted(sample_data(clean=True).glob('*/*'))
    return files[:: len(files) // n][:n]


@pytest.mark.parametrize('arch', ARCHS)
def test_every_architecture_agrees(arch, tmp_path):
    if arch not in QUICK and os.environ.get('VISLEARN_FULL') != '1':
        pytest.skip('VISLEARN_FULL=1 tries every architecture')
    from vislearn.deploy.onnx import write_onnx
    from vislearn.models.create import create_model

    set_seed(0)
    net = create_model(arch, 3, pretrained=False).eval()
    with torch.no_grad():
        for o in net.modules():
            if isinstance(o, nn.BatchNorm2d):  # statistics that folding must not lose
                o.running_mean.uniform_(-0.1, 0.1)
                o.running_var.uniform_(0.8, 1.2)
    size = 224 if '224' in arch else 96
    tfms = ItemPipeline(Resize(size)).valid(), BatchPipeline(Normalize.from_stats(*imagenet_stats))
    checked = write_onnx(Predictor(net, Category(['a', 'b', 'c']), *tfms), tmp_path / 'm.onnx', pictures(), force=True)
    assert checked['items'] == 8 and checked['largest_difference'] < 0.005


@pytest.mark.parametrize('size', [(1201, 903), (667, 1001)])
@pytest.mark.parametrize(
    'step',
    [
        Resize(48),
        Resize((40, 64)),
        Resize(56, method='squish'),
        Resize(60, method='pad'),
        RandomResizedCrop(48),
        RatioResize(50),
    ],
    ids=repr,
)
def test_a_large_jpeg_is_decoded_and_cut_as_pytorch_does_it(step, size, tmp_path):
    "Both decode it to fewer pixels; the crop is that of the whole picture, rounded once."
    from vislearn.deploy.onnx import write_onnx
    from vislearn.deploy.runtime import OnnxPredictor

    data = jpeg(*size)
    tfms = ItemPipeline(step).valid(), BatchPipeline([])
    n_numbers = tfms[0](data).numel()
    predictor = Predictor(nn.Flatten(), Category(list(range(n_numbers))), *tfms)  # its outputs are the pixels it sees
    write_onnx(predictor, tmp_path / 'm.onnx', [data], force=True)
    runtime = OnnxPredictor(tmp_path / 'm.onnx')
    decoded = runtime.open(data)[0]
    assert decoded.pixels.shape[0] < size[1] and decoded.original == size[::-1]
    theirs = 255 * runtime.scores([decoded])[1][0]  # (c*h*w,)
    ours = 255 * predictor.scores([predictor.open(data)[0]])[1][0]
    assert np.abs(theirs - ours).max() < 1.01  # rounding of a resize


def test_grey_pictures(tmp_path):
    from vislearn.deploy.onnx import write_onnx
    from vislearn.deploy.runtime import OnnxPredictor

    set_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    tfms = ItemPipeline(Resize(32), mode='L').valid(), BatchPipeline(Normalize.from_stats([0.5], [0.25]))
    predictor = Predictor(nn.Sequential(net, nn.Linear(8, 3)).eval(), Category(['a', 'b', 'c']), *tfms)
    items = [jpeg(300, 200), jpeg(300, 200, 'L'), Image.new('RGBA', (50, 40), (255, 0, 0, 90)), *pictures(5)]
    checked = write_onnx(predictor, tmp_path / 'm.onnx', items)
    assert checked['items'] == 8 and checked['largest_difference'] < 1e-3
    runtime = OnnxPredictor(tmp_path / 'm.onnx')
    assert runtime.open(items[0])[0].pixels.shape[-1] == 1


def test_points_lie_where_pytorch_puts_them(tmp_path):
    from vislearn.deploy.onnx import write_onnx
    from vislearn.deploy.runtime import OnnxPredictor

    set_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)).eval()
    tfms = ItemPipeline(Resize(48)).valid(), BatchPipeline([])
    predictor = Predictor(net, Points(2), *tfms)
    items = [jpeg(1201, 903), jpeg(667, 1001), *pictures(3)]
    write_onnx(predictor, tmp_path / 'm.onnx', items, force=True)
    for a, b in zip(predictor.records(items), OnnxPredictor(tmp_path / 'm.onnx').records(items)):
        assert np.abs(np.subtract(a['points'], b['points'])).max() < 0.5  # pixels of the picture


def test_accuracy_before_and_after_is_printed_and_kept(tmp_path, capsys):
    from vislearn.deploy.onnx import write_onnx
    from vislearn.deploy.peek import describe_model

    set_seed(0)
    items = pictures()
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()
    tfms = ItemPipeline(Resize(32)).valid(), BatchPipeline([])
    predictor = Predictor(net, Category(['a', 'b', 'c']), *tfms)
    said = [o['index'] for o in predictor.records(items)]
    targets = [said[0] ^ 1, said[1] ^ 1, *said[2:]]  # two of eight are wrong
    write_onnx(predictor, tmp_path / 'm.onnx', items, 'int8', targets=targets, force=True)
    assert 'accuracy 75.0% before' in capsys.readouterr().out
    checked = describe_model(tmp_path / 'm.onnx')['checked']
    assert checked['accuracy_before'] == 0.75 and 0 <= checked['accuracy'] <= 1


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='this system copies no processes')
def test_predictors_and_passes_go_on_in_a_forked_process(tmp_path):
    "Also a stream of answers that was under way; threads are not copied."
    from vislearn.deploy.onnx import write_onnx
    from vislearn.deploy.runtime import OnnxPredictor

    set_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()
    tfms = ItemPipeline(Resize(32)).valid(), BatchPipeline([])
    predictor = Predictor(net, Category(['a', 'b', 'c']), *tfms)
    write_onnx(predictor, tmp_path / 'm.onnx', items := pictures(), force=True)
    for engine in (predictor, OnnxPredictor(tmp_path / 'm.onnx', threads=2)):
        want = list(engine.records(items, bs=3))
        stream = engine.records(items, bs=3)
        first = next(stream)
        pid = os.fork()
        if pid == 0:
            signal.alarm(30)
            same = [first, *stream] == want and list(engine.records(items, bs=3)) == want
            os._exit(0 if same else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert [first, *stream] == want


COLOURS = {'red': (255, 0, 0), 'green': (0, 255, 0), 'tie': (255, 254, 0)}


def _by_colour(*names: str) -> list[Image.Image]:
    return [Image.new('RGB', (16, 16), COLOURS[name]) for name in names]


@pytest.mark.parametrize(
    ('shift', 'n_ties', 'agreement'),
    [
        ((0.0, 0.0, 0.0), 2, 1.0),
        ((0.0, 0.06, 0.0), 2, 1.0),  # as rounding does it: the ties are decided otherwise
        ((0.0, 1.0, 0.0), 0, 151 / 153),  # a tie for the learner, but the other engine is sure: a disagreement
        ((0.0, 20.0, 0.0), 0, 50 / 153),
    ],
)
def test_near_ties_are_counted_apart_and_disagreements_are_refused(shift, n_ties, agreement, tmp_path, monkeypatch):
    from vislearn.deploy import onnx

    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3, bias=False)).eval()
    net[-1].weight.data = 10 * torch.eye(3)
    predictor = Predictor(net, Category(['r', 'g', 'b']), ItemPipeline(Resize(8)).valid(), BatchPipeline([]))

    class Shifted:
        "An engine whose logits differ."

        answer = predictor.answer
        open = staticmethod(predictor.open)

        def scores(self, pixels):
            logits = torch.from_numpy(predictor.scores(pixels)[1]) + torch.tensor(shift)
            return logits.softmax(1).numpy(), logits.numpy()

    items = _by_colour(*['red'] * 101, *['green'] * 50, *['tie'] * 2)
    found = onnx.compare(predictor, Shifted(), items)
    assert found['near_ties'] == n_ties and found['agreement'] == pytest.approx(agreement)
    monkeypatch.setattr(onnx, 'OnnxPredictor', lambda file: Shifted())
    if agreement == 1:
        assert onnx.write_onnx(predictor, tmp_path / 'm.onnx', items)['near_ties'] == 2
    else:
        with pytest.raises(onnx.Disagreement, match=f'only {agreement:.1%} of 153 decisions'):
            onnx.write_onnx(predictor, tmp_path / 'm.onnx', items)
        assert not (tmp_path / 'm.onnx').exists()
