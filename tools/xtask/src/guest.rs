//! Booting an image in QEMU and reading what it says.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::records::Splitter;
use crate::{Failure, process};

/// The emulator.
pub const QEMU: &str = "qemu-system-aarch64";

/// One boot of an emulated machine.
#[derive(Clone, Debug)]
pub struct Boot {
    /// Raw image.
    pub kernel: PathBuf,
    /// Model for `-initrd`.
    pub initrd: Option<PathBuf>,
    /// Boot command line.
    pub words: String,
    /// `-M`.
    pub machine: String,
    /// `-cpu`.
    pub cpu: String,
    /// `-smp`.
    pub cores: usize,
    /// `-m`.
    pub memory: String,
    /// Count instructions exactly: `-icount shift=0`.
    pub icount: bool,
    /// Give the image no device tree: it is put into memory and entered with x0 = 0.
    pub without_device_tree: bool,
    /// Kill the machine after this time.
    pub limit: Duration,
}

/// What becomes of the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// Shown as it comes, records left out.
    Shown,
    /// Only kept.
    Kept,
    /// Handed to the user, both ways; nothing is kept, no time limit.
    Interactive,
}

/// How a boot ended.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The guest's exit status; `None` if it was stopped at the limit or by a signal.
    pub status: Option<i32>,
    /// Whether the limit was reached.
    pub timed_out: bool,
    /// What was written to the console, records left out.
    pub text: String,
    /// Records, without their mark.
    pub records: Vec<String>,
    /// Wall time from start to end.
    pub elapsed: Duration,
}

impl Outcome {
    /// The end in words.
    pub fn ending(&self) -> String {
        match self.status {
            _ if self.timed_out => {
                format!("stopped at its time limit after {:.0} s", self.elapsed.as_secs_f64())
            }
            Some(status) => format!("exit status {status} after {:.1} s", self.elapsed.as_secs_f64()),
            None => "ended by a signal".to_string(),
        }
    }

    /// What follows `prefix` on each line that opens with it.
    pub fn lines_after(&self, prefix: &str) -> impl Iterator<Item = &str> {
        self.text.lines().filter_map(move |line| line.strip_prefix(prefix)).map(str::trim)
    }

    /// The last `count` lines with something on them.
    pub fn last_lines(&self, count: usize) -> String {
        let lines: Vec<_> = self.text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }
}

/// Where the image goes without a device tree: in the second gigabyte of RAM. QEMU puts its tree at the start of the
/// first, where the image would look had it been put there.
const LOAD_ADDRESS: u64 = 0x8020_0000;

impl Boot {
    /// The command line of the emulator.
    pub fn command(&self, console: Console) -> Command {
        let mut qemu = process::command(QEMU);
        qemu.args(["-M", &self.machine, "-nic", "none", "-cpu", &self.cpu, "-smp", &self.cores.to_string()]);
        qemu.args(["-m", &self.memory, "-semihosting-config", "enable=on,target=native"]);
        if console == Console::Interactive {
            qemu.arg("-nographic");
        } else {
            qemu.args(["-display", "none", "-monitor", "none", "-serial", "stdio"]);
        }
        if self.icount {
            qemu.args(["-icount", "shift=0"]);
        }
        if self.without_device_tree {
            // Two loaders: the bytes, then the address core 0 starts at. Its registers stay as reset left them.
            qemu.arg("-device")
                .arg(format!("loader,file={},addr={LOAD_ADDRESS:#x},force-raw=on", self.kernel.display()));
            qemu.arg("-device").arg(format!("loader,addr={LOAD_ADDRESS:#x},cpu-num=0"));
            return qemu;
        }
        qemu.arg("-kernel").arg(&self.kernel);
        if let Some(initrd) = &self.initrd {
            qemu.arg("-initrd").arg(initrd);
        }
        if !self.words.is_empty() {
            qemu.args(["-append", &self.words]);
        }
        qemu
    }

    /// Boots and waits for the end.
    pub fn run(&self, console: Console) -> Result<Outcome, Failure> {
        let mut command = self.command(console);
        if console == Console::Interactive {
            let started = Instant::now();
            let status = command.stdin(Stdio::inherit()).status().map_err(missing)?;
            return Ok(Outcome { status: status.code(), elapsed: started.elapsed(), ..Outcome::default() });
        }
        run(&mut command, self.limit, console)
    }
}

