//! Slots: a limit of the machine, each engine once, and the limit again, within seconds.
//!
//! Virtual machines drift by tens of per cent within minutes. Inside of a slot they hardly do, so ratios and shares are taken
//! per slot and their median over slots is what counts. The order of the engines turns around from slot to slot.

use std::time::Duration;

use barelm::llm::benchmarks::Stats;
use barelm::llm::pool::Team;

use super::Plan;
use super::contention::Watch;
use super::engine::EngineProcess;
use super::neighbors::Neighbors;
use super::work::{Model, Work};
use crate::failure::Failure;
use crate::limits::ReadBuffer;

/// How long a limit is measured at a time.
const LIMIT_TIME: Duration = Duration::from_millis(30);
/// Times a limit is measured in a row, of which the best counts: behind seconds of waiting, the first reading of memory is
/// often slow by a third.
const LIMIT_TIMES: usize = 3;
/// Between two engines: threads of the one before have gone to sleep.
const PAUSE: Duration = Duration::from_millis(30);
/// The limit before and after may differ by this factor.
const DRIFT: f64 = 1.25;

/// One slot.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// The limit before and after, in the unit of its kind.
    pub limits: [f64; 2],
    /// Tokens a second of each engine.
    pub rates: Vec<f64>,
    /// Share of the limit of each engine.
    pub shares: Vec<f64>,
    /// Why it does not count.
    pub bad: Option<String>,
}

/// All slots of one work with one model and number of threads.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What was measured.
    pub work: Work,
    /// In the order they were run, bad ones included.
    pub slots: Vec<Slot>,
}

/// Middle and bootstrap interval (95 %).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Middle {
    /// Median.
    pub median: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Middle {
    /// Of these numbers; `None` of none.
    pub fn of(numbers: impl Iterator<Item = f64>) -> Option<Self> {
        let mut numbers: Vec<f64> = numbers.collect();
        let stats = Stats::from_samples(&mut numbers)?;
        Some(Middle { median: stats.median, low: stats.median_low, high: stats.median_high })
    }
}

impl Row {
    /// Runs slots until `rounds` of them are good, or as many again are bad.
    pub fn measure(
        engines: &mut [EngineProcess],
        model: &Model,
        work: Work,
        plan: &Plan,
        buffer: &ReadBuffer,
        team: &dyn Team,
    ) -> Result<Self, Failure> {
        let rounds = plan.rounds;
        let mut row = Row { work, slots: Vec::new() };
        while row.good().count() < rounds && row.slots.len() < 2 * rounds {
            row.slots.push(measure_slot(engines, model, work, (row.slots.len(), plan.beside), buffer, team)?);
        }
        Ok(row)
    }

    /// Slots that count.
    pub fn good(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| slot.bad.is_none())
    }

    /// Why slots were dropped, each reason once.
    pub fn complaints(&self) -> Vec<&str> {
        let mut reasons: Vec<_> = self.slots.iter().filter_map(|slot| slot.bad.as_deref()).collect();
        reasons.sort_unstable();
        reasons.dedup();
        reasons
    }

    /// Tokens a second of an engine.
    pub fn rate(&self, engine: usize) -> Option<Middle> {
        Middle::of(self.good().map(|slot| slot.rates[engine]))
    }

    /// Share of the limit of an engine.
    pub fn share(&self, engine: usize) -> Option<Middle> {
        Middle::of(self.good().map(|slot| slot.shares[engine]))
    }

    /// How many times as fast as `other` an engine is.
    pub fn ratio(&self, engine: usize, other: usize) -> Option<Middle> {
        Middle::of(self.good().map(|slot| slot.rates[engine] / slot.rates[other]))
    }

    /// The limit, as the larger of a slot's two.
    pub fn limit(&self) -> Option<Middle> {
        Middle::of(self.good().map(Slot::limit))
    }
}

impl Slot {
    /// The larger of both measurements.
    pub fn limit(&self) -> f64 {
        self.limits[0].max(self.limits[1])
    }
}

