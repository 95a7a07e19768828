//! `entries`: print the entries of a map, page by page, however many there are.

use std::ffi::OsString;
use std::io::{self, BufWriter, Write};

use bytes::Bytes;
use clap::Args;
use serde_json::Value;

use super::Verdict;
use super::failure::Failure;
use super::key::{MapArgs, bytes_of};
use super::node_address::NodeArgs;
use super::output::{Output, escape, insert_bytes, insert_history, object_with};
use crate::base::limits::ENTRIES_COUNT_DEFAULT;
use crate::proto::p2pmap::v1::{Entries, KeyValue};

/// One line for each entry: key, version and value with tabs between, escaped so that each stays
/// on its line; with `--keys-only` the key alone. The order is the node's. Entries that are written
/// meanwhile may be among them or not.
#[derive(Debug, Args)]
pub(super) struct EntriesArgs {
    #[command(flatten)]
    map: MapArgs,
    /// Only keys that begin with this.
    #[arg(long, value_name = "PREFIX", default_value = "")]
    prefix: OsString,
    /// At most this many entries [default: all].
    #[arg(long, value_name = "COUNT")]
    limit: Option<u64>,
    /// Leave the values out.
    #[arg(long)]
    keys_only: bool,
    #[command(flatten)]
    node: NodeArgs,
}

pub(super) fn run(args: EntriesArgs) -> Result<Verdict, Failure> {
    let mut client = args.node.client();
    let mut stdout = BufWriter::new(io::stdout().lock());
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut start_after = Bytes::new();
    while left > 0 {
        let entries = Entries {
            prefix: bytes_of(&args.prefix),
            start_after,
            limit: page_limit(left),
            keys_only: args.keys_only,
        };
        let answer = client.entries(&args.map.map, &entries)?;
        for item in &answer.items {
            print(&mut stdout, item, &args).map_err(|e| Failure::stdout(&e))?;
            left = left.saturating_sub(1);
            if left == 0 {
                break;
            }
        }
        // A reader sees each page when it is there, and its going away ends the reading.
        stdout.flush().map_err(|e| Failure::stdout(&e))?;
        match answer.next {
            Some(next) => start_after = next,
            None => break,
        }
    }
    Ok(Verdict::Done)
}

fn page_limit(left: u64) -> u32 {
    let most = u32::try_from(ENTRIES_COUNT_DEFAULT).expect("a page's bound fits 32 bits");
    u32::try_from(left).map_or(most, |left| left.min(most))
}

fn print(out: &mut impl Write, item: &KeyValue, args: &EntriesArgs) -> io::Result<()> {
    let entry = item.entry.clone().unwrap_or_default();
    match args.node.output() {
        Output::Human if args.keys_only => writeln!(out, "{}", escape(&item.key)),
        Output::Human => {
            writeln!(out, "{}\t{}\t{}", escape(&item.key), entry.version, escape(&entry.value))
        }
        Output::Json => {
            let mut object = object_with("key", &item.key);
            insert_history(&mut object, &entry);
            if !args.keys_only {
                insert_bytes(&mut object, "value", &entry.value);
            }
            writeln!(out, "{}", Value::Object(object))
        }
    }
}
