"""What an accelerator has to show: eight minutes on one GPU or TPU; without one it runs small on the CPU and says so.

    python -m tests.benchmarks.accelerator [CHECK ...]

Each check is a process of its own and prints one line of JSON: `resume` (distil, prune and round in one step in
bfloat16, killed and resumed: the same bits, and the loss of the CPU in float32), `attention` (the fused kernel against
the plain one, with gradients), steps of BERT-base (tokens per second, share of the peak, memory): `all-three`,
`finetune`, `pretrain-128`, `pretrain-512`, and `torch-finetune`, `torch-pretrain-128`, `torch-pretrain-512` beside
them (`torch.compile`, SDPA, autocast).
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

STEPS = 20


def shape(kind: str, on_cpu: bool) -> tuple[dict[str, Any], int, int]:
    """Sizes of the model, and batch x sequence length."""
    length = 512 if kind.endswith("512") else 128
    if on_cpu:
        return (
            {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128},
            4,
            length,
        )
    return {}, 32 if length == 512 else 128, length


def batch_of(rows: int, length: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    places = length * 15 // 100
    ids = rng.integers(1000, 30000, (rows, length), dtype=np.int32)
    masked = {
        "masked_positions": np.tile(np.arange(places, dtype=np.int32), (rows, 1)),
        "masked_labels": ids[:, :places],
    }
    common = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    labels = {"labels": np.arange(rows, dtype=np.int32) % 2, "weights": np.ones(rows, np.float32)}
    return common | labels | masked | {"masked_weights": np.ones((rows, places), np.float32)}


def ours(kind: str) -> dict[str, Any]:
    """STEPS steps of bertjax in bfloat16, as its commands run them."""
    import jax

    from bertjax.bundle import Bundle, init_params
    from bertjax.distill.terms import AttentionMaps, HardLabels, HiddenStates, SoftTargets
    from bertjax.engine.compiled_step import build_program
    from bertjax.engine.sharding import put_batch
    from bertjax.learn.loss import Loss
    from bertjax.learn.objective import Teacher, assemble
    from bertjax.learn.task_losses import MaskedTokens
    from bertjax.machine.peak_flops import device_peak
    from bertjax.measure.cost import peak_memory
    from bertjax.model import BertConfig
    from bertjax.prune import Movement
    from bertjax.quantize.transforms import FakeQuantize
    from bertjax.recipes.sharding import Sharding
    from bertjax.recipes.training import Training

    sizes, rows, length = shape(kind, jax.default_backend() == "cpu")
    head = "ForMaskedLM" if kind.startswith("pretrain") else "ForSequenceClassification"
    config = BertConfig(architecture=f"Bert{head}", dtype="bfloat16", **sizes)
    student, teachers, transforms = Bundle(config, init_params(config, 0)), (), ()
    losses: dict[str, Loss] = {"task": MaskedTokens() if kind.startswith("pretrain") else HardLabels()}
    batch = batch_of(rows, length)
    if not kind.startswith("pretrain"):
        batch = {name: array for name, array in batch.items() if not name.startswith("masked")}
    if kind == "all-three":
        losses = {"logits": SoftTargets(), "states": HiddenStates(), "maps": AttentionMaps()}
        teachers, transforms = (Teacher(student),), (Movement(every=10), FakeQuantize(activations="token"))
    learning = assemble(student, losses, steps=1000, seed=0, teachers=teachers, transforms=transforms)
    program = build_program(Training(batch_size=rows, sharding=Sharding(1, 1)), 1000, learning)
    state = program.start(learning.params, learning.extra, learning.state)
    arrays, constants = put_batch(batch, program.mesh), jax.device_put(learning.constants)
    step = program.step.lower(state, arrays, constants).compile()
    for number in range(STEPS + 3):
        if number == 3:
            jax.block_until_ready(state)
            began = time.perf_counter()
        state, metrics = step(state, arrays, constants)
    jax.block_until_ready(state)
    seconds, peak = (time.perf_counter() - began) / STEPS, device_peak("bfloat16")
    share = (step.cost_analysis() or {}).get("flops", 0.0) / seconds / peak.flops
    result = {"tokens_per_second": rows * length / seconds, "share_of_peak": share, "peak": peak.source}
    return result | {"memory_bytes": peak_memory(step), "loss": float(metrics["loss"]), "batch": [rows, length]}


def torch(kind: str) -> dict[str, Any]:
    """The same step in PyTorch."""
    import torch
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes, rows, length = shape(kind, device == "cpu")
    head: Any = transformers.BertForMaskedLM if "pretrain" in kind else transformers.BertForSequenceClassification
    settings: Any = {"attn_implementation": "sdpa", **sizes}
    config = transformers.BertConfig(**settings)
    model = head(config).train().to(device)
    batch = {name: torch.from_numpy(array).long().to(device) for name, array in batch_of(rows, length).items()}
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    labels = batch["labels"]
    if "pretrain" in kind:
        labels = torch.full_like(batch["input_ids"], -100).scatter(1, batch["masked_positions"], batch["masked_labels"])
    optimiser, compiled = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True), torch.compile(model)
    for number in range(STEPS + 3):
        if number == 3:
            began = time.perf_counter()
        with torch.autocast(device, torch.bfloat16):
            loss = compiled(**inputs, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        value = loss.item()
    seconds = (time.perf_counter() - began) / STEPS
    memory = torch.cuda.max_memory_allocated() if device == "cuda" else None
    return {
        "tokens_per_second": rows * length / seconds,
        "memory_bytes": memory,
        "loss": value,
        "batch": [rows, length],
    }


def attention(_: str) -> dict[str, Any]:
    """The largest relative difference between the fused kernel and the plain one, in output and gradients."""
    import jax
    import jax.numpy as jnp

    from bertjax.model.attention import fused_attention

    kernel: Any = {"gpu": "cudnn", "tpu": "flash"}.get(jax.default_backend())
    if kernel is None:
        return {"skipped": "a CPU has no fused kernel"}
    q, k, v = (jax.random.normal(key, (4, 256, 12, 64), jnp.bfloat16) for key in jax.random.split(jax.random.key(0), 3))
    segments = jnp.where(jnp.arange(256) < jnp.array([[256], [200], [130], [3]]), 0, -1)
    mask = segments[:, None, :, None] == segments[:, None, None, :]
    ways: Any = (
        lambda q, k, v: fused_attention(kernel, q, k, v, segments),
        lambda q, k, v: jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="xla"),
    )
    real = (segments == 0)[..., None, None]
    both = [
        jax.jit(jax.value_and_grad(lambda *x, f=f: jnp.sum(jnp.square(f(*x).astype(jnp.float32) * real)), (0, 1, 2)))(
            q, k, v
        )
        for f in ways
    ]
    apart = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b))), *both)
    return {"kernel": kernel, "largest_relative_difference": max(jax.tree.leaves(apart))}


CONFIG = """
from bertjax.distill.terms import AttentionMaps, HiddenStates, SoftTargets
from bertjax.prune import Movement
from bertjax.quantize.transforms import FakeQuantize
from bertjax.recipes.distill import Config
from bertjax.recipes.sharding import Sharding
config = Config(losses=(SoftTargets(), HiddenStates(), AttentionMaps()), steps=12, save_every=4, batch_size=16,
    sharding=Sharding(1, 1), transforms=(Movement(0.5, begin=0.0, end=0.5), FakeQuantize(activations="token")))
