"`vislearn predict` as it is used from a shell: what it reads, what it writes, and what is left when it is stopped."

import base64
import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest
from nbtools import ROOT
from PIL import Image

pytestmark = pytest.mark.skipif(
    not all(map(find_spec, ('onnx', 'onnxscript', 'onnxruntime'))), reason="needs pip install 'vislearn[onnx]'"
)
COLOURS = {'red': 'r', 'green': 'g', 'blue': 'b'}  # and the label of each
COMMAND = 'import sys; from vislearn.app.cli import main; sys.exit(main())'


@pytest.fixture(scope='module')
def here(tmp_path_factory) -> Path:
    "A folder with a model that answers which of three colours prevails, and a picture of each."
    from torch import nn

    from vislearn.data.loaders import BatchPipeline
    from vislearn.data.resize import ItemPipeline, Resize
    from vislearn.data.targets import Category, Regression
    from vislearn.deploy.onnx import write_onnx
    from vislearn.deploy.predictor import Predictor

    here = tmp_path_factory.mktemp('here')
    (here / 'pictures').mkdir()
    for name in COLOURS:
        Image.new('RGB', (16, 16), name).save(here / f'pictures/{name}.png')
    (here / 'broken.jpg').write_bytes(b'<html>')
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for file, target in (('model.onnx', Category(['r', 'g', 'b'])), ('numbers.onnx', Regression(3))):
        predictor = Predictor(net, target, ItemPipeline(Resize(8)).valid(), BatchPipeline([]))
        write_onnx(predictor, here / file, [here / 'pictures/red.png'])
    return here


@pytest.fixture
def vislearn(here, monkeypatch, capsys):
    "Run the command in that folder: exit code, records on standard output, and what was said on standard error."
    from vislearn.app.cli import main

    monkeypatch.chdir(here)

    def run(*args: object) -> tuple[int, list[dict], str]:
        code = main(['predict', *map(str, args)])
        said = capsys.readouterr()
        return code, [json.loads(o) for o in said.out.splitlines()], said.err

    return run


def lines(path: str | Path) -> list[dict]:
    return [json.loads(o) for o in Path(path).read_text().splitlines()]


def labels(records: list[dict]) -> list[str]:
    return [o['label'] for o in records]


@pytest.mark.parametrize(
    'name, content',
    [
        ('list.txt', '# two\npictures/red.png\n\npictures/blue.png\n'),
        ('list.csv', 'n,image_path\n1,pictures/red.png\n2,pictures/blue.png\n'),
        ('list.tsv', 'n\timage_path\n1\tpictures/red.png\n2\tpictures/blue.png\n'),
        ('list.jsonl', '{"image_path": "pictures/red.png"}\n{"image_path": "pictures/blue.png"}\n'),
    ],
)
def test_lists_name_pictures_relative_to_where_they_are(here, vislearn, tmp_path, monkeypatch, name, content):
    (here / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    code, found, _ = vislearn(here / 'model.onnx', here / name)
    assert (code, labels(found)) == (0, ['r', 'b'])
    assert [o['item'] for o in found] == ['pictures/red.png', 'pictures/blue.png']


def test_column_of_a_table(here, vislearn):
    (here / 'mine.csv').write_text('file,n\npictures/green.png,1\n,2\n')
    code, found, said = vislearn('model.onnx', 'mine.csv', '--column', 'file')
    assert code == 3 and labels(found[:1]) == ['g']
    assert found[1] == {'item': 'mine.csv:3', 'error': {'kind': 'missing', 'message': 'the cell is empty'}}
    code, found, said = vislearn('model.onnx', 'mine.csv')
    assert (code, found) == (1, []) and "no column 'image_path'; its columns are file, n" in said


def test_patterns_folders_and_what_is_not_there(vislearn):
    code, found, _ = vislearn('model.onnx', 'pictures/*e*.png', 'pictures')
    assert (code, labels(found)) == (0, ['b', 'g', 'r', 'b', 'g', 'r'])
    code, found, _ = vislearn('model.onnx', 'nothing/*.png', 'absent.png', 'pictures/red.png')
    assert code == 3 and [o['item'] for o in found] == ['nothing/*.png', 'absent.png', 'pictures/red.png']
    assert [o.get('error', {}).get('kind') for o in found] == ['missing', 'missing', None]


@pytest.mark.skipif(sys.platform == 'win32', reason='this system has no pseudo-terminals')
def test_a_terminal_shows_an_unusable_picture_once(here):
    import pty

    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'TERM': 'xterm'} | {'VISLEARN_PROGRESS': 'terminal'}

    def shown(*args: str) -> str:
        ours, theirs = pty.openpty()
        command = [sys.executable, '-c', COMMAND, 'predict', 'model.onnx', 'broken.jpg', *args]
        p = subprocess.Popen(command, cwd=here, env=env, stdout=theirs, stderr=theirs, stdin=theirs)
        os.close(theirs)
        text = b''
        try:
            while part := os.read(ours, 4096):
                text += part
        except OSError:  # the end of a pseudo-terminal
            pass
        os.close(ours)
        assert p.wait(60) == (1 if '--strict' in args else 3)
        return text.decode()

    assert shown().count('a web page') == shown('--strict').count('a web page') == 1
    assert shown('-o', 'seen.jsonl').count('a web page') == 1


