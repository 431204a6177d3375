//! The transformer against an f64 transformer, and its promises: one answer, weights read once, nothing lost.
#![cfg(feature = "llm-transformer")]

mod support;
#[path = "support/threads.rs"]
mod threads;

use std::sync::atomic::{AtomicU64, Ordering};

use barelm::llm::gguf::Gguf;
use barelm::llm::kv_cache::Overflow;
use barelm::llm::model::{LoadConfig, Model, ModelError, PackError, TensorName};
use barelm::llm::plan::{Plan, PlanError, SessionConfig};
use barelm::llm::pool::{Solo, Team};
use barelm::llm::quant::GgmlType;
use barelm::llm::simd::{self, Kernels};
use barelm::llm::transformer::{Logits, RunError, Session};
use support::{Inputs, SMALL, Sizes, TestModel};
use threads::Threads;

fn ids(count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| (i * i * 7 + 3 * i + 1) % SMALL.vocab as u32).collect()
}

/// All logits of `ids`, fed `step` at a time.
fn run(file: &[u8], config: SessionConfig, team: &dyn Team, ids: &[u32], step: usize) -> Vec<f32> {
    run_with(simd::best(), file, config, team, ids, step)
}

fn run_with(
    kernels: &'static Kernels,
    file: &[u8],
    config: SessionConfig,
    team: &dyn Team,
    ids: &[u32],
    step: usize,
) -> Vec<f32> {
    let gguf = Gguf::parse(file).unwrap();
    let model = Model::load(&gguf, LoadConfig::default()).unwrap();
    let mut copy = vec![0; model.packed_bytes(kernels) as usize];
    let model = model.packed(kernels, &mut copy).unwrap();
    let config = SessionConfig { members: team.size(), ..config };
    let mut memory = vec![0; Plan::from_header(&gguf, &config).unwrap().session() as usize];
    let mut session = Session::new(&model, config, kernels, team, &mut memory).unwrap();
    let mut logits = Vec::new();
    for ids in ids.chunks(step) {
        logits.extend_from_slice(session.forward(ids, Logits::All).unwrap());
    }
    logits
}

fn config(batch: usize) -> SessionConfig {
    SessionConfig { batch, logits: batch, ..SessionConfig::default() }
}

/// Largest difference, relative to the largest logit.
fn distance(ours: &[f32], reference: &[Vec<f64>]) -> f64 {
    let reference: Vec<f64> = reference.concat();
    assert_eq!(ours.len(), reference.len());
    let largest = reference.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    ours.iter().zip(&reference).map(|(o, r)| (f64::from(*o) - r).abs() / largest).fold(0.0, f64::max)
}

/// Ours and the reference round keys and values to f16 from sums that differ in their last bits, so here and there one
/// falls on the other side of a rounding boundary: 2^-11 of that element, more than all f32 rounding together (16
/// products of up to 96 terms in a row: 16 * 96 * 2^-24 = 1e-4). A wrong formula is off by 1e-2 or more.
const BOUND: f64 = 1.0 / 2048.0;

#[test]
fn logits_agree_with_an_f64_transformer() {
    for sizes in [SMALL, Sizes { tied: true, rope_factors: false, heads: 3, kv_heads: 1, ..SMALL }] {
        let model = TestModel::random(sizes, 11);
        let ids = ids(150); // past two blocks of 64
        let difference = distance(
            &run(&model.file(), config(256), &Solo, &ids, 150),
            &model.reference(&ids, 1000, Inputs::Rounded),
        );
        assert!(difference < BOUND, "{difference:e}");
    }
}

/// Rows of whole blocks of 256.
const WIDE: Sizes = Sizes { dim: 256, heads: 8, head_dim: 32, ffn: 512, ..SMALL };

/// As large Llama files are quantized: two types of blocks, and some matrices of neither.
fn mixed(name: &str) -> GgmlType {
    match name {
        name if name.contains("attn_v") || name.contains("ffn_down") => GgmlType::Q6_K,
        name if name.contains("attn_k") => GgmlType::F16,
        name if name.contains("ffn_up") => GgmlType::Q5_1,
        "token_embd.weight" => GgmlType::BF16,
        "output.weight" => GgmlType::Q8_0,
        _ => GgmlType::Q4_K,
    }
}

