//! Texts that are continued to see what guessing is worth: code, which repeats itself, and prose, which does less.

/// Names and texts.
pub(super) const ALL: [(&str, &str); 2] = [("code", CODE), ("prose", PROSE)];

/// The longest text in bytes.
pub(super) const LONGEST: usize = if CODE.len() > PROSE.len() { CODE.len() } else { PROSE.len() };

const CODE: &str = r#"import math


class Vector:
    """A vector in three dimensions."""

    def __init__(self, x, y, z):
        self.x = x
        self.y = y
        self.z = z

    def __add__(self, other):
        return Vector(self.x + other.x, self.y + other.y, self.z + other.z)

    def __sub__(self, other):
        return Vector(self.x - other.x, self.y - other.y, self.z - other.z)

    def scale(self, factor):
        return Vector(self.x * factor, self.y * factor, self.z * factor)

    def dot(self, other):
        return self.x * other.x + self.y * other.y + self.z * other.z

    def length(self):
        return math.sqrt(self.dot(self))


class Matrix:
    """A matrix of three rows, each of them a vector."""

    def __init__(self, a, b, c):
"#;

const PROSE: &str = "\
The lighthouse stood at the end of a long spit of sand, and in winter the sea came over the road twice a day. Whoever \
kept the lamp had to know the tides by heart, since there was no telephone and the nearest village lay two hours away on \
foot. For thirty years that had been Marta. She had come as a young woman with a trunk of books and the firm intention of \
staying one summer, and she had stayed for the birds, for the storms, and, as she told anyone who asked, because nobody \
else had wanted to. On the morning this story begins she found a small boat drawn up on the landing, and";
