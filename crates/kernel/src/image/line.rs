//! A line of input with editing and history: bytes from a terminal in, bytes for its screen and finished lines out.
//!
//! Knows the keys of an ANSI terminal: backspace, Ctrl-U (erase all), Ctrl-C (give up the line), Enter, and up and
//! down for earlier lines. The cursor stays at the end.

use core::fmt;

use heapless::{HistoryBuf, String};

/// Bytes of the longest line.
pub const LONGEST: usize = 512;
/// Lines remembered.
const REMEMBERED: usize = 16;

/// What a byte of input led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The line goes on.
    Pending,
    /// Enter: the line is whole, see [`LineEditor::line`].
    Line,
    /// Ctrl-C: the line was given up.
    Interrupt,
    /// Ctrl-D on an empty line: no more input.
    End,
}

/// Where in an escape sequence the input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    None,
    /// Behind ESC.
    Begun,
    /// Behind `ESC [` or `ESC O`.
    Control,
}

/// A line being typed, and those before it.
#[derive(Debug)]
pub struct LineEditor {
    line: String<LONGEST>,
    /// Bytes of a character that is not whole yet.
    partial: heapless::Vec<u8, 4>,
    escape: Escape,
    history: HistoryBuf<String<LONGEST>, REMEMBERED>,
    /// How many lines back the shown one is; 0 is the line being typed.
    back: usize,
    /// Whether the last byte was a carriage return, whose line feed is no second line.
    returned: bool,
}

impl Default for LineEditor {
    fn default() -> Self {
        Self::new()
    }
}

impl LineEditor {
    /// An empty line and no history.
    pub const fn new() -> Self {
        LineEditor {
            line: String::new(),
            partial: heapless::Vec::new(),
            escape: Escape::None,
            history: HistoryBuf::new(),
            back: 0,
            returned: false,
        }
    }

    /// The line so far, or after [`Event::Line`] the finished one.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// Empties the line for the next one.
    pub fn clear(&mut self) {
        self.line.clear();
        self.partial.clear();
        self.back = 0;
    }

    /// Takes one byte of input and writes what the terminal should show.
    pub fn feed(&mut self, byte: u8, screen: &mut dyn fmt::Write) -> Result<Event, fmt::Error> {
        let after_return = core::mem::replace(&mut self.returned, byte == b'\r');
        match (self.escape, byte) {
            (Escape::None, 0x1b) => self.escape = Escape::Begun,
            (Escape::Begun, b'[' | b'O') => self.escape = Escape::Control,
            (Escape::Control, b'0'..=b'9' | b';') => {}
            (Escape::Control, _) => {
                self.escape = Escape::None;
                match byte {
                    b'A' => self.recall(self.back + 1, screen)?,
                    b'B' if self.back > 0 => self.recall(self.back - 1, screen)?,
                    _ => {}
                }
            }
            (Escape::Begun, _) => self.escape = Escape::None,
            (Escape::None, b'\n') if after_return => {}
            (Escape::None, b'\r' | b'\n') => {
                screen.write_str("\n")?;
                self.remember();
                return Ok(Event::Line);
            }
            (Escape::None, 0x03) => {
                screen.write_str("^C\n")?;
                self.clear();
                return Ok(Event::Interrupt);
            }
            (Escape::None, 0x04) if self.line.is_empty() => {
                screen.write_str("\n")?;
                return Ok(Event::End);
            }
            (Escape::None, 0x08 | 0x7f) => {
                self.partial.clear();
                if self.line.pop().is_some() {
                    screen.write_str("\x08 \x08")?;
                }
            }
            (Escape::None, 0x15) => self.show("", screen)?,
            (Escape::None, byte) if byte >= b' ' => self.append(byte, screen)?,
            (Escape::None, _) => {}
        }
        Ok(Event::Pending)
    }

