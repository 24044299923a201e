"The cleaner's logic: nothing is lost, whatever happens in the middle."

import datetime
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from decimal import Decimal
from enum import Enum
from pathlib import Path

import numpy as np
import pytest

from vislearn.clean import cleaner
from vislearn.clean.cleaner import Cleaner, CsvLabels
from vislearn.clean.journal import Journal, file_lock
from vislearn.clean.review import ALL, DECIDED, DELETE, KEEP, Picture, Review
from vislearn.clean.steps import free_name, move_new
from vislearn.io import file_sha256

N_SEQUENCES = 1000 if os.environ.get('VISLEARN_FULL') else 80
classes = ['cat', 'dog', 'cow']


def put(root, name, text='x'):
    f = Path(root) / name
    f.parent.mkdir(parents=True, exist_ok=True)
    f.write_bytes(text.encode() if isinstance(text, str) else text)
    return f


def tree(root):
    "Everything under `root` but the trash: {relative path: bytes, or None for a folder}."
    return {
        f.relative_to(root).as_posix(): os.readlink(f) if f.is_symlink() else f.read_bytes() if f.is_file() else None
        for f in Path(root).rglob('*')
        if '.vislearn_trash' not in f.parts
    }


def hashes(root):
    "How often each content occurs among the pictures, trash included."
    return Counter(
        file_sha256(f)
        for f in Path(root).rglob('*')
        if f.is_file() and f.name not in ('journal.jsonl', 'lock') and f.suffix != '.csv'
    )


@pytest.fixture
def data(tmp_path):
    for n in ['cat/1.jpg', 'cat/2.jpg', 'dog/1.jpg', 'dog/3.jpg']:
        put(tmp_path, n, n)
    return tmp_path


# ---- decisions
def test_decisions_survive_a_second_cleaner_and_a_restart(data):
    a, b = Cleaner(data), Cleaner(data)
    a.delete(data / 'cat/1.jpg')
    b.change('dog/3.jpg', 'cat')
    assert a.counts() == b.counts() == Cleaner(data).counts() == dict(delete=1, change=1)
    code = f'from vislearn.clean.cleaner import Cleaner; print([(d.path, d.do, d.label) for d in Cleaner({str(data)!r}).pending])'
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[('cat/1.jpg', 'delete', None), ('dog/3.jpg', 'change', 'cat')]"


def test_nothing_is_touched_before_apply(data):
    was = tree(data)
    c = Cleaner(data)
    c.delete('cat/1.jpg')
    c.change('cat/2.jpg', 'dog')
    c.apply(dry_run=True)
    c.plan()
    assert tree(data) == was and c.counts() == dict(delete=1, change=1)


def test_the_last_decision_counts(data):
    c = Cleaner(data)
    c.delete('cat/1.jpg')
    c.change('cat/1.jpg', 'dog')
    c.delete('cat/2.jpg')
    c.keep('cat/2.jpg')
    assert [(d.path, d.do) for d in c.pending] == [('cat/1.jpg', 'change')]
    c.clear()
    assert c.pending == []


def test_looking_writes_nothing(data):
    c = Cleaner(data)
    c.plan()
    c.counts()
    c.keep('cat/1.jpg')
    c.refresh()
    c.decision('cat/1.jpg')
    assert not (data / '.vislearn_trash').exists()


def test_a_changed_file_is_refused(data):
    c = Cleaner(data)
    c.delete('cat/1.jpg')
    c.delete('cat/2.jpg')
    c.delete('dog/1.jpg')
    put(data, 'cat/1.jpg', 'another picture')
    (data / 'dog/1.jpg').unlink()
    assert c.counts()['delete'] == 1 and c.decision('cat/1.jpg') is None
    done = c.apply()
    assert dict(done.refused) == {
        'cat/1.jpg': 'it has changed since it was decided',
        'dog/1.jpg': 'it no longer exists',
    }
    assert (data / 'cat/1.jpg').read_text() == 'another picture' and not (data / 'cat/2.jpg').exists()


def test_same_size_and_time_but_other_content(data):
    c = Cleaner(data)
    c.delete('cat/1.jpg')
    st = os.stat(data / 'cat/1.jpg')
    put(data, 'cat/1.jpg', 'CAT/1.jpg')
    os.utime(data / 'cat/1.jpg', ns=(st.st_atime_ns, st.st_mtime_ns))
    c.apply()
    assert (data / 'cat/1.jpg').read_text() == 'CAT/1.jpg'


