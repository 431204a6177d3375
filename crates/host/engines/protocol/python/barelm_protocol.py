"""The engine's side of a session, for engines in Python: `docs/llm/PROTOCOL.md` describes every line.

An engine implements `Backend` and `Model` and calls `run`. Requests are read by a thread of their own, so that `cancel`
and further requests arrive while an answer is computed. Only the standard library is used, and nothing is printed on
standard output but replies: whatever else writes there, in Python or below it, goes to standard error.
"""

import gc
import json
import os
import platform
import queue
import select
import sys
import threading
import time
from dataclasses import dataclass

import short_form

VERSION = 2


def now_ns():
    """CLOCK_MONOTONIC, the clock of every time stamp."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


class Refused(Exception):
    """A request that cannot be answered, in words for a person; and its number, where only the words would have it."""

    def __init__(self, why, id=None):
        super().__init__(why)
        self.id = id


class NotExpressible(Exception):
    """An operation that the engine has no way to say; the reason, for a person."""


@dataclass
class Load:
    """A model and how to run it."""

    model: str
    threads: int
    context: int
    batch: int | None = None
    device: str | None = None
    kv_type: str | None = None
    max_sequences: int | None = None


@dataclass
class Submit:
    """A prompt to continue, with the moment its line was read."""

    id: int
    prompt_ids: list
    max_tokens: int
    ignore_eos: bool = True
    stream: bool = True
    begun_ns: int = 0
    # Set where the request is to end.
    cancelled: threading.Event | None = None


class Model:
    """A loaded model."""

    # Token ids run below this.
    vocab_size = 0
    # Positions of one sequence.
    context = 0

    def generate(self, prompt_ids, max_tokens):
        """Yields the likeliest next id, `max_tokens` times, from an empty cache; with 0 it computes the prompt only.

        Each id is yielded as soon as it is chosen. Closed early, it stops computing.
        """
        raise NotImplementedError

    def ends(self, token):
        """Whether this id ends a text."""
        raise NotImplementedError

    def logits(self, ids, top):
        """For every position the `top` likeliest next ids, their log-probabilities and the mass of the rest."""
        raise Refused("not exposed: this engine gives no logits")

    def close(self):
        """Frees everything."""


class Backend:
    """A program that can load models."""

    # Requests computed at the same time; with 1 they are computed one after the other, on the main thread.
    max_in_flight = 1

    def hello(self):
        """Fields of the greeting besides `type` and `protocol`."""
        raise NotImplementedError

    def load(self, load, again):
        """Gives a `Model`. `again()` is the input from this request on, for an engine that must start itself anew."""
        raise NotImplementedError

    def op(self, name, params, min_ns):
        """Times an operation: a dictionary of `samples_ns`, `iterations` and `check`."""
        raise NotExpressible("this engine has no interface for single operations")


def cpu_features():
    """Of what engines use, what this CPU has, in the words of the kernel."""
    wanted = "avx avx2 fma f16c avx512f avx512bw avx512_vnni avx_vnni avx512_bf16 amx_int8 amx_bf16 neon asimd asimddp i8mm sve"
    try:
        with open("/proc/cpuinfo") as file:
            lines = (line.partition(":") for line in file)
            here = next((set(words.split()) for key, _, words in lines if key.strip() in ("flags", "Features")), set())
    except OSError:
        here = set()
    return [word for word in wanted.split() if word in here] or [platform.machine()]


def memory():
    """Resident bytes now and at most, where the system says."""
    fields = {"VmRSS:": "rss", "VmHWM:": "peak_rss"}
    try:
        with open("/proc/self/status") as file:
            words = (line.split() for line in file)
            return {fields[w[0]]: int(w[1]) * 1024 for w in words if w and w[0] in fields}
    except OSError:
        return {}


def _whole(name, value, least):
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise Refused(f"not a request: {name} must be a whole number from {least}")
    return value


def _ids(name, value):
    if not isinstance(value, list):
        raise Refused(f"not a request: {name} must be a list of token ids")
    return [_whole(name, id, 0) for id in value]


def _word(name, value):
    if not isinstance(value, str):
        raise Refused(f"not a request: {name} must be a text")
    return value


def _flag(name, value):
    if not isinstance(value, bool):
        raise Refused(f"not a request: {name} must be true or false")
    return value


def _table(name, value):
    if not isinstance(value, dict):
        raise Refused(f"not a request: {name} must be an object")
    return value


def _count(name, value):
    return _whole(name, value, 0)


def _positive(name, value):
    return _whole(name, value, 1)


# Fields of each request: reader, and whether it must be there.
REQUESTS = {
    "load": {
        "model": (_word, True),
        "threads": (_count, True),
        "context": (_positive, True),
        "batch": (_positive, False),
        "device": (_word, False),
        "kv_type": (_word, False),
        "max_sequences": (_positive, False),
    },
    "submit": {
        "id": (_count, True),
        "prompt_ids": (_ids, True),
        "max_tokens": (_count, True),
        "ignore_eos": (_flag, False),
        "stream": (_flag, False),
    },
    "cancel": {"id": (_count, True)},
    "logits": {"id": (_count, True), "ids": (_ids, True), "top": (_count, True)},
    "op": {"id": (_count, True), "name": (_word, True), "params": (_table, False), "min_ns": (_count, True)},
    "stats": {},
    "quit": {},
}


def parse(line):
    """A request's type and fields; `Refused` says what is wrong with the line."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Refused(f"not a request: {error}") from None
    kind = request.get("type") if isinstance(request, dict) else None
    if not isinstance(kind, str) or kind not in REQUESTS:
        raise Refused(f"not a request: the type is one of {', '.join(REQUESTS)}, not {kind!r}")
    fields, known = {k: v for k, v in request.items() if k != "type"}, REQUESTS[kind]
    for name in fields.keys() - known.keys():
        raise Refused(f"not a request: `{kind}` has no field `{name}`")
    for name in (name for name, (_, needed) in known.items() if needed):
        if name not in fields:
            raise Refused(f"not a request: `{kind}` needs the field `{name}`")
    return kind, {name: known[name][0](name, value) for name, value in fields.items() if value is not None}


