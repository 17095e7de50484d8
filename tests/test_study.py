"""tools/study.py: what a study file becomes, what a run leaves behind, what the report says."""

import datetime
import json
import os
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tools import study
from tools.dataset_converters.convert_lspet import CROWDPOSE_JOINTS
from tools.studies import config as study_config
from tools.studies import records
from tools.studies.config import Study, StudyRun, fingerprint
from tools.studies.headline import Headline
from tools.studies.report import stage_page, write_report

ROOT = Path(__file__).resolve().parent.parent
FULL, REDUCED = ROOT / 'configs/lspet/study.yml', ROOT / 'configs/lspet/study_reduced.yml'


@pytest.fixture(autouse=True)
def from_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Eight made-up persons to train on, three held out."""
    root = tmp_path_factory.mktemp('lspet')
    rng = np.random.default_rng(0)
    (root / 'annotations').mkdir()
    for part, count in (('train', 8), ('val', 3)):
        (root / part).mkdir()
        images, annotations = [], []
        for n in range(1, count + 1):
            Image.fromarray(rng.integers(0, 255, (110, 90, 3), dtype=np.uint8)).save(root / part / f'{n}.jpg')
            points = np.concatenate([rng.uniform(15, 75, (14, 2)), np.full((14, 1), 2)], -1)
            images.append({'id': n, 'file_name': f'{n}.jpg', 'width': 90, 'height': 110})
            annotations.append({
                'id': n, 'image_id': n, 'category_id': 1, 'iscrowd': 0, 'bbox': [5, 5, 80, 80], 'area': 6400.0,
                'num_keypoints': 14, 'keypoints': points.ravel().tolist()})
        category = {'id': 1, 'name': 'person', 'keypoints': list(CROWDPOSE_JOINTS), 'skeleton': []}
        (root / 'annotations' / f'{part}.json').write_text(
            json.dumps({'images': images, 'annotations': annotations, 'categories': [category]}))
    return root


def small_study(folder, data, **supervisions):
    """A study file of one epoch in a folder."""
    spec = {
        'extends': str(REDUCED), 'title': 'Small', 'data_root': str(data), 'work_dir': str(folder / 'runs'),
        'options': {'train_dataloader.batch_size': 4, 'default_hooks.logger.interval': 1},
        'supervisions': supervisions,
        'stages': {'only': {
            'backbones': ['res18-slim'], 'supervisions': [*dict.fromkeys(['emd_ce', *supervisions])], 'seeds': [0], 'epochs': 1,
            'validations': 1}}}
    file = folder / 'small.yml'
    file.write_text(yaml.safe_dump(spec))
    return file


# --- configs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('stage', ['screen', 'ablations'])
def test_encoder_decoder_and_loss_of_every_supervision_agree(stage):
    whole = Study(FULL)
    for run in whole.runs([stage]):
        cfg = whole.config(run)
        encoders = [t.encoder for t in cfg.train_dataloader.dataset.pipeline if t.type == 'GenerateTarget']
        assert encoders == [cfg.model.head.decoder] == [cfg.codec], run.name
        assert tuple(cfg.codec.input_size) == (192, 256)
        loss, codec = cfg.model.head.loss, cfg.codec
        if loss.type == 'EMDHeatmapLoss':
            assert codec.type == 'DotAnnotationCodec' and codec.supplier == loss.supplier, run.name
        udp = [t.get('use_udp', False) for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader)
               for t in loader.dataset.pipeline if t.type == 'TopdownAffine']
        aligned = codec.type == 'UDPHeatmap' or codec.get('alignment') == 'udp'
        assert udp == [aligned] * 3, run.name
        for name in whole.decoders(run):
            test = whole.decoder_config(run, name, Path('weights.pth'))
            assert test.test_evaluator[0].outfile_prefix.endswith(f'predictions/{name}')


def test_models_and_hooks_of_every_supervision_can_be_built():
    from mmpose.registry import HOOKS, KEYPOINT_CODECS, MODELS
    from mmpose.utils import register_all_modules

    register_all_modules()
    whole = Study(FULL)
    heads = {}
    for run in whole.runs(['screen', 'ablations', 'loss_vs_metric']):
        if run.seed == 0:
            cfg = whole.config(run)
            heads[repr(cfg.model.head)] = cfg.model.head
            for hook in cfg.custom_hooks:
                HOOKS.build(hook)
            for name in whole.decoders(run):
                KEYPOINT_CODECS.build(whole.decoder_config(run, name, Path('weights.pth')).model.head.decoder)
    assert len(heads) > 30
    for head in heads.values():
        MODELS.build(head)


def test_finals_differ_in_the_network_alone():
    whole = Study(FULL)
    first, second = (whole.config(StudyRun('finals', backbone, 'emd_ce', 2)) for backbone in ('res50', 'hrnet-w32'))
    assert (first.model.backbone.type, second.model.backbone.type) == ('ResNet', 'HRNet')
    assert first.model.backbone.init_cfg is None and second.model.backbone.get('init_cfg') is None
    for key in ('train_cfg', 'optim_wrapper', 'param_scheduler', 'train_dataloader', 'randomness', 'codec'):
        assert first[key] == second[key], key
    assert first.randomness.seed == 2 and first.train_cfg.max_epochs == 140


def test_a_headline_names_what_exists(tmp_path, data):
    small = yaml.safe_load(small_study(tmp_path, data).read_text())
    network = {'title': 'x', 'backbone': 'res18-slim', 'stages': ['only']}
    for headline, message in (
            ({'networks': {'one': {**network, 'stages': ['nowhere']}}}, "headline: unknown stage 'nowhere'"),
            ({'networks': {'one': network}, 'rows': {'a': {'reads': ['nobody', 'mode']}}}, "headline: unknown supervision 'nobody'"),
            ({'networks': {'one': network}, 'rows': {'a': {'reads': ['udp', 'dark']}}}, "headline, 'udp': unknown decoder 'dark'")):
        (tmp_path / 'study.yml').write_text(yaml.safe_dump({**small, 'headline': headline}))
        with pytest.raises(ValueError, match=message):
            Study(tmp_path / 'study.yml')


def test_supervisions_that_differ_in_reading_alone_are_one_row_of_the_headline():
    whole = Study(FULL)
    assert whole.trains_alike('scores', 'emd_ce') and not whole.trains_alike('tau_4', 'emd_ce')
    renamed = [{**record, 'supervision': 'scores'} if record['supervision'] == 'emd_ce' else record for record in kept()]
    assert renamed != kept()
    rows = {'former': {'title': 'former', 'reads': ['emd_ce', 'mode']}}
    reduced = Study(REDUCED)
    reduced.headline['rows'] = rows
    assert Headline(reduced, renamed).table() == Headline(reduced, kept()).table()


def test_a_row_of_fewer_seeds_than_its_column_says_so():
    fewer = [record for record in kept() if (record['stage'], record['supervision'], record['seed']) != ('levelled', 'udp', 2)]
    lines = {line.split(' |')[0].strip('| '): line for line in Headline(Study(REDUCED), fewer).table().splitlines()}
    assert lines['UDP'].count(' (2 seeds) |') == 1 and 'seed' not in lines['Gaussian MSE, DARK (unbiased)']


def kept():
    return json.loads((ROOT / 'docs/evidence/study_reduced.json').read_text())


def test_reduced_study_keeps_what_it_does_not_name():
    whole, reduced = Study(FULL), Study(REDUCED)
    assert set(reduced.backbones) == {'res18-slim', 'hrnet-slim'}
    assert reduced.supervisions['mse']['codec'] == {**whole.supervisions['mse']['codec'], 'sigma': 1}
    assert reduced.supervisions['dot_mse'] == whole.supervisions['dot_mse']
    cfg = reduced.config(next(reduced.runs()))
    assert tuple(cfg.codec.heatmap_size) == (24, 32)


def test_recipe_brings_its_head_fitted_to_the_network():
    whole = Study(FULL)
    cfg = whole.config(StudyRun('screen', 'res18', 'simcc', 0))
    assert cfg.model.head.type == 'SimCCHead' and cfg.model.head.in_featuremap_size == (6, 8)
    assert (cfg.model.head.in_channels, cfg.model.head.out_channels) == (512, 14)
    assert 'heatmap_size' not in cfg.codec
    rle = whole.config(StudyRun('screen', 'res18', 'rle', 0))
    assert rle.model.neck.type == 'GlobalAveragePooling' and rle.model.head.num_joints == 14


def test_second_half_starts_from_the_first_half():
    whole = Study(FULL, work_dir='runs')
    first, second = (whole.config(StudyRun('ablations', 'res18', name, 0)) for name in ('dark_half', 'emd_after_mse'))
    assert (first.train_cfg.max_epochs, second.train_cfg.max_epochs) == (20, 20)
    assert second.load_from == 'runs/ablations/res18/dark_half/seed0/weights.pth'


def test_fingerprint_sees_what_is_learned_and_not_where():
    here, there = Study(REDUCED, data_root='a', work_dir='b'), Study(REDUCED, data_root='c', work_dir='d')
    run, other = list(here.runs())[:2]
    assert fingerprint(here.config(run)) == fingerprint(there.config(run))
    assert fingerprint(here.config(run)) != fingerprint(here.config(other))
    changed = here.config(run)
    changed.optim_wrapper.optimizer.lr = 0.5
    assert fingerprint(changed) != fingerprint(here.config(run))


def test_fingerprint_sees_the_defaults_that_a_config_does_not_name(monkeypatch):
    from hdm_mmpose.transport.options import EMDOptions

    reduced = Study(REDUCED)
    run = next(run for run in reduced.runs() if run.supervision == 'emd_ce')
    before, fill_in = fingerprint(reduced.config(run)), EMDOptions.__post_init__

    def other_default(self, *given):
        object.__setattr__(self, 'cross_entropy_blur', 1.0)
        fill_in(self, *given)

    monkeypatch.setattr(EMDOptions, '__post_init__', other_default)
    assert fingerprint(reduced.config(run)) != before


def stage(**keys):
    return {'backbones': ['res18-slim'], 'supervisions': ['mse'], 'seeds': [0], 'epochs': 1, **keys}


@pytest.mark.parametrize(('change', 'message'), [
    ({'stages': {'s': {'backbones': ['vgg'], 'supervisions': [], 'seeds': [0], 'epochs': 1}}}, "unknown backbone 'vgg'; known"),
    ({'stages': {'s': {'backbones': [], 'supervisions': ['x'], 'seeds': [0], 'epochs': 1}}}, "unknown supervision 'x'"),
    ({'stages': {'s': stage(reference={'stage': 't', 'supervisions': []})}}, "'reference' of stage 's': unknown stage 't'"),
    ({'stages': {'s': stage(reference={'stage': 't', 'supervisions': ['udp']}), 't': stage()}}, "unknown supervision 'udp'; known are mse"),
    ({'stages': {'s': stage(reference={'stage': 't', 'supervisions': ['mse']}), 't': stage(backbones=['hrnet-slim'])}},
     "'reference' of stage 's': unknown backbone 'res18-slim'"),
    ({'stages': {'s': stage(reference={'stage': 't', 'supervisions': ['mse']}), 't': stage(epochs=2)}}, "'s' has 1 epochs, .* 't' 2"),
    ({'supervisions': {'mse': {'los': {}}}, 'stages': {}}, "unknown key 'los'"),
    ({'supervisions': {'y': {'like': 'z'}}, 'stages': {}}, "unknown supervision 'z'")])
def test_unknown_names_are_refused(tmp_path, change, message):
    (tmp_path / 's.yml').write_text(yaml.safe_dump({'extends': str(REDUCED), **change}))
    with pytest.raises(ValueError, match=message):
        Study(tmp_path / 's.yml')


# --- running ---------------------------------------------------------------------------------------------------------


def test_a_run_from_training_to_report(tmp_path, data):
    file = small_study(tmp_path, data)
    assert study.main(['one', str(file), 'only/res18-slim/emd_ce/seed0']) == 0
    folder = tmp_path / 'runs/only/res18-slim/emd_ce/seed0'
    result = json.loads((folder / 'result.json').read_text())
    assert result['decoders']['mode']['mmpose']['coco/AP'] == pytest.approx(result['decoders']['mode']['AP'])
    assert 0 <= result['decoders']['square']['PCK@0.2'] <= 1 and set(result['decoders']) == {'mode', 'square'}
    assert result['step_seconds'] > 0 and [point['epoch'] for point in result['curve']] == [1]
    assert (folder / 'weights.pth').exists() and not list(folder.glob('epoch_*.pth'))
    assert (folder / 'predictions/square.keypoints.json').exists()

    stale = {**result, 'decoders': {**result['decoders'], 'square': {**result['decoders']['square'], 'AUC': -1}}}
    (folder / 'result.json').write_text(json.dumps(stale))
    assert study.main(['measure', str(file)]) == 0
    assert json.loads((folder / 'result.json').read_text()) == result

    page = tmp_path / 'docs/evidence.md'
    assert study.main(['report', '--out', str(page), str(file)]) == 0
    pages = {path.name: path.read_text() for path in page.parent.rglob('*.md')}
    assert set(pages) == {'evidence.md', 'small.md', 'small_only.md'} and '1 of 1 runs done' in pages['small.md']
    assert f'{100 * result["decoders"]["square"]["PCK@0.2"]:.1f}' in pages['small_only.md']
    assert (page.with_suffix('') / 'small_only_res18-slim_pck.png').exists()

    (folder / 'result.json').unlink()  # the records outlive the work dirs
    assert study.main(['report', '--out', str(page), str(file)]) == 0
    assert {path.name: path.read_text() for path in page.parent.rglob('*.md')} == pages

    changed = small_study(tmp_path, data, emd_ce={'loss': {'cross_entropy_weight': 0.75}})
    with pytest.raises(SystemExit, match='other settings'):
        study.main(['one', str(changed), 'only/res18-slim/emd_ce/seed0'])


@pytest.mark.slow
def test_every_supervision_of_the_study_trains_and_is_read(tmp_path, data):
    from tools.studies.run import perform

    names = [name for stage in Study(FULL).stages.values() for name in stage['supervisions']]
    spec = yaml.safe_load(small_study(tmp_path, data).read_text())
    spec['stages']['only'].update(supervisions=[*dict.fromkeys(names)], validations=0)
    # far fewer iterations than the paper's: this asks whether it runs
    spec['supervisions'] = {'paper': {'loss': {'num_iters': 5}}, 'paper_naive': {'loss': {'num_iters': 5}}}
    (tmp_path / 'small.yml').write_text(yaml.safe_dump(spec))
    whole = Study(tmp_path / 'small.yml')
    runs = list(whole.runs())
    assert len(runs) > 50
    for run in runs:
        result = perform(whole, run)
        assert set(result['decoders']) == set(whole.decoders(run)), run.name
        for name, metrics in result['decoders'].items():
            assert np.isfinite([metrics[key] for key in ('AP', 'PCK@0.1', 'mean_error')]).all(), (run.name, name)


@pytest.mark.slow
def test_a_failing_run_stops_nothing_and_a_second_call_reuses_and_resumes(tmp_path, data, capsys):
    file = small_study(tmp_path, data, broken={'like': 'emd', 'loss': {'potential': 'nonsense'}}, later={'like': 'mse'})
    assert study.main(['run', str(file)]) == 1
    shown = capsys.readouterr().out
    assert '2 of 3 runs are done' in shown and 'not done: only/res18-slim/broken/seed0: run: exit status 1; ' in shown
    done = tmp_path / 'runs/only/res18-slim/later/seed0/result.json'
    before = done.stat().st_mtime_ns
    assert study.main(['run', str(file), '--only', 'later']) == 0
    assert done.stat().st_mtime_ns == before


@pytest.mark.slow
def test_an_interrupted_run_goes_on_from_its_checkpoint(tmp_path, data, monkeypatch):
    from mmengine.hooks import CheckpointHook

    from tools.studies import run as study_run

    spec = yaml.safe_load(small_study(tmp_path, data).read_text())
    spec['stages']['only'].update(epochs=3, validations=0)
    (tmp_path / 'small.yml').write_text(yaml.safe_dump(spec))
    whole = Study(tmp_path / 'small.yml')
    run = next(whole.runs())
    after_epoch = CheckpointHook.after_train_epoch

    def stop_after_two(self, runner):
        after_epoch(self, runner)
        if runner.epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(CheckpointHook, 'after_train_epoch', stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        study_run.perform(whole, run)
    monkeypatch.undo()
    monkeypatch.chdir(ROOT)
    study_run.perform(whole, run)
    logged = [line['step'] for line in study_run.scalars(whole.folder(run)) if 'data_time' in line and 'loss' in line]
    assert logged == [1, 2, 3, 4, 5, 6]
    straight = Study(tmp_path / 'small.yml', work_dir=str(tmp_path / 'straight'))
    study_run.perform(straight, run)
    stopped, whole_run = (torch.load(each.folder(run) / 'weights.pth', weights_only=True)['state_dict'] for each in (whole, straight))
    assert all(torch.equal(tensor, whole_run[name]) for name, tensor in stopped.items())


def test_no_run_starts_when_the_time_is_up(tmp_path, data, capsys):
    file = small_study(tmp_path, data)
    assert study.main(['run', str(file), '--minutes', '0']) == 1
    assert 'no time left' in capsys.readouterr().out
    assert study.main(['list', str(file)]) == 0
    assert 'to do' in capsys.readouterr().out


@pytest.mark.parametrize(('now', 'until', 'wanted'), [
    ((2026, 12, 31, 22, 10), '23:05', (2026, 12, 31, 23, 5)),
    ((2026, 12, 31, 22, 10), '06:30', (2027, 1, 1, 6, 30)),
    ((2026, 12, 31, 22, 10), '22:10', (2027, 1, 1, 22, 10))])
def test_a_time_of_day_that_has_passed_is_tomorrows(now, until, wanted, monkeypatch):
    now, wanted = datetime.datetime(*now), datetime.datetime(*wanted)
    assert study.next_time(until, now) == wanted
    monkeypatch.setattr(study, 'next_time', lambda clock, _: {until: wanted}[clock])
    assert study.finish(study.build_parser().parse_args(['run', str(FULL), '--until', until])) == wanted.timestamp()


def test_a_result_without_weights_is_done_again_only_if_another_run_starts_from_it(tmp_path):
    whole = Study(FULL, work_dir=str(tmp_path))
    first, second, other = (StudyRun('ablations', 'res18', name, 0) for name in ('dark_half', 'emd_after_mse', 'tau_4'))
    assert study.start_lacks(whole, first) and not study.start_lacks(whole, other)
    for run in (first, second):
        whole.folder(run).mkdir(parents=True)
    (whole.folder(second) / 'result.json').write_text('{}')
    assert not study.start_lacks(whole, first)
    (whole.folder(second) / 'result.json').unlink()
    (whole.folder(first) / 'weights.pth').touch()
    assert not study.start_lacks(whole, first)


def test_the_gpu_script_runs_and_collects_one_study(tmp_path):
    """Commands, folders and archives are those of configs/lspet/study.yml, whatever is in the environment."""
    (tmp_path / 'tools/studies').mkdir(parents=True)
    (tmp_path / 'tools/studies/gpu.sh').write_text((ROOT / 'tools/studies/gpu.sh').read_text())
    python = tmp_path / 'python'
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    python.chmod(0o755)
    runs = tmp_path / yaml.safe_load(FULL.read_text())['work_dir']
    done = [runs / 'finals/res50/mse/seed0/result.json', runs / 'report/evidence.md']
    for file in done:
        file.parent.mkdir(parents=True)
        file.write_text('{}')
    environment = {**os.environ, 'PYTHON': str(python), 'STUDY': 'configs/lspet/study_reduced.yml'}
    for name in ('OUT', 'RESULTS', 'SITE', 'WHEELS'):
        environment.pop(name, None)
    command = ['bash', 'tools/studies/gpu.sh', 'run', '10', 'finals']
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=60)
    calls = [line for line in (tmp_path / 'calls').read_text().splitlines() if line.startswith('tools/study.py')]
    assert [line.split()[:3] for line in calls] == [
        ['tools/study.py', command, 'configs/lspet/study.yml'] for command in ('run', 'report')]
    with tarfile.open(tmp_path / 'work_dirs/lspet_out/results.tar.gz') as archive:
        assert set(archive.getnames()) == {str(file.relative_to(runs.parent)) for file in done}


# --- report ----------------------------------------------------------------------------------------------------------


def test_mean_and_spread():
    assert records.spread([0.5], 'AP') == '50.0'
    assert records.spread([0.5, 0.52, 0.54], 'AP') == '52.0 ± 2.0'
    assert records.spread([-1.0, 0.5], 'bias_x') == '-0.25 ± 1.06'
    assert records.spread([3.25, 3.75], 'mean_error') == '3.50 ± 0.35'


def test_pages_are_those_of_the_kept_records(tmp_path):
    """``study.py report`` has been run since records, sentences or the generator changed; the answer fits on a screen."""
    there = ROOT / 'docs'
    (tmp_path / 'evidence').mkdir()
    for file in (there / 'evidence').glob('*.json'):
        (tmp_path / 'evidence' / file.name).write_text(file.read_text())
    (tmp_path / 'README.md').write_text((ROOT / 'README.md').read_text())
    studies = [Study(path, work_dir=str(tmp_path / 'runs')) for path in (FULL, REDUCED)]
    write_report(studies, tmp_path / 'evidence.md', tmp_path / 'README.md')
    for page in (*tmp_path.rglob('*.md'), *tmp_path.rglob('*.csv')):
        written = ROOT / 'README.md' if page.name == 'README.md' else there / page.relative_to(tmp_path)
        assert page.read_text() == written.read_text(), f'{written} must be written again by tools/study.py report'
    made, known = ({path.name for path in folder.iterdir()} for folder in (tmp_path / 'evidence', there / 'evidence'))
    assert made == known and len((there / 'evidence.md').read_text().splitlines()) <= 60


@pytest.mark.parametrize(('template', 'wanted'), [
    ('{a AP}', '12.3'), ('{a PCK x}', '45.7'), ('{a AP - b AP}', '-1.2'), ('{b AP x - a AP x}', '+1.2'),
    ('{ahead a AP - b AP} b', '1.2 AP behind b'), ('{ahead b AP - a AP} a', '1.2 AP ahead of a'), ('{ahead a AP - a AP} a', 'level with a'),
    ('{ahead a PCK x - b PCK x} b', 'level with b'), ('{a mean_error}', '7.25'), ('{a AP} of {none AP}', ''),
    ({'say': 'few: {a AP}', 'when': 'a AP - b AP < 0'}, 'few: 12.3')])
def test_sentences_take_their_numbers_from_the_table(template, wanted):
    values = {('a', 'AP'): [0.12, 0.126], ('b', 'AP'): [0.135], ('a', 'PCK@0.05'): [0.4567],
              ('b', 'PCK@0.05'): [0.4566],
              ('a', 'mean_error'): [7.25]}
    assert records.sentence(template, lambda row, key, column: values.get((row, key), [])) == wanted


def test_a_sentence_that_no_longer_holds_is_refused():
    with pytest.raises(ValueError, match=r"'more' holds only where a AP - b AP > 0, which is -10.00"):
        records.sentence({'say': 'more', 'when': 'a AP - b AP > 0'}, lambda row, key, column: {'a': [0.1], 'b': [0.2]}[row])
    with pytest.raises(ValueError, match='a condition must be'):
        records.sentence({'say': 'more', 'when': 'a AP > b AP'}, lambda row, key, column: [0.1])


def test_a_stage_repeats_what_it_refers_to_and_draws_what_a_plot_can_show(tmp_path):
    chosen = [record for record in kept() if record['stage'] in ('first', 'competitors')]
    text = stage_page(Study(REDUCED), 'competitors', chosen, tmp_path)
    assert 'seeds 0. ' in text and 'The first rows repeat `first`.' in text
    titles = [line.split(' | ')[0].rstrip() for line in text.splitlines() if line.startswith('| ')]
    assert titles[1].startswith('| Gaussian MSE / ')
    assert titles.index('| EMD + CE, former default / blurred mode') < titles.index('| Megvii, kernel 5')
    assert {file.name for file in tmp_path.iterdir()} == {'study_reduced_competitors_res18-slim_changes.png'}
    assert '(study_reduced_competitors_res18-slim_changes.png)' in text


def test_second_seed_of_nothing_comes_before_the_first_of_everything():
    runs = list(Study(FULL).runs(['finals']))
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    assert len(runs) == len(set(runs)) == 42


def test_deep_merge_and_delete():
    base = {'a': {'b': 1, 'c': {'d': 2}}, 'e': 3}
    assert study_config.merge(base, {'a': {'c': {'d': 4}}}) == {'a': {'b': 1, 'c': {'d': 4}}, 'e': 3}
    assert study_config.merge(base, {'a': {'_delete_': True, 'x': 5}}) == {'a': {'x': 5}, 'e': 3}
    assert base == {'a': {'b': 1, 'c': {'d': 2}}, 'e': 3}
