//! A bare-metal target where rustup has none: the distribution's compiler, with `core` and `alloc` built from the
//! library's sources that it packages.
//!
//! Debian and its kin ship a current compiler as `rustc-web`, but the library only for Linux. The sources come in
//! `rust-web-src`, dependencies included, so cargo builds the library offline (`-Zbuild-std`, which a stable compiler
//! permits under `RUSTC_BOOTSTRAP`). The result goes into the compiler's own folders, so it needs root.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::debian::Index;
use crate::toolchain::{BARE_METAL, LINUX, version_field};
use crate::{Failure, process, progress};

const RUSTC: &str = "/usr/bin/rustc";
const CARGO: &str = "/usr/bin/cargo";

/// The compiler's root folder.
fn sysroot() -> Result<PathBuf, Failure> {
    process::read(process::command(RUSTC).args(["--print", "sysroot"])).map(|path| path.trim().into())
}

/// Where the package keeps the library's sources.
pub fn library_sources() -> Option<PathBuf> {
    let linked = sysroot().ok()?.join("lib/rustlib/src/rust");
    let folder = fs::canonicalize(linked).ok()?;
    folder.join("library/core/Cargo.toml").exists().then_some(folder)
}

/// Builds `core` and `alloc` for the bare-metal target and gives the compiler a linker for it.
pub fn install_bare_metal() -> Result<(), Failure> {
    let sysroot = sysroot()?;
    let sources = library_sources().ok_or("the library's sources are missing: install rust-web-src")?;
    let folder = sysroot.join("lib/rustlib").join(BARE_METAL).join("lib");
    let work = std::env::temp_dir().join(format!("barelm-library-{}", std::process::id()));
    let spinner = progress::spinner("building the library for bare metal");
    let built = build_library(&sources, &work).and_then(|libraries| copy_into(&libraries, &folder));
    spinner.finish_and_clear();
    let _ = fs::remove_dir_all(&work);
    built?;
    link_linker(&sysroot)
}

/// Builds the library in `work`; gives the folder with the results.
fn build_library(sources: &Path, work: &Path) -> Result<PathBuf, Failure> {
    let told = |error: std::io::Error| format!("{}: {error}", work.display());
    fs::create_dir_all(work.join("src")).map_err(told)?;
    fs::write(work.join("src/lib.rs"), "#![no_std]\nextern crate alloc;\n").map_err(told)?;
    let manifest = "[package]\nname = \"library\"\nversion = \"0.0.0\"\nedition = \"2021\"\n\n[workspace]\n\n\
                    [profile.release]\nopt-level = 3\npanic = \"abort\"\n";
    fs::write(work.join("Cargo.toml"), manifest).map_err(told)?;
    let vendored = sources.join("library/vendor");
    let mut cargo = Command::new(CARGO);
    cargo
        .current_dir(work)
        .env("CARGO_HOME", work.join("home"))
        .env("RUSTC", RUSTC)
        .env("RUSTC_BOOTSTRAP", "1");
    // Bitcode for link-time optimisation of the image; names of sources as everywhere, not of this machine.
    let flags = format!("-Cembed-bitcode=yes --remap-path-prefix={}=/rustc/library", sources.display());
    cargo.env("RUSTFLAGS", flags);
    for variable in ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET", "RUSTUP_TOOLCHAIN", "CARGO_ENCODED_RUSTFLAGS"]
    {
        cargo.env_remove(variable);
    }
    cargo.args(["build", "--quiet", "--offline", "--release", "--target", BARE_METAL]);
    cargo.args(["-Zbuild-std=core,alloc,compiler_builtins", "-Zbuild-std-features=compiler-builtins-mem"]);
    cargo.args(["--config", "source.crates-io.replace-with=\"vendored\""]);
    cargo.args(["--config", &format!("source.vendored.directory={:?}", vendored.display().to_string())]);
    process::read(&mut cargo)?;
    Ok(work.join("target").join(BARE_METAL).join("release/deps"))
}

/// Puts the three libraries into the compiler's folder, replacing older ones.
fn copy_into(libraries: &Path, folder: &Path) -> Result<(), Failure> {
    let told = |error: std::io::Error| format!("{}: {error}", folder.display());
    fs::create_dir_all(folder).map_err(told)?;
    for old in fs::read_dir(folder).map_err(told)?.flatten() {
        fs::remove_file(old.path()).map_err(told)?;
    }
    for library in fs::read_dir(libraries).map_err(told)?.flatten() {
        let name = library.file_name().to_string_lossy().into_owned();
        let wanted =
            ["libcore-", "liballoc-", "libcompiler_builtins-"].iter().any(|start| name.starts_with(start));
        if wanted && name.ends_with(".rlib") {
            fs::copy(library.path(), folder.join(&name)).map_err(told)?;
        }
    }
    Ok(())
}

/// Bare-metal targets are linked by `rust-lld`, which this compiler does not bring: gives it the system's under that name.
fn link_linker(sysroot: &Path) -> Result<(), Failure> {
    let version = process::read(process::command(RUSTC).arg("-vV"))?;
    let host = version_field(&version, "host").ok_or("rustc -vV names no host")?;
    let folder = sysroot.join("lib/rustlib").join(host).join("bin");
    let linker = folder.join("rust-lld");
    if linker.exists() {
        return Ok(());
    }
    let told = |error: std::io::Error| format!("{}: {error}", linker.display());
    let lld = process::find("lld").ok_or("lld is missing: install lld")?;
    fs::create_dir_all(&folder).map_err(told)?;
    symlink(fs::canonicalize(lld).map_err(told)?, &linker).map_err(told)
}

/// Unpacks the distribution's own standard library for Linux on AArch64 beside the compiler's.
pub fn install_linux() -> Result<(), Failure> {
    let target = sysroot()?.join("lib/rustlib").join(LINUX).join("lib");
    let spinner = progress::spinner("installing the library for Linux on AArch64");
    let result = unpack_linux(&target);
    spinner.finish_and_clear();
    result
}

fn unpack_linux(target: &Path) -> Result<(), Failure> {
    let told = |error: std::io::Error| format!("{}: {error}", target.display());
    let package = "libstd-rust-web-dev";
    let version = process::read(process::command("dpkg-query").args(["-W", "-f", "${Version}", package]))?;
    let index = Index::open()?;
    let library =
        index.unpack(&format!("{package}={version}"))?.join("usr/lib/rustlib").join(LINUX).join("lib");
    fs::create_dir_all(target).map_err(told)?;
    for entry in fs::read_dir(&library).map_err(told)?.flatten() {
        if entry.path().is_file() {
            fs::copy(entry.path(), target.join(entry.file_name())).map_err(told)?;
        }
    }
    Ok(())
}
