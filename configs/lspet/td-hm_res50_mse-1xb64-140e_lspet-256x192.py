# SimpleBaseline with ResNet-50 on Leeds Sports Pose Extended, 256 x 192, from nothing: Gaussian MSE, quarter shift.
# The base of everything under configs/lspet/ and of the study (study.yml). The data are made by tools/dataset_converters/convert_lspet.py:
# 5,000 persons to train on, 1,000 held out, 14 joints in CrowdPose's order.
_base_ = ['mmpose::body_2d_keypoint/topdown_heatmap/crowdpose/td-hm_res50_8xb64-210e_crowdpose-256x192.py']
custom_imports = dict(imports=['hdm_mmpose.components'], allow_failed_imports=False)

# what one changes most often
data_root = 'data/lspet/'
max_epochs = 140
base_lr = 1e-3
batch_size = 64
num_workers = 5

train_cfg = dict(max_epochs=max_epochs, val_interval=10)
randomness = dict(seed=0)
optim_wrapper = dict(optimizer=dict(lr=base_lr))
# a fresh start on few persons: short warm-up, then down to a hundredth, so that no milestone favours a method
param_scheduler = [
    dict(type='LinearLR', begin=0, end=200, start_factor=0.001, by_epoch=False),
    dict(
        type='CosineAnnealingLR', begin=0, end=max_epochs, T_max=max_epochs, eta_min=0.01 * base_lr, by_epoch=True,
        convert_to_iter_based=True)]
auto_scale_lr = dict(base_batch_size=batch_size)
default_hooks = dict(
    checkpoint=dict(interval=10, max_keep_ckpts=1, save_best=None, rule=None), logger=dict(interval=20))

model = dict(backbone=dict(init_cfg=None), train_cfg=dict(compute_acc=False))

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    drop_last=True,
    dataset=dict(
        data_root=data_root, ann_file='annotations/train.json', data_prefix=dict(img='train/'),
        pipeline=_base_.train_pipeline))
val_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    dataset=dict(
        data_root=data_root, ann_file='annotations/val.json', data_prefix=dict(img='val/'), bbox_file=None,
        pipeline=_base_.val_pipeline))
test_dataloader = val_dataloader

# AP with CrowdPose's sigmas; the person's area is that of the box, so AP is milder than on COCO
coco_metric = dict(type='CocoMetric', ann_file=data_root + 'annotations/val.json')
val_evaluator = [
    coco_metric,
    dict(type='PCKAccuracy', thr=0.05, prefix='0.05'),
    dict(type='PCKAccuracy', thr=0.1, prefix='0.1'),
    dict(type='PCKAccuracy', thr=0.2, prefix='0.2')]
test_evaluator = val_evaluator
