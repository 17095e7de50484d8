# CSPNeXt-M, 256 x 192: Gaussian MSE with UDP, MMPose's recipe unchanged (needs albumentations).
_base_ = ['mmpose::body_2d_keypoint/topdown_heatmap/coco/cspnext-m_udp_8xb256-210e_coco-256x192.py']
custom_imports = dict(imports=['hdm_mmpose.components'], allow_failed_imports=False)
