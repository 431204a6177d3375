//! Space on the disk: a compiler that runs out of it says everything but that.

use std::path::Path;
use std::process::Command;

use crate::{Failure, process};

/// What a whole run of the tests writes into an empty target folder, 9700 MB, with some to spare.
const WHOLE_RUN_MB: u64 = 10_500;
/// The same where builds are not incremental: 7400 MB.
const WHOLE_RUN_ONCE_MB: u64 = 8_000;
/// With less than this a compiler's next file may not fit.
const FULL_MB: u64 = 200;

/// Megabytes that are free where `folder` lies.
///
/// # Errors
///
/// Where POSIX's `df` is missing or prints something else.
fn free_megabytes(folder: &Path) -> Result<u64, Failure> {
    // The fourth column of the line behind the heading (POSIX.1-2017, `df`, option `-P`).
    megabytes(process::command("df").arg("-Pk").arg(folder), 1, 3)
}

/// Megabytes that `folder` takes; none where it does not exist. Files with several names, of which cargo makes many, count once.
///
/// # Errors
///
/// Where POSIX's `du` is missing or prints something else.
fn used_megabytes(folder: &Path) -> Result<u64, Failure> {
    match folder.exists() {
        true => megabytes(process::command("du").arg("-sk").arg(folder), 0, 0),
        false => Ok(0),
    }
}

/// The number in this line and column of what a command prints, in units of 1024 bytes.
fn megabytes(command: &mut Command, line: usize, column: usize) -> Result<u64, Failure> {
    let text = process::read(command)?;
    parsed(&text, line, column)
        .ok_or_else(|| format!("{}: not what POSIX says it prints", process::shown(command)))
}

fn parsed(text: &str, line: usize, column: usize) -> Option<u64> {
    let kibibytes: u64 = text.lines().nth(line)?.split_whitespace().nth(column)?.parse().ok()?;
    Some(kibibytes * 1024 / 1_000_000)
}

/// Says what to do where a whole run of the tests may not fit; builds that are there already are counted.
pub fn room_for_a_whole_run() -> Result<(), Failure> {
    let folder = crate::target_folder();
    let existing = folder.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let (free, used) = (free_megabytes(existing)?, used_megabytes(&folder)?);
    let incremental = std::env::var_os("CARGO_INCREMENTAL").is_none_or(|value| value != "0");
    let needed = if incremental { WHOLE_RUN_MB } else { WHOLE_RUN_ONCE_MB }.saturating_sub(used);
    if free >= needed {
        println!("{free} MB are free at {}; a whole run may write {needed} MB more", existing.display());
        return Ok(());
    }
    Err(format!(
        "{free} MB are free at {}, and a whole run may write {needed} MB more: make room, or let CARGO_TARGET_DIR name \
         another disk{}",
        existing.display(),
        if incremental { "; CARGO_INCREMENTAL=0 takes a quarter less" } else { "" }
    ))
}

/// What to add to a failure: nothing, or that the disk is full.
pub fn remark() -> String {
    let folder = crate::target_folder();
    match free_megabytes(&folder) {
        Ok(free) if free < FULL_MB => {
            format!(" (the disk is full: {free} MB are free at {})", folder.display())
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_space_is_read_in_the_form_of_posix() {
        let text = "Filesystem     1024-blocks     Used Available Capacity Mounted on\n\
                    /dev/sda1        263174212 45678901   4000000      96% /\n";
        assert_eq!(parsed(text, 1, 3), Some(4096));
        assert_eq!(parsed("df: no such file\n", 1, 3), None);
    }

    #[test]
    fn files_of_a_folder_are_added_up_once() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(used_megabytes(&folder.path().join("none")), Ok(0));
        std::fs::create_dir(folder.path().join("a")).unwrap();
        std::fs::write(folder.path().join("a/file"), vec![1; 3_500_000]).unwrap();
        std::fs::hard_link(folder.path().join("a/file"), folder.path().join("again")).unwrap();
        // Less where the file system compresses or has not written yet.
        assert!(used_megabytes(folder.path()).unwrap() <= 4);
        assert!(free_megabytes(folder.path()).is_ok());
        assert!(free_megabytes(&folder.path().join("none")).is_err());
    }
}
