"""The opponent: n-grams with interpolated Kneser-Ney smoothing, counted on train.txt and scored on an unseen text.

Three of them, since "order 3" has more than one reading: over bytes with two bytes of context (a trigram), over bytes with
three bytes of context (a Markov chain of order 3), and over the model's own tokens with two tokens of context.

Usage: python3 ngram.py FOLDER [TEXT ...]   (texts default to excerpt.txt and held_out.txt of the folder)
"""

import math
import sys
from collections import Counter, defaultdict
from pathlib import Path


class NGram:
    """Interpolated Kneser-Ney of `length` symbols out of `symbols`, the last given the `length - 1` before.

    The longest n-grams are counted as they occur; a shorter one counts how many different symbols stand before it. With
    D = n1 / (n1 + 2 n2) per length (n1, n2: n-grams counted once, twice),
    p(w | h) = max(c(h w) - D, 0) / c(h) + D * distinct(h) / c(h) * p(w | h without its first symbol),
    and under the unigrams lies 1 / symbols.
    """

    def __init__(self, sequence, length, symbols):
        self.length, self.symbols = length, symbols
        counts = Counter(zip(*(sequence[i:] for i in range(length))))
        self.levels = []
        for _ in range(length):
            total, distinct, spectrum = defaultdict(int), defaultdict(int), Counter()
            for gram, count in counts.items():
                total[gram[:-1]] += count
                distinct[gram[:-1]] += 1
                spectrum[count] += 1
            discount = spectrum[1] / (spectrum[1] + 2 * spectrum[2]) if spectrum[1] else 0.5
            self.levels.insert(0, (counts, total, distinct, discount))
            shorter = Counter()
            for gram in counts:
                shorter[gram[1:]] += 1
            counts = shorter

    def probability(self, history, symbol):
        p = 1 / self.symbols
        for used in range(min(self.length - 1, len(history)) + 1):
            counts, total, distinct, discount = self.levels[used]
            context = tuple(history[len(history) - used :])
            if context in total:
                left = max(counts.get((*context, symbol), 0) - discount, 0)
                p = (left + discount * distinct[context] * p) / total[context]
        return p

    def bits(self, sequence):
        """Bits that the whole sequence costs, its first symbols with what context there is."""
        reach = self.length - 1
        return -sum(
            math.log2(self.probability(sequence[max(0, at - reach) : at], symbol)) for at, symbol in enumerate(sequence)
        )


def models(folder: Path):
    """Name, model and the function that turns a text into its symbols."""
    from tokenizers import Tokenizer

    text = (folder / "train.txt").read_text()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    as_ids = lambda part: tokenizer.encode(part, add_special_tokens=False).ids
    yield "byte_trigram", NGram(text.encode(), 3, 256), str.encode
    yield "byte_order_3_markov", NGram(text.encode(), 4, 256), str.encode
    yield "token_trigram", NGram(as_ids(text), 3, tokenizer.get_vocab_size()), as_ids


def bits_per_byte(folder: Path, texts):
    """{name: [bits per byte of each text]}."""
    return {
        name: [model.bits(symbols(text)) / len(text.encode()) for text in texts]
        for name, model, symbols in models(folder)
    }


def check_sums_to_one():
    """Every context's probabilities are a distribution, seen or not."""
    model = NGram(b"abracadabra", 3, 256)
    for history in [b"", b"a", b"br", b"zz", b"za"]:
        total = sum(model.probability(history, symbol) for symbol in range(256))
        assert abs(total - 1) < 1e-9, (history, total)


if __name__ == "__main__":
    check_sums_to_one()
    folder = Path(sys.argv[1])
    files = [Path(name) for name in sys.argv[2:]] or [folder / "excerpt.txt", folder / "held_out.txt"]
    for name, figures in bits_per_byte(folder, [file.read_text() for file in files]).items():
        print(name, *(f"{file.name} {figure:.4f}" for file, figure in zip(files, figures)), "bits per byte")
