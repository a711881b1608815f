"""What a model costs: size, memory, arithmetic and time, measured on what ships.

    cost.py          parameters, stored bytes, FLOPs, memory traffic, peak memory: no clock
    latency.py       the clock: each runtime in its own process (processes.py, worker.py), taking turns
    cold_start.py    one thread, cold start, memory of the process: what a small device has to have
    onnx.py          an exported folder and its session in ONNX Runtime
    hlo.py           what is in a compiled program: products, traffic

The trade-off: time is this machine's, and the ratio of two rows travels better than either. A clean measurement takes
about a minute, since processes take turns and nothing is timed only once.
"""
