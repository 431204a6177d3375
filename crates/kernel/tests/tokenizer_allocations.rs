//! Encoding and streaming allocate nothing once their scratch exists.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use barelm::llm::tokenizer::bpe::Bpe;
use barelm::llm::tokenizer::spm::Spm;
use barelm::llm::tokenizer::vocab::Vocab;
use barelm::llm::tokenizer::{
    Encoder, Merging, PreTokenizer, Roles, Special, StreamDecoder, TokenKind, Tokenizer,
};

thread_local! {
    /// Of this thread alone: the test harness has threads of its own.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps `alloc`'s contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `System.alloc` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Both kinds of vocabulary over the same few tokens.
fn tokenizers() -> [Tokenizer<'static>; 2] {
    let texts = || -> Vec<&'static [u8]> {
        vec![b"<s>", "▁".as_bytes(), b"a", b"b", b"ab", "é".as_bytes(), b"<0x0A>"]
    };
    let kinds = || {
        let mut kinds = vec![TokenKind::Normal; 7];
        kinds[0] = TokenKind::Control;
        kinds[6] = TokenKind::Byte;
        kinds
    };
    let mut vocab = Vocab::new(texts(), kinds()).unwrap();
    let merges: [&[u8]; 2] = [b"a b", "Ã ©".as_bytes()];
    let bpe = Bpe::new(&mut vocab, merges.into_iter(), 2, true).unwrap();
    let bytes =
        Tokenizer::new(vocab, Merging::Bytes { pre: PreTokenizer::Llama3, bpe }, Roles::default()).unwrap();
    let vocab = Vocab::new(texts(), kinds()).unwrap();
    let spm = Spm::new(&vocab, (0..7).map(|id| -(id as f32)), Some(1), true).unwrap();
    [bytes, Tokenizer::new(vocab, Merging::SentencePiece(spm), Roles::default()).unwrap()]
}

#[test]
fn encoding_and_streaming_allocate_nothing() {
    const SIZE: usize = 3000;
    let tokenizers = tokenizers();
    let texts: Vec<String> = ["a", " ", "ab", "é", "\n", "<s>", "a<s> b", "你"]
        .into_iter()
        .flat_map(|unit| [unit.repeat(SIZE / unit.len()), unit.repeat(3)])
        .collect();
    let mut encoder = Encoder::with_capacity(SIZE);
    let mut out = Vec::with_capacity(3 * (SIZE + 1));
    let mut decoders = tokenizers.each_ref().map(StreamDecoder::new);
    let mut ids = 0;

    let before = ALLOCATIONS.with(Cell::get);
    for (tokenizer, decoder) in tokenizers.iter().zip(&mut decoders) {
        for text in &texts {
            for special in [Special::Parse, Special::Plain] {
                out.clear();
                tokenizer.encode(&mut encoder, text, special, &mut out).unwrap();
                for &id in &out {
                    decoder.push(tokenizer, id).unwrap();
                }
                decoder.finish();
                ids += out.len();
            }
        }
    }
    let after = ALLOCATIONS.with(Cell::get);
    assert_eq!(after - before, 0);
    assert!(ids > 10_000, "{ids}");
}