/// Starts an emulator whose console is its standard output, and waits for the end; kills it after `limit`.
pub fn run(command: &mut Command, limit: Duration, console: Console) -> Result<Outcome, Failure> {
    let started = Instant::now();
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(missing)?;
    let mut outcome = watch(child, started + limit, console == Console::Shown)
        .map_err(|error| format!("{QEMU}: {error}"))?;
    outcome.elapsed = started.elapsed();
    Ok(outcome)
}

fn missing(error: std::io::Error) -> Failure {
    format!("{QEMU}: {error}: run `cargo xtask setup`")
}

/// Reads a machine's console until it ends or the deadline kills it.
fn watch(mut child: Child, deadline: Instant, show: bool) -> std::io::Result<Outcome> {
    let (sender, pieces) = channel();
    let console = child.stdout.take().expect("piped");
    let errors = child.stderr.take().expect("piped");
    let readers = [spawn_reader(console, sender.clone(), false), spawn_reader(errors, sender, true)];

    let mut outcome = Outcome::default();
    let (mut splitter, mut text, mut said) = (Splitter::default(), Vec::new(), Vec::new());
    let mut terminal = std::io::stdout();
    loop {
        let piece = match pieces.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok((true, piece)) => {
                said.extend(piece);
                continue;
            }
            Ok((false, piece)) => piece,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                outcome.timed_out = true;
                break;
            }
        };
        let seen = text.len();
        splitter.push(&piece, &mut text, &mut |record| outcome.records.push(record.to_string()));
        if show {
            terminal.write_all(&text[seen..])?;
            terminal.flush()?;
        }
    }
    if outcome.timed_out {
        child.kill()?;
    }
    let status = child.wait()?;
    readers.into_iter().for_each(|reader| reader.join().expect("a reader does not panic"));
    if !outcome.timed_out {
        outcome.status = status.code();
    }
    let rest = splitter.finish();
    if show {
        terminal.write_all(&rest)?;
        std::io::stderr().write_all(&said)?;
    }
    text.extend(rest);
    text.extend(said);
    outcome.text = String::from_utf8_lossy(&text).into_owned();
    Ok(outcome)
}

/// Sends what `stream` gives, marked, until it ends.
fn spawn_reader(
    mut stream: impl Read + Send + 'static,
    sender: Sender<(bool, Vec<u8>)>,
    mark: bool,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length) = stream.read(&mut buffer) {
            if length == 0 || sender.send((mark, buffer[..length].to_vec())).is_err() {
                break;
            }
        }
    })
}

/// Cores to emulate unless told otherwise: emulated cores beyond the host's wait for each other.
pub fn default_cores() -> usize {
    thread::available_parallelism().map_or(1, |cores| cores.get().min(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Child {
        Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn console_records_and_status_come_back() {
        let script = "echo 'core 0: 7 units'; echo '@record {}'; echo oops >&2; exit 101";
        let outcome = watch(shell(script), Instant::now() + Duration::from_secs(60), false).unwrap();
        assert_eq!((outcome.status, outcome.timed_out), (Some(101), false));
        assert_eq!(outcome.text, "core 0: 7 units\noops\n");
        assert_eq!(outcome.records, ["{}"]);
        assert_eq!(outcome.lines_after("core 0:").collect::<Vec<_>>(), ["7 units"]);
    }

    #[test]
    fn a_machine_that_hangs_is_stopped() {
        let child = shell("echo started; exec sleep 600");
        let outcome = watch(child, Instant::now() + Duration::from_millis(300), false).unwrap();
        assert!(outcome.timed_out && outcome.status.is_none());
        assert_eq!(outcome.text, "started\n");
        assert!(outcome.ending().contains("time limit"));
    }

    #[test]
    fn options_become_arguments() {
        let boot = Boot {
            kernel: "k.img".into(),
            initrd: Some("m.gguf".into()),
            words: "suite=off".into(),
            machine: "virt".into(),
            cpu: "max".into(),
            cores: 2,
            memory: "1G".into(),
            icount: true,
            without_device_tree: false,
            limit: Duration::from_secs(1),
        };
        let shown = process::shown(&boot.command(Console::Kept));
        for part in
            ["-M virt", "-cpu max", "-smp 2", "-m 1G", "-icount shift=0", "-kernel k.img", "-initrd m.gguf"]
        {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        assert!(shown.ends_with("-append suite=off"), "{shown}");
    }
}
