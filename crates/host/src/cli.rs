//! The commands of `barelm` and how their arguments are read.

use std::io::Write;

use clap::{Parser, Subcommand};

use crate::commands;
use crate::failure::Failure;

/// Run, examine and measure language models in GGUF files.
#[derive(Debug, Parser)]
#[command(name = "barelm", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// One command with its arguments.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Continue or answer a prompt.
    #[cfg(feature = "llm-transformer")]
    Run(commands::run::Arguments),
    /// Show what a model file holds and how much memory it needs.
    Inspect(commands::inspect::Arguments),
    /// Turn lines of text on standard input into token ids.
    Tokenize(commands::tokenize::Arguments),
    /// Write the logits of every position of a sequence of ids.
    #[cfg(feature = "llm-transformer")]
    Logits(commands::logits::Arguments),
    /// Measure how well a model predicts a text.
    #[cfg(feature = "llm-transformer")]
    Perplexity(commands::perplexity::Arguments),
    /// Write a model file of another type.
    Quantize(commands::quantize::Arguments),
    /// Write a model file of a Hugging Face checkpoint folder.
    Convert(commands::convert::Arguments),
    /// Write a model file as a Hugging Face checkpoint folder.
    Export(commands::export::Arguments),
    /// Write a model file of a known shape with random weights.
    Synth(commands::synth::Arguments),
    /// Run the benchmark suite, or measure the speed of a model.
    ///
    /// Without an option of the list "Speed of a model" it runs the suite: many small cases and whole models, each
    /// checked. With one it measures how fast a model reads prompts (pp) and generates (tg), each beside the limit of
    /// this machine measured at the same time: `barelm bench MODEL -p 512 -n 128 -t 1,2 -d 0,4096`.
    #[cfg(feature = "llm-transformer")]
    Bench(commands::bench::Arguments),
    /// Measure how many tokens a second several sequences get together.
    #[cfg(feature = "llm-transformer")]
    Batch(commands::batch::Arguments),
    /// Show a record of a comparison as one HTML file, Markdown, CSV or a picture, or two side by side.
    #[cfg(feature = "llm-transformer")]
    Report(commands::report::Arguments),
    /// Measure ours and other engines in turns: who is faster, and how near to the machine's limits.
    #[cfg(feature = "llm-transformer")]
    Versus(commands::versus::Arguments),
    /// Measure the engines that people choose between in five scenarios, and record every sample.
    #[cfg(feature = "llm-transformer")]
    Compare(commands::compare::Arguments),
    /// Check this machine, what is installed and the engines that are built, and say what to do.
    #[cfg(feature = "llm-transformer")]
    Doctor(commands::doctor::Arguments),
}

impl Cli {
    /// Runs the command; its results go to `out`, everything else to standard error.
    pub fn run(self, out: &mut dyn Write) -> Result<(), Failure> {
        match self.command {
            #[cfg(feature = "llm-transformer")]
            Command::Run(arguments) => commands::run::run(&arguments, out),
            Command::Inspect(arguments) => commands::inspect::run(&arguments, out),
            Command::Tokenize(arguments) => commands::tokenize::run(&arguments, std::io::stdin().lock(), out),
            #[cfg(feature = "llm-transformer")]
            Command::Logits(arguments) => commands::logits::run(&arguments, out),
            #[cfg(feature = "llm-transformer")]
            Command::Perplexity(arguments) => commands::perplexity::run(&arguments, out),
            Command::Quantize(arguments) => commands::quantize::run(&arguments, out),
            Command::Convert(arguments) => commands::convert::run(&arguments, out),
            Command::Export(arguments) => commands::export::run(&arguments, out),
            Command::Synth(arguments) => commands::synth::run(&arguments, out),
            #[cfg(feature = "llm-transformer")]
            Command::Bench(arguments) => commands::bench::run(&arguments, out),
            #[cfg(feature = "llm-transformer")]
            Command::Batch(arguments) => commands::batch::run(&arguments, out),
            #[cfg(feature = "llm-transformer")]
            Command::Report(arguments) => commands::report::run(&arguments, out),
            #[cfg(feature = "llm-transformer")]
            Command::Versus(arguments) => commands::versus::run(&arguments, out),
            #[cfg(feature = "llm-transformer")]
            Command::Compare(arguments) => commands::compare::run(&arguments, out),
            #[cfg(feature = "llm-transformer")]
            Command::Doctor(arguments) => commands::doctor::run(&arguments, out),
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
