"""The site: notebooks, docstrings and pages as static HTML, its links checked. `python nbs/site/build.py [folder [package]]`

With a package, such as `collect`, only its notebooks and modules are built: a minute becomes a few seconds.
`pip install 'vislearn[docs]'` brings what it needs. The pages are collected in `_docs/source`, where they stand as they do in the repository, so that a
link means the same in both; the site is `_docs/html`.
"""

import importlib
import inspect
import json
import re
import shutil
import sys
from collections.abc import Container
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PARTS = {  # package -> what its section of the reference is called; in the order of the way of a picture
    'learner': 'Learner',
    'data': 'Data',
    'models': 'Networks',
    'train': 'Training',
    'interpret': 'Interpretation',
    'clean': 'Cleaning',
    'deploy': 'Deployment',
    'app': 'Command line and server',
    'collect': 'Getting pictures',
    'ground': 'Common ground',
}

NO_PAGE = ('all', 'widgets', '__main__')  # modules that only gather names


def notebook_page(nb: dict) -> dict:
    "A notebook as it is read: without hidden cells, and without directives for nbdev."
    cells = []
    for cell in nb['cells']:
        text = ''.join(cell['source'])
        if re.search(r'^#\|\s*(hide|default_exp)\b', text, re.M):
            continue
        if cell['cell_type'] == 'code':
            text = '\n'.join(o for o in text.splitlines() if not o.startswith('#|')).strip()
        cells.append(cell | {'source': text})
    return nb | {'cells': [o for o in cells if o['source']]}


def collect_notebooks(dest: Path, package: str) -> dict[str, str]:
    "The notebooks of a package, or all, at their places below `dest`; `{module: its notebook}`."
    made = {}
    for file in sorted((ROOT / 'nbs' / package).rglob('[!.]*.ipynb')):
        if '.ipynb_checkpoints' in file.parts:
            continue
        place = file.relative_to(ROOT)
        text = file.read_text(encoding='utf-8')
        page = notebook_page(json.loads(text))
        module = re.search(r'#\|\s*default_exp ([\w.]+)', text)
        if module:
            made[module[1]] = place.as_posix()
            page['cells'].insert(1, link_to_reference(module[1], depth=len(place.parts) - 1))
        (dest / place).parent.mkdir(parents=True, exist_ok=True)
        (dest / place).write_text(json.dumps(page), encoding='utf-8')
    return made


def link_to_reference(module: str, depth: int) -> dict:
    "A cell that points from a notebook to its module's page."
    page = f'{module}.md' if module not in NO_PAGE else 'index.md'
    text = f'Reference: [`vislearn.{module}`]({"../" * depth}api/{page})'
    return {'cell_type': 'markdown', 'id': 'reference', 'metadata': {}, 'source': text}


def collect_pages(dest: Path) -> None:
    "The pages that are no notebooks, at their places below `dest`."
    for o in ('images', 'nbs/site/guides'):
        shutil.copytree(ROOT / o, dest / o)
    for o in ('CHANGELOG.md', 'CONTRIBUTING.md', 'LICENSE', 'tests/bench/README.md', *HERE.glob('*.md')):
        place = Path(o).relative_to(ROOT) if Path(o).is_absolute() else Path(o)
        (dest / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / place, dest / place)
    shutil.copy(dest / 'nbs/site/index.md', dest / 'index.md')
    (dest / 'nbs/site/index.md').unlink()


def small_index(dest: Path, package: str) -> None:
    "The first page where only a package is built."
    text = f'# vislearn.{package}\n\n```{{toctree}}\n:glob:\nnbs/{package}/*\napi/index\n```\n'
    (dest / 'index.md').write_text(text, encoding='utf-8')


def module_page(module: str, notebook: str) -> str:
    "The page of a module: what it holds, from its docstrings, and the way to the notebook that explains it."
    return f"""# {module}

[Reference](index.md) / `vislearn.{module}` / [the notebook](../{notebook}) explains the code and shows it at work

```{{eval-rst}}
.. automodule:: vislearn.{module}
```
"""


def first_line(obj: object) -> str:
    return (inspect.getdoc(obj) or '').partition('\n')[0].replace('|', '\\|')


def modules_table(modules: list[str]) -> list[str]:
    rows = [f'| [{o}]({o}.md) | {first_line(importlib.import_module(f"vislearn.{o}"))} |' for o in modules]
    return ['| module | |', '|---|---|', *rows]


