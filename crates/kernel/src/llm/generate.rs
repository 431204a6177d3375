//! The loop around tokenizer, transformer and sampler.

use core::fmt;
use core::ops::ControlFlow;

use super::sampler::Sampler;
use super::tokenizer::{StreamDecoder, Tokenizer};
use super::transformer::{Logits, RunError, Session};

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model said that it is done.
    Stop,
    /// As many tokens as asked for.
    Length,
    /// The context is full.
    ContextFull,
    /// The listener asked to end.
    Cancelled,
}

impl fmt::Display for Finish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Finish::Stop => "the model ended",
            Finish::Length => "length reached",
            Finish::ContextFull => "context full",
            Finish::Cancelled => "cancelled",
        })
    }
}

/// What a generation should do.
#[derive(Clone, Copy, Debug)]
pub struct GenerateConfig {
    /// Tokens at most.
    pub max_tokens: usize,
    /// Go on behind end-of-generation tokens (for measurements).
    pub ignore_stop: bool,
}

/// How a generation went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generated {
    /// Tokens picked, a stop token included.
    pub tokens: usize,
    /// Why it ended.
    pub finish: Finish,
}

/// One step, as the listener sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step<'t> {
    /// The token picked.
    pub id: u32,
    /// Text that is complete with this token; empty inside a character and for a stop token.
    pub text: &'t str,
}

/// Appends `prompt` to the session, then picks tokens one by one until something ends it.
///
/// Every token picked is handed to `listen` at once. Nothing is allocated. The last picked token is not yet part of
/// the session, except where the context filled up: call again with it in front of the next prompt to go on.
pub fn generate(
    session: &mut Session<'_>,
    tokenizer: &Tokenizer<'_>,
    sampler: &mut Sampler,
    prompt: &[u32],
    config: GenerateConfig,
    mut listen: impl FnMut(Step<'_>) -> ControlFlow<()>,
) -> Result<Generated, RunError> {
    let mut decoder = StreamDecoder::new(tokenizer);
    for &id in prompt {
        sampler.accept(id);
    }
    if config.max_tokens == 0 {
        session.forward(prompt, Logits::None)?;
        return Ok(Generated { tokens: 0, finish: Finish::Length });
    }
    let mut id = sampler.sample(session.forward(prompt, Logits::Last)?);
    let mut tokens = 0;
    let finish = loop {
        tokens += 1;
        sampler.accept(id);
        let stop = tokenizer.is_end_of_generation(id) && !config.ignore_stop;
        let unknown = |_| RunError::UnknownToken { id, vocab_size: tokenizer.vocab_size() };
        let text = if stop { "" } else { decoder.push(tokenizer, id).map_err(unknown)? };
        if listen(Step { id, text }).is_break() {
            break Finish::Cancelled;
        }
        if stop {
            break Finish::Stop;
        }
        if tokens == config.max_tokens {
            break Finish::Length;
        }
        if session.room() == 0 {
            break Finish::ContextFull;
        }
        id = sampler.sample(session.forward(&[id], Logits::Last)?);
    };
    let rest = decoder.finish();
    if !rest.is_empty() {
        let _ = listen(Step { id, text: rest });
    }
    Ok(Generated { tokens, finish })
}
