//! The replica of one partition: its log, its views, and what it has executed.
//!
//! In [`Status::Normal`] it appends what the sequencer stamps; the leader also executes each slot
//! at once, ahead of commitment, and can undo it; the others execute what is stable. In
//! [`Status::ViewChange`] it has promised a view (durably, W1) and waits for it to be adopted
//! (durably, W2). In [`Status::Recovering`] it has lost what it had promised, and neither votes nor
//! acknowledges anything until it has copied it from the others.
//!
//! What leaves the member waits for the durable log (W3): acks, results, responses to no-ops and to
//! proposed sync points are sent by what follows from `on_persisted`.
//!
//! | file | what |
//! | --- | --- |
//! | `dispatch` | messages of other members: what is ignored, what goes where (2.0) |
//! | `request` | stamped commands: append, execute, acknowledge (3.1) |
//! | `gap` | slots that are missing: stash, lookup, no-ops with a quorum (3.2) |
//! | `sync` | what is held by a quorum becomes stable (3.3) |
//! | `durable` | which slots are on the disk as they stand in memory |
//! | `repair` | what other members lack is sent to them; checkpoints that come in |
//! | `election` | who wants which view (3.4, T1 to T7, E1 to E4) |
//! | `view_change` | promise, vote (J), and the messages of a view change |
//! | `log_merge` | the log with which a view starts, as a pure function (M2 to M5) |
//! | `adoption` | a view's log is fetched and adopted, by its leader and by the others (M5, A) |
//! | `recovery` | lives, crash vectors, and the way back after a loss (3.6) |

mod adoption;
mod dispatch;
mod durable;
mod election;
mod gap;
pub mod log;
pub mod log_merge;
mod recovery;
mod repair;
mod request;
mod stash;
mod sync;
#[cfg(test)]
mod timeless;
mod view_change;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use self::adoption::Adoption;
use self::durable::Durable;
use self::election::Election;
use self::log::{Log, Slot};
use self::log_merge::Vote;
use self::recovery::Recovery;
use self::repair::Transfer;
use self::stash::Stash;
use self::sync::{OpenPrepare, SyncLeader};
use super::Group;
use super::effects::{ChunkOutcome, Persist, Persisted, Stored, ViewStarted};
use super::ignored::IgnoreReason;
use super::invariant::invariant;
use super::member_set::MemberSet;
use super::message::{Answer, CheckpointPart, LogSummary, Message};
use super::settings::Settings;
use super::timeout::{Timeout, Timeouts};
use crate::base::chain::Chain;
use crate::base::ids::{Incarnation, Index, MemberId, MessageId, TermId};
use crate::base::limits::MEMBER_COUNT_MAX;
use crate::base::payload::ResultBytes;
use crate::base::prng::Prng;
use crate::base::time::{Monotonic, Timestamp};
use crate::mark;

/// What a replica is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is part of its view.
    Normal,
    /// It has left its last view and waits for a new one.
    ViewChange,
    /// It has lost what it had promised and asks the others.
    Recovering,
}

/// What a replica had when its process ended, as the durable log tells.
#[derive(Debug, Default)]
pub struct Restored {
    /// The highest view promised.
    pub view: TermId,
    /// The highest view adopted.
    pub last_normal: TermId,
    /// The base of `last_normal`.
    pub base: Index,
    /// The first slot of which it is known whether it is a no-op: what `no_ops` says is complete
    /// from here on. The slot after the newest checkpoint's index always is.
    pub first: Index,
    /// The stable prefix: executed already.
    pub sync_point: Index,
    /// The chain digest at `sync_point`.
    pub chain: Chain,
    /// The timestamp of the slot at `sync_point`.
    pub timestamp: Timestamp,
    /// The no-ops in [first, `sync_point`].
    pub no_ops: BTreeSet<Index>,
    /// The slots above `sync_point`.
    pub slots: Vec<Slot>,
    /// The member's life; 0: its first.
    pub incarnation: Incarnation,
    /// The highest life known of each member, in their order; empty: none is known.
    pub crash_vector: Vec<Incarnation>,
    /// This is not all that the member has promised: its disk is new or damaged, or it ended in a
    /// way that lost the end of its log. It recovers from the others.
    pub is_lost: bool,
}

