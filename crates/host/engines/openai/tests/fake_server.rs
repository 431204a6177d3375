//! The program against servers that do as they are told: every manner of asking, and everything that can go wrong.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use barelm::llm::gguf::Gguf;
use barelm::llm::tokenizer::{Special, SpecialText, Tokenizer};
use barelm_protocol::{Done, Finish, Hello, Reply, now_ns};
use serde_json::{Value, json};

/// How a server behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ways {
    /// As vLLM: ids in, ids out.
    Vllm,
    /// As llama.cpp: ids in, ids beside log-probabilities, counts in the last event of the text.
    LlamaCpp,
    /// Ids in, and no more fields than OpenAI has; text out.
    Plain,
    /// Text in, text out, nothing else.
    TextOnly,
    /// Ends the text after two tokens, whatever it is told.
    Ends,
    /// Breaks off after two tokens.
    BreaksOff,
    /// Sends something else than a completion.
    Garbage,
    /// Takes the prompt from a cache.
    Caches,
    /// Counts one more id of prompt.
    AddsId,
    /// Counts one more token than it sends.
    Miscounts,
    /// Tells no counts.
    Silent,
    /// Answers 500 with a reason, but only to real requests.
    Fails,
    /// Waits before each token.
    Slow(Duration),
}

/// Ids the servers generate: ordinary words of the vocabulary.
const ANSWER: [u32; 6] = [684, 12, 283, 600, 700, 800];

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../kernel/assets/tiny.gguf")
}

/// Every request that a server has got.
type Seen = Arc<Mutex<Vec<Value>>>;

/// Starts a server; gives its address.
fn serve(ways: Ways) -> (String, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let seen = Seen::default();
    let to = seen.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, to) = (stream.expect("a connection"), to.clone());
            // Whoever cancels closes the connection, which is an error here and no fault.
            std::thread::spawn(move || drop(answer(stream, ways, &to)));
        }
    });
    (url, seen)
}

fn answer(mut stream: TcpStream, ways: Ways, seen: &Seen) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut line, mut length) = (String::new(), 0);
    reader.read_line(&mut line)?;
    let first = line.clone();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(bytes) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = bytes.trim().parse().expect("a number");
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut whole = |status: &str, text: String| {
        let length = text.len();
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}")
    };
    if first.starts_with("GET /v1/models ") {
        return whole("200 OK", json!({"data": [{"id": "fake"}]}).to_string());
    }
    if first.starts_with("GET /version ") {
        return whole("200 OK", json!({"version": "1.2.3"}).to_string());
    }
    if !first.starts_with("POST /v1/completions ") {
        return whole("404 Not Found", String::new());
    }
    let request: Value = serde_json::from_slice(&body)?;
    seen.lock().expect("no panic").push(request.clone());
    let extras = ["ignore_eos", "cache_prompt", "cache_salt", "return_token_ids"];
    let extra = extras.iter().any(|name| !request[name].is_null());
    let refused = match ways {
        Ways::TextOnly => extra || request["prompt"].is_array(),
        Ways::Plain => extra,
        _ => false,
    };
    if refused {
        return whole("400 Bad Request", json!({"error": {"message": "unknown field"}}).to_string());
    }
    let max_tokens = request["max_tokens"].as_u64().expect("a number") as usize;
    if ways == Ways::Fails && max_tokens > 1 {
        return whole("500 Internal Server Error", "out of memory".into());
    }
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n: hello\n\n"
    )?;
    stream_answer(&mut stream, ways, &request, max_tokens)
}

