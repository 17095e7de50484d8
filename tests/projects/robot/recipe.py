# An assembly robot's recipe as it was before this package.
_base_ = ['../../../configs/demo/td-hm_res18_mse-1xb16-8e_demo-128x96.py']
custom_imports = dict(imports=['tests.projects.robot.things'], allow_failed_imports=False)

cut = dict(type='CutOut', input_size=(96, 128))
train_pipeline = [*_base_.train_pipeline[:3], cut, *_base_.train_pipeline[4:]]
val_pipeline = [*_base_.val_pipeline[:2], cut, *_base_.val_pipeline[3:]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader
