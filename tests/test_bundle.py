"Model files from strangers: nothing in them is run, whatever they are; and what a file of ours must survive."

import functools
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import FULL, TinyNet, tiny_net
from torch import nn

from vislearn.data.batches import BatchPipeline
from vislearn.data.normalize import Normalize
from vislearn.data.resize import ItemPipeline, Resize
from vislearn.data.targets import Category, MultiCategory, Regression
from vislearn.deploy.bundle import BundleError, describe_file, load_bundle, save_bundle
from vislearn.deploy.peek import describe_model
from vislearn.deploy.predictor import Predictor
from vislearn.learner import load_learner
from vislearn.models.create import create_model

HERE = Path(__file__).parent
item_tfms, batch_tfms = ItemPipeline(Resize(32)), BatchPipeline(Normalize([0.5] * 3, [0.5] * 3))
target = Category(['cat', 'dog', 'ox'])


def export(path, model=None):
    return save_bundle(path, model or tiny_net(), target, item_tfms, batch_tfms)


# hostile files


class Runs:
    "Unpickles to the call of a function."

    def __init__(self, f, *args):
        self.f, self.args = f, args

    def __reduce__(self):
        return self.f, self.args


def gadgets(mark: str) -> dict[str, object]:
    "Things that leave the file `mark` behind when unpickled."
    import pkgutil
    import runpy
    import timeit

    write = f'open({mark!r}, "w").close()'
    script = Path(mark).with_suffix('.py')
    script.write_text(write)
    inner = Path(mark).with_suffix('.inner')
    torch.save(Runs(exec, write), inner)
    return {
        'os.system': Runs(os.system, f'{sys.executable} {script}'),
        'exec': Runs(exec, write),
        'eval': Runs(eval, write.replace('.close()', '')),
        'open': Runs(open, mark, 'w'),
        'timeit': Runs(timeit.timeit, write, 'pass', timeit.default_timer, 1),
        'runpy': Runs(runpy.run_path, str(script)),
        'popen': Runs(subprocess.Popen, [sys.executable, str(script)]),
        'resolve': Runs(pkgutil.resolve_name, 'os:system'),
        'nested load': Runs(functools.partial(torch.load, str(inner), weights_only=False)),
        'getattr': Runs(getattr, Runs(__import__, 'os'), 'system'),
        'compile': Runs(compile, write, 'x', 'exec'),
        'import': Runs(__import__, 'antigravity_of_vislearn'),
    }


