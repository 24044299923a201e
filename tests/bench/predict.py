"""Prediction from files: one at a time, and all of a folder.

    python tests/bench/predict.py [--quick] [--rounds 3] [--fastai-python PATH] [--data FOLDER]

efficientnet_lite0 at 224 pixels. `predict`: milliseconds for one file, with `precision='auto'` and 'fp32'. `get_preds` and `predict_batch` (fastai has
only the first): milliseconds per file over the photographs of `val/`, batches of 32. The limit: decode, crop, bare model, softmax, in the same precision (for `get_preds` in batches, with threads that read ahead).
"""

from bench import report, result
from sides import SIDES, compare, need_data, options, photos, present, shares, timed

CASES = ['predict, auto', 'predict, fp32', 'get_preds, auto', 'get_preds, fp32', 'predict_batch, auto']


def bare(side, case: str):
    from collections import deque
    from concurrent.futures import ThreadPoolExecutor

    import torch

    from vislearn.data.resize import ItemPipeline, RandomResizedCrop
    from vislearn.models.fold import Folded
    from vislearn.train.precision import resolve_precision

    open_item = ItemPipeline(RandomResizedCrop(side.size, min_scale=0.35).valid())
    net = Folded(side.model('efficientnet_lite0'))
    bf16 = case.endswith('auto') and resolve_precision('auto', torch.device('cpu')) == 'bf16'

    @torch.inference_mode()
    def probs(xs):
        xb = torch.stack(xs).contiguous(memory_format=torch.channels_last).float().mul_(2 / 255).sub_(1)
        with torch.autocast('cpu', torch.bfloat16, enabled=bf16):
            return net(xb).float().softmax(1)

    if case.startswith('predict,'):
        return lambda: probs([open_item(side.fns[0])])

    def all_of_them():
        with ThreadPoolExecutor(2) as pool:
            jobs, todo = iter(side.fns[i : i + side.bs] for i in range(0, len(side.fns), side.bs)), deque()

            def read(fns):
                return [open_item(f) for f in fns]

            for j in jobs:
                todo.append(pool.submit(read, j))
                if len(todo) > 2:
                    probs(todo.popleft().result())
            while todo:
                probs(todo.popleft().result())

    return all_of_them


def work(name: str, case: str, args) -> None:
    fns = [o for o in photos(args.data) if o.parts[-3] == 'val'][: 12 if args.quick else None]
    side = SIDES[name](fns, 64 if args.quick else 224, 4 if args.quick else 32)
    if name == 'limit':
        f = bare(side, case)
    else:
        learn = side.learner('efficientnet_lite0', **({'precision': case.split(', ')[1]} if name == 'vislearn' else {}))
        if case.startswith('predict,'):

            def f():
                return learn.predict(fns[0])
        elif case.startswith('predict_batch') and name == 'vislearn':

            def f():
                return learn.predict_batch(fns, bs=32)
        else:

            def f():
                return learn.get_preds(dl=learn.dls.test_dl(fns))

        if name == 'fastai':
            g = f

            def f():
                with learn.no_bar(), learn.no_logging():
                    return g()

    one = case.startswith('predict,')
    result(
        ms=1000 * timed(f, 1 if args.quick else 30 if one else 2 if name == 'fastai' else 6) / (1 if one else len(fns))
    )


def main() -> None:
    args = options(__doc__).parse_args()
    if args.worker:
        return work(args.worker, args.case, args)
    need_data(args)
    raws = {case: compare(__file__, case, present(SIDES, args), args) for case in (CASES[::2] if args.quick else CASES)}
    report('predict', [shares(case, raw, 'ms') for case, raw in raws.items()], raws, args)


if __name__ == '__main__':
    main()