def test_wrong_paths(data):
    c = Cleaner(data)
    with pytest.raises(FileNotFoundError):
        c.delete('cat/9.jpg')
    with pytest.raises(ValueError, match='not under'):
        c.delete(data.parent / 'x.jpg')
    c.delete('cat/1.jpg')
    c.apply()
    gone = next(data.rglob('.vislearn_trash/*/cat/1.jpg'))
    with pytest.raises(ValueError, match='trash'):
        c.delete(gone)


@pytest.mark.parametrize('label', ['../up', 'a/b', 'a\\b', '', '.hidden', '..', ['cat', 'dog']])
def test_labels_that_are_no_folder_are_refused(data, label):
    c = Cleaner(data)
    c.change('cat/1.jpg', label)
    was = tree(data)
    assert len(c.apply().refused) == 1 and tree(data) == was


@pytest.mark.parametrize(
    'name', ['<img src=x onerror=alert(1)>.jpg', 'it\'s "q" & co.jpg', 'naïve 猫.jpg', 'a\nb.jpg', b'bad\xff.jpg']
)
def test_odd_names(tmp_path, name):
    name = os.fsdecode(name)
    try:
        put(tmp_path, f'cat/{name}', 'x')
        put(tmp_path, 'dog/1.jpg', 'y')
    except OSError:
        pytest.skip(f'this file system has no names like {name!r}')
    was = tree(tmp_path)
    c = Cleaner(tmp_path)
    c.change(tmp_path / 'cat' / name, 'dog')
    c.apply()
    assert (tmp_path / 'dog' / name).exists() and len(Cleaner(tmp_path).state.batches) == 1
    c.undo()
    assert tree(tmp_path) == was


def test_bool_labels(tmp_path):
    put(tmp_path, 'True/1.jpg')
    put(tmp_path, 'False/2.jpg')
    c = Cleaner(tmp_path)
    c.change('True/1.jpg', False)
    c.apply()
    assert (tmp_path / 'False/1.jpg').exists()


# ---- moving
def test_a_name_that_is_taken_gets_a_number(data):
    put(data, 'cow/1.jpg', 'moo')
    c = Cleaner(data)
    c.change('cat/1.jpg', 'cow')
    c.change('dog/1.jpg', 'cow')
    c.apply()
    assert {k: v for k, v in tree(data / 'cow').items()} == {
        '1.jpg': b'moo',
        '1_1.jpg': b'cat/1.jpg',
        '1_2.jpg': b'dog/1.jpg',
    }


def test_names_that_differ_in_case_only(tmp_path):
    assert free_name(tmp_path / 'A.jpg', {str(tmp_path / 'a.jpg').casefold()}).name == 'A_1.jpg'


@pytest.mark.parametrize('links, same_disk', [(True, True), (False, True), (False, False)])
def test_move_new_never_overwrites(tmp_path, monkeypatch, links, same_disk):
    degrade(monkeypatch.setattr, links, same_disk)
    a, b = put(tmp_path, 'a', 'A'), put(tmp_path, 'b', 'B')
    with pytest.raises(FileExistsError):
        move_new(a, b)
    assert (a.read_text(), b.read_text()) == ('A', 'B')
    os.utime(a, (1e9, 1e9))
    move_new(a, tmp_path / 'new/c')
    assert tree(tmp_path) == {'b': b'B', 'new': None, 'new/c': b'A'} and (tmp_path / 'new/c').stat().st_mtime == 1e9


def test_a_file_that_cannot_leave_stays_with_one_name(tmp_path, monkeypatch):
    a, unlink = put(tmp_path, 'a', 'A'), os.unlink

    def held(f):
        if str(f) == str(a):
            raise PermissionError(errno.EACCES, 'in use')
        unlink(f)

    monkeypatch.setattr(cleaner.os, 'unlink', held)
    with pytest.raises(PermissionError):
        move_new(a, tmp_path / 'b')
    assert tree(tmp_path) == {'a': b'A'}


def symlink(f, to):
    f.parent.mkdir(parents=True, exist_ok=True)
    try:
        f.symlink_to(to)
    except OSError:
        pytest.skip('no symbolic links here')


def test_symbolic_links_keep_pointing_at_their_target(data):
    put(data, 'store/deep/p.jpg', 'pixels')
    symlink(data / 'cat/l.jpg', './../store/deep/p.jpg')
    was = tree(data)
    c = Cleaner(data)
    c.delete('cat/l.jpg')
    c.apply()
    link = next(data.rglob('.vislearn_trash/*/cat/l.jpg'))
    assert link.is_symlink() and link.read_text() == 'pixels' and (data / 'store/deep/p.jpg').exists()
    c.undo()
    assert tree(data) == was  # './../' and all


