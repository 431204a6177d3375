//! Device drivers; each is told its base address.

pub mod pl011;
