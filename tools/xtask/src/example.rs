//! `examples/minimal-kernel`: another kernel that takes the library, built and booted.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::guest::{self, QEMU};
use crate::toolchain::{BARE_METAL, Toolchain};
use crate::{Failure, process};

/// Where it lies.
pub fn folder() -> PathBuf {
    crate::root().join("examples/minimal-kernel")
}

/// Builds it as its owner would, with a manifest, a lock file and a linker script of its own; gives the command that
/// boots it.
fn build() -> Result<Command, Failure> {
    let target = crate::target_folder().join("examples");
    let mut cargo = Toolchain::for_target(BARE_METAL)?.cargo();
    cargo.current_dir(folder()).env("CARGO_TARGET_DIR", &target);
    process::run(cargo.args(["build", "--quiet", "--release", "--locked", "--target", BARE_METAL]))?;
    let mut qemu = process::command(QEMU);
    qemu.args(["-M", "virt", "-nic", "none", "-cpu", "cortex-a72", "-m", "128M"]);
    qemu.args(["-display", "none", "-monitor", "none", "-serial", "stdio"]);
    qemu.args(["-semihosting-config", "enable=on,target=native"]);
    qemu.arg("-kernel").arg(target.join(BARE_METAL).join("release/minimal-kernel"));
    Ok(qemu)
}

/// What the kernel says of a generation: what it was asked, and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The prompt.
    pub prompt: String,
    /// What logits were divided by.
    pub temperature: String,
    /// Start of the random sequence.
    pub seed: String,
    /// Tokens at most.
    pub tokens: String,
    /// The text, line feeds included.
    pub text: String,
}

impl Said {
    /// Reads the console.
    pub fn read(console: &str) -> Result<Self, Failure> {
        let after = |name: &str| {
            let line = console.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.map(str::to_string).ok_or_else(|| format!("no line `{name}: …`"))
        };
        let text = console.split_once("\ntext: ").and_then(|(_, rest)| rest.rsplit_once("\ngenerated: "));
        Ok(Said {
            prompt: after("prompt")?,
            temperature: after("temperature")?,
            seed: after("seed")?,
            tokens: after("tokens")?,
            text: text.ok_or("no text between `text: ` and `generated: `")?.0.to_string(),
        })
    }
}

/// Boots it, showing its console; gives what it said.
pub fn run() -> Result<Said, Failure> {
    let mut qemu = build()?;
    println!("{}", process::shown(&qemu));
    let outcome = guest::run(&mut qemu, Duration::from_secs(300), guest::Console::Shown)?;
    match outcome.status {
        Some(0) => Said::read(&outcome.text),
        _ => Err(format!("{}\n{}", outcome.ending(), outcome.last_lines(5))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_is_read() {
        let console = "total 1\ntemperature: 0.8\nseed: 7\ntokens: 9\nprompt: a b\ntext:  c\n\"d\"\ngenerated: 9 tokens, length reached\n";
        let said = Said::read(console).unwrap();
        assert_eq!((said.prompt.as_str(), said.text.as_str()), ("a b", " c\n\"d\""));
        assert_eq!((said.temperature.as_str(), said.seed.as_str(), said.tokens.as_str()), ("0.8", "7", "9"));
        assert!(Said::read("text: a").unwrap_err().contains("prompt"));
    }
}
