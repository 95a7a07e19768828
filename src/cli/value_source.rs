//! Where a value comes from: an argument, a file or standard input.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;

use super::failure::Failure;
use super::key::bytes_of;
use crate::base::cast;
use crate::base::limits::VALUE_SIZE_BYTES_MAX;
use crate::node::config::quantity::format_size;

#[derive(Debug, Args)]
pub(super) struct ValueArgs {
    /// The value; `-` or nothing: standard input, to its end.
    #[arg(value_name = "VALUE", allow_negative_numbers = true)]
    value: Option<OsString>,
    /// Read the value from a file, as it is.
    #[arg(long, value_name = "FILE", conflicts_with = "value")]
    value_file: Option<PathBuf>,
}

impl ValueArgs {
    pub(super) fn read(&self) -> Result<Bytes, Failure> {
        if let Some(path) = &self.value_file {
            let read = File::open(path).and_then(read_bounded);
            return check(read.map_err(|e| Failure::file(path, &e))?);
        }
        match &self.value {
            Some(value) if value != "-" => check(bytes_of(value)),
            _ => check(read_bounded(io::stdin().lock()).map_err(|e| Failure::stdin(&e))?),
        }
    }
}

/// Reads one byte more than a value can have at most: enough to know that it is too long.
fn read_bounded(source: impl Read) -> io::Result<Bytes> {
    let mut value = Vec::new();
    source.take(cast::u64_from(VALUE_SIZE_BYTES_MAX) + 1).read_to_end(&mut value)?;
    Ok(value.into())
}

/// The node may accept less; it says so itself.
fn check(value: Bytes) -> Result<Bytes, Failure> {
    if value.len() > VALUE_SIZE_BYTES_MAX {
        let most = format_size(cast::u64_from(VALUE_SIZE_BYTES_MAX));
        return Err(Failure::new(format!(
            "the value is longer than {most}, the most a node takes"
        )));
    }
    Ok(value)
}
