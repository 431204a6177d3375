//! Many requests at once give each the tokens it would get alone, in memory that never runs over.
#![cfg(feature = "llm-transformer")]

#[path = "support/threads.rs"]
mod threads;

use std::collections::HashMap;
use std::ops::ControlFlow;

use barelm::llm::generate::Finish;
use barelm::llm::gguf::Gguf;
use barelm::llm::kv_cache::BLOCK;
use barelm::llm::model::{LoadConfig, Model};
use barelm::llm::plan::{Plan, PlanError, SchedulerConfig, SessionConfig};
use barelm::llm::pool::{Solo, Team};
use barelm::llm::sampler::{Sampler, SamplerConfig, SamplerError};
use barelm::llm::scheduler::{Done, Event, Request, Scheduler, SubmitError};
use barelm::llm::simd;
use barelm::llm::transformer::{Logits, Session};
use threads::Threads;

/// Numbers from Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 20) % end as u64) as usize
    }

    fn within(&mut self, range: std::ops::RangeInclusive<usize>) -> usize {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

fn file() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tiny.gguf");
    std::fs::read(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A scheduler on planned memory, handed to `work`.
fn with_scheduler<R>(
    gguf: &Gguf<'_>,
    config: SchedulerConfig,
    team: &dyn Team,
    work: impl FnOnce(&mut Scheduler<'_>) -> R,
) -> R {
    let kernels = simd::best();
    let model = Model::load(gguf, LoadConfig::default()).unwrap();
    let mut copy = vec![0; model.packed_bytes(kernels) as usize];
    let model = model.packed(kernels, &mut copy).unwrap();
    let config = SchedulerConfig { members: team.size(), ..config };
    let mut memory = vec![0; Plan::scheduler(gguf, &config).unwrap().session() as usize];
    work(&mut Scheduler::new(&model, config, kernels, team, &mut memory).unwrap())
}

/// The tokens a request gets from a session of its own.
fn alone(gguf: &Gguf<'_>, request: &Request) -> (Vec<u32>, Finish) {
    let model = Model::load(gguf, LoadConfig::default()).unwrap();
    let config = SessionConfig { batch: 16, ..SessionConfig::default() };
    let mut memory = vec![0; Plan::from_header(gguf, &config).unwrap().session() as usize];
    let mut session = Session::new(&model, config, simd::best(), &Solo, &mut memory).unwrap();
    let mut sampler = Sampler::try_new(request.sampler, model.shape().vocab_size).unwrap();
    request.prompt.iter().for_each(|&id| sampler.accept(id));
    let mut tokens = Vec::new();
    let mut logits = session.forward(&request.prompt, Logits::Last).unwrap();
    loop {
        let id = sampler.sample(logits);
        sampler.accept(id);
        tokens.push(id);
        if request.stop.contains(&id) {
            return (tokens, Finish::Stop);
        }
        if tokens.len() == request.max_tokens {
            return (tokens, Finish::Length);
        }
        logits = session.forward(&[id], Logits::Last).unwrap();
    }
}

fn request(id: u64, prompt: usize, max_tokens: usize) -> Request {
    Request {
        id,
        prompt: (0..prompt as u64).map(|i| ((i * i * 31 + i * 7 + id * 13) % 2000) as u32).collect(),
        max_tokens,
        sampler: SamplerConfig { seed: id, ..SamplerConfig::default() },
        stop: Vec::new(),
    }
}

fn random_request(random: &mut Random, id: u64, context: usize) -> Request {
    let prompt = if random.one_in(3) { random.within(1..=120) } else { random.within(1..=20) };
    let prompt = prompt.min(context - 1);
    let max_tokens = random.within(1..=60).min(context + 1 - prompt);
    let sampler = match random.below(3) {
        0 => SamplerConfig::default(),
        1 => SamplerConfig { temperature: 0.9, seed: id * 77, ..SamplerConfig::default() },
        _ => SamplerConfig {
            temperature: 1.1,
            repetition_penalty: 1.3,
            repeat_last: random.within(1..=500),
            seed: id,
            ..SamplerConfig::default()
        },
    };
    // Among so many ids some will be picked.
    let stop = (0..random.below(60)).map(|_| random.below(2000) as u32).collect();
    Request { sampler, stop, ..request(id, prompt, max_tokens) }
}

/// How a request of a schedule is to be cancelled.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cancel {
    Never,
    /// By a call before this step.
    Before(usize),
    /// By its listener at this token.
    At(usize),
}

/// What happened in the schedules, so that a test knows what it has seen.
#[derive(Debug, Default)]
struct Seen {
    stopped: usize,
    at_length: usize,
    cancelled: usize,
    refused_by_queue: usize,
    /// Steps in which somebody waited for pages, not for a sequence.
    short_of_pages: usize,
    /// Passes with tokens of several sequences and parts of prompts.
    mixed: usize,
}

/// One random schedule, run to its end and compared with sessions alone.
fn run_schedule(gguf: &Gguf<'_>, seed: u64, seen: &mut Seen) {
    let mut random = Random(seed * 2 + 0x9e37_79b9);
    let sequences = random.within(1..=6);
    let config = SchedulerConfig {
        sequences,
        positions: BLOCK * random.within(2..=8),
        context: 0,
        batch: sequences + random.below(40),
        chunk: random.within(1..=40),
        queue: random.within(1..=4),
        members: 0,
    };
    let team = Threads::punctual(random.within(1..=4));
    let context = config.positions.min(512);
    let count = random.within(1..=12);
    let mut coming: Vec<(usize, Request, Cancel)> = (0..count as u64)
        .map(|id| {
            let cancel = match random.below(6) {
                0 => Cancel::Before(random.below(60)),
                1 => Cancel::At(random.within(1..=20)),
                _ => Cancel::Never,
            };
            (random.below(40), random_request(&mut random, id + 1, context), cancel)
        })
        .collect();
    coming.sort_by_key(|(arrival, ..)| *arrival);
    let expected: HashMap<u64, _> = coming
        .iter()
        .map(|(_, request, cancel)| (request.id, (alone(gguf, request), *cancel, request.prompt.len())))
        .collect();
    let mut tokens: HashMap<u64, Vec<u32>> = HashMap::new();
    let mut done: HashMap<u64, Done> = HashMap::new();
    with_scheduler(gguf, config, &team, |scheduler| {
        let pages = scheduler.free_pages();
        assert_eq!(pages * BLOCK, config.positions);
        let mut steps = 0;
        while done.len() < count {
            while coming.first().is_some_and(|(arrival, ..)| *arrival <= steps) {
                match scheduler.submit(coming[0].1.clone()) {
                    Ok(()) => drop(coming.remove(0)),
                    Err(SubmitError::QueueFull { queue }) => {
                        assert_eq!((queue, scheduler.waiting()), (config.queue, config.queue));
                        seen.refused_by_queue += 1;
                        break;
                    }
                    Err(error) => panic!("seed {seed}: {error}"),
                }
            }
            for (&id, (_, cancel, _)) in &expected {
                if *cancel == Cancel::Before(steps)
                    && let Some(end) = scheduler.cancel(id)
                {
                    assert_eq!((end.id, end.finish), (id, Ok(Finish::Cancelled)));
                    assert!(done.insert(id, end).is_none());
                }
            }
            let step = scheduler.step(|event| match event {
                Event::Token { id, token } => {
                    assert!(!done.contains_key(&id), "seed {seed}: a token after the end");
                    let tokens = tokens.entry(id).or_default();
                    tokens.push(token);
                    match expected[&id].1 == Cancel::At(tokens.len()) {
                        true => ControlFlow::Break(()),
                        false => ControlFlow::Continue(()),
                    }
                }
                Event::Done(end) => {
                    assert!(done.insert(end.id, end).is_none(), "seed {seed}: done twice");
                    ControlFlow::Continue(())
                }
            });
            assert!(step.decoded <= sequences && step.decoded + step.prompt <= config.batch, "{step:?}");
            assert!(step.decoded == 0 || step.prompt <= config.chunk, "{step:?}");
            assert!(scheduler.running() <= sequences && scheduler.free_pages() <= pages);
            seen.mixed += usize::from(step.decoded > 1 && step.prompt > 0);
            seen.short_of_pages += usize::from(scheduler.waiting() > 0 && scheduler.running() < sequences);
            steps += 1;
            assert!(steps < 5000, "seed {seed}: it does not end");
        }
        assert!(scheduler.is_idle());
        assert_eq!(scheduler.free_pages(), pages, "seed {seed}: pages are lost");
    });
    for (id, ((all, finish), cancel, prompt)) in expected {
        let (end, got) = (done[&id], tokens.remove(&id).unwrap_or_default());
        assert_eq!((end.tokens, end.prompt), (got.len(), prompt));
        assert_eq!(got, all[..got.len()], "seed {seed}, request {id}");
        match end.finish.unwrap() {
            Finish::Cancelled => {
                assert_ne!(cancel, Cancel::Never);
                seen.cancelled += 1;
            }
            other => {
                assert_eq!((other, got.len()), (finish, all.len()), "seed {seed}, request {id}");
                if other == Finish::Stop { seen.stopped += 1 } else { seen.at_length += 1 }
            }
        }
    }
}

#[test]
fn every_request_gets_the_tokens_it_would_get_alone() {
    let file = file();
    let gguf = Gguf::parse(&file).unwrap();
    let mut seen = Seen::default();
    (0..60).for_each(|seed| run_schedule(&gguf, seed, &mut seen));
    let Seen { stopped, at_length, cancelled, refused_by_queue, short_of_pages, mixed } = seen;
    let least = [stopped, at_length, cancelled, refused_by_queue, short_of_pages, mixed].into_iter().min();
    assert!(least > Some(20), "{seen:?}");
}

#[test]
fn a_request_that_never_fits_is_refused_and_so_is_nonsense() {
    let file = file();
    let gguf = Gguf::parse(&file).unwrap();
    let config = SchedulerConfig { positions: 128, queue: 1, ..SchedulerConfig::default() };
    with_scheduler(&gguf, config, &Solo, |scheduler| {
        assert_eq!(scheduler.context(), 128);
        let vocab_size = scheduler.model().shape().vocab_size;
        let unknown = vocab_size as u32;
        for (bad, error) in [
            (request(1, 0, 5), SubmitError::EmptyPrompt),
            (request(1, 5, 0), SubmitError::NoTokens),
            (
                Request { prompt: vec![1, unknown], ..request(1, 1, 1) },
                SubmitError::UnknownToken { id: unknown, vocab_size },
            ),
            (request(1, 100, 30), SubmitError::TooLong { needed: 129, context: 128 }),
            (request(1, 2, usize::MAX), SubmitError::TooLong { needed: usize::MAX, context: 128 }),
            (
                Request {
                    sampler: SamplerConfig { temperature: -1.0, ..SamplerConfig::default() },
                    ..request(1, 1, 1)
                },
                SubmitError::Sampler(SamplerError {
                    setting: "temperature",
                    value: -1.0,
                    range: "0 or more",
                }),
            ),
        ] {
            assert_eq!(scheduler.submit(bad), Err(error));
            assert!(!error.to_string().is_empty() && scheduler.is_idle());
        }
        // The penalty's memory is that of the text, not what the request says.
        let sampler =
            SamplerConfig { repetition_penalty: 1.5, repeat_last: usize::MAX, ..SamplerConfig::default() };
        assert_eq!(scheduler.submit(Request { sampler, ..request(1, 100, 29) }), Ok(()));
        assert_eq!(scheduler.submit(request(1, 1, 1)), Err(SubmitError::DuplicateId { id: 1 }));
        assert_eq!(scheduler.submit(request(2, 1, 1)), Err(SubmitError::QueueFull { queue: 1 }));
        assert_eq!(scheduler.cancel(2), None);
        scheduler.step(|_| ControlFlow::Continue(()));
        assert_eq!(scheduler.submit(request(1, 1, 1)), Err(SubmitError::DuplicateId { id: 1 }));
        assert_eq!(scheduler.submit(request(2, 1, 1)), Ok(()));
        let cancelled = Done { id: 1, prompt: 100, tokens: 0, finish: Ok(Finish::Cancelled) };
        assert_eq!(scheduler.cancel(1), Some(cancelled), "in the middle of its prompt");
    });
}

#[test]
fn requests_that_do_not_fit_now_wait_in_order() {
    let file = file();
    let gguf = Gguf::parse(&file).unwrap();
    let config = SchedulerConfig { sequences: 4, positions: 4 * BLOCK, ..SchedulerConfig::default() };
    with_scheduler(&gguf, config, &Solo, |scheduler| {
        // Three pages, then two, then one: the third would fit beside the first, but does not overtake the second.
        for (id, pages) in [(1, 3), (2, 2), (3, 1)] {
            scheduler.submit(request(id, (pages - 1) * BLOCK + 1, BLOCK)).unwrap();
        }
        let mut first_tokens = Vec::new();
        let (mut most, mut seen) = (0, Vec::new());
        while !scheduler.is_idle() {
            scheduler.step(|event| {
                match event {
                    Event::Token { id, .. } if !first_tokens.contains(&id) => first_tokens.push(id),
                    Event::Done(done) => seen.push(done.id),
                    Event::Token { .. } => {}
                }
                ControlFlow::Continue(())
            });
            most = most.max(scheduler.running());
            if seen.is_empty() {
                assert_eq!((scheduler.running(), scheduler.waiting(), scheduler.free_pages()), (1, 2, 1));
            }
        }
        assert_eq!((seen[0], most), (1, 2));
        assert_eq!(first_tokens[0], 1);
        assert_eq!(scheduler.free_pages(), 4);
    });
}

#[test]
fn a_long_prompt_does_not_hold_up_those_who_generate() {
    let file = file();
    let gguf = Gguf::parse(&file).unwrap();
    let config = SchedulerConfig { batch: 64, chunk: 10, positions: 1024, ..SchedulerConfig::default() };
    with_scheduler(&gguf, config, &Solo, |scheduler| {
        scheduler.submit(request(1, 64, 30)).unwrap();
        let first = scheduler.step(|_| ControlFlow::Continue(()));
        assert_eq!(
            (first.decoded, first.prompt),
            (0, 64),
            "nobody waits for a token, so the whole batch is prompt"
        );
        scheduler.submit(request(2, 100, 5)).unwrap();
        for step in 0..10 {
            let mut tokens = Vec::new();
            let did = scheduler.step(|event| {
                if let Event::Token { id, .. } = event {
                    tokens.push(id);
                }
                ControlFlow::Continue(())
            });
            assert_eq!((did.decoded, did.prompt), (1, 10));
            assert_eq!(tokens, if step < 9 { vec![1] } else { vec![1, 2] });
        }
    });
}

#[test]
fn a_pass_reads_the_weights_once_for_all() {
    let file = file();
    let gguf = Gguf::parse(&file).unwrap();
    with_scheduler(&gguf, SchedulerConfig::default(), &Solo, |scheduler| {
        let pass = scheduler.model().pass_bytes();
        for id in 1..=8 {
            scheduler.submit(request(id, 4, 10)).unwrap();
        }
        let mut steps = 0;
        while !scheduler.is_idle() {
            scheduler.step(|_| ControlFlow::Continue(()));
            steps += 1;
            assert_eq!(scheduler.weight_bytes_read(), steps * pass);
        }
        assert_eq!(steps, 10, "one pass for the prompts and one a token");
    });
}

#[test]
fn the_plan_of_a_scheduler_is_exactly_enough() {
    let file = file();
    let gguf = Gguf::parse(&file).unwrap();
    let config = SchedulerConfig { sequences: 5, positions: 300, ..SchedulerConfig::default() };
    let plan = Plan::scheduler(&gguf, &config).unwrap();
    assert_eq!(plan.context, 320, "whole pages");
    assert_eq!(plan.total(), plan.weights + plan.session() + plan.bookkeeping);
    let model = Model::load(&gguf, LoadConfig::default()).unwrap();
    for offset in [0, 1, 63] {
        let mut memory = vec![0; plan.session() as usize + offset];
        assert!(Scheduler::new(&model, config, simd::scalar(), &Solo, &mut memory[offset..]).is_ok());
    }
    let mut memory = vec![0; plan.session() as usize - 1];
    let refused = Scheduler::new(&model, config, simd::scalar(), &Solo, &mut memory);
    assert!(matches!(refused.map(|_| ()), Err(PlanError::Short(shortfall)) if shortfall.missing() == 1));
    for bad in [
        SchedulerConfig { sequences: 0, ..config },
        SchedulerConfig { sequences: 257, batch: 300, ..config },
        SchedulerConfig { batch: 4, ..config },
        SchedulerConfig { chunk: 0, ..config },
        SchedulerConfig { positions: 0, ..config },
        SchedulerConfig { queue: usize::MAX, ..config },
        SchedulerConfig { members: 0, ..config },
    ] {
        assert!(matches!(Plan::scheduler(&gguf, &bad), Err(PlanError::BadConfig(_))), "{bad:?}");
    }
    let huge = SchedulerConfig { positions: usize::MAX - 9, ..config };
    assert!(matches!(Plan::scheduler(&gguf, &huge), Err(PlanError::Overflow)));
}
