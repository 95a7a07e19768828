//! `put` and `replace`: set a key's value, perhaps only if a condition holds.

use std::ffi::OsString;

use clap::Args;
use serde_json::json;

use super::failure::Failure;
use super::key::{KeyArgs, bytes_of};
use super::node_address::NodeArgs;
use super::output::{object_with, previous_line, previous_value};
use super::value_source::ValueArgs;
use super::{Verdict, failed_condition};
use crate::proto::p2pmap::v1::condition::Condition as Wanted;
use crate::proto::p2pmap::v1::{Condition, Put};

#[derive(Debug, Args)]
pub(super) struct PutArgs {
    #[command(flatten)]
    entry: EntryArgs,
    /// Only if the key is absent.
    #[arg(long, conflicts_with = "if_version")]
    if_absent: bool,
    /// Only if the key is present with this version.
    #[arg(long, value_name = "VERSION")]
    if_version: Option<u64>,
}

#[derive(Debug, Args)]
pub(super) struct ReplaceArgs {
    #[command(flatten)]
    entry: EntryArgs,
    /// Only if the key is present with this version.
    #[arg(long, value_name = "VERSION")]
    if_version: Option<u64>,
    /// Only if the key is present with this value.
    #[arg(long, value_name = "OLD", conflicts_with = "if_version")]
    if_value: Option<OsString>,
}

#[derive(Debug, Args)]
struct EntryArgs {
    #[command(flatten)]
    key: KeyArgs,
    #[command(flatten)]
    value: ValueArgs,
    /// Print the entry that was replaced.
    #[arg(long)]
    previous: bool,
    #[command(flatten)]
    node: NodeArgs,
}

pub(super) fn run(args: PutArgs) -> Result<Verdict, Failure> {
    let wanted = match args.if_version {
        Some(version) => Some(Wanted::Version(version)),
        None => args.if_absent.then_some(Wanted::Absent(true)),
    };
    put(&args.entry, wanted)
}

pub(super) fn run_replace(args: ReplaceArgs) -> Result<Verdict, Failure> {
    let wanted = match (args.if_version, &args.if_value) {
        (Some(version), _) => Wanted::Version(version),
        (None, Some(value)) => Wanted::Value(bytes_of(value)),
        (None, None) => Wanted::Present(true),
    };
    put(&args.entry, Some(wanted))
}

fn put(args: &EntryArgs, wanted: Option<Wanted>) -> Result<Verdict, Failure> {
    let (key, output) = (args.key.key(), args.node.output());
    let put = Put {
        key: key.clone(),
        value: args.value.read()?,
        condition: wanted.map(|wanted| Condition { condition: Some(wanted) }),
        want_previous: args.previous,
        ..Put::default()
    };
    let written = match args.node.connect()?.put(&args.key.map.map, put) {
        Ok(written) => written,
        Err(e) => return failed_condition(e, &key, output),
    };
    let previous = written.previous.as_ref();
    output.print(
        || match args.previous {
            true => format!("version {}\n{}", written.version, previous_line(previous)),
            false => format!("version {}", written.version),
        },
        || {
            let mut object = object_with("key", &key);
            object.insert("version".to_owned(), json!(written.version));
            if args.previous {
                object.insert("previous".to_owned(), previous_value(previous));
            }
            object
        },
    )?;
    Ok(Verdict::Done)
}
