"A static site answers in a real browser what the library answers."

import http.server
import os
import shutil
import subprocess
import threading
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

chromium = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
lacking = [n for n in ('playwright', 'onnx', 'onnxscript', 'onnxruntime') if not find_spec(n)] + ['chromium'] * (
    not chromium
)
pytestmark = pytest.mark.skipif(bool(lacking), reason=f'needs {", ".join(lacking)}')


@pytest.fixture(scope='session')
def ort_web(tmp_path_factory) -> Path:
    "The files of onnxruntime-web, from the npm registry or the folder in ORT_WEB."
    if 'ORT_WEB' in os.environ:
        return Path(os.environ['ORT_WEB'])
    if not shutil.which('npm'):
        pytest.skip('needs npm, or the dist folder of onnxruntime-web in ORT_WEB')
    from vislearn.deploy.web import ORT_VERSION

    folder = tmp_path_factory.mktemp('npm')
    got = subprocess.run(
        ['npm', 'pack', f'onnxruntime-web@{ORT_VERSION}'], cwd=folder, capture_output=True, timeout=300
    )
    if got.returncode:
        pytest.skip('onnxruntime-web cannot be fetched from the npm registry')
    shutil.unpack_archive(next(folder.glob('*.tgz')), folder)
    return folder / 'package/dist'


@pytest.fixture
def served(tmp_path):
    "A function that serves a folder on this machine and gives its address."
    servers = []

    def serve(folder: Path) -> str:
        class Quiet(http.server.SimpleHTTPRequestHandler):
            extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, '.mjs': 'text/javascript'}

            def log_message(self, *args):
                pass

        server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f'http://127.0.0.1:{server.server_port}/'

    yield serve
    for o in servers:
        o.shutdown()


def test_site_says_that_its_runtime_cannot_be_fetched(tmp_path, served):
    from importlib.resources import files

    from playwright.sync_api import sync_playwright

    page_files = files('vislearn.deploy').joinpath('page')
    engine = page_files.joinpath('in_browser.js').read_text(encoding='utf-8')
    engine = engine.replace('__ORT__', './nowhere').replace('__MODEL__', '{"title": "Ours", "answer": {}}')
    (tmp_path / 'engine.js').write_text(engine, encoding='utf-8')
    (tmp_path / 'index.html').write_bytes(page_files.joinpath('index.html').read_bytes())
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=['--no-sandbox', '--disable-dev-shm-usage'])
        page = browser.new_page()
        page.goto(served(tmp_path))
        page.get_by_role('status').get_by_text('The model cannot be loaded').wait_for(timeout=20_000)
        assert page.inner_text('h1') == 'Ours'
        page.goto((tmp_path / 'index.html').as_uri())
        page.get_by_role('status').get_by_text('python -m http.server').wait_for(timeout=20_000)
        browser.close()


def test_site_answers_as_python_does(tmp_path, ort_web, served):
    import torch
    from playwright.sync_api import sync_playwright

    from vislearn.collect.samples import sample_data
    from vislearn.core import set_seed
    from vislearn.data.loaders import BatchPipeline
    from vislearn.data.normalize import Normalize, imagenet_stats
    from vislearn.data.resize import ItemPipeline, Resize
    from vislearn.data.targets import Category
    from vislearn.deploy.predictor import Predictor
    from vislearn.deploy.web import write_site
    from vislearn.models.create import create_model

    set_seed(0)
    files = sorted(sample_data(clean=True).glob('*/*'))[::15][:20]
    tfms = ItemPipeline(Resize(64)).valid(), BatchPipeline(Normalize.from_stats(*imagenet_stats))
    labels = ['<b>bold', 'dog', 'owl & co']  # names are shown as they are, never as HTML
    net = create_model('resnet18', 3, pretrained=False)
    with torch.no_grad():
        net.head[-1].weight *= 20  # an untrained network that has opinions
    predictor = Predictor(net, Category(labels), *tfms)
    site = write_site(
        predictor, tmp_path / 'site', files, title='Test <i>', ort=ort_web, force=True
    )  # a tie is no disagreement here
    truth = list(predictor.records(files))
    with sync_playwright() as p:
        browser = p.chromium.launch(
            executable_path=chromium, args=['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu']
        )
        page = browser.new_page(viewport={'width': 390, 'height': 800})  # a phone
        trouble, outside = [], []
        page.on('pageerror', lambda e: trouble.append(str(e)))
        page.on(
            'request',
            lambda r: outside.append(r.url) if '127.0.0.1' not in r.url and r.url.startswith('http') else None,
        )
        page.goto(served(site))
        page.wait_for_selector('body[data-ready=yes]', timeout=60_000)
        assert page.inner_text('h1') == 'Test <i>'
        page.set_input_files('#files', [str(f) for f in files])
        page.wait_for_function(
            f"document.querySelectorAll('li.answer table .bar').length == {3 * len(files)}", timeout=120_000
        )
        seen = page.evaluate(
            """async files => {
                const engine = await import('./engine.js'), input = document.querySelectorAll('li.answer img'), out = [];
                for (const img of [...input].reverse()) out.push(await engine.predict(await (await fetch(img.src)).blob()));
                return out;
            }"""
        )
        page.screenshot(path=tmp_path / 'site.png')
        assert page.evaluate('document.documentElement.scrollWidth <= window.innerWidth'), (
            'the page is wider than a phone'
        )
        broken = tmp_path / 'broken.jpg'
        broken.write_bytes(b'<html>')
        page.set_input_files('#files', [str(broken)])
        page.wait_for_selector('h2.error', timeout=10_000)
        browser.close()
    assert not trouble and not outside, (trouble, outside)
    for a, b in zip(seen, truth):
        assert a['probs'].keys() == b['probs'].keys()
        assert max(abs(a['probs'][k] - b['probs'][k]) for k in a['probs']) < 0.02
        first, second, _ = b['probs'].values()
        assert a['label'] == b['label'] or first - second < 0.02
