# ViTPose-B, 256 x 192: Gaussian MSE with UDP, MMPose's recipe unchanged (needs mmpretrain).
_base_ = ['mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_ViTPose-base_8xb64-210e_coco-256x192.py']
custom_imports = dict(
    imports=['mmpose.engine.optim_wrappers.layer_decay_optim_wrapper', 'hdm_mmpose.components'],
    allow_failed_imports=False)
