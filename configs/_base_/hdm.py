# The settings of every `hdm` config, in one place: the class defaults, which docs/evidence.md chose.
# `alignment` 'center' is consistent with the horizontal flip in MMPose's standard pipeline (with shift_heatmap=False).
hdm_codec = dict(type='DotAnnotationCodec', alignment='center', supplier='softmax')
hdm_loss = dict(type='EMDHeatmapLoss', supplier='softmax')