def test_standard_input_and_pictures_within_json(here, vislearn, monkeypatch):
    data = base64.b64encode((here / 'pictures/green.png').read_bytes()).decode()
    sent = [
        'pictures/red.png',
        json.dumps({'image': data}),
        json.dumps({'image': 'data:image/png;base64,' + data, 'item': 'mine'}),
        '{"image": "no base64!"}',
        '{"other": 1}',
        '{',
    ]
    monkeypatch.setattr(sys, 'stdin', iter(o + '\n' for o in sent))
    code, found, _ = vislearn('model.onnx', '-')
    assert code == 3 and labels(found[:3]) == ['r', 'g', 'g']
    assert [o['item'] for o in found] == ['pictures/red.png', '-:2', 'mine', '-:4', '-:5', '-:6']
    assert all('error' in o for o in found[3:])


def test_addresses_only_when_allowed(here, vislearn):
    handler = partial(SimpleHTTPRequestHandler, directory=str(here))
    handler.log_message = lambda *args: None
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f'http://127.0.0.1:{server.server_port}/pictures/blue.png'
        code, found, said = vislearn('model.onnx', address)
        assert code == 3 and '--urls' in found[0]['error']['message']
        code, found, said = vislearn('model.onnx', address, address + '.absent', '--urls', '--sort-into', 'fetched')
        server.shutdown()
    assert code == 3 and labels(found[:1]) == ['b'] and '404' in found[1]['error']['message']
    assert (here / 'fetched/b/blue.png').read_bytes() == (here / 'pictures/blue.png').read_bytes()


def test_files_hold_the_same_records(here, vislearn):
    args = 'model.onnx', 'pictures', 'broken.jpg', '--topk', 2, '--logits', '-o'
    for suffix in ('jsonl', 'csv', 'parquet'):
        if suffix == 'parquet':
            pytest.importorskip('pyarrow', reason='writing .parquet needs pip install pyarrow')
        assert vislearn(*args, f'out.{suffix}')[:2] == (3, [])
    records = lines('out.jsonl')
    assert [len(o.get('probs', '')) for o in records] == [2, 2, 2, 0]
    with open('out.csv', newline='') as f:
        table = list(csv.DictReader(f))
    import pyarrow.parquet as pq

    rows = pq.read_table('out.parquet').to_pylist()
    assert [o['item'] for o in rows] == [o['item'] for o in table] == [o['item'] for o in records]
    for record, texts, row in zip(records, table, rows, strict=True):
        assert row['label'] == record.get('label') and texts['label'] == record.get('label', '')
        assert row['index'] == record.get('index') and row['prob'] == record.get('prob')
        assert [row[f'prob_{o}'] for o in 'rgb'] == [record.get('probs', {}).get(o) for o in 'rgb']
        assert row['logits'] == (';'.join(map(str, record['logits'])) if 'logits' in record else None)
        assert row['message'] == record.get('error', {}).get('message')
        assert texts['prob_r'] == str(row['prob_r'] if row['prob_r'] is not None else '')


def test_sort_into_copies_each_picture_once(here, vislearn, tmp_path, monkeypatch):
    (here / 'sub').mkdir()
    Image.new('RGB', (20, 20), 'red').save(here / 'sub/red.png')  # another picture of the same name
    (here / 'sub/list.txt').write_text('red.png\n../pictures/red.png\n../pictures/blue.png\n../broken.jpg\n')
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # the second time nothing is added
        code, _, _ = vislearn(here / 'model.onnx', here / 'sub/list.txt', '--sort-into', 'sorted')
        assert code == 3
        assert sorted(str(o) for o in Path('sorted').rglob('*.png')) == [
            'sorted/b/blue.png',
            'sorted/r/red-1.png',
            'sorted/r/red.png',
        ]
    sizes = {Image.open(o).size for o in Path('sorted/r').iterdir()}
    assert sizes == {(16, 16), (20, 20)}
    code, found, said = vislearn(here / 'numbers.onnx', here / 'pictures', '--sort-into', 'x')
    assert (code, found) == (1, []) and 'this one predicts Regression' in said


