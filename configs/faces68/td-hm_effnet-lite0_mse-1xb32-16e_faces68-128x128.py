# EfficientNet-Lite0 with ImageNet weights on faces with 68 landmarks, 128 x 128: Gaussian MSE, quarter shift. The data are made by
# tools/dataset_converters/convert_faces68.py: 2,811 faces to learn from, 507 of other people to choose by, 451 of others for the end.
# Network, optimiser and schedule as in the base, which says what is frozen.
_base_ = ['../lspet/td-hm_effnet-lite0_mse-1xb32-12e_lspet-128x96.py']

data_root = 'data/faces68/'
max_epochs = 16

train_cfg = dict(max_epochs=max_epochs, val_interval=4)
param_scheduler = [
    dict(type='LinearLR', begin=0, end=100, start_factor=0.01, by_epoch=False),
    dict(
        type='CosineAnnealingLR', begin=0, end=max_epochs, T_max=max_epochs, eta_min=0.01 * _base_.base_lr, by_epoch=True,
        convert_to_iter_based=True)]

codec = dict(input_size=(128, 128), heatmap_size=(32, 32), sigma=1)
model = dict(head=dict(out_channels=68, decoder=codec))

affine = dict(type='TopdownAffine', input_size=codec['input_size'])
target = dict(type='GenerateTarget', encoder=dict(codec, type='MSRAHeatmap'))
pack = _base_.train_pipeline[-1]
train_pipeline = [*_base_.train_pipeline[:-3], affine, target, pack]
val_pipeline = [*_base_.val_pipeline[:-2], affine, pack]


def faces(part, pipeline, **options):
    return dict(
        _delete_=True, type='BaseCocoStyleDataset', metainfo=dict(from_file='configs/_base_/datasets/300w.py'),
        data_root=data_root, data_mode='topdown', ann_file=f'annotations/{part}.json', data_prefix=dict(img=''), pipeline=pipeline,
        **options)


train_dataloader = dict(dataset=faces('train', train_pipeline))
val_dataloader = dict(dataset=faces('val', val_pipeline, test_mode=True))
test_dataloader = val_dataloader

# NME by the distance of the outer eye corners, landmarks 36 and 45
val_evaluator = dict(_delete_=True, type='NME', norm_mode='keypoint_distance')
test_evaluator = val_evaluator
