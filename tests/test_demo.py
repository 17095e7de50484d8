"""tools/demo.py: what it reuses, what it resumes, what its pictures show."""

import json
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
SMALL = ('--train', '14', '--val', '3')


@pytest.fixture(scope='module')
def demo():
    pytest.importorskip('mmpose', reason='mmpose is not installed')
    from tools import demo
    return demo


@pytest.fixture(scope='module')
def figures(demo):
    from tools.analysis_tools import demo_figures
    return demo_figures


@pytest.fixture(scope='module')
def data(demo, tmp_path_factory):
    folder = tmp_path_factory.mktemp('demo') / 'set'
    demo.make_data(folder, 4, 3, 0)
    return folder


def make_run(demo, data, folder, name='hdm', epochs=2):
    return demo.DemoModel(name, folder / name, {**demo.data_options(data), **demo.schedule_options(epochs)})


# --------------------------------------------------------------------------------------------------------- settings


def test_options_reach_the_config(demo, data, tmp_path):
    for name in demo.CONFIGS:
        config = make_run(demo, data, tmp_path, name).config
        for split in ('train', 'val', 'test'):
            assert Path(config[f'{split}_dataloader'].dataset.data_root) == data
        for split in ('val', 'test'):
            assert Path(config[f'{split}_evaluator'][0].ann_file).parent == data / 'annotations'
        assert config.train_cfg.max_epochs == config.param_scheduler[1].end == config.param_scheduler[1].T_max == 2
    assert demo.data_options(ROOT / 'data' / 'demo') == demo.schedule_options(None) == {}


def test_the_twins_differ_in_supervision_only(demo):
    hdm, mse = (demo.Config.fromfile(demo.CONFIGS[name], import_custom_modules=False) for name in ('hdm', 'mse'))
    for config in (hdm, mse):
        encoders = [step.encoder for step in config.train_dataloader.dataset.pipeline if step.type == 'GenerateTarget']
        for codec in (*encoders, config.codec, config.model.head.decoder):
            codec.pop('_scope_', None)
        assert encoders == [config.codec] and config.model.head.decoder == config.codec
        del config.model.head['loss'], config.model.head['decoder'], config.model.test_cfg['shift_heatmap']
        config.train_dataloader.dataset.pipeline = [
            step for step in config.train_dataloader.dataset.pipeline if step.type != 'GenerateTarget']
    keys = ('model', 'optim_wrapper', 'param_scheduler', 'train_cfg', 'randomness', 'train_dataloader', 'val_dataloader',
            'test_dataloader', 'val_evaluator', 'test_evaluator', 'default_hooks')
    for key in keys:
        assert hdm[key] == mse[key], key


def test_a_folder_is_kept_until_the_settings_change(demo, data, tmp_path, capsys):
    demo.prepare(make_run(demo, data, tmp_path), data)
    kept = tmp_path / 'hdm' / 'epoch_1.pth'
    kept.touch()
    demo.prepare(make_run(demo, data, tmp_path), data)
    assert kept.exists() and not capsys.readouterr().out
    demo.prepare(make_run(demo, data, tmp_path, epochs=3), data)
    assert not kept.exists()
    assert 'starts afresh' in capsys.readouterr().out


def test_a_foreign_folder_is_left_alone(demo, data, tmp_path):
    (tmp_path / 'hdm').mkdir()
    (tmp_path / 'hdm' / 'epoch_2.pth').touch()
    with pytest.raises(SystemExit, match='not made by this demo'):
        demo.prepare(make_run(demo, data, tmp_path), data)
    assert (tmp_path / 'hdm' / 'epoch_2.pth').exists()


def test_what_is_finished_is_not_launched_again(demo, data, tmp_path, monkeypatch):
    run = make_run(demo, data, tmp_path)
    demo.prepare(run, data)
    run.checkpoint.touch()
    run.metrics.write_text('{"coco/AP": 0.5}')
    monkeypatch.setattr(demo.Job, 'run', lambda job, **_: pytest.fail(f'launched {job.command}'))
    demo.train(run)
    assert demo.evaluate(run) == {'coco/AP': 0.5}


