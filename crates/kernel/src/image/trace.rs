//! Where the time of an answer goes, step by step: recorded by the transformer, printed for `cargo xtask trace`.
//!
//! A line for each pass of each core: `@trace CORE START a12 b3 …`, where a letter is a step in the order of the first
//! line and the number its ticks. Steps follow each other without gaps.

use cortex_a::registers::{CNTVCT_EL0, Readable};

use crate::console;
use crate::console_line as line;
use crate::llm::benchmarks::Clock;
use crate::llm::transformer::{Event, Profile, Session, Step};
use crate::log;

/// Events kept for each core: 30 layers make about 250 a pass.
const EVENTS: usize = 1 << 15;

/// Records from now on.
pub fn begin(session: &mut Session<'_>) {
    session.set_recording(|| CNTVCT_EL0.get(), EVENTS);
}

/// Prints what was recorded, if anything was.
pub fn print(session: &Session<'_>, clock: &dyn Clock) {
    let Some(profile) = session.profile() else { return };
    let all: u64 = Step::ALL.iter().map(|&step| profile.ticks(step)).sum();
    for step in Step::ALL {
        let ticks = profile.ticks(step);
        log!(info, "{=u64} ticks of step {=str}", ticks, step.name());
        line!(
            "step {:10} {:6.2} % {:10.3} ms",
            step.name(),
            ticks as f64 * 100.0 / all.max(1) as f64,
            ticks as f64 * 1e3 / clock.ticks_per_second()
        );
    }
    console::print(format_args!("@trace steps {}", clock.ticks_per_second() as u64));
    for step in Step::ALL {
        console::print(format_args!("|{}", step.name()));
    }
    for member in 0..profile.members() {
        if log::wants(log::Level::Trace) {
            log_layers(profile, member);
        }
        for event in profile.events(member) {
            match event {
                Event::Pass(at) => console::print(format_args!("\n@trace {member} {at}")),
                Event::Step(step, ticks) => {
                    console::print(format_args!(" {}{ticks}", char::from(b'a' + step as u8)));
                }
            }
        }
    }
    line!("\n@trace lost {}", profile.lost());
}

/// Logs the ticks of each layer of each pass, from its queries to the next one's.
fn log_layers(profile: &Profile, member: usize) {
    let (mut layer, mut ticks) = (None, 0);
    let tell = |layer: Option<u32>, ticks| {
        if let Some(layer) = layer {
            log!(trace, "member {=usize}: layer {=u32} took {=u64} ticks", member, layer, ticks);
        }
    };
    for event in profile.events(member) {
        match event {
            Event::Pass(_) => {
                tell(layer, ticks);
                (layer, ticks) = (None, 0);
            }
            Event::Step(Step::QueryKeyValue, spent) => {
                tell(layer, ticks);
                layer = Some(layer.map_or(0, |layer| layer + 1));
                ticks = spent;
            }
            Event::Step(_, spent) => ticks += spent,
        }
    }
    tell(layer, ticks);
}
