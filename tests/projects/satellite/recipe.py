# A satellite project's recipe as it was before this package.
_base_ = ['../../../configs/demo/td-hm_res18_mse-1xb16-8e_demo-128x96.py']
custom_imports = dict(imports=['tests.projects.satellite.things'], allow_failed_imports=False)

train_pipeline = [_base_.train_pipeline[0], dict(type='SunOut'), *_base_.train_pipeline[1:]]
val_pipeline = [_base_.val_pipeline[0], dict(type='SunOut'), *_base_.val_pipeline[1:]]
train_dataloader = dict(dataset=dict(type='SatelliteDataset', pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(type='SatelliteDataset', pipeline=val_pipeline))
test_dataloader = val_dataloader
