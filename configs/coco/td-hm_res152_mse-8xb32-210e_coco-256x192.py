# SimpleBaseline-ResNet-152, 256 x 192: the Gaussian MSE baseline, MMPose's recipe unchanged.
_base_ = ['mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_res152_8xb32-210e_coco-256x192.py']
custom_imports = dict(imports=['hdm_mmpose.components'], allow_failed_imports=False)
