//! `cargo xtask engines`: builds the engines of other projects, and keeps book of what was tested.
//!
//! 1. [`Engine`] is one of them: its folder below `crates/host/engines`, its program, what building it takes; [`ENGINES`] are all.
//! 2. [`mod@build`] builds and copies, [`python`] installs those that are Python packages; [`list`] says what is there.
//! 3. [`server`] is a real server of llama.cpp, which the engine `openai` is tested against.
//! 4. [`conformance`] is the record of the last test of each engine that CI does not build, with a hash of its folder.

mod build;
pub mod conformance;
mod list;
mod python;
pub mod server;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::packages::Tool;
use crate::setup::Need;
use crate::toolchain::Toolchain;
use crate::{Failure, model, process};

pub use build::{build, command, greeting_of};

/// An engine of another project: an object of `crates/host/engines/engines.json`, which `barelm compare` reads too.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Engine {
    /// Its name here, and its folder below `crates/host/engines`.
    pub name: &'static str,
    /// Its program.
    pub program: &'static str,
    /// The program of its CUDA form, where that is another build of the same folder.
    #[serde(default, rename = "cuda_program")]
    pub cuda: Option<&'static str>,
    /// Whether its only form computes on a GPU.
    #[serde(default)]
    gpu: bool,
    /// What its folder holds.
    kind: Kind,
    /// What building it takes beside Rust or Python.
    #[serde(default)]
    needs: Vec<Tools>,
    /// About how long building it takes on two cores.
    minutes: u32,
    /// About how much that downloads and writes, in MiB.
    mib: u32,
    /// What building its CUDA form takes, in minutes and MiB, where that is another matter.
    #[serde(default)]
    cuda_takes: Option<(u32, u32)>,
    /// Whether every run of CI builds and tests it.
    pub in_ci: bool,
    /// Settings that its adapter does not say: `barelm compare` puts them into its records.
    #[serde(default, rename = "settings")]
    _settings: IgnoredAny,
    /// Another build of the same engine, which `barelm compare` measures in its place unless it is named.
    #[serde(default, rename = "row_of")]
    _row_of: IgnoredAny,
    /// Folders outside its own that it is made of.
    #[serde(default)]
    shared: Vec<&'static str>,
}

/// What an engine's folder holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// A workspace of cargo.
    Cargo,
    /// `adapter.py` and `requirements.txt`, with every package in its exact version.
    Python,
}

/// What the list calls a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Tools {
    #[serde(rename = "a C compiler")]
    CCompiler,
    #[serde(rename = "cmake")]
    CMake,
    #[serde(rename = "libclang")]
    LibClang,
}

impl Tools {
    fn need(self) -> Need {
        Need::Tool(match self {
            Tools::CCompiler => Tool::CCompiler,
            Tools::CMake => Tool::CMake,
            Tools::LibClang => Tool::LibClang,
        })
    }
}

/// All of them, in the order of the list.
pub static ENGINES: LazyLock<Vec<Engine>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../../crates/host/engines/engines.json"))
        .expect("a test reads the list that is compiled in")
});

impl Engine {
    /// The one with this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        ENGINES.iter().find(|engine| engine.name == name)
    }

    /// Its folder.
    pub fn folder(&self) -> PathBuf {
        crate::root().join("crates/host/engines").join(self.name)
    }

    /// Where its programs lie once they are built, and which of them computes on a GPU.
    pub fn programs(&self) -> Vec<(PathBuf, bool)> {
        let forms = [Some((self.program, self.gpu)), self.cuda.map(|program| (program, true))];
        forms.into_iter().flatten().map(|(program, cuda)| (installed(program), cuda)).collect()
    }

    /// Whether its adapter is a script of Python.
    pub fn is_python(&self) -> bool {
        self.kind == Kind::Python
    }

    /// About how many minutes and MiB building it takes.
    fn takes(&self, cuda: bool) -> (u32, u32) {
        self.cuda_takes.filter(|_| cuda).unwrap_or((self.minutes, self.mib))
    }

    /// Where its program lies once it is built.
    pub fn installed(&self) -> PathBuf {
        installed(self.program)
    }
}

/// Beside our own programs.
fn installed(program: &str) -> PathBuf {
    crate::target_folder().join("release").join(program)
}

/// What to do with engines.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build engines, and copy their programs to `target/release`.
    Build(Build),
    /// List the engines: what is built, what is missing, what it takes.
    List,
    /// Test engines that are built against the protocol, and write the record that CI compares with their folders.
    Conform(Chosen),
    /// Compare the greedy tokens of engines that are built, ours among them, with the references', in F32 on the model.
    Agree(Chosen),
}

