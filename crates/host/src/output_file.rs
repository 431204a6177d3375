//! A file that a command makes: complete under its name, or not there.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// Bytes collected before they go to the system.
const BUFFER: usize = 1 << 20;

/// Writes beside the destination and renames at the end, so that an error or a killed process never leaves half a file
/// under its name, nor takes away what was there. A destination that is no regular file (a device, a pipe) is written to
/// directly.
pub struct OutputFile {
    path: PathBuf,
    /// The file beside it; absent once renamed, and for what is written to directly.
    unfinished: Option<PathBuf>,
    sink: BufWriter<File>,
}

impl OutputFile {
    /// Opens `path` for writing. Refuses a directory and `input`, the file that the output is made from, if there is one.
    pub fn create(path: &Path, input: Option<&Path>) -> Result<Self, Failure> {
        let existing = fs::metadata(path).ok();
        if existing.as_ref().is_some_and(fs::Metadata::is_dir) {
            return Err(Failure::Message(format!(
                "{} is a directory; name the file to write",
                path.display()
            )));
        }
        let real = |path: &Path| fs::canonicalize(path).ok();
        if real(path).is_some_and(|output| input.and_then(real) == Some(output)) {
            return Err(Failure::Message(format!("{} is the input; write to another file", path.display())));
        }
        let direct = existing.is_some_and(|existing| !existing.is_file());
        let unfinished = (!direct).then(|| {
            let mut name: OsString = path.into();
            name.push(format!(".{}.part", std::process::id()));
            PathBuf::from(name)
        });
        let file = match &unfinished {
            Some(beside) => File::create(beside),
            None => File::options().write(true).open(path),
        };
        let file = file.map_err(|error| unwritable(path, error))?;
        Ok(OutputFile { path: path.to_owned(), unfinished, sink: BufWriter::with_capacity(BUFFER, file) })
    }

    /// The failure to report when a write gave `error`.
    pub fn failed(&self, error: io::Error) -> Failure {
        unwritable(&self.path, error)
    }

    /// Writes what is buffered and gives the file its name.
    pub fn finish(mut self) -> Result<(), Failure> {
        self.sink.flush().map_err(|error| self.failed(error))?;
        if let Some(beside) = &self.unfinished {
            fs::rename(beside, &self.path).map_err(|error| self.failed(error))?;
            self.unfinished = None;
        }
        Ok(())
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sink.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if let Some(beside) = &self.unfinished {
            // The failure that got us here is the one to tell.
            let _ = fs::remove_file(beside);
        }
    }
}

fn unwritable(path: &Path, error: io::Error) -> Failure {
    let advice = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room or write elsewhere",
        io::ErrorKind::NotFound => "make its folder first or write elsewhere",
        _ => "write elsewhere",
    };
    Failure::Message(format!("cannot write {}: {error}; {advice}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).collect()
    }

    #[test]
    fn what_was_there_stays_until_the_new_file_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let (path, input) = (folder.path().join("out"), folder.path().join("in"));
        fs::write(&path, "old").unwrap();
        let mut unfinished = OutputFile::create(&path, Some(&input)).unwrap();
        unfinished.write_all(b"half").unwrap();
        drop(unfinished);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["out"]);
        let mut file = OutputFile::create(&path, Some(&input)).unwrap();
        file.write_all(b"new").unwrap();
        file.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[test]
    fn directories_and_the_input_by_any_name_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("in");
        fs::write(&input, "model").unwrap();
        let refused =
            |path: &Path| OutputFile::create(path, Some(&input)).map(|_| ()).unwrap_err().to_string();
        assert!(refused(folder.path()).contains("directory"));
        assert!(refused(&folder.path().join(".").join("in")).contains("is the input"));
        assert!(refused(&folder.path().join("none/out")).contains("make its folder"));
        assert_eq!(fs::read(&input).unwrap(), b"model");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn devices_are_written_to_and_a_full_one_is_an_error() {
        let mut file = OutputFile::create(Path::new("/dev/full"), None).unwrap();
        file.write_all(b"bytes").unwrap();
        assert!(file.finish().unwrap_err().to_string().contains("make room"));
        OutputFile::create(Path::new("/dev/null"), None).unwrap().finish().unwrap();
        assert!(!fs::metadata("/dev/full").unwrap().is_file());
    }
}
