# Supplement, Table 1: MSE to the dot-annotated heatmap (one cell is 1, all others 0), decoded as the baseline decodes.
_base_ = ['mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_hrnet-w48_8xb32-210e_coco-384x288.py']
custom_imports = dict(imports=['hdm_mmpose.components'], allow_failed_imports=False)

dot_codec = dict(
    type='DotAnnotationCodec', input_size=(288, 384), heatmap_size=(72, 96), subpixel=False, alignment='msra')
target = dict(type='GenerateTarget', encoder=dot_codec)
train_pipeline = [*_base_.train_pipeline[:-2], target, _base_.train_pipeline[-1]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
