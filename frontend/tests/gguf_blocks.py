"""Writes gguf_blocks.safetensors: blocks of every GGUF encoding and what the `gguf` package decodes.

    pip install gguf numpy safetensors && python frontend/tests/gguf_blocks.py

Per encoding NAME two tensors: NAME.bytes (u8, three random blocks whose f16 scales are finite) and
NAME.values (f32, by gguf.quants.dequantize, an implementation that shares no code with sparkc).
"""

from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file

# Byte offsets of the f16 fields of a block (ggml-common.h).
SCALES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "IQ4_NL": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}
BLOCKS = 3


def main() -> None:
    rng = np.random.default_rng(0)
    tensors = {}
    for name, fields in SCALES.items():
        kind = gguf.GGMLQuantizationType[name]
        _, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
        for at in fields:
            scale = rng.normal(0, 0.05, BLOCKS).astype(np.float16)
            blocks[:, at : at + 2] = scale[:, None].view(np.uint8)
        tensors[f"{name}.bytes"] = blocks.reshape(-1)
        values = gguf.quants.dequantize(blocks, kind)
        tensors[f"{name}.values"] = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
    save_file(tensors, Path(__file__).with_suffix(".safetensors"))


main()
