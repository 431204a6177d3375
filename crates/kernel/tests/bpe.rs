//! Byte-level BPE on small vocabularies: against the plain definition, and at its edges.

use barelm::llm::tokenizer::bpe::Bpe;
use barelm::llm::tokenizer::vocab::Vocab;
use barelm::llm::tokenizer::{
    Encoder, Merging, PreTokenizer, Roles, Special, SpecialText, StreamDecoder, TokenKind, Tokenizer,
    TokenizerError,
};

/// The byte alphabet of GPT-2, by its definition: printable bytes as they are, the others from U+0100 on.
fn spelled(bytes: &[u8]) -> String {
    let printable = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let others: Vec<u8> = (0..=255).filter(|&byte| !printable(byte)).collect();
    let spell = |&byte: &u8| match others.iter().position(|&other| other == byte) {
        None => char::from(byte),
        Some(place) => char::from_u32(256 + place as u32).unwrap(),
    };
    bytes.iter().map(spell).collect()
}

/// A vocabulary of all bytes, the given merges and special tokens.
struct Made {
    texts: Vec<String>,
    kinds: Vec<TokenKind>,
    merges: Vec<String>,
}

impl Made {
    fn new(merges: &[(&str, &str)], specials: &[(&str, TokenKind)]) -> Self {
        let mut texts: Vec<String> = (0..=255).map(|byte| spelled(&[byte])).collect();
        for (left, right) in merges {
            let text = spelled(format!("{left}{right}").as_bytes());
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        let mut kinds = vec![TokenKind::Normal; texts.len()];
        for &(text, kind) in specials {
            texts.push(text.into());
            kinds.push(kind);
        }
        let merges = merges
            .iter()
            .map(|(left, right)| format!("{} {}", spelled(left.as_bytes()), spelled(right.as_bytes())))
            .collect();
        Made { texts, kinds, merges }
    }

    fn tokenizer(&self, pre: PreTokenizer, whole_words: bool) -> Tokenizer<'_> {
        let texts = self.texts.iter().map(|text| text.as_bytes()).collect();
        let mut vocab = Vocab::new(texts, self.kinds.clone()).unwrap();
        let merges = self.merges.iter().map(|line| line.as_bytes());
        let bpe = Bpe::new(&mut vocab, merges, self.merges.len(), whole_words).unwrap();
        Tokenizer::new(vocab, Merging::Bytes { pre, bpe }, Roles::default()).unwrap()
    }

    /// What BPE is: over and over, the pair of the first rank, leftmost first.
    fn plain_bpe(&self, word: &[u8]) -> Vec<u32> {
        let mut parts: Vec<String> = word.iter().map(|&byte| spelled(&[byte])).collect();
        loop {
            let rank = |pair: &[String]| {
                let line = format!("{} {}", pair[0], pair[1]);
                self.merges.iter().position(|merge| *merge == line)
            };
            let ranked = parts.windows(2).enumerate().filter_map(|(at, pair)| Some((rank(pair)?, at)));
            let Some((_, at)) = ranked.min() else { break };
            let right = parts.remove(at + 1);
            parts[at].push_str(&right);
        }
        parts.iter().map(|part| self.texts.iter().position(|text| text == part).unwrap() as u32).collect()
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % end
    }
}

#[test]
fn long_and_short_words_merge_by_the_plain_definition() {
    let mut random = Random(3);
    for round in 0..40 {
        // Random merges over three letters: many ties and overlaps.
        let mut pieces = vec!["a".to_string(), "b".into(), "c".into()];
        let mut pairs: Vec<(String, String)> = Vec::new();
        for _ in 0..30 {
            let pair =
                (pieces[random.below(pieces.len())].clone(), pieces[random.below(pieces.len())].clone());
            let text = format!("{}{}", pair.0, pair.1);
            if text.len() <= 12 && !pairs.contains(&pair) {
                pairs.push(pair);
                pieces.push(text);
            }
        }
        let pairs: Vec<(&str, &str)> =
            pairs.iter().map(|(left, right)| (left.as_str(), right.as_str())).collect();
        let made = Made::new(&pairs, &[]);
        let tokenizer = made.tokenizer(PreTokenizer::Gpt2, false);
        for length in [1, 2, 3, 5, 8, 15, 16, 17, 18, 30, 60, 150] {
            let word: String = (0..length).map(|_| ["a", "b", "c"][random.below(3)]).collect();
            let ours = tokenizer.encode_to_vec(&word, Special::Plain).unwrap();
            assert_eq!(ours, made.plain_bpe(word.as_bytes()), "round {round}, {word}");
            assert_eq!(tokenizer.decode_to_string(&ours, SpecialText::Hide).unwrap(), word);
        }
    }
}