fn measure_slot(
    engines: &mut [EngineProcess],
    model: &Model,
    work: Work,
    (index, beside): (usize, usize),
    buffer: &ReadBuffer,
    team: &dyn Team,
) -> Result<Slot, Failure> {
    let (prompt, tokens) = work.request(model.shape.vocab_size);
    let kind = work.limit(&model.demand);
    let mut rates = vec![0.0; engines.len()];
    let mut disturbed = None;
    let watch = Watch::begin(engines.iter().map(EngineProcess::id));
    let best = || (0..LIMIT_TIMES).map(|_| kind.measure(buffer, team, LIMIT_TIME)).fold(0.0, f64::max);
    let before = best();
    let mut order: Vec<_> = (0..engines.len()).collect();
    if index % 2 == 1 {
        order.reverse();
    }
    for at in order {
        std::thread::sleep(PAUSE);
        // In this process, so that the watch does not take them for others; limits are those of the free machine.
        let neighbors = Neighbors::start(beside)?;
        let answer = engines[at].submit(&prompt, tokens)?;
        drop(neighbors);
        rates[at] = work.rate(answer.done.prefill_ns, answer.done.decode_ns);
        // Beside neighbors our own reading is disturbed, and that is meant.
        if beside == 0 && !answer.undisturbed() {
            disturbed.get_or_insert_with(|| format!("{} was disturbed", engines[at].name()));
        }
    }
    std::thread::sleep(PAUSE);
    let limits = [before, best()];
    Ok(judge(limits, rates, work.needs(&model.demand), watch.end().or(disturbed)))
}

/// A slot whose tokens take `needs` each of the limit.
fn judge(limits: [f64; 2], rates: Vec<f64>, needs: f64, disturbed: Option<String>) -> Slot {
    let (least, most) = (limits[0].min(limits[1]), limits[0].max(limits[1]));
    let shares: Vec<f64> = rates.iter().map(|rate| rate * needs / most).collect();
    let bad = disturbed
        .or_else(|| (most > DRIFT * least).then(|| "the machine's limit changed during it".to_owned()))
        .or_else(|| {
            let share = shares.iter().find(|&&share| share > 1.0)?;
            Some(format!("{:.0} % of the limit: the limit was measured at a worse moment", share * 100.0))
        });
    Slot { limits, rates, shares, bad }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(slots: &[([f64; 2], [f64; 2])]) -> Row {
        let slots = slots.iter().map(|(limits, rates)| judge(*limits, rates.to_vec(), 2.0, None)).collect();
        Row { work: Work::Decode(8), slots }
    }

    #[test]
    fn slots_that_contradict_themselves_do_not_count() {
        let why = |limits, rates: &[f64]| judge(limits, rates.to_vec(), 2.0, None).bad;
        assert_eq!(why([100.0, 110.0], &[50.0, 55.0]), None);
        assert!(why([100.0, 110.0], &[50.0, 56.0]).unwrap().starts_with("102 % of the limit"));
        assert!(why([100.0, 126.0], &[5.0]).unwrap().contains("changed"));
        assert_eq!(judge([1e9; 2], vec![1.0], 2.0, Some("x".into())).bad.as_deref(), Some("x"));
    }

    #[test]
    fn ratios_are_taken_within_slots() {
        // The machine halves its speed: rates do, ratios do not.
        let row = row(&[
            ([200.0, 200.0], [80.0, 40.0]),
            ([100.0, 100.0], [40.0, 20.0]),
            ([100.0, 200.0], [10.0, 40.0]),
            ([100.0, 90.0], [42.0, 20.0]),
        ]);
        assert_eq!(row.good().count(), 3);
        assert_eq!(row.complaints(), ["the machine's limit changed during it"]);
        assert_eq!(row.rate(0).unwrap().median, 42.0);
        assert_eq!(row.ratio(0, 1).unwrap().median, 2.0);
        assert_eq!(row.ratio(1, 0).unwrap().median, 0.5);
        assert_eq!(row.share(0).unwrap().median, 0.8);
        assert_eq!(row.limit().unwrap().median, 100.0);
        let ratio = row.ratio(0, 1).unwrap();
        assert_eq!((ratio.low, ratio.high), (2.0, 2.1));
    }

    #[test]
    fn nothing_is_said_of_no_slots() {
        let row = row(&[([1.0, 2.0], [0.1, 0.1])]);
        assert_eq!((row.rate(0), row.ratio(0, 1)), (None, None));
    }
}
