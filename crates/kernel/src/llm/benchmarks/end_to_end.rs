//! Whole models: prefill, decode, time to first token, and several positions in one pass.
//!
//! One answer is checked with another: a prompt in one batch against the same prompt in two, a decoded token against
//! a prompt that contains it. By the promise of bit-equal arithmetic the logits' hashes must be the same.

use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use core::hint::black_box;

use super::case::{Case, Effort, Work, WrongAnswer};
use super::clock::Clock;
use super::{Runner, Subject};
use crate::llm::gguf::Gguf;
use crate::llm::model::{LoadConfig, Model};
use crate::llm::plan::{Plan, SessionConfig};
use crate::llm::simd::Kernels;
use crate::llm::transformer::{Logits, RunError, Session, logits_hash};

/// Positions decoded together in `batched_decode`.
const BATCH: usize = 8;

/// What a case does with the session.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Prefill,
    FirstToken,
    Decode,
    Batched,
}

/// The end-to-end cases: kind, name, unit.
const CASES: [(Kind, &str, &str); 4] = [
    (Kind::Prefill, "prefill", "tokens"),
    (Kind::FirstToken, "first_token", "prompts"),
    (Kind::Decode, "decode", "tokens"),
    (Kind::Batched, "batched_decode", "tokens"),
];

/// Runs the cases of the loaded model and of the configured synthetic sizes.
pub(super) fn run<C: Clock + ?Sized>(
    runner: &mut Runner<'_, C>,
    subject: &Subject<'_>,
    kernels: &'static Kernels,
) {
    for &size in runner.config.synthetic {
        if !CASES.iter().any(|(_, case, _)| wanted(runner, case, size.name())) {
            continue;
        }
        let file = size.build();
        let loaded = Gguf::parse(&file)
            .map_err(|error| error.to_string())
            .and_then(|gguf| Model::load(&gguf, LoadConfig::default()).map_err(|error| error.to_string()));
        match loaded {
            Ok(model) => {
                runner.results.notes.push(format!(
                    "{}: {} parameters (documents say {} M and, at 1 GHz, {} tokens/s)",
                    size.name(),
                    model.parameters(),
                    size.documented_parameters() / 1_000_000,
                    size.predicted_tokens_per_second()
                ));
                of_model(runner, subject, kernels, size.name(), &model);
            }
            Err(reason) => runner.fail(size.name(), kernels.name, reason),
        }
    }
    if let Some((name, model)) = subject.model {
        runner.results.notes.push(format!("{name}: {} parameters", model.parameters()));
        of_model(runner, subject, kernels, name, model);
    }
}

fn wanted<C: Clock + ?Sized>(runner: &Runner<'_, C>, case: &str, model: &str) -> bool {
    runner.config.filter.is_none_or(|filter| format!("{case}/{model}").contains(filter))
}

fn of_model<C: Clock + ?Sized>(
    runner: &mut Runner<'_, C>,
    subject: &Subject<'_>,
    kernels: &'static Kernels,
    name: &str,
    model: &Model<'_>,
) {
    let config = runner.config;
    let prompt_tokens = config.prompt_tokens.max(2);
    let vocab = model.shape().vocab_size as u32;
    let prompt: Vec<u32> = (0..prompt_tokens as u32).map(|i| (i * 7919 + 17) % vocab).collect();
    let session_config = SessionConfig {
        context: prompt_tokens + BATCH,
        batch: prompt_tokens.clamp(BATCH, 256),
        logits: BATCH,
        members: subject.team.size(),
        ..SessionConfig::default()
    };
    for (kind, case, unit) in CASES {
        if !wanted(runner, case, name) {
            continue;
        }
        let full = format!("{case}/{name}");
        let bytes = match Plan::new(model.shape(), model.weight_bytes(), &session_config) {
            Ok(plan) => plan.session() as usize,
            Err(error) => {
                runner.fail(&full, kernels.name, error.to_string());
                continue;
            }
        };
        let mut memory = vec![0; bytes];
        let session = Session::new(model, session_config, kernels, subject.team, &mut memory);
        let effort = Effort {
            warmup: 1,
            samples: config.measurement_iterations.max(3),
            min_samples: 3,
            limit_s: config.end_to_end_limit_s,
            calls: Some(1),
        };
        let built = session
            .map_err(|error| error.to_string())
            .and_then(|session| Pass::new(session, &prompt, kind).map_err(|error| error.to_string()));
        match built {
            Ok(mut pass) => runner.measure(&full, unit, kernels.name, effort, &mut pass),
            Err(reason) => runner.fail(&full, kernels.name, reason),
        }
    }
}

