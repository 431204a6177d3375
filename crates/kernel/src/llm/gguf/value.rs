//! Metadata values: numbers, strings, and arrays of them, borrowed from the file.

use super::cursor::Cursor;
use super::{GgufError, Name};

/// Deepest nesting of arrays that is read; an array of plain values has depth 1.
const MAX_DEPTH: usize = 4;

/// Type of a metadata value, with the numbers of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs)] // the names say it
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    Str = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    /// The type with this number, if the format defines one.
    pub const fn from_id(id: u32) -> Option<Self> {
        Some(match id {
            0 => ValueType::U8,
            1 => ValueType::I8,
            2 => ValueType::U16,
            3 => ValueType::I16,
            4 => ValueType::U32,
            5 => ValueType::I32,
            6 => ValueType::F32,
            7 => ValueType::Bool,
            8 => ValueType::Str,
            9 => ValueType::Array,
            10 => ValueType::U64,
            11 => ValueType::I64,
            12 => ValueType::F64,
            _ => return None,
        })
    }

    /// A short name, such as `u32` or `string`.
    pub const fn name(self) -> &'static str {
        match self {
            ValueType::U8 => "u8",
            ValueType::I8 => "i8",
            ValueType::U16 => "u16",
            ValueType::I16 => "i16",
            ValueType::U32 => "u32",
            ValueType::I32 => "i32",
            ValueType::F32 => "f32",
            ValueType::Bool => "bool",
            ValueType::Str => "string",
            ValueType::Array => "array",
            ValueType::U64 => "u64",
            ValueType::I64 => "i64",
            ValueType::F64 => "f64",
        }
    }

    /// Bytes of one value, `None` for strings and arrays.
    const fn size(self) -> Option<u64> {
        Some(match self {
            ValueType::U8 | ValueType::I8 | ValueType::Bool => 1,
            ValueType::U16 | ValueType::I16 => 2,
            ValueType::U32 | ValueType::I32 | ValueType::F32 => 4,
            ValueType::U64 | ValueType::I64 | ValueType::F64 => 8,
            ValueType::Str | ValueType::Array => return None,
        })
    }
}

/// A metadata value.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)] // the names say it
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(&'a str),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value<'_> {
    /// Its type.
    pub const fn value_type(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::F32(_) => ValueType::F32,
            Value::Bool(_) => ValueType::Bool,
            Value::Str(_) => ValueType::Str,
            Value::Array(_) => ValueType::Array,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F64(_) => ValueType::F64,
        }
    }

    /// Its value if it is an integer of any width and not negative.
    pub fn to_u64(&self) -> Option<u64> {
        match *self {
            Value::U8(value) => Some(value.into()),
            Value::U16(value) => Some(value.into()),
            Value::U32(value) => Some(value.into()),
            Value::U64(value) => Some(value),
            Value::I8(value) => value.try_into().ok(),
            Value::I16(value) => value.try_into().ok(),
            Value::I32(value) => value.try_into().ok(),
            Value::I64(value) => value.try_into().ok(),
            _ => None,
        }
    }
}

