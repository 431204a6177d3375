//! `cargo xtask qemu`: from a fresh clone to a model's answer on emulated bare metal.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::boot_words::BootWords;
use crate::guest::{self, Boot, Console};
use crate::image::{self, Image};
use crate::records::{self, Counted};
use crate::toolchain::Toolchain;
use crate::{Failure, model, process, progress, setup};

/// The CPU that is emulated unless told otherwise.
pub const DEFAULT_CPU: &str = "cortex-a72";

/// What to boot, and how.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// CPU to emulate: cortex-a53, cortex-a72, cortex-a76, max …
    #[arg(long, default_value = DEFAULT_CPU)]
    pub cpu: String,
    /// Cores to emulate (default: this machine's, 4 at most).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub cores: Option<u8>,
    /// Memory to emulate.
    #[arg(long, default_value = "1G", value_name = "SIZE")]
    pub memory: String,
    /// GGUF file to answer with (default: SmolLM2-135M-Instruct, downloaded once).
    #[arg(long, value_name = "FILE", conflicts_with = "no_model")]
    pub model: Option<PathBuf>,
    /// Download nothing: answer with the small model inside the image.
    #[arg(long)]
    pub no_model: bool,
    /// What to ask (default: the image's own question).
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// Tokens to generate at most.
    #[arg(long, default_value_t = 48, value_name = "N")]
    pub tokens: u32,
    /// Leave the benchmark suite out.
    #[arg(long)]
    pub no_suite: bool,
    /// Kernel table to compute with: scalar, neon, dotprod or i8mm (default: the best one).
    #[arg(long, value_name = "NAME")]
    pub kernels: Option<String>,
    /// Count instructions exactly (slow): every count repeats to the last digit.
    #[arg(long)]
    pub icount: bool,
    /// Write the suite's records to this file, a line of JSON each.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Read prompts from this terminal when everything else is done; end with Ctrl-A X.
    #[arg(long)]
    pub shell: bool,
    /// Stop the machine after so many seconds.
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    pub timeout: u64,
}

impl Arguments {
    fn cores(&self) -> usize {
        self.cores.map_or_else(guest::default_cores, usize::from)
    }

    /// The boot command line; `counts` are instructions from a counting boot.
    fn words(&self, embedded: bool, counts: Option<&str>) -> BootWords {
        let mut words = BootWords::default().with("tokens", &self.tokens.to_string());
        let mut set = |key: &str, value: &str| words = std::mem::take(&mut words).with(key, value);
        if embedded {
            set("model", "embedded");
        }
        if let Some(prompt) = &self.prompt {
            set("prompt", prompt);
        }
        if let Some(kernels) = &self.kernels {
            set("kernels", kernels);
        }
        if self.no_suite {
            set("suite", "off");
        } else if self.icount {
            set("exact", "1");
        }
        if self.json.is_some() {
            set("json", "1");
            for (key, value) in environment() {
                set("env", &format!("{key}:{value}"));
            }
        }
        if self.shell {
            set("shell", "1");
        }
        if let Some(counts) = counts {
            set("counts", counts);
        }
        words
    }
}

/// Builds, boots and reports; the guest's status is ours.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    setup::provide(&setup::BOOTING)?;
    let (initrd, embedded) = choose_model(arguments)?;
    let image = image::build(&image::Build::default())?;
    let limit = Duration::from_secs(arguments.timeout);
    let counts = if arguments.no_suite || arguments.icount || arguments.shell {
        None
    } else {
        count_instructions(&image, initrd.clone(), &arguments.cpu, limit)
    };
    let boot = Boot {
        kernel: image.raw,
        initrd,
        words: arguments.words(embedded, counts.as_deref()).as_str().to_string(),
        machine: "virt".to_string(),
        cpu: arguments.cpu.clone(),
        cores: arguments.cores(),
        memory: arguments.memory.clone(),
        icount: arguments.icount,
        limit,
        ..Boot::default()
    };
    let console = if arguments.shell { Console::Interactive } else { Console::Shown };
    println!("{}", process::shown(&boot.command(console)));
    let outcome = boot.run(console)?;
    if let Some(file) = &arguments.json {
        let lines: String = outcome.records.iter().map(|record| format!("{record}\n")).collect();
        std::fs::write(file, lines).map_err(|error| format!("{}: {error}", file.display()))?;
        println!("{} records in {}", outcome.records.len(), file.display());
    }
    println!("QEMU: {}", outcome.ending());
    match outcome.status {
        Some(0) => Ok(ExitCode::SUCCESS),
        Some(status) => Ok(ExitCode::from(u8::try_from(status).unwrap_or(1))),
        None if outcome.timed_out => {
            Err(format!("the guest did not end within {} s: give it more with --timeout", arguments.timeout))
        }
        None => Err("QEMU was ended by a signal".to_string()),
    }
}

