"One thread a process (pytest-xdist uses the cores), and a cache of the session's own, so that the built-in pictures are drawn anew as on a fresh machine."
import os, shutil, tempfile

os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('MPLBACKEND', 'agg')

def pytest_configure(config):
    if hasattr(config, 'workerinput') or 'VISLEARN_HOME' in os.environ: return # workers inherit it
    config._vislearn_home = os.environ['VISLEARN_HOME'] = tempfile.mkdtemp(prefix='vislearn-')

def pytest_unconfigure(config):
    if home := getattr(config, '_vislearn_home', None): shutil.rmtree(home, ignore_errors=True); del os.environ['VISLEARN_HOME']
