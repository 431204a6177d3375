//! Bytes typed at the console: read when asked for, and kept when only Ctrl-C was looked for.

use core::cell::RefCell;

use heapless::Deque;

use crate::console;

/// Bytes that can be typed ahead; the rest waits in the UART.
const AHEAD: usize = 256;

const CTRL_C: u8 = 3;

/// The console's input.
#[derive(Default)]
pub struct Keys {
    ahead: RefCell<Deque<u8, AHEAD>>,
}

impl Keys {
    /// The next byte, if one has been typed.
    pub fn next(&self) -> Option<u8> {
        self.ahead.borrow_mut().pop_front().or_else(|| console::uart().receive())
    }

    /// Whether Ctrl-C has been typed. It takes what was typed before it with it; all else is kept for [`Keys::next`].
    pub fn interrupted(&self) -> bool {
        let mut ahead = self.ahead.borrow_mut();
        while !ahead.is_full() {
            match console::uart().receive() {
                None => return false,
                Some(CTRL_C) => {
                    ahead.clear();
                    return true;
                }
                // There is room: just checked.
                Some(byte) => _ = ahead.push_back(byte),
            }
        }
        false
    }
}
