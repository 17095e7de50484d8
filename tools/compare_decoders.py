"""Which decoder reads a trained network best: one forward pass over a data set, and every decoder on the same heatmaps.

    python tools/compare_decoders.py CONFIG CHECKPOINT              # the config's test data, on annotated boxes
    python tools/compare_decoders.py CONFIG network.onnx            # crops as the config makes them; one output (B, K, H, W)

Stock decoders stand in the table where their alignment is the network's; ours with each of ``--suppliers``, ``--blurs`` and
``--scores``. AP is that of MMPose's ``CocoMetric`` with the config's options; PCK counts in the longer side of the box. Mean error
and bias are in pixels of the picture, the bias over joints found within a tenth of the box. The last column is decoding alone, in
processor time of one thread. The best by AP is printed as config lines. It was chosen on these persons: judge it on others.

An ONNX network's joints are told by name (``--onnx-joints``): joints of the data set that it does not have do not count.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tools.launcher import init_fitting_model, make_plugin_importable, require_data  # noqa: E402

make_plugin_importable()

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from mmengine.config import Config, DictAction  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from mmengine.model import BaseModule  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmengine.runner import Runner  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402
from mmpose.datasets.datasets.utils import parse_pose_metainfo  # noqa: E402
from mmpose.registry import DATASETS, KEYPOINT_CODECS, METRICS, MODELS  # noqa: E402
from torch import Tensor  # noqa: E402

from hdm_mmpose.check.command import resolve_path  # noqa: E402
from hdm_mmpose.components.alignment import ALIGNMENTS, decoder_alignment  # noqa: E402
from hdm_mmpose.components.predictions import annotated_loader  # noqa: E402
from hdm_mmpose.transport import SUPPLIERS  # noqa: E402
from tools.jobs import commit  # noqa: E402
from tools.pages import find_block, table, write_block  # noqa: E402
from tools.studies.metrics import PCK_THRESHOLDS, pixel_metrics  # noqa: E402

MANY = 0.05  # share of persons with no score above CocoMetric's threshold from which on it is worth a warning
UNRANKED = 'CocoMetric leaves such scores out and ranks these persons last, all alike: AP falls though the joints are where they are.'


@MODELS.register_module()
class OnnxHeatmaps(BaseModule):
    """A backbone that is an ONNX graph from crops to heatmaps; the head behind it has nothing to add.

    Args:
        file: the graph; one input (B, 3, h, w), one output (B, K, H, W).
        channels: for each joint of the data set the channel of the output, -1 for an empty map.
    """

    def __init__(self, file: str, channels: Sequence[int]) -> None:
        import onnxruntime

        super().__init__()
        self.session = onnxruntime.InferenceSession(file, providers=['CPUExecutionProvider'])
        self.channels = list(channels)

    def forward(self, inputs: Tensor) -> tuple[Tensor]:
        (name,) = (each.name for each in self.session.get_inputs())
        # person by person: the batch size may be fixed in the graph
        maps = torch.cat([torch.from_numpy(self.session.run(None, {name: each[None].numpy()})[0]) for each in inputs.cpu()])
        absent = torch.tensor(self.channels) < 0
        return (maps[:, self.channels].masked_fill(absent[:, None, None], 0),)


@dataclass
class Case:
    """A decoder, what it says of all persons so far, and how long it took.

    Attributes:
        name: for the table.
        cfg: config of the decoder.
        predictions: one dict per person, as ``CocoMetric.process`` takes it.
        seconds: spent decoding.
    """

    name: str
    cfg: dict
    predictions: list[dict] = field(default_factory=list)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.decoder = KEYPOINT_CODECS.build(self.cfg)

    def decode(self, heatmaps: Tensor) -> list[InstanceData]:
        """Joints in input pixels of maps (B, K, H, W), timed."""
        start = time.thread_time()
        if self.decoder.support_batch_decoding:
            decoded = list(zip(*self.decoder.batch_decode(heatmaps)))
        else:
            decoded = [self.decoder.decode(each) for each in heatmaps.numpy()]
        self.seconds += time.thread_time() - start
        return [InstanceData(keypoints=keypoints, keypoint_scores=scores) for keypoints, scores in decoded]

    def points(self) -> np.ndarray:
        """(N, K, 2) in the picture."""
        return np.concatenate([each['pred_instances']['keypoints'] for each in self.predictions])

    def scores(self) -> np.ndarray:
        """(N, K)."""
        return np.concatenate([each['pred_instances']['keypoint_scores'] for each in self.predictions])


@dataclass(frozen=True)
class Truth:
    """What is annotated.

    Attributes:
        points: (N, K, 2) in the picture.
        known: (N, K) annotated joints that the network has.
        boxes: (N,) longer side of the box.
        coco: the annotations in COCO's format, or None if the data set has none such.
    """

    points: np.ndarray
    known: np.ndarray
    boxes: np.ndarray
    coco: dict | None


def cases_for(own: dict, alignment: str | None, suppliers: Sequence[str], blurs: Sequence[float], scores: Sequence[str]) -> Iterator[Case]:
    """The config's decoder, the stock ones of its alignment, and ours.

    Raises:
        SystemExit: the alignment is neither known nor given.
    """
    decoder = KEYPOINT_CODECS.build(own)
    alignment = alignment or decoder_alignment(decoder)
    if alignment is None:
        raise SystemExit(f"--alignment must be given for a network that is read by {type(decoder).__name__}: one of {ALIGNMENTS}")
    sizes = dict(input_size=tuple(decoder.input_size), heatmap_size=tuple(decoder.heatmap_size))
    gaussian = {key: own[key] for key in ('sigma', 'blur_kernel_size') if key in own and 'Heatmap' in own['type']}
    stock = dict(sizes, **{'sigma': 2.0, **gaussian})
    listed = {
        'msra': {'MSRAHeatmap, quarter shift': dict(stock, type='MSRAHeatmap'),
                 'MSRAHeatmap, unbiased (DARK)': dict(stock, type='MSRAHeatmap', unbiased=True)},
        'udp': {'UDPHeatmap': dict(stock, type='UDPHeatmap')},
    }.get(alignment, {})
    for supplier, blur, score in itertools.product(suppliers, blurs, scores):
        name = f'{supplier}, {f"blur {blur:g}" if blur else "2 x 2 square"}, score {score}'
        listed[name] = dict(sizes, type='SubPixelDecoder', alignment=alignment, supplier=supplier, blur=blur, score=score)
    plain = {key: value for key, value in dict(own, **sizes).items() if (key, value) != ('unbiased', False)}
    if plain not in listed.values():
        listed["the config's own"] = dict(own)
    yield from (Case(name, cfg) for name, cfg in listed.items())


def onnx_model(cfg: Config, file: str, channels: list[int]) -> Any:
    """The config's estimator with an ONNX graph in place of backbone, neck and head."""
    model = cfg.model
    model.pop('neck', None)
    model.backbone = dict(type='OnnxHeatmaps', file=file, channels=channels)
    model.head = dict(
        type='HeatmapHead', in_channels=len(channels), out_channels=len(channels), deconv_out_channels=None, final_layer=None,
        loss=dict(type='KeypointMSELoss'), decoder=model.head.decoder)
    built = MODELS.build(model)
    built.cfg = cfg
    return built.eval()


