"""What the benchmarks share: a worker in a process of its own, interleaved rounds, medians, tables.

Each benchmark is a script with columns to compare. A column is measured in fresh processes, in turns (A B C A B C ...), so that a busy
moment of the machine hits all alike; the figure to trust is the ratio of medians, not the seconds.
"""

import argparse
import io
import json
import os
import platform
import re
import runpy
import subprocess
import sys
from contextlib import redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
MARK = 'RESULT '


def parser(doc: str) -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=doc.strip().splitlines()[0])
    p.add_argument('--quick', action='store_true', help='under a minute: shows that it runs, not how fast')
    p.add_argument('--rounds', type=int, default=5, help='times that each column is measured')
    p.add_argument('--out', type=Path, default=Path('runs/bench'), help='folder for the JSON and the Markdown')
    p.add_argument('--readme', action='store_true', help='put the table into tests/bench/README.md')
    p.add_argument(
        '--fastai-python',
        default=os.environ.get('FASTAI_PYTHON', sys.executable),
        help="a Python that has fastai (and this one's versions of torch and timm)",
    )
    p.add_argument('--worker', help=argparse.SUPPRESS)
    return p


def avx2_option(p: argparse.ArgumentParser) -> None:
    p.add_argument('--avx2', action='store_true', help='hold the processor to AVX2, without 16 bits')


def hold_to_avx2() -> None:
    "For this process, before it imports torch: no wider instructions than AVX2, and no 16 bits chosen."
    os.environ.update(ATEN_CPU_CAPABILITY='avx2', ONEDNN_MAX_CPU_ISA='AVX2')
    import torch

    torch.cpu._is_avx512_bf16_supported = lambda: False


def has(module: str, python: str = sys.executable) -> bool:
    "Is `module` installed for `python`?"
    code = f'import importlib.util as u, sys; sys.exit(u.find_spec({module!r}) is None)'
    return subprocess.run([python, '-c', code], capture_output=True).returncode == 0


def call(*args: object, python: str = sys.executable, **env: str) -> dict:
    """Run `python *args` in a fresh process; the dict that its last `result(...)` printed. With `--quick` our own sides run in this
    one: importing torch takes longer than their work.
    """
    if '--quick' in args and python == sys.executable:
        return _call_here(*map(str, args))
    r = subprocess.run([python, *map(str, args)], capture_output=True, text=True, env={**os.environ, **env})
    found = _results(r.stdout)
    if r.returncode or not found:
        raise SystemExit(f'{" ".join(map(str, args))[:300]} failed:\n{r.stdout[-2000:]}\n{r.stderr[-4000:]}')
    return found[-1]


def _call_here(script: str, *args: str) -> dict:
    argv, printed = sys.argv, io.StringIO()
    sys.argv = [script, *args]
    try:
        with redirect_stdout(printed):
            runpy.run_path(script, run_name='__main__')
    finally:
        sys.argv = argv
    return _results(printed.getvalue())[-1]


def _results(printed: str) -> list[dict]:
    return [json.loads(o[len(MARK) :]) for o in printed.splitlines() if o.startswith(MARK)]


def result(**values: object) -> None:
    "What a worker hands back."
    print('\n' + MARK + json.dumps(values), flush=True)  # after whatever a progress bar left on the line


def interleave(columns: dict, rounds: int) -> dict[str, list[dict]]:
    "Each column's function called once a round, round after round: `{name: [result, ...]}`; it is handed the round's number."
    res = {o: [] for o in columns}
    for i in range(rounds):
        for name, f in columns.items():
            res[name].append(f(i))
            print(f'round {i + 1}/{rounds} {name}: {res[name][-1]}', file=sys.stderr, flush=True)
    return res


def mid(results: list[dict], key: str) -> float:
    return median(o[key] for o in results)


def machine(packages: tuple[str, ...] = ('torch', 'torchvision', 'timm', 'pillow')) -> dict:
    "The processor, the memory and the versions that a table was made with."
    info = Path('/proc/cpuinfo')
    cpu = re.search(r'model name\s*: (.+)', info.read_text()) if info.exists() else None
    res = {
        'processor': cpu[1].strip() if cpu else platform.processor(),
        'cores': os.cpu_count(),
        'system': platform.system(),
        'python': platform.python_version(),
    }
    for o in packages:
        try:
            res[o] = version(o)
        except PackageNotFoundError:
            pass
    return res


def markdown(rows: list[dict]) -> str:
    "Rows with the same keys as a Markdown table."

    def show(o):
        return f'{o:.3g}' if isinstance(o, float) else str(o)

    head = list(rows[0])
    return '\n'.join(
        f'| {" | ".join(o)} |' for o in [head, ['---'] * len(head), *([show(r[k]) for k in head] for r in rows)]
    )


def report(name: str, rows: list[dict], raw: dict, args: argparse.Namespace) -> None:
    "Print the table; keep it as JSON and Markdown, and in the README if asked."
    is_avx2 = getattr(args, 'avx2', False)
    name += '_avx2' if is_avx2 else ''
    box = machine()
    table = (
        markdown(rows)
        + '\n\n'
        + ', '.join(f'{k} {v}' for k, v in box.items())
        + f'; {args.rounds} rounds'
        + ('; held to AVX2, without 16 bits' if is_avx2 else '')
        + (' (quick: not a measurement)' if args.quick else '')
    )
    print(table)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f'{name}.md').write_text(table + '\n', encoding='utf-8')
    (args.out / f'{name}.json').write_text(
        json.dumps(dict(name=name, quick=args.quick, machine=box, rows=rows, raw=raw), indent=1), encoding='utf-8'
    )
    if args.readme and not args.quick:
        _into_readme(name, table)


def _into_readme(name: str, table: str) -> None:
    f = HERE / 'README.md'
    text, start, end = f.read_text(encoding='utf-8'), f'<!-- {name} -->', f'<!-- /{name} -->'
    a, b = text.index(start) + len(start), text.index(end)
    f.write_text(f'{text[:a]}\n{table}\n{text[b:]}', encoding='utf-8')