fn stream_answer(
    stream: &mut TcpStream,
    ways: Ways,
    request: &Value,
    max_tokens: usize,
) -> std::io::Result<()> {
    let bytes = std::fs::read(model())?;
    let gguf = Gguf::parse(&bytes).expect("a model");
    let tokenizer = Tokenizer::from_gguf(&gguf).expect("a vocabulary");
    // In the middle of a text: a first word keeps its blank.
    let piece = |id| tokenizer.token_bytes(id).expect("an id").collect::<Vec<u8>>();
    let real = max_tokens > 1;
    let mut send = |value: Value| stream.write_all(format!("data: {value}\n\n").as_bytes());
    let count = if ways == Ways::Ends && real { 2 } else { max_tokens };
    for index in 0..count {
        if let Ways::Slow(delay) = ways {
            std::thread::sleep(delay);
        }
        match (ways, index) {
            (Ways::BreaksOff, 2) => return Ok(()),
            (Ways::Garbage, 1) => return send(json!("not an object")),
            _ => {}
        }
        let id = ANSWER[index % ANSWER.len()];
        let text = String::from_utf8(piece(id)).expect("a word");
        let mut choice = json!({"index": 0, "text": text, "finish_reason": null});
        match ways {
            Ways::LlamaCpp if !request["logprobs"].is_null() => {
                choice["logprobs"] = json!({"content": [{"id": id, "logprob": -0.5}]});
            }
            Ways::LlamaCpp | Ways::Plain | Ways::TextOnly => {}
            _ => choice["token_ids"] = json!([id]),
        }
        send(json!({"choices": [choice]}))?;
    }
    let prompt = match &request["prompt"] {
        Value::Array(ids) => ids.len(),
        text => {
            tokenizer.encode_to_vec(text.as_str().expect("a text"), Special::Parse).expect("a text").len()
        }
    };
    let usage = json!({
        "prompt_tokens": prompt + usize::from(ways == Ways::AddsId),
        "completion_tokens": count + usize::from(ways == Ways::Miscounts && real),
        "prompt_tokens_details": {"cached_tokens": if ways == Ways::Caches { prompt - 1 } else { 0 }},
    });
    let reason = if ways == Ways::Ends && real { "stop" } else { "length" };
    let last = json!({"index": 0, "text": "", "finish_reason": reason});
    match ways {
        Ways::Silent => send(json!({"choices": [last]}))?,
        Ways::LlamaCpp => send(json!({"choices": [last], "usage": usage}))?,
        _ => {
            send(json!({"choices": [last]}))?;
            send(json!({"choices": [], "usage": usage}))?;
        }
    }
    stream.write_all(b"data: [DONE]\n\n")
}

