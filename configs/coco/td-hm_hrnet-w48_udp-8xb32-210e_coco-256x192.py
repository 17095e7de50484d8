# HRNet-W48, 256 x 192: Gaussian MSE with UDP, MMPose's recipe unchanged.
_base_ = ['mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_hrnet-w48_udp-8xb32-210e_coco-256x192.py']
custom_imports = dict(imports=['hdm_mmpose.components'], allow_failed_imports=False)
