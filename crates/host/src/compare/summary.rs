//! The figures of a record, from its rows alone.
//!
//! `barelm compare` writes what [`summarize`] gives at the end of a record, and a report computes it again: both must be the
//! same to the last digit.

use std::collections::BTreeMap;

use super::record::{Arrival, Case, EngineId, Outcome, Row, Run, Scenario, Summary, Visit};
use super::stats::{distribution, figure, ratio, slope};

/// Samples below which a distribution gets a remark.
pub const WANTED_SAMPLES: usize = 100;

/// The figures of every engine with every model and case, in the order of the record.
pub fn summarize(rows: &[Row]) -> Vec<Summary> {
    let run = rows.iter().find_map(|row| match row {
        Row::Run(run) => Some(run),
        _ => None,
    });
    let mut groups: Vec<Group<'_>> = Vec::new();
    for row in rows {
        let Row::Visit(visit) = row else { continue };
        match groups.iter_mut().find(|group| group.is_of(visit)) {
            Some(group) => group.visits.push(visit),
            None => groups.push(Group { visits: vec![visit], wrong: None }),
        }
    }
    for group in &mut groups {
        group.wrong = wrong(rows, group.visits[0]);
    }
    let mut summaries: Vec<Summary> = groups.iter().map(|group| group.summary(run)).collect();
    for (at, group) in groups.iter().enumerate() {
        summaries[at].best = group.is_best(&groups);
    }
    for (at, group) in groups.iter().enumerate() {
        let equal = groups.iter().find(|ours| {
            ours.is_ours() && ours.visits[0].case == group.visits[0].case && group.comparable(ours)
        });
        summaries[at].ours_times = equal.map_or_else(BTreeMap::new, |ours| group.ours_times(ours));
        let best = groups.iter().enumerate().find(|(other, ours)| {
            ours.is_ours() && summaries[*other].best && group.same_but_threads(ours) && group.comparable(ours)
        });
        if summaries[at].best {
            summaries[at].ours_times_best =
                best.map_or_else(BTreeMap::new, |(_, ours)| group.ours_times(ours));
        }
    }
    summaries
}

/// All visits of one engine with one model and case.
struct Group<'r> {
    visits: Vec<&'r Visit>,
    /// Why its answers are wrong.
    wrong: Option<String>,
}

/// Why an engine's answers to a model are wrong, by the rows that judge them.
fn wrong(rows: &[Row], visit: &Visit) -> Option<String> {
    rows.iter().find_map(|row| match row {
        Row::Quality(quality) => {
            let same = quality.engine.name == visit.engine.name && quality.model.sha256 == visit.model.sha256;
            quality.wrong.clone().filter(|_| same)
        }
        Row::AnswerCheck(check) => {
            let same = check.engine == visit.engine.name
                && check.model_sha256 == visit.model.sha256
                && check.case == visit.case;
            check.wrong.clone().filter(|_| same)
        }
        _ => None,
    })
}

/// Samples of each round that counts, the last attempt of it.
type Rounds = Vec<Vec<f64>>;

impl<'r> Group<'r> {
    fn is_of(&self, visit: &Visit) -> bool {
        let first = self.visits[0];
        first.engine.name == visit.engine.name
            && first.model.sha256 == visit.model.sha256
            && first.case == visit.case
    }