    /// Adds a byte; shows the character it completes. What is no UTF-8, or does not fit, is dropped with a bell.
    fn append(&mut self, byte: u8, screen: &mut dyn fmt::Write) -> fmt::Result {
        if self.partial.push(byte).is_err() {
            self.partial.clear();
        }
        match core::str::from_utf8(&self.partial) {
            Ok(text) => {
                let shown = if self.line.push_str(text).is_ok() { text } else { "\x07" };
                screen.write_str(shown)?;
                self.partial.clear();
            }
            Err(error) if error.error_len().is_some() => {
                self.partial.clear();
                screen.write_str("\x07")?;
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// Replaces the line by `text`, on the screen too.
    fn show(&mut self, text: &str, screen: &mut dyn fmt::Write) -> fmt::Result {
        for _ in self.line.chars() {
            screen.write_str("\x08 \x08")?;
        }
        self.clear();
        // History holds only lines that fit.
        let _ = self.line.push_str(text);
        screen.write_str(text)
    }

    /// Shows the line `back` lines ago, or an empty one for 0. Nothing happens beyond the oldest.
    fn recall(&mut self, back: usize, screen: &mut dyn fmt::Write) -> fmt::Result {
        let older = match back {
            0 => String::new(),
            _ if back > self.history.len() => return Ok(()),
            // Oldest first.
            _ => self.history.oldest_ordered().nth(self.history.len() - back).cloned().unwrap_or_default(),
        };
        self.show(&older, screen)?;
        self.back = back;
        Ok(())
    }

    /// Puts the finished line into history, unless it is empty or was there just now.
    fn remember(&mut self) {
        if !self.line.is_empty() && self.history.recent() != Some(&self.line) {
            self.history.write(self.line.clone());
        }
        self.back = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::{String as Text, ToString};
    use alloc::vec::Vec;

    /// Feeds bytes; returns the lines finished and what was shown.
    fn typed(editor: &mut LineEditor, bytes: &[u8]) -> (Vec<Text>, Text) {
        let (mut lines, mut screen) = (Vec::new(), Text::new());
        for &byte in bytes {
            if editor.feed(byte, &mut screen) == Ok(Event::Line) {
                lines.push(editor.line().to_string());
                editor.clear();
            }
        }
        (lines, screen)
    }

    #[test]
    fn keys_edit_the_line() {
        for (keys, line) in [
            (&b"hello\r"[..], "hello"),
            (b"helpp\x7fo\r", "helpo"),
            (b"\x7f\x08x\r", "x"),
            (b"wrong\x15right\r", "right"),
            ("ä€\x7fö\r".as_bytes(), "äö"),
            (b"a\xc3\x28b\r", "ab"),
            (b"left\x1b[D\x1b[3~\x1bOHx\r", "leftx"),
            (b"tab\there\r", "tabhere"),
        ] {
            assert_eq!(typed(&mut LineEditor::new(), keys).0, [line], "{keys:?}");
        }
    }

    #[test]
    fn erasing_clears_the_screen_too() {
        let (_, screen) = typed(&mut LineEditor::new(), "é\x7f".as_bytes());
        assert_eq!(screen, "é\x08 \x08");
    }

    #[test]
    fn carriage_return_and_line_feed_end_one_line() {
        assert_eq!(typed(&mut LineEditor::new(), b"a\r\nb\nc\r\r\n").0, ["a", "b", "c", ""]);
    }

    #[test]
    fn arrows_recall_earlier_lines() {
        let mut editor = LineEditor::new();
        typed(&mut editor, b"one\rtwo\rtwo\r\r");
        for (keys, line) in [
            (&b"\x1b[A\r"[..], "two"),
            (b"\x1b[A\x1b[A\r", "one"),
            (b"\x1b[A\x1b[A\x1b[A\x1b[A\x1b[A\r", "one"),
            (b"\x1bOA\x1b[B!\r", "!"),
            (b"draft\x1b[B\r", "draft"),
        ] {
            assert_eq!(typed(&mut editor, keys).0, [line], "{keys:?}");
        }
    }

    #[test]
    fn control_c_gives_up_and_control_d_ends() {
        let (mut editor, mut screen) = (LineEditor::new(), Text::new());
        typed(&mut editor, b"half");
        assert_eq!(editor.feed(4, &mut screen), Ok(Event::Pending));
        assert_eq!(editor.feed(3, &mut screen), Ok(Event::Interrupt));
        assert_eq!(editor.line(), "");
        assert_eq!(editor.feed(4, &mut screen), Ok(Event::End));
        assert_eq!(screen, "^C\n\n");
    }

    #[test]
    fn a_line_too_long_is_cut_with_a_bell() {
        let mut editor = LineEditor::new();
        let (_, screen) = typed(&mut editor, &[b'x'; LONGEST + 2]);
        assert_eq!(editor.line().len(), LONGEST);
        assert!(screen.ends_with("x\x07\x07"));
        let (lines, _) = typed(&mut editor, b"\r");
        assert_eq!(lines[0].len(), LONGEST);
    }

    #[test]
    fn any_bytes_are_survived() {
        let (mut editor, mut screen) = (LineEditor::new(), Text::new());
        let mut random = 1u64;
        for _ in 0..100_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if editor.feed((random >> 56) as u8, &mut screen) == Ok(Event::Line) {
                editor.clear();
            }
            assert!(editor.line().len() <= LONGEST);
        }
    }
}
