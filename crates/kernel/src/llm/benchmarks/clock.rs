//! What a machine lends the suite: a clock, and event counters where it has them.

/// Whether a clock's seconds are seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockKind {
    /// Real time on real hardware.
    Wall,
    /// Time inside an emulator. It says nothing about any machine: only instruction counts are judged.
    Emulated,
}

impl ClockKind {
    /// Its name in records and summaries.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wall => "wall",
            Self::Emulated => "emulated",
        }
    }
}

/// One counter's reading, or why there is none.
pub type Counter = Result<u64, &'static str>;

/// A reading of all event counters at one moment. Differences of two readings mean something, one reading does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CounterSample {
    /// Retired instructions.
    pub instructions: Counter,
    /// Core cycles.
    pub cycles: Counter,
    /// Refills of the first data cache level.
    pub cache_refills: Counter,
    /// Mispredicted branches.
    pub branch_misses: Counter,
}

impl CounterSample {
    /// No counters at all, for one `reason`.
    pub const fn none(reason: &'static str) -> Self {
        Self {
            instructions: Err(reason),
            cycles: Err(reason),
            cache_refills: Err(reason),
            branch_misses: Err(reason),
        }
    }

    /// Zero where `self` has a counter, else its reason: what sums start from.
    pub fn zeroed(self) -> Self {
        let zero = |c: Counter| c.map(|_| 0);
        Self {
            instructions: zero(self.instructions),
            cycles: zero(self.cycles),
            cache_refills: zero(self.cache_refills),
            branch_misses: zero(self.branch_misses),
        }
    }

    /// Adds what was counted from `start` to `end`, counter by counter. A reason on either side stays a reason.
    pub fn add_interval(&mut self, start: &Self, end: &Self) {
        let add = |sum: &mut Counter, start: Counter, end: Counter| {
            *sum = match (*sum, start, end) {
                (Ok(sum), Ok(start), Ok(end)) => Ok(sum.wrapping_add(end.wrapping_sub(start))),
                (Err(reason), ..) | (_, Err(reason), _) | (.., Err(reason)) => Err(reason),
            };
        };
        add(&mut self.instructions, start.instructions, end.instructions);
        add(&mut self.cycles, start.cycles, end.cycles);
        add(&mut self.cache_refills, start.cache_refills, end.cache_refills);
        add(&mut self.branch_misses, start.branch_misses, end.branch_misses);
    }

    /// The counters with their names in records, in a fixed order.
    pub fn named(&self) -> [(&'static str, Counter); 4] {
        [
            ("instructions", self.instructions),
            ("cycles", self.cycles),
            ("cache_refills", self.cache_refills),
            ("branch_misses", self.branch_misses),
        ]
    }
}

/// A source of time. The host gives its monotonic clock, the kernel its generic timer.
pub trait Clock {
    /// Ticks since any fixed moment. Never goes backwards.
    fn now(&self) -> u64;
    /// Ticks in a second.
    fn ticks_per_second(&self) -> f64;
    /// Wall or emulated.
    fn kind(&self) -> ClockKind;
    /// Event counters at this moment.
    fn counters(&self) -> CounterSample;
    /// Whether iteration counts may depend on measured time. `false` where instructions are counted exactly: every
    /// count is then a constant of its case, and there is no time box.
    fn calibrates(&self) -> bool;
    /// Runs `body` undisturbed: a kernel masks interrupts around it. The default just runs it.
    fn undisturbed(&self, body: &mut dyn FnMut()) {
        body();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_add_up_and_reasons_stay() {
        let at = |n| CounterSample { instructions: Ok(n), ..CounterSample::none("no counter") };
        let mut sum = at(7).zeroed();
        sum.add_interval(&at(10), &at(15));
        sum.add_interval(&at(100), &at(101));
        assert_eq!(sum.instructions, Ok(6));
        assert_eq!(sum.cycles, Err("no counter"));
        sum.add_interval(&at(1), &CounterSample::none("gone"));
        assert_eq!(sum.instructions, Err("gone"));
    }

    #[test]
    fn a_counter_may_wrap() {
        let at = |n| CounterSample { cycles: Ok(n), ..CounterSample::none("-") };
        let mut sum = at(0).zeroed();
        sum.add_interval(&at(u64::MAX), &at(4));
        assert_eq!(sum.cycles, Ok(5));
    }
}
