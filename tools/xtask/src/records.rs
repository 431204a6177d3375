//! The suite's records in the guest's output: lines `@record {…}`, kept from the terminal and read by the gate.

use std::collections::BTreeMap;

use serde_json::Value;

/// What a record's line opens with.
const MARK: &[u8] = b"@record ";

/// Parts a stream of bytes into text to show and records, whatever the pieces it arrives in.
#[derive(Debug)]
pub struct Splitter {
    /// The start of a line that may still become a record, or a record so far.
    held: Vec<u8>,
    /// Whether the next byte opens a line or continues `held`.
    at_start: bool,
}

impl Default for Splitter {
    fn default() -> Self {
        Self { held: Vec::new(), at_start: true }
    }
}

impl Splitter {
    /// Takes the next piece; text goes to `show` at once, whole records to `record`.
    pub fn push(&mut self, piece: &[u8], show: &mut Vec<u8>, record: &mut impl FnMut(&str)) {
        for &byte in piece {
            if !self.at_start {
                show.push(byte);
                self.at_start = byte == b'\n';
                continue;
            }
            self.held.push(byte);
            let known = self.held.len().min(MARK.len());
            if self.held[..known] != MARK[..known] {
                show.append(&mut self.held);
                self.at_start = byte == b'\n';
            } else if byte == b'\n' {
                record(String::from_utf8_lossy(&self.held[MARK.len()..]).trim_end());
                self.held.clear();
            }
        }
    }

    /// What was held when the stream ended.
    pub fn finish(self) -> Vec<u8> {
        self.held
    }
}

/// Exactly counted work of a case: what the instruction gate compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Retired instructions of all samples.
    pub instructions: u64,
    /// Calls they contain.
    pub calls: u64,
}

/// The instruction counts among `records`, by `case/table`. A record that failed is an error, and so is one without
/// a count.
pub fn counts(records: &[String]) -> Result<BTreeMap<String, Counted>, String> {
    let mut counts = BTreeMap::new();
    for text in records {
        let record: Value = serde_json::from_str(text).map_err(|error| format!("record {text}: {error}"))?;
        let word = |name: &str| record[name].as_str().unwrap_or_default();
        let case = format!("{}/{}", word("case"), word("kernels"));
        if word("outcome") != "measured" {
            return Err(format!("case {case}: {} {}", word("outcome"), word("reason")));
        }
        let number = |value: &Value, what: &str| {
            value.as_u64().ok_or_else(|| format!("case {case}: no {what}: {value}"))
        };
        let instructions = number(&record["counters"]["instructions"], "instruction count")?;
        let per_sample = number(&record["calls_per_sample"], "calls per sample")?;
        let calls = per_sample * number(&record["samples"], "samples")?;
        counts.insert(case, Counted { instructions, calls });
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_parted_from_text_in_pieces_of_any_size() {
        let stream = "boot\n@record {\"a\":1}\r\n@recor\n@@record x\n@record {\"b\":2}\nDe\u{e9}f\n@rec";
        for size in 1..stream.len() {
            let (mut splitter, mut show, mut records) = (Splitter::default(), Vec::new(), Vec::new());
            for piece in stream.as_bytes().chunks(size) {
                splitter.push(piece, &mut show, &mut |record| records.push(record.to_string()));
            }
            show.extend(splitter.finish());
            assert_eq!(String::from_utf8(show).unwrap(), "boot\n@recor\n@@record x\nDe\u{e9}f\n@rec");
            assert_eq!(records, ["{\"a\":1}", "{\"b\":2}"], "{size}");
        }
    }

    #[test]
    fn counts_are_read_and_failures_are_not_counted() {
        let record = |outcome: &str, instructions: &str| {
            vec![format!(
                "{{\"case\":\"dot\",\"kernels\":\"neon\",\"outcome\":\"{outcome}\",\"reason\":\"wrong answer\",\
                 \"calls_per_sample\":3,\"samples\":5,\"counters\":{{\"instructions\":{instructions}}}}}"
            )]
        };
        let counted = counts(&record("measured", "1234")).unwrap();
        assert_eq!(counted["dot/neon"], Counted { instructions: 1234, calls: 15 });
        assert_eq!(counts(&record("failed", "1")).unwrap_err(), "case dot/neon: failed wrong answer");
        assert!(
            counts(&record("measured", "\"not available: x\"")).unwrap_err().contains("no instruction count")
        );
        assert!(counts(&["{".to_string()]).is_err());
    }
}
