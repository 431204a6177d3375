//! `barelm compare`: which engine for which use, measured on this machine.
//!
//! 1. [`registry`] lists the engines and finds their programs.
//! 2. [`ops`] knows what single operations should give.

pub mod ops;
pub mod registry;
