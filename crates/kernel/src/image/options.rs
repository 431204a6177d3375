//! The boot command line: `key=value` words separated by blanks, from `-append` or the device tree's `bootargs`.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::fault::Fault;
use crate::drivers::power::MOST_SECONDS;

/// Every word, as [`Options::parse`] knows it.
const KNOWN: &str = "suite=on|micro|off filter=CASE prompt=TEXT tokens=N raw=0|1 model=initrd|embedded cores=N \
     kernels=scalar|neon|dotprod|i8mm hash=0|1 ids=0|1 json=0|1 counts=CASE/TABLE:N,... exact=0|1 shell=0|1 \
     trace=0|1 log=LEVEL logfile=PATH loguart=0|1 fault=NAME checksum=0|1 watchdog=SECONDS \
     board-watchdog=SECONDS on-fault=exit|reboot|halt env=KEY:VALUE";

/// Tokens of an answer where nothing else is said.
pub const DEFAULT_TOKENS: usize = 48;

/// Which part of the benchmark suite runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// All of it.
    On,
    /// Only the micro-cases.
    Micro,
    /// Nothing.
    Off,
}

/// Where the model comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The file passed as initrd.
    Initrd,
    /// The small one inside the image.
    Embedded,
}

/// How much a record matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Every pass of the model.
    Trace,
    /// Every token, every range of memory.
    Debug,
    /// Every step of the boot, every command.
    Info,
    /// What is less than was asked for.
    Warn,
    /// What ends the boot.
    Error,
}

impl Level {
    /// All, with their names.
    pub const ALL: [(&'static str, Level); 5] = [
        ("trace", Level::Trace),
        ("debug", Level::Debug),
        ("info", Level::Info),
        ("warn", Level::Warn),
        ("error", Level::Error),
    ];
}

/// What the machine does behind a failing status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// It tells the host the status, or powers off where nobody listens.
    Exit,
    /// It starts again.
    Reboot,
    /// It stays as it is, with its report on the console.
    Halt,
}

/// What one boot should do. Text lives as long as the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options<'a> {
    /// Which benchmarks run.
    pub suite: Suite,
    /// Only cases whose name contains this.
    pub filter: Option<&'a str>,
    /// What the model is asked; `None` leaves it to the image.
    pub prompt: Option<String>,
    /// Tokens to generate at most; 0 generates nothing.
    pub tokens: usize,
    /// Continue the prompt as it stands, without a chat template.
    pub raw: bool,
    /// Where the model comes from.
    pub model: Source,
    /// Cores to use at most; `None` takes all.
    pub cores: Option<usize>,
    /// Kernel table to use; `None` takes the best.
    pub kernels: Option<&'a str>,
    /// Print the logits hash of a fixed prompt, in several batch sizes that must agree.
    pub hash: bool,
    /// Print the generated ids.
    pub ids: bool,
    /// Print every record of the suite.
    pub json: bool,
    /// Retired instructions counted in another boot, by `case/table`.
    pub counts: Vec<(&'a str, u64)>,
    /// Constant iteration counts, for exact instruction counts.
    pub exact: bool,
    /// Read prompts from the console behind everything else.
    pub shell: bool,
    /// Print where the time of each step of the answer went.
    pub trace: bool,
    /// The level from which on records are logged.
    pub log: Level,
    /// The host's file that records go to, by semihosting; `None` logs nothing.
    pub log_file: Option<String>,
    /// Send records to the board's second UART.
    pub log_uart: bool,
    /// Raise this fault instead of all else.
    pub fault: Option<Fault>,
    /// Keep a checksum of the model, and compare before every answer.
    pub checksum: bool,
    /// Seconds that a core may give no sign of life; `None` leaves it to the image, 0 lets nobody watch.
    pub watchdog: Option<u64>,
    /// Seconds until the board's own watchdog resets it, once no core ticks; `None` leaves it to the image, 0 is off.
    pub board_watchdog: Option<u32>,
    /// What comes behind a failure.
    pub after_failure: AfterFailure,
    /// Fields of the records' environment.
    pub environment: Vec<(String, String)>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options {
            suite: Suite::On,
            filter: None,
            prompt: None,
            tokens: DEFAULT_TOKENS,
            raw: false,
            model: Source::Initrd,
            cores: None,
            kernels: None,
            hash: false,
            ids: false,
            json: false,
            counts: Vec::new(),
            exact: false,
            shell: false,
            trace: false,
            log: Level::Info,
            log_file: None,
            log_uart: false,
            fault: None,
            checksum: false,
            watchdog: None,
            board_watchdog: None,
            after_failure: AfterFailure::Exit,
            environment: Vec::new(),
        }
    }
}

