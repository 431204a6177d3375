#!/usr/bin/env python3
"""Makes small reference files from raw logits of llama.cpp.

    tools/references/compact_logits.py INPUT_FOLDER OUTPUT_FOLDER

INPUT_FOLDER holds `prompt.json` ({"ids": [...], "vocab": N}) and, for each model type, `TYPE.f32` or `TYPE.f16`:
little-endian logits [position x vocab] of those ids, all from one batch.

OUTPUT_FOLDER gets `prompt.json` and one `TYPE.top` per input. It holds, for each position, 1,025 pairs of a u32 and an
f32, little-endian: the 1,024 likeliest ids with their natural log-probabilities, and 0xffffffff with the logarithm of
the probability that all other ids share. Distributions over these events have a KL divergence that is at most that over
the whole vocabulary; both are printed for each type against f32, so that what the bucket hides is known.
"""

import json
import math
import struct
import sys
from pathlib import Path

TOP = 1024
REST = 0xFFFF_FFFF


def read_logits(path, vocab):
    """Rows of floats from a raw file; its extension names the storage."""
    raw = path.read_bytes()
    code, size = {".f32": ("f", 4), ".f16": ("e", 2)}[path.suffix]
    if len(raw) % (vocab * size) != 0:
        sys.exit(f"{path}: {len(raw)} bytes are not rows of {vocab} x {size} bytes")
    row = struct.Struct(f"<{vocab}{code}")
    return [list(values) for values in row.iter_unpack(raw)]


def log_softmax(logits):
    """Log-probabilities in double precision."""
    top = max(logits)
    norm = top + math.log(math.fsum(math.exp(x - top) for x in logits))
    return [x - norm for x in logits]


def kl(p, q):
    """KL divergence in nats of two lists of log-probabilities."""
    return math.fsum(math.exp(a) * (a - b) for a, b in zip(p, q))


def bucket(log_probs, ids):
    """The log-probabilities of `ids` and, last, that of everything else together."""
    chosen = set(ids)
    rest = math.fsum(math.exp(p) for i, p in enumerate(log_probs) if i not in chosen)
    return [log_probs[i] for i in ids] + [math.log(max(rest, 1e-300))]


def top_ids(log_probs):
    return sorted(range(len(log_probs)), key=lambda i: (-log_probs[i], i))[:TOP]


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    prompt = json.loads((source / "prompt.json").read_text())
    target.mkdir(parents=True, exist_ok=True)
    (target / "prompt.json").write_text(json.dumps(prompt) + "\n")
    types = {}
    for path in sorted(source.iterdir()):
        if path.suffix in (".f32", ".f16"):
            rows = read_logits(path, prompt["vocab"])
            if len(rows) != len(prompt["ids"]):
                sys.exit(f"{path}: {len(rows)} positions, but {len(prompt['ids'])} ids")
            types[path.stem] = [log_softmax(row) for row in rows]
    for name, rows in types.items():
        with open(target / f"{name}.top", "wb") as out:
            for row in rows:
                ids = top_ids(row)
                for pair in zip(ids + [REST], bucket(row, ids)):
                    out.write(struct.pack("<If", *pair))
        exact = types.get("f32", rows)
        full = math.fsum(kl(p, q) for p, q in zip(exact, rows)) / len(rows)
        over_top = math.fsum(kl(bucket(p, top_ids(p)), bucket(q, top_ids(p))) for p, q in zip(exact, rows))
        print(f"{name}: mean KL(f32 || {name}) {full:.6f} over all ids, {over_top / len(rows):.6f} over the top {TOP} and the rest")


if __name__ == "__main__":
    main()
