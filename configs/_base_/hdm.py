# The settings of every `hdm` config, in one place: only what differs from the class defaults is named.
# `alignment` 'center' is consistent with the horizontal flip in MMPose's standard pipeline (with shift_heatmap=False).
hdm_codec = dict(type='DotAnnotationCodec', alignment='center', supplier='softplus')
hdm_loss = dict(type='EMDHeatmapLoss', supplier='softplus')
