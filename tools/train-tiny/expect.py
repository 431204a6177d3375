"""What the finished file must say: writes MODEL.json and copies the excerpt beside MODEL.gguf.

Everything here comes from the file itself, read by the Python package `gguf`, its weights dequantized, and computed in
floating point by network.py; the runtime has no part in it. The runtime rounds activations to 8 bits, so a greedy text is
only a fair test where no choice is close: out of many prompts the one with the widest narrowest margin is taken.

Usage: python3 expect.py FOLDER MODEL.gguf
"""

import hashlib
import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from gguf import GGUFReader, quants
from tokenizers import Tokenizer

import network
import ngram

NEW_TOKENS = 32
# Logits: how far the likeliest token must lie above the second at every step.
MARGIN = 0.05
# Prompts are the openings, this many words long, of this many paragraphs of the held-out text.
OPENING_WORDS, OPENINGS = (2, 3, 4, 5), 400
# Prompts that are kept.
KEPT = 8


def read(path):
    """The file's parameters as network.py wants them, dequantized."""
    tensors = {t.name.removesuffix(".weight"): quants.dequantize(t.data, t.tensor_type) for t in GGUFReader(path).tensors}
    params = {name: jnp.asarray(tensors[name]) for name in ["token_embd", "output_norm"]}
    for name in [*network.MATRICES, "attn_norm", "ffn_norm"]:
        params[name] = jnp.stack([tensors[f"blk.{layer}.{name}"] for layer in range(network.LAYERS)])
    return params


def bits_per_byte(params, ids, text_bytes):
    """Bits per byte of a whole text, every id predicted once.

    The first window opens with end-of-text in place of a context; each later one of CONTEXT ids advances by half, and only
    its second half counts. The test of the runtime does the same.
    """
    sequence, half = np.array([0, *ids], np.int32), network.CONTEXT // 2
    nats = jax.jit(network.losses)
    total = float(nats(params, sequence[None, : network.CONTEXT]).sum())
    for start in range(half, len(sequence) - half, half):
        window = sequence[start : start + network.CONTEXT]
        padded = np.zeros(network.CONTEXT, np.int32)
        padded[: len(window)] = window
        total += float(nats(params, padded[None])[0, half - 1 : len(window) - 1].sum())
    return total / np.log(2) / text_bytes


def greedy(params, tokenizer, prompts):
    """Every prompt whose NEW_TOKENS greedy tokens all lead by MARGIN: text, ids, greedy ids, least margin."""
    ids = [tokenizer.encode(prompt, add_special_tokens=False).ids for prompt in prompts]
    longest = max(map(len, ids)) + NEW_TOKENS
    rows = [(prompt, list(prompt_ids), [], np.inf) for prompt, prompt_ids in zip(prompts, ids)]
    logits = jax.jit(lambda params, ids, last: network.logits(params, ids)[jnp.arange(len(ids)), last])
    for _ in range(NEW_TOKENS):
        padded = 1 << max(0, len(rows) - 1).bit_length()  # few shapes, few compilations
        inputs, last = np.zeros((padded, longest), np.int32), np.zeros(padded, np.int32)
        for i, (_, prompt_ids, new, _) in enumerate(rows):
            last[i] = len(prompt_ids) + len(new) - 1
            inputs[i, : last[i] + 1] = prompt_ids + new
        scores = np.concatenate(
            [np.asarray(logits(params, inputs[at : at + 256], last[at : at + 256])) for at in range(0, padded, 256)]
        )
        kept = []
        for (prompt, prompt_ids, new, least), row in zip(rows, scores):
            second, first = np.argsort(row)[-2:]
            margin = min(least, float(row[first] - row[second]))
            if margin >= MARGIN and first != 0:  # 0: the chapter ends, and there is no more text to compare
                kept.append((prompt, prompt_ids, [*new, int(first)], margin))
        rows = kept
    return rows


def openings(text):
    """Paragraph openings of several lengths, each once, evenly over the text."""
    paragraphs = [p for p in text.split("\n") if len(p.split()) > max(OPENING_WORDS)]
    chosen = paragraphs[:: max(1, len(paragraphs) // OPENINGS)]
    return list(dict.fromkeys(" ".join(p.split()[:words]) for p in chosen for words in OPENING_WORDS))


def varied(answers):
    """KEPT of the answers, each the one with most pairs of tokens that those before it lack: small models go in circles."""
    chosen, seen = [], set()
    pairs = lambda answer: set(zip(answer[2], answer[2][1:]))
    for _ in range(min(KEPT, len(answers))):
        chosen.append(max(answers, key=lambda answer: (len(pairs(answer) - seen), answer[3])))
        seen |= pairs(chosen[-1])
    return chosen


def main():
    folder, path = Path(sys.argv[1]), Path(sys.argv[2])
    params, tokenizer = read(path), Tokenizer.from_file(str(folder / "tokenizer.json"))
    excerpt = (folder / "excerpt.txt").read_text()
    held_out = (folder / "held_out.txt").read_text()
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    clear = greedy(params, tokenizer, openings(held_out))
    assert clear, "no prompt has clear choices all the way"
    chosen = varied(clear)
    print(f"{len(clear)} prompts have clear choices all the way")
    for prompt, _, new, margin in chosen:
        print(f"{margin:.3f} {prompt!r} -> {tokenizer.decode(new, skip_special_tokens=False)!r}")
    rivals = ngram.bits_per_byte(folder, [excerpt, held_out])
    report = {
        "model_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "excerpt_sha256": hashlib.sha256(excerpt.encode()).hexdigest(),
        "text": "Jane Austen's six novels as in Debian's r-cran-janeaustenr 1.0.0-1, prepared by tools/train-tiny/corpus.py",
        "text_license": "public domain",
        "excerpt_bits_per_byte": {
            "model_in_floating_point": round(bits_per_byte(params, encode(excerpt), len(excerpt.encode())), 4),
            **{f"kneser_ney_{name}": round(figures[0], 4) for name, figures in rivals.items()},
        },
        "held_out_bits_per_byte": {
            "model_in_floating_point": round(bits_per_byte(params, encode(held_out), len(held_out.encode())), 4),
            **{f"kneser_ney_{name}": round(figures[1], 4) for name, figures in rivals.items()},
        },
        "excerpt_ids": len(encode(excerpt)),
        "greedy": [
            {
                "prompt": prompt,
                "prompt_ids": prompt_ids,
                "ids": new,
                "text": tokenizer.decode(new, skip_special_tokens=False),
                "least_margin": round(margin, 4),
            }
            for prompt, prompt_ids, new, margin in chosen
        ],
    }
    lines = re.sub(r"\[[\d,\s]+\]", lambda ids: " ".join(ids[0].split()), json.dumps(report, indent=2))
    path.with_suffix(".json").write_text(lines + "\n")
    path.with_suffix(".excerpt.txt").write_text(excerpt)
    print(lines)


if __name__ == "__main__":
    main()
