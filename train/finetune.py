"""Fine-tune a BERT on a task: text with labels in, a model folder out.

    bertjax finetune --model=demo --data.train=demo --data.eval=demo --epochs=3 --out=runs/finetuned
    bertjax finetune --model=hf:bert-base-uncased --data.train=train.tsv --data.eval=dev.tsv --out=runs/mine

The finished model is OUT/bundle, its score stands in OUT/bundle/README.md, and OUT/metrics.jsonl tells how it went.
The same command again continues where it was cut.
"""

from bertjax.engine.command_line import run
from bertjax.jobs.finetune import main

if __name__ == "__main__":
    run(main, __doc__)
