//! From an ELF file to the raw bytes that a boot loader puts into memory.

use std::fmt;
use std::ops::Range;

/// Why a file cannot become an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfError {
    /// Not a 64-bit little-endian ELF file for AArch64.
    Kind,
    /// The named part lies outside the file.
    Truncated(&'static str),
    /// Nothing to load.
    Empty,
    /// Segments spread over more than [`LARGEST`] bytes.
    TooLarge(u64),
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind => f.write_str("not a 64-bit little-endian ELF file for AArch64"),
            Self::Truncated(what) => write!(f, "{what} lie outside the file: build it again"),
            Self::Empty => f.write_str("no loadable segment holds bytes"),
            Self::TooLarge(bytes) => {
                write!(f, "segments spread over {bytes} bytes; an image has {LARGEST} at most")
            }
        }
    }
}

/// Bytes that an image has at most; a linker script gone wrong gives gigabytes.
pub const LARGEST: u64 = 256 << 20;

const LOAD: u32 = 1;
const AARCH64: u16 = 183;
const HEADER_BYTES: usize = 64;
const SEGMENT_BYTES: usize = 56;

/// The loadable bytes of `elf`, each segment at its address relative to the lowest one; gaps are zero, and zero-filled
/// ends (`.bss`) are left out.
pub fn to_raw(elf: &[u8]) -> Result<Vec<u8>, ElfError> {
    if elf.len() < HEADER_BYTES || elf[..6] != *b"\x7fELF\x02\x01" || u16_at(elf, 18) != AARCH64 {
        return Err(ElfError::Kind);
    }
    let (table, size, count) = (u64_at(elf, 32), u16_at(elf, 54), u16_at(elf, 56));
    if usize::from(size) != SEGMENT_BYTES && count != 0 {
        return Err(ElfError::Kind);
    }
    let table = part(elf, table, u64::from(count) * SEGMENT_BYTES as u64)
        .ok_or(ElfError::Truncated("program headers"))?;

    let mut segments = Vec::new();
    for header in elf[table].chunks_exact(SEGMENT_BYTES) {
        let bytes = u64_at(header, 32);
        if u32_at(header, 0) == LOAD && bytes != 0 {
            let content =
                part(elf, u64_at(header, 8), bytes).ok_or(ElfError::Truncated("bytes of a segment"))?;
            segments.push((u64_at(header, 24), content));
        }
    }
    let start = segments.iter().map(|(address, _)| *address).min().ok_or(ElfError::Empty)?;
    let mut raw = Vec::new();
    for (address, content) in segments {
        let offset = address - start;
        let end = offset.saturating_add(content.len() as u64);
        if end > LARGEST {
            return Err(ElfError::TooLarge(end));
        }
        let (offset, end) = (offset as usize, end as usize);
        if raw.len() < end {
            raw.resize(end, 0);
        }
        raw[offset..end].copy_from_slice(&elf[content]);
    }
    Ok(raw)
}

/// The range of `bytes` bytes at `offset`, if it lies inside `elf`.
fn part(elf: &[u8], offset: u64, bytes: u64) -> Option<Range<usize>> {
    let end = offset.checked_add(bytes).filter(|end| *end <= elf.len() as u64)?;
    Some(offset as usize..end as usize)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file with these segments: type, address, bytes, size in memory.
    fn elf(segments: &[(u32, u64, &[u8], u64)]) -> Vec<u8> {
        let mut file = vec![0; HEADER_BYTES + SEGMENT_BYTES * segments.len()];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[18..20].copy_from_slice(&AARCH64.to_le_bytes());
        file[32..40].copy_from_slice(&(HEADER_BYTES as u64).to_le_bytes());
        file[54..56].copy_from_slice(&(SEGMENT_BYTES as u16).to_le_bytes());
        file[56..58].copy_from_slice(&(segments.len() as u16).to_le_bytes());
        for (i, (kind, address, bytes, memory)) in segments.iter().enumerate() {
            let content = file.len() as u64;
            file.extend_from_slice(bytes);
            let header = &mut file[HEADER_BYTES + i * SEGMENT_BYTES..][..SEGMENT_BYTES];
            header[..4].copy_from_slice(&kind.to_le_bytes());
            let fields = [content, *address, *address, bytes.len() as u64, *memory, 4096];
            for (field, value) in header[8..].chunks_exact_mut(8).zip(fields) {
                field.copy_from_slice(&value.to_le_bytes());
            }
        }
        file
    }

    #[test]
    fn segments_lie_at_their_addresses_and_bss_is_left_out() {
        let file = elf(&[
            (LOAD, 0x1000, b"text", 4),
            (LOAD, 0x1008, b"data", 4000),
            (2, 0x1008, b"dynamic", 7),
            (LOAD, 0x2000, b"", 4096),
        ]);
        assert_eq!(to_raw(&file).unwrap(), b"text\0\0\0\0data");
    }

    #[test]
    fn every_prefix_is_refused_or_whole() {
        let file = elf(&[(LOAD, 0, b"text", 4), (LOAD, 8, b"data", 4)]);
        for length in 0..file.len() {
            assert!(to_raw(&file[..length]).is_err(), "{length}");
        }
        assert_eq!(to_raw(&file).unwrap().len(), 12);
    }

    #[test]
    fn hostile_headers_are_refused() {
        assert_eq!(to_raw(&elf(&[])), Err(ElfError::Empty));
        let far = elf(&[(LOAD, 0, b"a", 1), (LOAD, u64::MAX, b"b", 1)]);
        assert_eq!(to_raw(&far), Err(ElfError::TooLarge(u64::MAX)));
        let mut x86 = elf(&[(LOAD, 0, b"a", 1)]);
        x86[18] = 62;
        assert_eq!(to_raw(&x86), Err(ElfError::Kind));
        let mut outside = elf(&[(LOAD, 0, b"a", 1)]);
        outside[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(to_raw(&outside), Err(ElfError::Truncated("program headers")));
    }
}
