"""`vislearn serve` in a process of its own, on this machine only: whatever is sent, it answers 2xx, 4xx or 503 with
Retry-After.
"""

import base64
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from bad_images import kinds, mutant
from nbtools import ROOT
from PIL import Image

lacking = [o for o in ('fastapi', 'uvicorn', 'python_multipart') if not find_spec(o)]
pytestmark = pytest.mark.skipif(bool(lacking), reason=f'needs {", ".join(lacking)}')

COMMAND = 'import sys; from vislearn.app.cli import main; sys.exit(main())'
IMPATIENT = """import sys
from vislearn.app.predict import open_engine
from vislearn.deploy.serve import ServeOptions, serve
serve(open_engine(sys.argv[1]), port=int(sys.argv[2]), options=ServeOptions(header_seconds=4, body_seconds=4))
"""


class Server:
    "A running server, and how to ask it."

    def __init__(self, port: int, process: subprocess.Popen, log: Path):
        self.port = port
        self.process = process
        self.log = log

    def ask(self, method: str, path: str, body=None, headers=None) -> tuple[int, dict, bytes]:
        "Status, headers and body of an answer."
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def post(self, path: str, body=None, **headers: str) -> tuple[int, dict]:
        "Status and JSON of an answer."
        status, _, data = self.ask('POST', path, body, {k.replace('_', '-'): v for k, v in headers.items()})
        return status, json.loads(data)

    def socket(self) -> socket.socket:
        return socket.create_connection(('127.0.0.1', self.port), timeout=15)

    def raw(self, data: bytes) -> bytes:
        "The head of what comes back for bytes that need not be HTTP."
        with self.socket() as s:
            out = b''
            try:
                s.sendall(data)
                while b'\r\n\r\n' not in out and (part := s.recv(65536)):
                    out += part
            except ConnectionError:
                pass
            return out

    def is_well(self) -> None:
        assert self.ask('GET', '/ready')[0] == 200
        assert 'Traceback' not in self.log.read_text()


@contextmanager
def running(code: str, *args: object, log: Path, port: int) -> Iterator[Server]:
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    with open(log, 'w') as out:
        process = subprocess.Popen([sys.executable, '-c', code, *map(str, args)], stdout=out, stderr=out, env=env)
    server = Server(port, process, log)
    try:
        until = time.monotonic() + 240
        while True:
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            try:
                if server.ask('GET', '/ready')[0] == 200:
                    break
            except OSError:
                time.sleep(0.1)
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    "A folder with an export, and one picture."
    import torch

    from vislearn.core import set_seed
    from vislearn.data.loaders import BatchPipeline
    from vislearn.data.normalize import Normalize, imagenet_stats
    from vislearn.data.resize import ItemPipeline, Resize
    from vislearn.data.targets import Category
    from vislearn.deploy.bundle import save_bundle
    from vislearn.models.create import create_model

    folder = tmp_path_factory.mktemp('served')
    set_seed(0)
    net = create_model('resnet18', 3, pretrained=False)
    with torch.no_grad():
        net.head[-1].weight *= 10  # an untrained network that has opinions
    tfms = ItemPipeline(Resize(64)).valid(), BatchPipeline(Normalize.from_stats(*imagenet_stats))
    save_bundle(folder / 'export.pkl', net, Category(['ant', 'bee', '<b>&']), *tfms)
    (folder / 'picture.png').write_bytes(png(7))
    return folder


def png(seed: int, w: int = 320, h: int = 240) -> bytes:
    "A small picture of coloured noise."
    import numpy as np

    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((w, h)).save(file, 'PNG')
    return file.getvalue()


@pytest.fixture(scope='module')
def server(folder) -> Iterator[Server]:
    port = free_port()
    args = ['--feedback', folder / 'feedback', '--cors', 'https://example.org', '--max-body', 1_000_000]
    log = folder / 'log.txt'
    with running(COMMAND, 'serve', folder / 'export.pkl', '--port', port, *args, log=log, port=port) as o:
        yield o
        o.is_well()


