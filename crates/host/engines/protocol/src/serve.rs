//! The engine's side of a session.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufRead, Write};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::time::Duration;

use crate::engine::{Backend, Batched, Engine, Event, OpAnswer};
use crate::message::{Done, Finish, Loaded, Logits, OpTimes, Reply, Request, Score, Submit};
use crate::{memory, now_ns, short};

/// How long the first line of the short form, which has no greeting, is waited for.
const FIRST_LINE: Duration = Duration::from_millis(100);

/// [`serve`] on standard input and output, as a program's whole `main`: failures go to standard error.
pub fn serve_standard(backend: &dyn Backend) -> ExitCode {
    report(backend, serve(backend, io::BufReader::new(io::stdin()), io::stdout().lock()))
}

/// What a program without arguments but `--help` does: [`serve_standard`].
pub fn serve_plain(program: &str, backend: &dyn Backend) -> ExitCode {
    const HELP: &str =
        "Speaks a session of JSON lines on standard input and output: see docs/llm/PROTOCOL.md.";
    match std::env::args().nth(1).as_deref() {
        None => serve_standard(backend),
        Some("--help") => {
            println!("{HELP}");
            ExitCode::SUCCESS
        }
        Some(_) => {
            eprintln!("{program}: {HELP}");
            ExitCode::FAILURE
        }
    }
}

/// A program's status for what became of its session.
pub(crate) fn report(backend: &dyn Backend, served: io::Result<()>) -> ExitCode {
    match served {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever asked has gone.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", backend.hello().engine);
            ExitCode::FAILURE
        }
    }
}

/// Answers requests until `quit`, or the end of `input` and of what was asked before it.
///
/// A thread reads `input`, so that requests that come in during a computation are seen between two tokens.
///
/// # Errors
/// Those of reading and writing. What is wrong with a request is answered, not returned.
pub fn serve(
    backend: &dyn Backend,
    input: impl BufRead + Send + 'static,
    output: impl Write,
) -> io::Result<()> {
    let (sender, heard) = channel();
    // Ends with the input, or when nobody listens any more; a read that lasts until the process ends harms nobody.
    std::thread::spawn(move || {
        for line in input.lines() {
            let heard = match line {
                Ok(line) if line.trim().is_empty() => continue,
                Ok(line) => read(line),
                Err(error) => Heard::Broken(error),
            };
            let last = matches!(heard, Heard::Broken(_));
            if sender.send((now_ns(), heard)).is_err() || last {
                return;
            }
        }
    });
    let mut talk = Talk { heard, ahead: VecDeque::new(), output, over: false };
    match talk.heard.recv_timeout(FIRST_LINE) {
        Ok((at, first)) => {
            let greet = !matches!(first, Heard::Short(_));
            talk.ahead.push_back((at, first));
            if greet && !talk.greet(backend)? {
                return Ok(());
            }
        }
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            if !talk.greet(backend)? {
                return Ok(());
            }
        }
    }
    let mut next = talk.hear()?;
    while let Some((at, request)) = next {
        next = match request {
            Heard::Request(Request::Load(load)) => {
                let mut after = None;
                let batched = backend.with_batched(&load, &mut |model| {
                    after = Some(talk.batched(model, now_ns() - at));
                });
                let loaded = batched.unwrap_or_else(|| {
                    backend.with_model(&load, &mut |engine| {
                        after = Some(talk.conversation(engine, now_ns() - at));
                    })
                });
                match after {
                    Some(after) => after?,
                    None => {
                        let why = loaded.err().unwrap_or_else(|| "the engine gave no model".into());
                        talk.refuse(None, why)?;
                        talk.hear()?
                    }
                }
            }
            Heard::Request(Request::Submit(Submit { id, .. }) | Request::Logits(Score { id, .. })) => {
                talk.refuse(Some(id), "no model is loaded; send `load` first".into())?;
                talk.hear()?
            }
            Heard::Request(Request::Op(op)) => {
                let id = op.id;
                talk.say(&match backend.op(&op) {
                    OpAnswer::Timed { samples_ns, iterations, check } => {
                        Reply::Op(OpTimes { id, samples_ns, iterations, check })
                    }
                    OpAnswer::NotExpressible(reason) => Reply::NotExpressible { id, reason },
                    OpAnswer::Failed(message) => Reply::Error { id: Some(id), message },
                })?;
                talk.hear()?
            }
            Heard::Short(line) => {
                let result = short::answer(backend, &line);
                talk.write(&result)?;
                talk.hear()?
            }
            Heard::Request(Request::Quit) => None,
            Heard::Broken(error) => return Err(error),
            other => {
                talk.at_any_time(other)?;
                talk.hear()?
            }
        };
    }
    Ok(())
}

