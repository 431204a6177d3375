//! How a command ends when it cannot do its work.

use std::fmt;
use std::io;

/// Why a command stopped.
#[derive(Debug)]
pub enum Failure {
    /// Whoever read our output has gone; nothing is wrong and nothing more to say.
    OutputClosed,
    /// One line for the user: what is wrong and what to do.
    Message(String),
}

impl Failure {
    /// A failure that says `what` and then the error itself.
    pub fn because(what: impl fmt::Display, error: impl fmt::Display) -> Self {
        Failure::Message(format!("{what}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutputClosed => f.write_str("the output was closed"),
            Self::Message(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Failure {}

/// Errors of writing our output; errors of files carry their path and go through [`Failure::because`].
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => Failure::because("cannot write the output", error),
        }
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Failure::Message(message)
    }
}