def form(n: int, data: bytes = b'', filename: str = 'x.png') -> tuple[bytes, str]:
    "A body of `n` files and its type."
    head = f'--B\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n\r\n'.encode()
    return (head + data + b'\r\n') * n + b'--B--\r\n', 'multipart/form-data; boundary=B'


def test_answers_are_those_of_predict(server, folder):
    from vislearn.learner import load_learner

    learn = load_learner(folder / 'export.pkl')
    for seed in range(5):
        label, index, probs = learn.predict(png(seed))
        status, record = server.post('/predict', png(seed))
        assert (status, record['label'], record['index']) == (200, label, index)
        by_label = dict(zip(learn.dls.vocab, probs.tolist()))
        assert max(abs(record['probs'][k] - by_label[k]) for k in by_label) < 1e-5


def test_every_way_to_send_a_picture_gives_the_same_record(server):
    data = png(1)
    body, kind = form(1, data)
    text = base64.b64encode(data).decode()
    sent = [
        server.post('/predict', data, Content_Type='image/png'),
        server.post('/predict', body, Content_Type=kind),
        server.post('/predict', json.dumps({'image': text}), Content_Type='application/json'),
        server.post(
            '/predict', json.dumps({'image': 'data:image/png;base64,' + text}), Content_Type='application/json'
        ),
    ]
    assert [o[0] for o in sent] == [200] * 4
    assert all(o[1]['probs'] == sent[0][1]['probs'] for o in sent)


def test_bad_pictures_are_answers_not_failures(server, tmp_path):
    good = []
    for kind in kinds():
        if not isinstance(kind.make, bytes):
            continue  # what matters of these is the place of the file, or its gigabytes
        status, record = server.post('/predict', kind.make)
        assert status in (200, 413, 415), (kind.id, status, record)
        assert status == 200 or record['error']['message'], kind.id
        if kind.pixels is not None:
            assert status in (200, 413), (kind.id, record)
            good.append(kind.make)
    for seed in range(150):
        status, _ = server.post('/predict', mutant(seed, good))
        assert status in (200, 413, 415), seed
    server.is_well()


def test_oversize_bodies_are_refused_whatever_length_they_announce(server):
    head = b'POST /predict HTTP/1.1\r\nHost: x\r\n'
    lump = b'x' * 65536
    honest = head + b'Content-Length: 100000000\r\n\r\n' + lump * 40
    chunked = head + b'Transfer-Encoding: chunked\r\n\r\n' + (b'10000\r\n' + lump + b'\r\n') * 40
    lying = head + b'Content-Length: 10\r\n\r\n' + lump
    waiting = head + b'Expect: 100-continue\r\nContent-Length: 100000000\r\n\r\n'
    assert server.raw(honest).startswith(b'HTTP/1.1 413')
    assert server.raw(chunked).startswith(b'HTTP/1.1 413')
    assert server.raw(waiting).startswith(b'HTTP/1.1 413')
    assert server.raw(lying)[:12] in (b'HTTP/1.1 415', b'HTTP/1.1 400')
    for length in (b'-1', b'1e3', b'99999999999999999999999999', b'5, 6'):
        got = server.raw(head + b'Content-Length: ' + length + b'\r\n\r\nabc')
        assert got[:10] == b'HTTP/1.1 4', (length, got[:200])
    server.is_well()


@pytest.mark.parametrize(
    'method, path, wanted',
    [
        ('GET', '/predict', 405),
        ('DELETE', '/predict', 405),
        ('PUT', '/', 405),
        ('GET', '/../../etc/passwd', 404),
        ('GET', '/..%2f..%2fetc%2fpasswd', 404),
        ('GET', '/%2e%2e/%2e%2e/etc/passwd', 404),
        ('GET', '/page.json/../../../x', 404),
        ('POST', '/predict', 415),
        ('POST', '/predict?topk=0', 422),
        ('POST', '/predict?topk=' + '9' * 5000, 422),
        ('POST', '/predict?threshold=nan', 422),
        ('POST', '/feedback?label=owl', 422),
        ('POST', '/feedback?label=ant', 415),
        ('POST', '/explain', 415),
    ],
)
def test_wrong_requests(server, method, path, wanted):
    status, _, body = server.ask(method, path, b'' if method == 'POST' else None)
    assert status == wanted, body
    assert b'root:' not in body


