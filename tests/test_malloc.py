"Memory goes back to the system when asked for: measured in a process of its own."

import subprocess
import sys

import pytest

from vislearn.malloc import give_back_memory

SCRIPT = """
import threading
from vislearn.malloc import give_back_memory, keep_memory

def resident():
    return int(open('/proc/self/statm').read().split()[1]) * 4096

def work(held, freed):
    blocks = [bytearray(1 << 20) for _ in range(60)]
    last = bytearray(1000)
    del blocks
    freed.release()
    held.wait()

keep_memory()
held, freed = threading.Event(), threading.Semaphore(0)
threads = [threading.Thread(target=work, args=(held, freed)) for _ in range(4)]
before = resident()
for t in threads:
    t.start()
for t in threads:
    freed.acquire()
kept = resident() - before
given = give_back_memory()
left = resident() - before
held.set()
print(given, kept >> 20, left >> 20)
"""


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='it asks Linux for the memory of a process')
def test_what_threads_have_freed_goes_back():
    out = subprocess.run([sys.executable, '-c', SCRIPT], capture_output=True, text=True, check=True).stdout
    given, kept, left = out.split()
    if given == 'False':
        pytest.skip('the C library is not glibc')
    assert int(kept) > 200, out
    assert int(left) < 20, out


def test_the_environment_can_forbid_it(monkeypatch):
    monkeypatch.setenv('VISLEARN_MALLOC', '0')
    assert not give_back_memory()
