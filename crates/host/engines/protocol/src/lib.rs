//! What an engine and whoever measures it say to each other: JSON lines over the engine's standard input and output.
//!
//! 1. [`Request`] and [`Reply`] are the lines, the same ones as in `docs/llm/PROTOCOL.md` and its schema.
//! 2. [`serve`] is the engine's side: an engine implements [`Backend`] and [`Engine`], which know nothing of lines.
//! 3. [`now_ns`] is the clock that both sides read, [`memory`] what a process says of its memory.

mod clock;
mod memory;
mod message;
mod serve;

pub use clock::now_ns;
pub use memory::memory;
pub use message::{Done, Hello, Load, Loaded, Reply, Request, Stats, Submit};
pub use serve::{Backend, Engine, serve};

/// Number of this protocol; it changes with every change that an older reader would misunderstand.
pub const VERSION: u32 = 1;
