//! Formatting, lints, documentation and tests on this machine.

use super::{Run, Step, Verdict};
use crate::engines::{self, ENGINES, Engine};
use crate::model;
use crate::setup::Need;
use crate::toolchain::{BARE_METAL, Toolchain};

/// Name and arguments to cargo.
const CARGO_STEPS: [(&str, &[&str]); 5] = [
    ("formatting", &["fmt", "--all", "--check"]),
    ("lints", &["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"]),
    ("tests", &["test", "--workspace", "--no-fail-fast"]),
    (
        "tests without simd",
        &["test", "-p", "barelm", "--no-default-features", "--features", "llm-transformer"],
    ),
    ("tests without the transformer", &["test", "-p", "barelm", "--no-default-features"]),
];

/// The steps of this machine.
pub fn steps() -> Vec<Step> {
    let mut steps: Vec<_> =
        CARGO_STEPS.iter().map(|&(name, arguments)| cargo_step(name, arguments)).collect();
    steps.push(Step::new(
        "lints of the image",
        &[Need::Target(BARE_METAL)],
        |run| match Toolchain::for_target(BARE_METAL) {
            Ok(toolchain) if toolchain == Toolchain::current() => {
                let mut cargo = toolchain.cargo();
                cargo.args([
                    "clippy",
                    "-p",
                    "barelm",
                    "--lib",
                    "--bin",
                    "barelm-image",
                    "--target",
                    BARE_METAL,
                ]);
                let mut small = toolchain.cargo();
                small.args(cargo.get_args()).args(["--no-default-features", "--features", "boot,neon"]);
                cargo.args(["--features", "boot"]);
                let mut images = [cargo, small].into_iter();
                images.try_for_each(|mut cargo| run.counted(cargo.args(["--", "-D", "warnings"]))).into()
            }
            Ok(_) => Verdict::Skipped("the distribution's compiler has no clippy".to_string()),
            Err(why) => Verdict::Failed(why),
        },
    ));
    steps.push(Step::new("documentation", &[], |run| {
        let mut cargo = Toolchain::current().cargo();
        cargo.env("RUSTDOCFLAGS", "-D warnings").args(["doc", "--workspace", "--no-deps", "--all-features"]);
        run.counted(&mut cargo).into()
    }));
    steps.push(Step::new("tests with the model", &[Need::Model], |run: &mut Run| {
        let mut cargo = Toolchain::current().cargo();
        cargo.env("BARELM_MODEL", model::path());
        cargo.args(["test", "--release", "--no-fail-fast", "-p", "barelm", "-p", "barelm-host"]);
        cargo.args(["--", "--include-ignored"]);
        // These have a step of their own.
        cargo.args(["--skip", super::boards::REAL_TREES]);
        run.counted(&mut cargo).into()
    }));
    steps.push(Step::new("engines", &[], |run: &mut Run| {
        let mut built = Vec::new();
        for engine in ENGINES.iter().filter(|engine| engine.in_ci) {
            if let Err(why) = engines::build(engine, false) {
                return Verdict::Failed(format!("{}: {why}", engine.name));
            }
            built.push(engine.name);
        }
        let mut cargo = Toolchain::current().cargo();
        cargo.env("BARELM_CONFORMANCE", built.join(","));
        cargo.args(["test", "-p", "barelm-host", "--test", "engines"]);
        run.counted(&mut cargo).into()
    }));
    steps.push(Step::new("engines agree", &[Need::Model], |run: &mut Run| {
        let built = ENGINES.iter().filter(|engine| engine.in_ci && engine.installed().is_file());
        let names: Vec<_> = built.map(|engine| engine.name.to_owned()).chain(["barelm".into()]).collect();
        run.counted(&mut engines::agree(&names)).into()
    }));
    // It has servers of its own to be tested against: without one, the conformance test leaves it out.
    steps.push(Step::new("engine openai", &[], |run: &mut Run| {
        let engine = Engine::named("openai").expect("it is in the table");
        run.counted(&mut engines::command(&engine.folder(), "test")).into()
    }));
    steps
}

fn cargo_step(name: &'static str, arguments: &'static [&'static str]) -> Step {
    Step::new(name, &[], move |run: &mut Run| {
        run.counted(Toolchain::current().cargo().args(arguments)).into()
    })
}
