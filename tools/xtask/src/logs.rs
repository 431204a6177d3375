//! `cargo xtask logs`: the image's structured records, as text.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
#[cfg(feature = "defmt")]
use defmt_decoder::{DecodeError, Frame, Table};

use crate::boot_words::BootWords;
use crate::guest::{self, Boot, Console};
use crate::symbolize::elf_of_image;
use crate::{Failure, image, setup, target_folder};

/// What to decode.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// File with records (default: boot the small model in QEMU, and decode what it logs).
    records: Option<PathBuf>,
    /// The ELF file of the image that wrote them (default: the one that `cargo xtask image` builds).
    #[arg(long, value_name = "FILE", requires = "records")]
    elf: Option<PathBuf>,
    /// Without a file: log from this level on: trace, debug, info, warn or error.
    #[arg(long, default_value = "info", conflicts_with = "records", value_parser = ["trace", "debug", "info", "warn", "error"])]
    level: String,
    /// Without a file: tokens to generate.
    #[arg(long, default_value_t = 4, value_name = "N", conflicts_with = "records")]
    tokens: u32,
}

/// What a file of records holds.
#[derive(Debug, Default)]
pub struct Decoded {
    /// One record a line.
    pub lines: Vec<String>,
    /// Records that made no sense.
    pub malformed: usize,
}

/// Decodes the records of `elf`'s image.
#[cfg(feature = "defmt")]
pub fn decode(elf: &Path, records: &[u8]) -> Result<Decoded, Failure> {
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", elf.display());
    let bytes = std::fs::read(elf).map_err(|error| told(&error))?;
    let table = Table::parse(&bytes)
        .map_err(|error| told(&error))?
        .ok_or_else(|| told(&"it has no records: build it with cargo xtask image"))?;
    let mut stream = table.new_stream_decoder();
    stream.received(records);
    let mut decoded = Decoded::default();
    loop {
        match stream.decode() {
            Ok(frame) => decoded.lines.push(line(&frame)),
            Err(DecodeError::UnexpectedEof) => return Ok(decoded),
            Err(DecodeError::Malformed) => decoded.malformed += 1,
        }
    }
}

/// Says how to get a driver that can.
#[cfg(not(feature = "defmt"))]
pub fn decode(elf: &Path, _: &[u8]) -> Result<Decoded, Failure> {
    Err(format!(
        "{}: this driver was built without feature `defmt`; `cargo xtask` builds it with it",
        elf.display()
    ))
}

/// A record as a line.
#[cfg(feature = "defmt")]
fn line(frame: &Frame<'_>) -> String {
    let time = frame.display_timestamp().map(|time| time.to_string()).unwrap_or_default();
    let level = frame.level().map_or("print", |level| level.as_str());
    format!("{time:20} {level:5} {}", frame.display_message())
}

/// Boots or reads, and prints.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let (elf, file) = match &arguments.records {
        Some(file) => (arguments.elf.clone().unwrap_or_else(elf_of_image), file.clone()),
        None => {
            setup::provide(&setup::BOOTING)?;
            let image = image::build(&image::Build::default())?;
            let boot = boot(image.raw, &arguments.level, arguments.tokens, guest::default_cores());
            (image.elf, booted(&boot)?)
        }
    };
    let records = std::fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let decoded = decode(&elf, &records)?;
    decoded.lines.iter().for_each(|line| println!("{line}"));
    match decoded.malformed {
        0 => Ok(ExitCode::SUCCESS),
        count => Err(format!(
            "{count} records make no sense: is {} the ELF file of the image that wrote them?",
            elf.display()
        )),
    }
}

/// Where a boot of ours logs to.
fn log_file() -> PathBuf {
    target_folder().join("boot.defmt")
}

/// A boot of the small model that logs from `level` on.
pub fn boot(kernel: PathBuf, level: &str, tokens: u32, cores: usize) -> Boot {
    let words = BootWords::default()
        .with("suite", "off")
        .with("model", "embedded")
        .with("tokens", &tokens.to_string())
        .with("trace", "1")
        .with("log", level)
        .with("logfile", &log_file().to_string_lossy());
    Boot { kernel, words: words.as_str().to_string(), cores, ..Boot::default() }
}

/// Boots; gives the file that it wrote.
pub fn booted(boot: &Boot) -> Result<PathBuf, Failure> {
    // What an earlier boot wrote is not to be taken for this one's.
    let _ = std::fs::remove_file(log_file());
    let outcome = boot.run(Console::Kept)?;
    match outcome.status {
        Some(0) => Ok(log_file()),
        _ => Err(format!("{}\n{}", outcome.ending(), outcome.last_lines(10))),
    }
}
