//! TODO-runtime

pub mod grpc;