/// Which engines.
#[derive(Args, Debug)]
pub struct Chosen {
    /// Engines (default: all).
    #[arg(value_name = "NAME", value_parser = PossibleValuesParser::new(ENGINES.iter().map(|engine| engine.name)))]
    names: Vec<String>,
}

impl Chosen {
    /// In the order of the table.
    fn engines(&self) -> impl Iterator<Item = &'static Engine> + '_ {
        ENGINES
            .iter()
            .filter(|engine| self.names.is_empty() || self.names.iter().any(|name| name == engine.name))
    }
}

/// What to build.
#[derive(Args, Debug)]
pub struct Build {
    #[command(flatten)]
    chosen: Chosen,
    /// Build the CUDA forms: with nvcc and CUDA's libraries as `tools/cuda-home.sh` fetches them; needs no GPU.
    #[arg(long)]
    cuda: bool,
}

/// The test that compares greedy tokens of these engines, which must be built; without a name of those that are.
pub fn agree(names: &[String]) -> std::process::Command {
    let mut cargo = Toolchain::current().cargo();
    cargo.args(["test", "--release", "-p", "barelm-host", "--test", "engines_greedy", "--"]);
    cargo.args(["--include-ignored", "--nocapture"]);
    cargo.env("BARELM_CONFORMANCE", names.join(",")).env("BARELM_MODEL", model::path());
    cargo
}

/// Does it.
pub fn run(command: &Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Build(arguments) => {
            let mut failures = Vec::new();
            for engine in arguments.chosen.engines() {
                if arguments.cuda && engine.cuda.is_none() {
                    println!("{}: has no CUDA form of its own", engine.name);
                    continue;
                }
                if let Err(why) = build(engine, arguments.cuda) {
                    eprintln!("{}: not built: {why}", engine.name);
                    failures.push(engine.name);
                }
            }
            if failures.is_empty() {
                return Ok(ExitCode::SUCCESS);
            }
            Err(format!("not built: {}; the others are", failures.join(", ")))
        }
        Command::List => {
            print!("{}", list::table());
            Ok(ExitCode::SUCCESS)
        }
        Command::Conform(chosen) => conformance::conform(chosen.engines()).map(|()| ExitCode::SUCCESS),
        Command::Agree(chosen) => {
            let mut names = chosen.names.clone();
            if !names.is_empty() {
                names.push("barelm".into());
            }
            process::run(&mut agree(&names)).map(|()| ExitCode::SUCCESS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_engine_has_its_folder_and_exact_versions() {
        for engine in ENGINES.iter() {
            let read = |file: &str| {
                let text = std::fs::read_to_string(engine.folder().join(file));
                text.unwrap_or_else(|error| panic!("{}: {file}: {error}", engine.name))
            };
            assert!(read("README.md").contains("cargo xtask engines build"), "{}", engine.name);
            if engine.kind == Kind::Python {
                assert!(!read("adapter.py").is_empty());
                let lines = read("requirements.txt");
                assert!(lines.lines().all(|line| line.contains("==")), "{}", engine.name);
                continue;
            }
            assert!(read("Cargo.lock").contains("[[package]]"));
            let manifest = read("Cargo.toml");
            assert!(manifest.contains("[workspace]"), "{} is a workspace of its own", engine.name);
            assert!(manifest.contains(&format!("name = {:?}", engine.program)), "{}", engine.name);
            assert_eq!(manifest.contains("\ncuda = ["), engine.cuda.is_some(), "{}", engine.name);
        }
    }

    #[test]
    fn every_folder_is_in_the_list() {
        let folders = std::fs::read_dir(crate::root().join("crates/host/engines")).unwrap();
        for folder in folders.map(Result::unwrap).filter(|entry| entry.path().join("README.md").is_file()) {
            let name = folder.file_name().into_string().unwrap();
            assert!(Engine::named(&name).is_some(), "{name} is not in engines.json");
        }
    }

    #[test]
    fn no_workspace_of_ours_takes_an_engine_in() {
        let root = std::fs::read_to_string(crate::root().join("Cargo.toml")).unwrap();
        let excluded = root.split("exclude = [").nth(1).unwrap().split(']').next().unwrap();
        for engine in ENGINES.iter().filter(|engine| engine.kind == Kind::Cargo) {
            assert!(
                excluded.contains(&format!("\"crates/host/engines/{}\"", engine.name)),
                "{}",
                engine.name
            );
        }
    }
}
