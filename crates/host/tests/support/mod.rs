//! What tests on the reference model share: the committed data, sessions, and all logits of a sequence.
#![allow(dead_code, reason = "each test file uses its part")]

use std::fs;
use std::path::{Path, PathBuf};

use barelm::llm::gguf::Gguf;
use barelm::llm::model::{LoadConfig, Model};
use barelm::llm::plan::{Plan, SessionConfig};
use barelm::llm::pool::Team;
use barelm::llm::simd::Kernels;
use barelm::llm::transformer::{Logits, Session};
use barelm_host::model_file::{ModelFile, reference_model_path};
use barelm_host::team::ThreadTeam;
use serde_json::Value;

/// A file of `tests/data`.
pub fn data_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// The bytes of a file of `tests/data`.
pub fn data_bytes(name: &str) -> Vec<u8> {
    let path = data_path(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The text of a file of `tests/data`.
pub fn data(name: &str) -> String {
    String::from_utf8(data_bytes(name)).expect("the file is text")
}

/// The JSON values of a file of `tests/data`, one a line.
pub fn json_lines(name: &str) -> Vec<Value> {
    data(name).lines().map(|line| serde_json::from_str(line).expect("reference lines are JSON")).collect()
}

/// The token ids in a JSON list.
pub fn ids(value: &Value) -> Vec<u32> {
    let id = |id: &Value| u32::try_from(id.as_u64().expect("ids are integers")).expect("ids fit");
    value.as_array().expect("ids are a list").iter().map(id).collect()
}

/// The small model in the repository.
pub fn tiny_model() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernel/assets/tiny.gguf");
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The reference model, unmodified.
pub fn reference_model() -> ModelFile {
    let path = reference_model_path();
    assert!(path.is_file(), "{} is missing: cargo xtask setup", path.display());
    ModelFile::open(&path).expect("the model opens")
}

/// Runs `work` on a session of the file's model with the given (kernels, threads) and (context, batch, logits).
pub fn on_session<R>(
    gguf: &Gguf<'_>,
    (kernels, threads): (&'static Kernels, usize),
    (context, batch, logits): (usize, usize, usize),
    work: impl FnOnce(&mut Session<'_>) -> R,
) -> R {
    let model = Model::load(gguf, LoadConfig::default()).expect("the model loads");
    let team = ThreadTeam::try_new(threads).expect("threads start");
    let config = SessionConfig { context, batch, logits, members: team.size(), ..SessionConfig::default() };
    let plan = Plan::from_header(gguf, &config).expect("the plan fits");
    let mut copy = vec![0; usize::try_from(model.packed_bytes(kernels)).expect("the weights fit in memory")];
    let model = model.packed(kernels, &mut copy).expect("the memory suffices");
    let mut memory = vec![0; usize::try_from(plan.session()).expect("a session fits in memory")];
    let mut session =
        Session::new(&model, config, kernels, &team, &mut memory).expect("planned memory is enough");
    work(&mut session)
}

/// All logits of `ids` from an empty context, `[position × vocab]`.
pub fn all_logits(session: &mut Session<'_>, ids: &[u32]) -> Vec<f32> {
    session.reset();
    let mut logits = Vec::new();
    for batch in ids.chunks(session.config().batch) {
        logits.extend_from_slice(session.forward(batch, Logits::All).expect("the prompt runs"));
    }
    logits
}

/// The committed hash of the logits of `HASH_PROMPT` on the reference model in the type called `ty`, for this version of
/// the arithmetic; `None` where `data/logits_hash.tsv` has no such line.
pub fn expected_hash(ty: &str) -> Option<u64> {
    let version = barelm::llm::simd::ARITHMETIC_VERSION.to_string();
    data("logits_hash.tsv").lines().find_map(|line| {
        let fields: Vec<_> = line.split('\t').collect();
        let [found_version, found_type, hash] = fields[..] else { panic!("`{line}` has not three fields") };
        let found = found_version == version && found_type == ty;
        found.then(|| u64::from_str_radix(hash, 16).expect("the third field is a hash"))
    })
}
