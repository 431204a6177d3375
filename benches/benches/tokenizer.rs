//! Bytes a second that the tokenizer turns into ids: `cargo bench --bench tokenizer [FILTER]`.
//!
//! Texts of about 300 kB, on one thread: English and code are this project's own documents and sources, `cjk` is drawn from
//! Han characters, most of them from a few hundred, `no_repeat` is words of random letters that never come again, and `one_word`
//! is letters without a break, for which nothing is known in advance and every pair of neighbors must be weighed. `mixed_spaces` is
//! what regular expressions fear: white space of any length.
//!
//! The vocabulary is the reference model's where it is at hand (`cargo xtask setup`, or `BARELM_MODEL`), else that of the
//! small model in the repository, whose words are shorter and whose figures are lower; the name says which.

use std::collections::HashSet;
use std::time::Duration;

use barelm::llm::gguf::Gguf;
use barelm::llm::tokenizer::{Encoder, Special, SpecialText, Tokenizer};
use barelm_host::model_file::reference_model_path;
use criterion::{Criterion, Throughput};

/// About as long as every text is.
const BYTES: usize = 300_000;

const ENGLISH: [&str; 6] = [
    include_str!("../../docs/llm/ARCHITECTURE.md"),
    include_str!("../../docs/llm/BENCHMARKS.md"),
    include_str!("../../docs/llm/PERFORMANCE.md"),
    include_str!("../../docs/llm/QUANTIZATION.md"),
    include_str!("../../docs/llm/TESTING_GUIDE.md"),
    include_str!("../../README.md"),
];

const CODE: [&str; 6] = [
    include_str!("../../crates/kernel/src/llm/gguf.rs"),
    include_str!("../../crates/kernel/src/llm/model.rs"),
    include_str!("../../crates/kernel/src/llm/plan.rs"),
    include_str!("../../crates/kernel/src/llm/simd.rs"),
    include_str!("../../crates/kernel/src/llm/tokenizer.rs"),
    include_str!("../../crates/kernel/src/llm/transformer.rs"),
];

const SMALL: &[u8] = include_bytes!("../../crates/kernel/assets/tiny.gguf");

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1000))
        .configure_from_args();
    let reference = std::fs::read(reference_model_path()).ok();
    let (name, file) = match &reference {
        Some(file) => ("reference", &file[..]),
        None => ("small", SMALL),
    };
    let gguf = Gguf::parse(file).expect("a model file");
    let tokenizer = Tokenizer::from_gguf(&gguf).expect("a vocabulary");
    let mut group = criterion.benchmark_group(format!("tokenizer/{name}"));
    for (name, text) in texts() {
        let mut encoder = Encoder::with_capacity(text.len());
        let mut ids = Vec::with_capacity(text.len());
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                ids.clear();
                tokenizer.encode(&mut encoder, &text, Special::Plain, &mut ids).expect("text of any kind");
                ids.len()
            });
            let back = tokenizer.decode_to_string(&ids, SpecialText::Show).expect("ids of this vocabulary");
            assert!(back == text, "{name}: not the same text after decoding");
        });
    }
    group.finish();
    criterion.final_summary();
}

/// Names and texts.
fn texts() -> [(&'static str, String); 6] {
    let mut random = Random(7);
    let letters = |random: &mut Random, count: usize| -> String {
        (0..count).map(|_| char::from(b'a' + random.below(26) as u8)).collect()
    };
    let mut cjk = String::new();
    while cjk.len() < BYTES {
        for _ in 0..2 + random.below(13) {
            // The square prefers the first ones, as a language does.
            let rank = random.below(1000) * random.below(1000) / 1000;
            let rank = if random.below(20) == 0 { random.below(20_000) } else { rank * 17 };
            cjk.extend(char::from_u32(0x4e00 + rank as u32));
        }
        cjk.push(['，', '。', '、', '\n'][random.below(4)]);
    }
    let (mut no_repeat, mut seen) = (String::new(), HashSet::new());
    while no_repeat.len() < BYTES {
        let length = 3 + random.below(10);
        let word = letters(&mut random, length);
        if seen.insert(word.clone()) {
            no_repeat = no_repeat + &word + " ";
        }
    }
    let mut mixed_spaces = String::new();
    while mixed_spaces.len() < BYTES {
        let count = random.below(40);
        mixed_spaces.extend((0..count).map(|_| [' ', '\n', '\t', '\u{3000}'][random.below(4)]));
        mixed_spaces.push('.');
    }
    let one_word = letters(&mut random, BYTES);
    [
        ("english", repeated(&ENGLISH)),
        ("code", repeated(&CODE)),
        ("cjk", cjk),
        ("no_repeat", no_repeat),
        ("one_word", one_word),
        ("mixed_spaces", mixed_spaces),
    ]
}

/// All of `parts`, again and again.
fn repeated(parts: &[&str]) -> String {
    let once = parts.concat();
    once.repeat(BYTES.div_ceil(once.len()))
}

/// The same numbers every time: Knuth's MMIX generator.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % limit as u64) as usize
    }
}
