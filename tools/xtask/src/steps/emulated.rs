//! Tests on an emulated CPU: NEON kernels under user-mode QEMU, small pieces under Miri.

use super::{Run, Step, Verdict};
use crate::packages::{CROSS_ROOT, Tool};
use crate::setup::Need;
use crate::toolchain::{LINUX, Toolchain};
use crate::{Failure, dist, model, process};

const NEEDS: [Need; 3] = [Need::Target(LINUX), Need::Tool(Tool::QemuUser), Need::Tool(Tool::CrossCompiler)];

/// What Miri looks at: `unsafe` code in pieces that an interpreter a thousand times slower than the CPU gets through in
/// seconds. Whole passes of a model are beyond it.
const MIRI_FILTERS: [&str; 4] = ["llm::arena", "llm::kv_cache", "llm::pool", "llm::shared"];

/// The steps on emulated CPUs.
pub fn steps() -> Vec<Step> {
    vec![
        Step::new("NEON tests", &NEEDS, |run| {
            neon(
                run,
                &[
                    "-p",
                    "barelm",
                    "--lib",
                    "--",
                    "--include-ignored",
                    "simd",
                    "operations",
                    "quant",
                    "transformer",
                ],
            )
        }),
        Step::new("NEON tests of the small image's tables", &NEEDS, |run| {
            let features = ["--no-default-features", "--features", "neon,llm-transformer"];
            neon(run, &[&["-p", "barelm", "--lib"], &features[..], &["--", "simd", "transformer"]].concat())
        }),
        Step::new("NEON logits hash", &[&NEEDS[..], &[Need::Model]].concat(), |run| {
            neon(
                run,
                &["-p", "barelm-host", "--test", "logits_hash", "--", "--include-ignored", "--nocapture"],
            )
        }),
        Step::new("suite on Linux for AArch64", &NEEDS[1..2], |_| suite().into()),
        Step::new("Miri", &[], miri),
    ]
}

/// Builds tests for Linux on AArch64 and runs them under the emulator, on a CPU that has every table's instructions.
fn neon(run: &mut Run, arguments: &[&str]) -> Verdict {
    let toolchain = match Toolchain::for_target(LINUX) {
        Ok(toolchain) => toolchain,
        Err(why) => return Verdict::Failed(why),
    };
    let mut cargo = toolchain.cargo();
    cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc");
    cargo.env(
        "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER",
        format!("qemu-aarch64 -cpu max -L {CROSS_ROOT}"),
    );
    cargo.env("BARELM_MODEL", model::path());
    cargo.args(["test", "--release", "--target", LINUX]).args(arguments);
    run.counted(&mut cargo).into()
}

/// Runs the micro-cases of the static program under the emulator; their answers are checked, no time is.
fn suite() -> Result<(), Failure> {
    dist::build(dist::AARCH64)?;
    let records = dist::folder().join("emulated.jsonl");
    let mut qemu = process::command("qemu-aarch64");
    qemu.args(["-cpu", "max"]).arg(dist::folder().join(format!("barelm-{}", dist::AARCH64.name())));
    qemu.args(["bench", "--micro", "--threads", "1", "--warmup", "1", "--iterations", "3", "--json"])
        .arg(&records);
    let ended = process::read(&mut qemu);
    let text =
        std::fs::read_to_string(&records).map_err(|error| format!("{}: {error}", records.display()))?;
    let measured = text.lines().filter(|line| line.contains("\"outcome\":\"measured\"")).count();
    println!(
        "{measured} cases measured: {}",
        if ended.is_ok() { "all lines met" } else { "emulated, so times miss" }
    );
    match text.lines().find(|line| line.contains("\"outcome\":\"failed\"")) {
        Some(failed) => Err(failed.to_string()),
        None if measured < 10 => Err(format!("{measured} cases were measured, 10 at least are there")),
        None => Ok(()),
    }
}

/// Runs small pieces under Miri, where a nightly compiler with it is installed.
fn miri(run: &mut Run) -> Verdict {
    let nightly = || {
        let mut command = process::command("rustup");
        // Set by the rustup that runs us; here they would choose our compiler again.
        for variable in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC", "RUSTDOC"] {
            command.env_remove(variable);
        }
        command.args(["run", "nightly", "cargo", "miri"]);
        command
    };
    if let Err(why) = process::read(nightly().arg("--version")) {
        return Verdict::Skipped(format!("no nightly compiler with Miri ({why})"));
    }
    if let Err(why) =
        process::read(nightly().arg("setup").env("CARGO_TARGET_DIR", crate::target_folder().join("miri")))
    {
        return Verdict::Skipped(format!("Miri cannot prepare its library ({why})"));
    }
    let mut command = nightly();
    command
        .env("CARGO_TARGET_DIR", crate::target_folder().join("miri"))
        .env("MIRIFLAGS", "-Zmiri-strict-provenance");
    command.args(["test", "-p", "barelm", "--lib", "--"]).args(MIRI_FILTERS);
    run.counted(&mut command).into()
}
