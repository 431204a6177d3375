//! The real boards' device trees, for tests: fetched once from Debian's kernel package, kept beside the model.
//!
//! They are the Linux kernel's (GPL-2.0 or MIT) and no part of the project. Debian 12's kernel has none of the
//! Raspberry Pi 5: for that board the tests have only a tree of our own writing.

use std::fs;
use std::path::PathBuf;

use crate::debian::{Index, files_named};
use crate::{Failure, model, process, progress};

/// The trees, by file name: Raspberry Pi 3 Model B and 4 Model B.
pub const FILES: [&str; 2] = ["bcm2837-rpi-3-b.dtb", "bcm2711-rpi-4-b.dtb"];
/// The package that depends on the current kernel's.
const PACKAGE: &str = "linux-image-arm64";
/// Megabytes of the kernel's package and the lists, about.
pub const MEGABYTES: u64 = 75;

/// Where they are.
pub fn folder() -> PathBuf {
    model::path().with_file_name("device-trees")
}

/// Whether all are there: the first word of each is a tree's.
pub fn present() -> bool {
    FILES.iter().all(|name| {
        fs::read(folder().join(name)).is_ok_and(|bytes| bytes.starts_with(&[0xd0, 0x0d, 0xfe, 0xed]))
    })
}

/// Downloads the kernel's package and keeps the trees.
pub fn fetch() -> Result<(), Failure> {
    let by_hand = || format!("put {} into {}", FILES.join(" and "), folder().display());
    if ["apt-get", "apt-cache", "dpkg"].iter().any(|program| process::find(program).is_none()) {
        return Err(format!(
            "the boards' device trees come in Debian's {PACKAGE}, and this is no Debian: {}",
            by_hand()
        ));
    }
    let spinner = progress::spinner("downloading a kernel's package for the boards' device trees");
    let copied = copy();
    spinner.finish_and_clear();
    copied.map_err(|why| format!("{why}; or by hand: {}", by_hand()))
}

fn copy() -> Result<(), Failure> {
    let index = Index::open()?;
    let kernel = index.depends(PACKAGE)?.into_iter().find(|name| name.starts_with("linux-image-"));
    let unpacked = index.unpack(&kernel.ok_or_else(|| format!("{PACKAGE} names no kernel"))?)?;
    let folder = folder();
    let told = |error: std::io::Error| format!("{}: {error}", folder.display());
    fs::create_dir_all(&folder).map_err(told)?;
    for name in FILES {
        let found = files_named(&unpacked, name);
        fs::copy(
            found.first().ok_or_else(|| format!("no {name} in the kernel's package"))?,
            folder.join(name),
        )
        .map_err(told)?;
    }
    Ok(())
}
