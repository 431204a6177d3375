//! A scheduler between threads: requests come in over a channel, and answers go to a listener.
//!
//! The thread that owns the model calls [`serve`]. Others, such as one that reads lines, hold the sending end. A request
//! that comes in while a pass runs is part of the next one.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use std::sync::mpsc;
//!
//! use barelm::llm::plan::SchedulerConfig;
//! use barelm::llm::sampler::SamplerConfig;
//! use barelm::llm::scheduler::{Event, Request};
//! use barelm_host::commands::setup::{SessionArguments, with_scheduler};
//! use barelm_host::model_file::ModelFile;
//! use barelm_host::serving::{Answer, Command, serve};
//!
//! let file = ModelFile::open("model.gguf".as_ref())?;
//! let gguf = file.parse()?;
//! let arguments = SessionArguments { batch: Some(64), ..SessionArguments::default() };
//! let (commands, incoming) = mpsc::channel();
//! let reader = std::thread::spawn(move || {
//!     let sampler = SamplerConfig::default();
//!     for id in 0..4 {
//!         let request = Request { id, prompt: vec![1, 2, 3], max_tokens: 16, sampler, stop: vec![] };
//!         commands.send(Command::Submit(request)).expect("the other end lives as long as this one");
//!     }
//! });
//! with_scheduler(&file, &gguf, &arguments, SchedulerConfig::default(), |scheduler| {
//!     serve(scheduler, &incoming, |answer| {
//!         match answer {
//!             Answer::Event(Event::Token { id, token }) => println!("{id}: {token}"),
//!             Answer::Event(Event::Done(done)) => println!("{}: {} tokens", done.id, done.tokens),
//!             Answer::Refused { id, error } => println!("{id}: {error}"),
//!         }
//!         ControlFlow::Continue(())
//!     });
//!     Ok(())
//! })?;
//! reader.join().expect("it has sent everything");
//! # Ok::<(), barelm_host::Failure>(())
//! ```

use std::ops::ControlFlow;
use std::sync::mpsc::Receiver;

use barelm::llm::scheduler::{Event, Request, Scheduler, SubmitError};
use barelm::llm::tokenizer::Tokenizer;

/// What a scheduler is told.
#[derive(Clone, Debug)]
pub enum Command {
    /// Continue a prompt.
    Submit(Request),
    /// End the request of this name, if it is not done.
    Cancel(u64),
}

/// What it says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Answer {
    /// Something happened to a request.
    Event(Event),
    /// A request was not taken.
    Refused {
        /// Its name.
        id: u64,
        /// Why.
        error: SubmitError,
    },
}

/// Runs requests until every sender is gone and every request is done. Sleeps while there is nothing to do.
///
/// A listener that breaks at a token cancels that request; at other answers it makes no difference.
pub fn serve(
    scheduler: &mut Scheduler<'_>,
    commands: &Receiver<Command>,
    mut listen: impl FnMut(Answer) -> ControlFlow<()>,
) {
    loop {
        let mut next = if scheduler.is_idle() {
            let Ok(command) = commands.recv() else { return };
            Some(command)
        } else {
            commands.try_recv().ok()
        };
        while let Some(command) = next {
            let answer = match command {
                Command::Submit(request) => {
                    let id = request.id;
                    scheduler.submit(request).err().map(|error| Answer::Refused { id, error })
                }
                Command::Cancel(id) => scheduler.cancel(id).map(|done| Answer::Event(Event::Done(done))),
            };
            let _ = answer.map(&mut listen);
            next = commands.try_recv().ok();
        }
        scheduler.step(|event| listen(Answer::Event(event)));
    }
}

/// The tokens that end a text, for [`Request::stop`].
pub fn stop_ids(tokenizer: &Tokenizer<'_>) -> Vec<u32> {
    (0..tokenizer.vocab_size() as u32).filter(|&id| tokenizer.is_end_of_generation(id)).collect()
}
