"""Each notebook runs from top to bottom and shows what it was committed with.

The outputs were made on one machine (`outputs_made_on.json`). There, one of two runs must show them: the same text but for times, and
nearly the same pictures (the font and JPEG libraries differ a little between builds). Another processor or torch rounds otherwise, so
elsewhere a notebook whose outputs differ is run again, and must show the same twice.
"""

import base64
import difflib
import io
import json
import platform
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from nbdev.clean import clean_nb
from nbtools import NOTEBOOKS, ROOT, copy_tree, name_of, notebook_runner, read_nb, source
from PIL import Image

MADE_ON = ROOT / 'tests/outputs_made_on.json'


def machine() -> dict[str, str]:
    "What decides how sums are rounded and things are printed: the versions, and the processor."
    info = Path('/proc/cpuinfo')
    name = re.search(r'model name\s*: (.+)', info.read_text()) if info.exists() else None
    return {
        'python': '.'.join(platform.python_version_tuple()[:2]),
        'torch': torch.__version__.split('+')[0],
        'processor': name[1].strip() if name else platform.processor() or platform.machine(),
        'instructions': torch.backends.cpu.get_cpu_capability(),
    }


def run(nb: Path, root: Path) -> list[dict]:
    "Execute a notebook of the copy in `root` in place, and return its code cells as nbdev-clean leaves them."
    notebook_runner().run(nb, root)
    executed = json.loads(nb.read_text(encoding='utf-8'))
    clean_nb(executed)
    return [c for c in executed['cells'] if c['cell_type'] == 'code']


def picture(data: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert('RGB'), dtype=np.float32)


def alike(a: str, b: str) -> bool:
    "Are two pictures (base64) the same but for the rounding of fonts and JPEG: 1 % of the grey range on average?"
    a, b = picture(a), picture(b)
    return a.shape == b.shape and float(np.abs(a - b).mean()) < 2.55


def text(outputs: list[dict]) -> str:
    "What outputs say, without pictures and with every time (`00:03`) the same; pieces of one stream are one text."
    res = []
    for o in outputs:
        data = o.get('data', {})
        res += [''.join(o.get('text', ''))] + [
            f'{k}: {"".join(v)}\n' for k, v in sorted(data.items()) if not k.startswith('image/')
        ]
    return re.sub(r'\b\d\d:\d\d\b', '--:--', ''.join(res))


def pictures(outputs: list[dict]) -> list[str]:
    return [''.join(v) for o in outputs for k, v in o.get('data', {}).items() if k in ('image/jpeg', 'image/png')]


def differences(then: list[dict], now: list[dict]) -> str:
    "The cells whose outputs differ, as a text to read; empty when none do."
    res = []
    for a, b in zip(then, now, strict=True):
        lines = list(
            difflib.unified_diff(
                text(a['outputs']).splitlines(), text(b['outputs']).splitlines(), 'first', 'second', lineterm='', n=1
            )
        )
        pa, pb = pictures(a['outputs']), pictures(b['outputs'])
        if len(pa) != len(pb) or not all(map(alike, pa, pb)):
            lines += [f'its {len(pa)} pictures differ from {len(pb)}']
        if lines:
            res += [f'--- cell {b["id"]}: {source(b).strip().splitlines()[-1][:100]}', *lines[:20]]
    return '\n'.join(res)


@pytest.mark.parametrize('nb', NOTEBOOKS, ids=name_of)
def test_notebook(nb, tmp_path):
    copy = copy_tree(tmp_path) / nb.relative_to(ROOT)
    committed = [c for c in read_nb(nb)['cells'] if c['cell_type'] == 'code']
    before = {o.name for o in copy.parent.iterdir()}
    first = run(copy, tmp_path)
    left = {o.name for o in copy.parent.iterdir()} - before - {'.last_checked', '__pycache__'}
    assert not left, f'{nb.name} leaves {left} behind: work in a temporary folder'
    if not (diff := differences(committed, first)):
        return
    second = run(copy, tmp_path)
    if machine() == json.loads(MADE_ON.read_text(encoding='utf-8')):
        assert not differences(committed, second), (
            f'{nb.name} shows other outputs than it was committed with: '
            f'run nbdev-test {nb.relative_to(ROOT)} --save, then nbdev-clean\n{diff}'
        )
    else:
        again = differences(first, second)
        assert not again, f'{nb.name} shows something else on each run:\n{again}'
    warnings.warn(
        f'{nb.name}: outputs differ from those committed, as they may on another machine ({machine()}):\n{diff[:2000]}',
        stacklevel=2,
    )