/// What a replica acts upon: the effects, and the machines beside it.
pub(super) trait World {
    fn now(&self) -> Monotonic;
    fn persist(&mut self, record: Persist<'_>);
    fn has_room(&mut self, size_bytes: usize) -> bool;
    fn execute(&mut self, index: Index, slot: &Slot) -> ResultBytes;
    fn apply(&mut self, index: Index, slot: &Slot);
    fn undo_to(&mut self, index: Index);
    fn stabilise(&mut self, index: Index);
    fn send(&mut self, to: MemberId, message: Message);
    fn send_stored(&mut self, to: MemberId, stored: Stored);
    fn receive_chunk(&mut self, part: CheckpointPart);
    fn install(&mut self, index: Index);
    /// To the collector of the view, wherever it is.
    fn respond(&mut self, message_id: MessageId, index: Index, answer: Answer);
    fn view_started(&mut self, started: ViewStarted);
    fn view_left(&mut self);
    /// The own sequencer stamps nothing any more in this view.
    fn stop_stamping(&mut self);
    /// What an earlier life of a member has said to the collector counts no longer.
    fn void(&mut self, member: MemberId);
    fn ignore(&mut self, reason: IgnoreReason);
}

/// How a member stands with another one.
#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    is_connected: bool,
    /// When it was heard in the present view (T4).
    heard: Monotonic,
    /// When it was told last that its view is stale.
    told: Option<Monotonic>,
}

/// The replica of one partition.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub struct Replica {
    pub(super) group: Group,
    settings: Settings,
    prng: Prng,
    pub(super) timeouts: Timeouts,
    peers: [Peer; MEMBER_COUNT_MAX],

    /// The highest view promised; never decreases (I8).
    view: TermId,
    /// The highest view adopted; the log is of this view.
    last_normal: TermId,
    base: Index,
    status: Status,
    /// An earlier life led, or might have led, `view`: nothing is done in it (S3).
    is_barred: bool,

    log: Log,
    /// The first slot in the durable log.
    first: Index,
    /// The same as soon as no vote is out that says otherwise.
    truncated: Index,
    durable: Durable,
    /// Slots up to here are executed; the leader's may be undone above `sync_point`.
    applied: Index,
    /// Slots up to here were answered to the collector, or belong to earlier terms.
    responded: Index,
    /// Slots up to here are as the leader's.
    prepared: Index,
    /// Slots up to here are stable: held by a quorum, never undone.
    sync_point: Index,
    /// The sync point last written to the durable log.
    sync_point_written: Index,
    /// Bytes of the commands between the two.
    unwritten_size_bytes: usize,
    /// What came of the slots (responded, applied].
    results: VecDeque<ResultBytes>,
    /// How many bytes `results` holds.
    results_size_bytes: usize,
    /// What was answered to a collector elsewhere, should it be lost.
    answered: request::Answered,
    /// An ack is due at the end of the turn.
    ack_due: bool,

    stash: Stash,
    /// The highest slot that is known to have been stamped.
    stamped: Index,
    /// How long until missing slots are asked for again.
    lookup_delay_ns: u64,
    /// Questions for slots that were answered just now.
    lookups_answered: BTreeMap<(MemberId, MessageId), Monotonic>,
    /// Leader: no-ops without their quorum, and who has confirmed them.
    pending_gaps: BTreeMap<Index, MemberSet>,
    /// Follower: no-ops that the leader wants to hear of once they are durable.
    gap_replies: BTreeSet<Index>,

    /// Leader: how far the others are.
    sync: SyncLeader,
    /// Follower: the sync point that the leader has proposed.
    prepare: Option<OpenPrepare>,
    /// Follower: the leader waits to hear how much is durable.
    sync_reply_due: bool,
    /// A checkpoint that is coming in.
    transfer: Option<Transfer>,

    election: Election,
    /// Each member's last vote and the view that it is for.
    votes: Vec<Option<(TermId, Vote)>>,
    /// The own vote for `view`: what the log held when it was promised (I8).
    vote: Option<(Vote, Chain)>,
    /// The log with which `view` starts, as long as it isn't here.
    adoption: Option<Adoption>,
    /// What the view that was adopted last started with, and the view whose logs that was: all that
    /// is ever said of it (I5). Not known after a restart.
    started: Option<(TermId, LogSummary)>,

    /// The member's life.
    incarnation: Incarnation,
    /// The highest life known of each member.
    crash_vector: Vec<Incarnation>,
    recovery: Option<Recovery>,
    /// Members whose `Recover` waits for the crash vector to be durable (W7), and for which of the
    /// writes.
    lives: recovery::Lives,
}