def names_table(modules: Container[str]) -> list[str]:
    """The names of `from vislearn.all import *` that are from these modules, each with its first sentence and where it
    is described.
    """
    everything = importlib.import_module('vislearn.all')
    rows = []
    for name in sorted(everything.__all__, key=str.lower):
        obj = getattr(everything, name)
        module = getattr(obj, '__module__', None) or ''
        page = module.removeprefix('vislearn.')
        if page in modules and (inspect.isclass(obj) or inspect.isfunction(obj)):
            listed = obj.__name__ in getattr(importlib.import_module(module), '__all__', ())
            anchor = f'#{module}.{obj.__name__}' if listed and first_line(obj) else ''
            rows.append(f'| <a href="{page}.html{anchor}"><code>{name}</code></a> | {first_line(obj)} |')
    return ['| name | |', '|---|---|', *rows]


def reference(dest: Path, made: dict[str, str]) -> None:
    "A page for each module, and one that lists modules and names."
    dest.mkdir()
    lists: dict[str, list[str]] = {o: [] for o in PARTS}
    for module, notebook in made.items():
        if module not in NO_PAGE:
            first = module.split('.')[0]
            lists[first if first in PARTS else 'ground'].append(module)
            (dest / f'{module}.md').write_text(module_page(module, notebook), encoding='utf-8')
    text = [
        '# Reference',
        '',
        'Every module, and below them the [names](#names) that `from vislearn.all import *` gives.',
    ]
    for part, title in PARTS.items():
        text += ['', f'## {title}', '', *modules_table(lists[part])]
    text += ['', '## Names', '', *names_table(made), '']
    (dest / 'index.md').write_text('\n'.join(text), encoding='utf-8')


class Links(HTMLParser):
    "What a page points to, and the anchors in it."

    def __init__(self, text: str):
        super().__init__()
        self.found: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        at = dict(attrs)
        target = at.get('src') if tag in ('img', 'script') else at.get('href')
        if target:
            self.found.append(target)
        self.anchors |= {at[k] for k in ('id', 'name') if at.get(k)}


@cache
def links(file: Path) -> Links:
    return Links(file.read_text(encoding='utf-8'))


def is_dead(page: Path, target: str) -> bool:
    "Does a link lead nowhere in the site? Other sites are not asked."
    url = urlsplit(target)
    if url.scheme or url.netloc:
        return False
    file = page.parent / unquote(url.path) if url.path else page
    if file.is_dir():
        file = file / 'index.html'
    if not file.is_file():
        return True
    anchor = unquote(url.fragment)
    return bool(anchor) and file.suffix == '.html' and anchor not in links(file).anchors


def check_links(site: Path) -> list[str]:
    "The faults: links to what is not there, and pages without a way back to the first one."
    faults = []
    home = (site / 'index.html').resolve()
    for page in sorted(site.rglob('*.html')):
        found = links(page).found
        faults += [f'{page.relative_to(site)}: dead link {o}' for o in sorted(set(found)) if is_dead(page, o)]
        paths = [urlsplit(o) for o in found]
        ways = {(page.parent / unquote(o.path)).resolve() for o in paths if o.path and not o.netloc}
        if home not in ways and page.resolve() != home:
            faults.append(f'{page.relative_to(site)}: no way back')
    return faults


def build(dest: Path, package: str = '') -> list[str]:
    "Make the site, or that of one package, below `dest`; what is wrong with it."
    from sphinx.cmd.build import build_main

    sys.path.insert(0, str(ROOT))
    shutil.rmtree(dest / 'source', ignore_errors=True)
    shutil.rmtree(dest / 'html', ignore_errors=True)
    made = collect_notebooks(dest / 'source', package)
    if package:
        small_index(dest / 'source', package)
    else:
        collect_pages(dest / 'source')
    reference(dest / 'source/api', made)
    words = ['-q', '-j', 'auto', '-b', 'html', '-c', HERE, '-d', dest / 'doctrees', dest / 'source', dest / 'html']
    if build_main([str(o) for o in words]):
        return ['Sphinx could not build the site: see above']
    return check_links(dest / 'html')


def main() -> None:
    dest = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / '_docs'
    faults = build(dest, *sys.argv[2:3])
    print('\n'.join(faults) or f'{dest / "html/index.html"}: every link leads somewhere')
    sys.exit(bool(faults))


if __name__ == '__main__':
    main()
