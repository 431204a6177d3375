//! Building the bare-metal image.

use std::path::PathBuf;

use crate::toolchain::{BARE_METAL, Toolchain};
use crate::{Failure, elf, process};

/// In place of those of `.cargo/config.toml`: less is inlined, and loops stay loops, but for arrays of registers.
const SMALL_FLAGS: &str = "-Cforce-frame-pointers=yes -Cllvm-args=-inline-threshold=25 -Cno-vectorize-loops \
    -Cllvm-args=-unroll-runtime=false";

/// What to build.
#[derive(Clone, Debug, Default)]
pub struct Build {
    /// Cargo features beside `boot`.
    pub features: Vec<&'static str>,
    /// The small image: NEON alone of the vector kernels, no benchmark suite.
    pub small: bool,
    /// Show cargo's own lines.
    pub verbose: bool,
}

/// An image on disk.
#[derive(Clone, Debug)]
pub struct Image {
    /// The raw image, as boot loaders take it.
    pub raw: PathBuf,
    /// The ELF file it comes from.
    pub elf: PathBuf,
    /// Bytes of the raw image.
    pub bytes: u64,
}

/// Builds the image. Images of other features have names of their own.
pub fn build(wanted: &Build) -> Result<Image, Failure> {
    let toolchain = Toolchain::for_target(BARE_METAL)?;
    let (profile, kernels) = if wanted.small { ("small", Some("neon")) } else { ("image", None) };
    let features: Vec<_> =
        ["boot"].into_iter().chain(kernels).chain(wanted.features.iter().copied()).collect();
    let mut cargo = toolchain.cargo();
    cargo.args(["build", "--profile", profile, "-p", "barelm", "--bin", "barelm-image"]);
    if wanted.small {
        cargo.arg("--no-default-features").env("CARGO_TARGET_AARCH64_UNKNOWN_NONE_RUSTFLAGS", SMALL_FLAGS);
    }
    cargo.args(["--target", BARE_METAL, "--features", &features.join(",")]);
    if wanted.verbose {
        process::run(&mut cargo)?;
    } else {
        let spinner = crate::progress::spinner("building the image");
        let built = process::run(cargo.arg("--quiet"));
        spinner.finish_and_clear();
        built?;
    }

    let folder = crate::target_folder().join(BARE_METAL).join(profile);
    let elf = folder.join("barelm-image");
    let name = ["barelm"].iter().chain(&wanted.features).copied().collect::<Vec<_>>().join("-");
    let raw = folder.join(format!("{name}.img"));
    let file = std::fs::read(&elf).map_err(|error| format!("{}: {error}", elf.display()))?;
    let bytes = elf::to_raw(&file).map_err(|error| format!("{}: {error}", elf.display()))?;
    std::fs::write(&raw, &bytes).map_err(|error| format!("{}: {error}", raw.display()))?;
    Ok(Image { raw, elf, bytes: bytes.len() as u64 })
}
