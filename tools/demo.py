"""From drawn figures to trained, evaluated and pictured models: what ``make demo`` runs.

    python tools/demo.py

draws a data set, trains a small network with heatmap distribution matching (HDM), evaluates it, does the same with the
usual Gaussian heatmaps and mean squared error, and draws both. Steps that are finished are reused, an interrupted
training is resumed. Everything runs through tools/train.py and tools/test.py, as for any other config.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import shutil
import sys
import time
import warnings
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
from mmengine.config import Config

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tools.dataset_converters.make_demo_data import JOINTS, make_data, read_manifest  # noqa: E402
from tools.jobs import ROOT, Job, JobFailed, commit, fingerprint, processor, read, write_whole  # noqa: E402
from tools.launcher import make_plugin_importable  # noqa: E402
from tools.pages import find_block, write_block  # noqa: E402

CONFIGS = {name: ROOT / f'configs/demo/td-hm_res18_{name}-1xb16-8e_demo-128x96.py' for name in ('hdm', 'mse')}
TITLES = {'hdm': 'EMD to the dot (HDM)', 'mse': 'Gaussian, squared error'}
# What is shown of the log lines of a training.
SHOWN = re.compile(r'Epoch\((?:train|val)\)\s+\[\d+\]\[[\s\d]+/\d+\]|(?:eta|loss|coco/AP|pixel/EPE): \S+')
# Training and data loading share the cores: a thread that waits must not keep one busy.
QUIET_THREADS = {'OMP_WAIT_POLICY': os.environ.get('OMP_WAIT_POLICY', 'PASSIVE')}


@dataclass
class DemoModel:
    """One model of the demo: its config, what is changed in it, and where its results go.

    Attributes:
        name: key of `CONFIGS`.
        folder: work directory of this model.
        options: `--cfg-options` that point the config at the data and set the number of epochs.
        take_over: go on with what a process that is gone has marked as running.
    """

    name: str
    folder: Path
    options: dict
    take_over: bool = False

    @cached_property
    def config(self) -> Config:
        """The config as it is run."""
        config = Config.fromfile(CONFIGS[self.name], import_custom_modules=False)
        config.merge_from_dict(self.options)
        return config

    @property
    def checkpoint(self) -> Path:
        """What a finished training leaves behind."""
        return self.folder / f'epoch_{self.config.train_cfg.max_epochs}.pth'

    @property
    def predictions(self) -> Path:
        """What a finished evaluation leaves behind, with the metrics beside it."""
        return self.folder / 'predictions.pkl'

    @property
    def metrics(self) -> Path:
        """Written last."""
        return self.folder / 'metrics.json'

    def launch(self, tool: str, *arguments: str | Path, options: dict | None = None) -> None:
        """Run tools/train.py or tools/test.py on this model; show its progress.

        Raises:
            SystemExit: it failed.
        """
        changes = [f'{key}={value}' for key, value in {**self.options, **(options or {})}.items()]
        changes = ['--cfg-options', *changes] if changes else []
        command = [sys.executable, '-W', 'ignore', ROOT / 'tools' / tool, CONFIGS[self.name], *arguments,
                   '--work-dir', self.folder, *changes]
        name = Path(tool).stem
        try:
            Job(self.folder, (name,), [str(part) for part in command], f'{name}.log', QUIET_THREADS,
                about={'commit': commit()}).run(show=show_progress, take_over=self.take_over)
        except JobFailed as error:
            raise SystemExit(f'{error}\nStart again to go on from here.') from None


def show_progress(line: str) -> None:
    """Print what a line of a training's log tells of progress, if it does."""
    if 'Epoch(train)' in line or 'Epoch(val)' in line:
        print('   ', '  '.join(SHOWN.findall(line)), flush=True)


def data_options(data: Path) -> dict:
    """What points a demo config at a data set elsewhere than in data/demo."""
    if data == ROOT / 'data' / 'demo':
        return {}
    annotations = data / 'annotations' / 'person_keypoints_val2017.json'
    roots = {f'{split}_dataloader.dataset.data_root': f'{data}/' for split in ('train', 'val', 'test')}
    return {**roots, **{f'{split}_evaluator.0.ann_file': str(annotations) for split in ('val', 'test')}}


def schedule_options(epochs: int | None) -> dict:
    """What sets the number of epochs."""
    if epochs is None:
        return {}
    return dict.fromkeys(('train_cfg.max_epochs', 'param_scheduler.1.end', 'param_scheduler.1.T_max'), epochs)


def prepare(run: DemoModel, data: Path) -> None:
    """Make the work directory; throw away results of other data or another config.

    Raises:
        SystemExit: the folder holds something that this script did not make.
    """
    settings = fingerprint([run.config.to_dict(), read_manifest(data)])
    mark = run.folder / 'demo_settings.sha256'
    if run.folder.exists() and not mark.is_file():
        raise SystemExit(f'{run.folder} was not made by this demo: choose another --work-dir')
    if mark.is_file() and mark.read_text() != settings:
        print(f'The data or the config changed: {run.folder} starts afresh.')
        shutil.rmtree(run.folder)
    write_whole(mark, settings)


def train(run: DemoModel) -> None:
    """Train a model unless it is trained; go on from its last checkpoint if there is one."""
    if run.checkpoint.is_file():
        print(f'    trained already: {run.checkpoint}')
        return
    interrupted = (run.folder / 'last_checkpoint').is_file()
    if interrupted:
        print('    going on with an interrupted training')
    run.launch('train.py', *(['--resume'] if interrupted else []))


