//! `verify`: compare all replicas.

use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use super::Verdict as Exit;
use super::failure::Failure;
use super::node_address::{NodeArgs, positive_duration};
use crate::client::verification::{Group, Verdict, Verification, verify};

/// Asks all members for digests of their partitions and compares them at the same indexes; that
/// goes on while writes do. Exits with 1 if some replica differs, could not be asked, or had no
/// index in common with the others.
#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// List all partitions, and not only those that aren't equal.
    #[arg(long)]
    partitions: bool,
    /// How long to try until all members can be compared.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = positive_duration)]
    wait: Duration,
    #[command(flatten)]
    node: NodeArgs,
}

pub(super) fn run(args: &VerifyArgs) -> Result<Exit, Failure> {
    let mut members = args.node.members()?;
    if members.names().len() < 2 {
        let names = members.names().join(", ");
        return Err(Failure::new(format!("{names} is alone: there is nothing to compare it with")));
    }
    let verification = verify(&mut members, args.wait);
    let output = args.node.output();
    output.print(|| text(&verification, args.partitions), || object(&verification))?;
    Ok(if verification.is_equal() { Exit::Done } else { Exit::Negative })
}

fn text(verification: &Verification, all: bool) -> String {
    let mut lines = Vec::new();
    for (partition, verdict) in &verification.partitions {
        match verdict {
            Verdict::Equal { .. } if !all => {}
            Verdict::Equal { index } => {
                lines.push(format!("partition {partition}: equal at index {index}"));
            }
            Verdict::Different { index, groups } => {
                let groups: Vec<String> = groups.iter().map(group_text).collect();
                let groups = groups.join(", ");
                lines.push(format!("partition {partition}: DIFFERENT at index {index}: {groups}"));
            }
            Verdict::Incomparable => {
                lines.push(format!("partition {partition}: no index in common in time"));
            }
        }
    }
    for (name, error) in &verification.unreached {
        lines.push(format!("{name} can't be asked: {error}"));
    }
    let equal = verification.count(|verdict| matches!(verdict, Verdict::Equal { .. }));
    let different = verification.count(|verdict| matches!(verdict, Verdict::Different { .. }));
    let count = verification.partitions.len();
    let names = verification.members.join(", ");
    lines.push(match different {
        0 => format!("{equal} of {count} partitions are equal on {names}"),
        _ => format!("{different} of {count} partitions are DIFFERENT on {names}"),
    });
    lines.join("\n")
}

fn group_text(group: &Group) -> String {
    format!("{} have {}", group.members.join(" and "), hex(&group.digest))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn object(verification: &Verification) -> Map<String, Value> {
    let partitions = verification.partitions.iter().map(|(partition, verdict)| match verdict {
        Verdict::Equal { index } => {
            json!({ "partition": partition, "verdict": "equal", "index": index })
        }
        Verdict::Different { index, groups } => {
            let groups = groups
                .iter()
                .map(|group| json!({ "digest": hex(&group.digest), "members": group.members }));
            let groups: Vec<Value> = groups.collect();
            json!({
                "partition": partition, "verdict": "different", "index": index, "groups": groups
            })
        }
        Verdict::Incomparable => json!({ "partition": partition, "verdict": "incomparable" }),
    });
    let partitions: Vec<Value> = partitions.collect();
    let unreached = verification
        .unreached
        .iter()
        .map(|(name, error)| json!({ "member": name, "error": error.to_string() }));
    let unreached: Vec<Value> = unreached.collect();
    let mut object = Map::new();
    object.insert("equal".to_owned(), json!(verification.is_equal()));
    object.insert("members".to_owned(), json!(verification.members));
    object.insert("unreached".to_owned(), json!(unreached));
    object.insert("partitions".to_owned(), json!(partitions));
    object
}
