//! What a member acts upon in the tests: a state machine with undo, a disk, and what it wants sent.

use std::collections::BTreeMap;

use super::disk::{Disk, Record, Snapshot};
use crate::base::checksum::digest128;
use crate::base::ids::{Index, MemberId};
use crate::base::payload::ResultBytes;
use crate::nopaxos::message::{CheckpointPart, Message};
use crate::nopaxos::replica::log::Slot;
use crate::nopaxos::{
    ChunkOutcome, Effects, GivenBack, Member, Persist, Round, Status, Stored, ViewStarted,
};

/// Bytes of a chunk of a checkpoint: a state is 16 bytes, so there are several.
pub(super) const CHUNK_SIZE_BYTES: u32 = 12;

/// A state: the digest of all commands in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Machine {
    pub(super) applied: Index,
    pub(super) state: u128,
    /// The state at each slot since the last checkpoint that was installed.
    pub(super) states: BTreeMap<Index, u128>,
    /// The states before slots that may be undone.
    undo: Vec<(Index, u128)>,
}

impl Machine {
    pub(super) fn at(snapshot: Snapshot) -> Self {
        let states = BTreeMap::from([(snapshot.index, snapshot.state)]);
        Self { applied: snapshot.index, state: snapshot.state, states, undo: Vec::new() }
    }

    pub(super) fn step(&mut self, index: Index, value: Option<&[u8]>) {
        assert!(index > self.applied, "slots are executed in order");
        // No-ops are not executed: the states between are the ones before.
        for between in (self.applied.0 + 1..index.0).map(Index) {
            self.states.insert(between, self.state);
        }
        if let Some(value) = value {
            let bytes: Vec<u8> = self.state.to_le_bytes().iter().chain(value).copied().collect();
            self.state = digest128(&bytes);
        }
        self.applied = index;
        self.states.insert(index, self.state);
    }

    /// The state as of a slot that may be a no-op after the last command.
    pub(super) fn as_of(&self, index: Index) -> u128 {
        let (_, state) = self.states.range(..=index).next_back().expect("a state is known");
        *state
    }
}

/// What a member wants done, kept for the cluster to do.
#[derive(Clone, Debug, Default)]
pub(super) struct Host {
    pub(super) machine: Machine,
    pub(super) disk: Disk,
    /// Records that were handed to the disk in this step.
    pub(super) appended_count: usize,
    pub(super) sent: Vec<(MemberId, Message)>,
    pub(super) stored: Vec<(MemberId, Stored)>,
    pub(super) chunks: Vec<ChunkOutcome>,
    pub(super) answers: Vec<(u64, Index, ResultBytes)>,
    pub(super) query_answers: Vec<(u64, Index, Vec<u8>)>,
    pub(super) given_back: Vec<(u64, GivenBack)>,
    pub(super) readable: Vec<(Round, Index)>,
    pub(super) unreadable_count: usize,
    pub(super) started: Vec<ViewStarted>,
    pub(super) left_count: usize,
    pub(super) stable: Index,
    /// Bytes of the checkpoint that is coming in.
    pub(super) incoming: Vec<u8>,
    pub(super) received: Option<Snapshot>,
    /// The log has no room for values.
    pub(super) is_full: bool,
    /// When the disk is done with what it has.
    pub(super) busy_until: u64,
}

impl Host {
    /// What a process finds that starts with this disk.
    pub(super) fn restarted(disk: Disk) -> Self {
        let image = &disk.durable;
        let mut machine = Machine::at(image.checkpoint);
        for (index, slot) in image.slots.range(..=image.sync_point) {
            machine.step(*index, slot.value.as_deref());
        }
        let stable = image.sync_point;
        Self { machine, stable, disk, ..Self::default() }
    }

    /// Takes a checkpoint of the stable state and cuts the log there, if there is anything to cut.
    pub(super) fn checkpoint(&mut self, member: &mut Member<u64>) -> bool {
        let index = self.stable;
        if !self.may_checkpoint(member) {
            return false;
        }
        let Some((chain, timestamp)) = member.replica().log().at(index) else { return false };
        let state = self.machine.as_of(index);
        self.disk.checkpoint(Snapshot { index, chain, timestamp, state });
        member.on_truncated(index.next());
        true
    }

