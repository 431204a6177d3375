//! Writes GGUF files, version 3: metadata and tensor list first, then the tensors' data in the same order.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::{Array, DEFAULT_ALIGNMENT, MAGIC, Name, Value, ValueType};
use crate::llm::quant::GgmlType;

/// A GGUF header in the making.
///
/// ```
/// use barelm::llm::gguf::{Gguf, Value, Writer};
/// use barelm::llm::quant::GgmlType;
///
/// let mut writer = Writer::new();
/// writer.put("general.name", Value::Str("two numbers"));
/// writer.tensor("x", GgmlType::F32, &[2])?;
/// let mut file = Vec::new();
/// let mut data = writer.begin(|bytes: &[u8]| { file.extend_from_slice(bytes); Ok::<(), ()>(()) })?;
/// data.write(&1.5f32.to_le_bytes())?;
/// data.write(&2.5f32.to_le_bytes())?;
/// data.finish()?;
/// assert_eq!(Gguf::parse(&file).unwrap().tensor("x").unwrap().elements(), 2);
/// # Ok::<(), barelm::llm::gguf::WriteError<()>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Writer {
    metadata: Vec<u8>,
    metadata_count: u64,
    alignment: u64,
    tensors: Vec<Tensor>,
}

#[derive(Clone, Debug)]
struct Tensor {
    name: String,
    ty: GgmlType,
    dims: Vec<u64>,
    size_bytes: u64,
}

/// Why a file could not be written; `E` is the error of whatever takes the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteError<E> {
    /// The bytes could not be stored.
    Sink(E),
    /// A shape with more than four dimensions, with none of something, or without whole blocks in a row.
    Shape {
        /// The tensor.
        tensor: Name,
        /// Its type.
        ty: GgmlType,
    },
    /// Data ended before every tensor had its bytes, or went on afterwards.
    Length {
        /// Bytes that the header promised, padding included.
        expected: u64,
        /// Bytes given, padding included.
        given: u64,
    },
}

impl<E: fmt::Display> fmt::Display for WriteError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WriteError::Sink(error) => write!(f, "the file could not be written: {error}"),
            WriteError::Shape { tensor, ty } => {
                write!(f, "tensor {tensor} of type {ty} needs 1 to 4 dimensions and rows of whole blocks ")?;
                write!(f, "(a multiple of {}); choose another type", ty.block_len())
            }
            WriteError::Length { expected, given } => {
                write!(f, "the tensors take {expected} bytes, but {given} were given")
            }
        }
    }
}

impl<E: fmt::Debug + fmt::Display> core::error::Error for WriteError<E> {}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

impl Writer {
    /// An empty file, aligned to 32 bytes.
    pub fn new() -> Self {
        Writer { metadata: Vec::new(), metadata_count: 0, alignment: DEFAULT_ALIGNMENT, tensors: Vec::new() }
    }

    fn entry(&mut self, key: &str, ty: ValueType) {
        string(&mut self.metadata, key.as_bytes());
        self.metadata.extend((ty as u32).to_le_bytes());
        self.metadata_count += 1;
    }

    fn array(&mut self, key: &str, ty: ValueType, len: usize) {
        self.entry(key, ValueType::Array);
        self.metadata.extend((ty as u32).to_le_bytes());
        self.metadata.extend((len as u64).to_le_bytes());
    }

    /// Adds a metadata entry. Keys must differ; `general.alignment`, a `U32` power of two, sets the file's alignment.
    pub fn put(&mut self, key: &str, value: Value<'_>) {
        if let (Value::U32(alignment), "general.alignment") = (value, key) {
            assert!(alignment.is_power_of_two(), "alignment {alignment} is not a power of two");
            self.alignment = alignment.into();
        }
        self.entry(key, value.value_type());
        let out = &mut self.metadata;
        match value {
            Value::U8(value) => out.push(value),
            Value::I8(value) => out.push(value as u8),
            Value::U16(value) => out.extend(value.to_le_bytes()),
            Value::I16(value) => out.extend(value.to_le_bytes()),
            Value::U32(value) => out.extend(value.to_le_bytes()),
            Value::I32(value) => out.extend(value.to_le_bytes()),
            Value::F32(value) => out.extend(value.to_le_bytes()),
            Value::Bool(value) => out.push(value.into()),
            Value::Str(value) => string(out, value.as_bytes()),
            Value::U64(value) => out.extend(value.to_le_bytes()),
            Value::I64(value) => out.extend(value.to_le_bytes()),
            Value::F64(value) => out.extend(value.to_le_bytes()),
            Value::Array(value) => copy_array(out, &value),
        }
    }

    /// Adds an array of strings.
    pub fn put_strings<S: AsRef<[u8]>>(&mut self, key: &str, values: &[S]) {
        self.array(key, ValueType::Str, values.len());
        for value in values {
            string(&mut self.metadata, value.as_ref());
        }
    }

