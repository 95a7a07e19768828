//! Greetings: who dials says who it is and what it holds, who accepts says the same, and if the
//! cluster has a secret, each proves that it has it.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::link::{Carrier, PeerLink, Stage};
use super::secret::Asked;
use super::{PeerNetwork, PeerProtocol, WayId};
use crate::base::ids::{BootEpoch, Incarnation, NodeId, PartitionId, ShardId};
use crate::base::limits::{HELLO_SIZE_BYTES_MAX, PEER_GREETING_NS_MAX, PEER_QUEUE_SIZE_BYTES_MAX};
use crate::base::shards::ShardMap;
use crate::metrics::DropReason;
use crate::runtime::connection::{Phase, Protocol};
use crate::runtime::core::MemberArrival;
use crate::runtime::event_loop::{EventLoop, output};
use crate::runtime::grpc::GrpcLane;
use crate::runtime::refusal;
use crate::runtime::service::{Service, WireStatus};
use crate::runtime::uring::Key;
use crate::storage::witness::Life;
use crate::wire::error::StatusCode;
use crate::wire::frame::Flag;
use crate::wire::peer::hello::{Hello, HelloError, Lane, PartitionState, Proof};

/// Why a proof is no proof.
const DIFFERENT: &str = "both have different ones";
/// Why there is none.
const ONE_SIDED: &str = "only one of both has one";

impl<S: Service> EventLoop<S> {
    /// Somebody has dialled who speaks as a member, in frames that travel in this.
    pub(in crate::runtime) fn expect_greeting(&mut self, key: Key, carrier: Carrier) {
        let now = self.now.monotonic;
        let connection = self.connections.of(key);
        let link = PeerLink::new(None, Stage::Expecting, now).carried_by(carrier);
        connection.protocol = Protocol::Peer(Box::new(link));
        connection.phase_by = Some(now.after_ns(PEER_GREETING_NS_MAX));
        // The deadline that is set says when its protocol must be known, which is later.
        self.connections.mark_dirty(key.slot);
    }

    /// A connection that was dialled is there: says who we are.
    pub(super) fn greet(&mut self, key: Key, way: WayId) {
        let Some(network) = self.peers.network().cloned() else { return };
        if network.protocol == PeerProtocol::Grpc
            && let Some(link) = self.connections.of(key).link()
        {
            let address = network.addresses[usize::from(way.node.0)];
            link.carrier = Carrier::Grpc(Box::new(GrpcLane::dial(address)));
        }
        let mut hello = self.hello(&network, way, way.shard);
        hello.challenge = network.secret.as_ref().map(|_| network.challenges.next());
        self.say(key, &network, &hello);
        let known = self.peers.latest_boot(way.node);
        self.set_stage(key, Stage::Greeted { hello: Box::new(hello), known });
    }

    /// What came on a connection that isn't open yet.
    pub(super) fn take_greeting(&mut self, key: Key, flag: Flag, payload: Bytes) {
        let Some(network) = self.peers.network().cloned() else { return };
        let Some(link) = self.connections.of(key).link() else { return };
        let stage = std::mem::replace(&mut link.stage, Stage::Over);
        if let (Stage::Greeted { .. } | Stage::Answered { .. }, Flag::Message) = (&stage, flag) {
            let why = refusal::text(&payload).unwrap_or_else(|| "it doesn't say why".to_owned());
            return self.complain(key, &format!("the member refuses this one: {why}"));
        }
        let node = link.way.map(|way| way.node);
        let hello = match (flag, network.greeter().decode(&payload)) {
            (Flag::Hello, Ok(hello)) => hello,
            (Flag::Hello, Err(error)) => return self.refuse_greeting(key, node, &error),
            (Flag::Message | Flag::Ping, _) => return self.refuse_malformed(key, "no greeting"),
        };
        if u32::from(hello.shard_count) > network.partition_count {
            let error = HelloError::Malformed { field: "shards" };
            return self.refuse_greeting(key, node, &error);
        }
        match stage {
            Stage::Expecting => self.on_dialled(key, &network, hello, payload),
            Stage::Greeted { hello: own, known } => {
                self.on_answered(key, &network, (&own, known), &hello);
            }
            Stage::Answered { theirs, challenge, known } => {
                self.on_once_more(key, &network, (&theirs, challenge, known), &hello);
            }
            Stage::Connecting { .. } | Stage::Leaving { .. } | Stage::Open | Stage::Over => {
                self.refuse_malformed(key, "a greeting out of turn");
            }
        }
    }

