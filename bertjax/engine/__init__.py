"""The training loop and its surroundings: optimiser, devices, hosts, log, record of a run, command line."""