@pytest.mark.parametrize(
    'body',
    [
        b'{',
        b'[' * 100_000,
        b'{}',
        b'[]',
        b'{"image": 3}',
        b'{"image": "\\ud800"}',
        b'{"image": "data:image/png,abc"}',
        b'{"images": []}',
        b'{"images": [null]}',
        b'\xff\xfe',
        b'{"image": ' + b'9' * 10_000 + b'}',
    ],
)
def test_wrong_json(server, body):
    status, answer = server.post('/predict', body, Content_Type='application/json')
    assert status in (400, 422) and answer['error']['message']


def test_wrong_forms(server):
    body, kind = form(10_000)
    assert server.post('/predict_batch', body, Content_Type=kind)[0] == 400
    assert server.post('/predict', form(2, png(0))[0], Content_Type=kind)[0] == 422
    assert server.post('/predict', b'no form', Content_Type='multipart/form-data')[0] == 400
    assert server.post('/predict', b'no form', Content_Type=kind)[0] in (400, 422)
    for name in ('../../etc/cron.d/x.png', '<img src=x onerror=alert(1)>.png', 'a\\b.png', 'x' * 5000, '%00'):
        body, kind = form(1, png(0), name)
        status, answer = server.post('/predict', body, Content_Type=kind)
        assert status in (200, 400), answer
    server.is_well()


def test_clients_that_leave_do_no_harm(server):
    head = b'POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\n'
    whole = b'POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n' % len(png(3)) + png(3)
    for data in (head, head + b'x' * 100, whole, b'GET', b''):
        for _ in range(10):
            with server.socket() as s:
                s.sendall(data)
    time.sleep(0.5)
    server.is_well()


def test_nobody_is_refused_for_ever(server):
    "At four times the load that fits into the queue: answers, or 503 with the seconds to wait; then all is as before."
    data = png(2, 80, 60)

    def ask(_: int) -> tuple[int, dict, float]:
        start = time.monotonic()
        status, headers, _ = server.ask('POST', '/predict_batch', *batch)
        return status, headers, time.monotonic() - start

    body, kind = form(20, data)
    batch = body, {'Content-Type': kind}
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, range(36)))
    statuses = {o[0] for o in answers}
    assert statuses <= {200, 503} and 200 in statuses
    assert all(int(headers['retry-after']) >= 1 for status, headers, _ in answers if status == 503)
    assert max(seconds for _, _, seconds in answers) < 15
    assert server.post('/predict', data)[0] == 200


def test_other_sites_may_ask_only_where_allowed(server):
    asked = {'Origin': 'https://example.org', 'Access-Control-Request-Method': 'POST'}
    _, headers, _ = server.ask('OPTIONS', '/predict', None, asked)
    assert headers['access-control-allow-origin'] == 'https://example.org'
    _, headers, _ = server.ask('OPTIONS', '/predict', None, asked | {'Origin': 'https://evil.example'})
    assert 'access-control-allow-origin' not in headers


def test_corrections_can_be_reviewed_with_the_cleaner(server, folder):
    from vislearn.data.files import get_image_files
    from vislearn.data.labels import parent_label

    for seed, label in enumerate(['ant', 'bee', 'bee']):
        assert server.post(f'/feedback?label={label}', png(seed)) == (200, {'stored': label})
    assert server.post('/feedback?label=ant', png(0)[:500])[0] == 415
    files = get_image_files(folder / 'feedback')
    assert sorted(parent_label(o) for o in files) == ['ant', 'bee', 'bee']
    notes = (folder / 'feedback/feedback.jsonl').read_text().splitlines()
    assert [json.loads(o)['label'] for o in notes] == ['ant', 'bee', 'bee']

    from vislearn.all import ImageClassifierCleaner, ImageDataLoaders, Learner, Resize, load_learner

    dls = ImageDataLoaders.from_folder(folder / 'feedback', valid_pct=0.34, seed=0, item_tfms=Resize(64), bs=2)
    net = load_learner(folder / 'export.pkl').model
    cleaner = ImageClassifierCleaner(Learner(dls, net))
    splits = [cleaner.review.pictures(o) for o in cleaner.review.load]
    assert sorted(p.label for split in splits for p in split) == ['ant', 'bee', 'bee']
    cleaner.cleaner.change(files[0], 'bee')  # the visitor was wrong
    cleaner.cleaner.apply()
    assert sorted(parent_label(o) for o in get_image_files(folder / 'feedback')) == ['bee', 'bee', 'bee']


