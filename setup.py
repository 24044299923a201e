"Package metadata lives in settings.ini; pyproject.toml only says how to build and what nbdev needs."

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

cfg = ConfigParser(delimiters=['='])
cfg.read(Path(__file__).parent / 'settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']
suffix = '_requirements'
extras = {k.removesuffix(suffix): cfg[k].split() for k in cfg if k.endswith(suffix)}
extras['all'] = sorted({o for v in extras.values() for o in v})

setup(
    version=cfg['version'],
    description=cfg['description'],
    packages=find_packages(include=[cfg['lib_path'], cfg['lib_path'] + '.*']),
    package_data={cfg['lib_path']: ['py.typed', 'deploy/page/*']},
    install_requires=cfg['requirements'].split(),
    extras_require=extras,
    python_requires='>=' + cfg['min_python'],
    entry_points={'console_scripts': [o for o in cfg['console_scripts'].splitlines() if o.strip()]},
)