/// What the reader made of a line.
enum Heard {
    Request(Request),
    /// A line of the short form.
    Short(String),
    /// No request; why.
    Wrong(String),
    /// Nothing can be read any more.
    Broken(io::Error),
}

fn read(line: String) -> Heard {
    if short::is_short(&line) {
        return Heard::Short(line);
    }
    match serde_json::from_str(&line) {
        Ok(request) => Heard::Request(request),
        Err(error) => Heard::Wrong(format!("not a request: {error}")),
    }
}

/// Both ends of a session.
struct Talk<O> {
    heard: Receiver<(u64, Heard)>,
    /// Read, and waiting for their turn, with the time of reading.
    ahead: VecDeque<(u64, Heard)>,
    output: O,
    /// `quit` was read.
    over: bool,
}

/// What to go on with when a model has answered all that was for it.
type Next = Option<(u64, Heard)>;

impl<O: Write> Talk<O> {
    /// Whether the engine can run.
    fn greet(&mut self, backend: &dyn Backend) -> io::Result<bool> {
        let hello = backend.hello();
        let available = hello.unavailable.is_none();
        self.say(&Reply::Hello(hello))?;
        Ok(available)
    }

    fn say(&mut self, reply: &Reply) -> io::Result<()> {
        self.write(reply)
    }

    fn write(&mut self, line: &impl serde::Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(line)?;
        line.push(b'\n');
        self.output.write_all(&line)?;
        self.output.flush()
    }

    fn refuse(&mut self, id: Option<u64>, message: String) -> io::Result<()> {
        self.say(&Reply::Error { id, message })
    }

    /// The next line, waited for; `None` at the end.
    fn hear(&mut self) -> io::Result<Next> {
        if self.over {
            return Ok(None);
        }
        Ok(self.ahead.pop_front().or_else(|| self.heard.recv().ok()))
    }

    /// What is answered at once, whatever is computed; errors in place of what must not be here.
    fn at_any_time(&mut self, heard: Heard) -> io::Result<()> {
        match heard {
            Heard::Request(Request::Stats) => self.say(&Reply::Stats(memory())),
            Heard::Request(Request::Cancel { id }) => self.cancel_ahead(id),
            Heard::Request(Request::Quit) => {
                self.over = true;
                Ok(())
            }
            Heard::Wrong(why) => self.refuse(None, why),
            Heard::Broken(error) => Err(error),
            Heard::Short(_) | Heard::Request(_) => unreachable!("these wait for their turn"),
        }
    }

    /// Cancels a request that waits for its turn; an error if none of this id does.
    fn cancel_ahead(&mut self, id: u64) -> io::Result<()> {
        let is_it = |(_, heard): &(u64, Heard)| matches!(heard, Heard::Request(Request::Submit(submit)) if submit.id == id);
        let Some((at, _)) = self.ahead.iter().position(is_it).and_then(|place| self.ahead.remove(place))
        else {
            return self.refuse(Some(id), format!("request {id} is not in flight"));
        };
        let waited = now_ns() - at;
        self.say(&Reply::Done(Done {
            id,
            prefill_ns: waited,
            finish: Finish::Cancelled,
            queued_ns: Some(waited),
            ..Done::default()
        }))
    }

    /// Looks at what has come in during a computation: answers what cannot wait and keeps the rest. Tells whether
    /// request `id` is to end.
    fn look(&mut self, id: u64) -> io::Result<bool> {
        let mut end = false;
        loop {
            match self.heard.try_recv() {
                Ok((_, Heard::Request(Request::Cancel { id: of }))) if of == id => end = true,
                Ok((at, heard @ (Heard::Short(_) | Heard::Request(_)))) if waits(&heard) => {
                    self.ahead.push_back((at, heard));
                }
                Ok((_, heard)) => self.at_any_time(heard)?,
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return Ok(end || self.over),
            }
        }
    }

