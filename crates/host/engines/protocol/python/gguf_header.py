"""What an engine's front must know of a GGUF file: the vocabulary and a few numbers, read without the file's weights."""

import math
import struct
from dataclasses import dataclass

# Of the format's description: number of a value type -> struct's letter.
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
# No header that an engine can load is larger.
LARGEST = 1 << 30


class NotGguf(ValueError):
    """The file is no GGUF file, or a damaged one."""


class _Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        piece = self.data[self.at : self.at + count]
        if count > len(self.data) or len(piece) != count:
            raise NotGguf("the file ends within its header")
        self.at += count
        return piece

    def scalar(self, letter):
        return struct.unpack("<" + letter, self.take(struct.calcsize(letter)))[0]

    def text(self):
        return self.take(self.scalar("Q"))

    def value(self, kind, depth=0):
        if kind in SCALARS:
            return self.scalar(SCALARS[kind])
        if kind == STRING:
            return self.text()
        if kind != ARRAY or depth > 4:
            raise NotGguf(f"a value has the unknown type {kind}")
        element, count = self.scalar("I"), self.scalar("Q")
        if element in SCALARS:
            letter = SCALARS[element]
            return list(struct.unpack(f"<{count}{letter}", self.take(count * struct.calcsize(letter))))
        # Every element has at least its length: no list longer than the file.
        if count > len(self.data):
            raise NotGguf("the file ends within its header")
        return [self.value(element, depth + 1) for _ in range(count)]


@dataclass
class Header:
    """The part of a file's metadata that is not weights."""

    fields: dict
    # Elements of the weights by the number of their type.
    elements: dict

    @classmethod
    def read(cls, path):
        with open(path, "rb") as file:
            reader = _Reader(memoryview(file.read(LARGEST)))
        if bytes(reader.take(4)) != b"GGUF":
            raise NotGguf("it does not begin with GGUF")
        version = reader.scalar("I")
        if version not in (2, 3):
            raise NotGguf(f"it has version {version}; this reads 2 and 3")
        tensors, count = reader.scalar("Q"), reader.scalar("Q")
        fields, elements = {}, {}
        for _ in range(count):
            name = bytes(reader.text()).decode("utf-8", "replace")
            fields[name] = reader.value(reader.scalar("I"))
        for _ in range(tensors):
            reader.text()
            dimensions = reader.scalar("I")
            if dimensions > 4:
                raise NotGguf(f"a tensor has {dimensions} dimensions")
            size = math.prod(reader.scalar("Q") for _ in range(dimensions))
            kind, _ = reader.scalar("I"), reader.scalar("Q")
            elements[kind] = elements.get(kind, 0) + size
        return cls(fields, elements)

    @property
    def most_weights(self):
        """The number of the type that most weights have; `None` of a file without any."""
        return max(self.elements, key=self.elements.get, default=None)

    def word(self, name):
        value = self.fields.get(name)
        return None if value is None else bytes(value).decode("utf-8", "replace")

    @property
    def tokens(self):
        """Pieces of the vocabulary, as they are in the file."""
        return [bytes(piece).decode("utf-8", "replace") for piece in self.fields.get("tokenizer.ggml.tokens", [])]

    @property
    def context_length(self):
        """Positions the model was made for."""
        return self.fields.get(f"{self.word('general.architecture')}.context_length", 0)

    @property
    def end_ids(self):
        """Ids that end a text, by the file's own words."""
        names = ("eos", "eot", "eom")
        ids = {self.fields.get(f"tokenizer.ggml.{name}_token_id") for name in names}
        return ids - {None}

    def with_bos(self, ids):
        """`ids` behind the id that begins a text, where the file asks for one."""
        bos = self.fields.get("tokenizer.ggml.bos_token_id")
        # Files of the older kind of vocabulary say nothing and mean yes.
        default = self.word("tokenizer.ggml.model") == "llama"
        return [bos, *ids] if bos is not None and self.fields.get("tokenizer.ggml.add_bos_token", default) else ids

    def decode(self, ids):
        """Text of ids; broken UTF-8 becomes the replacement character."""
        pieces = self.tokens
        if self.word("tokenizer.ggml.model") != "gpt2":
            return "".join(pieces[id] for id in ids).replace("\u2581", " ")
        # Every byte has a printable character: itself, or one from U+0100 on in order.
        printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        others = [byte for byte in range(256) if byte not in printable]
        of = {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
        raw = bytearray()
        for character in "".join(pieces[id] for id in ids):
            raw += bytes([of[character]]) if character in of else character.encode()
        return raw.decode("utf-8", "replace")
