//! Ours and other engines on the same work, interleaved: who is faster, by how much, and how near to the machine's limits.
//!
//! 1. [`work`] is what is asked for and what it needs at least.
//! 2. [`engine`] asks an engine, which is a process that speaks `docs/llm/PROTOCOL.md`.
//! 3. [`slots`] takes turns, and drops what the machine spoilt; [`contention`] looks whether others worked.
//! 4. [`neighbors`] keeps processors busy where that is what is measured.
//! 5. [`report`] shows and records it.

pub mod contention;
pub mod engine;
pub mod neighbors;
pub mod report;
pub mod slots;
pub mod work;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use barelm_protocol::Load;

use crate::failure::Failure;
use crate::limits::ReadBuffer;
use crate::model_file::ModelFile;
use crate::team::ThreadTeam;
use engine::EngineProcess;
use report::{EngineRun, ModelRun};
use slots::Row;
use work::{Model, Work, text_ids};

/// Tokens compared between engines.
const COMPARED: usize = 32;

/// A program that speaks the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineCommand {
    /// Its file.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// What to measure of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Ours first.
    pub engines: Vec<EngineCommand>,
    /// Good slots of each work.
    pub rounds: usize,
    /// The works.
    pub works: Vec<Work>,
    /// Threads of this process that spin while an engine works.
    pub beside: usize,
}

/// Starts all engines with a model, measures every work, and ends them again.
///
/// # Errors
/// Where a model cannot be read, or an engine does not answer as it should.
pub fn measure(
    plan: &Plan,
    path: &Path,
    threads: usize,
    buffer: &ReadBuffer,
    progress: &mut dyn FnMut(&str),
) -> Result<ModelRun, Failure> {
    let file = ModelFile::open(path)?;
    let gguf = file.parse()?;
    let model = Model::from_gguf(&gguf)?;
    let text = text_ids(&gguf, model.shape.vocab_size)?;
    let team = ThreadTeam::try_new(threads).map_err(|error| Failure::Message(error.to_string()))?;
    let longest = plan.works.iter().map(|work| match work {
        Work::Prefill(count) => *count,
        Work::Decode(count) => count + 1,
    });
    let context = longest.max().unwrap_or(0).max(text.len() + COMPARED).next_multiple_of(256);
    let load = Load { model: path.to_owned(), threads, context, ..Load::default() };

    let mut engines = Vec::new();
    let mut runs = Vec::new();
    for command in &plan.engines {
        progress(&format!("{} loads", command.program.display()));
        let mut engine = EngineProcess::start(&command.program, &command.arguments)?;
        let loaded = engine.load(load.clone())?;
        if loaded.vocab_size != model.shape.vocab_size {
            return Err(Failure::Message(format!(
                "engine {}: {} ids in its vocabulary, {} in the file",
                engine.name(),
                loaded.vocab_size,
                model.shape.vocab_size
            )));
        }
        let ids = engine.submit(&text, COMPARED)?.done.ids;
        // Once before the measurement: pages, caches, threads.
        for work in &plan.works {
            let (prompt, tokens) = work.request(model.shape.vocab_size);
            engine.submit(&prompt, tokens.min(COMPARED))?;
        }
        runs.push(EngineRun { hello: engine.hello().clone(), loaded, stats: Default::default(), ids });
        engines.push(engine);
    }
    let mut rows = Vec::new();
    for &work in &plan.works {
        progress(&work.name());
        let row = Row::measure(&mut engines, &model, work, plan, buffer, &team)?;
        rows.push((row, work.limit(&model.demand)));
    }
    for (engine, run) in engines.iter_mut().zip(&mut runs) {
        run.stats = engine.stats()?;
    }
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(ModelRun {
        model: name,
        threads,
        beside: plan.beside,
        token_bytes: model.demand.matrix_bytes as u64,
        engines: runs,
        rows,
    })
}