#[test]
fn very_long_words_merge_by_the_plain_definition() {
    // Longer than what is merged at a time. With few letters and many merges, much depends on what comes before.
    let mut random = Random(11);
    for round in 0..12 {
        let letters = ["a", "b", "c", "d"];
        let mut pieces: Vec<String> = letters.map(String::from).to_vec();
        let mut pairs: Vec<(String, String)> = Vec::new();
        for _ in 0..40 {
            let pair =
                (pieces[random.below(pieces.len())].clone(), pieces[random.below(pieces.len())].clone());
            let text = format!("{}{}", pair.0, pair.1);
            if text.len() <= 40 && !pairs.contains(&pair) {
                pairs.push(pair);
                pieces.push(text);
            }
        }
        if round % 2 == 1 {
            // The last found is merged first: chains that go on for long.
            pairs.reverse();
        }
        let pairs: Vec<(&str, &str)> =
            pairs.iter().map(|(left, right)| (left.as_str(), right.as_str())).collect();
        let made = Made::new(&pairs, &[]);
        let tokenizer = made.tokenizer(PreTokenizer::Gpt2, false);
        let used = 1 + round % letters.len();
        for length in [768, 769, 1300, 2100] {
            let word: String = (0..length).map(|_| letters[random.below(used)]).collect();
            let ours = tokenizer.encode_to_vec(&word, Special::Plain).unwrap();
            assert_eq!(ours, made.plain_bpe(word.as_bytes()), "round {round}, {length}");
        }
    }
}

#[test]
fn a_word_whose_end_decides_about_its_start_is_merged_whole() {
    // A chain of different letters in which the last two merge first, then the two before them and so on: whether a
    // letter merges with the one before or behind it depends on how many letters follow, however far the end is.
    let letters: Vec<String> = (0x100..0x300)
        .chain(0x370..0x482)
        .filter_map(char::from_u32)
        .filter(|c| c.is_alphabetic())
        .map(String::from)
        .collect();
    assert!(letters.len() > 601);
    let mut merges: Vec<(String, String)> = Vec::new();
    for count in [600, 601] {
        // Letters have two bytes, which the made vocabulary spells as two characters; their merges come first.
        let chain = &letters[..count];
        merges.clear();
        merges.extend(chain.windows(2).rev().map(|pair| (pair[0].clone(), pair[1].clone())));
        let pairs: Vec<(&str, &str)> =
            merges.iter().map(|(left, right)| (left.as_str(), right.as_str())).collect();
        let mut made = Made::new(&pairs, &[]);
        let bytes = |letter: &String| {
            let bytes = letter.as_bytes();
            format!("{} {}", spelled(&bytes[..1]), spelled(&bytes[1..]))
        };
        let of_bytes: Vec<_> = chain.iter().map(bytes).collect();
        made.merges.splice(0..0, of_bytes);
        for letter in chain {
            made.texts.push(spelled(letter.as_bytes()));
            made.kinds.push(TokenKind::Normal);
        }
        let tokenizer = made.tokenizer(PreTokenizer::Gpt2, false);
        let word = chain.concat();
        let ours = tokenizer.encode_to_vec(&word, Special::Plain).unwrap();
        let mut expected: Vec<String> = Vec::new();
        expected.extend((count % 2 == 1).then(|| chain[0].clone()));
        expected.extend(chain[count % 2..].chunks(2).map(<[String]>::concat));
        let texts: Vec<String> =
            ours.iter().map(|&id| tokenizer.decode_to_string(&[id], SpecialText::Hide).unwrap()).collect();
        assert_eq!(texts, expected, "{count}");
    }
}

#[test]
fn work_is_bounded_by_the_length_of_the_text() {
    let merges =
        [("a", "a"), ("aa", "aa"), ("aaaa", "aaaa"), ("a", "b"), ("ab", "ab"), (" ", " "), ("  ", "  ")];
    let made = Made::new(&merges, &[("<s>", TokenKind::Control)]);
    let units =
        ["a", "ab", "aab", " ", "\n", " \n", "7", "１", "'", "你", "\u{301}", "<", "<s", "<s>", "a1", "!"];
    for pre in ["gpt-2", "smollm", "llama-bpe", "qwen2", "default"] {
        let tokenizer = made.tokenizer(PreTokenizer::from_name(pre).unwrap(), pre == "llama-bpe");
        for unit in units {
            let text = unit.repeat(100_000 / unit.len());
            let mut out = Vec::with_capacity(text.len());
            let mut tries = (0..5).map(|_| {
                let mut encoder = Encoder::with_capacity(text.len());
                out.clear();
                let start = std::time::Instant::now();
                tokenizer.encode(&mut encoder, &text, Special::Parse, &mut out).unwrap();
                let seconds = start.elapsed().as_secs_f64();
                let steps = encoder.steps();
                assert!(steps <= 20 * text.len() as u64, "{pre} {unit:?}: {steps} steps");
                seconds
            });
            // Quadratic work on 100 kB takes many seconds each time; linear work some milliseconds, if nobody is in its way.
            assert!(tries.any(|seconds| seconds < 2.0), "{pre} {unit:?}");
            drop(tries);
            assert_eq!(tokenizer.decode_to_string(&out, SpecialText::Show).unwrap(), text);
        }
    }
}

