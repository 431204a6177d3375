//! The command line `barelm`.

use std::io::{BufWriter, Write};
use std::process::ExitCode;

use barelm_host::Failure;
use barelm_host::cli::Cli;
use clap::Parser;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = BufWriter::new(std::io::stdout().lock());
    let result = cli.run(&mut out).and_then(|()| Ok(out.flush()?));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::OutputClosed) => {
            // What is still buffered has no reader; dropping the writer would only try again.
            std::mem::forget(out);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            // Keep what was written so far in front of the message; a closed output changes nothing now.
            let _ = out.flush();
            eprintln!("barelm: {failure}");
            ExitCode::FAILURE
        }
    }
}
