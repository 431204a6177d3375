//! Running other programs.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::Failure;

/// The program's file, if the search path has it.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// A command at the root of the workspace.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(crate::root()).stdin(Stdio::null());
    command
}

/// The command as a person would type it.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,:=+@%^".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_string()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Runs a command whose output goes straight through.
pub fn run(command: &mut Command) -> Result<(), Failure> {
    let status = command.status().map_err(|error| format!("{}: {error}", shown(command)))?;
    if status.success() { Ok(()) } else { Err(format!("{}: {status}", shown(command))) }
}

/// Runs a command and gives its standard output; its errors go into the failure.
pub fn read(command: &mut Command) -> Result<String, Failure> {
    let output = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| format!("{}: {error}", shown(command)))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last: Vec<_> = said.lines().rev().filter(|line| !line.trim().is_empty()).take(4).collect();
    let last: Vec<_> = last.into_iter().rev().collect();
    Err(format!("{}: {}: {}", shown(command), output.status, last.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_as_typed() {
        let mut command = Command::new("qemu");
        command.args(["-m", "1G", "-append", "a b='c'"]);
        assert_eq!(shown(&command), r"qemu -m 1G -append 'a b='\''c'\'''");
    }

    #[test]
    fn failures_name_command_status_and_last_words() {
        let failure = read(command("sh").args(["-c", "echo no; echo why >&2; exit 3"])).unwrap_err();
        assert!(
            failure.starts_with("sh -c 'echo no; echo why >&2; exit 3': exit status: 3: why"),
            "{failure}"
        );
        assert_eq!(read(command("sh").args(["-c", "echo yes"])).unwrap(), "yes\n");
    }
}
