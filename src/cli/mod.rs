//! TODO-cli

pub mod inspect;
