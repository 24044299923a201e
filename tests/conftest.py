"""One thread a process (pytest-xdist uses the cores), and a cache of the session's own, so that the built-in pictures
are drawn anew as on a fresh machine. Ctrl-C is heard even where the shell that started the tests told them to ignore
it (`pytest &`).
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
    if hasattr(config, 'workerinput') or 'VISLEARN_HOME' in os.environ:
        return  # workers inherit it
    config._vislearn_home = os.environ['VISLEARN_HOME'] = tempfile.mkdtemp(prefix='vislearn-')


def pytest_unconfigure(config):
    if home := getattr(config, '_vislearn_home', None):
        shutil.rmtree(home, ignore_errors=True)
        del os.environ['VISLEARN_HOME']
