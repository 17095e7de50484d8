# HRFormer-B, 256 x 192: heatmap distribution matching, the paper to the letter.
_base_ = [
    'mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_hrformer-base_8xb32-210e_coco-256x192.py',
    '../_base_/hdm_paper.py',
]
custom_imports = dict(imports=['hdm_mmpose.components'], allow_failed_imports=False)

codec = dict(_base_.hdm_codec, input_size=(192, 256), heatmap_size=(48, 64))
model = dict(
    head=dict(loss=dict(_base_.hdm_loss, _delete_=True), decoder=dict(codec, _delete_=True)),
    test_cfg=dict(shift_heatmap=False))
target = dict(type='GenerateTarget', encoder=codec)
train_pipeline = [*_base_.train_pipeline[:-2], target, _base_.train_pipeline[-1]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
codec = dict(codec, _delete_=True)  # last: drops the recipe's own codec settings
