"""The student's shape, and its initialisation from a larger model.

A student of the teacher's width is initialised with the teacher's embeddings, some of its layers, the most important of
their neurons, and its head. That is far better than random initialisation. A narrower student cannot copy layers, so it
starts from random ones. Instead of the teacher, another model can initialise it: the model before fine-tuning, or a
student from an earlier distillation. Layers of the student can then share parameters, and its word embedding table can
be factorised.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bertjax.distill.pairing import pair_layers
from bertjax.errors import UserError
from bertjax.params import flatten, put_step, step_params, unflatten

FIT_ROWS = 1024
"""Examples that the least-squares fit reads, evenly spaced over the sample."""


@dataclass(frozen=True)
class Student:
    """A smaller model of the teacher's kind. Fields left None are as in the teacher."""

    num_hidden_layers: int = 2
    intermediate_size: int | None = None
    hidden_size: int | None = None
    bottleneck_size: int | None = None
    """With family=mobilebert: the width inside its layers, 128 by default."""
    num_attention_heads: int | None = None
    pairing: str | tuple[int, ...] = "uniform"
    """Teacher layers that the student is initialised with: uniform, last, first, or a list of layers."""
    init_from: str = "teacher"
    """teacher: initialise with the teacher's layers. random: initialise at random. A folder, hf:NAME or demo:
    initialise with the layers of that model, whose shape is also the default."""
    as_is: bool = False
    """With a model in init_from: use it unchanged, shape and all. For a pruned model."""
    family: Literal["distilbert", "mobilebert"] | None = None
    """distilbert: without token types, whose first embedding is added to the positions; `transformers` then opens it as
    DistilBERT. Not for sequence classification, whose heads differ. mobilebert: bottleneck layers as in MobileBERT,
    initialised at random, between hidden states of the teacher's width; embeddings and head are copied from the teacher
    where they have the same shape, which is everywhere if the teacher is an IB-BERT."""
    groups: int | None = None
    """Number of groups of successive layers that share parameters (`bertjax.share`): less memory, the same
    arithmetic."""
    shared: Literal["all", "attention", "ffn"] = "all"
    """With groups: what the layers of a group share."""
    norms: Literal["shared", "separate"] = "shared"
    """With groups: whether each layer keeps its own LayerNorms."""
    merge: Literal["mean", "first", "fit"] = "mean"
    """With groups: the initial layer of a group: the mean of its layers, the first of them, or a least-squares fit to
    their outputs."""
    recurrence: Any = None
    """With groups=1, in a config file: a `bertjax.model.Recurrence`, whose block is the one shared layer."""
    embedding_size: int | None = None
    """Width of the word embedding table, factorised from the teacher's by a truncated SVD."""

    def __post_init__(self) -> None:
        if self.num_hidden_layers < 1:
            raise UserError(f"num_hidden_layers is {self.num_hidden_layers}; a student needs at least 1 layer.")
        if not self.init_from:
            raise UserError("init_from is empty; expected teacher, random, or a model (a folder, hf:NAME or demo).")

    def config(self, teacher: Any) -> Any:
        """The student's `BertConfig`, from the teacher's."""
        from bertjax.model.config import PREFIXES
        from bertjax.model.presets import mobile_config

        sizes = ("num_hidden_layers", "intermediate_size", "hidden_size", "num_attention_heads")
        changes = {name: getattr(self, name) for name in sizes if getattr(self, name) is not None}
        changes["num_hidden_groups"] = min(teacher.num_hidden_groups, self.num_hidden_layers)
        head = teacher.architecture.removeprefix(PREFIXES[teacher.model_type])
        if self.family == "mobilebert":
            fields = {} if self.bottleneck_size is None else {"intra_bottleneck_size": self.bottleneck_size}
            names = ["model_type", "architecture", "hidden_act", "hidden_dropout_prob", "bottleneck"]
            if teacher.bottleneck:
                fields |= {name: getattr(teacher.bottleneck, name) for name in ("trigram_input", "main_norm_eps")}
            else:
                names.append("embedding_size")
            mobile = mobile_config("base", architecture=PREFIXES["mobilebert"] + head, **fields)
            changes = {name: getattr(mobile, name) for name in names} | changes
        elif self.family and self.family != teacher.model_type:
            if teacher.model_type != "bert" or head not in ("Model", "ForMaskedLM"):
                raise UserError(
                    f"family=distilbert needs a teacher of class BertModel or BertForMaskedLM, and this one is a "
                    f"{teacher.architecture}, for which DistilBERT has no class with the same computation; leave "
                    "family out."
                )
            changes |= {"model_type": self.family, "architecture": PREFIXES[self.family] + head, "type_vocab_size": 0}
        return teacher.replace(**changes, layers=(), exits=None, retention=None)

    def initialise(self, teacher: Any, seed: int, sample: Any = None) -> Any:
        """The student as a `Bundle` with the teacher's tokenizer.

        `sample` is encoded text, which merge=fit needs. Early exits are kept only with as_is, and then without their
        threshold; token dropping too is kept only with as_is.
        """
        from bertjax.adaptive import forget_threshold, remove_exits

        source = self.source(teacher, seed)
        if self.as_is:
            return dataclasses.replace(source, config=forget_threshold(source.config))
        config, params = remove_exits(source.config, source.params)
        config = config.replace(retention=None)
        student = self.cut(dataclasses.replace(source, config=config, params=params), seed)
        if self.groups is not None:
            student = self.tied(student, sample)
        if self.recurrence is not None:
            from bertjax.share import recur

            config, params = recur(student.config, student.params, self.recurrence, seed)
            student = dataclasses.replace(student, config=config, params=params)
        if self.embedding_size is not None:
            from bertjax.share import factorise_words

            config, params = factorise_words(student.config, student.params, self.embedding_size)
            student = dataclasses.replace(student, config=config, params=params)
        return student

    def source(self, teacher: Any, seed: int) -> Any:
        """The model that initialises the student, with a head like the teacher's."""
        if self.init_from in ("teacher", "random"):
            return teacher
        from bertjax.bundle import load, stored_config
        from bertjax.model.config import PREFIXES

        config = teacher.config
        head = config.architecture.removeprefix(PREFIXES[config.model_type])
        architecture = PREFIXES[stored_config(self.init_from).model_type] + head
        names = ["dtype", "remat", "attention", "problem_type", "classifier_activation"]
        if config.attention != "xla":
            names.append("attention_probs_dropout_prob")  # 0, because these kernels have no attention dropout
        same = {name: getattr(config, name) for name in names}
        source = load(self.init_from, architecture=architecture, labels=config.labels, seed=seed, **same)
        ours, theirs = (getattr(bundle.tokenizer, "fingerprint", None) for bundle in (source, teacher))
        if ours != theirs:
            raise UserError(
                f"init_from={self.init_from}: its tokenizer is not the teacher's, so its embeddings belong to other "
                "tokens; initialise from a model with the teacher's tokenizer, or use init_from=random."
            )
        return source

    def tied(self, student: Any, sample: Any) -> Any:
        """The student with its layers tied in groups."""
        from bertjax.share import LeastSquares, first, mean, tie
        from bertjax.share.tying import equal_groups

        config, params = student.config, student.params
        rule = {"mean": mean, "first": first}.get(self.merge)
        if rule is None:
            if sample is None:
                raise UserError("merge=fit needs sample text: pass `sample` to initialise, or use merge=mean.")
            rule = LeastSquares.on_text(config, params, sample_batches(sample))
        groups = equal_groups(config.depth, self.groups or 1)
        config, params = tie(config, params, groups, parts=self.shared, norms=self.norms, merge=rule)
        return dataclasses.replace(student, config=config, params=params)

    def cut(self, teacher: Any, seed: int) -> Any:
        """The student before layers are tied or embeddings factorised."""
        import jax
        import jax.numpy as jnp

        from bertjax.bundle import Bundle
        from bertjax.model import build

        config = self.config(teacher.config)
        model = build(config)
        draw = jax.jit(lambda key: model.init(key, jnp.zeros((1, 8), jnp.int32))["params"])
        params = jax.tree.map(np.asarray, draw(jax.random.key(seed)))
        student = Bundle(config, params, teacher.tokenizer)
        if self.init_from == "random" or config.hidden_size != teacher.config.hidden_size:
            return student
        if teacher.config.quantization is not None and teacher.config.quantization.weights:
            raise UserError(
                "the model that initialises the student is quantised, and integer weights cannot be trained; use the "
                "model before quantisation, or init_from=random."
            )
        if self.family == "mobilebert":
            return dataclasses.replace(student, params=around_the_layers(student, teacher))
        return dataclasses.replace(student, params=inherit(student, teacher, self.pairing))


