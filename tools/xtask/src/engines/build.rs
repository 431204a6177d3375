//! Building an engine in its own folder, where its configuration lies.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use super::{Engine, Kind};
use crate::toolchain::Toolchain;
use crate::{Failure, process, setup};

/// What each folder's configuration says: an engine built otherwise is slower than it can be, and no figure of it counts.
const NATIVE: &str = r#"rustflags = ["-C", "target-cpu=native"]"#;

/// Each of these would take the place of the flags in the folder's configuration.
const OVERRIDES: [&str; 4] =
    ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS", "CARGO_BUILD_TARGET"];

/// Builds an engine, copies its program beside ours, and lets it say that it is native.
pub fn build(engine: &Engine, cuda: bool) -> Result<PathBuf, Failure> {
    setup::provide(&engine.needs.iter().map(|tool| tool.need()).collect::<Vec<_>>())?;
    let program = if cuda { engine.cuda.ok_or("it has no CUDA form")? } else { engine.program };
    let to = super::installed(program);
    if !to.exists() {
        let (minutes, mib) = engine.takes(cuda);
        println!("{}: about {minutes} minutes on two idle cores and {mib} MiB, once", engine.name);
    }
    let begun = Instant::now();
    let bytes = match engine.kind {
        Kind::Cargo => compile(engine, cuda, &to)?,
        Kind::Python => super::python::install(engine, cuda, &to)?,
    };
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    let hello = greeting(&to)?;
    let version = hello["version"].as_str().unwrap_or("of an unknown version");
    let mib = bytes as f64 / f64::from(1 << 20);
    println!("{}: {version}, built in {minutes:.1} min, {mib:.1} MiB: {}", engine.name, to.display());
    match (hello["crippled"].as_str(), hello["unavailable"].as_str()) {
        (Some(why), _) => Err(format!("the program says that it is crippled: {why}")),
        (None, Some(why)) => {
            println!("{}: cannot run here: {why}", engine.name);
            Ok(to)
        }
        (None, None) => Ok(to),
    }
}

/// Builds with cargo and copies the program; gives its size.
fn compile(engine: &Engine, cuda: bool, to: &Path) -> Result<u64, Failure> {
    let folder = engine.folder();
    check_flags(&folder)?;
    let mut cargo = command(&folder, "build");
    if cuda {
        cargo.args(["--features", "cuda"]);
        for (name, value) in cuda_environment()? {
            cargo.env(name, value);
        }
    }
    println!("{}: {}", engine.name, process::shown(&cargo));
    process::run(&mut cargo)?;
    let from = target().join("release").join(engine.program);
    let told = |error: std::io::Error| format!("{} to {}: {error}", from.display(), to.display());
    std::fs::create_dir_all(to.parent().unwrap_or(Path::new("."))).map_err(told)?;
    // A program that is running cannot be overwritten, but can be replaced.
    let _ = std::fs::remove_file(to);
    std::fs::copy(&from, to).map_err(told)
}

/// The configuration in the folder makes it native.
fn check_flags(folder: &Path) -> Result<(), Failure> {
    let file = folder.join(".cargo/config.toml");
    let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    match text.lines().any(|line| line.trim() == NATIVE) {
        true => Ok(()),
        false => Err(format!("{} lacks `{NATIVE}`", file.display())),
    }
}

/// All engines build into one folder, so that what several are made of is built once.
fn target() -> PathBuf {
    crate::target_folder().join("engines")
}

/// The command that builds the engine in `folder`.
pub fn command(folder: &Path, verb: &str) -> Command {
    let mut cargo = Toolchain::current().cargo();
    cargo.current_dir(folder).args([verb, "--release", "--locked"]);
    for variable in OVERRIDES {
        cargo.env_remove(variable);
    }
    cargo.env("CARGO_TARGET_DIR", target());
    cargo
}

