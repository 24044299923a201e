"What a folder may hold, and what a splitter may be told: the cases that would spoil a run in silence."

import os
import random
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from vislearn.core import set_seed
from vislearn.data.files import get_files, get_image_files, scan_files
from vislearn.data.labels import ColReader, RegexLabeller, parent_label
from vislearn.data.split import (
    ColSplitter,
    EndSplitter,
    FileSplitter,
    FuncSplitter,
    GrandparentSplitter,
    GroupSplitter,
    IndexSplitter,
    KFoldSplitter,
    MaskSplitter,
    RandomSplitter,
    RandomSubsetSplitter,
    StratifiedSplitter,
    TrainTestSplitter,
)
from vislearn.io import replacing
from vislearn.progress import progress_bar, progress_mode
from vislearn.threads import Threads


def touch(root, *names):
    for f in (root / o for o in names):
        f.parent.mkdir(parents=True, exist_ok=True)
        f.write_bytes(b'x')


def names(files, root):
    return [f.relative_to(root).as_posix() for f in files]


def test_order_does_not_depend_on_the_disk(tmp_path, monkeypatch):
    touch(tmp_path, *(f'{c}/{i}.jpg' for c in 'ba' for i in (10, 9, 1)))
    first = get_image_files(tmp_path)
    scandir = os.scandir

    def shuffled(p):
        es = list(scandir(p))
        random.Random(1).shuffle(es)
        return es

    monkeypatch.setattr(os, 'scandir', shuffled)
    assert first == get_image_files(tmp_path) == sorted(first, key=Path.as_posix)


def test_each_real_file_once(tmp_path):
    touch(tmp_path, 'data/b/real.jpg', 'data/b/two.jpg', 'away/c/far.jpg')
    data = tmp_path / 'data'
    (data / 'a').mkdir()
    (data / 'a' / 'loop').symlink_to(data)
    (data / 'a' / 'to_b').symlink_to(data / 'b')
    (data / 'a' / 'self').symlink_to('self')
    (data / 'a' / 'twin.jpg').symlink_to(data / 'b' / 'real.jpg')
    (data / 'link').symlink_to(tmp_path / 'away')
    (data / 'link2').symlink_to(tmp_path / 'away')
    scan = scan_files(data, '.jpg')
    assert names(scan.files, data) == ['b/real.jpg', 'b/two.jpg', 'link/c/far.jpg']
    assert ('link to a file already listed') in scan.counts()


def test_a_linked_data_set_is_read(tmp_path):
    touch(tmp_path, 'store/1.jpg', 'store/2.jpg')
    (tmp_path / 'set' / 'cat').mkdir(parents=True)
    for i in (1, 2):
        (tmp_path / 'set' / 'cat' / f'{i}.jpg').symlink_to(tmp_path / 'store' / f'{i}.jpg')
    (tmp_path / 'top').symlink_to(tmp_path / 'set')
    assert names(get_image_files(tmp_path / 'top'), tmp_path / 'top') == ['cat/1.jpg', 'cat/2.jpg']


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no pipes here')
def test_pipes_are_left_out_without_being_opened(tmp_path):
    touch(tmp_path, 'a/1.jpg')
    os.mkfifo(tmp_path / 'a' / '2.jpg')
    scan = scan_files(tmp_path, '.jpg')
    assert names(scan.files, tmp_path) == ['a/1.jpg'] and [why for _, why in scan.skipped] == ['not an ordinary file']


def test_dangling_link_is_listed_so_that_it_can_be_named(tmp_path):
    touch(tmp_path, 'a/1.jpg')
    (tmp_path / 'a' / '2.jpg').symlink_to(tmp_path / 'gone.jpg')
    assert names(get_image_files(tmp_path), tmp_path) == ['a/1.jpg', 'a/2.jpg']


def test_hidden_and_mac_twins_are_left_out(tmp_path):
    touch(tmp_path, 'a/1.jpg', '__MACOSX/a/._1.jpg', '.git/x.jpg', 'a/.hidden.jpg', 'a/.ipynb_checkpoints/1.jpg')
    assert names(get_image_files(tmp_path), tmp_path) == ['a/1.jpg']


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux keeps names that are not text')
@pytest.mark.parametrize(
    'name',
    [
        'ü ñ 漢字.jpg',
        ' space.jpg',
        'new\nline.jpg',
        '-rf.jpg',
        '$(touch x);`ls`.jpg',
        '<b>&.jpg',
        '[a]*?.jpg',
        'x' * 251 + '.jpg',
        'e\u0301.jpg',
        b'latin\xe9.jpg',
    ],
)
def test_names(tmp_path, name):
    d = os.path.join(os.fsencode(tmp_path), b'c')
    os.mkdir(d)
    open(os.path.join(d, os.fsencode(name)), 'wb').close()
    fns = get_image_files(tmp_path)
    assert len(fns) == 1 and parent_label(fns[0]) == 'c' and fns[0].exists()


