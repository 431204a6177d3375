//! Requests of token ids to a server, and its events as tokens.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use barelm::llm::tokenizer::{Special, SpecialText, Tokenizer};
use barelm_protocol::{Batched, Event, Finish, Submit, now_ns};
use serde_json::{Value, json};

use crate::backend::sample;
use crate::chunk::{Chunk, Usage};
use crate::server::{Failure, Server};

/// A server and the model of it that is asked.
#[derive(Debug)]
pub struct Remote {
    /// The server.
    pub server: Server,
    /// The name of the model.
    pub model: String,
}

/// How a server wants to be asked, found out by asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// It takes a prompt as ids; else as text, checked by its own count.
    pub ids_in: bool,
    /// It takes fields that OpenAI's own interface lacks: to go on behind the end of a text, to have no cache of prompts.
    pub extras: bool,
    /// It tells ids of what it generates; else its text is tokenized, piece by piece.
    pub ids_out: bool,
    /// It does so only beside log-probabilities.
    pub logprobs: bool,
}

impl fmt::Display for Manner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |ids| if ids { "ids" } else { "text" };
        write!(f, "prompts as {}, tokens as {}", word(self.ids_in), word(self.ids_out))?;
        let extras =
            if self.extras { "ends of texts ignored, no cache of prompts" } else { "no further settings" };
        write!(f, "{}, {extras}", if self.logprobs { " beside log-probabilities" } else { "" })
    }
}

impl Manner {
    /// Tries from the best to the plainest. A refusal of the request's form is no error, one of another kind is.
    pub fn find(remote: &Remote, tokenizer: &Tokenizer<'_>) -> Result<Self, String> {
        let ids = sample(tokenizer)?;
        let mut said = String::new();
        for (ids_in, extras) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut manner = Manner { ids_in, extras, ids_out: false, logprobs: false };
            match manner.probe(remote, tokenizer, &ids) {
                Ok(true) => return Ok(Manner { ids_out: true, ..manner }),
                Ok(false) => {
                    manner.logprobs = true;
                    let told = manner.probe(remote, tokenizer, &ids).unwrap_or(false);
                    return Ok(Manner { ids_out: told, logprobs: told, ..manner });
                }
                Err(Failure::Status(400 | 404 | 405 | 422, why)) => said = why,
                Err(failure) => return Err(failure.to_string()),
            }
        }
        Err(format!("the server takes none of our forms of a request; it says: {said}"))
    }

    /// One token; whether its id was told.
    fn probe(self, remote: &Remote, tokenizer: &Tokenizer<'_>, ids: &[u32]) -> Result<bool, Failure> {
        let body = self.body(remote, tokenizer, ids, 1, true).map_err(Failure::Broken)?;
        let mut told = false;
        remote.server.complete(&body, |chunk, _| {
            told |= chunk.ids.is_some_and(|ids| !ids.is_empty());
            true
        })?;
        Ok(told)
    }

    /// A request.
    fn body(
        self,
        remote: &Remote,
        tokenizer: &Tokenizer<'_>,
        ids: &[u32],
        max_tokens: usize,
        ignore_eos: bool,
    ) -> Result<Value, String> {
        let prompt = match self.ids_in {
            true => json!(ids),
            false => {
                json!(tokenizer.decode_to_string(ids, SpecialText::Show).map_err(|error| error.to_string())?)
            }
        };
        let mut body = json!({
            "model": remote.model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": true,
            "stream_options": { "include_usage": true },
        });
        let mut set = |name: &str, value: Value| body[name] = value;
        if self.extras {
            set("ignore_eos", json!(ignore_eos));
            // llama.cpp's word, and vLLM's: prompts of different salt share nothing.
            set("cache_prompt", json!(false));
            set("cache_salt", json!(format!("{}-{}", std::process::id(), now_ns())));
            set("return_token_ids", json!(true));
        }
        if self.logprobs {
            set("logprobs", json!(1));
            if self.extras {
                set("return_tokens_as_token_ids", json!(true));
            }
        }
        Ok(body)
    }
}