/// The program in a session.
struct Session {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Session {
    fn start(url: &str) -> (Self, Hello) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_openai-bench"))
            .args(["--url", url])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().expect("piped")));
        let mut session = Session { child, input, output };
        match session.hear() {
            Reply::Hello(hello) => (session, hello),
            other => panic!("{other:?}"),
        }
    }

    fn loaded(url: &str) -> Self {
        let (mut session, hello) = Self::start(url);
        assert_eq!(hello.unavailable, None);
        session
            .say(&json!({"type": "load", "model": model(), "threads": 1, "context": 64, "max_sequences": 4}));
        match session.hear() {
            Reply::Loaded(loaded) => assert_eq!(loaded.vocab_size, 2048),
            other => panic!("{other:?}"),
        }
        session
    }

    fn say(&mut self, line: &Value) {
        writeln!(self.input.as_ref().expect("open"), "{line}").expect("it listens");
    }

    fn hear(&mut self) -> Reply {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("it speaks");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn submit(&mut self, id: u64, ids: &[u32], max_tokens: usize) {
        self.say(&json!({"type": "submit", "id": id, "prompt_ids": ids, "max_tokens": max_tokens}));
    }

    /// Times of the tokens, and the end or the refusal.
    fn answer(&mut self) -> (Vec<u64>, Result<Done, String>) {
        let mut times = Vec::new();
        loop {
            match self.hear() {
                Reply::Token { t_ns, .. } => times.push(t_ns),
                Reply::Done(done) => return (times, Ok(done)),
                Reply::Error { id: Some(1), message } => return (times, Err(message)),
                other => panic!("{other:?}"),
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.input.take());
        let ended = self.child.wait();
        if !std::thread::panicking() {
            assert!(ended.expect("it ends").success());
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_server_on_this_machine_is_told_by_its_process() {
    let (url, _) = serve(Ways::Vllm);
    let hello = Session::start(&url).1;
    // The servers of these tests are threads.
    assert_eq!(hello.processes, [std::process::id()]);
    assert!(hello.settings["memory"].contains("and of the processes"), "{hello:?}");
}

#[test]
fn every_manner_of_asking_gives_the_same_tokens() {
    // A text of words, so that it is the same ids again.
    let bytes = std::fs::read(model()).unwrap();
    let gguf = Gguf::parse(&bytes).unwrap();
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let prompt = tokenizer.encode_to_vec("Once upon a time", Special::Plain).unwrap();
    assert_eq!(tokenizer.decode_to_string(&prompt, SpecialText::Show).unwrap(), "Once upon a time");
    for ways in [Ways::Vllm, Ways::LlamaCpp, Ways::Plain, Ways::TextOnly] {
        let (url, seen) = serve(ways);
        let mut session = Session::loaded(&url);
        session.submit(1, &prompt, 6);
        let (times, done) = session.answer();
        let done = done.unwrap_or_else(|why| panic!("{ways:?}: {why}"));
        assert_eq!((times.len(), &done.ids[..], done.finish), (6, &ANSWER[..], Finish::Length), "{ways:?}");
        let asked = seen.lock().unwrap().last().cloned().expect("a request");
        assert_eq!(asked["prompt"].is_array(), ways != Ways::TextOnly, "{asked}");
        assert_eq!(asked["ignore_eos"] == true, matches!(ways, Ways::Vllm | Ways::LlamaCpp), "{asked}");
        assert_eq!(asked["logprobs"] == 1, ways == Ways::LlamaCpp, "{asked}");
        assert_eq!(asked["temperature"], 0);
    }
}

#[test]
fn answers_that_cannot_be_trusted_are_refused_with_the_reason() {
    for (ways, part) in [
        (Ways::Ends, "cannot be told to go on"),
        (Ways::BreaksOff, "before the answer's end"),
        (Ways::Garbage, "no completion"),
        (Ways::Caches, "from a cache"),
        (Ways::AddsId, "5 ids of prompt, we 4"),
        (Ways::Miscounts, "counts 7 tokens, 6 were told"),
        (Ways::Silent, "no counts"),
        (Ways::Fails, "500: out of memory"),
    ] {
        let (url, _) = serve(ways);
        let mut session = Session::loaded(&url);
        session.submit(1, &[5, 600, 17, 33], 6);
        let why = session.answer().1.expect_err("refused");
        assert!(why.contains(part), "{ways:?}: {why}");
    }
}

#[test]
fn known_delays_are_found_again_and_requests_run_together() {
    let delay = Duration::from_millis(60);
    let (url, _) = serve(Ways::Slow(delay));
    let mut session = Session::loaded(&url);
    let begun = now_ns();
    for id in 1..=4 {
        session.submit(id, &[5, 600], 6);
    }
    let (mut done, mut times) = (0, vec![Vec::new(); 5]);
    while done < 4 {
        match session.hear() {
            Reply::Token { id, t_ns, .. } => times[id as usize].push(t_ns),
            Reply::Done(answer) => {
                assert_eq!(answer.ids, ANSWER);
                done += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    times.remove(0);
    // One after the other, none would begin before the one before it ends.
    times.sort_by_key(|times| times[0]);
    assert!(times.windows(2).any(|pair| pair[1][0] < pair[0][5]), "{times:?}");
    let mut gaps = Vec::new();
    for times in &times {
        // A sleep is never shorter; a stamp may be late, but the last one is no earlier than all sleeps together.
        assert!(times[5] - begun >= 6 * delay.as_nanos() as u64, "{times:?} from {begun}");
        gaps.extend(times.windows(2).map(|pair| pair[1] - pair[0]));
    }
    gaps.sort_unstable();
    // On a busy machine a sleep lasts longer.
    let median = gaps[gaps.len() / 2] as f64 / 1e6;
    assert!((50.0..120.0).contains(&median), "{median} ms between tokens");
}

#[test]
fn a_cancelled_request_is_over_at_once() {
    let (url, _) = serve(Ways::Slow(Duration::from_millis(30)));
    let mut session = Session::loaded(&url);
    session.submit(1, &[5], 60);
    assert!(matches!(session.hear(), Reply::Token { .. }));
    session.say(&json!({"type": "cancel", "id": 1}));
    let done = session.answer().1.expect("an end");
    assert_eq!(done.finish, Finish::Cancelled);
    assert!(done.ids.len() < 40, "{}", done.ids.len());
    // The same id again, while the thread of the first one may still end.
    session.submit(1, &[5], 3);
    assert_eq!(session.answer().1.expect("an end").ids, ANSWER[..3]);
}

#[test]
fn a_server_that_is_not_there_is_unavailable() {
    let wrong = [
        ("http://127.0.0.1:1", "127.0.0.1:1"),
        ("127.0.0.1:80", "an address such as"),
        ("https://a", "https"),
    ];
    for (url, part) in wrong {
        let (_session, hello) = Session::start(url);
        assert!(hello.unavailable.as_deref().is_some_and(|why| why.contains(part)), "{hello:?}");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_openai-bench"))
        .env_remove("BARELM_OPENAI_URL")
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("no server is named"));
}

#[test]
fn what_a_server_cannot_do_is_refused() {
    let (url, _) = serve(Ways::Vllm);
    let mut session = Session::loaded(&url);
    for (ids, tokens, part) in
        [(vec![5], 0, "at least one"), (vec![5; 60], 6, "65 positions"), (vec![2048], 1, "2048")]
    {
        session.submit(1, &ids, tokens);
        let why = session.answer().1.expect_err("refused");
        assert!(why.contains(part), "{why}");
    }
}
