//! Pre-tokenizers: cut a text into the words inside which byte-pair merges happen.
//!
//! Model files name a pre-tokenizer; each stands for one or more regular expressions. Here each is a hand-written
//! splitter that takes the next word from the front, so no expression is compiled and no text makes it backtrack:
//! the work is linear in the length of the text.

use super::unicode::{Class, class_of, class_of_byte};

/// How a text is cut into words, as `tokenizer.ggml.pre` of a model file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PreTokenizer {
    /// `gpt-2`: contractions, then ` ?letters`, ` ?numbers`, ` ?symbols`, white space.
    Gpt2,
    /// `smollm`: every number character is a word of its own; GPT-2's rule for what lies between them.
    SmolLm,
    /// `llama-bpe` (Llama 3): contractions in any case, one leading non-letter joins a word, numbers by three.
    Llama3,
    /// `qwen2`: as Llama 3, each number character on its own.
    Qwen2,
    /// `default`, and files that name none: punctuation runs apart, then GPT-2's rule, numbers apart from the
    /// space before them and ASCII digits by three.
    Default,
}

impl PreTokenizer {
    /// The pre-tokenizer of a name in a model file; several names mean the same one.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "gpt-2" | "mpt" | "olmo" | "jais" | "phi-2" | "trillion" | "granite-docling" | "exaone4" => {
                PreTokenizer::Gpt2
            }
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" => {
                PreTokenizer::SmolLm
            }
            "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0"
            | "lfm2" | "dbrx" | "smaug-bpe" => PreTokenizer::Llama3,
            "qwen2" | "deepseek-r1-qwen" | "megrez" | "stablelm2" | "hunyuan" => PreTokenizer::Qwen2,
            "default" | "" => PreTokenizer::Default,
            _ => return None,
        })
    }

    /// The name model files use for it.
    pub const fn name(self) -> &'static str {
        match self {
            PreTokenizer::Gpt2 => "gpt-2",
            PreTokenizer::SmolLm => "smollm",
            PreTokenizer::Llama3 => "llama-bpe",
            PreTokenizer::Qwen2 => "qwen2",
            PreTokenizer::Default => "default",
        }
    }

    /// The words of `text`, in order; put together they are `text`.
    pub fn words(self, text: &str) -> Words<'_> {
        Words { kind: self, rest: text, segment: 0 }
    }
}

/// Iterator over the words of a text.
#[derive(Clone, Debug)]
pub struct Words<'t> {
    kind: PreTokenizer,
    /// What is left.
    rest: &'t str,
    /// Of that so many bytes, GPT-2's rule sees no further; found anew when it is 0.
    segment: usize,
}

impl<'t> Iterator for Words<'t> {
    type Item = &'t str;

    fn next(&mut self) -> Option<&'t str> {
        let rest = self.rest;
        if rest.is_empty() {
            return None;
        }
        let length = match self.kind {
            PreTokenizer::Gpt2 => gpt2(rest),
            PreTokenizer::Llama3 => llama3(rest, 3),
            PreTokenizer::Qwen2 => llama3(rest, 1),
            PreTokenizer::SmolLm => {
                if let Some((Class::Number, length)) = first(rest) {
                    length
                } else {
                    self.in_segment(|text| run_of(text, |class| class != Class::Number))
                }
            }
            PreTokenizer::Default => match first(rest) {
                Some((Class::Number, _)) => number_by_three(rest),
                _ if rest.starts_with(' ') && starts_with_number(&rest[1..]) => 1,
                _ => match run(rest, is_default_punctuation) {
                    0 => self.in_segment(|text| run(text, |c| !is_default_punctuation(c))),
                    length => length,
                },
            },
        };
        let (word, rest) = rest.split_at(length);
        (self.rest, self.segment) = (rest, self.segment.saturating_sub(length));
        Some(word)
    }
}

impl Words<'_> {
    /// GPT-2's rule within the segment whose length `uncut` finds.
    fn in_segment(&mut self, uncut: impl Fn(&str) -> usize) -> usize {
        if self.segment == 0 {
            self.segment = uncut(self.rest);
        }
        gpt2(&self.rest[..self.segment])
    }
}

/// Class and length in bytes of the first character.
#[inline]
fn first(text: &str) -> Option<(Class, usize)> {
    text.chars().next().map(|c| (class_of(c), c.len_utf8()))
}

/// Length in bytes of the longest start of `text` whose characters all match.
fn run(text: &str, matches: impl Fn(char) -> bool) -> usize {
    text.char_indices().find(|&(_, c)| !matches(c)).map_or(text.len(), |(at, _)| at)
}

