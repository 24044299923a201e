"The blog post's code (nbs/lessons/30_blog.ipynb) on real photographs: ants and bees, at tiny settings."

import os
import shutil

import pytest
from nbtools import ROOT, directives, read_nb, source

DATA = ROOT.parent / 'shared/data/ants_and_bees'


def blog_code() -> str:
    "The notebook's cells as one program, small and for one epoch."
    cells = [
        c
        for c in read_nb(ROOT / 'nbs/lessons/30_blog.ipynb')['cells']
        if c['cell_type'] == 'code' and 'hide' not in directives(c)
    ]
    code = '\n'.join(map(source, cells))
    for a, b in {
        "Path('wonders')": "Path('insects')",
        'RandomResizedCrop(224': 'RandomResizedCrop(64',
        'fine_tune(4)': 'fine_tune(1)',
    }.items():
        assert a in code, f'the notebook no longer says {a}'
        code = code.replace(a, b)
    return code


@pytest.mark.skipif(not DATA.exists(), reason='no pictures of ants and bees beside the checkout')
def test_blog_on_ants_and_bees(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(DATA, 'insects', copy_function=shutil.copyfile)  # the post deletes what it can't read
    for o, _, _ in os.walk('insects'):
        os.chmod(o, 0o755)
    shutil.copy('insects/val/bees/' + sorted(os.listdir('insects/val/bees'))[0], 'colosseum.jpg')
    names = {}
    exec(compile(blog_code(), '30_blog', 'exec'), names)
    assert list(names['learn_inf'].dls.vocab) == ['ants', 'bees']
    assert len(names['fns']) > 390 and all(o.exists() != (o in names['failed']) for o in names['fns'])
    label, idx, probs = names['learn_inf'].predict('colosseum.jpg')
    assert label in ('ants', 'bees') and probs.shape == (2,) and float(probs.sum()) == pytest.approx(1, abs=1e-5)
    assert names['interp'].confusion_matrix().sum() == len(names['dls'].valid.items)