    /// Answers as long as requests are for this model; gives the one that is not.
    fn conversation(&mut self, engine: &mut dyn Engine, load_ns: u64) -> io::Result<Next> {
        self.say(&Reply::Loaded(Loaded { load_ns, vocab_size: engine.vocab_size() }))?;
        loop {
            match self.hear()? {
                Some((at, Heard::Request(Request::Submit(submit)))) => {
                    let wrong = check(&submit.prompt_ids, engine.vocab_size());
                    let answer = match wrong {
                        None => self.answer(engine, &submit, at)?,
                        Some(why) => Err(why),
                    };
                    match answer {
                        Ok(()) => {}
                        Err(why) => self.refuse(Some(submit.id), why)?,
                    }
                }
                Some((_, Heard::Request(Request::Logits(Score { id, ids, top })))) => {
                    let answer = check(&ids, engine.vocab_size()).map_or_else(
                        || engine.expected(&ids, top),
                        |why| Err(why.replace("prompt_ids", "ids")),
                    );
                    match answer {
                        Ok(positions) => self.say(&Reply::Logits(Logits { id, positions }))?,
                        Err(why) => self.refuse(Some(id), why)?,
                    }
                }
                Some((_, heard)) if !waits(&heard) => self.at_any_time(heard)?,
                other => return Ok(other),
            }
        }
    }

    /// One prompt. The inner error is the engine's.
    fn answer(
        &mut self,
        engine: &mut dyn Engine,
        submit: &Submit,
        at: u64,
    ) -> io::Result<Result<(), String>> {
        let mut flight = Flight::new(submit, at);
        flight.started = Some(now_ns());
        let started = engine.start(&submit.prompt_ids);
        if let Err(why) = started {
            return Ok(Err(why));
        }
        let read = now_ns();
        let mut finish = Finish::Length;
        while flight.ids.len() < submit.max_tokens {
            if self.look(submit.id)? {
                finish = Finish::Cancelled;
                break;
            }
            if let Some(&last) = flight.ids.last()
                && let Err(why) = engine.feed(last)
            {
                return Ok(Err(why));
            }
            let id = engine.best();
            self.token(&mut flight, submit.id, id, now_ns())?;
            if !submit.ignore_eos && engine.ends(id) {
                finish = Finish::Stop;
                break;
            }
        }
        if self.over {
            return Ok(Ok(()));
        }
        self.done(submit.id, &flight, finish, read).map(Ok)
    }

    fn token(&mut self, flight: &mut Flight, id: u64, token: u32, t_ns: u64) -> io::Result<()> {
        let index = Some(flight.ids.len());
        flight.ids.push(token);
        flight.times.push(t_ns);
        if flight.stream { self.say(&Reply::Token { id, t_ns, index }) } else { Ok(()) }
    }

    /// The end of a request; its prompt had been computed at `read`, if no token tells.
    fn done(&mut self, id: u64, flight: &Flight, finish: Finish, read: u64) -> io::Result<()> {
        if !flight.stream {
            for (index, &t_ns) in flight.times.iter().enumerate() {
                self.say(&Reply::Token { id, t_ns, index: Some(index) })?;
            }
        }
        let first = flight.times.first().copied().unwrap_or(read);
        let last = flight.times.last().copied().unwrap_or(first);
        self.say(&Reply::Done(Done {
            id,
            prefill_ns: first - flight.at,
            decode_ns: last - first,
            ids: flight.ids.clone(),
            finish,
            queued_ns: flight.started.map(|started| started - flight.at),
        }))
    }