    /// The first greeting of somebody who has dialled.
    fn on_dialled(&mut self, key: Key, network: &PeerNetwork, hello: Hello, payload: Bytes) {
        let (node, own_count) = (hello.member, self.node.shard_count());
        if hello.shard != self.mesh.me() && hello.shard.0 < own_count {
            self.set_stage(key, Stage::Leaving { to: hello.shard, hello: payload });
            return self.connections.mark_dirty(key.slot);
        }
        let Some(first) = hello.partitions.first().filter(|_| !network.dials(node)) else {
            let error = HelloError::Malformed { field: "partitions" };
            return self.refuse_greeting(key, Some(node), &error);
        };
        // The dialler's shard is the one that holds what it says it holds.
        let theirs = ShardMap::new(network.partition_count, hello.shard_count);
        let way = WayId { node, shard: theirs.owner(first.partition), lane: hello.lane };
        if let Some(link) = self.connections.of(key).link() {
            link.way = Some(way);
        }
        let mut answer = self.hello(network, way, self.mesh.me());
        match (&network.secret, hello.challenge) {
            (None, None) => {}
            (Some(secret), Some(challenge)) => {
                let own_challenge = network.challenges.next();
                answer.challenge = Some(own_challenge);
                let asked = Asked { is_dialler: false, challenge, own_challenge };
                let cluster = (&*network.name, &network.cluster);
                answer.proof = Some(secret.prove(cluster, &answer, &asked));
            }
            (Some(_), None) => return self.refuse_secret(key, node, ONE_SIDED),
            (None, Some(_)) => return self.refuse_secret(key, node, ONE_SIDED),
        }
        self.say(key, network, &answer);
        let (challenge, known) = (answer.challenge, self.peers.latest_boot(node));
        self.set_stage(key, Stage::Answered { theirs: Box::new(hello), challenge, known });
    }

    /// The greeting of the one that we have dialled.
    fn on_answered(
        &mut self,
        key: Key,
        network: &PeerNetwork,
        (own, known): (&Hello, BootEpoch),
        hello: &Hello,
    ) {
        let Some(way) = self.connections.of(key).link().and_then(|link| link.way) else { return };
        if hello.member != way.node {
            let found = network.cluster.name(hello.member);
            let address = network.addresses[usize::from(way.node.0)];
            return self.complain(key, &format!("at {address} is member {found:?} instead"));
        }
        let cluster = (&*network.name, &network.cluster);
        let question = match (&network.secret, own.challenge, hello.challenge, &hello.proof) {
            (None, _, None, _) => None,
            (Some(secret), Some(asked), Some(theirs), Some(proof)) => {
                let answered = Asked { is_dialler: false, challenge: asked, own_challenge: theirs };
                if !secret.verify(cluster, hello, &answered, proof) {
                    return self.refuse_secret(key, way.node, DIFFERENT);
                }
                let asked = Asked { is_dialler: true, challenge: theirs, own_challenge: asked };
                Some((secret, asked))
            }
            _ => return self.refuse_secret(key, way.node, ONE_SIDED),
        };
        if !self.peers.on_answer(hello, known) {
            return self.cut_last_words(key, way, hello);
        }
        let now = self.now.monotonic;
        if let Some(change) = self.peers.learn_shards(way.node, hello.shard_count, now) {
            // This connection is among those that are cut: others are dialled at once.
            return self.follow(way.node, change);
        }
        let fresh = self.hello(network, way, way.shard);
        // What makes both greetings one: it may have begun a new life in some partition meanwhile.
        let mut once_more = Hello { incarnation: own.incarnation, ..fresh };
        if let Some((secret, asked)) = question {
            once_more.proof = Some(secret.prove(cluster, &once_more, &asked));
        }
        self.say(key, network, &once_more);
        self.open_link(key, way, hello);
    }

