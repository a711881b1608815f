"""Labels texts with an exported folder: python serve_openvino.py FOLDER TEXT ... (needs openvino and tokenizers)."""

import json
import sys
from pathlib import Path

import numpy as np
import openvino
from tokenizers import Tokenizer

folder, texts = Path(sys.argv[1]), sys.argv[2:]
config, limits = (json.loads((folder / f).read_text("utf-8")) for f in ("config.json", "tokenizer_config.json"))
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
tokenizer.enable_truncation(limits["model_max_length"])
tokenizer.enable_padding(pad_id=config["pad_token_id"])
settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
model = openvino.Core().compile_model(str(next((folder / "onnx").glob("*.onnx"))), "CPU", settings)
rows = tokenizer.encode_batch(texts)
fields = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
named = {one.any_name: fields[one.any_name] for one in model.inputs}
found = model({name: np.array([getattr(row, field) for row in rows], np.int64) for name, field in named.items()})
depths = found["depth"] if any("depth" in one.names for one in model.outputs) else None
for number, text in enumerate(texts):
    label = config["id2label"][str(found["logits"][number].argmax())]
    print(label, *([f"after {depths[number]} layers"] if depths is not None else []), text, sep="\t")
