"""The artefact that every stage reads and writes: a model with its tokenizer, as a Hugging Face folder.

    bundle = bertjax.load("runs/teacher/bundle")     # or "hf:bert-base-uncased", or "demo"
    bundle.predict(["a quiet masterpiece"]).labels
    bertjax.save(bundle, "my-model")

A folder is written beside its destination and then renamed, so a reader never sees an incomplete one;
bertjax.storage.paths describes the counterpart in a bucket. Parameters are NumPy arrays: they are tied to no device,
and no training step can donate their memory.
"""

import dataclasses
import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bertjax.errors import UserError
from bertjax.metrics.neighbours import unit_rows
from bertjax.model import ARCHITECTURES, BertConfig, BertModel, abstract_params, build, init_params
from bertjax.model.attention import require_backend
from bertjax.model.config import COMPUTE_FIELDS, PREFIXES
from bertjax.model.hf_config import config_from_json, config_text
from bertjax.model.huggingface import fits_tinybert, parameters_from_tensors, read_config, read_tensors, write_model
from bertjax.model.sentence import SentenceEmbedding
from bertjax.model.sites import check_sites
from bertjax.model.soundness import require_numbers, require_use, shortened
from bertjax.params import Tree, flatten, map_with_path, tree_differences, unflatten
from bertjax.predict import Predictions, check_inputs, embed, predict
from bertjax.quantized.calibration import FILE as CALIBRATION_FILE
from bertjax.quantized.calibration import Calibration, read_calibration, write_calibration
from bertjax.quantized.tensor import Quantized
from bertjax.storage import manifest
from bertjax.storage.atomic import recover
from bertjax.storage.cache import cache_dir
from bertjax.storage.paths import as_path, atomic_folder, is_remote, local
from bertjax.text.tokenizer import Tokenizer, has_tokenizer

