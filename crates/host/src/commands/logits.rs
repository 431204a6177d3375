//! `barelm logits`: the logits of every position of a sequence, for comparison with other runtimes.

use std::io::Write;
use std::path::PathBuf;

use barelm::llm::transformer::{Logits, LogitsHash};
use clap::Args;

use super::setup::{Needs, SessionArguments, with_session};
use crate::failure::Failure;
use crate::model_file::ModelFile;
use crate::output_file::OutputFile;

/// Arguments of `barelm logits`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The GGUF file.
    pub model: PathBuf,
    /// Token ids, separated by commas.
    #[arg(long, value_delimiter = ',', required = true)]
    pub ids: Vec<u32>,
    /// File for the logits: little-endian f32, [position x vocabulary].
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// How to compute.
    #[command(flatten)]
    pub session: SessionArguments,
}

/// Computes the logits, writes them, and prints their hash.
pub fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    // A wrong name is found before the model, which may take long to read.
    arguments.session.kernels()?;
    let file = ModelFile::open(&arguments.model)?;
    let gguf = file.parse()?;
    let needs = Needs { context: arguments.ids.len(), window: None, logits: None };
    let sink =
        arguments.out.as_deref().map(|path| OutputFile::create(path, Some(&arguments.model))).transpose()?;
    let (hash, sink) = with_session(&file, &gguf, &arguments.session, needs, |session| {
        let (mut hash, mut sink) = (LogitsHash::default(), sink);
        for ids in arguments.ids.chunks(arguments.session.batch()) {
            let logits =
                session.forward(ids, Logits::All).map_err(|error| Failure::Message(error.to_string()))?;
            hash.update(logits);
            if let Some(sink) = &mut sink {
                let written = logits.iter().try_for_each(|logit| sink.write_all(&logit.to_le_bytes()));
                written.map_err(|error| sink.failed(error))?;
            }
        }
        Ok((hash, sink))
    })?;
    sink.map_or(Ok(()), OutputFile::finish)?;
    writeln!(out, "logits hash {hash} of {} positions", arguments.ids.len())?;
    Ok(())
}
