//! Packages of Debian and its kin for AArch64, whatever this machine is.
//!
//! A package index of its own is used, in a temporary folder, from the sources that this machine's `apt` knows: its
//! package database and architectures stay as they are, and no rights of root are needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Failure, packages, process};

/// An index in a folder, removed with it.
#[derive(Debug)]
pub struct Index {
    folder: PathBuf,
}

impl Index {
    /// Downloads the lists of packages.
    pub fn open() -> Result<Self, Failure> {
        let folder = std::env::temp_dir().join(format!("barelm-arm64-{}", std::process::id()));
        let told = |error: std::io::Error| format!("{}: {error}", folder.display());
        for part in ["lists/partial", "cache/archives/partial", "packages", "unpacked"] {
            fs::create_dir_all(folder.join(part)).map_err(told)?;
        }
        fs::write(folder.join("status"), "").map_err(told)?;
        let here = folder.display();
        let user = if packages::is_root() { "APT::Sandbox::User \"root\";\n" } else { "" };
        let configuration = format!(
            "APT::Architecture \"arm64\";\nAPT::Architectures {{ \"arm64\"; }};\nDir::State::lists \"{here}/lists\";\n\
             Dir::State::status \"{here}/status\";\nDir::Cache \"{here}/cache\";\n{user}Acquire::Languages \"none\";\n"
        );
        fs::write(folder.join("apt.conf"), configuration).map_err(told)?;
        let index = Index { folder };
        index.apt("apt-get", &["update", "-qq"])?;
        Ok(index)
    }

    fn apt(&self, program: &str, words: &[&str]) -> Result<String, Failure> {
        let mut command = Command::new(program);
        command.current_dir(self.folder.join("packages")).env("APT_CONFIG", self.folder.join("apt.conf"));
        process::read(command.args(words))
    }

    /// The packages that `package` needs.
    pub fn depends(&self, package: &str) -> Result<Vec<String>, Failure> {
        let text = self.apt("apt-cache", &["depends", package])?;
        Ok(text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .map(str::to_string)
            .collect())
    }

    /// Downloads a package, `name` or `name=version`, and unpacks it; gives the folder with its files.
    pub fn unpack(&self, package: &str) -> Result<PathBuf, Failure> {
        self.apt("apt-get", &["download", "-qq", package])?;
        let told = |error: std::io::Error| format!("{}: {error}", self.folder.display());
        let mut found = fs::read_dir(self.folder.join("packages")).map_err(told)?.flatten();
        let deb = found.next().ok_or("the download left no package")?.path();
        let unpacked = self.folder.join("unpacked");
        process::read(process::command("dpkg").arg("-x").arg(&deb).arg(&unpacked))?;
        fs::remove_file(deb).map_err(told)?;
        Ok(unpacked)
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Files below `folder` with this name.
pub fn files_named(folder: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(_) if entry.file_name() == name => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_at_any_depth() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("x.dtb"), "").unwrap();
        fs::write(folder.path().join("y.dtb"), "").unwrap();
        assert_eq!(files_named(folder.path(), "x.dtb"), [deep.join("x.dtb")]);
        assert!(files_named(folder.path(), "z.dtb").is_empty());
    }
}
