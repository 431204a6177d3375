//! Properties of a Raspberry Pi, asked of its video core through mailbox 0, channel 8.
//!
//! A request is one tag in a buffer that both sides read: size, code, tag, bytes for values, state, values, end. The
//! video core sees memory without our caches, so the buffer's lines are written back before and forgotten after.

use core::sync::atomic::{Ordering, fence};

use super::Registers;

const READ: usize = 0x00;
const STATUS: usize = 0x18;
const WRITE: usize = 0x20;
const FULL: u32 = 1 << 31;
const EMPTY: u32 = 1 << 30;
const CHANNEL: u32 = 8;
const ANSWERED: u32 = 1 << 31;

/// Values of a request and of its answer.
pub const VALUES: usize = 2;
/// Words of the buffer that are used.
const WORDS: usize = 6 + VALUES;
/// Looks at the mailbox before the video core counts as silent: a second or more on any of these boards.
const PATIENCE: u32 = 20_000_000;

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Tag {
    /// Firmware's revision.
    FirmwareRevision = 0x0000_0001,
    /// The board's revision code.
    BoardRevision = 0x0001_0002,
    /// The processors' memory: start, bytes.
    Memory = 0x0001_0005,
    /// Of a clock: the rate it is set to, in Hz.
    ClockRate = 0x0003_0002,
    /// Of a clock: the highest rate, in Hz.
    MaxClockRate = 0x0003_0004,
    /// Of sensor 0: thousandths of a degree Celsius.
    Temperature = 0x0003_0006,
    /// What has slowed the processors down: bits of the present, and 16 higher of all time.
    Throttled = 0x0003_0046,
}

/// The buffer, lines of its own.
#[repr(C, align(64))]
struct Buffer([u32; 16]);

/// A mailbox.
#[derive(Debug)]
pub struct Mailbox {
    registers: Registers,
}

impl Mailbox {
    /// The mailbox with these registers.
    ///
    /// # Safety
    /// - `base` is the address of a Raspberry Pi's mailbox 0, mapped as device memory, and nobody else talks to it.
    pub const unsafe fn new(base: usize) -> Self {
        // SAFETY: the caller's promise.
        Mailbox { registers: unsafe { Registers::new(base) } }
    }

    /// Asks for a property; `None` if the video core does not know it or does not answer. What comes back of a clock or
    /// sensor opens with its number.
    pub fn ask(&mut self, tag: Tag, values: [u32; VALUES]) -> Option<[u32; VALUES]> {
        let mut buffer = Buffer([0; 16]);
        buffer.0[..WORDS].copy_from_slice(&request(tag, values));
        let address = buffer.0.as_ptr().expose_provenance();
        // The video core reaches the first gigabyte, and takes four bits for the channel.
        let address =
            u32::try_from(address).ok().filter(|address| address & 0xf == 0 && *address < 1 << 30)?;
        give_back(&buffer);
        self.wait(FULL)?;
        // Its view of memory past all caches.
        self.registers.write(WRITE, address | 0xc000_0000 | CHANNEL);
        loop {
            self.wait(EMPTY)?;
            if self.registers.read(READ) & 0xf == CHANNEL {
                break;
            }
        }
        give_back(&buffer);
        // SAFETY: a local; volatile because the video core has written it.
        let words = unsafe { core::ptr::from_ref(&buffer).read_volatile() };
        answer(&words.0)
    }

    /// Waits until `flag` is gone.
    fn wait(&self, flag: u32) -> Option<()> {
        (0..PATIENCE).find(|_| self.registers.read(STATUS) & flag == 0).map(|_| ())
    }
}

/// A request in words.
fn request(tag: Tag, values: [u32; VALUES]) -> [u32; WORDS] {
    [4 * WORDS as u32, 0, tag as u32, 4 * VALUES as u32, 0, values[0], values[1], 0]
}

/// The values of a buffer that has been answered.
fn answer(words: &[u32]) -> Option<[u32; VALUES]> {
    let (code, state) = (words[1], words[4]);
    (code == ANSWERED && state & ANSWERED != 0).then(|| [words[5], words[6]])
}

/// Writes the buffer's cache line back and forgets it.
fn give_back(buffer: &Buffer) {
    fence(Ordering::SeqCst);
    #[cfg(target_arch = "aarch64")]
    // SAFETY: cleaning a line that is all this buffer's changes no value.
    unsafe {
        core::arch::asm!("dc civac, {}", "dsb sy", in(reg) core::ptr::from_ref(buffer), options(nostack));
    }
    #[cfg(not(target_arch = "aarch64"))]
    let _ = buffer;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_interfaces_layout() {
        assert_eq!(request(Tag::ClockRate, [3, 0]), [32, 0, 0x0003_0002, 8, 0, 3, 0, 0]);
    }

    #[test]
    fn only_an_answered_tag_is_an_answer() {
        let mut words = request(Tag::Temperature, [0, 0]);
        assert_eq!(answer(&words), None);
        (words[1], words[6]) = (ANSWERED, 48_312);
        assert_eq!(answer(&words), None, "the buffer is done, the tag is unknown");
        words[4] = ANSWERED | 8;
        assert_eq!(answer(&words), Some([0, 48_312]));
        words[1] = ANSWERED | 1;
        assert_eq!(answer(&words), None, "an error");
    }
}
