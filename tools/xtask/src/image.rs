//! Building the bare-metal image.

use std::path::PathBuf;

use crate::toolchain::{BARE_METAL, Toolchain};
use crate::{Failure, elf, process};

/// What to build.
#[derive(Clone, Debug, Default)]
pub struct Build {
    /// Cargo features beside `boot`.
    pub features: Vec<&'static str>,
    /// The small image: scalar kernels, no benchmark suite, for size instead of speed.
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
    let profile = if wanted.small { "small" } else { "image" };
    let features = ["boot"].iter().chain(&wanted.features).copied().collect::<Vec<_>>().join(",");
    let mut cargo = toolchain.cargo();
    cargo.args(["build", "--profile", profile, "-p", "barelm", "--bin", "barelm-image"]);
    if wanted.small {
        cargo.arg("--no-default-features");
    }
    cargo.args(["--target", BARE_METAL, "--features", &features]);
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
