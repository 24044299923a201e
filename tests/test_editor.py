"""An editor completes our objects and shows their real signatures: no star-star arguments, nothing patched on from
elsewhere.
"""

import inspect

import jedi
import pytest
from nbtools import ROOT

PROJECT = jedi.Project(ROOT)
CLASSES = ('Learner', 'DataBlock', 'DataLoaders', 'ImageDataLoaders', 'ClassificationInterpretation', 'Callback')


def our_class(name: str) -> type:
    import vislearn.all as v

    return getattr(v, name)


def public(o: object) -> list[str]:
    return [n for n in dir(o) if not n.startswith('_')]


def completions(code: str) -> set[str]:
    lines = code.splitlines()
    return {c.name for c in jedi.Script(code, project=PROJECT).complete(len(lines), len(lines[-1]))}


@pytest.mark.parametrize('name', CLASSES)
def test_every_public_name_is_completed(name):
    seen = completions(f'from vislearn.all import *\ndef f(o: {name}):\n    o.')
    missing = set(public(our_class(name))) - seen
    assert not missing, f'an editor does not see {name}.{sorted(missing)}'


@pytest.mark.parametrize('name', CLASSES)
def test_state_is_declared(name):
    "What is set on an instance is known to the editor too: assigned in `__init__` or annotated in the class body."
    cls = our_class(name)
    seen = completions(f'from vislearn.all import *\ndef f(o: {name}):\n    o.')
    assert not (
        missing := {n for c in cls.__mro__ for n in getattr(c, '__annotations__', {}) if not n.startswith('_')} - seen
    ), missing


@pytest.mark.parametrize('name', CLASSES)
def test_signatures_are_real(name):
    cls = our_class(name)
    for n in [o for o in public(cls) if inspect.isfunction(getattr(cls, o)) or inspect.ismethod(getattr(cls, o))]:
        code = f'from vislearn.all import *\n{name}.{n}('
        sigs = jedi.Script(code, project=PROJECT).get_signatures(2, len(code.splitlines()[1]))
        assert sigs, f'an editor shows no signature for {name}.{n}'
        want = [p for p in inspect.signature(getattr(cls, n)).parameters]
        assert [p.name for p in sigs[0].params if p.name not in ('self', 'cls')] == [o for o in want if o != 'self'], (
            f'{name}.{n}'
        )


def test_learner_made_by_a_function_is_completed():
    "`vision_learner` says what it returns, so the cell after it completes."
    assert {'fine_tune', 'lr_find', 'export', 'predict'} <= completions(
        'from vislearn.all import *\nlearn = vision_learner(dls, "resnet18")\nlearn.'
    )


def functions():
    "Every public function, and every public method of a public class, of the library."
    import vislearn.all as v

    for n in v.__all__:
        o = getattr(v, n)
        if not getattr(o, '__module__', '').startswith('vislearn'):
            continue
        if inspect.isfunction(o):
            yield n, o
        elif inspect.isclass(o):
            yield from (
                (f'{n}.{m}', f)
                for m, f in vars(o).items()
                if inspect.isfunction(f) and (m == '__init__' or not m.startswith('_'))
            )


HANDED_ON = {
    'AccumMetric.__init__',
    'skm_to_fastai',
    'OptimWrapper',
    'WandbCallback.__init__',
    'rank0_first',
    'Pipeline.show',
    'show_at',
    'show_titled_image',
}  # to a function of others


def test_no_star_star_in_public_signatures():
    named = [(n, f) for n, f in functions() if n not in HANDED_ON]
    bad = [n for n, f in named if any(p.kind == p.VAR_KEYWORD for p in inspect.signature(f).parameters.values())]
    assert not bad, f'{bad} take **keywords: an editor then shows nothing, and a misspelt one is not noticed'


def says_what_it_does(name: str, f: object) -> bool:
    "Has it a docstring, its own or that of the method it replaces?"
    import vislearn.all as v

    owner, _, method = name.partition('.')
    return bool(inspect.getdoc(f)) or any(
        inspect.getdoc(vars(c).get(method)) for c in getattr(v, owner).__mro__ if method in vars(c)
    )


def test_public_functions_say_what_they_do():
    bad = [n for n, f in functions() if not n.endswith('__init__') and not says_what_it_does(n, f)]
    assert not bad, f'{bad} have no docstring'
