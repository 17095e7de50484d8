# SimpleBaseline with a slim ResNet-18 on drawn figures, 128 x 96: Gaussian MSE, argmax with quarter shift.
# Trains from nothing in minutes on two CPU cores: `make demo`. The data are made by tools/dataset_converters/make_demo_data.py.
_base_ = ['mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_res50_8xb64-210e_coco-256x192.py']
custom_imports = dict(imports=['hdm_mmpose.components'], allow_failed_imports=False)

# what one changes most often
data_root = 'data/demo/'
max_epochs = 8
base_lr = 2e-3
batch_size = 16
num_workers = 1

train_cfg = dict(max_epochs=max_epochs, val_interval=2)
randomness = dict(seed=0)
optim_wrapper = dict(optimizer=dict(lr=base_lr))
param_scheduler = [
    dict(type='LinearLR', begin=0, end=100, start_factor=0.01, by_epoch=False),
    dict(
        type='CosineAnnealingLR', begin=0, end=max_epochs, T_max=max_epochs, eta_min=0.01 * base_lr, by_epoch=True,
        convert_to_iter_based=True)]
auto_scale_lr = dict(base_batch_size=batch_size)
default_hooks = dict(
    checkpoint=dict(interval=1, max_keep_ckpts=1, save_best=None, rule=None), logger=dict(interval=20))

# Inputs are small: a quarter of the width, and the last stage keeps the resolution of the third (stride 16).
codec = dict(type='MSRAHeatmap', input_size=(96, 128), heatmap_size=(24, 32), sigma=1)
model = dict(
    backbone=dict(_delete_=True, type='ResNet', depth=18, stem_channels=16, base_channels=16, strides=(1, 2, 2, 1)),
    head=dict(in_channels=128, deconv_out_channels=(64, 64), deconv_kernel_sizes=(4, 4), decoder=codec),
    train_cfg=dict(compute_acc=False))

# No augmentation but flips: so short a training does not overfit.
affine = dict(type='TopdownAffine', input_size=codec['input_size'])
train_pipeline = [
    *_base_.train_pipeline[:3],
    affine,
    dict(type='GenerateTarget', encoder=codec),
    _base_.train_pipeline[-1]]
val_pipeline = [*_base_.val_pipeline[:2], affine, _base_.val_pipeline[-1]]
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(
    num_workers=num_workers,
    dataset=dict(data_root=data_root, bbox_file=None, pipeline=val_pipeline))
test_dataloader = val_dataloader

# AP, and the mean distance between predicted and drawn joints in pixels of the picture
val_evaluator = [
    dict(type='CocoMetric', ann_file=data_root + 'annotations/person_keypoints_val2017.json'),
    dict(type='EPE', prefix='pixel')]
test_evaluator = val_evaluator
