//! Measuring: a load generator that drives a node over the wire and checks each answer, results
//! that other tools read, and what can be said of two of them.
//!
//! The path of a run: [`workload`] draws requests, [`schedule`] says when, [`generator`] sends them
//! from a pinned core and hands each answer to [`expectation`], which knows what it may say;
//! [`recorder`] keeps the histograms of each second, [`load`] puts those of all cores together.
//! At a fixed rate (an *open* loop) latencies count from when a request was meant to be sent.
//! A *closed* loop measures a maximum throughput, and the latency of a loop that never waits: not
//! what clients see at a given rate. Every output says which of them it is.

pub mod bare_echo;
pub mod compare;
pub mod content;
pub mod dialect;
pub mod disk;
pub mod encode;
pub mod expectation;
pub mod generator;
pub mod keys;
pub mod leaders;
pub mod load;
pub mod log_writes;
pub mod mix;
pub mod recorder;
pub mod report;
pub mod response;
pub mod results;
pub mod schedule;
pub mod slo;
pub mod summary;
pub mod surroundings;
pub mod work;
pub mod workload;
