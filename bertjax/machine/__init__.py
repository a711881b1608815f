"""What is true of a processor, of XLA on a CPU, of a TPU slice: kept out of the equations."""
