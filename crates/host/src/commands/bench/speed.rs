//! Prompts and generation in tokens a second, in the manner of `llama-bench`, each beside this machine's limit.
//!
//! - `pp512` is a prompt of 512 tokens, `tg128` are 128 passes of one token, `@ d4096` means behind 4096 positions that
//!   are already held. Logits of the last position are computed and nothing is sampled. Tokens are random, seeded.
//! - `--draft` adds real texts, generated with guesses and without; both must give the same tokens, also where they are
//!   picked by chance, with another seed each repetition.
//! - A speed is the median of the repetitions and their quartiles. Before each repetition the limit is measured with
//!   as many threads: reading memory for generation, products for prompts; the share is the median of the shares.
//!
//! The limit of generation is bandwidth over bytes a token: every matrix once, and keys and values of the positions seen.
//! The limit of prompts is the peak of the instruction for the matrices' type over the operations of a token: two for each
//! weight, and those of attention.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use barelm::llm::draft::PromptLookup;
use barelm::llm::generate::{GenerateConfig, Generated, MOST_DRAFTED, generate_with_draft};
use barelm::llm::model::Shape;
use barelm::llm::sampler::{Sampler, SamplerConfig};
use barelm::llm::tokenizer::{Special, Tokenizer};
use barelm::llm::transformer::{Logits, RunError, Session};
use clap::{Args, ValueEnum};

use super::profile::{self, Costs, Passes};
use super::prompts;
use super::table::{Row, Sample, Table};
use crate::commands::setup::{Needs, SessionArguments, with_session};
use crate::failure::Failure;
use crate::limits::{Demand, ReadBuffer, f32_rate, int8_rate};
use crate::model_file::ModelFile;
use crate::prompt;
use crate::team::{ThreadTeam, default_threads};

/// How long reading is measured before a repetition.
const READ_TIME: Duration = Duration::from_millis(60);
/// How long products are measured before a repetition.
const PRODUCT_TIME: Duration = Duration::from_millis(20);

/// Options that belong to the speed.
#[derive(Args, Debug)]
#[group(id = "speed_mode", multiple = true, conflicts_with = "suite")]
#[command(next_help_heading = "Speed of a model")]
pub struct SpeedArguments {
    /// Measure speed, with the defaults below. Each option below says the same.
    #[arg(long)]
    pub speed: bool,
    /// Lengths of prompts; 0 for none (default: 512).
    #[arg(short, long, value_name = "N", value_delimiter = ',')]
    pub prompt: Vec<u16>,
    /// Tokens to generate; 0 for none (default: 128).
    #[arg(short = 'n', long, value_name = "N", value_delimiter = ',')]
    pub tokens: Vec<u16>,
    /// Positions held before each test (default: 0).
    #[arg(short, long, value_name = "N", value_delimiter = ',')]
    pub depth: Vec<u32>,
    /// Repetitions of each test, behind one that is not counted (default: 5).
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub repetitions: Option<u16>,
    /// How to print (default: md).
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Format>,
    /// Positions computed in one pass (default: 64 a thread, at most 256).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub batch: Option<u16>,
    /// Generate code and prose too, with up to N guessed tokens a pass and without.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MOST_DRAFTED as i64))]
    pub draft: Option<u16>,
    /// Pick those texts' tokens by chance at this temperature (default: 0, the likeliest).
    #[arg(long, value_name = "T", requires = "draft", value_parser = temperature)]
    pub temperature: Option<f32>,
    /// Print how much time each step of a pass took, behind the table: once more for every test.
    #[arg(long)]
    pub profile: bool,
}

/// Form of the results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table in Markdown.
    #[default]
    Md,
    /// An array of objects, one a test, with every sample.
    Json,
    /// A line of names, and a line a test.
    Csv,
}

impl SpeedArguments {
    /// Whether any of them was given.
    pub fn wanted(&self) -> bool {
        self.speed
            || !(self.prompt.is_empty() && self.tokens.is_empty() && self.depth.is_empty())
            || self.repetitions.is_some()
            || self.output.is_some()
            || self.batch.is_some()
            || self.draft.is_some()
            || self.profile
    }
}

