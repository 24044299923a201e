"The audit on small sets with planted faults."

import warnings
from pathlib import Path

import matplotlib

matplotlib.use('agg')
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import nn

from vislearn.clean import stats as looks
from vislearn.clean.audit import AuditLimits, DataAudit, audit_kinds, outlier_scores
from vislearn.clean.folds import cross_validate, find_label_errors, fit_linear
from vislearn.clean.stats import alike_pairs, find_copies, picture_stats
from vislearn.collect.draw import draw_picture
from vislearn.data.block import CategoryBlock, DataBlock, ImageBlock, MultiCategoryBlock, RegressionBlock
from vislearn.data.files import get_image_files
from vislearn.data.labels import parent_label
from vislearn.data.resize import Resize
from vislearn.data.split import IndexSplitter
from vislearn.learner import Learner


class Net(nn.Module):
    def __init__(self, c):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.ReLU())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, c))

    def forward(self, x):
        return self.head(self.body(x))


def no_training(learn):
    pass


def small_learner(dls):
    return Learner(dls, Net(dls.c), default_cbs=False)


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    path = tmp_path_factory.mktemp('data')
    for name in ('fish', 'mug'):
        (path / name).mkdir()
        for i in range(8):
            draw_picture(name, (i, len(name)), 160).resize((120, 90)).save(path / name / f'{name}_{i}.png')
    return path


def audit_of(path, valid=(), learn=False, size=48, **kw):
    files = get_image_files(path)
    names = [f'{f.parent.name}/{f.name}' for f in files]
    block = DataBlock(
        (ImageBlock, CategoryBlock),
        get_items=lambda p: files,
        get_y=parent_label,
        item_tfms=Resize(size),
        splitter=IndexSplitter([names.index(o) for o in valid] or [0]),
    )
    dls = block.dataloaders(path, bs=4, seed=0, num_workers=0, device='cpu')
    return DataAudit(small_learner(dls) if learn else dls, **kw)


def copied(pictures, tmp_path):
    import shutil

    shutil.copytree(pictures, tmp_path / 'd')
    return tmp_path / 'd'


def rows(audit, kind):
    return {f'{Path(r["path"]).parent.name}/{Path(r["path"]).name}': r for r in audit.table(kind)}


def test_a_clean_set_has_nothing_but_few_pictures(pictures):
    a = audit_of(pictures)
    assert (
        set(a.counts()) <= {'rare class'}
        and len(a.table('rare class')) == 2
        and a.table('rare class')[0]['path'] is None
    )
    assert 'nothing found' in repr(audit_of(pictures, limits=AuditLimits(few=1)))


def test_exact_copies_leaks_and_conflicts(pictures, tmp_path):
    d = copied(pictures, tmp_path)

    def photo(name):
        return Image.open(d / name).convert('RGB')

    (d / 'fish/z_same.png').write_bytes((d / 'fish/fish_1.png').read_bytes())
    photo('fish/fish_2.png').resize((80, 60)).save(d / 'fish/z_small.jpg', quality=50)
    (d / 'mug/z_other.png').write_bytes((d / 'fish/fish_3.png').read_bytes())
    photo('mug/mug_4.png').transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(d / 'mug/z_mirror.png')
    (d / 'mug/z_leak.png').write_bytes((d / 'mug/mug_5.png').read_bytes())
    a = audit_of(d, valid=['mug/mug_5.png'])
    assert (
        set(rows(a, 'duplicate')) == {'fish/z_same.png'}
        and rows(a, 'duplicate')['fish/z_same.png']['other'].name == 'fish_1.png'
    )
    assert set(rows(a, 'near duplicate')) == {'fish/z_small.jpg', 'mug/z_mirror.png'}
    assert set(rows(a, 'duplicate, other label')) == {'mug/z_other.png'}
    leak = rows(a, 'leak')
    assert (
        set(leak) == {'mug/z_leak.png'} and leak['mug/z_leak.png']['split'] == 'training'
    )  # the training copy goes, validation stays
    assert a.table('duplicate')[0]['score'] == 1 > a.table('near duplicate')[0]['score'] > 0.8


