"One record: the same pictures through Python, the command line, HTTP and the runtime without PyTorch."

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from nbtools import ROOT

pytestmark = pytest.mark.skipif(
    not all(map(find_spec, ('onnx', 'onnxscript', 'onnxruntime', 'fastapi'))), reason='needs onnx and serve'
)
TOLERANCE = 0.02


@pytest.fixture(scope='module')
def exported(tmp_path_factory) -> Path:
    "A folder with export.pkl, model.onnx and thirty pictures, five of them broken."
    import torch

    from vislearn.collect.samples import sample_data
    from vislearn.core import set_seed
    from vislearn.data.loaders import BatchPipeline
    from vislearn.data.normalize import Normalize, imagenet_stats
    from vislearn.data.resize import ItemPipeline, Resize
    from vislearn.data.targets import Category
    from vislearn.deploy.bundle import save_bundle
    from vislearn.deploy.onnx import write_onnx
    from vislearn.deploy.predictor import load_predictor
    from vislearn.models.create import create_model

    folder = tmp_path_factory.mktemp('exported')
    set_seed(0)
    net = create_model('resnet18', 3, pretrained=False)
    with torch.no_grad():
        net.head[-1].weight *= 10  # an untrained network that has opinions
    tfms = ItemPipeline(Resize(64)).valid(), BatchPipeline(Normalize.from_stats(*imagenet_stats))
    save_bundle(folder / 'export.pkl', net, Category(['a', 'b', 'c']), *tfms)
    good = sorted(sample_data(clean=True).glob('*/*'))[::12][:25]
    broken = [b'', b'<html>', good[0].read_bytes()[:200], b'\x89PNG\r\n\x1a\n' + b'x' * 50, b'GIF89a']
    (folder / 'pictures').mkdir()
    for i, f in enumerate(good):
        (folder / f'pictures/{i:02d}{f.suffix}').write_bytes(f.read_bytes())
    for i, data in enumerate(broken):
        (folder / f'pictures/broken{i}.jpg').write_bytes(data)
    write_onnx(load_predictor(folder / 'export.pkl'), folder / 'model.onnx', good, force=True)
    return folder


@pytest.fixture(scope='module')
def truth(exported) -> list[dict]:
    from vislearn.deploy.predictor import load_predictor

    return list(load_predictor(exported / 'export.pkl').records(sorted(map(str, (exported / 'pictures').iterdir()))))


def agree(ours: list[dict], theirs: list[dict], tolerance: float, named: bool = True) -> None:
    assert len(ours) == len(theirs) == 30 and sum('error' in o for o in ours) == 5
    for a, b in zip(ours, theirs):
        assert not named or a['item'] == b['item']
        assert list(a) == list(b), (a, b)
        if 'error' in a:
            assert a['error']['kind'] == b['error']['kind']
            continue
        assert a['probs'].keys() == b['probs'].keys()
        assert max(abs(a['probs'][k] - b['probs'][k]) for k in a['probs']) <= tolerance
        first, second, _ = a['probs'].values()
        assert a['label'] == b['label'] or first - second <= tolerance


@pytest.mark.parametrize('model, tolerance', [('export.pkl', 1e-5), ('model.onnx', TOLERANCE)])
def test_command_line(exported, truth, model, tolerance):
    code = 'import sys; from vislearn.app.cli import main; sys.exit(main())'
    command = [
        sys.executable,
        '-c',
        code,
        'predict',
        exported / model,
        exported / 'pictures',
        '--out',
        exported / 'out.jsonl',
    ]
    r = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, 'PYTHONPATH': str(ROOT)}
    )
    assert r.returncode == 3, r.stderr  # done, but some items could not be used
    assert 'Traceback' not in r.stderr and r.stderr.count('broken') >= 5
    agree(truth, [json.loads(o) for o in (exported / 'out.jsonl').read_text().splitlines()], tolerance)


@pytest.mark.parametrize('model, tolerance', [('export.pkl', 1e-5), ('model.onnx', TOLERANCE)])
def test_http(exported, truth, model, tolerance):
    from fastapi.testclient import TestClient

    from vislearn.app.predict import open_engine
    from vislearn.deploy.serve import ServeOptions, make_app

    files = [Path(o['item']) for o in truth]
    with TestClient(make_app(open_engine(exported / model), ServeOptions())) as client:
        sent = [('file', (f.name, f.read_bytes())) for f in files]
        together = client.post('/predict_batch', files=sent)
        alone = [client.post('/predict', content=f.read_bytes()) for f in files]
    assert together.status_code == 200 and [o['item'] for o in together.json()] == [f.name for f in files]
    agree(truth, together.json(), tolerance, named=False)
    agree(truth, [o.json() for o in alone], tolerance, named=False)
    assert [o.status_code for o in alone] == [415 if 'error' in o else 200 for o in truth]


def test_runtime_without_torch(exported, truth):
    code = f"""import sys
for name in ('torch', 'torchvision', 'timm', 'fastcore', 'matplotlib', 'requests'):
    sys.modules[name] = None
import json
from vislearn.deploy.records import read_items, to_json
from vislearn.deploy.runtime import OnnxPredictor
for o in OnnxPredictor({str(exported / 'model.onnx')!r}).records(read_items([{str(exported / 'pictures')!r}])):
    print(to_json(o))"""
    r = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    assert r.returncode == 0, r.stderr
    agree(truth, [json.loads(o) for o in r.stdout.splitlines()], TOLERANCE)


