"""Models that travel: to the Hugging Face Hub and back (a stand-in for it on this machine), over an address, through
an open file; and the card that goes along.
"""

import base64
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from importlib.util import find_spec

import pytest
import yaml
from nbtools import ROOT
from tiny import make_dls, make_pictures, tiny_net

from vislearn.all import Learner, load_learner, vision_learner


class Hub(http.server.BaseHTTPRequestHandler):
    "As much of the Hub as pushing and fetching a small file takes."

    files: dict[str, bytes] = {}
    asked: list[str] = []

    def log_message(self, *args):
        pass

    def answer(self, data: bytes, **headers: str) -> None:
        self.send_response(200)
        for k, v in headers.items():
            self.send_header(k.replace('_', '-'), v)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(data)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get('content-length', 0)))
        self.asked.append(f'{self.path} {self.headers.get("authorization")}')
        here = f'http://{self.headers["host"]}'
        if self.path == '/api/repos/create':
            out = {'url': f'{here}/someone/ants', 'name': 'someone/ants'}
        elif '/preupload/' in self.path:
            sent = json.loads(body)['files']
            out = {'files': [{'path': o['path'], 'uploadMode': 'regular', 'shouldIgnore': False} for o in sent]}
        else:
            for line in map(json.loads, body.splitlines()):
                file = line.get('file') or (line.get('value') if line.get('key') == 'file' else None)
                if file:
                    self.files[file['path']] = base64.b64decode(file['content'])
            out = {'commitUrl': f'{here}/someone/ants/commit/{"1" * 40}', 'commitOid': '1' * 40}
        self.answer(json.dumps(out).encode(), Content_Type='application/json')

    def do_GET(self) -> None:
        name = self.path.rpartition('/')[2]
        if not self.path.startswith('/someone/ants/resolve/') or name not in self.files:
            self.send_response(404)
            self.send_header('X-Error-Code', 'EntryNotFound')
            self.send_header('Content-Length', '0')
            self.end_headers()
            return
        data = self.files[name]
        self.answer(data, ETag=f'"{hashlib.sha256(data).hexdigest()}"', X_Repo_Commit='1' * 40)

    do_HEAD = do_GET


@pytest.fixture
def hub():
    Hub.files, Hub.asked = {}, []
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()


