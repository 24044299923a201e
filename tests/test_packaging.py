"What is installed: the library and nothing else, and a small part of it that does without PyTorch."

import ast
import configparser
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from nbtools import ROOT, quiet_env

PAGE = {'vislearn/deploy/page/index.html', 'vislearn/deploy/page/in_browser.js', 'vislearn/deploy/page/on_server.js'}


def settings() -> configparser.SectionProxy:
    cfg = configparser.ConfigParser(delimiters=['='])
    cfg.read(ROOT / 'settings.ini', encoding='utf-8')
    return cfg['DEFAULT']


@pytest.fixture(scope='module')
def built(tmp_path_factory) -> Path:
    "The folder with wheel and sdist, built by the setuptools that is here, from a copy of what git has."
    files = subprocess.run(
        ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if files.returncode:
        pytest.skip('not a git checkout')
    setuptools = pytest.importorskip(
        'setuptools', reason='the packages are built without a network, by the setuptools that is here'
    )
    if int(setuptools.__version__.split('.')[0]) < 77:
        pytest.skip('needs setuptools 77, which knows SPDX licences')
    copy = tmp_path_factory.mktemp('copy')
    for name in filter(None, files.stdout.split('\0')):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    (copy / 'vislearn/_modidx.py').write_text('d = {}\n')  # what nbdev-export leaves, and git ignores
    make = 'from setuptools import build_meta as b; b.build_sdist("dist"); print(b.build_wheel("dist"))'
    r = subprocess.run([sys.executable, '-c', make], cwd=copy, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr[-3000:]
    return copy / 'dist'


def names_of_wheel(built: Path) -> set[str]:
    with zipfile.ZipFile(next(built.glob('*.whl'))) as z:
        return {o for o in z.namelist() if not o.endswith('/')}


def modules_in(folder: Path) -> set[str]:
    return {'vislearn/' + o.relative_to(folder).as_posix() for o in folder.rglob('*.py') if o.name != '_modidx.py'}


def test_wheel_holds_the_library_and_nothing_else(built):
    names = names_of_wheel(built)
    library = {o for o in names if '.dist-info/' not in o}
    assert library - {'vislearn/_modidx.py'} == modules_in(ROOT / 'vislearn') | PAGE | {'vislearn/py.typed'}
    info = {o.split('.dist-info/')[1] for o in names if '.dist-info/' in o}
    assert info == {'licenses/LICENSE', 'METADATA', 'WHEEL', 'entry_points.txt', 'top_level.txt', 'RECORD'}


def test_sdist_holds_what_builds_the_wheel(built):
    with tarfile.open(next(built.glob('*.tar.gz'))) as t:
        names = {o.name.partition('/')[2] for o in t.getmembers() if o.isfile()}
    ours = {o for o in names if not o.startswith('vislearn.egg-info/')} - {'PKG-INFO', 'setup.cfg'}
    around = {'LICENSE', 'MANIFEST.in', 'README.md', 'pyproject.toml', 'settings.ini', 'setup.py', 'vislearn/py.typed'}
    assert ours == modules_in(ROOT / 'vislearn') | PAGE | around


def test_metadata_says_what_settings_say(built):
    with zipfile.ZipFile(next(built.glob('*.whl'))) as z:
        text = z.read(next(o for o in z.namelist() if o.endswith('METADATA'))).decode()
    cfg = settings()
    assert f'\nVersion: {cfg["version"]}\n' in text and f'\nRequires-Python: >={cfg["min_python"]}\n' in text
    extras = {k.removesuffix('_requirements') for k in cfg if k.endswith('_requirements')} | {'all'}
    assert set(re.findall(r'^Provides-Extra: (\S+)', text, re.M)) == extras
    plain = [o for o in re.findall(r'^Requires-Dist: (.+)', text, re.M) if 'extra ==' not in o]
    assert len(plain) == len(cfg['requirements'].split())
    assert 'Programming Language :: Python :: 3.11' in text


def test_citation_has_the_version():
    text = (ROOT / 'CITATION.cff').read_text(encoding='utf-8')
    assert f'\nversion: {settings()["version"]}\n' in text


WITHOUT_TORCH = """
import sys
sys.modules['torch'] = None
sys.modules['torchvision'] = None
import vislearn.app.predict as predict
import vislearn.deploy.peek as peek
import vislearn.deploy.serve as server
from vislearn.app.serve import serve

class Engine:
    "What an ONNX file gives."

served = []
predict.open_engine = lambda *args: Engine()
peek.describe_model = lambda model: {}
server.serve = lambda engine, **options: served.append(engine)
import vislearn.app.serve as command
command.open_engine = predict.open_engine
serve('model.onnx')
print(len(served))
"""


def test_an_onnx_file_is_served_without_pytorch(tmp_path):
    pytest.importorskip('fastapi', reason="needs pip install 'vislearn[serve]'")
    r = subprocess.run(
        [sys.executable, '-c', WITHOUT_TORCH], capture_output=True, text=True, cwd=tmp_path, env=quiet_env(tmp_path)
    )
    assert r.returncode == 0, r.stderr[-2000:]
    assert r.stdout.split()[-1] == '1'


def test_page_on_production_names_what_the_runtime_imports():
    "The modules behind `vislearn.deploy.runtime` import, at their top, nothing that the page does not install."
    seen, found, todo = set(), set(), ['deploy.runtime']
    while todo:
        module = todo.pop()
        seen.add(module)
        tree = ast.parse((ROOT / 'vislearn' / f'{module.replace(".", "/")}.py').read_text(encoding='utf-8'))
        for o in tree.body:
            if isinstance(o, ast.Import):
                found |= {a.name.split('.')[0] for a in o.names}
            elif isinstance(o, ast.ImportFrom) and not o.level:
                found.add((o.module or '').split('.')[0])
            elif isinstance(o, ast.ImportFrom):
                up = module.split('.')[: -o.level]
                todo += [m for m in ['.'.join([*up, o.module])] if m not in seen]
    page = (ROOT / 'nbs/site/production.md').read_text(encoding='utf-8')
    installed = set(re.findall(r'^pip install (?!--)(.+)$', page, re.M)[0].split())
    assert {'PIL': 'pillow'}.get('PIL') in installed and found - set(sys.stdlib_module_names) - {'PIL'} <= installed
