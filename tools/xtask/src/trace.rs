//! `cargo xtask trace`: where the time of each token goes, as a file for Chrome's trace viewer or Perfetto.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use crate::boot_words::BootWords;
use crate::guest::{self, Boot, Console};
use crate::{Failure, image, qemu, setup};

/// What to trace.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Take the lines from a console's text instead of booting: the shell's `trace` on a board.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Where the trace goes.
    #[arg(long, default_value = "trace.json", value_name = "FILE")]
    out: PathBuf,
    /// GGUF file to answer with (default: the small model inside the image).
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// What to ask (default: the image's own question).
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Tokens to generate.
    #[arg(long, default_value_t = 8, value_name = "N")]
    tokens: u32,
    /// CPU to emulate.
    #[arg(long, default_value = qemu::DEFAULT_CPU)]
    cpu: String,
    /// Cores to emulate (default: this machine's, 4 at most).
    #[arg(long, value_name = "N")]
    cores: Option<usize>,
}

/// In front of every line of a trace.
const MARK: &str = "@trace ";

/// A core's step in a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    core: usize,
    pass: usize,
    /// Which layer, if the step is a layer's.
    layer: Option<usize>,
    /// Index into [`Trace::names`].
    name: usize,
    start: u64,
    ticks: u64,
}

/// What the image printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Trace {
    ticks_per_second: u64,
    names: Vec<String>,
    steps: Vec<Step>,
    lost: u64,
}

impl Trace {
    /// Reads a console's text; the last trace in it counts.
    fn parse(text: &str) -> Result<Self, Failure> {
        let (mut trace, mut passes) = (Trace::default(), BTreeMap::<usize, usize>::new());
        for line in text.lines().filter_map(|line| line.trim_end().strip_prefix(MARK)) {
            let bad = || format!("a line of the trace is damaged: {line}");
            if let Some(names) = line.strip_prefix("steps ") {
                let mut parts = names.split('|');
                trace = Trace::default();
                passes.clear();
                trace.ticks_per_second =
                    parts.next().and_then(|n| n.parse().ok()).filter(|&n| n > 0).ok_or_else(bad)?;
                trace.names = parts.map(str::to_string).collect();
            } else if let Some(lost) = line.strip_prefix("lost ") {
                trace.lost = lost.parse().map_err(|_| bad())?;
            } else {
                trace.pass(line, &mut passes).ok_or_else(bad)?;
            }
        }
        if trace.steps.is_empty() {
            return Err(
                "no trace in the console's text: boot with trace=1, or type `trace` in the shell".into()
            );
        }
        Ok(trace)
    }

    /// Reads a line of one core's pass: `CORE START a12 b3 …`.
    fn pass(&mut self, line: &str, passes: &mut BTreeMap<usize, usize>) -> Option<()> {
        let mut words = line.split(' ');
        let core = words.next()?.parse().ok()?;
        let mut start: u64 = words.next()?.parse().ok()?;
        let pass = *passes.entry(core).and_modify(|pass| *pass += 1).or_insert(0);
        let place = |name: &str| self.names.iter().position(|known| known == name);
        let (qkv, down, embed, head) = (place("q, k, v"), place("down"), place("embed"), place("head"));
        // A layer begins with its first step behind the last one's product, and ends there.
        let (mut layers, mut last) = (0, None);
        for word in words {
            let mut letters = word.chars();
            let name = (u32::from(letters.next()?)).checked_sub(u32::from('a'))? as usize;
            if name >= self.names.len() {
                return None;
            }
            let ticks: u64 = letters.as_str().parse().ok()?;
            if last == down && last.is_some() && Some(name) != down && self.names[name] != "wait" {
                layers += 1;
                last = None;
            }
            if self.names[name] != "wait" {
                last = Some(name);
            }
            let outside = Some(name) == embed || Some(name) == head;
            self.steps.push(Step { core, pass, layer: (!outside).then_some(layers), name, start, ticks });
            start = start.checked_add(ticks)?;
        }
        // What follows the last layer is the head's: its norm too.
        if let Some(layers) = self.layers_of(core, pass, qkv) {
            for step in self.steps.iter_mut().rev().take_while(|s| s.core == core && s.pass == pass) {
                step.layer = step.layer.filter(|&layer| layer < layers);
            }
        }
        Some(())
    }

    /// Layers of a pass: as many as there are products for queries.
    fn layers_of(&self, core: usize, pass: usize, qkv: Option<usize>) -> Option<usize> {
        let of_pass = self.steps.iter().rev().take_while(|s| s.core == core && s.pass == pass);
        let last = of_pass.filter(|s| Some(s.name) == qkv).filter_map(|s| s.layer).max()?;
        Some(last + 1)
    }

    fn micros(&self, ticks: u64) -> f64 {
        ticks as f64 * 1e6 / self.ticks_per_second as f64
    }

    /// The events as Chrome's trace viewer takes them (Trace Event Format, complete events).
    fn chrome(&self) -> Value {
        let zero = self.steps.iter().map(|step| step.start).min().unwrap_or(0);
        let cores: std::collections::BTreeSet<_> = self.steps.iter().map(|step| step.core).collect();
        let names = cores.iter().map(|core| {
            json!({"name": "thread_name", "ph": "M", "pid": 0, "tid": core, "args": {"name": format!("core {core}")}})
        });
        let steps = self.steps.iter().map(|step| {
            json!({
                "name": self.names[step.name],
                "cat": step.layer.map_or("pass".to_string(), |layer| format!("layer {layer}")),
                "ph": "X",
                "ts": self.micros(step.start - zero),
                "dur": self.micros(step.ticks),
                "pid": 0,
                "tid": step.core,
                "args": {"pass": step.pass, "layer": step.layer},
            })
        });
        json!({"traceEvents": names.chain(steps).collect::<Vec<_>>(), "displayTimeUnit": "ns"})
    }

    /// Ticks of all steps in a layer, and of those outside all.
    fn by_layer(&self) -> BTreeMap<Option<usize>, u64> {
        let mut sums = BTreeMap::new();
        for step in &self.steps {
            *sums.entry(step.layer).or_insert(0) += step.ticks;
        }
        sums
    }
}

/// Boots or reads, and writes the trace.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let text = match &arguments.from {
        Some(file) => {
            std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?
        }
        None => booted(arguments)?,
    };
    let trace = Trace::parse(&text)?;
    for line in text.lines().filter(|line| line.starts_with("step ")) {
        println!("{}", line.trim_end());
    }
    let passes = trace.steps.iter().map(|step| step.pass + 1).max().unwrap_or(0) as f64;
    for (layer, ticks) in trace.by_layer() {
        let name = layer.map_or("outside layers".to_string(), |layer| format!("layer {layer}"));
        println!("{name:16} {:10.1} us a pass, all cores together", trace.micros(ticks) / passes);
    }
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", arguments.out.display());
    let json = serde_json::to_string(&trace.chrome()).map_err(|error| told(&error))?;
    std::fs::write(&arguments.out, json).map_err(|error| told(&error))?;
    println!(
        "{} steps of {passes} passes in {}: open it in chrome://tracing or ui.perfetto.dev",
        trace.steps.len(),
        arguments.out.display()
    );
    if trace.lost > 0 {
        println!("{} steps more had no room: ask for fewer tokens", trace.lost);
    }
    Ok(ExitCode::SUCCESS)
}

/// A console's text with a trace in it.
fn booted(arguments: &Arguments) -> Result<String, Failure> {
    setup::provide(&setup::BOOTING)?;
    let mut words = BootWords::default().with("suite", "off").with("trace", "1");
    words = words.with("tokens", &arguments.tokens.to_string());
    if arguments.model.is_none() {
        words = words.with("model", "embedded");
    }
    if let Some(prompt) = &arguments.prompt {
        words = words.with("prompt", prompt);
    }
    let initrd = arguments.model.as_ref().map(std::path::absolute).transpose();
    let boot = Boot {
        kernel: image::build(&image::Build::default())?.raw,
        initrd: initrd.map_err(|error| error.to_string())?,
        words: words.as_str().to_string(),
        cpu: arguments.cpu.clone(),
        cores: arguments.cores.unwrap_or_else(guest::default_cores),
        ..Boot::default()
    };
    let outcome = boot.run(Console::Kept)?;
    match outcome.status {
        Some(0) => Ok(outcome.text),
        _ => Err(format!("{}\n{}", outcome.ending(), outcome.last_lines(10))),
    }
}

