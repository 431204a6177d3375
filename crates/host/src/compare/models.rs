//! The models of a comparison, and exact arithmetic on their weights.

use std::path::{Path, PathBuf};

use barelm::llm::gguf::Gguf;
use barelm::llm::quant::GgmlType;
use barelm::llm::tokenizer::{Special, Tokenizer};
use barelm::llm::transformer::Logits;

use super::process::file_sha256;
use super::record::ModelId;
use crate::cache;
use crate::commands::quantize::convert;
use crate::commands::setup::{Needs, SessionArguments, available_memory, with_session};
use crate::failure::Failure;
use crate::model_file::ModelFile;
use crate::prompt::random_ids;
use crate::versus::work::Model;

/// The text whose predictions are judged.
const TEXT: &str = "In spring the river rises by a metre and carries branches past the mill. The miller opens the gate in \
the morning, listens to the wheel, and writes the level of the water into a book. On some days nobody comes; then he \
repairs the sacks, feeds the cat, and waits until the light on the far bank is gone.";
/// Ids judged at most.
const JUDGED: usize = 64;

/// A model to compare engines with.
#[derive(Clone, Debug, PartialEq)]
pub struct Subject {
    /// Its file.
    pub path: PathBuf,
    /// For records.
    pub id: ModelId,
    /// Positions of its context.
    pub positions: usize,
    /// Token ids run below this.
    pub vocab_size: usize,
    /// Ids of the text whose predictions are judged.
    pub text: Vec<u32>,
}

impl Subject {
    /// Reads a file's header, and all of it for the hash.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let refused = |error: &dyn std::fmt::Display| Failure::because(path.display(), error);
        let file = ModelFile::open(path)?;
        let gguf = file.parse()?;
        let model = Model::from_gguf(&gguf)?;
        let format = format(&gguf);
        let head = model.shape.vocab_size as u64 * model.shape.dim as u64;
        let id = ModelId {
            name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            sha256: file_sha256(path).map_err(|error| refused(&error))?,
            format: format.name().to_owned(),
            class: class(format).to_owned(),
            bytes: file.bytes().len() as u64,
            parameters: gguf
                .tensors()
                .map(|tensor| tensor.dims.iter().product::<u64>())
                .sum::<u64>()
                .max(head),
            token_bytes: model.demand.matrix_bytes as u64,
            token_elements: model.demand.elements(),
        };
        let vocab_size = model.shape.vocab_size;
        let mut text = Tokenizer::from_gguf(&gguf)
            .ok()
            .and_then(|tokenizer| {
                let ids = tokenizer.encode_to_vec(TEXT, Special::Plain).ok().filter(|ids| ids.len() >= 8)?;
                Some(tokenizer.bos().filter(|_| tokenizer.adds_bos()).into_iter().chain(ids).collect())
            })
            // A vocabulary that cannot spell it.
            .unwrap_or_else(|| random_ids(1, JUDGED, vocab_size));
        text.truncate(JUDGED.min(model.shape.context_length));
        Ok(Subject { path: path.to_owned(), id, positions: model.shape.context_length, vocab_size, text })
    }
}

/// The type of most of a file's matrices, by bytes.
fn format(gguf: &Gguf<'_>) -> GgmlType {
    let bytes = |ty: GgmlType| {
        let of_type = gguf.tensors().filter(|tensor| tensor.n_dims == 2 && tensor.ty == ty);
        // The embedding is often of another type than the layers, and says nothing of their arithmetic.
        of_type.filter(|tensor| tensor.name.starts_with("blk.")).map(|tensor| tensor.size_bytes).sum::<u64>()
    };
    GgmlType::ALL.into_iter().max_by_key(|&ty| bytes(ty)).expect("there are types")
}

/// Formats that may be compared with each other.
pub fn class(ty: GgmlType) -> &'static str {
    match ty {
        GgmlType::F32 => "f32",
        GgmlType::F16 | GgmlType::BF16 => "16-bit",
        GgmlType::Q8_0 => "8-bit",
        GgmlType::Q6_K => "6-bit",
        GgmlType::Q5_0 | GgmlType::Q5_1 | GgmlType::Q5_K => "5-bit",
        GgmlType::Q4_0 | GgmlType::Q4_1 | GgmlType::Q4_K => "4-bit",
    }
}

