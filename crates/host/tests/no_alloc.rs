//! Nothing is allocated once a session, a sampler and the tokenizer's scratch are built: proved by counting.
#![cfg(feature = "llm-transformer")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

use barelm::llm::generate::{Finish, GenerateConfig, generate};
use barelm::llm::gguf::Gguf;
use barelm::llm::kv_cache::Overflow;
use barelm::llm::model::{LoadConfig, Model};
use barelm::llm::plan::{Plan, SessionConfig};
use barelm::llm::pool::Solo;
use barelm::llm::sampler::{Sampler, SamplerConfig};
use barelm::llm::simd;
use barelm::llm::tokenizer::{Encoder, Special, StreamDecoder, Tokenizer};
use barelm::llm::transformer::{Logits, Session};

/// The system's allocator, counting the calls that hand out memory, on any thread.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to `System` unchanged; only a counter is added.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller keeps `GlobalAlloc`'s contract, which is `System`'s.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the pointer came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: as above; the pointer came from `System`.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Writes the parts of a GGUF file: little-endian numbers, strings with a 64-bit length in front.
#[derive(Default)]
struct Header {
    bytes: Vec<u8>,
    entries: u64,
}

impl Header {
    fn string(&mut self, text: &str) {
        self.bytes.extend((text.len() as u64).to_le_bytes());
        self.bytes.extend(text.as_bytes());
    }

    /// A key and the number of its type.
    fn key(&mut self, key: &str, ty: u32) {
        self.entries += 1;
        self.string(key);
        self.bytes.extend(ty.to_le_bytes());
    }

    fn text(&mut self, key: &str, text: &str) {
        self.key(key, 8);
        self.string(text);
    }

    fn number(&mut self, key: &str, value: u32) {
        self.key(key, 4);
        self.bytes.extend(value.to_le_bytes());
    }

    fn float(&mut self, key: &str, value: f32) {
        self.key(key, 6);
        self.bytes.extend(value.to_le_bytes());
    }

    fn array(&mut self, key: &str, element: u32, len: usize) {
        self.key(key, 9);
        self.bytes.extend(element.to_le_bytes());
        self.bytes.extend((len as u64).to_le_bytes());
    }
}

/// The character that stands for a byte in byte-level vocabularies: printable Latin-1 for itself, others from U+0100.
fn byte_character(byte: u8) -> char {
    let printable = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    if printable(byte) {
        return byte.into();
    }
    let rank = (0..byte).filter(|&b| !printable(b)).count() as u32;
    char::from_u32(256 + rank).expect("a letter of Latin Extended-A")
}

const DIM: u32 = 64;
const HEADS: u32 = 4;
const KV_HEADS: u32 = 2;
const FFN: u32 = 96;
const LAYERS: u32 = 2;

