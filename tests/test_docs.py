"The site: its pages point to what exists, and where its tools are installed it builds without a dead link."

import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from nbtools import NOTEBOOKS, ROOT, name_of, quiet_env

LINK = re.compile(r'\]\(([^)\s]+)\)')
SITE = ROOT / 'nbs/site'
CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
PAGES = sorted(SITE.rglob('*.md'))


def texts(file) -> str:
    "The prose of a page or a notebook."
    if file.suffix != '.ipynb':
        return file.read_text(encoding='utf-8')
    cells = json.loads(file.read_text(encoding='utf-8'))['cells']
    return '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')


def anchors(file) -> set[str]:
    "The anchors that headings get, as GitHub and the site make them."
    heads = re.findall(r'^#+ (.+)$', texts(file), re.M)
    return {re.sub(r'[^\w\- ]', '', o.lower()).replace(' ', '-') for o in heads}


def dead(file, top) -> list[str]:
    "The links of a file that lead nowhere in the repository; `top` is the folder they are seen from."
    prose = re.sub(r'`[^`]*`', '', re.sub(r'^```.*?^```', '', texts(file), flags=re.M | re.S))
    res = []
    for target in LINK.findall(prose):
        if re.match(r'\w+:', target) or target.startswith('api/'):  # other sites; pages that are made
            continue
        path, _, anchor = target.partition('#')
        other = (top / path).resolve() if path else file
        if not other.exists() or (anchor and anchor not in anchors(other)):
            res.append(target)
    return res


@pytest.mark.parametrize('file', [*NOTEBOOKS, *PAGES], ids=lambda o: o.relative_to(ROOT / 'nbs').as_posix())
def test_links_lead_somewhere(file):
    top = ROOT if file == SITE / 'index.md' else file.parent
    assert not dead(file, top)


def test_every_page_of_the_site_is_listed():
    lists = (SITE / 'index.md').read_text(encoding='utf-8') + (SITE / 'guides/index.md').read_text(encoding='utf-8')
    for page in PAGES:
        if page.stem != 'index':
            assert re.search(rf'^(nbs/site/)?{page.stem}$', lists, re.M), f'{page.name} is in no list of pages'


def search(html: Path, name: str) -> None:
    "Type a name into the search of the site, open the hit that defines it, and see it there."
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        page = browser.new_page()
        page.goto((html / 'index.html').as_uri())
        page.fill('input[name=q] >> visible=true', name)
        page.keyboard.press('Enter')
        hits = page.locator('#search-results ul.search li a')
        hits.filter(has_text=f'.{name}').first.click(timeout=60_000)
        anchor = page.url.partition('#')[2]
        assert anchor.endswith(f'.{name}')
        assert page.locator(f'[id="{anchor}"]').is_visible()
        browser.close()


def test_site_builds_without_a_dead_link_and_is_searched(tmp_path):
    """The command of CONTRIBUTING.md for one package, since the whole takes a minute; then a name that is typed in a
    browser gives hits, and one of them opens.
    """
    for o in ('sphinx', 'furo', 'myst_nb'):
        pytest.importorskip(o, reason="needs pip install 'vislearn[docs]'")
    r = subprocess.run(
        [sys.executable, ROOT / 'nbs/site/build.py', tmp_path, 'collect'],
        env=quiet_env(tmp_path) | {'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert r.returncode == 0, r.stdout[-3000:] + r.stderr[-2000:]
    html = tmp_path / 'html'
    for nb in NOTEBOOKS:
        assert (html / f'nbs/{name_of(nb)}.html').exists() == name_of(nb).startswith('collect/')
    page = (html / 'api/collect.images.html').read_text(encoding='utf-8')
    assert 'id="vislearn.collect.images.download_images"' in page and '_modules/vislearn/collect/images.html' in page
    if not CHROMIUM or not find_spec('playwright'):
        pytest.skip('the site is built without a dead link; its search needs chromium and playwright')
    search(html, 'download_images')
