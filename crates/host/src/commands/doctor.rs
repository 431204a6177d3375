//! `barelm doctor`: checks the machine and what is installed on it.

use std::io::Write;

use clap::Args;

use crate::compare::registry::folders;
use crate::doctor::{Places, examine};
use crate::failure::Failure;

/// Arguments of `barelm doctor`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// One JSON object a line.
    #[arg(long)]
    pub json: bool,
}

/// Prints each check as it is made; a fault is a failure.
pub fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let here = std::env::current_exe().map_err(|error| Failure::because("this program's file", error))?;
    let places = Places::here(folders(here.parent()));
    let mut count = [0; 3];
    let mut written = Ok(());
    examine(&places, &mut |check| {
        count[check.verdict as usize] += 1;
        let line = match arguments.json {
            true => serde_json::to_string(&check).expect("checks are texts"),
            false => check.to_string(),
        };
        // After the first that fails the rest is not written.
        if written.is_ok() {
            written = writeln!(out, "{line}").and_then(|()| out.flush());
        }
    });
    written?;
    let [fine, notes, faults] = count;
    if !arguments.json {
        writeln!(out, "\n{fine} in order, {notes} to know, {faults} fault(s)")?;
    }
    match faults {
        0 => Ok(()),
        _ => Err(Failure::Message(format!("{faults} fault(s), each with what to do behind its arrow"))),
    }
}