@pytest.mark.skipif(os.name == 'nt' or os.geteuid() == 0, reason='root may read everything')
def test_unreadable_folder_is_reported(tmp_path):
    touch(tmp_path, 'a/1.jpg', 'b/2.jpg')
    (tmp_path / 'b').chmod(0)
    try:
        assert 'not readable' in scan_files(tmp_path).skipped[0][1]
    finally:
        (tmp_path / 'b').chmod(0o755)


def test_fastai_get_files_calls(tmp_path):
    touch(tmp_path, 'train/3/1.png', 'train/7/2.png', 'valid/3/3.png', 'labels.csv')
    assert (
        len(get_files(tmp_path, extensions='.png', recurse=True)) == 3
        and len(get_files(tmp_path, extensions='.jpg')) == 0
    )
    assert get_files(tmp_path, '.png', folders='train') == get_files(tmp_path / 'train', '.png')
    assert names(get_files(tmp_path, recurse=False), tmp_path) == ['labels.csv']


@pytest.mark.parametrize('seed', [0, 1, 42, 2**40])
@pytest.mark.parametrize('n,pct', [(0, 0.2), (1, 0.2), (7, 0.2), (100, 0.25), (1001, 0.1)])
def test_random_split_is_fastais(seed, n, pct):
    torch.manual_seed(seed)
    idx = torch.randperm(n).tolist()
    cut = int(pct * n)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert RandomSplitter(pct, seed)(range(n)) == (idx[cut:], idx[:cut])
    assert torch.equal(state, torch.get_rng_state())


def test_random_split_known_values():
    "Written down from torch, so that a change of its permutation is noticed."
    assert RandomSplitter(seed=42)(range(10))[1] == [2, 6]


def test_seedless_split_follows_the_global_seed():
    torch.manual_seed(3)
    a = RandomSplitter()(range(50))
    b = RandomSplitter()(range(50))
    torch.manual_seed(3)
    assert a != b and a == RandomSplitter()(range(50))


@pytest.mark.parametrize(
    'kw',
    [
        dict(test_size=0.2),
        dict(test_size=0.33, train_size=0.5),
        dict(test_size=7),
        dict(test_size=0.2, shuffle=False),
        dict(test_size=0.3, train_size=0.4, shuffle=False),
    ],
)
def test_train_test_split_is_scikit_learns(kw):
    sk = pytest.importorskip('sklearn.model_selection')
    a, b = sk.train_test_split(list(range(53)), random_state=None if kw.get('shuffle') is False else 3, **kw)
    assert TrainTestSplitter(random_state=3, **kw)(range(53)) == (a, b)


def partition(n, split):
    return sorted(split[0] + split[1]) == list(range(n))


def test_stratified_keeps_rare_classes_on_both_sides():
    labels = ['a'] * 90 + ['b'] * 7 + ['c'] * 2 + ['d']
    for seed in range(20):
        train, valid = StratifiedSplitter(labels, 0.2, seed)(labels)
        assert partition(100, (train, valid)) and Counter(labels[i] for i in valid) == dict(a=18, b=1, c=1)
        half = TrainTestSplitter(0.2, seed, stratify=labels, train_size=0.4)(labels)
        assert not set(half[0]) & set(half[1]) and abs(len(half[0]) - 40) < 3


def test_groups_never_straddle():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 30, 400).tolist()
    for seed in range(20):
        train, valid = GroupSplitter(groups, 0.25, seed)(groups)
        assert partition(400, (train, valid)) and not {groups[i] for i in train} & {groups[i] for i in valid}
        assert abs(len(valid) - 100) <= 15
    with pytest.raises(ValueError, match='only one group'):
        GroupSplitter(['a'] * 5)(range(5))


@pytest.mark.parametrize('how', [{}, 'labels', 'groups'])
def test_folds_cover_each_item_once(how):
    items = [f'{i % 7}/{i}' for i in range(100)]
    kw = {how: lambda o: o[0]} if how else {}
    folds = [KFoldSplitter(5, i, seed=3, **kw)(items) for i in range(5)]
    assert sorted(i for _, v in folds for i in v) == list(range(100)) and all(partition(100, f) for f in folds)
    if how == 'groups':
        assert all(not {items[i][0] for i in t} & {items[i][0] for i in v} for t, v in folds)
    else:
        assert {len(v) for _, v in folds} == {20}
    if how == 'labels':
        assert all(max(c) - min(c) <= 1 for c in (Counter(items[i][0] for i in v).values() for _, v in folds))


