#!/usr/bin/env python3
"""Writes crates/kernel/tests/data/spm.txt: a small SentencePiece BPE vocabulary and what it makes of texts.

    python3 -m venv V && V/bin/pip install sentencepiece==0.2.3
    V/bin/python tools/references/spm.py

The vocabulary is trained on text that this script makes up from a list of words and a seed. No normalization and no
white space removed, as in vocabularies of Llama; byte fallback is on.
"""
import io
import pathlib
import random

import sentencepiece

WORDS = (
    "a the of to and in is it that was for on are with as his they at be this from have or by one had not but what all were "
    "when we there can an your which their said if do will each about how up out them then she many some so these would "
    "other into has more her two like him see time could no make than first been its who now people my made over did down "
    "only way find use may water long little very after words called just where most know memory kernel token model cache "
    "attention layer weight matrix vector quantize decode prefill sample logits café naïve Straße Привет мир 你好 世界 こんにちは"
).split()
ENDS = ["", "", "", "", "s", "ed", "ing", "er", "ly", "'s", ",", ".", ".", "!", "?", ":", ";", " -", "()", "[0]"]


def corpus(rng):
    for _ in range(4000):
        words = [rng.choice(WORDS) + rng.choice(ENDS) for _ in range(rng.randint(3, 14))]
        if rng.random() < 0.2:
            words.insert(rng.randrange(len(words)), str(rng.randint(0, 99999)))
        yield " ".join(words).capitalize()


def texts(rng):
    yield from [
        "", " ", "  ", "   ", "a", " a", "a ", "  a  b  ", "\n", "a\nb", "\ta\t", "Hello, world!", "the", "The", "THE",
        "attention layers are quantized", "tokenization of kernels", "don't", "1234567890", "3.14159", "a_b-c/d",
        "Привет, мир!", "你好，世界", "こんにちは", "안녕하세요", "مرحبا", "ไทย", "😀", "a😀b", "👍🏽", "é", "e\u0301", "ß", "½",
        "▁", "a▁b", "▁▁", "\u00a0", "\u3000", "\u200b", "\ufffd", "\U0010ffff", "<0x41>", "<unk>", "x" * 50, "the" * 40, "ab" * 64,
        " " * 33, "\x7f", "\x01", "\r\n", "fn main() { println!(\"{}\", 1); }", "...", "!!!???", "words words words",
    ]
    for _ in range(120):
        words = [rng.choice(WORDS) + rng.choice(ENDS) for _ in range(rng.randint(1, 10))]
        yield rng.choice(["", "", " "]) + rng.choice([" ", " ", "  ", "\n"]).join(words)
    alphabet = "aetoins th你😀é1. '\n▁"
    for _ in range(120):
        yield "".join(rng.choice(alphabet) for _ in range(rng.randint(1, 40)))


def escaped(text):
    return "".join(c if c.isprintable() and c not in "% " else "".join(f"%{b:02x}" for b in c.encode()) for c in text)


def main():
    rng = random.Random(7)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=corpus(rng), model_writer=model, model_type="bpe", vocab_size=700, byte_fallback=True,
        character_coverage=0.9995, normalization_rule_name="identity", remove_extra_whitespaces=False, num_threads=1,
        minloglevel=2,
    )
    sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    lines = [
        "# A SentencePiece BPE vocabulary and its ids. Made with PyPI sentencepiece 0.2.3 by tools/references/spm.py.",
        "# `token TEXT SCORE TYPE`; TYPE as in GGUF: 1 normal, 2 unknown, 3 control, 6 byte. `case TEXT IDS`. %XX is a byte.",
    ]
    for id in range(sp.get_piece_size()):
        kind = 2 if sp.is_unknown(id) else 3 if sp.is_control(id) else 6 if sp.is_byte(id) else 1
        assert not sp.is_unused(id)
        lines.append(f"token {escaped(sp.id_to_piece(id))} {sp.get_score(id)!r} {kind}")
    count = 0
    for text in dict.fromkeys(texts(rng)):
        ids = sp.encode(text)
        lines.append(" ".join(["case", escaped(text), *map(str, ids)]))
        count += 1
    path = pathlib.Path(__file__).resolve().parents[2] / "crates/kernel/tests/data/spm.txt"
    path.write_text("\n".join(lines) + "\n")
    print(sp.get_piece_size(), "tokens,", count, "cases,", path.stat().st_size, "bytes")


main()
