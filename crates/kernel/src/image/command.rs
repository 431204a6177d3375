//! What can be typed at the shell.

/// The commands, for a person.
pub const HELP: &str = "  TEXT             the model answers (so does: run TEXT)
  bench [CASE]     the benchmark suite, or the cases with CASE in their name
  hash             the logits hash of a fixed prompt, in four splits
  info             machine, model and memory
  exit             power off
Ctrl-C ends an answer, Ctrl-U erases the line, arrows bring back earlier lines.";

/// A command as typed; text borrows from the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'l> {
    /// An empty line.
    Nothing,
    /// What commands there are.
    Help,
    /// The model answers this.
    Run(&'l str),
    /// The benchmark suite, or the cases with this in their name.
    Bench(Option<&'l str>),
    /// Machine, model and memory.
    Info,
    /// The logits hash of the fixed prompt.
    Hash,
    /// Power off.
    Exit,
}

impl<'l> Command<'l> {
    /// Reads a line. What is no command is said to the model.
    pub fn parse(line: &'l str) -> Self {
        let line = line.trim();
        let (word, rest) = line.split_once(' ').map_or((line, ""), |(word, rest)| (word, rest.trim()));
        match (word, rest) {
            ("", _) => Self::Nothing,
            ("help", "") => Self::Help,
            ("info", "") => Self::Info,
            ("hash", "") => Self::Hash,
            ("exit", "") => Self::Exit,
            ("bench", "") => Self::Bench(None),
            // A case's name has no blank; anything longer is said to the model.
            ("bench", case) if !case.contains(' ') => Self::Bench(Some(case)),
            ("run", text) if !text.is_empty() => Self::Run(text),
            _ => Self::Run(line),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_stand_alone_and_all_else_is_said_to_the_model() {
        for (line, command) in [
            ("", Command::Nothing),
            ("  ", Command::Nothing),
            (" help ", Command::Help),
            ("info", Command::Info),
            ("hash", Command::Hash),
            ("exit", Command::Exit),
            ("bench", Command::Bench(None)),
            ("bench  decode", Command::Bench(Some("decode"))),
            ("bench me a cake", Command::Run("bench me a cake")),
            ("run  help ", Command::Run("help")),
            ("run", Command::Run("run")),
            ("exit the room", Command::Run("exit the room")),
            ("Hello there", Command::Run("Hello there")),
        ] {
            assert_eq!(Command::parse(line), command, "{line:?}");
        }
    }

    #[test]
    fn help_names_every_command() {
        for word in ["run", "bench", "hash", "info", "exit"] {
            assert!(HELP.contains(word), "{word}");
        }
    }
}
