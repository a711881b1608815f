"""The Universal Transformer of base size (Dehghani et al. 2018), as an encoder over BERT's vocabulary.

    from configs.universal_transformer_base import config    # or official, or fixed
    model = bertjax.model.UniversalTransformer(config)

One block of width 1,024, 16 heads and 4,096 neurons; sizes and dropout are those of `universal_transformer_base` in
tensor2tensor. The block of `config` and its signals are as the paper describes them, and it halts by position, after 12
steps at most; `official` does so as the authors' code does it by default; `fixed` is the paper's with 6 steps for
everything. The embeddings are BERT's, learned positions and a LayerNorm included, which neither has. Not trained here.
"""

import dataclasses

from bertjax.model.presets import universal_config

SIZES = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "hidden_dropout_prob": 0.3,
    "type_vocab_size": 0,
}
config = universal_config("paper", **SIZES)
official = universal_config("official", **SIZES)
assert config.recurrence is not None
fixed = config.replace(recurrence=dataclasses.replace(config.recurrence, steps=6, halting=None))
