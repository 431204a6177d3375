//! The Rust compiler the project is built with, and the targets it needs.

use std::path::PathBuf;
use std::process::Command;

use crate::{Failure, process};

/// Our image's target.
pub const BARE_METAL: &str = "aarch64-unknown-none";
/// Linux on AArch64, for tests of the NEON kernels under user-mode emulation.
pub const LINUX: &str = "aarch64-unknown-linux-gnu";

/// A compiler and its cargo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    cargo: PathBuf,
    /// Set where it is not the one that `cargo` finds by itself.
    rustc: Option<PathBuf>,
}

impl Toolchain {
    /// The one that runs us.
    pub fn current() -> Self {
        Self { cargo: std::env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from), rustc: None }
    }

    /// The distribution's, if it is installed.
    fn of_distribution() -> Option<Self> {
        let (cargo, rustc) = (PathBuf::from("/usr/bin/cargo"), PathBuf::from("/usr/bin/rustc"));
        (cargo.exists() && rustc.exists()).then_some(Self { cargo, rustc: Some(rustc) })
    }

    /// The one that builds for `target`: ours if it has the target, else the distribution's.
    pub fn for_target(target: &str) -> Result<Self, Failure> {
        let current = Self::current();
        if current.has(target) {
            return Ok(current);
        }
        if let Some(other) = Self::of_distribution().filter(|other| other.has(target)) {
            return Ok(other);
        }
        Err(format!("this Rust compiler cannot build for {target}: run `cargo xtask setup`"))
    }

    /// Whether the target's core library is there.
    pub fn has(&self, target: &str) -> bool {
        let mut rustc = self.rustc();
        let folder = process::read(rustc.args(["--print", "target-libdir", "--target", target]));
        let entries = folder.ok().and_then(|folder| std::fs::read_dir(folder.trim()).ok());
        entries.is_some_and(|mut entries| {
            entries.any(|entry| entry.is_ok_and(|e| e.file_name().to_string_lossy().starts_with("libcore-")))
        })
    }

    /// A run of cargo.
    pub fn cargo(&self) -> Command {
        let mut command = process::command(&self.cargo);
        if let Some(rustc) = &self.rustc {
            command.env("RUSTC", rustc).env_remove("RUSTUP_TOOLCHAIN");
        }
        command
    }

    /// A run of the compiler.
    pub fn rustc(&self) -> Command {
        process::command(match &self.rustc {
            Some(rustc) => rustc.clone(),
            None => std::env::var_os("RUSTC").map_or_else(|| "rustc".into(), PathBuf::from),
        })
    }

    /// Release, commit and other lines of `rustc -vV`.
    pub fn version(&self) -> Result<String, Failure> {
        process::read(self.rustc().arg("-vV"))
    }
}

/// The field `name` of `rustc -vV`.
pub fn version_field<'a>(version: &'a str, name: &str) -> Option<&'a str> {
    version.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_version_are_found() {
        let text = "rustc 1.2.3 (abc 2020-01-02)\nbinary: rustc\ncommit-hash: abcdef\nrelease: 1.2.3\n";
        assert_eq!(version_field(text, "release"), Some("1.2.3"));
        assert_eq!(version_field(text, "commit-hash"), Some("abcdef"));
        assert_eq!(version_field(text, "host"), None);
    }

    #[test]
    fn the_compiler_knows_its_own_host() {
        let current = Toolchain::current();
        let version = current.version().unwrap();
        assert!(current.has(version_field(&version, "host").unwrap()));
        assert!(!current.has("no-such-target"));
    }
}
