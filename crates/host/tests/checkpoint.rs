//! Checkpoint folders out of GGUF and back: the same tensors as llama.cpp makes of the file, the same ids.

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use barelm::llm::gguf::Gguf;
use barelm::llm::quant::GgmlType;
use barelm::llm::tokenizer::{Special, Tokenizer};
use barelm_host::checkpoint::convert::{ConvertError, convert};
use barelm_host::checkpoint::export::export;
use barelm_host::quantize::quantize;
use safetensors::SafeTensors;
use safetensors::tensor::{TensorView, serialize_to_file};
use serde_json::{Value, json};

fn converted(folder: &Path, ty: GgmlType) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    match convert(folder, ty, false, None, &mut bytes, &mut |_, _| ()) {
        Ok(_) => Ok(bytes),
        Err(ConvertError::Folder(failure)) => Err(failure.to_string()),
        Err(ConvertError::File(error)) => Err(error.to_string()),
    }
}

fn requantized(input: &Gguf<'_>, ty: GgmlType) -> Vec<u8> {
    let mut bytes = Vec::new();
    quantize(input, ty, false, &mut bytes, &mut |_, _| ()).unwrap();
    bytes
}

/// Both files hold the same tensors, byte for byte, and encode texts alike.
fn assert_same_model(ours: &[u8], other: &[u8]) {
    let (ours, other) = (Gguf::parse(ours).unwrap(), Gguf::parse(other).unwrap());
    assert_eq!(ours.tensor_count(), other.tensor_count());
    for tensor in other.tensors() {
        let twin = ours.tensor(tensor.name).expect(tensor.name);
        assert_eq!((twin.ty, twin.dims), (tensor.ty, tensor.dims), "{}", tensor.name);
        assert!(ours.data(&twin).unwrap() == other.data(&tensor).unwrap(), "{} differs", tensor.name);
    }
    let tokenizers = [&ours, &other].map(|gguf| Tokenizer::from_gguf(gguf).unwrap());
    for text in [
        "",
        "Once upon a time",
        " two  blanks\n\nlines 1234",
        "naïve 日本語 🙂",
        "<|im_start|>user<|im_end|>",
    ] {
        for special in [Special::Parse, Special::Plain] {
            let [ours, other] = [0, 1].map(|at| tokenizers[at].encode_to_vec(text, special).unwrap());
            assert_eq!(ours, other, "{text:?}");
        }
    }
    let [ours_ends, other_ends] = [0, 1].map(|at| {
        let tokenizer = &tokenizers[at];
        let ends: Vec<_> =
            (0..tokenizer.vocab_size() as u32).filter(|&id| tokenizer.is_end_of_generation(id)).collect();
        (tokenizer.bos(), tokenizer.eos(), tokenizer.adds_bos(), ends)
    });
    assert_eq!(ours_ends, other_ends);
    for key in [
        "llama.attention.layer_norm_rms_epsilon",
        "llama.rope.freq_base",
        "llama.context_length",
        "llama.rope.dimension_count",
        "tokenizer.chat_template",
        "tokenizer.ggml.pre",
    ] {
        assert_eq!(format!("{:?}", ours.get(key)), format!("{:?}", other.get(key)), "{key}");
    }
}

/// A folder with the tiny model as F32.
fn tiny_folder() -> (tempfile::TempDir, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let model = support::tiny_model();
    let place = folder.path().join("model");
    export(&Gguf::parse(&model).unwrap(), &place, GgmlType::F32).unwrap();
    (folder, model)
}

#[test]
fn a_folder_gives_the_file_back() {
    let (folder, model) = tiny_folder();
    let input = Gguf::parse(&model).unwrap();
    for ty in [GgmlType::F32, GgmlType::F16, GgmlType::Q8_0, GgmlType::Q4_0] {
        let ours = converted(&folder.path().join("model"), ty).unwrap();
        assert_same_model(&ours, &requantized(&input, ty));
    }
}

#[test]
#[ignore = "needs the model: cargo xtask setup"]
fn a_folder_of_a_real_model_gives_the_file_back() {
    let model = support::reference_model();
    let input = model.parse().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("model");
    export(&input, &place, GgmlType::F32).unwrap();
    // `requantized` is held to llama.cpp's own files by `tests/quantize.rs`.
    for ty in [GgmlType::F32, GgmlType::Q8_0, GgmlType::Q4_0] {
        assert_same_model(&converted(&place, ty).unwrap(), &requantized(&input, ty));
    }
}

