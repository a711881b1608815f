"""A run with a fused kernel: the plain run without dropout of attention probabilities, on a mesh, packed or not."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from jax.experimental import pallas

import bertjax
from bertjax.errors import UserError
from bertjax.jobs.data import compute_settings
from bertjax.model import attention
from bertjax.recipes.data import Data
from tests.train.tiny import metrics, write_model, write_table
from train import finetune, quantize


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_a_run_with_the_tpu_kernel_learns_as_the_plain_one(packed: bool, tmp_path: Path, monkeypatch, capfd):
    monkeypatch.setattr(pallas, "pallas_call", partial(pallas.pallas_call, interpret=True))
    monkeypatch.setattr(attention, "require_backend", lambda kernel: None)
    monkeypatch.setattr("bertjax.bundle.require_backend", lambda kernel: None)
    table = str(write_table(tmp_path / "train.tsv", 96))
    data = Data(train=table, eval=table, max_length=16)
    losses: dict[str, float] = {}
    kernel: Any
    for kernel, rate in (("xla", 0.0), ("flash", 0.1)):
        start = write_model(tmp_path / kernel, hidden_dropout_prob=0.0, attention_probs_dropout_prob=rate)
        common: dict[str, Any] = {"steps": 3, "batch_size": 16, "micro_batches": 2, "packed": packed}
        out = tmp_path / f"{kernel}-run"
        finetune.main(finetune.Config(model=str(start), out=str(out), data=data, attention=kernel, **common))
        losses[kernel] = next(line["loss"] for line in metrics(out) if "loss" in line)
        said = "--attention=flash drops no attention probabilities" in capfd.readouterr().err
        assert said == (kernel == "flash")
        assert bertjax.load(out / "bundle").config.attention_probs_dropout_prob == 0
    assert losses["flash"] == pytest.approx(losses["xla"], rel=1e-4)


@pytest.mark.parametrize(("kernel", "device"), [("flash", "a TPU"), ("cudnn", "an NVIDIA GPU")])
def test_a_kernel_that_does_not_run_here_is_refused_in_a_sentence(kernel: Any, device: str):
    with pytest.raises(UserError, match=f"attention='{kernel}' needs {device}, and jax finds none here"):
        compute_settings(finetune.Config(attention=kernel))


def test_rounding_and_a_fused_kernel_are_refused_together():
    with pytest.raises(UserError, match="--attention=flash cannot round what its products read"):
        quantize.Config(attention="flash")
