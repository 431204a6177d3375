//! Boots of the image, as a table: what is given, and what must come of it.

use std::path::PathBuf;
use std::time::Duration;

use super::{BOOTING, Run, Step};
use crate::boot_words::BootWords;
use crate::guest::{Boot, Console, Outcome};
use crate::qemu::DEFAULT_CPU;
use crate::setup::Need;
use crate::toolchain::Toolchain;
use crate::{Failure, model, process};

/// What `-initrd` gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Initrd {
    /// Nothing.
    None,
    /// The reference model.
    Reference,
    /// The small model that images also embed.
    Tiny,
    /// The small model, cut off in the middle.
    Truncated,
    /// The small model with a byte of its header changed.
    Corrupt,
    /// No model at all: bytes of text.
    Text,
}

/// What must come of a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// The logits hash that the host's command line computes on the same ids.
    Hash,
    /// The ids that the host's command line generates.
    Ids,
    /// A good end, with all these texts.
    Good(&'static [&'static str]),
    /// This status, with all these texts.
    Status(i32, &'static [&'static str]),
    /// A failing status, whether QEMU's or the guest's, with all these texts.
    Fails(&'static [&'static str]),
}

/// One boot.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    initrd: Initrd,
    words: &'static [(&'static str, &'static str)],
    cpu: &'static str,
    cores: usize,
    memory: &'static str,
    icount: bool,
    /// Seconds it may take.
    limit_s: u64,
    expected: Expected,
}

/// What a case is unless it says otherwise.
const PLAIN: Case = Case {
    name: "",
    initrd: Initrd::None,
    words: &[],
    cpu: DEFAULT_CPU,
    cores: 2,
    memory: "1G",
    icount: false,
    limit_s: 300,
    expected: Expected::Good(&[]),
};

const HASH: &[(&str, &str)] = &[("suite", "off"), ("tokens", "0"), ("hash", "1")];
const TINY_HASH: Case = Case { initrd: Initrd::Tiny, words: HASH, expected: Expected::Hash, ..PLAIN };
const REFERENCE_HASH: Case =
    Case { initrd: Initrd::Reference, words: HASH, limit_s: 900, expected: Expected::Hash, ..PLAIN };
