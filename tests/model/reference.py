"""Tiny random models in PyTorch `transformers`, and everything they compute: the reference that ours must equal."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()
torch.set_num_threads(1)

ACTIVATIONS = ("gelu", "gelu_new", "relu")
PADDINGS = ("right", "left", "none")
ROBERTAS = ("Roberta", "XLMRoberta", "Camembert")


def torch_config(architecture: str, seed: int, **fields: Any) -> transformers.PretrainedConfig:
    """A config with odd sizes drawn from `seed`; `fields` (BERT's names) are taken as they are."""
    rng = np.random.default_rng(seed)
    heads = int(rng.integers(1, 6))
    drawn = {
        "vocab_size": int(rng.integers(31, 90)),
        "hidden_size": heads * int(rng.integers(3, 9)),
        "num_hidden_layers": int(rng.integers(1, 4)),
        "num_attention_heads": heads,
        "intermediate_size": int(rng.integers(5, 50)),
        "hidden_act": ACTIVATIONS[seed % 3],
        "max_position_embeddings": int(rng.integers(9, 23)),
        "type_vocab_size": int(rng.integers(1, 4)),
        "layer_norm_eps": float(rng.choice([1e-12, 1e-5, 1e-2])),
        "num_labels": 2
        if architecture.endswith(("QuestionAnswering", "Prediction", "PreTraining"))
        else int(rng.integers(1, 6)),
        "initializer_range": 0.2,
    } | fields
    if "id2label" in drawn:
        drawn.pop("num_labels")
    if architecture.startswith("Albert"):
        drawn |= {"inner_group_num": int(rng.integers(1, 3)), "embedding_size": int(rng.integers(4, 20))} | fields
        drawn.setdefault("num_hidden_groups", int(rng.integers(1, drawn["num_hidden_layers"] + 1)))
        return transformers.AlbertConfig(**drawn)
    if architecture.startswith("MobileBert"):
        width = drawn["num_attention_heads"] * int(rng.integers(2, 6))
        mobile = {"embedding_size": int(rng.integers(2, drawn["hidden_size"])), "intra_bottleneck_size": width}
        mobile |= {"num_feedforward_networks": int(rng.integers(1, 4))}
        return transformers.MobileBertConfig(**(drawn | mobile | fields))
    if roberta := next((name for name in ROBERTAS if architecture.startswith(name)), None):
        padding = int(rng.integers(0, 4))  # 1 in every published model; its number is the offset of the positions
        drawn |= {"pad_token_id": padding, "max_position_embeddings": drawn["max_position_embeddings"] + padding + 1}
        return getattr(transformers, f"{roberta}Config")(**(drawn | fields))
    if not architecture.startswith("DistilBert"):
        return transformers.BertConfig(**drawn)
    theirs = {"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"}
    theirs |= {"intermediate_size": "hidden_dim", "hidden_act": "activation"}
    drawn = {theirs.get(name, name): value for name, value in drawn.items()}
    return transformers.DistilBertConfig(
        **{k: v for k, v in drawn.items() if k not in ("type_vocab_size", "layer_norm_eps")}
    )


def torch_model(architecture: str, seed: int, **fields: Any) -> transformers.PreTrainedModel:
    """A model in which every number is random, biases and LayerNorms too, so that a mix-up of names cannot hide."""
    torch.manual_seed(seed)
    model = getattr(transformers, architecture)(torch_config(architecture, seed, **fields))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.set_attn_implementation("eager")
    return model.eval()


def longest(config: transformers.PretrainedConfig) -> int:
    """The most columns that a model reads."""
    roberta = config.model_type in ("roberta", "xlm-roberta", "camembert")
    return config.max_position_embeddings - (config.pad_token_id + 1 if roberta else 0)


def random_batch(config: transformers.PretrainedConfig, seed: int, padding: str, length: int) -> dict[str, np.ndarray]:
    """Three rows of different lengths, their garbage in the padding included, with token types."""
    rng = np.random.default_rng(seed + 1000)
    used = np.array([length, length - 2, length // 2]) if padding != "none" else np.full(3, length)
    column = np.arange(length)
    real = column >= length - used[:, None] if padding == "left" else column < used[:, None]
    return {
        "input_ids": rng.integers(1, config.vocab_size, (3, length)).astype(np.int32),
        "attention_mask": real.astype(np.int32),
        "token_type_ids": rng.integers(0, getattr(config, "type_vocab_size", 2), (3, length)).astype(np.int32),
    }


def tensors(model: transformers.PreTrainedModel, batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The batch as this model takes it: DistilBERT has no token types."""
    taken = {name: torch.tensor(array, dtype=torch.long) for name, array in batch.items()}
    if model.config.model_type == "distilbert":
        taken.pop("token_type_ids", None)
    return taken


def torch_logits(model: transformers.PreTrainedModel, batch: dict[str, np.ndarray]) -> torch.Tensor | None:
    """Logits of whichever head; start and end of an answer stacked."""
    out = model(**tensors(model, batch))
    if "prediction_logits" in out:
        return out.prediction_logits
    return torch.stack([out.start_logits, out.end_logits], -1) if "start_logits" in out else out.get("logits")


def everything(model: transformers.PreTrainedModel, batch: dict[str, np.ndarray]) -> dict[str, Any]:
    """All that the reference computes. Scores are made from the outputs of the query and key layers, by hooks."""
    seen: list[tuple[str, torch.Tensor]] = []  # in the order of the calls: a shared layer is called more than once
    wanted = (".query", ".key", "q_lin", "k_lin", "pooler", "pre_classifier", "classifier.dense")
    hooks = [
        module.register_forward_hook(lambda _module, _args, out, name=name: seen.append((name, out)))
        for name, module in model.named_modules()
        if name.endswith(wanted)
    ]
    with torch.no_grad():
        out = model(**tensors(model, batch), output_hidden_states=True, output_attentions=True)
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        logits = torch_logits(model, batch)
    heads = model.config.num_attention_heads
    queries = [split(x, heads) for name, x in seen if name.endswith(("query", "q_lin"))]
    keys = [split(x, heads) for name, x in seen if name.endswith(("key", "k_lin"))]
    pooled = [x for name, x in seen if name.endswith("pooler")]
    pooled = [torch.tanh(x) if model.config.model_type == "albert" else x for x in pooled]
    pooled += [torch.relu(x) for name, x in seen if name == "pre_classifier"]
    pooled += [torch.tanh(x) for name, x in seen if name == "classifier.dense"]
    sentence = out.get("seq_relationship_logits", out.get("sop_logits"))
    return {
        "hidden_states": [x.numpy() for x in out.hidden_states],
        "scores": [(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).numpy() for q, k in zip(queries, keys, strict=True)],
        "probabilities": [x.numpy() for x in out.attentions],
        "pooled": pooled[0].numpy() if pooled else None,
        "sentence_logits": None if sentence is None else sentence.numpy(),
        "logits": None if logits is None else logits.numpy(),
    }


def split(x: torch.Tensor, heads: int) -> torch.Tensor:
    """[b, l, d] -> [b, heads, l, d / heads]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def written(model: transformers.PreTrainedModel, folder: Path) -> Path:
    """The folder with the model in it, as `transformers` writes it."""
    model.save_pretrained(folder)
    return folder
