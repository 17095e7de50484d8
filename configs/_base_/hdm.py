# The settings of every `hdm` config, in one place: only what differs from the class defaults is named.
# `alignment` 'center' is consistent with the horizontal flip in MMPose's standard pipeline (with shift_heatmap=False).
hdm_codec = dict(type='DotAnnotationCodec', alignment='center', supplier='softplus')
# Product potential with unbiased demanders: minimised by the dot itself at every epsilon. A distance that saturates and the
# cross-entropy beside it let a joint that may be in two places stay undecided while the network learns; with the Euclidean
# cost alone training is much slower. The full study (configs/lspet) is what decides whether this stays.
hdm_loss = dict(
    type='EMDHeatmapLoss',
    supplier='softplus',
    potential='product',
    unbiased=True,
    ground_distance=dict(type='saturated', scale=2.0),
    cross_entropy_weight=0.5)
