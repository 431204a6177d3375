//! One answer: the logits hash of a fixed prompt, however it is split into batches.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::generation::memory;
use super::model::Loaded;
use crate::console_line as line;
use crate::llm::plan::SessionConfig;
use crate::llm::pool::Team;
use crate::llm::simd::{ARITHMETIC_VERSION, Kernels};
use crate::llm::tokenizer::Special;
use crate::llm::transformer::{HASH_PROMPT, Session, hash_of_prompt};

/// Prints the hash of the logits of all positions, in one batch and in batches of 1, 7 and 64, and the ids they
/// belong to. Fails if two differ.
pub fn run(loaded: &Loaded, kernels: &'static Kernels, team: &dyn Team) -> Result<(), String> {
    let tokenizer = &loaded.tokenizer;
    let mut ids = tokenizer.encode_to_vec(HASH_PROMPT, Special::Plain).map_err(|e| e.to_string())?;
    ids.truncate(loaded.model.shape().context_length);
    let shown: Vec<String> = ids.iter().map(u32::to_string).collect();
    line!("logits ids: {}", shown.join(","));
    let config = SessionConfig {
        context: ids.len(),
        batch: ids.len(),
        logits: ids.len(),
        members: team.size(),
        ..SessionConfig::default()
    };
    let mut memory = memory(loaded, &config, false)?;
    let mut session =
        Session::new(loaded.fastest(), config, kernels, team, &mut memory).map_err(|e| e.to_string())?;
    let mut first = None;
    for batch in [ids.len(), 1, 7, 64] {
        let hash = hash_of_prompt(&mut session, &ids, batch).map_err(|e| e.to_string())?;
        line!(
            "logits hash: {:016x} (arithmetic version {ARITHMETIC_VERSION}, kernels {}, {batch} batch)",
            hash.value(),
            kernels.name
        );
        if *first.get_or_insert(hash) != hash {
            return Err(format!("the logits of batches of {batch} differ from those of one batch"));
        }
    }
    Ok(())
}
