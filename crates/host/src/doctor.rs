//! `barelm doctor`: whether this machine and what is installed on it are fit for good figures, and what to do if not.
//!
//! 1. [`Check`] is one finding: fine, worth knowing, or a fault, each with what to do about it.
//! 2. `system` looks at the machine as Linux describes it: processors, memory, neighbors, counters, GPU.
//! 3. `equipment` looks at what is ours and what engines there are; [`examine`] does all of it.

mod equipment;
mod system;

use std::fmt;

use serde::Serialize;

pub use equipment::Places;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Fine,
    /// Something is missing or makes figures worse; all else works.
    Note,
    /// Results would be wrong, or nothing would run.
    Fault,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at, in a word or two.
    pub of: String,
    /// How it ended.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it; empty where nothing need be done.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

impl Check {
    fn fine(of: &str, found: impl Into<String>) -> Self {
        Check { of: of.into(), verdict: Verdict::Fine, found: found.into(), remedy: String::new() }
    }

    fn note(of: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Check { of: of.into(), verdict: Verdict::Note, found: found.into(), remedy: remedy.into() }
    }

    fn fault(of: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Check { verdict: Verdict::Fault, ..Check::note(of, found, remedy) }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Fine => "ok",
            Verdict::Note => "note",
            Verdict::Fault => "FAULT",
        };
        write!(f, "{:<16} {verdict:<6} {}", self.of, self.found)?;
        if !self.remedy.is_empty() {
            write!(f, "\n{:24}-> {}", "", self.remedy)?;
        }
        Ok(())
    }
}

/// Makes all checks; each is handed to `tell` as soon as it is made. Takes some seconds, more with engines that are slow to start.
pub fn examine(places: &Places, tell: &mut dyn FnMut(Check)) {
    system::examine(tell);
    equipment::examine(places, tell);
}
