"""Single operations: the same inputs, the same timing and the same checksum as every engine's (`docs/llm/PROTOCOL.md`).

Needs numpy, which engines that compute in Python have.
"""

import numpy

import barelm_protocol as protocol

# Seed of the weights of a checksum.
CHECK_SEED = 99
# Samples that are taken however long they take, and the least that one lasts.
LEAST_SAMPLES, LEAST_SAMPLE_NS = 3, 20_000
# Part of the time to measure that one sample lasts.
SAMPLE_SHARE = 200


def inputs(seed, count):
    """`count` numbers in [-1, 1) of SplitMix64, each exact in f32."""
    step = numpy.uint64(0x9E3779B97F4A7C15)
    with numpy.errstate(over="ignore"):
        z = numpy.uint64(seed) + numpy.arange(1, count + 1, dtype=numpy.uint64) * step
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        z ^= z >> numpy.uint64(31)
    return ((z >> numpy.uint64(40)).astype(numpy.float64) / 2**23 - 1).astype(numpy.float32)


def checksum(result):
    """The sum of a result's elements, each times its number among the inputs of seed 99."""
    result = numpy.asarray(result, dtype=numpy.float32).ravel()
    return float(result.astype(numpy.float64) @ inputs(CHECK_SEED, result.size).astype(numpy.float64))


def size(params, name, default):
    """A size: what the request says, or this."""
    value = params.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1 << 32:
        raise protocol.Refused(f"params.{name}: a whole number from 1 to 2^32 is wanted, not {value!r}")
    return value


def time(min_ns, call):
    """Nanoseconds of one call in each sample, and calls in a sample, behind a warm-up of a tenth of the time."""
    begun = protocol.now_ns()
    while True:
        start = protocol.now_ns()
        call()
        # The first call may take much longer than any other.
        call_ns = max(protocol.now_ns() - start, 1)
        if protocol.now_ns() - begun >= min_ns // 10:
            break
    iterations = max(-(-max(LEAST_SAMPLE_NS, min_ns // SAMPLE_SHARE) // call_ns), 1)
    samples, begun = [], protocol.now_ns()
    while len(samples) < LEAST_SAMPLES or protocol.now_ns() - begun < min_ns:
        start = protocol.now_ns()
        for _ in range(iterations):
            call()
        samples.append((protocol.now_ns() - start) / iterations)
    return samples, iterations
