"Every test runs with one thread a process: pytest-xdist uses the cores."
import os

os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('MPLBACKEND', 'agg')
