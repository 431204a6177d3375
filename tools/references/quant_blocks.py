#!/usr/bin/env python3
"""Writes crates/kernel/tests/data/quant_blocks.bin: blocks of every type, and what PyPI `gguf` makes of them.

    python3 -m venv V && V/bin/pip install gguf==0.19.0 numpy==2.4.6
    V/bin/python tools/references/quant_blocks.py

The file, little-endian: one line of text; u32 number of types; per type u32 number (as in GGUF), u32 blocks, u32 bytes
of a block, then per block its bytes and the u64 FNV-1a of its dequantized f32 bytes. A block of a float type is 32 values here.
Then u32 groups of 32 f32 and their values; u32 number of types; per type u32 number and per group the u64 FNV-1a of
its quantized bytes. Blocks 64 and later, and groups 64 and later, are extremes. Scales are finite.
"""
import pathlib
import struct

import numpy as np
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as T

TYPES = [T.F32, T.F16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q4_K, T.Q5_K, T.Q6_K, T.BF16]
MADE = [T.F16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.BF16]
SCALES = {  # where a block has f16 numbers
    T.Q4_0: [0], T.Q5_0: [0], T.Q8_0: [0], T.Q4_1: [0, 2], T.Q5_1: [0, 2], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
}
# 0, -0, +-largest, +-smallest subnormal, largest subnormal, smallest normal, +-1, f16 bits.
EXTREME_F16 = [0x0000, 0x8000, 0x7BFF, 0xFBFF, 0x0001, 0x8001, 0x03FF, 0x0400, 0x3C00, 0xBC00]
EXTREME_F32 = [0, 0x80000000, 0x7F7FFFFF, 0xFF7FFFFF, 1, 0x80000001, 0x007FFFFF, 0x00800000, 0x3F800000, 0xBF800000]
FILLS = [0x00, 0xFF, 0x80, 0x7F, 0x88, 0x0F, 0xF0]


def fnv(data):
    h = 0xCBF29CE484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return struct.pack("<Q", h)


def float_block(rng, ty, extreme):
    width = {T.F32: 4, T.F16: 2, T.BF16: 2}[ty]
    dtype = {4: "<u4", 2: "<u2"}[width]
    exponent = {T.F32: 0x7F800000, T.F16: 0x7C00, T.BF16: 0x7F80}[ty]
    if extreme:
        table = {T.F32: EXTREME_F32, T.F16: EXTREME_F16, T.BF16: [bits >> 16 for bits in EXTREME_F32]}[ty]
        bits = rng.choice(np.array(table, dtype=dtype), 32)
    else:
        bits = rng.integers(0, 1 << 8 * width, 32, dtype=np.uint64).astype(dtype)
        not_finite = bits & exponent == exponent
        bits[not_finite] ^= np.array(exponent & -exponent, dtype=dtype)
    return bits.astype(dtype).tobytes()


def quantized_block(rng, ty, index):
    size = GGML_QUANT_SIZES[ty][1]
    block = bytearray(rng.integers(0, 256, size, dtype=np.uint8).tobytes())
    if index >= 64 and index % 8 < 7:
        block = bytearray([FILLS[index % 8]] * size)
    for n, at in enumerate(SCALES[ty]):
        if index >= 64:
            scale = EXTREME_F16[(index - 64 + n * (index // 10 + 1)) % len(EXTREME_F16)]
        else:
            scale = int(np.float16(rng.normal() * 0.05).view(np.uint16))
        struct.pack_into("<H", block, at, scale)
    return bytes(block)


def dequantized(ty, block):
    data = np.frombuffer(block, dtype=np.uint8)
    if ty == T.F32:
        values = data.view("<f4")
    elif ty == T.F16:
        values = data.view("<f2").astype(np.float32)
    else:
        values = quants.dequantize(data, ty)
    assert values.dtype == np.float32 and np.isfinite(values).all()
    return values.tobytes()


def groups(rng):
    """Values to quantize: normal ones, then zeros, one value, alternating signs, ties, wide ranges and tiny numbers."""
    for scale in np.geomspace(1e-3, 1e3, 64):
        yield rng.normal(size=32) * scale
    for size in [1e-3, 0.5, 1.0, 8.0, 127.0, 1000.0, 60000.0, 3e-5]:
        yield np.zeros(32) * size
        yield np.full(32, size)
        yield np.full(32, -size)
        yield np.where(np.arange(32) % 2 == 0, size, -size)
        yield np.where(np.arange(32) % 2 == 0, -size, size)
        yield np.where(np.arange(32) == 17, size, 0)
        yield (np.arange(32) - 16) / 16 * size
        yield np.exp2(-rng.integers(0, 20, 32)) * size


def main():
    rng = np.random.default_rng(20)
    out = bytearray(b"Made with PyPI gguf 0.19.0 and numpy 2.4.6 by tools/references/quant_blocks.py\n")
    out += struct.pack("<I", len(TYPES))
    for ty in TYPES:
        blocks = [
            quantized_block(rng, ty, i) if ty in SCALES else float_block(rng, ty, i >= 64) for i in range(128)
        ]
        out += struct.pack("<III", ty, len(blocks), len(blocks[0]))
        for block in blocks:
            out += block + fnv(dequantized(ty, block))
    values = np.array(list(groups(rng)), dtype="<f4")
    out += struct.pack("<I", len(values)) + values.tobytes() + struct.pack("<I", len(MADE))
    for ty in MADE:
        out += struct.pack("<I", ty)
        for group in values:
            made = group.astype("<f2") if ty == T.F16 else quants.quantize(group, ty)
            out += fnv(made.tobytes())
    root = pathlib.Path(__file__).resolve().parents[2]
    (root / "crates/kernel/tests/data/quant_blocks.bin").write_bytes(out)


if __name__ == "__main__":
    main()
