"README.md and images/index_* from index.ipynb: prose, code in fences, outputs. `python nbs/readme.py [folder]`"

import base64
import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
MADE = '<!-- made from nbs/index.ipynb by nbs/readme.py: edit that notebook -->'
KINDS = {'image/jpeg': 'jpeg', 'image/png': 'png'}


def code(cell: dict) -> str:
    "A cell's source without its directives, in a fence."
    lines = [o for o in ''.join(cell['source']).splitlines() if not o.startswith('#|')]
    return '```python\n' + '\n'.join(lines).strip() + '\n```'


def output(out: dict, name: str, images: Path) -> str:
    "One output: a picture is written to `images` and linked, a table in Markdown stays, text goes in a fence."
    data = out.get('data', {})
    for mime, ext in KINDS.items():
        if mime in data:
            images.mkdir(parents=True, exist_ok=True)
            (images / f'{name}.{ext}').write_bytes(base64.b64decode(''.join(data[mime])))
            return f'![](images/{name}.{ext})'
    if 'text/markdown' in data:
        return ''.join(data['text/markdown']).strip()
    text = ''.join(out.get('text', data.get('text/plain', ''))).rstrip()
    return f'```\n{text}\n```' if text else ''


def readme(nb: dict, images: Path) -> str:
    "The Markdown of a notebook; hidden cells are left out, links are seen from the top folder."
    res, n = [], 0
    for cell in nb['cells']:
        text = ''.join(cell['source'])
        if re.search(r'^#\|\s*hide\b', text, re.M):
            continue
        if cell['cell_type'] == 'markdown':
            res.append(re.sub(r'\]\(\.\./', '](', text).strip())
            continue
        res.append(code(cell))
        for out in cell['outputs']:
            n += 1
            res.append(output(out, f'index_{n}', images))
    return '\n\n'.join(o for o in [*res, MADE] if o) + '\n'


def main(dest: Path) -> None:
    for o in (dest / 'images').glob('index_*'):
        o.unlink()
    nb = json.loads((HERE / 'index.ipynb').read_text(encoding='utf-8'))
    (dest / 'README.md').write_text(readme(nb, dest / 'images'), encoding='utf-8', newline='\n')


if __name__ == '__main__':
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent)