/// A session at work.
struct Pass<'m> {
    session: Session<'m>,
    prompt: Vec<u32>,
    /// Tokens that decoding appends.
    next: Vec<u32>,
    kind: Kind,
    expected: u64,
    found: Result<u64, RunError>,
    first: Option<usize>,
}

impl<'m> Pass<'m> {
    /// Finds the expected hash by another split of the same tokens, and leaves the session ready.
    fn new(mut session: Session<'m>, prompt: &[u32], kind: Kind) -> Result<Self, RunError> {
        let vocab = session.model().shape().vocab_size as u32;
        let next: Vec<u32> = (0..BATCH as u32).map(|i| (i * 104_729 + 5) % vocab).collect();
        let appended = match kind {
            Kind::Prefill | Kind::FirstToken => &[][..],
            Kind::Decode => &next[..1],
            Kind::Batched => &next[..],
        };
        let all = [prompt, appended].concat();
        // Decoding runs behind the prompt's last token; here the cut lies elsewhere.
        let cut = prompt.len() / 2;
        session.forward(&all[..cut], Logits::None)?;
        let expected = logits_hash(session.forward(&all[cut..], Logits::Last)?).value();
        session.reset();
        session.forward(prompt, Logits::None)?;
        let prompt = prompt.to_vec();
        Ok(Self { session, prompt, next, kind, expected, found: Ok(0), first: None })
    }

    fn once(&mut self) -> Result<u64, RunError> {
        let logits = match self.kind {
            Kind::Prefill | Kind::FirstToken => {
                self.session.reset();
                self.session.forward(black_box(&self.prompt), Logits::Last)?
            }
            Kind::Decode => {
                self.session.truncate(self.prompt.len());
                self.session.forward(black_box(&self.next[..1]), Logits::Last)?
            }
            Kind::Batched => {
                self.session.truncate(self.prompt.len());
                let all = self.session.forward(black_box(&self.next), Logits::All)?;
                &all[all.len() / BATCH * (BATCH - 1)..]
            }
        };
        if self.kind == Kind::FirstToken {
            let greatest = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            self.first = black_box(greatest.map(|(id, _)| id));
        }
        // One number of the logits stands for all while timing; the hash is taken by `check`.
        Ok(u64::from(black_box(logits[0]).to_bits()))
    }
}

impl Case for Pass<'_> {
    fn name(&self) -> &'static str {
        CASES.iter().find(|(kind, ..)| *kind == self.kind).expect("all kinds are listed").1
    }

    fn work(&self) -> Work {
        let model = self.session.model();
        let tokens = match self.kind {
            Kind::Prefill | Kind::FirstToken => self.prompt.len(),
            Kind::Decode => 1,
            Kind::Batched => BATCH,
        } as u64;
        let units = if self.kind == Kind::FirstToken { 1.0 } else { tokens as f64 };
        // Every matrix weight is one fma per token; attention's products come on top and are not counted. The head
        // is computed for the last position only, except in a batched decode.
        let shape = model.shape();
        let head = (shape.vocab_size * shape.dim) as u64;
        let heads = if self.kind == Kind::Batched { tokens } else { 1 };
        let tables = if model.is_tied() { 1 } else { 2 };
        let layers = model.parameters() - head * tables;
        let flops = 2 * (layers * tokens + head * heads);
        Work { units, tokens, bytes: model.pass_bytes(), flops }
    }

    fn run(&mut self, calls: u64) {
        for _ in 0..calls {
            self.found = self.once();
        }
    }

    fn check(&mut self) -> Result<(), WrongAnswer> {
        let ran = f64::from(u8::from(self.found.is_ok()));
        WrongAnswer::check("the pass ended without an error", 1.0, ran, 0.0)?;
        let again = match self.kind {
            Kind::Batched => {
                self.session.truncate(self.prompt.len());
                self.session
                    .forward(&self.next, Logits::All)
                    .map(|all| logits_hash(&all[all.len() / BATCH * (BATCH - 1)..]).value())
            }
            Kind::Decode => {
                self.session.truncate(self.prompt.len());
                self.session.forward(&self.next[..1], Logits::Last).map(|l| logits_hash(l).value())
            }
            Kind::Prefill | Kind::FirstToken => {
                self.session.reset();
                self.session.forward(&self.prompt, Logits::Last).map(|l| logits_hash(l).value())
            }
        };
        let same = again.is_ok_and(|hash| hash == self.expected);
        WrongAnswer::check("logits equal those of another split", 1.0, f64::from(u8::from(same)), 0.0)
    }
}
