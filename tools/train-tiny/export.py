"""Writes the trained network as GGUF: matrices and embedding in Q8_0, norms in F32.

Usage: python3 export.py FOLDER MODEL.gguf
"""

import json
import sys
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType, quants

import network


def main():
    folder, path = Path(sys.argv[1]), sys.argv[2]
    params = np.load(folder / "checkpoint.npz")
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]
    tokens = sorted(vocabulary["vocab"], key=vocabulary["vocab"].get)
    assert len(tokens) == network.VOCAB and tokens[0] == "<|endoftext|>"

    writer = GGUFWriter(path, "llama")
    writer.add_name("BareLM tiny")
    writer.add_description("Trained by BareLM's tools/train-tiny on Jane Austen's novels (public domain)")
    writer.add_license("MIT OR Apache-2.0")
    writer.add_file_type(7)  # mostly Q8_0
    writer.add_context_length(network.CONTEXT)
    writer.add_embedding_length(network.DIM)
    writer.add_block_count(network.LAYERS)
    writer.add_feed_forward_length(network.FFN)
    writer.add_head_count(network.HEADS)
    writer.add_head_count_kv(network.KV_HEADS)
    writer.add_rope_dimension_count(network.HEAD_DIM)
    writer.add_rope_freq_base(network.ROPE_BASE)
    writer.add_layer_norm_rms_eps(network.EPSILON)
    writer.add_vocab_size(network.VOCAB)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] + [TokenType.NORMAL] * (len(tokens) - 1))
    writer.add_token_merges([" ".join(pair) for pair in vocabulary["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)

    def add(name, values):
        if values.ndim == 1:
            writer.add_tensor(name, np.asarray(values, np.float32))
        else:
            blocks = quants.quantize(np.asarray(values, np.float32), GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, blocks, raw_dtype=GGMLQuantizationType.Q8_0)

    add("token_embd.weight", params["token_embd"])
    for layer in range(network.LAYERS):
        for name in ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"]:
            add(f"blk.{layer}.{name}.weight", params[name][layer])
    add("output_norm.weight", params["output_norm"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{path}: {Path(path).stat().st_size} bytes")


if __name__ == "__main__":
    main()
