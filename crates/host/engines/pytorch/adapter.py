"""PyTorch as an engine: transformers' model, run eagerly, one request after the other.

The baseline that a user has without any work: weights are read from the GGUF file by transformers and widened to F32
(F16 and BF16 files keep their type), every layer is a call into torch, nothing is compiled, fused or quantized. The first
position that is computed comes from an empty `DynamicCache`; the next id is the argmax of the last logits.
"""

import argparse
import os
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent / "protocol" / "python"))

import barelm_protocol as protocol  # noqa: E402
import gguf_header  # noqa: E402

# Nothing is ever fetched: a model is a file that is here.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

# Types that stay what they are, with their numbers in GGUF; all others are widened to F32.
NATIVE = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
NUMBERS = {0: "float32", 1: "float16", 30: "bfloat16"}


class TorchModel(protocol.Model):
    """A model of transformers with one sequence."""

    def __init__(self, load, device, attention):
        import torch
        import transformers

        self.torch, self.device, self.batch = torch, device, load.batch
        torch.set_num_threads(load.threads)
        file = Path(load.model).resolve()
        try:
            most = gguf_header.Header.read(file).most_weights
            self.dtype = getattr(torch, NUMBERS.get(most, "float32"))
            if load.kv_type not in (None, {"float32": "f32", "float16": "f16"}.get(str(self.dtype)[6:])):
                raise protocol.Refused(f"kv_type {load.kv_type}: keys and values have the type of the model, {self.dtype}")
            self.model = transformers.AutoModelForCausalLM.from_pretrained(
                file.parent,
                gguf_file=file.name,
                dtype=self.dtype,
                attn_implementation=attention,
                local_files_only=True,
            )
        except (OSError, ValueError, KeyError, IndexError, NotImplementedError, AttributeError) as error:
            raise protocol.Refused(f"{load.model}: {type(error).__name__}: {error}") from error
        self.model = self.model.to(device).eval()
        config = self.model.config
        self.vocab_size = config.vocab_size
        if load.context > config.max_position_embeddings:
            raise protocol.Refused(f"context: the model has {config.max_position_embeddings} positions")
        self.context = load.context
        ends = config.eos_token_id
        self.end_ids = set(ends if isinstance(ends, list) else [ends])
        self.cache_of = transformers.DynamicCache

    def ends(self, token):
        return token in self.end_ids

    def close(self):
        del self.model

    def forward(self, ids, cache, keep):
        """Logits of the last `keep` positions of `ids` (0: of all), which follow on what the cache holds."""
        tensor = self.torch.tensor([ids], device=self.device)
        return self.model(input_ids=tensor, past_key_values=cache, use_cache=True, logits_to_keep=keep).logits[0]

    def generate(self, prompt_ids, max_tokens):
        step = self.batch or len(prompt_ids)
        with self.torch.inference_mode():
            cache = self.cache_of()
            for at in range(0, len(prompt_ids), step):
                logits = self.forward(prompt_ids[at : at + step], cache, 1)
            token = int(logits[-1].argmax())
            for left in reversed(range(max_tokens)):
                yield token
                if left:
                    token = int(self.forward([token], cache, 1)[-1].argmax())

    def logits(self, ids, top):
        torch = self.torch
        with torch.inference_mode():
            logits = self.forward(ids, self.cache_of(), 0).double()
            logprobs = torch.log_softmax(logits, -1)
            # A stable sort keeps the smaller id first where two are equal.
            values, order = torch.sort(logprobs, dim=-1, descending=True, stable=True)
            top = min(top, self.vocab_size)
            rest = values[:, top:].exp().sum(-1)
            return list(zip(order[:, :top].tolist(), values[:, :top].tolist(), rest.tolist()))


class Torch(protocol.Backend):
    """torch, as it was installed."""

    def __init__(self, device, attention):
        self.device, self.attention, self.failure = device, attention, None
        try:
            import torch
            import transformers  # noqa: F401
        except (ImportError, OSError) as error:
            self.failure = f"torch cannot be imported: {error}"
            return
        if device == "cuda" and not torch.cuda.is_available():
            self.failure = "torch sees no CUDA device"

    def hello(self):
        import importlib.metadata as metadata

        def version(package):
            try:
                return metadata.version(package)
            except metadata.PackageNotFoundError:
                return "absent"

        fields = {
            "engine": "pytorch",
            "version": f"torch {version('torch')}, transformers {version('transformers')}",
            "compiled": [],
            "detected": protocol.cpu_features(),
            "settings": {"attention": self.attention, "execution": "eager", "blas": "", "python": sys.version.split()[0]},
            "device": self.device,
            "formats": list(NATIVE),
            "batching": "serial",
            "max_in_flight": 1,
            "cancel": True,
            "logits": True,
            "ops": [],
        }
        if self.failure:
            return fields | {"compiled": ["unknown"], "unavailable": self.failure}
        import torch

        # Kernels are chosen when they run; this is the best set that they were compiled for and the machine has.
        fields["compiled"] = [torch.backends.cpu.get_cpu_capability().lower()]
        import ops

        fields["ops"] = list(ops.OPS)
        libraries = ("mkl", "mkldnn", "openmp")
        fields["settings"]["blas"] = " ".join(n for n in libraries if getattr(torch.backends, n).is_available())
        return fields

    def load(self, load, again):
        if load.device not in (None, self.device):
            raise protocol.Refused(f"device {load.device}: this program was started with --device {self.device}")
        return TorchModel(load, self.device, self.attention)

    def op(self, name, params, min_ns):
        import ops

        return ops.run(name, params, min_ns, self.device)


def main():
    parser = argparse.ArgumentParser(prog="pytorch-bench", description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--attention", choices=["eager", "sdpa"], default="eager", help="default: %(default)s, plain layers")
    arguments = parser.parse_args()
    # Before torch, which writes a line or two of its own while it is imported.
    sink = protocol.private_output()
    protocol.run(Torch(arguments.device, arguments.attention), sink=sink)


if __name__ == "__main__":
    main()