/// Length in bytes of the longest start of `text` whose characters are all of the classes that match.
#[inline]
fn run_of(text: &str, matches: impl Fn(Class) -> bool) -> usize {
    // ASCII is not decoded.
    let bytes = text.as_bytes();
    let ascii = bytes.iter().position(|&byte| !class_of_byte(byte).is_some_and(&matches));
    match ascii {
        None => text.len(),
        Some(at) if bytes[at] < 128 => at,
        Some(at) => at + run(&text[at..], |c| matches(class_of(c))),
    }
}

/// Length of the first word by `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
fn gpt2(text: &str) -> usize {
    let bytes = text.as_bytes();
    let skip = usize::from(bytes[0] == b' ');
    // Most words are ASCII letters behind a space.
    let letters = bytes[skip..].iter().position(|&byte| class_of_byte(byte) != Some(Class::Letter));
    match letters {
        None if bytes.len() > skip => return bytes.len(),
        Some(count) if count > 0 && bytes[skip + count] < 128 => return skip + count,
        _ => {}
    }
    if let Some(length) = contraction(bytes, |byte| byte) {
        return length;
    }
    let after = &text[skip..];
    let matched = match first(after) {
        Some((Class::Letter, _)) => run_of(after, |class| class == Class::Letter),
        Some((Class::Number, _)) => run_of(after, |class| class == Class::Number),
        Some((Class::Space, _)) | None => return white_space(text),
        Some(_) => run_of(after, Class::is_symbol),
    };
    skip + matched
}

/// Length of the first word by Llama 3's expression: `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|
/// \p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`.
fn llama3(text: &str, digits: usize) -> usize {
    let bytes = text.as_bytes();
    if let Some(length) = contraction(bytes, |byte| byte.to_ascii_lowercase()) {
        return length;
    }
    let Some((class, length)) = first(text) else { return 0 };
    let letters = |from: usize| from + run_of(&text[from..], |class| class == Class::Letter);
    match class {
        Class::Letter => return letters(length),
        Class::Number => {
            let counted = text.chars().take(digits).take_while(|&c| class_of(c) == Class::Number);
            return counted.map(char::len_utf8).sum();
        }
        _ if bytes[0] != b'\r' && bytes[0] != b'\n' => {
            if let Some((Class::Letter, _)) = first(&text[length..]) {
                return letters(length);
            }
        }
        _ => {}
    }
    let skip = usize::from(bytes[0] == b' ');
    let symbols = run_of(&text[skip..], Class::is_symbol);
    if symbols > 0 {
        let end = skip + symbols;
        return end + bytes[end..].iter().take_while(|&&byte| byte == b'\r' || byte == b'\n').count();
    }
    // Up to and with the last line end of the white space, if it has one.
    let spaces = run_of(text, |class| class == Class::Space);
    match bytes[..spaces].iter().rposition(|&byte| byte == b'\r' || byte == b'\n') {
        Some(last) => last + 1,
        None => white_space(text),
    }
}

/// Length of `'s`, `'t`, `'m`, `'d`, `'re`, `'ve` or `'ll` at the start of the text.
fn contraction(bytes: &[u8], fold: impl Fn(u8) -> u8) -> Option<usize> {
    if bytes[0] != b'\'' {
        return None;
    }
    let one = fold(*bytes.get(1)?);
    if matches!(one, b's' | b't' | b'm' | b'd') {
        return Some(2);
    }
    let two = fold(*bytes.get(2)?);
    matches!((one, two), (b'r', b'e') | (b'v', b'e') | (b'l', b'l')).then_some(3)
}

/// Length by `\s+(?!\S)|\s+`: white space before a word leaves its last character to the word.
fn white_space(text: &str) -> usize {
    let length = run_of(text, |class| class == Class::Space);
    let last = text[..length].chars().next_back().map_or(0, char::len_utf8);
    if length < text.len() && length > last { length - last } else { length }
}

/// What `default` cuts out first: `[\p{P}\$\+<=>\^~\|]`.
fn is_default_punctuation(c: char) -> bool {
    class_of(c) == Class::Punctuation || matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '~' | '|')
}

fn starts_with_number(text: &str) -> bool {
    matches!(first(text), Some((Class::Number, _)))
}

/// The start of a run of numbers, in which `default` takes every `[0-9][0-9][0-9]` apart.
fn number_by_three(text: &str) -> usize {
    let mut digits = 0;
    for (at, c) in text.char_indices() {
        if class_of(c) != Class::Number {
            return at;
        }
        digits = if c.is_ascii_digit() { digits + 1 } else { 0 };
        if digits == 3 {
            // Three digits: a word of their own, or the end of the word before them.
            return if at == 2 { 3 } else { at - 2 };
        }
    }
    text.len()
}
