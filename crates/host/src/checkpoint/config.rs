//! The sizes of a model, as `config.json` has them.

use serde_json::{Value, json};

/// Architectures of which both forms are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Llama and what follows its plan: SmolLM2, TinyLlama, Mistral without windows …
    Llama,
    /// Qwen2 and Qwen2.5: biases on queries, keys and values, and rotation by halves.
    Qwen2,
}

impl Architecture {
    /// As `general.architecture` names it, which is also `model_type` of `config.json`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
        }
    }

    /// The class that `config.json` names.
    pub const fn class(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
        }
    }

    /// Whether GGUF holds queries and keys with the two halves of a rotated pair beside each other, where the folder has
    /// the first halves of all pairs before the second.
    pub const fn interleaves(self) -> bool {
        matches!(self, Self::Llama)
    }
}

/// Factors by which the longer waves of the rotation are slowed (Llama 3.1 and later; the rule is that of
/// `rope_scaling.rope_type = "llama3"` in `transformers`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Llama3Scaling {
    /// The longest waves are slower by this.
    pub factor: f64,
    /// Waves longer than the old context divided by this are slowed wholly …
    pub low_freq_factor: f64,
    /// … those shorter than the old context divided by this not at all.
    pub high_freq_factor: f64,
    /// Positions before the context was extended.
    pub old_context: f64,
}

impl Llama3Scaling {
    /// What each pair's frequency is divided by, `[rope_dim / 2]`.
    pub fn factors(&self, rope_dim: usize, base: f64) -> Vec<f32> {
        let factor = |pair: usize| {
            let frequency = libm::pow(base, -2.0 * pair as f64 / rope_dim as f64);
            let turns = self.old_context * frequency / (2.0 * std::f64::consts::PI);
            let between = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor);
            let kept = between.clamp(0.0, 1.0);
            (1.0 / ((1.0 - kept) / self.factor + kept)) as f32
        };
        (0..rope_dim / 2).map(factor).collect()
    }
}

/// What a model is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Its kind.
    pub architecture: Architecture,
    /// Width.
    pub dim: usize,
    /// Width of the feed-forward step.
    pub ffn: usize,
    /// Layers.
    pub layers: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Positions it was made for.
    pub context: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Added under the root of a norm.
    pub norm_eps: f64,
    /// Base of the rotation's frequencies.
    pub rope_base: f64,
    /// How they are slowed.
    pub rope_scaling: Option<Llama3Scaling>,
    /// Whether the head is the embedding.
    pub tied: bool,
}

impl Config {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// Says which field is missing or is not what can be converted.
    pub fn parse(json: &Value) -> Result<Self, String> {
        let kind = json["model_type"].as_str().unwrap_or_default();
        let architecture = match kind {
            "llama" => Architecture::Llama,
            "qwen2" => Architecture::Qwen2,
            _ => return Err(format!("model_type is `{kind}`; `llama` and `qwen2` can be converted")),
        };
        let given = |name: &str| match &json[name] {
            Value::Null => Ok(None),
            value => match value.as_u64() {
                Some(size @ 1..=0xffff_ffff) => Ok(Some(size as usize)),
                _ => Err(format!("{name} is {value}, not a whole number from 1 to 2^32")),
            },
        };
        let size = |name: &str| given(name)?.ok_or_else(|| format!("{name} is missing"));
        let (dim, heads) = (size("hidden_size")?, size("num_attention_heads")?);
        // Newer writers gather the rotation in `rope_parameters`.
        let rope = [&json["rope_parameters"], &json["rope_scaling"]].into_iter().find(|v| v.is_object());
        let rope = rope.unwrap_or(&Value::Null);
        let rope_base = [&rope["rope_theta"], &json["rope_theta"]].into_iter().find_map(Value::as_f64);
        let flag = |name: &str| json[name].as_bool();
        if json["hidden_act"].as_str().is_some_and(|act| act != "silu") {
            return Err(format!("hidden_act is {}; only silu can be converted", json["hidden_act"]));
        }
        if flag("attention_bias") == Some(true) && architecture == Architecture::Llama {
            return Err("attention_bias is true, which a Llama file has no place for".into());
        }
        if flag("mlp_bias") == Some(true) {
            return Err("mlp_bias is true, which the file has no place for".into());
        }
        if flag("use_sliding_window") == Some(true) {
            return Err("use_sliding_window is true, which the file has no place for".into());
        }
        if let Some(config) = json.get("quantization_config").filter(|config| !config.is_null()) {
            return Err(format!(
                "the weights are quantized ({}); convert the original",
                config["quant_method"]
            ));
        }
        let head_dim = match given("head_dim")? {
            Some(head_dim) => head_dim,
            None if dim.is_multiple_of(heads) => dim / heads,
            None => return Err(format!("hidden_size {dim} is not a multiple of {heads} heads")),
        };
        let kv_heads = given("num_key_value_heads")?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) || head_dim % 2 != 0 {
            return Err(format!("{heads} heads of {head_dim}, {kv_heads} for keys: not an even share each"));
        }
        Ok(Config {
            architecture,
            dim,
            ffn: size("intermediate_size")?,
            layers: size("num_hidden_layers")?,
            heads,
            kv_heads,
            head_dim,
            context: size("max_position_embeddings")?,
            vocab: size("vocab_size")?,
            norm_eps: json["rms_norm_eps"].as_f64().ok_or("rms_norm_eps is missing")?,
            rope_base: rope_base.unwrap_or(10_000.0),
            rope_scaling: scaling(rope)?,
            tied: flag("tie_word_embeddings").unwrap_or(false),
        })
    }

    /// Writes `config.json`.
    pub fn json(&self, dtype: &str, bos: Option<u32>, eos: Option<u32>) -> Value {
        let mut json = json!({
            "architectures": [self.architecture.class()],
            "model_type": self.architecture.name(),
            "hidden_size": self.dim,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.context,
            "vocab_size": self.vocab,
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope_base,
            "rope_scaling": null,
            "tie_word_embeddings": self.tied,
            "hidden_act": "silu",
            "attention_bias": self.architecture == Architecture::Qwen2,
            "mlp_bias": false,
            "torch_dtype": dtype,
            "bos_token_id": bos,
            "eos_token_id": eos,
        });
        if let Some(scaling) = &self.rope_scaling {
            json["rope_scaling"] = json!({
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.old_context as u64,
            });
        }
        json
    }
}