impl Replica {
    /// A replica with what its member had before; a new one with [`Restored::default`].
    ///
    /// # Panics
    /// If what was restored contradicts itself.
    #[must_use]
    pub(super) fn new(group: Group, settings: Settings, restored: Restored, seed: u64) -> Self {
        assert!(restored.last_normal <= restored.view, "a view is promised before it is adopted");
        let mut log = Log::new(restored.sync_point, restored.chain, restored.timestamp);
        log.note_no_ops(restored.no_ops);
        for slot in restored.slots {
            log.append(slot);
        }
        let last = log.last();
        assert!(restored.base <= last, "a view's base is in the log");
        let count = group.count();
        let mut crash_vector = restored.crash_vector;
        crash_vector.resize(count, Incarnation(0));
        let salt = format!("replica {} {}", group.partition(), group.me());
        let is_lost = restored.is_lost && !group.is_alone();
        Self {
            settings,
            prng: Prng::new(seed, &salt),
            timeouts: Timeouts::default(),
            peers: [Peer::default(); MEMBER_COUNT_MAX],
            view: restored.view,
            last_normal: restored.last_normal,
            base: restored.base,
            status: if is_lost { Status::Recovering } else { Status::ViewChange },
            is_barred: false,
            log,
            first: restored.first.max(Index(1)),
            truncated: Index(0),
            durable: Durable { appended: last, ..Durable::default() },
            applied: restored.sync_point,
            responded: restored.sync_point,
            prepared: restored.sync_point,
            sync_point: restored.sync_point,
            sync_point_written: restored.sync_point,
            unwritten_size_bytes: 0,
            results: VecDeque::new(),
            results_size_bytes: 0,
            answered: request::Answered::default(),
            ack_due: false,
            stash: Stash::default(),
            stamped: Index(0),
            lookup_delay_ns: settings.timing.slot_lookup_retry_ns,
            lookups_answered: BTreeMap::new(),
            pending_gaps: BTreeMap::new(),
            gap_replies: BTreeSet::new(),
            sync: SyncLeader::default(),
            prepare: None,
            sync_reply_due: false,
            transfer: None,
            election: Election::new(count),
            votes: vec![None; count],
            vote: None,
            adoption: None,
            started: None,
            incarnation: restored.incarnation,
            crash_vector,
            recovery: is_lost.then(Recovery::default),
            lives: recovery::Lives::default(),
            group,
        }
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// What the replica is doing.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status
    }

    /// The highest view promised.
    #[must_use]
    pub fn view(&self) -> TermId {
        self.view
    }

    /// The highest view adopted.
    #[must_use]
    pub fn last_normal(&self) -> TermId {
        self.last_normal
    }

    /// The base of the view adopted.
    #[must_use]
    pub fn base(&self) -> Index {
        self.base
    }

    /// The log above the sync point, and what is kept of it below.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Bytes of results that may not be given out yet. A command of a few bytes can have a whole
    /// value as its result.
    #[must_use]
    pub fn results_size_bytes(&self) -> usize {
        self.results_size_bytes
    }

    /// The first slot in the durable log.
    #[must_use]
    pub fn first(&self) -> Index {
        self.first
    }

    /// Slots up to here are durable as they are.
    #[must_use]
    pub fn durable(&self) -> Index {
        self.durable.index()
    }

    /// Slots up to here were durable when they were appended. In one view that never goes back,
    /// though some may have become no-ops since and not be durable as such.
    #[must_use]
    pub fn stored(&self) -> Index {
        self.durable.appended
    }

