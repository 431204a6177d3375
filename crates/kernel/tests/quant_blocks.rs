//! Blocks of every type against PyPI `gguf`, bit for bit. `tools/references/quant_blocks.py` made the file and
//! describes it.

use barelm::llm::quant::{GgmlType, check_scales, dequantize, quantize};

/// Takes the fixture apart from the front.
struct Fixture(&'static [u8]);

impl Fixture {
    fn open() -> Self {
        let bytes = include_bytes!("data/quant_blocks.bin");
        let line = bytes.iter().position(|&b| b == b'\n').unwrap();
        Fixture(&bytes[line + 1..])
    }

    fn bytes(&mut self, len: usize) -> &'static [u8] {
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes(4).try_into().unwrap())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes(8).try_into().unwrap())
    }

    fn ty(&mut self) -> GgmlType {
        GgmlType::from_id(self.u32()).unwrap()
    }
}

fn fnv(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

#[test]
fn every_type_dequantizes_to_the_bits_of_gguf_and_quantizes_to_its_bytes() {
    let mut fixture = Fixture::open();
    let types = fixture.u32();
    assert_eq!(types as usize, GgmlType::ALL.len());
    for _ in 0..types {
        let (ty, blocks, size) = (fixture.ty(), fixture.u32(), fixture.u32() as usize);
        assert_eq!(blocks, 128);
        let mut out = vec![0.0; size / ty.block_bytes() * ty.block_len()];
        for i in 0..blocks {
            let block = fixture.bytes(size);
            check_scales(ty, block).unwrap();
            dequantize(ty, block, &mut out);
            let hash = fnv(out.iter().flat_map(|x| x.to_le_bytes()));
            assert_eq!(hash, fixture.u64(), "{ty} block {i}: {block:02x?} gave {out:?}");
        }
    }

    let groups = fixture.u32() as usize;
    assert_eq!(groups, 128);
    let values = fixture.bytes(groups * 128).as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b));
    let values: Vec<f32> = values.collect();
    for _ in 0..fixture.u32() {
        let ty = fixture.ty();
        let mut out = vec![0; ty.row_bytes(32).unwrap()];
        for (i, group) in values.chunks_exact(32).enumerate() {
            quantize(ty, group, &mut out).unwrap();
            assert_eq!(fnv(out.iter().copied()), fixture.u64(), "{ty} group {i}: {group:?} gave {out:02x?}");
        }
    }
    assert!(fixture.0.is_empty());
}
