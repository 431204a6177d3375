//! The engines that can be compared: their programs, and what getting one costs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde::Deserialize;

/// An engine that this project has an adapter for, in one of its forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its name in commands and records: that of its folder, with `-cuda` behind it where the same folder is built in
    /// another form for GPUs.
    pub name: String,
    /// Its program.
    pub program: &'static str,
    /// Arguments that make the program speak a session.
    pub arguments: &'static [&'static str],
    /// Command that builds it.
    pub build: String,
    /// About how long that takes on two cores.
    pub minutes: u32,
    /// About how much it downloads and builds.
    pub mib: u32,
    /// Settings that are known of it though its adapter does not say them.
    pub settings: BTreeMap<String, String>,
    /// Another build of the same engine, which takes its place where both are there and it was not asked for by name.
    pub row_of: Option<&'static str>,
}

/// What of `engines.json` matters here; `cargo xtask engines` reads the rest.
#[derive(Deserialize)]
struct Listed {
    name: &'static str,
    program: &'static str,
    cuda_program: Option<&'static str>,
    minutes: u32,
    mib: u32,
    cuda_takes: Option<(u32, u32)>,
    #[serde(default)]
    settings: BTreeMap<String, String>,
    row_of: Option<&'static str>,
}

/// All of them, ours first.
pub fn known() -> &'static [Known] {
    static KNOWN: LazyLock<Vec<Known>> = LazyLock::new(|| {
        let listed: Vec<Listed> = serde_json::from_str(include_str!("../../engines/engines.json"))
            .expect("a test reads the list that is compiled in");
        let ours = Known {
            name: OURS.into(),
            program: "lm-rs-bench",
            arguments: &["--session"],
            build: "cargo build --release".into(),
            minutes: 2,
            mib: 200,
            settings: BTreeMap::new(),
            row_of: None,
        };
        let forms = listed.iter().flat_map(|engine| {
            let form = |program, behind: &str, option: &str, (minutes, mib)| Known {
                name: format!("{}{behind}", engine.name),
                program,
                arguments: &[],
                build: format!("cargo xtask engines build {}{option}", engine.name),
                minutes,
                mib,
                settings: engine.settings.clone(),
                // Another build for CPUs cannot stand for one for GPUs.
                row_of: engine.row_of.filter(|_| behind.is_empty()),
            };
            let takes = (engine.minutes, engine.mib);
            let cuda_takes = engine.cuda_takes.unwrap_or(takes);
            let plain = form(engine.program, "", "", takes);
            [Some(plain), engine.cuda_program.map(|program| form(program, "-cuda", " --cuda", cuda_takes))]
        });
        [ours].into_iter().chain(forms.flatten()).collect()
    });
    &KNOWN
}

/// The name of our own.
const OURS: &str = "barelm";

impl Known {
    /// The engine of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        known().iter().find(|known| known.name == name)
    }

    /// What is known of the engine whose program this is, beside what it says itself.
    pub fn settings_of(program: &Path) -> BTreeMap<String, String> {
        let known = known().iter().find(|known| program.ends_with(known.program));
        known.map(|known| known.settings.clone()).unwrap_or_default()
    }

    /// Whether it is ours.
    pub fn is_ours(&self) -> bool {
        self.name == OURS
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
        assert!(known()[0].is_ours());
        for (at, engine) in known().iter().enumerate() {
            assert_eq!(Known::find(&engine.name), Some(engine));
            assert!(known()[..at].iter().all(|other| other.program != engine.program), "{}", engine.name);
            assert!(engine.how_to_get().contains(&engine.build));
            assert!(engine.row_of.is_none_or(|other| other != engine.name && Known::find(other).is_some()));
        }
        assert_eq!(Known::find("fly"), None);
        let settings = |program: &str| Known::settings_of(Path::new(program));
        assert_eq!(settings("a/pytorch-cuda-bench")["kv_type"], "as the weights");
        assert_eq!(settings("a/fake-pytorch-cuda-bench"), BTreeMap::new());
        let cuda = Known::find("candle-cuda").unwrap();
        assert_eq!(
            (cuda.program, &*cuda.build),
            ("candle-cuda-bench", "cargo xtask engines build candle --cuda")
        );
        let row_of = |name: &str| Known::find(name).unwrap().row_of;
        assert_eq!((row_of("mistralrs"), row_of("mistralrs-cuda")), (Some("mistralrs-wheel"), None));
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
