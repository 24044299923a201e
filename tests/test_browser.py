"""The cleaner in JupyterLab, driven like a person would: real clicks in a real browser, the result read from the disk.

Needs chromium, jupyterlab and playwright: `apt-get install chromium fonts-dejavu-core`, `pip install jupyterlab playwright`.
With VISLEARN_SHOTS=1 it also makes the pictures in images/ that the notebook shows (trains for a minute)."""

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest

chromium = os.environ.get('CHROMIUM') or next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None
)
lacking = [n for n in ('jupyterlab', 'playwright', 'ipywidgets', 'ipykernel') if not find_spec(n)] + ['chromium'] * (
    not chromium
)
pytestmark = pytest.mark.skipif(bool(lacking), reason=f'needs {", ".join(lacking)}')
here, images = Path(__file__).parent, Path(__file__).parent.parent / 'images'


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "A JupyterLab of its own, for this test only: its address and its folder."
    d, port = tmp_path_factory.mktemp('lab'), free_port()
    homes = {
        k: str(d / 'home' / k)
        for k in (
            'HOME',
            'JUPYTER_CONFIG_DIR',
            'JUPYTER_DATA_DIR',
            'JUPYTER_RUNTIME_DIR',
            'IPYTHONDIR',
            'XDG_CACHE_HOME',
        )
    }
    for f in homes.values():
        Path(f).mkdir(parents=True)
    (d / 'work').mkdir()
    env = (
        os.environ
        | homes
        | dict(OMP_NUM_THREADS='1', PYTHONPATH=os.pathsep.join([str(here), os.environ.get('PYTHONPATH', '')]))
    )
    with open(d / 'log.txt', 'w') as log:
        p = subprocess.Popen(
            [
                sys.executable,
                '-m',
                'jupyterlab',
                '--no-browser',
                '--allow-root',
                '--ip=127.0.0.1',
                f'--port={port}',
                '--ServerApp.token=',
                '--ServerApp.password=',
                '--ServerApp.disable_check_xsrf=True',
                f'--ServerApp.root_dir={d / "work"}',
            ],
            env=env,
            stdout=log,
            stderr=log,
        )
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f'http://127.0.0.1:{port}/api', timeout=5)
                break
            except OSError:
                time.sleep(0.2)
        else:
            pytest.fail('JupyterLab did not start:\n' + (d / 'log.txt').read_text()[-2000:])
        yield f'http://127.0.0.1:{port}/lab/tree', d / 'work'
    finally:
        p.terminate()
        p.wait(20)


@pytest.fixture(scope='module')
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as pw:
        yield pw.chromium.launch(
            executable_path=chromium, args=['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu']
        )


