# The other reading of the paper's lambda = 1: a cost measured in heatmap cells, epsilon = 1 cell.
_base_ = ['../coco/td-hm_hrnet-w48_hdm-paper-8xb32-210e_coco-384x288.py']
model = dict(head=dict(loss=dict(cell_size=1)))
