"""Looking at trained models: heatmaps, losses against metrics, Theorem 1; and the pictures of the pages."""
