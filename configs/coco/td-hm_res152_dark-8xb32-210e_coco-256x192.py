# SimpleBaseline-ResNet-152, 256 x 192: Gaussian MSE with DARK, MMPose's recipe (with the baseline's base batch).
_base_ = ['mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_res152_dark-8xb32-210e_coco-256x192.py']
custom_imports = dict(imports=['hdm_mmpose.components'], allow_failed_imports=False)
auto_scale_lr = dict(base_batch_size=512)
