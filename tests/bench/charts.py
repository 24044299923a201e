"Ten kinds of charts in the styles of matplotlib: pictures that no one tuned on, for `quality.py`."

from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

KINDS = ('area', 'bar', 'box', 'contour', 'heat map', 'histogram', 'line', 'pie', 'rows', 'scatter')


def draw(ax: Any, kind: str, rng: Generator) -> None:
    "A chart of this kind, of random numbers."
    n = int(rng.integers(3, 9))
    values = rng.gamma(3, 2, n)
    walks = rng.normal(size=(int(rng.integers(1, 4)), 4 * n)).cumsum(1)
    if kind == 'area':
        ax.stackplot(range(4 * n), abs(walks) + 0.3)
    elif kind == 'bar':
        ax.bar(range(n), values, width=rng.uniform(0.4, 1))
    elif kind == 'rows':
        ax.barh(range(n), values, height=rng.uniform(0.4, 1))
    elif kind == 'box':
        ax.boxplot(rng.normal(values, 2, (15, n)), patch_artist=rng.random() < 0.5)
    elif kind == 'contour':
        surface = rng.normal(size=(5, 5)).cumsum(0).cumsum(1)
        (ax.contour if rng.random() < 0.5 else ax.contourf)(surface)
    elif kind == 'heat map':
        ax.imshow(rng.random((n, int(rng.integers(3, 9)))), aspect='auto')
    elif kind == 'histogram':
        ax.hist(rng.gamma(rng.uniform(1, 9), 1, 300), bins=int(rng.integers(8, 40)))
    elif kind == 'line':
        ax.plot(walks.T, marker='o' if rng.random() < 0.3 else '')
    elif kind == 'pie':
        ax.pie(values, wedgeprops=dict(width=rng.choice([0.4, 1])))
    else:
        ax.scatter(*rng.normal(size=(2, 9 * n)), s=rng.uniform(5, 60), c=rng.random(9 * n))


def make_charts(path: Path, n: int = 50, seed: int = 0) -> None:
    "`n` pictures of each kind, in a folder for each; half a minute."
    from matplotlib import pyplot as plt

    rng = np.random.default_rng(seed)
    styles = [o for o in plt.style.available if not o.startswith('_')]
    for kind in KINDS:
        (path / kind).mkdir(parents=True)
        for i in range(n):
            with plt.style.context([rng.choice(styles), {'image.cmap': rng.choice(['viridis', 'coolwarm', 'gray'])}]):
                fig, ax = plt.subplots(figsize=rng.uniform(2.2, 4, 2), dpi=60)
                draw(ax, kind, rng)
                if rng.random() < 0.3:
                    ax.set_axis_off()
                fig.savefig(path / kind / f'{i}.png')
                plt.close(fig)