/// Why a command line was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionError<'a> {
    /// No such word.
    Unknown {
        /// The word.
        word: &'a str,
    },
    /// The word is known, its value is not.
    Value {
        /// The word.
        word: &'a str,
        /// What it may be.
        wanted: &'static str,
    },
}

impl fmt::Display for OptionError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { word } => {
                write!(f, "unknown word `{word}` in the boot command line; known are: {KNOWN}")
            }
            Self::Value { word, wanted } => {
                write!(f, "`{word}` in the boot command line: the value must be {wanted}")
            }
        }
    }
}

impl core::error::Error for OptionError<'_> {}

impl<'a> Options<'a> {
    /// Reads a command line. Of a word given twice the last one counts, except that `env=` collects.
    pub fn parse(line: &'a str) -> Result<Self, OptionError<'a>> {
        let mut options = Options::default();
        for word in line.split_ascii_whitespace() {
            let Some((key, value)) = word.split_once('=') else { return Err(OptionError::Unknown { word }) };
            options.set(word, key, value)?;
        }
        Ok(options)
    }

    fn set(&mut self, word: &'a str, key: &str, value: &'a str) -> Result<(), OptionError<'a>> {
        let wanted = |wanted| OptionError::Value { word, wanted };
        let flag = || match value {
            "0" => Ok(false),
            "1" => Ok(true),
            _ => Err(wanted("0 or 1")),
        };
        match key {
            "suite" => {
                self.suite = match value {
                    "on" => Suite::On,
                    "micro" => Suite::Micro,
                    "off" => Suite::Off,
                    _ => return Err(wanted("on, micro or off")),
                }
            }
            "filter" if value.is_empty() => return Err(wanted("a part of a case's name")),
            "filter" => self.filter = Some(value),
            "prompt" => {
                self.prompt = Some(decode(value).ok_or(wanted("UTF-8 text in percent encoding"))?);
            }
            "tokens" => {
                self.tokens = value.parse().map_err(|_| wanted("a number of tokens"))?;
            }
            "raw" => self.raw = flag()?,
            "model" => {
                self.model = match value {
                    "initrd" => Source::Initrd,
                    "embedded" => Source::Embedded,
                    _ => return Err(wanted("initrd or embedded")),
                }
            }
            "cores" => {
                let cores = value.parse().ok().filter(|&cores| cores > 0);
                self.cores = Some(cores.ok_or(wanted("a number of cores, 1 or more"))?);
            }
            "kernels" if !["scalar", "neon", "dotprod", "i8mm"].contains(&value) => {
                return Err(wanted("scalar, neon, dotprod or i8mm"));
            }
            "kernels" => self.kernels = Some(value),
            "hash" => self.hash = flag()?,
            "ids" => self.ids = flag()?,
            "json" => self.json = flag()?,
            "counts" => {
                for entry in value.split(',').filter(|entry| !entry.is_empty()) {
                    let count = entry.rsplit_once(':').and_then(|(case, n)| Some((case, n.parse().ok()?)));
                    self.counts.push(count.ok_or(wanted("case/table:instructions, separated by commas"))?);
                }
            }
            "exact" => self.exact = flag()?,
            "shell" => self.shell = flag()?,
            "trace" => self.trace = flag()?,
            "log" => {
                let level = Level::ALL.iter().find(|(name, _)| *name == value).map(|(_, level)| *level);
                self.log = level.ok_or(wanted("trace, debug, info, warn or error"))?;
            }
            "logfile" => {
                let path = decode(value).filter(|path| !path.is_empty() && !path.contains('\0'));
                self.log_file = Some(path.ok_or(wanted("a path in percent encoding"))?);
            }
            "loguart" => self.log_uart = flag()?,
            "fault" => {
                self.fault = Some(Fault::from_name(value).ok_or(wanted(Fault::NAMES))?);
            }
            "checksum" => self.checksum = flag()?,
            "watchdog" => {
                let seconds = value.parse().ok().filter(|&seconds| seconds <= 86_400);
                self.watchdog = Some(seconds.ok_or(wanted("a number of seconds, a day at most; 0 is off"))?);
            }
            "board-watchdog" => {
                let seconds = value.parse().ok().filter(|&seconds| seconds <= MOST_SECONDS);
                self.board_watchdog =
                    Some(seconds.ok_or(wanted("a number of seconds, 15 at most; 0 is off"))?);
            }
            "on-fault" => {
                self.after_failure = match value {
                    "exit" => AfterFailure::Exit,
                    "reboot" => AfterFailure::Reboot,
                    "halt" => AfterFailure::Halt,
                    _ => return Err(wanted("exit, reboot or halt")),
                }
            }
            "env" => {
                let pair = value.split_once(':').and_then(|(k, v)| Some((decode(k)?, decode(v)?)));
                let pair = pair.filter(|(key, _)| !key.is_empty());
                self.environment.push(pair.ok_or(wanted("key:value in percent encoding"))?);
            }
            _ => return Err(OptionError::Unknown { word }),
        }
        Ok(())
    }
}

