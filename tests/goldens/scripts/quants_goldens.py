"""Writes tests/goldens/quants/<TYPE>.json: blocks of each GGUF element type and what they decode to.

The reference is gguf-py's dequantize. Blocks are random bytes with sane half-precision scales, so that every bit of a
layout matters. Needs: pip install gguf numpy. Run from the repository's root.
"""

import json
import pathlib

import gguf
import numpy

BLOCKS = 3
# Byte offsets of the half-precision scales within a block.
SCALES = {
    "F16": None,
    "BF16": None,
    "F32": None,
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
}


def main():
    random = numpy.random.default_rng(7)
    directory = pathlib.Path("tests/goldens/quants")
    directory.mkdir(parents=True, exist_ok=True)
    for name, scales in SCALES.items():
        kind = gguf.GGMLQuantizationType[name]
        _, size = gguf.GGML_QUANT_SIZES[kind]
        if scales is None:
            values = random.normal(size=16).astype(numpy.float32)
            raw = {
                "F32": lambda: values,
                "F16": lambda: values.astype(numpy.float16),
                "BF16": lambda: (values.view(numpy.uint32) >> 16).astype(numpy.uint16),
            }[name]()
            blocks = numpy.frombuffer(raw.tobytes(), numpy.uint8)
        else:
            blocks = random.integers(0, 256, size=(BLOCKS, size), dtype=numpy.uint8)
            for offset in scales:
                halves = random.normal(scale=0.05, size=BLOCKS).astype(numpy.float16)
                blocks[:, offset : offset + 2] = halves.view(numpy.uint8).reshape(BLOCKS, 2)
            blocks = blocks.reshape(-1)
        data = blocks.view(numpy.float16) if name == "F16" else blocks.view(numpy.float32) if name == "F32" else blocks
        decoded = gguf.quants.dequantize(data, kind).astype(numpy.float32).reshape(-1)
        golden = {"bytes": blocks.tobytes().hex(), "bits": [int(bits) for bits in decoded.view(numpy.uint32)]}
        (directory / f"{name}.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