    /// The second greeting of somebody who has dialled.
    fn on_once_more(
        &mut self,
        key: Key,
        network: &PeerNetwork,
        (theirs, challenge, known): (&Hello, Option<Proof>, BootEpoch),
        hello: &Hello,
    ) {
        let Some(way) = self.connections.of(key).link().and_then(|link| link.way) else { return };
        let is_proved = match (&network.secret, challenge, theirs.challenge, &hello.proof) {
            (None, None, None, _) => true,
            (Some(secret), Some(challenge), Some(own_challenge), Some(proof)) => {
                let asked = Asked { is_dialler: true, challenge, own_challenge };
                secret.verify((&*network.name, &network.cluster), hello, &asked, proof)
            }
            _ => false,
        };
        if !is_proved {
            return self.refuse_secret(key, way.node, DIFFERENT);
        }
        if !hello.is_once_more(theirs) || hello.shard != self.mesh.me() {
            return self.refuse_malformed(key, "two greetings that differ");
        }
        if !self.peers.on_answer(hello, known) {
            return self.cut_last_words(key, way, hello);
        }
        let now = self.now.monotonic;
        if let Some(change) = self.peers.learn_shards(way.node, hello.shard_count, now) {
            self.follow(way.node, change);
        }
        let fresh = self.hello(network, way, self.mesh.me());
        self.say(key, network, &fresh);
        self.open_link(key, way, hello);
    }

    /// What an open connection's other side knows of lives by now.
    pub(super) fn take_fresh_greeting(&mut self, key: Key, way: WayId, payload: &[u8]) {
        let Some(network) = self.peers.network().cloned() else { return };
        match network.greeter().decode(payload) {
            Ok(hello) if hello.member == way.node => self.tell_connected(key, way, &hello),
            _ => self.refuse_malformed(key, "a greeting of somebody else"),
        }
    }

    /// Both sides know who the other one is.
    fn open_link(&mut self, key: Key, way: WayId, hello: &Hello) {
        if !self.peers.knows(way) {
            let error = HelloError::Malformed { field: "partitions" };
            return self.refuse_greeting(key, Some(way.node), &error);
        }
        let now = self.now.monotonic;
        let connection = self.connections.of(key);
        connection.phase_by = None;
        let Some(link) = connection.link() else { return };
        link.stage = Stage::Open;
        (link.heard_at, link.asked_at) = (now, now);
        let carrier = link.carrier.to_string();
        self.connections.mark_dirty(key.slot);
        let change = self.peers.opened(way, key, hello, now);
        self.follow(way.node, change);
        self.metrics.member_connects_count += 1;
        let shards = hello.shard_count;
        let node = self.name_of(Some(way));
        tracing::info!(node, shards, %way, carrier, "a member is connected");
        self.tell_connected(key, way, hello);
    }

    /// What a process said that may be gone by now, since a later one of its node was heard of
    /// meanwhile. If it isn't it comes again.
    fn cut_last_words(&mut self, key: Key, way: WayId, hello: &Hello) {
        let (node, boot) = (self.name_of(Some(way)), hello.boot_epoch);
        tracing::info!(node, %boot, %way, "cut a connection of an earlier boot of a member");
        self.connections.cut(key, DropReason::MemberReplaced, &mut self.metrics);
    }

    fn tell_connected(&mut self, key: Key, way: WayId, hello: &Hello) {
        if way.lane == Lane::Protocol && self.peers.is_current(way, key) {
            let (now, node) = (self.now, way.node);
            let (service, output) = output!(self);
            let life = Life { boot_epoch: hello.boot_epoch, nonce: hello.process_nonce };
            let (clock, partitions) = (hello.clock, &hello.partitions);
            let found = service.peer_connected(now, (node, life), clock, partitions, output);
            if let Some(rolled_back) = found {
                let node = self.name_of(Some(way));
                tracing::error!(node, "a member's disk went back in time: {rolled_back}");
            }
        }
    }

    fn set_stage(&mut self, key: Key, stage: Stage) {
        if let Some(link) = self.connections.of(key).link() {
            link.stage = stage;
        }
    }

    /// What this shard says on a connection: who it is, and what it holds of what both hold.
    fn hello(&self, network: &PeerNetwork, way: WayId, shard: ShardId) -> Hello {
        let shared = self.peers.shared(way);
        let mut partitions = self.service.greeting(way.node);
        partitions.retain(|state| shared.contains(&state.partition.0));
        let me = network.cluster.me();
        let lives = latest_lives(&partitions, |partition| network.cluster.members(partition));
        Hello {
            member: me,
            incarnation: lives.get(&me).copied().unwrap_or_default(),
            crash_vector: lives,
            shard,
            shard_count: self.node.shard_count(),
            boot_epoch: network.boot_epoch,
            process_nonce: network.process_nonce,
            proof: None,
            challenge: None,
            partitions,
            lane: way.lane,
            clock: self.now.wall,
        }
    }

