//! Makes a model file of another type, with llama.cpp's choice of a type for every tensor and its rounding.
//!
//! [`tensor_type`] is the choice:
//! - Tensors of fewer than two dimensions, norms, and whatever is not called `….weight` stay as they are.
//! - F16, BF16 and F32 make every matrix that type; so does `pure` with any type.
//! - With a quantized type, the matrix that gives the logits (`output.weight`, or `token_embd.weight` where the head is
//!   tied to it) becomes Q8_0. llama.cpp does so for Q8_0 always, and for the smaller types where the row is not a multiple of
//!   256; where it is, llama.cpp chooses Q6_K, which this program does not make. Q8_0 is then the more exact and slightly larger choice;
//!   [`Report::q8_0_for_q6_k`] says that it was taken.
//! - A matrix whose rows are not whole blocks becomes F16.
//! - A tensor that has the type already keeps its bytes.

use std::fmt;
use std::io;

use barelm::llm::gguf::{Gguf, GgufError, Name, TensorInfo, Value, WriteError, Writer};
use barelm::llm::quant::{GgmlType, QuantizeError, check_scales, dequantize, quantize as quantize_blocks};

/// Rows are converted in pieces of about this many elements.
const PIECE: usize = 1 << 18;

/// Why a file could not be converted.
#[derive(Debug)]
pub enum Error {
    /// The input was refused.
    Gguf(GgufError),
    /// The output could not be written.
    Write(WriteError<io::Error>),
    /// Files of this type are not made.
    Type(GgmlType),
    /// A tensor's values could not be quantized.
    Values {
        /// The tensor.
        tensor: Name,
        /// What is wrong with them; the index counts from the start of the tensor.
        error: QuantizeError,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Gguf(error) => error.fmt(f),
            Error::Write(error) => error.fmt(f),
            Error::Type(ty) => QuantizeError::Type { ty: *ty }.fmt(f),
            Error::Values { tensor, error } => write!(f, "tensor {tensor}: {error}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<GgufError> for Error {
    fn from(error: GgufError) -> Self {
        Error::Gguf(error)
    }
}

impl From<WriteError<io::Error>> for Error {
    fn from(error: WriteError<io::Error>) -> Self {
        Error::Write(error)
    }
}

/// What a conversion did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Tensors in the file.
    pub tensors: usize,
    /// Tensors whose type changed.
    pub converted: usize,
    /// Matrices that became F16 because their rows are not whole blocks of the type.
    pub f16_for_width: usize,
    /// Whether the head became Q8_0 where llama.cpp would have made it Q6_K.
    pub q8_0_for_q6_k: bool,
    /// Bytes of tensor data read and written, without padding.
    pub bytes_in: u64,
    /// See `bytes_in`.
    pub bytes_out: u64,
}

/// The type that `tensor` of `input` gets in a file of type `ty`.
pub fn tensor_type(input: &Gguf<'_>, tensor: &TensorInfo<'_>, ty: GgmlType, pure: bool) -> GgmlType {
    let head = if input.tensor("output.weight").is_some() { "output.weight" } else { "token_embd.weight" };
    if is_matrix(tensor.name, tensor.n_dims) {
        matrix_type(ty, pure || tensor.name != head, tensor.dims[0])
    } else {
        tensor.ty
    }
}

/// Whether a tensor is one of the matrices that take a file's type.
pub fn is_matrix(name: &str, n_dims: usize) -> bool {
    n_dims >= 2 && name.ends_with("weight") && !name.ends_with("_norm.weight")
}

/// The type of a matrix with rows of `row` elements in a file of type `ty`; `body` is false for the head, unless it is to be
/// like the others.
pub fn matrix_type(ty: GgmlType, body: bool, row: u64) -> GgmlType {
    let chosen = if ty.is_quantized() && !body { GgmlType::Q8_0 } else { ty };
    if row.is_multiple_of(chosen.block_len() as u64) { chosen } else { GgmlType::F16 }
}

/// The number that llama.cpp gives a file in `general.file_type`; `None` for types that are not made.
pub fn file_type(ty: GgmlType) -> Option<u32> {
    Some(match ty {
        GgmlType::F32 => 0,
        GgmlType::F16 => 1,
        GgmlType::Q4_0 => 2,
        GgmlType::Q4_1 => 3,
        GgmlType::Q8_0 => 7,
        GgmlType::Q5_0 => 8,
        GgmlType::Q5_1 => 9,
        GgmlType::BF16 => 32,
        GgmlType::Q4_K | GgmlType::Q5_K | GgmlType::Q6_K => return None,
    })
}

/// Writes `input` as a file of type `ty` to `out`; `progress` is told (bytes of tensor data read, bytes in all).
///
/// Metadata are copied, but for `general.file_type` and `general.quantization_version`. Memory use is a few MiB beside the input.
/// After an error `out` holds an incomplete file: the caller should write beside the destination and rename.
pub fn quantize(
    input: &Gguf<'_>,
    ty: GgmlType,
    pure: bool,
    out: &mut dyn io::Write,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report, Error> {
    let file_type = file_type(ty).ok_or(Error::Type(ty))?;
    let mut writer = Writer::new();
    for (key, value) in input.metadata() {
        if !matches!(key, "general.file_type" | "general.quantization_version") {
            writer.put(key, value);
        }
    }
    writer.put("general.quantization_version", Value::U32(2));
    writer.put("general.file_type", Value::U32(file_type));

    let mut report = Report { tensors: input.tensor_count(), ..Report::default() };
    for tensor in input.tensors() {
        let to = tensor_type(input, &tensor, ty, pure);
        writer.tensor(tensor.name, to, &tensor.dims[..tensor.n_dims.max(1)])?;
        report.converted += usize::from(to != tensor.ty);
        report.f16_for_width += usize::from(to == GgmlType::F16 && ty != GgmlType::F16 && to != tensor.ty);
        let small_head = to == GgmlType::Q8_0 && ty != GgmlType::Q8_0 && to != tensor.ty;
        report.q8_0_for_q6_k |= small_head && tensor.dims[0].is_multiple_of(256);
        report.bytes_in += tensor.size_bytes;
    }

    let mut data = writer.begin(|bytes: &[u8]| out.write_all(bytes))?;
    let mut done = 0;
    let mut recoded = Recoded::default();
    for tensor in input.tensors() {
        let to = tensor_type(input, &tensor, ty, pure);
        let source = input.data(&tensor)?;
        let failed = |error| Error::Values { tensor: Name::new(tensor.name), error };
        // Whole blocks of both types: 256 is a multiple of every block length.
        let piece = PIECE / tensor.ty.block_len() * tensor.ty.block_bytes();
        for (i, source) in source.chunks(piece).enumerate() {
            let written =
                recoded.recode(tensor.ty, source, to).map_err(|error| failed(shifted(error, i * PIECE)))?;
            data.write(written)?;
            report.bytes_out += written.len() as u64;
            done += source.len() as u64;
            progress(done, report.bytes_in);
        }
    }
    data.finish()?;
    Ok(report)
}

/// Room for a piece of a tensor in another type.
#[derive(Default)]
pub struct Recoded {
    values: Vec<f32>,
    bytes: Vec<u8>,
}

impl Recoded {
    /// `source`, whole blocks of type `from` and of `to`, as type `to`; the same bytes where these are one.
    ///
    /// # Errors
    /// Values that are not finite, or too large for the type.
    pub fn recode<'a>(
        &'a mut self,
        from: GgmlType,
        source: &'a [u8],
        to: GgmlType,
    ) -> Result<&'a [u8], QuantizeError> {
        if from == to {
            return Ok(source);
        }
        check_scales(from, source)
            .map_err(|bad| QuantizeError::NotFinite { index: bad.block * from.block_len() })?;
        let elements = source.len() / from.block_bytes() * from.block_len();
        self.values.resize(elements, 0.0);
        dequantize(from, source, &mut self.values);
        self.bytes.resize(to.row_bytes(elements).expect("whole blocks, as the caller owes"), 0);
        quantize_blocks(to, &self.values, &mut self.bytes)?;
        Ok(&self.bytes)
    }
}

/// The same error with its index counted from `offset` elements earlier.
fn shifted(error: QuantizeError, offset: usize) -> QuantizeError {
    match error {
        QuantizeError::NotFinite { index } => QuantizeError::NotFinite { index: index + offset },
        QuantizeError::OutOfRange { index } => QuantizeError::OutOfRange { index: index + offset },
        QuantizeError::Type { ty } => QuantizeError::Type { ty },
    }
}
