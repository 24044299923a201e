"Interactive, notebook-first image classification."
__version__ = "0.1.0"

from typing import TYPE_CHECKING

if not TYPE_CHECKING:  # who checks types is to know what is there

    def __getattr__(name):
        says = '' if name.startswith('_') else '; what users call is in vislearn.all: from vislearn.all import *'
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}{says}', name=name)
