# SimpleBaseline-ResNet-152, 256 x 192: Gaussian MSE with UDP; everything else as in the baseline.
_base_ = ['mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_res152_8xb32-210e_coco-256x192.py']
custom_imports = dict(imports=['hdm_mmpose.components'], allow_failed_imports=False)

codec = dict(type='UDPHeatmap', input_size=(192, 256), heatmap_size=(48, 64), sigma=2)
model = dict(head=dict(decoder=dict(codec, _delete_=True)), test_cfg=dict(shift_heatmap=False))
affine = dict(type='TopdownAffine', input_size=codec['input_size'], use_udp=True)
target = dict(type='GenerateTarget', encoder=codec)
train_pipeline = [*_base_.train_pipeline[:-3], affine, target, _base_.train_pipeline[-1]]
val_pipeline = [*_base_.val_pipeline[:-2], affine, _base_.val_pipeline[-1]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader
codec = dict(codec, _delete_=True)  # last: drops the recipe's own codec settings