/// The file for `-initrd`, and whether the image's own model answers instead.
fn choose_model(arguments: &Arguments) -> Result<(Option<PathBuf>, bool), Failure> {
    if arguments.no_model {
        return Ok((None, true));
    }
    if let Some(file) = &arguments.model {
        let found = std::path::absolute(file).ok().filter(|file| file.is_file());
        return match found {
            Some(file) => Ok((Some(file), false)),
            None => Err(format!("{}: no such file; leave --model out to download one", file.display())),
        };
    }
    match model::fetch() {
        Ok(file) => Ok((Some(file), false)),
        Err(missing) => {
            println!("{missing}");
            println!("The small model inside the image answers instead of SmolLM2-135M-Instruct.");
            Ok((None, true))
        }
    }
}

/// Boots once on one core with exact counting, and gives the micro-cases' instructions as the word `counts` takes them.
/// Where that fails the main boot goes on without, and says so itself.
fn count_instructions(image: &Image, initrd: Option<PathBuf>, cpu: &str, limit: Duration) -> Option<String> {
    match counts_of_boot(&counting_boot(&image.raw, initrd, cpu, limit)) {
        Ok(counts) => {
            let words: Vec<_> = counts.iter().map(|(case, n)| format!("{case}:{}", n.instructions)).collect();
            Some(words.join(","))
        }
        Err(why) => {
            println!("no instruction counts: {why}");
            None
        }
    }
}

/// Boots and gives the counted instructions.
pub fn counts_of_boot(boot: &Boot) -> Result<BTreeMap<String, Counted>, Failure> {
    let spinner = progress::spinner("counting instructions of the micro-cases");
    let outcome = boot.run(Console::Kept);
    spinner.finish_and_clear();
    let outcome = outcome?;
    if outcome.status != Some(0) {
        return Err(format!("{}: {}", outcome.ending(), outcome.last_lines(1)));
    }
    let counts = records::counts(&outcome.records)?;
    if counts.is_empty() { Err("the boot printed no records".to_string()) } else { Ok(counts) }
}

/// A boot whose micro-cases retire the same number of instructions every time. They need no model; with one its
/// tokenizer is counted too.
pub fn counting_boot(kernel: &Path, initrd: Option<PathBuf>, cpu: &str, limit: Duration) -> Boot {
    let words =
        BootWords::default().with("suite", "micro").with("exact", "1").with("json", "1").with("tokens", "0");
    Boot {
        kernel: kernel.to_owned(),
        initrd,
        words: words.as_str().to_string(),
        machine: "virt".to_string(),
        cpu: cpu.to_string(),
        icount: true,
        limit,
        ..Boot::default()
    }
}

/// What records of a run say about where it ran.
fn environment() -> Vec<(&'static str, String)> {
    let line =
        |command: &mut std::process::Command| process::read(command).map(|text| text.trim().to_string());
    let mut fields = Vec::new();
    if let Ok(commit) = line(process::command("git").args(["describe", "--always", "--dirty", "--abbrev=12"]))
    {
        fields.push(("commit", commit));
    }
    if let Ok(version) = Toolchain::current().version() {
        fields.push(("toolchain", version.lines().next().unwrap_or_default().to_string()));
    }
    if let Ok(date) = line(process::command("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"])) {
        fields.push(("date", date));
    }
    if let Ok(version) = line(process::command(guest::QEMU).arg("--version")) {
        fields.push(("emulator", version.lines().next().unwrap_or_default().to_string()));
    }
    fields
}
