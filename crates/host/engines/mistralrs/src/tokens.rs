//! How the adapter learns of tokens: mistral.rs answers with text, but shows logits to whoever asks before it samples.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;

use barelm_protocol::sequences::argmax;
use barelm_protocol::{Event, now_ns};
use mistralrs::{CustomLogitsProcessor, Tensor};

/// Tells each token of one request, when its logits are there: mistral.rs samples the likeliest right afterwards.
pub struct Watcher {
    /// Of the request.
    id: u64,
    /// Where to.
    events: Sender<Event>,
    /// Nothing is told any more once this is set: the request was cancelled.
    silent: Arc<AtomicBool>,
    /// The token told last, to compare with what mistral.rs took; above every id before the first.
    last: AtomicU64,
    failed: AtomicBool,
}

impl Watcher {
    /// For this request.
    pub fn new(id: u64, events: Sender<Event>, silent: Arc<AtomicBool>) -> Self {
        Watcher { id, events, silent, last: AtomicU64::new(u64::MAX), failed: AtomicBool::new(false) }
    }

    fn tell(&self, event: Event) {
        if !self.silent.load(Ordering::Relaxed) {
            // Nobody listens when the model is being unloaded.
            let _ = self.events.send(event);
        }
    }
}

impl CustomLogitsProcessor for Watcher {
    /// Looks, and changes nothing. `context` is the prompt and what was generated.
    fn apply(&self, logits: &Tensor, context: &[u32]) -> mistralrs::Result<Tensor> {
        let token = argmax(&logits.to_vec1::<f32>()?);
        let before = self.last.swap(u64::from(token), Ordering::Relaxed);
        let taken = context.last().copied().map(u64::from);
        if before != u64::MAX && taken != Some(before) && !self.failed.swap(true, Ordering::Relaxed) {
            let message = format!("mistral.rs took token {taken:?} where {before} was the likeliest");
            self.tell(Event::Failed { id: self.id, message });
        }
        self.tell(Event::Token { id: self.id, token, t_ns: now_ns() });
        Ok(logits.clone())
    }
}