def test_files_are_named_from_the_root_or_from_the_working_directory(data, monkeypatch):
    monkeypatch.chdir(data.parent)
    c = Cleaner(data.name)
    for file in (f'{data.name}/cat/1.jpg', 'cat/2.jpg', data / 'dog/1.jpg'):
        c.delete(file)
    assert [d.path for d in c.pending] == ['cat/1.jpg', 'cat/2.jpg', 'dog/1.jpg']
    assert repr(c) == f'Cleaner({str(data)!r}: 3 to delete, 0 to change)'
    with pytest.raises(FileNotFoundError, match='cat/9.jpg'):
        c.delete(f'{data.name}/cat/9.jpg')


def test_root_given_through_a_link(data, tmp_path_factory):
    way = tmp_path_factory.mktemp('w') / 'way'
    symlink(way, data)
    c = Cleaner(way)
    c.delete(data / 'cat/1.jpg')
    c.delete(way / 'cat/2.jpg')
    assert [d.path for d in c.pending] == ['cat/1.jpg', 'cat/2.jpg']


def test_trash_elsewhere(data, tmp_path_factory):
    was, trash = tree(data), tmp_path_factory.mktemp('trash')
    c = Cleaner(data, trash=trash)
    c.delete('cat/1.jpg')
    c.apply()
    assert not (data / '.vislearn_trash').exists() and [f.read_text() for f in trash.rglob('1.jpg')] == ['cat/1.jpg']
    c.undo()
    assert tree(data) == was


def test_a_step_that_fails_does_not_stop_the_others(data, monkeypatch):
    was, link = tree(data), os.link

    def broken(a, b, **kw):
        if 'cat' in str(a) and '1.jpg' in str(a):
            raise FileExistsError(errno.EEXIST, 'taken meanwhile')
        link(a, b, **kw)

    monkeypatch.setattr(cleaner.os, 'link', broken)
    c = Cleaner(data)
    c.delete('cat/1.jpg')
    c.delete('cat/2.jpg')
    done = c.apply()
    assert [p for p, _ in done.refused] == ['cat/1.jpg'] and len(done) == 1 and c.counts()['delete'] == 1
    monkeypatch.undo()
    c.apply()
    c.restore_all()
    assert tree(data) == was


# ---- undo and redo
def test_undo_redo_restore(data):
    t0, c = tree(data), Cleaner(data)
    c.delete('cat/1.jpg')
    c.apply()
    t1 = tree(data)
    c.change('cat/2.jpg', 'cow')
    c.apply()
    t2 = tree(data)
    c.undo()
    assert tree(data) == t1 and c.counts() == dict(delete=0, change=1)
    c.undo()
    assert tree(data) == t0
    c.redo()
    assert tree(data) == t1
    c.redo()
    assert tree(data) == t2 and c.counts() == dict(delete=0, change=0)
    c.restore_all()
    assert tree(data) == t0 and c.counts() == dict(delete=0, change=0)
    assert len(c.undo()) == 0 and len(c.restore_all()) == 0


def test_a_new_apply_ends_redo(data):
    c = Cleaner(data)
    c.delete('cat/1.jpg')
    c.apply()
    c.undo()
    c.clear()
    c.delete('cat/2.jpg')
    c.apply()
    t = tree(data)
    assert len(c.redo()) == 0 and tree(data) == t


def test_undo_of_an_earlier_batch(data):
    c = Cleaner(data)
    c.change('cat/1.jpg', 'cow')
    c.apply()
    c.delete('dog/1.jpg')
    c.apply()
    c.undo(0)
    assert (data / 'cat/1.jpg').exists() and not (data / 'dog/1.jpg').exists() and not (data / 'cow').exists()
    with pytest.raises(ValueError, match='no batch 0'):
        c.undo(0)


def test_undo_of_a_batch_others_build_on_is_an_error(data):
    was, c = tree(data), Cleaner(data)
    c.change('cat/1.jpg', 'cow')
    c.apply()
    c.change('cow/1.jpg', 'pig')
    c.apply()
    with pytest.raises(ValueError, match='undo that one first'):
        c.undo(0)
    c.restore_all()
    assert tree(data) == was


def test_undo_leaves_alone_what_somebody_changed(data):
    c = Cleaner(data)
    c.change('cat/1.jpg', 'dog')
    c.change('cat/2.jpg', 'dog')
    c.apply()
    put(data, 'cat/2.jpg', 'new in the old place')
    back = c.undo()
    assert [p for p, _ in back.refused] == ['cat/2.jpg'] and (data / 'cat/1.jpg').exists()
    assert (data / 'dog/2.jpg').read_text() == 'cat/2.jpg' and (
        data / 'cat/2.jpg'
    ).read_text() == 'new in the old place'
    (data / 'cat/2.jpg').unlink()
    assert len(c.restore_all()) == 1 and (data / 'cat/2.jpg').read_text() == 'cat/2.jpg'


