//! `barelm compare`: which engine for which use, measured on this machine.
//!
//! 1. [`registry`] lists the engines and finds their programs; [`process`] speaks with one.
//! 2. [`run`](mod@run) takes turns between engines. [`scenario`] says what is measured; [`visit`](mod@visit) measures one engine
//!    with one case, while [`telemetry`] looks at its process.
//! 3. [`models`] are what engines run, [`quality`] is how exactly they do.
//! 4. [`record`] is what is kept of a run: rows with every sample.
//! 5. [`summary`] makes the figures of a record, by [`stats`]; a report does the same and gets the same.
//! 6. [`attending`] is what rows say of an engine's cache and attention, [`ops`] knows what single operations should give, [`machine`] what the machine can do; [`found`] looks for engines that
//!    are here already, and [`show`] prints it all.

pub mod attending;
pub mod found;
pub mod machine;
pub mod models;
pub mod ops;
pub mod process;
pub mod quality;
pub mod record;
pub mod registry;
pub mod run;
pub mod scenario;
pub mod show;
pub mod stats;
pub mod summary;
pub mod telemetry;
pub mod visit;
