//! Where the time of passes goes: ticks of every step, summed over the members of the team, or one by one.

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
    /// What happened, in order: the step and its ticks, or [`BEGINS`] and the time.
    log: Vec<AtomicU64>,
    /// Entries of the log there would be, had it room for all.
    logged: AtomicU64,
}

/// Bits of a log's entry below its kind.
const TICKS: u32 = 56;
/// The kind of an entry that begins a pass.
const BEGINS: u64 = 0xff;

/// What a member did, as [`Profile::events`] tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A pass began, at this time.
    Pass(u64),
    /// Then this step took so many ticks.
    Step(Step, u64),
}

impl Laps {
    fn log(&self, kind: u64, ticks: u64) {
        // Only this member writes here, as in `Profile::lap`.
        let place = self.logged.load(Ordering::Relaxed);
        if let Some(entry) = self.log.get(place as usize) {
            entry.store(kind << TICKS | ticks & ((1 << TICKS) - 1), Ordering::Relaxed);
        }
        self.logged.store(place + 1, Ordering::Relaxed);
    }
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
        Self::recording(members, now, 0)
    }

    /// As [`Self::new`], and each member's first `events` are kept one by one.
    pub fn recording(members: usize, now: fn() -> u64, events: usize) -> Self {
        let zero = |_| AtomicU64::new(0);
        let laps = |_| Laps {
            last: zero(0),
            spent: array::from_fn(zero),
            log: (0..events).map(zero).collect(),
            logged: zero(0),
        };
        Profile { now, members: (0..members).map(laps).collect() }
    }

    /// What a member did, in order, as far as there was room.
    pub fn events(&self, member: usize) -> impl Iterator<Item = Event> + '_ {
        let laps = &self.members[member];
        let kept = laps.log.len().min(laps.logged.load(Ordering::Relaxed) as usize);
        laps.log[..kept].iter().map(|entry| {
            let entry = entry.load(Ordering::Relaxed);
            let ticks = entry & ((1 << TICKS) - 1);
            match Step::ALL.get((entry >> TICKS) as usize) {
                Some(&step) => Event::Step(step, ticks),
                None => Event::Pass(ticks),
            }
        })
    }

    /// Events of all members that there was no room for.
    pub fn lost(&self) -> u64 {
        let lost = |laps: &Laps| laps.logged.load(Ordering::Relaxed).saturating_sub(laps.log.len() as u64);
        self.members.iter().filter(|laps| !laps.log.is_empty()).map(lost).sum()
    }

    /// Members of the team.
    pub fn members(&self) -> usize {
        self.members.len()
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
        self.members.iter().for_each(|member| member.logged.store(0, Ordering::Relaxed));
    }

    /// A member begins a pass.
    pub(super) fn start(&self, member: usize) {
        let (laps, now) = (&self.members[member], (self.now)());
        laps.last.store(now, Ordering::Relaxed);
        if !laps.log.is_empty() {
            laps.log(BEGINS, now);
        }
    }

    /// What a member did since it was last here was this step.
    pub(super) fn lap(&self, member: usize, step: Step) {
        let laps = &self.members[member];
        let now = (self.now)();
        // Only this member writes here, so nothing is lost between reading and writing.
        let spent = now.saturating_sub(laps.last.swap(now, Ordering::Relaxed));
        let before = laps.spent[step as usize].load(Ordering::Relaxed);
        laps.spent[step as usize].store(before + spent, Ordering::Relaxed);
        if !laps.log.is_empty() {
            laps.log(step as u64, spent);
        }
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

    #[test]
    fn events_are_kept_in_order_until_there_is_no_room() {
        static TIME: AtomicU64 = AtomicU64::new(100);
        let profile = Profile::recording(1, || TIME.fetch_add(5, Ordering::Relaxed), 3);
        profile.start(0);
        profile.lap(0, Step::Embed);
        profile.lap(0, Step::Wait);
        profile.lap(0, Step::Head);
        let events: Vec<_> = profile.events(0).collect();
        assert_eq!(events, [Event::Pass(100), Event::Step(Step::Embed, 5), Event::Step(Step::Wait, 5)]);
        assert_eq!((profile.lost(), profile.ticks(Step::Head)), (1, 5));
        profile.reset();
        assert_eq!((profile.events(0).count(), profile.lost()), (0, 0));
    }
}
