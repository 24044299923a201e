"""One thread a process (pytest-xdist uses the cores), and a folder of the session's own for everything temporary: the
cache, so that the built-in pictures are drawn anew as on a fresh machine, and what tests, notebooks and processes that
are killed leave behind. It is gone at the end. Ctrl-C is heard even where the shell that started the tests told them to
ignore it (`pytest &`).
"""

import os
import shutil
import signal
import tempfile

os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('MPLBACKEND', 'agg')
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config):
    if hasattr(config, 'workerinput'):
        return  # workers inherit it
    os.environ.setdefault(
        'PYTEST_DEBUG_TEMPROOT', tempfile.gettempdir()
    )  # where pytest keeps the folders of tests that failed
    config._temporary = tempfile.mkdtemp(prefix='vislearn-')
    os.environ['TMPDIR'] = tempfile.tempdir = config._temporary
    os.environ.setdefault('VISLEARN_HOME', os.path.join(config._temporary, 'home'))


def pytest_unconfigure(config):
    if temporary := getattr(config, '_temporary', None):
        shutil.rmtree(temporary, ignore_errors=True)
