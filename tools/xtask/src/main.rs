//! The project's only driver: `cargo xtask test` runs everything CI runs.

mod steps;

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["test"] => steps::run(),
        _ => {
            eprintln!(
                "usage: cargo xtask test    formatting, lints, tests and documentation, as CI runs them"
            );
            ExitCode::from(2)
        }
    }
}
