//! Booting an image in QEMU and reading what it says.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
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
    /// `-M`: the machine with its properties.
    pub machine: String,
    /// Raw image.
    pub kernel: PathBuf,
    /// Model for `-initrd`.
    pub initrd: Option<PathBuf>,
    /// Boot command line.
    pub words: String,
    /// `-cpu`; boards have one of their own.
    pub cpu: String,
    /// `-smp`; boards have all of theirs.
    pub cores: usize,
    /// `-m`; boards have all of theirs.
    pub memory: String,
    /// Count instructions exactly: `-icount shift=0`.
    pub icount: bool,
    /// How the image gets in.
    pub entry: Entry,
    /// A device tree in place of QEMU's own.
    pub device_tree: Option<PathBuf>,
    /// Which of the machine's UARTs is the console.
    pub uart: usize,
    /// Whether QEMU listens to semihosting; without, a machine ends by powering off.
    pub semihosting: bool,
    /// Whether a machine that starts itself again is stopped there: `-no-reboot`.
    pub no_reboot: bool,
    /// A file for what goes out on the UART in front of the console's; then `uart` is 1.
    pub second_uart: Option<PathBuf>,
    /// Kill the machine after this time.
    pub limit: Duration,
}

/// How the image gets into the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// As Linux would: `-kernel`, with the device tree in x0.
    Kernel,
    /// Put at this address and entered there, registers as reset leaves them: at the highest level, with no tree in
    /// x0. A device tree of ours goes to the start of the gigabyte.
    At(u64),
}

impl Default for Boot {
    fn default() -> Self {
        Boot {
            machine: "virt".to_string(),
            kernel: PathBuf::new(),
            initrd: None,
            words: String::new(),
            cpu: crate::qemu::DEFAULT_CPU.to_string(),
            cores: 1,
            memory: "1G".to_string(),
            icount: false,
            entry: Entry::Kernel,
            device_tree: None,
            uart: 0,
            semihosting: true,
            no_reboot: false,
            second_uart: None,
            limit: Duration::from_secs(600),
        }
    }
}

/// What becomes of the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// Shown as it comes, records left out.
    Shown,
    /// Only kept.
    Kept,
    /// A pseudo-terminal, for a program to type at.
    Terminal,
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

/// Where a copy of what a pseudo-terminal shows is kept: what nobody has read when the machine ends is lost there.
pub fn terminal_log() -> PathBuf {
    crate::target_folder().join("terminal.log")
}

impl Boot {
    /// The command line of the emulator.
    pub fn command(&self, console: Console) -> Command {
        let mut qemu = process::command(QEMU);
        qemu.args(["-M", &self.machine, "-nic", "none"]);
        if self.machine.starts_with("virt") {
            qemu.args(["-cpu", &self.cpu, "-smp", &self.cores.to_string(), "-m", &self.memory]);
        }
        if self.semihosting {
            qemu.args(["-semihosting-config", "enable=on,target=native"]);
        }
        if console == Console::Interactive {
            qemu.arg("-nographic");
        } else {
            qemu.args(["-display", "none", "-monitor", "none"]);
            let second = self.second_uart.as_ref().map(|file| format!("file:{}", file.display()));
            let second = second.as_deref().unwrap_or("null");
            (0..self.uart).for_each(|_| _ = qemu.args(["-serial", second]));
            if console == Console::Terminal {
                qemu.args(["-serial", "chardev:pty", "-chardev"]);
                qemu.arg(format!("pty,id=pty,logfile={}", terminal_log().display()));
            } else {
                qemu.args(["-serial", "stdio"]);
            }
        }
        if self.no_reboot {
            qemu.arg("-no-reboot");
        }
        if self.icount {
            qemu.args(["-icount", "shift=0"]);
        }
        if let Entry::At(address) = self.entry {
            let loader = |file: &Path, address: u64| {
                format!("loader,file={},addr={address:#x},force-raw=on", file.display())
            };
            // The bytes, then the address that core 0 starts at.
            qemu.args(["-device", &loader(&self.kernel, address)]);
            qemu.args(["-device", &format!("loader,addr={address:#x},cpu-num=0")]);
            if let Some(tree) = &self.device_tree {
                qemu.args(["-device", &loader(tree, address >> 30 << 30)]);
            }
            return qemu;
        }
        qemu.arg("-kernel").arg(&self.kernel);
        if let Some(tree) = &self.device_tree {
            qemu.arg("-dtb").arg(tree);
        }
        if let Some(initrd) = &self.initrd {
            qemu.arg("-initrd").arg(initrd);
        }
        if !self.words.is_empty() {
            qemu.args(["-append", &self.words]);
        }
        qemu
    }

