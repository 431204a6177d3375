//! The loop around tokenizer, transformer and sampler.

use core::fmt;
use core::ops::ControlFlow;

use super::draft::PromptLookup;
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

/// Tokens guessed at most in one pass.
pub const MOST_DRAFTED: usize = 15;

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
    /// Tokens that were guessed and verified in a batch.
    pub drafted: usize,
    /// Those among them that were right.
    pub accepted: usize,
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
    listen: impl FnMut(Step<'_>) -> ControlFlow<()>,
) -> Result<Generated, RunError> {
    generate_with_draft(session, tokenizer, sampler, &mut PromptLookup::off(), prompt, config, listen)
}

/// As [`generate`], with guesses verified several at a time: the same tokens in fewer passes over the weights.
///
/// A pass takes the last token and its guessed successors. The sampler picks from each position's logits in turn, as
/// it would alone, until a pick is not the guess; the positions behind it are forgotten. As logits do not depend on
/// what else is in a batch, every pick sees the same bits as without guesses. Up to [`SessionConfig::logits`] - 1
/// tokens are guessed.
///
/// [`SessionConfig::logits`]: super::plan::SessionConfig::logits
pub fn generate_with_draft(
    session: &mut Session<'_>,
    tokenizer: &Tokenizer<'_>,
    sampler: &mut Sampler,
    lookup: &mut PromptLookup,
    prompt: &[u32],
    config: GenerateConfig,
    mut listen: impl FnMut(Step<'_>) -> ControlFlow<()>,
) -> Result<Generated, RunError> {
    let mut decoder = StreamDecoder::new(tokenizer);
    for &id in prompt {
        sampler.accept(id);
        lookup.accept(id);
    }
    let mut result = Generated { tokens: 0, finish: Finish::Length, drafted: 0, accepted: 0 };
    if config.max_tokens == 0 {
        session.forward(prompt, Logits::None)?;
        return Ok(result);
    }
    let most =
        lookup.limit().min(MOST_DRAFTED).min(session.config().logits - 1).min(session.config().batch - 1);
    let vocab_size = session.model().shape().vocab_size;
    // The last picked token and its guessed successors.
    let mut batch = [0; MOST_DRAFTED + 1];
    let mut drafted = 0;
    let mut logits = session.forward(prompt, Logits::Last)?;
    result.finish = loop {
        let mut right = 0;
        let ended = loop {
            let id = sampler.sample(&logits[right * vocab_size..(right + 1) * vocab_size]);
            result.tokens += 1;
            sampler.accept(id);
            lookup.accept(id);
            let stop = tokenizer.is_end_of_generation(id) && !config.ignore_stop;
            let unknown = |_| RunError::UnknownToken { id, vocab_size: tokenizer.vocab_size() };
            let text = if stop { "" } else { decoder.push(tokenizer, id).map_err(unknown)? };
            batch[0] = id;
            if listen(Step { id, text }).is_break() {
                break Some(Finish::Cancelled);
            }
            if stop {
                break Some(Finish::Stop);
            }
            if result.tokens == config.max_tokens {
                break Some(Finish::Length);
            }
            if right == drafted || batch[right + 1] != id {
                break None;
            }
            right += 1;
        };
        result.accepted += right;
        session.truncate(session.position() - (drafted - right));
        if let Some(finish) = ended {
            break finish;
        }
        if session.room() == 0 {
            break Finish::ContextFull;
        }
        let guess = lookup.guess();
        drafted = guess.len().min(most).min(session.room() - 1).min(config.max_tokens - result.tokens);
        batch[1..=drafted].copy_from_slice(&guess[..drafted]);
        result.drafted += drafted;
        logits = session.forward(&batch[..=drafted], Logits::All)?;
    };
    let rest = decoder.finish();
    if !rest.is_empty() {
        let _ = listen(Step { id: batch[0], text: rest });
    }
    Ok(result)
}
