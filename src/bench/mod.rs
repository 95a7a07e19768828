//! The load generator: drives a node over the wire on a ring of its own, checks each answer and
//! says how long each took.
//!
//! It is a *closed loop*: each connection keeps so many requests in flight and sends the next one
//! when an answer comes. That measures a maximum throughput, and the latency of a loop that never
//! waits; it is not what open-loop clients see at a given rate, and the report says so.

pub mod bare_echo;
pub mod disk;
pub mod load;
pub mod log_writes;
pub mod report;
pub mod response;
pub mod workload;