/// Where no rounding falls on the other side (see `BOUND`; here inputs are rounded to int8 besides, in steps of 1/127 of
/// the largest in a block), f32 and f64 differ by f32's own rounding only.
const ROUNDING: f64 = 1e-5;

#[test]
fn every_type_agrees_with_an_f64_transformer_on_what_its_blocks_mean() {
    let one_of_each = GgmlType::ALL.map(|ty| (ty.name(), TestModel::random(WIDE, 31).with_types(|_| ty)));
    let models = one_of_each.into_iter().chain([("mixed", TestModel::random(WIDE, 37).with_types(mixed))]);
    for (name, model) in models {
        let file = model.file();
        // Short sequences, because one rounding that goes the other way changes all that comes after it.
        let sequences = ids(32);
        let sequences: Vec<_> =
            sequences.chunks(2).map(|ids| (ids, run(&file, config(2), &Solo, ids, 2))).collect();
        let distances = |inputs, count| -> Vec<f64> {
            let sequences = sequences.iter().take(count);
            sequences.map(|(ids, ours)| distance(ours, &model.reference(ids, 1000, inputs))).collect()
        };
        let rounded = distances(Inputs::Rounded, 16);
        let agreeing = rounded.iter().filter(|&&distance| distance < ROUNDING).count();
        let worst = rounded.into_iter().fold(0.0, f64::max);
        let exact = distances(Inputs::Exact, 4).into_iter().fold(0.0, f64::max);
        println!("{name:<5} {agreeing} of 16 agree, worst {worst:.1e}, {exact:.1e} without rounded inputs");
        match name {
            // No int8 inputs: what is left are the roundings of keys and values.
            "F32" | "F16" | "BF16" => {
                assert!(worst < BOUND && agreeing >= 6, "{name}: {worst:e}, {agreeing}")
            }
            _ => {
                assert!(agreeing >= 11, "{name}: {agreeing} of 16 sequences agree");
                // An input is off by at most 1/254 of its block's largest; 14 products add up to a few per cent.
                assert!(exact < 0.1, "{name}: {exact:e} without rounded inputs");
            }
        }
    }
}

#[test]
fn a_sliding_window_sees_the_last_positions_only() {
    let model = TestModel::random(Sizes { context: 64, ..SMALL }, 5);
    let ids = ids(200); // the ring of 128 slots goes round
    let overflow = Overflow::Window(50);
    for step in [1, 7, 32] {
        let ours = run(&model.file(), SessionConfig { overflow, ..config(32) }, &Solo, &ids, step);
        let difference = distance(&ours, &model.reference(&ids, 50, Inputs::Rounded));
        assert!(difference < BOUND, "step {step}: {difference:e}");
        for other in [49, 51, 1000] {
            assert!(
                distance(&ours, &model.reference(&ids, other, Inputs::Rounded)) > 8.0 * BOUND,
                "a window of {other} shows"
            );
        }
    }
}

#[test]
fn tables_batches_and_teams_do_not_change_a_bit() {
    let ids = ids(150);
    let bits = |logits: Vec<f32>| logits.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    for model in [TestModel::random(SMALL, 23), TestModel::random(WIDE, 37).with_types(mixed)] {
        let file = model.file();
        let whole = bits(run_with(simd::scalar(), &file, config(150), &Solo, &ids, 150));
        for kernels in simd::available() {
            for (members, batch) in [(1, 1), (1, 7), (1, 64), (2, 150), (3, 7), (4, 64)] {
                let logits =
                    run_with(kernels, &file, config(batch), &Threads::punctual(members), &ids, batch);
                assert!(bits(logits) == whole, "{}: {members} by {batch}", kernels.name);
            }
        }
    }
}