fn scaling(rope: &Value) -> Result<Option<Llama3Scaling>, String> {
    let kind = ["rope_type", "type"].into_iter().find_map(|name| rope[name].as_str());
    match kind {
        None | Some("default") => Ok(None),
        Some("llama3") => {
            let number = |name: &str| {
                let value = rope[name].as_f64().filter(|value| value.is_finite() && *value > 0.0);
                value.ok_or_else(|| format!("rope scaling: {name} is missing or not above zero"))
            };
            let scaling = Llama3Scaling {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                old_context: number("original_max_position_embeddings")?,
            };
            match scaling.high_freq_factor > scaling.low_freq_factor {
                true => Ok(Some(scaling)),
                false => Err("rope scaling: high_freq_factor must be above low_freq_factor".into()),
            }
        }
        Some(kind) => Err(format!("rope scaling `{kind}`; `llama3` and none can be converted")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Value {
        Config {
            architecture: Architecture::Llama,
            dim: 64,
            ffn: 96,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            context: 128,
            vocab: 300,
            norm_eps: 1e-5,
            rope_base: 1e5,
            rope_scaling: None,
            tied: true,
        }
        .json("float32", Some(1), Some(2))
    }

    #[test]
    fn what_is_written_reads_back() {
        let config = Config::parse(&example()).unwrap();
        assert_eq!(config.json("float32", Some(1), Some(2)), example());
        let scaled = Config {
            architecture: Architecture::Qwen2,
            rope_scaling: Some(Llama3Scaling {
                factor: 32.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                old_context: 8192.0,
            }),
            ..config
        };
        assert_eq!(Config::parse(&scaled.json("bfloat16", None, None)).unwrap(), scaled);
    }

    #[test]
    fn defaults_are_those_of_older_files() {
        let mut json = example();
        for name in ["num_key_value_heads", "head_dim", "rope_theta", "tie_word_embeddings", "rope_scaling"] {
            json.as_object_mut().unwrap().remove(name);
        }
        let config = Config::parse(&json).unwrap();
        assert_eq!((config.kv_heads, config.head_dim, config.rope_base, config.tied), (4, 16, 1e4, false));
        json["rope_parameters"] = json!({"rope_theta": 5e5, "rope_type": "default"});
        assert_eq!(Config::parse(&json).unwrap().rope_base, 5e5);
    }

    #[test]
    fn what_cannot_be_converted_is_named() {
        for (field, value, why) in [
            ("model_type", json!("gpt2"), "gpt2"),
            ("hidden_size", json!(0), "hidden_size"),
            ("num_hidden_layers", json!(null), "num_hidden_layers is missing"),
            ("num_hidden_layers", json!("two"), "num_hidden_layers"),
            ("num_key_value_heads", json!(3), "even share"),
            ("hidden_act", json!("gelu"), "silu"),
            ("attention_bias", json!(true), "attention_bias"),
            ("mlp_bias", json!(true), "mlp_bias"),
            ("rope_scaling", json!({"type": "yarn"}), "yarn"),
            ("rope_scaling", json!({"rope_type": "llama3", "factor": -1}), "factor"),
            ("quantization_config", json!({"quant_method": "awq"}), "awq"),
            ("rms_norm_eps", json!(null), "rms_norm_eps"),
        ] {
            let mut json = example();
            json[field] = value;
            let error = Config::parse(&json).unwrap_err();
            assert!(error.contains(why), "{field}: {error}");
        }
    }

    /// Quotients of the plain frequencies and those of `ROPE_INIT_FUNCTIONS["llama3"]` of transformers 5.23.0, for Llama
    /// 3.2 1B.
    #[test]
    fn long_waves_are_slowed_and_short_ones_are_not() {
        let scaling =
            Llama3Scaling { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, old_context: 8192.0 };
        let between = [1.651_329, 3.292_263, 9.666_731];
        let expected = [1.0; 15].into_iter().chain(between).chain([32.0; 14]);
        let factors = scaling.factors(64, 500_000.0);
        assert_eq!(factors.len(), 32);
        for (at, (ours, theirs)) in factors.into_iter().zip(expected).enumerate() {
            assert!((ours / theirs - 1.0).abs() < 1e-6, "pair {at}: {ours}, {theirs}");
        }
    }
}
