//! The commands and their arguments.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::setup::Need;
use crate::toolchain::BARE_METAL;
use crate::{
    Failure, boards, bundle, dist, engines, example, gate, logs, qemu, setup, steps, symbolize, trace, versus,
};

/// BareLM's driver: everything a person or CI runs.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List what is missing, then install it.
    Setup(setup::Arguments),
    /// Build the bare-metal image, boot it in QEMU, run the benchmark suite and let a model answer.
    Qemu(qemu::Arguments),
    /// Build the bare-metal image and print its path; with `--board` also what goes onto a board's SD card.
    Image(boards::Arguments),
    /// Build the minimal kernel of `examples`, which is not ours but takes the library, and boot it in QEMU.
    Example,
    /// Build static programs for Linux on AArch64 and x86-64 into `target/dist`, with checksums.
    Dist,
    /// Pack the engines that are built, and a script that compares them, for a machine without a network.
    Bundle(bundle::Arguments),
    /// Compare instruction counts of the suite's micro-cases with their baseline.
    Bench(gate::Arguments),
    /// Build the engines of other projects, for the comparison.
    #[command(subcommand)]
    Engines(engines::Command),
    /// Build llama.cpp, and measure ours and it in turns.
    Versus(versus::Arguments),
    /// Name functions and lines for the addresses of a failure's report.
    Symbolize(symbolize::Arguments),
    /// Let a model answer in QEMU and write where the time went, for a trace viewer.
    Trace(trace::Arguments),
    /// Decode the image's structured records.
    Logs(logs::Arguments),
    /// Run everything CI runs.
    Test(steps::Arguments),
}

impl Cli {
    /// Runs the command; gives the status to exit with.
    pub fn run(self) -> Result<ExitCode, Failure> {
        match self.command {
            Command::Setup(arguments) => setup::run(&arguments),
            Command::Qemu(arguments) => qemu::run(&arguments),
            Command::Image(arguments) => {
                setup::provide(&[Need::Target(BARE_METAL)])?;
                boards::run(&arguments).map(|()| ExitCode::SUCCESS)
            }
            Command::Example => {
                setup::provide(&setup::BOOTING)?;
                example::run()?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Dist => dist::run().map(|()| ExitCode::SUCCESS),
            Command::Bundle(arguments) => bundle::run(&arguments).map(|()| ExitCode::SUCCESS),
            Command::Bench(arguments) => gate::run(&arguments),
            Command::Engines(command) => engines::run(&command),
            Command::Versus(arguments) => versus::run(&arguments),
            Command::Symbolize(arguments) => symbolize::run(&arguments),
            Command::Trace(arguments) => trace::run(&arguments),
            Command::Logs(arguments) => logs::run(&arguments),
            Command::Test(arguments) => Ok(steps::run(&arguments)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