def test_numbers_are_in_the_form_that_prometheus_reads(server):
    server.post('/predict', png(0))
    server.post('/predict', b'<html>')
    _, headers, body = server.ask('GET', '/metrics')
    assert headers['content-type'].startswith('text/plain; version=0.0.4')
    kinds: dict[str, str] = {}
    values: dict[str, float] = {}
    for line in body.decode().splitlines():
        if line.startswith('# TYPE '):
            name, kind = line.split()[2:]
            assert name not in kinds and kind in ('counter', 'gauge', 'summary')
            kinds[name] = kind
        else:
            found = re.fullmatch(r'([a-z_]+)(\{[a-z]+="[^"]*"\})? ([0-9.]+)', line)
            assert found and any(found[1] in (k, f'{k}_sum', f'{k}_count') for k in kinds), line
            assert found[1] + (found[2] or '') not in values
            values[found[1] + (found[2] or '')] = float(found[3])
    assert values['vislearn_requests_total{status="415"}'] >= 1
    by_status = sum(v for k, v in values.items() if k.startswith('vislearn_requests_total'))
    assert by_status == values['vislearn_request_seconds_count']


LEARNER = """import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tiny import make_pictures
from vislearn.all import ImageDataLoaders, Resize, vision_learner
folder = Path(sys.argv[2])
dls = ImageDataLoaders.from_folder(make_pictures(folder / 'colours'), valid_pct=0.2, seed=0, item_tfms=Resize(96))
learn = vision_learner(dls, 'resnet18', path=folder, pretrained=False, seed=0)
learn.export(folder / 'colours.pkl')
learn.serve(port=int(sys.argv[3]))
"""


def test_a_learner_serves_itself(folder):
    from vislearn.learner import load_learner

    port = free_port()
    args = Path(__file__).parent, folder, port
    with running(LEARNER, *args, log=folder / 'learner.txt', port=port) as server:
        status, record = server.post('/predict', png(1))
        assert status == 200 and server.ask('GET', '/')[0] == 200
        assert json.loads(server.ask('GET', '/page.json')[2])['explains'] is True
        assert server.ask('POST', '/explain', png(1))[0] == 200
    label, _, probs = load_learner(folder / 'colours.pkl').predict(png(1))
    assert label == record['label'] and abs(float(probs.max()) - record['prob']) < 1e-5


def test_where_the_network_looked_is_a_picture(server):
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: server.ask('POST', '/explain', png(4)), range(12)))
    explained = [o[2] for o in answers if o[0] == 200]
    assert {o[0] for o in answers} <= {200, 503} and explained
    assert all(Image.open(io.BytesIO(o)).size == (64, 64) for o in explained)


def test_slow_clients_are_dropped(folder):
    port = free_port()
    with running(IMPATIENT, folder / 'export.pkl', port, log=folder / 'slow.txt', port=port) as server:
        slow = [server.socket() for _ in range(250)]
        for s in slow:
            s.sendall(b'POST /predict HTTP/1.1\r\nHost: x\r\n')
        for s in slow[:3]:
            s.sendall(b'X-Slow: 1\r\n')  # a little more does not help
        body = server.socket()
        body.sendall(b'POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\nabc')
        assert server.post('/predict', png(0))[0] == 200  # the others are served meanwhile
        assert body.recv(100).startswith(b'HTTP/1.1 408')
        for s in slow:
            s.settimeout(30)
            assert s.recv(1) == b''  # closed by the server
            s.close()
        again = http.client.HTTPConnection('127.0.0.1', port, timeout=30)
        for _ in range(3):  # a connection that is kept has a deadline for each request
            again.request('POST', '/predict', png(1))
            assert again.getresponse().read()
            time.sleep(2)
        server.is_well()


