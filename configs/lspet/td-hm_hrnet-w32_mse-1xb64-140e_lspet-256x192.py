# HRNet-W32 on Leeds Sports Pose Extended, 256 x 192, from nothing: everything but the network as with ResNet-50.
_base_ = ['td-hm_res50_mse-1xb64-140e_lspet-256x192.py']


def branches(num_modules, block, num_blocks, num_channels):
    return dict(num_modules=num_modules, num_branches=len(num_channels), block=block, num_blocks=num_blocks,
                num_channels=num_channels)


model = dict(
    backbone=dict(
        _delete_=True,
        type='HRNet',
        in_channels=3,
        extra=dict(
            stage1=branches(1, 'BOTTLENECK', (4, ), (64, )),
            stage2=branches(1, 'BASIC', (4, 4), (32, 64)),
            stage3=branches(4, 'BASIC', (4, 4, 4), (32, 64, 128)),
            stage4=branches(3, 'BASIC', (4, 4, 4, 4), (32, 64, 128, 256)))),
    head=dict(in_channels=32, deconv_out_channels=None))
