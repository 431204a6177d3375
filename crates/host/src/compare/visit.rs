//! One engine with one case: requests are sent as the case says, and every answer is looked at.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};

use barelm_protocol::{Done, Finish, Reply, Request, Submit, now_ns};

use super::process::{Process, Trouble, unexpected};
use super::record::{Answer, Arrival, Case, Sample};
use super::stats::{poisson, quantile};
use crate::prompt::random_ids;

/// How much longer or shorter than by our clock an answer may take by the engine's: a share, and what waking up costs.
const CLOCK_SHARE: f64 = 0.02;
/// See [`CLOCK_SHARE`].
const CLOCK_SLACK_NS: u64 = 2_000_000;
/// How often to look whether to stop.
const LOOK_NS: u64 = 200_000_000;
/// Different prompts of a case: requests take turns with them, so that answers to the same one can be compared.
pub const PROMPTS: usize = 8;
/// Seed of the first prompt.
const SEED: u64 = 1000;

/// When a visit ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Until {
    /// No request is sent after so many nanoseconds.
    pub time_ns: u64,
    /// Requests at most.
    pub requests: usize,
    /// Requests that are sent even when time is up.
    pub at_least: usize,
}

/// What a visit gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// See [`Visit`](super::record::Visit).
    pub first_request_ns: Option<u64>,
    /// Every request.
    pub requests: Vec<Sample>,
    /// Every prompt.
    pub answers: Vec<Answer>,
    /// Requests with other ids than the first of the same prompt.
    pub varied: usize,
    /// From the first sending to the last end.
    pub elapsed_ns: u64,
    /// Median deviation of clocks, as a share.
    pub clock_deviation: f64,
    /// Whoever measured was stopped.
    pub interrupted: bool,
}

/// The ids of a case's prompt of this number.
pub fn prompt(case: &Case, vocab_size: usize, number: usize) -> (u64, Vec<u32>) {
    let seed = SEED + number as u64;
    (seed, random_ids(seed, case.prompt_tokens, vocab_size))
}

/// A request on its way.
struct Flight {
    sample: Sample,
    /// Stamps of its tokens.
    stamps: Vec<u64>,
    /// The order in which it was sent.
    number: usize,
}

/// Measures a case on an engine that has loaded the model. What was measured before trouble is given with it.
pub fn visit(
    process: &mut Process,
    case: &Case,
    vocab_size: usize,
    until: Until,
    stop: &AtomicBool,
) -> (Measured, Result<(), Trouble>) {
    let mut visitor = Visitor {
        process,
        case,
        prompts: (0..PROMPTS).map(|number| prompt(case, vocab_size, number)).collect(),
        measured: Measured::default(),
        begun: 0,
        next_id: 0,
        sent: 0,
        deviations: Vec::new(),
    };
    visitor.measured.answers =
        visitor.prompts.iter().map(|(seed, _)| Answer { seed: *seed, ids: Vec::new() }).collect();
    let result = visitor.first().and_then(|()| visitor.steady(until, stop));
    let result = result.and_then(|()| visitor.judge_clock());
    let mut measured = visitor.measured;
    measured.requests.sort_by_key(|sample| sample.sent_ns);
    (measured, result)
}

struct Visitor<'v> {
    process: &'v mut Process,
    case: &'v Case,
    prompts: Vec<(u64, Vec<u32>)>,
    measured: Measured,
    /// The first sending of the steady state.
    begun: u64,
    next_id: u64,
    /// Requests of the steady state.
    sent: usize,
    /// Of the clocks, of each request.
    deviations: Vec<f64>,
}

