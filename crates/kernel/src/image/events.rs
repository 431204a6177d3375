//! The events that a processor's performance monitors can count, and which of them this one announces.

/// An architectural event (Arm DDI 0487, D13.12.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its number.
    pub number: u16,
    /// Its name for a person.
    pub name: &'static str,
}

const fn event(number: u16, name: &'static str) -> Event {
    Event { number, name }
}

/// Instructions that were retired.
pub const INSTRUCTIONS: u16 = 0x08;
/// Cycles; the cycle counter counts these too.
pub const CYCLES: u16 = 0x11;

/// What is looked for, most telling first.
pub const EVENTS: [Event; 19] = [
    event(INSTRUCTIONS, "instructions"),
    event(CYCLES, "cycles"),
    event(0x23, "stalled, nothing to decode"),
    event(0x24, "stalled, nowhere to issue"),
    event(0x3c, "stalled"),
    event(0x04, "first-level data accesses"),
    event(0x03, "first-level data refills"),
    event(0x16, "second-level accesses"),
    event(0x17, "second-level refills"),
    event(0x36, "last-level reads"),
    event(0x37, "last-level read misses"),
    event(0x05, "data TLB refills"),
    event(0x34, "data TLB walks"),
    event(0x12, "branches predicted"),
    event(0x10, "branches mispredicted"),
    event(0x14, "instruction cache accesses"),
    event(0x01, "instruction cache refills"),
    event(0x19, "bus accesses"),
    event(0x1b, "instructions speculated"),
];

/// Vector instructions, speculated: not architectural, but the same number on all of Arm's cores that have it.
pub const VECTORS: Event = event(0x74, "vector instructions speculated");

/// Whether the identification registers PMCEID0_EL0 and PMCEID1_EL0 announce an event. Only events below 64 are
/// announced at all.
pub const fn announced(ids: [u64; 2], number: u16) -> bool {
    // The upper halves are for numbers from 0x4000 on.
    match number {
        0..32 => ids[0] >> number & 1 == 1,
        32..64 => ids[1] >> (number - 32) & 1 == 1,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_announced_by_their_bits() {
        let ids = [1 << INSTRUCTIONS | 1 << CYCLES | 1 << 40, 1 << (0x3c - 32)];
        let found = EVENTS.iter().filter(|event| announced(ids, event.number)).map(|event| event.name);
        assert!(found.eq(["instructions", "cycles", "stalled"]));
        assert!(!announced([u64::MAX; 2], VECTORS.number) && !announced([u64::MAX; 2], 0x4000));
    }

    #[test]
    fn no_event_is_listed_twice() {
        for (index, event) in EVENTS.iter().enumerate() {
            assert!(!EVENTS[..index].iter().any(|e| e.number == event.number || e.name == event.name));
        }
    }
}