    /// Slots up to here are as the leader's.
    #[must_use]
    pub fn prepared(&self) -> Index {
        self.prepared
    }

    /// Slots up to here are stable.
    #[must_use]
    pub fn sync_point(&self) -> Index {
        self.sync_point
    }

    /// Slots up to here are executed.
    #[must_use]
    pub fn applied(&self) -> Index {
        self.applied
    }

    /// The member's life.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The highest life known of each member, in their order.
    #[must_use]
    pub fn crash_vector(&self) -> &[Incarnation] {
        &self.crash_vector
    }

    /// What the present view started with, and the view whose logs that was; `None` after a
    /// restart.
    #[must_use]
    pub fn started(&self) -> Option<(TermId, &LogSummary)> {
        self.started.as_ref().map(|(source_term, log)| (*source_term, log))
    }

    /// Whether this member leads the view that it is part of.
    #[must_use]
    pub fn is_leading(&self) -> bool {
        self.status == Status::Normal && self.group.leader(self.view) == self.group.me()
    }

    fn leader(&self) -> MemberId {
        self.group.leader(self.view)
    }

    fn sequencer(&self) -> MemberId {
        self.group.sequencer(self.view)
    }

    /// Only the leader of the view may say it.
    fn check_leads(&self, from: MemberId) -> Result<(), IgnoreReason> {
        if from == self.leader() { Ok(()) } else { Err(IgnoreReason::BadSender) }
    }

    /// Only a leader has a use for it.
    fn check_is_leading(&self) -> Result<(), IgnoreReason> {
        if self.is_leading() { Ok(()) } else { Err(IgnoreReason::NotLeading) }
    }

    /// Only the leader may say it, to a member that is part of its view.
    fn check_leads_me(&self, from: MemberId) -> Result<(), IgnoreReason> {
        if self.status != Status::Normal {
            return Err(IgnoreReason::NotNormal);
        }
        self.check_leads(from)
    }

    /// Something became durable, in the order in which it was handed to
    /// [`Effects::persist`](super::Effects::persist).
    pub(super) fn on_persisted(&mut self, persisted: Persisted, world: &mut impl World) {
        match persisted {
            Persisted::Slots(index) => self.on_slots_persisted(index, world),
            Persisted::NoOp(index) => self.on_no_op_persisted(index, world),
            Persisted::View(term) => self.on_view_persisted(term, world),
            Persisted::Adopted(term) => self.on_adopted(term, world),
            Persisted::Checkpoint(index) => {
                let first = self.durable.checkpoints.pop_front().map(|(first, _)| first);
                let is_first = first == Some(index);
                invariant!(self, "I14", is_first, "checkpoints become durable in their order");
                self.durable.appended = self.durable.appended.max(index);
                self.on_more_durable(world);
            }
            Persisted::Lives => self.on_lives_persisted(world),
        }
        self.assert_watermarks();
    }

    #[inline]
    fn on_slots_persisted(&mut self, index: Index, world: &mut impl World) {
        if self.status == Status::Normal {
            invariant!(self, "I14", index <= self.log.last(), "what was not appended is durable");
            self.durable.appended = self.durable.appended.max(index);
            self.on_more_durable(world);
        }
    }

    fn on_no_op_persisted(&mut self, index: Index, world: &mut impl World) {
        let first = self.durable.no_ops.pop_front();
        invariant!(self, "I14", first == Some(index), "no-ops become durable in their order");
        if self.status == Status::Normal {
            self.on_more_durable(world);
        }
    }

    /// What waited for the durable log may go out (W3, W4).
    #[inline]
    fn on_more_durable(&mut self, world: &mut impl World) {
        if self.is_leading() {
            if !self.pending_gaps.is_empty() {
                self.close_gaps(world);
            }
            self.respond(world);
            self.sync(world);
        } else if self.status == Status::Normal {
            self.ack_later(world);
            self.reply_to_gaps(world);
            self.reply_to_prepare(world);
        }
    }

    /// A piece of a checkpoint was kept, or not.
    pub(super) fn on_chunk(&mut self, outcome: ChunkOutcome, world: &mut impl World) {
        self.on_chunk_outcome(outcome, world);
        self.assert_watermarks();
    }

