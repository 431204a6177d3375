//! Conformance: every engine speaks the protocol of `docs/llm/PROTOCOL.md`. Ours always; others where they are built.
//!
//! `BARELM_CONFORMANCE=NAME,NAME` looks at these engines only, and fails where one is not built. An engine that says it cannot run
//! here is left out, but for `openai` where `BARELM_OPENAI_URL` names a server: then it must answer.
#![cfg(feature = "llm-transformer")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use barelm_host::compare::ops::reference;
use barelm_host::compare::registry::{folders, known};
use barelm_host::versus::engine::EngineProcess;
use barelm_protocol::{
    Batching, Done, Expected, Finish, Hello, Load, Op, OpTimes, Reply, Request, VERSION, now_ns,
};

/// A program that may speak the protocol.
struct Engine {
    name: &'static str,
    program: PathBuf,
    arguments: &'static [&'static str],
}

/// The engines that are here; the others are named on standard error with the reason.
fn engines() -> Vec<Engine> {
    let wanted = std::env::var("BARELM_CONFORMANCE").unwrap_or_default();
    let wanted: Vec<&str> = wanted.split(',').filter(|name| !name.is_empty()).collect();
    let ours = PathBuf::from(env!("CARGO_BIN_EXE_lm-rs-bench"));
    let mut places = folders(ours.parent());
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    places.push(root.join("../../target/release"));
    let mut engines = Vec::new();
    for known in known() {
        let name = known.name.as_str();
        if !wanted.is_empty() && !wanted.contains(&name) {
            continue;
        }
        let program = if known.is_ours() { Some(ours.clone()) } else { known.installed(&places) };
        match program {
            Some(program) => engines.push(Engine { name, program, arguments: known.arguments }),
            None if wanted.is_empty() => {
                eprintln!("left out: engine {name} is not built: {}", known.how_to_get())
            }
            None => panic!("engine {name} is wanted but not built: {}", known.how_to_get()),
        }
    }
    engines
}

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../kernel/assets/tiny.gguf")
        .canonicalize()
        .expect("it is there")
}

/// A session, line by line.
struct Session {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Session {
    fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("the engine listens");
    }

    fn ask(&mut self, request: &Request) {
        self.say(&serde_json::to_string(request).expect("requests are JSON"));
    }

