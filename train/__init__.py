"""The scripts. Each reads from top to bottom: config, data, models, objective, step, go.

    bertjax finetune --model=demo --data.train=demo --data.eval=demo --out=runs/finetuned

`bertjax finetune ...` is the same from anywhere. A script is a frozen dataclass `Config`, which train/settings.py turns
into a command line, and a function `main(config)`. The library never trains; these files do, in plain loops to be read,
copied and changed.
"""
