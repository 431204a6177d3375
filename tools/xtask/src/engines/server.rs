//! A real server of llama.cpp with OpenAI's interface, from a package of prebuilt binaries, for the tests of `openai-bench`.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Engine, python};
use crate::{Failure, model, process};

/// What starting may take: it takes half a second where nothing else runs.
const START: Duration = Duration::from_secs(180);
/// What a server may take to end by itself.
const END: Duration = Duration::from_secs(10);

/// Where the package is, or why there is none.
#[derive(Debug)]
pub enum Package {
    /// In this folder, and this Python runs it.
    At(PathBuf, &'static str),
    /// The package index has none for this machine.
    NotOffered(String),
}

/// The package in the cache, downloaded if it is not there: into a folder of its own, by the client that fetches the model
/// too, since an environment (`venv`) takes modules of Python that not every system has.
pub fn package() -> Result<Package, Failure> {
    let Some(python) = python::interpreter() else {
        return Ok(Package::NotOffered("Python 3 is missing".to_owned()));
    };
    let list = folder().join("server-requirements.txt");
    let cache = model::path().with_file_name("engines");
    // The folder's name says what is in it, and it gets that name when all of it is there.
    let home = cache.join(format!("llama-cpp-server-{}", &python::stamp(std::slice::from_ref(&list))?[..16]));
    if home.is_dir() {
        return Ok(Package::At(home, python));
    }
    let client = model::client().ok_or("the server's package needs pip: install python3-pip")?;
    let fresh = cache.join(format!("download-server-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&fresh);
    let mut pip = process::command(client[0]);
    pip.args(&client[1..]).args(["install", "--disable-pip-version-check", "--only-binary", ":all:"]);
    pip.args([
        "--no-deps",
        "--no-compile",
        "--progress-bar",
        "off",
        "--quiet",
        "--root-user-action",
        "ignore",
    ]);
    pip.arg("--target").arg(&fresh).arg("-r").arg(&list);
    let installed = install(&mut pip, &fresh, &home);
    let _ = std::fs::remove_dir_all(&fresh);
    Ok(match installed? {
        None => Package::At(home, python),
        Some(why) => Package::NotOffered(why),
    })
}

/// Runs the client and gives the folder its name; `Some` is why there is nothing for this machine.
fn install(pip: &mut Command, fresh: &Path, home: &Path) -> Result<Option<String>, Failure> {
    let shown = process::shown(pip);
    println!("{shown}");
    let output = pip.output().map_err(|error| format!("{shown}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return match not_offered(&said) {
            Some(why) => Ok(Some(why)),
            None => Err(format!("{shown}: {}: {}", output.status, said.trim())),
        };
    }
    match std::fs::rename(fresh, home) {
        // Another run was first.
        Err(_) if home.is_dir() => Ok(None),
        Err(error) => Err(format!("{}: {error}", home.display())),
        Ok(()) => Ok(None),
    }
}

/// What pip says of a package that the index does not have for this platform and Python. It says so too where it was not
/// heard at all, which is another matter.
fn not_offered(said: &str) -> Option<String> {
    let line = said.lines().find(|line| line.contains("No matching distribution found"))?;
    let unheard = ["Retrying", "connection broken", "Could not fetch"].iter().any(|word| said.contains(word));
    (!unheard).then(|| format!("the package index has none for this platform and Python: {}", line.trim()))
}

fn folder() -> PathBuf {
    Engine::named("openai").expect("it is in the table").folder()
}

/// A server that answers, until it is dropped.
pub struct Server {
    /// Where its interface is.
    pub url: String,
    /// Where it writes what it does.
    pub log: PathBuf,
    /// Its process.
    pub process: u32,
    stop: Option<Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts it with a model on a port that the system chooses. It ends when this is dropped, after `limit`, or with us.
    pub fn start(package: &Path, python: &str, model: &Path, limit: Duration) -> Result<Self, Failure> {
        let log = crate::target_folder().join("llama-cpp-server.log");
        let mut command = process::command(python);
        command.arg(folder().join("real_server.py")).arg(model).arg("0");
        command.env("PYTHONPATH", package).env("PYTHONNOUSERSITE", "1");
        Self::run(&mut command, log, START, limit)
    }

    /// Runs a program whose first line is its address.
    fn run(command: &mut Command, log: PathBuf, start: Duration, limit: Duration) -> Result<Self, Failure> {
        let shown = process::shown(command);
        let file = std::fs::create_dir_all(log.parent().unwrap_or(Path::new(".")))
            .and_then(|()| std::fs::File::create(&log))
            .map_err(|error| format!("{}: {error}", log.display()))?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .map_err(|error| format!("{shown}: {error}"))?;
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let process = child.id();
        let (stop, stopped) = mpsc::channel();
        let keeper = std::thread::spawn(move || {
            let _ = stopped.recv_timeout(limit);
            end(child);
        });
        let mut server = Server { url: String::new(), log, process, stop: Some(stop), keeper: Some(keeper) };
        let (tell, told) = mpsc::channel();
        // It reads to the end, so that the server never writes into a pipe that nobody reads.
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).for_each(|line| drop(tell.send(line)))
        });
        let what = match told.recv_timeout(start) {
            Ok(url) if url.starts_with("http://") => {
                server.url = format!("{}/v1", url.trim());
                return Ok(server);
            }
            Ok(line) => format!("its first line is no address: {line}"),
            Err(RecvTimeoutError::Timeout) => format!("no address within {} s", start.as_secs()),
            Err(RecvTimeoutError::Disconnected) => "it ended without an address".to_owned(),
        };
        Err(format!("{shown}: {what}; {}", server.last_words()))
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = &lines[lines.len().saturating_sub(8)..];
        format!("the end of {}:\n{}", self.log.display(), last.join("\n"))
    }

