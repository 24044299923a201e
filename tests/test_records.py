"One record: the same pictures through Python, the command line, HTTP and the runtime without PyTorch."

import json
import math
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
    "A folder with two models, each as an export and as ONNX, and thirty pictures, five of them broken."
    import torch

    from vislearn.collect.samples import sample_data
    from vislearn.core import set_seed
    from vislearn.data.loaders import BatchPipeline
    from vislearn.data.normalize import Normalize, imagenet_stats
    from vislearn.data.resize import ItemPipeline, Resize
    from vislearn.data.targets import Category, MultiCategory
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
    save_bundle(folder / 'several.pkl', net, MultiCategory(['a', 'b', 'c']), *tfms)
    good = sorted(sample_data(clean=True).glob('*/*'))[::12][:25]
    broken = [b'', b'<html>', good[0].read_bytes()[:200], b'\x89PNG\r\n\x1a\n' + b'x' * 50, b'GIF89a']
    (folder / 'pictures').mkdir()
    for i, f in enumerate(good):
        (folder / f'pictures/{i:02d}{f.suffix}').write_bytes(f.read_bytes())
    for i, data in enumerate(broken):
        (folder / f'pictures/broken{i}.jpg').write_bytes(data)
    for export, file in (('export.pkl', 'model.onnx'), ('several.pkl', 'several.onnx')):
        write_onnx(load_predictor(folder / export), folder / file, good, force=True)
    return folder


@pytest.fixture(scope='module')
def whole(exported) -> dict[str, list[dict]]:
    "What Python answers with each export, with every probability."
    from vislearn.deploy.predictor import load_predictor

    names = sorted(map(str, (exported / 'pictures').iterdir()))
    return {
        o: list(load_predictor(exported / o).records(names, logits=True, bar=False))
        for o in ('export.pkl', 'several.pkl')
    }


@pytest.fixture(scope='module')
def truth(whole) -> list[dict]:
    return [{k: v for k, v in o.items() if k != 'logits'} for o in whole['export.pkl']]


CASES = [  # an export, the same model as ONNX, and what is asked of it
    ('export.pkl', 'model.onnx', {}),
    ('export.pkl', 'model.onnx', {'topk': 2, 'logits': True}),
    ('several.pkl', 'several.onnx', {}),
    ('several.pkl', 'several.onnx', {'topk': 1, 'threshold': 0.2}),
]


def agree(
    whole: list[dict],  # what Python answers, with all probabilities and logits
    found: list[dict],
    tolerance: float,
    topk: int = 3,
    threshold: float = 0.5,
    logits: bool = False,
    named: bool = True,
) -> None:
    assert len(whole) == len(found) == 30 and sum('error' in o for o in found) == 5
    for a, b in zip(whole, found):
        assert not named or a['item'] == b['item']
        assert list(b) == [k for k in a if k != 'logits' or logits], (a, b)
        if 'error' in a:
            assert a['error']['kind'] == b['error']['kind'] and b['error']['message']
            continue
        probs, given = a['probs'], list(b['probs'].values())
        assert given == sorted(given, reverse=True)
        assert set(b['probs']) == {*list(b['probs'])[:topk], *b.get('labels', [])} and len(given) >= topk
        assert max(abs(probs[k] - v) for k, v in b['probs'].items()) <= tolerance
        left_out = [v for k, v in probs.items() if k not in b['probs']]
        assert max(left_out, default=0) <= given[topk - 1] + tolerance
        if 'label' in a:
            assert probs[b['label']] >= max(probs.values()) - tolerance and b['index'] == 'abc'.index(b['label'])
        else:
            clear = {k for k, v in probs.items() if abs(v - threshold) > tolerance}
            assert clear & set(b['labels']) == {k for k in clear if probs[k] > threshold}
            assert b['indices'] == ['abc'.index(o) for o in b['labels']]
        if logits:
            assert max(abs(x - y) for x, y in zip(a['logits'], b['logits'], strict=True)) <= 20 * tolerance


@pytest.mark.parametrize('export, onnx, asked', CASES)
def test_python(exported, whole, export, onnx, asked):
    from vislearn.deploy.predictor import load_predictor

    names = [o['item'] for o in whole[export]]
    agree(whole[export], list(load_predictor(exported / export).records(names, bar=False, **asked)), 1e-6, **asked)


