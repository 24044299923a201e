"What the tests about notebooks share: where they are, a copy to work in, and nbdev's commands."

import ast
import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(o for o in (ROOT / 'nbs').rglob('[!.]*.ipynb') if '.ipynb_checkpoints' not in o.parts)
SKIPPED = ('slow', 'gpu', 'net')  # cells marked so keep the outputs they have


def name_of(nb: Path) -> str:
    "A notebook by its place below nbs/, without the suffix: `data/02_image`."
    return nb.relative_to(ROOT / 'nbs').with_suffix('').as_posix()


def quiet_env(home: Path) -> dict[str, str]:
    "An environment where notebooks run alike everywhere: one thread, no GPU, nothing written to the user's home."
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST' and not k.startswith('PYTEST')}
    env['MALLOC_ARENA_MAX'] = (
        '1'  # cells run beside the main thread, where glibc would map and unmap every large tensor
    )
    return {
        **env,
        'OMP_NUM_THREADS': '1',
        'CUDA_VISIBLE_DEVICES': '',
        'JUPYTER_DATA_DIR': str(home),
        'PYTHONUTF8': '1',
        'MPLBACKEND': 'agg',
    }


def copy_tree(dest: Path) -> Path:
    "The library and its notebooks in `dest`, so that no test dirties the checkout."
    skip = shutil.ignore_patterns('__pycache__', '.*')
    for o in ('nbs', 'vislearn', 'images'):
        shutil.copytree(ROOT / o, dest / o, ignore=skip)
    for o in ('settings.ini', 'setup.py', 'pyproject.toml', 'README.md'):
        shutil.copy(ROOT / o, dest / o)
    return dest


def nbdev(command: str, *args: str, cwd: Path, timeout: int = 1200) -> str:
    "Run an nbdev command of this Python's environment in `cwd`; its output, or an error that shows it."
    exe = shutil.which(command, path=str(Path(sys.executable).parent)) or shutil.which(command)
    assert exe, f"{command} is not installed here: pip install -e '.[dev,offline]'"
    r = subprocess.run(
        [exe, *args],
        cwd=cwd,
        env=quiet_env(cwd / '.jupyter'),
        capture_output=True,
        text=True,
        encoding='utf-8',
        timeout=timeout,
    )
    assert r.returncode == 0, f'{command} {" ".join(args)} failed:\n{r.stdout[-3000:]}\n{r.stderr[-6000:]}'
    return r.stdout + r.stderr


class NotebookRunner:
    "Executes notebooks of copies of the checkout, each in a process of its own (see `notebook_runner.py`)."

    def __init__(self):
        command = [sys.executable, ROOT / 'tests/notebook_runner.py']
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=quiet_env(Path.home()),
        )

    def run(self, nb: Path, root: Path) -> None:
        "Execute `nb` of the copy in `root` in place; an error shows what it printed."
        printed = root / 'printed.txt'
        printed.touch()
        print(json.dumps([str(root), str(nb.relative_to(root)), str(printed)]), file=self.process.stdin, flush=True)
        status = self.process.stdout.readline().strip()
        assert status == '0', f'{nb} failed ({status}):\n{printed.read_text(encoding="utf-8")[-9000:]}'


@cache
def notebook_runner() -> NotebookRunner:
    return NotebookRunner()


def read_nb(path: Path) -> dict:
    return json.loads(path.read_text(encoding='utf-8'))


def source(cell: dict) -> str:
    return ''.join(cell['source'])


def directives(cell: dict) -> list[str]:
    "The words after `#|` at the top of a code cell: `['export']`."
    return [o.strip()[2:].strip() for o in source(cell).splitlines() if o.strip().startswith('#|')]


def is_run(cell: dict) -> bool:
    "Does the notebook runner execute this cell?"
    d = directives(cell)
    return cell['cell_type'] == 'code' and not any(o in SKIPPED or o.replace(' ', '') == 'eval:false' for o in d)


def shows(code: str) -> bool:
    """Will this code surely print: does it end in a value (a name, an attribute, a tuple, arithmetic ...), or call
    `print` at its top level?
    """
    body = ast.parse(code).body
    if not body:
        return False
    silent = (ast.Call, ast.Constant, ast.Await, ast.Yield, ast.NamedExpr)
    ends = isinstance(body[-1], ast.Expr) and not isinstance(body[-1].value, silent) and not code.rstrip().endswith(';')
    return ends or any(
        isinstance(o, ast.Expr) and isinstance(o.value, ast.Call) and getattr(o.value.func, 'id', '') == 'print'
        for o in body
    )


@cache
def modules() -> dict[str, str]:
    "Module -> the notebook that makes it: `{'data.image': 'data/02_image'}`."
    res = {}
    for nb in NOTEBOOKS:
        code = [c for c in read_nb(nb)['cells'] if c['cell_type'] == 'code']
        found = [o.split()[1] for c in code for o in directives(c) if o.startswith('default_exp')]
        if found:
            res[found[0]] = name_of(nb)
    return res


# What a module may import: packages further left, and the modules of its own package that come before it.
ORDER = 'ground models data collect train deploy interpret recipes learner clean fastai_names all widgets app __main__'.split()


def package(module: str) -> str:
    "The part of the house a module belongs to: its folder, or its own name, or the ground for the rest."
    first = module.split('.')[0]
    return first if first in ORDER else 'ground'


def height(module: str) -> tuple[int, str]:
    "Where a module stands: the place of its package in `ORDER`, then its notebook."
    return ORDER.index(package(module)), modules()[module]


def imported(code: str, package: str = 'vislearn', module: str = '') -> list[tuple[str, bool]]:
    "The modules of our own that `code` (of `module`) imports, each with: is it a wildcard import?"
    res = []
    for o in ast.walk(ast.parse(code)):
        if isinstance(o, ast.ImportFrom):
            star = any(a.name == '*' for a in o.names)
            if o.level:
                parts = module.split('.')[: -o.level]
                name = '.'.join([*parts, *(o.module or '').split('.')]).strip('.')
            elif (o.module or '').split('.')[0] == package:
                name = o.module.partition('.')[2]
            else:
                continue
            names = (
                [name]
                if name in modules()
                else [f'{name}.{a.name}'.strip('.') for a in o.names if a.name != '__version__']
            )
            res += [(n, star) for n in names]
        elif isinstance(o, ast.Import):
            res += [(a.name.partition('.')[2], False) for a in o.names if a.name.startswith(package + '.')]
    return res
