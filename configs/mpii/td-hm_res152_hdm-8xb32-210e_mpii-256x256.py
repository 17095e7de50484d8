# SimpleBaseline-ResNet-152, 256 x 256: heatmap distribution matching with this package's settings.
_base_ = [
    './td-hm_res152_mse-8xb32-210e_mpii-256x256.py',
    '../_base_/hdm.py',
]

codec = dict(_base_.hdm_codec, input_size=(256, 256), heatmap_size=(64, 64))
model = dict(
    head=dict(loss=dict(_base_.hdm_loss, _delete_=True), decoder=dict(codec, _delete_=True)),
    test_cfg=dict(shift_heatmap=False))
target = dict(type='GenerateTarget', encoder=codec)
train_pipeline = [*_base_.train_pipeline[:-2], target, _base_.train_pipeline[-1]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
codec = dict(codec, _delete_=True)  # last: drops the recipe's own codec settings
