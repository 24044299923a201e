"Settings of Sphinx for the site; `build.py` collects the pages and calls it."

import re
from configparser import ConfigParser
from pathlib import Path

from fastcore.docments import docments

ROOT = Path(__file__).resolve().parents[2]
settings = ConfigParser(delimiters=['='])
settings.read(ROOT / 'settings.ini', encoding='utf-8')

project = 'vislearn'
version = release = settings['DEFAULT']['version']
html_title = f'{project} {version}'
html_theme = 'furo'
html_theme_options = {'source_edit_link': ''}
html_copy_source = False
html_use_index = False
html_show_sphinx = False
html_show_copyright = False
html_static_path = ['_static']
html_css_files = ['site.css']

extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.viewcode', 'sphinx.ext.githubpages']
nb_execution_mode = 'off'  # the notebooks hold their outputs
nb_merge_streams = True
myst_heading_anchors = 4
myst_enable_extensions = ['colon_fence']
myst_dmath_double_inline = False
default_role = 'code'
suppress_warnings = ['mystnb.unknown_mime_type', 'myst.header', 'toc.not_included']  # pages of modules are in tables

viewcode_follow_imported_members = False
autodoc_member_order = 'bysource'
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented_params'
autodoc_default_options = {'members': True, 'show-inheritance': True}
add_module_names = False
python_use_unqualified_type_names = True
toc_object_entries_show_parents = 'hide'
maximum_signature_line_length = 80


def plain(line: str) -> str:
    "A line of a docstring, which is plain text with `code` in backticks, as reStructuredText."
    parts = re.split(r'(``.+?``|`[^`]+`)', line)
    words = [re.sub(r'([*|\\]|_(?=\W|$))', r'\\\1', o) for o in parts[::2]]
    codes = [f'``{o.strip("`")}``\\ ' for o in parts[1::2]] + ['']
    return ''.join(w + c for w, c in zip(words, codes)).rstrip()


def paragraphs(lines: list[str]) -> list[str]:
    "The lines of a docstring; examples stay as they are, and get the empty line that starts them."
    res: list[str] = []
    example = False
    for line in lines:
        starts = line.lstrip().startswith('>>>')
        if starts and not example:
            res.append('')
        example = starts or example and bool(line.strip())
        res.append(line if example else plain(line))
    return res


def fields(obj: object) -> list[str]:
    "The comments of parameters as fields: `:param n: how many`."
    try:
        found = docments(obj, returns=True)
    except (TypeError, ValueError, OSError, AttributeError, SyntaxError, IndexError):
        return []  # an object without source
    found = {k: ' '.join(v.split()) for k, v in found.items() if v}
    result = found.pop('return', None)
    res = [f':param {k}: {plain(v)}' for k, v in found.items()]
    return res + ([f':returns: {plain(result)}'] if result else [])


def is_of_torch(obj: object) -> bool:
    "Does it only have a name of ours, such as `Mish`?"
    return (getattr(obj, '__module__', None) or '').startswith('torch.')


def with_docments(app, what, name, obj, options, lines) -> None:
    "Docstrings as they are written here: plain text, and the parameters' comments from the signature."
    if what == 'class' and is_of_torch(obj):
        lines[:] = [f'A name for ``torch.nn.{obj.__name__}``.', '']
        return
    text = paragraphs(lines)
    if what in ('function', 'method', 'class', 'staticmethod', 'classmethod'):
        text += ['', *fields(obj)]
    lines[:] = text


def without_torchs(app, what, name, obj, skip, options) -> bool | None:
    "Leave out the methods of classes of PyTorch's."
    return True if what == 'class' and is_of_torch(obj) else None


def setup(app) -> None:
    app.connect('autodoc-process-docstring', with_docments)
    app.connect('autodoc-skip-member', without_torchs)
