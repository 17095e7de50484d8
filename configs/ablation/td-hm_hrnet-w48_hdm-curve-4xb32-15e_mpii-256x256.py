# Supplement, Fig. 2 (b) with this package's settings: the first 15 epochs, both losses and PCKh on MPII val after each.
# HRNet's own batch, learning rate and no warm-up: at 8 x 64 MMPose's 500 iterations of warm-up are 11 of these 15 epochs.
_base_ = ['../mpii/td-hm_hrnet-w48_hdm-8xb64-210e_mpii-256x256.py']
train_cfg = dict(max_epochs=15, val_interval=1)
train_dataloader = dict(batch_size=32)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = _base_.param_scheduler[1:]
auto_scale_lr = dict(base_batch_size=128)
custom_hooks = [*_base_.custom_hooks, dict(type='ValidationLossHook', emd=dict(_base_.hdm_loss, cross_entropy_weight=0.0))]
