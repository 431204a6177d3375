//! The engine's side of a session.

use std::io::{self, BufRead, Write};

use crate::message::{Done, Hello, Load, Loaded, Reply, Request, Submit};
use crate::{memory, now_ns};

/// A program that can load models.
pub trait Backend {
    /// What it says first.
    fn hello(&self) -> Hello;

    /// Loads a model, hands it to `work` and unloads it again. An error, in words for a person, says why there is none;
    /// `work` was then not called.
    fn with_model(&self, load: &Load, work: &mut dyn FnMut(&mut dyn Engine)) -> Result<(), String>;
}

/// A loaded model with one conversation.
pub trait Engine {
    /// Token ids run below this.
    fn vocab_size(&self) -> usize;

    /// Forgets everything, then computes `prompt` and the logits behind it.
    fn start(&mut self, prompt: &[u32]) -> Result<(), String>;

    /// The likeliest token of the latest logits; of equal ones the first.
    fn best(&mut self) -> u32;

    /// Appends a token and computes the logits behind it.
    fn feed(&mut self, id: u32) -> Result<(), String>;

    /// Whether this token ends a text.
    fn ends(&self, id: u32) -> bool;
}

/// Answers requests until the end of `input` or `quit`, one after the other.
///
/// # Errors
/// Those of reading and writing. What is wrong with a request is answered, not returned.
pub fn serve(backend: &dyn Backend, input: impl BufRead, output: impl Write) -> io::Result<()> {
    let mut talk = Talk { input, output };
    talk.say(&Reply::Hello(backend.hello()))?;
    let mut next = talk.hear()?;
    while let Some(request) = next {
        next = match request {
            Request::Quit => None,
            Request::Stats => {
                talk.say(&Reply::Stats(memory()))?;
                talk.hear()?
            }
            Request::Submit(submit) => {
                talk.refuse(Some(submit.id), "no model is loaded; send `load` first".into())?;
                talk.hear()?
            }
            Request::Load(load) => {
                let begun = now_ns();
                let mut after = None;
                let loaded = backend.with_model(&load, &mut |engine| {
                    after = Some(talk.conversation(engine, now_ns() - begun));
                });
                match (after, loaded) {
                    (Some(after), _) => after?,
                    (None, loaded) => {
                        let why = loaded.err().unwrap_or_else(|| "the engine gave no model".into());
                        talk.refuse(None, why)?;
                        talk.hear()?
                    }
                }
            }
        };
    }
    Ok(())
}

/// Both ends of a session.
struct Talk<I, O> {
    input: I,
    output: O,
}

impl<I: BufRead, O: Write> Talk<I, O> {
    fn say(&mut self, reply: &Reply) -> io::Result<()> {
        let mut line = serde_json::to_vec(reply)?;
        line.push(b'\n');
        self.output.write_all(&line)?;
        self.output.flush()
    }

    fn refuse(&mut self, id: Option<u64>, message: String) -> io::Result<()> {
        self.say(&Reply::Error { id, message })
    }

    /// The next request that can be read; `None` at the end.
    fn hear(&mut self) -> io::Result<Option<Request>> {
        loop {
            let mut line = String::new();
            if self.input.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            if line.trim().is_empty() {
                continue;
            }
            match serde_json::from_str(&line) {
                Ok(request) => return Ok(Some(request)),
                Err(error) => self.refuse(None, format!("not a request: {error}"))?,
            }
        }
    }

    /// Answers as long as requests are for this model; gives the one that is not.
    fn conversation(&mut self, engine: &mut dyn Engine, load_ns: u64) -> io::Result<Option<Request>> {
        self.say(&Reply::Loaded(Loaded { load_ns, vocab_size: engine.vocab_size() }))?;
        loop {
            match self.hear()? {
                Some(Request::Submit(submit)) => {
                    let begun = now_ns();
                    if let Err(why) = self.answer(engine, &submit, begun)? {
                        self.refuse(Some(submit.id), why)?;
                    }
                }
                Some(Request::Stats) => self.say(&Reply::Stats(memory()))?,
                other => return Ok(other),
            }
        }
    }