class Person:
    "Somebody at a notebook; counts what the hand does."

    def __init__(self, browser, lab, cells, height=1500, name='x.ipynb'):
        (address, work), self.work, self.clicks, self.trouble = lab, lab[1], 0, []

        def cell(i, s):
            return dict(cell_type='code', id=f'c{i}', source=s, metadata={}, outputs=[], execution_count=None)

        (work / name).write_text(
            json.dumps(
                dict(
                    cells=[cell(i, s) for i, s in enumerate(cells)],
                    nbformat=4,
                    nbformat_minor=5,
                    metadata=dict(
                        kernelspec=dict(name='python3', display_name='Python 3 (ipykernel)', language='python')
                    ),
                )
            )
        )
        self.page = browser.new_page(viewport=dict(width=1400, height=height))
        self.page.on('pageerror', lambda e: self.trouble.append(str(e)))
        self.page.on('dialog', lambda d: (self.trouble.append(f'dialog: {d.message}'), d.dismiss()))
        self.page.goto(f'{address}/{name}?reset')
        self.page.wait_for_selector('.jp-Notebook .jp-CodeCell', timeout=90_000)
        self.idle()
        self.try_click('.Toastify button:text-is("No")')  # to the news
        self.run_all()

    def try_click(self, what, ms=2500):
        from playwright.sync_api import TimeoutError

        try:
            self.page.locator(what).first.click(timeout=ms)
        except TimeoutError:
            pass

    def run_all(self):
        "Run the notebook; where JupyterLab is not ready yet it asks for a kernel first."
        started = "/[*0-9]/.test(document.querySelector('.jp-CodeCell .jp-InputArea-prompt').textContent)"
        for _ in range(8):
            self.menu('Run', 'Run All Cells')
            for _ in range(20):
                if self.page.evaluate(started):
                    return
                self.try_click('.jp-Dialog .jp-mod-accept', 500)
        self.page.screenshot(path=(seen := self.work / 'not_running.png'))
        raise AssertionError(f'the cells do not run; the page is in {seen}')

    def restart(self):
        self.page.evaluate("document.querySelector('.vl-cleaner').id = 'before'")
        self.menu('Kernel', 'Restart Kernel and Run All Cells')
        self.page.locator('.jp-Dialog .jp-mod-accept').click()
        self.page.wait_for_selector('#before', state='detached', timeout=90_000)
        self.wait_cards()

    def idle(self):
        self.page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', timeout=90_000)

    def settle(self):
        "Wait until the kernel is idle and the widget has not changed for a while."
        look, was, since = (
            (
                lambda: self.page.evaluate(
                    "[...document.querySelectorAll('.vl-cleaner')].map(e => e.innerHTML + [...e.querySelectorAll('select')].map(s => s.selectedIndex)).join()"
                )
            ),
            None,
            0,
        )
        for _ in range(200):
            self.idle()
            if (now := look()) != was:
                was, since = now, time.monotonic()
            if time.monotonic() - since > 0.3:
                return
            self.page.wait_for_timeout(60)
        raise AssertionError('the widget does not come to rest')

    def menu(self, menu, item):
        self.page.locator('.lm-MenuBar-itemLabel', has_text=re.compile(f'^{menu}$')).click()
        self.page.locator('.lm-Menu-itemLabel', has_text=re.compile(item)).first.click()

    def cards(self):
        return self.page.locator('.vl-card')

    def wait_cards(self, ms=90_000):
        try:
            self.page.wait_for_selector('.vl-card img', timeout=ms)
        except Exception as e:
            self.page.screenshot(path=(seen := self.work / 'no_cards.png'))
            raise AssertionError(f'no cards; the page is in {seen}; errors: {self.trouble}') from e
        self.settle()

    def press(self, name):
        self.page.locator('.vl-cleaner button', has_text=name).first.click()
        self.clicks += 1
        self.settle()

    def turn(self, icon):
        self.page.locator(f'.vl-cleaner button:has(.fa-chevron-{icon})').click()
        self.clicks += 1
        self.settle()

    def pick(self, i, value):
        self.cards().nth(i).locator('select').select_option(value)
        self.clicks += 1
        self.settle()

    def top(self, i, value):
        self.page.locator('.vl-row select').nth(i).select_option(value)
        self.clicks += 1
        self.settle()

    def chosen(self):
        return [
            s.input_value() and s.evaluate('e => e.options[e.selectedIndex].text')
            for s in self.cards().locator('select').all()
        ]

    def names(self):
        return [e.get_attribute('title') for e in self.cards().locator('.vl-name').all()]

    def reads(self, where, text):
        from playwright.sync_api import expect

        expect(self.page.locator(where).first).to_contain_text(text, timeout=15_000)

    def type(self, keys):
        self.page.get_by_placeholder('click here for keys').click()
        self.page.keyboard.type(keys, delay=20)
        self.clicks += 1
        self.settle()

    def shot(self, name, top='.vl-cleaner'):
        from PIL import Image

        self.page.wait_for_timeout(500)
        im = Image.open(io.BytesIO(self.page.locator(top).first.screenshot())).convert('RGB')
        images.mkdir(exist_ok=True)
        im.save(images / name, quality=80)


@pytest.fixture
def data(lab):
    path = lab[1] / 'data'
    shutil.rmtree(path, ignore_errors=True)
    draw(path)
    yield path


def draw(path):
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for c in ('ant', 'bee', 'cow'):
        (path / c).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)).save(
                path / c / f'{c}_{i:02}.jpg'
            )
    if os.name != 'nt':
        (path / 'ant/ant_07.jpg').rename(path / 'ant/<img src=x onerror=alert(1)>.jpg')


def tree(path):
    return {
        f.relative_to(path).as_posix(): f.read_bytes()
        for f in sorted(path.rglob('*'))
        if f.is_file() and '.vislearn_trash' not in f.parts
    }


start = """from pathlib import Path
from pretend import pretend_learner
from vislearn.widgets import *
files = sorted(Path('data').rglob('*.jpg'))
files = [f for f in files if '.vislearn_trash' not in f.parts]
learn = pretend_learner(Path('data'), files, MORE)
cleaner = ImageClassifierCleaner(learn, max_n=6)
cleaner"""


