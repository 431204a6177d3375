//! Busy neighbors: threads that do nothing but use processors, beside which engines are measured.

use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::failure::Failure;

/// Threads that spin until dropped.
#[derive(Debug)]
pub struct Neighbors {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Neighbors {
    /// Starts so many.
    pub fn start(count: usize) -> Result<Self, Failure> {
        let mut neighbors = Neighbors { stop: Arc::new(AtomicBool::new(false)), threads: Vec::new() };
        for _ in 0..count {
            let stop = neighbors.stop.clone();
            let spin = move || {
                while !stop.load(Ordering::Relaxed) {
                    spin_loop();
                }
            };
            let thread = std::thread::Builder::new().name("neighbor".into()).spawn(spin);
            neighbors
                .threads
                .push(thread.map_err(|error| Failure::because("cannot start a busy neighbor", error))?);
        }
        Ok(neighbors)
    }
}

impl Drop for Neighbors {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It cannot have panicked.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbors_come_and_go() {
        let neighbors = Neighbors::start(2).unwrap();
        assert_eq!(neighbors.threads.len(), 2);
        let stop = neighbors.stop.clone();
        drop(neighbors);
        // Nobody else holds it: both have ended.
        assert_eq!(Arc::strong_count(&stop), 1);
        assert!(Neighbors::start(0).unwrap().threads.is_empty());
    }
}
