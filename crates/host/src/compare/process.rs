//! An engine in a process of its own, with several requests in flight.
//!
//! What an engine says is not believed: a line that is no reply, is too long, comes too late or does not come ends the
//! measurement with a reason, and the process with all it started.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use barelm_protocol::{Hello, Load, Loaded, Reply, Request, VERSION, now_ns};

/// The longest line that is read. Logits of some hundred positions fit.
const LONGEST: u64 = 64 << 20;
/// Lines that are read ahead; an engine that says more waits.
const AHEAD: usize = 4096;
/// What is kept of standard error.
const KEPT: usize = 2000;

/// How long an engine may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Until its greeting: an interpreter and its libraries.
    pub greeting: Duration,
    /// For a load.
    pub load: Duration,
    /// Between two lines while requests are in flight.
    pub answer: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let s = Duration::from_secs;
        Patience { greeting: s(180), load: s(600), answer: s(300) }
    }
}

/// How an engine is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineCommand {
    /// Its file.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

impl EngineCommand {
    /// For records.
    pub fn words(&self) -> Vec<String> {
        let arguments = self.arguments.iter().map(|argument| argument.to_string_lossy().into_owned());
        [self.program.display().to_string()].into_iter().chain(arguments).collect()
    }
}

/// Why there is no engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It cannot run here, by its own account or the loader's.
    Unavailable(String),
    /// It refuses a request, which it may.
    Refused(String),
    /// It broke the protocol, its process or its word.
    Failed(String),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unavailable(why) => write!(f, "unavailable: {why}"),
            Self::Refused(why) => write!(f, "refused: {why}"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

/// A running engine.
pub struct Process {
    hello: Hello,
    child: Child,
    requests: Option<ChildStdin>,
    replies: Receiver<(u64, Result<Reply, String>)>,
    complaints: Arc<Mutex<VecDeque<u8>>>,
    /// Disconnected once standard error has ended.
    complained: Receiver<()>,
    patience: Patience,
    /// How long `hello` took.
    pub start_ns: u64,
}

impl Process {
    /// Starts a program and hears its greeting.
    pub fn start(command: &EngineCommand, patience: Patience) -> Result<Self, Trouble> {
        let begun = now_ns();
        let mut child = Command::new(&command.program)
            .args(&command.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own: an interrupt at the terminal is ours to handle, and its children end with it.
            .process_group(0)
            .spawn()
            .map_err(|error| Trouble::Unavailable(format!("{}: {error}", command.program.display())))?;
        let requests = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, replies) = sync_channel(AHEAD);
        std::thread::spawn(move || {
            let mut output = output;
            while let Some(reply) = read(&mut output) {
                let last = reply.is_err();
                if sender.send((now_ns(), reply)).is_err() || last {
                    return;
                }
            }
        });
        let complaints = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&complaints);
        let mut errors = child.stderr.take().expect("piped");
        let (complains, complained) = sync_channel(0);
        std::thread::spawn(move || {
            let _until_the_end = complains;
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = errors.read(&mut buffer) {
                let mut kept = kept.lock().expect("nobody panics while writing bytes");
                kept.extend(&buffer[..count]);
                let more = kept.len().saturating_sub(KEPT);
                kept.drain(..more);
            }
        });
        let mut process = Process {
            hello: Hello::default(),
            child,
            requests,
            replies,
            complaints,
            complained,
            patience,
            start_ns: 0,
        };
        match process.hear(patience.greeting) {
            Ok((_, Reply::Hello(hello))) => {
                if let Some(why) = hello.unavailable {
                    return Err(Trouble::Unavailable(why));
                }
                if hello.protocol != VERSION {
                    return Err(Trouble::Failed(format!(
                        "speaks protocol {}, not {VERSION}",
                        hello.protocol
                    )));
                }
                process.hello = hello;
                process.start_ns = now_ns() - begun;
                Ok(process)
            }
            Ok((_, other)) => Err(Trouble::Failed(format!("`hello` was expected, not {}", shown(&other)))),
            Err(Trouble::Failed(why)) => match process.child.try_wait() {
                // What the loader and shells say where a library or program is missing.
                Ok(Some(status)) if status.code() == Some(127) => {
                    Err(Trouble::Unavailable(format!("it cannot be loaded: {}", process.complaint())))
                }
                _ => Err(Trouble::Failed(why)),
            },
            Err(trouble) => Err(trouble),
        }
    }

    /// Its greeting.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// The processes whose time and memory are the engine's: its own, and those that it says compute for it.
    pub fn processes(&self) -> Vec<u32> {
        // What the harness itself takes is counted elsewhere.
        let further = self.hello.processes.iter().copied().filter(|&id| id != std::process::id());
        [self.child.id()].into_iter().chain(further).collect()
    }

    /// Lets it, and all it started, rest until [`Self::resume`]: threads that go on spinning after an answer would take processors
    /// from whoever is measured next. Nothing happens where the system has no such signal.
    pub fn pause(&self) {
        self.signal(true);
    }

    /// Ends [`Self::pause`].
    pub fn resume(&self) {
        self.signal(false);
    }

    #[cfg(target_os = "linux")]
    fn signal(&self, rest: bool) {
        use rustix::process::{Pid, Signal, kill_process_group};
        if let Some(group) = Pid::from_raw(self.child.id().cast_signed()) {
            // The group is the engine's own, which is not yet waited for; where it has ended this is no harm.
            let _ = kill_process_group(group, if rest { Signal::STOP } else { Signal::CONT });
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn signal(&self, _: bool) {}

    /// Loads a model in place of the one before.
    pub fn load(&mut self, load: Load) -> Result<Loaded, Trouble> {
        self.tell(&Request::Load(load))?;
        match self.hear(self.patience.load)? {
            (_, Reply::Loaded(loaded)) => Ok(loaded),
            (_, other) => Err(unexpected("loaded", &other)),
        }
    }

    /// Asks for something that has a single reply.
    pub fn ask(&mut self, request: &Request, patience: Duration) -> Result<Reply, Trouble> {
        self.tell(request)?;
        match self.hear(patience)? {
            (_, Reply::Error { message, .. }) => Err(Trouble::Refused(message)),
            (_, reply) => Ok(reply),
        }
    }

    /// Sends a request.
    pub fn tell(&mut self, request: &Request) -> Result<(), Trouble> {
        let mut line = serde_json::to_vec(request).expect("requests are JSON");
        line.push(b'\n');
        let requests = self.requests.as_mut().expect("open until the engine is dropped");
        match requests.write_all(&line).and_then(|()| requests.flush()) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.ended(&error.to_string())),
        }
    }

    /// The next reply, and when its line was there.
    pub fn hear(&mut self, patience: Duration) -> Result<(u64, Reply), Trouble> {
        match self.replies.recv_timeout(patience) {
            Ok((at, Ok(reply))) => Ok((at, reply)),
            Ok((_, Err(why))) => Err(Trouble::Failed(why)),
            Err(RecvTimeoutError::Timeout) => {
                Err(Trouble::Failed(format!("has said nothing for {:.0} s", patience.as_secs_f64())))
            }
            Err(RecvTimeoutError::Disconnected) => Err(self.ended("it closed its output")),
        }
    }

    /// The next reply of a request in flight.
    pub fn hear_answer(&mut self) -> Result<(u64, Reply), Trouble> {
        self.hear(self.patience.answer)
    }

    /// An error if nothing was said since this moment, by [`now_ns`], for longer than a request may take.
    pub fn check_patience(&self, since: u64) -> Result<(), Trouble> {
        let silent = Duration::from_nanos(now_ns().saturating_sub(since));
        match silent > self.patience.answer {
            true => Err(Trouble::Failed(format!("has said nothing for {:.1} s", silent.as_secs_f64()))),
            false => Ok(()),
        }
    }

    /// The next reply if it comes before `until`, by [`now_ns`].
    pub fn hear_until(&mut self, until: u64) -> Result<Option<(u64, Reply)>, Trouble> {
        let left = Duration::from_nanos(until.saturating_sub(now_ns()));
        match self.replies.recv_timeout(left) {
            Ok((at, Ok(reply))) => Ok(Some((at, reply))),
            Ok((_, Err(why))) => Err(Trouble::Failed(why)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(self.ended("it closed its output")),
        }
    }

    /// What to say of an engine that is gone.
    fn ended(&mut self, why: &str) -> Trouble {
        let status = self.wait(Duration::from_secs(2));
        let status = status.map_or_else(|| why.to_owned(), |status| status.to_string());
        let complaint = self.complaint();
        let more = if complaint.is_empty() { String::new() } else { format!(": {complaint}") };
        Trouble::Failed(format!("has ended ({status}){more}"))
    }

    fn wait(&mut self, patience: Duration) -> Option<std::process::ExitStatus> {
        let begun = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if begun.elapsed() < patience => std::thread::sleep(Duration::from_millis(5)),
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// The last line it said on standard error.
    fn complaint(&self) -> String {
        // What was written before the end may still be on its way; others may hold the stream open behind it.
        let _ = self.complained.recv_timeout(Duration::from_secs(2));
        let mut kept = self.complaints.lock().expect("nobody panics while writing bytes");
        let text = String::from_utf8_lossy(kept.make_contiguous()).into_owned();
        text.lines()
            .rev()
            .map(str::trim)
            .find(|line| !line.is_empty())
            .unwrap_or_default()
            .chars()
            .take(300)
            .collect()
    }
}

impl Drop for Process {
    /// Lets the engine end by itself; one that does not within two seconds is ended, with all it started.
    fn drop(&mut self) {
        self.resume();
        let _ = self.tell_quit();
        drop(self.requests.take());
        let _ = self.wait(Duration::from_secs(2));
        #[cfg(target_os = "linux")]
        if let Some(group) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            // The group is the engine's own; where it has ended there is none, which is no harm.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    fn tell_quit(&mut self) -> std::io::Result<()> {
        match &mut self.requests {
            Some(requests) => requests.write_all(b"{\"type\":\"quit\"}\n"),
            None => Ok(()),
        }
    }
}

/// A line as a reply, or why it is none; `None` at the end.
fn read(output: &mut impl BufRead) -> Option<Result<Reply, String>> {
    let mut line = Vec::new();
    match output.take(LONGEST).read_until(b'\n', &mut line) {
        Ok(0) => return None,
        Ok(_) => {}
        Err(error) => return Some(Err(format!("cannot be read: {error}"))),
    }
    if line.len() as u64 == LONGEST {
        return Some(Err(format!("says a line of more than {} MiB", LONGEST >> 20)));
    }
    Some(serde_json::from_slice(&line).map_err(|error| {
        let start: String = String::from_utf8_lossy(&line).trim_end().chars().take(80).collect();
        format!("says what is no reply ({error}): {start}")
    }))
}

/// What is wrong with a reply in place of another.
pub fn unexpected(wanted: &str, reply: &Reply) -> Trouble {
    match reply {
        Reply::Error { message, .. } => Trouble::Refused(message.clone()),
        other => Trouble::Failed(format!("`{wanted}` was expected, not {}", shown(other))),
    }
}

/// The beginning of a reply.
fn shown(reply: &Reply) -> String {
    serde_json::to_string(reply).unwrap_or_default().chars().take(100).collect()
}

/// SHA-256 of a file, in hexadecimal digits.
pub fn file_sha256(path: &Path) -> std::io::Result<String> {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    std::io::copy(&mut std::fs::File::open(path)?, &mut hash)?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_rests_takes_no_processor_and_answers_afterwards() {
        let hello = serde_json::to_string(&Reply::Hello(Hello { protocol: VERSION, ..Hello::default() }));
        // Spins between answers, as threads of some libraries do, and from before it greets.
        let script = format!(
            "(while :; do :; done) & echo '{}'; while read line; do echo nonsense; done; kill $!",
            hello.unwrap()
        );
        let arguments = ["-c".into(), script.into()].into();
        let command = EngineCommand { program: "sh".into(), arguments };
        let mut process = Process::start(&command, Patience::default()).unwrap();
        let ticks = |id: &u32| -> u64 {
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
            stat.rsplit_once(')').unwrap().1.split_whitespace().nth(11).unwrap().parse().unwrap()
        };
        let [id] = process.processes()[..] else { panic!("it named no other") };
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        let spinning: u32 = children.trim().parse().unwrap();
        process.pause();
        std::thread::sleep(Duration::from_millis(50));
        let before = ticks(&spinning);
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(ticks(&spinning), before, "ticks of a hundredth of a second");
        process.resume();
        let wait = Duration::from_secs(10);
        let answer = process.ask(&Request::Stats, wait).unwrap_err().to_string();
        assert!(answer.contains("nonsense"), "{answer}");
        let begun = std::time::Instant::now();
        while ticks(&spinning) == before {
            assert!(begun.elapsed() < wait, "rests on");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn processes_that_compute_for_an_engine_are_its_own_but_never_ours() {
        let processes = vec![1, std::process::id()];
        let hello = Hello { protocol: VERSION, processes, ..Hello::default() };
        let script = format!("echo '{}'; cat", serde_json::to_string(&Reply::Hello(hello)).unwrap());
        let command = EngineCommand { program: "sh".into(), arguments: ["-c".into(), script.into()].into() };
        let process = Process::start(&command, Patience::default()).unwrap();
        assert_eq!(process.processes(), [process.child.id(), 1]);
    }
}
