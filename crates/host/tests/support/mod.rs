//! What tests on real models share: the committed data and the models; [`session`] runs them.
#![allow(dead_code, reason = "each test file uses its part")]

use std::fs;
use std::path::{Path, PathBuf};

use barelm_host::model_file::{ModelFile, reference_model_path};
use serde_json::Value;

#[cfg(feature = "llm-transformer")]
pub mod session;

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
