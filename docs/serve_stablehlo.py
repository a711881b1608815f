"""Labels texts with an exported folder: python serve_stablehlo.py FOLDER TEXT ... (needs jax, flatbuffers, safetensors
and tokenizers). Texts are padded to a multiple of 32 tokens, because every new length is compiled once."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

folder, texts = Path(sys.argv[1]), sys.argv[2:]
config, limits = (json.loads((folder / f).read_text("utf-8")) for f in ("config.json", "tokenizer_config.json"))
tokenizer, limit = Tokenizer.from_file(str(folder / "tokenizer.json")), limits["model_max_length"]
tokenizer.enable_truncation(limit)
tokenizer.enable_padding(pad_id=config["pad_token_id"], pad_to_multiple_of=32)
program = jax.export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
weights = jax.device_put([array for _, array in sorted(load_file(folder / "model.safetensors").items())])
rows, fields = tokenizer.encode_batch(texts), ("ids", "attention_mask", "type_ids")
batch = [np.array([getattr(row, field) for row in rows], np.int32)[:, :limit] for field in fields]
logits, *depths = jax.tree.leaves(jax.jit(program.call)(weights, *batch))
for number, text in enumerate(texts):
    label = config["id2label"][str(logits[number].argmax())]
    print(label, *[f"after {depth[number]} layers" for depth in depths], text, sep="\t")
