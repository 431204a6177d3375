//! Many requests at once: sequences share passes over the weights, and a cache divided into pages.
//!
//! - `request`: what is asked for ([`Request`]) and what comes back ([`Event`], [`Done`], [`SubmitError`]).
//! - [`Scheduler`] takes requests in order, gives them pages of the cache, and runs one pass a [`Scheduler::step`].
//!
//! A pass takes the last token of every sequence that generates, and behind them parts of prompts. What a sequence
//! computes does not depend on what else is in a pass, so every request gets the tokens that it would get alone, bit for
//! bit, whatever else is submitted, when, and in which pieces its prompt is taken.
//!
//! A request that is taken in gets at once all pages it can ever need, so nothing has to be thrown out later. One that
//! does not fit yet waits, and all behind it too: nobody is overtaken, so nobody starves.

mod request;

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ops::ControlFlow;

use super::generate::Finish;
use super::kv_cache::BLOCK;
use super::model::Model;
use super::plan::{PlanError, SchedulerConfig, SessionLayout};
use super::pool::{Member, Team};
use super::sampler::{Picker, Scratch};
use super::shared::Shared;
use super::simd::Kernels;
use super::transformer::{Engine, RunError, finite};

pub use request::{Done, Event, Request, SubmitError};

/// A request that was taken, and how far it is.
struct Sequence {
    id: u64,
    prompt: Vec<u32>,
    max_tokens: usize,
    stop: Vec<u32>,
    picker: Picker,
    /// Positions in the cache.
    position: usize,
    /// Tokens picked.
    tokens: usize,
    /// What came out of the last pass, where it gave logits.
    picked: Result<u32, RunError>,
}

impl Sequence {
    /// Positions it will have at most: the last token is picked, never computed.
    fn positions(&self) -> usize {
        self.prompt.len() + self.max_tokens - 1
    }

    /// Ids of its prompt that are not computed yet.
    fn unread(&self) -> usize {
        self.prompt.len().saturating_sub(self.position)
    }

    fn done(&self, finish: Result<Finish, RunError>) -> Done {
        Done { id: self.id, prompt: self.prompt.len(), tokens: self.tokens, finish }
    }
}

/// What one step computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Positions of tokens that were generated.
    pub decoded: usize,
    /// Positions of prompts.
    pub prompt: usize,
}

impl Step {
    /// Whether there was nothing to do.
    pub fn is_idle(&self) -> bool {
        self.decoded + self.prompt == 0
    }
}

/// Runs requests until they are done; see the [module](self).
///
/// All memory is taken at construction. A step allocates nothing; a request brings its own lists, which are
/// freed when it is done.
pub struct Scheduler<'m> {
    engine: Engine<'m>,
    config: SchedulerConfig,
    context: usize,
    pages_each: usize,
    slots: Vec<Option<Sequence>>,
    /// Slots in use, those taken in first in front.
    order: Vec<usize>,
    waiting: VecDeque<Sequence>,
    free_pages: Vec<u32>,
    /// One for each member.
    scratch: Vec<Scratch>,
}

/// Tokens that the repetition penalty can look at: those of the longest text.
fn longest_text(layout: &SessionLayout) -> usize {
    layout.context + 1
}

/// Bytes that [`Scheduler::new`] allocates besides the memory it is lent.
pub(super) fn bookkeeping(layout: &SessionLayout, vocab_size: usize, config: &SchedulerConfig) -> u64 {
    let lists = layout.sequences * size_of::<Option<Sequence>>()
        + layout.sequences * size_of::<usize>()
        + config.queue * size_of::<Sequence>()
        + layout.pages() * size_of::<u32>();
    let scratch = Scratch::bytes(vocab_size, longest_text(layout)) + size_of::<Scratch>() as u64;
    lists as u64 + config.members as u64 * scratch + Engine::bookkeeping(layout, config.members)
}

impl<'m> Scheduler<'m> {
    /// Builds a scheduler in `memory`, which must hold [`Plan::session`](super::plan::Plan::session) bytes of a
    /// [plan](super::plan::Plan::scheduler) made with the same configuration. `config.members` is taken from the team.
    pub fn new(
        model: &'m Model<'_>,
        config: SchedulerConfig,
        kernels: &'static Kernels,
        team: &'m dyn Team,
        memory: &'m mut [u8],
    ) -> Result<Self, PlanError> {
        let config = SchedulerConfig { members: team.size(), ..config };
        let layout = SessionLayout::shared(model.shape(), &config)?;
        let engine = Engine::new(model, &layout, usize::MAX, kernels, team, memory)?;
        let vocab_size = model.shape().vocab_size;
        Ok(Scheduler {
            engine,
            config,
            context: layout.context,
            pages_each: layout.pages_each,
            slots: (0..layout.sequences).map(|_| None).collect(),
            order: Vec::with_capacity(layout.sequences),
            waiting: VecDeque::with_capacity(config.queue),
            // Taken from the end, so the first page first.
            free_pages: (0..layout.pages() as u32).rev().collect(),
            scratch: (0..config.members).map(|_| Scratch::new(vocab_size, longest_text(&layout))).collect(),
        })
    }

