"The benchmarks run (how fast is for a quiet machine)."
import json, subprocess, sys
from pathlib import Path

import pytest
from nbtools import ROOT

DATA = ROOT.parent/'shared/data/ants_and_bees'

def bench(name: str, out: Path, *args: str) -> dict:
    r = subprocess.run([sys.executable, ROOT/f'tests/bench/{name}.py', '--quick', '--out', out, *args], capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert r.returncode == 0, r.stderr[-3000:]
    assert (out/f'{name}.md').read_text(encoding='utf-8').startswith('| ')
    return json.loads((out/f'{name}.json').read_text(encoding='utf-8'))

def test_import_time(tmp_path):
    rows = bench('import_time', tmp_path)['rows']
    assert {'`import torch`', '`from vislearn.all import *`'} <= {o['statement'] for o in rows} and all(o['seconds'] > 0 for o in rows)

def test_ants_and_bees(tmp_path):
    if not DATA.exists(): pytest.skip('no pictures of ants and bees beside the checkout: give --data to tests/bench/ants_and_bees.py')
    raw = bench('ants_and_bees', tmp_path)['raw']
    assert 0 <= raw['vislearn'][0]['error'] <= 1
