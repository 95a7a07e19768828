//! One member with its disk, as a function: what it is and what happens to it give what it is then
//! and the facts that follow. Nothing in it knows of time.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;

use super::super::disk::Disk;
use super::super::host::Host;
use super::super::observer::{check_durable, op_of};
use super::super::stored::served;
use super::bounds::{Bounds, Budget};
use super::facts::{Fact, Sent};
use crate::base::ids::{Incarnation, Index, MemberId, PartitionId, TermId};
use crate::base::time::{Monotonic, Now, Timestamp};
use crate::nopaxos::message::Message;
use crate::nopaxos::timeout::Timeout;
use crate::nopaxos::{Group, Member, Round, Settings, Status, Survival, Timing};

/// How many members the group has.
pub(super) const COUNT: usize = 3;

const NOW: Now = Now { monotonic: Monotonic(1_000_000), wall: Timestamp(1) };

/// What may time out. All else that time does either says again what is a fact already, or wishes a
/// view, which everybody may at any time ([`Input::Move`]).
const TIMEOUTS: [Timeout; 6] = [
    Timeout::Sync,
    Timeout::MergeGrace,
    Timeout::Gap,
    Timeout::GapGivenUp,
    Timeout::SyncRepair,
    Timeout::Fetch,
];

/// What happens to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Input {
    /// A message arrives: the fact with this number.
    Deliver(u32),
    /// Everything that was written is durable.
    Durable,
    /// Something times out: by its place in [`TIMEOUTS`].
    TimeOut(u8),
    /// Both others wish a view.
    Move(TermId),
    /// A client's command is stamped.
    Submit(u64),
    /// A client's linearizable read begins.
    Read { read: u64, covers: Index },
    /// The process ends and another begins; so many of the records in flight are on the disk, or
    /// nothing at all.
    Restart { survivors: usize, is_lost: bool },
    /// The log is cut at a new checkpoint.
    Checkpoint,
    /// There is a new connection to a member.
    Repeat(MemberId),
}

impl Input {
    /// What it is counted as.
    pub(super) fn budget(self) -> Option<Budget> {
        match self {
            Self::Deliver(_) | Self::Durable | Self::Move(_) => None,
            Self::TimeOut(place) => match TIMEOUTS[usize::from(place)] {
                Timeout::GapGivenUp => Some(Budget::GapCommit),
                Timeout::Gap | Timeout::SyncRepair | Timeout::Fetch => Some(Budget::Ask),
                _ => None,
            },
            Self::Submit(_) => Some(Budget::Command),
            Self::Read { .. } => Some(Budget::Read),
            Self::Restart { is_lost: false, .. } => Some(Budget::Restart),
            Self::Restart { is_lost: true, .. } => Some(Budget::DiskLoss),
            Self::Checkpoint => Some(Budget::Checkpoint),
            Self::Repeat(_) => Some(Budget::Repeat),
        }
    }

