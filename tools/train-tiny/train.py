"""Trains the tokenizer and the network; writes tokenizer.json and checkpoint.npz into the folder that corpus.py filled.

A run that was ended goes on from its last checkpoint.

Usage: python3 train.py FOLDER
"""

import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import network

SEED, STEPS = 20, 1600
# Windows of a step, ids of a window, and the share of all steps: short windows are cheaper, long ones teach long positions.
PHASES = [(8, 256, 0.7), (4, 512, 0.3)]
MATRIX_RATE, EMBEDDING_RATE, NORM_RATE, MATRIX_DECAY, WARM_UP, COOL_DOWN = 0.02, 0.003, 0.003, 0.02, 20, 0.625
END_OF_TEXT = "<|endoftext|>"


def train_tokenizer(text: str) -> Tokenizer:
    """Byte-level BPE split by GPT-2's pattern. Id 0 is the end of a chapter; the 256 bytes come next, then the merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=network.VOCAB,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    assert tokenizer.get_vocab_size() == network.VOCAB
    return tokenizer


def training_ids(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """Every chapter's ids between two end-of-text ids."""
    ids = [0]
    for chapter in text.split("\n\n"):
        ids += tokenizer.encode(chapter.rstrip("\n") + "\n\n", add_special_tokens=False).ids + [0]
    return np.array(ids, np.int32)


def orthogonal(matrices):
    """Nearest semi-orthogonal matrices, roughly, by five steps of a quintic Newton-Schulz iteration (Muon)."""
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    x = x / (jnp.linalg.norm(x, axis=(-2, -1), keepdims=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x if wide else x.mT) * max(1.0, matrices.shape[-2] / matrices.shape[-1]) ** 0.5


def rate(step, steps):
    """Warm-up, level, and a linear way down to nothing over the last part."""
    return jnp.minimum(jnp.minimum((step + 1) / WARM_UP, (steps - step) / (steps * COOL_DOWN)), 1.0)


def update(params, state, gradient, step, steps):
    """Muon for the layers' matrices, Adam for the embedding and the norms."""
    factor, out, new = rate(step, steps), {}, {}
    for name, p in params.items():
        g, (first, second) = gradient[name], state[name]
        if name in network.MATRICES:
            first = 0.95 * first + g
            move = orthogonal(g + 0.95 * first)
            out[name] = p * (1 - factor * MATRIX_RATE * MATRIX_DECAY) - factor * MATRIX_RATE * move
        else:
            first, second = 0.9 * first + 0.1 * g, 0.98 * second + 0.02 * g * g
            move = (first / (1 - 0.9 ** (step + 1))) / (jnp.sqrt(second / (1 - 0.98 ** (step + 1))) + 1e-8)
            out[name] = p - factor * (EMBEDDING_RATE if name == "token_embd" else NORM_RATE) * move
        new[name] = (first, second)
    return out, new


def save(path, params, state, step):
    moments = {f"{name}.{i}": m for name, pair in state.items() for i, m in enumerate(pair) if m is not None}
    np.savez(path.with_suffix(".new.npz"), step=step, **params, **moments)
    path.with_suffix(".new.npz").replace(path)


def restored(path, params, state):
    """Parameters, moments and steps done of the checkpoint, or the given ones and 0 where there is none."""
    if not path.exists():
        return params, state, 0
    file = np.load(path)
    for name, pair in state.items():
        state[name] = tuple(None if m is None else jnp.asarray(file[f"{name}.{i}"]) for i, m in enumerate(pair))
    return {name: jnp.asarray(file[name]) for name in params}, state, int(file["step"])


def main():
    folder, steps = Path(sys.argv[1]), STEPS
    text, held_out = (folder / "train.txt").read_text(), (folder / "held_out.txt").read_text()
    tokenizer = train_tokenizer(text)
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = training_ids(tokenizer, text)
    window = network.CONTEXT + 1
    watched = training_ids(tokenizer, held_out)
    watched = watched[: len(watched) // window * window].reshape(-1, window)[:16]
    watched_bytes = len(tokenizer.decode(watched[:, 1:].ravel().tolist()).encode())
    print(f"{len(ids)} training ids, {len(text) / len(ids):.3f} bytes each", flush=True)

    params = network.initial(jax.random.key(SEED))
    state = {name: (jnp.zeros_like(p), None if name in network.MATRICES else jnp.zeros_like(p)) for name, p in params.items()}
    params, state, done = restored(folder / "checkpoint.npz", params, state)
    print(f"{sum(p.size for p in params.values())} parameters", flush=True)

    @jax.jit
    def train_step(params, state, batch, step):
        loss, gradient = jax.value_and_grad(lambda p: network.losses(p, batch).mean())(params)
        return *update(params, state, gradient, step, steps), loss

    @jax.jit
    def held_out_nats(params, batch):
        return network.losses(params, batch).sum()

    random, order, began, recent = np.random.default_rng(SEED), [], time.time(), []
    lengths = None
    for step in range(steps):
        count, length, _ = PHASES[0] if step < steps * PHASES[0][2] else PHASES[1]
        if len(order) < count or lengths != length:  # a new pass over the text, cut at other places
            lengths, start = length, random.integers(length)
            order = list(random.permutation(np.arange(start, len(ids) - length, length)))
        batch = np.stack([ids[at : at + length + 1] for at in (order.pop() for _ in range(count))])
        if step < done:
            continue
        params, state, loss = train_step(params, state, batch, step)
        recent.append(float(loss))
        if (step + 1) % 50 == 0 or step == 4:
            line = f"step {step + 1}: {np.mean(recent[-50:]):.4f} nats, {time.time() - began:.0f} s"
            if (step + 1) % 200 == 0:
                nats = sum(float(held_out_nats(params, part)) for part in watched.reshape(-1, 4, window))
                line += f", held out {nats / watched_bytes / np.log(2):.4f} bits per byte"
            save(folder / "checkpoint.npz", params, state, step + 1)
            print(line, flush=True)


if __name__ == "__main__":
    main()
