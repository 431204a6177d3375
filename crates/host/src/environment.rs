//! Where and by what a benchmark was run: the fields that every record carries.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::failure::Failure;
use crate::model_file::ModelFile;

/// Names and values, in the order of the records.
///
/// Compiler and commit are those that this program was built by and from; `+changes` behind the commit says that
/// sources differed from it.
pub fn describe(model: Option<&ModelFile>) -> Vec<(String, String)> {
    let mut fields = vec![
        ("date", utc(SystemTime::now())),
        ("machine", processor()),
        ("platform", format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS)),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("toolchain", env!("BARELM_RUSTC").to_owned()),
        ("commit", env!("BARELM_COMMIT").to_owned()),
        ("build", if cfg!(debug_assertions) { "debug assertions" } else { "release" }.to_owned()),
        ("kernel", kernel()),
    ];
    if let Some(model) = model {
        let name = model.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let hash = Sha256::digest(model.bytes());
        fields.push(("model", name));
        fields.push(("model_sha256", hash.iter().map(|byte| format!("{byte:02x}")).collect()));
    }
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Reads `KEY:VALUE`.
///
/// # Errors
/// What is wanted instead.
pub fn given(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a name, a colon and a text are wanted".to_owned()),
    }
}

/// `fields`, and behind them what only the caller knows.
///
/// # Errors
/// A name that stands there already: what was found out is not replaced by what is said.
pub fn with_given(
    mut fields: Vec<(String, String)>,
    given: &[(String, String)],
) -> Result<Vec<(String, String)>, Failure> {
    for (key, value) in given {
        if fields.iter().any(|(name, _)| name == key) {
            return Err(Failure::Message(format!("--env {key}: the record has this field already")));
        }
        fields.push((key.clone(), value.clone()));
    }
    Ok(fields)
}

/// The processor's name as Linux tells it.
pub fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    // AArch64 kernels give numbers instead of a name.
    field("model name")
        .or_else(|| Some(format!("implementer {} part {}", field("CPU implementer")?, field("CPU part")?)))
        .unwrap_or_else(|| "unknown".to_owned())
}

/// The operating system's version, as Linux tells it.
fn kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if release.is_empty() { "unknown".to_owned() } else { release.trim().to_owned() }
}

/// Date and time in UTC, as ISO 8601 to the second.
fn utc(time: SystemTime) -> String {
    // A clock before 1970 is wrong in any case.
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day of the Gregorian calendar, of a day counted from 1970-01-01.
fn civil(mut day: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    (year, month, day + 1)
}

/// [`describe`] as a JSON object.
pub fn object(model: Option<&ModelFile>) -> Map<String, Value> {
    describe(model).into_iter().map(|(name, value)| (name, Value::String(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn the_compiler_and_the_machine_have_names() {
        let fields = describe(None);
        let value = |name: &str| &fields.iter().find(|(field, _)| field == name).expect(name).1;
        assert!(value("toolchain").starts_with("rustc "), "{}", value("toolchain"));
        assert!(!value("machine").is_empty());
        let commit = value("commit").trim_end_matches("+changes");
        let is_hash = commit.len() >= 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(is_hash || commit == "unknown", "{commit}");
    }
}
