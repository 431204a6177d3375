//! Faults on request, as a table: each is raised in a boot of its own, and its report is compared with what it should
//! say, its calls named by `cargo xtask symbolize`.

use std::time::Duration;

use super::{BOOTING, Run, Step};
use crate::boot_words::BootWords;
use crate::guest::{Boot, Console, Outcome};
use crate::qemu::DEFAULT_CPU;
use crate::symbolize::Symbols;
use crate::{Failure, process};

/// A fault and its report.
#[derive(Clone, Copy, Debug)]
struct Case {
    /// As `fault=` takes it.
    name: &'static str,
    /// Boot words besides.
    words: &'static [(&'static str, &'static str)],
    /// `-M`.
    machine: &'static str,
    /// The guest's exit status.
    status: i32,
    /// What the report says, in this order.
    says: &'static [&'static str],
    /// A function that must be among the calls, if calls are to be shown.
    among: Option<&'static str>,
}

/// The statuses, as the image's `report` module has them.
const REFUSED: i32 = 1;
const PANICKED: i32 = 101;
const EXCEPTION: i32 = 102;
const STUCK: i32 = 103;

/// Seconds that the watchdog is told in these boots.
const WATCHDOG: &[(&str, &str)] = &[("watchdog", "2")];

/// Every exception's report has these.
const REGISTERS: &[&str] = &["ESR 0x", "ELR 0x", "FAR 0x", "x0 ", "x30", "sp  0x"];

const EXCEPTION_CASE: Case =
    Case { name: "", words: &[], machine: "virt", status: EXCEPTION, says: &[], among: Some("raise (") };

const CASES: &[Case] = &[
    Case {
        name: "data-abort",
        says: &[
            "fault on core 0 at boot step `",
            "data abort",
            "reading from 0x7ffffff000: nothing is mapped there",
        ],
        ..EXCEPTION_CASE
    },
    Case {
        name: "instruction-abort",
        says: &["instruction abort", "executing at 0x7ffffff000", "outside the image"],
        among: Some("jump ("),
        ..EXCEPTION_CASE
    },
    Case {
        name: "alignment",
        says: &["alignment fault", "misaligned"],
        among: Some("exclusive_unaligned ("),
        ..EXCEPTION_CASE
    },
    Case { name: "undefined", says: &["undefined instruction"], ..EXCEPTION_CASE },
    Case { name: "serror", machine: "virt,virtualization=on", says: &["SError"], ..EXCEPTION_CASE },
    Case {
        name: "stack",
        says: &["fault on core 0", "writing to", "guard page: a stack overflow", "times more"],
        among: Some("descend ("),
        ..EXCEPTION_CASE
    },
    Case {
        name: "core-stack",
        says: &["fault on core 1", "writing to", "guard page: a stack overflow", "times more"],
        among: Some("descend ("),
        ..EXCEPTION_CASE
    },
    Case { name: "write-text", says: &["data abort", "writing to", "not allowed there"], ..EXCEPTION_CASE },
    Case {
        name: "execute-data",
        says: &["instruction abort", "executing at", "not allowed there"],
        ..EXCEPTION_CASE
    },
    Case {
        name: "heap",
        status: REFUSED,
        says: &["error on core 0", "not enough memory: 16777216 bytes asked for", "-m"],
        ..EXCEPTION_CASE
    },
    Case {
        name: "arena",
        status: REFUSED,
        says: &["error at boot step", "short by 64 bytes"],
        among: None,
        ..EXCEPTION_CASE
    },
    Case {
        name: "panic",
        status: PANICKED,
        says: &["panic on core 0 at boot step `", "panicked at", "asked for by name"],
        ..EXCEPTION_CASE
    },
    Case {
        name: "core-panic",
        status: PANICKED,
        says: &["panic on core 1 at boot step `", "panicked at", "asked for by name"],
        among: Some("core_main ("),
        ..EXCEPTION_CASE
    },
    Case {
        name: "model",
        words: &[("checksum", "1")],
        status: REFUSED,
        says: &["checksum of the packed weights: ", "changed a bit at 0x", "the model in memory has changed"],
        among: None,
        ..EXCEPTION_CASE
    },
    Case {
        name: "stuck",
        words: WATCHDOG,
        status: STUCK,
        says: &["watchdog on core 0 at boot step `", "core 0 is stuck: no sign of life for 2."],
        among: Some("spin"),
        ..EXCEPTION_CASE
    },
    Case {
        name: "stuck-masked",
        words: WATCHDOG,
        status: STUCK,
        says: &[
            "watchdog on core 0",
            "core 1 is stuck: no sign of life for 3.0 s, and it takes no interrupts",
        ],
        among: None,
        ..EXCEPTION_CASE
    },
    Case {
        name: "deadlock",
        words: WATCHDOG,
        status: STUCK,
        says: &["watchdog on core", "all cores wait for each other in a job, for 2."],
        among: Some("wait ("),
        ..EXCEPTION_CASE
    },
];

