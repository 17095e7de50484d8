# EfficientNet-Lite0 with ImageNet weights on Leeds Sports Pose Extended, 128 x 96: Gaussian MSE, quarter shift. The network
# of the pretrained comparison (study_pretrained.yml). The weights are made by tools/model_converters/efficientnet_lite0.py.
#
# Everything up to stride 8 is frozen, its batch normalisation in evaluation mode, so that 12 epochs take minutes on one CPU
# core; the rest of the backbone learns at 0.3 of the head's rate. Four strides meet in an FPN of 64 channels at stride 4.
_base_ = ['td-hm_res18-slim_mse-1xb32-12e_lspet-128x96.py']
custom_imports = dict(
    imports=['hdm_mmpose.components', 'hdm_mmpose.components.efficientnet_lite'], allow_failed_imports=False)

base_lr = 2e-3

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=base_lr, weight_decay=0.01),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.3))))
param_scheduler = [
    dict(type='LinearLR', begin=0, end=100, start_factor=0.01, by_epoch=False),
    dict(
        type='CosineAnnealingLR', begin=0, end=_base_.max_epochs, T_max=_base_.max_epochs, eta_min=0.01 * base_lr, by_epoch=True,
        convert_to_iter_based=True)]

model = dict(
    data_preprocessor=dict(mean=[127, 127, 127], std=[128, 128, 128]),  # as the weights were trained
    backbone=dict(
        _delete_=True,
        type='EfficientNetLite',
        out_indices=(2, 3, 4, 5),
        frozen_stages=4,
        init_cfg=dict(
            type='Pretrained', prefix='backbone.', checkpoint='data/pretrained/efficientnet_lite0_imagenet.pth')),
    neck=dict(
        type='FinestLevelFPN',
        in_channels=[24, 40, 112, 320],
        out_channels=64,
        num_outs=4,
        norm_cfg=dict(type='BN'),
        act_cfg=dict(type='ReLU')),
    head=dict(in_channels=64, deconv_out_channels=None))

pipeline = _base_.train_pipeline
train_pipeline = [
    *pipeline[:3], dict(type='RandomBBoxTransform', shift_factor=0.1, scale_factor=(0.75, 1.25), rotate_factor=40), *pipeline[3:]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
