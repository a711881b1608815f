"""The code snippet in a model card: from text to labels and probabilities.

An exported file needs its runtime and a tokenizer, and no bertjax. The snippet does what `predict` does around the
model: it truncates at the length that was measured, and turns logits into an answer.
"""

from typing import Any

from bertjax.text.tasks import Task

BEGIN = """\
import json
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

folder = Path("path/to/this/folder")
labels = json.loads((folder / "config.json").read_text(encoding="utf-8"))["id2label"]
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
tokenizer.enable_truncation(LENGTH)
session = onnxruntime.InferenceSession(str(folder / "FILE"))

text = tokenizer.encode(GIVEN)
given = {"input_ids": text.ids, "attention_mask": text.attention_mask, "token_type_ids": text.type_ids}
inputs = {one.name: np.array([given[one.name]], np.int64) for one in session.get_inputs()}
"""
LOGITS = 'logits = session.run(["logits"], inputs)[0][0]\n'
ENDS = {
    "classification": LOGITS
    + """\
shares = np.exp(logits - logits.max())
answer = {labels[str(place)]: float(share) for place, share in enumerate(shares / shares.sum())}
""",
    "multi_label": LOGITS
    + """\
answer = {labels[str(place)]: float(share) for place, share in enumerate(1 / (1 + np.exp(-logits)))}  # true above 0.5
""",
    "regression": LOGITS + "answer = float(logits[0])\n",
    "embedding": 'answer = session.run(["sentence_embedding"], inputs)[0][0]\n',
    "tokens": LOGITS
    + """\
answer = ["O"] * len(words)  # also for words beyond the limit
spaces = np.cumsum([0, *(len(word) + 1 for word in words)])[:-1] - 1
for place, (begin, _) in reversed([*enumerate(text.offsets)]):  # the first token of a word decides
    if text.sequence_ids[place] is not None:
        answer[np.searchsorted(spaces, begin, side="right") - 1] = labels[str(logits[place].argmax())]
""",
    "qa": """\
start, end = (logits[0] for logits in session.run(["start_logits", "end_logits"], inputs))
inside = np.array([part == 1 for part in text.sequence_ids])
scores = np.where(inside, start, -np.inf)[:, None] + np.where(inside, end, -np.inf)
possible = np.triu(np.ones_like(scores)) - np.triu(np.ones_like(scores), 30)  # answers of up to 30 tokens
first, last = divmod(int(np.where(possible, scores, -np.inf).argmax()), len(scores))
answer = context[text.offsets[first][0] : text.offsets[last][1]]
""",
}
TEXTS = {
    "tokens": ('words = ["a", "text", "to", "judge"]\n', '" ".join(words)'),
    "qa": ('question, context = "a question", "the text in which its answer stands"\n', "question, context"),
}
LONG_CONTEXTS = "This reads the beginning of a long context; `bertjax predict` reads all of it, in overlapping windows."


def exported_usage(task: Task, file: str, length: int, exit_rule: dict[str, Any] | None = None) -> str:
    """The snippet for a folder with an ONNX file, as Markdown; `exit_rule` is that of its `config.json`, if any."""
    pair = ', "and its second"' if task.text_pair and task.kind != "embedding" else ""
    before, given = TEXTS.get(task.kind, ("", f'"a text to judge"{pair}'))
    limit = f'{length}, strategy="only_second"' if task.kind == "qa" else str(length)
    begin = BEGIN.replace("LENGTH", limit).replace("FILE", file)
    begin = begin.replace("text = tokenizer", f"{before}text = tokenizer").replace("GIVEN", given)
    snippet = f"```python\n{begin}{ENDS[task.kind]}print(answer)\n```"
    notes = [LONG_CONTEXTS] if task.kind == "qa" else [exits_note(exit_rule)] if exit_rule else []
    return "\n\n".join([snippet, *notes])


def exits_note(exit_rule: dict[str, Any]) -> str:
    """What a file has besides, in which texts exit early."""
    return (
        f"A text exits at the first exit that is sure enough (rule: {exit_rule['rule']}). The output `depth` is the "
        'number of layers that each text took. The threshold is an input that may be left out: `inputs["threshold"] = '
        f"np.array({exit_rule['threshold']}, np.float32)` is its default."
    )


def bundle_usage(task: Task, length: int, stock: bool) -> str:
    """The snippet for a bundle, as Markdown; `stock`: plain transformers computes the same logits."""
    embeds = task.kind == "embedding"
    text, second = '"a text to judge"', '["and its second"]' if task.text_pair and not embeds else ""
    if task.kind == "qa":
        text, second = '"a question"', '["the text in which its answer stands"]'
    given = ", ".join(part for part in (f"[{text}]", second, f"max_length={length}") if part)
    printed = (
        "output.labels, output.probabilities" if task.kind in ("classification", "multi_label") else "output.labels"
    )
    printed, verb = ("output @ output.T", "encode") if embeds else (printed, "predict")
    snippet = f"""\
```python
import bertjax

bundle = bertjax.load("path/to/this/folder")
output = bundle.{verb}({given})
print({printed})
```"""
    client, same = ("sentence-transformers", "embeddings") if embeds else ("transformers", "logits")
    return f"{snippet}\n\nThe folder opens with `{client}` too, and gives the same {same}." if stock else snippet
