# A recipe for hip ultrasound as it was before this package; the project's train.py imports the metric.
_base_ = ['../../../configs/demo/td-hm_res18_mse-1xb16-8e_demo-128x96.py']

val_evaluator = [dict(type='HipError')]
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(save_best='hip/error', rule='less'))