/// What is measured, and with what.
struct Bench<'a> {
    shape: Shape,
    demand: Demand,
    tokenizer: Option<&'a Tokenizer<'a>>,
    buffer: &'a ReadBuffer,
    team: ThreadTeam,
    repetitions: usize,
    /// Of the texts that are generated with guesses and without.
    temperature: f32,
}

/// Measures and prints every test; the table's rows appear as they are measured.
pub fn run(
    path: &Path,
    threads: &[u16],
    kernels: Option<&str>,
    options: &SpeedArguments,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let file = ModelFile::open(path)?;
    let gguf = file.parse()?;
    let shape = Shape::from_gguf(&gguf).map_err(|error| Failure::because(path.display(), error))?;
    let lengths = |given: &[u16], default: usize| -> Vec<usize> {
        let given =
            if given.is_empty() { vec![default] } else { given.iter().copied().map(usize::from).collect() };
        given.into_iter().filter(|&length| length > 0).collect()
    };
    let (prompts, tokens) = (lengths(&options.prompt, 512), lengths(&options.tokens, 128));
    let mut depths: Vec<_> = options.depth.iter().map(|&depth| depth as usize).collect();
    if depths.is_empty() {
        depths.push(0);
    }
    let longest = prompts.iter().chain(&tokens).copied().max().unwrap_or(0);
    if longest == 0 && options.draft.is_none() {
        return Err(Failure::Message("nothing to measure: give -p or -n more than 0 tokens".into()));
    }
    let deepest = depths.iter().copied().max().unwrap_or(0);
    let drafted = options.draft.map_or(0, usize::from);
    let generated = tokens.first().copied().unwrap_or(128);
    let tokenizer = match drafted {
        0 => None,
        _ => Some(Tokenizer::from_gguf(&gguf).map_err(|error| Failure::because(path.display(), error))?),
    };
    // A byte is a token at most.
    let texts = if drafted > 0 { prompts::LONGEST + 1 + generated } else { 0 };
    let needs =
        Needs { context: (deepest + longest).max(texts).max(1), window: None, logits: Some(1 + drafted) };
    let all_threads = [u16::try_from(default_threads()).unwrap_or(u16::MAX)];
    let threads = if threads.is_empty() { &all_threads[..] } else { threads };

    let format = options.output.unwrap_or_default();
    if options.profile && format != Format::Md {
        return Err(Failure::Message("--profile prints tables in Markdown: leave out -o".into()));
    }
    let (costs, mut profiles) = (Costs::of(&gguf, &shape), Vec::new());
    let mut table = Table::new(format, &file, &gguf);
    table.begin(out)?;
    let buffer = ReadBuffer::try_new()?;
    for &count in threads {
        let arguments = SessionArguments {
            threads: Some(count),
            kernels: kernels.map(str::to_owned),
            batch: options.batch,
        };
        let bench = Bench {
            shape,
            demand: Demand::of(&gguf, &shape),
            tokenizer: tokenizer.as_ref(),
            buffer: &buffer,
            team: arguments.team()?,
            repetitions: options.repetitions.unwrap_or(5).into(),
            temperature: options.temperature.unwrap_or(0.0),
        };
        with_session(&file, &gguf, &arguments, needs, |session| {
            for &depth in &depths {
                for &length in &prompts {
                    let row = bench.prompt(session, length, depth)?;
                    table.row(&row, out)?;
                    if options.profile {
                        bench.profile_prompt(session, &costs, length, depth, &mut profiles)?;
                    }
                }
                for &length in &tokens {
                    let row = bench.generation(session, length, depth)?;
                    table.row(&row, out)?;
                    if options.profile {
                        bench.profile_generation(session, &costs, length, depth, &mut profiles)?;
                    }
                }
            }
            if drafted > 0 {
                for (name, text) in prompts::ALL {
                    for row in bench.draft(session, (name, text), generated, drafted)? {
                        table.row(&row, out)?;
                    }
                }
            }
            Ok(())
        })?;
    }
    table.end(out)?;
    Ok(out.write_all(&profiles)?)
}

