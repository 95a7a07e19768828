//! `put` and `replace`: set a key's value, perhaps only if a condition holds.

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::failure::Failure;
use super::key::{KeyArgs, bytes_of};
use super::node_address::{NodeArgs, positive_duration};
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
    /// How long the key is present, by the node's log, e.g. 30s.
    #[arg(long, value_name = "DURATION", value_parser = ttl)]
    ttl: Option<Duration>,
    /// Expire when the entry that is replaced would have.
    #[arg(long, conflicts_with = "ttl")]
    keep_ttl: bool,
    /// Print the entry that was replaced.
    #[arg(long)]
    previous: bool,
    /// Try for so long if the node can't be reached or doesn't answer; it is done once at most.
    #[arg(long, value_name = "DURATION", value_parser = positive_duration)]
    retry_for: Option<Duration>,
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
        ttl_ms: args.ttl.map_or(0, |ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
        keep_ttl: args.keep_ttl,
        want_previous: args.previous,
    };
    let map = &args.key.map.map;
    let written = match args.retry_for {
        None => args.node.client().put(map, &put),
        Some(patience) => {
            let mut client = args.node.session_client(patience);
            let written = client.put(map, put);
            client.close();
            written
        }
    };
    let written = match written {
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

/// A time to live of less than a millisecond would be none.
fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = positive_duration(text)?;
    if ttl < Duration::from_millis(1) { Err("expected 1ms or more".to_owned()) } else { Ok(ttl) }
}
