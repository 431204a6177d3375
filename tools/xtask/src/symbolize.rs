//! `cargo xtask symbolize`: functions and lines for the `image+0x…` addresses of a report.

use std::borrow::Cow;
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use addr2line::Loader;
use clap::Args;
use object::{File, Object, ObjectSegment, ObjectSymbol};

use crate::toolchain::BARE_METAL;
use crate::{Failure, target_folder};

/// What to read.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// File with a console's text (default: standard input).
    report: Option<PathBuf>,
    /// The ELF file that the image came from (default: the one that `cargo xtask image` builds).
    #[arg(long, value_name = "FILE")]
    elf: Option<PathBuf>,
}

/// In front of an address, relative to the image's first byte.
const ADDRESS: &str = "image+0x";
/// In front of a build's number.
const BUILD: &str = "calls, youngest first, of build ";

/// Where the image's ELF file is after a build.
pub fn elf_of_image() -> PathBuf {
    target_folder().join(BARE_METAL).join("image/barelm-image")
}

/// Copies text, names added.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let symbols = Symbols::open(&arguments.elf.clone().unwrap_or_else(elf_of_image))?;
    let mut input: Box<dyn BufRead> = match &arguments.report {
        Some(file) => Box::new(std::io::BufReader::new(
            std::fs::File::open(file).map_err(|error| format!("{}: {error}", file.display()))?,
        )),
        None => {
            if std::io::stdin().is_terminal() {
                eprintln!("paste the report, then Ctrl-D");
            }
            Box::new(std::io::stdin().lock())
        }
    };
    let (mut out, mut line, mut good) = (std::io::stdout().lock(), Vec::new(), true);
    loop {
        line.clear();
        if input.read_until(b'\n', &mut line).map_err(|error| error.to_string())? == 0 {
            break;
        }
        let text = String::from_utf8_lossy(&line);
        good &= symbols.annotate(text.trim_end_matches(['\r', '\n']), &mut out).map_err(|e| e.to_string())?;
    }
    if good { Ok(ExitCode::SUCCESS) } else { Err("the report is of another build than the ELF file".into()) }
}

/// The functions and lines of an image.
pub struct Symbols {
    loader: Loader,
    /// The linker's number of this build, in hexadecimal.
    build: String,
}

impl Symbols {
    /// Reads an ELF file.
    pub fn open(elf: &Path) -> Result<Self, Failure> {
        let told = |error: &dyn std::fmt::Display| {
            format!("{}: {error}: build it with: cargo xtask image", elf.display())
        };
        let bytes = std::fs::read(elf).map_err(|error| told(&error))?;
        let file = File::parse(&*bytes).map_err(|error| told(&error))?;
        // The image keeps the note in its read-only bytes, so there is no section of its own to be found.
        let build = build_of(&bytes, &file).ok_or_else(|| told(&"it has no build number"))?;
        let loader = Loader::new(elf).map_err(|error| told(&error))?;
        Ok(Symbols { loader, build })
    }

    /// Copies a line, and behind it a line for each function at its address. The answer is whether the line may be of
    /// this build.
    pub fn annotate(&self, line: &str, out: &mut dyn Write) -> std::io::Result<bool> {
        writeln!(out, "{line}")?;
        if let Some(build) = line.trim().strip_prefix(BUILD) {
            let same = build.trim_end_matches(':') == self.build;
            if !same {
                writeln!(out, "  the ELF file is of build {}: names would be wrong", self.build)?;
            }
            return Ok(same);
        }
        let Some((before, address)) = line.split_once(ADDRESS) else { return Ok(true) };
        let digits = address.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(address.len());
        let Ok(address) = u64::from_str_radix(&address[..digits], 16) else { return Ok(true) };
        // A return address lies behind the call that it belongs to.
        let called = before.trim_end().ends_with("from");
        for name in self.names(if called { address.saturating_sub(4) } else { address }) {
            writeln!(out, "           {name}")?;
        }
        Ok(true)
    }

    /// The functions at an address, the innermost of inlined ones first.
    fn names(&self, address: u64) -> Vec<String> {
        let mut found = Vec::new();
        if let Ok(mut frames) = self.loader.find_frames(address) {
            while let Ok(Some(frame)) = frames.next() {
                let function = frame.function.as_ref().and_then(|function| function.demangle().ok());
                let function = function.map(|name| without_hash(&name).to_string());
                let place =
                    frame.location.and_then(|l| Some(format!(" ({}:{})", shortened(l.file?), l.line?)));
                found.push((function, place.unwrap_or_default()));
            }
        }
        // The symbol table knows the outermost by its whole path, and assembly at all.
        let symbol = self
            .loader
            .find_symbol(address)
            .map(|name| without_hash(&addr2line::demangle_auto(Cow::Borrowed(name), None)).to_string());
        match found.last_mut() {
            None => found.extend(symbol.map(|symbol| (Some(symbol), String::new()))),
            Some((function, _)) => *function = symbol.or_else(|| function.take()),
        }
        let named = |(function, place): (Option<String>, String)| {
            format!("{}{place}", function.as_deref().unwrap_or("(no name)"))
        };
        found.into_iter().map(named).collect()
    }
}

/// A source file without the folders that only say where something was built.
fn shortened(file: &str) -> &str {
    ["/library/", "/registry/src/"]
        .iter()
        .find_map(|mark| file.find(mark).map(|at| &file[at + 1..]))
        .unwrap_or_else(|| file.find("/crates/kernel/").map_or(file, |at| &file[at + 1..]))
}

/// A demangled name without the hash behind it.
fn without_hash(name: &str) -> &str {
    match name.rsplit_once("::h") {
        Some((rest, hash)) if hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => rest,
        _ => name,
    }
}

/// The number in the note that the linker wrote at the symbol `__build_id`.
fn build_of(bytes: &[u8], file: &File<'_>) -> Option<String> {
    let address = file.symbols().find(|symbol| symbol.name() == Ok("__build_id"))?.address();
    let segment = file.segments().find(|s| (s.address()..s.address() + s.size()).contains(&address))?;
    let at = usize::try_from(segment.file_range().0 + (address - segment.address())).ok()?;
    // A note's header, its owner `GNU`, and the number.
    let note = bytes.get(at..at.checked_add(36)?)?;
    (note[12..16] == *b"GNU\0").then(|| note[16..].iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_what_helps_nobody() {
        assert_eq!(without_hash("a::b::h0123456789abcdef"), "a::b");
        assert_eq!(without_hash("a::hello"), "a::hello");
        assert_eq!(shortened("/x/y/library/core/src/fmt.rs"), "library/core/src/fmt.rs");
        assert_eq!(shortened("/x/crates/kernel/src/boot.rs"), "crates/kernel/src/boot.rs");
        assert_eq!(shortened("crates/kernel/src/boot.rs"), "crates/kernel/src/boot.rs");
    }

    #[test]
    fn a_file_that_is_no_elf_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("text");
        std::fs::write(&file, "no ELF").unwrap();
        for path in [file, folder.path().join("absent")] {
            let error = Symbols::open(&path).err().unwrap();
            assert!(error.contains("cargo xtask image"), "{error}");
        }
    }
}
