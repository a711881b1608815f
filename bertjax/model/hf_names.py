"""What a parameter is called in a Hugging Face folder, for each family.

Kernels are the transpose of torch's weights; everything else is only renamed.
"""

import re

import numpy as np

from bertjax.model.config import (
    ROBERTAS,
    BertConfig,
)

# Our path prefix -> Hugging Face's. The last component is mapped separately: kernel to weight (transposed), embedding
# and scale to weight, bias to bias.
BERT_NAMES = (
    (r"^embeddings/(word|position|token_type)/", r"bert.embeddings.\1_embeddings."),
    (r"^embeddings/layer_norm/", "bert.embeddings.LayerNorm."),
    (r"^encoder/layer_(\d+)/attention/(query|key|value)/", r"bert.encoder.layer.\1.attention.self.\2."),
    (r"^encoder/layer_(\d+)/attention/output/", r"bert.encoder.layer.\1.attention.output.dense."),
    (r"^encoder/layer_(\d+)/attention/layer_norm/", r"bert.encoder.layer.\1.attention.output.LayerNorm."),
    (r"^encoder/layer_(\d+)/ffn/(intermediate|output)/", r"bert.encoder.layer.\1.\2.dense."),
    (r"^encoder/layer_(\d+)/ffn/layer_norm/", r"bert.encoder.layer.\1.output.LayerNorm."),
    (r"^pooler/", "bert.pooler.dense."),
    (r"^(classifier|qa_outputs)/", r"\1."),
    (r"^seq_relationship/", "cls.seq_relationship."),
    (r"^transform/", "cls.predictions.transform.dense."),
    (r"^transform_norm/", "cls.predictions.transform.LayerNorm."),
    (r"^decoder_bias$", "cls.predictions.bias"),
)
DISTILBERT_NAMES = (
    (r"^embeddings/(word|position)/", r"distilbert.embeddings.\1_embeddings."),
    (r"^embeddings/layer_norm/", "distilbert.embeddings.LayerNorm."),
    (r"^encoder/layer_(\d+)/attention/(q|k|v)(uery|ey|alue)/", r"distilbert.transformer.layer.\1.attention.\2_lin."),
    (r"^encoder/layer_(\d+)/attention/output/", r"distilbert.transformer.layer.\1.attention.out_lin."),
    (r"^encoder/layer_(\d+)/attention/layer_norm/", r"distilbert.transformer.layer.\1.sa_layer_norm."),
    (r"^encoder/layer_(\d+)/ffn/intermediate/", r"distilbert.transformer.layer.\1.ffn.lin1."),
    (r"^encoder/layer_(\d+)/ffn/output/", r"distilbert.transformer.layer.\1.ffn.lin2."),
    (r"^encoder/layer_(\d+)/ffn/layer_norm/", r"distilbert.transformer.layer.\1.output_layer_norm."),
    (r"^(pre_classifier|classifier|qa_outputs)/", r"\1."),
    (r"^transform/", "vocab_transform."),
    (r"^transform_norm/", "vocab_layer_norm."),
    (r"^decoder_bias$", "vocab_projector.bias"),
)
ALBERT_NAMES = (
    (r"^embeddings/(word|position|token_type)/", r"albert.embeddings.\1_embeddings."),
    (r"^embeddings/layer_norm/", "albert.embeddings.LayerNorm."),
    (r"^embeddings/mapping/", "albert.encoder.embedding_hidden_mapping_in."),
    (r"^encoder/layer_(\d+)/attention/(query|key|value)/", r"albert.encoder.layer.\1.attention.\2."),
    (r"^encoder/layer_(\d+)/attention/output/", r"albert.encoder.layer.\1.attention.dense."),
    (r"^encoder/layer_(\d+)/attention/layer_norm/", r"albert.encoder.layer.\1.attention.LayerNorm."),
    (r"^encoder/layer_(\d+)/ffn/intermediate/", r"albert.encoder.layer.\1.ffn."),
    (r"^encoder/layer_(\d+)/ffn/output/", r"albert.encoder.layer.\1.ffn_output."),
    (r"^encoder/layer_(\d+)/ffn/layer_norm/", r"albert.encoder.layer.\1.full_layer_layer_norm."),
    (r"^pooler/", "albert.pooler."),
    (r"^(classifier|qa_outputs)/", r"\1."),
    (r"^seq_relationship/", "sop_classifier.classifier."),
    (r"^transform/", "predictions.dense."),
    (r"^transform_norm/", "predictions.LayerNorm."),
    (r"^decoder_bias$", "predictions.bias"),
)
BOTTLENECKS = {"input": "bottleneck.input", "shared": "bottleneck.attention", "output": "output.bottleneck"}
MOBILE_NAMES = (
    (r"^embeddings/mapping/", "mobilebert.embeddings.embedding_transformation."),
    (r"^encoder/layer_(\d+)/ffn_(\d+)/(intermediate|output)/", r"mobilebert.encoder.layer.\1.ffn.\2.\3.dense."),
    (r"^encoder/layer_(\d+)/ffn_(\d+)/layer_norm/", r"mobilebert.encoder.layer.\1.ffn.\2.output.LayerNorm."),
    *(
        (rf"^encoder/layer_(\d+)/{ours}_bottleneck/{part}/", rf"mobilebert.encoder.layer.\1.{theirs}.{name}.")
        for ours, theirs in BOTTLENECKS.items()
        for part, name in (("dense", "dense"), ("layer_norm", "LayerNorm"))
    ),
    (r"^decoder_rest$", "cls.predictions.dense.weight"),  # stored as [in, out] there, too
    *((ours, re.sub(r"^bert\.", "mobilebert.", theirs)) for ours, theirs in BERT_NAMES),
)
ROBERTA_NAMES = (
    (r"^transform/", "lm_head.dense."),
    (r"^transform_norm/", "lm_head.layer_norm."),
    (r"^decoder_bias$", "lm_head.bias"),
    *((ours, re.sub(r"^bert\.", "roberta.", theirs)) for ours, theirs in BERT_NAMES),
)
ROBERTA_CLASSIFIER_NAMES = (
    (r"^pooler/", "classifier.dense."),
    (r"^classifier/", "classifier.out_proj."),
    *ROBERTA_NAMES,
)
NAMES = {
    "bert": BERT_NAMES,
    "distilbert": DISTILBERT_NAMES,
    "albert": ALBERT_NAMES,
    "mobilebert": MOBILE_NAMES,
    **dict.fromkeys(ROBERTAS, ROBERTA_NAMES),
}
# Tensors without information of their own: buffers, and copies of tied weights.
REDUNDANT = re.compile(
    r"(position_ids|embeddings\.token_type_ids)$|^((cls\.)?predictions|lm_head)\.decoder\.|^vocab_projector\.weight$"
)


