//! Vocabularies: `tokenizer.json` and its companions, and the `tokenizer.*` metadata of GGUF.
//!
//! Byte-level BPE only (GPT-2, Llama 3, SmolLM2, Qwen2 …). What cuts text into words is written out as regular
//! expressions in `tokenizer.json`, and is a name in GGUF; `PRE_TOKENIZERS` pairs those that are known.

use std::collections::HashMap;
use std::path::Path;

use barelm::llm::gguf::{Gguf, Value as Field, Writer};
use serde_json::{Value, json};

use super::read_json;
use crate::failure::Failure;

/// Kinds of tokens, as `tokenizer.ggml.token_type` numbers them.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// What cuts text into words, by its name in GGUF.
///
/// The expressions are those of the vocabularies' authors, as their files have them.
const PRE_TOKENIZERS: [(&str, PreTokenizer); 4] = [
    ("gpt-2", PreTokenizer { split: None, digits: false }),
    ("smollm", PreTokenizer { split: None, digits: true }),
    (
        "llama-bpe",
        PreTokenizer {
            split: Some(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ),
            digits: false,
        },
    ),
    (
        "qwen2",
        PreTokenizer {
            split: Some(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ),
            digits: false,
        },
    ),
];

/// How words are cut before pieces are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PreTokenizer {
    /// The expression that words match; without it GPT-2's own.
    split: Option<&'static str>,
    /// Whether each number character stands alone before that.
    digits: bool,
}

impl PreTokenizer {
    fn json(self) -> Value {
        let bytes = json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": self.split.is_none()
        });
        let mut steps = Vec::new();
        if self.digits {
            steps.push(json!({"type": "Digits", "individual_digits": true}));
        }
        if let Some(expression) = self.split {
            steps.push(json!({
                "type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false
            }));
        }
        steps.push(bytes);
        json!({"type": "Sequence", "pretokenizers": steps})
    }

    /// What `pre_tokenizer` of a `tokenizer.json` says, by its steps, as far as this can say it.
    fn parse(json: &Value) -> Option<(Option<&str>, bool)> {
        let one = std::slice::from_ref(json);
        let steps = match json["type"].as_str()? {
            "Sequence" => json["pretokenizers"].as_array()?.as_slice(),
            _ => one,
        };
        let (mut split, mut digits, mut bytes) = (None, false, None);
        for step in steps {
            match step["type"].as_str()? {
                "Digits" if step["individual_digits"] == true && split.is_none() => digits = true,
                "Split" if step["behavior"] == "Isolated" && split.is_none() => {
                    split = Some(step["pattern"]["Regex"].as_str()?);
                }
                // Without the field the expression is used.
                "ByteLevel" if step["add_prefix_space"] == false && bytes.is_none() => {
                    bytes = Some(step["use_regex"].as_bool().unwrap_or(true));
                }
                _ => return None,
            }
        }
        (bytes? == split.is_none()).then_some((split, digits))
    }
}

/// A vocabulary with all that a file says of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vocabulary {
    /// What cuts words, as GGUF names it.
    pre: String,
    tokens: Vec<String>,
    kinds: Vec<i32>,
    /// Two pieces with a blank between, first merged first.
    merges: Vec<String>,
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// The token that ends one.
    pub eos: Option<u32>,
    unknown: Option<u32>,
    padding: Option<u32>,
    add_bos: bool,
    chat_template: Option<String>,
}

impl Vocabulary {
    /// Reads `tokenizer.json`, `tokenizer_config.json` and what else the folder has; `vocab` is the number of rows of the
    /// embedding, and places without a token are filled. `pre` names the pre-tokenizer where the folder's is not known.
    ///
    /// # Errors
    /// A missing or damaged file, another kind of vocabulary, or one that is larger than the embedding.
    pub fn read(folder: &Path, vocab: usize, pre: Option<&str>) -> Result<Self, Failure> {
        let path = folder.join("tokenizer.json");
        let json = read_json(folder, "tokenizer.json")?.ok_or_else(|| {
            Failure::Message(format!(
                "{}: no such file; save the tokenizer in its fast form, which writes it",
                path.display()
            ))
        })?;
        let config = read_json(folder, "tokenizer_config.json")?.unwrap_or_default();
        let mut read =
            Self::parse(&json, &config, vocab, pre).map_err(|why| Failure::because(path.display(), why))?;
        let model = read_json(folder, "config.json")?.unwrap_or_default();
        let known = |id: &Value| id.as_u64().filter(|&id| id < vocab as u64).map(|id| id as u32);
        let first = |id: &Value| known(id.as_array().and_then(|ids| ids.first()).unwrap_or(id));
        read.bos = read.bos.or(first(&model["bos_token_id"]));
        read.eos = read.eos.or(first(&model["eos_token_id"]));
        if read.chat_template.is_none() {
            read.chat_template = std::fs::read_to_string(folder.join("chat_template.jinja")).ok();
        }
        Ok(read)
    }

