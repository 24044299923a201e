"The house rules that no notebook can check from inside."

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest
from nbtools import (
    NOTEBOOKS,
    ROOT,
    copy_tree,
    directives,
    height,
    imported,
    is_run,
    modules,
    name_of,
    nbdev,
    read_nb,
    shows,
    source,
)

LIBRARY = sorted((ROOT / 'vislearn').rglob('*.py'))
MAX_KB = 400


def texts(folder: Path, suffix: str) -> dict[str, str]:
    "The text of every file below `folder` with this suffix, by its place there."
    return {o.relative_to(folder).as_posix(): o.read_text(encoding='utf-8') for o in folder.rglob(f'*{suffix}')}


def module_of(path: Path) -> str:
    "vislearn/data/image.py -> 'data.image'"
    return '.'.join(path.relative_to(ROOT / 'vislearn').with_suffix('').parts)


def tracked() -> list[Path]:
    "The files of the checkout, those not added yet included."
    r = subprocess.run(
        ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if r.returncode:
        pytest.skip('not a git checkout')
    return [p for o in r.stdout.split('\0') if o and (p := ROOT / o).is_file()]


def test_library_is_its_notebooks(tmp_path):
    copy = copy_tree(tmp_path)
    for o in (copy / 'vislearn').rglob('*.py'):
        if o.name != '__init__.py':
            o.unlink()  # so that a module whose notebook is gone is noticed
    nbdev('nbdev-export', cwd=copy)
    ours, made = texts(ROOT / 'vislearn', '.py'), texts(copy / 'vislearn', '.py')
    ours.pop('_modidx.py', None), made.pop('_modidx.py', None)
    assert sorted(ours) == sorted(made), 'vislearn/ holds other modules than the notebooks make: run nbdev-export'
    stale = [o for o in ours if ours[o] != made[o]]
    assert not stale, (
        f'{stale} differ from their notebooks: run nbdev-export (or nbdev-update, if the module was edited)'
    )


def test_packages_are_empty():
    "Importing a module of a package imports nothing else of it."
    full = [str(o) for o in (ROOT / 'vislearn').glob('*/__init__.py') if o.read_text(encoding='utf-8').strip()]
    assert not full


def test_notebooks_are_clean(tmp_path):
    copy = copy_tree(tmp_path)
    before = texts(copy / 'nbs', '.ipynb')
    nbdev('nbdev-clean', cwd=copy)
    after = texts(copy / 'nbs', '.ipynb')
    dirty = [o for o in before if before[o] != after[o]]
    assert not dirty, f'{dirty} hold execution counts or metadata: run nbdev-clean'


@pytest.mark.parametrize('command', ['format --check', 'check'])
def test_code_is_formatted_and_free_of_lint(command):
    r = subprocess.run(
        [sys.executable, '-m', 'ruff', *command.split(), 'nbs', 'tests', 'setup.py'],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert r.returncode == 0, f'run ruff {command.split()[0]} nbs tests setup.py\n{r.stdout[-3000:]}{r.stderr}'


def test_modules_import_nothing_that_only_a_demo_uses():
    "Ruff sees a notebook as one file: an import that a demo uses belongs into a hidden cell."
    of_others = 'vislearn/all.py,vislearn/widgets.py,vislearn/_modidx.py'  # what they import is for their users
    command = [
        'check',
        '--isolated',
        '--select',
        'F401',
        '--output-format',
        'concise',
        'vislearn',
        '--exclude',
        of_others,
    ]
    r = subprocess.run([sys.executable, '-m', 'ruff', *command], cwd=ROOT, capture_output=True, text=True)
    assert r.returncode == 0, r.stdout + r.stderr


@pytest.mark.parametrize('nb', NOTEBOOKS, ids=name_of)
def test_notebook_form(nb):
    cells = read_nb(nb)['cells']
    assert re.match(r'# \S.*\n\n> \S', source(cells[0])) and cells[0]['cell_type'] == 'markdown', (
        "the first cell must be '# name', an empty line, '> one sentence'"
    )
    module = '.'.join([*Path(name_of(nb)).parent.parts, nb.stem.partition('_')[2]])
    if module in modules():
        assert directives(cells[1]) == [f'default_exp {module}'], (
            "the second cell must be '#| default_exp package.name'"
        )
    size = nb.stat().st_size / 1024
    assert size < MAX_KB, f'{nb.name} is {size:.0f} KB, more than {MAX_KB}: smaller or fewer pictures, saved as JPEG'
    known = ('default_exp', 'export', 'hide', 'slow', 'gpu', 'net', 'eval: false')
    odd = [
        d
        for c in cells
        if c['cell_type'] == 'code'
        for d in directives(c)
        if d.split()[0] not in known and d not in known
    ]
    assert not odd, f'unknown directives {odd}'


@pytest.mark.parametrize('nb', NOTEBOOKS, ids=name_of)
def test_notebook_is_executed(nb):
    """What the outputs are is checked by running the notebook (test_notebooks.py); here: that there are any, and no
    errors among them.
    """
    cells = [
        c for c in read_nb(nb)['cells'] if c['cell_type'] == 'code' and not {'export', 'hide'} & set(directives(c))
    ]
    empty = [source(c) for c in cells if is_run(c) and shows(source(c)) and not c['outputs']]
    assert not empty, (
        f'{nb.name} has cells without their outputs: run nbdev-test {nb.name} --save, then nbdev-clean\n\n{empty[0]}'
    )
    bad = [o['evalue'] for c in cells for o in c['outputs'] if o['output_type'] == 'error']
    assert not bad, f'{nb.name} was saved with errors: {bad}'
    assert any(c['outputs'] for c in cells) or not any(is_run(c) for c in cells), f'{nb.name} shows nothing at all'


@pytest.mark.parametrize('path', LIBRARY, ids=module_of)
def test_imports_point_down(path):
    "A module imports, by name, from packages below its own and from earlier notebooks of its package."
    name = module_of(path)
    for other, star in imported(path.read_text(encoding='utf-8'), module=name):
        assert not star, f'wildcard import of {other!r} in {name}'
        assert other in modules(), f'{name} imports {other!r}, which no notebook makes'
        assert height(other) < height(name), (
            f'{name} imports {other!r}, which stands above it (see ORDER in nbtools.py)'
        )


@pytest.mark.parametrize('nb', [o for o in NOTEBOOKS if name_of(o) in modules().values()], ids=name_of)
def test_lessons_use_what_stands_below(nb):
    """A lesson needs only what its readers have met; the built-in pictures are everyone's, and what is shown of
    mistakes needs a learner.
    """
    module = next(k for k, v in modules().items() if v == name_of(nb))
    code = [source(c) for c in read_nb(nb)['cells'] if is_run(c)]
    above = {
        other
        for c in code
        for other, _ in imported(c)
        if other not in ('collect.samples', 'learner') and height(other) > height(module)
    }
    assert not above, f'{module} shows its work with {sorted(above)}, which stand above it'


HEAVY = {
    'torchvision',
    'timm',
    'matplotlib',
    'pandas',
    'ipywidgets',
    'requests',
    'torchmetrics',
    'tqdm',
    'IPython',
    'scipy',
    'sklearn',
    'onnx',
    'onnxruntime',
    'fastapi',
}
ABOUT = {
    'widgets': {'ipywidgets'},
    'clean.widgets': {'ipywidgets'},
    'clean.cards': {'ipywidgets'},
    'collect.transport': {'requests'},
}  # who imports these wants just that


@pytest.mark.parametrize('path', LIBRARY, ids=module_of)
def test_heavy_packages_are_imported_where_used(path):
    top = [
        a.name if isinstance(o, ast.Import) else o.module or ''
        for o in ast.parse(path.read_text(encoding='utf-8')).body
        if isinstance(o, ast.Import) or isinstance(o, ast.ImportFrom) and not o.level
        for a in o.names
    ]
    assert not (bad := {o.split('.')[0] for o in top} & HEAVY - ABOUT.get(module_of(path), set())), (
        f'{path.name} imports {bad} at its top: import it in the function that needs it'
    )


def test_one_version():
    cfg = configparser.ConfigParser(delimiters=['='])
    cfg.read(ROOT / 'settings.ini', encoding='utf-8')
    version = cfg['DEFAULT']['version']
    assert f'__version__ = "{version}"' in (ROOT / 'vislearn/__init__.py').read_text(encoding='utf-8'), (
        'vislearn/__init__.py has another version than settings.ini'
    )
    assert f'\n## {version} ' in (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8'), (
        f'CHANGELOG.md says nothing about {version}'
    )


def test_readme_is_the_index_notebook(tmp_path):
    subprocess.run([sys.executable, ROOT / 'nbs/readme.py', tmp_path], check=True)
    assert (tmp_path / 'README.md').read_text(encoding='utf-8') == (ROOT / 'README.md').read_text(encoding='utf-8'), (
        'README.md is stale: run python nbs/readme.py'
    )
    for o in (tmp_path / 'images').glob('*'):
        assert o.read_bytes() == (ROOT / 'images' / o.name).read_bytes(), (
            f'images/{o.name} is stale: run python nbs/readme.py'
        )
    made = {o.name for o in (tmp_path / 'images').glob('*')}
    assert {o.name for o in (ROOT / 'images').glob('index_*')} == made, (
        'images/ holds pictures that README.md no longer shows'
    )


def test_links_in_the_readme_exist():
    links = re.findall(r'\]\(([^)#:]+)\)', (ROOT / 'README.md').read_text(encoding='utf-8'))
    assert links and not (gone := [o for o in links if not (ROOT / o).exists()]), f'README.md points to {gone}'


def readme_commands() -> list[str]:
    return [o for o in (ROOT / 'README.md').read_text(encoding='utf-8').splitlines() if o.startswith('python3 -m venv')]


def test_readme_sets_up_in_two_commands():
    demo, test = readme_commands()[:2]
    assert demo.endswith('vislearn demo') and 'pytest' in test


def test_ci_runs_the_readmes_test_command():
    """`.ci/run` reads the command from the README, so that the two cannot drift apart; here: that what it finds is
    one line.
    """
    run = (ROOT / '.ci/run').read_text(encoding='utf-8')
    pattern = re.search(r"grep -m1 '([^']+)' README.md", run)
    assert pattern, '.ci/run no longer takes the command from README.md'
    assert re.match(pattern[1], readme_commands()[1]) and not re.match(pattern[1], readme_commands()[0])


TEXT = {'.py', '.ipynb', '.md', '.ini', '.toml', '.in', '.txt', '.json', ''}
MACHINE = re.compile(
    r'(?<![\w.:/])/(?:home|root|Users|opt|work|mnt|private|tmp)/\w'
)  # a path of the machine it was written on


def test_no_paths_of_one_machine():
    for o in tracked():
        if o.suffix not in TEXT or o.name == 'LICENSE':
            continue
        text = o.read_text(encoding='utf-8')
        if o.suffix == '.ipynb':
            text = '\n'.join(
                str(out)
                for c in read_nb(o)['cells']
                for out in [source(c), *(d for d in c.get('outputs', []) if 'image/jpeg' not in str(d))]
            )
        bad = [m.group() + text[m.end() : m.end() + 30].split('\n')[0] for m in MACHINE.finditer(text)]
        assert not bad, f'{o.relative_to(ROOT)} holds a path of one machine: {bad[0]!r}'


def test_no_big_files():
    big = [str(o.relative_to(ROOT)) for o in tracked() if o.stat().st_size > 2**20]
    assert not big, f'over 1 MB: {big}'


@pytest.mark.parametrize('path', LIBRARY, ids=module_of)
def test_private_names_stay_in_their_module(path):
    tree = ast.parse(path.read_text(encoding='utf-8'))
    froms = [o for o in ast.walk(tree) if isinstance(o, ast.ImportFrom)]
    ours = [o for o in froms if o.level or (o.module or '').split('.')[0] == 'vislearn']
    private = [a.name for o in ours for a in o.names if re.match(r'_[^_]', a.name)]
    assert not private, f'{module_of(path)} imports {private}: a name that others use is public'


def test_a_private_helper_has_a_name_of_its_own():
    "Whoever meets a helper's name in one module has not met it in another, where it does something else."
    where: dict[str, list[str]] = {}
    for path in LIBRARY:
        for o in ast.parse(path.read_text(encoding='utf-8')).body:
            if isinstance(o, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and o.name.startswith('_'):
                where.setdefault(o.name, []).append(module_of(path))
    assert not (several := {name: found for name, found in where.items() if len(found) > 1}), several


@pytest.mark.parametrize('path', LIBRARY, ids=module_of)
def test_no_code_is_evaluated_and_none_asks_whether_it_is_tested(path):
    text = path.read_text(encoding='utf-8')
    calls = [o.func.id for o in ast.walk(ast.parse(text)) if isinstance(o, ast.Call) and isinstance(o.func, ast.Name)]
    found = {'eval', 'exec', 'locals'} & set(calls)
    assert not found, f'{module_of(path)} calls {found}'
    assert 'IN_TEST' not in text, f'{module_of(path)} asks whether it is under test'


MAX_LINE, MAX_BODY = 120, 35  # columns, lines


@pytest.mark.parametrize('path', LIBRARY, ids=module_of)
def test_lines_and_functions_are_short(path):
    text = path.read_text(encoding='utf-8')
    listed = next((o for o in ast.parse(text).body if isinstance(o, ast.Assign)), None)  # __all__, which nbdev writes
    skipped = range(listed.lineno, listed.end_lineno + 1) if listed else ()
    long = [i for i, line in enumerate(text.splitlines(), 1) if len(line) > MAX_LINE and i not in skipped]
    assert not long, f'{module_of(path)} has lines of more than {MAX_LINE} columns: {long}'
    functions = [o for o in ast.walk(ast.parse(text)) if isinstance(o, (ast.FunctionDef, ast.AsyncFunctionDef))]
    big = [o.name for o in functions if o.end_lineno - o.body[0].lineno + 1 > MAX_BODY]
    assert not big, f'{module_of(path)} has functions of more than {MAX_BODY} lines: {big}'


@pytest.mark.parametrize('nb', NOTEBOOKS, ids=name_of)
def test_lines_of_notebooks_are_short(nb):
    code = [source(c) for c in read_nb(nb)['cells'] if c['cell_type'] == 'code']
    long = [line for o in code for line in o.splitlines() if len(line) > MAX_LINE]
    assert not long, f'{nb.name} has code of more than {MAX_LINE} columns: {long[0]}'
