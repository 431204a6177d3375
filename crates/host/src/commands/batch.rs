//! `barelm batch`: tokens a second when several sequences share the passes over the weights.
//!
//! Every run submits so many requests at once: random prompts of one length, greedy, each with the same number of tokens.
//! Counts take turns, and figures are medians over the repetitions, behind one that is not counted. A request must get the
//! same tokens in every run, beside whatever others, or the command fails.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use barelm::llm::benchmarks::stats::percentile;
use barelm::llm::kv_cache::BLOCK;
use barelm::llm::model::Shape;
use barelm::llm::plan::SchedulerConfig;
use barelm::llm::sampler::SamplerConfig;
use barelm::llm::scheduler::{Event, Request, Scheduler};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::setup::{SessionArguments, with_scheduler};
use crate::environment;
use crate::failure::Failure;
use crate::model_file::ModelFile;
use crate::prompt::random_ids;

/// Arguments of `barelm batch`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The GGUF file.
    pub model: PathBuf,
    /// Sequences at the same time.
    #[arg(short, long, value_name = "N", value_delimiter = ',', default_value = "1,2,4,8,16", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub sequences: Vec<u16>,
    /// Tokens of each prompt.
    #[arg(short, long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub prompt: u32,
    /// Tokens to generate in each sequence.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..))]
    pub tokens: u32,
    /// Positions of prompts in a pass that also generates.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..))]
    pub chunk: u16,
    /// Runs of each count, behind one that is not counted.
    #[arg(short, long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    pub repetitions: u16,
    /// How to print.
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Format::Md)]
    pub output: Format,
    /// How to compute.
    #[command(flatten)]
    pub session: SessionArguments,
}

/// Form of the results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table in Markdown.
    #[default]
    Md,
    /// One object with every sample.
    Json,
}

/// What one run took.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Tokens a second of all sequences, in passes in which all of them generate and no prompt is read.
    decode: f64,
    /// Tokens a second from the first pass to the last, prompts included.
    whole: f64,
    /// Milliseconds of a pass in which all generate.
    pass_ms: f64,
    /// Milliseconds of the slowest pass that both generates and reads prompts, if there was one.
    mixed_ms: Option<f64>,
}

/// All runs with one count of sequences.
struct Row {
    sequences: usize,
    samples: Vec<Sample>,
}

impl Row {
    fn median(&self, figure: impl Fn(&Sample) -> f64) -> f64 {
        let mut figures: Vec<_> = self.samples.iter().map(figure).collect();
        figures.sort_unstable_by(f64::total_cmp);
        percentile(&figures, 50.0)
    }
}

/// Measures, and prints a row for each count.
pub fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let file = ModelFile::open(&arguments.model)?;
    let gguf = file.parse()?;
    let shape =
        Shape::from_gguf(&gguf).map_err(|error| Failure::because(arguments.model.display(), error))?;
    let counts: Vec<_> = arguments.sequences.iter().map(|&count| usize::from(count)).collect();
    let most = counts.iter().copied().max().expect("clap gives at least one");
    let each = arguments.prompt as usize + arguments.tokens as usize - 1;
    let batch = arguments.session.batch();
    let config = SchedulerConfig {
        sequences: most,
        positions: most.saturating_mul(each.next_multiple_of(BLOCK)),
        context: each,
        batch: batch.max(most),
        chunk: usize::from(arguments.chunk),
        queue: most,
        members: 1,
    };
    with_scheduler(&file, &gguf, &arguments.session, config, |scheduler| {
        let mut rows: Vec<_> =
            counts.iter().map(|&sequences| Row { sequences, samples: Vec::new() }).collect();
        let mut known = vec![Vec::new(); most];
        for repetition in 0..=arguments.repetitions {
            for row in &mut rows {
                let sample = measure(scheduler, row.sequences, arguments, shape.vocab_size, &mut known)?;
                if repetition > 0 {
                    row.samples.push(sample);
                }
            }
        }
        let threads = arguments.session.threads();
        match arguments.output {
            Format::Md => print_table(&rows, out)?,
            Format::Json => {
                let value = describe(&rows, arguments, threads, scheduler, &file);
                writeln!(out, "{value:#}")?;
            }
        }
        Ok(out.flush()?)
    })
}

