//! The project's only driver: what a person and CI type as `cargo xtask …`.
//!
//! 1. [`setup`] plans and installs what the others need, with [`packages`], [`toolchain`], [`model`] and
//!    [`device_trees`].
//! 2. [`image`] builds the bare-metal image; [`elf`] turns it into raw bytes; [`boards`] makes a board's SD card of it,
//!    and [`sd`] writes the card.
//! 3. [`qemu`] boots it: [`boot_words`] says what it is to do, [`guest`] runs the emulator, [`terminal`] types at
//!    it, [`records`] reads its measurements.
//! 4. [`example`] does both for the minimal kernel that takes the library as others would.
//! 5. [`dist`] builds static programs for Linux.
//! 6. [`gate`] compares instruction counts with their baseline; [`figures`] are those of whole boots.
//! 7. [`engines`] builds the engines of other projects; [`versus`] compares ours with llama.cpp, [`bundle`] packs all for
//!    another machine.
//! 8. [`symbolize`] names the addresses of a failure's report.
//! 9. [`trace`] makes a file for a trace viewer of what the image recorded.
//! 10. [`logs`] decodes what it logs.
//! 11. [`steps`] is everything CI runs, for which [`disk`] looks for room.
//! 12. [`process`] and [`files`] are what all of them use.

mod boards;
mod boot_words;
mod bundle;
mod cli;
mod debian;
mod debian_rust;
mod device_trees;
mod disk;
mod dist;
mod elf;
mod engines;
mod example;
mod figures;
mod files;
mod gate;
mod guest;
mod image;
mod logs;
mod model;
mod packages;
mod process;
mod progress;
mod qemu;
mod records;
mod sd;
mod setup;
mod steps;
mod symbolize;
mod terminal;
mod toolchain;
mod trace;
mod versus;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::Cli::parse().run() {
        Ok(code) => code,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Why a command failed, in words that say what to do next.
type Failure = String;

/// The root of the workspace.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("the driver lies two folders below the root").to_owned()
}

/// Where builds go: `CARGO_TARGET_DIR`, else `target` at the root.
fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |folder| root().join(folder))
}
