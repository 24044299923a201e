"The page of `vislearn serve` in a real browser: several pictures, bars, Grad-CAM, a correction, a phone, the keyboard."

import shutil
from importlib.util import find_spec

import pytest
from test_serve import COMMAND, folder, free_port, png, running  # noqa: F401 (folder is a fixture)

chromium = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
lacking = [n for n in ('playwright', 'fastapi', 'uvicorn') if not find_spec(n)] + ['chromium'] * (not chromium)
pytestmark = pytest.mark.skipif(bool(lacking), reason=f'needs {", ".join(lacking)}')


def test_page_of_the_server(folder, tmp_path):  # noqa: F811
    from playwright.sync_api import sync_playwright

    files = [tmp_path / f'{i}.png' for i in range(3)]
    for i, f in enumerate(files):
        f.write_bytes(png(i))
    broken = tmp_path / '<img src=x onerror=alert(1)>.jpg'
    broken.write_bytes(b'<html>')
    port = free_port()
    args = ['serve', folder / 'export.pkl', '--port', port, '--feedback', tmp_path / 'feedback', '--title', 'A <i>test']
    with running(COMMAND, *args, log=tmp_path / 'log.txt', port=port) as server, sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=['--no-sandbox', '--disable-dev-shm-usage'])
        page = browser.new_page(viewport={'width': 390, 'height': 800})  # a phone
        trouble, outside = [], []
        page.on('pageerror', lambda e: trouble.append(str(e)))
        page.on('dialog', lambda d: trouble.append(d.message))
        page.on('request', lambda r: outside.append(r.url) if f'127.0.0.1:{port}' not in r.url else None)
        page.goto(f'http://127.0.0.1:{port}/')
        page.wait_for_selector('body[data-ready=yes]', timeout=20_000)
        assert page.inner_text('h1') == page.title() == 'A <i>test'

        page.keyboard.press('Tab')  # everything can be reached without a mouse
        assert page.evaluate('document.activeElement.id') == 'files'
        assert page.evaluate('getComputedStyle(document.activeElement.parentElement).outlineStyle') == 'solid'
        page.keyboard.press('Tab')
        assert page.evaluate('document.activeElement.id') == 'camera'

        page.set_input_files('#files', [str(f) for f in files])
        page.locator('li.answer table .bar').nth(8).wait_for(timeout=20_000)
        truth = server.post('/predict', files[-1].read_bytes())[1]
        newest = page.locator('li.answer').first
        assert newest.locator('h2').inner_text().startswith(truth['label'])
        assert newest.locator('td.label').all_inner_texts() == list(truth['probs'])
        assert page.locator('#status').inner_text().startswith(files[-1].name)
        assert page.locator('li.answer img').first.get_attribute('alt') == files[-1].name
        assert page.evaluate('document.documentElement.scrollWidth <= window.innerWidth')

        newest.get_by_role('button', name='Where did it look?').press('Enter')
        page.locator('li.answer img[alt*="regions"]').wait_for(timeout=20_000)
        page.get_by_role('status').get_by_text('The regions that decided are marked').wait_for(timeout=10_000)
        page.wait_for_function('document.activeElement.textContent.includes("red regions")', timeout=10_000)
        page.keyboard.press('Tab')  # and on, where the button was
        assert page.evaluate('document.activeElement.tagName') == 'SELECT'
        newest.get_by_role('combobox').select_option('<b>&')
        newest.get_by_text('Thank you').wait_for(timeout=10_000)
        assert [o.read_bytes() for o in (tmp_path / 'feedback').glob('*/*.png')] == [files[-1].read_bytes()]

        page.set_input_files('#files', [str(broken)])
        page.wait_for_selector('h2.error', timeout=10_000)
        assert page.locator('li.answer').first.locator('.file').inner_text() == broken.name
        page.wait_for_function("document.querySelector('li.answer img').style.visibility == 'hidden'", timeout=10_000)

        probs = {'9': 0.9991, '5': 0.0089, '1': 0.0001}  # none is certain, and none impossible
        page.route('**/predict', lambda r: r.fulfill(json={'label': '9', 'index': 2, 'prob': 0.9991, 'probs': probs}))
        page.set_input_files('#files', [str(files[0])])
        page.locator('li.answer').first.locator('h2', has_text='9 (> 99 %)').wait_for(timeout=10_000)
        shares = page.locator('li.answer').first.locator('td.share').all_inner_texts()
        assert shares == ['> 99 %', '0.9 %', '< 0.1 %']

        probs = {'9': 0.6, '5': 0.3, '1': 0.1}  # JavaScript gives such keys in the order of numbers
        page.route('**/predict', lambda r: r.fulfill(json={'label': '9', 'index': 2, 'prob': 0.6, 'probs': probs}))
        page.set_input_files('#files', [str(files[0])])
        page.locator('li.answer').first.locator('h2', has_text='9').wait_for(timeout=10_000)
        assert page.locator('li.answer').first.locator('td.label').all_inner_texts() == ['9', '5', '1']

        page.goto(f'http://127.0.0.1:{port}/docs')
        page.wait_for_selector('h2')
        assert 'POST /predict' in page.inner_text('#list')

        dead = browser.new_page()
        dead.route('**/engine.js', lambda r: r.abort())
        dead.goto(f'http://127.0.0.1:{port}/')
        dead.get_by_role('status').get_by_text('The page cannot start').wait_for(timeout=10_000)
        browser.close()
    blobs = [o for o in outside if not o.startswith(('blob:', 'data:'))]
    assert not trouble and not blobs, (trouble, blobs)
