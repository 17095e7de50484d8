default_scope = 'mmpose'
default_hooks = dict(
    timer=dict(type='IterTimerHook', _scope_='mmpose'),
    logger=dict(type='LoggerHook', interval=50, _scope_='mmpose'),
    param_scheduler=dict(type='ParamSchedulerHook', _scope_='mmpose'),
    checkpoint=dict(
        type='CheckpointHook',
        interval=10,
        save_best='coco/AP',
        rule='greater',
        _scope_='mmpose'),
    sampler_seed=dict(type='DistSamplerSeedHook', _scope_='mmpose'),
    visualization=dict(
        type='PoseVisualizationHook', enable=False, _scope_='mmpose'))
custom_hooks = [dict(type='SyncBuffersHook', _scope_='mmpose')]
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'))
vis_backends = [dict(type='LocalVisBackend', _scope_='mmpose')]
visualizer = dict(
    type='PoseLocalVisualizer',
    vis_backends=[dict(type='LocalVisBackend')],
    name='visualizer',
    _scope_='mmpose')
log_processor = dict(
    type='LogProcessor',
    window_size=50,
    by_epoch=True,
    num_digits=6,
    _scope_='mmpose')
log_level = 'INFO'
load_from = None
resume = False
backend_args = dict(backend='local')
train_cfg = dict(by_epoch=True, max_epochs=210, val_interval=10)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='Adam', lr=0.0005, _scope_='mmpose'))
param_scheduler = [
    dict(
        type='LinearLR',
        begin=0,
        end=500,
        start_factor=0.001,
        by_epoch=False,
        _scope_='mmpose'),
    dict(
        type='MultiStepLR',
        begin=0,
        end=210,
        milestones=[170, 200],
        gamma=0.1,
        by_epoch=True,
        _scope_='mmpose')
]
auto_scale_lr = dict(base_batch_size=512)
codec = dict(
    type='DotAnnotationCodec',
    input_size=(192, 256),
    heatmap_size=(48, 64),
    alignment='center')
model = dict(
    type='TopdownPoseEstimator',
    data_preprocessor=dict(
        type='PoseDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True),
    backbone=dict(
        type='ResNet',
        depth=50,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')),
    head=dict(
        type='HeatmapHead',
        in_channels=2048,
        out_channels=17,
        loss=dict(type='EMDHeatmapLoss'),
        decoder=dict(
            type='DotAnnotationCodec',
            input_size=(192, 256),
            heatmap_size=(48, 64),
            alignment='center')),
    test_cfg=dict(flip_test=True, flip_mode='heatmap', shift_heatmap=False),
    _scope_='mmpose')
dataset_type = 'CocoDataset'
data_mode = 'topdown'
data_root = 'data/coco/'
train_pipeline = [
    dict(type='LoadImage', _scope_='mmpose'),
    dict(type='GetBBoxCenterScale', _scope_='mmpose'),
    dict(type='RandomFlip', direction='horizontal', _scope_='mmpose'),
    dict(type='RandomHalfBody', _scope_='mmpose'),
    dict(type='RandomBBoxTransform', _scope_='mmpose'),
    dict(type='TopdownAffine', input_size=(192, 256), _scope_='mmpose'),
    dict(
        type='GenerateTarget',
        encoder=dict(
            type='DotAnnotationCodec',
            input_size=(192, 256),
            heatmap_size=(48, 64),
            alignment='center')),
    dict(type='PackPoseInputs', _scope_='mmpose')
]
val_pipeline = [
    dict(type='LoadImage', _scope_='mmpose'),
    dict(type='GetBBoxCenterScale', _scope_='mmpose'),
    dict(type='TopdownAffine', input_size=(192, 256), _scope_='mmpose'),
    dict(type='PackPoseInputs', _scope_='mmpose')
]
train_dataloader = dict(
    batch_size=64,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True, _scope_='mmpose'),
    dataset=dict(
        type='CocoDataset',
        data_root='data/coco/',
        data_mode='topdown',
        ann_file='annotations/person_keypoints_train2017.json',
        data_prefix=dict(img='train2017/'),
        pipeline=[
            dict(type='LoadImage', _scope_='mmpose'),
            dict(type='GetBBoxCenterScale', _scope_='mmpose'),
            dict(type='RandomFlip', direction='horizontal', _scope_='mmpose'),
            dict(type='RandomHalfBody', _scope_='mmpose'),
            dict(type='RandomBBoxTransform', _scope_='mmpose'),
            dict(
                type='TopdownAffine', input_size=(192, 256), _scope_='mmpose'),
            dict(
                type='GenerateTarget',
                encoder=dict(
                    type='DotAnnotationCodec',
                    input_size=(192, 256),
                    heatmap_size=(48, 64),
                    alignment='center')),
            dict(type='PackPoseInputs', _scope_='mmpose')
        ],
        _scope_='mmpose'))
val_dataloader = dict(
    batch_size=32,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(
        type='DefaultSampler', shuffle=False, round_up=False,
        _scope_='mmpose'),
    dataset=dict(
        type='CocoDataset',
        data_root='data/coco/',
        data_mode='topdown',
        ann_file='annotations/person_keypoints_val2017.json',
        bbox_file=
        'data/coco/person_detection_results/COCO_val2017_detections_AP_H_56_person.json',
        data_prefix=dict(img='val2017/'),
        test_mode=True,
        pipeline=[
            dict(type='LoadImage'),
            dict(type='GetBBoxCenterScale'),
            dict(type='TopdownAffine', input_size=(192, 256)),
            dict(type='PackPoseInputs')
        ],
        _scope_='mmpose'))
test_dataloader = dict(
    batch_size=32,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(
        type='DefaultSampler', shuffle=False, round_up=False,
        _scope_='mmpose'),
    dataset=dict(
        type='CocoDataset',
        data_root='data/coco/',
        data_mode='topdown',
        ann_file='annotations/person_keypoints_val2017.json',
        bbox_file=
        'data/coco/person_detection_results/COCO_val2017_detections_AP_H_56_person.json',
        data_prefix=dict(img='val2017/'),
        test_mode=True,
        pipeline=[
            dict(type='LoadImage'),
            dict(type='GetBBoxCenterScale'),
            dict(type='TopdownAffine', input_size=(192, 256)),
            dict(type='PackPoseInputs')
        ],
        _scope_='mmpose'))
val_evaluator = dict(
    type='CocoMetric',
    ann_file='data/coco/annotations/person_keypoints_val2017.json',
    _scope_='mmpose')
test_evaluator = dict(
    type='CocoMetric',
    ann_file='data/coco/annotations/person_keypoints_val2017.json',
    _scope_='mmpose')
custom_imports = dict(
    imports=['hdm_mmpose.components'], allow_failed_imports=False)
loss = dict(type='EMDHeatmapLoss')
target = dict(
    type='GenerateTarget',
    encoder=dict(
        type='DotAnnotationCodec',
        input_size=(192, 256),
        heatmap_size=(48, 64),
        alignment='center'))
