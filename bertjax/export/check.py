"""Whether an exported file computes the same as its bundle in JAX; if not, why.

Three causes look alike from outside. The file differs from the bundle: a defect in bertjax, in some layer. Or the file
is right and the runtime multiplies integers wrongly on this processor. Or both are right, and the inputs lie so far
outside of the quantisation ranges that any other order of summation changes the outputs.

To tell them apart, the integer products are tested on their own (measure/integer_products.py). The whole model is run
on the calibration texts stored with a quantised bundle (`Bundle.calibration`), or on random tokens if there are none.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.adaptive.policies import first_exit, policy_of
from bertjax.bundle import Bundle, load
from bertjax.errors import UserError
from bertjax.export.litert import answer_each
from bertjax.export.stablehlo import last_states
from bertjax.machine.processor import integer_products, processor_features, processor_name, thread_count
from bertjax.measure.integer_products import inexact_products
from bertjax.measure.onnx import Answer, answer, existing_file, new_session, open_session
from bertjax.measure.worker import padded
from bertjax.model import build
from bertjax.model.tokens import CONTROLS, kept_of, significance
from bertjax.predict import forward

Target = Literal["onnx", "stablehlo", "huggingface", "litert"]
FILES = {"stablehlo": "model.stablehlo", "huggingface": "model.safetensors", "litert": "model.tflite"}
"""The file of an export in its folder. The name of an ONNX file tells whether it holds integers, see
`bertjax.measure.onnx`."""
Inputs = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Ids, mask and types [batch, length]."""
SHAPES = ((1, 7), (8, 33), (8, 64))
CLOSE, ROUNDED = 1e-4, 0.05
"""Largest allowed difference from JAX, as a share of the size of the outputs. CLOSE covers another order of summation.
ROUNDED is for models with quantised activations, where a value half-way between two integers may be rounded to the
other one."""
FURTHER = {"pooler_output": "pooled", "sentence_logits": "sentence_logits"}
"""Outputs that an ONNX file may have beside its main ones, and the fields of `ModelOutput` that hold them."""
OUTSIDE = 0.01
"""The share of a product's inputs outside of its quantisation range above which the texts count as unlike the
calibration data."""
TIE = 1e-5
"""Difference of two numbers of about 1 below which the order of summation decides which is larger."""
JUMP = 0.1
"""Difference of a layer's output from JAX, as a share of its size, above which the layer is named as the cause. Values
rounded to the other integer add up to a few hundredths after six layers."""


def check_export(bundle: Bundle, to: Target, folder: Path) -> float:
    """How far the outputs of the file in `folder` are from JAX, see `farthest`.

    Raises:
      UserError: Too far, with the cause.
    """
    rounds = rounds_inputs(bundle)
    if to == "onnx" and rounds and (wrong := inexact_products(folder)):
        raise UserError(wrong_runtime(wrong))
    batches = list(check_batches(bundle))
    distance = max(farthest(bundle, run, batches, field) for field, run in open_outputs(to, folder).items())
    limit = ROUNDED if rounds else CLOSE
    if not distance <= limit:
        raise UserError(
            f"the outputs of the export differ from JAX by {distance:.2g} times their size (limit: {limit}); nothing "
            "was written.\n" + cause(bundle, to, folder, batches)
        )
    return distance


def rounds_inputs(bundle: Bundle) -> bool:
    """Whether the model has quantised activations."""
    return bundle.config.quantization is not None and bool(bundle.config.quantization.activations)