    fn say(&mut self, key: Key, network: &PeerNetwork, hello: &Hello) {
        network.greeter().encode(self.connections.of(key).frames(), hello);
        self.connections.mark_dirty(key.slot);
    }

    fn refuse_greeting(&mut self, key: Key, node: Option<NodeId>, error: &HelloError) {
        let status = WireStatus { code: error.status(), message: error.to_string() };
        self.refuse_member(key, node, &status);
    }

    fn refuse_secret(&mut self, key: Key, node: NodeId, why: &str) {
        let message = format!("members prove who they are by the cluster's secret: {why}");
        let status = WireStatus { code: StatusCode::PermissionDenied, message };
        self.refuse_member(key, Some(node), &status);
    }

    /// Says why a member's connection is closed: here, and to the other side.
    fn refuse_member(&mut self, key: Key, node: Option<NodeId>, status: &WireStatus) {
        let is_news = match node {
            Some(node) => self.peers.complain(node, &status.message),
            None => self.accept_limit.admit(self.now.monotonic).is_some(),
        };
        if is_news {
            let network = self.peers.network();
            let name = network.zip(node).map(|(network, node)| network.cluster.name(node));
            tracing::error!(node = name, "refused a member: {}", status.message);
        }
        let metrics = &mut self.metrics;
        self.connections.refuse(key, status, DropReason::MemberRefused, metrics);
    }

    /// The other side doesn't want us, or isn't who it should be.
    pub(super) fn complain(&mut self, key: Key, complaint: &str) {
        let way = self.connections.of(key).link().and_then(|link| link.way);
        let is_news = way.is_none_or(|way| self.peers.complain(way.node, complaint));
        if is_news {
            tracing::error!(node = self.name_of(way), "no connection to a member: {complaint}");
        }
        self.connections.cut(key, DropReason::MemberRefused, &mut self.metrics);
    }

    /// Gives connections to the cores that they want.
    pub(in crate::runtime) fn hand_members_over(&mut self) {
        while let Some(key) = self.connections.leaving.pop() {
            let Some(connection) = self.connections.find(key) else { continue };
            if connection.phase != Phase::Open {
                continue;
            }
            let Some(connection) = self.connections.take_out(key.slot) else { continue };
            let Protocol::Peer(link) = connection.protocol else { continue };
            let PeerLink { stage: Stage::Leaving { to, hello }, carrier, .. } = *link else {
                continue;
            };
            let arrival = MemberArrival { socket: connection.socket, hello, carrier };
            if self.node.cores[usize::from(to.0)].give_peer(arrival) {
                self.metrics.handed_over_count += 1;
                self.mesh.ring_later(to);
            }
        }
    }

    /// Takes in members' connections that other cores have accepted.
    pub(in crate::runtime) fn take_member_arrivals(&mut self) -> bool {
        let mut busy = false;
        while let Some(arrival) = self.core().next_peer_arrival() {
            let MemberArrival { socket, hello, carrier } = arrival;
            busy = true;
            self.counted_connections += 1;
            if self.is_going_down() {
                continue;
            }
            let key = self.connections.insert(socket);
            self.expect_greeting(key, carrier);
            self.take_greeting(key, Flag::Hello, hello);
        }
        busy
    }
}

/// The latest life of each node in any of these partitions.
fn latest_lives(
    partitions: &[PartitionState],
    members: impl Fn(PartitionId) -> Vec<NodeId>,
) -> BTreeMap<NodeId, Incarnation> {
    let mut latest = BTreeMap::new();
    for state in partitions {
        for (node, life) in members(state.partition).into_iter().zip(&state.lives) {
            let known: &mut Incarnation = latest.entry(node).or_default();
            *known = (*known).max(*life);
        }
    }
    latest
}

// Greetings never wait for room.
const _: () = assert!(2 * HELLO_SIZE_BYTES_MAX < PEER_QUEUE_SIZE_BYTES_MAX);
