"""Executes notebooks one after the other, each in a fork of this process, which has imported the library once: that takes longer
than most notebooks do.

Each line of standard input is a JSON list: the folder to work in, the notebook below it, and a file for what is printed. Each
line of standard output is the exit status of one.
"""

import json
import os
import sys

import matplotlib.pyplot  # noqa: F401
from nbdev.test import nbdev_test
from nbtools import ROOT

sys.path.insert(0, str(ROOT))
import vislearn.all  # noqa: E402, F401


def execute(folder: str, notebook: str, printed: str) -> None:
    "In a fork: run a notebook, write its outputs into it, and leave."
    status = 1
    try:
        os.chdir(folder)
        os.environ['JUPYTER_DATA_DIR'] = os.path.join(folder, '.jupyter')
        file = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(file, 1)
        os.dup2(file, 2)
        nbdev_test(notebook, save=True)
        status = 0
    except SystemExit as e:
        status = e.code or 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


for line in sys.stdin:
    if (child := os.fork()) == 0:
        execute(*json.loads(line))
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
