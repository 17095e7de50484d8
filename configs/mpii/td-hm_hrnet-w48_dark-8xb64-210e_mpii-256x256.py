# HRNet-W48, 256 x 256: Gaussian MSE with DARK; everything else as in the baseline.
_base_ = ['./td-hm_hrnet-w48_mse-8xb64-210e_mpii-256x256.py']

codec = dict(type='MSRAHeatmap', input_size=(256, 256), heatmap_size=(64, 64), sigma=2, unbiased=True)
model = dict(head=dict(decoder=dict(codec, _delete_=True)))
target = dict(type='GenerateTarget', encoder=codec)
train_pipeline = [*_base_.train_pipeline[:-2], target, _base_.train_pipeline[-1]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
codec = dict(codec, _delete_=True)  # last: drops the recipe's own codec settings
