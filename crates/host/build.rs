//! Tells the program which compiler made it and from which commit, for the records of its benchmarks.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RUSTC");
    let rustc = std::env::var_os("RUSTC").expect("cargo names the compiler to build scripts");
    let version = output(Command::new(rustc).arg("--version"));
    println!("cargo::rustc-env=BARELM_RUSTC={}", version.as_deref().unwrap_or("rustc unknown"));
    println!("cargo::rustc-env=BARELM_COMMIT={}", commit().as_deref().unwrap_or("unknown"));
}

/// The commit of the checkout, with `+changes` where the sources differ from it; `None` outside one.
fn commit() -> Option<String> {
    let git = |arguments: &[&str]| output(Command::new("git").args(arguments));
    let hash = git(&["rev-parse", "HEAD"])?;
    // Whatever can change the answer: the commit checked out, what is staged, and the sources themselves.
    let reference = git(&["rev-parse", "--symbolic-full-name", "HEAD"])?;
    for name in ["HEAD", "index", reference.as_str()] {
        let path = git(&["rev-parse", "--git-path", name])?;
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let sources = ["src", "Cargo.toml", "../kernel/src", "../kernel/Cargo.toml", "../../Cargo.lock"];
    for path in sources {
        println!("cargo::rerun-if-changed={path}");
    }
    let changed = git(&[&["status", "--porcelain", "--"][..], &sources].concat())?;
    Some(if changed.is_empty() { hash } else { format!("{hash}+changes") })
}

/// What a command that succeeds prints, without the line's end.
fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