const QUICK: &[(&str, &str)] = &[("suite", "off"), ("tokens", "4")];
const IDS: Case = Case { initrd: Initrd::Reference, limit_s: 900, expected: Expected::Ids, ..PLAIN };
const CASES: &[Case] = &[
    Case { name: "logits hash, 1 core", cores: 1, ..REFERENCE_HASH },
    Case { name: "logits hash, 2 cores", ..REFERENCE_HASH },
    Case {
        name: "logits hash, scalar kernels",
        words: &[("suite", "off"), ("tokens", "0"), ("hash", "1"), ("kernels", "scalar")],
        ..TINY_HASH
    },
    Case { name: "logits hash, 4 cores counted", cores: 4, icount: true, limit_s: 600, ..TINY_HASH },
    Case { name: "logits hash, cortex-a53", cpu: "cortex-a53", ..TINY_HASH },
    Case { name: "logits hash, cortex-a76", cpu: "cortex-a76", ..TINY_HASH },
    Case { name: "logits hash, a copy for dot products", cpu: "cortex-a76", ..REFERENCE_HASH },
    Case { name: "logits hash, max", cpu: "max", ..TINY_HASH },
    Case {
        name: "generated ids, a question",
        words: &[
            ("suite", "off"),
            ("tokens", "16"),
            ("ids", "1"),
            ("prompt", "What is the capital of France?"),
        ],
        ..IDS
    },
    Case {
        name: "generated ids, a task",
        words: &[
            ("suite", "off"),
            ("tokens", "16"),
            ("ids", "1"),
            ("prompt", "Write a poem about the sea, in two lines."),
        ],
        ..IDS
    },
    Case {
        name: "generated ids, other scripts",
        words: &[
            ("suite", "off"),
            ("tokens", "16"),
            ("ids", "1"),
            ("prompt", "Übersetze: 100 % gut = \"très bien\" 日本"),
        ],
        ..IDS
    },
    Case {
        name: "embedded model",
        words: &[("suite", "off"), ("tokens", "8"), ("model", "embedded")],
        expected: Expected::Good(&["self-test: ", "kernels: neon", "8 tokens", "core 0: ", "core 1: "]),
        ..PLAIN
    },
    Case {
        name: "no initrd",
        words: QUICK,
        expected: Expected::Status(1, &["error at boot step `model`", "-initrd", "model=embedded"]),
        ..PLAIN
    },
    Case {
        name: "truncated initrd",
        initrd: Initrd::Truncated,
        words: QUICK,
        expected: Expected::Status(1, &["error at boot step `model`: the model is refused"]),
        ..PLAIN
    },
    Case {
        name: "corrupt initrd",
        initrd: Initrd::Corrupt,
        words: QUICK,
        expected: Expected::Status(1, &["error at boot step `model`: the model is refused"]),
        ..PLAIN
    },
    Case {
        name: "initrd that is no model",
        initrd: Initrd::Text,
        words: QUICK,
        expected: Expected::Status(1, &["error at boot step `model`: the model is refused"]),
        ..PLAIN
    },
    Case {
        name: "too little RAM for the session",
        initrd: Initrd::Reference,
        words: &[("suite", "off"), ("tokens", "8000")],
        memory: "256M",
        expected: Expected::Status(1, &["not enough memory", "short by", "-m"]),
        ..PLAIN
    },
    Case {
        name: "too little RAM for a packed copy",
        initrd: Initrd::Reference,
        words: QUICK,
        memory: "200M",
        expected: Expected::Good(&["packed for neon: no", "4 tokens"]),
        ..PLAIN
    },
    Case {
        name: "too little RAM for the model",
        initrd: Initrd::Reference,
        words: QUICK,
        memory: "128M",
        expected: Expected::Fails(&["initrd"]),
        ..PLAIN
    },
    Case {
        name: "unknown word",
        words: &[("nonsense", "1")],
        expected: Expected::Status(1, &["unknown word `nonsense=1`", "prompt="]),
        ..PLAIN
    },
    Case {
        name: "empty prompt",
        initrd: Initrd::Tiny,
        words: &[("suite", "off"), ("prompt", "")],
        expected: Expected::Status(1, &["prompt is empty"]),
        ..PLAIN
    },
    Case {
        name: "prompt that is not UTF-8",
        initrd: Initrd::Tiny,
        words: &[("suite", "off"), ("\u{0}prompt", "%C3%28")],
        expected: Expected::Status(1, &["prompt="]),
        ..PLAIN
    },
];

/// The default run, from boot to power-off, on two cores.
const DEFAULT_RUN_LIMIT: Duration = Duration::from_secs(90);

/// All boots, and the default run.
pub fn steps() -> Vec<Step> {
    let mut steps: Vec<_> = CASES
        .iter()
        .map(|case| {
            let model: &[Need] = if case.initrd == Initrd::Reference { &[Need::Model] } else { &[] };
            Step::new(format!("boot: {}", case.name), &[&BOOTING, model].concat(), |run: &mut Run| {
                judge(case, run).into()
            })
        })
        .collect();
    steps.push(Step::new("boot: default run", &[&BOOTING[..], &[Need::Model]].concat(), |run| {
        default_run(run).into()
    }));
    steps
}

/// Boots, and compares what came of it.
fn judge(case: &Case, run: &Run) -> Result<(), Failure> {
    let initrd = file_of(case.initrd)?;
    let boot = Boot {
        kernel: run.image()?.raw.clone(),
        initrd: initrd.clone(),
        words: words_of(case),
        machine: "virt".to_string(),
        cpu: case.cpu.to_string(),
        cores: case.cores,
        memory: case.memory.to_string(),
        icount: case.icount,
        limit: Duration::from_secs(case.limit_s),
        ..Boot::default()
    };
    println!("{}", process::shown(&boot.command(Console::Kept)));
    let outcome = boot.run(Console::Kept)?;
    let compared = match case.expected {
        Expected::Hash => good(&outcome, &[]).and_then(|()| same_hash(&outcome, initrd, run)),
        Expected::Ids => good(&outcome, &[]).and_then(|()| same_ids(case, &outcome, initrd, run)),
        Expected::Good(texts) => good(&outcome, texts),
        Expected::Status(status, texts) if outcome.status == Some(status) => contains(&outcome, texts),
        Expected::Status(status, _) => Err(format!("wanted exit status {status}")),
        Expected::Fails(_) if matches!(outcome.status, None | Some(0)) => {
            Err("wanted a failing status".to_string())
        }
        Expected::Fails(texts) => contains(&outcome, texts),
    };
    compared.map_err(|why| format!("{why}; {}\n{}", outcome.ending(), outcome.last_lines(20)))
}

