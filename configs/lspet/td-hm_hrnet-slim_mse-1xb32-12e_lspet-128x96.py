# The reduced study's second network: HRNet with a quarter of W32's channels and one module to a stage; everything else as with the
# slim ResNet-18.
_base_ = ['td-hm_res18-slim_mse-1xb32-12e_lspet-128x96.py']


def branches(block, num_blocks, num_channels):
    return dict(num_modules=1, num_branches=len(num_channels), block=block, num_blocks=num_blocks, num_channels=num_channels)


model = dict(
    backbone=dict(
        _delete_=True,
        type='HRNet',
        in_channels=3,
        extra=dict(
            stage1=branches('BOTTLENECK', (1, ), (16, )),
            stage2=branches('BASIC', (2, 2), (8, 16)),
            stage3=branches('BASIC', (2, 2, 2), (8, 16, 32)),
            stage4=branches('BASIC', (2, 2, 2, 2), (8, 16, 32, 64)))),
    head=dict(in_channels=8, deconv_out_channels=None))
