//! A Llama-architecture model: its shape and its weights, borrowed from the file.
//!
//! Tensor names and metadata keys are those of llama.cpp's GGUF files (`blk.N.attn_q.weight`, `llama.block_count`).

use alloc::vec::Vec;
use core::fmt;

use super::gguf::{Gguf, GgufError, TensorInfo};
use super::kv_cache::MAX_HEAD_DIM;
use super::quant::{self, GgmlType};
use super::tensor::Matrix;

mod packing;

pub use packing::PackError;
pub(crate) use packing::packed_bytes;

/// A tensor of the architecture, by its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorName {
    /// The layer, or `None` for the tensors around them.
    pub layer: Option<usize>,
    /// The rest of the name, such as `attn_q.weight`.
    pub part: &'static str,
}

impl fmt::Display for TensorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.layer {
            Some(layer) => write!(f, "blk.{layer}.{}", self.part),
            None => f.write_str(self.part),
        }
    }
}

/// Why a model file was refused.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelError {
    /// The file itself is wrong.
    Gguf(GgufError),
    /// The file is of another architecture than Llama.
    Architecture,
    /// A metadata key that every model of this architecture has is missing.
    MissingKey(&'static str),
    /// A metadata value is zero, too large, or does not fit the others.
    BadValue {
        /// Which key.
        key: &'static str,
        /// What it says.
        value: u64,
    },
    /// A feature of the file that this runtime does not compute.
    Unsupported(&'static str),
    /// A tensor is missing.
    MissingTensor(TensorName),
    /// The file has tensors that the architecture does not use, so it would be computed wrongly.
    UnknownTensors {
        /// How many.
        count: usize,
    },
    /// A tensor's dimensions are not what the metadata says.
    WrongShape {
        /// Which tensor.
        tensor: TensorName,
        /// Expected row length and rows.
        expected: [u64; 2],
        /// Found row length and rows.
        found: [u64; 2],
    },
    /// A tensor holds a scale that is infinite or not a number.
    NonFinite {
        /// Which tensor.
        tensor: TensorName,
        /// The block, counted from its start.
        block: usize,
    },
    /// [`LoadConfig::allow_quantized`] is false and a tensor is quantized.
    Quantized(TensorName),
}

impl From<GgufError> for ModelError {
    fn from(error: GgufError) -> Self {
        ModelError::Gguf(error)
    }
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gguf(error) => error.fmt(f),
            Self::Architecture => {
                f.write_str("general.architecture is not `llama`; choose a Llama-architecture GGUF (Llama, SmolLM2, TinyLlama …)")
            }
            Self::MissingKey(key) => write!(f, "the metadata has no `{key}`; the file is incomplete, convert it again"),
            Self::BadValue { key, value } => write!(f, "`{key}` is {value}, which cannot be; convert the file again"),
            Self::Unsupported(what) => write!(f, "the model uses {what}, which this runtime does not compute"),
            Self::MissingTensor(name) => write!(f, "tensor `{name}` is missing; the file is incomplete, fetch it again"),
            Self::UnknownTensors { count } => write!(
                f,
                "{count} tensors do not belong to the Llama architecture (biases or experts?); the model would be computed wrongly"
            ),
            Self::WrongShape { tensor, expected, found } => write!(
                f,
                "tensor `{tensor}` is {} x {} where the metadata asks for {} x {}; the file is damaged",
                found[0], found[1], expected[0], expected[1]
            ),
            Self::NonFinite { tensor, block } => {
                write!(f, "tensor `{tensor}` has a non-finite scale in block {block}; the file is damaged, fetch it again")
            }
            Self::Quantized(name) => {
                write!(f, "tensor `{name}` is quantized and LoadConfig::allow_quantized is false; allow it, or load an F16 or F32 file")
            }
        }
    }
}

impl core::error::Error for ModelError {}

/// How to load.
#[derive(Clone, Copy, Debug)]
pub struct LoadConfig {
    /// Accept quantized weights (default). Without: only F32, F16 and BF16 files.
    pub allow_quantized: bool,
    /// Read every weight once and refuse non-finite scales (default). Without, only vectors are checked, and
    /// [`Model::packed_by`] checks matrices as it packs them.
    pub check_weights: bool,
}

impl Default for LoadConfig {
    fn default() -> Self {
        LoadConfig { allow_quantized: true, check_weights: true }
    }
}