"""


def resume(_: str) -> dict[str, Any]:
    """A run that is killed and resumed beside one that is not, and beside the CPU in float32."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.py").write_text(CONFIG)
        data = ["--data.train=demo", "--data.eval=demo", "--data.max_length=32", "--data.rows=512"]

        def command(script: str, out: str, *flags: str) -> list[str]:
            return [sys.executable, "-m", f"train.{script}", *data, f"--out={folder / out}", *flags]

        given = [f"--config={folder / 'config.py'}", f"--model={folder / 'teacher' / 'bundle'}"]
        fast, cpu = [*given, "--dtype=bfloat16"], {**os.environ, "JAX_PLATFORMS": "cpu"}
        subprocess.run(command("finetune", "teacher", "--steps=20", "--batch_size=16", "--sharding.data=1"), check=True)
        subprocess.run(command("distill", "whole", *fast), check=True)
        subprocess.run(command("distill", "cpu", *given), check=True, env=cpu)
        with subprocess.Popen(command("distill", "cut", *fast)) as process:
            while not (folder / "cut" / "checkpoints" / "4").exists() and process.poll() is None:
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
        subprocess.run(command("distill", "cut", *fast), check=True)
        read = lambda out: (folder / out / "bundle" / "model.safetensors").read_bytes()  # noqa: E731
        lines = {out: (folder / out / "metrics.jsonl").read_text().splitlines() for out in ("whole", "cpu")}
        losses = {out: [x["loss"] for x in map(json.loads, text) if "loss" in x] for out, text in lines.items()}
        apart = max(abs(a - b) / b for a, b in zip(losses["whole"], losses["cpu"], strict=True))
        return {"same_bits": read("whole") == read("cut"), "largest_relative_difference_of_loss": apart, **losses}


STEP_KINDS = ("all-three", "finetune", "pretrain-128", "pretrain-512")
CHECKS: dict[str, Any] = {"resume": resume, "attention": attention} | dict.fromkeys(STEP_KINDS, ours)
CHECKS |= {f"torch-{kind}": torch for kind in STEP_KINDS[1:]}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--here"]:
        print(json.dumps({"check": sys.argv[2], **CHECKS[sys.argv[2]](sys.argv[2])}), flush=True)
        sys.exit()
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    show = "import jax; d = jax.devices()[0]; print(jax.default_backend(), d.device_kind, 'jax', jax.__version__)"
    subprocess.run([sys.executable, "-c", show], check=True, env=environment)
    here = [sys.executable, "-m", "tests.benchmarks.accelerator", "--here"]
    codes = [
        subprocess.run([*here, check], env=environment, check=False).returncode for check in sys.argv[1:] or CHECKS
    ]
    sys.exit(max(codes))
