//! A model file mapped into memory, so that loading reads only what is used and nothing is copied.

use std::fs::File;
use std::path::{Path, PathBuf};

use barelm::llm::gguf::Gguf;
use memmap2::Mmap;

use crate::cache;
use crate::failure::Failure;

/// Bytes of a file that Linux maps around a page that is read, where they are in memory (`fault_around_bytes`; larger
/// where somebody has set it so).
#[cfg(target_os = "linux")]
const WINDOW: usize = 64 << 10;

/// The bytes of a GGUF file.
pub struct ModelFile {
    path: PathBuf,
    map: Mmap,
}

impl ModelFile {
    /// Maps the file at `path`. Refuses what is not a file or is empty, and says how to get a model.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let shown = path.display().to_string();
        let file = File::open(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Failure::Message(format!(
                "{shown}: no such file; `cargo xtask setup` downloads a model and prints its path"
            )),
            _ => Failure::because(&shown, error),
        })?;
        let metadata = file.metadata().map_err(|error| Failure::because(&shown, error))?;
        if metadata.is_dir() {
            return Err(Failure::Message(format!("{shown} is a directory; name the .gguf file in it")));
        }
        if !metadata.is_file() {
            return Err(Failure::Message(format!("{shown} is not a regular file, so it cannot be mapped")));
        }
        if metadata.len() == 0 {
            return Err(Failure::Message(format!("{shown} is empty; copy or download it again")));
        }
        // SAFETY: the map is read-only and private to us. The bytes must not change while it lives: a model file is
        // written once, by tools that write to another name or end before we start; whoever truncates it under a
        // running process gets SIGBUS, as with any mapped program.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| Failure::because(&shown, error))?;
        Ok(ModelFile { path: path.to_owned(), map })
    }

    /// All bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Gives back the memory of `bytes`, which are part of the file and stay readable: whoever reads them again has the
    /// system fetch them anew.
    pub fn forget(&self, bytes: &[u8]) {
        #[cfg(target_os = "linux")]
        {
            let inside = self.map.as_ptr_range();
            let part = bytes.as_ptr_range();
            assert!(part.start >= inside.start && part.end <= inside.end, "a part of the file");
            // The window's other pages came with those that were read, also such as had been given back before.
            let start = (part.start.addr() - inside.start.addr()) / WINDOW * WINDOW;
            let end = (part.end.addr() - inside.start.addr()).next_multiple_of(WINDOW).min(self.map.len());
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the pages are a file's and were never written to, so what is read there afterwards is the file's
            // bytes again. A refusal leaves the pages where they are.
            let _ = unsafe { self.map.unchecked_advise_range(advice, start, end - start) };
        }
        #[cfg(not(target_os = "linux"))]
        let _ = bytes;
    }

    /// The path it was opened with, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads and checks the header.
    pub fn parse(&self) -> Result<Gguf<'_>, Failure> {
        Gguf::parse(&self.map).map_err(|error| Failure::because(self.path.display(), error))
    }
}

/// Where the reference model is: `$BARELM_MODEL`, else the folder that `cargo xtask setup` fills.
pub fn reference_model_path() -> PathBuf {
    if let Some(path) = std::env::var_os("BARELM_MODEL") {
        return path.into();
    }
    cache::folder().join(cache::MODEL_FILE)
}