def farthest(bundle: Bundle, run: Callable[..., Answer], batches: list[Inputs], field: str = "") -> float:
    """The largest difference from JAX over all texts, as a share of the outputs' size. With quantised activations, that
    of the median text: one value rounded to the other integer changes everything after it in its text, whereas an error
    in the file affects all texts. A text that exits or halts where it does not in JAX differs by infinity. `field` is
    that of `expected_output`."""
    differences: list[float] = []
    for inputs in batches:
        output, depths = run(*inputs)
        wrong = np.zeros(len(output), bool)
        if depths is not None and bundle.config.exits:
            expected, wrong = expected_exits(bundle, inputs, depths)
        else:
            expected = expected_output(bundle, inputs, field)
        if depths is not None and bundle.config.recurrence:
            wrong = depths != halting_steps(bundle, inputs).max(axis=1)
        real = inputs[1][..., None] if expected.ndim == 3 else np.ones_like(expected)
        size = np.sqrt(np.mean(np.square(expected)))
        difference = np.abs(output - expected) * real / size
        difference = np.where(wrong, np.inf, difference.reshape(len(difference), -1).max(axis=1))
        differences += (difference if rounds_inputs(bundle) else difference[~near_ties(bundle, inputs)]).tolist()
    return float(np.median(differences)) if rounds_inputs(bundle) else max(differences, default=np.nan)


def near_ties(bundle: Bundle, inputs: Inputs) -> np.ndarray:
    """The texts whose computation turns on a comparison that is equal within rounding [texts]: the order of summation
    decides which token goes on, or after which step a token halts."""
    config = bundle.config
    if config.recurrence and config.recurrence.halting:
        return halting_ties(bundle, inputs)
    if config.retention and config.retention.ranked_by not in CONTROLS:
        return ranking_ties(bundle, inputs)
    return np.zeros(len(inputs[0]), bool)


def halting_ties(bundle: Bundle, inputs: Inputs) -> np.ndarray:
    """The texts of which a token halts after another step where the threshold differs by rounding."""
    return (halting_steps(bundle, inputs, -TIE) != halting_steps(bundle, inputs, TIE)).any(axis=1)


def ranking_ties(bundle: Bundle, inputs: Inputs) -> np.ndarray:
    """The texts of which a token goes on that is as significant, within rounding, as one that does not, or as the
    threshold [texts]: whether it goes on depends on the order of summation."""
    retention, near = bundle.config.retention, np.zeros(len(inputs[0]), bool)
    assert retention is not None
    output: Any = bundle.model.apply({"params": bundle.params}, *inputs)
    for step in retention.steps:
        tokens, lowest = output.tokens[step], jnp.finfo(jnp.float32).min
        scores = jnp.where(tokens.real[:, None, None], output.attention_scores[step], lowest)
        found = significance(jax.nn.softmax(scores, axis=-1), tokens.real, retention.ranked_by)
        others = np.sort(np.where(tokens.real, -found, np.inf)[:, 1:], axis=1)
        ranked = np.pad(others, ((0, 0), (1, 1)), constant_values=((0, 0), (-np.inf, np.inf)))  # behind [CLS]
        last = np.maximum(kept_of(retention, step, tokens), 1)[:, None] - 1
        pair = np.take_along_axis(ranked, np.concatenate([last, last + 1], axis=1), axis=1)
        near |= pair[:, 1] < pair[:, 0] + TIE
        if threshold := retention.threshold(step):
            asked = threshold * np.sum(tokens.real, axis=1)[:, None]
            near |= np.any(np.abs(ranked[:, 1:-1] + asked) < TIE, axis=1)
    return near


# --- inputs ----------------------------------------------------------------------------------------------------------


def check_batches(bundle: Bundle) -> Iterator[Inputs]:
    """Batches of several shapes with padding: the bundle's calibration texts, or random tokens."""
    config = bundle.config
    if bundle.calibration is None:
        for number, (rows, length) in enumerate(SHAPES):
            yield random_tokens(config, rows, min(length, config.max_tokens), number)
        return
    rows = list(zip(*bundle.calibration, strict=True))
    for part in (rows[:1], *(rows[start : start + 8] for start in range(1, len(rows), 8))):
        ids, types = zip(*part, strict=True)
        length = min(max(map(len, ids)) + 3, config.max_tokens)
        yield padded(ids, types, length, config.pad_token_id, np.int32)


