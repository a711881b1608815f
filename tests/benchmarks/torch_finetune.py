"""`bertjax finetune` in PyTorch: the same flags, start, texts and schedule; a folder that both can load comes out.

    pip install -e ".[parity]"
    python -m tests.benchmarks.torch_finetune --data.train=train.tsv --data.eval=dev.tsv --seed=0 --out=runs/torch-0
    bertjax evaluate --model=runs/bertjax-0/bundle --against runs/torch-0/bundle --data.eval=dev.tsv

Model, autograd, dropout and AdamW are those of `transformers` and torch, and so is the average of the last weights.
Which texts a step sees and the first values of the new head are bertjax's, so that whatever differs in the end was
caused by the training. The texts of a step go through the model in parts of like length, because nothing there packs
rows; the gradient is that of the whole batch. bfloat16 is autocast. For classification.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bertjax.engine.optimiser import learning_rate_schedule
from bertjax.recipes.finetune import Config


def main(config: Config) -> None:
    import torch
    import transformers

    import bertjax
    from bertjax.engine.log import Log
    from bertjax.jobs.data import Text, open_model, tokenizer_of, training_batches

    out = Path(config.out)
    torch.manual_seed(config.seed)
    text = Text.of(config.data)
    bundle, task = open_model(config.model, text.task(), config.seed)
    train = text.training(task, tokenizer_of(bundle)).encoded
    data = training_batches(config, config.data, train, bundle.config if config.packed else None)
    with tempfile.TemporaryDirectory() as folder:
        bertjax.save(bundle, folder)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="sdpa")
    total = config.total_steps(data.steps_per_epoch)
    step_of = optimiser(model, config, total)
    last = max(1, round(config.optimiser.swa_fraction * total)) if config.optimiser.swa_fraction else 0
    average: Any = torch.optim.swa_utils.AveragedModel(model)
    log = Log(out, "fine-tuning in PyTorch", total, 0)
    model.train()
    for step in range(total):
        batch = next(data)
        rows = batch["example_ids"][batch["weights"] > 0]
        loss = 0.0
        for part in parts(train, rows):
            with torch.autocast("cpu", torch.bfloat16, enabled=config.dtype == "bfloat16"):
                said = model(**{name: torch.from_numpy(array).long() for name, array in part.items()})
            share = said.loss * (len(part["labels"]) / len(rows))
            share.backward()
            loss += share.item()
        step_of()
        if step >= total - last:
            average.update_parameters(model)
        if step % 10 == 0:
            log.metrics(step, {"loss": loss})
        log.progress(step + 1, len(rows), loss)
    log.close()
    (average.module if last else model).save_pretrained(out / "bundle")
    tokenizer_of(bundle).save(out / "bundle")


def parts(train: Any, rows: Any) -> Iterator[dict[str, Any]]:
    """The texts of a batch, at most 16 of like length at a time, padded to the longest among them."""
    from bertjax.text.batches import gather

    rows = rows[train.lengths[rows].argsort(kind="stable")]
    for start in range(0, len(rows), 16):
        some = rows[start : start + 16]
        batch = gather(train, some, int(train.lengths[some].max()))
        yield {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids", "labels")}


def optimiser(model: Any, config: Config, total: int) -> Any:
    """What to call after `backward`: clips, takes the step and forgets the gradients, as `Optimiser` says."""
    import torch

    settings = config.optimiser
    decayed = lambda name: not name.endswith("bias") and "LayerNorm" not in name  # noqa: E731
    groups = [
        {
            "params": [p for name, p in model.named_parameters() if decayed(name) == which],
            "weight_decay": settings.weight_decay * which,
        }
        for which in (True, False)
    ]
    schedule = learning_rate_schedule(settings, total)
    rates = [float(schedule(step)) for step in range(total)]
    rule = torch.optim.AdamW(groups, lr=rates[0], betas=(settings.b1, settings.b2), eps=settings.epsilon, fused=True)
    steps = iter(rates)

    def step() -> None:
        rate = next(steps)
        for group in rule.param_groups:
            group["lr"] = rate
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        rule.step()
        rule.zero_grad()

    return step


if __name__ == "__main__":
    import sys

    from bertjax.engine.command_line import parse

    main(parse(Config, sys.argv[1:], __doc__ or "", "python -m tests.benchmarks.torch_finetune"))
