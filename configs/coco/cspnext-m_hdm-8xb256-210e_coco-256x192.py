# CSPNeXt-M, 256 x 192: distribution matching in the UDP pipeline of the recipe (needs albumentations).
_base_ = [
    'mmpose::body_2d_keypoint/topdown_heatmap/coco/cspnext-m_udp_8xb256-210e_coco-256x192.py',
    '../_base_/hdm.py',
]
custom_imports = dict(imports=['hdm_mmpose.components'], allow_failed_imports=False)

codec = dict(_base_.hdm_codec, input_size=(192, 256), heatmap_size=(48, 64), alignment='udp')
model = dict(
    head=dict(loss=dict(_base_.hdm_loss, _delete_=True), decoder=dict(codec, _delete_=True)),
    test_cfg=dict(shift_heatmap=False))
target = dict(type='GenerateTarget', encoder=codec)
train_pipeline = [*_base_.train_pipeline[:-2], target, _base_.train_pipeline[-1]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
train_pipeline_stage2 = [*_base_.train_pipeline_stage2[:-2], target, _base_.train_pipeline_stage2[-1]]
# the second hook switches to the second stage's pipeline, which must carry the same target
custom_hooks = [_base_.custom_hooks[0], dict(_base_.custom_hooks[1], switch_pipeline=train_pipeline_stage2)]
codec = dict(codec, _delete_=True)  # last: drops the recipe's own codec settings