@pytest.fixture(scope='module')
def learn(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tiny')
    return vision_learner(make_dls(make_pictures(folder / 'pictures'), folder), 'resnet18', pretrained=False, seed=0)


FETCH = """
from vislearn.all import load_learner
learn = load_learner('hf-hub:someone/ants')
print(*learn.dls.vocab)
"""
PUSH = """
import sys
from pathlib import Path
from vislearn.deploy.hub import push_model
print(push_model('someone/ants', Path(sys.argv[1]), '# card', token='hf_secret'))
"""


@pytest.mark.skipif(not find_spec('huggingface_hub'), reason='needs huggingface_hub')
def test_hub_there_and_back(learn, hub, tmp_path):
    file = learn.export(tmp_path / 'mine.pkl')
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'HF_ENDPOINT': hub, 'HF_HOME': str(tmp_path / 'hf')}
    env |= {'HF_HUB_DISABLE_XET': '1', 'NO_PROXY': '127.0.0.1'}

    def run(code: str) -> str:
        command = [sys.executable, '-c', code, str(file)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert '/commit/' in run(PUSH)
    assert Hub.files == {'export.pkl': file.read_bytes(), 'README.md': b'# card'}
    assert all('hf_secret' in o for o in Hub.asked)
    assert run(FETCH).split() == [str(o) for o in learn.dls.vocab]


@pytest.mark.skipif(not find_spec('huggingface_hub'), reason='needs huggingface_hub')
def test_a_learner_pushes_itself_with_its_card(learn, hub, tmp_path, monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.ENDPOINT', hub)
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    assert '/commit/' in learn.push_to_hub('someone/ants', token='hf_secret')
    assert set(Hub.files) == {'export.pkl', 'README.md'}
    front = yaml.safe_load(Hub.files['README.md'].decode().split('---\n')[1])
    assert front['library_name'] == 'vislearn' and front['model-index']
    (tmp_path / 'e.pkl').write_bytes(Hub.files['export.pkl'])
    picture = learn.dls.valid.items[0]
    assert load_learner(tmp_path / 'e.pkl').predict(picture)[0] == learn.predict(picture)[0]


def test_model_at_an_address_is_fetched_only_with_its_sha256(learn, hub, tmp_path, monkeypatch):
    monkeypatch.setenv('VISLEARN_HOME', str(tmp_path / 'home'))
    data = learn.export(tmp_path / 'a.pkl').read_bytes()
    Hub.files = {'a.pkl': data}
    url = f'{hub}/someone/ants/resolve/main/a.pkl'
    with pytest.raises(ValueError, match='SHA-256'):
        load_learner(url)
    with pytest.raises(ValueError, match='not the file that was asked for'):
        load_learner(url, sha256='0' * 64)
    there = load_learner(url, sha256=hashlib.sha256(data).hexdigest().upper())
    picture = learn.dls.valid.items[0]
    assert there.predict(picture)[0] == learn.predict(picture)[0]
    Hub.files = {}
    load_learner(url, sha256=hashlib.sha256(data).hexdigest())  # kept from before
    with pytest.raises(ValueError, match='not the file'):
        load_learner(tmp_path / 'a.pkl', sha256='0' * 64)
    with open(tmp_path / 'a.pkl', 'rb') as f:
        assert load_learner(f).dls.vocab == learn.dls.vocab


def test_a_checksum_is_looked_at_before_anything_is_fetched(hub):
    Hub.files = {}
    for wrong in ('abc', '../../secret', '0' * 63 + 'g'):
        with pytest.raises(ValueError, match='64 hexadecimal digits'):
            load_learner(f'{hub}/someone/ants/resolve/main/a.pkl', sha256=wrong)


def test_card_of_a_network_whose_config_is_an_object_of_its_own(learn):
    "As those of transformers have it."
    net = tiny_net()
    net.config = object()
    other = Learner(learn.dls, net)
    assert 'network: `TinyNet`' in other.card()


def test_card_says_what_was_measured(learn, tmp_path):
    learn.export(tmp_path / 'm.pkl', card=True)
    card = (tmp_path / 'm.md').read_text()
    _, front, body = card.split('---\n', 2)
    front = yaml.safe_load(front)
    probs, targs = learn.get_preds()
    n_right = int((probs.argmax(1) == targs).sum())
    assert front['library_name'] == 'vislearn' and front['pipeline_tag'] == 'image-classification'
    metric = front['model-index'][0]['results'][0]['metrics'][0]
    assert metric == {'type': 'accuracy', 'value': round(n_right / len(targs), 4)}
    assert f'{n_right} of {len(targs)}' in body and '95 % interval' in body and 'm.pkl' in body
    counts = learn.dls.target.counts(learn.dls.train.dataset.y)
    for label, n in zip(learn.dls.vocab, counts):
        assert f'| {label} | {n} |' in body
    assert str(tmp_path) not in card


def test_learner_gives_records_of_any_pictures(learn):
    items = [learn.dls.valid.items[0], b'', learn.dls.valid.items[1]]
    first, broken, last = learn.records(items, topk=1)
    assert first['label'] == learn.predict(items[0])[0] and len(last['probs']) == 1
    assert broken['error']['kind'] == 'empty' or broken['error']['message']


@pytest.mark.skipif(not (find_spec('onnx') and find_spec('onnxruntime')), reason='needs onnx')
def test_learner_writes_onnx(learn, tmp_path):
    from vislearn.deploy.runtime import OnnxPredictor

    file = learn.export_onnx(tmp_path / 'm.onnx', force=True)
    preds = learn.get_preds()
    before = OnnxPredictor(file).info['checked']['accuracy_before']
    assert before == pytest.approx((preds[0].argmax(1) == preds[1]).double().mean().item())
    picture = learn.dls.valid.items[0]
    theirs = OnnxPredictor(file).predict(picture)[2]
    assert abs(theirs - learn.predict(picture)[2].numpy()).max() < 0.02