def test_bad_pictures(pictures, tmp_path):
    d = copied(pictures, tmp_path)
    photo = Image.open(d / 'fish/fish_0.png').convert('RGB')
    photo.resize((400, 300)).filter(ImageFilter.GaussianBlur(9)).save(d / 'mug/blur.png')
    Image.open(d / 'fish/fish_4.png').convert('RGB').point(lambda v: v * 0.1).save(d / 'mug/dark.png')
    Image.blend(Image.open(d / 'fish/fish_5.png').convert('RGB'), Image.new('RGB', (120, 90), 'white'), 0.93).save(
        d / 'mug/bright.png'
    )
    Image.new('RGB', (90, 90), (120, 130, 120)).save(d / 'mug/blank.png')
    Image.new('RGB', (90, 90), (90, 100, 90)).save(d / 'mug/blank2.png')
    draw_picture('mug', 77, 160).resize((20, 16)).save(d / 'mug/tiny.png')
    draw_picture('mug', 78, 160).resize((300, 40)).save(d / 'mug/long.png')
    (d / 'mug/page.jpg').write_text('<html>')
    (d / 'mug/empty.jpg').write_bytes(b'')
    a = audit_of(d)
    for kind, names in dict(
        blurry=['blur'],
        dark=['dark'],
        bright=['bright'],
        blank=['blank', 'blank2'],
        small=['tiny'],
        unreadable=['page', 'empty'],
    ).items():
        assert {Path(o).stem for o in rows(a, kind)} == set(names), kind
    assert 'mug/long.png' in rows(a, 'odd shape')
    assert not {'blank', 'blank2'} & {
        Path(o).stem for k in ('duplicate', 'near duplicate') for o in rows(a, k)
    }  # two empty pictures are no copies
    assert all(
        0.5 <= r['score'] <= 1
        for r in a.table()
        if r['kind'] in ('blurry', 'dark', 'bright', 'blank', 'small', 'odd shape')
    )


def test_the_table_is_one_and_sorted(pictures, tmp_path):
    d = copied(pictures, tmp_path)
    (d / 'fish/z.png').write_bytes((d / 'fish/fish_1.png').read_bytes())
    (d / 'mug/x.jpg').write_text('no')
    a = audit_of(d)
    t = a.table()
    order = [(audit_kinds.index(r['kind']), -r['score']) for r in t]
    assert order == sorted(order) and list(t.frame().columns) == [
        'path',
        'split',
        'label',
        'kind',
        'score',
        'suggestion',
        'other',
    ]
    assert sum(a.counts().values()) == len(t) and len(a.table(min_score=0.99)) < len(t)
    assert a.scores()[str(d / 'mug/x.jpg')] > a.scores()[str(d / 'fish/z.png')] > 0
    with pytest.raises(ValueError, match="did you mean 'blurry'"):
        a.table('blury')
    plt.close('all')
    assert a.plot('duplicate') is None
    assert len(plt.gcf().axes) == 1
    plt.close('all')
    a.plot('outlier')
    assert plt.get_fignums() == []  # nothing to draw


def test_pictures_are_looked_at_once(pictures, monkeypatch):
    from vislearn.clean import audit as module

    seen = []
    monkeypatch.setattr(module, 'picture_stats', lambda src: seen.append(src) or picture_stats(src))
    a = audit_of(pictures)
    a.table(), a.counts(), a.duplicates(), a.quality(), repr(a)
    assert len(seen) == 16