def test_stop_leaves_nobody_without_an_answer(folder):
    port = free_port()
    with running(COMMAND, 'serve', folder / 'export.pkl', '--port', port, log=folder / 'stop.txt', port=port) as server:
        statuses = stop_under_load(server)
        assert set(statuses) <= {200, 503} and 200 in statuses
        assert 'Traceback' not in server.log.read_text()


def stop_under_load(server: Server) -> list[int]:
    """The statuses of forty requests that had been sent when the server was told to stop; each has one.

    The server is asleep while they are sent: it has accepted no connection and read nothing.
    """
    sent = threading.Barrier(41)
    head = f'POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(png(0))}\r\n\r\n'.encode()

    def ask(_: int) -> int:
        with server.socket() as s:
            s.settimeout(60)
            s.sendall(head + png(0))
            sent.wait()
            answer = b''
            while part := s.recv(65536):
                answer += part
        assert b'connection: close' in answer.lower()
        return int(answer.split()[1])

    server.process.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(40) as pool:
        statuses = [pool.submit(ask, i) for i in range(40)]
        sent.wait()
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGCONT)
        answered = [o.result() for o in statuses]
    assert server.process.wait(60) in (0, -signal.SIGTERM)
    return answered


def test_an_address_that_is_taken_is_one_text(folder):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        for given in (port, 99999):
            args = [sys.executable, '-c', COMMAND, 'serve', str(folder / 'export.pkl'), '--port', str(given)]
            env = {**os.environ, 'PYTHONPATH': str(ROOT)}
            done = subprocess.run(args, capture_output=True, text=True, timeout=240, env=env)
            assert done.returncode == 1 and done.stdout == ''
            (said,) = done.stderr.splitlines()
            assert str(given) in said and 'choose another port' in said


def test_a_key_is_asked_for_and_limits_end_with_the_server(folder):
    from fastapi.testclient import TestClient

    from vislearn.app.predict import open_engine
    from vislearn.data import decode
    from vislearn.deploy.serve import ServeOptions, make_app

    app = make_app(open_engine(folder / 'export.pkl'), ServeOptions(api_key='käse', max_pixels=100_000))
    limit = decode.max_pixels
    with TestClient(app) as client:
        assert decode.max_pixels == 100_000
        assert client.post('/predict', content=png(0)).status_code == 401
        assert client.post('/predict', content=png(0), headers={'X-API-Key': 'wrong'}).status_code == 401
        assert client.get('/labels').status_code == client.get('/page.json').status_code == 401
        assert client.post('/predict', content=png(0), headers={'X-API-Key': 'käse'.encode()}).status_code == 200
        assert client.get('/').status_code == 200  # the page asks for the key
    assert decode.max_pixels == limit  # in a notebook other pictures are opened afterwards


class TwoAtOnce:
    "An engine that computes two batches at the same time; some items are trouble."

    batches_at_once = 2

    def __init__(self, compute=lambda: None):
        from vislearn.data.answers import CategoryAnswer

        self.answer = CategoryAnswer(['dark', 'light'])
        self.compute = compute
        self.begun: list[threading.Thread] = []

    def begin_thread(self):
        self.begun.append(threading.current_thread())

    def open(self, source):
        if source == 'exits':
            raise SystemExit(3)
        if source == 'is damaged':
            raise ValueError('damaged')
        return () if source == 'is nothing' else (np.array([0.25, 0.75]), None)

    def scores(self, pixels):
        self.compute()
        probs = np.stack(pixels)
        return probs, np.log(probs)


@contextmanager
def batching(engine, **options):
    from vislearn.deploy.batcher import Batcher
    from vislearn.deploy.records import Item

    batcher = Batcher(engine, **options)
    batcher.send = lambda *sources, **asked: batcher.submit_all([Item(o, o) for o in sources], **asked)
    try:
        yield batcher
    finally:
        batcher.close()


def test_an_engine_may_compute_several_batches_at_the_same_time():
    both = threading.Barrier(2, timeout=30)
    engine = TwoAtOnce(both.wait)
    with batching(engine, bs=1) as batcher:
        assert [o.result(30)['label'] for o in batcher.send('a', 'b', 'c', 'd')] == ['light'] * 4
    assert len(set(engine.begun)) == 2 and not any(o.is_alive() for o in engine.begun)