def test_resume_goes_on_with_a_half_written_file(exported, truth):
    from vislearn.app.predict import predict

    out = exported / 'half.jsonl'
    whole = exported / 'whole.jsonl'
    predict(str(exported / 'export.pkl'), str(exported / 'pictures'), out=whole)
    text = whole.read_text()
    out.write_text(text[: len(text) // 2])
    predict(str(exported / 'export.pkl'), str(exported / 'pictures'), out=out, resume=True)
    assert [json.loads(o)['item'] for o in out.read_text().splitlines()] == [o['item'] for o in truth]


def test_resume_goes_on_with_a_half_written_table(exported, truth):
    import csv

    from vislearn.app.predict import predict

    out = exported / 'half.csv'
    predict(str(exported / 'export.pkl'), str(exported / 'pictures'), out=out)
    whole = out.read_bytes()
    for share in (0.02, 0.5, 0.97):  # within the names of the columns, an answer, an error
        out.write_bytes(whole[: int(len(whole) * share)])
        predict(str(exported / 'export.pkl'), str(exported / 'pictures'), out=out, resume=True)
        with open(out, newline='') as f:
            rows = list(csv.DictReader(f))
        assert [o['item'] for o in rows] == [o['item'] for o in truth]
        assert [bool(o['error']) for o in rows] == ['error' in o for o in truth]


def test_a_hundred_thousand_pictures_take_no_more_memory_than_a_few_hundred(exported):
    "Items are read as they are needed: memory is flat. (Ten thousand here; VISLEARN_FULL=1 takes all.)"
    n = 100_000 if os.environ.get('VISLEARN_FULL') == '1' else 10_000
    code = f"""import resource, sys
from pathlib import Path
from vislearn.app.predict import predict
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
model, picture, out = sys.argv[1:]
def lines(n):
    for i in range(n):
        yield f'{{picture}}?{{i}}' if i % 100 == 99 else picture
sys.stdin = lines(600)
predict(model, '-', out=Path(out + '0.jsonl'), batch_size=32)
before = peak()
sys.stdin = lines({n})
predict(model, '-', out=Path(out + '1.jsonl'), batch_size=32)
assert 'torch' not in sys.modules
print('grown by', peak() - before)"""
    command = [sys.executable, '-c', code, exported / 'tiny.onnx', exported / 'tiny.png', exported / 'many']
    tiny_model(exported)
    r = subprocess.run(
        command, capture_output=True, text=True, timeout=1200, env={**os.environ, 'PYTHONPATH': str(ROOT)}
    )
    assert r.returncode == 0, r.stderr[-2000:]
    records = (exported / 'many1.jsonl').read_text().splitlines()
    assert len(records) == n and sum('"error"' in o for o in records) == n // 100
    assert float(r.stdout.split()[-1]) < 40  # MB


def tiny_model(folder: Path) -> None:
    "A network that is quick, and a small picture, in a folder."
    from PIL import Image
    from torch import nn

    from vislearn.data.loaders import BatchPipeline
    from vislearn.data.resize import ItemPipeline, Resize
    from vislearn.data.targets import Category
    from vislearn.deploy.onnx import write_onnx
    from vislearn.deploy.predictor import Predictor

    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    predictor = Predictor(net, Category(['r', 'g', 'b']), ItemPipeline(Resize(8)).valid(), BatchPipeline([]))
    Image.new('RGB', (16, 16), 'red').save(folder / 'tiny.png')
    write_onnx(predictor, folder / 'tiny.onnx', [folder / 'tiny.png'])


@pytest.mark.parametrize('damage', ['cut', 'external data', 'domain', 'huge', 'no metadata', 'not onnx'])
def test_hostile_onnx_files_are_refused_by_name(exported, tmp_path, damage):
    import onnx

    from vislearn.deploy.runtime import OnnxError, OnnxPredictor

    model = onnx.load(exported / 'model.onnx')
    file = tmp_path / 'bad.onnx'
    if damage == 'external data':
        tensor = model.graph.initializer[0]
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = 'location', '../../etc/passwd'
    elif damage == 'domain':
        model.graph.node[0].domain = 'evil.ops'
    elif damage == 'huge':
        model.graph.initializer[0].dims[:] = [2**40]
    elif damage == 'no metadata':
        del model.metadata_props[:]
    data = model.SerializeToString()
    file.write_bytes(data[: len(data) // 2] if damage == 'cut' else b'PK no' if damage == 'not onnx' else data)
    with pytest.raises(OnnxError, match='bad.onnx'):
        OnnxPredictor(file)


@pytest.mark.parametrize('precision, size, tolerance', [('fp16', 0.51, 0.02), ('int8', 0.3, 0.2)])
def test_smaller_files_answer_alike(exported, truth, precision, size, tolerance):
    from vislearn.deploy.onnx import write_onnx
    from vislearn.deploy.predictor import load_predictor
    from vislearn.deploy.runtime import OnnxPredictor

    files = [Path(o['item']) for o in truth if 'error' not in o]
    small = exported / f'{precision}.onnx'
    write_onnx(load_predictor(exported / 'export.pkl'), small, files, precision, calibration=files, force=True)
    assert small.stat().st_size < size * (exported / 'model.onnx').stat().st_size
    for ours, theirs in zip((o for o in truth if 'error' not in o), OnnxPredictor(small).records(files)):
        assert max(abs(ours['probs'][k] - theirs['probs'][k]) for k in ours['probs']) < tolerance