/// Undoes percent encoding; `None` for a `%` without two hexadecimal digits, or if the bytes are not UTF-8.
pub fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                (high << 4 | low) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::ToString;
    use alloc::vec;

    #[test]
    fn an_empty_line_is_the_default_run() {
        assert_eq!(Options::parse(" \t "), Ok(Options::default()));
    }

    #[test]
    fn every_word_is_understood() {
        let line = "suite=micro filter=dot prompt=Caf%c3%A9%20%3d%25 tokens=7 raw=1 model=embedded cores=2 \
                    kernels=scalar hash=1 ids=1 json=1 counts=dot_product/neon:300,tokenization:12 exact=1 shell=1 \
                    trace=1 log=debug logfile=a%20b loguart=1 fault=write-text checksum=1 \
                    watchdog=7 board-watchdog=15 on-fault=halt env=commit:abc env=rustc:rustc%201.95%3a";
        let pair = |k: &str, v: &str| (k.to_string(), v.to_string());
        let expected = Options {
            suite: Suite::Micro,
            filter: Some("dot"),
            prompt: Some("Café =%".to_string()),
            tokens: 7,
            raw: true,
            model: Source::Embedded,
            cores: Some(2),
            kernels: Some("scalar"),
            hash: true,
            ids: true,
            json: true,
            counts: vec![("dot_product/neon", 300), ("tokenization", 12)],
            exact: true,
            shell: true,
            trace: true,
            log: Level::Debug,
            log_file: Some("a b".to_string()),
            log_uart: true,
            fault: Some(Fault::WriteText),
            checksum: true,
            watchdog: Some(7),
            board_watchdog: Some(15),
            after_failure: AfterFailure::Halt,
            environment: vec![pair("commit", "abc"), pair("rustc", "rustc 1.95:")],
        };
        assert_eq!(Options::parse(line), Ok(expected));
    }

    #[test]
    fn an_unknown_word_names_the_known_ones() {
        for word in ["prompts=x", "console=ttyAMA0", "shell", "=", "Raw=1"] {
            let error = Options::parse(word).unwrap_err();
            assert_eq!(error, OptionError::Unknown { word });
            let text = format!("{error}");
            let keys = KNOWN.split(' ').filter_map(|known| known.split_once('=')).map(|(key, _)| key);
            assert_eq!(keys.clone().count(), 24);
            for key in keys {
                assert!(text.contains(&format!("{key}=")), "{key} in {text}");
                let known = Options::parse(&format!("{key}=~"))
                    .is_err_and(|error| format!("{error}").contains("the value must be"));
                assert!(known || ["filter", "prompt", "logfile"].contains(&key), "{key} is known");
            }
        }
    }

    #[test]
    fn a_bad_value_is_refused_with_what_it_may_be() {
        for word in [
            "suite=yes",
            "filter=",
            "prompt=%4",
            "prompt=%zz",
            "prompt=%ff",
            "tokens=-1",
            "tokens=",
            "raw=true",
            "model=",
            "cores=0",
            "cores=two",
            "kernels=avx2",
            "hash=2",
            "counts=dot:x",
            "counts=dot",
            "fault=all",
            "checksum=yes",
            "log=loud",
            "logfile=",
            "logfile=a%00b",
            "watchdog=-1",
            "watchdog=86401",
            "board-watchdog=16",
            "board-watchdog=",
            "on-fault=restart",
            "loguart=2",
            "env=commit",
            "env=:x",
            "env=a:%",
        ] {
            match Options::parse(word) {
                Err(OptionError::Value { word: found, .. }) => assert_eq!(found, word),
                other => panic!("{word}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_last_of_two_counts() {
        assert_eq!(Options::parse("tokens=3 tokens=5").map(|options| options.tokens), Ok(5));
    }

    #[test]
    fn text_without_escapes_stays_as_it_is() {
        assert_eq!(decode("a+b").as_deref(), Some("a+b"));
        assert_eq!(decode("").as_deref(), Some(""));
    }
}