#[test]
fn members_that_come_late_or_never_do_not_change_a_bit() {
    let ids = ids(100);
    let bits = |logits: Vec<f32>| logits.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    // 3 heads of keys and values, and heads that are no whole blocks.
    for sizes in [SMALL, Sizes { heads: 3, kv_heads: 3, head_dim: 16, ..SMALL }] {
        let file = TestModel::random(sizes, 41).file();
        let alone = bits(run(&file, config(100), &Solo, &ids, 100));
        for (members, batch) in [(2, 1), (4, 3), (5, 7), (3, 50), (3, 100)] {
            for _ in 0..3 {
                let logits = run(&file, config(batch), &Threads::late(members), &ids, batch);
                assert!(bits(logits) == alone, "{members} by {batch}");
            }
        }
    }
}

#[test]
fn a_packed_model_gives_the_same_bits_on_planned_memory() {
    for tied in [false, true] {
        let file = TestModel::random(Sizes { tied, ..SMALL }, 29).file();
        let gguf = Gguf::parse(&file).unwrap();
        let model = Model::load(&gguf, LoadConfig::default()).unwrap();
        let plan = Plan::from_header(&gguf, &config(16)).unwrap();
        let mut memory = vec![0; plan.session() as usize];
        let mut bits = |model: &Model<'_>, kernels| {
            let mut session = Session::new(model, config(16), kernels, &Solo, &mut memory)?;
            let logits = session.forward(&ids(16), Logits::All).unwrap();
            Ok::<_, PlanError>(logits.iter().map(|logit| logit.to_bits()).collect::<Vec<_>>())
        };
        let expected = bits(&model, simd::scalar()).unwrap();
        for kernels in simd::available() {
            assert!(bits(&model, kernels).unwrap() == expected, "{} on the file's layout", kernels.name);
            let size = plan.packed_for(kernels, &gguf).packed;
            assert_eq!(size, model.packed_bytes(kernels));
            assert_eq!(size > 0, kernels.packed_rows().is_some());
            let mut copy = vec![0; size as usize];
            let packed = model.packed(kernels, &mut copy).unwrap();
            assert!(bits(&packed, kernels).unwrap() == expected, "{} packed", kernels.name);
            let (mut copy, done) = (vec![0; size as usize], AtomicU64::new(0));
            let count = |bytes: &[u8]| _ = done.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            let packed = model.packed_by(kernels, &mut copy, &Threads::punctual(3), &count).unwrap();
            assert!(bits(&packed, kernels).unwrap() == expected, "{} packed by a team", kernels.name);
            assert_eq!(done.into_inner(), if size > 0 { model.pass_bytes() } else { 0 });
            if size > 0 {
                assert!(matches!(bits(&packed, simd::scalar()), Err(PlanError::BadConfig(_))));
                let short = model.packed(kernels, &mut copy[1..]).err().unwrap();
                assert_eq!(short.missing(), 1);
            }
        }
    }
}

#[test]
fn a_batch_reads_every_weight_once() {
    let file = TestModel::random(SMALL, 2).file();
    let gguf = Gguf::parse(&file).unwrap();
    let model = Model::load(&gguf, LoadConfig::default()).unwrap();
    let config = SessionConfig { batch: 64, ..SessionConfig::default() };
    let mut memory = vec![0; Plan::from_header(&gguf, &config).unwrap().session() as usize];
    let mut session = Session::new(&model, config, simd::best(), &Solo, &mut memory).unwrap();
    session.forward(&ids(64), Logits::Last).unwrap();
    assert_eq!(session.weight_bytes_read(), model.pass_bytes(), "64 positions");
    assert_eq!(session.embedding_bytes_read(), 64 * 4 * SMALL.dim as u64);
    session.forward(&[1], Logits::Last).unwrap();
    assert_eq!(session.weight_bytes_read(), 2 * model.pass_bytes(), "and one more");
    session.forward(&ids(65), Logits::None).unwrap();
    let head = 4 * (SMALL.dim * SMALL.vocab) as u64;
    assert_eq!(
        session.weight_bytes_read(),
        4 * model.pass_bytes() - 2 * head,
        "two batches without the head"
    );
}