impl Visitor<'_> {
    fn submit(&mut self, prompt: usize, stream: bool) -> Result<u64, Trouble> {
        let id = self.next_id;
        self.next_id += 1;
        let prompt_ids = self.prompts[prompt].1.clone();
        let max_tokens = self.case.output_tokens;
        self.process.tell(&Request::Submit(Submit {
            id,
            prompt_ids,
            max_tokens,
            ignore_eos: true,
            stream,
        }))?;
        Ok(id)
    }

    /// The first request behind a load, alone and token by token, so that each stamp can be held against our clock.
    fn first(&mut self) -> Result<(), Trouble> {
        let begun = now_ns();
        let id = self.submit(0, true)?;
        let mut stamps: Vec<u64> = Vec::new();
        loop {
            match self.process.hear_answer()? {
                (at, Reply::Token { id: of, t_ns, .. }) if of == id => {
                    if t_ns < begun || t_ns > at {
                        return Err(Trouble::Failed(format!(
                            "wrong clock: stamps a token {} ms {} its line",
                            t_ns.abs_diff(at) / 1_000_000,
                            if t_ns > at { "after" } else { "before" }
                        )));
                    }
                    stamps.push(t_ns);
                }
                (at, Reply::Done(done)) if done.id == id => {
                    let first = stamps.first().copied().unwrap_or(at);
                    self.measured.first_request_ns = Some(first - begun);
                    return self.accept(&done, &stamps, begun, at, 0);
                }
                (_, other) => return Err(unexpected("token or done", &other)),
            }
        }
    }

    /// Looks at an answer to a prompt, whose request was sent and answered at these times.
    fn accept(
        &mut self,
        done: &Done,
        stamps: &[u64],
        sent: u64,
        ended: u64,
        prompt: usize,
    ) -> Result<(), Trouble> {
        let deviation =
            contradiction(done, stamps, self.case.output_tokens, sent, ended).map_err(Trouble::Failed)?;
        self.deviations.push(deviation);
        let answer = &mut self.measured.answers[prompt].ids;
        if answer.is_empty() {
            answer.clone_from(&done.ids);
        } else if *answer != done.ids {
            self.measured.varied += 1;
        }
        Ok(())
    }

    /// A single request may be late because somebody else used the processor; a wrong clock is wrong about most of them.
    fn judge_clock(&mut self) -> Result<(), Trouble> {
        self.deviations.sort_unstable_by(f64::total_cmp);
        if self.deviations.is_empty() {
            return Ok(());
        }
        let median = quantile(&self.deviations, 0.5);
        self.measured.clock_deviation = median;
        match median > CLOCK_SHARE {
            true => Err(Trouble::Failed(format!(
                "wrong clock: its times and ours differ by {:.0} % in half of its answers",
                median * 100.0
            ))),
            false => Ok(()),
        }
    }

    /// All further requests, as the case says.
    fn steady(&mut self, until: Until, stop: &AtomicBool) -> Result<(), Trouble> {
        let most = self.case.in_flight.min(self.process.hello().max_in_flight).max(1);
        let mut arrivals: VecDeque<u64> = match self.case.arrival {
            Arrival::Closed => VecDeque::new(),
            Arrival::Poisson { per_s } => {
                let seconds = until.time_ns as f64 / 1e9;
                poisson(SEED, per_s, seconds).iter().map(|at| (at * 1e9) as u64).collect()
            }
        };
        arrivals.truncate(until.requests);
        let open = self.case.arrival != Arrival::Closed;
        let mut waiting: VecDeque<u64> = VecDeque::new();
        let mut flights: BTreeMap<u64, Flight> = BTreeMap::new();
        self.begun = now_ns();
        // Closed: so many clients, each of which asks again when it has its answer.
        let mut clients = if open { 0 } else { self.case.in_flight };
        let mut issued = 0;
        let mut silent_since = self.begun;
        loop {
            let now = now_ns() - self.begun;
            let stopped = stop.load(Ordering::Relaxed);
            self.measured.interrupted |= stopped;
            while arrivals.front().is_some_and(|&at| at <= now) {
                waiting.extend(arrivals.pop_front());
            }
            while clients > 0 && issued < until.requests && (now < until.time_ns || issued < until.at_least) {
                waiting.push_back(now);
                clients -= 1;
                issued += 1;
            }
            // What has been asked for is answered, or the slow ones would be missing. Only who is stopped leaves.
            if stopped {
                return Ok(());
            }
            while flights.len() < most
                && let Some(intended_ns) = waiting.pop_front()
            {
                let prompt = self.sent % PROMPTS;
                let sent_ns = now_ns() - self.begun;
                let id = self.submit(prompt, false)?;
                let sample = Sample { prompt, intended_ns, sent_ns, ..Sample::default() };
                flights.insert(id, Flight { sample, stamps: Vec::new(), number: self.sent });
                self.sent += 1;
            }
            if flights.is_empty() && waiting.is_empty() && arrivals.is_empty() {
                return Ok(());
            }
            let next = arrivals.front().map_or(u64::MAX, |at| self.begun + at);
            let heard = self.process.hear_until(next.min(now_ns() + LOOK_NS))?;
            let Some((at, reply)) = heard else {
                if flights.is_empty() {
                    silent_since = now_ns();
                }
                self.process.check_patience(silent_since)?;
                continue;
            };
            silent_since = at;
            if self.reply(at, reply, &mut flights)? && !open {
                clients += 1;
            }
        }
    }

    /// Books a reply; whether a request is over.
    fn reply(&mut self, at: u64, reply: Reply, flights: &mut BTreeMap<u64, Flight>) -> Result<bool, Trouble> {
        match reply {
            Reply::Token { id, t_ns, .. } => match flights.get_mut(&id) {
                Some(flight) => {
                    flight.stamps.push(t_ns);
                    Ok(false)
                }
                None => Err(Trouble::Failed(format!("a token of request {id}, which is not in flight"))),
            },
            Reply::Done(done) => {
                let Some(flight) = flights.remove(&done.id) else {
                    return Err(Trouble::Failed(format!("request {} is done, but not in flight", done.id)));
                };
                let Flight { mut sample, stamps, number } = flight;
                self.accept(&done, &stamps, self.begun + sample.sent_ns, at, sample.prompt).map_err(
                    |trouble| match trouble {
                        Trouble::Failed(why) => Trouble::Failed(format!("request {number}: {why}")),
                        other => other,
                    },
                )?;
                sample.done_ns = at - self.begun;
                sample.queued_ns = done.queued_ns;
                let first = stamps.first().map(|first| first - self.begun);
                sample.token_ns =
                    first.into_iter().chain(stamps.windows(2).map(|pair| pair[1] - pair[0])).collect();
                self.measured.elapsed_ns = self.measured.elapsed_ns.max(sample.done_ns);
                self.measured.requests.push(sample);
                Ok(true)
            }
            other => Err(unexpected("token or done", &other)),
        }
    }
}