/// The models of a first look: the reference model as Q8_0 and F32, made in the cache where they are not there yet.
pub fn default_models(progress: &mut dyn FnMut(&str)) -> Result<Vec<PathBuf>, Failure> {
    let source = crate::model_file::reference_model_path();
    [("Q8_0", GgmlType::Q8_0), ("F32", GgmlType::F32)]
        .into_iter()
        .map(|(name, ty)| {
            let path = cache::folder().join(format!("SmolLM2-135M-Instruct.{name}.gguf"));
            if !path.is_file() {
                progress(&format!("makes {}", path.display()));
                convert(&source, &path, ty, false, &mut |_, _| {})?;
            }
            Ok(path)
        })
        .collect()
}

/// Computes sequences with F32 arithmetic on the weights of a file, whatever their type: the logits of every position.
///
/// Quantized files are widened into the cache first. Keys and values are kept in f16, as in every session.
///
/// # Errors
/// Where there is no room for the widened model.
pub fn with_exact<R>(
    subject: &Subject,
    threads: usize,
    longest: usize,
    work: impl FnOnce(&mut dyn FnMut(&[u32]) -> Result<Vec<f32>, Failure>) -> Result<R, Failure>,
) -> Result<R, Failure> {
    let wide = match subject.id.class.as_str() {
        "f32" => subject.path.clone(),
        _ => widened(subject)?,
    };
    let file = ModelFile::open(&wide)?;
    let gguf = file.parse()?;
    let threads = u16::try_from(threads).unwrap_or(u16::MAX);
    let arguments = SessionArguments { threads: Some(threads), kernels: None, batch: None };
    let needs = Needs { context: longest.max(1), window: None, logits: None };
    with_session(&file, &gguf, &arguments, needs, |session| {
        work(&mut |ids| {
            session.reset();
            let mut logits = Vec::with_capacity(ids.len() * subject.vocab_size);
            for part in ids.chunks(64) {
                let part = session.forward(part, Logits::All);
                logits.extend_from_slice(part.map_err(|error| Failure::Message(error.to_string()))?);
            }
            Ok(logits)
        })
    })
}

/// The file in F32 that has the same weights.
fn widened(subject: &Subject) -> Result<PathBuf, Failure> {
    let needed = subject.id.parameters * 4;
    let room = available_memory().unwrap_or(u64::MAX) / 2;
    if needed > room {
        return Err(Failure::Message(format!(
            "exact arithmetic needs {} MB for the weights in F32, and {} MB are free",
            needed / 1_000_000,
            room / 1_000_000
        )));
    }
    let folder = cache::folder();
    let path = folder.join(format!("exact-{}.gguf", &subject.id.sha256[..16]));
    if !path.is_file() {
        std::fs::create_dir_all(&folder).map_err(|error| Failure::because(folder.display(), error))?;
        convert(&subject.path, &path, GgmlType::F32, false, &mut |_, _| {})?;
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::versus::work::text_ids;

    fn tiny() -> Subject {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../kernel/assets/tiny.gguf");
        Subject::open(Path::new(path)).unwrap()
    }

    #[test]
    fn a_model_is_described_by_its_file() {
        let tiny = tiny();
        assert_eq!((tiny.id.format.as_str(), tiny.id.class.as_str()), ("Q8_0", "8-bit"));
        assert_eq!((tiny.positions, tiny.vocab_size, tiny.id.sha256.len()), (512, 2048, 64));
        assert!(tiny.text.len() > 8 && tiny.text.iter().all(|&id| id < 2048));
        assert!(tiny.id.token_bytes < tiny.id.bytes && tiny.id.token_elements <= tiny.id.parameters);
        let file = ModelFile::open(&tiny.path).unwrap();
        assert!(text_ids(&file.parse().unwrap(), 2048).is_ok());
    }

    #[test]
    fn exact_arithmetic_is_near_ours_and_not_the_same() {
        let tiny = tiny();
        let exact = with_exact(&tiny, 1, 64, |forward| forward(&tiny.text)).unwrap();
        assert_eq!(exact.len(), tiny.text.len() * tiny.vocab_size);
        let file = ModelFile::open(&tiny.path).unwrap();
        let gguf = file.parse().unwrap();
        let arguments = SessionArguments { threads: Some(1), kernels: None, batch: None };
        let needs = Needs { context: 64, window: None, logits: None };
        let ours = with_session(&file, &gguf, &arguments, needs, |session| {
            Ok(session.forward(&tiny.text, Logits::All).unwrap().to_vec())
        })
        .unwrap();
        let worst = ours.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // Activations of 8 bits move logits of a few units by hundredths.
        assert!((1e-4..0.5).contains(&worst), "{worst}");
    }
}
