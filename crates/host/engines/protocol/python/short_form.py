"""The short form: a prompt and how often, answered with what it took; fields and defaults as in `docs/llm/PROTOCOL.md`."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import barelm_protocol as protocol
import gguf_header

MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
COUNTS = {"iterations": 100, "warmup": 1, "max_tokens": 32, "threads": None}


class Wrong(Exception):
    """The line cannot be answered; why, for a person."""


def is_short(line):
    """Whether a line is of the short form."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and "type" not in value and ("prompt" in value or "prompt_ids" in value)


def default_model():
    """`$BARELM_MODEL`, else the model that `cargo xtask setup` fetched."""
    if path := os.environ.get("BARELM_MODEL"):
        return path
    home = Path(os.environ.get("HOME", "."))
    cache = os.environ.get("BARELM_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "barelm"
    return str(Path(cache) / MODEL_FILE)


def tokenize(model, text):
    """Ids of a text, by the program `barelm`: beside our launcher, or on the search path."""
    program = os.environ.get("BARELM") or shutil.which("barelm")
    if not program:
        raise Wrong("a text is tokenized by the program `barelm`, which is not on the search path; set BARELM, or give `prompt_ids`")
    line = json.dumps({"text": text}) + "\n"
    command = [program, "tokenize", model, "--jsonl"]
    try:
        result = subprocess.run(command, input=line, capture_output=True, text=True)
    except OSError as error:
        raise Wrong(f"a text is tokenized by the program `barelm`: {program}: {error.strerror}; set BARELM, or give `prompt_ids`") from None
    if result.returncode != 0:
        raise Wrong(result.stderr.strip() or f"{program} failed")
    return json.loads(result.stdout)["ids"]


def parse(line):
    """Fields of a line, with their defaults."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Wrong(f"not a request: {error}") from None
    if not isinstance(fields, dict):
        raise Wrong('a request is an object such as {"prompt":"Hello","iterations":100}')
    known = {"prompt", "prompt_ids", "model", *COUNTS}
    if unknown := sorted(fields.keys() - known):
        raise Wrong(f"no field is named `{unknown[0]}`; there are {', '.join(sorted(known))}")
    for name, default in COUNTS.items():
        value = fields.setdefault(name, default)
        least = 0 if name == "warmup" else 1
        if value is not default and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise Wrong(f"{name}: a whole number from {least} is wanted")
    text, ids = fields.get("prompt"), fields.get("prompt_ids")
    good_text = ids is None and isinstance(text, str) and text
    good_ids = text is None and isinstance(ids, list) and ids
    if not (good_text or good_ids):
        raise Wrong("give either `prompt`, a text, or `prompt_ids`, a list, and not empty")
    if good_ids and any(isinstance(id, bool) or not isinstance(id, int) or id < 0 for id in ids):
        raise Wrong("prompt_ids: not token ids")
    return fields


def run_once(model, prompt, max_tokens):
    """Nanoseconds to the first token and in all, and the tokens."""
    begun, first, ids = time.monotonic_ns(), None, []
    run = model.generate(prompt, max_tokens)
    for token in run:
        first = first or time.monotonic_ns()
        ids.append(token)
        if len(ids) == max_tokens:
            break
    run.close()
    if len(ids) != max_tokens:
        raise Wrong(f"the engine stopped after {len(ids)} of {max_tokens} tokens")
    return first - begun, time.monotonic_ns() - begun, ids


def quantile(values, part):
    """Between the two nearest, as the Rust side does it."""
    place = part * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def distribution(values):
    """The words for many values."""
    values = sorted(values)
    mean = sum(values) / len(values)
    spread = (sum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1)) ** 0.5
    whole = {"mean": mean, "min": values[0], "max": values[-1], "stddev": spread, "cv": spread / mean if mean else 0.0}
    parts = {"median": 0.5, "p90": 0.9, "p99": 0.99}
    return whole | {"samples": len(values)} | {name: quantile(values, part) for name, part in parts.items()}


def measure(backend, line, again):
    """The answer to a line; `again` is the input from it on."""
    fields = parse(line)
    hello = backend.hello()
    if why := hello.get("unavailable"):
        raise Wrong(f"unavailable: {why}")
    path = fields.get("model") or default_model()
    if not isinstance(path, str) or not os.path.isfile(path):
        raise Wrong(f"{path}: no such file")
    try:
        header = gguf_header.Header.read(path)
    except gguf_header.NotGguf as error:
        raise Wrong(f"{path}: {error}") from None
    prompt = fields.get("prompt_ids") or header.with_bos(tokenize(path, fields["prompt"]))
    threads, max_tokens = fields["threads"] or len(os.sched_getaffinity(0)), fields["max_tokens"]
    begun = time.monotonic_ns()
    load = protocol.Load(model=path, threads=threads, context=len(prompt) + max_tokens)
    model = backend.load(load, lambda: again)
    load_ns = time.monotonic_ns() - begun
    try:
        if outside := [id for id in prompt if id >= model.vocab_size]:
            raise Wrong(f"token id {outside[0]} is not below {model.vocab_size}")
        runs = [run_once(model, prompt, max_tokens) for _ in range(fields["warmup"] + fields["iterations"])]
    finally:
        model.close()
    runs = runs[fields["warmup"] :]
    if any(ids != runs[0][2] for _, _, ids in runs):
        raise Wrong("two iterations gave different tokens")

    def of(value):
        return distribution([value(*run) for run in runs])

    return {
        "engine": hello["engine"],
        "version": hello["version"],
        "device": hello["device"],
        "prompt_tokens": len(prompt),
        "tokens": max_tokens,
        "iterations": len(runs),
        "warmup": fields["warmup"],
        "threads": threads,
        "load_ms": load_ns / 1e6,
        "latency_ms": of(lambda first, all, _: all / 1e6),
        "ttft_ms": of(lambda first, all, _: first / 1e6),
        "tpot_ms": of(lambda first, all, _: (all - first) / 1e6 / (max_tokens - 1)) if max_tokens > 1 else None,
        "tokens_per_s": of(lambda first, all, _: max_tokens / all * 1e9),
        "prompt_tokens_per_s": of(lambda first, all, _: len(prompt) / first * 1e9),
        "memory": {"peak_resident_bytes": protocol.memory().get("peak_rss")},
        "model": {"file": path, "file_bytes": os.path.getsize(path)},
        "settings": hello["settings"],
        "ids": runs[0][2],
        "text": header.decode(runs[0][2]),
    }
