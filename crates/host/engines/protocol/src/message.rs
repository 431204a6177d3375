//! The lines, each an object whose `type` says which it is.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What an engine is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Request {
    /// Load a model, in place of the one before; answered by [`Reply::Loaded`].
    Load(Load),
    /// Continue a prompt from an empty cache; answered by [`Reply::Token`] for each token and [`Reply::Done`].
    Submit(Submit),
    /// End a request that was submitted; answered by its [`Reply::Done`], or [`Reply::Error`] if it is over already.
    Cancel {
        /// Of the request.
        id: u64,
    },
    /// Compute a sequence and tell what the model expects behind each of its ids; answered by [`Reply::Logits`].
    Logits(Score),
    /// Time a single operation; answered by [`Reply::Op`] or [`Reply::NotExpressible`].
    Op(Op),
    /// Answered by [`Reply::Stats`].
    Stats,
    /// End at once, whatever is in flight; not answered.
    Quit,
}

/// A model and how to run it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// A GGUF file.
    pub model: PathBuf,
    /// Threads to compute with.
    pub threads: usize,
    /// Positions to have room for in each sequence.
    pub context: usize,
    /// Positions of a prompt computed in one pass; without it the engine's own best.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// `cpu` or `cuda`; without it that of the greeting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Type of keys and values in the cache, `f16` or `f32`; without it the engine's own. One that it does not have is an
    /// error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_type: Option<String>,
    /// Sequences that may be computed at the same time; without it 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_sequences: Option<usize>,
}

impl Load {
    /// [`Load::max_sequences`] with its default.
    pub fn sequences(&self) -> usize {
        self.max_sequences.unwrap_or(1)
    }

    /// What an engine with one device, one type of keys and values, and room for so many sequences says of it.
    ///
    /// # Errors
    /// The field that asks for anything else, and what there is.
    pub fn check(&self, device: &str, kv_type: &str, max_sequences: usize) -> Result<(), String> {
        if self.context == 0 {
            return Err("context: at least 1".into());
        }
        if !(1..=max_sequences).contains(&self.sequences()) {
            return Err(format!("max_sequences: from 1 to {max_sequences}"));
        }
        if self.kv_type.as_ref().is_some_and(|ty| ty != kv_type) {
            return Err(format!("kv_type: this engine's cache is {kv_type}"));
        }
        if self.device.as_ref().is_some_and(|asked| asked != device) {
            return Err(format!("device: this engine computes on {device}"));
        }
        Ok(())
    }
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
    /// else; an engine that batches may refuse 0.
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

/// A sequence whose predictions are wanted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// Comes back in the reply.
    pub id: u64,
    /// Token ids, at least one.
    pub ids: Vec<u32>,
    /// Likeliest tokens to name at each position.
    pub top: usize,
}

/// An operation to time; names and parameters are those of `docs/llm/PROTOCOL.md`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Op {
    /// Comes back in the reply.
    pub id: u64,
    /// Which.
    pub name: String,
    /// Sizes and `threads`; what is left out has the documented default.
    #[serde(default)]
    pub params: BTreeMap<String, Value>,
    /// Measure for at least so long.
    pub min_ns: u64,
}

impl Op {
    /// A size: what the request says, or this.
    ///
    /// # Errors
    /// Where it is no whole number from 1 to 2^32.
    pub fn size(&self, name: &str, default: usize) -> Result<usize, String> {
        let Some(value) = self.params.get(name) else { return Ok(default) };
        let size = value.as_u64().filter(|size| (1..=1 << 32).contains(size));
        size.and_then(|size| usize::try_from(size).ok())
            .ok_or_else(|| format!("params.{name}: a whole number from 1 to 2^32 is wanted, not {value}"))
    }
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
        /// Its place in the answer, from 0.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        index: Option<usize>,
    },
    /// A request has its answer.
    Done(Done),
    /// What the model expects.
    Logits(Logits),
    /// An operation was timed.
    Op(OpTimes),
    /// The engine has no way to say this operation.
    NotExpressible {
        /// Of the request.
        id: u64,
        /// Why, for a person.
        reason: String,
    },
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

/// How requests in flight are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Batching {
    /// One after the other: more than one in flight is a queue.
    #[default]
    Serial,
    /// Together, those that come together; the next ones wait for the slowest.
    Static,
    /// Together, each joining and leaving at any pass.
    Continuous,
}

impl Batching {
    /// As in the lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Serial => "serial",
            Self::Static => "static",
            Self::Continuous => "continuous",
        }
    }
}

