//! What an engine and whoever measures it say to each other: JSON lines over the engine's standard input and output.
//!
//! 1. [`Request`] and [`Reply`] are the lines, the same ones as in `docs/llm/PROTOCOL.md` and its schema.
//! 2. [`Backend`] and [`Engine`] or [`Batched`] are what an engine implements; they know nothing of lines.
//! 3. [`serve_standard`] is the rest of an engine's program; the short form of a request is answered by it too.
//! 4. [`ops`] are single operations, [`now_ns`] is the clock that both sides read, [`memory`] what a process says of its
//!    memory.
//! 5. [`sequences`] makes an engine, serial or batching, of a model that computes several sequences in a pass; [`cpu`]
//!    compares what a program was compiled for with the machine it runs on; [`fixed_threads`] is for libraries that
//!    keep the threads they started with.

mod clock;
pub mod cpu;
mod engine;
pub mod fixed_threads;
mod memory;
mod message;
pub mod ops;
pub mod sequences;
mod serve;
mod short;

pub use clock::now_ns;
pub use engine::{Backend, Batched, Engine, Event, OpAnswer};
pub use memory::memory;
pub use message::{
    Batching, Done, Expected, Finish, Hello, Load, Loaded, Logits, Op, OpTimes, Reply, Request, Score, Stats,
    Submit,
};
pub use serve::{serve, serve_plain, serve_standard};

/// Number of this protocol; it changes with every change that an older reader would misunderstand.
pub const VERSION: u32 = 2;
