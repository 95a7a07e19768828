//! TODO-bench