def test_a_thread_that_cannot_begin_is_an_error_at_once():
    class Broken(TwoAtOnce):
        def begin_thread(self):
            super().begin_thread()
            if len(self.begun) == 2:
                raise RuntimeError('no second thread')

    engine = Broken()
    with pytest.raises(RuntimeError, match='no second thread'), batching(engine):
        pass
    for thread in engine.begun:
        thread.join(30)
        assert not thread.is_alive()


def test_the_time_for_a_picture_is_that_of_batches_whichever_ends_first():
    "Two batches that end together, or a picture that is an error at once, do not make it nearly 0."
    with batching(TwoAtOnce(lambda: time.sleep(0.1))) as batcher:
        for _ in range(3):
            for answer in batcher.send(*range(16)):
                answer.result(30)
            assert batcher.speed.seconds_each > 0.1 / 2 / 8 / 2
        assert 'error' in batcher.send('is damaged')[0].result(30)
        assert batcher.speed.seconds_each > 0.1 / 2 / 8 / 2


@pytest.mark.parametrize('trouble', ['exits', 'is nothing'])
def test_whatever_a_transform_does_someone_is_told(trouble):
    with batching(TwoAtOnce()) as batcher:
        for _ in range(3):
            good, bad = batcher.send('a', trouble)
            assert isinstance(bad.exception(30), Exception)  # not a SystemExit, which would end the server
            assert good.result(30)['label'] == 'light'
        assert batcher.waiting == 0


def test_a_fault_reaches_only_those_who_asked_for_the_same():
    engine = TwoAtOnce()
    record = engine.answer.record

    def choosy(probs, topk=None, **rest):
        if topk == 7:
            raise RuntimeError('not seven')
        return record(probs, topk=topk, **rest)

    engine.answer.record = choosy
    with batching(engine, bs=2, pause=5, opening=5) as batcher:
        (good,), (bad,) = batcher.send('a'), batcher.send('b', topk=7)
        with pytest.raises(RuntimeError, match='not seven'):
            bad.result(30)
        assert good.result(30)['label'] == 'light'


def test_pictures_that_nobody_waits_for_leave_the_queue_and_a_stop_answers_the_others():
    may_go_on = threading.Event()
    engine = TwoAtOnce()
    opened = engine.open
    engine.open = lambda source: may_go_on.wait(30) and opened(source)
    with batching(engine, workers=1) as batcher:
        answers = batcher.send(*range(9))
        assert sum(o.cancel() for o in answers[3:6]) == 3
        may_go_on.set()
    assert batcher.waiting == 0
    assert [o.result(0)['label'] for o in answers if not o.cancelled()] == ['light'] * 6


def test_each_batch_of_pytorch_has_its_share_of_the_processors(folder):
    import torch

    from vislearn.deploy.predictor import load_predictor

    n = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        predictor = load_predictor(folder / 'export.pkl', device='cpu')
        with ThreadPoolExecutor(1, initializer=predictor.begin_thread) as pool:
            assert predictor.batches_at_once == 2 and pool.submit(torch.get_num_threads).result() == 2
        assert torch.get_num_threads() == 4
        torch.set_num_threads(1)
        assert predictor.batches_at_once == 1
    finally:
        torch.set_num_threads(n)


SHARES = """import threading, torch
from vislearn.core import compute_alone
def begin():
    together.wait()
    compute_alone(2)
    seen.append(torch.get_num_threads())
torch.set_num_threads(8)
for _ in range(30):
    together, seen = threading.Barrier(6), []
    threads = [threading.Thread(target=begin) for _ in range(6)]
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    for o in threads:
        o.start()
    for o in threads:
        o.join()
    later.start()
    later.join()
    assert seen == [4] * 6 + [8], seen
"""


def test_threads_that_begin_together_have_the_same_share():
    subprocess.run([sys.executable, '-c', SHARES], check=True, timeout=120, env={**os.environ, 'PYTHONPATH': str(ROOT)})
