"The library passes a type checker: `mypy`, set up in pyproject.toml."

import subprocess
import sys

import pytest
from nbtools import ROOT


def test_library_passes_the_type_checker(tmp_path):
    pytest.importorskip('mypy')
    r = subprocess.run(
        [sys.executable, '-m', 'mypy', '--cache-dir', str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert r.returncode == 0, r.stdout[-5000:]
