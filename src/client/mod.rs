//! TODO-client
