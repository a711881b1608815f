"""One training step, assembled from losses, an objective and an optimiser."""