/// The boot command line. A key that opens with NUL is one whose value is given as it stands, not encoded.
fn words_of(case: &Case) -> String {
    let mut words = BootWords::default();
    for (key, value) in case.words {
        words = match key.strip_prefix('\u{0}') {
            Some(key) => words.with_encoded(key, value),
            None => words.with(key, value),
        };
    }
    words.as_str().to_string()
}

/// The file for `-initrd`; damaged ones are made in the build folder.
fn file_of(initrd: Initrd) -> Result<Option<PathBuf>, Failure> {
    let tiny = crate::root().join("crates/kernel/assets/tiny.gguf");
    let read = || std::fs::read(&tiny).map_err(|error| format!("{}: {error}", tiny.display()));
    let (name, bytes) = match initrd {
        Initrd::None => return Ok(None),
        Initrd::Reference => return Ok(Some(model::path())),
        Initrd::Tiny => return Ok(Some(tiny)),
        Initrd::Truncated => {
            let mut bytes = read()?;
            bytes.truncate(bytes.len() / 2);
            ("truncated.gguf", bytes)
        }
        Initrd::Corrupt => {
            let mut bytes = read()?;
            // The number of tensors, at byte 8 of every GGUF file: now far beyond what the file can hold.
            bytes[15] ^= 0x40;
            ("corrupt.gguf", bytes)
        }
        Initrd::Text => ("text.gguf", b"This is no model.\n".repeat(1000)),
    };
    let folder = crate::target_folder().join("boots");
    let file = folder.join(name);
    let told = |error: std::io::Error| format!("{}: {error}", file.display());
    std::fs::create_dir_all(&folder).map_err(told)?;
    std::fs::write(&file, bytes).map_err(told)?;
    Ok(Some(file))
}

/// A good end with all these texts.
fn good(outcome: &Outcome, texts: &[&str]) -> Result<(), Failure> {
    if outcome.status != Some(0) {
        return Err("wanted a good end".to_string());
    }
    contains(outcome, texts)
}

fn contains(outcome: &Outcome, texts: &[&str]) -> Result<(), Failure> {
    match texts.iter().find(|text| !outcome.text.contains(**text)) {
        Some(text) => Err(format!("`{text}` was not printed")),
        None => Ok(()),
    }
}

/// The guest's hash, in every batch size, is the host's.
pub fn same_hash(outcome: &Outcome, initrd: Option<PathBuf>, run: &Run) -> Result<(), Failure> {
    let hashes: Vec<_> = outcome
        .lines_after("logits hash: ")
        .map(|line| line.split_ascii_whitespace().next().unwrap_or_default())
        .collect();
    let ids = outcome.lines_after("logits ids: ").next().ok_or("no `logits ids`")?;
    let model = initrd.ok_or("a hash needs a model")?;
    let mut barelm = process::command(run.barelm()?);
    let said = process::read(barelm.arg("logits").arg(model).args(["--ids", ids]))?;
    let host = host_hash(&said).ok_or_else(|| format!("the host printed no hash: {said}"))?;
    println!("hash on the host: {host}; in the guest: {}", hashes.join(", "));
    match hashes.iter().all(|hash| *hash == host) {
        true if hashes.len() == 4 => Ok(()),
        true => Err(format!("wanted hashes of 4 batch sizes, found {}", hashes.len())),
        false => Err(format!("the host's hash is {host}")),
    }
}

