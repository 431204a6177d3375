//! A GGUF file of a checkpoint folder.

use std::io;
use std::path::Path;

use barelm::llm::gguf::{Name, Value, WriteError, Writer};
use barelm::llm::quant::{GgmlType, QuantizeError};

use super::config::Config;
use super::names::{Pair, pairs, row_of};
use super::read_json;
use super::shards::{Shards, Source};
use super::tokenizer::Vocabulary;
use crate::failure::Failure;
use crate::quantize::{Error, Recoded, file_type, matrix_type};

/// Rows are converted in pieces of about this many elements.
const PIECE: usize = 1 << 18;

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Tensors in the file.
    pub tensors: usize,
    /// Bytes of their data.
    pub bytes: u64,
}

/// Writes the model of `folder` with matrices of type `ty` to `out`, rounded as llama.cpp rounds.
///
/// Vectors are F32; the head follows [`matrix_type`]. `pre` names the pre-tokenizer where the folder's is not one of the
/// known. `progress` is told (elements done, elements in all). After an error `out` holds an incomplete file.
///
/// # Errors
/// [`Failure::Message`] for whatever the folder lacks or holds beside, with the file's name; errors of `out` come back
/// as the second kind.
pub fn convert(
    folder: &Path,
    ty: GgmlType,
    pure: bool,
    pre: Option<&str>,
    out: &mut dyn io::Write,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report, ConvertError> {
    let place = folder.join("config.json");
    let json = read_json(folder, "config.json")?.ok_or_else(|| {
        Failure::Message(format!("{}: no such file; name the folder of a checkpoint", place.display()))
    })?;
    let config = Config::parse(&json).map_err(|why| Failure::because(place.display(), why))?;
    let shards = Shards::open(folder)?;
    let mut sources = shards.tensors()?;
    let mut tensors = Vec::new();
    for pair in pairs(&config) {
        let source = sources.remove(&pair.folder);
        let source = source.ok_or_else(|| {
            Failure::Message(format!("{}: tensor {} is missing", folder.display(), pair.folder))
        })?;
        let shape: &[usize] = if pair.vector { &pair.shape[1..] } else { &pair.shape };
        if source.shape != shape {
            return Err(Failure::Message(format!(
                "{}: tensor {} has shape {:?}, and config.json wants {shape:?}",
                folder.display(),
                pair.folder,
                source.shape
            ))
            .into());
        }
        tensors.push((pair, source));
    }
    // Frequencies are computed; a head that is the embedding may be stored a second time.
    let twice = |name: &str| config.tied && name == "lm_head.weight";
    let spare = |name: &&String| !(name.ends_with("rotary_emb.inv_freq") || twice(name));
    if let Some(name) = sources.keys().find(spare) {
        return Err(Failure::Message(format!(
            "{}: tensor {name} has no place in the file, so the model would be computed wrongly",
            folder.display()
        ))
        .into());
    }
    let vocabulary = Vocabulary::read(folder, config.vocab, pre)?;
    let name = folder
        .canonicalize()
        .ok()
        .and_then(|path| path.file_name().map(|n| n.to_string_lossy().into_owned()));
    let factors = config.rope_scaling.map(|scaling| scaling.factors(config.head_dim, config.rope_base));

    let mut writer = Writer::new();
    let file_type = file_type(ty).ok_or(Error::Type(ty))?;
    metadata(&mut writer, &config, &name.unwrap_or_default(), file_type);
    vocabulary.put(&mut writer);
    if let Some(factors) = &factors {
        writer.tensor("rope_freqs.weight", GgmlType::F32, &[factors.len() as u64])?;
    }
    for (pair, _) in &tensors {
        let [rows, k] = pair.shape.map(|size| size as u64);
        let dims = [k, rows];
        let to = written_type(&config, pair, ty, pure);
        writer.tensor(&pair.gguf, to, if pair.vector { &dims[..1] } else { &dims })?;
    }
    let mut report = Report { tensors: tensors.len() + usize::from(factors.is_some()), bytes: 0 };
    let all: u64 = tensors.iter().map(|(pair, _)| elements(pair)).sum();
    let mut done = 0;
    let mut data = writer.begin(|bytes: &[u8]| out.write_all(bytes))?;
    for factor in factors.iter().flatten() {
        data.write(&factor.to_le_bytes())?;
        report.bytes += 4;
    }
    let mut work = (Recoded::default(), Vec::new());
    for (pair, source) in &tensors {
        let to = written_type(&config, pair, ty, pure);
        let mut write = |bytes: &[u8]| {
            report.bytes += bytes.len() as u64;
            data.write(bytes)
        };
        rows(pair, source, &config, to, &mut work, &mut write)?;
        done += elements(pair);
        progress(done, all);
    }
    data.finish()?;
    Ok(report)
}

/// Why there is no file.
#[derive(Debug)]
pub enum ConvertError {
    /// The folder is not what can be converted.
    Folder(Failure),
    /// Values that the type cannot hold, or the output.
    File(Error),
}

impl From<Failure> for ConvertError {
    fn from(error: Failure) -> Self {
        Self::Folder(error)
    }
}

impl From<Error> for ConvertError {
    fn from(error: Error) -> Self {
        Self::File(error)
    }
}

impl From<WriteError<io::Error>> for ConvertError {
    fn from(error: WriteError<io::Error>) -> Self {
        Self::File(error.into())
    }
}

fn elements(pair: &Pair) -> u64 {
    pair.shape.iter().map(|&size| size as u64).product()
}

fn written_type(config: &Config, pair: &Pair, ty: GgmlType, pure: bool) -> GgmlType {
    let head = if config.tied { "token_embd.weight" } else { "output.weight" };
    match pair.vector {
        true => GgmlType::F32,
        false => matrix_type(ty, pure || pair.gguf != head, pair.shape[1] as u64),
    }
}

fn metadata(writer: &mut Writer, config: &Config, name: &str, file_type: u32) {
    let architecture = config.architecture.name();
    let key = |part: &str| format!("{architecture}.{part}");
    writer.put("general.architecture", Value::Str(architecture));
    writer.put("general.type", Value::Str("model"));
    writer.put("general.name", Value::Str(name));
    writer.put("general.quantization_version", Value::U32(2));
    writer.put("general.file_type", Value::U32(file_type));
    for (part, size) in [
        ("block_count", config.layers),
        ("context_length", config.context),
        ("embedding_length", config.dim),
        ("feed_forward_length", config.ffn),
        ("attention.head_count", config.heads),
        ("attention.head_count_kv", config.kv_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
        ("rope.dimension_count", config.head_dim),
        ("vocab_size", config.vocab),
    ] {
        writer.put(&key(part), Value::U32(size as u32));
    }
    writer.put(&key("rope.freq_base"), Value::F32(config.rope_base as f32));
    writer.put(&key("attention.layer_norm_rms_epsilon"), Value::F32(config.norm_eps as f32));
}

/// Writes a tensor in GGUF's order of rows.
fn rows(
    pair: &Pair,
    source: &Source<'_>,
    config: &Config,
    to: GgmlType,
    (recoded, gathered): &mut (Recoded, Vec<u8>),
    write: &mut dyn FnMut(&[u8]) -> Result<(), WriteError<io::Error>>,
) -> Result<(), Error> {
    let [rows, k] = pair.shape;
    let row_bytes = k * source.ty.block_bytes();
    let step = (PIECE / k).max(1);
    for first in (0..rows).step_by(step) {
        let piece = first..(first + step).min(rows);
        let bytes = if pair.interleaved_heads == 0 {
            &source.data[piece.start * row_bytes..piece.end * row_bytes]
        } else {
            gathered.clear();
            for row in piece {
                let at = row_of(row, config.head_dim) * row_bytes;
                gathered.extend_from_slice(&source.data[at..at + row_bytes]);
            }
            gathered.as_slice()
        };
        let failed = |error| Error::Values { tensor: Name::new(&pair.gguf), error };
        // What keeps its type keeps its bytes, whatever they are: look at them first.
        if let Some(index) = not_finite(source.ty, bytes).filter(|_| to == source.ty) {
            return Err(failed(QuantizeError::NotFinite { index: first * k + index }));
        }
        let written = recoded.recode(source.ty, bytes, to).map_err(failed)?;
        write(written)?;
    }
    Ok(())
}

/// The first element that is no finite number.
fn not_finite(ty: GgmlType, bytes: &[u8]) -> Option<usize> {
    // All bits of the exponent are set.
    let (size, exponent) = match ty {
        GgmlType::F32 => (4, 0x7f80),
        GgmlType::BF16 => (2, 0x7f80),
        _ => (2, 0x7c00),
    };
    let high = |element: &[u8]| u16::from_le_bytes([element[size - 2], element[size - 1]]);
    bytes.chunks_exact(size).position(|element| high(element) & exponent == exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_that_are_no_numbers_are_found() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let f32s: Vec<u8> = [1.0, value, f32::MAX].iter().flat_map(|value| value.to_le_bytes()).collect();
            assert_eq!(not_finite(GgmlType::F32, &f32s), Some(1));
            assert_eq!(not_finite(GgmlType::F32, &f32s[..4]), None);
            assert_eq!(not_finite(GgmlType::F32, &f32s[8..]), None);
            let bf16 = half::bf16::from_f32(value).to_le_bytes();
            assert_eq!(not_finite(GgmlType::BF16, &bf16), Some(0));
            let f16 = [half::f16::MAX.to_le_bytes(), half::f16::from_f32(value).to_le_bytes()].concat();
            assert_eq!(not_finite(GgmlType::F16, &f16), Some(1));
        }
    }
}
