//! GGUF model files: a checked reader over borrowed bytes, and a writer.
//!
//! Read in this order:
//! 1. [`Gguf`] checks a whole header once and then answers questions about it.
//! 2. [`value`] holds the metadata values, [`Array`] among them.
//! 3. [`error`] says why a file was refused.
//! 4. [`writer`] makes files: for `quantize`, for synthetic models and for tests.
//!
//! The format is described in the GGUF specification of the ggml project; versions 2 and 3, little-endian, are read.
//! Files come from strangers: every length is checked before it is used, no panic is reachable, and memory use is
//! bounded by the bytes that are really there and by [`MAX_ENTRIES`], never by a count that the file claims.
#![forbid(unsafe_code)]

use alloc::vec::Vec;

use super::quant::GgmlType;
use super::sort;
use cursor::Cursor;

mod cursor;
pub mod error;
pub mod value;
pub mod writer;

pub use error::{GgufError, Name, Section};
pub use value::{Array, Value, ValueType};
pub use writer::{DataWriter, WriteError, Writer};

/// First four bytes of every GGUF file.
pub const MAGIC: [u8; 4] = *b"GGUF";

/// Alignment of tensor data where the file does not state `general.alignment`.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// Most metadata entries, and most tensors, that a file may have.
///
/// The largest published models have a few thousand tensors and a few hundred entries.
pub const MAX_ENTRIES: u64 = 1 << 16;

/// One tensor as its header describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorInfo<'a> {
    /// Name, unique in its file.
    pub name: &'a str,
    /// Type of the elements.
    pub ty: GgmlType,
    /// Sizes, fastest-changing first: `dims[0]` is the length of a row, `dims[1]` the number of rows. Unused ones are 1.
    pub dims: [u64; 4],
    /// How many of `dims` the file states, 0 to 4.
    pub n_dims: usize,
    /// Bytes from the start of the data section.
    pub offset: u64,
    /// Bytes of data.
    pub size_bytes: u64,
}

impl TensorInfo<'_> {
    /// Number of elements. Cannot overflow: the reader has checked it.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }
}

/// A GGUF file whose header has been read and checked.
///
/// It borrows the bytes; beside them it keeps small sorted indexes, so that [`get`](Gguf::get) and
/// [`tensor`](Gguf::tensor) are binary searches.
#[derive(Clone, Debug)]
pub struct Gguf<'a> {
    bytes: &'a [u8],
    file_size: u64,
    version: u32,
    alignment: u64,
    data_offset: u64,
    metadata: Vec<(&'a str, Value<'a>)>,
    metadata_by_key: Vec<u32>,
    tensors: Vec<TensorInfo<'a>>,
    tensors_by_name: Vec<u32>,
}

