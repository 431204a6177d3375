//! Whole models: prefill, decode, time to first token, and several positions in one pass.
//!
//! One answer is checked with another: a token's logits against those of the scalar kernels, a prompt in one batch
//! against the same prompt in two, a decoded token against a prompt that contains it. By the promise of bit-equal
//! arithmetic the logits' hashes must be the same.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::hint::black_box;

use super::case::{Case, Work, WrongAnswer};
use super::clock::{Clock, ClockKind};
use super::{Runner, Subject};
use crate::llm::gguf::Gguf;
use crate::llm::model::{LoadConfig, Model};
use crate::llm::plan::{Plan, SessionConfig};
use crate::llm::pool::Team;
use crate::llm::quant::GgmlType;
use crate::llm::simd::{self, Kernels};
use crate::llm::transformer::{Logits, RunError, Session, logits_hash};

/// Weights of a model whose answer is compared with the scalar kernels' even inside an emulator, at most. With more,
/// that takes longer there than all its cases.
const EMULATED_SCALAR_BYTES: u64 = 10_000_000;

/// Positions decoded together in `batched_decode`.
const BATCH: usize = 8;
/// Positions of a prompt in one pass, at most.
const MAX_BATCH: usize = 256;

/// What a case does with the session.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Prefill,
    Decode,
    Batched,
}

/// The measured cases. `first_token` is `prefill` once more, stated per prompt.
const CASES: [(Kind, &str); 3] =
    [(Kind::Prefill, "prefill"), (Kind::Decode, "decode"), (Kind::Batched, "batched_decode")];

/// Runs the cases of the configured synthetic sizes, then of the caller's model.
pub(super) fn run<C: Clock + ?Sized>(
    runner: &mut Runner<'_, C>,
    subject: &Subject<'_>,
    kernels: &'static Kernels,
) {
    for &size in runner.config.synthetic {
        if !CASES.iter().any(|(_, case)| wanted(runner, case, size.name())) {
            continue;
        }
        let Some(file) = size.build() else {
            runner.fail(size.name(), kernels.name, "not enough memory for its weights".to_string());
            continue;
        };
        let loaded = Gguf::parse(&file)
            .map_err(|error| error.to_string())
            .and_then(|gguf| Model::load(&gguf, LoadConfig::default()).map_err(|error| error.to_string()));
        match loaded {
            Ok(model) => {
                let said = size.documented_parameters() / 1_000_000;
                let note = format!("{}: {}; documents say {said} M", size.name(), counted(&model));
                runner.results.notes.push(note);
                of_model(runner, subject, kernels, size.name(), &model);
            }
            Err(reason) => runner.fail(size.name(), kernels.name, reason),
        }
    }
    if let Some((name, model)) = subject.model {
        runner.results.notes.push(format!("{name:.38}: {}", counted(model)));
        of_model(runner, subject, kernels, name, model);
    }
}

/// Layers and true parameter counts of a model in words.
fn counted(model: &Model<'_>) -> String {
    let shape = model.shape();
    let embedding = (shape.vocab_size * shape.dim) as u64;
    format!(
        "{} layers, {} parameters, {} without embedding",
        shape.n_layers,
        model.parameters(),
        model.parameters() - embedding
    )
}

fn wanted<C: Clock + ?Sized>(runner: &Runner<'_, C>, case: &str, model: &str) -> bool {
    let through = |case: &str| runner.config.wants(&format!("{case}/{model}"));
    through(case) || (case == "prefill" && through("first_token"))
}

fn of_model<C: Clock + ?Sized>(
    runner: &mut Runner<'_, C>,
    subject: &Subject<'_>,
    kernels: &'static Kernels,
    name: &str,
    model: &Model<'_>,
) {
    let config = runner.config;
    if !CASES.iter().any(|(_, case)| wanted(runner, case, name)) {
        return;
    }
    let emulated = runner.clock.kind() == ClockKind::Emulated;
    let compared =
        kernels.name != simd::scalar().name && (!emulated || model.weight_bytes() <= EMULATED_SCALAR_BYTES);
    let mut copy = Vec::new();
    let setup = Setup::new(model, kernels, subject.team, config.prompt_tokens, &mut copy).and_then(|setup| {
        if compared {
            setup.as_scalar()?;
        }
        Ok(setup)
    });
    let setup = match setup {
        Ok(setup) => setup,
        Err(reason) => {
            for (_, case) in CASES {
                runner.fail(&format!("{case}/{name}"), kernels.name, reason.clone());
            }
            return;
        }
    };
    let effort = config.end_to_end_effort();
    for (kind, case) in CASES {
        if !wanted(runner, case, name) {
            continue;
        }
        let full = format!("{case}/{name}");
        let measured = setup.pass(kind, |pass| runner.attempt(&full, kernels.name, effort, pass));
        let measurement = match measured {
            Ok(Some(measurement)) => measurement,
            Ok(None) => continue, // a wrong answer, and recorded as one
            Err(reason) => {
                runner.fail(&full, kernels.name, reason);
                continue;
            }
        };
        let detail = setup.detail(kind);
        let per_prompt = measurement.restated(1.0);
        if config.wants(&full) {
            runner.keep(full, "token", kernels.name, detail.clone(), measurement);
        }
        let full = format!("first_token/{name}");
        if kind == Kind::Prefill && config.wants(&full) {
            runner.keep(full, "prompt", kernels.name, detail, per_prompt);
        }
    }
}