    pub(super) fn may_checkpoint(&self, member: &Member<u64>) -> bool {
        member.replica().status() == Status::Normal
            && self.stable > self.disk.durable.checkpoint.index
            && self.disk.in_flight_count() == 0
    }
}

impl Effects<u64> for Host {
    fn persist(&mut self, record: Persist<'_>) {
        self.disk.append(Record::of(record, self.received));
        self.appended_count += 1;
    }

    fn has_room(&mut self, _size_bytes: usize) -> bool {
        !self.is_full
    }

    fn execute(&mut self, index: Index, slot: &Slot) -> ResultBytes {
        let value = slot.value.as_deref().expect("no-ops are not executed");
        self.machine.undo.push((index, self.machine.state));
        self.machine.step(index, Some(value));
        ResultBytes::from_slice(&value[..8])
    }

    fn apply(&mut self, index: Index, slot: &Slot) {
        assert!(self.machine.undo.is_empty(), "I9: a follower has nothing to undo");
        self.machine.step(index, slot.value.as_deref());
    }

    fn undo_to(&mut self, index: Index) {
        while let Some((_, before)) = self.machine.undo.pop_if(|(at, _)| *at > index) {
            self.machine.state = before;
        }
        self.machine.states.split_off(&index.next());
        self.machine.applied = index;
        assert_eq!(self.machine.state, self.machine.as_of(index), "I9: undo restores the state");
    }

    fn stabilise(&mut self, index: Index) {
        self.machine.undo.retain(|(at, _)| *at > index);
        assert!(index > self.stable, "I7: the sync point moves forward");
        self.stable = index;
    }

    fn answer(&mut self, waiter: u64, index: Index, result: ResultBytes) {
        self.answers.push((waiter, index, result));
    }

    fn give_back(&mut self, waiter: u64, why: GivenBack) {
        self.given_back.push((waiter, why));
    }

    fn readable(&mut self, round: Round, index: Index) {
        self.readable.push((round, index));
    }

    fn unreadable(&mut self) {
        self.unreadable_count += 1;
    }

    fn evaluate(&mut self, index: Index, _query: &[u8]) -> ResultBytes {
        ResultBytes::from_slice(&self.machine.as_of(index).to_le_bytes())
    }

    fn answer_query(&mut self, waiter: u64, index: Index, result: &[u8]) {
        self.query_answers.push((waiter, index, result.to_vec()));
    }

    fn send(&mut self, to: MemberId, message: Message) {
        self.sent.push((to, message));
    }

    fn send_stored(&mut self, to: MemberId, stored: Stored) {
        self.stored.push((to, stored));
    }

    fn receive_chunk(&mut self, part: CheckpointPart) {
        if part.number == 0 {
            self.incoming.clear();
        }
        self.incoming.extend_from_slice(&part.data);
        if crate::base::cast::u64_from(self.incoming.len()) < part.size_bytes {
            self.chunks.push(ChunkOutcome::Kept);
            return;
        }
        let snapshot = decode(part.index, &self.incoming);
        self.received = Some(snapshot);
        let Snapshot { chain, timestamp, .. } = snapshot;
        self.chunks.push(ChunkOutcome::Complete { chain, timestamp });
    }

    fn install(&mut self, index: Index) {
        let snapshot = self.received.expect("a whole checkpoint is installed");
        assert_eq!(snapshot.index, index);
        self.machine = Machine::at(snapshot);
        self.stable = index;
    }

    fn view_started(&mut self, started: ViewStarted) {
        self.started.push(started);
    }

    fn view_left(&mut self) {
        self.left_count += 1;
    }
}

/// A checkpoint's bytes.
pub(super) fn encode(snapshot: Snapshot) -> Vec<u8> {
    let mut bytes = snapshot.state.to_le_bytes().to_vec();
    bytes.extend_from_slice(&snapshot.chain.0);
    bytes.extend_from_slice(&snapshot.timestamp.0.to_le_bytes());
    bytes
}

fn decode(index: Index, bytes: &[u8]) -> Snapshot {
    use crate::base::chain::Chain;
    use crate::base::time::Timestamp;
    Snapshot {
        index,
        state: u128::from_le_bytes(bytes[..16].try_into().unwrap()),
        chain: Chain(bytes[16..32].try_into().unwrap()),
        timestamp: Timestamp(u64::from_le_bytes(bytes[32..40].try_into().unwrap())),
    }
}