/// The sizes of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Transformer layers.
    pub n_layers: usize,
    /// Width of the residual stream.
    pub dim: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Width of the feed-forward step.
    pub ffn_dim: usize,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Positions the model was trained for.
    pub context_length: usize,
    /// Elements of a head that are rotated (even, at most `head_dim`).
    pub rope_dim: usize,
    /// Base of the rotation frequencies.
    pub rope_base: f32,
    /// Added to the mean square in every norm.
    pub norm_eps: f32,
}

impl Shape {
    /// Reads the sizes from metadata and the embedding's dimensions; needs the header only.
    pub fn from_gguf(gguf: &Gguf<'_>) -> Result<Self, ModelError> {
        if gguf.get_str("general.architecture")?.is_none_or(|name| name != "llama") {
            return Err(ModelError::Architecture);
        }
        let optional = |key: &'static str, limit: usize| match gguf.get_u32(key)? {
            None => Ok(None),
            Some(value) if value == 0 || value as usize > limit => {
                Err(ModelError::BadValue { key, value: value.into() })
            }
            Some(value) => Ok(Some(value as usize)),
        };
        let size = |key, limit| optional(key, limit)?.ok_or(ModelError::MissingKey(key));
        let n_layers = size("llama.block_count", 1 << 10)?;
        let dim = size("llama.embedding_length", 1 << 16)?;
        let n_heads = size("llama.attention.head_count", 1 << 10)?;
        let n_kv_heads = optional("llama.attention.head_count_kv", 1 << 10)?.unwrap_or(n_heads);
        let ffn_dim = size("llama.feed_forward_length", 1 << 18)?;
        let context_length = size("llama.context_length", 1 << 30)?;
        if n_heads % n_kv_heads != 0 {
            return Err(ModelError::BadValue {
                key: "llama.attention.head_count_kv",
                value: n_kv_heads as u64,
            });
        }
        let key_length = "llama.attention.key_length";
        let head_dim = match optional(key_length, MAX_HEAD_DIM)? {
            Some(head_dim) => head_dim,
            None if dim % n_heads == 0 => dim / n_heads,
            None => {
                return Err(ModelError::BadValue {
                    key: "llama.attention.head_count",
                    value: n_heads as u64,
                });
            }
        };
        if head_dim > MAX_HEAD_DIM || head_dim % 2 != 0 {
            return Err(ModelError::BadValue { key: key_length, value: head_dim as u64 });
        }
        if optional("llama.attention.value_length", 1 << 16)?.is_some_and(|length| length != head_dim) {
            return Err(ModelError::Unsupported("values of another width than keys"));
        }
        let rope_key = "llama.rope.dimension_count";
        let rope_dim = optional(rope_key, head_dim)?.unwrap_or(head_dim);
        if rope_dim % 2 != 0 {
            return Err(ModelError::BadValue { key: rope_key, value: rope_dim as u64 });
        }
        if gguf.get_u32("llama.expert_count")?.is_some_and(|count| count > 0) {
            return Err(ModelError::Unsupported("experts (a mixture model)"));
        }
        if gguf.get_str("llama.rope.scaling.type")?.is_some_and(|kind| kind != "none") {
            return Err(ModelError::Unsupported("RoPE scaling other than frequency factors (`rope_freqs`)"));
        }
        let rope_base = gguf.get_f32("llama.rope.freq_base")?.unwrap_or(10_000.0);
        let norm_eps = gguf
            .get_f32("llama.attention.layer_norm_rms_epsilon")?
            .ok_or(ModelError::MissingKey("llama.attention.layer_norm_rms_epsilon"))?;
        if !(rope_base.is_finite() && rope_base > 0.0) {
            return Err(ModelError::BadValue { key: "llama.rope.freq_base", value: rope_base as u64 });
        }
        if !(norm_eps.is_finite() && norm_eps >= 0.0) {
            return Err(ModelError::BadValue {
                key: "llama.attention.layer_norm_rms_epsilon",
                value: norm_eps as u64,
            });
        }
        let embedding = TensorName { layer: None, part: "token_embd.weight" };
        let info = gguf.tensor(embedding.part).ok_or(ModelError::MissingTensor(embedding))?;
        let vocab_size = usize::try_from(info.dims[1])
            .ok()
            .filter(|&rows| rows > 0 && rows <= 1 << 24)
            .ok_or(ModelError::BadValue { key: "rows of token_embd.weight", value: info.dims[1] })?;
        Ok(Shape {
            n_layers,
            dim,
            n_heads,
            n_kv_heads,
            head_dim,
            ffn_dim,
            vocab_size,
            context_length,
            rope_dim,
            rope_base,
            norm_eps,
        })
    }

    /// Width of all query heads together.
    pub fn q_dim(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn kv_dim(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }
}

