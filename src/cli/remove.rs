//! `remove`: remove a key, perhaps only in a certain version.

use clap::Args;
use serde_json::json;

use super::failure::Failure;
use super::key::KeyArgs;
use super::node_address::NodeArgs;
use super::output::{Output, object_with, previous_line, previous_value};
use super::{Verdict, absent_key, failed_condition};
use crate::proto::p2pmap::v1::condition::Condition as Wanted;
use crate::proto::p2pmap::v1::{Condition, Remove};

#[derive(Debug, Args)]
pub(super) struct RemoveArgs {
    #[command(flatten)]
    key: KeyArgs,
    /// Only if the key is present with this version.
    #[arg(long, value_name = "VERSION")]
    if_version: Option<u64>,
    /// Print the entry that was removed.
    #[arg(long)]
    previous: bool,
    #[command(flatten)]
    node: NodeArgs,
}

pub(super) fn run(args: RemoveArgs) -> Result<Verdict, Failure> {
    let (key, output) = (args.key.key(), args.node.output());
    let wanted = args.if_version.map(Wanted::Version);
    let remove = Remove {
        key: key.clone(),
        condition: wanted.map(|wanted| Condition { condition: Some(wanted) }),
        want_previous: args.previous,
    };
    let removed = match args.node.client().remove(&args.key.map.map, &remove) {
        Ok(removed) => removed,
        Err(e) => return failed_condition(e, &key, output),
    };
    let mut object = object_with("key", &key);
    object.insert("existed".to_owned(), json!(removed.existed));
    if !removed.existed {
        return absent_key(&args.key.map.map, &key, output, object);
    }
    let previous = removed.previous.as_ref();
    if args.previous {
        object.insert("previous".to_owned(), previous_value(previous));
    }
    if output == Output::Json || args.previous {
        output.print(|| previous_line(previous), || object)?;
    }
    Ok(Verdict::Done)
}