/// Builds the cases of `model` one after the other and shows them to `visit`; an error says why one cannot be built.
pub fn model_cases(
    model: &Model<'_>,
    kernels: &'static Kernels,
    team: &dyn Team,
    prompt_tokens: usize,
    visit: &mut dyn FnMut(&mut dyn Case),
) -> Result<(), String> {
    let mut copy = Vec::new();
    let setup = Setup::new(model, kernels, team, prompt_tokens, &mut copy)?;
    setup.as_scalar()?;
    CASES.iter().try_for_each(|&(kind, _)| setup.pass(kind, |pass| visit(pass)))
}

/// The type of most of the layers' bytes.
fn precision(model: &Model<'_>) -> &'static str {
    let matrices = || model.layers.iter().flat_map(|l| [&l.wq, &l.wk, &l.wv, &l.wo, &l.gate, &l.up, &l.down]);
    let bytes =
        |ty| matrices().filter(|matrix| matrix.ty == ty).map(|matrix| matrix.data().len()).sum::<usize>();
    GgmlType::ALL.into_iter().max_by_key(|&ty| bytes(ty)).map_or("none", GgmlType::name)
}

/// What the cases of a model have in common.
struct Setup<'s, 'm> {
    model: &'s Model<'m>,
    /// The model in the layout that the kernels want.
    packed: Model<'s>,
    kernels: &'static Kernels,
    team: &'s dyn Team,
    prompt: Vec<u32>,
    config: SessionConfig,
}

impl<'s, 'm> Setup<'s, 'm> {
    fn new(
        model: &'s Model<'m>,
        kernels: &'static Kernels,
        team: &'s dyn Team,
        prompt_tokens: usize,
        copy: &'s mut Vec<u8>,
    ) -> Result<Self, String> {
        *copy = zeroed(model.packed_bytes(kernels))?;
        let packed = model.packed(kernels, copy).map_err(|error| error.to_string())?;
        let vocab = model.shape().vocab_size as u32;
        let room = model.shape().context_length.saturating_sub(BATCH);
        let prompt_tokens = prompt_tokens.clamp(2, room.max(2));
        let prompt = (0..prompt_tokens as u32).map(|i| (i * 7919 + 17) % vocab).collect();
        let config = SessionConfig {
            context: prompt_tokens + BATCH,
            batch: prompt_tokens.clamp(BATCH, MAX_BATCH),
            logits: BATCH,
            members: team.size(),
            ..SessionConfig::default()
        };
        Ok(Self { model, packed, kernels, team, prompt, config })
    }

    /// What the case's name does not say.
    fn detail(&self, kind: Kind) -> String {
        let (precision, prompt) = (precision(self.model), self.prompt.len());
        match kind {
            Kind::Prefill => {
                format!(
                    "{precision}, prompt {prompt} in batches of {}, first token picked",
                    self.config.batch
                )
            }
            Kind::Decode => format!("{precision}, 1 token behind {prompt}"),
            Kind::Batched => {
                format!("{precision}, {BATCH} positions of one sequence a pass, behind {prompt}, all logits")
            }
        }
    }

    /// Hands `visit` a session ready for `kind`.
    fn pass<R>(&self, kind: Kind, visit: impl FnOnce(&mut Pass<'_>) -> R) -> Result<R, String> {
        let mut memory = self.memory(&self.config)?;
        let session = Session::new(&self.packed, self.config, self.kernels, self.team, &mut memory)
            .map_err(|error| error.to_string())?;
        let mut pass = Pass::new(session, &self.prompt, kind).map_err(|error| error.to_string())?;
        Ok(visit(&mut pass))
    }

    fn memory(&self, config: &SessionConfig) -> Result<Vec<u8>, String> {
        let plan = Plan::new(self.model.shape(), self.model.weight_bytes(), config);
        zeroed(plan.map_err(|error| error.to_string())?.session())
    }

    /// Whether the kernels give the logits of the scalar table for one token; if not, why.
    fn as_scalar(&self) -> Result<(), String> {
        let config = SessionConfig { context: 1, batch: 1, logits: 1, ..self.config };
        let mut memory = self.memory(&config)?;
        let mut hash = |model, kernels| {
            let session = Session::new(model, config, kernels, self.team, &mut memory);
            let mut session = session.map_err(|error| error.to_string())?;
            let logits =
                session.forward(&self.prompt[..1], Logits::Last).map_err(|error| error.to_string())?;
            Ok::<_, String>(logits_hash(logits).value())
        };
        let same = hash(&self.packed, self.kernels)? == hash(self.model, simd::scalar())?;
        WrongAnswer::check("logits equal those of the scalar kernels", 1.0, f64::from(u8::from(same)), 0.0)
            .map_err(|wrong| wrong.to_string())
    }
}

/// `bytes` zero bytes, or why not.
fn zeroed(bytes: u64) -> Result<Vec<u8>, String> {
    let mut memory = Vec::new();
    let bytes =
        usize::try_from(bytes).map_err(|_| format!("{bytes} bytes are more than an address can name"))?;
    memory
        .try_reserve_exact(bytes)
        .map_err(|_| format!("a session needs {bytes} bytes, which are not free"))?;
    memory.resize(bytes, 0);
    Ok(memory)
}

/// A session at work.
struct Pass<'m> {
    session: Session<'m>,
    prompt: Vec<u32>,
    /// Tokens that decoding appends.
    next: Vec<u32>,
    kind: Kind,
    /// Hash of the logits that must come out.
    expected: u64,
    /// The logits of the last pass, copied as a sampler would; empty before.
    found: Vec<f32>,
    first: Option<usize>,
}

impl<'m> Pass<'m> {
    /// Finds the expected hash by another split of the same tokens, and leaves the session ready.
    fn new(mut session: Session<'m>, prompt: &[u32], kind: Kind) -> Result<Self, RunError> {
        let vocab = session.model().shape().vocab_size;
        let next: Vec<u32> = (0..BATCH as u32).map(|i| (i * 104_729 + 5) % vocab as u32).collect();
        let appended = match kind {
            Kind::Prefill => &[][..],
            Kind::Decode => &next[..1],
            Kind::Batched => &next[..],
        };
        let all = [prompt, appended].concat();
        // Decoding runs behind the prompt's last token; here the cut lies elsewhere.
        let cut = prompt.len() / 2;
        session.forward(&all[..cut], Logits::None)?;
        let expected = logits_hash(session.forward(&all[cut..], Logits::Last)?).value();
        session.reset();
        if kind != Kind::Prefill {
            session.forward(prompt, Logits::None)?;
        }
        let found = Vec::with_capacity(vocab);
        Ok(Self { session, prompt: prompt.to_vec(), next, kind, expected, found, first: None })
    }

    fn once(&mut self) -> Result<(), RunError> {
        let logits = match self.kind {
            Kind::Prefill => {
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
        self.found.extend_from_slice(logits);
        if self.kind == Kind::Prefill {
            let greatest = self.found.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            self.first = black_box(greatest.map(|(id, _)| id));
        }
        Ok(())
    }
}

impl Case for Pass<'_> {
    fn name(&self) -> &'static str {
        CASES.iter().find(|(kind, _)| *kind == self.kind).expect("all kinds are listed").1
    }

    fn work(&self) -> Work {
        let model = self.session.model();
        let shape = model.shape();
        let tokens = match self.kind {
            Kind::Prefill => self.prompt.len(),
            Kind::Decode => 1,
            Kind::Batched => BATCH,
        } as u64;
        // Every matrix weight is one fma per token; attention's products come on top and are not counted. The head
        // is computed for the last position only, except in a batched decode.
        let head = (shape.vocab_size * shape.dim) as u64;
        let heads = if self.kind == Kind::Batched { tokens } else { 1 };
        let layers = model.parameters() - head * if model.is_tied() { 1 } else { 2 };
        let flops = 2 * (layers * tokens + head * heads);
        Work { units: tokens as f64, tokens, bytes: model.pass_bytes(), flops }
    }

    fn run(&mut self, calls: u64) {
        for _ in 0..calls {
            self.found.clear();
            if self.once().is_err() {
                self.found.clear();
                return;
            }
        }
    }

    fn check(&mut self) -> Result<(), WrongAnswer> {
        let vocab = self.session.model().shape().vocab_size;
        WrongAnswer::check("logits of the last pass", vocab as f64, self.found.len() as f64, 0.0)?;
        let same = logits_hash(&self.found).value() == self.expected;
        WrongAnswer::check("logits equal those of another split", 1.0, f64::from(u8::from(same)), 0.0)?;
        let picked = self.kind != Kind::Prefill || self.first.is_some_and(|id| id < vocab);
        WrongAnswer::check("a first token was picked", 1.0, f64::from(u8::from(picked)), 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::ModelSize;
    use super::*;
    use crate::llm::pool::Solo;
    use crate::llm::simd::scalar;

    #[test]
    fn a_changed_logit_is_a_wrong_answer() {
        let file = ModelSize::Tiny.build().unwrap();
        let model = Model::load(&Gguf::parse(&file).unwrap(), LoadConfig::default()).unwrap();
        let config = SessionConfig { context: 16, batch: 8, logits: 8, ..SessionConfig::default() };
        for (kind, _) in CASES {
            let plan = Plan::new(model.shape(), model.weight_bytes(), &config).unwrap();
            let mut memory = zeroed(plan.session()).unwrap();
            let session = Session::new(&model, config, scalar(), &Solo, &mut memory).unwrap();
            let mut pass = Pass::new(session, &[1, 2, 3], kind).unwrap();
            assert!(pass.check().is_err(), "nothing has run yet");
            pass.run(2);
            assert_eq!(pass.check(), Ok(()));
            pass.found[7] += 1.0;
            assert!(pass.check().is_err());
        }
    }
}