HEADS = (
    "pooler",
    "classifier",
    "pre_classifier",
    "qa_outputs",
    "seq_relationship",
    "transform",
    "decoder_bias",
    "decoder_rest",
    "projection",
    "exits",
)
SETTINGS = (
    *COMPUTE_FIELDS,
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "classifier_activation",
    "problem_type",
)
HUB_FILES = [*manifest.MODEL_FILES, manifest.FILE, CALIBRATION_FILE]
HEAD_OF_KIND = {
    "classification": "ForSequenceClassification",
    "regression": "ForSequenceClassification",
    "multi_label": "ForSequenceClassification",
    "tokens": "ForTokenClassification",
    "qa": "ForQuestionAnswering",
    "embedding": "ForSentenceEmbedding",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Bundle:
    """A model: its `config`, its `params` (a nested dict of NumPy arrays), and its `tokenizer` if it has one."""

    config: BertConfig
    params: Tree
    tokenizer: Tokenizer | None = None
    newly_initialized: tuple[str, ...] = ()
    """Parameters that were not in the folder and were drawn at random: an untrained head."""
    ignored: tuple[str, ...] = ()
    """Tensors of the folder that this architecture has no parameter for, such as heads of other tasks."""
    calibration: Calibration | None = None
    """For a model with quantised activations: examples of the text that their ranges were calibrated on."""

    def __post_init__(self) -> None:
        config_text(self.config)  # refuse a config that cannot be saved before the model is trained

    @cached_property
    def model(self) -> BertModel:
        """The Flax module: `bundle.model.apply({"params": bundle.params}, input_ids, attention_mask)`."""
        return build(self.config)

    @cached_property
    def device_params(self) -> Tree:
        """The parameters on the default device, for repeated calls. With dtype bfloat16 the weight matrices of the
        layers are rounded here, once, and not at every call."""
        if self.config.dtype == "float32":
            return jax.device_put(self.params)
        return jax.device_put(map_with_path(rounded, self.params))

    def predict(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        batch_size: int = 32,
        max_length: int | None = None,
    ) -> Predictions:
        """Labels and probabilities for texts (or pairs of texts), in their order.

        Texts of similar length share a batch. Texts longer than `max_length` (default: the positions of the model) are
        truncated, and counted in `truncated`.
        """
        given, limit = self.prompted(texts), self.limit(max_length)
        return predict(self.model, self.device_params, self.ready_tokenizer, given, pairs, batch_size, limit)

    def encode(
        self,
        texts: Sequence[str],
        *,
        prompt: str | None = None,
        dimensions: int | None = None,
        batch_size: int = 32,
        max_length: int | None = None,
    ) -> Float[np.ndarray, "texts width"]:
        """The embeddings of texts, in their order, by a model with a head for it.

        `prompt` is the name of one of the model's prompts, the text of which goes before every text; None: its default
        prompt, if it has one. `dimensions` keeps that many of the first numbers, again of length 1 if the model
        normalises, as a model trained for it allows (Matryoshka, Kusupati et al. 2022). Longer texts than `max_length`
        (default: the model's limit) are truncated.

        Raises:
          UserError: Another kind of head, no tokenizer, an unknown prompt, or more dimensions than there are.
        """
        embedding = self.config.embedding
        if embedding is None:
            raise UserError(
                f"a {self.config.architecture} embeds no texts; load it with "
                f'architecture="{architecture_for("embedding", self.config.model_type)}".'
            )
        width = self.config.output_size
        if dimensions is not None and not 1 <= dimensions <= width:
            raise UserError(f"dimensions is {dimensions}; the embedding has {width}: give 1 to {width}.")
        check_inputs("embedding", texts, None, batch_size)
        given, limit = self.prompted(texts, prompt), self.limit(max_length)
        vectors = embed(self.model, self.device_params, self.ready_tokenizer, given, batch_size, limit)
        if dimensions is None:
            return vectors
        return unit_rows(vectors[:, :dimensions]) if embedding.normalise else vectors[:, :dimensions]

    def prompted(self, texts: Sequence[str], prompt: str | None = None) -> Sequence[str]:
        """The texts with a prompt of the model before each, by default its default prompt, if it has one."""
        embedding = self.config.embedding
        before = embedding.prompt(prompt or embedding.default_prompt) if embedding else ""
        return [before + text for text in texts] if before and not isinstance(texts, str) else texts

    def limit(self, max_length: int | None) -> int:
        """The most tokens of a text."""
        own = self.config.embedding.max_length if self.config.embedding else 0
        return min(max_length or own or self.config.max_tokens, self.config.max_tokens)

    @property
    def ready_tokenizer(self) -> Tokenizer:
        """The tokenizer of a model that can answer."""
        if self.tokenizer is None:
            raise UserError("this bundle has no tokenizer: load a folder with tokenizer.json or vocab.txt.")
        if self.newly_initialized:
            raise UserError(
                f"the head was never trained ({', '.join(self.newly_initialized[:3])}): fine-tune the model first."
            )
        return self.tokenizer


def rounded(path: str, leaf: Any) -> Any:
    """A parameter as the layers' matrix products read it in bfloat16."""
    matrix = path.startswith("encoder/layer_") and path.endswith("/kernel")
    return leaf.astype(jnp.bfloat16) if matrix and not isinstance(leaf, Quantized) else leaf


def load(
    path_or_name: str | os.PathLike[str],
    *,
    architecture: str | None = None,
    labels: Sequence[str] | None = None,
    seed: int = 0,
    **settings: Any,
) -> Bundle:
    """Opens a model folder (also `gs://...`), a hub name (`hf:NAME`) or the `demo` model.

    The head follows the folder's `architectures`. With another `architecture`, or another number of `labels` than the
    folder's head has, the parameters of the head are drawn from `seed` and listed in `newly_initialized`. `settings`
    are fields of `BertConfig` that change no parameter: `dtype`, `attention`, `remat`, `arithmetic`, dropout rates,
    `problem_type`, `classifier_activation`. A classifier of TinyBERT's authors is recognised by its projection, and
    gets its ReLU.

    Raises:
      UserError: No such folder, no supported model in it, a file that differs from its digest, damaged or missing
        weights, weights that are not finite, encoder tensors that the config has no layer for, an unknown architecture.
    """
    if unknown := sorted(settings.keys() - set(SETTINGS)):
        raise UserError(f"{unknown[0]} cannot be set when a model is loaded; these can: {', '.join(SETTINGS)}.")
    folder = resolve(path_or_name)
    manifest.check(folder)
    content, where = read_config(folder), str(folder / "config.json")
    stored = config_from_json(content, where)
    config = config_from_json(content, where, architecture)
    config = config.replace(**settings, labels=tuple(labels or config.labels))
    require_backend(config.attention)
    tensors = read_tensors(folder)
    same_head = config.architecture == stored.architecture and len(config.labels) == len(stored.labels)
    if not same_head and content.get("architectures"):  # Heads of several tasks use this name, with different meanings.
        # RoBERTa's hidden layer (`classifier.dense`) does not depend on the labels, and only its own heads have one.
        theirs = re.compile(r"^classifier\.(?!dense\.)|\.exits\.")
        tensors = {name: tensor for name, tensor in tensors.items() if not theirs.search(name)}
    if fits_tinybert(tensors) and config.architecture == "BertForSequenceClassification":
        config = config.replace(**{"classifier_activation": "relu", "classifier_dropout": 0.0, **settings})
    template = abstract_params(config)
    check_sites(config, template)
    params, missing, ignored = parameters_from_tensors(tensors, template, config)
    absent = [path for path in missing if same_head or not path.startswith(HEADS)]
    if absent:
        raise UserError(
            f"{folder} lacks {len(absent)} parameters of a {config.architecture}: {shortened(absent)}.\n"
            f"Unused tensors: {shortened(ignored) or 'none'}."
        )
    if missing:
        known = flatten(params) | flatten(init_params(config, seed, only=missing))
        params = unflatten({path: known[path] for path in flatten(template)})
    chex.assert_trees_all_equal_shapes_and_dtypes(params, template)
    require_use(ignored, config, str(folder))
    require_numbers(params, config, str(folder))
    sizes = config.vocab_size, config.type_vocab_size, config.max_tokens
    calibration = read_calibration(folder, *sizes)
    return Bundle(config, params, matching_tokenizer(folder, config), tuple(missing), tuple(ignored), calibration)


def matching_tokenizer(folder: Path, config: BertConfig) -> Tokenizer | None:
    """The folder's tokenizer, if it has one; it must not have more tokens than the model."""
    tokenizer = Tokenizer.from_folder(folder) if has_tokenizer(folder) else None
    if tokenizer and tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{folder} has a tokenizer with {tokenizer.vocab_size} tokens, but a model with {config.vocab_size} "
            "embeddings: they do not belong together. Use the tokenizer that the model was trained with."
        )
    return tokenizer


