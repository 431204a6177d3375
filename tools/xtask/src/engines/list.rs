//! The engines, for a person.

use std::fmt::Write;

use super::build::greeting;
use super::{ENGINES, conformance, installed};

/// A row for each program: what it is, or what to type to get it.
pub fn table() -> String {
    let mut text = format!("{:<16} {:<24} {:>5}  {}\n", "engine", "program", "min", "state");
    for engine in ENGINES.iter() {
        let forms =
            [Some((engine.program, "", false)), engine.cuda.map(|program| (program, " --cuda", true))];
        for (program, option, cuda) in forms.into_iter().flatten() {
            let path = installed(program);
            let state = match path.is_file() {
                true => built(&path),
                false => format!("not built: cargo xtask engines build {}{option}", engine.name),
            };
            let _ =
                writeln!(text, "{:<16} {:<24} {:>5}  {state}", engine.name, program, engine.takes(cuda).0);
        }
    }
    text.push_str("\nmin: minutes to build on two idle cores\n");
    for stale in conformance::stale() {
        let _ = writeln!(text, "{stale}");
    }
    text
}

/// What a program says of itself.
fn built(path: &std::path::Path) -> String {
    match greeting(path) {
        Err(why) => format!("broken: {why}"),
        Ok(hello) => {
            let version = hello["version"].as_str().unwrap_or("of an unknown version");
            match (hello["unavailable"].as_str(), hello["crippled"].as_str()) {
                (Some(why), _) => format!("{version}, unavailable: {why}"),
                (None, Some(why)) => format!("{version}, crippled: {why}"),
                (None, None) => format!("{version}, built"),
            }
        }
    }
}
