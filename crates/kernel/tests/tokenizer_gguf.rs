//! Tokenizers from model files: what the keys mean, and what broken ones give.

use barelm::llm::gguf::Gguf;
use barelm::llm::tokenizer::{PreTokenizer, Special, Tokenizer, TokenizerError};

/// A metadata value, as far as tokenizers have them.
#[derive(Clone)]
enum Value {
    Str(&'static str),
    U32(u32),
    Bool(bool),
    Strings(Vec<&'static str>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// A GGUF file of version 3 without tensors.
fn file(entries: &[(&str, Value)]) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(0u64.to_le_bytes());
    bytes.extend((entries.len() as u64).to_le_bytes());
    for (key, value) in entries {
        bytes.extend(string(key));
        let array = |ty: u32, len: usize| {
            [&9u32.to_le_bytes()[..], &ty.to_le_bytes(), &(len as u64).to_le_bytes()].concat()
        };
        match value {
            Value::U32(number) => bytes.extend([4u32.to_le_bytes(), number.to_le_bytes()].concat()),
            Value::Bool(flag) => bytes.extend([&7u32.to_le_bytes()[..], &[u8::from(*flag)]].concat()),
            Value::Str(text) => bytes.extend([&8u32.to_le_bytes()[..], &string(text)].concat()),
            Value::Strings(texts) => {
                bytes.extend(array(8, texts.len()));
                bytes.extend(texts.iter().flat_map(|text| string(text)));
            }
            Value::I32s(numbers) => {
                bytes.extend(array(5, numbers.len()));
                bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
            }
            Value::F32s(numbers) => {
                bytes.extend(array(6, numbers.len()));
                bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
            }
        }
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes
}

fn byte_level() -> Vec<(&'static str, Value)> {
    vec![
        ("tokenizer.ggml.model", Value::Str("gpt2")),
        ("tokenizer.ggml.pre", Value::Str("qwen2")),
        ("tokenizer.ggml.tokens", Value::Strings(vec!["a", "b", "Ġ", "ab", "Ġab", "<|x|>", "é"])),
        ("tokenizer.ggml.token_type", Value::I32s(vec![1, 1, 1, 1, 1, 3, 1])),
        ("tokenizer.ggml.merges", Value::Strings(vec!["a b", "Ġ ab"])),
        ("tokenizer.ggml.bos_token_id", Value::U32(5)),
        ("tokenizer.ggml.eos_token_id", Value::U32(6)),
        ("tokenizer.ggml.eot_token_id", Value::U32(5)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(true)),
    ]
}

fn sentence_piece() -> Vec<(&'static str, Value)> {
    vec![
        ("tokenizer.ggml.model", Value::Str("llama")),
        (
            "tokenizer.ggml.tokens",
            Value::Strings(vec!["<unk>", "<s>", "</s>", "<0x0A>", "▁", "a", "b", "ab", "▁a"]),
        ),
        ("tokenizer.ggml.token_type", Value::I32s(vec![2, 3, 3, 6, 1, 1, 1, 1, 1])),
        ("tokenizer.ggml.scores", Value::F32s(vec![0.0, 0.0, 0.0, 0.0, -9.0, -9.0, -9.0, -2.0, -1.0])),
    ]
}

fn changed(entries: Vec<(&'static str, Value)>, key: &'static str, value: Option<Value>) -> Vec<u8> {
    let mut entries: Vec<_> = entries.into_iter().filter(|(other, _)| *other != key).collect();
    entries.extend(value.map(|value| (key, value)));
    file(&entries)
}

fn error(bytes: &[u8]) -> TokenizerError {
    Tokenizer::from_gguf(&Gguf::parse(bytes).unwrap()).err().unwrap()
}

fn with<T>(bytes: &[u8], test: impl FnOnce(&Tokenizer<'_>) -> T) -> T {
    test(&Tokenizer::from_gguf(&Gguf::parse(bytes).unwrap()).unwrap())
}

#[test]
fn a_byte_level_vocabulary_is_read() {
    with(&file(&byte_level()), |tokenizer| {
        assert_eq!(tokenizer.pre_tokenizer(), Some(PreTokenizer::Qwen2));
        assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.adds_bos()), (Some(5), Some(6), true));
        assert_eq!(tokenizer.end_of_generation(), [5, 6]);
        assert_eq!(tokenizer.encode_to_vec("ab ab<|x|>", Special::Parse).unwrap(), [3, 4, 5]);
        // Bytes without tokens ("<", "|", "x", ">") are lost, as in llama.cpp.
        assert_eq!(tokenizer.encode_to_vec("ab<|x|>", Special::Plain).unwrap(), [3]);
    });
    // Without a name it is `default`; Llama 3's name brings BOS.
    with(&changed(byte_level(), "tokenizer.ggml.pre", None), |tokenizer| {
        assert_eq!(tokenizer.pre_tokenizer(), Some(PreTokenizer::Default));
    });
    let llama3 = changed(byte_level(), "tokenizer.ggml.pre", Some(Value::Str("llama-bpe")));
    with(&llama3, |tokenizer| assert!(tokenizer.adds_bos()));
    // A role outside the vocabulary is no role.
    let outside = changed(byte_level(), "tokenizer.ggml.eos_token_id", Some(Value::U32(7)));
    with(&outside, |tokenizer| assert_eq!(tokenizer.eos(), None));
}

#[test]
fn a_sentence_piece_vocabulary_is_read() {
    with(&file(&sentence_piece()), |tokenizer| {
        assert_eq!(tokenizer.pre_tokenizer(), None);
        assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.adds_bos()), (Some(1), Some(2), true));
        assert_eq!(tokenizer.encode_to_vec("ab\nab", Special::Plain).unwrap(), [8, 6, 3, 7]);
        // No token and no byte token: unknown.
        assert_eq!(tokenizer.encode_to_vec("x", Special::Plain).unwrap(), [4, 0]);
    });
    let bare = changed(sentence_piece(), "tokenizer.ggml.add_space_prefix", Some(Value::Bool(false)));
    with(&bare, |tokenizer| {
        assert_eq!(tokenizer.encode_to_vec("ab", Special::Plain).unwrap(), [7]);
    });
}

#[test]
fn broken_metadata_is_refused_with_the_reason() {
    let missing = |key| TokenizerError::Missing { key };
    for key in ["tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.merges"] {
        assert_eq!(error(&changed(byte_level(), key, None)), missing(key));
    }
    let set = |key, value| error(&changed(byte_level(), key, Some(value)));
    assert!(matches!(set("tokenizer.ggml.model", Value::Str("bert")), TokenizerError::UnknownModel { .. }));
    assert!(matches!(
        set("tokenizer.ggml.pre", Value::Str("viking")),
        TokenizerError::UnknownPreTokenizer { .. }
    ));
    assert!(matches!(set("tokenizer.ggml.pre", Value::U32(1)), TokenizerError::Gguf(_)));
    assert_eq!(
        set("tokenizer.ggml.tokens", Value::Strings(vec![])),
        TokenizerError::VocabularySize { tokens: 0 }
    );
    assert_eq!(
        set("tokenizer.ggml.tokens", Value::I32s(vec![1])),
        TokenizerError::WrongType { key: "tokenizer.ggml.tokens" }
    );
    assert_eq!(
        set("tokenizer.ggml.token_type", Value::I32s(vec![1])),
        TokenizerError::TooShort { key: "tokenizer.ggml.token_type", entries: 1 }
    );
    assert_eq!(
        set("tokenizer.ggml.token_type", Value::F32s(vec![1.0; 7])),
        TokenizerError::WrongType { key: "tokenizer.ggml.token_type" }
    );
    assert!(matches!(set("tokenizer.ggml.merges", Value::U32(0)), TokenizerError::Gguf(_)));
    assert_eq!(
        set("tokenizer.ggml.bos_token_id", Value::U32(99)),
        TokenizerError::NoSuchSpecial { key: "tokenizer.ggml.bos_token_id" }
    );
    let scores = |value| error(&changed(sentence_piece(), "tokenizer.ggml.scores", Some(value)));
    assert_eq!(
        scores(Value::F32s(vec![0.0])),
        TokenizerError::TooShort { key: "tokenizer.ggml.scores", entries: 1 }
    );
    let mut nan = vec![0.0; 9];
    nan[4] = f32::NAN;
    assert_eq!(scores(Value::F32s(nan)), TokenizerError::ScoreNotANumber { token: 4 });
}

#[test]
fn no_file_makes_it_panic() {
    let mut state = 1u64;
    let mut read = 0;
    for original in [file(&byte_level()), file(&sentence_piece())] {
        for length in 0..original.len() {
            if let Ok(gguf) = Gguf::parse(&original[..length]) {
                let _ = Tokenizer::from_gguf(&gguf);
            }
        }
        for _ in 0..20_000 {
            let mut bytes = original.clone();
            for _ in 0..1 + (state >> 62) {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let at = (state >> 33) as usize % bytes.len();
                bytes[at] = (state >> 20) as u8;
            }
            let Ok(gguf) = Gguf::parse(&bytes) else { continue };
            let Ok(tokenizer) = Tokenizer::from_gguf(&gguf) else { continue };
            read += 1;
            let ids = tokenizer.encode_to_vec("ab <|x|>\n</s>é a", Special::Parse).unwrap();
            assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
        }
    }
    assert!(read > 1000, "{read}");
}