def told(error):
    """An error in words: ours as they are, an engine's own (memory that is short, say) with its kind."""
    return str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}"


class Session:
    """One conversation over two file descriptors."""

    def __init__(self, backend, source, sink):
        self.backend, self.source, self.sink = backend, source, sink
        self.lines = queue.SimpleQueue()
        self.speaking = threading.Lock()
        # Requests that are not over: id -> the event that cancels it.
        self.flying, self.guard = {}, threading.Lock()
        self.workers = []
        self.model = None

    def say(self, kind, **fields):
        line = json.dumps({"type": kind} | fields, ensure_ascii=False, separators=(",", ":")) + "\n"
        data = line.encode()
        with self.speaking:
            while data:
                data = data[os.write(self.sink, data) :]

    def refuse(self, why, id=None):
        self.say("error", **({} if id is None else {"id": id}), message=str(why))

    def read(self, first):
        """Queues every line with its moment; `None` at the end. `cancel` and `quit` take effect at once."""
        rest = first
        while True:
            *lines, rest = rest.split(b"\n")
            for line in lines:
                self.take(line, now_ns())
            data = os.read(self.source, 1 << 16)
            if not data:
                if rest.strip():
                    self.take(rest, now_ns())
                self.lines.put(None)
                return
            rest += data

    def take(self, line, at):
        if not line.strip():
            return
        try:
            kind, fields = parse(line)
        except Refused as why:
            self.lines.put((at, line, "wrong", why))
            return
        if kind == "quit":
            self.cancel_all()
        if kind == "submit":
            with self.guard:
                if fields["id"] in self.flying:
                    kind, fields = "wrong", Refused(f"request {fields['id']} is in flight already", fields["id"])
                else:
                    fields["cancelled"] = self.flying[fields["id"]] = threading.Event()
        if kind == "cancel":
            with self.guard:
                event = self.flying.get(fields["id"])
            if event is not None:
                event.set()
                return
        self.lines.put((at, line, kind, fields))

    def cancel_all(self):
        with self.guard:
            for event in self.flying.values():
                event.set()

    def land(self, submit):
        """The request is over, and its id free. Whether it was cancelled, be it too late."""
        with self.guard:
            if self.flying.get(submit["id"]) is submit["cancelled"]:
                del self.flying[submit["id"]]
        return submit["cancelled"].is_set()

    def serve(self, first=b""):
        """Answers until the end of the input or `quit`."""
        reader = threading.Thread(target=self.read, args=(first,), daemon=True)
        reader.start()
        while (item := self.lines.get()) is not None:
            at, _, kind, fields = item
            if kind == "quit":
                return
            try:
                getattr(self, "on_" + kind)(at, fields)
            except BrokenPipeError:
                raise
            except Exception as error:
                self.refuse(told(error), fields.get("id") if isinstance(fields, dict) else fields.id)
            if kind == "submit" and self.backend.max_in_flight == 1:
                self.land(fields)
        self.wait()

    def wait(self):
        """Until nothing is in flight."""
        for worker in self.workers:
            worker.join()
        self.workers = []

    def again(self, load):
        """A request and the lines that were read behind it, in one piece."""
        fields = {name: value for name, value in vars(load).items() if value is not None}
        lines = [json.dumps({"type": "load"} | fields).encode() + b"\n"]
        while not self.lines.empty():
            item = self.lines.get()
            if item is not None:
                lines.append(item[1] + b"\n")
        return b"".join(lines)

    def on_wrong(self, _, why):
        raise why

    def on_cancel(self, _, fields):
        raise Refused(f"request {fields['id']} is not in flight")

    def on_stats(self, _at, _fields):
        self.say("stats", **memory())

    def on_load(self, at, fields):
        self.wait()
        load = Load(**fields)
        if not 1 <= load.threads <= 1024:
            raise Refused(f"threads: {load.threads} is not from 1 to 1024")
        if not os.path.isfile(load.model):
            raise Refused(f"{load.model}: no such file")
        if self.model is not None:
            self.model.close()
            self.model = None
            gc.collect()
        self.model = self.backend.load(load, lambda: self.again(load))
        self.say("loaded", load_ns=now_ns() - at, vocab_size=self.model.vocab_size)

    def checked(self, ids, tokens, name):
        """Refuses ids that this model cannot compute."""
        if self.model is None:
            raise Refused("no model is loaded; send `load` first")
        if not ids:
            raise Refused(f"{name} is empty")
        for id in ids:
            if id >= self.model.vocab_size:
                raise Refused(f"token id {id} is not below {self.model.vocab_size}")
        # The last token is chosen and never fed.
        needed = len(ids) + max(tokens - 1, 0)
        if needed > self.model.context:
            raise Refused(f"{needed} positions are needed and {self.model.context} were asked for with `load`")

    def on_submit(self, at, fields):
        submit = Submit(**fields, begun_ns=at)
        if self.backend.max_in_flight == 1:
            self.checked(submit.prompt_ids, submit.max_tokens, "prompt_ids")
            self.answer(submit)
            return
        try:
            self.checked(submit.prompt_ids, submit.max_tokens, "prompt_ids")
        except Refused:
            self.land(fields)
            raise
        self.workers = [worker for worker in self.workers if worker.is_alive()]
        worker = threading.Thread(target=self.answer_beside, args=(submit,), daemon=True)
        self.workers.append(worker)
        worker.start()

    def answer_beside(self, submit):
        try:
            self.answer(submit)
        except Exception as error:
            self.refuse(told(error), submit.id)
        finally:
            self.land(vars(submit))

    def answer(self, submit):
        """One prompt."""
        cancelled = submit.cancelled
        ids, times, finish = [], [], "length"
        started = now_ns()
        run = self.model.generate(submit.prompt_ids, submit.max_tokens)
        try:
            if cancelled.is_set():
                finish = "cancelled"
            else:
                for token in run:
                    t_ns = now_ns()
                    if submit.stream:
                        self.say("token", id=submit.id, t_ns=t_ns, index=len(ids))
                    ids.append(token)
                    times.append(t_ns)
                    if cancelled.is_set():
                        finish = "cancelled"
                        break
                    if not submit.ignore_eos and self.model.ends(token):
                        finish = "stop"
                        break
                    if len(ids) == submit.max_tokens:
                        break
        finally:
            run.close()
        if finish == "length" and len(ids) != submit.max_tokens:
            raise Refused(f"the engine stopped after {len(ids)} of {submit.max_tokens} tokens")
        first, last = (times[0], times[-1]) if times else (now_ns(), 0)
        if not submit.stream:
            for index, t_ns in enumerate(times):
                self.say("token", id=submit.id, t_ns=t_ns, index=index)
        done = {"prefill_ns": first - submit.begun_ns, "decode_ns": last - first if times else 0}
        if self.backend.max_in_flight == 1:
            done["queued_ns"] = started - submit.begun_ns
        # Before its answer, so that the asker may use the number again at once.
        late = self.land(vars(submit)) and finish != "cancelled"
        self.say("done", id=submit.id, **done, ids=ids, finish=finish)
        if late:
            self.refuse(f"request {submit.id} is over", submit.id)

    def on_logits(self, _, fields):
        self.wait()
        self.checked(fields["ids"], 0, "ids")
        positions = self.model.logits(fields["ids"], fields["top"])
        keys = ("ids", "logprobs", "rest")
        self.say("logits", id=fields["id"], positions=[dict(zip(keys, position)) for position in positions])

    def on_op(self, _, fields):
        self.wait()
        try:
            times = self.backend.op(fields["name"], fields.get("params", {}), fields["min_ns"])
        except NotExpressible as why:
            self.say("not_expressible", id=fields["id"], reason=str(why))
        else:
            self.say("op", id=fields["id"], **times)


