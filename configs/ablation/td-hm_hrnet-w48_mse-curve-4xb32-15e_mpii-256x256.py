# Supplement, Fig. 2 (a), the Gaussian MSE baseline: the first 15 epochs, both losses and PCKh on MPII val after each.
_base_ = ['../mpii/td-hm_hrnet-w48_mse-8xb64-210e_mpii-256x256.py']
train_cfg = dict(max_epochs=15, val_interval=1)
custom_hooks = [*_base_.custom_hooks, dict(type='ValidationLossHook', emd=dict(type='EMDHeatmapLoss'))]