def test_follow(data):
    c = Cleaner(data)
    paths = [data / n for n in ['cat/1.jpg', 'cat/2.jpg', 'dog/3.jpg']]
    c.change('cat/1.jpg', 'dog')
    c.delete('cat/2.jpg')
    c.apply()
    c.change('dog/1_1.jpg', 'cow')
    c.apply()
    now = c.follow(paths)
    assert now[0] == (data / 'cow/1_1.jpg', 'cow', False) and now[1][2] and 2 not in now
    c.undo()
    c.undo()
    assert {i: (p, gone) for i, (p, _, gone) in c.follow(paths).items()} == {0: (paths[0], False), 1: (paths[1], False)}
    assert c.follow(paths)[0][1] == 'cat'


# ---- CSV
def test_csv_keeps_every_other_byte(data):
    text = '\ufefffname;x,label,is_valid\r\n"cat/1.jpg",cat ,False\r\ncat/2.jpg,"cat",True\r\ndog/1.jpg,"a ""dog""\r\nof two lines",\r\n'.encode()
    put(data, 'l.csv', text)
    pics = {k: v for k, v in tree(data).items() if v and k != 'l.csv'}
    c = Cleaner(data, CsvLabels('l.csv', label_col='label'))
    c.change('cat/2.jpg', 'dog')
    c.delete('cat/1.jpg')
    c.apply()
    lines = text.split(b'\r\n')
    assert (data / 'l.csv').read_bytes().split(b'\r\n') == [lines[0], b'cat/2.jpg,dog,True', *lines[3:]]
    assert pics.items() <= tree(data).items()
    c.undo()
    assert (data / 'l.csv').read_bytes() == text
    c.redo()
    c.restore_all()
    assert (data / 'l.csv').read_bytes() == text


def test_csv_with_folder_suffix_and_several_labels(data):
    put(data, 'l.csv', 'image,tags\n1,a|b\n2,b\n')
    c = Cleaner(data, CsvLabels('l.csv', 'image', 'tags', folder='cat', suff='.jpg', label_delim='|'))
    c.change('cat/1.jpg', ['c', 'd'])
    c.apply()
    assert (data / 'l.csv').read_text() == 'image,tags\n1,c|d\n2,b\n'
    assert c.follow(['cat/1.jpg']) == {0: (data / 'cat/1.jpg', ['c', 'd'], False)}
    c.undo()
    assert c.follow(['cat/1.jpg'])[0][1] == ['a', 'b']


def test_csv_that_is_not_there_yet(data):
    was = tree(data)
    c = Cleaner(data, CsvLabels('new.csv', rows=[('cat/1.jpg', 'cat', False), ('cat/2.jpg', ['cat', 'x'], True)]))
    c.change('cat/1.jpg', 'dog')
    c.apply()
    assert (data / 'new.csv').read_text() == 'fname,label,is_valid\ncat/1.jpg,dog,False\ncat/2.jpg,cat x,True\n'
    c.undo()
    assert tree(data) == was
    c.redo()
    assert 'dog' in (data / 'new.csv').read_text()


def test_csv_edited_by_hand_is_not_overwritten(data):
    put(data, 'l.csv', 'f,l\ncat/1.jpg,cat\n')
    c = Cleaner(data, CsvLabels('l.csv'))
    c.change('cat/1.jpg', 'dog')
    c.apply()
    put(data, 'l.csv', 'mine')
    assert len(c.undo().refused) == 1 and (data / 'l.csv').read_text() == 'mine'


def test_csv_case_matters_where_it_does_on_disk(tmp_path):
    put(tmp_path, 'A.jpg', '1')
    put(tmp_path, 'a.jpg', '2')
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip('names here do not differ by case')
    put(tmp_path, 'l.csv', 'f,l\nA.jpg,x\na.jpg,x\n')
    c = Cleaner(tmp_path, CsvLabels('l.csv'))
    c.change('a.jpg', 'y')
    c.apply()
    assert (tmp_path / 'l.csv').read_text() == 'f,l\nA.jpg,x\na.jpg,y\n'


