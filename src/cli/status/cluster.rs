//! Several nodes side by side: each says how it stands itself, and one that doesn't answer is shown
//! as that.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::table::{SHARD_HEAD, activity, align, condition, shard_rows, uptime, warnings};
use super::{Report, StatusArgs, json as of_node};
use crate::cli::Verdict;
use crate::cli::failure::Failure;
use crate::client::error::ClientError;
use crate::client::members::ask_all;
use crate::proto::p2pmap::v1::node_status::Condition;
use crate::proto::p2pmap::v1::partition_status::Activity;
use crate::proto::p2pmap::v1::{NodeStatus, PartitionStatus};

/// What a node said, or why it said nothing.
type Told = Result<NodeStatus, ClientError>;

/// Some nodes, in the order in which they were named; at least one of them has answered.
#[derive(Debug)]
pub(super) struct Nodes(Vec<Node>);

/// One of them.
#[derive(Debug)]
struct Node {
    address: String,
    /// What it calls itself, or else is called by others, or else where it was looked for.
    name: String,
    report: Result<Report, ClientError>,
}

/// A partition, as all nodes see it that have answered.
#[derive(Debug, Default)]
struct Partition<'a> {
    /// Who leads in the highest term that anybody has said; empty: nobody.
    leader: &'a str,
    term: u64,
    last: u64,
    sync_point: u64,
    /// As each node sees it, by the node's place.
    seen: BTreeMap<usize, &'a PartitionStatus>,
}

pub(super) fn run(args: &StatusArgs) -> Result<Verdict, Failure> {
    let (addresses, timeout) = (args.node.addresses(), args.node.timeout());
    let before = match args.sample {
        Duration::ZERO => addresses.iter().map(|_| Ok(NodeStatus::default())).collect(),
        sample => {
            let before = ask_all(&addresses, timeout, |client| client.status(false));
            std::thread::park_timeout(sample);
            before
        }
    };
    // With their partitions in any case: these show who leads, and who is behind.
    let now = ask_all(&addresses, timeout, |client| client.status(true));
    let nodes = Nodes::new(addresses, before, now)?;
    let output = args.node.output();
    output.print(|| nodes.text(args.partitions), || nodes.object(args.partitions))?;
    Ok(if nodes.are_ready() { Verdict::Done } else { Verdict::Negative })
}

impl Nodes {
    /// # Errors
    /// The first node's, if none has answered.
    pub(super) fn new(
        addresses: Vec<String>,
        before: Vec<Told>,
        now: Vec<Told>,
    ) -> Result<Self, ClientError> {
        let answers = now.iter().filter_map(|told| told.as_ref().ok());
        let members = answers.flat_map(|status| &status.members);
        let known: BTreeMap<String, String> =
            members.map(|member| (member.address.clone(), member.name.clone())).collect();
        let nodes = addresses.into_iter().zip(before).zip(now).map(|((address, before), now)| {
            let report = now.map(|now| Report::new(before.unwrap_or_default(), now));
            let name = match &report {
                Ok(report) => report.now.member.clone(),
                Err(_) => known.get(&address).unwrap_or(&address).clone(),
            };
            Node { address, name, report }
        });
        let mut nodes: Vec<Node> = nodes.collect();
        if nodes.iter().all(|node| node.report.is_err()) {
            return match nodes.swap_remove(0).report {
                Err(error) => Err(error),
                Ok(_) => unreachable!("none has answered"),
            };
        }
        Ok(Self(nodes))
    }

    /// Whether all have answered that they are ready.
    pub(super) fn are_ready(&self) -> bool {
        self.0.iter().all(|node| {
            let report = node.report.as_ref();
            report.is_ok_and(|report| report.now.condition() == Condition::Ready)
        })
    }

    /// Those that have answered, with their places.
    fn reports(&self) -> impl Iterator<Item = (usize, &Report)> {
        let nodes = self.0.iter().enumerate();
        nodes.filter_map(|(place, node)| Some((place, node.report.as_ref().ok()?)))
    }