def hostile(folder: Path, mark: str) -> list[Path]:
    "Files that want to run code, or to be believed."
    res = []

    def put(name, data):
        res.append(folder / name.replace(' ', '_'))
        res[-1].write_bytes(data)

    def torch_bytes(o, **kwargs):
        f = io.BytesIO()
        torch.save(o, f, **kwargs)
        return f.getvalue()

    good = torch.load(export(folder / 'good.bin'), weights_only=True)
    for name, g in gadgets(mark).items():
        put(f'{name}.pkl', pickle.dumps(g))
        put(f'{name}.zip.pkl', torch_bytes(g))
        put(f'{name}.old.pkl', torch_bytes(g, _use_new_zipfile_serialization=False))
        put(f'{name}.in_good.pkl', torch_bytes({**good, 'steps': [g]}))
    for p in range(6):
        put(f'protocol{p}.pkl', pickle.dumps(Runs(exec, f'open({mark!r}, "w")'), protocol=p))
    put('module.pkl', torch_bytes(nn.Linear(2, 2)))
    put('script.pkl', _jit_bytes())
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode='w') as t:
        t.addfile(tarfile.TarInfo('pickle'), io.BytesIO(b''))
    put('tar.pkl', tar.getvalue())
    data = (folder / 'good.bin').read_bytes()
    put('polyglot.pkl', pickle.dumps(Runs(exec, f'open({mark!r}, "w")')) + data)
    put('compressed.pkl', _rezip(data, zipfile.ZIP_DEFLATED))
    put(
        'twice.pkl',
        _rezip(data, zipfile.ZIP_STORED, extra=('good/data.pkl', pickle.dumps(Runs(exec, f'open({mark!r}, "w")')))),
    )
    put(
        'climbs.pkl',
        _rezip(data, zipfile.ZIP_STORED, extra=('../../data.pkl', pickle.dumps(Runs(exec, f'open({mark!r}, "w")')))),
    )
    for k, v in {
        'hub': 'hf-hub:someone/net',
        'hub2': 'hf_hub:someone/net',
        'local': 'local-dir:/tmp/x',
        'url': 'https://example.com/x',
        'path': '/etc/passwd',
        'number': 5,
    }.items():
        put(f'arch_{k}.pkl', torch_bytes({**good, 'config': {'arch': v, 'n_out': 2}}))
    for k, v in {
        'checkpoint_path': mark,
        'pretrained_cfg': {'url': 'https://example.com/x'},
        'cache_dir': '/tmp',
        'pretrained': True,
    }.items():
        put(f'kwargs_{k}.pkl', torch_bytes({**good, 'config': {'arch': 'resnet18', 'n_out': 2, 'arch_kwargs': {k: v}}}))
    put('tfm.pkl', torch_bytes({**good, 'item_tfms': [{'type': 'os.system', 'command': 'true'}]}))
    put('target.pkl', torch_bytes({**good, 'target': {'type': 'exec', 'code': 'pass'}}))
    put('types.pkl', torch_bytes({**good, 'weights': 'all of them', 'bs': 'many'}))
    put('version.pkl', torch_bytes({**good, 'version': 10**6}))
    put('maker.pkl', torch_bytes({**good, 'version': 10**6, 'made_with': 3}))
    put('keys.pkl', torch_bytes({'format': 'vislearn', 'version': 1}))
    put('deep.pkl', b'\x80\x04' + b'(' * 50_000 + b'.')
    put('header.pkl', struct.pack('<Q', 10**8) + b'{' + b' ' * 1000)
    return res


def _jit_bytes() -> bytes:
    f = io.BytesIO()
    with warnings.catch_warnings(action='ignore'):
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), f)
    return f.getvalue()


def _rezip(data: bytes, how: int, extra: tuple | None = None) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as a, zipfile.ZipFile(out, 'w', how) as b:
        for o in a.namelist():
            b.writestr(o, a.read(o))
        if extra:
            b.writestr(*extra)
    return out.getvalue()


WATCH = """
import json, sys, time, warnings
warnings.simplefilter('ignore')
from pathlib import Path
from tiny import TinyNet
import torch, timm, torchvision
from vislearn.learner import load_learner
seen, on = [], False
def hook(event, args):
    if on and (event in ('os.system', 'subprocess.Popen', 'socket.connect', 'pickle.find_class', 'os.remove', 'os.rename') or event == 'open' and isinstance(args[1], str) and set(args[1]) & set('wax+')):
        seen.append(f'{event} {args}'[:200])
sys.addaudithook(hook)
res = {}
for f in sys.argv[1:]:
    seen.clear(); start, on = time.time(), True
    # files that describe a network are loaded as they say; the others get one, to go as far as they can
    try: load_learner(f, model=None if Path(f).name.startswith(('arch_', 'kwargs_')) else TinyNet()); answer = 'loaded'
    except Exception as e: answer = f'{type(e).__name__}: {e}'
    on = False
    res[Path(f).name] = (answer, list(seen), time.time() - start)
print(json.dumps(res))
"""


