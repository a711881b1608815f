"""One training step, assembled from parts."""
