//! The image's shell, typed at through a pseudo-terminal.

use std::time::Duration;

use super::{BOOTING, Run, Step};
use crate::boot_words::BootWords;
use crate::guest::{Boot, Console};
use crate::setup::Need;
use crate::terminal::Terminal;
use crate::{Failure, device_trees, logs, process, trace};

/// What is typed, and what must then be shown, one behind the other.
type Line = (&'static [u8], &'static [&'static str]);

/// The prompt of the shell, at the start of a line.
const PROMPT: &str = "\n> ";

const SCRIPT: &[Line] = &[
    (b"help\r", &["run TEXT", "selftest", PROMPT]),
    (
        b"info\r",
        &["build ", "machine: Cortex-A72", "watchdog: 60 s", "BareLM-tiny", "temperature 0 ", PROMPT],
    ),
    (b"mem\r", &[" code ", " read only ", "translation tables", "a session of", "kv ", PROMPT]),
    // Two keys in the wrong order, put right with the arrow; then the line again from history, with a key too many.
    (b"ifo\x1b[D\x1b[Dn\r", &["build ", PROMPT]),
    (b"\x1b[Ax\x7f\r", &["build ", PROMPT]),
    (b"set temperature 0.5\r", &["temperature 0.5 ", PROMPT]),
    (b"set temperature hot\r", &["error: the value must be a number", PROMPT]),
    (b"set top_p 7\r", &["error: top-p is 7", PROMPT]),
    (b"set colour red\r", &["error: no such setting", "top_k", PROMPT]),
    (b"set temperature 0\r", &["temperature 0 ", PROMPT]),
    (b"set tokens 6\r", &["tokens 6 ", PROMPT]),
    (b"My dear Miss\r", &["Woodhouse", "generated: 6 tokens, length reached", PROMPT]),
    (b"selftest\r", &["self-test: ", "all equal", "as its checksum says", PROMPT]),
    (b"selftest fault nonsense\r", &["error: no such fault", "stuck-masked", PROMPT]),
    (
        b"trace My dear Miss\r",
        &["Woodhouse", "step attention", "@trace steps ", "\n@trace 1 ", "@trace lost 0", PROMPT],
    ),
    // This processor, emulated without -icount, counts cycles; what else it announces is no business of ours.
    (
        b"perf arena\r",
        &[
            "6 counters; ",
            "case arena_alloc",
            " cycles",
            "not counted by this processor: ",
            "emulated: ",
            PROMPT,
        ],
    ),
    (b"bench arena\r", &["arena_alloc", PROMPT]),
    (b"bench nothing\r", &["error: no benchmark case", PROMPT]),
    (b"chat\r", &["continues the text", "chat> "]),
    (b"It was a cold morning,\r", &["generated: 6 tokens", "speed: prompt of ", "chat> "]),
    // Only the new words and the last token are computed: fewer than the first turn's and these together.
    (b" and he said\r", &["generated: 6 tokens", "speed: prompt of 4 tokens", "chat> "]),
    (b"\x04", &["> "]),
    (b"\x04", &["`off` powers off", PROMPT]),
    (b"half a line\x03", &["^C", PROMPT]),
];

/// The steps of the shell.
pub fn steps() -> Vec<Step> {
    vec![
        Step::new("shell: every command", &BOOTING, |run| commands(run).into()),
        Step::new("shell: random bytes", &BOOTING, |run| noise(run).into()),
        Step::new("shell: a fault", &BOOTING, |run| fault(run).into()),
        Step::new("shell: a fault, and what comes behind it", &BOOTING, |run| behind(run).into()),
        Step::new("logs", &BOOTING, |run| logged(run).into()),
        Step::new("logs on a second UART", &[&BOOTING[..], &[Need::DeviceTrees]].concat(), |run| {
            second(run).into()
        }),
        Step::new("trace of an answer", &BOOTING, |run| traced(run).into()),
    ]
}

/// A boot with the small model.
fn boot(run: &Run, words: &[(&str, &str)]) -> Result<Boot, Failure> {
    let fixed = [("suite", "off"), ("model", "embedded")];
    let words =
        fixed.iter().chain(words).fold(BootWords::default(), |all, (key, value)| all.with(key, value));
    Ok(Boot {
        kernel: run.image()?.raw.clone(),
        words: words.as_str().to_string(),
        cores: 2,
        memory: "512M".to_string(),
        // Of a whole session, on a machine where others work too.
        limit: Duration::from_secs(600),
        ..Boot::default()
    })
}

fn open(run: &Run, words: &[(&str, &str)]) -> Result<Terminal, Failure> {
    let boot = boot(run, &[&[("tokens", "0"), ("shell", "1")], words].concat())?;
    println!("{}", process::shown(&boot.command(Console::Terminal)));
    let mut terminal = Terminal::open(&boot)?;
    terminal.wake(PROMPT)?;
    Ok(terminal)
}

fn off(mut terminal: Terminal) -> Result<(), Failure> {
    terminal.send(b"off\r")?;
    let (status, last) = terminal.end()?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("`off` ends with {status}: {}", last)),
    }
}

