"Interactive, notebook-first image classification."
__version__ = "0.1.0"