    /// How many requests it has begun to compute, by its own log.
    pub fn requests(&self) -> Result<usize, Failure> {
        let text = std::fs::read(&self.log).map_err(|error| format!("{}: {error}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&text).lines().filter(|line| line.contains("processing task")).count())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

/// Closes its input, which ends it; kills it where that does not.
fn end(mut child: Child) {
    drop(child.stdin.take());
    let begun = Instant::now();
    while begun.elapsed() < END {
        match child.try_wait() {
            Ok(None) => std::thread::sleep(Duration::from_millis(20)),
            Ok(Some(_)) | Err(_) => return,
        }
    }
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell in the place of a server, which works in this folder.
    fn run(folder: &Path, script: &str, limit: Duration) -> Result<Server, Failure> {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).current_dir(folder);
        Server::run(&mut shell, folder.join("log"), Duration::from_secs(2), limit)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_server_is_known_by_its_first_line_and_ends_with_its_input() {
        let folder = tempfile::tempdir().unwrap();
        let script = "echo 'a: processing task, b' >&2; echo http://127.0.0.1:9; cat; touch ended";
        let server = run(folder.path(), script, LONG).unwrap();
        assert_eq!(server.url, "http://127.0.0.1:9/v1");
        assert_eq!(server.requests().unwrap(), 1);
        assert!(!folder.path().join("ended").exists());
        drop(server);
        assert!(folder.path().join("ended").exists());
    }

    #[test]
    fn a_server_that_does_not_come_up_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let why = |script: &str| run(folder.path(), script, LONG).err().expect("no server");
        let gone = why("echo no model here >&2; exit 3");
        assert!(gone.contains("ended without an address") && gone.contains("no model here"), "{gone}");
        assert!(why("echo hello; cat").contains("no address: hello"));
        assert!(why("cat").contains("no address within 2 s"));
    }

    #[test]
    fn a_server_is_ended_at_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let mut server = run(folder.path(), "echo http://a; cat", Duration::from_millis(100)).unwrap();
        let begun = Instant::now();
        server.keeper.take().unwrap().join().unwrap();
        assert!(begun.elapsed() < END);
    }

    #[test]
    fn a_package_for_other_platforms_is_told_from_an_index_that_is_not_heard() {
        let none = "ERROR: Could not find a version that satisfies the requirement x==1 (from versions: none)\n\
                    ERROR: No matching distribution found for x==1\n";
        assert!(not_offered(none).unwrap().ends_with("found for x==1"));
        let unheard = "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError'\n";
        assert_eq!(not_offered(&format!("{unheard}{none}")), None);
        assert_eq!(not_offered("ERROR: No space left on device"), None);
    }
}