/// Time for a boot and its fault, the watchdog's two seconds among it: some seconds in all, unless others work here too.
const LIMIT: Duration = Duration::from_secs(300);

/// One step for each fault.
pub fn steps() -> Vec<Step> {
    CASES
        .iter()
        .map(|case| Step::new(format!("fault: {}", case.name), &BOOTING, |run| judge(case, run).into()))
        .collect()
}

fn judge(case: &Case, run: &Run) -> Result<(), Failure> {
    let mut words = BootWords::default();
    let fixed = [("suite", "off"), ("tokens", "0"), ("model", "embedded"), ("fault", case.name)];
    for (key, value) in fixed.iter().chain(case.words) {
        words = words.with(key, value);
    }
    let image = run.image()?;
    let boot = Boot {
        kernel: image.raw.clone(),
        initrd: None,
        words: words.as_str().to_string(),
        machine: case.machine.to_string(),
        cpu: DEFAULT_CPU.to_string(),
        cores: 2,
        memory: "512M".to_string(),
        icount: false,
        limit: LIMIT,
        ..Boot::default()
    };
    println!("{}", process::shown(&boot.command(Console::Kept)));
    let outcome = boot.run(Console::Kept)?;
    let symbols = Symbols::open(&image.elf)?;
    compare(case, &outcome, &symbols)
        .map_err(|why| format!("{why}; {}\n{}", outcome.ending(), outcome.last_lines(40)))
}

/// Whether the report is the fault's.
fn compare(case: &Case, outcome: &Outcome, symbols: &Symbols) -> Result<(), Failure> {
    if outcome.status != Some(case.status) {
        return Err(format!("wanted exit status {}", case.status));
    }
    in_order(&outcome.text, case.says)?;
    if case.status == EXCEPTION {
        in_order(&outcome.text, REGISTERS)?;
    }
    let Some(function) = case.among else { return Ok(()) };
    let mut named = Vec::new();
    for line in outcome.text.lines() {
        if !symbols.annotate(line, &mut named).map_err(|error| error.to_string())? {
            return Err("the report is of another build".to_string());
        }
    }
    let named = String::from_utf8_lossy(&named);
    let calls = named.split_once("calls, youngest first").ok_or("no calls are shown")?.1;
    match calls.contains(function) {
        true => Ok(()),
        false => Err(format!("`{function}` is not among the calls:{calls}")),
    }
}

/// Whether all texts are there, one behind the other.
fn in_order(text: &str, wanted: &[&str]) -> Result<(), Failure> {
    let mut rest = text;
    for part in wanted {
        rest =
            rest.split_once(part).ok_or_else(|| format!("`{part}` was not printed, or not in its place"))?.1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_looked_for_in_order() {
        assert_eq!(in_order("a b c", &["a", "c"]), Ok(()));
        assert!(in_order("a b c", &["c", "a"]).unwrap_err().contains("`a`"));
        assert!(in_order("a", &["a", "a"]).is_err());
    }
}