/// The weights of one layer.
pub struct Layer<'a> {
    /// Norm before attention, `[dim]`.
    pub attn_norm: Vec<f32>,
    /// Query projection, `q_dim × dim`.
    pub wq: Matrix<'a>,
    /// Key projection, `kv_dim × dim`.
    pub wk: Matrix<'a>,
    /// Value projection, `kv_dim × dim`.
    pub wv: Matrix<'a>,
    /// Output projection, `dim × q_dim`.
    pub wo: Matrix<'a>,
    /// Norm before the feed-forward step, `[dim]`.
    pub ffn_norm: Vec<f32>,
    /// Gate, `ffn_dim × dim`.
    pub gate: Matrix<'a>,
    /// Up, `ffn_dim × dim`.
    pub up: Matrix<'a>,
    /// Down, `dim × ffn_dim`.
    pub down: Matrix<'a>,
}

impl<'a> Layer<'a> {
    fn matrices(&self) -> [&Matrix<'a>; 7] {
        [&self.wq, &self.wk, &self.wv, &self.wo, &self.gate, &self.up, &self.down]
    }
}

/// Shape and weights, read-only; any number of sessions may share one.
pub struct Model<'a> {
    shape: Shape,
    /// Token embeddings, `vocab × dim`.
    pub(crate) embedding: Matrix<'a>,
    /// The layers in order.
    pub(crate) layers: Vec<Layer<'a>>,
    /// Norm before the head, `[dim]`.
    pub(crate) output_norm: Vec<f32>,
    /// The head, `vocab × dim`; the embedding where the file has none of its own.
    pub(crate) head: Matrix<'a>,
    /// Radians per position of each rotated pair, `[rope_dim / 2]`.
    pub(crate) rope_frequencies: Vec<f64>,
    tied: bool,
    parameters: u64,
    weight_bytes: u64,
    quantized: bool,
}

impl<'a> Model<'a> {
    /// Checks and borrows all tensors of the file. Allocates only the norms and the list of layers.
    pub fn load(gguf: &Gguf<'a>, config: LoadConfig) -> Result<Self, ModelError> {
        let shape = Shape::from_gguf(gguf)?;
        let mut loader = Loader { gguf, config, used: 0, parameters: 0, bytes: 0, quantized: false };
        let embedding = loader.matrix(None, "token_embd.weight", shape.vocab_size, shape.dim)?;
        let mut layers = Vec::new();
        for index in 0..shape.n_layers {
            let layer = Some(index);
            layers.push(Layer {
                attn_norm: loader.vector(layer, "attn_norm.weight", shape.dim)?,
                wq: loader.matrix(layer, "attn_q.weight", shape.q_dim(), shape.dim)?,
                wk: loader.matrix(layer, "attn_k.weight", shape.kv_dim(), shape.dim)?,
                wv: loader.matrix(layer, "attn_v.weight", shape.kv_dim(), shape.dim)?,
                wo: loader.matrix(layer, "attn_output.weight", shape.dim, shape.q_dim())?,
                ffn_norm: loader.vector(layer, "ffn_norm.weight", shape.dim)?,
                gate: loader.matrix(layer, "ffn_gate.weight", shape.ffn_dim, shape.dim)?,
                up: loader.matrix(layer, "ffn_up.weight", shape.ffn_dim, shape.dim)?,
                down: loader.matrix(layer, "ffn_down.weight", shape.dim, shape.ffn_dim)?,
            });
        }
        let output_norm = loader.vector(None, "output_norm.weight", shape.dim)?;
        let tied = gguf.tensor("output.weight").is_none();
        let head = if tied {
            embedding
        } else {
            loader.matrix(None, "output.weight", shape.vocab_size, shape.dim)?
        };
        let parameters = loader.parameters;
        let factors = match gguf.tensor("rope_freqs.weight") {
            Some(_) => Some(loader.vector(None, "rope_freqs.weight", shape.rope_dim / 2)?),
            None => None,
        };
        if loader.used != gguf.tensor_count() {
            return Err(ModelError::UnknownTensors { count: gguf.tensor_count() - loader.used });
        }
        let rope_frequencies = (0..shape.rope_dim / 2)
            .map(|pair| {
                let exponent = -2.0 * pair as f64 / shape.rope_dim as f64;
                let factor = factors.as_ref().map_or(1.0, |factors| f64::from(factors[pair]));
                libm::pow(shape.rope_base.into(), exponent) / factor
            })
            .collect();
        Ok(Model {
            shape,
            embedding,
            layers,
            output_norm,
            head,
            rope_frequencies,
            tied,
            parameters,
            weight_bytes: loader.bytes,
            quantized: loader.quantized,
        })
    }

