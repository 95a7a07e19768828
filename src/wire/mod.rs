//! Bytes to requests, replies to bytes. Level 3.
//!
//! ```text
//! bytes --frame--> payload --request--> Request --route--> partition
//!                                  \--> Refusal  (answered, the stream goes on)
//!                                   \-> WireError (the stream ends)
//! result --response--> frame
//!
//! Message --peer--> frame --peer--> Message  (between members)
//! ```
//!
//! Everything is parsed once, here: what leaves this room towards the shard can't be wrong any
//! more, and borrows from the bytes that came in. Nothing here allocates for a request in the usual
//! encoding; what an unusual one may allocate is bounded before it is decoded.

pub mod error;
pub mod frame;
pub mod peer;
pub mod request;
pub mod response;
pub mod route;
pub mod target;