    /// What it was built for.
    pub fn config(&self) -> &SchedulerConfig {
        &self.config
    }

    /// The model.
    pub fn model(&self) -> &'m Model<'m> {
        self.engine.model
    }

    /// The kernels it computes with.
    pub fn kernels(&self) -> &'static Kernels {
        self.engine.kernels
    }

    /// Positions a sequence can have.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Sequences that are being computed.
    pub fn running(&self) -> usize {
        self.order.len()
    }

    /// Requests that wait for a sequence or for pages.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether every request is done.
    pub fn is_idle(&self) -> bool {
        self.order.is_empty() && self.waiting.is_empty()
    }

    /// Pages of [`BLOCK`] positions that no sequence has.
    pub fn free_pages(&self) -> usize {
        self.free_pages.len()
    }

    /// Bytes of matrix rows read by all passes so far, each row once for 64 positions of a pass.
    pub fn weight_bytes_read(&self) -> u64 {
        self.engine.weight_bytes_read()
    }

    /// Puts a request at the end of the queue.
    ///
    /// Allocates what belongs to the request: room for the tokens that its repetition penalty looks at, if it has one.
    pub fn submit(&mut self, request: Request) -> Result<(), SubmitError> {
        let Request { id, prompt, max_tokens, sampler, stop } = request;
        if prompt.is_empty() {
            return Err(SubmitError::EmptyPrompt);
        }
        if max_tokens == 0 {
            return Err(SubmitError::NoTokens);
        }
        let vocab_size = self.engine.model.shape().vocab_size;
        if let Some(&id) = prompt.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(SubmitError::UnknownToken { id, vocab_size });
        }
        let needed = prompt.len().saturating_add(max_tokens - 1);
        if needed > self.context {
            return Err(SubmitError::TooLong { needed, context: self.context });
        }
        let known = self.order.iter().filter_map(|&slot| self.slots[slot].as_ref()).chain(&self.waiting);
        if known.into_iter().any(|sequence| sequence.id == id) {
            return Err(SubmitError::DuplicateId { id });
        }
        if self.waiting.len() == self.config.queue {
            return Err(SubmitError::QueueFull { queue: self.config.queue });
        }
        let mut picker = Picker::try_new(sampler, needed + 1).map_err(SubmitError::Sampler)?;
        prompt.iter().for_each(|&id| picker.accept(id));
        let picked = Ok(0);
        let sequence = Sequence { id, prompt, max_tokens, stop, picker, position: 0, tokens: 0, picked };
        self.waiting.push_back(sequence);
        Ok(())
    }

    /// Ends a request at once; `None` if there is none of this name. It has no further event.
    pub fn cancel(&mut self, id: u64) -> Option<Done> {
        if let Some(place) = self.waiting.iter().position(|sequence| sequence.id == id) {
            return self.waiting.remove(place).map(|sequence| sequence.done(Ok(Finish::Cancelled)));
        }
        let is_it = |slot: &usize| self.slots[*slot].as_ref().is_some_and(|sequence| sequence.id == id);
        let slot = self.order.iter().copied().find(is_it)?;
        let done = self.release(slot).done(Ok(Finish::Cancelled));
        self.order.retain(|&used| used != slot);
        Some(done)
    }

    /// Takes in what fits, runs one pass and tells `listen` what came of it. A listener that breaks at a token cancels
    /// its request, and hears that it is done.
    pub fn step(&mut self, mut listen: impl FnMut(Event) -> ControlFlow<()>) -> Step {
        self.admit();
        let step = self.assemble();
        if step.is_idle() {
            return step;
        }
        self.engine.run();
        self.pick();
        for run in 0..self.engine.batch.runs().len() {
            let run = &self.engine.batch.runs()[run];
            let slot = run.slot;
            let sequence = self.slots[slot].as_mut().expect("a row belongs to a sequence");
            sequence.position += run.rows.len();
            if sequence.unread() > 0 {
                continue;
            }
            if let Some(finish) = sequence.after_pick(&mut listen) {
                let sequence = self.release(slot);
                let _ = listen(Event::Done(sequence.done(finish)));
            }
        }
        let slots = &self.slots;
        self.order.retain(|&slot| slots[slot].is_some());
        step
    }

    /// Gives slots and pages to those who wait, in order, until one does not fit.
    fn admit(&mut self) {
        while let Some(next) = self.waiting.front() {
            let pages = next.positions().div_ceil(BLOCK);
            let Some(slot) = self.slots.iter().position(Option::is_none) else { return };
            if pages > self.free_pages.len() {
                return;
            }
            let table = &mut self.engine.tables[slot * self.pages_each..][..pages];
            for (entry, page) in
                table.iter_mut().zip(self.free_pages.drain(self.free_pages.len() - pages..).rev())
            {
                *entry = page;
            }
            self.slots[slot] = self.waiting.pop_front();
            self.order.push(slot);
        }
    }

    /// Takes a sequence out of its slot and its pages back. The caller takes the slot out of `order`.
    fn release(&mut self, slot: usize) -> Sequence {
        let sequence = self.slots[slot].take().expect("only a sequence in use is released");
        let pages = sequence.positions().div_ceil(BLOCK);
        let table = &self.engine.tables[slot * self.pages_each..][..pages];
        self.free_pages.extend(table.iter().rev());
        sequence
    }

    /// Fills the batch: the last token of each sequence that generates, then prompts in the order of their arrival.
    fn assemble(&mut self) -> Step {
        let batch = &mut self.engine.batch;
        batch.clear();
        let mut step = Step::default();
        let slots = &self.slots;
        let in_order =
            || self.order.iter().filter_map(|&slot| slots[slot].as_ref().map(|sequence| (slot, sequence)));
        for (slot, sequence) in in_order().filter(|(_, sequence)| sequence.unread() == 0) {
            let last = sequence.picked.expect("a sequence whose pick failed is done");
            batch.push(slot, sequence.position, &[last], 1);
            step.decoded += 1;
        }
        let room = self.config.batch - step.decoded;
        let mut room = if step.decoded > 0 { room.min(self.config.chunk) } else { room };
        for (slot, sequence) in in_order().filter(|(_, sequence)| sequence.unread() > 0) {
            let part = sequence.unread().min(room);
            if part == 0 {
                break;
            }
            let ids = &sequence.prompt[sequence.position..sequence.position + part];
            batch.push(slot, sequence.position, ids, usize::from(part == sequence.unread()));
            room -= part;
            step.prompt += part;
        }
        step
    }

    /// Picks a token from each row of logits; the team shares the rows.
    fn pick(&mut self) {
        let batch = &self.engine.batch;
        let (rows, wanted) = (batch.rows(), batch.wanted());
        let (logits, vocab_size) = (self.engine.logits(), self.engine.model.shape().vocab_size);
        let (slots, scratch) = (Shared::new(&mut self.slots), Shared::new(&mut self.scratch));
        let job = |member: Member<'_>| {
            // SAFETY: every member has its own.
            let scratch = &mut unsafe { scratch.write(member.index..member.index + 1) }[0];
            let pick = |index: usize, scratch: &mut _| {
                let slot = rows[wanted[index]].slot;
                // SAFETY: a sequence has one row of logits at most, and this one is claimed by this member.
                let slot = &mut unsafe { slots.write(slot..slot + 1) }[0];
                let sequence = slot.as_mut().expect("a row belongs to a sequence");
                let logits = finite(&logits[index * vocab_size..(index + 1) * vocab_size]);
                sequence.picked = logits.map(|logits| sequence.picker.pick(logits, scratch));
            };
            member.step(wanted.len(), || (), |(), claimed| claimed.for_each(|index| pick(index, scratch)));
        };
        match wanted.len() {
            0 => {}
            // Not worth waking anybody.
            1 => job(Member::solo()),
            _ => self.engine.team.run(&job),
        }
    }
}

impl Sequence {
    /// Books the token picked, and says why the request is over if it is.
    fn after_pick(
        &mut self,
        listen: &mut impl FnMut(Event) -> ControlFlow<()>,
    ) -> Option<Result<Finish, RunError>> {
        let token = match self.picked {
            Ok(token) => token,
            Err(error) => return Some(Err(error)),
        };
        self.tokens += 1;
        self.picker.accept(token);
        if listen(Event::Token { id: self.id, token }).is_break() {
            return Some(Ok(Finish::Cancelled));
        }
        if self.stop.contains(&token) {
            return Some(Ok(Finish::Stop));
        }
        (self.tokens == self.max_tokens).then_some(Ok(Finish::Length))
    }
}