/// What transformers makes of a folder: the ids of a text, then all logits.
const TRANSFORMERS: &str = r#"
import array, json, sys
import torch, transformers
folder, text = sys.argv[1:]
model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True).eval()
ids = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)(text)["input_ids"]
with torch.no_grad():
    logits = model(torch.tensor([ids])).logits[0]
sys.stdout.buffer.write(json.dumps(ids).encode() + b"\n" + array.array("f", logits.flatten().tolist()).tobytes())
"#;

#[test]
#[ignore = "needs the model: cargo xtask setup"]
fn transformers_reads_an_export_and_gets_the_same_logits() {
    let engine = barelm_host::cache::folder().join("engines/pytorch");
    let python = engine.join("bin/python");
    if !python.is_file() {
        eprintln!("left out: transformers is not here: cargo xtask engines build pytorch");
        return;
    }
    let model = support::reference_model();
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("model");
    export(&model.parse().unwrap(), &place, GgmlType::F32).unwrap();
    let text = "The sea is calm tonight, 静かな夜です。\nfn main() { println!(\"{}\", 6 * 7); }";
    let theirs = std::process::Command::new(python)
        .args(["-c", TRANSFORMERS])
        .arg(&place)
        .arg(text)
        .env("LD_LIBRARY_PATH", engine.join("stubs"))
        .envs([("HF_HUB_OFFLINE", "1"), ("TRANSFORMERS_OFFLINE", "1")])
        .output()
        .unwrap();
    assert!(theirs.status.success(), "{}", String::from_utf8_lossy(&theirs.stderr));
    let end = theirs.stdout.iter().position(|&byte| byte == b'\n').unwrap();
    let ids: Vec<u32> = serde_json::from_slice(&theirs.stdout[..end]).unwrap();
    let (theirs, _) = theirs.stdout[end + 1..].as_chunks::<4>();

    let file = converted(&place, GgmlType::F32).unwrap();
    let gguf = Gguf::parse(&file).unwrap();
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    assert_eq!(tokenizer.encode_to_vec(text, Special::Plain).unwrap(), ids);
    let n = ids.len();
    let ours = support::session::on_session(&gguf, (barelm::llm::simd::best(), 1), (n, n, n), |session| {
        support::session::all_logits(session, &ids)
    });
    assert!(
        n > 20 && ours.len() == theirs.len(),
        "{n} positions, {} and {} logits",
        ours.len(),
        theirs.len()
    );
    let theirs: Vec<f32> = theirs.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    let vocabulary = ours.len() / n;
    let likeliest = |logits: &[f32]| (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
    let mut most = 0.0f32;
    for (ours, theirs) in ours.chunks(vocabulary).zip(theirs.chunks(vocabulary)) {
        assert_eq!(likeliest(ours), likeliest(theirs));
        most = ours.iter().zip(theirs).map(|(ours, theirs)| (ours - theirs).abs()).fold(most, f32::max);
    }
    println!("{n} positions, largest difference {most}");
    // Ours keeps keys and values in f16: 2^-12 of a key, of scores that reach some tens.
    assert!(most < 0.05, "{most}");
}

#[test]
fn split_weights_are_put_together() {
    let (folder, model) = tiny_folder();
    let place = folder.path().join("model");
    let whole = std::fs::read(place.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&whole).unwrap();
    let mut halves: [Vec<(&str, TensorView<'_>)>; 2] = Default::default();
    let mut map = BTreeMap::new();
    for (at, (name, view)) in tensors.iter().enumerate() {
        halves[at % 2].push((name, view));
        map.insert(name, format!("part-{}.safetensors", at % 2));
    }
    for (at, half) in halves.into_iter().enumerate() {
        serialize_to_file(half, None, &place.join(format!("part-{at}.safetensors"))).unwrap();
    }
    std::fs::remove_file(place.join("model.safetensors")).unwrap();
    let index = place.join("model.safetensors.index.json");
    std::fs::write(&index, json!({ "weight_map": map }).to_string()).unwrap();
    let expected = requantized(&Gguf::parse(&model).unwrap(), GgmlType::F16);
    assert_same_model(&converted(&place, GgmlType::F16).unwrap(), &expected);

    std::fs::write(&index, json!({"weight_map": {"x": "../secret"}}).to_string()).unwrap();
    assert!(converted(&place, GgmlType::F16).unwrap_err().contains("not a file of the folder"));
}

/// Changes one JSON file of the folder.
fn edit(folder: &Path, name: &str, change: impl FnOnce(&mut Value)) {
    let path = folder.join(name);
    let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut json);
    std::fs::write(path, json.to_string()).unwrap();
}

#[test]
fn a_qwen2_folder_keeps_its_rows_and_its_biases() {
    let (folder, _) = tiny_folder();
    let place = folder.path().join("model");
    edit(&place, "config.json", |json| json["model_type"] = json!("qwen2"));
    let whole = std::fs::read(place.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&whole).unwrap();
    let biases: BTreeMap<String, Vec<u8>> = tensors
        .iter()
        .filter(|(name, _)| ["q_proj", "k_proj", "v_proj"].iter().any(|part| name.contains(part)))
        .map(|(name, view)| {
            let bias = (0..view.shape()[0]).flat_map(|row| (row as f32).to_le_bytes());
            (name.replace(".weight", ".bias"), bias.collect())
        })
        .collect();
    assert!(converted(&place, GgmlType::F32).unwrap_err().contains(".bias is missing"));
    let added = biases.iter().map(|(name, data)| {
        (name.clone(), TensorView::new(safetensors::Dtype::F32, vec![data.len() / 4], data).unwrap())
    });
    let all = tensors.iter().map(|(name, view)| (name.to_owned(), view)).chain(added);
    serialize_to_file(all, None, &place.join("model.safetensors")).unwrap();
    let bytes = converted(&place, GgmlType::F32).unwrap();
    let gguf = Gguf::parse(&bytes).unwrap();
    assert_eq!(gguf.get_str("general.architecture"), Ok(Some("qwen2")));
    let bias = gguf.tensor("blk.0.attn_q.bias").unwrap();
    assert_eq!(gguf.data(&bias).unwrap(), biases["model.layers.0.self_attn.q_proj.bias"]);
    let weight = gguf.tensor("blk.0.attn_q.weight").unwrap();
    let view = tensors.tensor("model.layers.0.self_attn.q_proj.weight").unwrap();
    assert!(gguf.data(&weight).unwrap() == view.data());
}

#[test]
fn a_folder_that_is_no_model_says_why() {
    let (folder, _) = tiny_folder();
    let place = folder.path().join("model");
    assert!(converted(folder.path(), GgmlType::F16).unwrap_err().contains("config.json: no such file"));
    let refused = |name: &str, change: &dyn Fn(&mut Value), why: &str| {
        let before = std::fs::read(place.join(name)).unwrap();
        edit(&place, name, change);
        let error = converted(&place, GgmlType::F16).unwrap_err();
        assert!(error.contains(why), "{why}: {error}");
        std::fs::write(place.join(name), before).unwrap();
    };
    refused("config.json", &|json| json["hidden_size"] = json!(63), "config.json");
    refused("config.json", &|json| json["num_hidden_layers"] = json!(99), "is missing");
    refused("config.json", &|json| json["num_hidden_layers"] = json!(1), "has no place");
    refused("config.json", &|json| json["intermediate_size"] = json!(32), "has shape");
    refused("tokenizer.json", &|json| json["model"]["type"] = json!("Unigram"), "Unigram");
    refused("tokenizer.json", &|json| json["pre_tokenizer"] = json!({}), "--pre");
    // Cut anywhere, the weights are refused.
    let weights = place.join("model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    for length in [0, 7, 8, 100, whole.len() - 1] {
        std::fs::write(&weights, &whole[..length]).unwrap();
        assert!(
            converted(&place, GgmlType::F16).unwrap_err().contains("model.safetensors"),
            "{length} bytes"
        );
    }
    // A value that is no number is found by name.
    let at = whole.len() - 4;
    std::fs::write(&weights, [&whole[..at], &f32::NAN.to_le_bytes()].concat()).unwrap();
    assert!(converted(&place, GgmlType::Q8_0).unwrap_err().contains("tensor "));
}

#[test]
fn an_export_takes_no_folder_that_holds_a_model() {
    let (folder, model) = tiny_folder();
    let gguf = Gguf::parse(&model).unwrap();
    let again = export(&gguf, &folder.path().join("model"), GgmlType::F32).unwrap_err();
    assert!(again.to_string().contains("already"), "{again}");
    let quantized = export(&gguf, &folder.path().join("other"), GgmlType::Q8_0).unwrap_err();
    assert!(quantized.to_string().contains("choose f32"), "{quantized}");
    assert!(!folder.path().join("other").exists());
}
