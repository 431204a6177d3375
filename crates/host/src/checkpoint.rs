//! Checkpoint folders as Hugging Face's `transformers` writes and reads them, in and out of GGUF.
//!
//! 1. [`config`] is `config.json`: the model's sizes.
//! 2. [`names`] pairs the folder's tensors with GGUF's, and says which rows are laid out otherwise.
//! 3. [`shards`] maps the safetensors files.
//! 4. [`tokenizer`] is `tokenizer.json` and its companions, both ways.
//! 5. [`convert`] writes a GGUF file of a folder, [`export`] a folder of a GGUF file.

pub mod config;
pub mod convert;
pub mod export;
pub mod names;
pub mod shards;
pub mod tokenizer;

use std::path::Path;

use serde_json::Value;

use crate::failure::Failure;

/// Reads a JSON file of the folder; `None` where it has none of this name.
fn read_json(folder: &Path, name: &str) -> Result<Option<Value>, Failure> {
    let path = folder.join(name);
    match std::fs::read(&path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map(Some).map_err(|error| Failure::because(path.display(), error))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::because(path.display(), error)),
    }
}
