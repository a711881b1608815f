"""ALBERT from raw text, with the numbers of its paper (Lan et al. 2020, section 4.1).

    bertjax pretrain --config=albert --data.train=FOLDER --out=runs/albert-base
    bertjax pretrain --config=albert:large --data.train=FOLDER            # or albert:xlarge, albert:xxlarge

The encoders have 11,683,584 (base, the default), 17,683,968, 58,724,864 and 222,595,584 (xxlarge) parameters. FOLDER
holds text files with blank lines between documents; the paper took English Wikipedia and BooksCorpus. A batch has 4,096
rows of 512 tokens: on few devices raise --micro_batches, which costs time and changes nothing else. Dropout is BERT's
0.1, except in xxlarge, which the paper found to be harmed by it; the second version of the published weights was
trained without dropout, on more text and for longer.

Not run: tests check that the encoder has the published number of parameters and that the whole step can be traced.
"""

from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.pretrain import Config, Shape, Text
from bertjax.text.masking import Masking


def albert(
    size: str, hidden: int, layers: int, heads: int, micro_batches: int, dropout: float = 0.1, remat: bool = False
) -> Config:
    """A size of the paper. Its feed-forward layers have four times the hidden size."""
    return Config(
        shape=Shape(
            embedding_size=128,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_hidden_groups=1,
            num_attention_heads=heads,
            intermediate_size=4 * hidden,
            hidden_dropout=dropout,
            attention_dropout=dropout,
        ),
        vocab_size=30_000,
        data=Text(train="text", max_length=512),
        sentences="order",
        masking=Masking(unit="ngrams", rate=0.15),
        steps=125_000,
        batch_size=4096,
        micro_batches=micro_batches,
        optimiser=Optimiser(rule="lamb", learning_rate=1.76e-3, warmup=0.025, weight_decay=0.01, epsilon=1e-6),
        dtype="bfloat16",
        remat=remat,
        save_every=5000,
        out=f"runs/albert-{size}",
    )


config = base = albert("base", hidden=768, layers=12, heads=12, micro_batches=64)
large = albert("large", hidden=1024, layers=24, heads=16, micro_batches=128)
xlarge = albert("xlarge", hidden=2048, layers=24, heads=16, micro_batches=256, remat=True)
xxlarge = albert("xxlarge", hidden=4096, layers=12, heads=64, micro_batches=512, dropout=0.0, remat=True)
