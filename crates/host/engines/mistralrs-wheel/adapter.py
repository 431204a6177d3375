"""mistral.rs as an engine, by its wheel of the package index: GGUF files, continuous batching, token ids in and out.

The wheel's interface takes text and gives text. Ids pass through it unchanged by a tokenizer of our own: a word list that
holds the model's own pieces, split at a separator that no piece contains, and a chat template that is the prompt itself.
A prompt is then the pieces of its ids with separators between them, and each streamed chunk is the piece of one id.
Prefix cache off, temperature 0, end of text ignored by the engine (we heed it where it is asked for).
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import threading
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent / "protocol" / "python"))

# Its own account of the loading, a screen of lines, is of no use here.
os.environ.setdefault("RUST_LOG", "error")

import barelm_protocol as protocol  # noqa: E402
import gguf_header  # noqa: E402

# A character of the private use area: in no piece of a vocabulary that we accept.
SEPARATOR = "\ue000"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
# What the engine schedules at most; `load` says how many of them are wanted.
MAX_IN_FLIGHT = 64
# Instructions found in the wheel for x86-64; which of its kernels use them it decides when it runs.
X86_KERNELS = ["avx2", "fma", "avx512f", "avx512_vnni", "amx"]
# Types that it multiplies as they are in the file.
FORMATS = "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K".split()


def word_list(pieces):
    """A tokenizer in the format of `tokenizer.json` that gives each piece its id and nothing else."""
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Split", "pattern": {"String": SEPARATOR}, "behavior": "Removed", "invert": False},
        "post_processor": None,
        # The engine must know the decoder; this one leaves every piece as it is.
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "WordLevel", "vocab": {p: id for id, p in enumerate(pieces)}, "unk_token": pieces[0]},
    }


class MistralModel(protocol.Model):
    """A model of the wheel's `Runner`."""

    def __init__(self, load):
        import mistralrs

        self.mistralrs, self.sending = mistralrs, threading.Lock()
        try:
            header = gguf_header.Header.read(load.model)
        except gguf_header.NotGguf as error:
            raise protocol.Refused(f"{load.model}: {error}") from None
        self.pieces, self.end_ids = header.tokens, header.end_ids
        if not self.pieces:
            raise protocol.Refused(f"{load.model}: no vocabulary in the file")
        for id, piece in enumerate(self.pieces):
            if SEPARATOR in piece or not piece:
                raise protocol.Refused(f"{load.model}: piece {id} is {piece!r}, which cannot be sent as text")
        self.ids = {piece: id for id, piece in enumerate(self.pieces)}
        if len(self.ids) != len(self.pieces):
            raise protocol.Refused(f"{load.model}: two ids have the same piece, so text does not tell them apart")
        if load.context > header.context_length:
            raise protocol.Refused(f"context: the model has {header.context_length} positions")
        self.vocab_size, self.context = len(self.pieces), load.context
        self.folder = tempfile.TemporaryDirectory(prefix="mistralrs-wheel-")
        folder = Path(self.folder.name)
        tokenizer, template = folder / "tokenizer.json", folder / "prompt.jinja"
        tokenizer.write_text(json.dumps(word_list(self.pieces)))
        template.write_text(TEMPLATE)
        path = Path(load.model).resolve()
        self.runner = mistralrs.Runner(
            mistralrs.Which.GGUF(
                quantized_model_id=str(path.parent), quantized_filename=path.name, tokenizer_json=str(tokenizer)
            ),
            max_seqs=load.max_sequences or 1,
            prefix_cache_n=0,
            token_source="none",
            jinja_explicit=str(template),
        )

    def ends(self, token):
        return token in self.end_ids

    def close(self):
        del self.runner
        self.folder.cleanup()

    def chunks(self, request):
        """What the engine streams. A request is handed over when the one before has its first token: version 0.9.5 fails
        with "input tensor is not contiguous" where it computes two prompts of a quantized file in one pass."""
        try:
            with self.sending:
                stream = iter(self.runner.send_chat_completion_request(request))
                first = next(stream, None)
            if first is not None:
                yield first
                yield from stream
        except ValueError as error:
            # Behind the first line is a trace of the engine's own functions.
            raise protocol.Refused(str(error).partition("\n")[0]) from None

    def generate(self, prompt_ids, max_tokens):
        text = SEPARATOR.join(self.pieces[id] for id in prompt_ids)
        # There is no prompt without a token behind it: with 0 one is computed and thrown away, the same pass.
        request = self.mistralrs.ChatCompletionRequest(
            messages=text, model="default", max_tokens=max(max_tokens, 1), stream=True, temperature=0.0, ignore_eos=True
        )
        for chunk in self.chunks(request):
            choice = chunk.choices[0]
            piece = choice.delta.content
            if chunk.usage is not None and chunk.usage.prompt_tokens != len(prompt_ids):
                raise protocol.Refused(f"the engine saw {chunk.usage.prompt_tokens} ids instead of {len(prompt_ids)}")
            if not piece:
                continue
            if piece not in self.ids:
                raise protocol.Refused(f"the engine sent {piece!r}, which is not one piece of the vocabulary")
            if max_tokens == 0:
                return
            yield self.ids[piece]