/// Types the script, stops an answer, starts the machine again.
fn commands(run: &Run) -> Result<(), Failure> {
    let mut terminal = open(run, &[("checksum", "1")])?;
    for (keys, wanted) in SCRIPT {
        terminal.send(keys)?;
        for text in *wanted {
            terminal
                .expect(text)
                .map_err(|why| format!("after {:?}: {why}", String::from_utf8_lossy(keys)))?;
        }
    }
    // An answer is shown as it is made, and Ctrl-C ends it.
    terminal.send(b"set tokens 400\r")?;
    terminal.expect(PROMPT)?;
    terminal.send(b"My dear Miss\r")?;
    terminal.expect("Woodhouse")?;
    terminal.send(b"\x03")?;
    terminal.expect("generated: ")?;
    let tokens = terminal.expect(" tokens, cancelled")?;
    println!("Ctrl-C after the first words: {tokens} of 400 tokens were made");
    terminal.expect(PROMPT)?;

    terminal.send(b"reboot\r")?;
    terminal.expect("starting again")?;
    terminal.expect("BareLM ")?;
    terminal.expect(PROMPT)?;
    off(terminal)
}

/// Types what a wire with no ground gives, and asks whether anybody is still there.
fn noise(run: &Run) -> Result<(), Failure> {
    const BYTES: usize = 4_000;
    let mut terminal = open(run, &[])?;
    terminal.send(b"set tokens 1\r")?;
    terminal.expect(PROMPT)?;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..BYTES / 100 {
        let piece: Vec<u8> = (0..100)
            .map(|_| {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 56) as u8
            })
            .collect();
        terminal.send(&piece)?;
    }
    // Out of an escape sequence, a broken character, a long answer and a conversation.
    terminal.send(b"\x1b[F\x03\x03\r/end\r\x03")?;
    terminal.send(b"\x03info\r")?;
    terminal.expect("build ")?;
    terminal.expect("tokens 1 ")?;
    terminal.expect(PROMPT)?;
    println!("{BYTES} random bytes were survived");
    off(terminal)
}

/// Raises a fault by name.
fn fault(run: &Run) -> Result<(), Failure> {
    let mut terminal = open(run, &[])?;
    terminal.send(b"selftest fault panic\r")?;
    let (status, shown) = terminal.end()?;
    let wanted = ["panic on core 0 at boot step `shell`", "asked for by name", "image+0x", "exit status 101"];
    match (status.code(), wanted.iter().find(|text| !shown.contains(**text))) {
        (Some(101), None) => Ok(()),
        (Some(101), Some(text)) => Err(format!("`{text}` was not shown: {shown}")),
        _ => Err(format!("ended with {status}: {shown}")),
    }
}