def test_sort_into_finds_a_name_for_pictures_that_have_none(here, vislearn, tmp_path):
    image = base64.b64encode((here / 'pictures/red.png').read_bytes()).decode()
    rows = [{'item': name, 'image': image} for name in ('..', '.', 'http://127.0.0.1/', '../../up.png')]
    (tmp_path / 'odd.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    code, found, _ = vislearn('model.onnx', tmp_path / 'odd.jsonl', '--sort-into', tmp_path / 'odd')
    assert code == 0 and [o['item'] for o in found] == [o['item'] for o in rows]
    assert sorted(o.name for o in (tmp_path / 'odd/r').iterdir()) == ['picture.png', 'up.png']
    code, found, _ = vislearn('model.onnx', f'data:image/png;base64,{image}', '--sort-into', tmp_path / 'url')
    assert code == 0 and labels(found) == ['r']
    assert (tmp_path / 'url/r/0.png').read_bytes() == (here / 'pictures/red.png').read_bytes()


def test_a_cluster_that_sets_world_size_alone_starts_no_processes(here, vislearn, monkeypatch, capsys):
    from vislearn.app.cli import main

    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.delenv('RANK', raising=False)
    (here / 'labelled.csv').write_text('pictures/red.png,r\npictures/blue.png,b\n')
    assert main(['evaluate', 'model.onnx', 'labelled.csv', '--json-only']) == 0
    assert json.loads(capsys.readouterr().out)['accuracy'] == 1
    assert vislearn('model.onnx', 'broken.jpg')[0] == 3


def test_strict_stops_at_the_first_item_that_cannot_be_used(vislearn):
    code, _, said = vislearn('model.onnx', 'pictures/red.png', 'broken.jpg', 'pictures', '--strict', '-o', 's.jsonl')
    assert code == 1 and 'broken.jpg: ' in said and '--strict' in said.splitlines()[-1]
    assert [o['item'] for o in lines('s.jsonl')] == ['pictures/red.png', 'broken.jpg']


@pytest.mark.parametrize(
    'args, said',
    [
        (['model.onnx'], 'give pictures'),
        (['modle.onnx', 'pictures'], "there is no file modle.onnx; did you mean 'model.onnx'?"),
        (['pictures/red.png', 'pictures'], 'red.png'),
        (['model.onnx', 'pictures', '--provider', 'openvino'], "'openvino' is not installed here; there are cpu"),
        (['model.onnx', 'pictures', '--engine', 'tensorflow'], "'torch' or 'onnx', got 'tensorflow'"),
        (['model.onnx', 'pictures', '-o', 'out.xlsx'], '.jsonl, .csv or .parquet'),
        (['model.onnx', 'pictures', '--resume'], '--out'),
        (['model.onnx', 'pictures', '--resume', '-o', 'o.parquet'], '.jsonl or .csv'),
        (['model.onnx', 'pictures', '--batch-size', '0'], 'at least 1'),
    ],
)
def test_what_cannot_be_done_is_one_text_and_exit_code_1(vislearn, args, said):
    code, found, text = vislearn(*args)
    assert (code, found) == (1, []) and text.startswith('vislearn predict: ')
    assert said in text and len(text.splitlines()) == 1


@pytest.mark.parametrize(
    'words, said',
    [
        ('info pictures/red.png', 'red.png is neither an exported vislearn model nor an ONNX file'),
        ('info damaged.onnx', 'damaged.onnx is not a usable ONNX model of vislearn: it is damaged'),
        ('info absent.pkl', "No such file or directory: 'absent.pkl'"),
        ('bench model.onnx --batch-sizes x', "whole numbers such as 1,8,32, got 'x'"),
        ('export model.onnx pictures', 'but an ONNX model'),
        ('evaluate model.onnx pictures', 'one sub-folder for each label'),
        ('evaluate model.onnx empty.csv', 'one sub-folder for each label'),
        ('evaluate model.onnx paths.csv', "a path and a label in each row; one row is ['pictures/red.png']"),
        ('evaluate numbers.onnx pictures', 'this one predicts Regression'),
    ],
)
def test_errors_of_other_verbs(here, vislearn, capsys, words, said):
    from vislearn.app.cli import main

    (here / 'damaged.onnx').write_bytes(b'\x38\x01')  # a number where the graph should be
    (here / 'empty.csv').write_text('')
    (here / 'paths.csv').write_text('pictures/red.png\n')
    assert main(words.split()) == 1
    text = capsys.readouterr().err
    assert said in text and len(text.splitlines()) == 1


def test_a_model_is_known_by_its_content(here, vislearn):
    (here / 'no-suffix').write_bytes((here / 'model.onnx').read_bytes())
    assert labels(vislearn('no-suffix', 'pictures/red.png')[1]) == ['r']


LARGE = """import sys
from pathlib import Path
from PIL import Image
from vislearn.deploy.runtime import OnnxPredictor
def held():
    return int(Path('/proc/self/status').read_text().split('VmRSS:')[1].split()[0]) / 1024
predictor = OnnxPredictor(sys.argv[1])
predictor.predict(Image.new('RGB', (100, 100), 'red'))
before = held()
assert predictor.predict(Image.new('RGB', (6000, 4000), 'blue'))[0] == 'b'
print(held() - before)
"""


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='needs /proc, which this system has not')
def test_memory_is_given_back_after_a_large_picture(here):
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    command = [sys.executable, '-c', LARGE, str(here / 'model.onnx')]
    r = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert r.returncode == 0, r.stderr
    assert float(r.stdout) < 150  # MB; as numbers in 32 bits the picture takes 288