/// Boots the small model and looks at its trace: every core, every layer, steps without gaps.
pub fn check(boot: &Boot) -> Result<(), Failure> {
    let outcome = boot.run(Console::Kept)?;
    if outcome.status != Some(0) {
        return Err(format!("{}\n{}", outcome.ending(), outcome.last_lines(20)));
    }
    let trace = Trace::parse(&outcome.text)?;
    let layers = trace.by_layer();
    println!("{} steps in {} layers, {} lost", trace.steps.len(), layers.len() - 1, trace.lost);
    let cores: std::collections::BTreeSet<_> = trace.steps.iter().map(|step| step.core).collect();
    let (waits, products) = (trace.names.iter().position(|n| n == "wait"), trace.names.len());
    let seen: std::collections::BTreeSet<_> = trace.steps.iter().map(|step| step.name).collect();
    let json = trace.chrome();
    let events = json["traceEvents"].as_array().map_or(0, Vec::len);
    match () {
        () if cores.len() != boot.cores => Err(format!("steps of cores {cores:?}, not of {}", boot.cores)),
        () if layers.len() < 3 || !layers.contains_key(&None) => Err(format!("layers {:?}", layers.keys())),
        () if seen.len() != products || waits.is_none() => Err(format!("steps of kinds {seen:?} only")),
        () if events != trace.steps.len() + cores.len() => Err(format!("{events} events")),
        () => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "noise\n@trace steps 1000000|embed|norm|q, k, v|down|head|wait\r\n\
                        @trace 0 100 a1 b2 c3 d4 f1 b2 c3 d4 f1 b5 e6\n@trace 0 200 a1\n@trace 1 101 a9\n@trace lost 0\n";

    #[test]
    fn steps_follow_each_other_and_belong_to_layers() {
        let trace = Trace::parse(TEXT).unwrap();
        assert_eq!(trace.steps.len(), 13);
        let layers: Vec<_> = trace.steps[..11].iter().map(|step| step.layer).collect();
        let (a, b) = (Some(0), Some(1));
        assert_eq!(layers, [None, a, a, a, a, b, b, b, b, None, None]);
        assert_eq!((trace.steps[1].start, trace.steps[10].start, trace.steps[10].ticks), (101, 126, 6));
        assert_eq!((trace.steps[11].pass, trace.steps[12].core), (1, 1));
        assert_eq!(trace.by_layer()[&a], 10);
    }

    #[test]
    fn the_viewer_gets_microseconds_from_zero() {
        let json = Trace::parse(TEXT).unwrap().chrome();
        let events = json["traceEvents"].as_array().unwrap();
        assert_eq!(events.len(), 2 + 13);
        assert_eq!(events[2]["name"], "embed");
        assert_eq!((events[3]["ts"].as_f64(), events[3]["dur"].as_f64()), (Some(1.0), Some(2.0)));
        assert_eq!(events[3]["args"]["layer"], 0);
    }

    #[test]
    fn damaged_lines_are_refused() {
        for text in [
            "",
            "@trace steps 0|a\n@trace 0 1 a1",
            "@trace steps x",
            "@trace steps 5|a\n@trace 0 1 b1",
            "@trace steps 5|a\n@trace 0 1 a",
            "@trace steps 5|a\n@trace 0 18446744073709551615 a1",
            "@trace steps 5|a\n@trace 0 1 \u{e9}1",
            "@trace lost -1",
            "@trace",
        ] {
            assert!(Trace::parse(text).is_err(), "{text}");
        }
    }
}
