//! Why a GGUF file was refused.

use core::fmt;

use super::{MAX_ENTRIES, ValueType};
use crate::llm::quant::GgmlType;

/// Part of a file's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// Magic, version and the two counts.
    Preamble,
    /// Keys and values.
    Metadata,
    /// Names, shapes and offsets of tensors.
    Tensors,
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Section::Preamble => "file preamble",
            Section::Metadata => "metadata",
            Section::Tensors => "tensor list",
        })
    }
}

/// The beginning of a key or tensor name, kept for messages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name {
    bytes: [u8; 47],
    len: u8,
}

impl Name {
    /// Keeps at most 47 bytes of `name`, cut between characters.
    pub fn new(name: &str) -> Self {
        let mut bytes = [0; 47];
        let mut len = name.len().min(bytes.len());
        while !name.is_char_boundary(len) {
            len -= 1;
        }
        bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
        Name { bytes, len: len as u8 }
    }

    /// What was kept.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len.into()]).expect("`new` cuts between characters")
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A name comes from the file: control characters must not reach a terminal.
        write!(f, "`{}`", self.as_str().escape_debug())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// Why a GGUF file was refused, or a question about it could not be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GgufError {
    /// The file does not begin with `GGUF`.
    Magic,
    /// A big-endian file.
    BigEndian,
    /// A version other than 2 and 3.
    Version {
        /// The version stated.
        found: u32,
    },
    /// The given bytes end inside `section`.
    Truncated {
        /// What was being read.
        section: Section,
        /// Bytes lacking for the item being read (at least; more items may follow).
        missing: u64,
    },
    /// More entries than [`MAX_ENTRIES`].
    TooMany {
        /// Metadata or tensors.
        section: Section,
        /// The count stated.
        count: u64,
    },
    /// A key, name or string value that is not UTF-8.
    NotUtf8 {
        /// Where it is.
        section: Section,
        /// Byte offset of the string in the file.
        at: u64,
    },
    /// A metadata value of a type that the format does not define.
    ValueType {
        /// Its key.
        key: Name,
    },
    /// A boolean that is neither 0 nor 1.
    Bool {
        /// Its key.
        key: Name,
    },
    /// Arrays nested deeper than any known file.
    Nested {
        /// Its key.
        key: Name,
    },
    /// A key that occurs twice.
    DuplicateKey {
        /// The key.
        key: Name,
    },
    /// A tensor name that occurs twice.
    DuplicateTensor {
        /// The name.
        tensor: Name,
    },
    /// `general.alignment` is not a power of two.
    Alignment {
        /// The alignment stated.
        found: u32,
    },
    /// A metadata value has another type than the question, or is out of range.
    WrongType {
        /// Its key.
        key: Name,
        /// What was asked for.
        expected: &'static str,
        /// What the file holds.
        found: ValueType,
    },
    /// A tensor of more than four dimensions.
    Dimensions {
        /// The tensor.
        tensor: Name,
        /// The number stated.
        n_dims: u32,
    },
    /// A tensor type that this runtime does not read.
    TensorType {
        /// The tensor.
        tensor: Name,
        /// The number of its type.
        id: u32,
    },
    /// A tensor with no elements, with too many to count, or with rows that are not whole blocks.
    Shape {
        /// The tensor.
        tensor: Name,
        /// Its type.
        ty: GgmlType,
        /// Its sizes.
        dims: [u64; 4],
    },
    /// A tensor that does not begin at a multiple of the alignment.
    Misaligned {
        /// The tensor.
        tensor: Name,
        /// The file's alignment in bytes.
        alignment: u64,
    },
    /// A tensor that reaches past the end of the file.
    PastEnd {
        /// The tensor.
        tensor: Name,
        /// Bytes lacking.
        missing: u64,
    },
    /// Two tensors that share bytes.
    Overlap {
        /// The one that begins first.
        tensor: Name,
        /// The other.
        other: Name,
    },
    /// Tensor data was asked for, but only the header was given.
    HeaderOnly {
        /// The tensor.
        tensor: Name,
    },
}

