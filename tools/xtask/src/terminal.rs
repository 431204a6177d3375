//! A machine whose console is a pseudo-terminal: typing, and waiting for what it shows.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::guest::{Boot, Console};

/// The kernel's number for "do not make this our controlling terminal".
const O_NOCTTY: i32 = 0o400;

/// A booted machine and the other end of its console.
pub struct Terminal {
    machine: Child,
    keys: File,
    screen: Receiver<Vec<u8>>,
    /// Shown and not waited for yet.
    shown: String,
    deadline: Instant,
}

impl Terminal {
    /// Boots; the whole session may take the boot's time limit.
    pub fn open(boot: &Boot) -> Result<Self, Failure> {
        let mut command = boot.command(Console::Terminal);
        let missing = |error: std::io::Error| format!("{}: {error}", crate::guest::QEMU);
        let mut machine = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(missing)?;
        let deadline = Instant::now() + boot.limit;
        let (sender, lines) = channel();
        let streams: [Box<dyn Read + Send>; 2] = [
            Box::new(machine.stdout.take().expect("piped")),
            Box::new(machine.stderr.take().expect("piped")),
        ];
        for stream in streams {
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
        }
        drop(sender);
        match open_pty(&lines, deadline) {
            Ok((keys, screen)) => Ok(Terminal { machine, keys, screen, shown: String::new(), deadline }),
            Err(why) => {
                let _ = machine.kill();
                let _ = machine.wait();
                Err(why)
            }
        }
    }

    /// Types bytes.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.keys.write_all(bytes).map_err(|error| format!("the console takes no more: {error}"))
    }

    /// Waits until `text` is shown; gives what was shown before it, and forgets both.
    pub fn expect(&mut self, text: &str) -> Result<String, Failure> {
        loop {
            if let Some(at) = self.shown.find(text) {
                let before = self.shown[..at].to_string();
                self.shown.drain(..at + text.len());
                return Ok(before);
            }
            if !self.receive(self.deadline)? {
                return Err(format!("`{text}` was not shown; what was: {}", self.last()));
            }
        }
    }

    /// Nothing is shown for `time`; the machine is then stopped.
    pub fn silent(mut self, time: Duration) -> Result<(), Failure> {
        self.shown.clear();
        // What was under way.
        while self.receive(Instant::now() + Duration::from_millis(300))? {}
        self.shown.clear();
        let said = self.receive(Instant::now() + time)?;
        if let Some(status) = self.machine.try_wait().map_err(|error| error.to_string())? {
            return Err(format!("the machine has ended with {status}"));
        }
        match said {
            false => Ok(()),
            true => Err(format!("a machine that should be silent says: {}", self.last())),
        }
    }

    /// Presses Enter until the prompt appears: what the machine says before anybody listens is lost.
    pub fn wake(&mut self, prompt: &str) -> Result<(), Failure> {
        while !self.shown.contains(prompt) {
            if Instant::now() > self.deadline {
                return Err(format!("no prompt `{prompt}`; what was shown: {}", self.last()));
            }
            self.send(b"\r")?;
            self.receive(self.deadline.min(Instant::now() + Duration::from_millis(500)))?;
        }
        // All the prompts that the extra keys bring.
        while self.receive(Instant::now() + Duration::from_millis(300))? {}
        self.shown.clear();
        Ok(())
    }

    /// Waits for the machine to end; gives its status and all that it has shown since it was booted.
    pub fn end(mut self) -> Result<(ExitStatus, String), Failure> {
        loop {
            // What it shows must be read, or it waits for room.
            self.receive(self.deadline.min(Instant::now() + Duration::from_millis(50)))?;
            if let Some(status) = self.machine.try_wait().map_err(|error| error.to_string())? {
                let log = crate::guest::terminal_log();
                let shown = std::fs::read(&log).map_err(|error| format!("{}: {error}", log.display()))?;
                return Ok((status, String::from_utf8_lossy(&shown).into_owned()));
            }
            if Instant::now() > self.deadline {
                return Err(format!("the machine does not end; what was shown: {}", self.last()));
            }
        }
    }

    /// Takes in what is shown until `until`; the answer is whether anything was.
    fn receive(&mut self, until: Instant) -> Result<bool, Failure> {
        match self.screen.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(piece) => {
                self.shown.push_str(&String::from_utf8_lossy(&piece));
                Ok(true)
            }
            Err(RecvTimeoutError::Timeout) => Ok(false),
            // The machine has gone: there is nothing to wait for, but time to notice.
            Err(RecvTimeoutError::Disconnected) => {
                thread::sleep(Duration::from_millis(20));
                Ok(false)
            }
        }
    }

    fn last(&self) -> String {
        let start = self.shown.len().saturating_sub(1500);
        let start = (start..=self.shown.len()).find(|&at| self.shown.is_char_boundary(at)).unwrap_or(0);
        self.shown[start..].to_string()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.machine.kill();
        let _ = self.machine.wait();
    }
}

/// Opens the pseudo-terminal that the emulator names.
fn open_pty(lines: &Receiver<String>, deadline: Instant) -> Result<(File, Receiver<Vec<u8>>), Failure> {
    let mut said = Vec::new();
    let path = loop {
        let line = lines
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            .map_err(|_| format!("the emulator names no pseudo-terminal: {}", said.join("; ")))?;
        let word = line.split_ascii_whitespace().find(|word| word.starts_with("/dev/pts/"));
        if let Some(word) = word {
            break word.to_string();
        }
        said.push(line);
    };
    let told = |error: std::io::Error| format!("{path}: {error}");
    let keys = OpenOptions::new().read(true).write(true).custom_flags(O_NOCTTY).open(&path).map_err(told)?;
    let mut console = keys.try_clone().map_err(told)?;
    let (sender, screen): (Sender<Vec<u8>>, _) = channel();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        // Once the machine is gone, reading fails.
        while let Ok(length @ 1..) = console.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    Ok((keys, screen))
}
