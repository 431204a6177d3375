//! `cargo xtask engines`: builds the engines of other projects, and keeps book of what was tested.
//!
//! 1. [`Engine`] is one of them: its folder below `crates/host/engines`, its program, what building it takes.
//! 2. [`mod@build`] builds and copies, [`python`] installs those that are Python packages; [`list`] says what is there.
//! 3. [`conformance`] is the record of the last test of each engine that CI does not build, with a hash of its folder.

mod build;
pub mod conformance;
mod list;
mod python;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};

use crate::Failure;
use crate::packages::Tool;
use crate::setup::Need;

pub use build::{build, command};
pub use python::write_program;

/// An engine of another project.
#[derive(Debug)]
pub struct Engine {
    /// Its name here, and its folder below `crates/host/engines`.
    pub name: &'static str,
    /// Its program.
    pub program: &'static str,
    /// The program of its CUDA form, where that is another build of the same folder.
    pub cuda: Option<&'static str>,
    /// What its folder holds.
    kind: Kind,
    /// What building it takes beside Rust or Python.
    needs: &'static [Need],
    /// About how long building it takes on two cores.
    minutes: u32,
    /// Whether every run of CI builds and tests it.
    pub in_ci: bool,
    /// Folders outside its own that it is made of.
    shared: &'static [&'static str],
}

/// What an engine's folder holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A workspace of cargo.
    Cargo,
    /// `adapter.py` and `requirements.txt`, with every package in its exact version.
    Python,
}

/// All of them.
pub const ENGINES: [Engine; 5] = [
    Engine {
        name: "llama-cpp",
        program: "llama-cpp-bench",
        cuda: None,
        kind: Kind::Cargo,
        needs: &[Need::Tool(Tool::CCompiler), Need::Tool(Tool::CMake), Need::Tool(Tool::LibClang)],
        minutes: 6,
        in_ci: false,
        shared: &[],
    },
    Engine {
        name: "candle",
        program: "candle-bench",
        cuda: Some("candle-cuda-bench"),
        kind: Kind::Cargo,
        needs: &[],
        minutes: 3,
        in_ci: true,
        shared: &[],
    },
    Engine {
        name: "mistralrs-wheel",
        program: "mistral-rs-wheel-bench",
        cuda: None,
        kind: Kind::Python,
        needs: &[],
        minutes: 1,
        in_ci: false,
        shared: &["crates/host/engines/protocol/python"],
    },
    Engine {
        name: "pytorch",
        program: "pytorch-bench",
        cuda: Some("pytorch-cuda-bench"),
        kind: Kind::Python,
        needs: &[Need::Tool(Tool::CCompiler)],
        minutes: 4,
        in_ci: false,
        shared: &["crates/host/engines/protocol/python"],
    },
    Engine {
        name: "openai",
        program: "openai-bench",
        cuda: None,
        kind: Kind::Cargo,
        needs: &[],
        minutes: 1,
        in_ci: true,
        shared: &[],
    },
];

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
        let forms = [Some((self.program, false)), self.cuda.map(|program| (program, true))];
        forms.into_iter().flatten().map(|(program, cuda)| (installed(program), cuda)).collect()
    }

    /// Whether its adapter is a script of Python.
    pub fn is_python(&self) -> bool {
        self.kind == Kind::Python
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_engine_has_its_folder_and_exact_versions() {
        for engine in &ENGINES {
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
