//! A map and a key as arguments. A key is whatever bytes the shell passes.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use bytes::Bytes;
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct MapArgs {
    /// The map, or what one partition has of it: `orders`, `orders#7`.
    #[arg(value_name = "MAP")]
    pub(super) map: String,
}

#[derive(Debug, Args)]
pub(super) struct KeyArgs {
    #[command(flatten)]
    pub(super) map: MapArgs,
    /// The key: 1 to 4,096 bytes.
    #[arg(value_name = "KEY", allow_negative_numbers = true)]
    key: OsString,
}

impl KeyArgs {
    pub(super) fn key(&self) -> Bytes {
        bytes_of(&self.key)
    }
}

/// The bytes of an argument, which needn't be UTF-8.
pub(super) fn bytes_of(argument: &OsString) -> Bytes {
    argument.clone().into_vec().into()
}
