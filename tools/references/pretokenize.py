#!/usr/bin/env python3
"""Writes crates/kernel/tests/data/pretokenize.txt: how PyPI `tokenizers` cuts texts into words.

    python3 -m venv V && V/bin/pip install tokenizers==0.23.3 unicodedata2==16.0.0
    V/bin/python tools/references/pretokenize.py

The pre-tokenizers are put together as the tokenizer.json of the original models does (GPT-2; SmolLM; Llama 3; Qwen 2).
`default` has no original: it is llama.cpp's fallback, here as a chain of the same four expressions.

One difference is known and left out of the texts: in `(?i:'s|...)` the library also takes U+017F for an s, which
llama.cpp (and so BareLM) does not.
"""
import pathlib
import random

import unicodedata2 as unicodedata
from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split


def split(pattern):
    return Split(Regex(pattern), "isolated")


def llama3(numbers):
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + numbers
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    return Sequence([split(pattern), ByteLevel(add_prefix_space=False, use_regex=False)])


GPT2 = ByteLevel(add_prefix_space=False, use_regex=True)
PRE_TOKENIZERS = {
    "gpt-2": GPT2,
    "smollm": Sequence([Digits(individual_digits=True), GPT2]),
    "llama-bpe": llama3(r"\p{N}{1,3}"),
    "qwen2": llama3(r"\p{N}"),
    "default": Sequence([
        split(r"[\p{P}\$\+<=>\^~\|]+"),
        # The chain goes on over the same text, so the byte alphabet must wait: GPT-2's expression alone.
        split(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"),
        split(r"\p{N}+"),
        split(r"[0-9][0-9][0-9]"),
    ]),
}


def lengths(pre_tokenizer, text):
    """Bytes of each word."""
    offsets = [span for _, span in pre_tokenizer.pre_tokenize_str(text)]
    assert [a for a, _ in offsets] == [0, *[b for _, b in offsets]][: len(offsets)], (text, offsets)
    assert not text or offsets[-1][1] == len(text)
    return [len(text[a:b].encode()) for a, b in offsets]


def fnv(numbers):
    """FNV-1a, 64 bits, over the numbers as little-endian 32-bit words."""
    state = 0xCBF29CE484222325
    for number in numbers:
        for byte in number.to_bytes(4, "little"):
            state = (state ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return state


FIXED = """\
The quick brown fox jumps over the lazy dog.
I'm sure they'll say we've done what you're asking; she'd agree, he's in, it isn't so.
I'M SURE THEY'LL SAY WE'VE DONE WHAT YOU'RE ASKING; SHE'D AGREE
'tis 'Twas 'sup 'S 'T ''s ''' 's's't're've'm'll'd 'l 'r 'v 've're 'LL 'Ll 'lL
rock'n'roll o'clock y'all'd've d'être l’été
1 12 123 1234 12345 123456 1234567 12345678 123456789 1234567890
1,234,567.89 -1.5e-10 0xFF 0b1010 1_000_000 3.14159 50% $9.99 €1.234,56 #42 no.7
٠١٢٣٤٥٦٧٨٩ ०१२३४५६७८९ 一二三四五 ½¾⅐ ²³¹ ⅣⅧ ①②③ 𝟘𝟙𝟚 12³45678 1²234 123½456
2024-02-29T23:59:60Z 10:30 192.168.0.1 ::1 +1 (555) 010-9999 1st 2nd 3rd 4x4 a1b2c3
def f(x: int) -> str:\\n    return f"{x!r:>10}"  # comment\\n\\n\\nclass A(B):\\n\\tpass\\n
fn main() { let v: Vec<Box<dyn Fn(&'a str) -> u8>> = vec![]; println!("{:?}", v.len() as f64 / 2.0); }
for (int i = 0; i < n; ++i) { a[i] ^= b[i] << 3 | ~c->d; }  // x\\r\\n#include <stdio.h>\\r\\n
SELECT a.*, b.id FROM t1 a JOIN t2 b ON a.id=b.a_id WHERE name LIKE '%x%';
<div class="a b" id='c'>&nbsp;<br/></div><!-- x --> {"k": [1, null, true, -2.5e+3]}
https://example.org/a/b?c=d&e=%20f#g user.name+tag@mail.example.co.uk C:\\\\dir\\\\file.txt ~/x/../y
snake_case camelCase PascalCase kebab-case SCREAMING_CASE __init__ _x x_ a__b
你好，世界！我爱北京天安门。 「引用」、《书名》……——
こんにちは世界。カタカナ ｶﾀｶﾅ ひらがなと漢字が混ざった文 １２３ ＡＢＣ
안녕하세요 세계! 한국어 문장입니다. ㄱㄴㄷ ㅏㅑ
Привет, мир! Ёлка — это дерево. «Кавычки» № 5
مرحبا بالعالم، كيف حالك؟ שלום עולם! हिन्दी में वाक्य। ภาษาไทยไม่มีช่องว่าง
naïve café résumé Ærøskøbing Straße ßẞ İstanbul ıI ﬁne ŉ ǆ
e\u0301 a\u0308\u0323 Z\u0337\u0322a\u0338l\u0334 \u0301x x\u0301y 1\u0301 \u0301
😀😀 👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 ❤️ ☺ ✈️ 1️⃣ a😀b 😀1 😀 x
∀x∈ℝ: ∑ᵢ xᵢ² ≥ 0 ⇒ √2 ≈ 1.414 ± 5‰ §3 ¶ © ™ ° µ Ω Å
\x00 \x01\x02 \x1b[31mred\x1b[0m \x7f \x1c\x1d\x1e\x1f a\x00b
a\u00a0b \u00a0\u00a0c \u2003d\u2009e \u3000f \u200bg \ufeffh \u2028i\u2029j \u0085k \u180el \u1680m \u202fn \u205fo
\u00ada \u200d \u2060 \ufffd \uffff \ue000 \U000f0000 \U0010ffff
... .. . ?! !!! ??? --- === *** ~~~ ``` ``x`` `y` ^^ || && <> <= => != :: ;; @@ ## $$ %%
a.b,c;d:e!f?g(h)i[j]k{l}m<n>o"p'q`r~s@t#u$v%w^x&y*z-0_1=2+3|4\\\\5/6
"""
WORDS = (
    "the a I of Hello don't we'll it's OK x1 v2.0 foo_bar 7 42 1999 123456 3.14 $5 100% (see) [1] {x} \"q\" 'q' a-b "
    "é naïve ß Я мир 你好 世界 日本 こんにちは 한국 مرحبا हिन्दी ไทย 😀 👍🏽 ❤️ ½ ٣ ² … — « » # @ / \\ | ~ ` ^ _ = + < > & * ' '' 's 'S 'LL ="
).split()
SPACES = [" ", "  ", "   ", "\n", "\n\n", " \n", "\n ", " \n ", "\t", "\t\t", " \t", "\r\n", "\r", "\r\n\r\n", "  \r\n  ",
          "\u00a0", " \u00a0", "\u3000", "\u2003 ", "\u2028", "\u0085", "\x0b", "\x0c", "        ", "\n\n\n    ", ""]


def texts():
    yield from ["", *SPACES[:-1]]
    for line in FIXED.splitlines():
        yield line.replace("\\\\", "\0").replace("\\n", "\n").replace("\\r", "\r").replace("\\t", "\t").replace("\0", "\\")
    random.seed(20)
    for space in SPACES:
        for left, right in (("", "x"), ("x", ""), ("x", "y"), ("1", "2"), (".", "."), ("'s", "'s")):
            yield left + space + right
    for _ in range(150):
        parts = []
        for _ in range(random.randint(1, 9)):
            parts += [random.choice(WORDS), random.choice(SPACES) if random.random() < 0.5 else " "]
        yield "".join(parts)
    alphabet = " \n\t'.sS1a2é你٣😀\u0301\u00a0_-r\rel"
    for _ in range(100):
        yield "".join(random.choice(alphabet) for _ in range(random.randint(2, 24)))


def boundaries():
    """Code points at which the general category changes."""
    last = None
    for code in range(0x110000):
        category = unicodedata.category(chr(code))
        if category != last and category != "Cs" and last != "Cs":
            yield code
        last = category


def around(code):
    """Both sides of a boundary, each next to a letter, a number, a space, a symbol, itself and a line end."""
    text = ""
    for c in (chr(code - 1) if code else "", chr(code)):
        text += f"a{c}b1{c}2 {c} {c}{c} .{c}. \n{c}\n'{c}{c}s  {c}"
    return text


def main():
    assert unicodedata.unidata_version == "16.0.0"
    lines = [
        "# Words that pre-tokenizers cut texts into. Made with PyPI tokenizers 0.23.3 by tools/references/pretokenize.py.",
        "# `text TEXT` (%XX is a byte), then for each pre-tokenizer the bytes of its words;",
        "# `boundaries CODES`: general categories (Unicode 16.0) change there; for each pre-tokenizer the FNV-1a hash of all",
        "# words' lengths in the script's `around(code)` for each code.",
    ]
    count = 0
    for text in dict.fromkeys(texts()):
        shown = "".join(c if c.isprintable() and c not in "%" else "".join(f"%{b:02x}" for b in c.encode()) for c in text)
        lines.append(f"text {shown}" if shown else "text")
        lines += [" ".join([name, *map(str, lengths(pre, text))]) for name, pre in PRE_TOKENIZERS.items()]
        count += 1
    codes = list(boundaries())
    for i in range(0, len(codes), 32):
        group = codes[i : i + 32]
        lines.append("boundaries " + " ".join(f"{code:x}" for code in group))
        for name, pre in PRE_TOKENIZERS.items():
            lines.append(f"{name} {fnv(n for code in group for n in lengths(pre, around(code))):016x}")
    path = pathlib.Path(__file__).resolve().parents[2] / "crates/kernel/tests/data/pretokenize.txt"
    path.write_text("\n".join(lines) + "\n")
    print(count, "texts,", len(codes), "boundaries,", path.stat().st_size, "bytes")


main()