#[test]
fn ten_times_the_text_is_ten_times_the_work() {
    let merges = [("a", "b"), ("c", "d"), ("ab", "cd"), ("d", "a"), ("b", "b"), ("da", "da"), ("c", "a")];
    let made = Made::new(&merges, &[]);
    let tokenizer = made.tokenizer(PreTokenizer::Llama3, false);
    let mut random = Random(5);
    let word: String = (0..500_000).map(|_| ["a", "b", "c", "d"][random.below(4)]).collect();
    let steps = |length: usize| {
        let mut encoder = Encoder::with_capacity(length);
        let mut out = Vec::with_capacity(length);
        tokenizer.encode(&mut encoder, &word[..length], Special::Plain, &mut out).unwrap();
        encoder.steps() as f64 / length as f64
    };
    let (short, long) = (steps(50_000), steps(500_000));
    assert!((long / short - 1.0).abs() < 0.02, "{short} and {long} steps a byte");
}

#[test]
fn whole_words_are_tokens_only_where_the_vocabulary_says_so() {
    // No merge leads to "hello", so only a whole-word rule finds it.
    let mut made = Made::new(&[("h", "e"), ("l", "l")], &[]);
    made.texts.push("hello".into());
    made.texts.push(spelled(" é".as_bytes()));
    made.kinds.extend([TokenKind::Normal; 2]);
    let hello = made.texts.len() as u32 - 2;
    let by_merges = made.tokenizer(PreTokenizer::Llama3, false);
    let by_words = made.tokenizer(PreTokenizer::Llama3, true);
    assert_eq!(by_words.encode_to_vec("hello é", Special::Plain).unwrap(), [hello, hello + 1]);
    assert_eq!(by_merges.encode_to_vec("hello", Special::Plain).unwrap(), made.plain_bpe(b"hello"));
    assert_eq!(by_words.encode_to_vec("hellos", Special::Plain).unwrap(), made.plain_bpe(b"hellos"));
}

#[test]
fn what_has_no_token_is_spelled_as_far_as_tokens_go() {
    // "ab" merges and is no token: llama.cpp gives its letters. "é" has bytes without tokens: they are lost.
    let texts: Vec<&[u8]> = vec![b"a", b"b", b"c"];
    let mut vocab = Vocab::new(texts, vec![]).unwrap();
    let merges: Vec<&[u8]> = vec![b"a b", b"no-separator", b"", b"x ", b"ab c", b"a b"];
    let bpe = Bpe::new(&mut vocab, merges.iter().copied(), merges.len(), false).unwrap();
    let pre = PreTokenizer::Gpt2;
    let tokenizer = Tokenizer::new(vocab, Merging::Bytes { pre, bpe }, Roles::default()).unwrap();
    assert_eq!(tokenizer.encode_to_vec("abcé", Special::Plain).unwrap(), [0, 1, 2]);
    assert_eq!(tokenizer.vocab_size(), 3);
    assert_eq!(
        tokenizer.decode_to_string(&[3], SpecialText::Show),
        Err(TokenizerError::UnknownToken { id: 3, vocab_size: 3 })
    );
}

/// llama.cpp's way to special tokens, word for word: the longest first, everywhere in what is text still.
fn plain_partition(text: &str, specials: &mut [(&str, u32)]) -> Vec<Result<String, u32>> {
    specials.sort_by_key(|&(special, id)| (std::cmp::Reverse(special.len()), id));
    let mut parts = vec![Ok(text.to_string())];
    for &(special, id) in specials.iter() {
        let mut next = Vec::new();
        for part in parts {
            let Ok(text) = part else {
                next.push(part);
                continue;
            };
            for (i, piece) in text.split(special).enumerate() {
                if i > 0 {
                    next.push(Err(id));
                }
                if !piece.is_empty() {
                    next.push(Ok(piece.to_string()));
                }
            }
        }
        parts = next;
    }
    parts
}

