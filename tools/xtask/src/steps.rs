//! The steps of `cargo xtask test`: each a cargo command with a verdict; a closing line sums them and their tests.

use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

/// Name and arguments to cargo.
const STEPS: &[(&str, &[&str])] = &[
    ("formatting", &["fmt", "--all", "--check"]),
    ("lints", &["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"]),
    ("tests", &["test", "--workspace"]),
    (
        "tests without simd",
        &["test", "-p", "barelm", "--no-default-features", "--features", "llm-transformer"],
    ),
    ("tests without the transformer", &["test", "-p", "barelm", "--no-default-features"]),
];

/// Counts of tests.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// Runs all steps, whatever fails, and says how it went.
pub fn run() -> ExitCode {
    let mut tally = Tally::default();
    for (name, arguments) in STEPS {
        let started = Instant::now();
        println!("==> {name}: cargo {}", arguments.join(" "));
        // Output of tests is read for its counts; the rest goes straight through.
        let output = Command::new(env!("CARGO")).args(*arguments).stderr(Stdio::inherit()).output();
        let passed = match output {
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout);
                print!("{text}");
                text.lines().for_each(|line| count(line, &mut tally));
                output.status.success()
            }
            Err(error) => {
                eprintln!("cargo does not start: {error}; install Rust with rustup");
                false
            }
        };
        let verdict = if passed { "PASS" } else { "FAIL" };
        println!("<== {name}: {verdict} in {:.1} s", started.elapsed().as_secs_f64());
        *(if passed { &mut tally.passed } else { &mut tally.failed }) += 1;
    }
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Adds the counts of a line such as `test result: ok. 7 passed; 0 failed; 1 ignored; …`.
fn count(line: &str, tally: &mut Tally) {
    let Some(counts) = line.strip_prefix("test result: ").and_then(|line| line.split_once(". ")) else {
        return;
    };
    for part in counts.1.split("; ") {
        let Some((number, what)) = part.split_once(' ') else { continue };
        let Ok(number) = number.parse::<u64>() else { continue };
        match what {
            "passed" => tally.passed += number,
            "failed" => tally.failed += number,
            "ignored" => tally.skipped += number,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_line_is_counted() {
        let mut tally = Tally::default();
        count(
            "test result: FAILED. 7 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s",
            &mut tally,
        );
        count("running 3 tests", &mut tally);
        assert_eq!((tally.passed, tally.failed, tally.skipped), (7, 2, 1));
    }
}