    fn parse(json: &Value, config: &Value, vocab: usize, pre: Option<&str>) -> Result<Self, String> {
        let model = &json["model"];
        let kind = model["type"].as_str().unwrap_or("of no type");
        if kind != "BPE" || model["byte_fallback"] == true {
            let what = if kind == "BPE" { "SentencePiece's BPE" } else { kind };
            return Err(format!("the vocabulary is {what}; byte-level BPE can be converted"));
        }
        if !json["normalizer"].is_null() && json["normalizer"]["type"] != "NFC" {
            return Err(format!(
                "the text is normalized by {}, which GGUF cannot say",
                json["normalizer"]["type"]
            ));
        }
        let pre = match pre {
            Some(name) => name.to_owned(),
            None => {
                let steps = PreTokenizer::parse(&json["pre_tokenizer"]);
                let same = |known: &&(&str, PreTokenizer)| steps == Some((known.1.split, known.1.digits));
                let found = PRE_TOKENIZERS.iter().find(same);
                let names = PRE_TOKENIZERS.map(|(name, _)| name).join(", ");
                found
                    .ok_or_else(|| {
                        format!("the pre-tokenizer is none of {names}; name the one to write with --pre")
                    })?
                    .0
                    .to_owned()
            }
        };
        let mut tokens: Vec<Option<String>> = vec![None; vocab];
        let mut kinds = vec![UNUSED; vocab];
        let mut place = |id: &Value, text: &str, kind: i32| -> Result<(), String> {
            let id = id.as_u64().ok_or_else(|| format!("token `{text}` has no id"))?;
            let slot = usize::try_from(id).ok().filter(|&id| id < vocab);
            let slot =
                slot.ok_or_else(|| format!("token `{text}` has id {id}, and the embedding {vocab} rows"))?;
            if tokens[slot].as_deref().is_some_and(|other| other != text) {
                return Err(format!("id {id} is two tokens, one of them `{text}`"));
            }
            tokens[slot] = Some(text.to_owned());
            kinds[slot] = kind;
            Ok(())
        };
        let pieces = model["vocab"].as_object().ok_or("model.vocab is missing")?;
        for (text, id) in pieces {
            place(id, text, NORMAL)?;
        }
        for added in json["added_tokens"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let text = added["content"].as_str().ok_or("an added token has no content")?;
            place(&added["id"], text, if added["special"] == true { CONTROL } else { USER_DEFINED })?;
        }
        let merges = model["merges"].as_array().ok_or("model.merges is missing")?;
        let merges = merges.iter().map(|merge| match merge {
            Value::String(text) => Ok(text.clone()),
            Value::Array(pair) => match &pair[..] {
                [Value::String(left), Value::String(right)] => Ok(format!("{left} {right}")),
                _ => Err(format!("a merge of {} pieces", pair.len())),
            },
            other => Err(format!("a merge that is {other}")),
        });
        let merges = merges.collect::<Result<_, String>>()?;
        let filled = tokens.iter().enumerate().map(|(id, text)| text.clone().unwrap_or(format!("[PAD{id}]")));
        let tokens: Vec<String> = filled.collect();
        let ids: HashMap<&str, u32> = tokens.iter().zip(0..).map(|(text, id)| (text.as_str(), id)).collect();
        let role = |name: &str| {
            // A text, or an object that holds it.
            let text = config[name].as_str().or_else(|| config[name]["content"].as_str())?;
            ids.get(text).copied()
        };
        let bos = role("bos_token");
        // Where a text begins with a token of its own, whoever encodes it adds that.
        let template = &json["post_processor"];
        let processors = template["processors"].as_array().map(Vec::as_slice);
        let mut templates = processors.unwrap_or(std::slice::from_ref(template)).iter();
        let begins = templates.any(|step| {
            let id = &step["single"][0]["SpecialToken"]["id"];
            id.as_str().is_some_and(|text| ids.get(text).copied() == bos && bos.is_some())
        });
        Ok(Vocabulary {
            pre,
            kinds,
            merges,
            bos,
            eos: role("eos_token"),
            unknown: role("unk_token"),
            padding: role("pad_token"),
            add_bos: config["add_bos_token"].as_bool().unwrap_or(begins),
            chat_template: config["chat_template"].as_str().map(str::to_owned),
            tokens,
        })
    }

