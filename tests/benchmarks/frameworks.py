"""What is timed: the same weights, the same arithmetic, the same batch, in each framework as its users would write it.

A framework is a function `(task, folder) -> (run, facts)`: `run()` does the work once and returns when the result is
there. It is called in a process of its own, so each framework is imported where it is used.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from bertjax.engine.optimiser import build_optimiser

RATE = 2e-5
VOCABULARY = 30522


class Task(NamedTuple):
    """A shape to compute. Rows are full, so that no framework gains by skipping padding."""

    kind: str
    """"train": one fine-tuning step (dropout, clipped gradient, AdamW). "infer": logits from ids. "text": training
    steps on real text of at most this length."""
    batch: int
    length: int
    threads: int

    def inputs(self) -> dict[str, np.ndarray]:
        ids = np.random.default_rng(0).integers(1000, VOCABULARY, (self.batch, self.length), dtype=np.int32)
        return {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
            "labels": np.arange(self.batch, dtype=np.int32) % 2,
        }


Framework = Callable[[Task, str], tuple[Callable[[], Any], dict[str, str]]]


def bertjax(task: Task, folder: str, dtype: str = "float32") -> tuple[Callable[[], Any], dict[str, str]]:
    """What `train.finetune` and `Bundle.predict` run."""
    import jax

    import bertjax

    facts = {"jax": jax.__version__, "device": jax.devices()[0].device_kind}
    bundle = bertjax.load(folder, dtype=dtype)
    inputs = task.inputs()
    if task.kind == "train":
        step, batch = fine_tuning_step(bundle), {**inputs, "weights": np.ones(task.batch, np.float32)}
        return lambda: step(batch), facts

    from bertjax.predict import runner

    run = runner(bundle.model, bundle.device_params)
    batch = inputs["input_ids"], inputs["attention_mask"], inputs["token_type_ids"]
    return lambda: next(run([batch])).logits, facts


def bertjax_on_text(task: Task, folder: str, padded: bool) -> tuple[Callable[[], Any], dict[str, str]]:
    """Sixteen fine-tuning steps on film reviews, in batches of like length or all padded to the maximum."""
    import bertjax
    from bertjax.text.batches import batches
    from bertjax.text.buckets import length_buckets, padding_overhead
    from bertjax.text.encode import encode_examples
    from bertjax.text.sources import infer_task, load_examples

    bundle = bertjax.load(folder)
    assert bundle.tokenizer is not None
    reviews = infer_task("demo")
    encoded = encode_examples(load_examples("demo", reviews), reviews, bundle.tokenizer, task.length)
    buckets = (task.length,) if padded else length_buckets(encoded.lengths, task.length)
    data = batches(encoded, task.batch, seed=0, buckets=buckets)
    step, chosen = fine_tuning_step(bundle), [next(data) for _ in range(16)]
    overhead = padding_overhead(encoded.lengths, buckets)
    return lambda: [step(batch) for batch in chosen][-1], {"padding per piece": f"{overhead:.2f}"}


def fine_tuning_step(bundle: Any) -> Callable[[dict[str, np.ndarray]], float]:
    """A function that takes one step and returns its loss."""
    import jax

    from bertjax.learn.losses import TASK_LOSSES
    from bertjax.learn.step import Objective, Term, init_state, make_step
    from bertjax.recipes.optimiser import Optimiser
    from bertjax.text.batches import inputs_of, places_of

    optimiser = build_optimiser(Optimiser(learning_rate=RATE), 1000, {"params": bundle.params, "extra": {}})

    def terms(params, extra, state, batch, update, key):
        inputs, places = inputs_of(batch), places_of(batch)
        output: Any = bundle.model.apply({"params": params}, *inputs, **places, rngs={"dropout": key})
        return {"task": Term(*TASK_LOSSES["classification"](output.logits, batch))}, {}

    step = jax.jit(make_step(Objective(terms), optimiser, jax.random.key(0)), donate_argnums=0)
    state = jax.jit(lambda p: init_state(p, {}, {}, optimiser))(bundle.params)

    def take(batch: dict[str, np.ndarray]) -> float:
        nonlocal state
        state, metrics = step(state, batch, {})
        return float(metrics["loss"])

    return take


def torch(task: Task, folder: str, attention: str, dtype: str = "float32") -> tuple[Callable[[], Any], dict[str, str]]:
    """`transformers` on PyTorch; its optimiser in the fastest form it has for a CPU. In bfloat16 the products of a
    training step are, under autocast, and the whole model where nothing is trained."""
    import torch
    import transformers

    torch.set_num_threads(task.threads)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation=attention)
    inputs = {name: torch.from_numpy(array).long() for name, array in task.inputs().items()}
    facts = {"torch": torch.__version__, "transformers": transformers.__version__}
    if task.kind == "infer":
        del inputs["labels"]
        model.eval().to(getattr(torch, dtype))

        def infer():
            with torch.inference_mode():
                return model(**inputs).logits.float().numpy()

        return infer, facts

    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01, fused=True)
    schedule = transformers.get_linear_schedule_with_warmup(optimiser, 100, 1000)

    def run():
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        return loss.item()

    return run, facts


def onnxruntime(task: Task, folder: str) -> tuple[Callable[[], Any], dict[str, str]]:
    """Float32, from PyTorch's exporter, with all of ONNX Runtime's graph optimisations."""
    import tempfile
    import warnings

    import onnxruntime  # pyright: ignore[reportMissingImports]  (an extra that CI leaves out)
    import torch
    import transformers

    inputs = {name: array.astype(np.int64) for name, array in task.inputs().items() if name != "labels"}
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    model.config.return_dict = False
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = f"{temporary}/model.onnx"
        arguments = tuple(map(torch.from_numpy, inputs.values()))
        torch.onnx.export(model, arguments, path, input_names=list(inputs), output_names=["logits"], dynamo=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = task.threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    used = {entry.name for entry in session.get_inputs()}
    feed = {name: array for name, array in inputs.items() if name in used}
    return lambda: session.run(None, feed)[0], {"onnxruntime": onnxruntime.__version__}


TRAINING: dict[str, Framework] = {
    f"{name}{words}": partial(framework, dtype=dtype)
    for dtype, words in (("float32", ""), ("bfloat16", ", bfloat16"))
    for name, framework in {
        "bertjax": bertjax,
        "torch, eager": partial(torch, attention="eager"),
        "torch, sdpa": partial(torch, attention="sdpa"),
    }.items()
}
FRAMEWORKS: dict[str, dict[str, Framework]] = {
    "train": TRAINING,
    "infer": {**TRAINING, "onnxruntime": onnxruntime},
    "text": {"bertjax": partial(bertjax_on_text, padded=False), "padded to max": partial(bertjax_on_text, padded=True)},
}
