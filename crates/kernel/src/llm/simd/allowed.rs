//! Instructions whose presence only the caller can know: a program without an operating system asks its own cores.

use core::sync::atomic::{AtomicBool, Ordering};

/// Whether somebody who can know has said that some instructions are there.
pub(super) struct Allowed(AtomicBool);

impl Allowed {
    /// Nobody has.
    pub const fn nobody_knows() -> Self {
        Allowed(AtomicBool::new(false))
    }

    /// Every core that will run kernels has them.
    pub fn allow(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether they may be used.
    pub fn is_allowed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
