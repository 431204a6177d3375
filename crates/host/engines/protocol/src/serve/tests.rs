//! Sessions with engines that count.

use std::cell::Cell;
use std::io::{Cursor, Read};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use super::*;
use crate::message::{Expected, Hello, Load, Op};
use crate::ops;

/// Continues 5 by 6, 7, …; ten ids, of which 8 ends a text.
struct Counting {
    last: u32,
}

impl Engine for Counting {
    fn vocab_size(&self) -> usize {
        10
    }

    fn start(&mut self, prompt: &[u32]) -> Result<(), String> {
        self.last = *prompt.last().unwrap();
        Ok(())
    }

    fn best(&mut self) -> u32 {
        self.last + 1
    }

    fn feed(&mut self, id: u32) -> Result<(), String> {
        self.last = id;
        if id == 9 { Err("full".into()) } else { Ok(()) }
    }

    fn ends(&self, id: u32) -> bool {
        id == 8
    }

    fn expected(&mut self, ids: &[u32], top: usize) -> Result<Vec<Expected>, String> {
        Ok(ids.iter().map(|&id| Expected::of(&[0.0, id as f32], top)).collect())
    }
}

/// Counts for many at once, one token each in a step, modulo ten.
#[derive(Default)]
struct Together {
    running: Vec<(u64, u32, usize)>,
    cancelled: Vec<u64>,
}

impl Batched for Together {
    fn vocab_size(&self) -> usize {
        10
    }

    fn submit(&mut self, submit: &Submit) -> Result<(), String> {
        if submit.max_tokens == 0 {
            return Err("no tokens are asked for".into());
        }
        self.running.push((submit.id, *submit.prompt_ids.last().unwrap(), submit.max_tokens));
        Ok(())
    }

    fn cancel(&mut self, id: u64) {
        self.running.retain(|(of, ..)| *of != id);
        self.cancelled.push(id);
    }

    fn step(&mut self, listen: &mut dyn FnMut(Event)) -> Result<(), String> {
        assert!(!self.running.is_empty(), "never called with nothing in flight");
        if self.running.iter().any(|(_, last, _)| *last == 9) {
            return Err("broken".into());
        }
        std::thread::sleep(Duration::from_millis(1));
        for (id, last, left) in &mut self.running {
            listen(Event::Started { id: *id, t_ns: now_ns() });
            *last = if *last == 3 { 0 } else { *last + 1 };
            listen(Event::Token { id: *id, token: *last, t_ns: now_ns() });
            *left -= 1;
            if *left == 0 {
                listen(Event::Done { id: *id, finish: Finish::Length });
            }
        }
        self.running.retain(|(_, _, left)| *left > 0);
        Ok(())
    }
}

#[derive(Default)]
struct Counters {
    loads: Cell<usize>,
    unavailable: Option<String>,
}

impl Backend for Counters {
    fn hello(&self) -> Hello {
        Hello {
            engine: "counting".into(),
            version: "1".into(),
            unavailable: self.unavailable.clone(),
            ..Hello::default()
        }
    }

    fn with_model(&self, load: &Load, work: &mut dyn FnMut(&mut dyn Engine)) -> Result<(), String> {
        if load.threads == 0 {
            return Err("threads: at least one".into());
        }
        self.loads.set(self.loads.get() + 1);
        work(&mut Counting { last: 0 });
        Ok(())
    }

    fn with_batched(
        &self,
        load: &Load,
        work: &mut dyn FnMut(&mut dyn Batched),
    ) -> Option<Result<(), String>> {
        (load.sequences() > 1).then(|| {
            work(&mut Together::default());
            Ok(())
        })
    }

    fn op(&self, op: &Op) -> OpAnswer {
        if op.name != "add" {
            return OpAnswer::NotExpressible("only `add`".into());
        }
        let answer = op.size("n", 4).and_then(|n| {
            let (x, y) = (ops::inputs(1, n), ops::inputs(2, n));
            let mut sum = vec![0.0; n];
            let call = || {
                sum.iter_mut().zip(x.iter().zip(&y)).for_each(|(sum, (x, y))| *sum = x + y);
                Ok(())
            };
            let (samples_ns, iterations) = ops::time(op.min_ns, call)?;
            Ok(OpAnswer::Timed { samples_ns, iterations, check: ops::checksum(&sum) })
        });
        answer.unwrap_or_else(OpAnswer::Failed)
    }
}

