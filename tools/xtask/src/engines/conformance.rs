//! Records of conformance: for each engine that CI does not build, when it last passed the protocol's tests, with a hash
//! of everything it is made of. CI fails where a folder has changed since.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{ENGINES, Engine};
use crate::toolchain::Toolchain;
use crate::{Failure, files, process};

/// The records, an object a line.
fn file() -> PathBuf {
    crate::root().join("crates/host/engines/conformance.jsonl")
}

/// Records by engine.
fn read() -> Result<BTreeMap<String, Value>, Failure> {
    let text = match std::fs::read_to_string(file()) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(format!("{}: {error}", file().display())),
    };
    let line = |line: &str| {
        let record: Value = serde_json::from_str(line).map_err(|error| format!("{line}: {error}"))?;
        let name = record["engine"].as_str().ok_or_else(|| format!("{line}: no `engine`"))?.to_owned();
        Ok((name, record))
    };
    text.lines().map(line).collect()
}

/// Why a record does not hold any more, for each that does not.
pub fn stale() -> Vec<Failure> {
    let records = match read() {
        Ok(records) => records,
        Err(why) => return vec![why],
    };
    ENGINES.iter().filter(|engine| !engine.in_ci).filter_map(|engine| judge(engine, &records).err()).collect()
}

fn judge(engine: &Engine, records: &BTreeMap<String, Value>) -> Result<(), Failure> {
    let what_to_do = format!(
        "cargo xtask engines build {0} && cargo xtask engines conform {0}, and commit the record",
        engine.name
    );
    let Some(record) = records.get(engine.name) else {
        return Err(format!("{}: has no record of a test: {what_to_do}", engine.name));
    };
    match record["folder_sha256"] == hash(engine)? {
        true => Ok(()),
        false => Err(format!(
            "{}: has changed since it was tested on {}: {what_to_do}",
            engine.name, record["date"]
        )),
    }
}

/// Tests engines one by one and writes what passed.
pub fn conform<'e>(engines: impl Iterator<Item = &'e Engine>) -> Result<(), Failure> {
    let mut records = read()?;
    for engine in engines {
        let program = engine.installed();
        if !program.is_file() {
            return Err(format!("{} is not built: cargo xtask engines build {0}", engine.name));
        }
        let hello = super::build::greeting(&program)?;
        let unavailable = hello["unavailable"].as_str();
        if unavailable.is_none() {
            let mut cargo = Toolchain::current().cargo();
            cargo
                .args(["test", "-p", "barelm-host", "--test", "engines"])
                .env("BARELM_CONFORMANCE", engine.name);
            process::run(&mut cargo)?;
        }
        let result = unavailable.map_or_else(|| "passed".to_owned(), |why| format!("built; not run: {why}"));
        if engine.in_ci || unavailable.is_some() && judge(engine, &records).is_ok() {
            let why = if engine.in_ci { "every run of CI tests it" } else { "the last one still holds" };
            println!("{}: {result}; no record is written: {why}", engine.name);
            continue;
        }
        let date = process::read(std::process::Command::new("date").args(["-u", "+%F"]))?;
        let record = json!({
            "engine": engine.name,
            "date": date.trim(),
            "version": hello["version"],
            "protocol": hello["protocol"],
            "result": result,
            "folder_sha256": hash(engine)?,
        });
        println!("{record}");
        records.insert(engine.name.to_owned(), record);
    }
    let text: String = records.values().map(|record| format!("{record}\n")).collect();
    std::fs::write(file(), text).map_err(|error| format!("{}: {error}", file().display()))
}

/// Of names and contents of everything the engine is made of, but not of what is only written about it.
fn hash(engine: &Engine) -> Result<String, Failure> {
    let mut files = kept(&engine.folder())?;
    for folder in &engine.shared {
        files.extend(kept(&crate::root().join(folder))?);
    }
    hash_of(&crate::root(), files)
}

fn hash_of(root: &Path, mut paths: Vec<PathBuf>) -> Result<String, Failure> {
    paths.sort();
    let mut all = Sha256::new();
    for path in paths {
        let bytes = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        all.update(format!("{name} {}\n", bytes.len()));
        all.update(bytes);
    }
    Ok(files::hex(all))
}

/// The files below `folder` that git would keep, notes left out.
fn kept(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut all = files::below(folder, &|name| name != "target" && name != "__pycache__")?;
    all.retain(|path| {
        let name = path.to_string_lossy();
        !name.ends_with(".md") && !name.ends_with('~')
    });
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_that_are_not_built_here_were_tested_as_they_are() {
        let stale = stale();
        assert!(stale.is_empty(), "{}", stale.join("\n"));
    }

    #[test]
    fn records_are_only_of_engines_that_there_are() {
        for (name, record) in read().unwrap() {
            let engine = Engine::named(&name).unwrap_or_else(|| panic!("{name} is no engine"));
            assert!(!engine.in_ci, "{name} is tested by every run, and needs no record");
            assert!(record["version"].as_str().is_some_and(|version| !version.is_empty()), "{record}");
        }
    }

    #[test]
    fn a_record_is_of_exactly_these_files() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join("target/release")).unwrap();
        std::fs::create_dir(root.join("src")).unwrap();
        std::fs::write(root.join("src/main.rs"), "a").unwrap();
        std::fs::write(root.join("Cargo.lock"), "b").unwrap();
        let hash = || hash_of(root, kept(root).unwrap()).unwrap();
        let first = hash();
        std::fs::write(root.join("README.md"), "words").unwrap();
        std::fs::write(root.join("target/release/engine"), "built").unwrap();
        assert_eq!(hash(), first);
        std::fs::write(root.join("src/main.rs"), "c").unwrap();
        let second = hash();
        assert_ne!(second, first);
        std::fs::rename(root.join("src/main.rs"), root.join("src/other.rs")).unwrap();
        assert_ne!(hash(), second);
    }

    #[test]
    fn a_changed_folder_and_an_untested_engine_are_named() {
        let engine = Engine::named("llama-cpp").unwrap();
        assert!(judge(engine, &BTreeMap::new()).unwrap_err().contains("no record"));
        let record = |hash: String| {
            BTreeMap::from([("llama-cpp".to_owned(), json!({"folder_sha256": hash, "date": "2026-01-02"}))])
        };
        assert!(judge(engine, &record("0".repeat(64))).unwrap_err().contains("2026-01-02"));
        judge(engine, &record(hash(engine).unwrap())).unwrap();
    }
}
