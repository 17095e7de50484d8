"""The pretrained studies: their configs, the people that only finalists are read on, paired differences on their pages."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tools import jobs, study
from tools.studies import report
from tools.studies.config import Study, StudyRun

ROOT = Path(__file__).resolve().parent.parent
PERSONS, FACES = ROOT / 'configs/lspet/study_pretrained.yml', ROOT / 'configs/faces68/study_faces.yml'
SEARCHED = ('mse', 'udp', 'ce', 'emd_ce')


@pytest.fixture(autouse=True)
def from_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope='module')
def faces(tmp_path_factory):
    """Made-up faces, four to learn from, three to choose by and three for the end."""
    root = tmp_path_factory.mktemp('faces')
    rng = np.random.default_rng(0)
    (root / 'annotations').mkdir()
    for part, count in (('train', 4), ('val', 3), ('test', 3)):
        (root / part).mkdir()
        images, annotations = [], []
        for n in range(1, count + 1):
            Image.fromarray(rng.integers(0, 255, (90, 90, 3), dtype=np.uint8)).save(root / part / f'{n}.jpg')
            points = np.concatenate([rng.uniform(20, 70, (68, 2)), np.full((68, 1), 2)], -1)
            images.append({'id': n, 'file_name': f'{part}/{n}.jpg', 'width': 90, 'height': 90, 'person': n})
            annotations.append({
                'id': n, 'image_id': n, 'category_id': 1, 'iscrowd': 0, 'bbox': [20, 20, 50, 50], 'area': 2500.0, 'num_keypoints': 68,
                'keypoints': points.ravel().tolist()})
        category = {'id': 1, 'name': 'face', 'keypoints': [str(k) for k in range(68)], 'skeleton': []}
        (root / 'annotations' / f'{part}.json').write_text(
            json.dumps({'images': images, 'annotations': annotations, 'categories': [category]}))
    return root


def small_study(folder, faces):
    """One epoch of two finalists and of one that is none; no ImageNet weights."""
    spec = {
        'extends': str(FACES), 'title': 'Small', 'data_root': str(faces), 'work_dir': str(folder / 'runs'),
        'options': {'train_dataloader.batch_size': 2, 'default_hooks.logger.interval': 1, 'model.backbone.init_cfg': None},
        'stages': {'only': {
            'backbones': ['effnet-lite0'], 'supervisions': ['emd_ce_best', 'mse_best', 'udp_best'],
            'finalists': ['emd_ce_best', 'mse_best'], 'seeds': [0], 'epochs': 1, 'validations': 1}},
        'comparisons': {'only': [['emd_ce_best/mode', 'mse_best/dark']]}}
    file = folder / 'small.yml'
    file.write_text(yaml.safe_dump(spec))
    return file


# --- configs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('file', [PERSONS, FACES], ids=['persons', 'faces'])
def test_codecs_agree_and_heads_fit_the_network(file):
    from mmpose.registry import KEYPOINT_CODECS, MODELS
    from mmpose.utils import register_all_modules

    register_all_modules()
    whole = Study(file)
    heads = {}
    for run in whole.runs(seeds=[0]):
        cfg = whole.config(run)
        encoders = [t.encoder for t in cfg.train_dataloader.dataset.pipeline if t.type == 'GenerateTarget']
        assert encoders == [cfg.model.head.decoder] == [cfg.codec], run.name
        loss, joints = cfg.model.head.loss, 14 if file is PERSONS else 68
        if loss.type == 'EMDHeatmapLoss':
            assert cfg.codec.supplier == loss.supplier, run.name
        assert cfg.model.head.get('out_channels', cfg.model.head.get('num_joints')) == joints
        heads[repr(cfg.model.head)] = cfg.model.head
        for name in whole.decoders(run):
            KEYPOINT_CODECS.build(whole.decoder_config(run, name, Path('weights.pth')).model.head.decoder)
    assert len(heads) > 10
    for head in heads.values():
        MODELS.build(head)


@pytest.mark.parametrize('file', [PERSONS, FACES], ids=['persons', 'faces'])
def test_searches_have_equal_budgets_and_what_is_best_starts_from_their_middle(file):
    whole = Study(file)
    names = whole.stages['search']['supervisions']
    assert {sum(name == row or name.startswith(f'{row}_') for name in names) for row in SEARCHED} == {len(names) // len(SEARCHED)}
    assert whole.stages['search'].get('finalists') is None  # what is chosen by val is not read on test
    rates = {row: sorted(whole.config(StudyRun('search', 'effnet-lite0', name, 0)).optim_wrapper.optimizer.lr
                         for name in (row, f'{row}_half', f'{row}_twice')) for row in SEARCHED}
    assert set(map(tuple, rates.values())) == {(0.001, 0.002, 0.004)}
    assert len({whole.epochs(run) for run in whole.runs(['search'])}) == 1
    for run in whole.runs(['final']):
        cfg = whole.config(run)
        assert cfg.optim_wrapper.optimizer.lr in (0.001, 0.002, 0.004) and whole.is_finalist(run)
    assert set(whole.stages['final']['seeds']) >= {0, 1, 2}
    counts = {name: len(whole.seeds('final', name)) for name in whole.stages['final']['supervisions']}
    assert {name for name, count in counts.items() if count == 5} == {'ce_best', 'emd_ce_best'}
    assert sum(counts.values()) == len(list(whole.runs(['final'])))


def leaves(spec):
    return {(key, *rest) for key, value in spec.items() for rest in (leaves(value) if isinstance(value, dict) else [()])}


def test_faces_choose_for_themselves_whatever_was_chosen_for_persons():
    persons, faces = (yaml.safe_load(file.read_text()) for file in (PERSONS, FACES))
    assert {name: leaves(spec) for name, spec in persons['best'].items()} == {name: leaves(spec) for name, spec in faces['best'].items()}
    for row in SEARCHED:  # and every width that the search varies is among them
        for name in (f'{row}_narrow', f'{row}_wide'):
            varied = {key for key in leaves(persons['supervisions'][name]) if key[0] in ('codec', 'loss')}
            assert varied and varied <= leaves(persons['best'][row]), name


@pytest.mark.parametrize('file', [PERSONS, FACES], ids=['persons', 'faces'])
def test_titles_say_the_widths_of_the_configs(file):
    whole = Study(file)
    for name in {run.supervision for run in whole.runs()}:
        spec = whole.supervisions[name]
        blur, sigma = (re.search(pattern, spec['title']) for pattern in (r'blurred by ([\d.]+)', r'sigma ([\d.]+)'))
        assert (spec.get('loss') or {}).get('cross_entropy_blur', 0) == (float(blur[1]) if blur else 0), name
        assert not sigma or spec['codec']['sigma'] == float(sigma[1]), name


@pytest.mark.parametrize('file', [PERSONS, FACES], ids=['persons', 'faces'])
def test_what_was_not_searched_follows_what_was(tmp_path, file):
    rates = {'mse': 0.011, 'ce': 0.012}
    best = yaml.safe_load(file.read_text())['best']
    changed = file.read_text()
    for row, rate in rates.items():
        options = 'options: &{}_rate {{<<: *base}}' if file is PERSONS else 'options: &{}_rate {{optim_wrapper.optimizer.lr: 0.002}}'
        assert options.format(row) in changed and 'options' in best[row]
        changed = changed.replace(options.format(row), f'options: &{row}_rate {{optim_wrapper.optimizer.lr: {rate}}}')
    (tmp_path / 's.yml').write_text(changed.replace('extends: ', f'extends: {file.parent}/'))
    whole = Study(tmp_path / 's.yml')
    for name, row in (('simcc', 'ce'), ('rle', 'mse'), ('ipr_debias', 'ce'), ('dsnt', 'ce'), ('dark_best', 'mse')):
        assert whole.supervisions[name]['options']['optim_wrapper.optimizer.lr'] == rates[row], name
    assert 'paper_best' in whole.stages['final']['finalists'] and 'finalists' not in whole.stages['paper']


def test_the_larger_size_keeps_the_widths_in_proportion_and_the_leads_are_alike():
    whole = Study(PERSONS)
    for row in ('mse', 'dark', 'udp'):
        assert whole.supervisions[f'{row}_larger']['codec']['sigma'] == 1.5 * whole.supervisions[f'{row}_best']['codec']['sigma']
    assert whole.stages['larger']['seeds'] == [0, 1, 2] == whole.seeds('twice', 'mse_best') == whole.seeds('twice', 'emd_ce_best')
    for sharpness in (5, 10):
        ce, emd_ce = (whole.supervisions[f'{prefix}softmax_{sharpness}'] for prefix in ('ce_', ''))
        assert ce['codec'] == emd_ce['codec'] and ce['loss']['supplier'] == emd_ce['loss']['supplier']
        assert ce['loss']['cross_entropy_weight'] == whole.supervisions['ce']['loss']['cross_entropy_weight']


def test_comparisons_made_elsewhere_are_kept(tmp_path, monkeypatch):
    whole = Study(PERSONS)
    pairs = [{'stage': 'final', 'backbone': 'effnet-lite0', 'first': 'emd_ce_best/mode', 'second': second, 'difference': number}
             for number, second in enumerate(('mse_best/dark', 'ce_best/mode', 'gone/mode'))]
    (tmp_path / 'study_pretrained_pairs.json').write_text(json.dumps(pairs))
    monkeypatch.setattr(report, 'compare', lambda _: [{**pairs[1], 'difference': 9}])
    assert report.kept_comparisons(whole, tmp_path) == [pairs[0], {**pairs[1], 'difference': 9}]
    monkeypatch.setattr(report, 'compare', lambda _: [])
    assert report.kept_comparisons(whole, tmp_path) == [pairs[0], {**pairs[1], 'difference': 9}]


@pytest.mark.parametrize('command', re.findall(r'study\.py run +(\S+) (.*?) +#', study.__doc__))
def test_commands_of_the_docstring_name_what_exists(command):
    args = study.build_parser().parse_args(['run', command[0], *command[1].split()])
    assert list(Study(args.study).runs(args.stage, args.only, args.seeds))


def test_two_studies_have_two_names():
    assert len({Study(file).name for file in (PERSONS, FACES)}) == 2  # of their records


def test_decoder_reads_with_the_kernel_of_its_own_target_width():
    whole = Study(PERSONS)
    for name, kernel in (('mse', 9), ('mse_narrow', 5), ('mse_wide', 11)):
        decoder = whole.decoder_config(StudyRun('search', 'effnet-lite0', name, 0), 'dark', Path('weights.pth')).model.head.decoder
        assert decoder.unbiased and decoder.blur_kernel_size == kernel


def test_heads_of_other_methods_read_the_map_that_the_neck_gives():
    whole = Study(PERSONS)
    simcc, rle = (whole.config(StudyRun('others', 'effnet-lite0', name, 0)).model for name in ('simcc', 'rle'))
    assert simcc.head.in_featuremap_size == (24, 32) and simcc.head.in_channels == 64 and simcc.neck.type == 'FinestLevelFPN'
    assert rle.head.in_channels == 320 and rle.neck.type == 'GlobalAveragePooling'


# --- the people that no choice has seen ------------------------------------------------------------------------------


def test_only_finalists_are_read_on_test(tmp_path, faces):
    file = small_study(tmp_path, faces)
    whole = Study(file)
    finalist, other = (StudyRun('only', 'effnet-lite0', name, 0) for name in ('mse_best', 'udp_best'))
    cfg = whole.decoder_config(finalist, 'dark', Path('weights.pth'), 'test')
    assert cfg.test_dataloader.dataset.ann_file == 'annotations/test.json'
    assert [metric.type for metric in cfg.test_evaluator] == ['CocoMetric', 'NME']
    assert cfg.test_evaluator[0].ann_file == str(faces / 'annotations/test.json')
    with pytest.raises(ValueError, match="udp_best/seed0 must be among the 'finalists' of stage 'only'"):
        whole.decoder_config(other, 'udp', Path('weights.pth'), 'test')
    with pytest.raises(SystemExit, match="udp_best: not among the 'finalists'"):
        study.main(['test', str(file), '--only', 'udp_best'])
    with pytest.raises(SystemExit, match='has no result and weights'):
        study.main(['one', str(file), finalist.name, '--test'])


def test_test_part_of_persons_is_another_folder():
    cfg = Study(PERSONS).decoder_config(StudyRun('final', 'effnet-lite0', 'mse_best', 1), 'dark', Path('weights.pth'), 'test')
    dataset = cfg.test_dataloader.dataset
    assert (dataset.ann_file, dataset.data_prefix.img) == ('annotations/test.json', 'test/')
    assert cfg.test_evaluator[0].ann_file == 'data/lspet/annotations/test.json'
    assert cfg.val_dataloader.dataset.ann_file == 'annotations/val.json'


@pytest.mark.parametrize(('change', 'message'), [
    ({'domain': 'hands'}, "domain: unknown domain 'hands'; known are faces, persons"),
    ({'comparisons': {'nowhere': []}}, "comparisons: unknown stage 'nowhere'"),
    ({'comparisons': {'final': [['mse_best/dark', 'mse_best/udp']]}}, "comparisons of stage 'final', 'mse_best': unknown decoder 'udp'")])
def test_unknown_names_are_refused(tmp_path, change, message):
    stages = {'final': {'backbones': ['effnet-lite0'], 'supervisions': ['mse_best'], 'seeds': [0], 'epochs': 1}}
    (tmp_path / 's.yml').write_text(yaml.safe_dump({'extends': str(FACES), 'stages': stages, **change}))
    with pytest.raises(ValueError, match=message):
        Study(tmp_path / 's.yml')


def test_a_finalist_is_a_supervision_of_its_stage(tmp_path):
    stage = {'backbones': ['effnet-lite0'], 'supervisions': ['mse_best'], 'finalists': ['udp_best'], 'seeds': [0], 'epochs': 1}
    (tmp_path / 's.yml').write_text(yaml.safe_dump({'extends': str(FACES), 'stages': {'final': stage}}))
    with pytest.raises(ValueError, match="'finalists' of stage 'final': unknown supervision 'udp_best'"):
        Study(tmp_path / 's.yml')


def test_seeds_and_rows_of_the_command_line():
    whole = Study(PERSONS)
    assert [run.name for run in whole.runs(['final'], ['emd_ce_best'], [2])] == ['final/effnet-lite0/emd_ce_best/seed2']
    with pytest.raises(ValueError, match="unknown seed 7; known are 0, 1, 2"):
        list(whole.runs(['final'], seeds=[7]))
    with pytest.raises(ValueError, match="unknown supervision 'emd'; known are ce_best"):
        list(whole.runs(['final'], ['emd']))


def test_the_hours_left_are_those_of_the_epochs_left(tmp_path):
    stage = {'backbones': ['effnet-lite0'], 'supervisions': ['paper', 'paper_long'], 'seeds': [0, 1], 'epochs': 12}
    (tmp_path / 's.yml').write_text(yaml.safe_dump({'extends': str(PERSONS), 'work_dir': str(tmp_path / 'runs'), 'stages': {'s': stage}}))
    small = Study(tmp_path / 's.yml')
    runs = list(small.runs())
    assert study.hours_left(small, runs) == '4 of 4 to do; how long they take is known when one on each network is done'
    small.folder(runs[0]).mkdir(parents=True)
    (small.folder(runs[0]) / 'result.json').write_text(json.dumps({'train_seconds': 7200, 'epochs': 12}))
    assert study.hours_left(small, runs) == '3 of 4 to do: 10.0 hours of training, one at a time'  # 24 + 12 + 24 epochs
    assert study.hours_left(small, runs[:1]) == '0 of 1 to do: 0.0 hours of training, one at a time'


def test_a_finalist_from_training_to_its_page(tmp_path, faces, capsys, monkeypatch):
    file = small_study(tmp_path, faces)
    for name in ('emd_ce_best', 'mse_best'):
        assert study.main(['one', str(file), f'only/effnet-lite0/{name}/seed0']) == 0
        assert study.main(['one', str(file), f'only/effnet-lite0/{name}/seed0', '--test']) == 0
    folder = tmp_path / 'runs/only/effnet-lite0/mse_best/seed0'
    result, tested = (json.loads((folder / name).read_text()) for name in ('result.json', 'test.json'))
    assert result['threads'] == 1 and [point['epoch'] for point in result['curve']] == [1]
    assert set(result['decoders']) == set(tested['decoders']) == {'quarter', 'dark', 'mode'}
    for readings in (result, tested):
        for metrics in readings['decoders'].values():
            assert metrics['NME'] == pytest.approx(metrics['mmpose']['NME'])
    assert result['decoders']['dark']['NME'] != tested['decoders']['dark']['NME']
    assert len(json.loads((folder / 'predictions/test/dark.keypoints.json').read_text())) == 3

    capsys.readouterr()
    assert study.main(['compare', str(file)]) == 0
    printed = capsys.readouterr().out
    page = tmp_path / 'docs/evidence.md'
    page.parent.mkdir()
    assert study.main(['report', '--out', str(page), str(file)]) == 0
    text = (page.with_suffix('') / 'small_only.md').read_text()
    assert 'Finalists, read once on people that no choice has seen' in text
    assert 'EMD + CE / blurred mode - Gaussian MSE / DARK' in text and 'EMD + CE / blurred mode - Gaussian MSE / DARK' in printed
    assert report.figure(tested['decoders']['dark']['NME'], 'NME') in text

    record, = (each for each in json.loads((page.with_suffix('') / 'small.json').read_text()) if each['supervision'] == 'mse_best')
    assert record['test_commit'] == tested['commit']
    first, = json.loads((folder / 'origins.json').read_text())
    assert set(first) == {'commit', 'threads', 'train', 'val', 'test'}
    monkeypatch.setattr(jobs, 'commit', lambda: 'another')
    for flags in ([], ['--test']):
        with pytest.raises(SystemExit, match="was begun with commit '.*', now 'another'"):
            study.main(['one', str(file), 'only/effnet-lite0/mse_best/seed0', *flags])

    for part in ('test', ''):  # records and comparisons outlive the predictions
        for predictions in (tmp_path / 'runs').glob(f'only/*/*/*/predictions/{part}/*.json'):
            predictions.unlink()
    assert study.main(['report', '--out', str(page), str(file)]) == 0
    assert (page.with_suffix('') / 'small_only.md').read_text() == text
