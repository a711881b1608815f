"""Labels texts with an exported folder: python serve_onnx.py FOLDER TEXT ... (needs onnxruntime and tokenizers)."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

folder, texts = Path(sys.argv[1]), sys.argv[2:]
config, limits = (json.loads((folder / f).read_text("utf-8")) for f in ("config.json", "tokenizer_config.json"))
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
tokenizer.enable_truncation(limits["model_max_length"])
tokenizer.enable_padding(pad_id=config["pad_token_id"])
session = onnxruntime.InferenceSession(str(next((folder / "onnx").glob("*.onnx"))))
rows = tokenizer.encode_batch(texts)
fields = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
named = {one.name: fields[one.name] for one in session.get_inputs()}
batch = {name: np.array([getattr(row, field) for row in rows], np.int64) for name, field in named.items()}
found = dict(zip([one.name for one in session.get_outputs()], session.run(None, batch), strict=True))
for number, text in enumerate(texts):
    label = config["id2label"][str(found["logits"][number].argmax())]
    print(label, *([f"after {found['depth'][number]} layers"] if "depth" in found else []), text, sep="\t")