def evaluate(run: DemoModel) -> dict:
    """Metrics of a trained model, with its predictions and heatmaps kept for the pictures."""
    if not run.metrics.is_file():
        unfinished = run.folder / 'metrics.unfinished.json'
        run.launch('test.py', run.checkpoint, '--dump', run.predictions, '--out', unfinished,
                   options={'model.test_cfg.output_heatmaps': True})
        unfinished.rename(run.metrics)
    return json.loads(run.metrics.read_text())


def summary(runs: list[DemoModel], metrics: list[dict]) -> list[str]:
    """A table of both models, errors in pixels of the picture over all labelled joints."""
    lines = [f'{"":28}{"AP":>7}{"mean error":>13}{"median":>10}{"< 1 px":>9}{"< 2 px":>9}']
    for run, values in zip(runs, metrics):
        errors = labelled_errors(run)
        lines.append(
            f'{TITLES[run.name]:28}{values["coco/AP"]:7.3f}{values["pixel/EPE"]:10.2f} px{np.median(errors):7.2f} px'
            f'{(errors < 1).mean():9.3f}{(errors < 2).mean():9.3f}')
    return lines


def sentence(runs: list[DemoModel], metrics: list[dict], pictures: int) -> str:
    """The figures for a page, with where they come from."""
    import torch

    said = [f'AP {values["coco/AP"]:.3f} and {values["pixel/EPE"]:.2f} px for "{TITLES[run.name]}"' for run, values in zip(runs, metrics)]
    packages = ', '.join(f'{name} {version(name)}' for name in ('torch', 'mmpose'))
    return (f'`make demo`: {", ".join(said)}, on {pictures} held-out pictures. One seed; {processor()}, threads '
            f'{torch.get_num_threads()}, {packages}, commit {read(runs[0].folder).get("train", {}).get("commit", "unknown")}.')


def labelled_errors(run: DemoModel) -> np.ndarray:
    """Distances in pixels of the picture, of all held-out joints with a flag above 0."""
    with run.predictions.open('rb') as file:
        samples = pickle.load(file)
    decoded = np.stack([sample['pred_instances']['keypoints'][0] for sample in samples])
    drawn = np.stack([sample['gt_instances']['keypoints'][0] for sample in samples])
    labelled = np.stack([sample['gt_instances']['keypoints_visible'][0] for sample in samples]) > 0
    return np.linalg.norm(decoded - drawn, axis=-1)[labelled]


def draw_pictures(runs: list[DemoModel], figures: Path) -> list[str]:
    """Draw the pictures.

    Returns:
        lines that say what they show.
    """
    from tools.analysis_tools.demo_figures import Predictions, Supervision, draw_heatmaps, draw_persons

    figures.mkdir(parents=True, exist_ok=True)
    models = {}
    for run in runs:
        codec = run.config.codec
        supervision = Supervision(TITLES[run.name], codec.get('alignment', 'msra'), codec.get('supplier'))
        models[supervision] = Predictions(run.predictions)
    draw_persons(next(iter(models.values())), figures / 'persons.jpg')
    return draw_heatmaps(dict(reversed(models.items())), JOINTS, figures / 'heatmaps.png')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train, evaluate and picture two small models on drawn figures.')
    parser.add_argument('--data', type=Path, default=ROOT / 'data' / 'demo', help='data set (default: data/demo)')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs' / 'demo', help='default: work_dirs/demo')
    parser.add_argument('--figures', type=Path, help='folder of the pictures (default: the work directory)')
    parser.add_argument('--train', type=int, default=900, help='training pictures (default: %(default)s)')
    parser.add_argument('--val', type=int, default=150, help='held-out pictures (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='of the data (default: %(default)s)')
    parser.add_argument('--epochs', type=int, help="instead of the configs' own number")
    parser.add_argument('--take-over', action='store_true', help='go on with what another machine ran, which is gone')
    parser.add_argument('--page', type=Path, help='also put the figures between the markers `demo` of this file')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    make_plugin_importable()
    for harmless in ('.*pkg_resources', 'The metainfo config file'):  # mmengine needs the one; MMPose finds the other
        warnings.filterwarnings('ignore', message=harmless)
    start = time.time()

    def say(text: str) -> None:
        print(f'\n[{time.time() - start:4.0f} s] {text}', flush=True)

    if args.page:
        find_block(args.page, 'demo')
    data, work_dir = args.data.resolve(), args.work_dir.resolve()
    figures = args.figures.resolve() if args.figures else work_dir
    say(f'1/4  Drawing figures with exactly known joints: {data}')
    make_data(data, args.train, args.val, args.seed)
    options = {**data_options(data), **schedule_options(args.epochs)}
    runs = [DemoModel(name, work_dir / CONFIGS[name].stem, options, args.take_over) for name in CONFIGS]
    metrics = []
    for step, run in enumerate(runs, 2):
        say(f'{step}/4  Training and evaluating "{TITLES[run.name]}": {CONFIGS[run.name].relative_to(ROOT)}')
        prepare(run, data)
        train(run)
        metrics.append(evaluate(run))
    say('4/4  Drawing pictures')
    lines = draw_pictures(runs, figures)
    say(f'Done. {args.val} held-out pictures:')
    print('\n'.join(summary(runs, metrics)))
    print('\n' + '\n'.join(lines))
    if args.page:
        write_block(args.page, 'demo', sentence(runs, metrics, args.val))
    print(f'\nPersons with predicted skeletons:  {figures / "persons.jpg"}')
    print(f'One heatmap under both:            {figures / "heatmaps.png"}')


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit('\nInterrupted. Start again to go on from here.') from None
