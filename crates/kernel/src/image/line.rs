//! A line of input with editing and history: bytes from a terminal in, bytes for its screen and finished lines out.
//!
//! Knows the keys of an ANSI terminal: arrows, Home, End, Delete, backspace, Ctrl-A and Ctrl-E (to either end), Ctrl-K
//! and Ctrl-U (erase the rest, or all), Ctrl-W (erase a word), Ctrl-C (give up the line), Enter, and up and down for
//! earlier lines. Every character is taken to be one column wide, and a line to fit into the terminal's.

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
    /// Behind `ESC [` or `ESC O`, with the number read so far.
    Control(u8),
}

/// A line being typed, and those before it.
#[derive(Debug)]
pub struct LineEditor {
    line: String<LONGEST>,
    /// Where the next character goes, in bytes.
    cursor: usize,
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
            cursor: 0,
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
        self.cursor = 0;
        self.partial.clear();
        self.back = 0;
    }

    /// Takes one byte of input and writes what the terminal should show.
    pub fn feed(&mut self, byte: u8, screen: &mut dyn fmt::Write) -> Result<Event, fmt::Error> {
        let after_return = core::mem::replace(&mut self.returned, byte == b'\r');
        match (self.escape, byte) {
            (Escape::None, 0x1b) => self.escape = Escape::Begun,
            (Escape::Begun, b'[' | b'O') => self.escape = Escape::Control(0),
            (Escape::Control(number), b'0'..=b'9') => {
                self.escape = Escape::Control(number.saturating_mul(10).saturating_add(byte - b'0'));
            }
            (Escape::Control(_), b';') => self.escape = Escape::Control(0),
            (Escape::Control(number), _) => {
                self.escape = Escape::None;
                match (byte, number) {
                    (b'A', _) => self.recall(self.back + 1, screen)?,
                    (b'B', _) if self.back > 0 => self.recall(self.back - 1, screen)?,
                    (b'C', _) => self.right(screen)?,
                    (b'D', _) => self.left(screen)?,
                    (b'H', _) | (b'~', 1 | 7) => self.home(screen)?,
                    (b'F', _) | (b'~', 4 | 8) => self.end(screen)?,
                    (b'~', 3) => self.erase(self.cursor..self.next(), screen)?,
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
                self.erase(self.previous()..self.cursor, screen)?;
            }
            (Escape::None, 0x01) => self.home(screen)?,
            (Escape::None, 0x05) => self.end(screen)?,
            (Escape::None, 0x0b) => self.erase(self.cursor..self.line.len(), screen)?,
            (Escape::None, 0x15) => self.show("", screen)?,
            (Escape::None, 0x17) => {
                let before = self.line[..self.cursor].trim_end_matches(' ');
                let word = before.rfind(' ').map_or(0, |blank| blank + 1);
                self.erase(word..self.cursor, screen)?;
            }
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
            Ok(_) => {
                let whole = core::mem::take(&mut self.partial);
                // Just found to be UTF-8.
                let text = core::str::from_utf8(&whole).unwrap_or_default();
                self.insert(text, screen)?;
            }
            Err(error) if error.error_len().is_some() => {
                self.partial.clear();
                screen.write_str("\x07")?;
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// Puts `text` in at the cursor; a bell if there is no room.
    fn insert(&mut self, text: &str, screen: &mut dyn fmt::Write) -> fmt::Result {
        if self.line.len() + text.len() > LONGEST {
            return screen.write_str("\x07");
        }
        let tail = self.cut(self.cursor);
        // There is room: just checked.
        let _ = self.line.push_str(text).and_then(|()| self.line.push_str(&tail));
        self.cursor += text.len();
        screen.write_str(text)?;
        self.redraw(&tail, 0, screen)
    }

    /// Takes a part of the line out, at one end of which the cursor stands.
    fn erase(&mut self, part: core::ops::Range<usize>, screen: &mut dyn fmt::Write) -> fmt::Result {
        if part.is_empty() {
            return Ok(());
        }
        let gone = self.line[part.clone()].chars().count();
        for _ in self.line[part.start..self.cursor].chars() {
            screen.write_str("\x08")?;
        }
        let tail = self.cut(part.end);
        self.line.truncate(part.start);
        let _ = self.line.push_str(&tail);
        self.cursor = part.start;
        self.redraw(&tail, gone, screen)
    }

    /// Cuts the line at `at` and gives what came behind.
    fn cut(&mut self, at: usize) -> String<LONGEST> {
        let mut tail = String::new();
        // It fits: it came from such a line.
        let _ = tail.push_str(&self.line[at..]);
        self.line.truncate(at);
        tail
    }

    /// Shows what is behind the cursor, `gone` columns shorter than before, and goes back to it.
    fn redraw(&self, tail: &str, gone: usize, screen: &mut dyn fmt::Write) -> fmt::Result {
        screen.write_str(tail)?;
        (0..gone).try_for_each(|_| screen.write_str(" "))?;
        (0..tail.chars().count() + gone).try_for_each(|_| screen.write_str("\x08"))
    }

    /// Where the character before the cursor begins.
    fn previous(&self) -> usize {
        self.cursor - self.line[..self.cursor].chars().next_back().map_or(0, char::len_utf8)
    }

    /// Where the character at the cursor ends.
    fn next(&self) -> usize {
        self.cursor + self.line[self.cursor..].chars().next().map_or(0, char::len_utf8)
    }

    fn left(&mut self, screen: &mut dyn fmt::Write) -> fmt::Result {
        let to = self.previous();
        if to < self.cursor {
            screen.write_str("\x08")?;
        }
        self.cursor = to;
        Ok(())
    }

    fn right(&mut self, screen: &mut dyn fmt::Write) -> fmt::Result {
        let to = self.next();
        screen.write_str(&self.line[self.cursor..to])?;
        self.cursor = to;
        Ok(())
    }

    fn home(&mut self, screen: &mut dyn fmt::Write) -> fmt::Result {
        for _ in self.line[..self.cursor].chars() {
            screen.write_str("\x08")?;
        }
        self.cursor = 0;
        Ok(())
    }

    fn end(&mut self, screen: &mut dyn fmt::Write) -> fmt::Result {
        screen.write_str(&self.line[self.cursor..])?;
        self.cursor = self.line.len();
        Ok(())
    }

    /// Replaces the line by `text`, on the screen too.
    fn show(&mut self, text: &str, screen: &mut dyn fmt::Write) -> fmt::Result {
        self.end(screen)?;
        self.erase(0..self.line.len(), screen)?;
        self.clear();
        // History holds only lines that fit.
        let _ = self.line.push_str(text);
        self.cursor = self.line.len();
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
            (b"left\x1b[D\x1b[3~\x1bOHx\r", "xlef"),
            (b"bc\x01a\x05d\r", "abcd"),
            (b"one two  \x17three\r", "one three"),
            (b"keep rest\x1b[1~\x1b[C\x1b[C\x1b[C\x1b[C\x0b\r", "keep"),
            ("äöü\x1b[D\x1b[D\x7fx\r".as_bytes(), "xöü"),
            (b"ab\x1b[4~\x1b[8~\x1b[7~\x1b[99999~\x1b[3~\r", "b"),
            (b"tab\there\r", "tabhere"),
        ] {
            assert_eq!(typed(&mut LineEditor::new(), keys).0, [line], "{keys:?}");
        }
    }

    #[test]
    fn erasing_clears_the_screen_too() {
        let (_, screen) = typed(&mut LineEditor::new(), "é\x7f".as_bytes());
        assert_eq!(screen, "é\x08 \x08");
        let (_, screen) = typed(&mut LineEditor::new(), b"abc\x1b[D\x7f");
        assert_eq!(screen, "abc\x08\x08c \x08\x08");
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

    /// A terminal of one line that never ends: what is on it, and where its cursor stands.
    #[derive(Default)]
    struct Terminal {
        cells: Vec<char>,
        column: usize,
    }

    impl fmt::Write for Terminal {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for character in text.chars() {
                match character {
                    '\n' => *self = Terminal::default(),
                    '\x08' => self.column = self.column.checked_sub(1).expect("left of the line"),
                    '\x07' => {}
                    _ => {
                        if self.column == self.cells.len() {
                            self.cells.push(' ');
                        }
                        self.cells[self.column] = character;
                        self.column += 1;
                    }
                }
            }
            Ok(())
        }
    }

    #[test]
    fn any_bytes_are_survived_and_the_screen_shows_the_line() {
        // All bytes alike, and mostly those that mean something.
        let keys = b"ab \xc3\xa4\x1b[ABCDHF13478~;O\x7f\x01\x05\x0b\x15\x17\x03\r\n\x04";
        for (seed, limit) in [(1, 256), (2, keys.len()), (3, keys.len()), (4, 256)] {
            let (mut editor, mut terminal) = (LineEditor::new(), Terminal::default());
            let mut random = seed;
            for _ in 0..100_000 {
                random = u64::wrapping_add(u64::wrapping_mul(random, 6_364_136_223_846_793_005), 1);
                let drawn = (random >> 40) as usize % limit;
                let byte = if limit == 256 { drawn as u8 } else { keys[drawn] };
                match editor.feed(byte, &mut terminal) {
                    Ok(Event::Line | Event::End) => editor.clear(),
                    Ok(_) => {}
                    Err(fmt::Error) => panic!("a terminal takes everything"),
                }
                assert!(editor.line().len() <= LONGEST);
                let shown: Text = terminal.cells.iter().collect();
                assert_eq!(shown.trim_end(), editor.line().trim_end());
                assert_eq!(terminal.column, editor.line()[..editor.cursor].chars().count());
            }
        }
    }
}