impl<'a> Gguf<'a> {
    /// Reads a complete file and checks its header: every tensor lies inside the file, aligned, and overlaps no other.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, GgufError> {
        Self::parse_header(bytes, bytes.len() as u64)
    }

    /// Reads the header from `bytes`, which may stop anywhere after it, of a file that is `file_size` bytes long.
    ///
    /// The checks are those of [`parse`](Gguf::parse). [`GgufError::Truncated`] means that more bytes are needed.
    pub fn parse_header(bytes: &'a [u8], file_size: u64) -> Result<Self, GgufError> {
        let mut cursor = Cursor::new(bytes);
        cursor.section = Section::Preamble;
        if cursor.array::<4>()? != MAGIC {
            return Err(GgufError::Magic);
        }
        let version = cursor.u32()?;
        match version {
            2 | 3 => {}
            _ if matches!(version.swap_bytes(), 1..=3) => return Err(GgufError::BigEndian),
            found => return Err(GgufError::Version { found }),
        }
        let tensor_count = cursor.u64()?;
        let metadata_count = cursor.u64()?;
        for (section, count) in [(Section::Tensors, tensor_count), (Section::Metadata, metadata_count)] {
            if count > MAX_ENTRIES {
                return Err(GgufError::TooMany { section, count });
            }
        }

        cursor.section = Section::Metadata;
        let mut metadata = Vec::new();
        for _ in 0..metadata_count {
            let key = cursor.str()?;
            let ty = ValueType::from_id(cursor.u32()?).ok_or(GgufError::ValueType { key: Name::new(key) })?;
            metadata.push((key, value::read(&mut cursor, ty, key)?));
        }
        let metadata_by_key = sorted_by(&metadata, |entry| entry.0)
            .map_err(|key| GgufError::DuplicateKey { key: Name::new(key) })?;

        cursor.section = Section::Tensors;
        let mut tensors = Vec::new();
        for _ in 0..tensor_count {
            tensors.push(read_tensor(&mut cursor)?);
        }
        let tensors_by_name = sorted_by(&tensors, |tensor| tensor.name)
            .map_err(|name| GgufError::DuplicateTensor { tensor: Name::new(name) })?;

        let mut gguf = Gguf {
            bytes,
            file_size,
            version,
            alignment: DEFAULT_ALIGNMENT,
            data_offset: 0,
            metadata,
            metadata_by_key,
            tensors,
            tensors_by_name,
        };
        if let Some(alignment) = gguf.get_u32("general.alignment")? {
            if !alignment.is_power_of_two() {
                return Err(GgufError::Alignment { found: alignment });
            }
            gguf.alignment = u64::from(alignment);
        }
        // No overflow: the position is at most `isize::MAX` and the alignment at most 2^31.
        gguf.data_offset = (cursor.position() as u64).next_multiple_of(gguf.alignment);
        gguf.check_layout()?;
        Ok(gguf)
    }

    /// Every tensor is aligned, inside the file, and apart from its neighbours.
    fn check_layout(&self) -> Result<(), GgufError> {
        for tensor in &self.tensors {
            let name = Name::new(tensor.name);
            if !tensor.offset.is_multiple_of(self.alignment) {
                return Err(GgufError::Misaligned { tensor: name, alignment: self.alignment });
            }
            let end =
                self.data_offset.checked_add(tensor.offset).and_then(|at| at.checked_add(tensor.size_bytes));
            match end {
                Some(end) if end <= self.file_size => {}
                end => {
                    let missing = end.map_or(u64::MAX, |end| end - self.file_size);
                    return Err(GgufError::PastEnd { tensor: name, missing });
                }
            }
        }
        let tensor = |i: u32| &self.tensors[i as usize];
        let mut by_offset: Vec<u32> = (0..self.tensors.len() as u32).collect();
        sort::by(&mut by_offset, &|a, b| tensor(a).offset < tensor(b).offset);
        for pair in by_offset.windows(2) {
            let pair = [tensor(pair[0]), tensor(pair[1])];
            if pair[0].offset + pair[0].size_bytes > pair[1].offset {
                return Err(GgufError::Overlap {
                    tensor: Name::new(pair[0].name),
                    other: Name::new(pair[1].name),
                });
            }
        }
        Ok(())
    }

    /// Format version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Bytes before the data section, padding included: the file offset that tensor offsets count from.
    pub fn header_bytes(&self) -> u64 {
        self.data_offset
    }

    /// Alignment of every tensor, in bytes; a power of two.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// Size of the whole file in bytes, whether or not all of it was given.
    pub fn file_size(&self) -> u64 {
        self.file_size
    }

    /// Keys and values, in the file's order.
    pub fn metadata(&self) -> impl ExactSizeIterator<Item = (&'a str, Value<'a>)> + '_ {
        self.metadata.iter().copied()
    }

    /// Value of `key`, if the file has it.
    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        let at = self.metadata_by_key.binary_search_by(|&i| self.metadata[i as usize].0.cmp(key)).ok()?;
        Some(self.metadata[self.metadata_by_key[at] as usize].1)
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match convert(value) {
            Some(value) => Ok(Some(value)),
            None => Err(GgufError::WrongType { key: Name::new(key), expected, found: value.value_type() }),
        }
    }

    /// An integer of any width that fits in 32 bits unsigned; `Ok(None)` when absent.
    pub fn get_u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.typed(key, "an unsigned 32-bit integer", |value| value.to_u64()?.try_into().ok())
    }

    /// An integer of any width that is not negative; `Ok(None)` when absent.
    pub fn get_u64(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.typed(key, "an integer that is not negative", |value| value.to_u64())
    }

    /// A float (a double is rounded to single); `Ok(None)` when absent.
    pub fn get_f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.typed(key, "a float", |value| match value {
            Value::F32(value) => Some(value),
            Value::F64(value) => Some(value as f32),
            _ => None,
        })
    }

    /// A boolean; `Ok(None)` when absent.
    pub fn get_bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "a boolean", |value| match value {
            Value::Bool(value) => Some(value),
            _ => None,
        })
    }

    /// A string; `Ok(None)` when absent.
    pub fn get_str(&self, key: &str) -> Result<Option<&'a str>, GgufError> {
        self.typed(key, "a string", |value| match value {
            Value::Str(value) => Some(value),
            _ => None,
        })
    }

    /// An array of any element type; `Ok(None)` when absent.
    pub fn get_array(&self, key: &str) -> Result<Option<Array<'a>>, GgufError> {
        self.typed(key, "an array", |value| match value {
            Value::Array(value) => Some(value),
            _ => None,
        })
    }

    /// Tensors in the file's order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = TensorInfo<'a>> + '_ {
        self.tensors.iter().copied()
    }

    /// The tensor of this name, if the file has it.
    pub fn tensor(&self, name: &str) -> Option<TensorInfo<'a>> {
        let at = self.tensors_by_name.binary_search_by(|&i| self.tensors[i as usize].name.cmp(name)).ok()?;
        Some(self.tensors[self.tensors_by_name[at] as usize])
    }

    /// Number of tensors.
    pub fn tensor_count(&self) -> usize {
        self.tensors.len()
    }

    /// Bytes of a tensor; [`GgufError::HeaderOnly`] if they were not given to [`parse_header`](Gguf::parse_header).
    pub fn data(&self, tensor: &TensorInfo<'a>) -> Result<&'a [u8], GgufError> {
        let range = || {
            let start = usize::try_from(self.data_offset.checked_add(tensor.offset)?).ok()?;
            let end = start.checked_add(usize::try_from(tensor.size_bytes).ok()?)?;
            self.bytes.get(start..end)
        };
        range().ok_or(GgufError::HeaderOnly { tensor: Name::new(tensor.name) })
    }
}