def test_csv_errors(data):
    put(data, 'l.csv', 'f,l\ncat/1.jpg,cat\n')
    c = Cleaner(data, CsvLabels('l.csv', label_col='label'))
    c.delete('cat/1.jpg')
    with pytest.raises(ValueError, match=r"no column 'label'.*\['f', 'l'\]"):
        c.plan()
    c = Cleaner(data, CsvLabels('l.csv'))
    c.delete('dog/1.jpg')
    assert c.apply().refused == [('dog/1.jpg', 'l.csv has no line for it')]


def test_clear_takes_all_open_decisions_back_and_nothing_else(data):
    fresh = Cleaner(data)
    fresh.clear()
    assert not fresh.trash.exists()  # there was nothing to take back
    c = Cleaner(data)
    c.delete('cat/1.jpg')
    c.apply()
    c.delete('cat/2.jpg')
    c.change('dog/1.jpg', 'cat')
    put(data, 'dog/1.jpg', 'another picture')  # its decision waits for the old one
    c.clear()
    assert not c.pending and not c.state.decisions and not Cleaner(data).state.decisions
    assert c.undoable() == 0  # what was applied


def test_a_journal_that_somebody_removed_is_not_taken_for_an_empty_one(data):
    c = Cleaner(data)
    c.delete('cat/1.jpg')
    shutil.rmtree(c.trash)
    for do in (lambda: c.pending, c.apply, c.clear, lambda: c.delete('cat/2.jpg')):
        with pytest.raises(OSError, match='removed or replaced.*make a new cleaner'):
            do()
    assert Cleaner(data).pending == [] and (data / 'cat/1.jpg').exists()


# ---- journal and lock
def test_a_torn_line_is_passed_over(tmp_path):
    j = Journal(tmp_path / 'j')
    j.append(dict(a=1))
    with open(j.path, 'ab') as f:
        f.write(b'{"a": 2, "b')
    assert Journal(j.path).news() == [dict(a=1)]
    j.heal()
    j.append(dict(a=3))
    assert j.news() == [dict(a=1), dict(a=3)]


def test_a_whole_line_without_its_end_counts(tmp_path):
    j = Journal(tmp_path / 'j')
    j.append(dict(a=1))
    with open(j.path, 'ab') as f:
        f.write(b'{"a": 2}')
    assert j.news() == [dict(a=1)]
    j.heal()
    j.heal()
    assert j.news() == [dict(a=2)]


def test_a_full_disk_is_an_error_and_changes_nothing(data, monkeypatch):
    c = Cleaner(data)
    c.delete('cat/1.jpg')
    was = tree(data)

    def full(fd):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(cleaner.os, 'fsync', full)
    with pytest.raises(OSError, match='No space'):
        c.delete('cat/2.jpg')
    with pytest.raises(OSError, match='No space'):
        c.apply()
    assert tree(data) == was


def test_the_lock_goes_with_its_process(tmp_path):
    code = f"from vislearn.clean.journal import file_lock; import time\nwith file_lock({str(tmp_path / 'lock')!r}): print('held', flush=True); time.sleep(60)"
    p = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    assert p.stdout.readline().strip() == 'held'
    with pytest.raises(TimeoutError, match='held by another'):
        with file_lock(tmp_path / 'lock', timeout=0.1):
            pass
    p.kill()
    p.wait()
    p.stdout.close()
    with file_lock(tmp_path / 'lock', timeout=5):
        pass


def test_two_processes_deciding_at_once(data):
    code = (
        'import sys; from vislearn.clean.cleaner import Cleaner; c = Cleaner(sys.argv[1])\n'
        'for i in range(25): c.delete(sys.argv[2]); c.keep(sys.argv[2])\nc.delete(sys.argv[2])'
    )
    ps = [subprocess.Popen([sys.executable, '-c', code, str(data), n]) for n in ('cat/1.jpg', 'dog/1.jpg')]
    assert [p.wait() for p in ps] == [0, 0]
    assert len(Journal(data / '.vislearn_trash/journal.jsonl').news()) == 102 and Cleaner(data).counts()['delete'] == 2


# ---- kill -9
def degrade(setattr, links=True, same_disk=True):
    "Take hard links, or renaming across folders, away."

    def no_links(*a, **k):
        raise OSError(errno.EPERM, 'Operation not permitted')

    def other_disk(a, b):
        raise OSError(errno.EXDEV, 'Invalid cross-device link')

    if not links:
        setattr(cleaner.os, 'link', no_links)
    if not same_disk:
        setattr(cleaner.os, 'rename', other_disk)


events = {'open', 'os.link', 'os.remove', 'os.rename', 'os.mkdir', 'os.rmdir', 'os.symlink'}


