//! The same weights in several file formats: size, time to save, to load, and to the first use.
//!
//! 1. [`Weights`] are named f32 tensors in the shape of a model.
//! 2. [`formats`] saves and loads them, a format each.
//! 3. [`measure`] takes turns: in each round every format saves, loads and is used once.
//!
//! Files lie in the page cache when they are read, and are not forced to the disk when they are written: what is measured is
//! the format, not the disk.

pub mod formats;

use std::path::Path;
use std::time::Instant;

use self::formats::Format;

/// Named f32 tensors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weights {
    /// Name, rows, row length, elements row after row.
    pub tensors: Vec<Tensor>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Rows and row length; a vector has one row.
    pub shape: [usize; 2],
    /// Row after row.
    pub values: Vec<f32>,
}

/// Sizes of a model with learned positions, an untied head and a feed-forward step of four times the width.
#[derive(Clone, Copy, Debug)]
pub struct ModelSize {
    /// What to call it.
    pub name: &'static str,
    /// Tokens.
    pub vocab: usize,
    /// Width.
    pub dim: usize,
    /// Layers.
    pub layers: usize,
}

/// Positions that the models know.
const POSITIONS: usize = 512;

impl ModelSize {
    /// Small enough for every run.
    pub const TINY: Self = Self { name: "tiny", vocab: 1000, dim: 256, layers: 4 };
    /// 193 MiB of weights.
    pub const SMALL: Self = Self { name: "small", vocab: 5000, dim: 768, layers: 6 };
    /// 656 MiB of weights.
    pub const MEDIUM: Self = Self { name: "medium", vocab: 10_000, dim: 1024, layers: 12 };

    /// Random weights, the same ones each time.
    pub fn weights(self) -> Weights {
        let dim = self.dim;
        let mut shapes =
            vec![("embedding".to_owned(), [self.vocab, dim]), ("positions".to_owned(), [POSITIONS, dim])];
        for layer in 0..self.layers {
            for (part, shape) in [
                ("norm1", [1, dim]),
                ("query", [dim, dim]),
                ("key", [dim, dim]),
                ("value", [dim, dim]),
                ("output", [dim, dim]),
                ("norm2", [1, dim]),
                ("up", [4 * dim, dim]),
                ("down", [dim, 4 * dim]),
            ] {
                shapes.push((format!("layers.{layer}.{part}"), shape));
            }
        }
        shapes.push(("norm".to_owned(), [1, dim]));
        shapes.push(("head".to_owned(), [self.vocab, dim]));
        let mut state = 1u64;
        let mut value = || {
            // Knuth's multiplier; the upper bits are random enough that no format finds a pattern.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * 0.05
        };
        let tensors = shapes.into_iter().map(|(name, shape)| {
            let values = (0..shape[0] * shape[1]).map(|_| value()).collect();
            Tensor { name, shape, values }
        });
        Weights { tensors: tensors.collect() }
    }
}

impl Weights {
    /// Bytes of all elements.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| 4 * tensor.values.len() as u64).sum()
    }
}

/// A format's times in seconds, one of each round.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// From weights in memory to a complete file.
    pub save: Vec<f64>,
    /// From the file's name to all elements in memory of their own; none for what is only mapped.
    pub load: Vec<f64>,
    /// From the file's name to the sum of the last row of the head.
    pub first_use: Vec<f64>,
}

/// What a format showed.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The format.
    pub name: &'static str,
    /// Bytes of its file.
    pub file_bytes: u64,
    /// Its times.
    pub times: Times,
}

