//! Weights of a GGUF file as burn's tensors: F32, and each matrix with its inputs as rows.

use barelm::llm::gguf::Gguf;
use barelm::llm::model::{LoadConfig, Model, Shape};
use barelm::llm::quant::{GgmlType, dequantize};
use burn::module::Param;
use burn::nn::RmsNormConfig;
use burn::tensor::TensorData;

use crate::tensors::{Device, Floats, RmsNorm};

/// Rows of a matrix that are transposed together.
const TILE: usize = 32;

/// One layer's weights; a matrix is `[inputs, outputs]`.
pub struct Layer {
    pub attn_norm: RmsNorm,
    pub wq: Floats<2>,
    pub wk: Floats<2>,
    pub wv: Floats<2>,
    pub wo: Floats<2>,
    pub ffn_norm: RmsNorm,
    pub gate: Floats<2>,
    pub up: Floats<2>,
    pub down: Floats<2>,
}

/// A model's weights.
pub struct Weights {
    pub shape: Shape,
    /// `[vocabulary, dim]`.
    pub embedding: Floats<2>,
    pub layers: Vec<Layer>,
    pub norm: RmsNorm,
    /// `[dim, vocabulary]`.
    pub head: Floats<2>,
    /// Radians per position of each rotated pair.
    pub frequencies: Vec<f64>,
}

impl Weights {
    /// Reads all of a file, which is checked first.
    pub fn read(gguf: &Gguf<'_>, device: &Device) -> Result<Self, String> {
        let model = Model::load(gguf, LoadConfig::default()).map_err(|error| error.to_string())?;
        let shape = *model.shape();
        let reader = Reader { gguf, device };
        let norm = |name: &str| reader.norm(name, shape.norm_eps);
        let layers = (0..shape.n_layers).map(|layer| {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            let turned = |part: &str| reader.matrix(&name(part), &|row| rotary_row(row, &shape));
            let plain = |part: &str| reader.matrix(&name(part), &|row| row);
            Ok(Layer {
                attn_norm: norm(&name("attn_norm"))?,
                wq: turned("attn_q")?,
                wk: turned("attn_k")?,
                wv: plain("attn_v")?,
                wo: plain("attn_output")?,
                ffn_norm: norm(&name("ffn_norm"))?,
                gate: plain("ffn_gate")?,
                up: plain("ffn_up")?,
                down: plain("ffn_down")?,
            })
        });
        let layers = layers.collect::<Result<_, String>>()?;
        let head = if model.is_tied() { "token_embd.weight" } else { "output.weight" };
        Ok(Weights {
            embedding: reader.table("token_embd.weight")?,
            layers,
            norm: norm("output_norm.weight")?,
            head: reader.matrix(head, &|row| row)?,
            frequencies: reader.frequencies(&shape)?,
            shape,
        })
    }
}

/// Where a row of a query or key matrix goes: the file has the two of a rotated pair side by side, here all the first
/// ones of a head precede all the second ones, so that halves are rotated instead of every other element.
fn rotary_row(row: usize, shape: &Shape) -> usize {
    let (head, at) = (row / shape.head_dim, row % shape.head_dim);
    let within = if at < shape.rope_dim { at / 2 + at % 2 * (shape.rope_dim / 2) } else { at };
    head * shape.head_dim + within
}

/// A tensor of the file.
struct Rows<'a> {
    ty: GgmlType,
    data: &'a [u8],
    row_bytes: usize,
    /// Elements of a row.
    k: usize,
    count: usize,
}

impl Rows<'_> {
    /// The rows from `first` on, as many as `out` has room for, in F32.
    fn read(&self, first: usize, out: &mut [f32]) {
        let bytes = &self.data[first * self.row_bytes..][..out.len() / self.k * self.row_bytes];
        dequantize(self.ty, bytes, out);
    }
}

struct Reader<'a, 'g> {
    gguf: &'a Gguf<'g>,
    device: &'a Device,
}

impl Reader<'_, '_> {
    fn rows(&self, name: &str) -> Result<Rows<'_>, String> {
        let tensor = self.gguf.tensor(name).ok_or_else(|| format!("{name} is missing"))?;
        let data = self.gguf.data(&tensor).map_err(|error| error.to_string())?;
        let k = usize::try_from(tensor.dims[0]).map_err(|error| error.to_string())?;
        let row_bytes = tensor.ty.row_bytes(k).ok_or_else(|| format!("{name}: rows of {k}"))?;
        Ok(Rows { ty: tensor.ty, data, row_bytes, k, count: data.len() / row_bytes })
    }

    /// Transposed, with output `r` of the file at `place(r)`.
    ///
    /// A transposed view of the file's layout would do, but burn multiplies it several times slower.
    fn matrix(&self, name: &str, place: &dyn Fn(usize) -> usize) -> Result<Floats<2>, String> {
        let rows = self.rows(name)?;
        let (k, all) = (rows.k, rows.count);
        let mut out = vec![0.0f32; k * all];
        let mut tile = vec![0.0f32; k * TILE];
        for first in (0..all).step_by(TILE) {
            let count = TILE.min(all - first);
            rows.read(first, &mut tile[..count * k]);
            for i in 0..k {
                for r in 0..count {
                    out[i * all + place(first + r)] = tile[r * k + i];
                }
            }
        }
        Ok(Floats::from_data(TensorData::new(out, [k, all]), self.device))
    }

    /// As in the file.
    fn table(&self, name: &str) -> Result<Floats<2>, String> {
        let rows = self.rows(name)?;
        let mut out = vec![0.0f32; rows.k * rows.count];
        rows.read(0, &mut out);
        Ok(Floats::from_data(TensorData::new(out, [rows.count, rows.k]), self.device))
    }

    fn vector(&self, name: &str) -> Result<Vec<f32>, String> {
        let rows = self.rows(name)?;
        let mut out = vec![0.0f32; rows.k];
        rows.read(0, &mut out);
        Ok(out)
    }

    fn norm(&self, name: &str, epsilon: f32) -> Result<RmsNorm, String> {
        let gamma = self.vector(name)?;
        let size = gamma.len();
        let mut norm = RmsNormConfig::new(size).with_epsilon(f64::from(epsilon)).init(self.device);
        norm.gamma = Param::from_tensor(Floats::from_data(TensorData::new(gamma, [size]), self.device));
        Ok(norm)
    }

    fn frequencies(&self, shape: &Shape) -> Result<Vec<f64>, String> {
        let factors = match self.gguf.tensor("rope_freqs.weight") {
            Some(_) => self.vector("rope_freqs.weight")?,
            None => vec![1.0; shape.rope_dim / 2],
        };
        let base = f64::from(shape.rope_base);
        let angle = |(pair, &factor): (usize, &f32)| {
            libm::pow(base, -2.0 * pair as f64 / shape.rope_dim as f64) / f64::from(factor)
        };
        Ok(factors.iter().enumerate().map(angle).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_become_halves_and_the_rest_stays() {
        let shape = Shape {
            n_layers: 1,
            dim: 12,
            n_heads: 2,
            n_kv_heads: 1,
            head_dim: 6,
            ffn_dim: 8,
            vocab_size: 10,
            context_length: 16,
            rope_dim: 4,
            rope_base: 1e4,
            norm_eps: 1e-5,
        };
        let places: Vec<_> = (0..12).map(|row| rotary_row(row, &shape)).collect();
        assert_eq!(places, [0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11]);
    }
}