def sample_batches(sample: Any) -> Iterator[Any]:
    """Batches of examples that are evenly spaced over the encoded text."""
    from bertjax.text.batches import gather

    rows = np.linspace(0, len(sample) - 1, FIT_ROWS).astype(np.int64).reshape(-1, 32)
    return (gather(sample, r, int(sample.lengths.max())) for r in rows)


def inherit(student: Any, teacher: Any, pairing: str | tuple[int, ...]) -> dict[str, Any]:
    """The student's parameters, initialised with the teacher's: everything outside the layers, and the paired
    layers."""
    ours, theirs = student.config.depth_steps(), teacher.config.depth_steps()
    if any(len({step.shape for step in steps}) > 1 for steps in (ours, theirs)):
        raise UserError(
            "layers can be copied to a student only if all of them have the same numbers of heads and neurons; here "
            "they differ, as in a pruned model. Use init_from with as_is=True to train such a model unchanged, or "
            "init_from=random."
        )
    params = dict(teacher.params)
    heads = student.config.num_attention_heads
    if heads != teacher.config.num_attention_heads:
        raise UserError(
            f"the student has {heads} attention heads per layer, the teacher {teacher.config.num_attention_heads}, so "
            "the teacher's layers cannot be copied. Use the same num_attention_heads, or init_from=random."
        )
    stack: dict[str, dict[str, Any]] = {}
    for step, paired in zip(ours, pair_layers(pairing, len(ours), len(theirs)), strict=True):
        source = step_params(teacher.params, theirs[paired])
        for part in source:
            if part.startswith("ffn"):
                source[part] = narrow_ffn(source[part], student.config.intermediate_size)
        put_step(stack, step, source)
    params["encoder"] = stack
    if student.config.model_type != teacher.config.model_type:
        embeddings = dict(params["embeddings"])
        first = embeddings.pop("token_type")["embedding"][:1]
        embeddings["position"] = {"embedding": embeddings["position"]["embedding"] + first}
        params["embeddings"] = embeddings
        params.pop("pooler", None)
    return params


