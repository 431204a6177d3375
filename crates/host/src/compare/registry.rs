//! The engines that can be compared: their programs, and what getting one costs.

use std::path::{Path, PathBuf};

/// An engine that this project has an adapter for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its name in commands and records.
    pub name: &'static str,
    /// Its program.
    pub program: &'static str,
    /// Arguments that make the program speak a session.
    pub arguments: &'static [&'static str],
    /// Command that builds it; empty for what is built with this program.
    pub build: &'static str,
    /// About how long that takes on two cores.
    pub minutes: u32,
    /// About how much it downloads and builds.
    pub mib: u32,
}

/// All of them, ours first.
pub const KNOWN: [Known; 6] = [
    Known {
        name: "barelm",
        program: "lm-rs-bench",
        arguments: &["--session"],
        build: "cargo build --release",
        minutes: 2,
        mib: 200,
    },
    Known {
        name: "llama-cpp",
        program: "llama-cpp-bench",
        arguments: &[],
        build: "cargo xtask engines build llama-cpp",
        minutes: 6,
        mib: 600,
    },
    Known {
        name: "candle",
        program: "candle-bench",
        arguments: &[],
        build: "cargo xtask engines build candle",
        minutes: 3,
        mib: 700,
    },
    Known {
        name: "mistralrs-wheel",
        program: "mistral-rs-wheel-bench",
        arguments: &[],
        build: "cargo xtask engines build mistralrs-wheel",
        minutes: 1,
        mib: 80,
    },
    Known {
        name: "pytorch",
        program: "pytorch-bench",
        arguments: &[],
        build: "cargo xtask engines build pytorch",
        minutes: 4,
        mib: 2000,
    },
    Known {
        name: "openai",
        program: "openai-bench",
        arguments: &[],
        build: "cargo xtask engines build openai",
        minutes: 1,
        mib: 20,
    },
];

impl Known {
    /// The engine of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        KNOWN.iter().find(|known| known.name == name)
    }

    /// Whether it is ours.
    pub fn is_ours(&self) -> bool {
        self.name == "barelm"
    }

    /// Its program in the first of `folders` that has it.
    pub fn installed(&self, folders: &[PathBuf]) -> Option<PathBuf> {
        folders.iter().map(|folder| folder.join(self.program)).find(|program| program.is_file())
    }

    /// The line for a person who lacks it.
    pub fn how_to_get(&self) -> String {
        format!("{} (about {} min, {} MiB)", self.build, self.minutes, self.mib)
    }
}

/// Where programs of engines lie: `$BARELM_ENGINES`, the folder of this program, and its neighbor `release`.
pub fn folders(own: Option<&Path>) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if let Some(folder) = std::env::var_os("BARELM_ENGINES").filter(|folder| !folder.is_empty()) {
        folders.push(PathBuf::from(folder));
    }
    if let Some(own) = own {
        folders.push(own.to_owned());
        folders.extend(own.parent().map(|target| target.join("release")).filter(|release| release != own));
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_programs_are_different_and_ours_is_first() {
        assert!(KNOWN[0].is_ours());
        for (at, known) in KNOWN.iter().enumerate() {
            assert_eq!(Known::find(known.name), Some(known));
            assert!(KNOWN[..at].iter().all(|other| other.program != known.program), "{}", known.name);
            assert!(known.how_to_get().contains(known.build));
        }
        assert_eq!(Known::find("fly"), None);
    }

    #[test]
    fn a_program_is_found_beside_ours() {
        let target = tempfile::tempdir().unwrap();
        let (debug, release) = (target.path().join("debug"), target.path().join("release"));
        std::fs::create_dir(&release).unwrap();
        let candle = Known::find("candle").unwrap();
        assert_eq!(candle.installed(&folders(Some(&debug))), None);
        std::fs::write(release.join(candle.program), "").unwrap();
        assert_eq!(candle.installed(&folders(Some(&debug))), Some(release.join(candle.program)));
        assert_eq!(candle.installed(&folders(Some(&release))), Some(release.join(candle.program)));
    }
}
