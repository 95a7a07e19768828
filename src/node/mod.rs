//! TODO-node
