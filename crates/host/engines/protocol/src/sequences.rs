//! Models that compute several sequences in one pass, as a serial engine and as one that batches continuously.
//!
//! An engine whose library brings a scheduler of its own does not need this.

use std::collections::VecDeque;

use crate::engine::{Batched, Engine, Event};
use crate::message::{Expected, Finish, Submit};
use crate::now_ns;

/// New tokens of one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Which sequence.
    pub slot: usize,
    /// Appended to it, at least one.
    pub ids: &'a [u32],
}

/// Which logits a pass gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Those behind the last token of each part.
    Last,
    /// Those behind every token.
    All,
}

/// A loaded model with some sequences, numbered from 0.
pub trait Sequences {
    /// Token ids run below this.
    fn vocab_size(&self) -> usize;

    /// Positions each sequence has room for.
    fn context(&self) -> usize;

    /// Forgets a sequence.
    fn clear(&mut self, slot: usize);

    /// Appends tokens to sequences, each at most once a pass, and gives logits: a row per part or per token.
    /// The sequences have room for them.
    fn pass(&mut self, parts: &[Part<'_>], wanted: Wanted) -> Result<Vec<f32>, String>;

    /// Whether this token ends a text.
    fn ends(&self, id: u32) -> bool;
}

/// The place of the largest; of equal ones the first. In two steps, so that the first is vector instructions.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut most = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = logits.as_chunks::<16>();
    for chunk in chunks {
        for (most, &logit) in most.iter_mut().zip(chunk) {
            *most = if logit > *most { logit } else { *most };
        }
    }
    let most = most.iter().chain(rest).fold(f32::NEG_INFINITY, |most, &logit| most.max(logit));
    logits.iter().position(|&logit| logit == most).unwrap_or(0) as u32
}

/// One sequence of a model, for one request after the other.
pub struct Serial<M> {
    model: M,
    /// Positions of a prompt computed at a time.
    batch: usize,
    used: usize,
    logits: Vec<f32>,
}

impl<M: Sequences> Serial<M> {
    /// Computes prompts `batch` positions at a time.
    pub fn new(model: M, batch: usize) -> Self {
        Serial { model, batch: batch.max(1), used: 0, logits: Vec::new() }
    }

    fn append(&mut self, ids: &[u32], wanted: Wanted, read: &mut dyn FnMut(&[f32])) -> Result<(), String> {
        let (room, needed) = (self.model.context(), self.used + ids.len());
        if needed > room {
            return Err(format!("{needed} positions do not fit the context of {room}"));
        }
        for ids in ids.chunks(self.batch) {
            self.logits = self.model.pass(&[Part { slot: 0, ids }], wanted)?;
            self.used += ids.len();
            read(&self.logits);
        }
        Ok(())
    }
}

impl<M: Sequences> Engine for Serial<M> {
    fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    fn start(&mut self, prompt: &[u32]) -> Result<(), String> {
        self.model.clear(0);
        self.used = 0;
        self.append(prompt, Wanted::Last, &mut |_| {})
    }

    fn best(&mut self) -> u32 {
        argmax(&self.logits)
    }

    fn feed(&mut self, id: u32) -> Result<(), String> {
        self.append(&[id], Wanted::Last, &mut |_| {})
    }

    fn ends(&self, id: u32) -> bool {
        self.model.ends(id)
    }

    fn expected(&mut self, ids: &[u32], top: usize) -> Result<Vec<Expected>, String> {
        self.model.clear(0);
        self.used = 0;
        let vocab_size = self.model.vocab_size();
        let mut positions = Vec::with_capacity(ids.len());
        self.append(ids, Wanted::All, &mut |rows| {
            positions.extend(rows.chunks(vocab_size).map(|row| Expected::of(row, top)));
        })?;
        Ok(positions)
    }
}

/// All sequences of a model, for many requests at once: a request joins as soon as a sequence is free and leaves when it
/// is answered; every pass holds one token of each that generates, and prompts up to a number of positions.
pub struct Continuous<M> {
    model: M,
    /// Positions of prompts in a pass.
    batch: usize,
    slots: Vec<Option<Running>>,
    waiting: VecDeque<Submit>,
}

/// A request in its sequence.
struct Running {
    submit: Submit,
    /// Positions of the prompt that were computed.
    read: usize,
    generated: usize,
    /// The latest token, not yet in the sequence.
    last: u32,
}

impl Running {
    /// What its next pass appends, with room for so many positions of a prompt.
    fn next(&self, room: usize) -> &[u32] {
        let unread = &self.submit.prompt_ids[self.read..];
        match unread.is_empty() {
            true => std::slice::from_ref(&self.last),
            false => &unread[..unread.len().min(room)],
        }
    }
}

impl<M: Sequences> Continuous<M> {
    /// With so many sequences, and so many positions of prompts in a pass.
    pub fn new(model: M, sequences: usize, batch: usize) -> Self {
        let slots = (0..sequences.max(1)).map(|_| None).collect();
        Continuous { model, batch: batch.max(1), slots, waiting: VecDeque::new() }
    }

