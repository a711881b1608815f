"""The training loop and what surrounds it: devices, hosts, logs, the record of a run, the command line."""
