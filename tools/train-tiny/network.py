"""The network, in plain floating point: what the runtime must agree with.

A Llama-style decoder: RMSNorm, rotary positions on interleaved pairs (2i, 2i+1), grouped-query attention, SwiGLU, and an
output head tied to the embedding. Parameters are a dict of arrays; those of the layers are stacked on axis 0, and every
matrix is [rows, columns] with y = W x, as GGUF stores it.
"""

import jax
import jax.numpy as jnp

DIM, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FFN, VOCAB = 192, 4, 6, 2, 32, 384, 2048
CONTEXT = 512
ROPE_BASE, EPSILON = 10_000.0, 1e-5

MATRICES = {
    "attn_q": (HEADS * HEAD_DIM, DIM),
    "attn_k": (KV_HEADS * HEAD_DIM, DIM),
    "attn_v": (KV_HEADS * HEAD_DIM, DIM),
    "attn_output": (DIM, HEADS * HEAD_DIM),
    "ffn_gate": (FFN, DIM),
    "ffn_up": (FFN, DIM),
    "ffn_down": (DIM, FFN),
}


def initial(key):
    """Random parameters: uniform by fan-in, outputs of the residual branches zero."""
    params = {"attn_norm": jnp.ones((LAYERS, DIM)), "ffn_norm": jnp.ones((LAYERS, DIM)), "output_norm": jnp.ones(DIM)}
    for name, (rows, columns) in MATRICES.items():
        key, use = jax.random.split(key)
        bound = 0.0 if name in ("attn_output", "ffn_down") else (3.0 / columns) ** 0.5
        params[name] = jax.random.uniform(use, (LAYERS, rows, columns), minval=-bound, maxval=bound)
    params["token_embd"] = 0.02 * jax.random.normal(key, (VOCAB, DIM))
    return params


def rms_norm(x, weight):
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + EPSILON) * weight


def rotate(x, cos, sin):
    """`x` is [batch, position, head, HEAD_DIM]; `cos` and `sin` are [position, 1, HEAD_DIM / 2]."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)


def logits(params, ids):
    """[batch, position] ids to [batch, position, VOCAB] logits, causal."""
    batch, length = ids.shape
    frequency = ROPE_BASE ** (-jnp.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    angle = (jnp.arange(length)[:, None] * frequency)[:, None, :]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    visible = jnp.tril(jnp.ones((length, length), bool))

    def layer(x, w):
        h = rms_norm(x, w["attn_norm"])
        q = rotate((h @ w["attn_q"].T).reshape(batch, length, HEADS, HEAD_DIM), cos, sin)
        k = rotate((h @ w["attn_k"].T).reshape(batch, length, KV_HEADS, HEAD_DIM), cos, sin)
        v = (h @ w["attn_v"].T).reshape(batch, length, KV_HEADS, HEAD_DIM)
        q = q.reshape(batch, length, KV_HEADS, HEADS // KV_HEADS, HEAD_DIM)
        scores = jnp.einsum("bqhgd,bkhd->bhgqk", q, k) * HEAD_DIM**-0.5
        weights = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf), axis=-1)
        mixed = jnp.einsum("bhgqk,bkhd->bqhgd", weights, v).reshape(batch, length, HEADS * HEAD_DIM)
        x = x + mixed @ w["attn_output"].T
        h = rms_norm(x, w["ffn_norm"])
        x = x + (jax.nn.silu(h @ w["ffn_gate"].T) * (h @ w["ffn_up"].T)) @ w["ffn_down"].T
        return x, None

    layers = {name: params[name] for name in [*MATRICES, "attn_norm", "ffn_norm"]}
    x, _ = jax.lax.scan(layer, params["token_embd"][ids], layers)
    return rms_norm(x, params["output_norm"]) @ params["token_embd"].T


def losses(params, ids):
    """Negative log-likelihoods in nats of ids[:, 1:], [batch, position]."""
    predicted = jax.nn.log_softmax(logits(params, ids[:, :-1]), axis=-1)
    return -jnp.take_along_axis(predicted, ids[:, 1:, None], axis=-1)[..., 0]