/// An array of metadata values, all of one type, still in the file's bytes (already checked).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<'a> {
    ty: ValueType,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Type of the elements.
    pub fn element_type(&self) -> ValueType {
        self.ty
    }

    /// The elements' bytes as they stand in the file.
    pub fn raw_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The strings, as bytes (vocabularies may hold pieces that are not UTF-8); `None` for other elements.
    pub fn strings(&self) -> Option<impl Iterator<Item = &'a [u8]> + Clone + use<'a>> {
        (self.ty == ValueType::Str).then_some(Strings { bytes: self.bytes, left: self.len })
    }

    /// The floats; `None` for other elements.
    pub fn f32s(&self) -> Option<impl ExactSizeIterator<Item = f32> + Clone + use<'a>> {
        let chunks = self.bytes.as_chunks::<4>().0;
        (self.ty == ValueType::F32).then(|| chunks.iter().map(|&b| f32::from_le_bytes(b)))
    }

    /// Integers of up to 32 bits, or booleans as 0 and 1; `None` for other elements.
    ///
    /// A `u32` above `i32::MAX` keeps its bits.
    pub fn i32s(&self) -> Option<impl ExactSizeIterator<Item = i32> + Clone + use<'a>> {
        let ty = self.ty;
        let size = match ty {
            ValueType::U8 | ValueType::I8 | ValueType::Bool => 1,
            ValueType::U16 | ValueType::I16 => 2,
            ValueType::U32 | ValueType::I32 => 4,
            _ => return None,
        };
        Some(self.bytes.chunks_exact(size).map(move |b| match (ty, b) {
            (ValueType::I8, &[b]) => i32::from(b as i8),
            (_, &[b]) => i32::from(b),
            (ValueType::I16, &[a, b]) => i32::from(i16::from_le_bytes([a, b])),
            (_, &[a, b]) => i32::from(u16::from_le_bytes([a, b])),
            (_, &[a, b, c, d]) => i32::from_le_bytes([a, b, c, d]),
            _ => unreachable!("chunks are 1, 2 or 4 bytes long"),
        }))
    }
}

#[derive(Clone)]
struct Strings<'a> {
    bytes: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let (len, rest) = self.bytes.split_first_chunk::<8>()?;
        let (string, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
        self.bytes = rest;
        Some(string)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // The reader has walked every string, so the count is true.
        (self.left, Some(self.left))
    }
}

/// Reads one value of type `ty`; `key` is for messages.
pub(super) fn read<'a>(cursor: &mut Cursor<'a>, ty: ValueType, key: &str) -> Result<Value<'a>, GgufError> {
    Ok(match ty {
        ValueType::U8 => Value::U8(u8::from_le_bytes(cursor.array()?)),
        ValueType::I8 => Value::I8(i8::from_le_bytes(cursor.array()?)),
        ValueType::U16 => Value::U16(u16::from_le_bytes(cursor.array()?)),
        ValueType::I16 => Value::I16(i16::from_le_bytes(cursor.array()?)),
        ValueType::U32 => Value::U32(cursor.u32()?),
        ValueType::I32 => Value::I32(i32::from_le_bytes(cursor.array()?)),
        ValueType::F32 => Value::F32(f32::from_le_bytes(cursor.array()?)),
        ValueType::U64 => Value::U64(cursor.u64()?),
        ValueType::I64 => Value::I64(i64::from_le_bytes(cursor.array()?)),
        ValueType::F64 => Value::F64(f64::from_le_bytes(cursor.array()?)),
        ValueType::Bool => match cursor.array()? {
            [0] => Value::Bool(false),
            [1] => Value::Bool(true),
            _ => return Err(GgufError::Bool { key: Name::new(key) }),
        },
        ValueType::Str => Value::Str(cursor.str()?),
        ValueType::Array => Value::Array(read_array(cursor, key, MAX_DEPTH)?),
    })
}

fn read_array<'a>(cursor: &mut Cursor<'a>, key: &str, depth: usize) -> Result<Array<'a>, GgufError> {
    let Some(depth) = depth.checked_sub(1) else { return Err(GgufError::Nested { key: Name::new(key) }) };
    let ty = ValueType::from_id(cursor.u32()?).ok_or(GgufError::ValueType { key: Name::new(key) })?;
    let len = cursor.u64()?;
    let (all, start) = (cursor.rest(), cursor.position());
    match ty.size() {
        Some(size) => {
            // A size that overflows is larger than any file.
            cursor.bytes(len.saturating_mul(size))?;
        }
        // Every string and every array takes 8 bytes or more, so these loops end with the file.
        None if ty == ValueType::Str => {
            for _ in 0..len {
                cursor.string_bytes()?;
            }
        }
        None => {
            for _ in 0..len {
                read_array(cursor, key, depth)?;
            }
        }
    }
    let bytes = &all[..cursor.position() - start];
    if ty == ValueType::Bool && bytes.iter().any(|&b| b > 1) {
        return Err(GgufError::Bool { key: Name::new(key) });
    }
    // Each element took at least one byte of memory, so the count fits.
    Ok(Array { ty, len: len as usize, bytes })
}
