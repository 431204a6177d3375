//! Files below a folder, programs that are written, and what identifies bytes.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::Failure;

/// SHA-256 in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex(Sha256::new_with_prefix(bytes))
}

/// The digits of a hash that was fed piece by piece.
pub fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All files below `folder`, in order, links left out; `enters` says by name which folders count.
pub fn below(folder: &Path, enters: &dyn Fn(&OsStr) -> bool) -> Result<Vec<PathBuf>, Failure> {
    let told = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(told)? {
        let entry = entry.map_err(told)?;
        let kind = entry.file_type().map_err(told)?;
        if kind.is_dir() && enters(&entry.file_name()) {
            files.extend(below(&entry.path(), enters)?);
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// Writes a file that can be started.
pub fn write_program(file: &Path, text: &str) -> Result<(), Failure> {
    let told = |error: std::io::Error| format!("{}: {error}", file.display());
    std::fs::create_dir_all(file.parent().unwrap_or(Path::new("."))).map_err(told)?;
    std::fs::write(file, text).map_err(told)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(file, PermissionsExt::from_mode(0o755)).map_err(told)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_standard() {
        // FIPS 180-4's example.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc"), abc);
        assert_eq!(hex(Sha256::new_with_prefix(b"a").chain_update(b"bc")), abc);
    }

    #[test]
    fn folders_are_entered_by_name_and_links_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["b", "a", "target"] {
            std::fs::create_dir(path(name)).unwrap();
            std::fs::write(path(name).join("file"), name).unwrap();
        }
        std::fs::write(path("c"), "").unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(path("a"), path("link")).unwrap();
        let files = below(folder.path(), &|name| name != "target").unwrap();
        assert_eq!(files, ["a/file", "b/file", "c"].map(path));
        assert!(below(&path("none"), &|_| true).unwrap_err().contains("none"));
    }
}