def die_at(k):
    "Kill this process just before its `k`-th step on the file system."
    n = [0]

    def hook(name, args):
        if name in events:
            n[0] += 1
            if n[0] == k:
                os.kill(os.getpid(), signal.SIGKILL) if hasattr(signal, 'SIGKILL') else os._exit(9)

    sys.addaudithook(hook)


def in_child(rng, f):
    "Run `f` in a process that is killed somewhere in it (or just not); True if it was."
    when, late = rng.choice([0, rng.randint(1, 40), rng.randint(12, 30), -1]), rng.random() * 0.004
    if (pid := os.fork()) == 0:
        try:
            if when > 0:
                die_at(when)
            f()
        finally:
            os._exit(0)
    if when == -1:
        time.sleep(late)
        os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1] != 0


def make(root, rng, mode):
    for i in range(rng.randint(4, 9)):
        f = root / rng.choice(['train', 'valid']) / rng.choice(classes) / f'{rng.randint(0, 3)}.jpg'
        if not f.exists():
            put(root, f.relative_to(root), f'{rng.randint(0, 5)}')  # contents occur twice, names too
    fs = sorted(f.relative_to(root).as_posix() for f in root.rglob('*.jpg'))
    if mode == 'csv':
        put(root, 'l.csv', 'f,l\n' + ''.join(f'{f},{Path(f).parent.name}\n' for f in fs))