#[test]
fn errors_change_nothing() {
    let file = TestModel::random(SMALL, 3).file();
    let gguf = Gguf::parse(&file).unwrap();
    let model = Model::load(&gguf, LoadConfig::default()).unwrap();
    let config = SessionConfig { context: 10, batch: 8, logits: 2, ..SessionConfig::default() };
    let mut memory = vec![0; Plan::from_header(&gguf, &config).unwrap().session() as usize];
    let mut session = Session::new(&model, config, simd::best(), &Solo, &mut memory).unwrap();
    session.forward(&ids(6), Logits::None).unwrap();
    let vocab_size = SMALL.vocab;
    for (bad, logits, error) in [
        (vec![], Logits::Last, RunError::Empty),
        (vec![1, 77], Logits::Last, RunError::UnknownToken { id: 77, vocab_size }),
        (vec![1; 5], Logits::Last, RunError::ContextFull { needed: 11, context: 10 }),
        (vec![1; 3], Logits::All, RunError::TooManyLogits { asked: 3, room: 2 }),
    ] {
        assert_eq!(session.forward(&bad, logits).unwrap_err(), error);
        assert_eq!(session.position(), 6);
    }
    assert_eq!(session.forward(&[1; 4], Logits::Last).unwrap().len(), vocab_size);
    assert_eq!(session.room(), 0);
}

#[test]
fn the_plan_is_exactly_enough() {
    let file = TestModel::random(SMALL, 4).file();
    let gguf = Gguf::parse(&file).unwrap();
    let header = Gguf::parse_header(&file[..gguf.header_bytes() as usize], file.len() as u64).unwrap();
    let plan = Plan::from_header(&header, &SessionConfig::default()).unwrap();
    assert_eq!(plan.check(plan.total()), Ok(0));
    assert_eq!(plan.check(plan.total() - 7).unwrap_err().missing(), 7);
    let model = Model::load(&gguf, LoadConfig::default()).unwrap();
    let mut memory = vec![0; plan.session() as usize];
    let short = plan.session() as usize - 1;
    let refused = Session::new(&model, SessionConfig::default(), simd::best(), &Solo, &mut memory[..short]);
    assert!(matches!(refused.map(|_| ()), Err(PlanError::Short(shortfall)) if shortfall.missing() == 1));
    // The worst alignment of the lent memory is part of the plan.
    for offset in [0, 1, 63] {
        let mut memory = vec![0; plan.session() as usize + offset];
        assert!(
            Session::new(&model, SessionConfig::default(), simd::best(), &Solo, &mut memory[offset..])
                .is_ok()
        );
    }
}

#[test]
fn hostile_models_are_refused_by_name() {
    let load = |model: TestModel| {
        let file = model.file();
        let gguf = Gguf::parse(&file).unwrap();
        Model::load(&gguf, LoadConfig::default()).map(|_| ()).unwrap_err()
    };
    let random = || TestModel::random(SMALL, 9);
    let tensor = TensorName { layer: Some(1), part: "ffn_up.weight" };
    let name = "blk.1.ffn_up.weight";
    assert_eq!(load(random().without(name)), ModelError::MissingTensor(tensor));
    assert_eq!(
        load(random().with_tensor(name, 64, 95, 0.5)),
        ModelError::WrongShape { tensor, expected: [64, 96], found: [64, 95] }
    );
    assert_eq!(
        load(random().with_tensor(name, 64, 96, f32::NAN)),
        ModelError::NonFinite { tensor, block: 0 }
    );
    // Left to packing, it is found there.
    let file = random().with_tensor(name, 64, 96, f32::NAN).file();
    let unchecked = LoadConfig { check_weights: false, ..LoadConfig::default() };
    let model = Model::load(&Gguf::parse(&file).unwrap(), unchecked).unwrap();
    for kernels in simd::available() {
        let mut copy = vec![0; model.packed_bytes(kernels) as usize];
        let refused = model.packed_by(kernels, &mut copy, &Threads::punctual(2), &|_| {}).err();
        assert_eq!(refused, Some(PackError::Model(ModelError::NonFinite { tensor, block: 0 })));
    }
    assert_eq!(
        load(random().with_tensor("blk.0.attn_q.bias", 64, 1, 0.5)),
        ModelError::UnknownTensors { count: 1 }
    );
    let huge = TestModel::random(Sizes { context: 1 << 30, ..SMALL }, 1).file();
    let plan = Plan::from_header(&Gguf::parse(&huge).unwrap(), &SessionConfig::default()).unwrap();
    assert!(plan.check(1 << 30).is_err());
}
