"""Published architectures as configs: the Universal Transformer, MobileBERT in its sizes, and the RoBERTas."""

import dataclasses
from typing import Any, Literal

from bertjax.errors import UserError
from bertjax.model.config import ROBERTAS, BertConfig, BottleneckConfig
from bertjax.model.depth import Halting, Recurrence


def universal_config(preset: Literal["paper", "official"], **fields: Any) -> BertConfig:
    """A Universal Transformer encoder on BERT's embeddings. Block, signals and halting by position follow its paper
    (Dehghani et al. 2018) or the defaults of its authors' code (tensor2tensor); `fields` are those of `BertConfig`.

    The two differ in the position of LayerNorm, in the signals, and in whether positions and steps count from 0 or 1.
    The input of the first step is BERT's in both: the sum of word, learned position and token-type embeddings, with
    LayerNorm and dropout. The paper starts from the word embeddings alone, the authors' code from these times the
    square root of the width. `type_vocab_size=0` omits token types.
    """
    halting = Halting(epsilon=0.01, bias=1.0)
    presets: dict[str, dict[str, Any]] = {
        "paper": {
            "recurrence": Recurrence(12, "sinusoid", "sinusoid", first=1, layout="interleaved", halting=halting),
            "norm": "post",
        },
        "official": {
            "recurrence": Recurrence(12, "sinusoid", "learned", first=0, layout="halves", halting=halting),
            "norm": "pre",
        },
    }
    base = {"architecture": "BertModel", "num_hidden_layers": 1, "hidden_act": "relu"}
    return BertConfig(**{**base, **presets[preset], **fields})


def mobile_config(preset: Literal["base", "tiny", "teacher"], **fields: Any) -> BertConfig:
    """MobileBERT in its published sizes (Sun et al. 2020, table 1), the smaller MobileBERT-TINY, or their teacher
    IB-BERT-LARGE; `fields` are those of `BertConfig` and `BottleneckConfig`.

    All three have 24 layers, hidden states of 512 columns, 4 heads, and trigram embeddings of 128 columns. The students
    have no dense pooler: their heads read the first row.
    """
    shared: dict[str, Any] = {
        "architecture": "MobileBertForPreTraining",
        "embedding_size": 128,
        "trigram_input": True,
        "hidden_size": 512,
        "num_hidden_layers": 24,
        "num_attention_heads": 4,
    }
    student: dict[str, Any] = {
        "intra_bottleneck_size": 128,
        "intermediate_size": 512,
        "hidden_act": "relu",
        "normalization_type": "no_norm",
        "hidden_dropout_prob": 0.0,
        "dense_pooler": False,
    }
    presets: dict[str, dict[str, Any]] = {
        "base": student | {"num_feedforward_networks": 4},
        "tiny": student | {"num_feedforward_networks": 2, "attention_input": "input"},
        "teacher": {
            "intra_bottleneck_size": 1024,
            "intermediate_size": 4096,
            "hidden_act": "gelu_new",
            "attention_input": "block",
        },
    }
    if preset not in presets:
        raise UserError(f"preset is {preset!r}; expected one of {', '.join(presets)}.")
    values = shared | presets[preset] | fields
    names = {field.name for field in dataclasses.fields(BottleneckConfig)} & values.keys()
    bottleneck = BottleneckConfig(**{name: values.pop(name) for name in names})
    return BertConfig(model_type="mobilebert", bottleneck=bottleneck, **values)


def roberta_config(preset: Literal["roberta", "xlm-roberta", "camembert"], **fields: Any) -> BertConfig:
    """RoBERTa-base (Liu et al. 2019), XLM-R-base (Conneau et al. 2020) or CamemBERT-base (Martin et al. 2020); `fields`
    are those of `BertConfig`, and `vocab_size` and `pad_token_id` are those of the tokenizer.

    All three are BERT-base with 512 positions after the offset and one token type.
    """
    sizes = {"roberta": 50265, "xlm-roberta": 250002, "camembert": 32005}
    if preset not in sizes:
        raise UserError(f"preset is {preset!r}; expected one of {', '.join(sizes)}.")
    offset = fields.get("pad_token_id", 1) + 1
    values: dict[str, Any] = {
        "model_type": preset,
        "architecture": f"{ROBERTAS[preset]}Model",
        "vocab_size": sizes[preset],
        "pad_token_id": 1,
        "position_offset": offset,
        "max_position_embeddings": 512 + offset,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
    }
    return BertConfig(**(values | fields))