def torch_name(path: str, config: BertConfig) -> str:
    """The Hugging Face tensor name of a parameter path."""
    two_layers = config.model_type in ROBERTAS and config.architecture.endswith("ForSequenceClassification")
    for pattern, replacement in ROBERTA_CLASSIFIER_NAMES if two_layers else NAMES[config.model_type]:
        renamed, hits = re.subn(pattern, replacement, path)
        if hits:
            renamed = re.sub(r"\.(kernel|embedding|scale)$", ".weight", renamed)
            return grouped(renamed, config.inner_group_num) if config.model_type == "albert" else renamed
    # A model that `transformers` cannot express may have parameters that its family does not have.
    return re.sub(r"\.(kernel|embedding|scale)$", ".weight", f"{encoder_prefix(config)}{path.replace('/', '.')}")


def encoder_prefix(config: BertConfig) -> str:
    """What the tensor names of the encoder begin with, unless the folder holds a bare encoder."""
    return "roberta." if config.model_type in ROBERTAS else f"{config.model_type}."


def grouped(name: str, inner: int) -> str:
    """The name with ALBERT's numbers of group and layer within the group, in place of our consecutive number."""

    def numbers(match: re.Match) -> str:
        group, layer = divmod(int(match[1]), inner)
        return f"albert_layer_groups.{group}.albert_layers.{layer}."

    return re.sub(r"layer\.(\d+)\.", numbers, name)


def transposed_kernel(name: str, tensor: np.ndarray) -> np.ndarray:
    """The array in the other convention, in both directions: kernels are transposed."""
    return np.ascontiguousarray(tensor.T) if name.endswith("/kernel") else tensor
