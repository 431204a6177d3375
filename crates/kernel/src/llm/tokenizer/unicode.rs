//! Character classes: what `\p{L}`, `\p{N}`, `\p{P}` and `\s` mean to the pre-tokenizers.
//!
//! The table is generated (see [`UNICODE_VERSION`]). llama.cpp carries a table of its own, at this writing
//! of Unicode 15; the two can differ only on characters that were assigned later, such as the letters of Garay.

mod table;

use table::RUNS;
pub use table::UNICODE_VERSION;

/// What a pre-tokenizer sees in a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// None of the others: symbols, marks, controls, unassigned.
    Other,
    /// General category L.
    Letter,
    /// General category N: digits of every script, fractions, Roman numerals.
    Number,
    /// Property White_Space.
    Space,
    /// General category P.
    Punctuation,
}

impl Class {
    const fn from_bits(bits: u32) -> Self {
        match bits & 7 {
            1 => Class::Letter,
            2 => Class::Number,
            3 => Class::Space,
            4 => Class::Punctuation,
            _ => Class::Other,
        }
    }

    /// True for what GPT-2's expression calls `[^\s\p{L}\p{N}]`.
    pub const fn is_symbol(self) -> bool {
        matches!(self, Class::Other | Class::Punctuation)
    }
}

/// Code points below this have their block's first run in [`BLOCKS`].
const INDEXED: u32 = 0x20000;

/// Classes of the ASCII characters.
static ASCII: [Class; 128] = {
    let mut classes = [Class::Other; 128];
    let mut i = 0;
    while i < 128 {
        classes[i] = Class::from_bits(RUNS[run_from(0, i as u32)]);
        i += 1;
    }
    classes
};

/// For each 256 code points the run that holds the first of them.
static BLOCKS: [u16; (INDEXED >> 8) as usize + 1] = {
    let mut blocks = [0; (INDEXED >> 8) as usize + 1];
    let mut run = 0;
    let mut block = 0;
    while block < blocks.len() {
        run = run_from(run, (block as u32) << 8);
        blocks[block] = run as u16;
        block += 1;
    }
    blocks
};

/// The run that holds `code`, searched one by one from `run`.
const fn run_from(mut run: usize, code: u32) -> usize {
    while run + 1 < RUNS.len() && RUNS[run + 1] >> 3 <= code {
        run += 1;
    }
    run
}

/// Classes of the bytes that are a character by themselves.
static BYTES: [Option<Class>; 256] = {
    let mut classes = [None; 256];
    let mut i = 0;
    while i < 128 {
        classes[i] = Some(ASCII[i]);
        i += 1;
    }
    classes
};

/// The class of a byte of UTF-8 that is a character, of ASCII.
#[inline]
pub(super) fn class_of_byte(byte: u8) -> Option<Class> {
    BYTES[usize::from(byte)]
}

/// The class of a character.
#[inline]
pub fn class_of(c: char) -> Class {
    match ASCII.get(c as usize) {
        Some(&class) => class,
        None => class_beyond_ascii(c as u32),
    }
}

fn class_beyond_ascii(code: u32) -> Class {
    let (low, high) = if code < INDEXED {
        let block = (code >> 8) as usize;
        (BLOCKS[block] as usize, BLOCKS[block + 1] as usize + 1)
    } else {
        (BLOCKS[BLOCKS.len() - 1] as usize, RUNS.len())
    };
    // The last run that starts at or before `code`; the first of the range always does.
    let after = RUNS[low..high].partition_point(|run| run >> 3 <= code);
    Class::from_bits(RUNS[low + after - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lookup_agrees_with_a_walk_over_the_runs() {
        let mut run = 0;
        for c in '\0'..=char::MAX {
            run = run_from(run, c as u32);
            assert_eq!(class_of(c), Class::from_bits(RUNS[run]), "{:x}", c as u32);
        }
    }

    #[test]
    fn white_space_and_numbers_are_those_of_core() {
        for c in '\0'..=char::MAX {
            assert_eq!(class_of(c) == Class::Space, c.is_whitespace(), "{:x}", c as u32);
            // `core` may know a newer Unicode: what is a number here is one there.
            assert!(class_of(c) != Class::Number || c.is_numeric(), "{:x}", c as u32);
        }
    }

    #[test]
    fn known_characters_have_known_classes() {
        let cases = [
            ('a', Class::Letter),
            ('ß', Class::Letter),
            ('你', Class::Letter),
            ('𠮷', Class::Letter),
            ('7', Class::Number),
            ('٣', Class::Number),
            ('½', Class::Number),
            ('\u{a0}', Class::Space),
            ('\u{3000}', Class::Space),
            ('_', Class::Punctuation),
            ('。', Class::Punctuation),
            ('+', Class::Other),
            ('`', Class::Other),
            ('😀', Class::Other),
            ('\u{301}', Class::Other),
            ('\u{1c}', Class::Other),
        ];
        for (c, class) in cases {
            assert_eq!(class_of(c), class, "{c:?}");
        }
    }
}