/// Who answers.
///
/// Fields that an engine has nothing to say to are those of [`Hello::default`]: a serial engine on a CPU.
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
    /// Why it cannot run here at all. It says nothing more, and ends with status 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<String>,
    /// Settings that a reader of the figures should know.
    pub settings: BTreeMap<String, String>,
    /// What it computes on: `cpu` or `cuda`.
    pub device: String,
    /// Types of weights it loads and computes with as they are, as GGUF names them.
    pub formats: Vec<String>,
    /// How it treats several requests.
    pub batching: Batching,
    /// Requests it takes at the same time; 1 from a serial engine.
    pub max_in_flight: usize,
    /// Whether a request can be cancelled while it is computed.
    pub cancel: bool,
    /// Whether it answers [`Request::Logits`].
    pub logits: bool,
    /// Operations it can express.
    pub ops: Vec<String>,
    /// Processes on this machine that compute for it, besides its own and those that this one started: a server's. Their
    /// processor time and memory are the engine's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<u32>,
}

impl Default for Hello {
    fn default() -> Self {
        Hello {
            protocol: crate::VERSION,
            engine: String::new(),
            version: String::new(),
            compiled: Vec::new(),
            detected: Vec::new(),
            crippled: None,
            unavailable: None,
            settings: BTreeMap::new(),
            device: "cpu".into(),
            formats: Vec::new(),
            batching: Batching::Serial,
            max_in_flight: 1,
            // What `serve` gives to every engine.
            cancel: true,
            logits: false,
            ops: Vec::new(),
            processes: Vec::new(),
        }
    }
}

/// A model that was loaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loaded {
    /// From the request to the first prompt being welcome.
    pub load_ns: u64,
    /// Token ids run below this.
    pub vocab_size: usize,
}

/// Why a request is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// It has all the tokens that were asked for.
    #[default]
    Length,
    /// A token ended the text.
    Stop,
    /// It was cancelled.
    Cancelled,
}

/// A request's answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// Of the request.
    pub id: u64,
    /// From reading the request to the first token, or to the last logits where no token was asked for; waiting behind
    /// other requests included.
    pub prefill_ns: u64,
    /// From the first token to the last: one pass for each token but the first.
    pub decode_ns: u64,
    /// The tokens.
    pub ids: Vec<u32>,
    /// Why it is over.
    pub finish: Finish,
    /// From reading the request to the start of its first pass; absent where the engine cannot tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued_ns: Option<u64>,
}

/// What a model expects behind each id of a sequence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Logits {
    /// Of the request.
    pub id: u64,
    /// One for each id.
    pub positions: Vec<Expected>,
}

/// What a model expects at one position.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    /// Likeliest tokens, the likeliest first; of equal ones the smaller id first.
    pub ids: Vec<u32>,
    /// Natural logarithms of their probabilities.
    pub logprobs: Vec<f64>,
    /// Probability of all other tokens together.
    pub rest: f64,
}

impl Expected {
    /// The `top` likeliest of a distribution given by its logits, which are finite.
    pub fn of(logits: &[f32], top: usize) -> Self {
        let most = logits.iter().fold(f32::NEG_INFINITY, |most, &logit| most.max(logit));
        let sum: f64 = logits.iter().map(|&logit| libm::exp(f64::from(logit - most))).sum();
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        let order = |&a: &u32, &b: &u32| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b));
        if top < ids.len() {
            ids.select_nth_unstable_by(top, order);
            ids.truncate(top);
        }
        ids.sort_unstable_by(order);
        let logprobs: Vec<f64> =
            ids.iter().map(|&id| f64::from(logits[id as usize] - most) - libm::log(sum)).collect();
        let named: f64 = logprobs.iter().copied().map(libm::exp).sum();
        Expected { ids, logprobs, rest: (1.0 - named).max(0.0) }
    }
}

