//! A prompt in, text out on the console.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;
use core::ops::ControlFlow;

use super::keys::Keys;
use super::model::Loaded;
use super::options::Source;
use super::settings::Settings;
use super::trace;
use crate::boot::clock::{seconds_since, since_entry};
use crate::boot::{Step, begin, heap_free, heap_peak, heap_used};
use crate::console;
use crate::console_line as line;
use crate::llm::benchmarks::{Clock, ClockKind};
use crate::llm::chat::{ChatError, ChatTemplate, Role};
use crate::llm::generate::{GenerateConfig, Generated, generate};
use crate::llm::plan::{Plan, SessionConfig, Shortfall};
use crate::llm::pool::Team;
use crate::llm::sampler::{Sampler, SamplerConfig};
use crate::llm::simd::Kernels;
use crate::llm::tokenizer::Special;
use crate::llm::transformer::Session;
use crate::log;

/// What a model is asked where the command line does not say.
const fn default_prompt(source: Source) -> &'static str {
    match source {
        Source::Initrd => "Why is the sky blue?",
        // The embedded model has read novels.
        Source::Embedded => "My dear Miss",
    }
}

/// What is asked of the model, checked.
pub struct Request {
    /// The prompt as written.
    pub prompt: String,
    /// Its tokens, template included.
    pub ids: Vec<u32>,
    /// Tokens to generate at most.
    pub tokens: usize,
    /// How they are picked.
    pub sampler: SamplerConfig,
    /// The session that holds both.
    pub config: SessionConfig,
}

impl Request {
    /// Encodes `prompt`, or the default one, and sees that it, the answer and the session fit.
    pub fn new(
        loaded: &Loaded,
        prompt: Option<&str>,
        settings: &Settings,
        team: &dyn Team,
    ) -> Result<Self, String> {
        let prompt = prompt.unwrap_or(default_prompt(loaded.source));
        let ids = encode(loaded, prompt, settings.raw)?;
        let tokens = room(&ids, settings.tokens, loaded.model.shape().context_length)?;
        let config =
            SessionConfig { context: ids.len() + tokens, members: team.size(), ..SessionConfig::default() };
        plan(loaded, &config)?;
        Ok(Request { prompt: prompt.to_string(), ids, tokens, sampler: settings.sampler, config })
    }
}

/// Lets the model answer, and prints how that went.
pub fn run(
    request: &Request,
    loaded: &Loaded,
    kernels: &'static Kernels,
    team: &dyn Team,
    speaker: &Speaker<'_>,
    traced: bool,
) -> Result<(), String> {
    begin(Step::Session);
    let before = heap_used();
    let mut memory = memory(loaded, &request.config, true)?;
    let taken = heap_used() - before;
    let mut session = Session::new(loaded.fastest(), request.config, kernels, team, &mut memory)
        .map_err(|e| e.to_string())?;

    begin(Step::Generation);
    line!("prompt: {}", request.prompt);
    if traced {
        trace::begin(&mut session);
    }
    speaker.answer(&mut session, request)?;
    trace::print(&session, speaker.clock);
    let planned = loaded.plan(&request.config)?.session();
    line!(
        "memory for the session: {taken} bytes taken, {planned} planned, {} in use; {} bytes of the heap besides at its peak",
        session.memory_used(),
        heap_peak() - taken
    );
    units(&session)
}

/// The ids of a prompt, as the model wants it.
fn encode(loaded: &Loaded, prompt: &str, raw: bool) -> Result<Vec<u32>, String> {
    if prompt.is_empty() {
        return Err("the prompt is empty: give some text with prompt=".to_string());
    }
    let tokenizer = &loaded.tokenizer;
    let template = match ChatTemplate::from_gguf(&loaded.gguf) {
        _ if raw => None,
        Ok(template) => Some(template),
        // The embedded model is a base model by design; any other is asked for as such.
        Err(ChatError::NoTemplate) if loaded.source == Source::Embedded => None,
        Err(error) => return Err(format!("{error}: add raw=1")),
    };
    let ids = match template {
        None => tokenizer.encode_to_vec(prompt, Special::Plain),
        Some(template) => tokenizer.encode_to_vec(&template.render(&[(Role::User, prompt)]), Special::Parse),
    };
    let ids = ids.map_err(|error| format!("the prompt: {error}"))?;
    Ok(tokenizer.bos().filter(|_| tokenizer.adds_bos()).into_iter().chain(ids).collect())
}

/// Tokens that fit behind the prompt, `wanted` at most.
fn room(ids: &[u32], wanted: usize, context: usize) -> Result<usize, String> {
    match context.saturating_sub(ids.len()) {
        0 => Err(format!(
            "the prompt has {} tokens, and the context {context} for it and the answer; shorten the prompt",
            ids.len()
        )),
        room => Ok(wanted.min(room)),
    }
}

/// Plans a session: the plan, and bytes of the heap to spare.
fn plan(loaded: &Loaded, config: &SessionConfig) -> Result<(Plan, u64), String> {
    let plan = loaded.plan(config)?;
    // The file is no part of the heap, and a packed copy has its memory already.
    let (needed, available) = (plan.session(), heap_free() as u64);
    match available.checked_sub(needed) {
        Some(spare) => Ok((plan, spare)),
        None => Err(short(&Shortfall { needed, available })),
    }
}