impl Bench<'_> {
    /// A prompt of `tokens` behind `depth` positions.
    fn prompt(&self, session: &mut Session<'_>, tokens: usize, depth: usize) -> Result<Row, Failure> {
        let ids = self.random_ids(tokens);
        let [int8, float] = self.demand.prompt_operations(tokens, depth);
        let mut row = Row::new(session, self.repetitions, format!("pp{tokens}"), depth);
        row.prompt = tokens;
        row.operations = Some([int8, float]);
        self.fill(session, depth)?;
        for repetition in 0..=self.repetitions {
            let ((int8_name, int8_rate), (f32_name, f32_rate)) =
                (int8_rate(&self.team, PRODUCT_TIME), f32_rate(&self.team, PRODUCT_TIME));
            let (rate, instruction) = if int8 > 0.0 { (int8_rate, int8_name) } else { (f32_rate, f32_name) };
            row.instruction = Some(instruction);
            let limit = 1.0 / (int8 / int8_rate + float / f32_rate);
            session.truncate(depth);
            let start = Instant::now();
            session.forward(&ids, Logits::Last).map_err(refused)?;
            row.take(repetition, Sample { tokens_s: per_second(tokens, start), rate, limit: Some(limit) });
        }
        Ok(row)
    }

    /// `tokens` passes of one token behind `depth` positions.
    fn generation(&self, session: &mut Session<'_>, tokens: usize, depth: usize) -> Result<Row, Failure> {
        let ids = self.random_ids(tokens);
        let mut row = Row::new(session, self.repetitions, format!("tg{tokens}"), depth);
        row.tokens = tokens;
        row.bytes = Some(self.demand.token_bytes(tokens, depth));
        self.fill(session, depth)?;
        for repetition in 0..=self.repetitions {
            let rate = self.buffer.read_rate(&self.team, READ_TIME);
            let limit = row.bytes.map(|bytes| rate / bytes);
            session.truncate(depth);
            let start = Instant::now();
            for &id in &ids {
                session.forward(&[id], Logits::Last).map_err(refused)?;
            }
            row.take(repetition, Sample { tokens_s: per_second(tokens, start), rate, limit });
        }
        Ok(row)
    }

    /// The steps of a prompt's passes.
    fn profile_prompt(
        &self,
        session: &mut Session<'_>,
        costs: &Costs,
        tokens: usize,
        depth: usize,
        out: &mut dyn Write,
    ) -> Result<(), Failure> {
        let (ids, batch) = (self.random_ids(tokens), session.config().batch);
        let count = tokens.div_ceil(batch);
        let ends = (1..=count).map(|pass| (depth + pass * batch).min(depth + tokens));
        let passes = Passes {
            passes: count,
            // Once for 64 positions of a pass.
            readings: ids.chunks(batch).map(|pass| pass.len().div_ceil(64)).sum(),
            positions: tokens,
            heads: 1,
            head_passes: 1,
            seen: seen(tokens, depth),
            held: ends.sum::<usize>() as f64,
        };
        session.truncate(depth);
        let work = |session: &mut Session<'_>| session.forward(&ids, Logits::Last).map(drop).map_err(refused);
        profile::measure(session, costs, &format!("pp{tokens} @ d{depth}"), passes, work, out)
    }

    /// The steps of passes of one token.
    fn profile_generation(
        &self,
        session: &mut Session<'_>,
        costs: &Costs,
        tokens: usize,
        depth: usize,
        out: &mut dyn Write,
    ) -> Result<(), Failure> {
        let ids = self.random_ids(tokens);
        let seen = seen(tokens, depth);
        let passes = Passes {
            passes: tokens,
            readings: tokens,
            positions: tokens,
            heads: tokens,
            head_passes: tokens,
            seen,
            held: seen,
        };
        session.truncate(depth);
        let work = |session: &mut Session<'_>| {
            ids.iter().try_for_each(|&id| session.forward(&[id], Logits::Last).map(drop)).map_err(refused)
        };
        profile::measure(session, costs, &format!("tg{tokens} @ d{depth}"), passes, work, out)
    }

    /// A text continued greedily, one token a pass and with guesses; the speed of what comes behind the first token.
    fn draft(
        &self,
        session: &mut Session<'_>,
        (name, text): (&str, &str),
        tokens: usize,
        limit: usize,
    ) -> Result<[Row; 2], Failure> {
        let tokenizer = self.tokenizer.expect("made for the option --draft");
        let ids = tokenizer
            .encode_to_vec(text, Special::Plain)
            .map_err(|error| Failure::because("the built-in text", error))?;
        let prompt: Vec<_> =
            tokenizer.bos().filter(|_| tokenizer.adds_bos()).into_iter().chain(ids).collect();
        let mut plain = Row::new(session, self.repetitions, format!("{name} tg{tokens}"), 0);
        let mut drafted = Row::new(session, self.repetitions, format!("{name} tg{tokens} draft {limit}"), 0);
        plain.bytes = Some(self.demand.token_bytes(tokens, prompt.len()));
        for row in [&mut plain, &mut drafted] {
            (row.prompt, row.tokens) = (prompt.len(), tokens);
        }
        drafted.draft = limit;
        let (mut guesses, mut right) = (0, 0);
        for repetition in 0..=self.repetitions {
            let rate = self.buffer.read_rate(&self.team, READ_TIME);
            let limit_s = plain.bytes.map(|bytes| rate / bytes);
            let (tokens_s, alone, _) = self.text(session, tokenizer, (&prompt, repetition), tokens, 0)?;
            plain.take(repetition, Sample { tokens_s, rate, limit: limit_s });
            let (tokens_s, guessed, result) =
                self.text(session, tokenizer, (&prompt, repetition), tokens, limit)?;
            drafted.take(repetition, Sample { tokens_s, rate, limit: None });
            if repetition > 0 {
                (guesses, right) = (guesses + result.drafted, right + result.accepted);
            }
            if alone != guessed {
                return Err(Failure::Message(format!(
                    "{name}: guesses changed the text: please report this"
                )));
            }
        }
        drafted.guessed = Some((guesses, right));
        drafted.speed_up = Some(drafted.median() / plain.median());
        Ok([plain, drafted])
    }

    /// Tokens a second behind the first, the tokens, and how the guesses went.
    fn text(
        &self,
        session: &mut Session<'_>,
        tokenizer: &Tokenizer<'_>,
        (prompt, seed): (&[u32], usize),
        tokens: usize,
        limit: usize,
    ) -> Result<(f64, Vec<u32>, Generated), Failure> {
        let config =
            SamplerConfig { temperature: self.temperature, seed: seed as u64, ..SamplerConfig::default() };
        let mut sampler = Sampler::try_new(config, self.shape.vocab_size)
            .map_err(|error| Failure::Message(error.to_string()))?;
        let mut lookup = PromptLookup::new(limit, prompt.len() + tokens);
        let (mut ids, mut first) = (Vec::with_capacity(tokens + 1), None);
        let config = GenerateConfig { max_tokens: tokens, ignore_stop: true };
        session.reset();
        let result =
            generate_with_draft(session, tokenizer, &mut sampler, &mut lookup, prompt, config, |step| {
                first.get_or_insert_with(Instant::now);
                ids.push(step.id);
                std::ops::ControlFlow::Continue(())
            })
            .map_err(refused)?;
        let start = first.ok_or_else(|| Failure::Message("no token was generated".into()))?;
        let speed = per_second(tokens.saturating_sub(1), start);
        // The listener may hear the last id twice: once more with the rest of a broken character.
        ids.truncate(result.tokens);
        Ok((speed, ids, result))
    }

    /// Makes the session hold `depth` positions, of which those it already holds stay.
    fn fill(&self, session: &mut Session<'_>, depth: usize) -> Result<(), Failure> {
        session.truncate(depth.min(session.position()));
        let missing = depth - session.position();
        if missing > 0 {
            session.forward(&self.random_ids(missing), Logits::None).map_err(refused)?;
        }
        Ok(())
    }

    /// The same ids every time.
    fn random_ids(&self, count: usize) -> Vec<u32> {
        prompt::random_ids(0x2545_F491_4F6C_DD1D, count, self.shape.vocab_size)
    }
}

/// How many positions `tokens` behind `depth` others see together, each itself and all before it.
fn seen(tokens: usize, depth: usize) -> f64 {
    tokens as f64 * (depth as f64 + (tokens as f64 + 1.0) / 2.0)
}

/// A temperature that the sampler takes.
fn temperature(text: &str) -> Result<f32, String> {
    let value = text.parse().ok().filter(|value| (0.0..=100.0).contains(value));
    value.ok_or_else(|| "a number from 0 to 100 is wanted".to_owned())
}

fn refused(error: RunError) -> Failure {
    Failure::Message(error.to_string())
}

fn per_second(tokens: usize, start: Instant) -> f64 {
    tokens as f64 / start.elapsed().as_secs_f64().max(1e-9)
}