def test_nothing_is_run(tmp_path):
    "Nearly 80 hostile files: refused with a message, nothing run, nothing written, nothing opened on the network."
    mark = tmp_path / 'mark' / 'it_ran'
    mark.parent.mkdir()
    files = hostile(tmp_path, str(mark))
    assert len(files) >= 75
    r = subprocess.run(
        [sys.executable, '-c', WATCH, *files],
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD': '1'},
    )
    assert r.returncode == 0, r.stderr[-3000:]
    for name, (answer, seen, took) in json.loads(r.stdout).items():
        assert not seen, f'{name}: {seen}'
        assert not answer.startswith('loaded'), f'{name} was loaded'
        assert answer.startswith(('BundleError', 'ValueError', 'TypeError')), f'{name}: {answer}'
        assert took < 5, f'{name} took {took:.1f} s'
    assert not mark.exists()


def test_gadgets_are_real(tmp_path):
    "The oracle works: unpickled in the ordinary way, they do run."
    mark = tmp_path / 'it_ran'
    for name in ('exec', 'timeit', 'runpy', 'nested load'):
        pickle.loads(pickle.dumps(gadgets(str(mark))[name]))
        assert mark.exists(), name
        mark.unlink()


def test_cut_files(tmp_path):
    "Cut at every 2 % (4 % in the short form): refused, and said to be cut off."
    data = export(tmp_path / 'a.pkl').read_bytes()
    for i in range(0, 100, 2 if FULL else 4):
        (tmp_path / 'cut.pkl').write_bytes(data[: len(data) * i // 100])
        with pytest.raises(BundleError, match='empty' if i == 0 else 'cut off or damaged'):
            load_learner(tmp_path / 'cut.pkl', model=TinyNet())


def test_flipped_bytes(tmp_path):
    """A flipped byte is either refused or changes numbers only; never something else than a BundleError or a loader's
    ValueError.
    """
    data, rng = export(tmp_path / 'a.pkl').read_bytes(), np.random.default_rng(0)
    for i in rng.integers(0, len(data), 400 if FULL else 60):
        bad = bytearray(data)
        bad[i] ^= 1 << int(rng.integers(8))
        (tmp_path / 'bad.pkl').write_bytes(bytes(bad))
        try:
            load_learner(tmp_path / 'bad.pkl', model=TinyNet())
        except (BundleError, ValueError, TypeError):
            pass


@pytest.mark.parametrize(
    'data,word',
    [
        (b'\xff\xd8\xff\xe0', 'JPEG'),
        (b'<html>', 'web page'),
        (b'', 'empty'),
        (b'hello', 'something else'),
        (b'PK\x05\x06' + b'\0' * 18, 'zip archive of 0'),
        (b'version https://git-lfs.github.com/spec/v1', 'git-lfs'),
        (struct.pack('<Q', 2) + b'{}', 'safetensors'),
        (b'\x89HDF\r\n', 'HDF5'),
        (pickle.dumps([1]), 'a pickle, but not of a model'),
        (b'\x80\x04junk', 'cut off or damaged'),
    ],
)
def test_kinds_are_told_apart(tmp_path, data, word):
    (tmp_path / 'f.pkl').write_bytes(data)
    assert word in describe_file(tmp_path / 'f.pkl')
    with pytest.raises(BundleError, match='f.pkl is not an exported vislearn model but'):
        load_bundle(tmp_path / 'f.pkl')


def test_a_fastai_export_is_called_so(tmp_path):
    "As far as its pickle says: one that names fastai's classes."
    (tmp_path / 'export.pkl').write_bytes(b'\x80\x02cfastai.learner\nLearner\n)\x81.')
    assert 'a fastai export' in describe_file(tmp_path / 'export.pkl')


def test_a_large_file_of_another_kind_is_not_read_whole(tmp_path):
    file = tmp_path / 'large.h5'
    with open(file, 'wb') as f:
        f.write(b'\x89HDF\r\n')
        f.truncate(200_000_000)
    tracemalloc.start()
    with pytest.raises(BundleError, match='HDF5'):
        load_bundle(file)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 20_000_000


@pytest.mark.parametrize(
    'wrong',
    [{'weights': 3}, {'config': [1]}, {'made_with': None}, {'steps': 'none'}, {'version': '1'}, {'target': 'cats'}],
)
def test_what_a_damaged_export_says_of_itself_is_refused(tmp_path, wrong):
    state = torch.load(export(tmp_path / 'good.pkl'), weights_only=True)
    torch.save(state | wrong, tmp_path / 'bad.pkl')
    with pytest.raises(ValueError, match='bad.pkl is damaged'):
        describe_model(tmp_path / 'bad.pkl')
    torch.save({'format': 'vislearn'}, tmp_path / 'empty.pkl')
    with pytest.raises(ValueError, match='empty.pkl is damaged'):
        describe_model(tmp_path / 'empty.pkl')
    assert describe_model(tmp_path / 'good.pkl')['parameters'] == sum(
        o.numel() for o in tiny_net().state_dict().values()
    )


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match='there is no file .*nothing.pkl'):
        load_learner(tmp_path / 'nothing.pkl')
    with pytest.raises(FileNotFoundError, match='is a folder'):
        load_learner(tmp_path)


# our own files


def test_a_file_of_the_first_release_still_loads():
    "tests/golden holds an export of version 0.1 and what it predicted."
    learn = load_learner(HERE / 'golden/export_0.1.pkl', model=TinyNet())
    want = json.loads((HERE / 'golden/export_0.1.json').read_text())
    label, idx, probs = learn.predict(np.arange(40 * 40 * 3, dtype=np.uint8).reshape(40, 40, 3))
    assert label == want['label'] and learn.dls.vocab == want['vocab']
    assert torch.allclose(probs, torch.tensor(want['probs']), atol=1e-4)


ARCHS = [
    'resnet18',
    'efficientnet_lite0',
    'tv:mobilenet_v3_small',
    'test_vit.r160_in1k',
    'test_convnext.r160_in1k',
    'tv:squeezenet1_1',
]
MORE = [
    'resnet26',
    'resnext50_32x4d',
    'densenet121',
    'regnety_002',
    'mobilenetv3_small_050',
    'convnext_atto',
    'vit_tiny_patch16_224',
    'swin_tiny_patch4_window7_224',
    'deit_tiny_patch16_224',
    'ghostnet_050',
    'mixnet_s',
    'tv:alexnet',
    'tv:vgg11_bn',
    'tv:shufflenet_v2_x0_5',
    'xception41',
    'efficientnet_b0',
]

FRESH = """
import sys, torch
from vislearn.learner import load_learner
for f in sys.argv[1:]:
    o = torch.load(f + '.in', weights_only=True)
    torch.save(load_learner(f).predict(o)[2], f + '.out')
"""


def test_architectures_in_a_fresh_process(tmp_path):
    "Each is rebuilt by name and predicts the same, bit for bit."
    files, want = [], []
    for i, arch in enumerate(ARCHS + MORE if FULL else ARCHS):
        size = 224 if '224' in arch else 160 if 'r160' in arch else 64
        items = ItemPipeline(Resize(size))
        model = create_model(arch, 3, pretrained=False)
        if i % 2:
            model.to(memory_format=torch.channels_last)
        files.append(save_bundle(tmp_path / f'{i}.pkl', model, target, items, batch_tfms))
        x = torch.randint(0, 255, (3, 240, 250), dtype=torch.uint8)
        torch.save(x, f'{files[-1]}.in')
        want.append(Predictor(model, target, items, batch_tfms, 'cpu').predict(x)[2])
    subprocess.run([sys.executable, '-c', FRESH, *files], check=True, timeout=600)
    for arch, f, probs in zip(ARCHS + MORE, files, want):
        assert torch.equal(torch.load(f'{f}.out'), probs), arch


@pytest.mark.parametrize(
    't',
    [
        Category(['b', 'a'], sort=False),
        Category([False, True]),
        Category([3, 1, 2]),
        MultiCategory(['x', 'y'], thresh=[0.2, 0.7]),
        Regression(2),
    ],
)
def test_targets_travel(tmp_path, t):
    save_bundle(tmp_path / 'a.pkl', tiny_net(), t, item_tfms, batch_tfms)
    learn = load_learner(tmp_path / 'a.pkl', model=TinyNet())
    assert learn.dls.target.to_dict() == t.to_dict() and learn.dls.vocab == t.vocab


def test_grey_pictures_travel(tmp_path):
    model = create_model('resnet18', 2, pretrained=False, n_in=1)
    save_bundle(
        tmp_path / 'a.pkl',
        model,
        Category(['a', 'b']),
        ItemPipeline(Resize(32), mode='L'),
        BatchPipeline(Normalize([0.5], [0.5])),
    )
    learn = load_learner(tmp_path / 'a.pkl')
    assert learn.dls.valid.item_tfms.mode == 'L' and len(learn.predict(np.zeros((40, 40, 3), np.uint8))[2]) == 2


def test_precision_travels(tmp_path):
    save_bundle(tmp_path / 'a.pkl', tiny_net(), target, item_tfms, batch_tfms, precision=np.str_('bf16'))
    x = torch.randint(0, 255, (3, 40, 40), dtype=torch.uint8)
    learn = load_learner(tmp_path / 'a.pkl', model=TinyNet())
    assert torch.equal(
        learn.predict(x)[2], Predictor(tiny_net(), target, item_tfms, batch_tfms, 'cpu', 'bf16').predict(x)[2]
    )
    assert not torch.equal(
        learn.predict(x)[2], Predictor(tiny_net(), target, item_tfms, batch_tfms, 'cpu').predict(x)[2]
    )


def test_a_bad_picture_in_a_batch_is_named(tmp_path):
    (tmp_path / 'bad.jpg').write_bytes(b'no picture')
    p = Predictor(tiny_net(), target, item_tfms, batch_tfms, 'cpu')
    with pytest.raises(ValueError, match='bad.jpg'):
        p.predict_batch([torch.zeros(3, 40, 40, dtype=torch.uint8), tmp_path / 'bad.jpg'])


def test_streams_take_no_more_than_they_need():
    "An endless source is read two batches ahead at most."
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield torch.zeros(3, 40, 40, dtype=torch.uint8)

    p = Predictor(tiny_net(), target, item_tfms, batch_tfms, 'cpu')
    answers = p.stream(endless(), bs=4)
    for _ in range(5):
        next(answers)
    assert read <= 12
    answers.close()


def test_an_export_says_that_hooks_are_left_behind(tmp_path):
    "They are no part of what the network is made again from."
    model = create_model('test_resnet', 2, pretrained=False)
    handle = model.head.register_forward_hook(lambda m, args, out: out.flip(1))
    with pytest.warns(UserWarning, match='holds no hooks, and there are some on head'):
        export(tmp_path / 'hooked.pkl', model)
    handle.remove()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        export(tmp_path / 'plain.pkl', model)


def test_an_older_export_with_helper_heads_still_loads(tmp_path):
    "googlenet and inception_v3 once kept the heads that torchvision has for training alone."
    file = export(tmp_path / 'now.pkl')
    state = torch.load(file, weights_only=True)
    state['weights'] |= {'body.aux1.fc2.weight': torch.zeros(3, 4), 'body.AuxLogits.conv0.conv.weight': torch.zeros(2)}
    torch.save(state, tmp_path / 'older.pkl')
    x = torch.randint(0, 255, (3, 40, 40), dtype=torch.uint8)
    now, older = (load_learner(f, model=TinyNet()).predict(x)[2] for f in (file, tmp_path / 'older.pkl'))
    assert torch.equal(now, older)
    state['weights']['body.unknown.weight'] = torch.zeros(3)
    torch.save(state, tmp_path / 'other.pkl')
    with pytest.raises(BundleError, match='unknown.weight'):
        load_learner(tmp_path / 'other.pkl', model=TinyNet())
