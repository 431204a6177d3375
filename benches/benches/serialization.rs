//! File formats for weights: `cargo bench --bench serialization`, with `--features large` at the documented sizes.

use barelm_benches::serialization::{Measured, ModelSize, formats, measure};

fn main() {
    let sizes: &[(ModelSize, usize)] = if cfg!(feature = "large") {
        &[(ModelSize::TINY, 9), (ModelSize::SMALL, 5), (ModelSize::MEDIUM, 3)]
    } else {
        &[(ModelSize::TINY, 9)]
    };
    // Cargo's own arguments: as a test nothing is measured.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    for &(size, rounds) in sizes {
        let weights = size.weights();
        println!(
            "{}: vocabulary {}, width {}, {} layers; {:.1} MB of f32, {rounds} rounds, medians (least to most)",
            size.name,
            size.vocab,
            size.dim,
            size.layers,
            weights.bytes() as f64 / 1e6
        );
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        match measure(&weights, &formats::all(), rounds, folder.path()) {
            Ok(measured) => print(&measured),
            Err(error) => {
                eprintln!("{error}");
                std::process::exit(1);
            }
        }
    }
}

fn print(measured: &[Measured]) {
    println!("| format | file, MB | save, ms | load, ms | first use, ms |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    let cell = |times: &[f64]| {
        let mut times = times.to_vec();
        times.sort_by(f64::total_cmp);
        match (times.first(), times.last()) {
            (Some(least), Some(most)) => {
                let median = times[times.len() / 2];
                format!("{:.2} ({:.2} to {:.2})", median * 1e3, least * 1e3, most * 1e3)
            }
            _ => "stays in the file".to_owned(),
        }
    };
    for one in measured {
        println!(
            "| {} | {:.1} | {} | {} | {} |",
            one.name,
            one.file_bytes as f64 / 1e6,
            cell(&one.times.save),
            cell(&one.times.load),
            cell(&one.times.first_use)
        );
    }
}