/// What a thread that waits for a server tells: an event with its moment, or how the answer ended.
enum News {
    Chunk(Chunk, u64),
    End(Result<(), Failure>),
}

/// A request in flight.
struct Flight {
    id: u64,
    prompt: usize,
    max_tokens: usize,
    ignore_eos: bool,
    tokens: usize,
    finish: Option<String>,
    usage: Option<Usage>,
    cancelled: Arc<AtomicBool>,
}

/// A server's model, and what is in flight.
pub struct Model<'t> {
    remote: Arc<Remote>,
    tokenizer: &'t Tokenizer<'t>,
    pieces: HashMap<Vec<u8>, u32>,
    manner: Manner,
    context: usize,
    /// By a number of our own: an id may be used again while the thread of a cancelled request still ends.
    flights: HashMap<u64, Flight>,
    started: u64,
    sender: Sender<(u64, News)>,
    news: Receiver<(u64, News)>,
}

impl<'t> Model<'t> {
    /// `context` positions for each request.
    pub fn new(remote: Arc<Remote>, tokenizer: &'t Tokenizer<'t>, manner: Manner, context: usize) -> Self {
        let piece = |id| Some((tokenizer.token_bytes(id)?.collect::<Vec<u8>>(), id));
        let pieces = (0..tokenizer.vocab_size() as u32).rev().filter_map(piece).collect();
        let (sender, news) = channel();
        let (flights, started) = (HashMap::new(), 0);
        Model { remote, tokenizer, pieces, manner, context, flights, started, sender, news }
    }

    /// Ids of a piece of the answer's text: the one token it is, or what the text would be as a prompt.
    fn tokens(&self, text: &str) -> Result<Vec<u32>, String> {
        match self.pieces.get(text.as_bytes()) {
            _ if text.is_empty() => Ok(Vec::new()),
            Some(&id) => Ok(vec![id]),
            None => self.tokenizer.encode_to_vec(text, Special::Parse).map_err(|error| error.to_string()),
        }
    }

    /// Ids of an event. Where a character is spread over tokens a server may hold the first ones back, with their ids: they
    /// are in the text, in front of the last one's.
    fn ids(&self, chunk: &Chunk) -> Result<Vec<u32>, String> {
        let Some(told) = chunk.ids.as_ref().filter(|_| self.manner.ids_out) else {
            return self.tokens(&chunk.text);
        };
        if let Some(id) = told.iter().find(|&&id| id as usize >= self.tokenizer.vocab_size()) {
            return Err(format!(
                "the server tells id {id}, which is not below {}",
                self.tokenizer.vocab_size()
            ));
        }
        let bytes: Vec<u8> = told.iter().filter_map(|&id| self.tokenizer.token_bytes(id)).flatten().collect();
        if chunk.text.is_empty() || chunk.text.as_bytes() == bytes {
            return Ok(told.clone());
        }
        let whole = self.tokens(&chunk.text)?;
        Ok(if whole.ends_with(told) { whole } else { told.clone() })
    }

    fn event(
        &mut self,
        number: u64,
        chunk: Chunk,
        t_ns: u64,
        listen: &mut dyn FnMut(Event),
    ) -> Result<(), String> {
        let ids = self.ids(&chunk)?;
        let Some(flight) = self.flights.get_mut(&number) else { return Ok(()) };
        flight.finish = chunk.finish.or(flight.finish.take());
        flight.usage = chunk.usage.or(flight.usage);
        for token in ids {
            flight.tokens += 1;
            if flight.tokens <= flight.max_tokens {
                listen(Event::Token { id: flight.id, token, t_ns });
            }
        }
        Ok(())
    }
}