def test_an_interrupted_training_is_resumed(demo, data, tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(demo.Job, 'run', lambda job, **_: commands.append(job.command))
    run = make_run(demo, data, tmp_path)
    demo.prepare(run, data)
    demo.train(run)
    (run.folder / 'last_checkpoint').write_text('epoch_1.pth')
    demo.train(run)
    assert ['--resume' in command for command in commands] == [False, True]


def test_a_failing_step_says_why(demo, data, tmp_path, capsys, monkeypatch):
    run = make_run(demo, data, tmp_path)
    demo.prepare(run, data)
    run.options['model.backbone.depth'] = 17
    with pytest.raises(SystemExit, match=r'train: exit status 1; KeyError: .*\nStart again to go on from here'):
        demo.train(run)
    demo.show_progress('Epoch(train) [1][2/3]  lr: 1e-3  eta: 0:01:00  loss: 2.5  loss_kpt: 2.5')
    assert '    Epoch(train) [1][2/3]  eta: 0:01:00  loss: 2.5\n' in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------------- pictures


def make_predictions(figures, data, path, offset, flags=None):
    """Predictions that miss every joint of the held-out persons by `offset` (17, 2) picture pixels."""
    file = json.loads((data / 'annotations' / 'person_keypoints_val2017.json').read_text())
    samples = []
    for annotation in file['annotations']:
        keypoints = np.array(annotation['keypoints']).reshape(1, 17, 3)
        x, y, w, h = annotation['bbox']
        samples.append({
            'id': annotation['id'], 'raw_ann_info': annotation, 'input_size': (96, 128),
            'img_path': str(data / 'val2017' / f'{annotation["image_id"]:012d}.jpg'),
            'input_center': np.array([x + w / 2, y + h / 2]), 'input_scale': np.array([0.75, 1]) * max(h, w / 0.75),
            'gt_instances': {'keypoints': keypoints[..., :2], 'keypoints_visible': keypoints[..., 2].clip(max=1)},
            'pred_instances': {'keypoints': keypoints[..., :2] + offset},
            'pred_fields': {'heatmaps': np.random.default_rng(0).random((17, 32, 24), np.float32)}})
    path.write_bytes(pickle.dumps(samples))
    return figures.Predictions(path)


def test_points_and_pictures_reach_the_input_alike(figures, data, tmp_path):
    """The white spot painted at a point of the picture is found at the mapped point of the crop."""
    import cv2

    model = make_predictions(figures, data, tmp_path / 'p.pkl', np.zeros((17, 2)))
    sample = model.samples[0]
    point = np.round(sample['input_center']) + [6, -9]
    picture = np.zeros((192, 256, 3), np.uint8)
    cv2.circle(picture, tuple(int(value) for value in point), 5, (255, 255, 255), -1)
    cv2.imwrite(str(tmp_path / 'spot.png'), picture)
    sample['img_path'] = str(tmp_path / 'spot.png')
    weights = model.crop(0)[..., 0].astype(float)
    rows, columns = np.indices(weights.shape)
    found = np.array([(weights * columns).sum(), (weights * rows).sum()]) / weights.sum()
    np.testing.assert_allclose(found, model.to_input(0, point), atol=0.05)


def test_the_joint_shown_is_visible_and_typical(figures, data, tmp_path):
    offset = np.stack([np.arange(17) * 0.5 + 0.25, np.zeros(17)], -1)
    model = make_predictions(figures, data, tmp_path / 'p.pkl', offset)
    person, joint = figures.typical_joint([model, model])
    visible = model.flags == 2
    assert visible[person, joint]
    median = np.median(model.errors[visible])
    assert abs(np.log(model.errors[person, joint] / median)) == np.abs(np.log(model.errors / median))[visible].min()


def test_both_pictures_are_drawn(figures, data, tmp_path):
    models = {
        figures.Supervision('one', 'msra', None): make_predictions(figures, data, tmp_path / 'a.pkl', 1.0),
        figures.Supervision('two', 'center', 'softplus'): make_predictions(figures, data, tmp_path / 'b.pkl', 2.0)}
    names = [f'joint_{number}' for number in range(17)]
    lines = figures.draw_heatmaps(models, names, tmp_path / 'heatmaps.png')
    figures.draw_persons(next(iter(models.values())), tmp_path / 'persons.jpg')
    assert len(lines) == 4 and 'px off' in lines[2] and 'two' in lines[3]
    for name in ('heatmaps.png', 'persons.jpg'):
        assert 10_000 < (tmp_path / name).stat().st_size < 400_000, name


# ------------------------------------------------------------------------------------------------------- everything


def demo_command(folder, epochs):
    command = [sys.executable, ROOT / 'tools' / 'demo.py', '--data', folder / 'data', '--work-dir', folder / 'runs',
               '--figures', folder / 'figures', '--epochs', epochs, *SMALL]
    return [str(part) for part in command]


def run_demo(folder, epochs):
    done = subprocess.run(demo_command(folder, epochs), capture_output=True, text=True, cwd=folder, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_whole_demo_runs_and_a_second_call_reuses_everything(demo, tmp_path):
    first = run_demo(tmp_path, 1)
    assert 'Epoch(train) [1]' in first
    assert all((tmp_path / 'figures' / name).is_file() for name in ('heatmaps.png', 'persons.jpg'))
    second = run_demo(tmp_path, 1)
    assert second.count('trained already') == 2 and 'Epoch(train)' not in second
    table = [line for line in first.splitlines() if ' px' in line]
    assert len(table) == 6 and table == [line for line in second.splitlines() if ' px' in line]


@pytest.mark.faults
def test_an_interrupted_demo_goes_on_from_its_last_epoch(demo, tmp_path):
    with subprocess.Popen(demo_command(tmp_path, 4), stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        for line in process.stdout:
            if 'Epoch(train) [2]' in line:
                process.send_signal(signal.SIGINT)
                break
        process.stdout.read()
    assert process.returncode == 1
    again = run_demo(tmp_path, 4)
    assert 'going on with an interrupted training' in again
    assert 'Epoch(train) [1]' not in again.split('3/4')[0] and 'Epoch(train) [4]' in again.split('3/4')[0]
