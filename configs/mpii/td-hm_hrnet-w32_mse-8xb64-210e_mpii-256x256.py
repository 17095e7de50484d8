# HRNet-W32, 256 x 256: the Gaussian MSE baseline, MMPose's recipe with the joints in pixels counted from 0.
# The recipe trains with batch 16 although its name says 64, as do its W48 and DARK siblings: 64 here.
_base_ = ['mmpose::body_2d_keypoint/topdown_heatmap/mpii/td-hm_hrnet-w32_8xb64-210e_mpii-256x256.py']
custom_imports = dict(imports=['hdm_mmpose.components'], allow_failed_imports=False)

train_pipeline = [_base_.train_pipeline[0], dict(type='MpiiPixelOrigin'), *_base_.train_pipeline[1:]]
train_dataloader = dict(batch_size=64, dataset=dict(pipeline=train_pipeline))
