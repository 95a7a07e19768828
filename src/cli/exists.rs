//! `exists`: say whether a key is present, in a word and in the exit code.

use clap::Args;
use serde_json::json;

use super::Verdict;
use super::failure::Failure;
use super::key::KeyArgs;
use super::node_address::NodeArgs;
use super::output::object_with;

#[derive(Debug, Args)]
pub(super) struct ExistsArgs {
    #[command(flatten)]
    key: KeyArgs,
    #[command(flatten)]
    node: NodeArgs,
}

pub(super) fn run(args: ExistsArgs) -> Result<Verdict, Failure> {
    let key = args.key.key();
    let exists = args.node.client().exists(&args.key.map.map, &key)?;
    args.node.output().print(
        || exists.to_string(),
        || {
            let mut object = object_with("key", &key);
            object.insert("exists".to_owned(), json!(exists));
            object
        },
    )?;
    Ok(if exists { Verdict::Done } else { Verdict::Negative })
}