    /// Reads a GGUF file's vocabulary.
    ///
    /// # Errors
    /// Another kind of vocabulary, or fields that are missing.
    pub fn from_gguf(gguf: &Gguf<'_>) -> Result<Self, String> {
        let said = |error: barelm::llm::gguf::GgufError| error.to_string();
        let kind = gguf.get_str("tokenizer.ggml.model").map_err(said)?.unwrap_or("missing");
        if kind != "gpt2" {
            return Err(format!("the vocabulary is `{kind}`; byte-level BPE (`gpt2`) can be exported"));
        }
        let strings = |key: &str| {
            let array = gguf.get_array(key).map_err(said)?.and_then(|array| array.strings());
            let array = array.ok_or_else(|| format!("{key} is missing"))?;
            let texts =
                array.map(|text| String::from_utf8(text.to_vec()).map_err(|_| format!("{key} is not UTF-8")));
            texts.collect::<Result<Vec<_>, String>>()
        };
        let tokens = strings("tokenizer.ggml.tokens")?;
        let kinds = match gguf.get_array("tokenizer.ggml.token_type").map_err(said)? {
            Some(kinds) => kinds.i32s().ok_or("tokenizer.ggml.token_type holds no numbers")?.collect(),
            None => vec![NORMAL; tokens.len()],
        };
        let id = |role: &str| gguf.get_u32(&format!("tokenizer.ggml.{role}_token_id")).map_err(said);
        Ok(Vocabulary {
            pre: gguf.get_str("tokenizer.ggml.pre").map_err(said)?.unwrap_or("default").to_owned(),
            kinds,
            merges: strings("tokenizer.ggml.merges")?,
            bos: id("bos")?,
            eos: id("eos")?,
            unknown: id("unknown")?,
            padding: id("padding")?,
            add_bos: gguf.get_bool("tokenizer.ggml.add_bos_token").map_err(said)?.unwrap_or(false),
            chat_template: gguf.get_str("tokenizer.chat_template").map_err(said)?.map(str::to_owned),
            tokens,
        })
    }

    /// Adds the vocabulary to a GGUF file.
    pub fn put(&self, writer: &mut Writer) {
        writer.put("tokenizer.ggml.model", Field::Str("gpt2"));
        writer.put("tokenizer.ggml.pre", Field::Str(&self.pre));
        writer.put_strings("tokenizer.ggml.tokens", &self.tokens);
        writer.put_i32s("tokenizer.ggml.token_type", &self.kinds);
        writer.put_strings("tokenizer.ggml.merges", &self.merges);
        for (role, id) in
            [("bos", self.bos), ("eos", self.eos), ("unknown", self.unknown), ("padding", self.padding)]
        {
            if let Some(id) = id {
                writer.put(&format!("tokenizer.ggml.{role}_token_id"), Field::U32(id));
            }
        }
        writer.put("tokenizer.ggml.add_bos_token", Field::Bool(self.add_bos));
        if let Some(template) = &self.chat_template {
            writer.put("tokenizer.chat_template", Field::Str(template));
        }
    }

