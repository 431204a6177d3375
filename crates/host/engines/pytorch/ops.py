"""Single operations as a user of torch writes them: one call of `torch` or `torch.nn.functional` each, F32, results allocated
by torch. A call from Python costs about a microsecond, which is part of what a user gets."""

import math

import torch
import torch.nn.functional as F

import barelm_protocol as protocol
import operations
from operations import size

EPSILON = 1e-5


def pair(params, call):
    n = size(params, "n", 384)
    x, y = tensors([n], [n])
    return lambda: call(x, y)


def tensors(*shapes):
    """An operation's inputs, seeds 1, 2, 3."""
    made = []
    for seed, shape in enumerate(shapes, 1):
        made.append(torch.from_numpy(operations.inputs(seed, math.prod(shape))).reshape(shape).to(DEVICE.name))
    return made


class DEVICE:
    """Where tensors live."""

    name = "cpu"


def matvec(params):
    rows, k = size(params, "rows", 384), size(params, "k", 384)
    weights, x = tensors([rows, k], [k])
    return lambda: torch.mv(weights, x)


def matmul(params):
    batch, m, n, k = (size(params, name, least) for name, least in (("batch", 1), ("m", 64), ("n", 384), ("k", 384)))
    a, b = tensors([batch, m, k], [batch, k, n])
    if batch == 1:
        a, b = a[0], b[0]
    return lambda: torch.matmul(a, b)


def rows(params, call):
    count, n = size(params, "rows", 1), size(params, "n", 384)
    x, weight, bias = tensors([count, n], [n], [n])
    return lambda: call(x, weight, bias)


def attention(params):
    heads, queries = size(params, "heads", 9), size(params, "queries", 1)
    positions, head_dim = size(params, "positions", 256), size(params, "head_dim", 64)
    if queries > positions:
        raise protocol.Refused("queries: at most as many as positions")
    q, k, v = tensors([1, heads, queries, head_dim], *[[1, heads, positions, head_dim]] * 2)
    if queries == 1:
        return lambda: F.scaled_dot_product_attention(q, k, v)
    if queries == positions:
        return lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)
    # The last query sees the last position; torch's own causal mask has it see the first.
    mask = torch.ones(queries, positions, dtype=torch.bool, device=DEVICE.name).tril(positions - queries)
    return lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


OPS = {
    "dot_product": lambda params: pair(params, torch.dot),
    "matvec_384": matvec,
    "matvec_f32": matvec,
    "matmul": matmul,
    "rms_norm": lambda params: rows(params, lambda x, weight, _: F.rms_norm(x, x.shape[-1:], weight, EPSILON)),
    "layer_norm": lambda params: rows(params, lambda x, weight, bias: F.layer_norm(x, x.shape[-1:], weight, bias, EPSILON)),
    "softmax": lambda params: rows(params, lambda x, _weight, _bias: F.softmax(x, -1)),
    "add": lambda params: pair(params, torch.add),
    "silu_mul": lambda params: pair(params, lambda gate, up: F.silu(gate) * up),
    "gelu": lambda params: pair(params, lambda x, _: F.gelu(x, approximate="tanh")),
    "attention": attention,
}


def run(name, params, min_ns, device):
    """Times an operation."""
    if name not in OPS:
        quantized = "torch has no arithmetic on GGML's blocks" if "q4" in name or "q8" in name or "_k" in name else None
        raise protocol.NotExpressible(quantized or f"`{name}` is not among this engine's operations")
    DEVICE.name = device
    torch.set_num_threads(size(params, "threads", torch.get_num_threads()))
    with torch.inference_mode():
        call = OPS[name](params)
        timed = call
        if device == "cuda":

            def timed():
                call()
                torch.cuda.synchronize()

        samples, iterations = operations.time(min_ns, timed)
        check = operations.checksum(call().cpu().numpy())
    return {"samples_ns": samples, "iterations": iterations, "check": check}