    /// [`conversation`](Self::conversation) with a model that computes many requests together.
    fn batched(&mut self, model: &mut dyn Batched, load_ns: u64) -> io::Result<Next> {
        self.say(&Reply::Loaded(Loaded { load_ns, vocab_size: model.vocab_size() }))?;
        let mut flights: BTreeMap<u64, Flight> = BTreeMap::new();
        // Something that is not for a model that computes: it waits until nothing is in flight, and all behind it too.
        let mut barrier = None;
        loop {
            loop {
                let next = match (&barrier, flights.is_empty()) {
                    (Some(_), _) => self.heard.try_recv().ok(),
                    (None, false) => self.ahead.pop_front().or_else(|| self.heard.try_recv().ok()),
                    (None, true) => match self.hear()? {
                        None => return Ok(None),
                        next => next,
                    },
                };
                let Some((at, heard)) = next else { break };
                match heard {
                    heard if barrier.is_some() && waits(&heard) => self.ahead.push_back((at, heard)),
                    Heard::Request(Request::Submit(submit)) => {
                        let refused = check(&submit.prompt_ids, model.vocab_size()).or_else(|| {
                            let known = flights.contains_key(&submit.id);
                            known.then(|| format!("request {} is in flight already", submit.id))
                        });
                        match refused.map_or_else(|| model.submit(&submit), Err) {
                            Ok(()) => {
                                flights.insert(submit.id, Flight::new(&submit, at));
                            }
                            Err(why) => self.refuse(Some(submit.id), why)?,
                        }
                    }
                    Heard::Request(Request::Cancel { id }) if flights.contains_key(&id) => {
                        model.cancel(id);
                        let flight = flights.remove(&id).expect("looked up before");
                        self.done(id, &flight, Finish::Cancelled, now_ns())?;
                    }
                    Heard::Request(Request::Logits(Score { id, .. })) => {
                        let why = "not exposed: load with max_sequences 1 for logits".into();
                        self.refuse(Some(id), why)?;
                    }
                    heard if waits(&heard) => barrier = Some((at, heard)),
                    heard => self.at_any_time(heard)?,
                }
                if self.over {
                    return Ok(None);
                }
            }
            if flights.is_empty() {
                return Ok(barrier);
            }
            let mut written = Ok(());
            let stepped = model.step(&mut |event| {
                if written.is_ok() {
                    written = self.event(&mut flights, event);
                }
            });
            written?;
            if let Err(why) = stepped {
                for id in std::mem::take(&mut flights).into_keys() {
                    model.cancel(id);
                    self.refuse(Some(id), why.clone())?;
                }
            }
        }
    }

    /// Something happened to one of the requests in flight.
    fn event(&mut self, flights: &mut BTreeMap<u64, Flight>, event: Event) -> io::Result<()> {
        match event {
            Event::Started { id, t_ns } => {
                if let Some(flight) = flights.get_mut(&id) {
                    flight.started.get_or_insert(t_ns.max(flight.at));
                }
                Ok(())
            }
            Event::Token { id, token, t_ns } => match flights.get_mut(&id) {
                Some(flight) => self.token(flight, id, token, t_ns),
                None => Ok(()),
            },
            Event::Done { id, finish } => match flights.remove(&id) {
                Some(flight) => self.done(id, &flight, finish, now_ns()),
                None => Ok(()),
            },
            Event::Failed { id, message } => match flights.remove(&id) {
                Some(_) => self.refuse(Some(id), message),
                None => Ok(()),
            },
        }
    }
}

/// Whether a line has its turn, in order, or is answered at any time.
fn waits(heard: &Heard) -> bool {
    match heard {
        Heard::Short(_) => true,
        Heard::Request(Request::Stats | Request::Cancel { .. } | Request::Quit) => false,
        Heard::Request(_) => true,
        Heard::Wrong(_) | Heard::Broken(_) => false,
    }
}

/// What is wrong with a prompt.
fn check(prompt_ids: &[u32], vocab_size: usize) -> Option<String> {
    if prompt_ids.is_empty() {
        return Some("prompt_ids is empty".into());
    }
    let id = prompt_ids.iter().find(|&&id| id as usize >= vocab_size)?;
    Some(format!("token id {id} is not below {vocab_size}"))
}

/// A request on its way.
struct Flight {
    /// When it was read.
    at: u64,
    started: Option<u64>,
    stream: bool,
    ids: Vec<u32>,
    times: Vec<u64>,
}

impl Flight {
    fn new(submit: &Submit, at: u64) -> Self {
        // A request may ask for more than will ever come; the first tokens at least cost no allocation.
        let room = submit.max_tokens.min(1 << 16);
        Flight {
            at,
            started: None,
            stream: submit.stream,
            ids: Vec::with_capacity(room),
            times: Vec::with_capacity(room),
        }
    }
}

#[cfg(test)]
#[path = "serve/tests.rs"]
mod tests;