/// By how much an answer's clock differs from ours, as a share, or how it contradicts itself or our clock.
fn contradiction(done: &Done, stamps: &[u64], tokens: usize, sent: u64, ended: u64) -> Result<f64, String> {
    if done.ids.len() != tokens || stamps.len() != tokens {
        return Err(format!(
            "{tokens} tokens were asked for; {} lines and {} ids came",
            stamps.len(),
            done.ids.len()
        ));
    }
    if done.finish != Finish::Length {
        return Err(format!("ended with {:?} though it has all tokens", done.finish));
    }
    let (first, last) = (stamps[0], stamps[stamps.len() - 1]);
    if !stamps.is_sorted() || first < sent || last > ended {
        return Err("wrong clock: stamps tokens outside of the request or out of order".into());
    }
    if done.decode_ns != last - first {
        return Err(format!("says it decoded for {} ns, its tokens for {} ns", done.decode_ns, last - first));
    }
    let (ours, theirs) = (ended - sent, done.prefill_ns + done.decode_ns);
    let off = ours.abs_diff(theirs);
    Ok(if off > CLOCK_SLACK_NS { off as f64 / ours.max(1) as f64 } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(prefill_ns: u64, stamps: &[u64]) -> Done {
        let decode_ns = stamps[stamps.len() - 1] - stamps[0];
        Done { prefill_ns, decode_ns, ids: vec![1; stamps.len()], ..Done::default() }
    }

    #[test]
    fn answers_that_contradict_themselves_or_the_clock_are_found() {
        let ms = |ms: &[u64]| ms.iter().map(|ms| ms * 1_000_000).collect::<Vec<_>>();
        let stamps = ms(&[200, 300, 400]);
        let (sent, ended) = (100_000_000, 401_000_000);
        let good = done(100_000_000, &stamps);
        assert_eq!(contradiction(&good, &stamps, 3, sent, ended), Ok(0.0));
        let wrong = |done: &Done, stamps: &[u64], tokens| {
            contradiction(done, stamps, tokens, sent, ended).unwrap_err()
        };
        assert!(wrong(&good, &stamps, 4).contains("4 tokens were asked for; 3 lines and 3 ids came"));
        // A clock that differs is told with by how much; what most answers say decides.
        let half = contradiction(&done(50_000_000, &stamps), &stamps, 3, sent, ended).unwrap();
        assert!((half - 51.0 / 301.0).abs() < 1e-9, "{half}");
        assert!(wrong(&good, &ms(&[99, 300, 400]), 3).contains("outside"));
        assert!(wrong(&good, &ms(&[200, 300, 402]), 3).contains("outside"));
        assert!(wrong(&good, &ms(&[200, 350, 300]), 3).contains("order"));
        let other = Done { decode_ns: 5, ..good.clone() };
        assert!(wrong(&other, &stamps, 3).contains("says it decoded for 5 ns"));
        let stopped = Done { finish: Finish::Stop, ..good };
        assert!(wrong(&stopped, &stamps, 3).contains("Stop"));
    }
}
