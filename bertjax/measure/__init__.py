"""The cost of a model: size, memory, FLOPs and time, measured on the files that ship.

    cost.py              parameters, stored bytes, FLOPs, memory traffic, peak memory: without running the model
    latency.py           times: each runtime in its own process (processes.py, worker.py), taking turns
    cold_start.py        one thread, cold start, memory of the process: the needs of a small device
    depth.py             time saved by early exit
    outputs.py           logits in the runtime that ships
    onnx.py              an exported folder and its session in ONNX Runtime or OpenVINO (openvino.py)
    faster.py            which of these is the faster one for a file
    integer_products.py  whether they multiply a file's integers exactly on this processor
    hlo.py               the content of a compiled program: products, traffic
    runtimes.py          the runtimes of a bundle and of a file

Times are those of this machine. Ratios of two models carry over to other machines better than times do. A measurement
takes about a minute, because processes take turns and everything is timed several times.
"""
