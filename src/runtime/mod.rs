//! TODO-runtime
