# Table 4, naive demanders: one, of mass 1, at the centre of the cell that holds the dot.
_base_ = [
    'mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_hrnet-w48_8xb32-210e_coco-384x288.py',
    '../_base_/hdm_paper.py',
]
custom_imports = dict(imports=['hdm_mmpose.components'], allow_failed_imports=False)

codec = dict(_base_.hdm_codec, input_size=(288, 384), heatmap_size=(72, 96), subpixel=False)
model = dict(
    head=dict(loss=dict(_base_.hdm_loss, subpixel=False, _delete_=True), decoder=dict(codec, _delete_=True)),
    test_cfg=dict(shift_heatmap=False))
target = dict(type='GenerateTarget', encoder=codec)
train_pipeline = [*_base_.train_pipeline[:-2], target, _base_.train_pipeline[-1]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
codec = dict(codec, _delete_=True)  # last: drops the recipe's own codec settings