/// Raises faults on machines that then start again, or halt.
fn behind(run: &Run) -> Result<(), Failure> {
    let mut terminal = open(run, &[("on-fault", "reboot")])?;
    for fault in ["panic", "data-abort"] {
        terminal.send(format!("selftest fault {fault}\r").as_bytes())?;
        for wanted in ["exit status 10", "starting again", "BareLM ", PROMPT] {
            terminal.expect(wanted)?;
        }
    }
    off(terminal)?;
    let mut terminal = open(run, &[("on-fault", "halt"), ("watchdog", "3")])?;
    terminal.send(b"selftest fault panic\r")?;
    terminal.expect("exit status 101")?;
    terminal.expect("halted")?;
    // Longer than it takes the watchdogs of other cores to find core 0 silent.
    terminal.silent(Duration::from_secs(6))
}

/// A Raspberry Pi 3's records come out of the UART that is not its console.
fn second(run: &Run) -> Result<(), Failure> {
    let image = run.image()?;
    let file = crate::target_folder().join("second-uart.defmt");
    let boot = Boot {
        kernel: image.raw.clone(),
        machine: "raspi3b".to_string(),
        device_tree: Some(device_trees::folder().join(device_trees::FILES[0])),
        uart: 1,
        second_uart: Some(file.clone()),
        words: "-- suite=off model=embedded tokens=3 loguart=1 log=debug".to_string(),
        limit: Duration::from_secs(300),
        ..Boot::default()
    };
    println!("{}", process::shown(&boot.command(Console::Kept)));
    let outcome = boot.run(Console::Kept)?;
    if outcome.status != Some(0) {
        return Err(format!("{}\n{}", outcome.ending(), outcome.last_lines(10)));
    }
    let records = std::fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let decoded = logs::decode(&image.elf, &records)?;
    println!("{} records of {} bytes", decoded.lines.len(), records.len());
    let missing = ["step cores", "model BareLM-tiny", "token ", "answer of 3 tokens"]
        .into_iter()
        .find(|text| !decoded.lines.iter().any(|line| line.contains(text)));
    match (decoded.malformed, missing) {
        (0, None) => Ok(()),
        (0, Some(text)) => Err(format!("`{text}` was not logged: {:#?}", decoded.lines)),
        (count, _) => Err(format!("{count} records make no sense")),
    }
}

/// Records an answer and reads the trace.
fn traced(run: &Run) -> Result<(), Failure> {
    trace::check(&boot(run, &[("tokens", "4"), ("trace", "1")])?)
}

/// Logs at two levels and decodes both.
fn logged(run: &Run) -> Result<(), Failure> {
    let image = run.image()?;
    let records_at = |level| {
        let file = logs::booted(&logs::boot(image.raw.clone(), level, 3, 2))?;
        let records = std::fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let decoded = logs::decode(&image.elf, &records)?;
        println!("{} records of {} bytes at level {level}", decoded.lines.len(), records.len());
        match decoded.malformed {
            0 => Ok(decoded.lines),
            count => Err(format!("{count} records make no sense")),
        }
    };
    let all = records_at("trace")?;
    for wanted in [
        "INFO  step cores",
        "INFO  2 of 2 cores",
        "DEBUG memory 0x",
        "INFO  model BareLM-tiny",
        "INFO  session of ",
        "DEBUG token ",
        "INFO  answer of 3 tokens",
        "ticks of step attention",
        "TRACE member 0: layer 3 took ",
    ] {
        if !all.iter().any(|line| line.to_uppercase().contains(&wanted.to_uppercase())) {
            return Err(format!("`{wanted}` was not logged: {all:#?}"));
        }
    }
    let important = records_at("info")?;
    let lower =
        |line: &&String| ["TRACE", "DEBUG"].iter().any(|l| line.to_uppercase().contains(&format!(" {l} ")));
    match important.iter().find(lower) {
        Some(line) => Err(format!("below the level asked for: {line}")),
        None if important.len() < 10 => Err(format!("{} records only", important.len())),
        None => Ok(()),
    }
}
