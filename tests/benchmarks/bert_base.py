"""Training steps of BERT-base in bfloat16, of bertjax and of PyTorch: tokens per second, share of the peak, memory.

Its name is `all-three` (distil, prune and round at once), `finetune`, `pretrain-128` or `pretrain-512`, or for PyTorch
one of the last three with `torch-` before it. On a CPU the model and the batch are small.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.benchmarks.frameworks import Task

STEPS = 20
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}


def given(check: str, on_cpu: bool) -> tuple[dict[str, Any], dict[str, np.ndarray], str]:
    """Sizes of the model, a batch, and the head. In pre-training the first 15 % of the tokens are to be predicted."""
    length = 512 if check.endswith("512") else 128
    rows = 4 if on_cpu else 16384 // length
    batch = Task("train", rows, length, 1).inputs() | {"weights": np.ones(rows, np.float32)}
    if "pretrain" not in check:
        return SMALL if on_cpu else {}, batch, "ForSequenceClassification"
    labels = batch["input_ids"][:, : length * 15 // 100]
    places = np.broadcast_to(np.arange(labels.shape[1], dtype=np.int32), labels.shape)
    masked = {"masked_positions": places, "masked_labels": labels, "masked_weights": np.ones(labels.shape, np.float32)}
    return SMALL if on_cpu else {}, batch | masked, "ForMaskedLM"


def timed(step: Callable[[], Any], shape: tuple[int, ...]) -> tuple[float, dict[str, Any]]:
    """Seconds of a step that waits for its loss, and what is reported of it."""
    float([step() for _ in range(3)][-1])
    began = time.perf_counter()
    last = float([step() for _ in range(STEPS)][-1])
    seconds = (time.perf_counter() - began) / STEPS
    return seconds, {"tokens_per_second": np.prod(shape).item() / seconds, "loss": last, "batch": shape}


def ours(check: str) -> dict[str, Any]:
    """STEPS steps of bertjax in bfloat16, as its commands run them."""
    import jax

    from bertjax.bundle import Bundle, init_params
    from bertjax.distill.terms import AttentionMaps, HardLabels, HiddenStates, SoftTargets
    from bertjax.engine.compiled_step import build_program
    from bertjax.engine.sharding import put_batch
    from bertjax.learn.assemble import assemble, loss_names
    from bertjax.learn.objective import Teacher
    from bertjax.learn.task_losses import MaskedTokens
    from bertjax.machine.peak_flops import device_peak
    from bertjax.measure.cost import peak_memory
    from bertjax.model import BertConfig
    from bertjax.prune import Movement
    from bertjax.quantize.transforms import FakeQuantize
    from bertjax.recipes.sharding import Sharding
    from bertjax.recipes.training import Training

    sizes, batch, head = given(check, jax.default_backend() == "cpu")
    config = BertConfig(architecture=f"Bert{head}", dtype="bfloat16", **sizes)
    student = Bundle(config, init_params(config, 0))
    losses: Any = (MaskedTokens() if "pretrain" in check else HardLabels(),)
    parts: dict[str, Any] = {}
    if check == "all-three":
        losses = SoftTargets(), HiddenStates(), AttentionMaps()
        parts = {"teachers": (Teacher(student),), "transforms": (Movement(every=10), FakeQuantize(activations="token"))}
    learning = assemble(student, loss_names(losses), steps=1000, seed=0, **parts)
    program = build_program(Training(batch_size=len(batch["labels"]), sharding=Sharding(1, 1)), 1000, learning)
    state = program.start(learning.params, learning.extra, learning.state)
    fixed = put_batch(batch, program.mesh), jax.device_put(learning.constants)
    step = program.step.lower(state, *fixed).compile()

    def take() -> Any:
        nonlocal state
        state, found = step(state, *fixed)
        return found["loss"]

    seconds, found = timed(take, batch["input_ids"].shape)
    peak = device_peak("bfloat16")
    share = (step.cost_analysis() or {}).get("flops", 0.0) / seconds / peak.flops
    return found | {"share_of_peak": share, "peak": peak.source, "memory_bytes": peak_memory(step)}


def torch(check: str) -> dict[str, Any]:
    """The same step in PyTorch."""
    import torch
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes, arrays, head = given(check, device == "cpu")
    settings: Any = {"attn_implementation": "sdpa", **sizes}
    model = getattr(transformers, f"Bert{head}")(transformers.BertConfig(**settings)).train().to(device)
    batch = {name: torch.tensor(array).long().to(device) for name, array in arrays.items()}
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids", "labels")}
    if "pretrain" in check:
        unmasked = torch.full_like(batch["input_ids"], -100)
        inputs["labels"] = unmasked.scatter(1, batch["masked_positions"], batch["masked_labels"])
    optimiser, compiled = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True), torch.compile(model)

    def take() -> float:
        with torch.autocast(device, torch.bfloat16):
            loss = compiled(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        return loss.item()

    memory = torch.cuda.max_memory_allocated
    return timed(take, arrays["input_ids"].shape)[1] | {"memory_bytes": memory() if device == "cuda" else None}
