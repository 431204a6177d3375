//! The formats: safetensors copied and mapped, GGUF mapped, JSON, and a binary form of serde's data model.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use barelm::llm::gguf::{Gguf, WriteError, Writer};
use barelm::llm::quant::GgmlType;
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, View, serialize_to_file};
use serde::{Deserialize, Serialize};

use super::{Tensor, Weights};

/// A file format for weights.
pub trait Format {
    /// Its name, and how it is read.
    fn name(&self) -> &'static str;

    /// Writes a file.
    ///
    /// # Errors
    /// As the format's library says them.
    fn save(&self, weights: &Weights, path: &Path) -> Result<(), String>;

    /// Whether [`Self::load`] is measured: not where elements stay in the file.
    fn loads(&self) -> bool {
        true
    }

    /// All elements in memory of their own.
    ///
    /// # Errors
    /// A file that is damaged or cannot be read.
    fn load(&self, path: &Path) -> Result<Weights, String>;

    /// Opens the file, and adds up the last row of a matrix. What reads only whole files loads all of it.
    ///
    /// # Errors
    /// A file that is damaged or cannot be read, or has no such matrix.
    fn first_use(&self, path: &Path, matrix: &str) -> Result<f32, String> {
        let weights = self.load(path)?;
        let matrix = weights.tensors.iter().find(|tensor| tensor.name == matrix).ok_or("no such matrix")?;
        Ok(matrix.values[matrix.values.len() - matrix.shape[1]..].iter().sum())
    }
}

/// All of them.
pub fn all() -> [&'static dyn Format; 5] {
    [&Safetensors, &SafetensorsMapped, &GgufMapped, &Postcard, &Json]
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn mapped(path: &Path) -> Result<Mmap, String> {
    let file = File::open(path).map_err(said)?;
    // SAFETY: the file is the measurement's own, in a folder of its own, and nobody writes to it while it is mapped.
    unsafe { Mmap::map(&file) }.map_err(said)
}

fn f32s(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes))
}

fn bytes_of(values: &[f32]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        // SAFETY: every f32 is four bytes without padding, and any alignment serves bytes.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) };
        Cow::Borrowed(bytes)
    } else {
        Cow::Owned(values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }
}

/// `safetensors`, read into memory and copied out of it.
struct Safetensors;

struct TensorView<'a> {
    tensor: &'a Tensor,
}

impl View for TensorView<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        bytes_of(&self.tensor.values)
    }

    fn data_len(&self) -> usize {
        4 * self.tensor.values.len()
    }
}

fn shape_of(shape: &[usize]) -> Result<[usize; 2], String> {
    shape.try_into().map_err(|_| format!("shape {shape:?}"))
}

fn last_row(bytes: &[u8], row: usize) -> Result<f32, String> {
    let from = bytes.len().checked_sub(4 * row).ok_or("fewer elements than a row")?;
    Ok(f32s(&bytes[from..]).sum())
}

fn sum_of_safetensors(file: &[u8], matrix: &str) -> Result<f32, String> {
    let view = SafeTensors::deserialize(file).map_err(said)?;
    let tensor = view.tensor(matrix).map_err(said)?;
    last_row(tensor.data(), shape_of(tensor.shape())?[1])
}

impl Format for Safetensors {
    fn name(&self) -> &'static str {
        "safetensors, read"
    }

    fn save(&self, weights: &Weights, path: &Path) -> Result<(), String> {
        let views = weights.tensors.iter().map(|tensor| (tensor.name.as_str(), TensorView { tensor }));
        serialize_to_file(views, None, path).map_err(said)
    }

    fn load(&self, path: &Path) -> Result<Weights, String> {
        let file = std::fs::read(path).map_err(said)?;
        let view = SafeTensors::deserialize(&file).map_err(said)?;
        let tensors = view.iter().map(|(name, tensor)| {
            let shape = shape_of(tensor.shape())?;
            Ok(Tensor { name: name.to_owned(), shape, values: f32s(tensor.data()).collect() })
        });
        Ok(Weights { tensors: tensors.collect::<Result<_, String>>()? })
    }

    fn first_use(&self, path: &Path, matrix: &str) -> Result<f32, String> {
        sum_of_safetensors(&std::fs::read(path).map_err(said)?, matrix)
    }
}

/// `safetensors`, elements used in the mapped file.
struct SafetensorsMapped;

