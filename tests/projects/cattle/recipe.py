# A cattle project's recipe as it was before this package.
_base_ = ['../../../configs/demo/td-hm_res18_mse-1xb16-8e_demo-128x96.py']
custom_imports = dict(imports=['tests.projects.cattle.things'], allow_failed_imports=False)

model = dict(head=dict(type='CattleHead', temperature=0.5, loss=dict(type='CattleLoss', hind=3.0, _delete_=True)))