#[test]
fn special_tokens_are_found_longest_first() {
    let specials =
        [("<a>", 3), ("<a><b>", 3), ("b><", 4), ("><", 3), ("<a", 4), ("ab", 4), ("é<", 3), ("<é>", 2)];
    let specials = specials.map(|(text, kind)| (text, TokenKind::from_id(kind)));
    let made = Made::new(&[], &specials);
    let tokenizer = made.tokenizer(PreTokenizer::Gpt2, false);
    let first = (made.texts.len() - specials.len()) as u32;
    let mut random = Random(5);
    let mut found = 0;
    for _ in 0..3000 {
        let text: String =
            (0..random.below(14)).map(|_| ["<", ">", "a", "b", "é", "><"][random.below(6)]).collect();
        for (mode, kinds) in [
            (Special::Parse, &[TokenKind::Control, TokenKind::UserDefined, TokenKind::Unknown][..]),
            (Special::Plain, &[TokenKind::UserDefined][..]),
        ] {
            let mut active: Vec<(&str, u32)> = (first..)
                .zip(specials)
                .filter(|(_, (_, kind))| kinds.contains(kind))
                .map(|(id, (text, _))| (text, id))
                .collect();
            let expected: Vec<u32> = plain_partition(&text, &mut active)
                .into_iter()
                .flat_map(|part| match part {
                    Ok(text) => made.plain_bpe(text.as_bytes()),
                    Err(id) => vec![id],
                })
                .collect();
            let ours = tokenizer.encode_to_vec(&text, mode).unwrap();
            assert_eq!(ours, expected, "{text} {mode:?}");
            found += ours.iter().filter(|&&id| id >= first).count();
        }
    }
    assert!(found > 3000, "{found}");
}

#[test]
fn tokens_that_end_a_generation_are_known_by_text_and_by_role() {
    let ends = ["<|im_end|>", "<|eot_id|>", "</s>", "<|endoftext|>", "<|fim_pad|>", "<|file_sep|>"];
    let mut specials: Vec<(&str, TokenKind)> = ends.iter().map(|&text| (text, TokenKind::Normal)).collect();
    specials.push(("<|im_start|>", TokenKind::Control));
    specials.push(("<|end|>", TokenKind::Control));
    let made = Made::new(&[], &specials);
    let tokenizer = made.tokenizer(PreTokenizer::Qwen2, false);
    assert_eq!(tokenizer.end_of_generation(), [256, 257, 258, 259, 260, 261, 263]);
    for id in 256..264 {
        assert!(tokenizer.is_special(id), "{id}");
        assert_eq!(tokenizer.is_end_of_generation(id), id != 262, "{id}");
    }
    // Known ends are found in a text even where the file calls them normal.
    assert_eq!(tokenizer.encode_to_vec("</s>", Special::Parse).unwrap(), [258]);

    // Where an answer has channels, `<|end|>` closes one of them and is text.
    specials.extend([("<|return|>", TokenKind::Control), ("<|call|>", TokenKind::Control)]);
    let made = Made::new(&[], &specials);
    let tokenizer = made.tokenizer(PreTokenizer::Qwen2, false);
    assert!(!tokenizer.is_end_of_generation(263) && tokenizer.is_end_of_generation(264));
    assert!(!tokenizer.is_special(263));
}

#[test]
fn streaming_never_splits_a_character_and_marks_what_is_none() {
    let made = Made::new(&[], &[("<|x|>", TokenKind::Control)]);
    let tokenizer = made.tokenizer(PreTokenizer::Gpt2, false);
    let mut decoder = StreamDecoder::new(&tokenizer);
    let mut random = Random(11);
    for _ in 0..3000 {
        // Bytes near the edges of UTF-8: leads, trails, surrogates, overlong forms.
        let pool = *b"aZ\xc2\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xed\xa0\xc0\xff\xf4\x90\xe0\x80";
        let bytes: Vec<u8> = (0..random.below(12)).map(|_| pool[random.below(pool.len())]).collect();
        let mut streamed = String::new();
        for &byte in &bytes {
            streamed.push_str(decoder.push(&tokenizer, u32::from(byte)).unwrap());
            // A hidden token in between changes nothing.
            assert_eq!(decoder.push(&tokenizer, 256).unwrap(), "");
        }
        streamed.push_str(decoder.finish());
        assert_eq!(streamed, String::from_utf8_lossy(&bytes), "{bytes:x?}");
    }
    let shown = tokenizer.decode_to_string(&[256, 97, 256], SpecialText::Show).unwrap();
    assert_eq!(shown, "<|x|>a<|x|>");
    assert_eq!(tokenizer.token_bytes(0xe9).unwrap().collect::<Vec<u8>>(), [0xe9]);
}
