# HRNet-W48, 256 x 256: the Gaussian MSE baseline, MMPose's recipe with the joints in pixels counted from 0.
_base_ = ['mmpose::body_2d_keypoint/topdown_heatmap/mpii/td-hm_hrnet-w48_8xb64-210e_mpii-256x256.py']
custom_imports = dict(imports=['hdm_mmpose.components'], allow_failed_imports=False)

train_pipeline = [_base_.train_pipeline[0], dict(type='MpiiPixelOrigin'), *_base_.train_pipeline[1:]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