fn short(reason: &dyn Display) -> String {
    format!("not enough memory: {reason}; or give the machine more (-m)")
}

/// Plans a session and takes its memory, once and whole, from the largest free region.
pub fn memory(loaded: &Loaded, config: &SessionConfig, verbose: bool) -> Result<Vec<u8>, String> {
    let (plan, spare) = plan(loaded, config)?;
    let needed = plan.session() as usize;
    let mut memory = Vec::new();
    memory.try_reserve_exact(needed).map_err(|_| {
        short(&format_args!("no {needed} bytes in one piece, with {} free in all", heap_free()))
    })?;
    memory.resize(needed, 0);
    log!(
        info,
        "session of {=usize} positions: {=usize} bytes, {=u64} to spare",
        config.context,
        needed,
        spare
    );
    if verbose {
        line!("{plan}");
        line!("fits, {spare} bytes to spare");
    }
    Ok(memory)
}

/// What an answer needs besides the session.
pub struct Speaker<'l> {
    /// The model.
    pub loaded: &'l Loaded,
    /// For the speeds.
    pub clock: &'l dyn Clock,
    /// Where Ctrl-C comes from.
    pub keys: &'l Keys,
    /// Print the ids behind the text.
    pub print_ids: bool,
}

impl Speaker<'_> {
    /// Writes the answer on the console as it is made, then how fast. Ctrl-C on the console ends it.
    pub fn answer(&self, session: &mut Session<'_>, request: &Request) -> Result<(), String> {
        let mut ids = Vec::new();
        ids.try_reserve_exact(if self.print_ids { request.tokens } else { 0 })
            .map_err(|_| format!("tokens={}: no memory for so many ids", request.tokens))?;
        let Request { ids: prompt, tokens, sampler, .. } = request;
        let generated = self.say(session, prompt, *tokens, *sampler, &mut |id, _| {
            if ids.len() < ids.capacity() {
                ids.push(id);
            }
        })?;
        if self.print_ids {
            let ids: Vec<String> = ids[..generated.tokens].iter().map(u32::to_string).collect();
            line!("generated ids: {}", ids.join(","));
        }
        Ok(())
    }

    /// Continues the session by `prompt` and up to `tokens` tokens, each of which goes to the console and to `heard`.
    pub fn say(
        &self,
        session: &mut Session<'_>,
        prompt: &[u32],
        tokens: usize,
        sampler: SamplerConfig,
        heard: &mut dyn FnMut(u32, &str),
    ) -> Result<Generated, String> {
        self.loaded.verify()?;
        let vocab_size = self.loaded.model.shape().vocab_size;
        let mut sampler = Sampler::try_new(sampler, vocab_size).map_err(|e| e.to_string())?;
        let config = GenerateConfig { max_tokens: tokens, ignore_stop: false };
        let begun = self.clock.counters().instructions.ok();
        let start = self.clock.now();
        let mut first_s = None;
        let (mut entry, mut counted) = (None, None);
        let generated = generate(session, &self.loaded.tokenizer, &mut sampler, prompt, config, |step| {
            first_s.get_or_insert_with(|| {
                entry = since_entry(self.clock);
                counted = self.clock.counters().instructions.ok();
                seconds_since(self.clock, start)
            });
            heard(step.id, step.text);
            log!(debug, "token {=u32}", step.id);
            console::print(format_args!("{}", step.text));
            if self.keys.interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        line!("");
        let generated = generated.map_err(|error| error.to_string())?;
        let counted = counted.zip(self.clock.counters().instructions.ok());
        let all_s = seconds_since(self.clock, start);
        log!(info, "answer of {=usize} tokens in {=f64} s", generated.tokens, all_s);
        let first_s = first_s.unwrap_or(all_s);
        let emulated = match self.clock.kind() {
            ClockKind::Emulated => " (emulated: no speed of any machine)",
            ClockKind::Wall => "",
        };
        line!("generated: {} tokens, {}", generated.tokens, generated.finish);
        line!(
            "speed: prompt of {} tokens {:.2} tok/s, first token after {first_s:.2} s, then {:.2} tok/s{emulated}",
            prompt.len(),
            prompt.len() as f64 / first_s,
            generated.tokens.saturating_sub(1) as f64 / (all_s - first_s).max(1e-9),
        );
        if let Some([banner, first]) = entry {
            line!("instructions from entry: {banner} to the first line, {first} to the first token");
        }
        if let (Some((begun, (first, _))), ids @ 1..) = (begun.zip(counted), prompt.len() as u64) {
            line!("instructions for each of a prompt's {ids} tokens: {}", (first - begun) / ids);
        }
        if let (Some((first, last)), later @ 1..) = (counted, generated.tokens.saturating_sub(1) as u64) {
            line!("instructions for each of the {later} tokens behind the first: {}", (last - first) / later);
        }
        Ok(generated)
    }
}

/// Prints what each core has computed; an idle core is an error.
fn units(session: &Session<'_>) -> Result<(), String> {
    for (core, units) in session.work_units().enumerate() {
        line!("core {core}: {units} units");
    }
    match session.work_units().position(|units| units == 0) {
        Some(core) => Err(format!("core {core} did nothing")),
        None => Ok(()),
    }
}
