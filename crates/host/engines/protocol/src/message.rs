//! The lines, each an object whose `type` says which it is.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What an engine is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Request {
    /// Load a model, in place of the one before; answered by [`Reply::Loaded`].
    Load(Load),
    /// Continue a prompt from an empty cache; answered by [`Reply::Token`] for each token and [`Reply::Done`].
    Submit(Submit),
    /// Answered by [`Reply::Stats`].
    Stats,
    /// End; not answered.
    Quit,
}

/// A model and how to run it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// A GGUF file.
    pub model: PathBuf,
    /// Threads to compute with.
    pub threads: usize,
    /// Positions to have room for.
    pub context: usize,
    /// Positions of a prompt computed in one pass; without it the engine's own best.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
}

/// A prompt to continue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submit {
    /// Comes back in every reply.
    pub id: u64,
    /// Token ids, at least one.
    pub prompt_ids: Vec<u32>,
    /// Tokens to generate, always the likeliest. With 0 the prompt is computed, its last logits included, and nothing
    /// else.
    pub max_tokens: usize,
    /// Go on behind a token that ends the text.
    #[serde(default = "yes")]
    pub ignore_eos: bool,
    /// Write each token's line when there is the token. Without, all of them right before [`Reply::Done`], so that
    /// writing and whoever reads do not disturb the measurement; the time stamps are those of the tokens either way.
    #[serde(default = "yes")]
    pub stream: bool,
}

fn yes() -> bool {
    true
}

/// What an engine says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Reply {
    /// The first line, before anything is asked.
    Hello(Hello),
    /// The model is there.
    Loaded(Loaded),
    /// One token was chosen.
    Token {
        /// Of the request.
        id: u64,
        /// When: `CLOCK_MONOTONIC` in nanoseconds.
        t_ns: u64,
    },
    /// A request has its answer.
    Done(Done),
    /// Memory.
    Stats(Stats),
    /// The request was refused; the session goes on.
    Error {
        /// Of the request, if it had one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
        /// What is wrong, for a person.
        message: String,
    },
}

/// Who answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::VERSION`].
    pub protocol: u32,
    /// Name of the engine.
    pub engine: String,
    /// Its version.
    pub version: String,
    /// CPU features that its code uses, by the engine's own account.
    pub compiled: Vec<String>,
    /// CPU features that this machine has and the engine could use.
    pub detected: Vec<String>,
    /// Why this build is slower than the engine can be on this machine; absent for a good one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crippled: Option<String>,
    /// Settings that a reader of the figures should know.
    pub settings: BTreeMap<String, String>,
}

/// A model that was loaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loaded {
    /// From the request to the first prompt being welcome.
    pub load_ns: u64,
    /// Token ids run below this.
    pub vocab_size: usize,
}

/// A request's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// Of the request.
    pub id: u64,
    /// From reading the request to the first token, or to the last logits where no token was asked for.
    pub prefill_ns: u64,
    /// From the first token to the last: one pass for each token but the first.
    pub decode_ns: u64,
    /// The tokens.
    pub ids: Vec<u32>,
}

/// A process's memory in bytes, mapped files included; absent where the system does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Resident now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rss: Option<u64>,
    /// Resident at most so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_rss: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Every line with every field.
    fn all() -> Vec<(&'static str, Value)> {
        let requests = [
            Request::Load(Load { model: "m".into(), threads: 1, context: 2, batch: Some(3) }),
            Request::Submit(Submit {
                id: 1,
                prompt_ids: vec![2],
                max_tokens: 3,
                ignore_eos: true,
                stream: false,
            }),
            Request::Stats,
            Request::Quit,
        ];
        let hello = Hello {
            protocol: crate::VERSION,
            engine: "e".into(),
            version: "v".into(),
            compiled: vec!["a".into()],
            detected: Vec::new(),
            crippled: Some("c".into()),
            settings: BTreeMap::from([("k".into(), "w".into())]),
        };
        let replies = [
            Reply::Hello(hello),
            Reply::Loaded(Loaded { load_ns: 1, vocab_size: 2 }),
            Reply::Token { id: 1, t_ns: 2 },
            Reply::Done(Done { id: 1, prefill_ns: 2, decode_ns: 3, ids: vec![4] }),
            Reply::Stats(Stats { rss: Some(1), peak_rss: Some(2) }),
            Reply::Error { id: Some(1), message: "m".into() },
        ];
        let names =
            ["load", "submit", "stats_request", "quit", "hello", "loaded", "token", "done", "stats", "error"];
        let requests = requests.iter().map(|request| serde_json::to_value(request).unwrap());
        let replies = replies.iter().map(|reply| serde_json::to_value(reply).unwrap());
        names.into_iter().zip(requests.chain(replies)).collect()
    }

    #[test]
    fn the_schema_and_the_lines_have_the_same_fields() {
        let schema: Value =
            serde_json::from_str(include_str!("../../../../../docs/llm/protocol.schema.json")).unwrap();
        assert_eq!(schema["oneOf"].as_array().unwrap().len(), all().len());
        for (name, line) in all() {
            let described = &schema["$defs"][name];
            assert!(
                schema["oneOf"].as_array().unwrap().contains(&json!({"$ref": format!("#/$defs/{name}")}))
            );
            let keys = |value: &Value| {
                let mut keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
                keys.sort();
                keys
            };
            assert_eq!(keys(&line), keys(&described["properties"]), "{name}");
            assert_eq!(line["type"], described["properties"]["type"]["const"], "{name}");
            // What is not required can be left out, and nothing else can.
            for field in keys(&line) {
                let mut less = line.clone();
                less.as_object_mut().unwrap().remove(&field);
                let request = ["load", "submit", "stats_request", "quit"].contains(&name);
                let read = match request {
                    true => serde_json::from_value::<Request>(less).is_ok(),
                    false => serde_json::from_value::<Reply>(less).is_ok(),
                };
                let required = described["required"].as_array().unwrap().contains(&json!(field));
                assert_eq!(read, !required, "{name} without {field}");
            }
        }
    }

    #[test]
    fn lines_read_back_as_they_were_written() {
        for (name, line) in all() {
            let again = match serde_json::from_value::<Reply>(line.clone()) {
                Ok(reply) if !name.contains("request") => serde_json::to_value(reply).unwrap(),
                _ => serde_json::to_value(serde_json::from_value::<Request>(line.clone()).unwrap()).unwrap(),
            };
            assert_eq!(again, line);
        }
    }
}
