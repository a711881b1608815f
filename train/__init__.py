"""One script per command. A script's docstring is the command's help text; the work is in `bertjax.jobs`.

    bertjax finetune --model=demo --data.train=demo --data.eval=demo --out=runs/finetune

`bertjax finetune ...` runs the same script from any folder. Its flags are the fields of
`bertjax.recipes.finetune.Config`, and `bertjax.engine.command_line` reads them. No class is defined here.
"""