def test_data_frames():
    pd = pytest.importorskip('pandas')
    df = pd.DataFrame(
        dict(name=['a', 'b', 'c'], labels=['x y', '', None], is_valid=[False, True, False]), index=[10, 11, 12]
    )
    assert ColSplitter()(df) == ColSplitter(2)(df) == ([0, 2], [1])
    rows = [df.iloc[i] for i in range(3)]
    assert [ColReader('name', pref=Path('d'), suff='.jpg')(r) for r in rows][0] == os.path.join('d', 'a.jpg')
    assert [ColReader(0)(r) for r in rows] == ['a', 'b', 'c'] == [ColReader('name')(r) for r in df.itertuples()]
    assert [ColReader('labels', label_delim=' ')(r) for r in rows] == [['x', 'y'], [], []]
    with pytest.raises(KeyError, match="did you mean 'name'"):
        ColReader('nam')(rows[0])
    with pytest.raises(KeyError, match="did you mean 'is_valid'"):
        ColSplitter('isvalid')(df)
    with pytest.raises(ValueError, match='on='):
        ColSplitter('name')(df)
    with pytest.raises(ValueError, match='nothing is left'):
        ColSplitter('name', on='z')(df)


def test_empty_file_name_is_an_error_not_a_path_called_nan():
    with pytest.raises(ValueError, match='is empty'):
        ColReader('f', pref='train/')({'f': float('nan')})


def test_grandparent_names_the_folders_it_found():
    items = [Path(f'd/{p}/{c}/1.jpg') for p in ('train', 'val') for c in 'ab']
    with pytest.warns(UserWarning, match=r"valid_name='valid'.*'train': 2, 'val': 2.*did you mean 'val'"):
        assert GrandparentSplitter()(items) == ([0, 1], [])
    with pytest.raises(ValueError, match='train_name'):
        GrandparentSplitter('training', 'val')(items)


@pytest.mark.parametrize(
    'split',
    [
        RandomSplitter(seed=1),
        RandomSubsetSplitter(0.5, 0.5, 1),
        IndexSplitter(torch.tensor([1, 2])),
        IndexSplitter(range(2, 4)),
        MaskSplitter(np.arange(10) > 6),
        FuncSplitter(lambda o: o > 5),
        EndSplitter(),
        EndSplitter(0.3, valid_last=False),
        TrainTestSplitter(random_state=0),
        KFoldSplitter(3, 1),
        StratifiedSplitter(lambda o: o % 2, seed=0),
        GroupSplitter(lambda o: o // 3, seed=0),
    ],
    ids=lambda o: type(o).__name__,
)
def test_a_split_is_plain_ints_and_a_partition(split):
    train, valid = split(range(10))
    assert train and valid and partition(10, (train, valid)) and all(type(i) is int for i in train + valid)
    assert all(type(o) is list for o in (train, valid)) and split(range(10)) == (train, valid)


@pytest.mark.parametrize(
    'wrong',
    [
        lambda: RandomSplitter(-1),
        lambda: RandomSubsetSplitter(0.8, 0.3),
        lambda: IndexSplitter([10])(range(10)),
        lambda: IndexSplitter([-1])(range(10)),
        lambda: IndexSplitter([1, 1])(range(10)),
        lambda: MaskSplitter([True])(range(2)),
        lambda: KFoldSplitter(5, 5),
        lambda: KFoldSplitter(5)(range(3)),
        lambda: TrainTestSplitter(0.9, train_size=0.2)(range(10)),
        lambda: RegexLabeller('a.c'),
        lambda: KFoldSplitter(labels=parent_label, groups=parent_label),
        lambda: StratifiedSplitter(['a'])(range(2)),
        lambda: parent_label('x.jpg'),
    ],
)
def test_mistakes_are_refused(wrong):
    with pytest.raises(ValueError):
        wrong()


def test_grandparent_says_what_lies_too_deep():
    items = [Path(f'd/{o}.jpg') for o in ('train/red/1', 'train/red/camera1/2', 'valid/red/3', 'test/red/4')]
    with pytest.warns(UserWarning, match='1 of 4 items are left out.*camera1'):
        assert GrandparentSplitter()(items) == ([0], [2])


@pytest.mark.parametrize('seed', [np.int64(42), np.uint8(42), torch.tensor(42)], ids=lambda o: type(o).__name__)
def test_a_seed_of_any_integer_type_is_the_same_seed(seed):
    labels = [i % 3 for i in range(30)]
    for make in (
        lambda s: RandomSplitter(seed=s),
        lambda s: RandomSubsetSplitter(0.5, 0.3, s),
        lambda s: StratifiedSplitter(labels, seed=s),
        lambda s: GroupSplitter(labels, seed=s),
        lambda s: KFoldSplitter(seed=s),
    ):
        assert make(seed)(range(30)) == make(42)(range(30))


@pytest.mark.parametrize('make', [RandomSplitter, EndSplitter, lambda pct: RandomSubsetSplitter(0.5, pct)])
def test_a_share_of_few_items_is_at_least_one(make):
    train, valid = make(0.2)('abcd')
    assert len(valid) == 1 and train


def test_nothing_to_validate_on_is_said():
    with pytest.warns(UserWarning, match='nothing is left to validate on'):
        assert MaskSplitter([False] * 3)('abc') == ([0, 1, 2], [])
    with pytest.warns(UserWarning, match='nothing is left to validate on'):
        assert StratifiedSplitter('abc', seed=0)('abc')[1] == []
    assert RandomSplitter(0)('abc')[1] == []  # asked for


def test_splits_do_not_depend_on_torchs_defaults():
    usual = RandomSplitter(seed=1)(range(9))
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device('meta')
        assert RandomSplitter(seed=1)(range(9)) == usual
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


def test_file_splitter(tmp_path):
    items = [Path(f'd/{c}/{i}.jpg') for c in 'ab' for i in (1, 2)]
    f = tmp_path / 'v.txt'
    f.write_text('1.jpg\n\n')
    assert FileSplitter(f)(items) == ([1, 3], [0, 2])
    f.write_text('a\\1.jpg\r\nb/2.jpg')
    assert FileSplitter(f)(items) == ([1, 2], [0, 3])
    f.write_text('9.jpg')
    with pytest.raises(ValueError, match='9.jpg'):
        FileSplitter(f)(items)


def test_one_rule_says_where_bars_go(monkeypatch):
    from tqdm import tqdm

    for mode in ('notebook', 'terminal', 'plain', 'off'):
        monkeypatch.setenv('VISLEARN_PROGRESS', mode)
        bar = progress_bar([1, 2])
        assert (
            progress_mode() == mode
            and isinstance(bar, tqdm) == (mode in ('notebook', 'terminal'))
            and list(bar) == [1, 2]
        )


def test_seeds_of_other_kinds_split_the_same():
    wanted = TrainTestSplitter(0.3, random_state=42)(range(40))
    for seed in (np.int64(42), 42.0, '42', torch.tensor(42)):
        assert TrainTestSplitter(0.3, random_state=seed)(range(40)) == wanted


def test_several_threads_may_replace_one_file(tmp_path):
    file = tmp_path / 'a.txt'

    def write(text):
        with replacing(file) as tmp:
            tmp.write_text(text)
            assert tmp.read_text() == text  # nobody else writes to it
        return file.read_text()

    texts = [f'{i}' * 5000 for i in range(8)]
    with Threads(4) as threads:
        for _ in range(10):
            assert set(threads.map(write, texts)) <= set(texts)
    assert [f.name for f in tmp_path.iterdir()] == ['a.txt']


def test_what_a_killed_run_left_is_removed_from_beside_a_file_of_any_name(tmp_path):
    old, new, other = (tmp_path / f'.{name}.tmp' for name in ('a[1].csv.7', 'a[1].csv.8', 'a1.csv.7'))
    for f in (old, new, other):
        f.touch()
    for f in (old, other):
        os.utime(f, (time.time() - 7200,) * 2)
    with replacing(tmp_path / 'a[1].csv') as tmp:
        tmp.write_text('x')
    assert {f.name for f in tmp_path.iterdir()} == {'a[1].csv', new.name, other.name}


@pytest.mark.parametrize('seed', [2**64 - 1, 2**70, -(2**70)])
def test_any_whole_number_is_a_seed(seed):
    "Also one of more bits than torch and NumPy take; another number gives another split."
    splits = [RandomSplitter(seed=n)(range(40)) for n in (seed, seed, seed + 1)]
    assert splits[0] == splits[1] != splits[2]
    set_seed(seed)
    drawn = torch.rand(1)
    set_seed(seed)
    assert torch.equal(drawn, torch.rand(1))
