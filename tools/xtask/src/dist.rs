//! `cargo xtask dist`: static programs for Linux, which run on any distribution, with their checksums.

use std::path::{Path, PathBuf};

use crate::packages::Tool;
use crate::setup::{self, Need};
use crate::toolchain::{LINUX, Toolchain};
use crate::{Failure, files, process};

/// Linux on one architecture, two ways.
#[derive(Clone, Copy, Debug)]
pub struct Platform {
    /// With a C library made to be linked into programs; the compiler brings it and its linker.
    musl: &'static str,
    /// With the distribution's C library, for compilers that do not have the other.
    gnu: &'static str,
}

/// Linux on AArch64: Raspberry Pi OS in its 64-bit form, among others.
pub const AARCH64: Platform = Platform { musl: "aarch64-unknown-linux-musl", gnu: LINUX };
/// Linux on x86-64.
const X86_64: Platform = Platform { musl: "x86_64-unknown-linux-musl", gnu: "x86_64-unknown-linux-gnu" };
const PROGRAMS: [&str; 2] = ["barelm", "lm-rs-bench"];

impl Platform {
    /// What the files' names end with, such as `aarch64-linux`.
    pub fn name(self) -> String {
        self.musl.replace("-unknown-linux-musl", "-linux")
    }
}

/// Where they go.
pub fn folder() -> PathBuf {
    crate::target_folder().join("dist")
}

/// Builds them all, and writes `SHA256SUMS` as `sha256sum -c` reads it.
pub fn run() -> Result<(), Failure> {
    let mut sums = String::new();
    for platform in [AARCH64, X86_64] {
        for file in build(platform)? {
            let bytes = read(&file)?;
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            println!("{} ({} bytes)", file.display(), bytes.len());
            sums += &format!("{}  {name}\n", files::sha256(&bytes));
        }
    }
    let file = folder().join("SHA256SUMS");
    std::fs::write(&file, sums).map_err(|error| format!("{}: {error}", file.display()))
}

/// The target to build for: the first one that the compiler has, or that rustup gives it.
fn target_of(platform: Platform) -> Result<&'static str, Failure> {
    let has = || Toolchain::for_target(platform.musl).is_ok();
    let asked = || process::run(process::command("rustup").args(["target", "add", platform.musl])).is_ok();
    if has() || (process::find("rustup").is_some() && asked() && has()) {
        return Ok(platform.musl);
    }
    setup::provide(&[Need::Target(platform.gnu)]).map(|()| platform.gnu)
}

/// Builds the programs for one platform; gives their files.
pub fn build(platform: Platform) -> Result<Vec<PathBuf>, Failure> {
    let target = target_of(platform)?;
    let mut cargo = Toolchain::for_target(target)?.cargo();
    let variable = |what: &str| format!("CARGO_TARGET_{}_{what}", target.to_uppercase().replace('-', "_"));
    if target == platform.musl {
        cargo.env(variable("LINKER"), "rust-lld");
    } else {
        if target == LINUX {
            setup::provide(&[Need::Tool(Tool::CrossCompiler)])?;
            cargo.env(variable("LINKER"), "aarch64-linux-gnu-gcc");
        }
        cargo.env(variable("RUSTFLAGS"), "-Ctarget-feature=+crt-static");
    }
    cargo.args(["build", "--quiet", "--release", "--locked", "-p", "barelm-host", "--target", target]);
    PROGRAMS.iter().for_each(|program| {
        cargo.args(["--bin", program]);
    });
    process::run(&mut cargo)?;
    let folder = folder();
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let place = |program: &&str| {
        let from = crate::target_folder().join(target).join("release").join(program);
        let to = folder.join(format!("{program}-{}", platform.name()));
        if !is_static(&read(&from)?) {
            return Err(format!("{}: it asks for a loader of shared libraries", from.display()));
        }
        std::fs::copy(&from, &to).map_err(|error| format!("{}: {error}", to.display()))?;
        Ok(to)
    };
    PROGRAMS.iter().map(place).collect()
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))
}

/// Whether a 64-bit little-endian ELF file names no loader (segment type `PT_INTERP`, 3).
fn is_static(elf: &[u8]) -> bool {
    let number = |at: usize, length: usize| {
        let bytes = elf.get(at..at + length)?;
        Some(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
    };
    let headers = || Some((number(32, 8)?, number(54, 2)?, number(56, 2)?));
    elf.starts_with(b"\x7fELF\x02\x01")
        && headers().is_some_and(|(first, size, count)| {
            (0..count).all(|i| number(first + i * size, 4).is_some_and(|kind| kind != 3))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loader_is_found() {
        let with = |kind: u8| {
            let mut elf = vec![0; 64 + 56];
            elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
            (elf[32], elf[54], elf[56], elf[64]) = (64, 56, 1, kind);
            elf
        };
        assert!(is_static(&with(1)));
        assert!(!is_static(&with(3)));
        assert!(!is_static(b"text") && !is_static(&with(1)[..64]));
    }
}