def channels_of(joints: Sequence[str], dataset: str) -> list[int]:
    """Channel of each joint in a network trained on another data set of MMPose, -1 if it has no joint of that name."""
    built = DATASETS.get(dataset)
    if built is None:
        raise SystemExit(f'--onnx-joints must be a data set of MMPose, got {dataset!r}')
    known = parse_pose_metainfo(built.METAINFO)['keypoint_name2id']
    return [known.get(name, -1) for name in joints]


def joints_of(loader: dict) -> list[str]:
    """Names of the joints of a loader's data set."""
    dataset = loader['dataset']
    names = parse_pose_metainfo(dict(dataset.get('metainfo') or DATASETS.get(dataset['type']).METAINFO))['keypoint_id2name']
    return [names[index] for index in range(len(names))]


def loaders_for(cfg: Config, data: Sequence[Sequence[str]], limit: int) -> list[dict]:
    """Configs of the loaders: the config's test data, or each of the annotation files and picture folders given instead."""
    loaders = []
    for ann_file, prefix in data or [(None, None)]:
        loader = annotated_loader(cfg.test_dataloader)
        loader['sampler'] = dict(type='DefaultSampler', shuffle=False, round_up=False)
        if ann_file is not None:
            loader['dataset'].update(ann_file=ann_file, data_prefix=dict(img=prefix))
        if limit:
            loader['dataset']['indices'] = limit
        loaders.append(loader)
    return loaders


