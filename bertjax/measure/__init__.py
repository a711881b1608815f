"""What a model costs: size, memory, FLOPs and time, measured on what ships.

    cost.py          parameters, stored bytes, FLOPs, memory traffic, peak memory: no clock
    latency.py       the clock: each runtime in its own process (processes.py, worker.py), taking turns
    cold_start.py    one thread, cold start, memory of the process: what a small device has to have
    onnx.py          an exported folder and its session in ONNX Runtime
    hlo.py           what is in a compiled program: products, traffic

Times are those of this machine; ratios of two rows carry over to others better than times do. A measurement takes about
a minute, because processes take turns and everything is timed several times.
"""