    fn partitions(&self) -> BTreeMap<u32, Partition<'_>> {
        let mut partitions: BTreeMap<u32, Partition<'_>> = BTreeMap::new();
        for (place, report) in self.reports() {
            for status in &report.now.partitions {
                let found = partitions.entry(status.partition).or_default();
                if status.term >= found.term && !status.leader.is_empty() {
                    found.leader = &status.leader;
                }
                found.term = found.term.max(status.term);
                found.last = found.last.max(status.last);
                found.sync_point = found.sync_point.max(status.sync_point);
                found.seen.insert(place, status);
            }
        }
        partitions
    }

    /// The tables, without the last line's end.
    pub(super) fn text(&self, with_partitions: bool) -> String {
        let partitions = self.partitions();
        let mut text = self.head();
        text += "\n\n";
        text += &self.table(&partitions);
        text += "\n";
        text += &self.shards();
        if with_partitions {
            text += "\n";
            text += &self.partition_table(&partitions);
        }
        for warning in self.warnings() {
            writeln!(text, "\n! {warning}").expect("writing to a string never fails");
        }
        text.truncate(text.trim_end().len());
        text
    }

    fn head(&self) -> String {
        let ready = |(_, report): &(usize, &Report)| report.now.condition() == Condition::Ready;
        let ready_count = self.reports().filter(ready).count();
        let (_, first) = self.reports().next().expect("one has answered");
        let since = match first.before.uptime_ms {
            0 => "since the start".to_owned(),
            _ => format!("over the last {:.1?}", Duration::from_millis(first.sample_ms)),
        };
        format!(
            "{ready_count} of {} nodes of {} are ready, {} partitions, durability {}\n\
             rates are {since}",
            self.0.len(),
            first.now.cluster,
            first.now.partition_count,
            first.now.durability,
        )
    }

    /// A line for each node.
    fn table(&self, partitions: &BTreeMap<u32, Partition<'_>>) -> String {
        let head = ["NODE", "ADDRESS", "STATUS", "UP", "LEADS", "NORMAL", "BEHIND"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for (place, node) in self.0.iter().enumerate() {
            let mut row = vec![node.name.clone(), node.address.clone()];
            match &node.report {
                Err(_) => {
                    row.push("no answer".to_owned());
                    row.extend((0..4).map(|_| "-".to_owned()));
                }
                Ok(report) => {
                    row.push(condition(report.now.condition()).to_owned());
                    row.push(uptime(report.now.uptime_ms));
                    let found = Totals::of(place, &node.name, partitions);
                    let Totals { led_count, normal_count, behind_count } = found;
                    row.push(led_count.to_string());
                    row.push(normal_count.to_string());
                    row.push(behind_count.to_string());
                }
            }
            rows.push(row);
        }
        align(&rows, 3)
    }

    /// A line for each shard of each node that has answered.
    fn shards(&self) -> String {
        let head = std::iter::once("NODE").chain(SHARD_HEAD).map(str::to_owned);
        let mut rows = vec![head.collect::<Vec<_>>()];
        for (place, report) in self.reports() {
            let name = &self.0[place].name;
            rows.extend(shard_rows(report).map(|row| [vec![name.clone()], row].concat()));
        }
        align(&rows, 1)
    }

    /// A line for each partition, with how far each node is behind.
    fn partition_table(&self, partitions: &BTreeMap<u32, Partition<'_>>) -> String {
        let head = ["PARTITION", "LEADER", "TERM", "LAST", "SYNC POINT"].map(str::to_owned);
        let behind = self.0.iter().map(|node| format!("{} BEHIND", node.name));
        let mut rows = vec![head.into_iter().chain(behind).collect::<Vec<_>>()];
        for (number, partition) in partitions {
            let mut row = vec![
                number.to_string(),
                if partition.leader.is_empty() { "-" } else { partition.leader }.to_owned(),
                partition.term.to_string(),
                partition.last.to_string(),
                partition.sync_point.to_string(),
            ];
            row.extend((0..self.0.len()).map(|place| match partition.seen.get(&place) {
                None => "-".to_owned(),
                Some(seen) if seen.activity() != Activity::Normal => {
                    activity(seen.activity()).to_owned()
                }
                Some(seen) => partition.behind(seen).to_string(),
            }));
            rows.push(row);
        }
        align(&rows, 0)
    }

    /// What someone should look at.
    fn warnings(&self) -> Vec<String> {
        let mut found = Vec::new();
        let cluster = self.reports().next().map(|(_, report)| report.now.cluster.as_str());
        for node in &self.0 {
            let name = &node.name;
            match &node.report {
                Err(error) => found.push(format!("{name}: {error}")),
                Ok(report) => {
                    let other = (Some(report.now.cluster.as_str()) != cluster)
                        .then(|| format!("{name} is of another cluster: {}", report.now.cluster));
                    found.extend(other);
                    found.extend(warnings(report).into_iter().map(|one| format!("{name}: {one}")));
                }
            }
        }
        let members = self.reports().flat_map(|(_, report)| &report.now.members);
        let names: BTreeMap<&str, &str> =
            members.map(|member| (member.name.as_str(), member.address.as_str())).collect();
        let is_asked = |name: &str| self.0.iter().any(|node| node.name == name);
        let missing = names.into_iter().filter(|(name, _)| !is_asked(name));
        found.extend(missing.map(|(name, address)| format!("{name} ({address}) was not asked")));
        found
    }

    /// The same for programs: `nodes`, each with the fields of [`of_node::object`] or an `error`,
    /// and, if wanted, `partitions`.
    pub(super) fn object(&self, with_partitions: bool) -> Map<String, Value> {
        let partitions = self.partitions();
        let nodes = self.0.iter().enumerate().map(|(place, node)| {
            let mut object = match &node.report {
                Ok(report) => {
                    let mut object = of_node::object(report);
                    object.remove("partitions");
                    let found = Totals::of(place, &node.name, &partitions);
                    object.insert("partitions_led".to_owned(), json!(found.led_count));
                    object.insert("partitions_normal".to_owned(), json!(found.normal_count));
                    object.insert("behind".to_owned(), json!(found.behind_count));
                    object
                }
                Err(error) => Map::from_iter([
                    ("member".to_owned(), json!(node.name)),
                    ("error".to_owned(), json!(error.to_string())),
                ]),
            };
            object.insert("address".to_owned(), json!(node.address));
            Value::Object(object)
        });
        let mut object = Map::new();
        object.insert("nodes".to_owned(), nodes.collect());
        if with_partitions {
            let partitions = partitions.iter().map(|(number, one)| self.partition(*number, one));
            object.insert("partitions".to_owned(), partitions.collect());
        }
        object
    }

    fn partition(&self, number: u32, partition: &Partition<'_>) -> Value {
        let members = partition.seen.iter().map(|(place, seen)| {
            let mut object = of_node::partition(seen);
            object["member"] = json!(self.0[*place].name);
            object["behind"] = json!(partition.behind(seen));
            object
        });
        json!({
            "partition": number,
            "leader": partition.leader,
            "term": partition.term,
            "last": partition.last,
            "sync_point": partition.sync_point,
            "members": members.collect::<Vec<Value>>(),
        })
    }
}

impl Partition<'_> {
    /// How many slots others have in their logs that a member has not.
    fn behind(&self, seen: &PartitionStatus) -> u64 {
        self.last - seen.last
    }
}

/// What all partitions say of one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    led_count: usize,
    normal_count: usize,
    behind_count: u64,
}

impl Totals {
    fn of(place: usize, name: &str, partitions: &BTreeMap<u32, Partition<'_>>) -> Self {
        let mut totals = Self::default();
        for partition in partitions.values() {
            let Some(seen) = partition.seen.get(&place) else { continue };
            totals.led_count += usize::from(partition.leader == name);
            totals.normal_count += usize::from(seen.activity() == Activity::Normal);
            totals.behind_count += partition.behind(seen);
        }
        totals
    }
}
