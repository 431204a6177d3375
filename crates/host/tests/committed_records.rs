//! The records in `benches/records`: each reads back, and what is said of it follows from it.
#![cfg(feature = "llm-transformer")]

use std::path::{Path, PathBuf};

use barelm_host::compare::record;
use barelm_host::records;
use barelm_host::report::{contents, tensors};

/// Every file of JSON lines.
fn all() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benches/records");
    let folders = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let files = folders.filter(|path| path.is_dir()).flat_map(|folder| {
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
    });
    files.filter(|path| path.extension().is_some_and(|end| end == "jsonl")).collect()
}

#[test]
fn figures_of_comparisons_follow_from_their_samples() {
    let mut count = 0;
    for path in all() {
        if path.file_name().is_some_and(|name| name == "compare.jsonl") {
            assert_eq!(
                contents::verify(&record::read(&path).unwrap()),
                [] as [String; 0],
                "{}",
                path.display()
            );
            count += 1;
        }
    }
    assert!(count > 0, "no record of a comparison");
}

#[test]
fn pages_of_tensor_operations_are_those_of_their_records() {
    let mut count = 0;
    for path in all() {
        let text = std::fs::read_to_string(&path).unwrap();
        if let Some(page) = tensors::page(&text).unwrap_or(None) {
            // Written by `barelm report RECORD --markdown PAGE`.
            let committed = std::fs::read_to_string(path.with_extension("md")).unwrap();
            assert_eq!(page.markdown(), committed, "{}", path.display());
            for record in records::read(&path).unwrap() {
                let stats = &record.result.measurement.stats;
                assert!(
                    stats.samples > 1 && stats.min > 0.0 && stats.min <= stats.median,
                    "{}",
                    path.display()
                );
                assert!(stats.median <= stats.max, "{}", path.display());
            }
            count += 1;
        }
    }
    assert!(count > 0, "no record of tensor operations");
}