/// The value in the host's line `logits hash VALUE/arithmetic-1 of 8 positions`.
fn host_hash(said: &str) -> Option<&str> {
    let value = said.lines().find_map(|line| line.strip_prefix("logits hash "))?;
    let value = value.split(['/', ' ']).next()?;
    (value.len() == 16 && value.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(value)
}

/// The guest's ids are the host's.
fn same_ids(case: &Case, outcome: &Outcome, initrd: Option<PathBuf>, run: &Run) -> Result<(), Failure> {
    const PREFIX: &str = "generated ids: ";
    let word = |key: &str| {
        let found = case.words.iter().find(|(other, _)| *other == key);
        found.map(|(_, value)| *value).ok_or_else(|| format!("the case has no `{key}`"))
    };
    let mut barelm = process::command(run.barelm()?);
    barelm.arg("run").arg(initrd.ok_or("ids need a model")?).arg("--ids");
    let said = process::read(barelm.args(["-p", word("prompt")?, "-n", word("tokens")?]))?;
    let host = said.lines().find_map(|line| line.strip_prefix(PREFIX)).ok_or("the host printed no ids")?;
    let guest = outcome.lines_after(PREFIX).next().ok_or("no `generated ids`")?;
    println!("ids on the host: {host}; in the guest: {guest}");
    if guest == host && !guest.is_empty() { Ok(()) } else { Err(format!("the host generates {host}")) }
}

/// `cargo xtask qemu` as a new user types it, and the guest's time in it. That is wall time, which others on this machine
/// make longer and nothing makes shorter: the best of three tries counts.
fn default_run(run: &mut Run) -> Result<(), Failure> {
    let limit_s = DEFAULT_RUN_LIMIT.as_secs_f64();
    let mut seconds = f64::INFINITY;
    for _ in 0..3 {
        seconds = seconds.min(default_run_seconds(run)?);
        if seconds <= limit_s {
            return Ok(());
        }
        println!("{seconds} s from boot to power-off, {limit_s} s at most");
    }
    Err(format!("{seconds} s from boot to power-off at best, {limit_s} s at most"))
}

/// The wall time of one default run that printed what it should.
fn default_run_seconds(run: &mut Run) -> Result<f64, Failure> {
    let mut cargo = Toolchain::current().cargo();
    cargo.args(["run", "--quiet", "-p", "xtask", "--", "qemu", "--cores", "2"]);
    let text = run.read_through(&mut cargo)?;
    let seconds = text
        .lines()
        .find_map(|line| {
            line.strip_prefix("QEMU: exit status 0 after ")?.strip_suffix(" s")?.parse::<f64>().ok()
        })
        .ok_or("no line on how the guest ended")?;
    for wanted in ["1GHz", "core 0: ", "core 1: ", "48 tokens"] {
        if !text.contains(wanted) {
            return Err(format!("`{wanted}` was not printed"));
        }
    }
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_found_in_the_hosts_line() {
        assert_eq!(
            host_hash("logits hash 6ba7bffc20452427/arithmetic-1 of 3 positions\n"),
            Some("6ba7bffc20452427")
        );
        assert_eq!(host_hash("logits hash none of 3 positions\n"), None);
        assert_eq!(host_hash(""), None);
    }

    #[test]
    fn damaged_models_differ_from_the_whole_one_where_they_should() {
        let whole = std::fs::read(file_of(Initrd::Tiny).unwrap().unwrap()).unwrap();
        let corrupt = std::fs::read(file_of(Initrd::Corrupt).unwrap().unwrap()).unwrap();
        assert_eq!(whole.iter().zip(&corrupt).filter(|(a, b)| a != b).count(), 1);
        let truncated = std::fs::read(file_of(Initrd::Truncated).unwrap().unwrap()).unwrap();
        assert!(whole.starts_with(&truncated) && truncated.len() < whole.len());
    }

    #[test]
    fn what_is_expected_is_looked_for() {
        let outcome = |status, text: &str| Outcome { status, text: text.to_string(), ..Outcome::default() };
        assert_eq!(good(&outcome(Some(0), "a b"), &["a", "b"]), Ok(()));
        assert!(good(&outcome(Some(0), "a b"), &["c"]).unwrap_err().contains("`c`"));
        assert!(good(&outcome(Some(1), ""), &[]).is_err());
        assert!(good(&outcome(None, ""), &[]).is_err());
    }
}