    fn engine(&self) -> &'r EngineId {
        &self.visits[0].engine
    }

    fn is_ours(&self) -> bool {
        self.engine().name == "barelm"
    }

    /// Whether a ratio would say something. A file of one class is never compared with one of another.
    fn comparable(&self, ours: &Self) -> bool {
        let (a, b) = (self.visits[0], ours.visits[0]);
        a.engine.name != b.engine.name
            && a.model.sha256 == b.model.sha256
            && a.engine.crippled.is_none()
            && b.engine.crippled.is_none()
            && a.engine.device == b.engine.device
            && !self.disturbed()
            && !ours.disturbed()
    }

    fn same_but_threads(&self, other: &Self) -> bool {
        let (a, b) = (&self.visits[0].case, &other.visits[0].case);
        *a == Case { threads: a.threads, ..b.clone() }
    }

    /// The visit that stands for each round: the last that counts.
    fn good(&self) -> BTreeMap<usize, &'r Visit> {
        if self.wrong.is_some() {
            return BTreeMap::new();
        }
        let wanted = |visit: &&&Visit| if self.disturbed() { visit.measured() } else { visit.counts() };
        self.visits.iter().filter(wanted).map(|visit| (visit.round, *visit)).collect()
    }

    /// Whether no round was left in peace; then those that were not are better than nothing, as long as it is said.
    fn disturbed(&self) -> bool {
        !self.visits.iter().any(|visit| visit.counts()) && self.visits.iter().any(|visit| visit.measured())
    }

    /// Samples by round; rounds that do not count are empty.
    fn rounds(&self, of: impl Fn(&Visit) -> Vec<f64>) -> Rounds {
        let good = self.good();
        let rounds = good.keys().max().map_or(0, |last| last + 1);
        (0..rounds).map(|round| good.get(&round).map_or_else(Vec::new, |visit| of(visit))).collect()
    }

    /// Whether no other number of threads is faster for this engine.
    fn is_best(&self, groups: &[Group<'_>]) -> bool {
        let same = |other: &&Group<'_>| {
            other.engine().name == self.engine().name
                && other.visits[0].model.sha256 == self.visits[0].model.sha256
                && self.same_but_threads(other)
        };
        let speed = |group: &Group<'_>| figure(&group.per_round(throughput)).map(|figure| figure.value);
        let Some(mine) = speed(self) else { return false };
        groups.iter().filter(same).filter_map(speed).all(|other| other <= mine)
    }

    fn per_round(&self, of: impl Fn(&Visit) -> Option<f64>) -> Vec<f64> {
        self.good().values().filter_map(|visit| of(visit)).collect()
    }

    fn ours_times(&self, ours: &Self) -> BTreeMap<String, super::record::Interval> {
        let mut times = BTreeMap::new();
        let mut put = |name: &str, above: Rounds, below: Rounds| {
            if let Some(interval) = ratio(&above, &below) {
                times.insert(name.to_owned(), interval);
            }
        };
        let samples = |group: &Self, of: fn(&super::record::Sample) -> Option<f64>| {
            group.rounds(|visit| visit.requests.iter().filter_map(of).collect())
        };
        put(
            "ttft",
            samples(self, super::record::Sample::ttft_ns),
            samples(ours, super::record::Sample::ttft_ns),
        );
        put(
            "tpot",
            samples(self, super::record::Sample::tpot_ns),
            samples(ours, super::record::Sample::tpot_ns),
        );
        put(
            "e2e",
            samples(self, super::record::Sample::e2e_ns),
            samples(ours, super::record::Sample::e2e_ns),
        );
        // Of arrivals that both keep up with, both answer the same number: that is no merit of either.
        if self.visits[0].case.arrival == Arrival::Closed {
            let rate = |group: &Self| group.rounds(|visit| throughput(visit).into_iter().collect());
            put("throughput", rate(ours), rate(self));
        }
        times
    }

    fn summary(&self, run: Option<&Run>) -> Summary {
        let first = self.visits[0];
        let case = &first.case;
        let good = self.good();
        let mut attempted: Vec<usize> = self.visits.iter().map(|visit| visit.round).collect();
        attempted.sort_unstable();
        attempted.dedup();
        let mut distributions = BTreeMap::new();
        let mut put = |name: &str, rounds: Rounds| {
            let scaled: Rounds =
                rounds.iter().map(|round| round.iter().map(|ns| ns / 1e6).collect()).collect();
            if let Some(found) = distribution(&scaled) {
                distributions.insert(name.to_owned(), found);
            }
        };
        let each = |of: fn(&super::record::Sample) -> Option<f64>| {
            self.rounds(|visit| visit.requests.iter().filter_map(of).collect())
        };
        put("ttft_ms", each(super::record::Sample::ttft_ns));
        put("tpot_ms", each(super::record::Sample::tpot_ns));
        put("e2e_ms", each(super::record::Sample::e2e_ns));
        put("queued_ms", each(|sample| sample.queued_ns.map(|ns| ns as f64)));
        put(
            "itl_ms",
            self.rounds(|visit| visit.requests.iter().flat_map(|sample| sample.itl_ns()).collect()),
        );
        put("load_ms", self.rounds(|visit| visit.load_ns.map(|ns| ns as f64).into_iter().collect()));
        put(
            "first_request_ms",
            self.rounds(|visit| visit.first_request_ns.map(|ns| ns as f64).into_iter().collect()),
        );

        let mut figures = BTreeMap::new();
        let mut put = |name: &str, rounds: Vec<f64>| {
            if let Some(interval) = figure(&rounds) {
                figures.insert(name.to_owned(), interval);
            }
        };
        put("output_tok_s", self.per_round(throughput));
        put("requests_per_hour", self.per_round(|visit| Some(rate(visit, visit.requests.len())? * 3600.0)));
        if let Some(limits) = run.map(|run| &run.goodput_limits_ms) {
            put("goodput_per_s", self.per_round(|visit| rate(visit, good_requests(visit, limits))));
        }
        put("peak_rss", self.per_round(|visit| Some(visit.telemetry.peak_rss? as f64)));
        put("cpu_share", self.per_round(|visit| Some(visit.telemetry.cpu_s? / seconds(visit)?)));
        put(
            "harness_cpu_share",
            self.per_round(|visit| Some(visit.telemetry.harness_cpu_s? / seconds(visit)?)),
        );
        if case.scenario == Scenario::Sustained {
            put("rss_slope_per_min", self.per_round(|visit| Some(slope(&points(visit))? * 60.0)));
        }
        put(
            "joules_per_token",
            self.per_round(|visit| Some(visit.telemetry.package_j? / tokens(visit).max(1) as f64)),
        );
        let device = |of: fn(&super::record::DeviceSample) -> f64, largest: bool| {
            self.per_round(|visit| {
                let samples = visit.telemetry.device.iter().map(of);
                let count = visit.telemetry.device.len();
                (count > 0).then(|| match largest {
                    true => samples.fold(0.0, f64::max),
                    false => samples.sum::<f64>() / count as f64,
                })
            })
        };
        put("device_utilization", device(|sample| sample.utilization, false));
        put("device_power_w", device(|sample| sample.power_w, false));
        put("device_temperature", device(|sample| sample.temperature, true));
        put("peak_device", device(|sample| sample.memory as f64, true));
        // Alone, every token reads every weight once; beside others nobody tells how many share a pass.
        if case.in_flight == 1 && case.arrival == Arrival::Closed {
            let passes = |visit: &Visit| {
                let tpot: Vec<f64> = visit.requests.iter().filter_map(|sample| sample.tpot_ns()).collect();
                Some(1e9 / distribution(&[tpot])?.median)
            };
            let read = self.per_round(|visit| Some(passes(visit)? * visit.model.token_bytes as f64 / 1e9));
            put("read_gb_s", read.clone());
            if let Some(limit) =
                run.and_then(|run| run.limits.get("read_bytes_s")).filter(|_| first.engine.device == "cpu")
            {
                put("mbu", read.iter().map(|gb| gb * 1e9 / limit).collect());
            }
        }
        let limit = match first.model.class.as_str() {
            "f32" | "16-bit" => "f32_ops_s",
            _ => "int8_ops_s",
        };
        if let Some(limit) =
            run.and_then(|run| run.limits.get(limit)).filter(|_| first.engine.device == "cpu")
        {
            // Prompts are computed too: every position of them is as much work as a token.
            put(
                "mfu",
                self.per_round(|visit| {
                    let positions = visit.requests.len() * case.prompt_tokens + tokens(visit);
                    Some(rate(visit, positions)? * 2.0 * visit.model.token_elements as f64 / limit)
                }),
            );
        }

        let mut remarks = Vec::new();
        let samples = good.values().map(|visit| visit.requests.len()).sum::<usize>();
        if samples > 0 && samples < WANTED_SAMPLES {
            remarks.push(format!("{samples} requests, fewer than {WANTED_SAMPLES}"));
        }
        if first.engine.batching == barelm_protocol::Batching::Serial && case.in_flight > 1 {
            remarks.push("computes one request after the other: its concurrency is a queue".into());
        }
        if good.len() == 1 {
            remarks.push("one round: its intervals hold within it only".into());
        }
        let varied: usize = good.values().map(|visit| visit.varied).sum();
        if varied > 0 {
            remarks.push(format!("{varied} answers differ from the first to the same prompt"));
        }
        if self.visits.iter().any(|visit| visit.outcome == Outcome::Interrupted) {
            remarks.push("interrupted".into());
        }
        let contended: Vec<&str> =
            self.visits.iter().filter_map(|visit| visit.contended.as_deref()).collect();
        let disturbed = !good.is_empty() && self.disturbed();
        if disturbed {
            remarks.push(format!("no round was undisturbed, so there are no ratios: {}", contended[0]));
        } else if !contended.is_empty() {
            remarks.push(format!("{} visits were dropped: {}", contended.len(), contended[0]));
        }
        if let Some(why) = &first.engine.crippled {
            remarks.push(format!("crippled build, no ratios: {why}"));
        }
        let reason = good.is_empty().then(|| {
            let failed = self.visits.iter().rev().find_map(|visit| visit.reason.clone());
            self.wrong.clone().or(failed).unwrap_or_else(|| "every round was disturbed by others".into())
        });
        Summary {
            engine: first.engine.name.clone(),
            version: first.engine.version.clone(),
            device: first.engine.device.clone(),
            batching: first.engine.batching,
            model: first.model.name.clone(),
            model_sha256: first.model.sha256.clone(),
            class: first.model.class.clone(),
            case: case.clone(),
            label: case.label(),
            reason,
            rounds: (good.len(), attempted.len()),
            disturbed,
            best: false,
            distributions,
            figures,
            ours_times: BTreeMap::new(),
            ours_times_best: BTreeMap::new(),
            remarks,
        }
    }
}

fn seconds(visit: &Visit) -> Option<f64> {
    (visit.elapsed_ns > 0).then(|| visit.elapsed_ns as f64 / 1e9)
}

fn rate(visit: &Visit, count: usize) -> Option<f64> {
    Some(count as f64 / seconds(visit)?)
}

fn tokens(visit: &Visit) -> usize {
    visit.requests.iter().map(|sample| sample.token_ns.len()).sum()
}

/// Output tokens a second of all requests together.
fn throughput(visit: &Visit) -> Option<f64> {
    rate(visit, tokens(visit)).filter(|rate| *rate > 0.0)
}

/// Requests within both limits, in milliseconds: to the first token, and between tokens.
fn good_requests(visit: &Visit, limits: &(f64, f64)) -> usize {
    let good = visit.requests.iter().filter(|sample| {
        sample.ttft_ns().is_some_and(|ns| ns <= limits.0 * 1e6)
            && sample.tpot_ns().is_none_or(|ns| ns <= limits.1 * 1e6)
    });
    good.count()
}

fn points(visit: &Visit) -> Vec<(f64, f64)> {
    visit.telemetry.rss.iter().map(|&(t, bytes)| (t, bytes as f64)).collect()
}
