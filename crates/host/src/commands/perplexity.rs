//! `barelm perplexity`: how well a model predicts a text.
//!
//! The protocol is llama.cpp's, so that the figures compare: windows of 512 ids, each from an empty cache; positions
//! 256 to 510 of each predict their successor; the result is exp of the mean negative log-likelihood.

use std::io::Write;
use std::path::{Path, PathBuf};

use barelm::llm::tokenizer::{Special, Tokenizer};
use barelm::llm::transformer::{Logits, Session};
use clap::Args;

use super::setup::{Needs, SessionArguments, with_session};
use crate::failure::Failure;
use crate::model_file::ModelFile;

/// Ids per window.
pub const WINDOW: usize = 512;
/// The first position of a window that is scored; those before it are context only.
pub const FIRST_SCORED: usize = WINDOW / 2;

/// Arguments of `barelm perplexity`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The GGUF file.
    pub model: PathBuf,
    /// A text, or token ids separated by white space.
    pub file: PathBuf,
    /// How to compute.
    #[command(flatten)]
    pub session: SessionArguments,
}

/// Scores the file and prints its perplexity.
pub fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    // A wrong name is found before the model, which may take long to read.
    arguments.session.kernels()?;
    let file = ModelFile::open(&arguments.model)?;
    let gguf = file.parse()?;
    let text = read_text(&arguments.file)?;
    let (ids, scored_bytes) = match parse_ids(&text) {
        Some(ids) => (ids, None),
        None => {
            let tokenizer = Tokenizer::from_gguf(&gguf)
                .map_err(|error| Failure::because(arguments.model.display(), error))?;
            let ids = tokenizer
                .encode_to_vec(&text, Special::Plain)
                .map_err(|error| Failure::because(arguments.file.display(), error))?;
            let length = |&id: &u32| tokenizer.token_bytes(id).map_or(0, Iterator::count);
            let scored_bytes: usize = scored(&ids).map(length).sum();
            (ids, Some(scored_bytes))
        }
    };
    let needs = Needs { context: WINDOW, window: None, logits: None };
    let score = with_session(&file, &gguf, &arguments.session, needs, |session| score(session, &ids))?;
    write!(out, "perplexity {:.4} over {} of {} ids", score.perplexity(), score.count, ids.len())?;
    if let Some(bytes) = scored_bytes {
        // Unlike a perplexity, this compares models of different vocabularies.
        write!(out, ", {:.4} bits per byte of theirs", score.nll / core::f64::consts::LN_2 / bytes as f64)?;
    }
    writeln!(out)?;
    Ok(())
}

fn read_text(path: &Path) -> Result<String, Failure> {
    let unread = |error: &dyn std::fmt::Display| {
        Failure::Message(format!(
            "cannot read {}: {error}; give a file of UTF-8 text or of token ids",
            path.display()
        ))
    };
    let bytes = std::fs::read(path).map_err(|error| unread(&error))?;
    String::from_utf8(bytes).map_err(|error| unread(&error))
}

/// The ids of a file that holds nothing but numbers.
pub fn parse_ids(text: &str) -> Option<Vec<u32>> {
    text.split_ascii_whitespace().map(|word| word.parse().ok()).collect::<Option<Vec<u32>>>()
}

/// The ids that are predicted: the successors of positions [`FIRST_SCORED`] and on, in every whole window.
fn scored(ids: &[u32]) -> impl Iterator<Item = &u32> {
    ids.chunks_exact(WINDOW).flat_map(|window| &window[FIRST_SCORED + 1..])
}

/// A sum of negative log-likelihoods.
#[derive(Clone, Copy, Debug, Default)]
pub struct Score {
    /// The sum in nats.
    pub nll: f64,
    /// Ids scored.
    pub count: usize,
}

impl Score {
    /// exp of the mean.
    pub fn perplexity(&self) -> f64 {
        libm::exp(self.nll / self.count as f64)
    }
}

/// Scores all whole windows of `ids`. The session holds [`WINDOW`] positions and gives a whole batch's logits.
pub fn score(session: &mut Session<'_>, ids: &[u32]) -> Result<Score, Failure> {
    if ids.len() < WINDOW {
        return Err(Failure::Message(format!(
            "{} ids are fewer than one window of {WINDOW}; give a longer text",
            ids.len()
        )));
    }
    let vocab_size = session.model().shape().vocab_size;
    let batch = session.config().batch;
    let mut score = Score::default();
    for window in ids.chunks_exact(WINDOW) {
        session.reset();
        let mut position = 0;
        for inputs in window.chunks(batch) {
            let logits =
                session.forward(inputs, Logits::All).map_err(|error| Failure::Message(error.to_string()))?;
            for row in logits.chunks_exact(vocab_size) {
                if (FIRST_SCORED..WINDOW - 1).contains(&position) {
                    score.nll -= log_probability(row, window[position + 1] as usize);
                    score.count += 1;
                }
                position += 1;
            }
        }
    }
    Ok(score)
}

/// Natural logarithm of the probability of `id`, in f64.
pub fn log_probability(logits: &[f32], id: usize) -> f64 {
    f64::from(logits[id]) - log_sum_exp(logits)
}

/// Logarithm of the sum of exponentials, in f64.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
    let sum: f64 = logits.iter().map(|&logit| libm::exp(f64::from(logit) - max)).sum();
    max + libm::log(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_logits_share_the_probability() {
        assert!((log_probability(&[3.0; 8], 5) + libm::log(8.0)).abs() < 1e-12);
        assert!(log_probability(&[80.0, -80.0], 0).abs() < 1e-12);
    }

    #[test]
    fn each_window_scores_the_ids_after_its_first_half() {
        let ids: Vec<u32> = (0..2 * WINDOW as u32 + 300).collect();
        let scored: Vec<u32> = scored(&ids).copied().collect();
        assert_eq!(scored.len(), 2 * 255);
        assert_eq!([scored[0], scored[254], scored[255], scored[509]], [257, 511, 769, 1023]);
    }

    #[test]
    fn files_of_numbers_are_ids_and_others_are_text() {
        assert_eq!(parse_ids("1 2\n30"), Some(vec![1, 2, 30]));
        assert_eq!(parse_ids("1 two"), None);
    }
}