@pytest.mark.parametrize('model, tolerance', [('export.pkl', 1e-5), ('model.onnx', TOLERANCE)])
def test_command_line(exported, whole, model, tolerance):
    code = 'import sys; from vislearn.app.cli import main; sys.exit(main())'
    args = ['predict', exported / model, exported / 'pictures', '--out', exported / 'out.jsonl']
    r = subprocess.run(
        [sys.executable, '-c', code, *args],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    assert r.returncode == 3, r.stderr  # done, but some items could not be used
    assert 'Traceback' not in r.stderr and r.stderr.count('broken') >= 5
    found = [json.loads(o) for o in (exported / 'out.jsonl').read_text().splitlines()]
    agree(whole['export.pkl'], found, tolerance)


@pytest.mark.parametrize('export, onnx, asked', CASES)
def test_options_of_the_command_line(exported, whole, capsys, export, onnx, asked):
    from vislearn.app.cli import main

    words = [w for k, v in asked.items() for w in ([f'--{k}'] if v is True else [f'--{k}', str(v)])]
    for model, tolerance in ((export, 1e-5), (onnx, TOLERANCE)):
        assert main(['predict', str(exported / model), str(exported / 'pictures'), *words]) == 3
        found = [json.loads(o) for o in capsys.readouterr().out.splitlines()]
        agree(whole[export], found, tolerance, **asked)


@pytest.mark.parametrize('export, onnx, asked', CASES)
def test_http(exported, whole, export, onnx, asked):
    from fastapi.testclient import TestClient

    from vislearn.app.predict import open_engine
    from vislearn.deploy.serve import ServeOptions, make_app

    truth = whole[export]
    files = [Path(o['item']) for o in truth]
    query = {k: 1 if v is True else v for k, v in asked.items()}
    for model, tolerance in ((export, 1e-5), (onnx, TOLERANCE)):
        with TestClient(make_app(open_engine(exported / model), ServeOptions())) as client:
            sent = [('file', (f.name, f.read_bytes())) for f in files]
            together = client.post('/predict_batch', files=sent, params=query)
            alone = [client.post('/predict', content=f.read_bytes(), params=query) for f in files]
        assert together.status_code == 200 and [o['item'] for o in together.json()] == [f.name for f in files]
        agree(truth, together.json(), tolerance, **asked, named=False)
        agree(truth, [o.json() for o in alone], tolerance, **asked, named=False)
        assert [o.status_code for o in alone] == [415 if 'error' in o else 200 for o in truth]


WITHOUT = """import sys
for name in ('torch', 'torchvision', 'timm', 'fastcore', 'torchmetrics', 'matplotlib', 'requests'):
    sys.modules[name] = None
"""


def run_without_torch(code: str, *args: object) -> subprocess.CompletedProcess:
    "A process where neither PyTorch nor most other packages can be imported."
    return subprocess.run(
        [sys.executable, '-c', WITHOUT + code, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )


def test_runtime_without_torch(exported, whole):
    code = """import json
from vislearn.deploy.records import read_items, to_json
from vislearn.deploy.runtime import OnnxPredictor
folder, *cases = sys.argv[1:]
for case in cases:
    model, asked = json.loads(case)
    print(to_json(list(OnnxPredictor(f'{folder}/{model}').records(read_items([f'{folder}/pictures']), **asked))))"""
    r = run_without_torch(code, exported, *(json.dumps([onnx, asked]) for _, onnx, asked in CASES))
    assert r.returncode == 0, r.stderr
    for (export, _, asked), found in zip(CASES, r.stdout.splitlines(), strict=True):
        agree(whole[export], json.loads(found), TOLERANCE, **asked)


def test_evaluate_counts_the_same_with_and_without_torch(exported, whole, tmp_path, capsys):
    from vislearn.app.cli import main

    good = [o for o in whole['export.pkl'] if 'error' not in o]
    targs = ['abc'[i % 3] for i in range(len(good))]
    for record, label in zip(good, targs):
        (tmp_path / 'data' / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / 'data' / label / Path(record['item']).name).write_bytes(Path(record['item']).read_bytes())
    (tmp_path / 'data/a/broken.jpg').write_bytes(b'<html>')
    assert main(['evaluate', str(exported / 'export.pkl'), str(tmp_path / 'data'), '--json-only', '--topk', '2']) == 3
    ours = json.loads(capsys.readouterr().out)
    given = [o['label'] for o in good]
    counts = [[sum((t, g) == (row, col) for t, g in zip(targs, given)) for col in 'abc'] for row in 'abc']
    assert ours['confusion']['counts'] == counts
    for i, found in enumerate(ours['labels']):
        right, support, predicted = counts[i][i], sum(counts[i]), sum(row[i] for row in counts)
        assert found['support'] == support
        assert found['recall'] == pytest.approx(right / support)
        assert found['precision'] == pytest.approx(right / predicted if predicted else 0)
        assert found['f1'] == pytest.approx(2 * right / (support + predicted))
    loss = -sum(math.log(o['probs'][label]) for o, label in zip(good, targs)) / len(good)
    assert ours['loss'] == pytest.approx(loss, abs=1e-5)
    among = [label in sorted('abc', key=o['probs'].get)[1:] for o, label in zip(good, targs)]
    assert ours['top_2_accuracy'] == pytest.approx(sum(among) / len(among))

    code = """from pathlib import Path
from vislearn.app.evaluate import evaluate
sys.exit(evaluate(*sys.argv[1:3], out=Path(sys.argv[3]), json_only=True))"""
    out = tmp_path / 'evaluation'
    r = run_without_torch(code, exported / 'model.onnx', tmp_path / 'data', out)
    assert r.returncode == 3 and 'confusion.png and calibration.png are left out' in r.stderr, r.stderr
    theirs = json.loads(r.stdout)
    assert theirs == json.loads((out / 'evaluation.json').read_text()) and (out / 'confusion.csv').exists()
    assert theirs['items'] == ours['items'] == 25 and len(theirs['failed']) == 1
    assert theirs['loss'] == pytest.approx(ours['loss'], abs=5 * TOLERANCE)
    assert theirs['calibration_error'] == pytest.approx(ours['calibration_error'], abs=5 * TOLERANCE)


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


@pytest.fixture(scope='module')
def tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('tiny')
    tiny_model(folder)
    return folder / 'tiny.onnx'


DAMAGES = [
    'external data',
    'external data in a node',
    'sparse',
    'domain',
    'domain in a branch',
    'file of a node',
    'huge',
    'endless',
]
DAMAGES += ['cut', 'no metadata', 'version', 'answer', 'mode', 'decode', 'no outputs', 'no nodes', 'name', 'not onnx']


def damaged(model, damage: str) -> bytes:
    "An ONNX file with something wrong."
    from onnx import SparseTensorProto, TensorProto, helper

    tensor = model.graph.initializer[0]
    elsewhere = TensorProto(name='x', data_type=1, dims=[3], data_location=TensorProto.EXTERNAL)
    elsewhere.external_data.add(key='location', value='../../etc/passwd')
    strange = helper.make_graph([helper.make_node('Op', [], ['x'], domain='evil.ops')], 'branch', [], [])
    added = {
        'external data in a node': helper.make_node('Constant', [], ['x'], value=elsewhere),
        'sparse': helper.make_node('Constant', [], ['x'], sparse_value=SparseTensorProto(values=tensor, dims=[2**40])),
        'domain in a branch': helper.make_node('If', ['c'], ['x'], then_branch=strange, else_branch=strange),
        'file of a node': helper.make_node('EPContext', [], ['x'], domain='com.microsoft', ep_cache_context='/x'),
    }
    info = json.loads(model.metadata_props[0].value)
    wrong = {'version': '9', 'answer': {'type': 'Category'}, 'mode': 3, 'decode': {'side': [0, 0], 'fit': 'crop'}}
    if damage in added:
        model.graph.node.append(added[damage])
    elif damage in wrong:
        model.metadata_props[0].value = json.dumps(info | {damage: wrong[damage]})
    elif damage == 'external data':
        tensor.CopyFrom(elsewhere)
    elif damage == 'domain':
        model.graph.node[0].domain = 'evil.ops'
    elif damage == 'huge':
        tensor.dims[:] = [2**40]
    elif damage == 'endless':
        tensor.dims[:] = [2**62] * 100_000  # their product has six million bits
    elif damage == 'no metadata':
        del model.metadata_props[:]
    elif damage == 'no outputs':
        del model.graph.output[:]
    elif damage == 'no nodes':
        del model.graph.node[:]
    data = model.SerializeToString()
    if damage == 'name':  # no longer UTF-8
        return data.replace(b'picture', b'pict\xffre')
    return data[: len(data) // 2] if damage == 'cut' else b'PK no' if damage == 'not onnx' else data


@pytest.mark.parametrize('damage', DAMAGES)
def test_hostile_onnx_files_are_refused_by_name(tiny, tmp_path, damage, capfd):
    import onnx

    from vislearn.deploy.runtime import OnnxError, OnnxPredictor

    file = tmp_path / 'bad.onnx'
    file.write_bytes(damaged(onnx.load(tiny), damage))
    with pytest.raises(OnnxError, match='bad.onnx'):
        OnnxPredictor(file)
    assert capfd.readouterr() == ('', '')  # ONNX Runtime would print, among the answers


def test_damaged_onnx_files_are_refused_or_answer(tiny, tmp_path):
    import numpy as np

    from vislearn.deploy.runtime import OnnxError, OnnxPredictor

    data = tiny.read_bytes()
    file = tmp_path / 'bad.onnx'
    n_refused = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        content = np.frombuffer(data[: rng.integers(1, len(data))] if seed % 2 else data, np.uint8).copy()
        content[rng.integers(0, len(content), 5)] = rng.integers(0, 256, 5)
        file.write_bytes(content.tobytes())
        try:
            OnnxPredictor(file)
        except OnnxError as e:
            assert 'bad.onnx' in str(e)
            n_refused += 1
    assert n_refused > 75


def test_another_provider_never_takes_the_place_of_the_one_asked_for(tiny, monkeypatch):
    import onnxruntime

    from vislearn.deploy.runtime import PROVIDERS, OnnxPredictor

    lacking = next(k for k, v in PROVIDERS.items() if v not in onnxruntime.get_available_providers())
    monkeypatch.setattr(onnxruntime, 'get_available_providers', PROVIDERS.values)
    with (
        pytest.warns(UserWarning, match='not in available'),
        pytest.raises(ValueError, match=f"'{lacking}' .* started"),
    ):
        OnnxPredictor(tiny, lacking)


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
