# HRNet-W48, 256 x 256: Gaussian MSE with UDP; everything else as in the baseline.
_base_ = ['./td-hm_hrnet-w48_mse-8xb64-210e_mpii-256x256.py']

codec = dict(type='UDPHeatmap', input_size=(256, 256), heatmap_size=(64, 64), sigma=2)
model = dict(head=dict(decoder=dict(codec, _delete_=True)), test_cfg=dict(shift_heatmap=False))
affine = dict(type='TopdownAffine', input_size=codec['input_size'], use_udp=True)
target = dict(type='GenerateTarget', encoder=codec)
train_pipeline = [*_base_.train_pipeline[:-3], affine, target, _base_.train_pipeline[-1]]
val_pipeline = [*_base_.val_pipeline[:-2], affine, _base_.val_pipeline[-1]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader
codec = dict(codec, _delete_=True)  # last: drops the recipe's own codec settings