def act(c, rng, mode):
    "One random action; those that move files may be killed. Returns its name."
    fs = sorted(f for f in c.root.rglob('*.jpg') if '.vislearn_trash' not in f.parts)
    what = rng.choice(
        ['delete', 'change', 'change', 'keep', 'apply', 'apply', 'undo', 'redo', 'restore_all', 'undo_any']
    )
    if what in ('delete', 'keep') and fs:
        getattr(c, what)(rng.choice(fs))
    if what == 'change' and fs:
        c.change(rng.choice(fs), rng.choice(classes + ['new', 'newer']))
    if what == 'undo_any':
        on = [b.id for b in c.state.batches if b.applied] or [0]

        def f():
            try:
                c.undo(rng.choice(on))
            except ValueError:
                pass

        in_child(rng, f)
    if what in ('apply', 'undo', 'redo', 'restore_all'):
        in_child(rng, getattr(c, what))
    return what


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs os.fork to kill cheaply a thousand times')
@pytest.mark.parametrize('mode', ['links', 'no links', 'two disks', 'csv'])
def test_random_sequences_with_kill_9_lose_nothing(tmp_path, monkeypatch, mode):
    degrade(monkeypatch.setattr, mode in ('links', 'csv'), mode != 'two disks')
    for seed in range(N_SEQUENCES // 4):
        rng, root = random.Random(f'{mode} {seed}'), tmp_path / str(seed)
        make(root, rng, mode)
        was, content = tree(root), hashes(root)
        c = Cleaner(root, CsvLabels('l.csv') if mode == 'csv' else None)
        log = []
        for _ in range(rng.randint(4, 14)):
            log.append(act(c, rng, mode))
            assert set(content) <= set(hashes(root)), (seed, log)  # even before the crash is mended
            if rng.random() < 0.1:
                with open(
                    put(root, '.vislearn_trash/journal.jsonl', b'') if not c.journal.path.exists() else c.journal.path,
                    'ab',
                ) as f:
                    f.write(b'{"t": "dec')
            again = Cleaner(root, c.labels)  # mends it
            assert hashes(root) == content, (seed, log)
            c.refresh()
            assert again.pending == c.pending and [b.applied for b in again.state.batches] == [
                b.applied for b in c.state.batches
            ], (seed, log)
            if rng.random() < 0.3:
                c = again
        left = c.restore_all()
        assert not left.refused and tree(root) == was and hashes(root) == content, (seed, log, left)


def test_killed_at_every_step_of_one_apply(data):
    "The same in fresh processes, one after the other, until one comes through (also where there is no fork)."
    was, content = tree(data), hashes(data)
    code = (
        'import sys; sys.path.insert(0, sys.argv[3]); from test_cleaner import die_at, Cleaner; c = Cleaner(sys.argv[1])\n'
        "c.delete('cat/1.jpg'); c.change('cat/2.jpg', 'cow'); die_at(int(sys.argv[2])); c.apply()"
    )
    for k in range(10, 60):
        p = subprocess.run([sys.executable, '-c', code, str(data), str(k), str(Path(__file__).parent)])
        c = Cleaner(data)
        assert hashes(data) == content
        c.restore_all()
        c.clear()
        assert tree(data) == was
        if p.returncode == 0:
            break
    assert p.returncode == 0 and k > 20


def test_the_module_needs_neither_ipywidgets_nor_torch():
    code = "import sys, vislearn.clean.cleaner; print([m for m in ('ipywidgets', 'IPython', 'torch', 'PIL') if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout.strip() == '[]'


# ---- journals of earlier versions
GOLDEN = Path(__file__).parent / 'golden'


def same_time(monkeypatch):
    monkeypatch.setattr(cleaner.time, 'strftime', lambda form: '20260101-120000')


def test_the_journal_is_written_as_in_version_0_1(tmp_path, monkeypatch):
    same_time(monkeypatch)
    for n in ['cat/1.jpg', 'cat/2.jpg', 'dog/1.jpg', 'dog/3.jpg']:
        put(tmp_path, n, n)
    c = Cleaner(tmp_path)
    c.delete('cat/1.jpg')
    c.change('cat/2.jpg', 'cow')
    c.apply()
    c.change('dog/3.jpg', 'cat')
    c.delete('dog/1.jpg')
    c.keep('dog/1.jpg')
    c.apply()
    c.undo()
    c.delete('dog/1.jpg')
    assert c.journal.path.read_text() == (GOLDEN / 'cleaner_folders.jsonl').read_text()
    put(tmp_path, 'labels.csv', 'fname,label\ncow/2.jpg,cow\ndog/1.jpg,dog\n')
    t = Cleaner(tmp_path, CsvLabels('labels.csv'), trash='t')
    t.change('dog/1.jpg', ['a', 'b'])
    t.apply()
    assert t.journal.path.read_text() == (GOLDEN / 'cleaner_csv.jsonl').read_text()


def test_a_journal_of_version_0_1_is_undone_and_redone(tmp_path):
    trash = tmp_path / '.vislearn_trash'
    put(trash, '20260101-120000/cat/1.jpg', 'cat/1.jpg')
    put(tmp_path, 'cow/2.jpg', 'cat/2.jpg')
    for n in ['dog/1.jpg', 'dog/3.jpg']:
        put(tmp_path, n, n)
    put(trash, 'journal.jsonl', (GOLDEN / 'cleaner_folders.jsonl').read_text())
    was = tree(tmp_path)
    c = Cleaner(tmp_path)
    assert [(d.path, d.do, d.label) for d in c.pending] == [
        ('dog/3.jpg', 'change', 'cat'),
        ('dog/1.jpg', 'delete', None),
    ]
    c.undo()
    back = {n: n.encode() for n in ['cat/1.jpg', 'cat/2.jpg', 'dog/1.jpg', 'dog/3.jpg']} | {'cat': None, 'dog': None}
    assert tree(tmp_path) == back
    c.redo()
    assert tree(tmp_path) == was | {'cat': None}


class Animal(Enum):
    CAT = 'cat'
    DOG = 'dog'


@pytest.mark.parametrize(
    'label, folder',
    [
        (np.str_('cow'), 'cow'),
        (np.int64(3), '3'),
        (np.float32(0.5), '0.5'),
        (np.bool_(True), 'True'),
        (Path('cow'), 'cow'),
        (Animal.DOG, 'dog'),
        (datetime.date(2024, 5, 1), '2024-05-01'),
        (Decimal('1.5'), '1.5'),
        (b'cow', 'cow'),
        (['cow'], None),
        (np.array(['cow', 'dog']), None),
    ],
    ids=str,
)
def test_labels_of_any_kind_are_written_as_plain_data(data, label, folder):
    c = Cleaner(data)
    c.change('cat/2.jpg', label)
    again = Cleaner(data).decision('cat/2.jpg')
    assert again == c.decision('cat/2.jpg')
    plan = c.apply()
    if folder is None:
        assert type(again.label) is list and 'several labels' in plan.refused[0][1]
    else:
        assert (data / folder / '2.jpg').read_text() == 'cat/2.jpg'


def test_a_label_without_a_plain_form_is_an_error_and_not_a_broken_journal(data):
    c = Cleaner(data)
    with pytest.raises(TypeError, match='plain form'):
        c.change('cat/2.jpg', object())
    assert Cleaner(data).pending == []


# ---- review
def pictures(root, valid=False):
    fs = sorted(f for f in root.rglob('*.jpg') if '.vislearn_trash' not in f.parts)
    return [
        Picture(f, f.parent.name, [(f.parent.name, 0.5 + i / 20)], loss=float(i), conf=0.5 + i / 20, score=-float(i))
        for i, f in enumerate(fs)
    ]


@pytest.fixture
def review(data):
    return Review(Cleaner(data), dict(Train=lambda: pictures(data), Valid=lambda: []), max_n=3)


def names(ps):
    return [f'{p.path.parent.name}/{p.path.name}' for p in ps]


def test_review_sorts_and_pages(review):
    assert names(review.select()) == ['dog/3.jpg', 'dog/1.jpg', 'cat/2.jpg'] and (review.n, review.n_pages) == (4, 2)
    assert (
        names(review.select(page=1)) == ['cat/1.jpg']
        and names(review.select(page=99)) == ['cat/1.jpg']
        and review.page == 1
    )
    with pytest.raises(
        ValueError, match=r"no order 'los'; did you mean 'loss'\? There are: loss, confidence, audit, name"
    ):
        review.select(sort='los')
    with pytest.raises(ValueError, match="no split 'valid'"):
        review.select(split='valid')
    assert names(review.select(sort='confidence'))[0] == 'cat/1.jpg' and review.page == 0
    assert names(review.select(sort='audit'))[0] == 'cat/1.jpg' and names(review.select(sort='name', cat='dog')) == [
        'dog/1.jpg',
        'dog/3.jpg',
    ]
    assert review.select(split='Valid') == [] and review.n_pages == 1


def test_review_remembers_across_views_and_reviews(review, data):
    review.select(cat='cat')
    review.choose(0, DELETE)
    review.choose(1, 'dog')
    review.select(cat='dog')
    assert review.values() == [KEEP, KEEP]
    assert names(review.select(cat=DECIDED)) == ['cat/2.jpg', 'cat/1.jpg'] and review.values() == [DELETE, 'dog']
    other = Review(Cleaner(data), dict(Train=lambda: pictures(data)))
    other.select(cat='cat')
    assert other.values() == [DELETE, 'dog']
    other.choose(0, KEEP)
    other.choose(1, 'cat')  # its own label: nothing to do
    assert review.cleaner.counts() == dict(delete=0, change=0)


def test_review_follows_apply_undo_and_deletes_by_hand(review, data):
    review.select(cat='cat')
    review.choose(0, 'dog')
    review.choose(1, DELETE)
    review.cleaner.apply()
    assert review.select(cat='cat') == [] and names(review.select(cat='dog')) == ['dog/3.jpg', 'dog/1.jpg', 'dog/2.jpg']
    review.choose(2, 'cow')
    review.cleaner.apply()
    assert names(review.select(cat='cow')) == ['cow/2.jpg']
    review.cleaner.restore_all()
    assert names(review.select(cat='cat')) == ['cat/2.jpg', 'cat/1.jpg'] and review.select(cat='cow') == []
    (data / 'cat/2.jpg').unlink()
    assert names(review.select(cat='cat')) == ['cat/1.jpg']


def test_review_of_an_old_list(data):
    old = pictures(data)
    c = Cleaner(data)
    c.delete('cat/1.jpg')
    c.change('cat/2.jpg', 'dog')
    c.apply()
    r = Review(Cleaner(data), dict(Train=lambda: old))
    assert names(r.select(cat='dog')) == ['dog/3.jpg', 'dog/1.jpg', 'dog/2.jpg'] and r.select(cat='cat') == []


def test_review_with_several_labels(data):
    ps = [Picture(data / 'cat/1.jpg', ['cat', 'indoor']), Picture(data / 'dog/1.jpg', [])]
    r = Review(
        Cleaner(data, CsvLabels('l.csv', rows=[(p.path.relative_to(data).as_posix(), p.label, False) for p in ps])),
        dict(Train=lambda: ps),
    )
    assert names(r.select(cat='indoor')) == ['cat/1.jpg']
    r.choose(0, ['indoor', 'cat'])
    assert r.values() == [KEEP]  # order does not matter
    r.choose(0, ['cat'])
    r.cleaner.apply()
    assert (
        r.select(cat='indoor') == []
        and (data / 'l.csv').read_text() == 'fname,label,is_valid\ncat/1.jpg,cat,False\ndog/1.jpg,,False\n'
    )
    r.select(cat=ALL)
    r.choose(1, ['dog'])
    r.cleaner.apply()
    assert (data / 'l.csv').read_text().endswith('dog/1.jpg,dog,False\n')


def test_review_of_relative_paths(data, monkeypatch):
    monkeypatch.chdir(data.parent)
    fs = [Path(data.name) / 'cat/1.jpg', Path(data.name) / 'cat/2.jpg']
    r = Review(Cleaner(data.name), dict(Train=lambda: [Picture(f, 'cat') for f in fs]))
    r.choose(0, DELETE)
    r.cleaner.apply()
    assert [p.path for p in r.select()] == fs[1:]
