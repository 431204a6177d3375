//! The image's boot command line: words `key=value` separated by blanks, values percent-encoded.

use std::fmt::Write;

/// A boot command line under construction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootWords(String);

impl BootWords {
    /// Adds `key=value`; bytes of the value that would end the word are encoded.
    #[must_use]
    pub fn with(self, key: &str, value: &str) -> Self {
        let mut encoded = String::new();
        encode(value, &mut encoded);
        self.with_encoded(key, &encoded)
    }

    /// Adds `key=value`, the value as it stands.
    #[must_use]
    pub fn with_encoded(mut self, key: &str, value: &str) -> Self {
        if !self.0.is_empty() {
            self.0.push(' ');
        }
        self.0.push_str(key);
        self.0.push('=');
        self.0.push_str(value);
        self
    }

    /// The words as they are given to `-append`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Appends `text`, with everything percent-encoded that is not a letter, a digit or harmless punctuation. QEMU splits
/// its arguments at commas only where it reads options, never in `-append`, so commas and colons stay readable.
fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_./,:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("a string takes everything");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_separated_and_values_encoded() {
        let words = BootWords::default().with("tokens", "48").with("prompt", "Ein Käse,\n 100 %=?");
        assert_eq!(words.as_str(), "tokens=48 prompt=Ein%20K%C3%A4se,%0A%20100%20%25%3D%3F");
    }

    #[test]
    fn encoding_is_undone_by_decoding() {
        let text = "\0 a=b\"'\\%41 é\u{10ffff}\t";
        let mut encoded = String::new();
        encode(text, &mut encoded);
        assert!(encoded.bytes().all(|b| b.is_ascii_graphic()), "{encoded}");
        let mut bytes = Vec::new();
        let mut rest = encoded.as_bytes();
        while let Some((&first, tail)) = rest.split_first() {
            let (byte, tail) = match first {
                b'%' => {
                    (u8::from_str_radix(std::str::from_utf8(&tail[..2]).unwrap(), 16).unwrap(), &tail[2..])
                }
                byte => (byte, tail),
            };
            bytes.push(byte);
            rest = tail;
        }
        assert_eq!(String::from_utf8(bytes).unwrap(), text);
    }
}