@torch.no_grad()
def read_all(model: Any, loaders: Sequence[Any], cases: Sequence[Case]) -> None:
    """One forward pass; every decoder on every map."""
    model.test_cfg['output_heatmaps'] = True
    for batch in itertools.chain.from_iterable(loaders):
        data = model.data_preprocessor(batch, training=False)
        samples = model.predict(data['inputs'], data['data_samples'])
        if 'heatmaps' not in (samples[0].get('pred_fields') or {}):
            raise SystemExit(f'{type(model.head).__name__} hands out no heatmaps: there is nothing to decode')
        heatmaps = torch.stack([torch.as_tensor(each.pred_fields.heatmaps) for each in samples]).float().cpu()
        for case in cases:
            for sample in model.add_pred_to_datasample(case.decode(heatmaps), None, samples):
                found, truth = sample.pred_instances, sample.gt_instances
                case.predictions.append({
                    'id': sample.get('id'), 'img_id': sample.get('img_id'), 'category_id': sample.get('category_id', 1),
                    'pred_instances': {key: found[key] for key in ('keypoints', 'keypoint_scores')},
                    'gt_instances': {key: truth[key] for key in ('bbox_scores', 'bbox_scales') if key in truth}})


def truth_of(datasets: Sequence[Any], present: np.ndarray) -> Truth:
    """Annotations of all persons, without the joints that the network does not have; ``present`` is (K,) bool."""
    persons = [dataset.get_data_info(index) for dataset in datasets for index in range(len(dataset))]
    visible = np.concatenate([person['keypoints_visible'] for person in persons]) > 0
    corners = np.concatenate([person['bbox'] for person in persons])
    annotations = [person.get('raw_ann_info') for person in persons]
    coco = None
    if all(annotations):
        coco = dict(images=[dict(id=number) for number in sorted({each['image_id'] for each in annotations})],
                    categories=datasets[0].metainfo['CLASSES'], annotations=[without(each, ~present) for each in annotations])
    return Truth(np.concatenate([person['keypoints'] for person in persons])[..., :2], visible & present,
                 (corners[:, 2:] - corners[:, :2]).max(-1), coco)


def without(annotation: dict, joints: np.ndarray) -> dict:
    """A COCO annotation in which some joints (K,) are not annotated."""
    keypoints = np.array(annotation['keypoints'], float).reshape(-1, 3)
    keypoints[joints] = 0
    return {**annotation, 'keypoints': keypoints.ravel().tolist(), 'num_keypoints': int((keypoints[:, 2] > 0).sum())}


def average_precision(case: Case, truth: Truth, options: dict, metainfo: dict) -> float:
    """AP as ``CocoMetric`` has it with the config's options; NaN without COCO annotations."""
    if truth.coco is None:
        return float('nan')
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        annotations = Path(folder, 'annotations.json')
        annotations.write_text(json.dumps(truth.coco))
        metric = METRICS.build({**options, 'type': 'CocoMetric', 'ann_file': str(annotations), 'outfile_prefix': f'{folder}/found'})
        metric.dataset_meta = metainfo
        metric.process([], case.predictions)
        return metric.evaluate(len(case.predictions))['coco/AP']


def coco_options(cfg: Config) -> dict:
    """Options of the config's ``CocoMetric``; its defaults if there is none."""
    evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, (list, tuple)) else [cfg.test_evaluator]
    return next((dict(each) for each in evaluators if each['type'] == 'CocoMetric'), {})


def row_of(case: Case, truth: Truth, threshold: float, ap: float) -> list[str]:
    """One line of the table."""
    pixels = pixel_metrics(case.points(), truth.points, truth.known, truth.boxes, [])
    low = (case.scores()[truth.known] <= threshold).mean()
    return [case.name, f'{100 * ap:.1f}', *(f'{100 * pixels[f"PCK@{t}"]:.1f}' for t in PCK_THRESHOLDS), f'{pixels["mean_error"]:.2f}',
            f'{pixels["bias_x"]:+.2f}, {pixels["bias_y"]:+.2f}', f'{100 * low:.0f} %', f'{1e3 * case.seconds / len(case.predictions):.2f}']


def warnings_for(cases: Sequence[Case], truth: Truth, threshold: float) -> Iterator[str]:
    """Decoders under which ``CocoMetric`` cannot rank persons."""
    for case in cases:
        unranked = (np.where(truth.known, case.scores(), 0).max(-1) <= threshold).mean()
        if unranked > MANY:
            yield f'{case.name}: {100 * unranked:.0f} % of the persons have no score above {threshold:g}'