    /// Waiting requests take the free sequences.
    fn admit(&mut self, listen: &mut dyn FnMut(Event)) {
        for (slot, running) in self.slots.iter_mut().enumerate().filter(|(_, running)| running.is_none()) {
            let Some(submit) = self.waiting.pop_front() else { return };
            self.model.clear(slot);
            listen(Event::Started { id: submit.id, t_ns: now_ns() });
            *running = Some(Running { submit, read: 0, generated: 0, last: 0 });
        }
    }
}

impl<M: Sequences> Batched for Continuous<M> {
    fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    fn submit(&mut self, submit: &Submit) -> Result<(), String> {
        // The last token is never appended.
        let needed = submit.prompt_ids.len() + submit.max_tokens.saturating_sub(1);
        let room = self.model.context();
        if needed > room {
            return Err(format!("{needed} positions do not fit the context of {room}"));
        }
        self.waiting.push_back(submit.clone());
        Ok(())
    }

    fn cancel(&mut self, id: u64) {
        self.waiting.retain(|submit| submit.id != id);
        for slot in &mut self.slots {
            if slot.as_ref().is_some_and(|running| running.submit.id == id) {
                *slot = None;
            }
        }
    }

    fn step(&mut self, listen: &mut dyn FnMut(Event)) -> Result<(), String> {
        self.admit(listen);
        let mut room = self.batch;
        let mut parts = Vec::with_capacity(self.slots.len());
        for (slot, running) in self.slots.iter().enumerate() {
            let Some(running) = running else { continue };
            let ids = running.next(room);
            if running.read < running.submit.prompt_ids.len() {
                room -= ids.len();
            }
            if !ids.is_empty() {
                parts.push(Part { slot, ids });
            }
        }
        let rows = self.model.pass(&parts, Wanted::Last)?;
        let appended: Vec<_> = parts.iter().map(|part| (part.slot, part.ids.len())).collect();
        for ((slot, count), row) in appended.into_iter().zip(rows.chunks(self.model.vocab_size())) {
            let Some(running) = &mut self.slots[slot] else { continue };
            let (id, prompt) = (running.submit.id, running.submit.prompt_ids.len());
            running.read = (running.read + count).min(prompt);
            if running.read < prompt {
                continue;
            }
            let mut finish = Some(Finish::Length);
            if running.submit.max_tokens > 0 {
                let token = argmax(row);
                running.last = token;
                running.generated += 1;
                listen(Event::Token { id, token, t_ns: now_ns() });
                let stops = !running.submit.ignore_eos && self.model.ends(token);
                finish = match running.generated == running.submit.max_tokens {
                    _ if stops => Some(Finish::Stop),
                    true => Some(Finish::Length),
                    false => None,
                };
            }
            if let Some(finish) = finish {
                self.slots[slot] = None;
                listen(Event::Done { id, finish });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Expects, behind a token, the one that is larger by the length of the sequence so far, modulo 50; 49 ends a text.
    /// Notes each pass.
    struct Adding {
        sequences: Vec<Vec<u32>>,
        passes: Vec<Vec<(usize, usize)>>,
    }

    impl Adding {
        fn new(sequences: usize) -> Self {
            Adding { sequences: vec![Vec::new(); sequences], passes: Vec::new() }
        }
    }

    impl Sequences for Adding {
        fn vocab_size(&self) -> usize {
            50
        }

        fn context(&self) -> usize {
            16
        }

        fn clear(&mut self, slot: usize) {
            self.sequences[slot].clear();
        }

        fn pass(&mut self, parts: &[Part<'_>], wanted: Wanted) -> Result<Vec<f32>, String> {
            self.passes.push(parts.iter().map(|part| (part.slot, part.ids.len())).collect());
            let mut rows = Vec::new();
            for part in parts {
                for (at, &id) in part.ids.iter().enumerate() {
                    let sequence = &mut self.sequences[part.slot];
                    sequence.push(id);
                    assert!(sequence.len() <= 16, "the caller keeps to the context");
                    if wanted == Wanted::All || at + 1 == part.ids.len() {
                        let best = (id as usize + sequence.len()) % 50;
                        rows.extend((0..50).map(|token| if token == best { 1.0 } else { 0.0 }));
                    }
                }
            }
            Ok(rows)
        }

        fn ends(&self, id: u32) -> bool {
            id == 49
        }
    }

    /// What a sequence goes on with.
    fn right(prompt: &[u32], tokens: usize) -> Vec<u32> {
        let mut all = prompt.to_vec();
        for _ in 0..tokens {
            all.push((all[all.len() - 1] + all.len() as u32) % 50);
        }
        all.split_off(prompt.len())
    }

    fn submit(id: u64, prompt: &[u32], max_tokens: usize) -> Submit {
        Submit { id, prompt_ids: prompt.to_vec(), max_tokens, ignore_eos: true, stream: true }
    }

    /// Tokens and end of each request.
    fn run(model: &mut Continuous<Adding>) -> BTreeMap<u64, (Vec<u32>, Option<Finish>)> {
        let mut answers: BTreeMap<u64, (Vec<u32>, Option<Finish>)> = BTreeMap::new();
        while model.slots.iter().any(Option::is_some) || !model.waiting.is_empty() {
            model
                .step(&mut |event| match event {
                    Event::Started { id, .. } => assert!(answers.insert(id, Default::default()).is_none()),
                    Event::Token { id, token, .. } => answers.get_mut(&id).unwrap().0.push(token),
                    Event::Done { id, finish } => answers.get_mut(&id).unwrap().1 = Some(finish),
                    Event::Failed { .. } => panic!("{event:?}"),
                })
                .unwrap();
        }
        answers
    }

    #[test]
    fn requests_join_and_leave_and_each_has_the_answer_it_has_alone() {
        let mut model = Continuous::new(Adding::new(2), 2, 4);
        let prompts: [(&[u32], usize); 4] =
            [(&[1, 2, 3, 4, 5, 6], 3), (&[7], 6), (&[8, 9], 1), (&[10; 5], 2)];
        for (id, (prompt, tokens)) in prompts.iter().enumerate() {
            model.submit(&submit(id as u64, prompt, *tokens)).unwrap();
        }
        let answers = run(&mut model);
        for (id, (prompt, tokens)) in prompts.iter().enumerate() {
            assert_eq!(answers[&(id as u64)], (right(prompt, *tokens), Some(Finish::Length)), "{id}");
        }
        let passes = &model.model.passes;
        // Of the first prompt only four positions fit a pass; the second one waits for the next.
        assert_eq!(passes[..3], [vec![(0, 4)], vec![(0, 2), (1, 1)], vec![(0, 1), (1, 1)]]);
        // The third request takes the first sequence as soon as the first one is answered, beside the second.
        assert!(passes.contains(&vec![(0, 2), (1, 1)]));
    }

    #[test]
    fn ends_of_text_and_prompts_alone() {
        let mut model = Continuous::new(Adding::new(1), 1, 8);
        let prompt = [46, 46];
        assert_eq!(right(&prompt, 2), [48, 1]);
        let stopping = [47];
        assert_eq!(right(&stopping, 1), [48]);
        let text = Submit { ignore_eos: false, ..submit(1, &[48], 5) };
        model.submit(&text).unwrap();
        model.submit(&submit(2, &prompt, 0)).unwrap();
        let answers = run(&mut model);
        assert_eq!(answers[&1], (vec![49], Some(Finish::Stop)));
        assert_eq!(answers[&2], (vec![], Some(Finish::Length)));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_what_is_cancelled_is_silent() {
        let mut model = Continuous::new(Adding::new(1), 1, 8);
        assert!(model.submit(&submit(1, &[1; 17], 0)).unwrap_err().contains("context of 16"));
        assert!(model.submit(&submit(1, &[1; 10], 8)).is_err());
        model.submit(&submit(1, &[1; 10], 7)).unwrap();
        model.submit(&submit(2, &[2], 3)).unwrap();
        model.submit(&submit(3, &[3], 3)).unwrap();
        model.step(&mut |_| {}).unwrap();
        model.cancel(1);
        model.cancel(2);
        model.cancel(9);
        let answers = run(&mut model);
        assert_eq!(answers.into_iter().collect::<Vec<_>>(), [(3, (right(&[3], 3), Some(Finish::Length)))]);
    }

    #[test]
    fn a_serial_engine_reads_prompts_in_batches_and_tells_every_position() {
        let mut engine = Serial::new(Adding::new(1), 4);
        engine.start(&[1, 2, 3, 4, 5, 6]).unwrap();
        assert_eq!(engine.model.passes, [[(0, 4)], [(0, 2)]]);
        let mut ids = Vec::new();
        for _ in 0..3 {
            let id = engine.best();
            ids.push(id);
            engine.feed(id).unwrap();
        }
        assert_eq!(ids, right(&[1, 2, 3, 4, 5, 6], 3));
        assert!(engine.start(&[0; 17]).unwrap_err().contains("context of 16"));
        let expected = engine.expected(&[1, 2, 3, 4, 5, 6], 1).unwrap();
        let best: Vec<_> = expected.iter().map(|expected| expected.ids[0]).collect();
        assert_eq!(best, [2, 4, 6, 8, 10, 12]);
    }

    #[test]
    fn the_first_of_the_largest_is_found() {
        let mut logits = vec![-1.0f32; 50];
        for (at, logit) in [(49, 0.0), (17, 3.0), (16, 3.0), (0, 4.0)] {
            logits[at] = logit;
            assert_eq!(argmax(&logits), at as u32);
        }
        logits[33] = 4.0;
        assert_eq!(argmax(&logits), 0);
    }
}