class Mistral(protocol.Backend):
    """The wheel, as it was installed."""

    max_in_flight = MAX_IN_FLIGHT

    def __init__(self, threads):
        self.threads = threads

    def hello(self):
        import importlib.metadata as metadata

        fields = {
            "engine": "mistral.rs",
            "compiled": X86_KERNELS if platform.machine() == "x86_64" else ["unknown"],
            "detected": protocol.cpu_features(),
            "settings": {"prefix_cache": "off", "paged_attention": "off", "prompts": "one at a time", "build": "wheel of the package index"},
            "device": "cpu",
            "formats": FORMATS,
            "batching": "continuous",
            "max_in_flight": MAX_IN_FLIGHT,
            "cancel": True,
            "logits": False,
            "ops": [],
        }
        try:
            import mistralrs  # noqa: F401
        except (ImportError, OSError) as error:
            return fields | {"version": "absent", "unavailable": f"mistralrs cannot be imported: {error}"}
        return fields | {"version": metadata.version("mistralrs")}

    def load(self, load, again):
        if load.device not in (None, "cpu"):
            raise protocol.Refused(f"device {load.device}: the package index has this wheel for the CPU only")
        if load.kv_type not in (None, "f32"):
            raise protocol.Refused(f"kv_type {load.kv_type}: on a CPU keys and values are f32")
        if (load.max_sequences or 1) > MAX_IN_FLIGHT:
            raise protocol.Refused(f"max_sequences: at most {MAX_IN_FLIGHT}")
        if load.threads != self.threads:
            start_anew(load.threads, again())
        try:
            return MistralModel(load)
        except ValueError as error:
            raise protocol.Refused(f"{load.model}: {error}") from error


def start_anew(threads, rest):
    """Replaces this process by one with another number of threads, which are fixed when the engine starts.

    The request that asked for it, and what was read behind it, come to the new process in an unnamed file.
    """
    file = os.memfd_create("input", 0)
    os.write(file, rest)
    os.lseek(file, 0, os.SEEK_SET)
    # Its replies go where ours went.
    os.dup2(START.sink, 1)
    environment = os.environ | {"RAYON_NUM_THREADS": str(threads)}
    words = [sys.executable, "-u", __file__, "--threads", str(threads), "--input", str(file)]
    os.execve(sys.executable, words, environment)


class START:
    """Where replies go; known once, when the program starts."""

    sink = 1


def main():
    parser = argparse.ArgumentParser(prog="mistral-rs-wheel-bench", description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--input", type=int, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    first = None
    if arguments.input is not None:
        with os.fdopen(arguments.input, "rb") as file:
            first = file.read()
    START.sink = protocol.private_output()
    protocol.run(Mistral(arguments.threads), first=first, sink=START.sink)


if __name__ == "__main__":
    main()
