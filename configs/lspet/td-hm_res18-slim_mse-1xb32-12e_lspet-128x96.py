# The reduced study's network: a slim ResNet-18 (a quarter of the width, an eighth in the head) at 128 x 96, flips only.
# Minutes on one CPU core.
_base_ = ['td-hm_res50_mse-1xb64-140e_lspet-256x192.py']

max_epochs = 12
base_lr = 4e-3  # of 0.001, 0.002 and 0.004 the best for Gaussian MSE and for EMD + CE alike
batch_size = 32
num_workers = 0

train_cfg = dict(max_epochs=max_epochs, val_interval=4)
optim_wrapper = dict(optimizer=dict(lr=base_lr))
param_scheduler = [
    dict(type='LinearLR', begin=0, end=100, start_factor=0.01, by_epoch=False),
    dict(
        type='CosineAnnealingLR', begin=0, end=max_epochs, T_max=max_epochs, eta_min=0.01 * base_lr, by_epoch=True,
        convert_to_iter_based=True)]
auto_scale_lr = dict(base_batch_size=batch_size)
default_hooks = dict(checkpoint=dict(interval=1))

codec = dict(input_size=(96, 128), heatmap_size=(24, 32), sigma=1)
model = dict(
    backbone=dict(depth=18, stem_channels=16, base_channels=16),
    head=dict(in_channels=128, deconv_out_channels=(32, 32, 32), decoder=codec))

affine = dict(type='TopdownAffine', input_size=codec['input_size'])
train_pipeline = [
    dict(type='LoadImage'),
    dict(type='GetBBoxCenterScale'),
    dict(type='RandomFlip', direction='horizontal'),
    affine,
    dict(type='GenerateTarget', encoder=dict(codec, type='MSRAHeatmap')),
    dict(type='PackPoseInputs')]
val_pipeline = [dict(type='LoadImage'), dict(type='GetBBoxCenterScale'), affine, dict(type='PackPoseInputs')]
train_dataloader = dict(
    batch_size=batch_size, num_workers=num_workers, persistent_workers=False, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=batch_size, num_workers=num_workers, persistent_workers=False, dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader
