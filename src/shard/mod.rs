//! TODO-shard