    /// One prompt. The inner error is the engine's.
    fn answer(
        &mut self,
        engine: &mut dyn Engine,
        submit: &Submit,
        begun: u64,
    ) -> io::Result<Result<(), String>> {
        let vocab_size = engine.vocab_size();
        if submit.prompt_ids.is_empty() {
            return Ok(Err("prompt_ids is empty".into()));
        }
        if let Some(id) = submit.prompt_ids.iter().find(|&&id| id as usize >= vocab_size) {
            return Ok(Err(format!("token id {id} is not below {vocab_size}")));
        }
        if let Err(why) = engine.start(&submit.prompt_ids) {
            return Ok(Err(why));
        }
        let mut ids = Vec::with_capacity(submit.max_tokens);
        let mut times = Vec::with_capacity(submit.max_tokens);
        let mut prefill_ns = now_ns() - begun;
        while ids.len() < submit.max_tokens {
            if let Some(&last) = ids.last()
                && let Err(why) = engine.feed(last)
            {
                return Ok(Err(why));
            }
            let id = engine.best();
            let t_ns = now_ns();
            ids.push(id);
            times.push(t_ns);
            if submit.stream {
                self.say(&Reply::Token { id: submit.id, t_ns })?;
            }
            if !submit.ignore_eos && engine.ends(id) {
                break;
            }
        }
        if !submit.stream {
            for &t_ns in &times {
                self.say(&Reply::Token { id: submit.id, t_ns })?;
            }
        }
        let mut decode_ns = 0;
        if let (Some(first), Some(last)) = (times.first(), times.last()) {
            prefill_ns = first - begun;
            decode_ns = last - first;
        }
        self.say(&Reply::Done(Done { id: submit.id, prefill_ns, decode_ns, ids }))?;
        Ok(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::collections::BTreeMap;

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
    }

    #[derive(Default)]
    struct Counters {
        loads: Cell<usize>,
    }

    impl Backend for Counters {
        fn hello(&self) -> Hello {
            Hello {
                protocol: crate::VERSION,
                engine: "counting".into(),
                version: "1".into(),
                compiled: Vec::new(),
                detected: Vec::new(),
                crippled: None,
                settings: BTreeMap::new(),
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
    }

    fn talk(lines: &str) -> Vec<Reply> {
        let mut output = Vec::new();
        serve(&Counters::default(), lines.as_bytes(), &mut output).unwrap();
        let text = String::from_utf8(output).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    const LOAD: &str = r#"{"type":"load","model":"m.gguf","threads":1,"context":16}"#;

    #[test]
    fn a_prompt_is_continued_and_every_token_has_its_time() {
        let replies =
            talk(&format!("{LOAD}\n{{\"type\":\"submit\",\"id\":7,\"prompt_ids\":[4],\"max_tokens\":3}}\n"));
        assert!(matches!(replies[0], Reply::Hello(_)));
        assert!(matches!(replies[1], Reply::Loaded(Loaded { vocab_size: 10, .. })));
        let times: Vec<u64> = replies[2..5]
            .iter()
            .map(|reply| match reply {
                Reply::Token { id: 7, t_ns } => *t_ns,
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(times.is_sorted());
        let Reply::Done(done) = &replies[5] else { panic!("{:?}", replies[5]) };
        assert_eq!((done.id, &done.ids[..], done.decode_ns), (7, &[5, 6, 7][..], times[2] - times[0]));
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
        assert_eq!(submit(r#""max_tokens":4,"ignore_eos":false"#).ids, [6, 7, 8]);
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
            r#"{"type":"load","model":"m","threads":0,"context":1}"#,
            r#"{"type":"load","model":"m","threads":1,"context":1,"speed":9}"#,
            LOAD,
            r#"{"type":"submit","id":2,"prompt_ids":[],"max_tokens":1}"#,
            r#"{"type":"submit","id":3,"prompt_ids":[10],"max_tokens":1}"#,
            r#"{"type":"submit","id":4,"prompt_ids":[8],"max_tokens":9}"#,
            r#"{"type":"stats"}"#,
            r#"{"type":"quit"}"#,
            r#"{"type":"stats"}"#,
        ];
        let replies = talk(&lines.join("\n"));
        let errors: Vec<_> = replies
            .iter()
            .filter_map(|reply| match reply {
                Reply::Error { id, message } => Some((*id, message.as_str())),
                _ => None,
            })
            .collect();
        let ids: Vec<_> = errors.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [None, None, Some(1), None, None, Some(2), Some(3), Some(4)]);
        for ((_, message), part) in errors.iter().zip([
            "not a request",
            "sing",
            "`load` first",
            "at least one",
            "speed",
            "empty",
            "10 is not below 10",
            "full",
        ]) {
            assert!(message.contains(part), "{message}");
        }
        // After `quit` nothing is answered.
        assert!(matches!(replies.last(), Some(Reply::Stats(_))));
        assert_eq!(replies.iter().filter(|reply| matches!(reply, Reply::Stats(_))).count(), 1);
    }

    #[test]
    fn a_model_takes_the_place_of_another() {
        let mut output = Vec::new();
        let counters = Counters::default();
        serve(&counters, format!("{LOAD}\n{LOAD}\n").as_bytes(), &mut output).unwrap();
        assert_eq!(counters.loads.get(), 2);
    }
}
