"""Rules: does what a config says of its data sets, and of how they are measured, hold together?"""

from __future__ import annotations

from collections.abc import Iterator

from mmpose.registry import DATASETS, KEYPOINT_CODECS

from .finding import Finding, config_rule, error, plural, unchecked
from .parts import LOADERS, ConfigParts, class_of, codecs_in, meta_of, type_name, uses_ours, walk
from .rules_build import REFUSED_HEADS
from .rules_metrics import evaluators

OKS_METRICS = ('Coco', 'PoseTrack', 'KeypointPartition')  # how their names begin
STAGED_HEADS = ('MSPNHead',)  # they take targets on several levels
SCORE_HOOKS = {'PoseVisualizationHook': 'kpt_thr'}


@config_rule('data sets', {'dataset': 'a loader whose data set is not a dict that builds one'})
def rule_datasets(parts: ConfigParts) -> Iterator[Finding]:
    """Loaders, data sets and their pipelines that are no dicts, or no lists."""
    for name in LOADERS:
        loader = parts.cfg.get(name)
        if loader is None:
            continue
        dataset = loader.get('dataset') if isinstance(loader, dict) else None
        if not isinstance(dataset, dict):
            yield error(
                'dataset',
                f'{name}.dataset',
                f'dataset must be a dict with a `type`, got {type(dataset or loader).__name__}',
                "several ones: dict(type='CombinedDataset', metainfo=dict(from_file=...), datasets=[...])",
            )
    for where, dataset, _ in parts.datasets:
        if 'pipeline' in dataset and not isinstance(dataset['pipeline'], (list, tuple)):
            yield error(
                'dataset',
                f'{where}.pipeline',
                f'pipeline must be a list, got {type(dataset["pipeline"]).__name__}',
                'pipeline=[dict(type=...), ...]',
            )


@config_rule(
    'meta information',
    {
        'metainfo': 'the meta information of a data set cannot be read',
        'meta-length': '`sigmas` or `joint_weights` of another length than the joints: the first validation fails',
        'joint-ids': 'joints that are not numbered 0, 1, 2, ..., or two of one name',
        'flip-pairs': 'left and right named on one side only: every flipped picture gives two joints the same name',
    },
)
def rule_metainfo(parts: ConfigParts) -> Iterator[Finding]:
    """Meta information of each data set: that it can be read, its lengths, names and pairs."""
    for where, dataset, _ in parts.datasets:
        built = class_of(dataset, DATASETS)
        written = dataset.get('metainfo')
        if written is None and not getattr(built, 'METAINFO', None):
            continue
        try:
            meta = meta_of(dataset)
        except Exception as problem:  # metainfo may be anything
            yield error(
                'metainfo',
                f'{where}.metainfo',
                f'the meta information cannot be read: {type(problem).__name__}: {problem}',
                "metainfo=dict(from_file='a config with `dataset_info`, from the working directory'), or the dict itself",
            )
            continue
        yield from check_meta(f'{where}.metainfo', meta, used_lists(parts, where))


def used_lists(parts: ConfigParts, where: str) -> list[str]:
    """Which lists of the meta information of a data set are read: OKS reads sigmas, a target may read joint_weights."""
    split = where.partition('_')[0]
    metrics = evaluators(parts.cfg, split) if split != 'train' else []
    weighted = any(part.cfg.get('use_dataset_keypoint_weights') for part in walk(parts.cfg.get('train_dataloader') or {}, ''))
    sigmas = any(metric.type.startswith(OKS_METRICS) for metric in metrics)
    return ['sigmas'] * sigmas + ['joint_weights'] * (weighted and split == 'train')


