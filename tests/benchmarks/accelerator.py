"""What an accelerator has to show: eight minutes on one GPU or TPU; without one it runs small on the CPU and says so.

    python -m tests.benchmarks.accelerator [CHECK ...]

Each check is a process of its own and prints one line of JSON: `resume` (distil, prune and round in one step in
bfloat16, killed and resumed: the same bits, and the loss of the CPU in float32), `attention` (the fused kernel against
the plain one, with gradients), steps of BERT-base (bert_base.py): `all-three`, `finetune`, `pretrain-128`,
`pretrain-512`, and `torch-finetune`, `torch-pretrain-128`, `torch-pretrain-512` beside them (`torch.compile`, SDPA,
autocast).
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks import bert_base
from tests.train.test_scripts import start, wait_for
from tests.train.test_transforms import ALL_THREE
from tests.train.tiny import metrics, run, weights


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
    real = (segments == 0)[..., None, None]

    def value_and_gradients(attend: Any) -> Any:
        squares = lambda *x: jnp.sum(jnp.square(attend(*x).astype(jnp.float32) * real))  # noqa: E731
        return jax.jit(jax.value_and_grad(squares, (0, 1, 2)))(q, k, v)

    fused = value_and_gradients(lambda q, k, v: fused_attention(kernel, q, k, v, segments))
    plain = value_and_gradients(lambda *x: jax.nn.dot_product_attention(*x, mask=mask, implementation="xla"))
    apart = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b))), fused, plain)
    return {"kernel": kernel, "largest_relative_difference": max(jax.tree.leaves(apart))}


def resume(_: str) -> dict[str, Any]:
    """A run that is killed and resumed beside one that is not, and beside the CPU in float32."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "config.py").write_text(ALL_THREE)
        data = ["--data.train=demo", "--data.eval=demo", "--data.max_length=32", "--data.rows=512"]
        data += ["--batch_size=16", "--sharding.data=1"]
        run("finetune", *data, "--steps=20", f"--out={work / 'teacher'}")
        flags = [f"--config={work / 'config.py'}", f"--model={work / 'teacher' / 'bundle'}", *data]
        flags += ["--steps=12", "--save_every=4"]
        fast = [*flags, "--dtype=bfloat16"]
        run("distill", *fast, f"--out={work / 'whole'}")
        with start(work, "distill", [*fast, f"--out={work / 'cut'}"]) as process:
            wait_for(work / "cut" / "checkpoints" / "4", process)
            process.kill()
        run("distill", *fast, f"--out={work / 'cut'}")
        os.environ["JAX_PLATFORMS"] = "cpu"
        run("distill", *flags, f"--out={work / 'cpu'}")
        losses = {out: [line["loss"] for line in metrics(work / out) if "loss" in line] for out in ("whole", "cpu")}
        apart = max(abs(a - b) / b for a, b in zip(*losses.values(), strict=True))
        same = weights(work / "whole") == weights(work / "cut")
        return {"same_bits": same, "largest_relative_difference_of_loss": apart, **losses}


STEPS = ("all-three", "finetune", "pretrain-128", "pretrain-512")
CHECKS: dict[str, Any] = {"resume": resume, "attention": attention} | dict.fromkeys(STEPS, bert_base.ours)
CHECKS |= {f"torch-{kind}": bert_base.torch for kind in STEPS[1:]}


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
