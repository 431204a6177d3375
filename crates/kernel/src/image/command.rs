//! What can be typed at the shell.

/// The commands, for a person.
pub const HELP: &str = "  TEXT             the model answers (so does: run TEXT)
  chat             a conversation that remembers; Ctrl-D or /end leaves it
  set [NAME VALUE] how answers are made: temperature, top_k, seed, tokens ...
  bench [CASE]     the benchmark suite, or the cases with CASE in their name
  perf [CASE]      the micro-cases with every event that this processor counts
  trace [TEXT]     an answer, and where the time of each step of it went
  hash             the logits hash of a fixed prompt, in four splits
  info             machine, model and settings
  mem              what memory is mapped as, and who uses it
  selftest         kernels against the scalar ones, the model against its checksum
  selftest fault NAME   raise a fault and end with its report
  reboot           start again
  off              power off (so does: exit)
Ctrl-C ends an answer. Arrows, Home and End move; up and down bring back earlier lines.";

/// A command as typed; text borrows from the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'l> {
    /// An empty line.
    Nothing,
    /// What commands there are.
    Help,
    /// The model answers this.
    Run(&'l str),
    /// A conversation begins.
    Chat,
    /// A setting changes.
    Set(&'l str, &'l str),
    /// The settings.
    Settings,
    /// The benchmark suite, or the cases with this in their name.
    Bench(Option<&'l str>),
    /// The micro-cases, or those with this in their name, with events counted.
    Perf(Option<&'l str>),
    /// An answer to this, with its steps timed.
    Trace(Option<&'l str>),
    /// Machine, model and settings.
    Info,
    /// Memory.
    Memory,
    /// The logits hash of the fixed prompt.
    Hash,
    /// Kernels and model.
    SelfTest,
    /// A fault of this name.
    Fault(&'l str),
    /// Start again.
    Reboot,
    /// Power off.
    Off,
}

impl<'l> Command<'l> {
    /// Reads a line. What is no command is said to the model.
    pub fn parse(line: &'l str) -> Self {
        let line = line.trim();
        let split =
            |text: &'l str| text.split_once(' ').map_or((text, ""), |(word, rest)| (word, rest.trim()));
        let (word, rest) = split(line);
        match (word, rest) {
            ("", _) => Self::Nothing,
            ("help", "") => Self::Help,
            ("info", "") => Self::Info,
            ("mem", "") => Self::Memory,
            ("hash", "") => Self::Hash,
            ("chat", "") => Self::Chat,
            ("set", "") => Self::Settings,
            ("set", setting) => match split(setting) {
                // A name alone, or more than a name and a value, is a sentence, unless it misses only its value.
                (name, value) if !value.contains(' ') => Self::Set(name, value),
                _ => Self::Run(line),
            },
            ("selftest", "") => Self::SelfTest,
            ("selftest", what) => match split(what) {
                ("fault", name) => Self::Fault(name),
                _ => Self::Run(line),
            },
            ("reboot", "") => Self::Reboot,
            ("exit" | "off", "") => Self::Off,
            ("trace", "") => Self::Trace(None),
            ("trace", text) => Self::Trace(Some(text)),
            ("bench", "") => Self::Bench(None),
            ("perf", "") => Self::Perf(None),
            // A case's name has no blank; anything longer is said to the model.
            ("bench", case) if !case.contains(' ') => Self::Bench(Some(case)),
            ("perf", case) if !case.contains(' ') => Self::Perf(Some(case)),
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
            ("mem", Command::Memory),
            ("hash", Command::Hash),
            ("chat", Command::Chat),
            ("chat with me", Command::Run("chat with me")),
            ("exit", Command::Off),
            ("off", Command::Off),
            ("reboot", Command::Reboot),
            ("bench", Command::Bench(None)),
            ("bench  decode", Command::Bench(Some("decode"))),
            ("bench me a cake", Command::Run("bench me a cake")),
            ("perf dot", Command::Perf(Some("dot"))),
            ("trace", Command::Trace(None)),
            ("trace the lines", Command::Trace(Some("the lines"))),
            ("set", Command::Settings),
            ("set  top_k  3 ", Command::Set("top_k", "3")),
            ("set top_k", Command::Set("top_k", "")),
            ("set the table for two", Command::Run("set the table for two")),
            ("selftest", Command::SelfTest),
            ("selftest fault  panic", Command::Fault("panic")),
            ("selftest fault", Command::Fault("")),
            ("selftest is over", Command::Run("selftest is over")),
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
        for word in [
            "run", "chat", "set", "bench", "perf", "trace", "hash", "info", "mem", "selftest", "fault",
            "reboot", "off", "exit",
        ] {
            assert!(HELP.contains(word), "{word}");
        }
    }
}