/// Saves and loads `weights` in each format, in turns.
///
/// # Errors
/// What a format says, or that it lost a bit: its answers are compared in the first round.
pub fn measure(
    weights: &Weights,
    formats: &[&dyn Format],
    rounds: usize,
    folder: &Path,
) -> Result<Vec<Measured>, String> {
    let mut measured: Vec<Measured> = formats
        .iter()
        .map(|format| Measured { name: format.name(), file_bytes: 0, times: Times::default() })
        .collect();
    let head = weights.tensors.last().ok_or("no weights")?;
    let expected: f32 = head.values[head.values.len() - head.shape[1]..].iter().sum();
    for round in 0..rounds {
        for (format, measured) in formats.iter().zip(&mut measured) {
            let said = |what: &str, error: String| format!("{}: {what}: {error}", format.name());
            let path = folder
                .join(format!("weights.{}", format.name().replace(|c: char| !c.is_alphanumeric(), "-")));
            let start = Instant::now();
            format.save(weights, &path).map_err(|error| said("save", error))?;
            measured.times.save.push(start.elapsed().as_secs_f64());
            measured.file_bytes =
                std::fs::metadata(&path).map_err(|error| said("file", error.to_string()))?.len();
            if format.loads() {
                let start = Instant::now();
                let loaded = format.load(&path).map_err(|error| said("load", error))?;
                measured.times.load.push(start.elapsed().as_secs_f64());
                if round == 0 && !same(&loaded, weights) {
                    return Err(said("load", "the weights are not those that were saved".into()));
                }
            }
            let start = Instant::now();
            let sum = format.first_use(&path, &head.name).map_err(|error| said("first use", error))?;
            measured.times.first_use.push(start.elapsed().as_secs_f64());
            if sum.to_bits() != expected.to_bits() {
                return Err(said("first use", format!("the sum is {sum}, not {expected}")));
            }
            std::fs::remove_file(&path).map_err(|error| said("file", error.to_string()))?;
        }
    }
    Ok(measured)
}

/// Whether both hold the same bits, in whatever order.
fn same(loaded: &Weights, saved: &Weights) -> bool {
    let sorted = |weights: &Weights| {
        let mut order: Vec<usize> = (0..weights.tensors.len()).collect();
        order.sort_by(|&a, &b| weights.tensors[a].name.cmp(&weights.tensors[b].name));
        order
    };
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    loaded.tensors.len() == saved.tensors.len()
        && sorted(loaded).into_iter().zip(sorted(saved)).all(|(a, b)| {
            let (a, b) = (&loaded.tensors[a], &saved.tensors[b]);
            (&a.name, a.shape, bits(&a.values)) == (&b.name, b.shape, bits(&b.values))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_documents() {
        // 193 and 656 "MB" of weights as F32, counted in MiB.
        for (size, mib) in [(ModelSize::SMALL, 193), (ModelSize::MEDIUM, 656)] {
            let (dim, vocab) = (size.dim as u64, size.vocab as u64);
            let elements =
                (2 * vocab + POSITIONS as u64) * dim + size.layers as u64 * (12 * dim * dim + 2 * dim) + dim;
            assert_eq!((4 * elements) >> 20, mib - 1 + u64::from(mib == 656), "{}", size.name);
        }
    }

    #[test]
    fn every_format_keeps_every_bit() {
        let size = ModelSize { name: "test", vocab: 10, dim: 8, layers: 2 };
        let mut weights = size.weights();
        // Numbers that a text might lose.
        for (at, value) in
            [f32::MIN_POSITIVE, 1e-45, f32::MAX, -0.0, 0.1, 16_777_217.0].into_iter().enumerate()
        {
            weights.tensors[0].values[at] = value;
        }
        let folder = tempfile::tempdir().unwrap();
        let all = formats::all();
        let measured = measure(&weights, &all, 2, folder.path()).unwrap();
        assert_eq!(measured.len(), all.len());
        for measured in &measured {
            assert!(measured.file_bytes >= weights.bytes() / 2, "{}", measured.name);
            assert_eq!(measured.times.save.len(), 2);
            assert_eq!(measured.times.first_use.len(), 2);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        let weights = ModelSize { name: "test", vocab: 10, dim: 8, layers: 1 }.weights();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        for format in formats::all() {
            format.save(&weights, &path).unwrap();
            let whole = std::fs::read(&path).unwrap();
            for length in [0, 1, 8, whole.len() / 2] {
                std::fs::write(&path, &whole[..length]).unwrap();
                assert!(!format.loads() || format.load(&path).is_err(), "{} at {length}", format.name());
                assert!(format.first_use(&path, "head").is_err(), "{} at {length}", format.name());
            }
        }
    }
}
