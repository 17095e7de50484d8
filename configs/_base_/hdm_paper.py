# The paper to the letter, the settings of every `hdm-paper` config: relu suppliers (Eq. 3), Euclidean cost (Sec. 3.2),
# L = sum over the joints (Eq. 5), lambda = 1 and 1000 Sinkhorn iterations (Sec. 5.1), gradient of the supplement's
# Eq. 3 with the objective of Eq. 2. The paper does not say in which unit the cost is measured: here in input pixels
# (cell size 4), that is epsilon = 1 / (lambda * 4) = 0.25 heatmap cells. The other reading, a cost in cells
# (epsilon = 1), is configs/ablation/td-hm_hrnet-w48_hdm-paper-cells-8xb32-210e_coco-384x288.py.
hdm_codec = dict(type='DotAnnotationCodec', alignment='center', supplier='relu', blur=0)  # Sec. 3.4: the square
hdm_loss = dict(
    type='EMDHeatmapLoss',
    entropic_lambda=1,
    cell_size=4,
    objective='shannon',
    supplier='relu',
    solver='sinkhorn',
    num_iters=1000,
    unbiased=False,
    ground_distance='euclidean',
    reduction='sum')
