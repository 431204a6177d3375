//! What an engine implements: little, and nothing of lines.

use crate::message::{Expected, Finish, Hello, Load, Op, Submit};

/// A program that can load models.
pub trait Backend {
    /// What it says first.
    fn hello(&self) -> Hello;

    /// Loads a model for one request after the other, hands it to `work` and unloads it again. An error, in words for a
    /// person, says why there is none; `work` was then not called.
    fn with_model(&self, _load: &Load, _work: &mut dyn FnMut(&mut dyn Engine)) -> Result<(), String> {
        Err("this engine has no serial form".into())
    }

    /// The same for many requests at once; asked first. `None` is for a load, or an engine, that is serial.
    fn with_batched(
        &self,
        _load: &Load,
        _work: &mut dyn FnMut(&mut dyn Batched),
    ) -> Option<Result<(), String>> {
        None
    }

    /// Times an operation; no model is needed, and none is in memory that a request did not load.
    fn op(&self, op: &Op) -> OpAnswer {
        OpAnswer::NotExpressible(format!("`{}` is not among this engine's operations", op.name))
    }
}

/// What became of an operation.
#[derive(Clone, Debug, PartialEq)]
pub enum OpAnswer {
    /// Its times, calls in a sample, and checksum: see [`crate::ops`].
    Timed {
        /// Nanoseconds of one call in each sample.
        samples_ns: Vec<f64>,
        /// Calls in a sample.
        iterations: u64,
        /// [`crate::ops::checksum`] of its result.
        check: f64,
    },
    /// The engine has no way to say it.
    NotExpressible(String),
    /// Its parameters are wrong, or it failed.
    Failed(String),
}

/// Times, calls in a sample, and the checksum of the result, or why there is none.
impl From<Result<(Vec<f64>, u64, f64), String>> for OpAnswer {
    fn from(timed: Result<(Vec<f64>, u64, f64), String>) -> Self {
        match timed {
            Ok((samples_ns, iterations, check)) => Self::Timed { samples_ns, iterations, check },
            Err(why) => Self::Failed(why),
        }
    }
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

    /// Forgets everything, then tells the `top` likeliest tokens behind each of `ids`. Where it is implemented,
    /// [`Hello::logits`] is true.
    fn expected(&mut self, _ids: &[u32], _top: usize) -> Result<Vec<Expected>, String> {
        Err("not exposed: this engine gives no logits".into())
    }
}

/// What happened to a request of a [`Batched`] model.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Its first pass begins, or the one before has just ended. An engine that cannot tell says nothing.
    Started {
        /// The request.
        id: u64,
        /// When.
        t_ns: u64,
    },
    /// A token was chosen.
    Token {
        /// The request.
        id: u64,
        /// The token; the one that ends the text too.
        token: u32,
        /// When.
        t_ns: u64,
    },
    /// The request has all its tokens. It has no further event.
    Done {
        /// The request.
        id: u64,
        /// Why.
        finish: Finish,
    },
    /// The request failed. It has no further event.
    Failed {
        /// The request.
        id: u64,
        /// Why, for a person.
        message: String,
    },
}

/// A loaded model that computes many requests together.
pub trait Batched {
    /// Token ids run below this.
    fn vocab_size(&self) -> usize;

    /// Takes a request; its id is none of those in flight, its prompt is not empty and in the vocabulary.
    fn submit(&mut self, submit: &Submit) -> Result<(), String>;

    /// Ends a request in flight, which then has no further event.
    fn cancel(&mut self, id: u64);

    /// Goes on with what is in flight and tells `listen` what happened: one pass of a scheduler, or, of an engine with
    /// threads of its own, what has come within the next millisecond. Never called with nothing in flight.
    fn step(&mut self, listen: &mut dyn FnMut(Event)) -> Result<(), String>;
}
