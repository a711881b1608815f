"""Find a lottery ticket: zeros with which the pre-trained weights train as well as the whole model.

    bertjax ticket --model=demo --sparsity=0.6 --iterations=6 --out=runs/ticket
    bertjax ticket --model=demo --sparsity=0.6 --method=random --out=runs/random
    bertjax finetune --model=demo --ticket=runs/ticket/ticket.safetensors --data.train=other.tsv --data.eval=dev.tsv

Each iteration trains, prunes the smallest of the weights that are left and puts the others back to the pre-trained
weights (Chen et al. 2020). The ticket is then trained once more, like the controls: --method=one_shot, random and
shuffled, and --rewind=none. Zeros save no time.
"""

from bertjax.engine.command_line import run
from bertjax.engine.log import note
from bertjax.engine.record import begin, finish
from bertjax.jobs.data import Text
from bertjax.jobs.ticket import next_step, train_ticket
from bertjax.recipes.ticket import Config
from bertjax.storage.paths import as_path


def main(config: Config) -> None:
    out, text = as_path(config.out), Text.of(config.data, verbose=config.compile_only is None)
    if begin(out, config, text.reader):
        return
    model, prepared = train_ticket(config, text)
    finish(out, prepared.score(model), **prepared.fingerprints)
    note(next_step(config))


if __name__ == "__main__":
    run(main, __doc__)
