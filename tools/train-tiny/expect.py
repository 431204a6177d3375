"""What the finished file must say: writes MODEL.json and copies the excerpt beside MODEL.gguf.

Everything here comes from the file itself, read by the Python package `gguf`, its weights dequantized, and computed in
floating point by network.py; the runtime has no part in it. The runtime rounds activations to 8 bits, so a greedy text is
only a fair test where no choice is close: out of many prompts the one with the widest narrowest margin is taken.

Usage: python3 expect.py FOLDER MODEL.gguf
"""

import hashlib
import json
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
MARGIN = 0.1
# Prompts are the openings, this many words long, of this many paragraphs of the held-out text.
OPENING_WORDS, OPENINGS = (2, 3, 4, 5), 150


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
    """For every prompt its ids, NEW_TOKENS greedy ids, and the least margin on the way; all in one batch."""
    ids = [tokenizer.encode(prompt, add_special_tokens=False).ids for prompt in prompts]
    rows = np.zeros((len(ids), max(map(len, ids)) + NEW_TOKENS), np.int32)
    for row, prompt in zip(rows, ids):
        row[: len(prompt)] = prompt
    logits, lengths, least = jax.jit(network.logits), [len(prompt) for prompt in ids], [np.inf] * len(ids)
    for _ in range(NEW_TOKENS):
        scores = np.asarray(logits(params, rows))
        for i, length in enumerate(lengths):
            order = np.argsort(scores[i, length - 1])
            least[i] = min(least[i], float(scores[i, length - 1, order[-1]] - scores[i, length - 1, order[-2]]))
            rows[i, length] = order[-1]
            lengths[i] = length + 1
    for prompt, prompt_ids, row, end, margin in zip(prompts, ids, rows, lengths, least):
        yield prompt, prompt_ids, row[len(prompt_ids) : end].tolist(), margin


def openings(text):
    """Paragraph openings of several lengths, each once, evenly over the text."""
    paragraphs = [p for p in text.split("\n") if len(p.split()) > max(OPENING_WORDS)]
    chosen = paragraphs[:: max(1, len(paragraphs) // OPENINGS)]
    return list(dict.fromkeys(" ".join(p.split()[:words]) for p in chosen for words in OPENING_WORDS))


def main():
    folder, path = Path(sys.argv[1]), Path(sys.argv[2])
    params, tokenizer = read(path), Tokenizer.from_file(str(folder / "tokenizer.json"))
    excerpt = (folder / "excerpt.txt").read_text()
    held_out = (folder / "held_out.txt").read_text()
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    answers = sorted(greedy(params, tokenizer, openings(held_out)), key=lambda answer: -answer[3])
    for prompt, _, new, margin in answers[:60]:
        print(f"{margin:.3f} {prompt!r} -> {tokenizer.decode(new, skip_special_tokens=False)!r}")
    # A chapter that ends, or a text that goes round in circles, makes a poor example.
    clear = [answer for answer in answers if answer[3] >= MARGIN and 0 not in answer[2]]
    clear.sort(key=lambda answer: (-len(set(answer[2])), -answer[3]))
    assert clear, "no prompt has clear choices all the way"
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
            for prompt, prompt_ids, new, margin in clear[:3]
        ],
    }
    path.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
    path.with_suffix(".excerpt.txt").write_text(excerpt)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
