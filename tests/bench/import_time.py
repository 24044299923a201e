"""Start-up: `import torch` beside `from vislearn.all import *` and `from fastai.vision.all import *`.

python tests/bench/import_time.py [--quick] [--fastai-python PATH]
"""

from bench import call, has, interleave, mid, parser, report

CODE = 'import time; t = time.perf_counter(); {}; print("RESULT {{\\"s\\":", time.perf_counter()-t, "}}")'


def column(statement: str, python: str):
    return lambda i: call('-c', CODE.format(statement), python=python)


def main() -> None:
    import sys

    p = parser(__doc__)
    args = p.parse_args()
    if args.quick:
        args.rounds = 1
    columns = {
        'import torch': column('import torch', sys.executable),
        'from vislearn.all import *': column('from vislearn.all import *', sys.executable),
    }
    if has('fastai', args.fastai_python):
        if args.fastai_python != sys.executable:
            columns["import torch (fastai's Python)"] = column('import torch', args.fastai_python)
        columns['from fastai.vision.all import *'] = column('from fastai.vision.all import *', args.fastai_python)
    raw = interleave({f'warm {k}': v for k, v in columns.items()}, 1) and interleave(
        columns, args.rounds
    )  # the first round fills the disk cache
    secs = {k: mid(v, 's') for k, v in raw.items()}

    def base(k):
        return (
            secs.get("import torch (fastai's Python)", secs['import torch']) if 'fastai' in k else secs['import torch']
        )

    rows = [
        {'statement': f'`{k}`' if "'" not in k else k, 'seconds': v, 'of import torch': v / base(k)}
        for k, v in secs.items()
    ]
    report('import_time', rows, raw, args)


if __name__ == '__main__':
    main()