    /// Writes the device tree that QEMU would pass in this boot, words included, to `file`.
    pub fn write_tree(&self, file: &Path) -> Result<(), Failure> {
        let machine = format!("{},dumpdtb={}", self.machine, file.display());
        let boot = Boot { machine, entry: Entry::Kernel, device_tree: None, ..self.clone() };
        process::read(&mut boot.command(Console::Kept))?;
        let told = |error: std::io::Error| format!("{}: {error}", file.display());
        std::fs::write(file, compact(std::fs::read(file).map_err(told)?)).map_err(told)
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

/// A device tree without the room that QEMU leaves in it: passed with `-dtb` it would get as much again, and have more
/// than the 2 MiB that arm64 allows.
fn compact(mut tree: Vec<u8>) -> Vec<u8> {
    let field =
        |at: usize| tree.get(at..at + 4).map(|bytes| u32::from_be_bytes(bytes.try_into().expect("four")));
    // Structure and texts: where each begins, and its size.
    let ends = [(8, 36), (12, 32)].map(|(start, size)| field(start)?.checked_add(field(size)?));
    if let [Some(structure), Some(texts)] = ends
        && (structure.max(texts) as usize) < tree.len()
    {
        let size = structure.max(texts);
        tree.truncate(size as usize);
        tree[4..8].copy_from_slice(&size.to_be_bytes());
    }
    tree
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
        let mut child = shell("echo started; echo >&2; exec sleep 600");
        // Its time begins when it has said what it says: a busy machine may be long about starting a shell.
        child.stderr.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let outcome = watch(child, Instant::now() + Duration::from_secs(1), false).unwrap();
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
            cpu: "max".into(),
            cores: 2,
            icount: true,
            ..Boot::default()
        };
        let shown = process::shown(&boot.command(Console::Kept));
        for part in
            ["-M virt", "-cpu max", "-smp 2", "-m 1G", "-icount shift=0", "-kernel k.img", "-initrd m.gguf"]
        {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        assert!(shown.ends_with("-append suite=off"), "{shown}");
    }

    #[test]
    fn a_compact_tree_ends_with_its_last_part() {
        let mut tree = vec![0; 100];
        for (at, value) in [(4, 100u32), (8, 40), (36, 10), (12, 50), (32, 7)] {
            tree[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        let compacted = compact(tree.clone());
        assert_eq!((compacted.len(), compacted[7]), (57, 57));
        assert_eq!(compact(compacted.clone()), compacted);
        assert_eq!(compact(vec![1; 20]), [1; 20]);
        tree[32..36].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(compact(tree.clone()), tree);
    }

    #[test]
    fn boards_are_given_what_they_do_not_have_themselves() {
        let board = Boot {
            machine: "raspi3b".into(),
            kernel: "k.img".into(),
            device_tree: Some("pi.dtb".into()),
            uart: 1,
            semihosting: false,
            ..Boot::default()
        };
        let shown = process::shown(&board.command(Console::Kept));
        assert!(shown.ends_with("-serial null -serial stdio -kernel k.img -dtb pi.dtb"), "{shown}");
        assert!(!shown.contains("-smp") && !shown.contains("semihosting"), "{shown}");
    }

    #[test]
    fn an_image_put_into_memory_gets_no_arguments() {
        let boot = Boot {
            kernel: "k.img".into(),
            words: "suite=off".into(),
            device_tree: Some("t.dtb".into()),
            entry: Entry::At(0x8020_0000),
            ..Boot::default()
        };
        let shown = process::shown(&boot.command(Console::Kept));
        assert!(shown.contains("loader,file=t.dtb,addr=0x80000000") && !shown.contains("-append"), "{shown}");
    }
}