    /// Nothing but memory holds the slots after `index`.
    pub(super) fn keep_after(&mut self, index: Index) {
        self.log.keep_after(index);
    }

    /// A connection to a member is there: what it may have missed is sent at once.
    pub(super) fn on_peer_connected(&mut self, member: MemberId, world: &mut impl World) {
        self.peers[usize::from(member.0)].is_connected = true;
        match self.status {
            Status::Normal if self.is_leading() => {
                self.repeat_start_view(member, world);
                self.repeat_prepare(member, world);
                self.repeat_gaps(member, world);
            }
            Status::Normal => self.ack_later(world),
            Status::ViewChange => {
                if member == self.leader() {
                    self.send_vote(member, world);
                }
                self.resume_fetch(member, world);
            }
            Status::Recovering => self.repeat_recover(member, world),
        }
    }

    /// The last connection to a member is gone. `refused`: its process is, too (T7).
    pub(super) fn on_peer_disconnected(
        &mut self,
        member: MemberId,
        refused: bool,
        world: &mut impl World,
    ) {
        self.peers[usize::from(member.0)].is_connected = false;
        if refused {
            self.on_peer_gone(member, world);
        }
    }

    /// Everything whose time has come.
    pub(super) fn on_deadline(&mut self, world: &mut impl World) {
        let now = world.now();
        if self.timeouts.take(Timeout::Flush, now) {
            self.flush(world);
        }
        if self.timeouts.take(Timeout::Gap, now) {
            self.on_gap_timeout(world);
        }
        if self.timeouts.take(Timeout::GapGivenUp, now) {
            self.on_gap_given_up(world);
        }
        if self.timeouts.take(Timeout::GapCommit, now) {
            self.on_gap_commit_timeout(world);
        }
        if self.timeouts.take(Timeout::Sync, now) {
            self.on_sync_timeout(world);
        }
        if self.timeouts.take(Timeout::SyncResend, now) {
            self.on_sync_resend_timeout(world);
        }
        if self.timeouts.take(Timeout::SyncRepair, now) {
            self.on_sync_repair_timeout(world);
        }
        if self.timeouts.take(Timeout::Ping, now) {
            self.on_ping_timeout(world);
        }
        self.on_view_deadline(world);
        self.assert_watermarks();
    }

    fn on_view_deadline(&mut self, world: &mut impl World) {
        let now = world.now();
        if self.timeouts.take(Timeout::Silence, now) {
            self.on_silence_timeout(world);
        }
        if self.timeouts.take(Timeout::ViewChange, now) {
            self.on_view_change_timeout(world);
        }
        if self.timeouts.take(Timeout::ViewChangeRetry, now) {
            self.on_view_change_retry_timeout(world);
        }
        if self.timeouts.take(Timeout::Endorse, now) {
            self.on_endorse_timeout(world);
        }
        if self.timeouts.take(Timeout::MergeGrace, now) {
            self.freeze(world);
        }
        if self.timeouts.take(Timeout::Fetch, now) {
            self.on_fetch_timeout(world);
        }
        if self.timeouts.take(Timeout::Chunk, now) {
            self.on_chunk_timeout(world);
        }
        if self.timeouts.take(Timeout::Recover, now) {
            self.on_recover_timeout(world);
        }
    }

    /// The order of the watermarks, cheap enough for every step.
    #[inline]
    pub(super) fn assert_watermarks(&self) {
        let last = self.log.last();
        invariant!(self, "I7", self.sync_point <= self.prepared, "a sync point is not prepared");
        invariant!(self, "I7", self.prepared <= last, "what is prepared was not appended");
        invariant!(self, "I9", self.sync_point <= self.applied, "what is stable is not executed");
        invariant!(self, "I9", self.applied <= last, "what is executed was not appended");
        invariant!(self, "I8", self.last_normal <= self.view, "a view was not promised");
        let is_ahead = self.applied > self.sync_point;
        let may_be = self.status != Status::Normal || self.is_leading();
        invariant!(self, "I9", !is_ahead || may_be, "a follower has executed what is not stable");
    }
}
