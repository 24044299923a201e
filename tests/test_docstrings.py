"The examples in docstrings run and print what they say, and the main classes have one."

import doctest
import importlib

import pytest
from nbtools import modules

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
WITH_EXAMPLES = {  # class -> its module
    'Transform': 'core',
    'Pipeline': 'core',
    'Resize': 'data.resize',
    'RandomResizedCrop': 'data.resize',
    'Category': 'data.targets',
    'MultiCategory': 'data.targets',
    'Regression': 'data.targets',
    'Points': 'data.targets',
    'DataBlock': 'data.block',
    'Dataset': 'data.dataset',
    'Loader': 'data.loaders',
    'DataLoaders': 'data.loaders',
    'ImageDataLoaders': 'data.sources',
    'Callback': 'train.events',
    'TrainLoop': 'train.loop',
    'EarlyStoppingCallback': 'train.tracking',
    'SaveModelCallback': 'train.tracking',
    'Checkpoint': 'train.checkpoint',
    'Unfreeze': 'train.freezing',
    'MixUp': 'train.mix',
    'CutMix': 'train.mix',
    'Distill': 'train.distill',
    'Learner': 'learner',
    'ClassificationInterpretation': 'interpret.interpretation',
    'Predictor': 'deploy.predictor',
    'OnnxPredictor': 'deploy.runtime',
    'DataAudit': 'clean.audit',
    'Cleaner': 'clean.cleaner',
    'ImageClassifierCleaner': 'clean.widgets',
}


@pytest.mark.parametrize('name', sorted(modules()))
def test_examples_in_docstrings_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(f'vislearn.{name}')
    failed, _ = doctest.testmod(module, optionflags=FLAGS)
    assert not failed, f'vislearn.{name} has examples that print something else; see the output above'


@pytest.mark.parametrize('name', WITH_EXAMPLES)
def test_main_classes_have_an_example(name):
    cls = getattr(importlib.import_module(f'vislearn.{WITH_EXAMPLES[name]}'), name)
    assert doctest.DocTestParser().get_examples(cls.__doc__ or ''), f'the docstring of {name} has no example'