def private_output():
    """Standard output for replies alone: everything else that writes to it is sent to standard error."""
    sink = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return sink


# How long the first line of the short form, which has no greeting, is waited for.
FIRST_LINE_S = 0.1


def first_input():
    """What is read at once: a first line of the short form must be known before the greeting."""
    data = b""
    while b"\n" not in data and select.select([0], [], [], FIRST_LINE_S)[0]:
        more = os.read(0, 1 << 16)
        data += more
        if not more:
            break
    return data


def run(backend, first=None, sink=None):
    """A whole session over standard input and output. `first` is input that a process before this one has read; it has
    greeted then."""
    if sink is None:
        sink = private_output()
    session = Session(backend, 0, sink)
    try:
        greeted = first is not None
        if not greeted:
            first = first_input()
        if short_form.is_short(first.partition(b"\n")[0]):
            serve_short(backend, first, sink)
            return
        if not greeted:
            hello = backend.hello()
            session.say("hello", protocol=VERSION, **hello)
            if "unavailable" in hello:
                return
        session.serve(first)
    except BrokenPipeError:
        # Whoever asked has gone.
        pass
    finally:
        if session.model is not None:
            session.model.close()


def serve_short(backend, first, sink):
    """Answers lines of the short form until the end of the input."""
    with os.fdopen(os.dup(0), "rb") as source, os.fdopen(os.dup(sink), "wb", buffering=0) as out:
        rest = first + source.read()
        lines = list(filter(bytes.strip, rest.split(b"\n")))
        for index, line in enumerate(lines):
            try:
                answer = short_form.measure(backend, line, b"\n".join(lines[index:]))
            except Exception as error:
                answer = {"error": str(error) if isinstance(error, short_form.Wrong) else told(error)}
            out.write((json.dumps(answer, ensure_ascii=False) + "\n").encode())
