//! An engine in a process of its own, asked over its standard input and output.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use barelm_protocol::{Done, Hello, Load, Loaded, Reply, Request, Stats, Submit, VERSION, now_ns};

use crate::failure::Failure;

/// How long an engine may take for one answer. Loading a large model from a slow disk takes longest.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long it may take to greet, which some do after they have imported a framework; a program that speaks no protocol says
/// nothing for ever.
const GREETING: Duration = Duration::from_secs(30);
/// How much longer than the engine says its answer may take by our clock: a share, and what a busy machine adds.
const CLOCK_SHARE: f64 = 0.02;
/// See [`CLOCK_SHARE`].
const CLOCK_SLACK_NS: u64 = 5_000_000;

/// A running engine.
pub struct EngineProcess {
    name: String,
    hello: Hello,
    child: Child,
    requests: Option<ChildStdin>,
    replies: Receiver<Result<String, String>>,
    next_id: u64,
}

/// One answered prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// What the engine says.
    pub done: Done,
    /// When each token was chosen.
    pub token_ns: Vec<u64>,
    /// From our request to the answer by our clock.
    pub elapsed_ns: u64,
}

impl Answer {
    /// Whether our clock agrees with the engine's times; it does not where somebody else used the processor.
    pub fn undisturbed(&self) -> bool {
        let told = self.done.prefill_ns + self.done.decode_ns;
        self.elapsed_ns - told <= CLOCK_SLACK_NS + (CLOCK_SHARE * told as f64) as u64
    }
}

impl EngineProcess {
    /// Starts a program with its arguments and hears its greeting.
    pub fn start(program: &Path, arguments: &[OsString]) -> Result<Self, Failure> {
        let shown = program.display().to_string();
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| not_started(&shown, &error))?;
        let requests = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, replies) = channel();
        std::thread::spawn(move || {
            for line in output.lines() {
                if sender.send(line.map_err(|error| error.to_string())).is_err() {
                    return;
                }
            }
        });
        let hello = Hello { engine: shown.clone(), ..Hello::default() };
        let mut engine = EngineProcess { name: shown, hello, child, requests, replies, next_id: 0 };
        match engine.hear_within(GREETING)? {
            Reply::Hello(Hello { unavailable: Some(why), .. }) => {
                Err(engine.wrong(&format!("cannot run here: {why}")))
            }
            Reply::Hello(hello) if hello.protocol == VERSION => {
                engine.name.clone_from(&hello.engine);
                engine.hello = hello;
                Ok(engine)
            }
            Reply::Hello(hello) => {
                Err(engine.wrong(&format!("speaks protocol {}, not {VERSION}", hello.protocol)))
            }
            other => Err(engine.wrong(&format!("`hello` was expected, not {other:?}"))),
        }
    }

    /// Its greeting.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its name, by its own account.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Loads a model in place of the one before.
    pub fn load(&mut self, load: Load) -> Result<Loaded, Failure> {
        self.tell(&Request::Load(load))?;
        match self.hear()? {
            Reply::Loaded(loaded) => Ok(loaded),
            other => Err(self.unexpected("loaded", &other)),
        }
    }

    /// Continues a prompt by exactly `max_tokens` tokens. Refuses an answer that contradicts itself or our clock.
    pub fn submit(&mut self, prompt_ids: &[u32], max_tokens: usize) -> Result<Answer, Failure> {
        let id = self.next_id;
        self.next_id += 1;
        let submit =
            Submit { id, prompt_ids: prompt_ids.into(), max_tokens, ignore_eos: true, stream: false };
        let begun = now_ns();
        self.tell(&Request::Submit(submit))?;
        let mut token_ns = Vec::with_capacity(max_tokens);
        let done = loop {
            match self.hear()? {
                Reply::Token { id: of, t_ns, .. } if of == id => token_ns.push(t_ns),
                Reply::Done(done) if done.id == id => break done,
                other => return Err(self.unexpected("token or done", &other)),
            }
        };
        let ended = now_ns();
        let answer = Answer { done, token_ns, elapsed_ns: ended - begun };
        match contradiction(&answer, max_tokens, begun, ended) {
            None => Ok(answer),
            Some(what) => Err(self.wrong(&what)),
        }
    }

    /// Memory of the process.
    pub fn stats(&mut self) -> Result<Stats, Failure> {
        self.tell(&Request::Stats)?;
        match self.hear()? {
            Reply::Stats(stats) => Ok(stats),
            other => Err(self.unexpected("stats", &other)),
        }
    }

    fn tell(&mut self, request: &Request) -> Result<(), Failure> {
        let mut line = serde_json::to_vec(request).expect("requests are JSON");
        line.push(b'\n');
        let requests = self.requests.as_mut().expect("open until the engine is dropped");
        let told = requests.write_all(&line).and_then(|()| requests.flush());
        told.map_err(|error| self.wrong(&format!("takes no requests any more: {error}")))
    }

    fn hear(&mut self) -> Result<Reply, Failure> {
        self.hear_within(PATIENCE)
    }

    fn hear_within(&mut self, patience: Duration) -> Result<Reply, Failure> {
        match self.replies.recv_timeout(patience) {
            Ok(Ok(line)) => serde_json::from_str(&line).map_err(|error| {
                let start: String = line.chars().take(100).collect();
                self.wrong(&format!("says what is no reply ({error}): {start}"))
            }),
            Ok(Err(error)) => Err(self.wrong(&format!("cannot be read: {error}"))),
            Err(RecvTimeoutError::Timeout) if patience == GREETING => Err(self.wrong(&format!(
                "has not greeted within {} s; it must write a `hello` line when it starts, see docs/llm/PROTOCOL.md",
                patience.as_secs()
            ))),
            Err(RecvTimeoutError::Timeout) => {
                Err(self.wrong(&format!("has not answered for {} s", patience.as_secs())))
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.child.wait().map_or_else(|error| error.to_string(), |s| s.to_string());
                Err(self.wrong(&format!("has ended ({status})")))
            }
        }
    }

    fn unexpected(&self, wanted: &str, reply: &Reply) -> Failure {
        match reply {
            Reply::Error { message, .. } => self.wrong(&format!("refuses: {message}")),
            other => self.wrong(&format!("`{wanted}` was expected, not {other:?}")),
        }
    }

    fn wrong(&self, what: &str) -> Failure {
        Failure::Message(format!("engine {}: {what}", self.name))
    }
}

