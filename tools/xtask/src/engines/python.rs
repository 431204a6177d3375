//! Engines that are Python packages: a virtual environment in the cache, and a launcher beside our programs.

use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use super::Engine;
use crate::{Failure, files, process};

/// Installs the packages of an engine if they are not there, and writes its launcher; gives the size of the environment.
pub fn install(engine: &Engine, cuda: bool, launcher: &Path) -> Result<u64, Failure> {
    let folder = engine.folder();
    let python = interpreter().ok_or("Python 3 is missing: install python3 and its venv module")?;
    let mut lists = vec![folder.join("requirements.txt")];
    if cuda {
        lists.push(folder.join("requirements-cuda.txt"));
    }
    let name = if cuda { format!("{}-cuda", engine.name) } else { engine.name.to_owned() };
    let home = crate::model::path().with_file_name("engines").join(name);
    let stamp = stamp(&lists)?;
    let stamp_file = home.join("installed");
    if std::fs::read_to_string(&stamp_file).ok().as_deref() != Some(&stamp) {
        process::run(Command::new(python).args(["-m", "venv", "--clear"]).arg(&home))
            .map_err(|why| format!("{why}; on Debian and Ubuntu the package python3-venv is needed"))?;
        let mut pip = Command::new(home.join("bin/python"));
        // Each list names everything that is to be there, and nothing else is.
        pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--only-binary=:all:", "--no-deps"]);
        for list in &lists {
            pip.arg("-r").arg(list);
        }
        process::run(&mut pip)?;
        std::fs::write(&stamp_file, &stamp).map_err(|error| format!("{}: {error}", stamp_file.display()))?;
    }
    let stubs = folder.join("stub_libraries.py");
    let libraries = (stubs.is_file() && !cuda).then(|| home.join("stubs"));
    if let Some(libraries) = &libraries
        && !libraries.is_dir()
    {
        let asked = "import sysconfig; print(sysconfig.get_path('platlib'))";
        let packages = process::read(Command::new(home.join("bin/python")).args(["-c", asked]))?;
        process::run(Command::new(home.join("bin/python")).arg(&stubs).arg(packages.trim()).arg(libraries))?;
    }
    let text = script(&home, libraries.as_deref(), &folder.join("adapter.py"), cuda);
    files::write_program(launcher, &text)?;
    size(&home)
}

/// The name of this machine's Python.
pub fn interpreter() -> Option<&'static str> {
    ["python3", "python"].into_iter().find(|name| process::find(name).is_some())
}

/// What the environment was made from.
pub fn stamp(lists: &[PathBuf]) -> Result<String, Failure> {
    let mut all = Sha256::new();
    for list in lists {
        all.update(std::fs::read(list).map_err(|error| format!("{}: {error}", list.display()))?);
    }
    Ok(files::hex(all))
}

/// The launcher. The adapter finds our tokenizer as the program `barelm` beside it.
fn script(home: &Path, libraries: Option<&Path>, adapter: &Path, cuda: bool) -> String {
    let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
    let mut text = String::from("#!/bin/sh\n# Written by `cargo xtask engines build`.\n");
    text += "export BARELM=\"${BARELM:-$(dirname \"$0\")/barelm}\"\n";
    if let Some(libraries) = libraries {
        text += &format!("export LD_LIBRARY_PATH={}\n", quoted(libraries));
    }
    let device = if cuda { " --device cuda" } else { "" };
    text += &format!("exec {} -u {}{device} \"$@\"\n", quoted(&home.join("bin/python")), quoted(adapter));
    text
}

/// Bytes of all files below a folder.
fn size(folder: &Path) -> Result<u64, Failure> {
    let length = |file: PathBuf| {
        let metadata = std::fs::metadata(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(metadata.len())
    };
    files::below(folder, &|_| true)?.into_iter().map(length).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launcher_names_its_environment_and_passes_arguments_on() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("it's here");
        std::fs::create_dir_all(home.join("bin")).unwrap();
        files::write_program(&home.join("bin/python"), "#!/bin/sh\necho \"$LD_LIBRARY_PATH|$BARELM|$*\"\n")
            .unwrap();
        let launcher = folder.path().join("engine-bench");
        let text = script(&home, Some(Path::new("/stubs")), Path::new("/adapter.py"), true);
        files::write_program(&launcher, &text).unwrap();
        let said = process::read(Command::new(&launcher).env_remove("BARELM").arg("--attention")).unwrap();
        let barelm = folder.path().join("barelm");
        assert_eq!(said, format!("/stubs|{}|-u /adapter.py --device cuda --attention\n", barelm.display()));
        let plain = script(&home, None, Path::new("/adapter.py"), false);
        assert!(!plain.contains("LD_LIBRARY_PATH") && !plain.contains("cuda"));
        assert!(size(folder.path()).unwrap() > text.len() as u64);
    }

    #[test]
    fn another_list_is_another_environment() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("requirements.txt");
        std::fs::write(&list, "a==1\n").unwrap();
        let first = stamp(std::slice::from_ref(&list)).unwrap();
        std::fs::write(&list, "a==2\n").unwrap();
        assert_ne!(stamp(std::slice::from_ref(&list)).unwrap(), first);
        assert!(stamp(&[folder.path().join("none")]).is_err());
    }
}