/// What to set so that crates find nvcc and CUDA's libraries: those of `CUDA_HOME`, else of a tree that is fetched.
fn cuda_environment() -> Result<Vec<(String, String)>, Failure> {
    let home = match std::env::var("CUDA_HOME") {
        Ok(home) => PathBuf::from(home),
        Err(_) => {
            let script = crate::root().join("tools/cuda-home.sh");
            let home = crate::model::path().with_file_name("cuda-13.0");
            process::run(process::command("bash").arg(script).arg(&home))?;
            home
        }
    };
    let nvcc = home.join("bin/nvcc");
    if !nvcc.is_file() {
        return Err(format!("{} is missing: set CUDA_HOME to a CUDA 13 toolkit", nvcc.display()));
    }
    let joined = |first: &[PathBuf], variable: &str| {
        let rest = std::env::var_os(variable).unwrap_or_default();
        let paths = first.iter().cloned().chain(std::env::split_paths(&rest));
        std::env::join_paths(paths).map(|paths| paths.to_string_lossy().into_owned())
    };
    let told = |error: std::env::JoinPathsError| error.to_string();
    let shown = home.display().to_string();
    let capability = std::env::var("CUDA_COMPUTE_CAP").unwrap_or_else(|_| "90".into());
    Ok([
        ("CUDA_HOME", shown.clone()),
        ("CUDA_PATH", shown.clone()),
        ("CUDA_ROOT", shown.clone()),
        ("CUDA_TOOLKIT_ROOT_DIR", shown.clone()),
        // Where static libraries are looked for, by a crate that reads no other variable for them.
        ("CUDA_LIBRARY_PATH", shown),
        ("NVCC", nvcc.display().to_string()),
        // Crates that call nvcc themselves read the first, CMake's projects the second.
        ("CUDA_COMPUTE_CAP", capability.clone()),
        ("CMAKE_CUDA_ARCHITECTURES", capability),
        ("PATH", joined(&[home.join("bin")], "PATH").map_err(told)?),
        ("LIBRARY_PATH", joined(&[home.join("lib"), home.join("lib/stubs")], "LIBRARY_PATH").map_err(told)?),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec())
}

/// The first line a program says.
pub fn greeting(program: &Path) -> Result<Value, Failure> {
    greeting_of(&mut Command::new(program))
}

/// The first line that is said where a program is started so.
pub fn greeting_of(command: &mut Command) -> Result<Value, Failure> {
    let shown = process::shown(command);
    let told = |error: &dyn std::fmt::Display| format!("{shown}: {error}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| told(&error))?;
    // It may be gone already; what it said then counts.
    let _ = writeln!(child.stdin.take().expect("piped"), r#"{{"type":"quit"}}"#);
    let output = child.wait_with_output().map_err(|error| told(&error))?;
    if output.status.code() == Some(127) {
        // The loader's: a shared library, libcuda above all, is not on this machine.
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Ok(serde_json::json!({ "version": "of its lock file", "unavailable": why }));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let first = text.lines().next().unwrap_or_default();
    match serde_json::from_str::<Value>(first) {
        Ok(hello) if hello["type"] == "hello" => Ok(hello),
        _ => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(told(&format!("no greeting ({}): {}{}", output.status, first, said.trim())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_are_built_with_the_flags_of_their_folders() {
        for engine in super::super::ENGINES.iter().filter(|engine| engine.kind == Kind::Cargo) {
            check_flags(&engine.folder()).unwrap();
            let command = command(&engine.folder(), "build");
            assert_eq!(command.get_current_dir(), Some(engine.folder().as_path()));
            for variable in OVERRIDES {
                assert!(command.get_envs().any(|(key, value)| key == variable && value.is_none()));
            }
        }
    }

    #[test]
    fn other_flags_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(".cargo")).unwrap();
        assert!(check_flags(folder.path()).unwrap_err().contains("config.toml"));
        for flags in
            [r#"# rustflags = ["-C", "target-cpu=native"]"#, r#"rustflags = ["-C", "target-cpu=x86-64-v3"]"#]
        {
            std::fs::write(folder.path().join(".cargo/config.toml"), format!("[build]\n{flags}\n")).unwrap();
            assert!(check_flags(folder.path()).unwrap_err().contains("lacks"), "{flags}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_program_that_does_not_greet_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let say = |script: &str| {
            let program = folder.path().join("engine");
            // Written by a process of its own: what is open for writing here would be so in the children that other
            // tests start at that moment, and a file that anybody writes to cannot be run.
            let mut install = Command::new("install");
            install.args(["-m", "755", "/dev/stdin"]).arg(&program).stdin(Stdio::piped());
            let mut install = install.spawn().unwrap();
            write!(install.stdin.take().unwrap(), "#!/bin/sh\n{script}\n").unwrap();
            assert!(install.wait().unwrap().success());
            greeting(&program)
        };
        let hello = say(r#"echo '{"type":"hello","version":"x 1"}'"#).unwrap();
        assert_eq!(hello["version"], "x 1");
        assert!(say("echo garbage").unwrap_err().contains("garbage"));
        assert!(say("exit 3").unwrap_err().contains("exit status: 3"));
        let absent = say("echo 'libcuda.so.1: cannot open' >&2; exit 127").unwrap();
        assert_eq!(absent["unavailable"], "libcuda.so.1: cannot open");
        assert!(greeting(&folder.path().join("nothing")).is_err());
    }
}