def check_meta(where: str, meta: dict, used: list[str]) -> Iterator[Finding]:
    """Findings in parsed meta information; ``used`` says which of its lists anything reads."""
    names, count = meta['keypoint_id2name'], meta['num_keypoints']
    for key, title in (('sigmas', 'sigmas'), ('dataset_keypoint_weights', 'joint_weights')):
        if title in used and len(meta[key]) != count:
            yield error(
                'meta-length',
                f'{where}.{title}',
                f'{len(meta[key])} numbers in {title} for {plural(count, "joint")}',
                f'one number for each joint ({title}=[...] of length {count})',
            )
    if sorted(names, key=str) != sorted(range(count), key=str) or list(names) != list(range(count)):
        yield error(
            'joint-ids',
            f'{where}.keypoint_info',
            f'joints are numbered {", ".join(map(str, list(names)[:6]))}...: MMPose takes the numbers for places in the list',
            f'number them 0 to {count - 1}, in this order',
        )
        return
    if len(set(names.values())) != count:
        yield error(
            'joint-ids', f'{where}.keypoint_info', f'{count} joints have {len(set(names.values()))} names', 'a name of its own for each'
        )
        return
    flipped = meta['flip_indices']
    wrong = [names[index] for index, other in enumerate(flipped) if flipped[other] != index]
    if wrong:
        yield error(
            'flip-pairs',
            f'{where}.keypoint_info',
            f'{", ".join(wrong[:6])}: `swap` is named on one side only, or leads elsewhere and not back',
            "swap='<the other one>' in both joints of a pair, swap='' in the others",
        )


@config_rule('levels of the targets', {'levels': 'targets on several levels for a head of one stage, or the other way round'})
def rule_levels(parts: ConfigParts) -> Iterator[Finding]:
    """How many heatmaps a training sample has per joint against how many the head compares."""
    heads = [head for head in parts.heads if head.cfg.get('loss') is not None and head.type != 'VisPredictHead']
    if len(heads) != 1:
        return
    (head,) = heads
    for part in walk(parts.cfg.get('train_dataloader') or {}, 'train_dataloader'):
        if part.type != 'GenerateTarget' or not part.cfg.get('encoder'):
            continue
        codecs = codecs_in(part.cfg['encoder'], '')
        several = bool(part.cfg.get('multilevel')) and len(codecs) > 1
        if several and head.type in ('HeatmapHead', 'ViPNASHead', 'CPMHead', 'DSNTHead'):
            yield error(
                'levels',
                part.where,
                f'{len(codecs)} targets per joint, {head.type} compares its maps with one',
                "dict(type='GenerateTarget', encoder=codec)",
            )
        if head.type in STAGED_HEADS and not several:
            yield error(
                'levels',
                part.where,
                f'one target per joint, {head.type} compares {plural(head.cfg.get("num_units", 1), "unit")} of maps with one each',
                "dict(type='GenerateTarget', multilevel=True, encoder=[codec] * levels)",
            )


@config_rule(
    'alignment of other crops',
    {
        'other-crop': 'a pipeline that cuts persons out without `TopdownAffine`: whether its pixels fit the alignment cannot be told',
        'other-codec': 'a codec whose alignment is not known here',
    },
)
def rule_other_geometry(parts: ConfigParts) -> Iterator[Finding]:
    """What decides where a cell lies and is not of MMPose's heatmap kind."""
    if not uses_ours(parts):
        return
    for codec in [*parts.decoders, *parts.encoders]:
        refused = any(head.type in REFUSED_HEADS for head in parts.heads)  # another rule says so
        if codec.alignment is None and KEYPOINT_CODECS.get(codec.type) is not None and not codec.ours and not refused:
            yield unchecked(
                'other-codec',
                codec.where,
                f'where {codec.type} lays its cells in the input: compare encoder, decoder, crop and flip test yourself',
                'DotAnnotationCodec in its place, or a look at docs/swap.md, "Alignment"',
            )
    aligned = next((codec.alignment for codec in [*parts.decoders, *parts.encoders] if codec.alignment), None)
    for where, dataset, _ in parts.datasets:
        steps = [type_name(step) for step in dataset.get('pipeline') or [] if isinstance(step, dict)]
        if steps and aligned and not any(crop.where.startswith(where.partition('.')[0]) for crop in parts.crops):
            what = (
                f"no TopdownAffine cuts the input out, so whether its pixels fit alignment {aligned!r} cannot be told: 'center' "
                "belongs with a resize that keeps pixel borders (cv2.resize, MMPose's affine), 'udp' with one that keeps the centres "
                'of the corner pixels'
            )
            yield unchecked(
                'other-crop', f'{where}.pipeline', what, "TopdownAffine, with use_udp=True for 'udp'; or compare a few joints by eye"
            )
