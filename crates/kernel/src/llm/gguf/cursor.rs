//! Takes numbers and strings off the front of a byte slice, checking every length.

use super::{GgufError, Section};

/// Where reading has come to.
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
    position: usize,
    /// Part of the header being read, for messages.
    pub(super) section: Section,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Cursor { rest: bytes, position: 0, section: Section::Preamble }
    }

    /// Bytes taken so far.
    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// What has not been taken yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn bytes(&mut self, len: u64) -> Result<&'a [u8], GgufError> {
        let split = usize::try_from(len).ok().and_then(|len| self.rest.split_at_checked(len));
        let Some((taken, rest)) = split else {
            return Err(GgufError::Truncated {
                section: self.section,
                missing: len - self.rest.len() as u64,
            });
        };
        self.rest = rest;
        self.position += taken.len();
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let bytes = self.bytes(N as u64)?;
        Ok(*bytes.first_chunk().expect("`bytes` returns as many as asked for"))
    }

    pub(super) fn u32(&mut self) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A 64-bit length and that many bytes.
    pub(super) fn string_bytes(&mut self) -> Result<&'a [u8], GgufError> {
        let len = self.u64()?;
        self.bytes(len)
    }

    pub(super) fn str(&mut self) -> Result<&'a str, GgufError> {
        let section = self.section;
        let at = self.position as u64;
        core::str::from_utf8(self.string_bytes()?).map_err(|_| GgufError::NotUtf8 { section, at })
    }
}
