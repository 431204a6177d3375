//! Formatting, lints, documentation and tests on this machine.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use super::{Run, Step, Verdict};
use crate::engines::server::{self, Package, Server};
use crate::engines::{self, ENGINES, Engine};
use crate::packages::Tool;
use crate::setup::Need;
use crate::toolchain::{BARE_METAL, Toolchain};
use crate::{Failure, model, process};

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
    // It has servers of its own to be tested against: without one that is named, the conformance test leaves it out.
    steps.push(Step::new("engine openai", &[], |run: &mut Run| {
        let engine = Engine::named("openai").expect("it is in the table");
        run.counted(&mut engines::command(&engine.folder(), "test")).into()
    }));
    steps.push(Step::new("engine openai with llama.cpp's server", &[Need::Tool(Tool::Pip)], real_server));
    steps
}

/// What the conformance tests may take with a server; they take seconds.
const SERVER_LIMIT: Duration = Duration::from_secs(600);
/// Conformance tests, each of which must have passed.
const CONFORMANCE_TESTS: u64 = 7;
/// Requests that these tests make of a server, at least.
const SERVER_REQUESTS: usize = 20;

/// The conformance tests of `openai-bench`, and of ours beside it, with a real server behind it.
fn real_server(run: &mut Run) -> Verdict {
    match server::package() {
        Ok(Package::NotOffered(why)) => Verdict::Skipped(why),
        Ok(Package::At(package, python)) => with_server(run, &package, python).into(),
        Err(why) => Verdict::Failed(why),
    }
}

fn with_server(run: &mut Run, package: &Path, python: &str) -> Result<(), Failure> {
    let openai = Engine::named("openai").expect("it is in the table");
    engines::build(openai, false)?;
    let tests = || {
        let mut cargo = Toolchain::current().cargo();
        cargo.args(["test", "-p", "barelm-host", "--test", "engines"]);
        cargo
    };
    // Built first: the server's time is for the tests.
    process::run(tests().arg("--no-run"))?;
    let model = crate::root().join("crates/kernel/assets/tiny.gguf");
    let server = Server::start(package, python, &model, SERVER_LIMIT)?;
    println!("llama.cpp's server answers at {}, and writes {}", server.url, server.log.display());
    let mut cargo = tests();
    cargo.env("BARELM_CONFORMANCE", "barelm,openai").env("BARELM_OPENAI_URL", &server.url);
    cargo.env_remove("OPENAI_API_KEY");
    let mut program = Command::new(openai.installed());
    let hello = engines::greeting_of(program.env("BARELM_OPENAI_URL", &server.url))?;
    if hello["processes"] != json!([server.process]) {
        return Err(format!(
            "openai-bench takes {} for the server's processes, not {}",
            hello["processes"], server.process
        ));
    }
    let before = run.tally.passed;
    run.counted(&mut cargo).map_err(|why| format!("{why}; {}", server.last_words()))?;
    // The tests fail where a server that is named does not answer; that it was asked is seen in its log.
    let (passed, requests) = (run.tally.passed - before, server.requests()?);
    println!("{passed} tests passed; the server computed {requests} requests");
    if passed < CONFORMANCE_TESTS || requests < SERVER_REQUESTS {
        return Err(format!(
            "{passed} tests passed and the server computed {requests} requests: at least {CONFORMANCE_TESTS} and \
             {SERVER_REQUESTS} are there; {}",
            server.last_words()
        ));
    }
    Ok(())
}

fn cargo_step(name: &'static str, arguments: &'static [&'static str]) -> Step {
    Step::new(name, &[], move |run: &mut Run| {
        run.counted(Toolchain::current().cargo().args(arguments)).into()
    })
}