    /// `tokenizer.json` and `tokenizer_config.json`.
    ///
    /// # Errors
    /// A pre-tokenizer whose expressions are not known.
    pub fn json(&self, context: usize) -> Result<(Value, Value), String> {
        let pre = PRE_TOKENIZERS.iter().find(|(name, _)| *name == self.pre);
        let names = PRE_TOKENIZERS.map(|(name, _)| name).join(", ");
        let (_, pre) =
            pre.ok_or_else(|| format!("the pre-tokenizer `{}` cannot be written; {names} can", self.pre))?;
        let text = |id: Option<u32>| id.and_then(|id| self.tokens.get(id as usize));
        let all = || self.tokens.iter().zip(&self.kinds).enumerate();
        let added: Vec<Value> = all()
            .filter(|(_, (_, kind))| matches!(**kind, CONTROL | USER_DEFINED))
            .map(|(id, (content, kind))| {
                json!({
                    "id": id, "content": content, "special": *kind == CONTROL,
                    "single_word": false, "lstrip": false, "rstrip": false, "normalized": false
                })
            })
            .collect();
        let vocab: serde_json::Map<String, Value> = all()
            .filter(|(_, (_, kind))| **kind != UNUSED)
            .map(|(id, (content, _))| (content.clone(), json!(id)))
            .collect();
        // As pairs: a piece may hold a blank in other vocabularies, and readers take both forms.
        let merges: Vec<Value> = self
            .merges
            .iter()
            .map(|merge| {
                merge.split_once(' ').map_or_else(|| json!(merge), |(left, right)| json!([left, right]))
            })
            .collect();
        let processor = match text(self.bos).filter(|_| self.add_bos) {
            Some(bos) => json!({
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                "special_tokens": {bos: {"id": bos, "ids": [self.bos], "tokens": [bos]}}
            }),
            None => Value::Null,
        };
        let bytes = json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true
        });
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
            "pre_tokenizer": pre.json(), "post_processor": processor, "decoder": bytes,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "vocab": vocab, "merges": merges
            }
        });
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context, "add_bos_token": self.add_bos,
            "clean_up_tokenization_spaces": false, "bos_token": text(self.bos), "eos_token": text(self.eos),
            "unk_token": text(self.unknown), "pad_token": text(self.padding), "chat_template": self.chat_template
        });
        Ok((tokenizer, config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Vocabulary {
        Vocabulary {
            pre: "llama-bpe".into(),
            tokens: ["a", "b", "ab", "<s>", "</s>", "[PAD5]", "user"].map(String::from).to_vec(),
            kinds: vec![NORMAL, NORMAL, NORMAL, CONTROL, CONTROL, UNUSED, USER_DEFINED],
            merges: vec!["a b".into()],
            bos: Some(3),
            eos: Some(4),
            unknown: None,
            padding: Some(4),
            add_bos: true,
            chat_template: Some("{{ x }}".into()),
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for (name, _) in PRE_TOKENIZERS {
            for add_bos in [false, true] {
                let vocabulary = Vocabulary { pre: name.into(), add_bos, ..example() };
                let (json, config) = vocabulary.json(10).unwrap();
                assert_eq!(Vocabulary::parse(&json, &config, 7, None).unwrap(), vocabulary);
            }
        }
    }

    #[test]
    fn beginnings_are_added_where_the_template_says_so() {
        let (mut json, mut config) = example().json(10).unwrap();
        config.as_object_mut().unwrap().remove("add_bos_token");
        assert!(Vocabulary::parse(&json, &config, 7, None).unwrap().add_bos);
        json["post_processor"] = json!({"type": "Sequence", "processors": [json["post_processor"].clone()]});
        assert!(Vocabulary::parse(&json, &config, 7, None).unwrap().add_bos);
        json["post_processor"] = Value::Null;
        assert!(!Vocabulary::parse(&json, &config, 7, None).unwrap().add_bos);
    }

    #[test]
    fn both_forms_of_merges_and_roles_are_read() {
        let (mut json, mut config) = example().json(10).unwrap();
        json["model"]["merges"] = json!(["a b"]);
        config["bos_token"] = json!({"content": "<s>"});
        assert_eq!(Vocabulary::parse(&json, &config, 7, None).unwrap(), example());
    }

    #[test]
    fn what_cannot_be_converted_is_named() {
        let (json, config) = example().json(10).unwrap();
        let cases: [(&str, Value, &str); 8] = [
            ("/model/type", json!("Unigram"), "Unigram"),
            ("/model/byte_fallback", json!(true), "SentencePiece"),
            ("/normalizer", json!({"type": "NFKC"}), "NFKC"),
            ("/pre_tokenizer", json!({"type": "Whitespace"}), "--pre"),
            ("/pre_tokenizer", json!(null), "--pre"),
            ("/model/vocab", json!({"a": 9}), "id 9"),
            ("/model/vocab", json!({"x": 3}), "two tokens"),
            ("/model/merges", json!([["a"]]), "1 pieces"),
        ];
        for (at, value, why) in cases {
            let mut json = json.clone();
            *json.pointer_mut(at).unwrap() = value;
            let error = Vocabulary::parse(&json, &config, 7, None).unwrap_err();
            assert!(error.contains(why), "{at}: {error}");
        }
        assert!(Vocabulary { pre: "other".into(), ..example() }.json(1).unwrap_err().contains("other"));
        // A named pre-tokenizer stands in for one that is not known.
        let mut other = json.clone();
        other["pre_tokenizer"] = json!({"type": "Whitespace"});
        assert_eq!(Vocabulary::parse(&other, &config, 7, Some("llama-bpe")).unwrap(), example());
    }
}
