//! Damaged and hostile GGUF files: an error or an answer, never a panic, never memory beyond a multiple of the file.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::PathBuf;

use barelm::llm::gguf::{Gguf, GgufError, MAX_ENTRIES, Section, Value};

#[path = "../../host/src/cache.rs"]
mod cache;

thread_local! {
    /// Bytes allocated by this thread since it began; what is freed is not taken off.
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.with(|bytes| bytes.set(bytes.get() + layout.size()));
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

/// Marsaglia's xorshift, so that a failure repeats.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// Asks a file everything that can be asked, and checks what the reader promises.
fn exercise(bytes: &[u8]) -> Result<(), GgufError> {
    exercise_header(bytes, bytes.len() as u64)
}

fn exercise_header(bytes: &[u8], file_size: u64) -> Result<(), GgufError> {
    let before = ALLOCATED.with(Cell::get);
    let gguf = Gguf::parse_header(bytes, file_size);
    let allocated = ALLOCATED.with(Cell::get) - before;
    // An entry takes 13 bytes of the file and 60 of memory; growing by doubling allocates twice that in all, and
    // sorting by offset adds 8. The constant covers the first, smallest allocations.
    assert!(allocated <= 4096 + 16 * bytes.len(), "{allocated} bytes allocated for {} bytes", bytes.len());
    let gguf = gguf.inspect_err(|error| assert!(!error.to_string().is_empty()))?;
    for (key, value) in gguf.metadata() {
        // Not `==`: a float may be NaN.
        assert_eq!(gguf.get(key).unwrap().value_type(), value.value_type());
        let _ =
            (gguf.get_u32(key), gguf.get_u64(key), gguf.get_f32(key), gguf.get_bool(key), gguf.get_str(key));
        if let Value::Array(array) = value {
            if let Some(strings) = array.strings() {
                assert_eq!(strings.count(), array.len());
            }
            if let Some(values) = array.f32s() {
                assert_eq!(values.count(), array.len());
            }
            if let Some(values) = array.i32s() {
                assert_eq!(values.count(), array.len());
            }
        }
    }
    for tensor in gguf.tensors() {
        assert_eq!(gguf.tensor(tensor.name), Some(tensor));
        assert!(tensor.elements() > 0);
        match gguf.data(&tensor) {
            Ok(data) => assert_eq!(data.len() as u64, tensor.size_bytes),
            Err(error) => assert!(file_size > bytes.len() as u64, "{error}"),
        }
    }
    Ok(())
}

/// Builds files that no writer would.
#[derive(Clone, Default)]
struct Raw(Vec<u8>);

impl Raw {
    fn new(tensors: u64, metadata: u64) -> Self {
        Raw::default().bytes(b"GGUF").u32(3).u64(tensors).u64(metadata)
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    fn str(self, value: &str) -> Self {
        self.u64(value.len() as u64).bytes(value.as_bytes())
    }

    fn tensor(self, name: &str, dims: &[u64], ty: u32, offset: u64) -> Self {
        let raw = self.str(name).u32(dims.len() as u32);
        dims.iter().fold(raw, |raw, &dim| raw.u64(dim)).u32(ty).u64(offset)
    }

    /// Pads to the data section and adds that many bytes of data.
    fn data(mut self, len: usize) -> Vec<u8> {
        self.0.resize(self.0.len().next_multiple_of(32) + len, 0);
        self.0
    }

    fn error(self) -> GgufError {
        exercise(&self.data(256)).unwrap_err()
    }
}

/// A valid file with every kind of value, an array of arrays, and three tensors.
fn small() -> Vec<u8> {
    let mut raw = Raw::new(3, 15);
    for (ty, size) in
        [(0, 1), (1, 1), (2, 2), (3, 2), (4, 4), (5, 4), (6, 4), (7, 1), (10, 8), (11, 8), (12, 8)]
    {
        raw = raw.str(&format!("k{ty}")).u32(ty).bytes(&[1; 8][..size]);
    }
    raw = raw.str("s").u32(8).str("text");
    raw = raw.str("strings").u32(9).u32(8).u64(2).str("one").str("two");
    raw = raw.str("nested").u32(9).u32(9).u64(2);
    raw = raw.u32(5).u64(2).u32(1).u32(2).u32(8).u64(1).str("x");
    raw = raw.str("general.alignment").u32(4).u32(32);
    raw.tensor("a", &[8], 0, 0).tensor("b", &[32, 2], 2, 32).tensor("c", &[32, 1, 1, 1], 8, 96).data(160)
}

#[test]
fn every_prefix_is_refused() {
    let file = small();
    exercise(&file).unwrap();
    for len in 0..file.len() - 30 {
        exercise(&file[..len]).unwrap_err();
        let _ = exercise_header(&file[..len], file.len() as u64);
        let _ = exercise_header(&file[..len], u64::MAX);
    }
}

#[test]
fn mutations_give_some_result() {
    let original = small();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut accepted = 0;
    let rounds = if cfg!(miri) { 200 } else { 50_000 };
    for _ in 0..rounds {
        let mut file = original.clone();
        for _ in 0..=random.below(4) {
            let at = random.below(file.len());
            match random.below(5) {
                0 => file[at] = random.next() as u8,
                1 => file[at] ^= 1 << random.below(8),
                2 => file[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
                3 => {
                    let wide = [u64::MAX, 1 << 63, 1 << 32, 1 << 16, 0][random.below(5)].to_le_bytes();
                    let len = wide.len().min(file.len() - at);
                    file[at..at + len].copy_from_slice(&wide[..len]);
                }
                _ => {
                    // Moves a piece of the file over another.
                    let from = random.below(file.len());
                    let len = random.below(24).min(file.len() - at).min(file.len() - from);
                    file.copy_within(from..from + len, at);
                }
            }
        }
        accepted += usize::from(exercise(&file).is_ok());
    }
    assert!(accepted > 0 && accepted < rounds, "{accepted} of {rounds}: mutations must reach both ends");
}

#[test]
fn random_bytes_after_a_good_start_give_some_result() {
    let mut random = Random(77);
    for _ in 0..if cfg!(miri) { 50 } else { 20_000 } {
        let mut raw = Raw::new(random.next() % 4, random.next() % 4);
        for _ in 0..random.below(200) {
            // Small numbers are likelier to be taken for lengths and types.
            let byte = if random.below(3) == 0 { random.next() as u8 } else { random.below(13) as u8 };
            raw = raw.bytes(&[byte]);
        }
        let _ = exercise(&raw.0);
    }
}

#[test]
fn huge_counts_are_refused_before_anything_is_allocated() {
    for count in [MAX_ENTRIES + 1, 1 << 32, 1 << 63, u64::MAX] {
        assert_eq!(Raw::new(count, 0).error(), GgufError::TooMany { section: Section::Tensors, count });
        assert_eq!(Raw::new(0, count).error(), GgufError::TooMany { section: Section::Metadata, count });
    }
    // A count that is allowed but not there.
    let truncated = |error| matches!(error, GgufError::Truncated { .. } | GgufError::ValueType { .. });
    assert!(truncated(Raw::new(0, MAX_ENTRIES).error()));
    for len in [1u64 << 20, 1 << 32, 1 << 62, 1 << 63, u64::MAX] {
        let array = |ty| Raw::new(0, 1).str("k").u32(9).u32(ty).u64(len);
        for ty in [0, 4, 10, 12, 8] {
            assert!(matches!(array(ty).error(), GgufError::Truncated { .. }), "array of {ty}, {len} long");
        }
        assert!(matches!(Raw::new(0, 1).str("k").u32(8).u64(len).error(), GgufError::Truncated { .. }));
        assert!(matches!(Raw::new(0, 1).u64(len).error(), GgufError::Truncated { .. }));
    }
    // Empty inner arrays cost 12 bytes each, so the loop ends with the file.
    assert!(matches!(
        Raw::new(0, 1).str("k").u32(9).u32(9).u64(u64::MAX).error(),
        GgufError::Truncated { .. }
    ));
}

#[test]
fn as_many_entries_as_are_allowed_cost_little() {
    // The smallest entries and tensors with distinct names; `exercise` bounds the memory.
    let metadata = (0..MAX_ENTRIES)
        .fold(Raw::new(0, MAX_ENTRIES), |raw, i| raw.str(&format!("{i:x}")).u32(0).bytes(&[1]));
    exercise(&metadata.0).unwrap();
    let tensors = (0..MAX_ENTRIES)
        .fold(Raw::new(MAX_ENTRIES, 0), |raw, i| raw.tensor(&format!("{i:x}"), &[], 0, 32 * i));
    exercise(&tensors.data(32 * MAX_ENTRIES as usize)).unwrap();
}

#[test]
fn sizes_that_overflow_are_refused() {
    for dims in [
        &[1 << 63][..],
        &[u64::MAX],
        &[1 << 32, 1 << 32],
        &[1 << 62, 4],
        &[32, u64::MAX, u64::MAX, u64::MAX],
        &[1 << 60, 1, 1, 1],
    ] {
        let error = Raw::new(1, 0).tensor("t", dims, 0, 0).error();
        assert!(matches!(error, GgufError::Shape { .. } | GgufError::PastEnd { .. }), "{dims:?}: {error}");
    }
    for offset in [1 << 63, u64::MAX - 31, 1 << 40, 256, 224 + 32] {
        let error = Raw::new(1, 0).tensor("t", &[64], 0, offset).error();
        assert!(matches!(error, GgufError::PastEnd { .. }), "{offset}: {error}");
    }
    for dims in [&[0][..], &[32, 0], &[0, u64::MAX]] {
        assert!(matches!(Raw::new(1, 0).tensor("t", dims, 0, 0).error(), GgufError::Shape { .. }));
    }
    let error = Raw::new(1, 0).tensor("t", &[48, 2], 2, 0).error();
    assert!(
        matches!(error, GgufError::Shape { .. }),
        "96 elements are whole blocks, rows of 48 are not: {error}"
    );
    let error = Raw::new(1, 0).tensor("t", &[1; 5], 0, 0).error();
    assert!(matches!(error, GgufError::Dimensions { n_dims: 5, .. }));
    assert!(matches!(Raw::new(1, 0).str("t").u32(u32::MAX).error(), GgufError::Dimensions { .. }));
}

#[test]
fn tensors_must_be_aligned_and_apart() {
    for offset in [1, 4, 16, 31, 33] {
        let error = Raw::new(1, 0).tensor("t", &[8], 0, offset).error();
        assert!(matches!(error, GgufError::Misaligned { alignment: 32, .. }), "{offset}");
    }
    // 10 values take 40 bytes, so the next may begin at 64 and not at 32, in whatever order they are listed.
    for (a, b) in [(0, 32), (32, 0), (0, 0), (64, 64)] {
        let error = Raw::new(2, 0).tensor("a", &[10], 0, a).tensor("b", &[10], 0, b).error();
        assert!(matches!(error, GgufError::Overlap { .. }), "{a} {b}: {error}");
    }
    exercise(&Raw::new(2, 0).tensor("a", &[10], 0, 64).tensor("b", &[10], 0, 0).data(256)).unwrap();
}

#[test]
fn unknown_types_are_named() {
    for (id, name) in [(4, "unknown"), (10, "Q2_K"), (20, "an IQ type"), (28, "F64"), (u32::MAX, "unknown")] {
        let error = Raw::new(1, 0).tensor("w", &[256], id, 0).error();
        assert!(matches!(error, GgufError::TensorType { id: found, .. } if found == id));
        assert!(error.to_string().contains(&format!("`w` has type {id} ({name})")), "{error}");
    }
    for id in [13, 255, u32::MAX] {
        assert!(matches!(Raw::new(0, 1).str("k").u32(id).error(), GgufError::ValueType { .. }));
        assert!(matches!(Raw::new(0, 1).str("k").u32(9).u32(id).u64(0).error(), GgufError::ValueType { .. }));
    }
}

#[test]
fn names_occur_once_and_are_text() {
    let error =
        Raw::new(0, 3).str("k").u32(0).bytes(&[1]).str("j").u32(0).bytes(&[1]).str("k").u32(0).bytes(&[1]);
    assert!(matches!(error.error(), GgufError::DuplicateKey { key } if key.as_str() == "k"));
    let error = Raw::new(2, 0).tensor("t", &[8], 0, 0).tensor("t", &[8], 0, 32).error();
    assert!(matches!(error, GgufError::DuplicateTensor { tensor } if tensor.as_str() == "t"));
    let error = Raw::new(0, 1).u64(2).bytes(&[0xff, 0xfe]).u32(0).bytes(&[1]).error();
    assert_eq!(error, GgufError::NotUtf8 { section: Section::Metadata, at: 24 });
    let error = Raw::new(0, 1).str("k").u32(8).u64(1).bytes(&[0xff]).error();
    assert!(matches!(error, GgufError::NotUtf8 { section: Section::Metadata, .. }));
    // Names for messages are cut between characters, and shown without control characters.
    let long = "ü".repeat(4000);
    let error = Raw::new(2, 0).tensor(&long, &[8], 0, 0).tensor(&long, &[8], 0, 32).error();
    assert!(matches!(error, GgufError::DuplicateTensor { tensor } if tensor.as_str() == "ü".repeat(23)));
    let error = Raw::new(1, 0).tensor("\x1b[2J", &[8], 99, 0).error().to_string();
    assert!(!error.contains('\x1b'), "{error:?}");
}

#[test]
fn alignment_is_a_power_of_two() {
    for alignment in [0, 3, 24, u32::MAX] {
        let error = Raw::new(0, 1).str("general.alignment").u32(4).u32(alignment).error();
        assert_eq!(error, GgufError::Alignment { found: alignment });
    }
    let error = Raw::new(0, 1).str("general.alignment").u32(8).str("32").error();
    assert!(matches!(error, GgufError::WrongType { .. }));
    let file = Raw::new(1, 1).str("general.alignment").u32(4).u32(1 << 31).tensor("t", &[8], 0, 0);
    assert!(matches!(file.error(), GgufError::PastEnd { .. }));
}

#[test]
fn booleans_are_0_or_1_and_arrays_nest_four_deep() {
    assert!(matches!(Raw::new(0, 1).str("k").u32(7).bytes(&[2]).error(), GgufError::Bool { .. }));
    let array = Raw::new(0, 1).str("k").u32(9).u32(7).u64(2).bytes(&[1, 0xff]);
    assert!(matches!(array.error(), GgufError::Bool { .. }));
    let nested =
        |depth| (1..depth).fold(Raw::new(0, 1).str("k").u32(9), |raw, _| raw.u32(9).u64(1)).u32(0).u64(0);
    exercise(&nested(4).data(0)).unwrap();
    for depth in [5, 6, 100, 100_000] {
        assert!(matches!(nested(depth).error(), GgufError::Nested { .. }), "{depth}");
    }
}

#[test]
#[ignore = "needs the model: cargo xtask setup"]
fn prefixes_and_mutations_of_a_real_header_give_some_result() {
    let cached = || cache::folder().join(cache::MODEL_FILE);
    let path = std::env::var_os("BARELM_MODEL").map_or_else(cached, PathBuf::from);
    let file = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let header_bytes = Gguf::parse(&file).unwrap().header_bytes() as usize;
    let (header, file_size) = (&file[..header_bytes], file.len() as u64);
    exercise_header(header, file_size).unwrap();

    let mut random = Random(135);
    let near_the_end = header.len() - 256..header.len() - 31;
    let anywhere: Vec<usize> = (0..300).map(|_| random.below(header.len())).collect();
    for len in (0..2000).chain(anywhere).chain(near_the_end) {
        exercise_header(&header[..len], file_size).unwrap_err();
        exercise(&header[..len]).unwrap_err();
    }
    let mut accepted = 0;
    let mut header = header.to_vec();
    for _ in 0..600 {
        // Half of them in the first and last parts, where the numbers are; the middle is vocabulary.
        let at = match random.below(4) {
            0 => random.below(3000),
            1 => header.len() - 8 - random.below(20_000),
            _ => random.below(header.len() - 8),
        };
        let saved: [u8; 8] = header[at..at + 8].try_into().unwrap();
        let random_bytes = random.next().to_le_bytes();
        let len = 1 + random.below(8);
        header[at..at + len].copy_from_slice(&random_bytes[..len]);
        accepted += usize::from(exercise_header(&header, file_size).is_ok());
        header[at..at + 8].copy_from_slice(&saved);
    }
    assert!(accepted > 0 && accepted < 600, "{accepted} accepted");
}
