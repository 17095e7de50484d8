"""configs/metafile.yml and model-index.yml: exactly our COCO and MPII rows of the manifest, and no figure without its origin."""

from __future__ import annotations

from pathlib import Path

import yaml

from tools.reproduction import manifest

ROOT = Path(__file__).resolve().parent.parent

COLLECTION = 'Heatmap Distribution Matching'
DATA = {'coco': 'COCO', 'mpii': 'MPII'}
# What `tools/reproduce.py report --metafile` writes beside measured figures.
ORIGIN = {'Hardware', 'Commit', 'Seeds'}


def read(path: str) -> dict:
    return yaml.safe_load((ROOT / path).read_text())


def wanted() -> dict[str, dict]:
    """What the manifest says of each of our configs in configs/coco and configs/mpii."""
    models = {}
    for row in manifest.load(ROOT / 'configs' / 'manifest.yml').rows.values():
        folder, _, name = (row.config or '').replace('configs/', '', 1).partition('/')
        if folder in DATA and '_hdm' in name and row.kind in ('ours', 'beyond'):
            models[row.config] = {
                'Name': Path(name).stem, 'In Collection': COLLECTION, 'Config': row.config,
                'Metadata': {'Architecture': [row.backbone], 'Training Data': DATA[folder]}}
    return models


def test_index_imports_the_metafile() -> None:
    assert read('model-index.yml') == {'Import': ['configs/metafile.yml']}


def test_metafile_says_what_the_manifest_says() -> None:
    written = [{**model, 'Metadata': {key: value for key, value in model['Metadata'].items() if key not in ORIGIN}}
               for model in read('configs/metafile.yml')['Models']]
    plain = [{key: value for key, value in model.items() if key not in ('Results', 'Weights')} for model in written]
    models = list(wanted().values())
    assert plain == models, f'Models in configs/metafile.yml should be:\n{yaml.safe_dump(models, sort_keys=False)}'


def test_every_config_is_there_and_every_config_of_ours_is_named() -> None:
    named = {model['Config'] for model in read('configs/metafile.yml')['Models']}
    found = {path.relative_to(ROOT).as_posix() for folder in DATA for path in ROOT.glob(f'configs/{folder}/*_hdm*.py')}
    assert named == found


def test_results_have_an_origin() -> None:
    for model in read('configs/metafile.yml')['Models']:
        assert 'Results' not in model or model['Metadata'].keys() >= ORIGIN, f'{model["Name"]}: who measured this?'


def test_collection_is_the_paper() -> None:
    (collection,) = read('configs/metafile.yml')['Collections']
    paper = manifest.load(ROOT / 'configs' / 'manifest.yml').paper
    assert collection['Name'] == COLLECTION and collection['Paper'] == {'Title': paper['title'], 'URL': paper['url']}
    assert (ROOT / collection['README']).is_file()
