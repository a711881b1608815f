"""Facts about processors, XLA's CPU backend, TPU slices and signals, kept out of the equations."""