    /// Rows that are interleaved in its matrices; 1 is the file's layout.
    pub fn packed_rows(&self) -> usize {
        self.head.group()
    }

    /// The sizes.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Number of trained values, a tied head counted once.
    pub fn parameters(&self) -> u64 {
        self.parameters
    }

    /// Bytes of all weights in the file.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// Whether the head is the embedding.
    pub fn is_tied(&self) -> bool {
        self.tied
    }

    /// Whether any matrix is quantized (its inputs are then rounded to int8).
    pub fn is_quantized(&self) -> bool {
        self.quantized
    }

    /// Weight bytes that one pass with logits reads: every matrix once. Embedding rows, one a token, come on top.
    pub fn pass_bytes(&self) -> u64 {
        let layers: usize =
            self.layers.iter().flat_map(Layer::matrices).map(|matrix| matrix.data().len()).sum();
        (layers + self.head.data().len()) as u64
    }
}

/// Fetches tensors by name, checks them, and counts what was fetched.
struct Loader<'g, 'a> {
    gguf: &'g Gguf<'a>,
    config: LoadConfig,
    used: usize,
    parameters: u64,
    bytes: u64,
    quantized: bool,
}

impl<'a> Loader<'_, 'a> {
    fn tensor(
        &mut self,
        layer: Option<usize>,
        part: &'static str,
        dims: [u64; 2],
    ) -> Result<(TensorInfo<'a>, &'a [u8], TensorName), ModelError> {
        let name = TensorName { layer, part };
        let mut buffer = NameBuffer::default();
        let info = self.gguf.tensor(buffer.format(name)).ok_or(ModelError::MissingTensor(name))?;
        let found = [info.dims[0], info.dims[1]];
        if found != dims || info.dims[2..].iter().any(|&d| d > 1) {
            return Err(ModelError::WrongShape { tensor: name, expected: dims, found });
        }
        if info.ty.is_quantized() {
            if !self.config.allow_quantized {
                return Err(ModelError::Quantized(name));
            }
            self.quantized = true;
        }
        let data = self.gguf.data(&info)?;
        if self.config.check_weights || info.n_dims < 2 {
            quant::check_scales(info.ty, data)
                .map_err(|bad| ModelError::NonFinite { tensor: name, block: bad.block })?;
        }
        self.used += 1;
        self.parameters += dims[0] * dims[1];
        self.bytes += data.len() as u64;
        Ok((info, data, name))
    }

    fn matrix(
        &mut self,
        layer: Option<usize>,
        part: &'static str,
        rows: usize,
        k: usize,
    ) -> Result<Matrix<'a>, ModelError> {
        let dims = [k as u64, rows as u64];
        let (info, data, tensor) = self.tensor(layer, part, dims)?;
        Matrix::new(info.ty, rows, k, data).ok_or(ModelError::WrongShape {
            tensor,
            expected: dims,
            found: dims,
        })
    }

    /// A small vector, widened to f32.
    fn vector(
        &mut self,
        layer: Option<usize>,
        part: &'static str,
        len: usize,
    ) -> Result<Vec<f32>, ModelError> {
        let (info, data, tensor) = self.tensor(layer, part, [len as u64, 1])?;
        if !matches!(info.ty, GgmlType::F32 | GgmlType::F16 | GgmlType::BF16) {
            return Err(ModelError::Quantized(tensor));
        }
        let mut values = alloc::vec![0.0; len];
        quant::dequantize(info.ty, data, &mut values);
        Ok(values)
    }
}

/// Room for a tensor's name, so that looking it up allocates nothing.
#[derive(Default)]
struct NameBuffer {
    bytes: [u8; 32],
    len: usize,
}

impl NameBuffer {
    fn format(&mut self, name: TensorName) -> &str {
        use fmt::Write;
        self.len = 0;
        write!(self, "{name}").expect("the longest name, blk.1023.attn_output.weight, has 27 bytes");
        core::str::from_utf8(&self.bytes[..self.len]).expect("names are ASCII")
    }
}

impl fmt::Write for NameBuffer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.len..self.len + text.len()).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}
