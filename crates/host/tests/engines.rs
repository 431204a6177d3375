//! Conformance: every engine speaks the protocol of `docs/llm/PROTOCOL.md`. Ours always; others where they are built.
#![cfg(feature = "llm-transformer")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use barelm_host::versus::engine::EngineProcess;
use barelm_protocol::{Done, Hello, Load, Reply, VERSION, now_ns};

/// A program that may speak the protocol.
struct Engine {
    name: &'static str,
    program: PathBuf,
    arguments: &'static [&'static str],
}

/// The engines that are here; the others are named on standard error with the reason.
fn engines() -> Vec<Engine> {
    let ours = Engine {
        name: "barelm",
        program: env!("CARGO_BIN_EXE_lm-rs-bench").into(),
        arguments: &["--session"],
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("engines");
    let built = |name: &'static str, program: &str| Engine {
        name,
        program: folder.join(name).join("target/release").join(program),
        arguments: &[],
    };
    let others = [built("llama-cpp", "barelm-engine-llama-cpp")];
    let (there, missing): (Vec<_>, Vec<_>) =
        [ours].into_iter().chain(others).partition(|engine| engine.program.is_file());
    for engine in missing {
        eprintln!(
            "left out: engine {}, because {} is not built: cargo xtask versus builds it",
            engine.name,
            engine.program.display()
        );
    }
    there
}

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernel/assets/tiny.gguf")
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

    fn hear(&mut self) -> Reply {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the engine speaks");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// Tokens' times and the end of an answer.
    fn answer(&mut self) -> (Vec<u64>, Done) {
        let mut times = Vec::new();
        loop {
            match self.hear() {
                Reply::Token { id: 1, t_ns } => times.push(t_ns),
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
}

/// Runs `talk` with each engine; an engine must end well when its input ends.
fn with_each(talk: impl Fn(&str, Hello, &mut Session)) {
    let engines = engines();
    assert_eq!(engines[0].name, "barelm", "ours is built with the tests");
    for engine in engines {
        let mut child = Command::new(&engine.program)
            .args(engine.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let mut session = Session { input: child.stdin.take().expect("piped"), output };
        match session.hear() {
            Reply::Hello(hello) => talk(engine.name, hello, &mut session),
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

fn load() -> String {
    format!(r#"{{"type":"load","model":{:?},"threads":2,"context":256}}"#, model().display().to_string())
}

#[test]
fn an_engine_greets_loads_continues_and_counts_its_memory() {
    with_each(|name, hello, session| {
        assert_eq!(hello.protocol, VERSION, "{name}");
        assert!(!hello.engine.is_empty() && !hello.version.is_empty(), "{name}");
        assert!(!hello.compiled.is_empty(), "{name} says what it was compiled for");
        session.say(&load());
        let Reply::Loaded(loaded) = session.hear() else { panic!("{name}: not loaded") };
        assert_eq!(loaded.vocab_size, 2048, "{name}");
        assert!(loaded.load_ns > 0, "{name}");

        let mut ids = Vec::new();
        for stream in [true, false] {
            let begun = now_ns();
            session.say(&format!(
                r#"{{"type":"submit","id":1,"prompt_ids":[5,600,17,33],"max_tokens":9,"stream":{stream}}}"#
            ));
            let (times, done) = session.answer();
            let elapsed = now_ns() - begun;
            assert_eq!((done.id, done.ids.len(), times.len()), (1, 9, 9), "{name}");
            assert!(times.is_sorted() && times[0] >= begun && times[8] <= begun + elapsed, "{name}");
            assert_eq!(done.decode_ns, times[8] - times[0], "{name}");
            assert!(done.prefill_ns + done.decode_ns <= elapsed, "{name}");
            ids.push(done.ids);
        }
        // Nothing is left of the first answer in the second.
        assert_eq!(ids[0], ids[1], "{name}");

        session.say(r#"{"type":"submit","id":1,"prompt_ids":[5,600,17,33],"max_tokens":0}"#);
        let (times, done) = session.answer();
        assert!(
            times.is_empty() && done.ids.is_empty() && done.decode_ns == 0 && done.prefill_ns > 0,
            "{name}"
        );

        session.say(r#"{"type":"stats"}"#);
        let Reply::Stats(stats) = session.hear() else { panic!("{name}: no stats") };
        if cfg!(target_os = "linux") {
            assert!(stats.peak_rss >= stats.rss && stats.rss > Some(1 << 20), "{name}: {stats:?}");
        }
    });
}

#[test]
fn what_is_wrong_is_refused_and_the_session_goes_on() {
    with_each(|name, _, session| {
        let submit = |ids: &str, tokens: usize| {
            format!(r#"{{"type":"submit","id":1,"prompt_ids":{ids},"max_tokens":{tokens}}}"#)
        };
        assert!(session.refusal("{").1.contains("not a request"), "{name}");
        assert_eq!(session.refusal(&submit("[1]", 1)).0, Some(1), "{name}");
        let missing = r#"{"type":"load","model":"/nonexistent.gguf","threads":1,"context":64}"#;
        assert!(session.refusal(missing).1.contains("/nonexistent.gguf"), "{name}");
        let none = load().replace(r#""threads":2"#, r#""threads":0"#);
        assert!(session.refusal(&none).1.contains("threads"), "{name}");
        session.say(&load());
        assert!(matches!(session.hear(), Reply::Loaded(_)), "{name}");
        for (ids, tokens) in [("[]", 1), ("[2048]", 1)] {
            assert_eq!(session.refusal(&submit(ids, tokens)).0, Some(1), "{name}: {ids}");
        }
        let long = format!("{:?}", vec![7; 300]);
        assert_eq!(session.refusal(&submit(&long, 1)).0, Some(1), "{name}: 300 ids in 256 positions");
        session.say(&submit("[7]", 2));
        assert_eq!(session.answer().1.ids.len(), 2, "{name}");
    });
}

#[test]
fn engines_agree_about_the_first_token() {
    let mut first = Vec::new();
    for engine in engines() {
        let arguments: Vec<_> = engine.arguments.iter().map(Into::into).collect();
        let mut process = EngineProcess::start(&engine.program, &arguments).expect("an engine");
        process.load(Load { model: model(), threads: 1, context: 256, batch: None }).expect("a model");
        first.push((engine.name, process.submit(&[5, 600, 17, 33], 1).expect("a token").done.ids));
    }
    assert!(first.iter().all(|(_, ids)| *ids == first[0].1), "{first:?}");
}
