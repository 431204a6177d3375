//! Requantized files against llama.cpp's: every tensor's type and SHA-256 (see `data/tensor_sha256.tsv`).

use std::collections::BTreeMap;

use barelm::llm::gguf::{Gguf, Value, Writer};
use barelm::llm::quant::{GgmlType, QuantizeError};
use barelm_host::model_file::{ModelFile, reference_model_path};
use barelm_host::quantize::{Error, Report, quantize};
use sha2::{Digest, Sha256};

/// Tensor name to type and hash, for one of the reference files.
fn reference(file: &str) -> BTreeMap<&'static str, (&'static str, &'static str)> {
    let lines = include_str!("data/tensor_sha256.tsv").lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let mut fields = line.split('\t');
            let mut next = || fields.next().expect("four fields a line");
            let (files, name, ty, hash) = (next(), next(), next(), next());
            files.split(',').any(|one| one == file).then_some((name, (ty, hash)))
        })
        .collect()
}

fn assert_is_reference(gguf: &Gguf<'_>, file: &str) {
    let reference = reference(file);
    assert_eq!(gguf.tensor_count(), reference.len());
    assert_eq!(reference.len(), 272);
    for tensor in gguf.tensors() {
        let hash = Sha256::digest(gguf.data(&tensor).unwrap());
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((tensor.ty.name(), hash.as_str()), reference[tensor.name], "{} in {file}", tensor.name);
    }
}

#[test]
#[ignore = "needs the model: cargo xtask setup"]
fn every_tensor_has_the_bytes_that_llama_cpp_gives_it() {
    let model = ModelFile::open(&reference_model_path()).unwrap();
    let input = model.parse().unwrap();
    assert_is_reference(&input, "q4_1");
    for (file, ty, pure, file_type) in [
        ("q4_0", GgmlType::Q4_0, false, 2),
        ("q4_0-pure", GgmlType::Q4_0, true, 2),
        ("q4_1", GgmlType::Q4_1, false, 3),
        ("q8_0", GgmlType::Q8_0, false, 7),
        ("f16", GgmlType::F16, false, 1),
        ("f32", GgmlType::F32, false, 0),
    ] {
        let mut bytes = Vec::new();
        let mut last = (0, 0);
        let report = quantize(&input, ty, pure, &mut bytes, &mut |done, all| last = (done, all)).unwrap();
        let output = Gguf::parse(&bytes).unwrap();
        assert_is_reference(&output, file);
        assert_eq!(output.get_u32("general.file_type"), Ok(Some(file_type)));
        assert_eq!(output.get_str("tokenizer.chat_template"), input.get_str("tokenizer.chat_template"));
        assert_eq!(last, (report.bytes_in, report.bytes_in));
        assert!(!report.q8_0_for_q6_k, "576 is not a multiple of 256");
    }
}

/// Writes one tensor after another; each holds `value` everywhere.
fn file(tensors: &[(&str, &[u64], f32)]) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.put("general.architecture", Value::Str("llama"));
    writer.put("general.file_type", Value::U32(0));
    for (name, dims, _) in tensors {
        writer.tensor::<()>(name, GgmlType::F32, dims).unwrap();
    }
    let mut bytes = Vec::new();
    let sink = |piece: &[u8]| {
        bytes.extend_from_slice(piece);
        Ok::<(), ()>(())
    };
    let mut data = writer.begin(sink).unwrap();
    for (_, dims, value) in tensors {
        data.write(&value.to_le_bytes().repeat(dims.iter().product::<u64>() as usize)).unwrap();
    }
    data.finish().unwrap();
    bytes
}

fn types(bytes: &[u8], ty: GgmlType, pure: bool) -> (Vec<GgmlType>, Report) {
    let mut out = Vec::new();
    let report = quantize(&Gguf::parse(bytes).unwrap(), ty, pure, &mut out, &mut |_, _| {}).unwrap();
    (Gguf::parse(&out).unwrap().tensors().map(|tensor| tensor.ty).collect(), report)
}

#[test]
fn the_head_norms_and_odd_widths_are_exceptions() {
    use GgmlType::{F16, F32, Q4_0, Q8_0};
    let tied: &[(&str, &[u64], f32)] = &[
        ("token_embd.weight", &[64, 3], 1.0),
        ("blk.0.attn_norm.weight", &[64], 1.0),
        ("blk.0.attn_q.weight", &[64, 2], 1.0),
        ("blk.0.attn_q.bias", &[64, 2], 1.0),
        ("blk.0.ffn_down.weight", &[48, 2], 1.0),
    ];
    let (found, report) = types(&file(tied), Q4_0, false);
    assert_eq!(found, [Q8_0, F32, Q4_0, F32, F16]);
    assert_eq!((report.tensors, report.converted, report.f16_for_width), (5, 3, 1));
    assert!(!report.q8_0_for_q6_k);
    assert_eq!(types(&file(tied), Q4_0, true).0, [Q4_0, F32, Q4_0, F32, F16]);
    assert_eq!(types(&file(tied), F16, false).0, [F16, F32, F16, F32, F16]);

    let separate: &[(&str, &[u64], f32)] =
        &[("token_embd.weight", &[256, 2], 1.0), ("output.weight", &[256, 2], 1.0)];
    let (found, report) = types(&file(separate), Q4_0, false);
    assert_eq!(found, [Q4_0, Q8_0]);
    assert!(report.q8_0_for_q6_k);
}

#[test]
fn what_cannot_be_written_is_named() {
    let bytes = file(&[("a.weight", &[32, 1], 1.0), ("b.weight", &[32, 1], f32::INFINITY)]);
    let input = Gguf::parse(&bytes).unwrap();
    let run = |ty| quantize(&input, ty, false, &mut Vec::new(), &mut |_, _| {}).unwrap_err();
    assert!(matches!(run(GgmlType::Q6_K), Error::Type(GgmlType::Q6_K)));
    let error = run(GgmlType::Q8_0);
    assert!(
        matches!(error, Error::Values { tensor, error: QuantizeError::NotFinite { index: 0 } } if tensor.as_str() == "b.weight"),
        "{error}"
    );
}
