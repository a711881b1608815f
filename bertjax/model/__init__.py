"""Arrays in, predictions out: BERT in Flax Linen, and the only room that imports it.

    config.py       what a model is, in numbers (no jax)
    depth.py        how deep an example goes: recurrence, halting, exits (no jax)
    products.py     every matrix product and look-up, in one place
    layers.py       one encoder layer
    embeddings.py   from ids to the encoder's input
    encoder.py      the stack of depth steps, over the parameters that they share or own
    bottleneck.py   layers that compute in a width of their own: MobileBERT, IB-BERT
    recurrence.py   one block applied again and again, until all has halted: Universal Transformer
    exits.py        heads after inner layers
    bert.py         the model, whole and in pieces, and what it returns
    heads.py        classification, tokens, answers, masked words, next sentence; every family
    huggingface.py  Hugging Face folders, in and out, without torch

A module is a description; its parameters are a plain nested dict beside it:

    model = BertForSequenceClassification(BertConfig(labels=("no", "yes")))
    params = model.init(jax.random.key(0), input_ids)["params"]
    logits = model.apply({"params": params}, input_ids, attention_mask, token_type_ids).logits
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bertjax.model.config import BertConfig, BottleneckConfig, LayerConfig, mobile_config, universal_config
from bertjax.model.depth import ExitRule, Exits, Halting, Recurrence

if TYPE_CHECKING:
    from bertjax.model.attention import key_mask
    from bertjax.model.bert import BertModel, ModelOutput
    from bertjax.model.heads import (
        ARCHITECTURES,
        AlbertForMaskedLM,
        AlbertForPreTraining,
        AlbertForQuestionAnswering,
        AlbertForSequenceClassification,
        AlbertForTokenClassification,
        AlbertModel,
        BertForMaskedLM,
        BertForNextSentencePrediction,
        BertForPreTraining,
        BertForQuestionAnswering,
        BertForSequenceClassification,
        BertForTokenClassification,
        DistilBertForMaskedLM,
        DistilBertForQuestionAnswering,
        DistilBertForSequenceClassification,
        DistilBertForTokenClassification,
        DistilBertModel,
        EarlyExitBert,
        MobileBertForMaskedLM,
        MobileBertForNextSentencePrediction,
        MobileBertForPreTraining,
        MobileBertForQuestionAnswering,
        MobileBertForSequenceClassification,
        MobileBertForTokenClassification,
        MobileBertModel,
        UniversalTransformer,
        abstract_params,
        build,
        init_params,
    )
    from bertjax.model.layers import LayerGates

__all__ = [
    "ARCHITECTURES",
    "AlbertForMaskedLM",
    "AlbertForPreTraining",
    "AlbertForQuestionAnswering",
    "AlbertForSequenceClassification",
    "AlbertForTokenClassification",
    "AlbertModel",
    "BertConfig",
    "BertForMaskedLM",
    "BertForNextSentencePrediction",
    "BertForPreTraining",
    "BertForQuestionAnswering",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertModel",
    "BottleneckConfig",
    "DistilBertForMaskedLM",
    "DistilBertForQuestionAnswering",
    "DistilBertForSequenceClassification",
    "DistilBertForTokenClassification",
    "DistilBertModel",
    "EarlyExitBert",
    "ExitRule",
    "Exits",
    "Halting",
    "LayerConfig",
    "LayerGates",
    "MobileBertForMaskedLM",
    "MobileBertForNextSentencePrediction",
    "MobileBertForPreTraining",
    "MobileBertForQuestionAnswering",
    "MobileBertForSequenceClassification",
    "MobileBertForTokenClassification",
    "MobileBertModel",
    "ModelOutput",
    "Recurrence",
    "UniversalTransformer",
    "abstract_params",
    "build",
    "init_params",
    "key_mask",
    "mobile_config",
    "universal_config",
]

_HOMES = {"BertModel": "bert", "ModelOutput": "bert", "key_mask": "attention", "LayerGates": "layers"}


def __getattr__(name: str) -> Any:
    """Modules are imported when they are first asked for: a config file needs numbers alone, and no jax."""
    if name not in __all__:
        raise AttributeError(f"module 'bertjax.model' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"bertjax.model.{_HOMES.get(name, 'heads')}"), name)
    return value