fn replies(output: &[u8]) -> Vec<Reply> {
    let text = std::str::from_utf8(output).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn talk(lines: &str) -> Vec<Reply> {
    let mut output = Vec::new();
    serve(&Counters::default(), Cursor::new(lines.to_owned()), &mut output).unwrap();
    replies(&output)
}

const LOAD: &str = r#"{"type":"load","model":"m.gguf","threads":1,"context":16}"#;
const TOGETHER: &str = r#"{"type":"load","model":"m.gguf","threads":1,"context":16,"max_sequences":8}"#;

/// A session in a thread, spoken to line by line.
struct Live {
    lines: Option<Sender<u8>>,
    output: Arc<Mutex<Vec<u8>>>,
    thread: std::thread::JoinHandle<()>,
}

struct Input(std::sync::mpsc::Receiver<u8>);

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.0.recv().map_or(0, |byte| {
            buffer[0] = byte;
            1
        }))
    }
}

struct Output(Arc<Mutex<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Live {
    fn start() -> Self {
        let (sender, receiver) = channel();
        let output = Arc::new(Mutex::new(Vec::new()));
        let written = Output(Arc::clone(&output));
        let thread = std::thread::spawn(move || {
            serve(&Counters::default(), io::BufReader::new(Input(receiver)), written).unwrap();
        });
        Live { lines: Some(sender), output, thread }
    }

    fn say(&self, line: &str) {
        let lines = self.lines.as_ref().unwrap();
        line.bytes().chain([b'\n']).for_each(|byte| lines.send(byte).unwrap());
    }

    /// Waits until something was said.
    fn until(&self, wanted: impl Fn(&[Reply]) -> bool) -> Vec<Reply> {
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_secs(60) {
            let replies = replies(&self.output.lock().unwrap());
            if wanted(&replies) {
                return replies;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("it was not said: {:?}", replies(&self.output.lock().unwrap()));
    }

    fn end(mut self) -> Vec<Reply> {
        drop(self.lines.take());
        self.thread.join().unwrap();
        replies(&self.output.lock().unwrap())
    }
}

fn tokens_of(replies: &[Reply], of: u64) -> usize {
    replies.iter().filter(|reply| matches!(reply, Reply::Token { id, .. } if *id == of)).count()
}

fn done_of(replies: &[Reply], of: u64) -> Option<&Done> {
    replies.iter().find_map(|reply| match reply {
        Reply::Done(done) if done.id == of => Some(done),
        _ => None,
    })
}

#[test]
fn a_prompt_is_continued_and_every_token_has_its_time() {
    let replies =
        talk(&format!("{LOAD}\n{{\"type\":\"submit\",\"id\":7,\"prompt_ids\":[4],\"max_tokens\":3}}\n"));
    assert!(matches!(replies[0], Reply::Hello(_)));
    assert!(matches!(replies[1], Reply::Loaded(Loaded { vocab_size: 10, .. })));
    let times: Vec<u64> = replies[2..5]
        .iter()
        .zip(0..)
        .map(|(reply, at)| match reply {
            Reply::Token { id: 7, t_ns, index: Some(index) } if *index == at => *t_ns,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(times.is_sorted());
    let Reply::Done(done) = &replies[5] else { panic!("{:?}", replies[5]) };
    assert_eq!((done.id, &done.ids[..], done.decode_ns), (7, &[5, 6, 7][..], times[2] - times[0]));
    assert_eq!(done.finish, Finish::Length);
    assert!(done.queued_ns.unwrap() <= done.prefill_ns);
    assert_eq!(replies.len(), 6);
}

#[test]
fn ends_are_heeded_when_asked_and_prompts_may_stand_alone() {
    let submit = |fields: &str| {
        let line = format!(r#"{{"type":"submit","id":1,"prompt_ids":[5],{fields},"stream":false}}"#);
        match talk(&format!("{LOAD}\n{line}\n")).pop() {
            Some(Reply::Done(done)) => done,
            other => panic!("{other:?}"),
        }
    };
    let ended = submit(r#""max_tokens":4,"ignore_eos":false"#);
    assert_eq!((&ended.ids[..], ended.finish), (&[6, 7, 8][..], Finish::Stop));
    assert_eq!(submit(r#""max_tokens":4"#).ids, [6, 7, 8, 9]);
    let alone = submit(r#""max_tokens":0"#);
    assert_eq!((alone.ids.len(), alone.decode_ns), (0, 0));
}

#[test]
fn what_is_wrong_is_answered_and_the_session_goes_on() {
    let lines = [
        "{",
        r#"{"type":"sing"}"#,
        r#"{"type":"submit","id":1,"prompt_ids":[5],"max_tokens":1}"#,
        r#"{"type":"logits","id":9,"ids":[5],"top":1}"#,
        r#"{"type":"load","model":"m","threads":0,"context":1}"#,
        r#"{"type":"load","model":"m","threads":1,"context":1,"speed":9}"#,
        LOAD,
        r#"{"type":"submit","id":2,"prompt_ids":[],"max_tokens":1}"#,
        r#"{"type":"submit","id":3,"prompt_ids":[10],"max_tokens":1}"#,
        r#"{"type":"submit","id":4,"prompt_ids":[8],"max_tokens":9}"#,
        r#"{"type":"logits","id":5,"ids":[10],"top":1}"#,
        r#"{"type":"op","id":6,"name":"add","params":{"n":-1},"min_ns":1}"#,
    ];
    let mut session = Live::start();
    lines.iter().for_each(|line| session.say(line));
    session
        .until(|replies| replies.iter().filter(|reply| matches!(reply, Reply::Error { .. })).count() == 11);
    session.say(r#"{"type":"stats"}"#);
    session.say(r#"{"type":"cancel","id":77}"#);
    session.until(|replies| matches!(replies.last(), Some(Reply::Error { id: Some(77), .. })));
    session.say(r#"{"type":"quit"}"#);
    session.say(r#"{"type":"stats"}"#);
    drop(session.lines.take());
    session.thread.join().unwrap();
    let replies = replies(&session.output.lock().unwrap());
    let errors: Vec<_> = replies
        .iter()
        .filter_map(|reply| match reply {
            Reply::Error { id, message } => Some((*id, message.as_str())),
            _ => None,
        })
        .collect();
    // Lines that are no requests are answered as soon as they are read, others in their turn.
    for (id, part) in [
        (None, "not a request"),
        (None, "sing"),
        (Some(1), "`load` first"),
        (Some(9), "`load` first"),
        (None, "at least one"),
        (None, "speed"),
        (Some(2), "empty"),
        (Some(3), "10 is not below 10"),
        (Some(4), "full"),
        (Some(5), "10 is not below 10"),
        (Some(6), "params.n"),
        (Some(77), "not in flight"),
    ] {
        assert!(errors.iter().any(|(of, message)| *of == id && message.contains(part)), "{part}: {errors:?}");
    }
    // After `quit` nothing is answered.
    assert_eq!(replies.iter().filter(|reply| matches!(reply, Reply::Stats(_))).count(), 1);
}

#[test]
fn a_model_takes_the_place_of_another() {
    let mut output = Vec::new();
    let counters = Counters::default();
    serve(&counters, Cursor::new(format!("{LOAD}\n{LOAD}\n")), &mut output).unwrap();
    assert_eq!(counters.loads.get(), 2);
}

#[test]
fn requests_of_a_serial_engine_wait_and_can_be_cancelled() {
    // 10^9 tokens never end; ids wrap before 9.
    struct Forever(u32);
    impl Engine for Forever {
        fn vocab_size(&self) -> usize {
            10
        }
        fn start(&mut self, _: &[u32]) -> Result<(), String> {
            Ok(())
        }
        fn best(&mut self) -> u32 {
            self.0
        }
        fn feed(&mut self, id: u32) -> Result<(), String> {
            std::thread::sleep(Duration::from_micros(200));
            self.0 = (id + 1) % 9;
            Ok(())
        }
        fn ends(&self, _: u32) -> bool {
            false
        }
    }
    struct One;
    impl Backend for One {
        fn hello(&self) -> Hello {
            Hello::default()
        }
        fn with_model(&self, _: &Load, work: &mut dyn FnMut(&mut dyn Engine)) -> Result<(), String> {
            work(&mut Forever(0));
            Ok(())
        }
    }
    let (sender, receiver) = channel();
    let output = Arc::new(Mutex::new(Vec::new()));
    let written = Output(Arc::clone(&output));
    let thread = std::thread::spawn(move || {
        serve(&One, io::BufReader::new(Input(receiver)), written).unwrap();
    });
    let session = Live { lines: Some(sender), output, thread };
    session.say(LOAD);
    session.say(r#"{"type":"submit","id":1,"prompt_ids":[1],"max_tokens":1000000000}"#);
    session.say(r#"{"type":"submit","id":2,"prompt_ids":[1],"max_tokens":3}"#);
    session.say(r#"{"type":"submit","id":3,"prompt_ids":[1],"max_tokens":3}"#);
    session.until(|replies| tokens_of(replies, 1) > 3);
    // Those that wait end first; statistics come at once.
    session.say(r#"{"type":"cancel","id":3}"#);
    session.say(r#"{"type":"stats"}"#);
    let replies = session.until(|replies| {
        matches!(replies.iter().rev().find(|r| !matches!(r, Reply::Token { .. })), Some(Reply::Stats(_)))
    });
    let third = done_of(&replies, 3).expect("it was cancelled");
    assert_eq!((third.finish, third.ids.len()), (Finish::Cancelled, 0));
    assert!(done_of(&replies, 1).is_none());
    // Each takes the fifth of a millisecond, during which the second request waits.
    let before = tokens_of(&replies, 1);
    session.until(|replies| tokens_of(replies, 1) >= before + 10);
    session.say(r#"{"type":"cancel","id":1}"#);
    let replies = session.until(|replies| done_of(replies, 2).is_some());
    let (first, second) = (done_of(&replies, 1).unwrap(), done_of(&replies, 2).unwrap());
    assert_eq!((first.finish, first.ids.len()), (Finish::Cancelled, tokens_of(&replies, 1)));
    assert_eq!((second.finish, second.ids.len()), (Finish::Length, 3));
    // The second waited for those tokens of the first at least.
    assert!(second.queued_ns > Some(500_000) && second.queued_ns.unwrap() <= second.prefill_ns, "{second:?}");
    session.say(r#"{"type":"submit","id":4,"prompt_ids":[1],"max_tokens":1000000000}"#);
    session.until(|replies| tokens_of(replies, 4) > 0);
    session.say(r#"{"type":"quit"}"#);
    let replies = session.end();
    assert!(done_of(&replies, 4).is_none(), "`quit` ends at once");
}

#[test]
fn a_batching_engine_computes_requests_together() {
    let session = Live::start();
    session.say(TOGETHER);
    // The first and the third do not end by themselves, so that it does not matter when the others are read.
    for (id, tokens) in [(1, 1_000_000), (2, 60), (3, 1_000_000)] {
        session.say(&format!(r#"{{"type":"submit","id":{id},"prompt_ids":[1],"max_tokens":{tokens}}}"#));
    }
    session.say(r#"{"type":"submit","id":3,"prompt_ids":[1],"max_tokens":1}"#);
    session.say(r#"{"type":"submit","id":4,"prompt_ids":[1],"max_tokens":0}"#);
    session.say(r#"{"type":"logits","id":5,"ids":[1],"top":1}"#);
    let refused_of = |replies: &[Reply], of: u64| {
        replies.iter().any(|reply| matches!(reply, Reply::Error { id: Some(id), .. } if *id == of))
    };
    session.until(|replies| done_of(replies, 2).is_some() && (3..=5).all(|of| refused_of(replies, of)));
    session.say(r#"{"type":"cancel","id":1}"#);
    let replies = session.until(|replies| done_of(replies, 1).is_some());
    // Between two tokens of the second stands one of the first.
    let mut own = 0;
    let mut others = Vec::new();
    for reply in &replies {
        match reply {
            Reply::Token { id: 1, .. } => own += 1,
            Reply::Token { id: 2, .. } => others.push(std::mem::take(&mut own)),
            _ => {}
        }
    }
    assert_eq!((others.len(), &others[1..]), (60, &[1; 59][..]));
    let first = done_of(&replies, 1).unwrap();
    assert_eq!((&first.ids[..4], first.finish), (&[2, 3, 0, 1][..], Finish::Cancelled));
    assert!(first.queued_ns.is_some());
    for (of, part) in [(3, "in flight already"), (4, "no tokens"), (5, "max_sequences 1")] {
        let refused = replies.iter().any(
            |reply| matches!(reply, Reply::Error { id: Some(id), message } if *id == of && message.contains(part)),
        );
        assert!(refused, "{part}: {replies:?}");
    }
    session.say(r#"{"type":"stats"}"#);
    session.until(|replies| replies.iter().any(|reply| matches!(reply, Reply::Stats(_))));
    // A second model waits until nothing is in flight.
    session.say(LOAD);
    std::thread::sleep(Duration::from_millis(20));
    session.say(r#"{"type":"cancel","id":3}"#);
    let replies =
        session.until(|replies| replies.iter().filter(|r| matches!(r, Reply::Loaded(_))).count() == 2);
    let third = done_of(&replies, 3).unwrap();
    assert_eq!((third.finish, third.ids.len()), (Finish::Cancelled, tokens_of(&replies, 3)));
    session.end();
}

#[test]
fn a_batching_engine_that_breaks_refuses_what_is_in_flight() {
    let lines = [
        TOGETHER,
        r#"{"type":"submit","id":1,"prompt_ids":[9],"max_tokens":5}"#,
        r#"{"type":"submit","id":2,"prompt_ids":[8],"max_tokens":5}"#,
    ];
    let replies = talk(&lines.join("\n"));
    let broken = replies
        .iter()
        .filter(|reply| matches!(reply, Reply::Error { message, .. } if message == "broken"))
        .count();
    assert!((1..=2).contains(&broken), "{replies:?}");
    assert!(done_of(&replies, 1).is_none());
}

#[test]
fn operations_and_logits_are_answered() {
    let lines = [
        r#"{"type":"op","id":1,"name":"add","params":{"n":64},"min_ns":100000}"#,
        r#"{"type":"op","id":2,"name":"fly","min_ns":1}"#,
        LOAD,
        r#"{"type":"logits","id":3,"ids":[1,2],"top":1}"#,
    ];
    let replies = talk(&lines.join("\n"));
    let Reply::Op(times) = &replies[1] else { panic!("{replies:?}") };
    let sum: Vec<f32> = ops::inputs(1, 64).iter().zip(ops::inputs(2, 64)).map(|(x, y)| x + y).collect();
    assert_eq!((times.id, times.check), (1, ops::checksum(&sum)));
    assert!(times.samples_ns.len() >= 3 && times.iterations > 1);
    assert!(matches!(&replies[2], Reply::NotExpressible { id: 2, reason } if reason.contains("add")));
    let Reply::Logits(logits) = &replies[4] else { panic!("{replies:?}") };
    assert_eq!((logits.id, logits.positions.len(), &logits.positions[0].ids[..]), (3, 2, &[1][..]));
}

#[test]
fn an_engine_that_cannot_run_says_so_and_ends() {
    let mut output = Vec::new();
    let absent = Counters { unavailable: Some("no device".into()), ..Counters::default() };
    serve(&absent, Cursor::new(LOAD), &mut output).unwrap();
    let replies = replies(&output);
    assert!(
        matches!(&replies[..], [Reply::Hello(hello)] if hello.unavailable.as_deref() == Some("no device"))
    );
}

#[test]
fn the_short_form_gets_one_line_and_no_greeting() {
    let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../kernel/assets/tiny.gguf");
    for (sequences, fields) in [(1, r#""prompt_ids":[1]"#), (1, r#""prompt":"Hello""#)] {
        let line =
            format!(r#"{{{fields},"iterations":3,"max_tokens":2,"threads":{sequences},"model":"{tiny}"}}"#);
        let mut output = Vec::new();
        struct Constant;
        impl Engine for Constant {
            fn vocab_size(&self) -> usize {
                10
            }
            fn start(&mut self, _: &[u32]) -> Result<(), String> {
                Ok(())
            }
            fn best(&mut self) -> u32 {
                3
            }
            fn feed(&mut self, _: u32) -> Result<(), String> {
                Ok(())
            }
            fn ends(&self, _: u32) -> bool {
                false
            }
        }
        struct Always;
        impl Backend for Always {
            fn hello(&self) -> Hello {
                Hello { engine: "always".into(), ..Hello::default() }
            }
            fn with_model(&self, _: &Load, work: &mut dyn FnMut(&mut dyn Engine)) -> Result<(), String> {
                work(&mut Constant);
                Ok(())
            }
        }
        serve(&Always, Cursor::new(line), &mut output).unwrap();
        let text = String::from_utf8(output).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&value["engine"], &value["iterations"]), (&"always".into(), &3.into()), "{text}");
        assert_eq!(value["ids"], serde_json::json!([3, 3]));
        assert!(value["ttft_ms"]["median"].as_f64().unwrap() > 0.0);
    }
    for (line, part) in [
        (r#"{"prompt":"a","iterations":0}"#, "at least 1"),
        (r#"{"prompt":"a","speed":1}"#, "speed"),
        (r#"{"prompt":"a","model":"/nonexistent.gguf"}"#, "/nonexistent.gguf"),
    ] {
        let mut output = Vec::new();
        serve(&Counters::default(), Cursor::new(line), &mut output).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&output).unwrap();
        assert!(value["error"].as_str().unwrap().contains(part), "{value}");
    }
}