    fn hear(&mut self) -> Reply {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the engine speaks");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// Tokens' times and the end of an answer.
    fn answer(&mut self) -> (Vec<u64>, Done) {
        self.answer_behind(0)
    }

    /// The same where so many tokens have been heard already.
    fn answer_behind(&mut self, heard: usize) -> (Vec<u64>, Done) {
        let mut times = Vec::new();
        loop {
            match self.hear() {
                Reply::Token { id: 1, t_ns, index } => {
                    assert!(index.is_none_or(|index| index == heard + times.len()), "{index:?}");
                    times.push(t_ns);
                }
                Reply::Done(done) => return (times, done),
                other => panic!("{other:?}"),
            }
        }
    }

    fn refusal(&mut self, line: &str) -> (Option<u64>, String) {
        self.say(line);
        match self.hear() {
            Reply::Error { id, message } => (id, message),
            other => panic!("{line}: {other:?}"),
        }
    }

    fn load(&mut self, change: impl FnOnce(&mut Load)) {
        let mut load = Load { model: model(), threads: 2, context: 256, ..Load::default() };
        change(&mut load);
        self.ask(&Request::Load(load));
        match self.hear() {
            Reply::Loaded(loaded) => {
                assert_eq!(loaded.vocab_size, 2048);
                assert!(loaded.load_ns > 0);
            }
            other => panic!("not loaded: {other:?}"),
        }
    }
}

fn start(engine: &Engine) -> std::process::Child {
    Command::new(&engine.program)
        .args(engine.arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts")
}

/// Names an engine that is left out because it says that it cannot run; a server that somebody has named must run.
fn leave_out(engine: &str, why: &str) {
    let named = std::env::var("BARELM_OPENAI_URL").is_ok_and(|url| !url.is_empty());
    assert!(engine != "openai" || !named, "BARELM_OPENAI_URL is set, but: {why}");
    eprintln!("left out: engine {engine} is unavailable: {why}");
}

/// Runs `talk` with each engine that can run; an engine must end well when its input ends.
fn with_each(talk: impl Fn(&str, Hello, &mut Session)) {
    for engine in engines() {
        let mut child = start(&engine);
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let mut session = Session { input: child.stdin.take().expect("piped"), output };
        match session.hear() {
            Reply::Hello(hello) => match &hello.unavailable {
                Some(why) => leave_out(engine.name, why),
                None => talk(engine.name, hello, &mut session),
            },
            other => panic!("{}: {other:?}", engine.name),
        }
        let Session { input, mut output } = session;
        drop(input);
        let mut rest = String::new();
        output.read_line(&mut rest).expect("the engine ends");
        assert_eq!(rest, "", "{}", engine.name);
        assert!(child.wait().expect("it ends").success(), "{}", engine.name);
    }
}

#[test]
fn an_engine_greets_loads_continues_and_counts_its_memory() {
    with_each(|name, hello, session| {
        assert_eq!(hello.protocol, VERSION, "{name}");
        assert!(!hello.engine.is_empty() && !hello.version.is_empty(), "{name}");
        assert!(!hello.compiled.is_empty(), "{name} says what it was compiled for");
        assert!(["cpu", "cuda"].contains(&hello.device.as_str()), "{name}");
        assert!(hello.max_in_flight >= 1, "{name}");
        assert_eq!(hello.batching == Batching::Serial, hello.max_in_flight == 1, "{name}");
        session.load(|_| {});

        let mut ids = Vec::new();
        for stream in [true, false] {
            let begun = now_ns();
            session.say(&format!(
                r#"{{"type":"submit","id":1,"prompt_ids":[5,600,17,33],"max_tokens":9,"stream":{stream}}}"#
            ));
            let (times, done) = session.answer();
            let elapsed = now_ns() - begun;
            assert_eq!((done.id, done.ids.len(), times.len()), (1, 9, 9), "{name}");
            assert_eq!(done.finish, Finish::Length, "{name}");
            assert!(times.is_sorted() && times[0] >= begun && times[8] <= begun + elapsed, "{name}");
            assert_eq!(done.decode_ns, times[8] - times[0], "{name}");
            assert!(done.prefill_ns + done.decode_ns <= elapsed, "{name}");
            assert!(done.queued_ns.is_none_or(|queued| queued <= done.prefill_ns), "{name}");
            ids.push(done.ids);
        }
        // Nothing is left of the first answer in the second.
        assert_eq!(ids[0], ids[1], "{name}");

        if hello.max_in_flight == 1 || name == "barelm" {
            session.say(r#"{"type":"submit","id":1,"prompt_ids":[5,600,17,33],"max_tokens":0}"#);
            let (times, done) = session.answer();
            assert!(
                times.is_empty() && done.ids.is_empty() && done.decode_ns == 0 && done.prefill_ns > 0,
                "{name}"
            );
        }

        session.say(r#"{"type":"stats"}"#);
        let Reply::Stats(stats) = session.hear() else { panic!("{name}: no stats") };
        if cfg!(target_os = "linux") {
            assert!(stats.peak_rss >= stats.rss && stats.rss > Some(1 << 20), "{name}: {stats:?}");
        }
    });
}

#[test]
fn what_is_wrong_is_refused_and_the_session_goes_on() {
    with_each(|name, hello, session| {
        let submit = |ids: &str, tokens: usize| {
            format!(r#"{{"type":"submit","id":1,"prompt_ids":{ids},"max_tokens":{tokens}}}"#)
        };
        assert!(session.refusal("{").1.contains("not a request"), "{name}");
        assert_eq!(session.refusal(&submit("[1]", 1)).0, Some(1), "{name}");
        let missing = r#"{"type":"load","model":"/nonexistent.gguf","threads":1,"context":64}"#;
        assert!(session.refusal(missing).1.contains("/nonexistent.gguf"), "{name}");
        let wrong = |field: &str| {
            let load = Load { model: model(), threads: 1, context: 64, ..Load::default() };
            let mut load = serde_json::to_value(Request::Load(load)).expect("JSON");
            load.as_object_mut()
                .expect("an object")
                .extend(serde_json::from_str::<serde_json::Map<_, _>>(field).expect("JSON"));
            load.to_string()
        };
        assert!(session.refusal(&wrong(r#"{"threads":0}"#)).1.contains("threads"), "{name}");
        session.refusal(&wrong(r#"{"speed":9}"#));
        session.refusal(&wrong(r#"{"device":"abacus"}"#));
        session.load(|_| {});
        for (ids, tokens) in [("[]", 1), ("[2048]", 1)] {
            assert_eq!(session.refusal(&submit(ids, tokens)).0, Some(1), "{name}: {ids}");
        }
        let long = format!("{:?}", vec![7; 300]);
        assert_eq!(session.refusal(&submit(&long, 1)).0, Some(1), "{name}: 300 ids in 256 positions");
        if hello.cancel {
            assert_eq!(session.refusal(r#"{"type":"cancel","id":77}"#).0, Some(77), "{name}");
        }
        session.say(&submit("[7]", 2));
        assert_eq!(session.answer().1.ids.len(), 2, "{name}");
    });
}

#[test]
fn a_request_can_be_cancelled_and_the_next_one_is_whole() {
    with_each(|name, hello, session| {
        if !hello.cancel {
            eprintln!("left out: engine {name} cannot cancel");
            return;
        }
        session.load(|_| {});
        session.say(r#"{"type":"submit","id":1,"prompt_ids":[7],"max_tokens":250}"#);
        assert!(matches!(session.hear(), Reply::Token { id: 1, .. }), "{name}");
        session.say(r#"{"type":"cancel","id":1}"#);
        let (times, done) = session.answer_behind(1);
        // A fast engine may be through before it reads the line; then the line is refused.
        match done.finish {
            Finish::Cancelled => assert_eq!(done.ids.len(), times.len() + 1, "{name}"),
            _ => assert!(matches!(session.hear(), Reply::Error { id: Some(1), .. }), "{name}"),
        }
        session.say(r#"{"type":"submit","id":1,"prompt_ids":[7],"max_tokens":5}"#);
        let again = session.answer().1.ids;
        let both = done.ids.len().min(5);
        assert_eq!(again[..both], done.ids[..both], "{name}");
    });
}

#[test]
fn requests_in_flight_together_get_the_tokens_they_get_alone() {
    with_each(|name, hello, session| {
        let together = hello.max_in_flight.min(3);
        let prompts = [vec![5u32, 600, 17, 33], vec![9; 40], vec![7]];
        let submit = |id: usize| {
            format!(r#"{{"type":"submit","id":{id},"prompt_ids":{:?},"max_tokens":12}}"#, prompts[id - 1])
        };
        let collect = |session: &mut Session, count: usize| {
            let mut ids = BTreeMap::new();
            let mut tokens = BTreeMap::<u64, usize>::new();
            while ids.len() < count {
                match session.hear() {
                    Reply::Token { id, .. } => *tokens.entry(id).or_default() += 1,
                    Reply::Done(done) => {
                        assert_eq!(tokens[&done.id], done.ids.len(), "{name}");
                        ids.insert(done.id, done.ids);
                    }
                    other => panic!("{name}: {other:?}"),
                }
            }
            ids
        };
        session.load(|load| load.max_sequences = Some(together));
        let mut alone = BTreeMap::new();
        for id in 1..=together {
            session.say(&submit(id));
            alone.extend(collect(session, 1));
        }
        (1..=together).for_each(|id| session.say(&submit(id)));
        let joined = collect(session, together);
        // Other engines may sum in another order when they batch; ours never does.
        if name == "barelm" {
            assert_eq!(alone, joined);
        }
        for (id, ids) in &joined {
            let same = ids.iter().zip(&alone[id]).take_while(|(a, b)| a == b).count();
            assert!(ids.len() == 12 && same >= 1, "{name}: {ids:?}, alone {:?}", alone[id]);
        }
    });
}

#[test]
fn logits_and_operations_that_are_announced_are_there_and_right() {
    with_each(|name, hello, session| {
        for op in &hello.ops {
            let asked = Op { id: 3, name: op.clone(), params: BTreeMap::new(), min_ns: 1_000_000 };
            session.ask(&Request::Op(asked.clone()));
            match session.hear() {
                Reply::Op(OpTimes { id: 3, samples_ns, iterations, check }) => {
                    assert!(samples_ns.len() >= 3 && iterations >= 1, "{name}: {op}");
                    assert!(samples_ns.iter().all(|&ns| ns > 0.0), "{name}: {op}");
                    let right = reference(&asked).unwrap_or_else(|why| panic!("{name}: {why}"));
                    assert!(right.agrees(check), "{name}: {op} gives {check}, which is not {right:?}");
                }
                other => panic!("{name}: {op}: {other:?}"),
            }
        }
        session.say(r#"{"type":"op","id":4,"name":"fly","min_ns":1}"#);
        assert!(matches!(session.hear(), Reply::NotExpressible { id: 4, .. }), "{name}");

        session.load(|_| {});
        session.say(r#"{"type":"logits","id":5,"ids":[5,600,17,33],"top":8}"#);
        let positions: Vec<Expected> = match session.hear() {
            Reply::Logits(logits) if hello.logits => logits.positions,
            Reply::Error { id: Some(5), message } if !hello.logits => {
                assert!(message.contains("not exposed"), "{name}: {message}");
                return;
            }
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(positions.len(), 4, "{name}");
        for position in &positions {
            assert_eq!((position.ids.len(), position.logprobs.len()), (8, 8), "{name}");
            assert!(position.logprobs.is_sorted_by(|a, b| a >= b), "{name}: {position:?}");
            let all: f64 = position.logprobs.iter().map(|&p| libm::exp(p)).sum::<f64>() + position.rest;
            assert!((all - 1.0).abs() < 1e-3, "{name}: probabilities sum to {all}");
        }
        session.say(r#"{"type":"submit","id":1,"prompt_ids":[5,600,17,33],"max_tokens":1}"#);
        let first = session.answer().1.ids[0];
        assert_eq!(first, positions[3].ids[0], "{name}: the likeliest is the one that is chosen");
    });
}

#[test]
fn the_short_form_has_one_line_for_an_answer() {
    for engine in engines() {
        // Ours without `--session` takes the model as an argument and no `model` in the line.
        let ours = engine.name == "barelm";
        let line = match ours {
            true => r#"{"prompt":"Hello","iterations":3,"max_tokens":4}"#.to_owned(),
            false => format!(r#"{{"prompt":"Hello","iterations":3,"max_tokens":4,"model":{:?}}}"#, model()),
        };
        let mut command = Command::new(&engine.program);
        if ours {
            command.arg("--model").arg(model());
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        writeln!(child.stdin.take().expect("piped"), "{line}").expect("the engine listens");
        let mut text = String::new();
        child.stdout.take().expect("piped").read_to_string(&mut text).expect("the engine speaks");
        assert!(child.wait().expect("it ends").success(), "{}", engine.name);
        assert_eq!(text.lines().count(), 1, "{}: {text}", engine.name);
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        if value["error"].as_str().is_some_and(|error| error.contains("unavailable")) {
            leave_out(engine.name, &value["error"].to_string());
            continue;
        }
        assert_eq!(value["iterations"], 3, "{}: {text}", engine.name);
        assert_eq!(value["ids"].as_array().map(Vec::len), Some(4), "{}: {text}", engine.name);
        for field in ["ttft_ms", "tpot_ms", "latency_ms", "tokens_per_s"] {
            let median = value[field]["median"].as_f64();
            assert!(median.is_some_and(|median| median > 0.0), "{}: {field}: {text}", engine.name);
        }
    }
}

#[test]
fn engines_agree_about_the_first_token() {
    let mut first = Vec::new();
    for engine in engines() {
        let arguments: Vec<_> = engine.arguments.iter().map(Into::into).collect();
        match EngineProcess::start(&engine.program, &arguments) {
            Ok(mut process) => {
                process
                    .load(Load { model: model(), threads: 1, context: 256, ..Load::default() })
                    .expect("a model");
                first.push((engine.name, process.submit(&[5, 600, 17, 33], 1).expect("a token").done.ids));
            }
            Err(why) if why.to_string().contains("cannot run here") => {
                leave_out(engine.name, &why.to_string())
            }
            Err(why) => panic!("{}: {why}", engine.name),
        }
    }
    assert!(first.iter().all(|(_, ids)| *ids == first[0].1), "{first:?}");
}