def config_lines(cfg: dict) -> str:
    """What to write into a config for this decoder."""
    options = ', '.join(f'{key}={value!r}' for key, value in {'type': cfg['type'], **cfg}.items())
    return f'model = dict(head=dict(decoder=dict(_delete_=True, {options})))'


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='a config file, or mmpose::NAME: its test data, crops, alignment and metric')
    parser.add_argument('checkpoint', help='weights of the config, or an ONNX graph (.onnx) from normalised crops to heatmaps')
    parser.add_argument('--data', nargs=2, action='append', default=[], metavar=('ANNOTATIONS', 'PICTURES'),
                        help="file and folder, in the config's data_root, instead of its test data; may be repeated")
    parser.add_argument('--suppliers', nargs='+', default=['relu', 'softmax'], choices=sorted(SUPPLIERS))
    parser.add_argument('--blurs', nargs='+', type=float, default=[0, 1, 2, 3], help='in cells; 0: the square (default: %(default)s)')
    parser.add_argument('--scores', nargs='+', default=['max', 'mass'], choices=('max', 'mass'))
    parser.add_argument('--alignment', choices=ALIGNMENTS, help="the network's, where the config's decoder does not say")
    parser.add_argument('--onnx-joints', default='CocoDataset', help="data set of MMPose whose joints the graph has (default: %(default)s)")
    parser.add_argument('--limit', type=int, default=0, help='look at the first persons only (default: all)')
    parser.add_argument('--markdown', type=Path, help='page with markers to write the table into')
    parser.add_argument('--block', default='decoders', help='name of the markers (default: %(default)s)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={}, help='overrides of the config')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> list[Case]:
    """Compare, print, and return the decoders, the best first."""
    args = parse(argv)
    if args.markdown:
        find_block(args.markdown, args.block)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    MMLogger.get_instance('compare_decoders', log_level='WARNING')
    cfg = Config.fromfile(resolve_path(args.config))
    cfg.merge_from_dict(args.cfg_options)
    init_default_scope(cfg.get('default_scope', 'mmpose'))
    configs = loaders_for(cfg, args.data, args.limit)
    for loader in configs:
        require_data(Config(dict(test_dataloader=loader)), ('test_dataloader',))
    joints = joints_of(configs[0])
    graph = args.checkpoint.endswith('.onnx')
    channels = channels_of(joints, args.onnx_joints) if graph else list(range(len(joints)))
    cases = list(cases_for(cfg.model.head.decoder, args.alignment, args.suppliers, args.blurs, args.scores))
    model = onnx_model(cfg, args.checkpoint, channels) if graph else init_fitting_model(cfg, args.checkpoint)
    loaders = [Runner.build_dataloader(loader, seed=0) for loader in configs]
    read_all(model, loaders, cases)

    present = np.array(channels) >= 0
    truth, options = truth_of([loader.dataset for loader in loaders], present), coco_options(cfg)
    threshold = options.get('keypoint_score_thr', 0.2)
    aps = [average_precision(case, truth, options, dict(loaders[0].dataset.metainfo)) for case in cases]
    head = ['decoder', 'AP', *(f'PCK@{t:g}' for t in PCK_THRESHOLDS), 'mean px', 'bias px (x, y)', f'scores <= {threshold:g}',
            'ms a person']
    rows = [row_of(case, truth, threshold, ap) for case, ap in zip(cases, aps)]
    best = cases[int(np.nanargmax(aps))] if not np.isnan(aps).all() else cases[0]
    flip = 'with' if model.test_cfg.get('flip_test') else 'without'
    absent = [name for name, there in zip(joints, present) if not there]
    about = ', '.join([
        f'`{Path(args.checkpoint).name}`', f'{flip} flip test', f'{len(truth.points)} persons in annotated boxes',
        f'{truth.known.sum()} joints', *(f'no {name} in the network' for name in absent)])
    about = f'{about}. Made by `compare_decoders.py`; commit {commit()}.'
    trouble = list(warnings_for(cases, truth, threshold))
    print(table(head, rows))
    print(f'\n{about}', *(f'warning: {each}' for each in trouble), *([UNRANKED] if trouble else []), sep='\n')
    print(f'\nBest by AP on these persons: {best.name}\n\n    {config_lines(best.cfg)}')
    if args.markdown:
        write_block(args.markdown, args.block, f'{table(head, rows)}\n\n{about}')
    order = np.argsort(-np.nan_to_num(aps), kind='stable')
    return [cases[index] for index in order]


if __name__ == '__main__':
    main()
