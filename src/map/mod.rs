//! The deterministic state machine: named maps of binary keys and values.

pub mod operation;