    /// In words.
    pub(super) fn describe(self) -> String {
        match self {
            Self::TimeOut(place) => format!("{:?} times out", TIMEOUTS[usize::from(place)]),
            other => format!("{other:?}"),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    member: Member<u64>,
    host: Host,
    /// How many processes there were before.
    process: u64,
    /// Reads that wait for a round.
    reads: Vec<(Round, u64)>,
    /// The highest view that it has voted for.
    voted: TermId,
    /// The sync point that was told as facts.
    stable: Index,
    /// Whatever it says must be durable.
    is_durable: bool,
}

impl Node {
    /// A member of a new group. That none of it has lost anything is known already.
    pub(super) fn new(id: MemberId, bounds: &Bounds) -> (Self, Vec<Fact>) {
        let mut facts = Vec::new();
        let mut node = Self::on(Disk::default(), id, 0, bounds);
        node.begin(bounds, &mut facts);
        (node, facts)
    }

    fn on(disk: Disk, id: MemberId, process: u64, bounds: &Bounds) -> Self {
        let names = ["a", "b", "c"].map(String::from).to_vec();
        let name = names[usize::from(id.0)].clone();
        let partition = PartitionId(2);
        let group = Group::new(partition, names, &name).with_sequencer_offset(bounds.offset);
        let survival = bounds.survival;
        let settings = Settings { survival, timing: timing(), ..Settings::default() };
        let restored = disk.durable.restored();
        let host = Host::restarted(disk);
        let stable = host.stable;
        let member = Member::new(group, settings, restored, process);
        let is_durable = survival == Survival::Always;
        Self { member, host, process, reads: Vec::new(), voted: TermId(0), stable, is_durable }
    }

    fn begin(&mut self, bounds: &Bounds, facts: &mut Vec<Fact>) {
        self.act(facts, |member, host| member.start(NOW, TermId(1), host));
        self.settle(bounds, facts);
    }

    pub(super) fn member(&self) -> &Member<u64> {
        &self.member
    }

    /// What may happen to it, apart from messages.
    pub(super) fn inputs(&self, bounds: &Bounds) -> Vec<Input> {
        let mut inputs = Vec::new();
        let replica = self.member.replica();
        let in_flight = self.host.disk.in_flight_count();
        if in_flight > 0 {
            inputs.push(Input::Durable);
        }
        for (place, timeout) in (0..).zip(TIMEOUTS) {
            inputs.extend(self.member.waits_for(timeout).then_some(Input::TimeOut(place)));
        }
        if replica.status() != Status::Recovering {
            let terms = replica.view().0 + 1..=bounds.terms;
            inputs.extend(terms.map(|term| Input::Move(TermId(term))));
        }
        if self.member.is_stamping() {
            inputs.push(Input::Submit(0));
            inputs.push(Input::Read { read: 0, covers: Index(0) });
        }
        let survivors = if bounds.survival == Survival::Never { 0 } else { in_flight };
        let restart = |survivors| Input::Restart { survivors, is_lost: false };
        inputs.extend((0..=survivors).map(restart));
        inputs.push(Input::Restart { survivors: 0, is_lost: true });
        if self.host.may_checkpoint(&self.member) {
            inputs.push(Input::Checkpoint);
        }
        if replica.is_leading() {
            inputs.extend(self.member.group().others().map(Input::Repeat));
        }
        inputs.retain(|input| input.budget().is_none_or(|budget| bounds.of(budget) > 0));
        inputs
    }

    /// What it is after `input`, and what follows; or which invariant it broke.
    pub(super) fn after(
        &self,
        input: Input,
        sent: Option<&Sent>,
        bounds: &Bounds,
    ) -> Result<(Self, Vec<Fact>), String> {
        let mut node = self.clone();
        let mut facts = Vec::new();
        let act = AssertUnwindSafe(|| node.take(input, sent, bounds, &mut facts));
        match catch_unwind(act) {
            Ok(()) => Ok((node, facts)),
            Err(panic) => Err(panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
                .unwrap_or_default()),
        }
    }

    fn take(&mut self, input: Input, sent: Option<&Sent>, bounds: &Bounds, facts: &mut Vec<Fact>) {
        match input {
            Input::Deliver(_) => self.deliver(sent.expect("it is a message"), facts),
            Input::Durable => self.make_durable(facts),
            Input::TimeOut(place) => {
                let timeout = TIMEOUTS[usize::from(place)];
                self.act(facts, |member, host| member.time_out(timeout, NOW, host));
            }
            Input::Move(term) => self.wish(term, facts),
            Input::Submit(op) => {
                let value = Bytes::copy_from_slice(&op.to_le_bytes());
                self.act(facts, |member, host| member.submit(NOW, value, op, host));
            }
            Input::Read { read, covers } => self.read(read, covers, facts),
            Input::Restart { survivors, is_lost } => {
                self.restart(survivors, is_lost, bounds, facts);
            }
            Input::Checkpoint => {
                self.host.checkpoint(&mut self.member);
            }
            Input::Repeat(to) => {
                self.act(facts, |member, host| member.on_peer_connected(NOW, to, host));
            }
        }
        self.settle(bounds, facts);
    }

    fn deliver(&mut self, sent: &Sent, facts: &mut Vec<Fact>) {
        let Sent { from, life, vector, message, .. } = sent.clone();
        self.act(facts, |member, host| member.on_crash_vector(NOW, &vector, host));
        self.act(facts, |member, host| member.on_message(NOW, (from, life), message, host));
    }

    /// Everybody else wishes a view: a wish promises nothing, so anybody may have it at any time.
    fn wish(&mut self, term: TermId, facts: &mut Vec<Fact>) {
        let others: Vec<MemberId> = self.member.group().others().collect();
        for other in others {
            let life = self.member.replica().crash_vector()[usize::from(other.0)];
            let wish = Message::ViewChangeRequest { term };
            self.act(facts, |member, host| member.on_message(NOW, (other, life), wish, host));
        }
    }

    fn read(&mut self, read: u64, covers: Index, facts: &mut Vec<Fact>) {
        facts.push(Fact::Asked { read, covers });
        if self.member.replica().is_leading() {
            let round = self.member.barrier(NOW, &mut self.host);
            self.reads.extend(round.map(|round| (round, read)));
            self.collect(facts);
        } else {
            let query = Bytes::from_static(b"state");
            self.act(facts, |member, host| member.query(NOW, query, read, host));
        }
    }

    fn restart(&mut self, survivors: usize, is_lost: bool, bounds: &Bounds, facts: &mut Vec<Fact>) {
        let mut disk = std::mem::take(&mut self.host.disk);
        disk.crash(survivors);
        let mut voted = self.voted;
        if is_lost || bounds.survival == Survival::Never {
            disk = Disk::blank();
            voted = TermId(0);
        } else if bounds.survival == Survival::Clean {
            disk.lose();
        }
        let id = self.member.group().me();
        *self = Self { voted, ..Self::on(disk, id, self.process + 1, bounds) };
        self.begin(bounds, facts);
    }

    fn make_durable(&mut self, facts: &mut Vec<Fact>) {
        for _ in 0..self.host.disk.in_flight_count() {
            if let Some(persisted) = self.host.disk.make_durable() {
                self.act(facts, |member, host| member.on_persisted(NOW, persisted, host));
            }
        }
    }

    fn act(&mut self, facts: &mut Vec<Fact>, act: impl FnOnce(&mut Member<u64>, &mut Host)) {
        act(&mut self.member, &mut self.host);
        self.collect(facts);
    }

    /// Brings a step to its end: what needs nobody else happens at once.
    fn settle(&mut self, bounds: &Bounds, facts: &mut Vec<Fact>) {
        loop {
            if !self.host.chunks.is_empty() {
                let outcome = self.host.chunks.remove(0);
                self.act(facts, |member, host| member.on_chunk(NOW, outcome, host));
            } else if !bounds.lazy && self.host.disk.in_flight_count() > 0 {
                self.make_durable(facts);
            } else {
                self.act(facts, |member, host| member.flush(NOW, host));
                if self.host.chunks.is_empty()
                    && (bounds.lazy || self.host.disk.in_flight_count() == 0)
                {
                    break;
                }
            }
        }
        self.member.forget_time(&TIMEOUTS, self.process);
    }

    /// Takes what the member wants done for facts.
    fn collect(&mut self, facts: &mut Vec<Fact>) {
        let host = &mut self.host;
        (host.appended_count, host.left_count) = (0, 0);
        if std::mem::take(&mut host.unreadable_count) > 0 {
            self.reads.clear();
        }
        host.given_back.clear();
        let (me, term) = (self.member.group().me(), self.member.term());
        for started in std::mem::take(&mut host.started) {
            if started.sequencing {
                facts.push(Fact::Stamps { term, by: me, process: self.process });
            }
            if self.member.group().leader(term) == me {
                let slots = &host.disk.written.slots;
                let slots = slots.range(..=started.base);
                let slots = slots.map(|(index, slot)| (*index, slot.value.as_deref().map(op_of)));
                facts.push(Fact::Began { term, base: started.base, slots: slots.collect() });
            }
        }
        self.collect_stable(facts);
        let host = &mut self.host;
        for (op, index, _) in host.answers.drain(..) {
            facts.push(Fact::Answered { op, index, term });
        }
        for (read, index, state) in host.query_answers.drain(..) {
            let state = u128::from_le_bytes(state[..16].try_into().expect("a state"));
            facts.push(Fact::Read { read, index, state, term });
        }
        for (round, index) in host.readable.drain(..) {
            let state = host.machine.as_of(index);
            let answered = self.reads.extract_if(.., |(waits, _)| *waits <= round);
            facts.extend(answered.map(|(_, read)| Fact::Read { read, index, state, term }));
        }
        self.collect_sent(facts);
    }

    fn collect_stable(&mut self, facts: &mut Vec<Fact>) {
        let (before, stable) = (self.stable, self.host.stable);
        if stable <= before {
            return;
        }
        let term = self.member.replica().view();
        for index in (before.0 + 1..=stable.0).map(Index) {
            if let Some(slot) = self.host.disk.written.slots.get(&index) {
                let (message_id, op) = (slot.message_id, slot.value.as_deref().map(op_of));
                facts.push(Fact::Stable { index, message_id, op, term });
            }
        }
        let state = self.host.machine.as_of(stable);
        facts.push(Fact::State { index: stable, state });
        self.stable = stable;
    }

    fn collect_sent(&mut self, facts: &mut Vec<Fact>) {
        let mut sent = std::mem::take(&mut self.host.sent);
        for (to, stored) in std::mem::take(&mut self.host.stored) {
            let messages = served(&self.host.disk.written, stored);
            sent.extend(messages.into_iter().map(|message| (to, message)));
        }
        let replica = self.member.replica();
        let from = self.member.group().me();
        let life = replica.incarnation();
        let mut vector: Vec<Incarnation> = replica.crash_vector().to_vec();
        vector[usize::from(from.0)] = life;
        for (to, message) in sent {
            // Wishes and signs of life carry nothing that `Input::Move` doesn't.
            if let Message::ViewChangeRequest { .. } | Message::Ping { .. } = message {
                continue;
            }
            self.check_sent(&message);
            facts.push(Fact::Sent(Sent { from, to, life, vector: vector.clone(), message }));
        }
    }

    fn check_sent(&mut self, message: &Message) {
        let term = message.term().unwrap_or_default();
        let is_claim = matches!(
            message,
            Message::CommandResponse { .. }
                | Message::GapCommitResponse { .. }
                | Message::SyncResponse { .. }
                | Message::QueryResponse { .. }
        );
        assert!(!is_claim || term >= self.voted, "I8: it goes on in a view that it has left");
        if self.is_durable {
            check_durable(message, &self.host.disk.durable, &self.member);
        }
        if let Message::ViewChange { term, .. } = message {
            self.voted = self.voted.max(*term);
        }
    }
}

/// All equal, so that nothing tells how often something was tried.
fn timing() -> Timing {
    let timing = Timing::default().scaled(0, 1);
    Timing { sync_batch_count: u64::MAX, ..timing }
}