def test_sixty_clicks(lab, browser, data):
    was = tree(data)
    p = Person(browser, lab, [start.replace(', MORE', '')])
    p.wait_cards()
    # look around: classes, splits, orders, pages
    for cat in ('bee', 'cow', 'ant'):
        p.top(0, cat)
        assert all(cat in n or '<img' in n for n in p.names())
    p.top(1, 'Valid')
    assert len(p.names()) < 6
    p.top(1, 'Train')
    p.top(2, 'name')
    assert p.names() == sorted(p.names())
    first = p.names()
    p.turn('right')
    assert not set(first) & set(p.names())
    p.turn('left')
    assert p.names() == first
    # choose, look elsewhere, come back
    p.pick(0, '<Delete>')
    p.pick(1, 'bee')
    p.pick(2, '<Delete>')
    p.pick(2, '<Keep>')
    p.pick(3, 'cow')
    ant = p.names()
    p.reads('.vl-count', '1 to delete, 2 to change')
    p.top(0, 'bee')
    p.pick(0, '<Delete>')
    p.pick(5, 'ant')
    bee = p.names()
    p.top(1, 'Valid')
    p.pick(0, 'cow')
    valid = p.names()
    p.top(1, 'Train')
    p.top(0, 'ant')
    assert p.chosen()[:4] == ['<Delete>', 'bee', '<Keep>', 'cow'] and tree(data) == was
    p.reads('.vl-count', '2 to delete, 4 to change')
    # by keys: third card gets class 3, fifth is deleted, sixth too, which turns the page; back to keep it
    p.type('nn3nd')
    p.reads('.vl-big', 'keep')
    p.type('d')
    p.type('pk')
    p.turn('left')
    assert p.chosen() == ['<Delete>', 'bee', 'cow', 'cow', '<Delete>', '<Keep>']
    p.reads('.vl-count', '3 to delete, 5 to change')
    # the own label is as good as keep
    p.pick(5, 'ant')
    assert p.chosen()[5] == '<Keep>'
    # all open ones in one view
    p.top(0, '<Decided>')
    assert len(p.names()) == 6
    p.turn('right')
    assert len(p.names()) == 1
    p.turn('left')
    # the plan; not yet; yes
    p.press('Apply')
    p.reads('.vl-plan', '3 to delete, 5 to change')
    assert tree(data) == was
    p.press('Not yet')
    assert p.page.locator('.vl-plan').count() == 0 and tree(data) == was
    p.press('Apply')
    p.press('Do it')
    p.reads('.vl-plan', 'Done: 8 pictures')
    assert len(tree(data)) == len(was) - 3 and len(list(data.glob('.vislearn_trash/*/*/*.jpg'))) == 3
    assert (
        (data / 'bee' / ant[1]).exists()
        and (data / 'cow' / valid[0]).exists()
        and not (data / 'ant' / ant[0]).exists()
        and not (data / 'bee' / bee[0]).exists()
    )
    p.top(0, 'cow')
    assert {ant[2], ant[3]} < set(p.names())
    # take it back, do it again, take it all back
    p.press('Undo')
    p.reads('.vl-plan', 'Taken back: 8 pictures')
    assert tree(data) == was
    p.reads('.vl-count', '3 to delete, 5 to change')
    p.press('Redo')
    p.reads('.vl-plan', 'Done again')
    assert len(tree(data)) == len(was) - 3
    p.press('Restore all')
    p.reads('.vl-plan', 'Restored')
    assert tree(data) == was
    p.reads('.vl-count', '0 to delete, 0 to change')
    # through three classes, choosing and taking back
    for cat, other in (('ant', 'cow'), ('bee', 'ant'), ('cow', 'bee')):
        p.top(0, cat)
        for i in range(4):
            p.pick(i, other)
        p.pick(0, '<Delete>')
        p.pick(1, '<Keep>')
        assert p.chosen()[:4] == ['<Delete>', '<Keep>', other, other]
    p.reads('.vl-count', '3 to delete, 6 to change')
    p.press('Apply')
    p.press('Do it')
    p.press('Undo')
    p.press('Redo')
    p.press('Restore all')
    assert tree(data) == was
    # choices outlive the kernel
    p.top(0, 'ant')
    p.pick(0, '<Delete>')
    p.pick(4, 'cow')
    p.restart()
    p.reads('.vl-count', '1 to delete, 1 to change')
    p.top(2, 'name')
    assert p.chosen()[0] == '<Delete>' and p.chosen()[4] == 'cow'
    # what is on the disk decides
    (data / 'ant' / ant[0]).write_bytes(b'another picture')
    p.press('Apply')
    p.reads('.vl-plan', 'has changed')
    p.press('Do it')
    p.reads('.vl-plan', '1 refused')
    assert (data / 'ant' / ant[0]).read_bytes() == b'another picture' and (data / 'cow' / ant[4]).exists()
    p.press('Undo')
    assert tree(data) == was | {f'ant/{ant[0]}': b'another picture'}
    print(p.clicks, 'clicks')
    assert p.clicks >= 60 and p.trouble == [], (p.clicks, p.trouble)
    p.page.close()


