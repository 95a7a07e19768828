//! A host of shards: one glommio executor and one `io_uring` of our own per core, sockets and
//! disks.
//!
//! A core's loop takes *turns* (`event_loop`): completions become frames (`receiving`,
//! `client_frame`), frames go in passes to the [`service::Service`], which answers into the
//! connections' buffers; then every connection to which something happened is settled (`settle`)
//! and all that follows is submitted with one system call (`uring`). Log writes go through the same
//! ring (`disk`).
//!
//! Cores share nothing but what is in `core` and the rings between each two of them (`ring`,
//! `mesh`, `ring_turn`): a request whose partition another core owns is forwarded, its answer comes
//! back, and the core that sleeps is woken (`doorbell`).
//!
//! Nodes of a cluster are connected shard by shard (`peers`), on the port of the clients.
//!
//! Only this room names glommio and `io_uring`, and only `uring`, `ring`, `buffer_pool` and `disk`
//! are `unsafe`.

pub mod atomics;
pub mod buffer_pool;
pub mod checkpoint_files;
pub mod client_frame;
pub mod clock;
pub mod connection;
pub mod connections;
pub mod core;
pub mod deadlines;
pub mod direct_io;
pub mod disk;
pub mod doorbell;
pub mod echo;
pub mod event_loop;
pub mod executor;
pub mod fatal;
pub mod grpc;
pub mod grpc_turn;
mod halt;
mod held;
pub mod listener;
pub mod mesh;
pub mod node_runtime;
pub mod observation;
pub mod pass;
pub mod peers;
pub mod published;
pub mod publishing;
pub mod rate_limit;
pub mod receiving;
pub mod refusal;
pub mod ring;
mod ring_turn;
pub mod scrub;
pub mod segment_workshop;
pub mod service;
pub mod settle;
pub mod shard_service;
pub mod sniff;
pub mod status;
pub mod steal;
pub mod thread_usage;
pub mod uring;
