# Table 5: 1500 Sinkhorn iterations.
_base_ = ['../coco/td-hm_hrnet-w48_hdm-paper-8xb32-210e_coco-384x288.py']
model = dict(head=dict(loss=dict(num_iters=1500)))