/// A model of random F32 weights over all bytes, a merge, and an end token.
fn synthetic_model() -> Vec<u8> {
    let mut tokens: Vec<String> = (0..=255).map(|byte| byte_character(byte).to_string()).collect();
    tokens.extend(["th".to_owned(), "<|endoftext|>".to_owned()]);
    let vocab = tokens.len() as u32;

    let mut header = Header::default();
    header.text("general.architecture", "llama");
    for (key, value) in [
        ("llama.block_count", LAYERS),
        ("llama.embedding_length", DIM),
        ("llama.attention.head_count", HEADS),
        ("llama.attention.head_count_kv", KV_HEADS),
        ("llama.feed_forward_length", FFN),
        ("llama.context_length", 256),
        ("tokenizer.ggml.eos_token_id", vocab - 1),
    ] {
        header.number(key, value);
    }
    header.float("llama.attention.layer_norm_rms_epsilon", 1e-5);
    header.text("tokenizer.ggml.model", "gpt2");
    header.text("tokenizer.ggml.pre", "gpt-2");
    header.array("tokenizer.ggml.tokens", 8, tokens.len());
    tokens.iter().for_each(|token| header.string(token));
    header.array("tokenizer.ggml.token_type", 5, tokens.len());
    for id in 0..vocab {
        let control = id == vocab - 1;
        header.bytes.extend((if control { 3i32 } else { 1 }).to_le_bytes());
    }
    header.array("tokenizer.ggml.merges", 8, 1);
    header.string("t h");

    let head_dim = DIM / HEADS;
    let mut tensors = vec![
        ("token_embd.weight".to_owned(), vec![DIM, vocab]),
        ("output_norm.weight".to_owned(), vec![DIM]),
    ];
    for layer in 0..LAYERS {
        for (part, dims) in [
            ("attn_norm", vec![DIM]),
            ("attn_q", vec![DIM, DIM]),
            ("attn_k", vec![DIM, KV_HEADS * head_dim]),
            ("attn_v", vec![DIM, KV_HEADS * head_dim]),
            ("attn_output", vec![DIM, DIM]),
            ("ffn_norm", vec![DIM]),
            ("ffn_gate", vec![DIM, FFN]),
            ("ffn_up", vec![DIM, FFN]),
            ("ffn_down", vec![FFN, DIM]),
        ] {
            tensors.push((format!("blk.{layer}.{part}.weight"), dims));
        }
    }

    let mut file = b"GGUF".to_vec();
    file.extend(3u32.to_le_bytes());
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend(header.entries.to_le_bytes());
    file.extend(&header.bytes);
    let mut infos = Header::default();
    let (mut data, mut random) = (Vec::new(), 1u32);
    for (name, dims) in &tensors {
        infos.string(name);
        infos.bytes.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|&dim| infos.bytes.extend(u64::from(dim).to_le_bytes()));
        infos.bytes.extend(0u32.to_le_bytes()); // F32
        infos.bytes.extend((data.len() as u64).to_le_bytes());
        for _ in 0..dims.iter().product() {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            data.extend(((random >> 8) as f32 / (1 << 24) as f32 - 0.5).to_le_bytes());
        }
        data.resize(data.len().next_multiple_of(32), 0);
    }
    file.extend(&infos.bytes);
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend(data);
    file
}

/// Runs `work` and returns how often it allocated.
fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.load(Ordering::SeqCst);
    work();
    ALLOCATIONS.load(Ordering::SeqCst) - before
}

// One test only: the counter sees every thread of the process.
#[test]
fn nothing_allocates_after_construction() {
    assert!(allocations(|| drop(std::hint::black_box(vec![1u8; 100]))) > 0, "the counter counts");
    let file = synthetic_model();
    let gguf = Gguf::parse(&file).expect("the model parses");
    let tokenizer = Tokenizer::from_gguf(&gguf).expect("the tokenizer loads");
    let model = Model::load(&gguf, LoadConfig::default()).expect("the model loads");
    let text = "the quick brown fox jumps over the lazy dog; été, 日本";
    let mut encoder = Encoder::with_capacity(text.len());
    let mut ids = Vec::with_capacity(text.len());
    for (temperature, overflow) in
        [(0.0, Overflow::Error), (0.9, Overflow::Error), (0.9, Overflow::Window(16))]
    {
        let config = SessionConfig { context: 256, batch: 8, logits: 8, overflow, members: 1 };
        let plan = Plan::from_header(&gguf, &config).expect("the plan fits");
        let mut memory = vec![0; plan.session() as usize];
        let sampling = SamplerConfig { temperature, repetition_penalty: 1.1, ..SamplerConfig::default() };
        for kernels in simd::available() {
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
            assert!(ids.len() > 40, "the merge joins only two letters");
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
                at_first.get_or_insert_with(|| ALLOCATIONS.load(Ordering::SeqCst));
                ControlFlow::Continue(())
            });
            let at_end = ALLOCATIONS.load(Ordering::SeqCst);
            assert_eq!(generated.expect("it generates").finish, Finish::Length);
            assert_eq!(at_end - at_first.expect("there were steps"), 0, "generate: {place}");
        }
    }
}
