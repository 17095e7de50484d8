# A recipe for surgical tools as it was before this package.
_base_ = ['../../../configs/demo/td-hm_res18_mse-1xb16-8e_demo-128x96.py']
custom_imports = dict(imports=['tests.projects.surgery.things'], allow_failed_imports=False)

custom_hooks = [*_base_.get('custom_hooks', []), dict(type='ToolHook')]
