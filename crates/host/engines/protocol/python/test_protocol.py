"""The Python side of the protocol, with an engine that counts: no packages are needed."""

import contextlib
import io
import json
import os
import struct
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import barelm_protocol as protocol
import gguf_header
import short_form

TINY = Path(__file__).resolve().parents[4] / "kernel" / "assets" / "tiny.gguf"


class Counting(protocol.Model):
    """Continues 5 by 6, 7, …; ten ids, of which 8 ends a text."""

    vocab_size, context = 10, 64

    def __init__(self, delay):
        self.delay = delay

    def generate(self, prompt_ids, max_tokens):
        token = prompt_ids[-1]
        for _ in range(max_tokens):
            time.sleep(self.delay)
            token = (token + 1) % 10
            yield token

    def ends(self, token):
        return token == 8


class Counters(protocol.Backend):
    def __init__(self, delay=0.0, max_in_flight=1, failure=None):
        self.delay, self.max_in_flight, self.failure = delay, max_in_flight, failure

    def hello(self):
        return {"engine": "counting", "version": "1", "device": "cpu", "settings": {}} | (self.failure or {})

    def load(self, load, again):
        if load.threads == 3:
            raise MemoryError("no room")
        return Counting(self.delay)


LOAD = json.dumps({"type": "load", "model": str(TINY), "threads": 1, "context": 64})


def submit(id, prompt=(4,), max_tokens=3, **more):
    return json.dumps({"type": "submit", "id": id, "prompt_ids": list(prompt), "max_tokens": max_tokens} | more)


@contextlib.contextmanager
def session(backend):
    """A session over pipes: a function that says a line and one that hears one."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    conversation = protocol.Session(backend, theirs_in, theirs_out)
    thread = threading.Thread(target=conversation.serve)
    thread.start()
    with os.fdopen(ours_out, "wb", buffering=0) as out, os.fdopen(ours_in, "rb") as replies:
        yield (lambda *lines: out.write(b"".join(l.encode() + b"\n" for l in lines))), (lambda: json.loads(replies.readline()))
        out.close()
        thread.join(10)
        assert not thread.is_alive(), "the engine ends with its input"
    os.close(theirs_in)
    os.close(theirs_out)


def answer(hear):
    """Tokens' times, and the end."""
    times = []
    while (reply := hear())["type"] == "token":
        times.append(reply["t_ns"])
    return times, reply


