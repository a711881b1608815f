"""BERT, DistilBERT, ALBERT, MobileBERT, RoBERTa and Universal Transformer in Flax Linen.

    config.py       the sizes and options of a model (no jax)
    depth.py        recurrence, halting and early exits, as data (no jax)
    retention.py    how many tokens go on after each layer, as data (no jax)
    presets.py      published architectures as configs (no jax)
    products.py     every matrix product, embedding look-up and dropout, in one place
    attention.py    attention and its masks, plain and by fused kernels
    tokens.py       which tokens go on after a layer
    layers.py       one encoder layer
    embeddings.py   from token ids to the encoder's input
    encoder.py      the stack of depth steps, with shared or separate parameters
    bottleneck.py   layers with an inner width of their own: MobileBERT, IB-BERT
    recurrence.py   one block applied repeatedly with adaptive halting: Universal Transformer
    exits.py        classifiers after inner layers
    bert.py         the model, whole or by segments, and its outputs
    heads.py        task heads of every family
    quantized.py    matrix products with quantised inputs
    sites.py        the names of a model's products
    soundness.py    checks of loaded parameters
    huggingface.py  reads and writes Hugging Face folders, without torch
    hf_config.py    the content of their config.json, and a config, each from the other
    hf_names.py     what a parameter is called there
    sentence.py     sentence embeddings: pooling, and the files of sentence-transformers

A module describes the computation; its parameters are a separate, plain nested dict:

    model = BertForSequenceClassification(BertConfig(labels=("no", "yes")))
    params = model.init(jax.random.key(0), input_ids)["params"]
    logits = model.apply({"params": params}, input_ids, attention_mask, token_type_ids).logits
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bertjax.model.config import BertConfig, BottleneckConfig, LayerConfig
from bertjax.model.depth import ExitRule, Exits, Halting, Recurrence
from bertjax.model.presets import mobile_config, roberta_config, universal_config
from bertjax.model.retention import Retention

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
        RobertaForMaskedLM,
        RobertaForQuestionAnswering,
        RobertaForSequenceClassification,
        RobertaForTokenClassification,
        RobertaModel,
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
    "Retention",
    "RobertaForMaskedLM",
    "RobertaForQuestionAnswering",
    "RobertaForSequenceClassification",
    "RobertaForTokenClassification",
    "RobertaModel",
    "UniversalTransformer",
    "abstract_params",
    "build",
    "init_params",
    "key_mask",
    "mobile_config",
    "roberta_config",
    "universal_config",
]

_HOMES = {"BertModel": "bert", "ModelOutput": "bert", "key_mask": "attention", "LayerGates": "layers"}


def __getattr__(name: str) -> Any:
    """Imports lazily: a config file needs `BertConfig` only, and must not import jax."""
    if name not in __all__:
        raise AttributeError(f"module 'bertjax.model' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"bertjax.model.{_HOMES.get(name, 'heads')}"), name)
    return value