/// One run. `known` are the tokens that each request got before.
fn measure(
    scheduler: &mut Scheduler<'_>,
    sequences: usize,
    arguments: &Arguments,
    vocab_size: usize,
    known: &mut [Vec<u32>],
) -> Result<Sample, Failure> {
    let mut got: Vec<Vec<u32>> = vec![Vec::with_capacity(arguments.tokens as usize); sequences];
    for id in 0..sequences as u64 {
        let request = Request {
            id,
            prompt: random_ids(id, arguments.prompt as usize, vocab_size),
            max_tokens: arguments.tokens as usize,
            sampler: SamplerConfig::default(),
            stop: Vec::new(),
        };
        scheduler.submit(request).map_err(|error| Failure::Message(error.to_string()))?;
    }
    let (mut all, mut full, mut full_passes) = (Duration::ZERO, Duration::ZERO, 0);
    let mut mixed: Option<Duration> = None;
    let mut failed = None;
    while !scheduler.is_idle() {
        let start = Instant::now();
        let step = scheduler.step(|event| {
            match event {
                Event::Token { id, token } => got[id as usize].push(token),
                Event::Done(done) => failed = failed.or(done.finish.err()),
            }
            ControlFlow::Continue(())
        });
        let took = start.elapsed();
        all += took;
        if step.prompt == 0 && step.decoded == sequences {
            full += took;
            full_passes += 1;
        } else if step.prompt > 0 && step.decoded > 0 {
            mixed = mixed.max(Some(took));
        }
    }
    if let Some(error) = failed {
        return Err(Failure::Message(error.to_string()));
    }
    for (got, known) in got.into_iter().zip(known) {
        if !known.is_empty() && got != *known {
            return Err(Failure::Message("other sequences changed a token: please report this".into()));
        }
        *known = got;
    }
    if full_passes == 0 {
        return Err(Failure::Message(format!(
            "the first of {sequences} sequences ends before the last prompt is read; ask for more tokens with -n"
        )));
    }
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    Ok(Sample {
        decode: (full_passes * sequences) as f64 / full.as_secs_f64(),
        whole: (sequences * arguments.tokens as usize) as f64 / all.as_secs_f64(),
        pass_ms: ms(full) / full_passes as f64,
        mixed_ms: mixed.map(ms),
    })
}

fn print_table(rows: &[Row], out: &mut dyn Write) -> Result<(), Failure> {
    writeln!(
        out,
        "| sequences | tok/s | to one sequence | tok/s each | ms a pass | with prompts, tok/s | slowest pass with a prompt, ms |"
    )?;
    writeln!(out, "|---:|---:|---:|---:|---:|---:|---:|")?;
    let single = rows.iter().find(|row| row.sequences == 1).map(|row| row.median(|sample| sample.decode));
    for row in rows {
        let decode = row.median(|sample| sample.decode);
        let ratio = single.map_or_else(|| "-".into(), |single| format!("{:.2}x", decode / single));
        let mixed = row.median(|sample| sample.mixed_ms.unwrap_or(f64::NAN));
        let mixed = if mixed.is_nan() { "-".into() } else { format!("{mixed:.1}") };
        writeln!(
            out,
            "| {} | {decode:.1} | {ratio} | {:.1} | {:.2} | {:.1} | {mixed} |",
            row.sequences,
            decode / row.sequences as f64,
            row.median(|sample| sample.pass_ms),
            row.median(|sample| sample.whole),
        )?;
    }
    Ok(())
}

fn describe(
    rows: &[Row],
    arguments: &Arguments,
    threads: usize,
    scheduler: &Scheduler<'_>,
    file: &ModelFile,
) -> Value {
    let rows = rows.iter().map(|row| {
        let all = |figure: fn(&Sample) -> f64| row.samples.iter().map(figure).collect::<Vec<_>>();
        json!({
            "sequences": row.sequences,
            "decode_tokens_s": row.median(|sample| sample.decode),
            "decode_tokens_s_samples": all(|sample| sample.decode),
            "whole_tokens_s": row.median(|sample| sample.whole),
            "whole_tokens_s_samples": all(|sample| sample.whole),
            "pass_ms": row.median(|sample| sample.pass_ms),
            "slowest_mixed_pass_ms": row.samples.iter().map(|sample| sample.mixed_ms).collect::<Vec<_>>(),
        })
    });
    json!({
        "rows": rows.collect::<Vec<_>>(),
        "prompt": arguments.prompt,
        "tokens": arguments.tokens,
        "batch": scheduler.config().batch,
        "chunk": scheduler.config().chunk,
        "threads": threads,
        "kernels": scheduler.kernels().name,
        "environment": environment::object(Some(file)),
    })
}