def test_several_labels(lab, browser, data):
    was = tree(data)
    p = Person(
        browser,
        lab,
        [start.replace('MORE', "[[f.parent.name] + ['wild']*(i%2) for i,f in enumerate(files)], many=True")],
        name='tags.ipynb',
    )
    p.wait_cards()
    p.top(0, 'wild')
    p.top(2, 'name')

    def tags(i):
        return [t.strip() for t in p.cards().nth(i).locator('.jupyter-widget-tag:not(input)').all_inner_texts()]

    names = p.names()
    own = tags(0)
    assert 'wild' in own and len(own) == 2
    new = next(l for l in ('ant', 'bee', 'cow') if l not in own)
    p.pick(0, f'+ {new}')
    p.reads('.vl-count', '0 to delete, 1 to change')
    assert tags(0) == own + [new]
    p.cards().nth(1).locator('.jupyter-widget-tag-close').first.click()
    p.clicks += 1
    p.reads('.vl-count', '0 to delete, 2 to change')
    p.pick(2, '<Delete>')
    p.pick(3, f'+ {new}')
    p.pick(3, '<Keep>')
    assert p.chosen()[:4] == ['<Changed>', '<Changed>', '<Delete>', '<Keep>'] and tags(3) == tags(3)[:2]
    p.press('Apply')
    p.reads('.vl-plan', 'no picture is touched')
    p.press('Do it')
    p.reads('.vl-plan', 'Done: 3 pictures')
    csv = (data / 'labels_cleaned.csv').read_text()
    assert f'{names[0]},{" ".join(own + [new])},' in csv and names[2] not in csv
    p.press('Undo')
    assert tree(data) == was and p.trouble == []
    p.page.close()


shots = pytest.mark.skipif(
    not os.environ.get('VISLEARN_SHOTS'), reason='makes the pictures for the notebook: set VISLEARN_SHOTS=1'
)
train = """import shutil
from vislearn.all import *
from vislearn.widgets import *
path = Path('shots'); shutil.rmtree(path, ignore_errors=True); shutil.copytree(sample_data(), path)
verify_images(get_image_files(path)).map(Path.unlink)
"""


@shots
def test_screenshots(lab, browser):
    p = Person(
        browser,
        lab,
        [
            train
            + """dls = ImageDataLoaders.from_folder(path, valid_pct=.2, seed=1, item_tfms=Resize(128))
learn = vision_learner(dls, 'efficientnet_lite0', metrics=error_rate, seed=1); learn.fine_tune(2)
cleaner = ImageClassifierCleaner(learn); cleaner"""
        ],
        1600,
        name='one.ipynb',
    )
    p.wait_cards(400_000)
    p.top(0, '<All>')
    cats = p.page.locator('.vl-row select').first.locator('option').all_inner_texts()
    for i in (0, 1, 3):
        said = p.cards().nth(i).locator('.vl-says b').first.inner_text()
        if said in cats:
            p.pick(i, said)
    p.pick(2, 'fish')
    p.pick(4, '<Delete>')
    p.press('Apply')
    p.shot('cleaner.jpeg')
    p.press('Not yet')
    p.type('nn')
    p.shot('cleaner_keys.jpeg')
    p.page.close()


@shots
def test_screenshots_of_several_labels(lab, browser):
    p = Person(
        browser,
        lab,
        [
            train.replace('sample_data()', "sample_data('scenes')")
            + """
df = pd.read_csv(path/'train/metadata.csv'); names = list(df.columns[1:])
db = DataBlock((ImageBlock, MultiCategoryBlock), get_x=lambda r: path/'train'/f'{r.Id}.jpg', get_y=lambda r: [n for n in names if r[n]], splitter=RandomSplitter(seed=1), item_tfms=Resize(128))
learn = vision_learner(db.dataloaders(df), 'efficientnet_lite0', seed=1); learn.fine_tune(2)
cleaner = ImageClassifierCleaner(learn); cleaner"""
        ],
        1600,
        name='many.ipynb',
    )
    p.wait_cards(400_000)
    p.top(0, '<All>')
    for name, value in {
        'scene_0012.jpg': '+ butterfly',
        'scene_0216.jpg': '+ fish',
    }.items():  # two of the planted faults
        if name in p.names():
            p.pick(p.names().index(name), value)
    p.pick(5, '<Delete>')
    p.shot('cleaner_tags.jpeg')
