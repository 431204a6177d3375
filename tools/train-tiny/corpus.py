"""The text: Jane Austen's six novels, from Debian's package r-cran-janeaustenr.

Reads the package file itself (an `ar` archive holding a `tar.xz`) and R's serialized character vectors in it, so that
nothing needs to be installed. Writes into the given folder:

    train.txt    the first 94 % of the text, one paragraph a line, blank lines between chapters
    held_out.txt the last 6 %, never seen in training
    excerpt.txt  the first 48,000 bytes or so of held_out.txt, cut at a paragraph: what the repository's test scores

Usage: python3 corpus.py r-cran-janeaustenr_1.0.0-1_all.deb FOLDER
"""

import hashlib
import io
import re
import struct
import sys
import tarfile
import unicodedata
import zlib
from pathlib import Path

PACKAGE_SHA256 = "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95"
DATA = "./usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
HELD_OUT_PERCENT = 6
EXCERPT_BYTES = 48_000


def data_member(package: bytes) -> bytes:
    """The bytes of the package's lazy-load database."""
    assert package[:8] == b"!<arch>\n", "not a Debian package"
    at = 8
    while at < len(package):
        name, size = package[at : at + 16].decode().strip(), int(package[at + 48 : at + 58])
        body = package[at + 60 : at + 60 + size]
        if name.startswith("data.tar"):
            with tarfile.open(fileobj=io.BytesIO(body)) as archive:
                return archive.extractfile(DATA).read()
        at += 60 + size + size % 2
    raise SystemExit("the package has no data member")


def character_vectors(database: bytes):
    """Every character vector of a lazy-load database, as lists of lines, in the order of the file.

    A record is its unpacked length (32 bits, big-endian) and a zlib stream; unpacked it is R's XDR serialization: "X\\n",
    three versions, the native encoding, then an item. Item 16 is a vector of strings, each flags, length, bytes.
    """
    at = 0
    while at < len(database):
        inflate = zlib.decompressobj()
        record = inflate.decompress(database[at + 4 :])
        at = len(database) - len(inflate.unused_data)
        encoding = struct.unpack_from(">I", record, 14)[0]
        item = 18 + encoding
        kind, count = struct.unpack_from(">II", record, item)
        if kind & 0xFF != 16:
            continue
        lines, item = [], item + 8
        for _ in range(count):
            size = struct.unpack_from(">i", record, item + 4)[0]
            lines.append(record[item + 8 : item + 8 + size].decode("utf-8"))
            item += 8 + size
        yield lines


HEADING = re.compile(
    r"(CHAPTER|Chapter|VOLUME|Volume) +([IVXLC]+|\d+)\.?|FINIS|THE END|Finis|The End|\[.*\]|\(.*\)|ADVERTISEMENT.*"
)
TITLE = re.compile(r"by|Persuasion|([Bb]y )?Jane Austen( \(\d+\))?")


def chapters(lines):
    """A novel as chapters, a chapter as paragraphs, each one line of plain ASCII without headings or emphasis marks."""
    chapter, paragraph = [], []
    for line in lines + [""]:
        line = line.strip()
        if HEADING.fullmatch(line):
            if chapter:
                yield chapter
            chapter, paragraph = [], []
        elif line:
            paragraph.append(line)
        elif paragraph:
            text = plain(" ".join(paragraph))
            if re.search(r"[a-z]", text) and not TITLE.fullmatch(text):
                chapter.append(text)
            paragraph = []
    if chapter:
        yield chapter


def plain(text: str) -> str:
    for mark, ascii_mark in [("\u201c", '"'), ("\u201d", '"'), ("\u2018", "'"), ("\u2019", "'"), ("\u2014", "--"), ("_", "")]:
        text = text.replace(mark, ascii_mark)
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r" +", " ", text)


def main():
    package, folder = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2])
    assert hashlib.sha256(package).hexdigest() == PACKAGE_SHA256, "another version of the package"
    novels = [list(chapters(lines)) for lines in character_vectors(data_member(package))]
    assert len(novels) == 6, len(novels)
    text = "\n\n".join("\n".join(chapter) for novel in novels for chapter in novel) + "\n"
    cut = text.index("\n\n", len(text) * (100 - HELD_OUT_PERCENT) // 100) + 2
    train, held_out = text[:cut], text[cut:]
    excerpt = held_out[: held_out.rindex("\n", 0, EXCERPT_BYTES) + 1]
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in [("train", train), ("held_out", held_out), ("excerpt", excerpt)]:
        (folder / f"{name}.txt").write_text(part)
        print(f"{name}: {len(part)} bytes, sha256 {hashlib.sha256(part.encode()).hexdigest()}")
    print([sum(map(len, novel)) for novel in novels], "paragraphs in", [len(novel) for novel in novels], "chapters")


if __name__ == "__main__":
    main()