class Sessions(unittest.TestCase):
    def test_a_prompt_is_continued_and_every_token_has_its_time(self):
        with session(Counters(delay=0.01)) as (say, hear):
            say(LOAD)
            self.assertEqual(hear()["vocab_size"], 10)
            for stream in (True, False):
                begun = protocol.now_ns()
                say(submit(7, stream=stream))
                times, done = answer(hear)
                self.assertEqual((done["id"], done["ids"], done["finish"]), (7, [5, 6, 7], "length"))
                self.assertEqual(done["decode_ns"], times[2] - times[0])
                self.assertGreaterEqual(done["decode_ns"], 20_000_000)
                self.assertLessEqual(done["prefill_ns"] + done["decode_ns"], protocol.now_ns() - begun)
                self.assertLessEqual(done["queued_ns"], done["prefill_ns"])

    def test_ends_are_heeded_when_asked_and_prompts_may_stand_alone(self):
        with session(Counters()) as (say, hear):
            say(LOAD, submit(1, [5], 4, ignore_eos=False), submit(1, [5], 4), submit(1, [5], 0))
            hear()
            done = answer(hear)[1]
            self.assertEqual((done["ids"], done["finish"]), ([6, 7, 8], "stop"))
            # The same number while the first is not over is refused, at once: before or behind its answer.
            rest = [answer(hear)[1] for _ in range(2)]
            self.assertTrue(all(reply["type"] in ("done", "error") and reply["id"] == 1 for reply in rest), rest)

    def test_what_is_wrong_is_answered_and_the_session_goes_on(self):
        lines = [
            "{",
            "[]",
            '{"type":"sing"}',
            submit(1, [5], 1),
            LOAD.replace('"threads": 1', '"threads": 0'),
            LOAD.replace('"threads": 1', '"threads": true'),
            LOAD.replace("{", '{"speed": 9, ', 1),
            LOAD.replace("tiny.gguf", "none.gguf"),
            LOAD.replace('"threads": 1', '"threads": 3'),
            LOAD,
            submit(2, []),
            submit(3, [10]),
            submit(4, [-1]),
            submit(5, [5], 65),
            '{"type":"logits","id":6,"ids":[1],"top":2}',
            '{"type":"cancel","id":7}',
            "\u00e9" * 3,
            '{"type":"stats"}',
        ]
        parts = ["not a request", "not a request", "sing", "`load` first", "threads", "threads", "speed", "none.gguf"]
        parts += ["MemoryError: no room", None, "empty", "10 is not below 10", "prompt_ids", "65 positions", "not exposed"]
        parts += ["not in flight", "not a request", None]
        with session(Counters()) as (say, hear):
            say(*lines)
            for line, part in zip(lines, parts, strict=True):
                reply = hear()
                if part is None:
                    self.assertIn(reply["type"], ("loaded", "stats"), line)
                else:
                    self.assertIn(part, reply["message"], line)
            say('{"type":"op","id":8,"name":"fly","min_ns":1}')
            self.assertEqual(hear()["type"], "not_expressible")

    def test_a_cancelled_request_ends_and_the_next_one_is_whole(self):
        for together in (1, 4):
            with session(Counters(delay=0.02, max_in_flight=together)) as (say, hear):
                say(LOAD, submit(1, [0], 50))
                hear()
                self.assertEqual(hear()["type"], "token")
                say('{"type":"cancel","id":1}')
                done = answer(hear)[1]
                self.assertEqual(done["finish"], "cancelled")
                self.assertLess(len(done["ids"]), 40)
                say(submit(1, [0], 2))
                self.assertEqual(answer(hear)[1]["ids"], [1, 2])
                say('{"type":"cancel","id":1}')
                self.assertIn("not in flight", hear()["message"])

    def test_requests_in_flight_run_together_where_the_engine_can(self):
        with session(Counters(delay=0.05, max_in_flight=8)) as (say, hear):
            say(LOAD)
            hear()
            begun = time.monotonic()
            say(*(submit(id, [id], 4) for id in range(6)))
            replies = [hear() for _ in range(6 * 5)]
            # One after the other they would take 1.2 s.
            self.assertLess(time.monotonic() - begun, 0.9)
            done = {reply["id"]: reply["ids"] for reply in replies if reply["type"] == "done"}
            self.assertEqual(done, {id: [(id + k) % 10 for k in range(1, 5)] for id in range(6)})

    def test_quit_ends_what_is_in_flight(self):
        begun = time.monotonic()
        with session(Counters(delay=0.1)) as (say, hear):
            say(LOAD, submit(1, [0], 60), '{"type":"quit"}')
            hear()
        self.assertLess(time.monotonic() - begun, 3)


