//! Nothing is allocated once a session, a sampler and the tokenizer's scratch, or a scheduler, are built: proved by
//! counting.
#![cfg(feature = "llm-transformer")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ops::ControlFlow;

use barelm::llm::generate::{Finish, GenerateConfig, generate};
use barelm::llm::gguf::Gguf;
use barelm::llm::kv_cache::Overflow;
use barelm::llm::model::{LoadConfig, Model};
use barelm::llm::plan::{Plan, SchedulerConfig, SessionConfig};
use barelm::llm::pool::Solo;
use barelm::llm::quant::GgmlType;
use barelm::llm::sampler::{Sampler, SamplerConfig};
use barelm::llm::scheduler::{Event, Request, Scheduler};
use barelm::llm::simd;
use barelm::llm::tokenizer::{Encoder, Special, StreamDecoder, Tokenizer};
use barelm::llm::transformer::{Logits, Session};
use barelm_host::quantize::quantize;
use support::tiny_model;

/// The system's allocator, counting the calls that hand out memory.
struct Counting;

thread_local! {
    /// Calls of this thread, which does all work here: the test harness has threads of its own, which may allocate
    /// whenever they come to run.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    /// Bytes handed out so far, those given back included.
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

fn count(bytes: usize) {
    ALLOCATIONS.with(|count| count.set(count.get() + 1));
    BYTES.with(|count| count.set(count.get() + bytes));
}

// SAFETY: every call goes to `System` unchanged; only a counter is added.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps `GlobalAlloc`'s contract, which is `System`'s.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the pointer came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        // SAFETY: as above; the pointer came from `System`.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `work` and returns how often it allocated.
fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn nothing_allocates_after_construction() {
    assert!(allocations(|| drop(std::hint::black_box(vec![1u8; 100]))) > 0, "the counter counts");
    let file = tiny_model();
    let mut floats = Vec::new();
    let gguf = Gguf::parse(&file).expect("the model parses");
    quantize(&gguf, GgmlType::F32, false, &mut floats, &mut |_, _| {}).expect("any type can be F32");
    // With int8 inputs and without.
    check(&gguf);
    check(&Gguf::parse(&floats).expect("what we write, we can read"));
    check_scheduler(&gguf);
}

/// A scheduler allocates what its plan says when it is built, and nothing in a step.
fn check_scheduler(gguf: &Gguf<'_>) {
    let model = Model::load(gguf, LoadConfig::default()).expect("the model loads");
    let config = SchedulerConfig { sequences: 3, positions: 256, batch: 8, chunk: 4, ..Default::default() };
    let plan = Plan::scheduler(gguf, &config).expect("the plan fits");
    let mut memory = vec![0; plan.session() as usize];
    let before = BYTES.get();
    let mut scheduler =
        Scheduler::new(&model, config, simd::scalar(), &Solo, &mut memory).expect("the memory suffices");
    let allocated = BYTES.get() - before;
    assert_eq!(allocated as u64, plan.bookkeeping, "what the plan says");
    for id in 0..8 {
        let sampler = SamplerConfig { temperature: 0.9, repetition_penalty: 1.1, ..Default::default() };
        let prompt = (0..20).map(|i| i * 7 + id as u32).collect();
        let request = Request { id, prompt, max_tokens: 10, sampler, stop: vec![9] };
        scheduler.submit(request).expect("it fits");
    }
    let (mut tokens, mut done) = (0, 0);
    let steps = allocations(|| {
        while !scheduler.is_idle() {
            scheduler.step(|event| {
                match event {
                    Event::Token { .. } => tokens += 1,
                    Event::Done(_) => done += 1,
                }
                ControlFlow::Continue(())
            });
        }
    });
    assert_eq!((steps, done), (0, 8), "steps of a scheduler");
    assert!(tokens > 8);
}

fn check(gguf: &Gguf<'_>) {
    let tokenizer = Tokenizer::from_gguf(gguf).expect("the tokenizer loads");
    let model = Model::load(gguf, LoadConfig::default()).expect("the model loads");
    let text = "the quick brown fox jumps over the lazy dog; été, 日本";
    let mut encoder = Encoder::with_capacity(text.len());
    let mut ids = Vec::with_capacity(text.len());
    for (temperature, overflow) in
        [(0.0, Overflow::Error), (0.9, Overflow::Error), (0.9, Overflow::Window(16))]
    {
        let config = SessionConfig { context: 256, batch: 8, logits: 8, overflow, members: 1 };
        let plan = Plan::from_header(gguf, &config).expect("the plan fits");
        let mut memory = vec![0; plan.session() as usize];
        let sampling = SamplerConfig { temperature, repetition_penalty: 1.1, ..SamplerConfig::default() };
        for kernels in simd::available() {
            let mut copy = vec![0; model.packed_bytes(kernels) as usize];
            let model = model.packed(kernels, &mut copy).expect("the memory suffices");
            let mut sampler =
                Sampler::try_new(sampling, model.shape().vocab_size).expect("the settings are good");
            let mut session =
                Session::new(&model, config, kernels, &Solo, &mut memory).expect("the memory suffices");
            let mut decoder = StreamDecoder::new(&tokenizer);
            let place = format!("{}, temperature {temperature}, {overflow:?}", kernels.name);
            ids.clear();
            let encoding = allocations(|| {
                tokenizer.encode(&mut encoder, text, Special::Plain, &mut ids).expect("the text is good");
            });
            assert_eq!(encoding, 0, "encoding: {place}");
            assert!(ids.len() > 8, "more than one batch: {place}");
            let prefill = allocations(|| {
                session.forward(&ids, Logits::Last).expect("the prompt runs");
            });
            assert_eq!(prefill, 0, "prefill: {place}");
            let mut picked = 0;
            let decode = allocations(|| {
                let mut id = ids[0];
                for _ in 0..32 {
                    id = sampler.sample(session.forward(&[id], Logits::Last).expect("the step runs"));
                    sampler.accept(id);
                    picked += decoder.push(&tokenizer, id).expect("the id is ours").len();
                }
                picked += decoder.finish().len();
            });
            assert_eq!(decode, 0, "decode, sampling and text: {place}");
            assert!(picked > 0, "no text came out: {place}");

            // The loop that commands use makes one decoder, before its first token; the steps allocate nothing.
            session.reset();
            let run = GenerateConfig { max_tokens: 24, ignore_stop: true };
            let mut at_first = None;
            let generated = generate(&mut session, &tokenizer, &mut sampler, &ids, run, |_| {
                at_first.get_or_insert_with(|| ALLOCATIONS.get());
                ControlFlow::Continue(())
            });
            let at_end = ALLOCATIONS.get();
            assert_eq!(generated.expect("it generates").finish, Finish::Length);
            assert_eq!(at_end - at_first.expect("there were steps"), 0, "generate: {place}");
        }
    }
}