def stored_config(path_or_name: str | os.PathLike[str]) -> BertConfig:
    """The config of a folder, hub name or `demo`, without reading the weights."""
    folder = resolve(path_or_name)
    manifest.check(folder, ["config.json"])
    return config_from_json(read_config(folder), str(folder / "config.json"))


def save(bundle: Bundle, path: str | os.PathLike[str], without_zeros: bool = False) -> None:
    """Writes a bundle as a Hugging Face folder: `config.json`, `model.safetensors`, tokenizer files, and `digests.json`
    with the digests of all of them.

    An existing model folder is replaced as a whole, once the new one is complete.

    Args:
      without_zeros: Leave the zeros of pruned matrices out of the file, see bertjax/storage/zeros.py. Plain
        `transformers` cannot read it then, and refuses it. A model that it cannot express anyway, such as a quantised
        one, is always stored so.

    Raises:
      UserError: The parameters do not fit the config (the differences are listed) or are not finite, the folder cannot
        be written, or there is something else than a model at `path`.
    """
    differences = tree_differences(bundle.params, abstract_params(bundle.config))
    if differences:
        raise UserError("the parameters do not fit the config:\n" + "\n".join(differences[:4]))
    require_numbers(bundle.params, bundle.config, "this model")
    target = as_path(path) if is_remote(path) else Path(path).resolve()
    if target.exists() and not (target / "config.json").is_file() and not is_empty_folder(target):
        raise UserError(f"{target} exists and is not a model folder, so it is not replaced; choose another name.")
    with atomic_folder(target) as folder:
        write_model(folder, bundle.config, bundle.params, without_zeros)
        if bundle.tokenizer is not None:
            bundle.tokenizer.save(folder)
        if bundle.calibration is not None:
            write_calibration(folder, bundle.calibration)
        manifest.write(folder)


def is_empty_folder(path: Any) -> bool:
    return path.is_dir() and not any(path.iterdir())


def resolve(path_or_name: str | os.PathLike[str]) -> Path:
    """The local folder of a model: the path itself, the demo's (`demo`, or `demo-embedder`), a hub snapshot (downloaded
    once, no pickles), or a copy of a folder in a bucket."""
    name = os.fspath(path_or_name)
    if name == "demo":
        from bertjax.text.demo import demo_model_folder

        return demo_model_folder()
    if name == "demo-embedder":
        return demo_embedder_folder()
    if name.startswith("hf:"):
        return hub_folder(name.removeprefix("hf:"))
    if not is_remote(name):
        recover(Path(name).resolve())
    if not as_path(name).is_dir():
        raise UserError(f"no model folder at {name}; give a folder, hf:NAME for a model of the hub, or demo.")
    if is_remote(name) and not (as_path(name) / "config.json").is_file():
        raise UserError(f"{name} has no config.json: it is not a model, or is still being written.")
    return local(name)


def demo_embedder_folder() -> Path:
    """The demo as the sentence embedding that its weights were trained for (all-MiniLM-L6-v2), written once."""
    folder = cache_dir() / "demo" / "embedder"
    if not (folder / "config.json").is_file():
        bundle = load("demo", architecture=architecture_for("embedding", "bert"))
        config = bundle.config.replace(embedding=SentenceEmbedding(max_length=256))
        save(dataclasses.replace(bundle, config=config), folder)
    return folder


def hub_folder(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except Exception as error:  # The hub client raises a dozen types, from no network to a misspelt name.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(
            f"cannot download hf:{name} from the hub: {reason}\nCheck the name and the network, or give a folder."
        ) from error


def architecture_for(kind: str, model_type: str) -> str:
    """The class with a head for this kind of task, in any model family."""
    return PREFIXES[model_type] + HEAD_OF_KIND[kind]


__all__ = ["ARCHITECTURES", "Bundle", "architecture_for", "load", "resolve", "save", "stored_config"]