    /// Adds an array of floats.
    pub fn put_f32s(&mut self, key: &str, values: &[f32]) {
        self.array(key, ValueType::F32, values.len());
        self.metadata.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }

    /// Adds an array of integers.
    pub fn put_i32s(&mut self, key: &str, values: &[i32]) {
        self.array(key, ValueType::I32, values.len());
        self.metadata.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }

    /// Adds a tensor to the list; names must differ. `dims[0]` is the length of a row.
    ///
    /// Data follows in the order of these calls.
    pub fn tensor<E>(&mut self, name: &str, ty: GgmlType, dims: &[u64]) -> Result<(), WriteError<E>> {
        let size = || {
            let elements = dims.iter().try_fold(1u64, |n, &dim| n.checked_mul(dim))?;
            let whole =
                dims.first()?.is_multiple_of(ty.block_len() as u64) && dims.len() <= 4 && elements > 0;
            (elements / ty.block_len() as u64).checked_mul(ty.block_bytes() as u64).filter(|_| whole)
        };
        let size_bytes = size().ok_or(WriteError::Shape { tensor: Name::new(name), ty })?;
        self.tensors.push(Tensor { name: name.into(), ty, dims: dims.into(), size_bytes });
        Ok(())
    }

    /// Gives the header to `sink` and returns what takes the tensors' data.
    pub fn begin<E, S>(self, mut sink: S) -> Result<DataWriter<S>, WriteError<E>>
    where
        S: FnMut(&[u8]) -> Result<(), E>,
    {
        let mut header = Vec::from(MAGIC);
        header.extend(3u32.to_le_bytes());
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend(self.metadata_count.to_le_bytes());
        header.extend(&self.metadata);
        let mut offset = 0u64;
        for tensor in &self.tensors {
            string(&mut header, tensor.name.as_bytes());
            header.extend((tensor.dims.len() as u32).to_le_bytes());
            header.extend(tensor.dims.iter().flat_map(|dim| dim.to_le_bytes()));
            header.extend((tensor.ty as u32).to_le_bytes());
            header.extend(offset.to_le_bytes());
            let end = offset
                .checked_add(tensor.size_bytes)
                .and_then(|end| end.checked_next_multiple_of(self.alignment));
            offset = end.ok_or(WriteError::Shape { tensor: Name::new(&tensor.name), ty: tensor.ty })?;
        }
        let padding = (header.len() as u64).next_multiple_of(self.alignment) - header.len() as u64;
        header.resize(header.len() + padding as usize, 0);
        sink(&header).map_err(WriteError::Sink)?;
        let sizes = self.tensors.iter().rev().map(|tensor| tensor.size_bytes).collect();
        Ok(DataWriter {
            sink,
            left_of_tensor: 0,
            sizes,
            alignment: self.alignment,
            expected: offset,
            given: 0,
        })
    }
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn copy_array(out: &mut Vec<u8>, array: &Array<'_>) {
    out.extend((array.element_type() as u32).to_le_bytes());
    out.extend((array.len() as u64).to_le_bytes());
    out.extend_from_slice(array.raw_bytes());
}

/// Takes the data of the tensors, in order, in pieces of any size that do not cross tensors, and pads between them.
pub struct DataWriter<S> {
    sink: S,
    /// Sizes of the tensors not begun, last first.
    sizes: Vec<u64>,
    left_of_tensor: u64,
    alignment: u64,
    expected: u64,
    given: u64,
}

impl<S> fmt::Debug for DataWriter<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataWriter").field("expected", &self.expected).field("given", &self.given).finish()
    }
}

impl<S> DataWriter<S> {
    /// Adds bytes to the current tensor; the next tensor begins when it is full.
    pub fn write<E>(&mut self, bytes: &[u8]) -> Result<(), WriteError<E>>
    where
        S: FnMut(&[u8]) -> Result<(), E>,
    {
        if self.left_of_tensor == 0 && !bytes.is_empty() {
            self.left_of_tensor = self.sizes.pop().unwrap_or(0);
        }
        self.given += bytes.len() as u64;
        let Some(left) = self.left_of_tensor.checked_sub(bytes.len() as u64) else {
            return Err(WriteError::Length { expected: self.expected, given: self.given });
        };
        (self.sink)(bytes).map_err(WriteError::Sink)?;
        self.left_of_tensor = left;
        if left == 0 {
            let zeros = [0; 64];
            let mut padding = self.given.next_multiple_of(self.alignment) - self.given;
            self.given += padding;
            while padding > 0 {
                let now = padding.min(zeros.len() as u64);
                (self.sink)(&zeros[..now as usize]).map_err(WriteError::Sink)?;
                padding -= now;
            }
        }
        Ok(())
    }

    /// Checks that every tensor has had its bytes.
    pub fn finish<E>(self) -> Result<(), WriteError<E>>
    where
        S: FnMut(&[u8]) -> Result<(), E>,
    {
        if self.given == self.expected {
            return Ok(());
        }
        Err(WriteError::Length { expected: self.expected, given: self.given })
    }
}