impl Format for SafetensorsMapped {
    fn name(&self) -> &'static str {
        "safetensors, mapped"
    }

    fn save(&self, weights: &Weights, path: &Path) -> Result<(), String> {
        Safetensors.save(weights, path)
    }

    fn loads(&self) -> bool {
        false
    }

    fn load(&self, path: &Path) -> Result<Weights, String> {
        Safetensors.load(path)
    }

    fn first_use(&self, path: &Path, matrix: &str) -> Result<f32, String> {
        sum_of_safetensors(&mapped(path)?, matrix)
    }
}

/// GGUF by the runtime's own reader and writer, elements used in the mapped file.
struct GgufMapped;

impl Format for GgufMapped {
    fn name(&self) -> &'static str {
        "GGUF, mapped"
    }

    fn save(&self, weights: &Weights, path: &Path) -> Result<(), String> {
        let mut file = File::create(path).map_err(said)?;
        let mut writer = Writer::new();
        for tensor in &weights.tensors {
            let [rows, k] = tensor.shape.map(|size| size as u64);
            let declared: Result<(), WriteError<std::io::Error>> =
                writer.tensor(&tensor.name, GgmlType::F32, &[k, rows]);
            declared.map_err(said)?;
        }
        let mut data = writer.begin(|bytes: &[u8]| file.write_all(bytes)).map_err(said)?;
        for tensor in &weights.tensors {
            data.write(&bytes_of(&tensor.values)).map_err(said)?;
        }
        data.finish().map_err(said)
    }

    fn loads(&self) -> bool {
        true
    }

    fn load(&self, path: &Path) -> Result<Weights, String> {
        let file = mapped(path)?;
        let gguf = Gguf::parse(&file).map_err(said)?;
        let tensors = gguf.tensors().map(|tensor| {
            let values = f32s(gguf.data(&tensor).map_err(said)?).collect();
            let shape = [tensor.dims[1] as usize, tensor.dims[0] as usize];
            Ok(Tensor { name: tensor.name.to_owned(), shape, values })
        });
        Ok(Weights { tensors: tensors.collect::<Result<_, String>>()? })
    }

    fn first_use(&self, path: &Path, matrix: &str) -> Result<f32, String> {
        let file = mapped(path)?;
        let gguf = Gguf::parse(&file).map_err(said)?;
        let tensor = gguf.tensor(matrix).ok_or("no such matrix")?;
        last_row(gguf.data(&tensor).map_err(said)?, tensor.dims[0] as usize)
    }
}

/// A model as serde sees it.
#[derive(Serialize, Deserialize)]
struct Tree<'a>(BTreeMap<Cow<'a, str>, Leaf<'a>>);

#[derive(Serialize, Deserialize)]
struct Leaf<'a> {
    shape: [usize; 2],
    values: Cow<'a, [f32]>,
}

fn tree(weights: &Weights) -> Tree<'_> {
    let leaves = weights.tensors.iter().map(|tensor| {
        let leaf = Leaf { shape: tensor.shape, values: Cow::Borrowed(&tensor.values[..]) };
        (Cow::Borrowed(tensor.name.as_str()), leaf)
    });
    Tree(leaves.collect())
}

fn weights(tree: Tree<'_>) -> Weights {
    let tensors = tree.0.into_iter().map(|(name, leaf)| Tensor {
        name: name.into_owned(),
        shape: leaf.shape,
        values: leaf.values.into_owned(),
    });
    Weights { tensors: tensors.collect() }
}

/// serde's data model, written compactly by `postcard`.
struct Postcard;

impl Format for Postcard {
    fn name(&self) -> &'static str {
        "postcard (serde, binary)"
    }

    fn save(&self, weights: &Weights, path: &Path) -> Result<(), String> {
        let out = BufWriter::with_capacity(1 << 20, File::create(path).map_err(said)?);
        postcard::to_io(&tree(weights), out).map_err(said)?.flush().map_err(said)
    }

    fn load(&self, path: &Path) -> Result<Weights, String> {
        let file = std::fs::read(path).map_err(said)?;
        postcard::from_bytes(&file).map(weights).map_err(said)
    }
}

/// serde's data model as text.
struct Json;

impl Format for Json {
    fn name(&self) -> &'static str {
        "JSON (serde)"
    }

    fn save(&self, weights: &Weights, path: &Path) -> Result<(), String> {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path).map_err(said)?);
        serde_json::to_writer(&mut out, &tree(weights)).map_err(said)?;
        out.flush().map_err(said)
    }

    fn load(&self, path: &Path) -> Result<Weights, String> {
        // From memory: three times as fast as from a reader.
        let mut text = Vec::new();
        BufReader::new(File::open(path).map_err(said)?).read_to_end(&mut text).map_err(said)?;
        serde_json::from_slice(&text).map(weights).map_err(said)
    }
}
