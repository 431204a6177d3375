//! A checkpoint folder of a GGUF file.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use barelm::llm::gguf::{Gguf, TensorInfo};
use barelm::llm::model::Shape;
use barelm::llm::quant::{GgmlType, check_scales};
use safetensors::tensor::{Dtype, View, serialize_to_file};

use super::config::{Architecture, Config};
use super::names::{Pair, pairs, row_of};
use super::shards::SINGLE;
use super::tokenizer::Vocabulary;
use crate::failure::Failure;
use crate::quantize::Recoded;

/// Writes the model of `gguf` to `folder`, all weights as type `ty` (F32, F16 or BF16), and returns how many tensors.
///
/// The folder is made; one that holds a checkpoint already is refused. `config.json` comes last, so that a stopped export
/// leaves no folder that looks like a model.
///
/// # Errors
/// A file that is not a Llama model with a byte-level vocabulary, values that are not finite or too large for the type, or
/// a folder that cannot be written.
pub fn export(gguf: &Gguf<'_>, folder: &Path, ty: GgmlType) -> Result<usize, Failure> {
    let (dtype, dtype_name) = match ty {
        GgmlType::F32 => (Dtype::F32, "float32"),
        GgmlType::F16 => (Dtype::F16, "float16"),
        GgmlType::BF16 => (Dtype::BF16, "bfloat16"),
        other => {
            return Err(Failure::Message(format!("a checkpoint has no {other}; choose f32, f16 or bf16")));
        }
    };
    let shape = Shape::from_gguf(gguf).map_err(|error| Failure::Message(error.to_string()))?;
    let config = config_of(gguf, &shape)?;
    let vocabulary = Vocabulary::from_gguf(gguf)?;
    let (tokenizer, tokenizer_config) = vocabulary.json(config.context)?;
    let mut weights = Vec::new();
    for pair in pairs(&config) {
        let tensor = gguf
            .tensor(&pair.gguf)
            .ok_or_else(|| Failure::Message(format!("tensor {} is missing", pair.gguf)))?;
        let data = gguf.data(&tensor).map_err(|error| Failure::Message(error.to_string()))?;
        check_scales(tensor.ty, data).map_err(|bad| {
            Failure::Message(format!(
                "tensor {}: block {} has a scale that is not finite",
                pair.gguf, bad.block
            ))
        })?;
        let shape = if pair.vector { vec![pair.shape[1]] } else { pair.shape.to_vec() };
        weights.push((
            pair.folder.clone(),
            Weight { pair, tensor, data, shape, ty, dtype, head_dim: config.head_dim },
        ));
    }
    // Whatever a type cannot hold is found before anything is written.
    for (_, weight) in &weights {
        weight.bytes().map_err(|error| Failure::because(format!("tensor {}", weight.pair.gguf), error))?;
    }
    let written = |path: &Path, error: &dyn std::fmt::Display| Failure::because(path.display(), error);
    fs::create_dir_all(folder).map_err(|error| written(folder, &error))?;
    let config_path = folder.join("config.json");
    if config_path.exists() {
        return Err(Failure::Message(format!(
            "{} holds a checkpoint already; name another folder",
            folder.display()
        )));
    }
    let config = config.json(dtype_name, vocabulary.bos, vocabulary.eos);
    let generation = serde_json::json!({"bos_token_id": vocabulary.bos, "eos_token_id": vocabulary.eos, "do_sample": false});
    let write = |name: &str, json: &serde_json::Value| {
        let path = folder.join(name);
        let mut text = serde_json::to_string_pretty(json).expect("JSON of our own making");
        text.push('\n');
        fs::write(&path, text).map_err(|error| written(&path, &error)).map(|()| path)
    };
    let plain = write("tokenizer.json", &tokenizer)?;
    write("tokenizer_config.json", &tokenizer_config)?;
    write("generation_config.json", &generation)?;
    let count = weights.len();
    let unfinished = folder.join(format!("{SINGLE}.part"));
    let metadata = [("format".to_owned(), "pt".to_owned())].into_iter().collect();
    serialize_to_file(weights, Some(metadata), &unfinished).map_err(|error| written(&unfinished, &error))?;
    // The library makes files that only their owner may read.
    let readers = fs::metadata(&plain).map_err(|error| written(&plain, &error))?.permissions();
    fs::set_permissions(&unfinished, readers)
        .and_then(|()| fs::rename(&unfinished, folder.join(SINGLE)))
        .map_err(|error| written(&unfinished, &error))?;
    // Last: a folder without it is no model.
    write("config.json", &config)?;
    Ok(count)
}

/// The sizes of a GGUF model as a checkpoint has them.
fn config_of(gguf: &Gguf<'_>, shape: &Shape) -> Result<Config, Failure> {
    if shape.rope_dim != shape.head_dim {
        return Err(Failure::Message(format!(
            "the model rotates {} of {} elements of a head, which config.json cannot say",
            shape.rope_dim, shape.head_dim
        )));
    }
    if gguf.tensor("rope_freqs.weight").is_some() {
        return Err(Failure::Message(
            "the model's rotation has factors (`rope_freqs`), whose rule is not in the file and config.json wants it".into(),
        ));
    }
    Ok(Config {
        architecture: Architecture::Llama,
        dim: shape.dim,
        ffn: shape.ffn_dim,
        layers: shape.n_layers,
        heads: shape.n_heads,
        kv_heads: shape.n_kv_heads,
        head_dim: shape.head_dim,
        context: shape.context_length,
        vocab: shape.vocab_size,
        norm_eps: shortest(shape.norm_eps),
        rope_base: shortest(shape.rope_base),
        rope_scaling: None,
        tied: gguf.tensor("output.weight").is_none(),
    })
}

/// The number that people would write for an `f32`: 1e-5, not 0.00000999999974.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().expect("a number that was just written")
}

/// A tensor that is dequantized when it is written.
struct Weight<'a> {
    pair: Pair,
    tensor: TensorInfo<'a>,
    data: &'a [u8],
    shape: Vec<usize>,
    ty: GgmlType,
    dtype: Dtype,
    head_dim: usize,
}

impl Weight<'_> {
    /// The elements in the folder's order.
    fn bytes(&self) -> Result<Vec<u8>, barelm::llm::quant::QuantizeError> {
        let mut recoded = Recoded::default();
        let gguf = recoded.recode(self.tensor.ty, self.data, self.ty)?;
        if self.pair.interleaved_heads == 0 {
            return Ok(gguf.to_vec());
        }
        let row_bytes = self.pair.shape[1] * self.ty.block_bytes();
        let mut out = vec![0; gguf.len()];
        for (row, bytes) in gguf.chunks_exact(row_bytes).enumerate() {
            let at = row_of(row, self.head_dim) * row_bytes;
            out[at..at + row_bytes].copy_from_slice(bytes);
        }
        Ok(out)
    }
}

impl View for Weight<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.bytes().expect("it was computed before the folder was made"))
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.ty.block_bytes()
    }
}
