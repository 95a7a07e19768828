//! Bytes to requests, replies to bytes. Level 3.

pub mod request;
