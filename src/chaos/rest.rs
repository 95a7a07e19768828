//! When nobody disturbs them any more: all replicas come to stand alike, every node says of every
//! key what the others say, and so it is after all of them were killed at once.

use std::time::Duration;

use rustix::process::Signal;

use super::ChaosError;
use super::load::LoadClient;
use super::nemesis::Nemesis;
use crate::base::cast::u32_from;
use crate::base::limits::CHAOS_CLIENT_COUNT_MAX;
use crate::base::time::NS_PER_S;
use crate::client::cluster::ClusterClient;
use crate::client::members::Members;
use crate::client::verification::{Verdict, Verification, verify};
use crate::proto::p2pmap::v1::PartitionStatus;
use crate::sim::ClientId;
use crate::sim::checker::Checker;
use crate::sim::history::{Action, Freshness, Key};

/// How long they may take to stand alike.
const EQUAL_NS_MAX: u64 = 60 * NS_PER_S;
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it may take to compare all digests.
const VERIFICATION_WAIT: Duration = Duration::from_secs(20);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// How long it may take until a node has said what all keys are: a view may change once more.
const READ_NS_MAX: u64 = 60 * NS_PER_S;

impl Nemesis<'_> {
    /// All of it; the nodes have ended afterwards.
    pub(super) fn rest(&mut self) -> Result<(), ChaosError> {
        if !self.is_well() {
            return Ok(());
        }
        let all: Vec<usize> = (0..self.nodes.node_count()).collect();
        all.iter().for_each(|place| self.nodes.count(*place));
        self.nodes.kill(&all);
        all.iter().try_for_each(|place| self.nodes.start(*place))?;
        if !(self.wait_until_ready()? && self.is_well()) {
            return Ok(());
        }
        all.iter().for_each(|place| self.nodes.signal(*place, Signal::TERM));
        all.iter().for_each(|place| self.await_end(*place));
        Ok(())
    }

    fn is_well(&mut self) -> bool {
        self.is_equal() && self.have_equal_digests() && self.read_all()
    }

    /// Compares the digests of all replicas at the same indexes.
    fn have_equal_digests(&mut self) -> bool {
        let found = Members::find(self.nodes.addresses(), PATIENCE);
        let what = match found {
            Ok(mut members) => {
                let verification = verify(&mut members, VERIFICATION_WAIT);
                let is_complete = verification.members.len() == self.nodes.node_count();
                if verification.is_equal() && is_complete {
                    return true;
                }
                let Verification { members, unreached, partitions } = verification;
                let is_equal = |verdict: &Verdict| matches!(verdict, Verdict::Equal { .. });
                let unequal = partitions.into_iter().filter(|(_, verdict)| !is_equal(verdict));
                let unequal: Vec<_> = unequal.collect();
                format!("replicas aren't equal on {members:?}: {unequal:?}, {unreached:?}")
            }
            Err(error) => format!("nobody says who the members are: {error}"),
        };
        self.violate(Checker::Replicas, what);
        false
    }

    /// Waits until all replicas hold the same, and all of it is stable.
    fn is_equal(&mut self) -> bool {
        let by = self.record.now().after_ns(EQUAL_NS_MAX);
        let addresses = self.nodes.addresses();
        let clients = addresses.into_iter();
        let mut clients: Vec<ClusterClient> =
            clients.map(|address| ClusterClient::new(vec![address], PATIENCE)).collect();
        loop {
            let standing = |client: &mut ClusterClient| {
                client.status(true).ok().map(|status| standings(&status.partitions))
            };
            let found: Vec<Option<Vec<Standing>>> = clients.iter_mut().map(standing).collect();
            let first = found[0].as_deref().unwrap_or_default();
            let is_stable =
                |standing: &Standing| standing.term > 0 && standing.last == standing.sync_point;
            if !first.is_empty()
                && first.iter().all(is_stable)
                && found.iter().all(|other| other.as_deref() == Some(first))
            {
                return true;
            }
            if !self.watch(LOOK, &[]) {
                return false;
            }
            if self.record.now() > by {
                let said = found.iter().enumerate().map(|(place, standings)| {
                    format!("\n    {}: {standings:?}", self.nodes.name(place))
                });
                let said: String = said.collect();
                let what = format!("replicas don't come to stand alike:{said}");
                self.violate(Checker::Replicas, what);
                return false;
            }
        }
    }

    /// Reads every key from every node; what they say goes into the history.
    fn read_all(&mut self) -> bool {
        let keys: Vec<Key> = self.record.with(|history| history.universe.keys().collect());
        for (place, address) in self.nodes.addresses().into_iter().enumerate() {
            let id = ClientId(CHAOS_CLIENT_COUNT_MAX + u32_from(place));
            let mut client = LoadClient::new(id, self.settings.seed, vec![address], self.record);
            let by = self.record.now().after_ns(READ_NS_MAX);
            for &key in &keys {
                let freshness = Freshness::Linearizable;
                while !client.ask(Action::Get { key, freshness }) {
                    if !self.watch(LOOK, &[]) {
                        return false;
                    }
                    if self.record.now() > by {
                        let name = self.nodes.name(place);
                        let what =
                            format!("node {name} can't say what {key} is, though all is well");
                        self.violate(Checker::Progress, what);
                        return false;
                    }
                }
            }
        }
        !self.interruption.is_asked()
    }
}

/// How a replica of a partition stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    term: u64,
    last: u64,
    sync_point: u64,
    entries: u64,
    entry_bytes: u64,
}

fn standings(partitions: &[PartitionStatus]) -> Vec<Standing> {
    let standing = |partition: &PartitionStatus| Standing {
        term: partition.term,
        last: partition.last,
        sync_point: partition.sync_point,
        entries: partition.entries,
        entry_bytes: partition.entry_bytes,
    };
    partitions.iter().map(standing).collect()
}