impl Flight {
    /// The end of an answer that came whole: does the server's account agree with ours?
    fn judge(&self, manner: Manner) -> Result<Finish, String> {
        let usage =
            self.usage.ok_or("the server told no counts, so its prompt and answer cannot be checked")?;
        if usage.prompt != self.prompt as u64 {
            let (theirs, ours) = (usage.prompt, self.prompt);
            return Err(format!(
                "the server counts {theirs} ids of prompt, we {ours}: it has another tokenizer or adds ids"
            ));
        }
        if usage.cached > 0 {
            return Err(format!(
                "the server took {} ids of the prompt from a cache: start it without one (vLLM: --no-enable-prefix-caching)",
                usage.cached
            ));
        }
        let stopped = self.finish.as_deref() == Some("stop");
        // A token that ends the text is counted by some servers and shown by few.
        let hidden = u64::from(stopped);
        let counted = usage.completion;
        if counted != self.tokens as u64 && counted != self.tokens as u64 + hidden {
            let how = if manner.ids_out { "told" } else { "read from its text" };
            return Err(format!("the server counts {counted} tokens, {} were {how}", self.tokens));
        }
        match (stopped, self.ignore_eos) {
            (true, true) if self.tokens < self.max_tokens => Err(format!(
                "the server ended the text after {} tokens and cannot be told to go on",
                self.tokens
            )),
            (true, false) => Ok(Finish::Stop),
            _ if self.tokens < self.max_tokens => {
                Err(format!("the server stopped after {} of {} tokens", self.tokens, self.max_tokens))
            }
            _ => Ok(Finish::Length),
        }
    }
}

impl Batched for Model<'_> {
    fn vocab_size(&self) -> usize {
        self.tokenizer.vocab_size()
    }

    fn submit(&mut self, submit: &Submit) -> Result<(), String> {
        if submit.max_tokens == 0 {
            return Err("max_tokens: a server answers with at least one token".into());
        }
        let needed = submit.prompt_ids.len() + submit.max_tokens - 1;
        if needed > self.context {
            return Err(format!(
                "{needed} positions are needed and {} were asked for with `load`",
                self.context
            ));
        }
        let ids = &submit.prompt_ids;
        let body =
            self.manner.body(&self.remote, self.tokenizer, ids, submit.max_tokens, submit.ignore_eos)?;
        let cancelled = Arc::new(AtomicBool::new(false));
        self.started += 1;
        let (number, sender, remote, stop) =
            (self.started, self.sender.clone(), self.remote.clone(), cancelled.clone());
        let ask = move || {
            let listen = |chunk, t_ns| {
                !stop.load(Ordering::Relaxed) && sender.send((number, News::Chunk(chunk, t_ns))).is_ok()
            };
            let end = remote.server.complete(&body, listen);
            // Whoever asked may have gone.
            let _ = sender.send((number, News::End(end)));
        };
        std::thread::Builder::new().spawn(ask).map_err(|error| format!("no further thread: {error}"))?;
        self.flights.insert(
            number,
            Flight {
                id: submit.id,
                prompt: submit.prompt_ids.len(),
                max_tokens: submit.max_tokens,
                ignore_eos: submit.ignore_eos,
                tokens: 0,
                finish: None,
                usage: None,
                cancelled,
            },
        );
        Ok(())
    }

    fn cancel(&mut self, id: u64) {
        self.flights.retain(|_, flight| {
            if flight.id == id {
                flight.cancelled.store(true, Ordering::Relaxed);
            }
            flight.id != id
        });
    }

    fn step(&mut self, listen: &mut dyn FnMut(Event)) -> Result<(), String> {
        let mut next = self.news.recv_timeout(Duration::from_millis(1)).ok();
        while let Some((number, news)) = next {
            match news {
                News::Chunk(chunk, t_ns) => {
                    if let Err(message) = self.event(number, chunk, t_ns, listen)
                        && let Some(flight) = self.flights.remove(&number)
                    {
                        flight.cancelled.store(true, Ordering::Relaxed);
                        listen(Event::Failed { id: flight.id, message });
                    }
                }
                News::End(end) => {
                    if let Some(flight) = self.flights.remove(&number) {
                        let finish = end
                            .map_err(|failure| failure.to_string())
                            .and_then(|()| flight.judge(self.manner));
                        listen(match finish {
                            Ok(finish) => Event::Done { id: flight.id, finish },
                            Err(message) => Event::Failed { id: flight.id, message },
                        });
                    }
                }
            }
            next = self.news.try_recv().ok();
        }
        Ok(())
    }
}