/// Indexes of `items` in order of their names, or a name that occurs twice.
fn sorted_by<'a, T>(items: &[T], name: impl Fn(&T) -> &'a str) -> Result<Vec<u32>, &'a str> {
    let mut order: Vec<u32> = (0..items.len() as u32).collect();
    let name = |i: u32| name(&items[i as usize]);
    sort::by(&mut order, &|a, b| name(a) < name(b));
    match order.windows(2).find(|pair| name(pair[0]) == name(pair[1])) {
        Some(pair) => Err(name(pair[0])),
        None => Ok(order),
    }
}

fn read_tensor<'a>(cursor: &mut Cursor<'a>) -> Result<TensorInfo<'a>, GgufError> {
    let name = cursor.str()?;
    let n_dims = cursor.u32()?;
    if n_dims > 4 {
        return Err(GgufError::Dimensions { tensor: Name::new(name), n_dims });
    }
    let mut dims = [1u64; 4];
    for dim in &mut dims[..n_dims as usize] {
        *dim = cursor.u64()?;
    }
    let id = cursor.u32()?;
    let ty = GgmlType::from_id(id).ok_or(GgufError::TensorType { tensor: Name::new(name), id })?;
    let offset = cursor.u64()?;

    let shape = || GgufError::Shape { tensor: Name::new(name), ty, dims };
    let elements = dims.iter().try_fold(1u64, |n, &dim| n.checked_mul(dim));
    let elements = elements.filter(|&n| n > 0).ok_or_else(shape)?;
    if !dims[0].is_multiple_of(ty.block_len() as u64) {
        return Err(shape());
    }
    let size_bytes =
        (elements / ty.block_len() as u64).checked_mul(ty.block_bytes() as u64).ok_or_else(shape)?;
    Ok(TensorInfo { name, ty, dims, n_dims: n_dims as usize, offset, size_bytes })
}
