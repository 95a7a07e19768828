//! `size`: print how many entries a map has, and how many bytes.

use clap::Args;
use serde_json::json;

use super::Verdict;
use super::failure::Failure;
use super::key::MapArgs;
use super::node_address::NodeArgs;
use super::output::object_with;

#[derive(Debug, Args)]
pub(super) struct SizeArgs {
    #[command(flatten)]
    map: MapArgs,
    #[command(flatten)]
    node: NodeArgs,
}

pub(super) fn run(args: SizeArgs) -> Result<Verdict, Failure> {
    let map = &args.map.map;
    let size = args.node.client().size(map)?;
    args.node.output().print(
        || format!("entries {}\nbytes {}", size.entries, size.bytes),
        || {
            let mut object = object_with("map", map.as_bytes());
            object.insert("entries".to_owned(), json!(size.entries));
            object.insert("bytes".to_owned(), json!(size.bytes));
            object
        },
    )?;
    Ok(Verdict::Done)
}
