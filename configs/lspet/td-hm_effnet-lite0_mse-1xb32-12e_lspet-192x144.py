# As at 128 x 96, with pictures and maps of one and a half times the size.
_base_ = ['td-hm_effnet-lite0_mse-1xb32-12e_lspet-128x96.py']

codec = dict(input_size=(144, 192), heatmap_size=(36, 48), sigma=1.5)
model = dict(head=dict(decoder=codec))

affine = dict(type='TopdownAffine', input_size=codec['input_size'])
target = dict(type='GenerateTarget', encoder=dict(codec, type='MSRAHeatmap'))
pack = _base_.train_pipeline[-1]
train_pipeline = [*_base_.train_pipeline[:-3], affine, target, pack]
val_pipeline = [*_base_.val_pipeline[:-2], affine, pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader
