//! `clear`: remove all entries of a map.

use clap::Args;
use serde_json::json;

use super::Verdict;
use super::failure::Failure;
use super::key::MapArgs;
use super::node_address::NodeArgs;
use super::output::object_with;

/// Each partition is cleared at once, the map as a whole is not: entries that others put meanwhile
/// may stay.
#[derive(Debug, Args)]
pub(super) struct ClearArgs {
    #[command(flatten)]
    map: MapArgs,
    #[command(flatten)]
    node: NodeArgs,
}

pub(super) fn run(args: ClearArgs) -> Result<Verdict, Failure> {
    let map = &args.map.map;
    let removed = args.node.client().clear(map)?;
    args.node.output().print(
        || format!("removed {removed}"),
        || {
            let mut object = object_with("map", map.as_bytes());
            object.insert("removed".to_owned(), json!(removed));
            object
        },
    )?;
    Ok(Verdict::Done)
}
