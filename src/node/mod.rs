//! TODO-node

pub mod data_dir;
