"""What a model and its optimiser take up while they train, as XLA accounts for it: ALBERT-base beside BERT-base.

    python -m tests.benchmarks.memory

The state of a training run is compiled and nothing of it is made: parameters and both moments of AdamW, in float32.
"""

import jax

from bertjax.engine.optimiser import build_optimiser
from bertjax.learn.step import init_state
from bertjax.model import BertConfig, abstract_params
from bertjax.params import count
from bertjax.recipes.optimiser import Optimiser

BERT = BertConfig(vocab_size=30000)
MODELS = {
    "BERT-base": BERT,
    "ALBERT-base": BERT.replace(
        model_type="albert", architecture="AlbertModel", embedding_size=128, num_hidden_groups=1
    ),
}


def state_bytes(config: BertConfig) -> int:
    params = abstract_params(config)
    optimiser = build_optimiser(Optimiser(), 1000, {"params": params, "extra": {}})
    compiled = jax.jit(lambda p: init_state(p, {}, {}, optimiser)).lower(params).compile()
    memory = compiled.memory_analysis()
    assert memory is not None, "this backend does not say"
    return memory.output_size_in_bytes


def main() -> None:
    sizes = {name: state_bytes(config) for name, config in MODELS.items()}
    for name, config in MODELS.items():
        print(f"{name:12} {count(abstract_params(config)):12,} parameters, {sizes[name] / 1e6:8.1f} MB in training")
    print(f"{sizes['BERT-base'] / sizes['ALBERT-base']:.1f}x")


if __name__ == "__main__":
    main()
