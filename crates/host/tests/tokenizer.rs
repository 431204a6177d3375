//! The tokenizer against llama.cpp's ids (see `data/README.md`), on the real vocabulary.

mod support;

use barelm::llm::tokenizer::{
    Encoder, PreTokenizer, Special, SpecialText, StreamDecoder, Tokenizer, TokenizerError,
};
use support::{ids, json_lines, reference_model};

fn with_tokenizer(test: impl FnOnce(&Tokenizer<'_>)) {
    let model = reference_model();
    test(&Tokenizer::from_gguf(&model.parse().unwrap()).unwrap());
}

#[test]
#[ignore = "needs the model: cargo xtask setup"]
fn ids_are_those_of_llama_cpp() {
    with_tokenizer(|tokenizer| {
        let cases = json_lines("tokenizer_cases.jsonl");
        assert_eq!(cases.len(), 224);
        let mut encoder = Encoder::with_capacity(1 << 12);
        let mut wrong = Vec::new();
        for case in &cases {
            let text = case["text"].as_str().unwrap();
            for (key, special) in [("ids", Special::Plain), ("ids_special", Special::Parse)] {
                let mut ours = Vec::new();
                tokenizer.encode(&mut encoder, text, special, &mut ours).unwrap();
                if ours != ids(&case[key]) {
                    wrong.push(format!("{key} of {text:?}: {ours:?}, not {}", case[key]));
                }
            }
        }
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len() * 2, wrong.join("\n"));
    });
}

#[test]
#[ignore = "needs the model: cargo xtask setup"]
fn decoding_gives_the_text_back() {
    with_tokenizer(|tokenizer| {
        for case in json_lines("tokenizer_cases.jsonl") {
            let text = case["text"].as_str().unwrap();
            // The vocabulary lacks 21 of the 256 bytes; llama.cpp drops what has no token.
            let encoded = ids(&case["ids_special"]);
            let covered = text.chars().all(|c| {
                let plain = tokenizer.encode_to_vec(c.encode_utf8(&mut [0; 4]), Special::Plain).unwrap();
                tokenizer.decode_to_string(&plain, SpecialText::Show).unwrap() == c.to_string()
            });
            if covered {
                assert_eq!(tokenizer.decode_to_string(&encoded, SpecialText::Show).unwrap(), text);
            }
            // Token by token nothing is lost, and what is not hidden is a part of the whole.
            let mut decoder = StreamDecoder::new(tokenizer).with_special(SpecialText::Show);
            let mut streamed = String::new();
            for &id in &encoded {
                streamed.push_str(decoder.push(tokenizer, id).unwrap());
            }
            streamed.push_str(decoder.finish());
            assert_eq!(streamed, tokenizer.decode_to_string(&encoded, SpecialText::Show).unwrap());
        }
    });
}

#[test]
#[ignore = "needs the model: cargo xtask setup"]
fn bytes_that_are_no_utf8_are_refused_with_their_place() {
    with_tokenizer(|tokenizer| {
        let places = [0, 3, 0, 0, 0, 0, 6, 0];
        let cases = json_lines("tokenizer_invalid_utf8.jsonl");
        assert_eq!(cases.len(), places.len());
        for (case, at) in cases.iter().zip(places) {
            let hex = case["bytes_hex"].as_str().unwrap();
            let bytes: Vec<u8> =
                (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
            let mut out = vec![7];
            let refused = tokenizer.encode_bytes(&mut Encoder::default(), &bytes, Special::Plain, &mut out);
            assert_eq!(refused, Err(TokenizerError::InvalidUtf8 { at }), "{hex}");
            assert_eq!(out, [7], "nothing is encoded of a text that is refused");
        }
    });
}

#[test]
#[ignore = "needs the model: cargo xtask setup"]
fn roles_are_those_of_llama_cpp() {
    with_tokenizer(|tokenizer| {
        assert_eq!(tokenizer.vocab_size(), 49152);
        assert_eq!(tokenizer.pre_tokenizer(), Some(PreTokenizer::SmolLm));
        assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(2)));
        assert!(!tokenizer.adds_bos() && !tokenizer.adds_eos() && !tokenizer.adds_space_prefix());
        // <|endoftext|>, <|im_end|>, and <reponame>, which llama.cpp takes for a fill-in-the-middle token.
        assert_eq!(tokenizer.end_of_generation(), [0, 2, 4]);
        assert_eq!(tokenizer.token_to_id(b"<|im_end|>"), Some(2));
        assert!(tokenizer.is_special(2) && !tokenizer.is_special(17));
    });
}
