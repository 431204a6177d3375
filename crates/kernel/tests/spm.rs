//! SentencePiece BPE against PyPI `sentencepiece` (`data/spm.txt`, made by `tools/references/spm.py`).

use barelm::llm::tokenizer::spm::Spm;
use barelm::llm::tokenizer::vocab::Vocab;
use barelm::llm::tokenizer::{
    Encoder, Merging, Roles, Special, SpecialText, StreamDecoder, TokenKind, Tokenizer,
};

const FIXTURE: &str = include_str!("data/spm.txt");

/// `%XX` is a byte, everything else itself.
fn unescaped(shown: &str) -> Vec<u8> {
    let mut parts = shown.split('%');
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend(part[2..].bytes());
    }
    bytes
}

struct Tokens {
    texts: Vec<Vec<u8>>,
    scores: Vec<f32>,
    kinds: Vec<TokenKind>,
}

impl Tokens {
    fn read() -> Self {
        let mut tokens = Tokens { texts: vec![], scores: vec![], kinds: vec![] };
        for line in FIXTURE.lines().filter_map(|line| line.strip_prefix("token ")) {
            let [text, score, kind] = *line.split(' ').collect::<Vec<_>>() else { panic!("{line}") };
            tokens.texts.push(unescaped(text));
            tokens.scores.push(score.parse().unwrap());
            tokens.kinds.push(TokenKind::from_id(kind.parse().unwrap()));
        }
        tokens
    }

    fn tokenizer(&self) -> Tokenizer<'_> {
        let texts = self.texts.iter().map(|text| text.as_slice()).collect();
        let vocab = Vocab::new(texts, self.kinds.clone()).unwrap();
        let spm = Spm::new(&vocab, self.scores.iter().copied(), Some(0), true).unwrap();
        let roles = Roles { bos: Some(1), eos: Some(2), add_bos: true, ..Roles::default() };
        Tokenizer::new(vocab, Merging::SentencePiece(spm), roles).unwrap()
    }
}

fn cases() -> impl Iterator<Item = (String, Vec<u32>)> {
    FIXTURE.lines().filter_map(|line| line.strip_prefix("case ")).map(|line| {
        let (text, ids) = line.split_once(' ').unwrap_or((line, ""));
        let ids = ids.split(' ').filter(|id| !id.is_empty()).map(|id| id.parse().unwrap()).collect();
        (String::from_utf8(unescaped(text)).unwrap(), ids)
    })
}

#[test]
fn ids_are_those_of_sentencepiece() {
    let tokens = Tokens::read();
    let tokenizer = tokens.tokenizer();
    let mut encoder = Encoder::with_capacity(64);
    let (mut count, mut wrong) = (0, Vec::new());
    for (text, expected) in cases() {
        let mut ours = Vec::new();
        tokenizer.encode(&mut encoder, &text, Special::Plain, &mut ours).unwrap();
        if ours != expected {
            wrong.push(format!("{text:?}: {ours:?}, not {expected:?}"));
        }
        count += 1;
    }
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count >= 250, "{count}");
}

#[test]
fn decoding_gives_the_text_back() {
    let tokens = Tokens::read();
    let tokenizer = tokens.tokenizer();
    for (text, ids) in cases() {
        // The vocabulary itself writes a space as U+2581.
        let expected = text.replace('▁', " ");
        assert_eq!(tokenizer.decode_to_string(&ids, SpecialText::Hide).unwrap(), expected);
        // As a continuation, the space that opens every text stays.
        let mut decoder = StreamDecoder::new(&tokenizer);
        let mut streamed = String::new();
        for id in ids {
            streamed.push_str(decoder.push(&tokenizer, id).unwrap());
        }
        streamed.push_str(decoder.finish());
        assert_eq!(streamed, if text.is_empty() { expected } else { format!(" {expected}") });
    }
}

#[test]
fn text_after_a_special_token_starts_anew() {
    let tokens = Tokens::read();
    let tokenizer = tokens.tokenizer();
    let encode = |text| tokenizer.encode_to_vec(text, Special::Parse).unwrap();
    let the = encode("the");
    // As in llama.cpp: special tokens as they are, and a space of its own for the text after each.
    assert_eq!(encode("<s>the</s>the"), [&[1][..], &the, &[2], &the].concat());
    assert_eq!(encode("<s><s>"), [1, 1]);
    assert_eq!(encode("<unk>"), [0]);
    assert_ne!(tokenizer.encode_to_vec("<s>", Special::Plain).unwrap(), [1]);
}

#[test]
fn work_is_bounded_by_the_length_of_the_text() {
    let tokens = Tokens::read();
    let tokenizer = tokens.tokenizer();
    for unit in ["a", "ab", "the", " ", "你", "x", "attention"] {
        let text = unit.repeat(100_000 / unit.len());
        let mut encoder = Encoder::with_capacity(text.len());
        tokenizer.encode(&mut encoder, &text, Special::Plain, &mut Vec::new()).unwrap();
        assert!(encoder.steps() <= 20 * text.len() as u64, "{unit}: {} steps", encoder.steps());
    }
}