/// An operation's times.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpTimes {
    /// Of the request.
    pub id: u64,
    /// Nanoseconds of one call, each the mean of `iterations` calls in a row.
    pub samples_ns: Vec<f64>,
    /// Calls in a sample.
    pub iterations: u64,
    /// The answer's [`checksum`](crate::ops::checksum).
    pub check: f64,
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
    /// Of the device, in use now by this process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<u64>,
    /// Of the device, in use at most so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_device: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Lines that are requests, as the schema names them.
    const REQUESTS: [&str; 7] =
        ["load", "submit", "cancel", "logits_request", "op_request", "stats_request", "quit"];

    /// Every line with every field.
    fn all() -> Vec<(&'static str, Value)> {
        let requests = [
            Request::Load(Load {
                model: "m".into(),
                threads: 1,
                context: 2,
                batch: Some(3),
                device: Some("cpu".into()),
                kv_type: Some("f16".into()),
                max_sequences: Some(4),
            }),
            Request::Submit(Submit {
                id: 1,
                prompt_ids: vec![2],
                max_tokens: 3,
                ignore_eos: true,
                stream: false,
            }),
            Request::Cancel { id: 1 },
            Request::Logits(Score { id: 1, ids: vec![2], top: 3 }),
            Request::Op(Op {
                id: 1,
                name: "dot_product".into(),
                params: BTreeMap::from([("n".into(), json!(384))]),
                min_ns: 5,
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
            unavailable: Some("u".into()),
            processes: vec![1],
            settings: BTreeMap::from([("k".into(), "w".into())]),
            formats: vec!["F32".into()],
            batching: Batching::Continuous,
            ops: vec!["dot_product".into()],
            ..Hello::default()
        };
        let replies = [
            Reply::Hello(hello),
            Reply::Loaded(Loaded { load_ns: 1, vocab_size: 2 }),
            Reply::Token { id: 1, t_ns: 2, index: Some(0) },
            Reply::Done(Done {
                id: 1,
                prefill_ns: 2,
                decode_ns: 3,
                ids: vec![4],
                finish: Finish::Stop,
                queued_ns: Some(1),
            }),
            Reply::Logits(Logits { id: 1, positions: vec![Expected::of(&[0.0, 1.0], 1)] }),
            Reply::Op(OpTimes { id: 1, samples_ns: vec![1.5], iterations: 2, check: 0.5 }),
            Reply::NotExpressible { id: 1, reason: "r".into() },
            Reply::Stats(Stats { rss: Some(1), peak_rss: Some(2), device: Some(3), peak_device: Some(4) }),
            Reply::Error { id: Some(1), message: "m".into() },
        ];
        let names = REQUESTS.into_iter().chain([
            "hello",
            "loaded",
            "token",
            "done",
            "logits",
            "op",
            "not_expressible",
            "stats",
            "error",
        ]);
        let requests = requests.iter().map(|request| serde_json::to_value(request).unwrap());
        let replies = replies.iter().map(|reply| serde_json::to_value(reply).unwrap());
        names.zip(requests.chain(replies)).collect()
    }

    #[test]
    fn a_load_that_asks_for_what_there_is_not_names_the_field() {
        let load = Load { context: 8, ..Load::default() };
        let asked = |load: Load| load.check("cpu", "f32", 4);
        assert_eq!(asked(load.clone()), Ok(()));
        let all = Load {
            device: Some("cpu".into()),
            kv_type: Some("f32".into()),
            max_sequences: Some(4),
            ..load.clone()
        };
        assert_eq!(asked(all), Ok(()));
        for (wrong, field) in [
            (Load { context: 0, ..load.clone() }, "context"),
            (Load { max_sequences: Some(0), ..load.clone() }, "max_sequences"),
            (Load { max_sequences: Some(5), ..load.clone() }, "max_sequences"),
            (Load { kv_type: Some("f16".into()), ..load.clone() }, "kv_type"),
            (Load { device: Some("cuda".into()), ..load.clone() }, "device"),
        ] {
            assert!(asked(wrong).unwrap_err().starts_with(&format!("{field}: ")), "{field}");
        }
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
                let read = match REQUESTS.contains(&name) {
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
            let again = match REQUESTS.contains(&name) {
                true => serde_json::to_value(serde_json::from_value::<Request>(line.clone()).unwrap()),
                false => serde_json::to_value(serde_json::from_value::<Reply>(line.clone()).unwrap()),
            };
            let again = again.unwrap();
            assert_eq!(again, line);
        }
    }

    #[test]
    fn the_likeliest_are_named_in_order_and_the_rest_is_summed() {
        let logits = [0.0f32, 2.0, 1.0, 2.0];
        let sum: f64 = logits.iter().map(|&logit| libm::exp(f64::from(logit))).sum();
        let expected = Expected::of(&logits, 3);
        assert_eq!(expected.ids, [1, 3, 2]);
        for (id, logprob) in expected.ids.iter().zip(&expected.logprobs) {
            let right = f64::from(logits[*id as usize]) - libm::log(sum);
            assert!((logprob - right).abs() < 1e-12, "{logprob} {right}");
        }
        assert!((expected.rest - 1.0 / sum).abs() < 1e-12);
        let all = Expected::of(&logits, 9);
        assert_eq!((all.ids.len(), all.rest < 1e-12), (4, true));
        assert_eq!(Expected::of(&logits, 0).ids.len(), 0);
    }
}
