//! Where the time of passes goes: ticks of every step, summed over the members of the team.

use alloc::vec::Vec;
use core::array;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

/// What a member does during a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Token embeddings and the angles of positions.
    Embed,
    /// Norms, and rounding of what they give.
    Norm,
    /// Products for queries, keys and values; keys turned, keys and values stored.
    QueryKeyValue,
    /// Attention, queries turned and the result rounded.
    Attention,
    /// The product behind attention, added to the stream.
    Output,
    /// Products for gate and up, SiLU, and rounding of what it gives.
    GateUp,
    /// The product behind them, added to the stream.
    Down,
    /// The product for logits.
    Head,
    /// Waiting for other members.
    Wait,
}

impl Step {
    /// All of them, in the order of a pass.
    pub const ALL: [Step; 9] = [
        Step::Embed,
        Step::Norm,
        Step::QueryKeyValue,
        Step::Attention,
        Step::Output,
        Step::GateUp,
        Step::Down,
        Step::Head,
        Step::Wait,
    ];

    /// As tables call it.
    pub const fn name(self) -> &'static str {
        match self {
            Step::Embed => "embed",
            Step::Norm => "norm",
            Step::QueryKeyValue => "q, k, v",
            Step::Attention => "attention",
            Step::Output => "output",
            Step::GateUp => "gate, up",
            Step::Down => "down",
            Step::Head => "head",
            Step::Wait => "wait",
        }
    }
}

/// One member's clock, in lines of its own so that nobody else's counting slows it.
#[repr(align(128))]
struct Laps {
    last: AtomicU64,
    spent: [AtomicU64; Step::ALL.len()],
}

/// Counts what steps take in the passes of a session that [has it](super::Session::set_profile).
///
/// A session without one pays a branch a step.
pub struct Profile {
    now: fn() -> u64,
    members: Vec<Laps>,
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(Step::ALL.map(|step| (step.name(), self.ticks(step)))).finish()
    }
}

impl Profile {
    /// For a team of `members`, in ticks of `now`.
    pub fn new(members: usize, now: fn() -> u64) -> Self {
        let zero = |_| AtomicU64::new(0);
        let members = (0..members).map(|_| Laps { last: zero(0), spent: array::from_fn(zero) }).collect();
        Profile { now, members }
    }

    /// Ticks that all members together have spent in a step.
    pub fn ticks(&self, step: Step) -> u64 {
        self.members.iter().map(|member| member.spent[step as usize].load(Ordering::Relaxed)).sum()
    }

    /// Back to zero.
    pub fn reset(&self) {
        for spent in self.members.iter().flat_map(|member| &member.spent) {
            spent.store(0, Ordering::Relaxed);
        }
    }

    /// A member begins a pass.
    pub(super) fn start(&self, member: usize) {
        self.members[member].last.store((self.now)(), Ordering::Relaxed);
    }

    /// What a member did since it was last here was this step.
    pub(super) fn lap(&self, member: usize, step: Step) {
        let laps = &self.members[member];
        let now = (self.now)();
        // Only this member writes here, so nothing is lost between reading and writing.
        let spent = now.saturating_sub(laps.last.swap(now, Ordering::Relaxed));
        let before = laps.spent[step as usize].load(Ordering::Relaxed);
        laps.spent[step as usize].store(before + spent, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn laps_of_all_members_add_up() {
        static TIME: AtomicU64 = AtomicU64::new(10);
        let profile = Profile::new(2, || TIME.fetch_add(3, Ordering::Relaxed));
        profile.start(0); // 10
        profile.lap(0, Step::Norm); // 13
        profile.start(1); // 16
        profile.lap(0, Step::Wait); // 19
        profile.lap(1, Step::Norm); // 22
        assert_eq!((profile.ticks(Step::Norm), profile.ticks(Step::Wait)), (3 + 6, 6));
        assert_eq!(profile.ticks(Step::Head), 0);
        profile.reset();
        assert!(Step::ALL.iter().all(|&step| profile.ticks(step) == 0));
    }
}
