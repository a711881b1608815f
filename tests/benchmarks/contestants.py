"""What is timed: the same weights, the same arithmetic, the same batch, in each framework as its users would write it.

A contestant is a function `(task, folder) -> (run, facts)`: `run()` does the work once and returns when the result is
there. It is called in a process of its own, so each framework is imported where it is used.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

RATE = 2e-5
VOCABULARY = 30522


class Task(NamedTuple):
    """A shape to compute. Rows are full, so that no framework gains by skipping padding."""

    kind: str
    """"train": one fine-tuning step (dropout, clipped gradient, AdamW). "infer": logits from ids."""
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


Contestant = Callable[[Task, str], tuple[Callable[[], Any], dict[str, str]]]


def bertjax(task: Task, folder: str) -> tuple[Callable[[], Any], dict[str, str]]:
    """What `train.finetune` and `Bundle.predict` run."""
    import jax

    import bertjax

    facts = {"jax": jax.__version__, "device": jax.devices()[0].device_kind}
    bundle = bertjax.load(folder)
    inputs = task.inputs()
    if task.kind == "infer":
        from bertjax.predict import forward

        arrays = [inputs[name] for name in ("input_ids", "attention_mask", "token_type_ids")]
        return lambda: jax.device_get(forward(bundle.model, bundle.device_params, *arrays)), facts

    from bertjax.losses import TASK_LOSSES
    from train.optimiser import Optimiser
    from train.step import Term, init_state, make_step

    optimiser = Optimiser(learning_rate=RATE).build(1000, {"params": bundle.params, "extra": {}})

    def objective(params, extra, state, batch, step, key):
        names = ("input_ids", "attention_mask", "token_type_ids")
        output: Any = bundle.model.apply({"params": params}, *(batch[n] for n in names), rngs={"dropout": key})
        return {"task": Term(*TASK_LOSSES["classification"](output.logits, batch))}, state

    batch = {**inputs, "weights": np.ones(task.batch, np.float32)}
    step = jax.jit(make_step(objective, optimiser, jax.random.key(0)), donate_argnums=0)
    state = jax.jit(lambda p: init_state(p, {}, {}, optimiser))(bundle.params)

    def run():
        nonlocal state
        state, metrics = step(state, batch, {})
        return float(metrics["loss"])

    return run, facts


def torch(task: Task, folder: str, attention: str) -> tuple[Callable[[], Any], dict[str, str]]:
    """`transformers` on PyTorch; its optimiser in the fastest form it has for a CPU."""
    import torch
    import transformers

    torch.set_num_threads(task.threads)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation=attention)
    inputs = {name: torch.from_numpy(array).long() for name, array in task.inputs().items()}
    facts = {"torch": torch.__version__, "transformers": transformers.__version__}
    if task.kind == "infer":
        del inputs["labels"]
        model.eval()

        def infer():
            with torch.inference_mode():
                return model(**inputs).logits.numpy()

        return infer, facts

    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01, fused=True)
    schedule = transformers.get_linear_schedule_with_warmup(optimiser, 100, 1000)

    def run():
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

    import onnxruntime
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


CONTESTANTS: dict[str, Contestant] = {
    "bertjax": bertjax,
    "torch, eager": partial(torch, attention="eager"),
    "torch, sdpa": partial(torch, attention="sdpa"),
    "onnxruntime": onnxruntime,
}