/// Names of types that exist but are not read, for the message.
fn unsupported_type(id: u32) -> &'static str {
    match id {
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16..=23 | 29 => "an IQ type",
        24..=27 => "an integer type",
        28 => "F64",
        34 | 35 => "a ternary type",
        39 => "MXFP4",
        _ => "unknown",
    }
}

impl fmt::Display for GgufError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GgufError::Magic => write!(f, "not a GGUF file: it must begin with the letters GGUF"),
            GgufError::BigEndian => write!(f, "big-endian GGUF file: convert it to little-endian first"),
            GgufError::Version { found } => {
                write!(f, "GGUF version {found}: versions 2 and 3 are read; convert the model again")
            }
            GgufError::Truncated { section, missing } => {
                write!(f, "the {section} ends at least {missing} bytes too early: fetch the file again")
            }
            GgufError::TooMany { section, count } => {
                write!(
                    f,
                    "{count} entries in the {section}: at most {MAX_ENTRIES} are read; the file is damaged"
                )
            }
            GgufError::NotUtf8 { section, at } => {
                write!(f, "the {section} has a string at byte {at} that is not UTF-8: the file is damaged")
            }
            GgufError::ValueType { key } => {
                write!(f, "metadata {key} has a type that GGUF does not define: the file is damaged")
            }
            GgufError::Bool { key } => {
                write!(f, "metadata {key} has a boolean other than 0 and 1: the file is damaged")
            }
            GgufError::Nested { key } => {
                write!(f, "metadata {key} nests arrays too deeply: the file is damaged")
            }
            GgufError::DuplicateKey { key } => {
                write!(f, "metadata {key} occurs twice: convert the model again")
            }
            GgufError::DuplicateTensor { tensor } => {
                write!(f, "tensor {tensor} occurs twice: convert the model again")
            }
            GgufError::Alignment { found } => {
                write!(f, "general.alignment is {found}: it must be a power of two; convert the model again")
            }
            GgufError::WrongType { key, expected, found } => {
                write!(f, "metadata {key} must be {expected}, not this {}", found.name())
            }
            GgufError::Dimensions { tensor, n_dims } => {
                write!(
                    f,
                    "tensor {tensor} has {n_dims} dimensions: at most 4 are possible; the file is damaged"
                )
            }
            GgufError::TensorType { tensor, id } => {
                let name = unsupported_type(*id);
                write!(
                    f,
                    "tensor {tensor} has type {id} ({name}), which is not supported; use a file in one of"
                )?;
                for (i, ty) in GgmlType::ALL.iter().enumerate() {
                    write!(f, "{} {ty}", if i == 0 { "" } else { "," })?;
                }
                Ok(())
            }
            GgufError::Shape { tensor, ty, dims } => {
                let [a, b, c, d] = dims;
                write!(f, "tensor {tensor} of type {ty} cannot have the shape {a} x {b} x {c} x {d}: ")?;
                write!(f, "rows are whole blocks of {} and sizes fit in 64 bits", ty.block_len())
            }
            GgufError::Misaligned { tensor, alignment } => {
                write!(
                    f,
                    "tensor {tensor} does not begin at a multiple of {alignment} bytes: convert the model again"
                )
            }
            GgufError::PastEnd { tensor, missing } => {
                write!(
                    f,
                    "tensor {tensor} ends {missing} bytes past the end of the file: fetch the file again"
                )
            }
            GgufError::Overlap { tensor, other } => {
                write!(f, "tensors {tensor} and {other} share bytes: convert the model again")
            }
            GgufError::HeaderOnly { tensor } => {
                write!(f, "the data of tensor {tensor} is not in memory: read the whole file first")
            }
        }
    }
}

impl core::error::Error for GgufError {}
