//! Encoding text.

use alloc::vec::Vec;
use core::hint::black_box;

use crate::llm::benchmarks::case::{Case, Work, WrongAnswer};
use crate::llm::tokenizer::bpe::Bpe;
use crate::llm::tokenizer::vocab::Vocab;
use crate::llm::tokenizer::{Encoder, Merging, PreTokenizer, Roles, Special, SpecialText, Tokenizer};

/// What is encoded: letters, spaces, commas and full stops only, so that words are found without a pre-tokenizer.
const TEXT: &str = "The engine reads a model, counts what it needs, and says before it loads whether the memory will \
hold it. Then the words of the prompt become numbers, the numbers become vectors, and the vectors pass through the \
layers one after another. At the end stands a number again, and the number is a word. Nothing else happens, and \
nothing happens twice. What the machine could do is printed beside what it did, so that a reader may judge the rest.";

/// Merges learnt from [`TEXT`].
const MERGES: usize = 120;

/// A byte-pair vocabulary learnt from the benchmark's own text, with the encoding that learning it left behind.
///
/// Learning applies each merge to the whole text as it is found, so the final pieces are the answer that an encoder
/// must give: found in another way than by encoding.
pub struct Vocabulary {
    texts: Vec<Vec<u8>>,
    merges: Vec<Vec<u8>>,
    expected: Vec<u32>,
}

impl Vocabulary {
    /// Learns it. The same every time: the most frequent pair goes first, of equals the one met first.
    pub fn train() -> Self {
        let mut texts: Vec<Vec<u8>> = Vec::new();
        let mut words: Vec<Vec<u32>> = Vec::new();
        let mut before = b'.';
        for &byte in TEXT.as_bytes() {
            let spelled = if byte == b' ' { "\u{120}".as_bytes() } else { core::slice::from_ref(&byte) };
            let id = texts.iter().position(|text| text == spelled).unwrap_or_else(|| {
                texts.push(spelled.to_vec());
                texts.len() - 1
            });
            // A word is letters with the space before them, or a mark of punctuation.
            let goes_on = byte.is_ascii_alphabetic() && (before.is_ascii_alphabetic() || before == b' ');
            if !goes_on {
                words.push(Vec::new());
            }
            words.last_mut().expect("the first byte opened a word").push(id as u32);
            before = byte;
        }
        let mut merges = Vec::new();
        while merges.len() < MERGES {
            let mut pairs: Vec<((u32, u32), usize)> = Vec::new();
            for pair in words.iter().flat_map(|word| word.windows(2)).map(|pair| (pair[0], pair[1])) {
                match pairs.iter_mut().find(|(known, _)| *known == pair) {
                    Some((_, count)) => *count += 1,
                    None => pairs.push((pair, 1)),
                }
            }
            let Some(&most) = pairs.iter().map(|(_, count)| count).max() else { break };
            let (left, right) = pairs.iter().find(|(_, count)| *count == most).expect("it was counted").0;
            let (left_text, right_text) = (&texts[left as usize], &texts[right as usize]);
            merges.push([left_text, &b" "[..], right_text].concat());
            let joined = [&left_text[..], right_text].concat();
            let id = texts.iter().position(|text| *text == joined).unwrap_or_else(|| {
                texts.push(joined);
                texts.len() - 1
            }) as u32;
            for word in &mut words {
                let mut at = 0;
                while at + 1 < word.len() {
                    if (word[at], word[at + 1]) == (left, right) {
                        word[at] = id;
                        word.remove(at + 1);
                    }
                    at += 1;
                }
            }
        }
        Self { texts, merges, expected: words.concat() }
    }

