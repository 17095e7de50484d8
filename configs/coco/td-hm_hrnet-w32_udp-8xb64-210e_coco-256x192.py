# HRNet-W32, 256 x 192: Gaussian MSE with UDP, MMPose's recipe unchanged.
_base_ = ['mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_hrnet-w32_udp-8xb64-210e_coco-256x192.py']
custom_imports = dict(imports=['hdm_mmpose.components'], allow_failed_imports=False)
