"The command line as a person meets it: in a process of its own."

import os
import subprocess
import sys

from nbtools import ROOT


def run_vislearn(*args: str, cwd=None, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, '-c', 'import sys; from vislearn.app.cli import main; sys.exit(main())', *map(str, args)],
        cwd=cwd,
        capture_output=True,
        text=True,
        encoding='utf-8',
        timeout=600,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONIOENCODING': 'utf-8', **env},
    )


def test_help_without_torch():
    "Help and usage errors answer at once."
    code = 'import sys; from vislearn.app.cli import main; main(["--help"]); sys.exit("torch" in sys.modules)'
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert r.returncode == 0 and 'demo' in r.stdout


def test_unknown_verb():
    r = run_vislearn('demmo')
    assert r.returncode == 2 and "did you mean 'demo'?" in r.stderr and 'Traceback' not in r.stderr


def test_unknown_option():
    r = run_vislearn('demo', '--epoks', '3')
    assert r.returncode == 2 and '--epoks' in r.stderr and 'Traceback' not in r.stderr


def test_a_wrong_number_is_said_to_be_one():
    r = run_vislearn('predict', 'model.pkl', 'x.jpg', '--topk', 'five')
    assert r.returncode == 2 and "--topk: invalid int value: 'five'" in r.stderr


def test_error_is_one_message(tmp_path):
    r = run_vislearn('demo', '--arch', 'resnet81', '--n-per-class', '4', '--size', '32', cwd=tmp_path)
    assert r.returncode == 1 and 'Traceback' not in r.stderr
    assert "unknown architecture 'resnet81'" in r.stderr.splitlines()[-1] and 'did you mean' in r.stderr
    assert (
        'Traceback'
        in run_vislearn(
            'demo', '--arch', 'resnet81', '--n-per-class', '4', '--size', '32', cwd=tmp_path, VISLEARN_TRACEBACK='1'
        ).stderr
    )


def test_without_fastcore_the_command_line_says_what_to_install():
    code = (
        "import sys; sys.modules['fastcore'] = None; from vislearn.app.cli import main; sys.exit(main(['info', 'a']))"
    )
    r = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert r.returncode == 1 and r.stdout == ''
    assert r.stderr == 'vislearn: the command line needs fastcore: pip install fastcore\n'


def test_version():
    import vislearn

    assert run_vislearn('--version').stdout.strip() == vislearn.__version__


def test_demo(tmp_path):
    "The whole job, small; every file it names exists."
    r = run_vislearn('demo', '--n-per-class', '10', '--size', '64', '--epochs', '1', '--out', 'here', cwd=tmp_path)
    assert r.returncode == 0, r.stderr
    assert 'Warning' not in r.stderr, r.stderr
    named = [o.split(': ', 1)[1] for o in r.stdout.splitlines() if o.startswith(('  picture: ', '  model: '))]
    assert [os.path.basename(o) for o in named] == ['batch.jpg', 'confusion_matrix.jpg', 'top_losses.jpg', 'export.pkl']
    assert all((tmp_path / o).stat().st_size > 1000 for o in named)
    assert 'damaged' in r.stdout and 'probability' in r.stdout