def test_copies_are_found_in_any_order_and_strangers_are_not():
    fish = [draw_picture('fish', (s, 1), 200) for s in range(30)]
    stats = [picture_stats(o) for o in fish] + [
        picture_stats(fish[7].resize((fish[7].width // 2, fish[7].height // 2)))
    ]
    assert [(i, j) for i, j, _ in alike_pairs(stats)] == [(7, 30)]
    assert [(i, j) for i, j, _ in alike_pairs(stats[::-1])] == [(0, 23)]
    assert alike_pairs(stats[:1]) == []


def test_a_copy_of_a_copy_has_the_likeness_of_the_one_it_is_nearest_to(monkeypatch):
    stats = [picture_stats(draw_picture('fish', s, 64)) for s in range(4)]
    monkeypatch.setattr(looks, 'alike_pairs', lambda *args: [(0, 1, 0.9), (1, 3, 0.95)])  # 0 and 3 are too far apart
    assert list(find_copies(stats)) == [(0, 1, 0.99 * 0.9), (0, 3, 0.99 * 0.95)]


def test_stats_of_every_kind_of_picture():
    for im in (
        Image.new('L', (1, 1)),
        Image.new('RGB', (3, 500)),
        Image.new('RGBA', (70, 2), (9, 9, 9, 0)),
        torch.zeros(3, 5, 5, dtype=torch.uint8),
        np.zeros((40, 30, 3), np.uint8),
    ):
        s = picture_stats(im)
        assert (
            all(np.isfinite([s.dark, s.bright, s.contrast, s.sharp]))
            and s.bits.shape == s.mirrored.shape == (128,)
            and s.thumb.isfinite().all()
        )
    assert picture_stats(Image.new('RGB', (3, 500))).size == (3, 500)


def invent(n=600, c=4, sure=5.0, share=0.05):
    g = torch.Generator().manual_seed(0)
    truth = torch.randint(c, (n,), generator=g)
    probs = (sure * F.one_hot(truth, c) + 1.3 * torch.randn(n, c, generator=g)).softmax(1)
    flipped = torch.randperm(n, generator=g)[: int(share * n)]
    given = truth.clone()
    given[flipped] = (truth[flipped] + 1) % c
    return probs, truth, given, set(flipped.tolist())


@pytest.mark.parametrize('temperature', [1.0, 0.2, 5.0])
def test_label_errors_are_found_however_sure_the_model_is(temperature):
    probs, truth, given, flipped = invent()
    probs = (probs.log() / temperature).softmax(1)
    found = find_label_errors(probs, given)
    hits = {i for i, *_ in found} & flipped
    assert len(hits) >= 0.9 * len(flipped) and len(hits) >= 0.9 * len(found)
    assert all(y == truth[i] for i, y, _ in found if i in hits) and all(0.5 <= s <= 1 for *_, s in found)


def test_good_labels_are_left_alone():
    probs, truth, *_ = invent(sure=8.0)
    assert len(find_label_errors(probs, truth)) <= 2


def test_a_class_without_items_accuses_nobody():
    probs, truth, given, _ = invent()
    wide = F.pad(probs, (0, 2), value=1e-4)
    assert all(y < 4 for _, y, _ in find_label_errors(wide, given))


def test_label_errors_among_several_labels():
    g = torch.Generator().manual_seed(0)
    truth = torch.rand(500, 6, generator=g) < 0.3
    probs = (6.0 * truth - 3 + torch.randn(500, 6, generator=g)).sigmoid()
    given = truth.clone()
    i = torch.randint(500, (40,), generator=g)
    j = torch.randint(6, (40,), generator=g)
    given[i, j] = ~truth[i, j]
    wrong = {(a, b) for a, b in (given != truth).nonzero().tolist()}
    found = {(a, b) for a, b, _ in find_label_errors(probs, given.float())}
    assert len(found & wrong) >= 0.8 * len(wrong) and len(found & wrong) >= 0.8 * len(found)


def test_linear_classifier_is_the_minimum():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(80, 4, generator=g), torch.randint(3, (80,), generator=g)
    w, b = fit_linear(x, y, 3, l2=0.05, steps=2000)
    w.requires_grad_(), b.requires_grad_()
    loss = F.cross_entropy(x @ w + b, y) + 0.05 / 2 * w.square().sum()
    assert all(o.abs().max() < 1e-4 for o in torch.autograd.grad(loss, (w, b)))


def test_far_vectors_stand_out():
    g = torch.Generator().manual_seed(0)
    v = torch.randn(60, 12, generator=g) * 0.1 + torch.eye(12)[0]
    v[17] = -torch.eye(12)[3]
    z = outlier_scores(v)
    assert z.argmax() == 17 and z[17] > 4 and (z > 4).sum() == 1


def fold_block(path, multi=False):
    kw = dict(get_items=get_image_files, item_tfms=Resize(32))
    if not multi:
        return DataBlock((ImageBlock, CategoryBlock), get_y=parent_label, **kw)
    return DataBlock(
        (ImageBlock, MultiCategoryBlock),
        get_y=lambda f: [parent_label(f), 'odd'] if int(f.stem[-1]) % 2 else [parent_label(f)],
        **kw,
    )


@pytest.mark.parametrize('multi', [False, True])
def test_each_item_is_judged_once_by_a_model_that_did_not_see_it(pictures, multi):
    seen = []

    def fit(learn):
        seen.append((set(map(str, learn.dls.train.items)), set(map(str, learn.dls.valid.items))))

    oof = cross_validate(fold_block(pictures, multi), pictures, k=4, make_learner=small_learner, fit=fit, bs=4)
    assert (
        sorted(map(str, oof.items)) == sorted(map(str, get_image_files(pictures)))
        and len(oof.probs) == len(oof.targs) == len(oof.folds) == 16
    )
    for fold, (train, valid) in enumerate(seen):
        mine = {str(o) for o, f in zip(oof.items, oof.folds.tolist()) if f == fold}
        assert mine == valid and not mine & train and len(mine) == 4
    for o, t in zip(oof.items, oof.targs):
        assert parent_label(o) in ([oof.target.vocab[int(t)]] if not multi else oof.target.decode(t))
    assert 'wrong' in repr(oof) and 0 <= oof.error_rate <= 1


def test_folds_have_one_batch_size_which_is_said_once(pictures, capsys):
    seen = []
    cross_validate(fold_block(pictures), pictures, k=4, make_learner=small_learner, fit=lambda o: seen.append(o.dls.bs))
    assert seen == [12] * 4  # of 12 training pictures
    assert capsys.readouterr().out.count('batches of 12') == 1


def test_a_rare_class_keeps_its_number_in_every_fold(pictures, tmp_path):
    d = copied(pictures, tmp_path)
    (d / 'eel').mkdir()
    draw_picture('fish', 99, 160).save(d / 'eel/eel_0.png')
    oof = cross_validate(fold_block(d), d, k=3, make_learner=small_learner, fit=no_training, bs=4)
    assert list(oof.target.vocab) == ['eel', 'fish', 'mug'] and oof.probs.shape == (17, 3)
    assert sorted(oof.target.vocab[t] for t in oof.targs.tolist()) == ['eel'] + ['fish'] * 8 + ['mug'] * 8


def test_the_audit_uses_out_of_fold_predictions_for_all_splits(pictures):
    oof = cross_validate(fold_block(pictures), pictures, k=4, make_learner=small_learner, fit=no_training, bs=4)
    i = [o.name for o in oof.items].index('mug_3.png')
    oof.probs[:] = F.one_hot(oof.targs, 2) * 0.9 + 0.05
    oof.probs[i] = torch.tensor([0.97, 0.03])  # the mug that looks like a fish
    a = audit_of(pictures, oof=oof)
    r = rows(a, 'label error')
    assert (
        set(r) == {'mug/mug_3.png'}
        and r['mug/mug_3.png']['other'] == 'fish'
        and "change to 'fish'" in r['mug/mug_3.png']['suggestion']
        and r['mug/mug_3.png']['split'] == 'training'
    )
    oof.sources = [f'elsewhere/{i}' for i in range(16)]
    with pytest.raises(ValueError, match='same source'):
        audit_of(pictures, oof=oof).label_errors()


def test_numbers_are_cross_validated_by_learners_alone(pictures):
    block = DataBlock(
        (ImageBlock, RegressionBlock),
        get_items=get_image_files,
        get_y=lambda f: float(f.stem[-1]),
        item_tfms=Resize(32),
    )
    oof = cross_validate(block, pictures, k=2, make_learner=small_learner, fit=no_training, bs=4)
    assert repr(oof) == 'OutOfFold(16 items, 2 folds)'
    with pytest.raises(TypeError, match='has no classes for a classifier on features; give make_learner='):
        cross_validate(block, pictures, k=2, bs=4)


def test_with_a_learner_validation_is_judged_and_unreadable_files_do_not_shift_it(pictures, tmp_path):
    d = copied(pictures, tmp_path)
    valid = [f'{n}/{n}_{i}.png' for n in ('fish', 'mug') for i in range(1, 6)]
    (d / 'fish/fish_2.png').write_bytes(b'not a picture')
    a = audit_of(d, valid=valid, learn=True)
    for ds in (a.dls.train.dataset, a.dls.valid.dataset):
        ds.max_bad = 0.9
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        wrong = rows(a, 'label error')
    assert set(rows(a, 'unreadable')) == {'fish/fish_2.png'}
    assert wrong and set(wrong) <= set(valid) - {'fish/fish_2.png'}
    assert all(row['other'] != Path(name).parent.name for name, row in wrong.items())