def around_the_layers(student: Any, teacher: Any) -> dict[str, Any]:
    """The student's parameters, with everything outside its layers taken from the teacher where the shapes match, as in
    MobileBERT's published code. A NoNorm layer keeps its own parameters: a LayerNorm's scale and bias mean something
    else."""
    ours, theirs = flatten(student.params), flatten(teacher.params)
    same_norm = student.config.normalization_type == teacher.config.normalization_type

    def initial(path: str, own: Any) -> Any:
        excluded = path.startswith("encoder/") or (path.startswith("embeddings/layer_norm/") and not same_norm)
        candidate = None if excluded else theirs.get(path)
        return own if candidate is None or candidate.shape != own.shape else candidate

    return unflatten({path: initial(path, own) for path, own in ours.items()})


def narrow_ffn(ffn: dict[str, Any], neurons: int) -> dict[str, Any]:
    """A feed-forward layer with its most important neurons: those with the largest product of input and output weight
    norms."""
    from bertjax.prune.scores import strength

    inner, outer = ffn["intermediate"]["kernel"], ffn["output"]["kernel"]
    if neurons > inner.shape[1]:
        raise UserError(
            f"intermediate_size is {neurons}, and the teacher's layers have {inner.shape[1]} neurons; a student that "
            "copies layers has at most as many. Lower intermediate_size, or use init_from=random."
        )
    kept = np.sort(np.argsort(-strength(inner, outer), kind="stable")[:neurons])
    return {
        **ffn,
        "intermediate": {"kernel": inner[:, kept], "bias": ffn["intermediate"]["bias"][kept]},
        "output": {**ffn["output"], "kernel": outer[kept]},
    }
