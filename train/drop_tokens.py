"""Let a text go on with fewer tokens after each layer: those that it attends to most.

    bertjax drop_tokens --model=runs/finetune/bundle --shares=1,0.7,0.5,0.5,0.3,0.3 --out=runs/drop_tokens
    bertjax drop_tokens --model=runs/finetune/bundle --flops=0.5 --data.max_length=512 --out=runs/half
    bertjax drop_tokens --model=runs/finetune/bundle --bound=0.01 --held_out=held-out.tsv --out=runs/certified

How many tokens go on is a share of the text's own length for each layer (--shares), or it is searched: the shares that
change the model's predictions least while they remove a fraction of the arithmetic (--flops), at the lengths of the
text that is searched on. With --bound the largest fraction is removed whose loss of score on --held_out is certified
to be at most that, confidence interval included; OUT/report.md shows what each fraction would cost. These texts must
not have been used in training. If nothing is certified, no model is made.

Then the model is trained with itself as it was before as its teacher; the bound is certified before that. Long texts
gain most; texts of twenty tokens gain little. Other ways to find the shares are transforms of `bertjax distill`:
configs/power.py and configs/lat.py.
"""

from bertjax.engine.command_line import run
from bertjax.engine.record import begin, finish
from bertjax.jobs.data import Text, score_of
from bertjax.jobs.drop_tokens import drop_tokens
from bertjax.recipes.drop_tokens import Config
from bertjax.storage.paths import as_path


def main(config: Config) -> None:
    out, text = as_path(config.out), Text.of(config.data, verbose=config.compile_only is None, model=config.model)
    if begin(out, config, text.reader):
        return
    model, held_out = drop_tokens(config, text)
    finish(out, score_of(model, held_out), eval=held_out.encoded.fingerprint)


if __name__ == "__main__":
    run(main, __doc__)