def random_tokens(config: Any, rows: int, length: int, seed: int) -> Inputs:
    """Ids, mask and types; all rows but the first end with padding."""
    rng = np.random.default_rng(seed)
    ids, mask = rng.integers(0, config.vocab_size, (rows, length)), np.ones((rows, length))
    for row in range(1, rows):
        mask[row, length - row * length // (rows + 1) :] = 0
    types = rng.integers(0, max(config.type_vocab_size, 1), (rows, length))
    return ids.astype(np.int32), mask.astype(np.int32), types.astype(np.int32)


# --- both sides ------------------------------------------------------------------------------------------------------


def expected_output(bundle: Bundle, inputs: tuple[Any, ...], field: str = "") -> np.ndarray:
    """The output in JAX: the logits, or the hidden states of a model without a head; with `field`, this one of
    `ModelOutput`."""
    if field:
        return np.asarray(getattr(bundle.model.apply({"params": bundle.params}, *inputs), field))
    if bundle.config.architecture.endswith("Model"):
        output = bundle.model.apply({"params": bundle.params}, *inputs)
        return np.asarray(last_states(bundle.model, bundle.params, output))
    return np.asarray(forward(bundle.model, bundle.device_params, *inputs))


def halting_steps(bundle: Bundle, inputs: Inputs, move: float = 0.0) -> np.ndarray:
    """The number of steps in JAX after which each token halts [batch, length], with the threshold moved by so much."""
    recurrence = bundle.config.recurrence
    assert recurrence is not None
    assert recurrence.halting is not None
    epsilon = min(max(recurrence.halting.epsilon - move, 0.0), 1.0)
    moved = dataclasses.replace(recurrence, halting=dataclasses.replace(recurrence.halting, epsilon=epsilon))
    model = build(bundle.config.replace(recurrence=moved))
    output: Any = model.apply({"params": bundle.params}, *inputs)
    return np.asarray(output.trace.halting.steps)


def expected_exits(bundle: Bundle, inputs: Inputs, depths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The logits in JAX after as many depth steps as a file reports for each text [batch], and whether the text exits
    elsewhere in JAX. A text whose confidence is that of the threshold, within rounding, may exit or stay."""
    config, limit = bundle.config, ROUNDED if rounds_inputs(bundle) else CLOSE
    assert config.exits is not None
    assert config.exits.exit_rule is not None
    rule = config.exits.exit_rule
    output: Any = bundle.model.apply({"params": bundle.params}, *inputs)
    logits = np.asarray(jnp.stack([*output.exit_logits, output.logits]), np.float32)
    steps = np.array([*(number + 1 for number in config.exits.after), config.depth])
    moves = (0.0,) if rule.rule == "patience" else (-limit, limit)
    rules = [dataclasses.replace(rule, threshold=rule.threshold + move) for move in moves]
    possible = [steps[first_exit(policy_of(config, one), logits[:-1], logits[-1])] for one in rules]
    wrong = ~np.isin(depths, steps) | (depths < np.min(possible, axis=0)) | (depths > np.max(possible, axis=0))
    taken = np.minimum(np.searchsorted(steps, depths), len(steps) - 1)
    return logits[taken, np.arange(len(depths))], wrong


def open_export(to: Target, folder: Path) -> Callable[..., Answer]:
    """A function `(ids, mask, types) -> answer` that runs the exported folder in its own runtime."""
    return open_outputs(to, folder)[""]


def open_outputs(to: Target, folder: Path) -> dict[str, Callable[..., Answer]]:
    """As `open_export`, under an empty name; and one for each of `FURTHER` that an ONNX file has, under its field."""
    if to == "onnx":
        session = open_session(folder, threads=thread_count())
        stored = [one.name for one in session.get_outputs()]
        further = {field: partial(answer, session, name=name) for name, field in FURTHER.items() if name in stored}
        return {"": partial(answer, session), **further}
    if to == "stablehlo":
        return {"": open_program(folder)}
    if to == "huggingface":
        stock = load(folder)
        return {"": lambda *inputs: Answer(expected_output(stock, inputs), None)}
    return {"": lambda *inputs: Answer(answer_each(folder / FILES[to], *inputs), None)}


def open_program(folder: Path) -> Callable[..., Answer]:
    """As `open_export`, for a StableHLO program."""
    from jax import export as jax_export
    from safetensors.numpy import load_file

    program = jax_export.deserialize(bytearray((folder / FILES["stablehlo"]).read_bytes()))
    stored = load_file(folder / "model.safetensors")
    run = partial(jax.jit(program.call), [stored[name] for name in sorted(stored)])

    def run_program(*inputs: np.ndarray) -> Answer:
        found = run(*inputs)
        output, depths = found if isinstance(found, tuple) else (found, None)
        return Answer(np.asarray(output), depths if depths is None else np.asarray(depths))

    return run_program


# --- causes ----------------------------------------------------------------------------------------------------------


def wrong_runtime(wrong: tuple[str, ...]) -> str:
    """The message for a correct file whose integer products are wrong on this processor."""
    import onnxruntime

    return (
        f"ONNX Runtime {onnxruntime.__version__} computes wrong integer products on this processor "
        f"({processor_name()}), for {len(wrong)} matrices (the first is {wrong[0].removesuffix('/integers')}); "
        "nothing was written.\n"
        f"{integer_products(processor_features())}.\n"
        "On a processor with such instructions the file is exact. Quantise the model again with weights of 7 bits (the "
        "default), which are exact everywhere; or export with --weights=uint8, which is exact too, but slower."
    )


def cause(bundle: Bundle, to: Target, folder: Path, batches: list[Inputs]) -> str:
    """Why a file with exact integer products differs from JAX, and what to do about it."""
    if rounds_inputs(bundle):
        site, share = most_outside(bundle, batches)
        if share > OUTSIDE:
            texts = (
                "its calibration texts" if bundle.calibration else "random tokens (the bundle has no calibration.json)"
            )
            return (
                f"It was checked with {texts}; {share:.1%} of the inputs of {site} are outside of their quantisation "
                "range, where outputs depend on the order of summation.\n"
                "Quantise the model again, with calibration texts like those that it will be used on."
            )
    where = first_layer(bundle, folder, batches) if to == "onnx" else ""
    return f"This is a defect of bertjax{where}. Please report it with the model's config.json."


def most_outside(bundle: Bundle, batches: list[Inputs]) -> tuple[str, float]:
    """The product with the largest share of inputs outside of its quantisation range, and that share."""
    from bertjax.quantize.activations import shares_outside

    shares = shares_outside(bundle.model, bundle.params, batches)
    return max(shares.items(), key=lambda one: one[1], default=("", 0.0))


def first_layer(bundle: Bundle, folder: Path, batches: list[Inputs]) -> str:
    """The first layer at which an ONNX file differs from JAX, as part of a sentence; empty if all that it names
    agree."""
    import onnx

    model = onnx.load(existing_file(folder))
    computed = {name for node in model.graph.node for name in node.output}  # layers in branches have no outputs
    layers = {step: name for step in range(bundle.config.depth) if (name := f"step_{step}/hidden") in computed}
    if not layers:
        return ""
    for name in layers.values():
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = new_session(model.SerializeToString())
    names = [one.name for one in session.get_inputs()]
    squares = np.ones((bundle.config.depth, 2)) * (0, 1)
    for ids, mask, types in batches:
        feeds = dict(zip(("input_ids", "attention_mask", "token_type_ids"), (ids, mask, types), strict=True))
        outputs = session.run(list(layers.values()), {name: feeds[name].astype(np.int64) for name in names})
        ours = bundle.model.apply({"params": bundle.params}, ids, mask, types)
        for step, theirs in zip(layers, outputs, strict=True):
            hidden = ours.hidden_states[step + 1]  # type: ignore[union-attr]
            real = np.asarray(ours.tokens[step + 1].real) if ours.tokens else mask.astype(bool)  # type: ignore[union-attr]
            real = real[:, : theirs.shape[1]]  # a classifier's last layer has only the [CLS] row
            expected = np.asarray(hidden)[:, : theirs.shape[1]][real]
            squares[step] += np.square(theirs[real] - expected).sum(), np.square(expected).sum()
    shares = np.sqrt(squares[:, 0] / squares[:, 1])
    wrong = np.flatnonzero(~(shares <= (JUMP if rounds_inputs(bundle) else CLOSE)))
    return f": layer {wrong[0]} is the first to differ, by {shares[wrong[0]]:.2g} times its size" if len(wrong) else ""
