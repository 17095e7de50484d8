# SimpleBaseline with a slim ResNet-18 on drawn figures, 128 x 96: heatmap distribution matching with this package's
# settings. Everything else is as in the Gaussian twin.
_base_ = ['./td-hm_res18_mse-1xb16-8e_demo-128x96.py', '../_base_/hdm.py']
custom_imports = dict(imports=['hdm_mmpose.components'], allow_failed_imports=False)

codec = dict(_base_.hdm_codec, input_size=(96, 128), heatmap_size=(24, 32))
model = dict(
    head=dict(loss=dict(_base_.hdm_loss, _delete_=True), decoder=dict(codec, _delete_=True)),
    test_cfg=dict(shift_heatmap=False))
target = dict(type='GenerateTarget', encoder=codec)
train_pipeline = [*_base_.train_pipeline[:-2], target, _base_.train_pipeline[-1]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
codec = dict(codec, _delete_=True)  # last: drops the twin's own codec settings
