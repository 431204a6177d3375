//! Engines that are none: for the tests of the comparison, which must find out what each does wrong.
//!
//! Each computes with our runtime and then spoils one thing. A comparison that such an engine takes part in is run with
//! `--fake`, and no report accepts its record.

use std::io::{self, BufReader, Write};
use std::process::ExitCode;
use std::time::Duration;

use barelm_host::session::Ours;
use barelm_protocol::{Backend, Engine, Expected, Hello, Load, now_ns, serve};
use serde_json::{Value, json};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mode = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["delays", first_ms, further_ms] => {
            let ms = |text: &str| Duration::from_secs_f64(text.parse::<f64>().expect("a number") / 1e3);
            Mode::Delays { first: ms(first_ms), further: ms(further_ms) }
        }
        ["wrong-answer"] => Mode::WrongAnswer,
        ["wrong-logits"] => Mode::WrongLogits,
        ["wrong-clock"] => Mode::WrongClock,
        ["garbage"] => Mode::Garbage,
        ["hang"] => Mode::Hang,
        ["crash"] => Mode::Crash,
        ["slow-start"] => Mode::SlowStart,
        ["huge-output"] => Mode::HugeOutput,
        ["unloadable"] => {
            eprintln!("fake-engine: error while loading shared libraries: libfake.so.1: cannot open");
            return ExitCode::from(127);
        }
        _ => {
            eprintln!("fake-engine: for tests only; see its source");
            return ExitCode::FAILURE;
        }
    };
    if mode == Mode::SlowStart {
        std::thread::sleep(Duration::from_secs(2));
    }
    let fake = Fake { ours: Ours::new(None, None).expect("the best kernels are there"), mode };
    let output = Spoiler { line: Vec::new(), mode, origin: now_ns() };
    match serve(&fake, BufReader::new(io::stdin()), output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    /// Nothing; it is slow, and exactly so.
    Delays { first: Duration, further: Duration },
    /// Its tokens are not the likeliest.
    WrongAnswer,
    /// Its tokens are right, its logits another model's.
    WrongLogits,
    /// Its clock runs at half the speed.
    WrongClock,
    /// It says what is no reply.
    Garbage,
    /// It never answers.
    Hang,
    /// It ends after some tokens.
    Crash,
    /// It needs seconds to start.
    SlowStart,
    /// It says endless things.
    HugeOutput,
}

struct Fake {
    ours: Ours,
    mode: Mode,
}

impl Backend for Fake {
    fn hello(&self) -> Hello {
        Hello {
            engine: "fake".into(),
            version: format!("{:?}", self.mode),
            // Tests run it unoptimized, which is no fault here.
            crippled: None,
            batching: barelm_protocol::Batching::Serial,
            max_in_flight: 1,
            ops: Vec::new(),
            ..self.ours.hello()
        }
    }

    fn with_model(&self, load: &Load, work: &mut dyn FnMut(&mut dyn Engine)) -> Result<(), String> {
        self.ours.with_model(load, &mut |engine| {
            work(&mut Spoiled { engine, mode: self.mode, next: 0, tokens: 0 });
        })
    }
}

struct Spoiled<'e> {
    engine: &'e mut dyn Engine,
    mode: Mode,
    /// When the next token is due.
    next: u64,
    tokens: usize,
}

impl Engine for Spoiled<'_> {
    fn vocab_size(&self) -> usize {
        self.engine.vocab_size()
    }

    fn start(&mut self, prompt: &[u32]) -> Result<(), String> {
        let begun = now_ns();
        self.tokens = 0;
        self.engine.start(prompt)?;
        match self.mode {
            Mode::Delays { first, .. } => self.next = begun + first.as_nanos() as u64,
            Mode::Hang => loop {
                std::thread::sleep(Duration::from_secs(60));
            },
            Mode::HugeOutput => {
                let block = [b'x'; 1 << 16];
                while io::stdout().write_all(&block).is_ok() {}
            }
            _ => {}
        }
        Ok(())
    }

    fn best(&mut self) -> u32 {
        let best = self.engine.best();
        match self.mode {
            Mode::Delays { further, .. } => {
                wait_until(self.next);
                self.next += further.as_nanos() as u64;
                best
            }
            Mode::WrongAnswer => (best + 1) % self.engine.vocab_size() as u32,
            _ => best,
        }
    }

    fn feed(&mut self, id: u32) -> Result<(), String> {
        self.tokens += 1;
        if self.mode == Mode::Crash && self.tokens == 5 {
            eprintln!("fake-engine: segmentation fault, so to say");
            std::process::exit(139);
        }
        self.engine.feed(id)
    }

    fn ends(&self, id: u32) -> bool {
        self.engine.ends(id)
    }

    fn expected(&mut self, ids: &[u32], top: usize) -> Result<Vec<Expected>, String> {
        let mut positions = self.engine.expected(ids, top)?;
        if self.mode == Mode::WrongLogits {
            positions.iter_mut().for_each(|position| position.ids.reverse());
        }
        Ok(positions)
    }
}

/// Sleeps, and spins for the last millisecond, since sleepers wake up late.
fn wait_until(due: u64) {
    let left = due.saturating_sub(now_ns()).saturating_sub(1_000_000);
    std::thread::sleep(Duration::from_nanos(left));
    while now_ns() < due {
        std::hint::spin_loop();
    }
}

/// Standard output, spoiled.
struct Spoiler {
    line: Vec<u8>,
    mode: Mode,
    /// Where the wrong clock was right.
    origin: u64,
}

impl Spoiler {
    fn spoil(&mut self, line: &mut Value) {
        let half = |value: &Value| value.as_u64().expect("a time") / 2;
        match (self.mode, line["type"].as_str()) {
            (Mode::WrongClock, Some("token")) => {
                let since = line["t_ns"].as_u64().expect("a time") - self.origin;
                line["t_ns"] = json!(self.origin + since / 2);
            }
            (Mode::WrongClock, Some("done")) => {
                line["prefill_ns"] = json!(half(&line["prefill_ns"]));
                line["decode_ns"] = json!(half(&line["decode_ns"]));
            }
            (Mode::Garbage, Some("done")) => *line = json!("I am a teapot"),
            _ => {}
        }
    }
}

impl Write for Spoiler {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend(bytes);
        if self.line.ends_with(b"\n") {
            let mut value: Value = serde_json::from_slice(&self.line).expect("replies are JSON");
            self.spoil(&mut value);
            self.line.clear();
            writeln!(io::stdout(), "{value}")?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}