    /// The tokenizer of this vocabulary.
    pub fn tokenizer(&self) -> Tokenizer<'_> {
        let build = || {
            let mut vocab = Vocab::new(self.texts.iter().map(Vec::as_slice).collect(), Vec::new())?;
            let lines = self.merges.iter().map(Vec::as_slice);
            let bpe = Bpe::new(&mut vocab, lines, self.merges.len(), false)?;
            let pre = PreTokenizer::from_name("gpt-2").expect("GPT-2's is always known");
            Tokenizer::new(vocab, Merging::Bytes { pre, bpe }, Roles::default())
        };
        build().expect("a vocabulary learnt from ASCII text is well formed")
    }
}

/// Encodes the text, about 430 characters, with buffers reused. A unit is 100 characters.
pub struct Tokenization<'t> {
    tokenizer: &'t Tokenizer<'t>,
    expected: Option<&'t [u32]>,
    encoder: Encoder,
    ids: Vec<u32>,
}

impl<'t> Tokenization<'t> {
    /// With the vocabulary learnt from the text: ids are known exactly.
    pub fn trained(tokenizer: &'t Tokenizer<'t>, vocabulary: &'t Vocabulary) -> Self {
        Self { expected: Some(&vocabulary.expected), ..Self::of(tokenizer) }
    }

    /// With any tokenizer: the ids must decode to the text.
    pub fn of(tokenizer: &'t Tokenizer<'t>) -> Self {
        let encoder = Encoder::with_capacity(TEXT.len());
        Self { tokenizer, expected: None, encoder, ids: Vec::with_capacity(TEXT.len() + 8) }
    }
}

impl Case for Tokenization<'_> {
    fn name(&self) -> &'static str {
        "tokenization"
    }

    fn work(&self) -> Work {
        let tokens = self.expected.map_or(0, |ids| ids.len() as u64);
        Work { units: TEXT.len() as f64 / 100.0, tokens, bytes: TEXT.len() as u64, flops: 0 }
    }

    fn run(&mut self, calls: u64) {
        for _ in 0..calls {
            self.ids.clear();
            self.tokenizer
                .encode(&mut self.encoder, black_box(TEXT), Special::Plain, &mut self.ids)
                .expect("a short text");
            black_box(&self.ids);
        }
    }

    fn check(&mut self) -> Result<(), WrongAnswer> {
        if let Some(expected) = self.expected {
            WrongAnswer::check("number of tokens", expected.len() as f64, self.ids.len() as f64, 0.0)?;
            for (&expected, &found) in expected.iter().zip(&self.ids) {
                WrongAnswer::check("a token's id", f64::from(expected), f64::from(found), 0.0)?;
            }
        }
        let text = self.tokenizer.decode_to_string(&self.ids, SpecialText::Show).unwrap_or_default();
        let same = text.trim_start() == TEXT;
        WrongAnswer::check("the ids decode to the text", 1.0, f64::from(u8::from(same)), 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoder_finds_the_pieces_that_learning_left() {
        let vocabulary = Vocabulary::train();
        assert_eq!(vocabulary.merges.len(), MERGES);
        let tokenizer = vocabulary.tokenizer();
        let mut case = Tokenization::trained(&tokenizer, &vocabulary);
        case.run(2);
        assert_eq!(case.check(), Ok(()));
        assert!(case.work().tokens * 2 < TEXT.len() as u64, "merges shorten the text");
    }

    #[test]
    fn a_missing_token_is_noticed() {
        let vocabulary = Vocabulary::train();
        let tokenizer = vocabulary.tokenizer();
        for mut case in [Tokenization::trained(&tokenizer, &vocabulary), Tokenization::of(&tokenizer)] {
            case.run(1);
            case.ids.pop();
            assert!(case.check().is_err());
        }
    }

    #[test]
    fn nothing_is_allocated_in_the_loop() {
        let vocabulary = Vocabulary::train();
        let tokenizer = vocabulary.tokenizer();
        let mut case = Tokenization::of(&tokenizer);
        let before = (case.ids.as_ptr(), case.ids.capacity());
        case.run(3);
        assert_eq!(before, (case.ids.as_ptr(), case.ids.capacity()));
    }
}