def start(here: Path, *args: object) -> subprocess.Popen:
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    pipe = subprocess.PIPE
    command = [sys.executable, '-c', COMMAND, 'predict', *map(str, args)]
    return subprocess.Popen(command, cwd=here, env=env, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize('suffix', ['jsonl', 'csv'])
def test_control_c_loses_nothing_and_resume_goes_on(here, suffix):
    names = [f'{name}-{i}.png' for i in range(1000) for name in COLOURS]
    many = here / 'many'
    many.mkdir(exist_ok=True)
    for o in names:
        if not (many / o).exists():
            os.link(here / f'pictures/{o.partition("-")[0]}.png', many / o)
    (many / 'list.txt').write_text('\n'.join(names))
    out = here / f'many.{suffix}'

    def items() -> list[str]:
        if suffix == 'jsonl':
            return [o['item'] for o in lines(out)]
        with open(out, newline='') as f:
            return [o['item'] for o in csv.DictReader(f)]

    process = start(here, 'model.onnx', 'many/list.txt', '-o', out.name, '--batch-size', 16)
    while not out.exists() or out.stat().st_size < 3000:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and 'stopped' in said and 'Traceback' not in said
    n = len(items())
    assert items() == names[:n] and 10 < n < len(names)
    assert f'{out.name} has {n} records; --resume goes on' in said

    process = start(here, 'model.onnx', 'many/list.txt', '-o', out.name, '--resume')
    process.communicate(timeout=120)
    assert process.returncode == 0 and items() == names


def test_a_parquet_file_that_is_stopped_has_what_was_done(here, vislearn, monkeypatch):
    pq = pytest.importorskip('pyarrow.parquet', reason='writing .parquet needs pip install pyarrow')

    def stopped_by_hand(n: int):
        for _ in range(n):
            yield 'pictures/red.png\n'
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, 'stdin', stopped_by_hand(95))
    code, _, said = vislearn('model.onnx', '-', '-o', 'stopped.parquet', '--batch-size', 10)
    n = pq.read_table('stopped.parquet').num_rows
    assert code == 130 and 50 <= n <= 95 and f'stopped.parquet has {n} records' in said
    monkeypatch.setattr(sys, 'stdin', stopped_by_hand(0))  # nothing done: the file stays as it is
    assert vislearn('model.onnx', '-', '-o', 'stopped.parquet')[0] == 130
    assert pq.read_table('stopped.parquet').num_rows == n


def test_a_reader_that_has_seen_enough_ends_the_run_quietly(here):
    process = start(here, 'model.onnx', *['pictures'] * 2000)
    assert json.loads(process.stdout.readline())['label'] == 'b'
    process.stdout.close()
    assert process.wait(60) == 0 and process.stderr.read() == ''


@pytest.mark.skipif(not hasattr(os, 'openpty'), reason='needs a terminal, which this system has not')
def test_progress_is_shown_in_a_terminal_and_errors_have_lines_of_their_own(here):
    import fcntl
    import pty
    import struct
    import termios

    main_end, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('4H', 24, 80, 0, 0))  # rows and columns
    args = 'predict', 'model.onnx', *['pictures'] * 300, 'broken.jpg', *['pictures'] * 300, '-o', 'bar.jsonl'
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'TERM': 'xterm'}
    env.pop('VISLEARN_PROGRESS', None)
    process = subprocess.Popen(
        [sys.executable, '-c', COMMAND, *args], cwd=here, env=env, stdin=terminal, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    shown = b''
    while True:
        try:
            part = os.read(main_end, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(main_end)
    assert process.wait(60) == 3
    rows = shown.decode().replace('\r\n', '\n').split('\n')
    assert any('predicting' in o and 'pictures' in o for o in rows)
    error = next(o for o in rows if 'broken.jpg: ' in o)
    assert 'predicting' not in error.split('\r')[-1]
    assert len(lines(here / 'bar.jsonl')) == 1801