class ShortForm(unittest.TestCase):
    def measure(self, **fields):
        line = json.dumps({"prompt_ids": [4], "model": str(TINY)} | fields).encode()
        return short_form.measure(Counters(delay=0.001), line, line)

    def test_a_prompt_is_measured(self):
        result = self.measure(iterations=5, max_tokens=3)
        self.assertEqual((result["ids"], result["iterations"], result["warmup"]), ([5, 6, 7], 5, 1))
        self.assertGreater(result["ttft_ms"]["median"], 0.9)
        self.assertGreater(result["latency_ms"]["min"], result["ttft_ms"]["min"])
        self.assertIsNone(self.measure(iterations=1, max_tokens=1)["tpot_ms"])

    def test_what_is_wrong_is_named(self):
        for fields, part in [
            ({"iterations": 0}, "iterations"),
            ({"max_tokens": "many"}, "max_tokens"),
            ({"prompt": "Hello"}, "either"),
            ({"prompt_ids": []}, "either"),
            ({"prompt_ids": [1.5]}, "prompt_ids"),
            ({"prompt_ids": [77]}, "77"),
            ({"speed": 9}, "speed"),
            ({"model": "/none.gguf"}, "/none.gguf"),
            ({"model": __file__}, "GGUF"),
        ]:
            with self.assertRaisesRegex((short_form.Wrong, protocol.Refused), part):
                self.measure(**fields)
        with self.assertRaisesRegex(short_form.Wrong, "unavailable: broken"):
            short_form.measure(Counters(failure={"unavailable": "broken"}), b'{"prompt_ids":[1]}', b"")

    def test_a_missing_tokenizer_is_named(self):
        before = os.environ.get("BARELM")
        os.environ["BARELM"] = "/nonexistent/barelm"
        try:
            with self.assertRaisesRegex(short_form.Wrong, "/nonexistent/barelm"):
                short_form.tokenize(str(TINY), "Hello")
        finally:
            os.environ.pop("BARELM")
            if before is not None:
                os.environ["BARELM"] = before

    def test_quantiles_lie_between_values(self):
        self.assertEqual(short_form.quantile([1, 2, 3, 4], 0.5), 2.5)
        self.assertEqual(short_form.quantile([7], 0.99), 7)


class Headers(unittest.TestCase):
    def test_the_vocabulary_is_read(self):
        header = gguf_header.Header.read(TINY)
        self.assertEqual(len(header.tokens), 2048)
        self.assertGreater(header.context_length, 0)
        self.assertTrue(header.end_ids and max(header.end_ids) < 2048)
        self.assertGreater(sum(header.elements.values()), 1_000_000)
        self.assertEqual(header.decode([684, 12, 283]), "ford, and")

    def test_every_prefix_and_damaged_bytes_are_refused_or_read(self):
        data = TINY.read_bytes()[:200_000]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "x.gguf"
            for length in [*range(64), *range(64, 60_000, 997)]:
                file.write_bytes(data[:length])
                with self.assertRaises(gguf_header.NotGguf):
                    gguf_header.Header.read(file)
            for at in range(0, 4000, 7):
                damaged = bytearray(data)
                damaged[at] ^= 0xFF
                file.write_bytes(damaged)
                with contextlib.suppress(gguf_header.NotGguf):
                    gguf_header.Header.read(file)
            # Lengths as large as they can be.
            file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 2**64 - 1, 2**64 - 1))
            with self.assertRaises(gguf_header.NotGguf):
                gguf_header.Header.read(file)


class Operations(unittest.TestCase):
    def setUp(self):
        try:
            import operations
        except ImportError:
            self.skipTest("numpy is not here")
        self.operations = operations

    def test_inputs_are_the_rust_sides(self):
        # SplitMix64 of seed 1234567 begins with these, as published.
        state, outputs = 1234567, []
        for _ in range(2):
            state = (state + 0x9E3779B97F4A7C15) % 2**64
            z = state
            z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
            outputs.append(z ^ (z >> 31))
        self.assertEqual(outputs, [6457827717110365317, 3203168211198807973])
        expected = [(z >> 40) / 2**23 - 1 for z in outputs]
        self.assertEqual(self.operations.inputs(1234567, 2).tolist(), expected)

    def test_samples_are_the_time_of_one_call(self):
        samples, iterations = self.operations.time(20_000_000, lambda: time.sleep(0.002))
        self.assertTrue(len(samples) >= 3 and iterations == 1 and min(samples) >= 2e6)


if __name__ == "__main__":
    # Nothing of the tests' own is a reply.
    with contextlib.redirect_stdout(io.StringIO()):
        unittest.main()