impl Drop for EngineProcess {
    /// Lets the engine end by itself; one that does not within two seconds is ended.
    fn drop(&mut self) {
        let _ = self.tell(&Request::Quit);
        drop(self.requests.take());
        for _ in 0..200 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Why a program did not start, and what to do about it.
fn not_started(program: &str, error: &std::io::Error) -> Failure {
    let advice = match error.kind() {
        std::io::ErrorKind::NotFound => {
            "; name an engine's program: one on the search path, or its file; `cargo xtask versus` builds llama.cpp's"
        }
        std::io::ErrorKind::PermissionDenied => "; it must be a file that may be executed",
        _ => "",
    };
    Failure::Message(format!("engine {program} cannot be started: {error}{advice}"))
}

/// What is wrong with an answer, whose request was made and fulfilled at these times; `None` if nothing is.
fn contradiction(answer: &Answer, max_tokens: usize, begun: u64, ended: u64) -> Option<String> {
    let Answer { done, token_ns, elapsed_ns } = answer;
    let (first, last) = (token_ns.first().copied(), token_ns.last().copied());
    if done.ids.len() != max_tokens || token_ns.len() != max_tokens {
        return Some(format!(
            "{max_tokens} tokens were asked for; {} lines and {} ids came",
            token_ns.len(),
            done.ids.len()
        ));
    }
    if done.prefill_ns + done.decode_ns > *elapsed_ns {
        return Some(format!(
            "says it took {} ns, but {elapsed_ns} ns have passed",
            done.prefill_ns + done.decode_ns
        ));
    }
    let ordered = token_ns.is_sorted() && first.is_none_or(|t| t >= begun) && last.is_none_or(|t| t <= ended);
    if !ordered {
        return Some("stamps its tokens with times outside of the request or out of order".into());
    }
    let spread = first.zip(last).map_or(0, |(first, last)| last - first);
    (done.decode_ns != spread)
        .then(|| format!("says it decoded for {} ns, its tokens for {spread} ns", done.decode_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(prefill_ns: u64, token_ns: &[u64], elapsed_ns: u64) -> Answer {
        let decode_ns = token_ns.last().map_or(0, |last| last - token_ns[0]);
        let ids = vec![1; token_ns.len()];
        let done = Done { prefill_ns, decode_ns, ids, ..Done::default() };
        Answer { done, token_ns: token_ns.into(), elapsed_ns }
    }

    #[test]
    fn answers_that_contradict_themselves_or_the_clock_are_found() {
        let good = answer(100, &[200, 300, 400], 310);
        assert_eq!(contradiction(&good, 3, 100, 410), None);
        let wrong =
            |answer: &Answer, tokens| contradiction(answer, tokens, 100, 410).expect("a contradiction");
        assert!(wrong(&good, 4).contains("4 tokens were asked for; 3 lines and 3 ids came"));
        assert!(wrong(&answer(200, &[200, 300, 400], 310), 3).contains("400 ns, but 310 ns"));
        assert!(wrong(&answer(1, &[200, 300, 500], 310), 3).contains("outside"));
        assert!(wrong(&answer(1, &[99, 300], 310), 2).contains("outside"));
        let mut other = good.clone();
        other.done.decode_ns -= 50;
        assert!(wrong(&other, 3).contains("for 150 ns, its tokens for 200 ns"));
        assert_eq!(contradiction(&answer(300, &[], 310), 0, 100, 410), None);
    }

    #[test]
    fn an_answer_that_took_much_longer_by_our_clock_was_disturbed() {
        let answer = |elapsed| answer(1_000_000_000, &[], elapsed);
        assert!(answer(1_024_000_000).undisturbed());
        assert!(!answer(1_026_000_000).undisturbed());
    }

    #[test]
    fn programs_that_are_no_engines_are_told_apart() {
        let start = |script: &str| {
            let arguments = ["-c", script].map(OsString::from);
            let failure = EngineProcess::start(Path::new("sh"), &arguments).err().expect("no engine");
            failure.to_string()
        };
        assert!(start("exit 3").contains("has ended (exit status: 3)"));
        assert!(start("echo garbage; cat").contains("no reply"));
        assert!(start(r#"echo '{"type":"stats"}'; cat"#).contains("`hello` was expected"));
        let old = serde_json::to_string(&Reply::Hello(Hello { protocol: 9, ..Hello::default() })).unwrap();
        assert!(start(&format!("echo '{old}'; cat")).contains("protocol 9"));
        let missing = EngineProcess::start(Path::new("/nonexistent"), &[]).err().expect("no engine");
        let missing = missing.to_string();
        assert!(
            missing.contains("/nonexistent") && missing.contains("name an engine's program"),
            "{missing}"
        );
    }
}
