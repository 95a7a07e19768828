//! A group of members in one process, with a network that delays, loses and reorders as streams do,
//! disks that forget what isn't durable, and virtual time. One seed gives one run.

use std::collections::{BTreeMap, BinaryHeap};

use bytes::Bytes;

use super::host::Host;
use super::observer::Observer;
use super::stored::served;
use crate::base::cast::usize_from;
use crate::base::ids::{Incarnation, Index, MemberId, PartitionId, TermId};
use crate::base::prng::Prng;
use crate::base::time::{Monotonic, NS_PER_MS, NS_PER_US, Now, Timestamp};
use crate::nopaxos::message::Message;
use crate::nopaxos::{
    ChunkOutcome, GivenBack, Group, Member, Round, Settings, Status, Stored, Survival,
};

/// A place in a run: a member has handed so many records to its disk, or so many have become
/// durable there.
#[derive(Clone, Copy, Debug)]
pub(super) struct CrashPoint {
    pub(super) member: MemberId,
    pub(super) record: usize,
    pub(super) is_durable: bool,
    /// Whether the process starts again at once, or only when all is healed.
    pub(super) returns: bool,
}

/// What is done with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Deliver,
    Drop,
    /// It overtakes, or is overtaken: it comes so much later, whatever its stream says.
    Delay(u64),
    /// It comes as it would, and so much later again.
    Twice(u64),
}

type Filter = Box<dyn FnMut(MemberId, MemberId, &Message) -> Verdict>;

#[derive(Debug)]
enum Event {
    Deliver { from: MemberId, to: MemberId, connection: u64, message: Message },
    Open { from: MemberId, to: MemberId, connection: u64, lives: Vec<Incarnation> },
    Durable { node: MemberId, process: u64 },
    Stored { node: MemberId, process: u64, to: MemberId, stored: Box<Stored> },
    Chunk { node: MemberId, process: u64, outcome: ChunkOutcome },
    Connect { a: MemberId, b: MemberId },
}

/// Events by time; those of one time in the order in which they were made.
#[derive(Debug)]
struct Scheduled(u64, u64, Event);

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.0, other.1).cmp(&(self.0, self.1))
    }
}

/// One direction of a connection.
#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    connection: u64,
    /// Nothing comes before what was sent before it.
    busy_until: u64,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) member: Option<Member<u64>>,
    pub(super) host: Host,
    process: u64,
    stable: Index,
    /// Which life the other side of each connection has said it is.
    lives: BTreeMap<u64, Incarnation>,
    /// Reads that wait for a round.
    reads: Vec<(Round, u64)>,
    seen_unreadable: usize,
}

pub(super) struct Cluster {
    pub(super) nodes: Vec<Node>,
    names: Vec<String>,
    pub(super) settings: Settings,
    offset: u8,
    pub(super) now: u64,
    events: BinaryHeap<Scheduled>,
    sequence: u64,
    streams: BTreeMap<(MemberId, MemberId), Stream>,
    /// Connections that are broken: what is in flight on them is lost.
    broken: std::collections::BTreeSet<u64>,
    connections_count: u64,
    /// What a process has sent still comes after its end, until another connection is there.
    pub(super) lingers: bool,
    /// The connections, from and to, on which something comes of a process that has ended.
    lingering: BTreeMap<(MemberId, MemberId), Vec<u64>>,
    /// Members between which nothing goes, in this direction.
    pub(super) cut: std::collections::BTreeSet<(MemberId, MemberId)>,
    pub(super) filter: Option<Filter>,
    pub(super) prng: Prng,
    pub(super) observer: Observer,
    pub(super) delay_us: (u64, u64),
    pub(super) disk_us: (u64, u64),
    pub(super) sent: BTreeMap<&'static str, u64>,
    pub(super) given_back: BTreeMap<u64, GivenBack>,
    /// Says what happens: for a person (`P2PMAP_TRACE`).
    traces: bool,
    /// When the last step was, and how many there were since.
    stuck: (u64, u64),
    ops_count: u64,
    reads_count: u64,
    pub(super) clock_skew_ns: Vec<u64>,
    /// Where a member crashes, once.
    pub(super) crash_point: Option<CrashPoint>,
}

pub(super) fn m(id: u8) -> MemberId {
    MemberId(id)
}

impl Cluster {
    /// A new group of `count` members, none of which runs.
    pub(super) fn new(seed: u64, count: usize, offset: u8, settings: Settings) -> Self {
        let names: Vec<String> = ('a'..='i').take(count).map(String::from).collect();
        let node = |_| Node {
            member: None,
            host: Host::default(),
            process: 0,
            stable: Index(0),
            lives: BTreeMap::new(),
            reads: Vec::new(),
            seen_unreadable: 0,
        };
        Self {
            nodes: (0..count).map(node).collect(),
            names,
            settings,
            offset,
            now: 1,
            events: BinaryHeap::new(),
            sequence: 0,
            streams: BTreeMap::new(),
            broken: std::collections::BTreeSet::new(),
            connections_count: 0,
            lingers: false,
            lingering: BTreeMap::new(),
            cut: std::collections::BTreeSet::new(),
            filter: None,
            prng: Prng::new(seed, "cluster"),
            observer: Observer::default(),
            delay_us: (50, 300),
            disk_us: (20, 200),
            sent: BTreeMap::new(),
            given_back: BTreeMap::new(),
            traces: std::env::var_os("P2PMAP_TRACE").is_some(),
            stuck: (0, 0),
            ops_count: 0,
            reads_count: 0,
            clock_skew_ns: vec![0; count],
            crash_point: None,
        }
    }

    /// A group whose members have all started and are part of their first view. Member 0 leads
    /// term 1 (partition 2 of three members, 4 of five).
    pub(super) fn started(seed: u64, count: usize, offset: u8) -> Self {
        let mut cluster = Self::new(seed, count, offset, Settings::default());
        cluster.start_all();
        cluster.run_until(|cluster| cluster.is_settled());
        cluster
    }

    pub(super) fn start_all(&mut self) {
        for node in self.members() {
            self.start(node);
        }
    }

    pub(super) fn members(&self) -> Vec<MemberId> {
        (0..self.nodes.len()).map(|id| m(u8::try_from(id).unwrap())).collect()
    }

    pub(super) fn node(&self, id: MemberId) -> &Node {
        &self.nodes[usize::from(id.0)]
    }

    pub(super) fn node_mut(&mut self, id: MemberId) -> &mut Node {
        &mut self.nodes[usize::from(id.0)]
    }

    pub(super) fn member(&self, id: MemberId) -> &Member<u64> {
        self.node(id).member.as_ref().expect("the member runs")
    }

    pub(super) fn is_up(&self, id: MemberId) -> bool {
        self.node(id).member.is_some()
    }

    /// Whether a member runs and has not lost anything that isn't copied back.
    pub(super) fn is_whole(&self, id: MemberId) -> bool {
        let node = self.node(id);
        let disk = &node.host.disk.durable;
        self.is_up(id) && self.member(id).replica().status() != Status::Recovering && !disk.is_lost
    }

    fn time(&self, id: MemberId) -> Now {
        let skew = self.clock_skew_ns[usize::from(id.0)];
        let wall = Timestamp(1_700_000_000_000_000_000 + self.now + skew);
        Now { monotonic: Monotonic(self.now), wall }
    }

    fn schedule(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Scheduled(at, self.sequence, event));
    }

    fn draw(&mut self, (low, high): (u64, u64)) -> u64 {
        (low + self.prng.below(high - low + 1)) * NS_PER_US
    }

    /// The group, as its first member sees it.
    pub(super) fn group(&self) -> Group {
        self.group_of(m(0))
    }

    fn group_of(&self, id: MemberId) -> Group {
        let partition = PartitionId(u32::try_from(self.nodes.len() - 1).unwrap());
        let name = &self.names[usize::from(id.0)];
        Group::new(partition, self.names.clone(), name).with_sequencer_offset(self.offset)
    }

    // ---- processes ----

    /// Starts a member's process with what its disk holds.
    pub(super) fn start(&mut self, id: MemberId) {
        assert!(!self.is_up(id));
        let group = self.group_of(id);
        let settings = self.settings;
        let seed = self.prng.next_u64();
        let node = self.node_mut(id);
        node.process += 1;
        let restored = node.host.disk.durable.restored();
        node.host = Host::restarted(std::mem::take(&mut node.host.disk));
        node.stable = node.host.stable;
        node.member = Some(Member::new(group, settings, restored, seed));
        node.lives.clear();
        node.reads.clear();
        node.seen_unreadable = 0;
        if self.traces {
            self.trace(&format!("{id} starts"));
        }
        // Above any that a group which forgets everything can have had (R6).
        let first_term = match self.settings.survival {
            Survival::Never => TermId(1 + self.now / NS_PER_MS),
            Survival::Always | Survival::Clean => TermId(1),
        };
        self.act(id, |member, now, host| member.start(now, first_term, host));
        for other in self.members() {
            if other != id && self.is_up(other) {
                self.connect(id, other);
            }
        }
    }

    /// Kills a member's process; of what its disk has in flight, `survivors` records stay.
    pub(super) fn crash(&mut self, id: MemberId, survivors: usize) {
        if self.traces {
            self.trace(&format!("{id} crashes, {survivors} survive"));
        }
        let others = self.members();
        let node = self.node_mut(id);
        node.member = None;
        let reads: Vec<u64> = node.reads.drain(..).map(|(_, read)| read).collect();
        node.host.disk.crash(survivors);
        for read in reads {
            self.observer.void_read(read);
        }
        match self.settings.survival {
            Survival::Always => {}
            Survival::Clean => self.node_mut(id).host.disk.lose(),
            Survival::Never => self.node_mut(id).host.disk = super::disk::Disk::blank(),
        }
        self.lingering.retain(|(_, to), _| *to != id);
        for other in others.into_iter().filter(|other| *other != id) {
            if let Some(stream) = self.streams.get(&(id, other)).filter(|_| self.lingers) {
                self.lingering.entry((id, other)).or_default().push(stream.connection);
            }
            self.break_connection(id, other, true);
        }
    }

    /// The member's disk is replaced by an empty one.
    pub(super) fn lose_disk(&mut self, id: MemberId) {
        assert!(!self.is_up(id));
        self.node_mut(id).host.disk = super::disk::Disk::blank();
    }

    pub(super) fn restart(&mut self, id: MemberId) {
        self.crash(id, 0);
        self.start(id);
    }

    // ---- connections ----

    /// Opens a new connection; what is in flight on an older one still comes.
    pub(super) fn connect(&mut self, a: MemberId, b: MemberId) {
        if !self.is_up(a) || !self.is_up(b) {
            return;
        }
        self.connections_count += 1;
        let connection = self.connections_count;
        for (from, to) in [(a, b), (b, a)] {
            let lives = self.lives_of(from);
            self.streams.insert((from, to), Stream { connection, busy_until: self.now });
            let at = self.now + self.draw_delay();
            let stream = self.streams.get_mut(&(from, to)).unwrap();
            stream.busy_until = at;
            self.schedule(at, Event::Open { from, to, connection, lives });
        }
    }

    /// What a member says when a connection begins: its own life and the crash vector.
    fn lives_of(&self, id: MemberId) -> Vec<Incarnation> {
        let replica = self.member(id).replica();
        let mut lives = replica.crash_vector().to_vec();
        lives[usize::from(id.0)] = replica.incarnation();
        lives
    }

    fn draw_delay(&mut self) -> u64 {
        self.draw(self.delay_us)
    }

    /// Breaks the connection of two members: what is in flight is lost.
    pub(super) fn break_connection(&mut self, a: MemberId, b: MemberId, refused: bool) {
        for (from, to) in [(a, b), (b, a)] {
            if let Some(stream) = self.streams.remove(&(from, to)) {
                self.broken.insert(stream.connection);
            }
            self.act(to, |member, now, host| member.on_peer_disconnected(now, from, refused, host));
        }
    }

    /// Breaks a connection, and makes a new one a little later.
    pub(super) fn reconnect(&mut self, a: MemberId, b: MemberId) {
        self.break_connection(a, b, false);
        let at = self.now + self.draw_delay();
        self.schedule(at, Event::Connect { a, b });
    }

    /// Cuts two members off each other.
    pub(super) fn cut(&mut self, a: MemberId, b: MemberId) {
        self.cut.extend([(a, b), (b, a)]);
        self.break_connection(a, b, false);
    }

    /// Cuts a member off all others.
    pub(super) fn isolate(&mut self, id: MemberId) {
        for other in self.members().into_iter().filter(|other| *other != id) {
            self.cut(id, other);
        }
    }

    /// Lets everybody talk to everybody again.
    pub(super) fn heal(&mut self) {
        // What was lost in one direction may have been lives: such a connection is over.
        for (a, b) in std::mem::take(&mut self.cut) {
            self.break_connection(a, b, false);
        }
        for a in self.members() {
            for b in self.members().into_iter().filter(|b| *b > a) {
                if !self.streams.contains_key(&(a, b)) {
                    self.connect(a, b);
                }
            }
        }
    }

    // ---- clients ----

    /// The member that stamps, if one does.
    pub(super) fn stamping(&self) -> Option<MemberId> {
        let stamps = |id: &MemberId| self.is_up(*id) && self.member(*id).is_stamping();
        let view = |id: &MemberId| self.member(*id).replica().view();
        self.members().into_iter().filter(stamps).max_by_key(view)
    }

    /// A client's command at a member; its number.
    pub(super) fn submit_at(&mut self, id: MemberId) -> u64 {
        self.ops_count += 1;
        let op = self.ops_count;
        self.submit_op(id, op);
        op
    }

    pub(super) fn submit_op(&mut self, id: MemberId, op: u64) {
        let size = usize_from(8 + self.prng.below(40));
        let mut value = vec![7; size];
        value[..8].copy_from_slice(&op.to_le_bytes());
        self.given_back.remove(&op);
        self.act(id, |member, now, host| member.submit(now, Bytes::from(value), op, host));
    }

    /// A client's command, wherever it is stamped; `None`: nowhere.
    pub(super) fn submit(&mut self) -> Option<u64> {
        let id = self.stamping()?;
        Some(self.submit_at(id))
    }

    /// Commands that are all answered before this returns.
    pub(super) fn submit_all(&mut self, count: u64) -> Vec<u64> {
        let mut ops = Vec::new();
        for _ in 0..count {
            self.run_until(|cluster| cluster.stamping().is_some());
            ops.push(self.submit().unwrap());
            self.run_for(NS_PER_MS / 10);
        }
        let all = ops.clone();
        self.run_until(move |cluster| {
            all.iter().all(|op| cluster.observer.answer_of(*op).is_some())
        });
        ops
    }

    /// A linearizable read at a member.
    pub(super) fn read_at(&mut self, id: MemberId) -> u64 {
        self.reads_count += 1;
        let read = 1_000_000_000 + self.reads_count;
        self.observer.begin_read(read);
        let member = self.member(id);
        let leads = member.replica().is_leading();
        if leads {
            let mut round = None;
            // The round may be over before its number is known: the reads are looked at later.
            self.node_mut(id).host.readable.clear();
            let node = &mut self.nodes[usize::from(id.0)];
            let now = Now { monotonic: Monotonic(self.now), ..Now::default() };
            if let Some(member) = &mut node.member {
                round = member.barrier(now, &mut node.host);
            }
            match round {
                Some(round) => self.node_mut(id).reads.push((round, read)),
                None => self.observer.void_read(read),
            }
            self.after(id);
        } else {
            let query = Bytes::from_static(b"state");
            self.act(id, |member, now, host| member.query(now, query, read, host));
        }
        read
    }

    // ---- running ----

    /// Lets a member act, and does what it wants done.
    pub(super) fn act(&mut self, id: MemberId, act: impl FnOnce(&mut Member<u64>, Now, &mut Host)) {
        let now = self.time(id);
        let node = &mut self.nodes[usize::from(id.0)];
        let Some(member) = &mut node.member else { return };
        act(member, now, &mut node.host);
        self.after(id);
    }

    /// Does what a member wants done.
    fn after(&mut self, id: MemberId) {
        let place = usize::from(id.0);
        let process = self.nodes[place].process;
        for _ in 0..std::mem::take(&mut self.nodes[place].host.appended_count) {
            let mut at = self.now + self.draw(self.disk_us);
            let node = &mut self.nodes[place];
            at = at.max(node.host.busy_until);
            node.host.busy_until = at;
            self.schedule(at, Event::Durable { node: id, process });
        }
        let node = &mut self.nodes[place];
        let Some(member) = &node.member else { return };
        for started in node.host.started.drain(..) {
            self.observer.on_started(id, process, started);
        }
        if node.host.stable > node.stable {
            self.observer.on_stable(node.stable, &node.host, member);
            node.stable = node.host.stable;
        }
        let term = member.term();
        for (op, index, result) in node.host.answers.drain(..) {
            self.observer.on_answer(op, index, &result, term);
        }
        self.given_back.extend(node.host.given_back.iter().copied());
        for (read, _) in node.host.given_back.drain(..) {
            self.observer.void_read(read);
        }
        for (read, index, result) in node.host.query_answers.drain(..) {
            let state = u128::from_le_bytes(result[..16].try_into().unwrap());
            self.observer.on_read(read, index, state);
        }
        for (round, index) in node.host.readable.drain(..) {
            let state = node.host.machine.as_of(index);
            let answered = node.reads.extract_if(.., |(waits, _)| *waits <= round);
            for (_, read) in answered {
                self.observer.on_read(read, index, state);
            }
        }
        if node.host.unreadable_count > node.seen_unreadable {
            node.seen_unreadable = node.host.unreadable_count;
            for (_, read) in node.reads.drain(..) {
                self.observer.void_read(read);
            }
        }
        self.send_all(id, process);
    }

    fn send_all(&mut self, id: MemberId, process: u64) {
        let place = usize::from(id.0);
        let survival = self.settings.survival;
        for (to, message) in std::mem::take(&mut self.nodes[place].host.sent) {
            let node = &self.nodes[place];
            let member = node.member.as_ref().unwrap();
            let image = &node.host.disk.durable;
            self.observer.on_send(id, &message, (image, survival), member);
            self.send(id, to, message);
        }
        for (to, stored) in std::mem::take(&mut self.nodes[place].host.stored) {
            let at = self.now + self.draw(self.disk_us);
            self.schedule(at, Event::Stored { node: id, process, to, stored: Box::new(stored) });
        }
        for outcome in std::mem::take(&mut self.nodes[place].host.chunks) {
            let at = self.now + self.draw(self.disk_us);
            self.schedule(at, Event::Chunk { node: id, process, outcome });
        }
    }

    fn send(&mut self, from: MemberId, to: MemberId, message: Message) {
        *self.sent.entry(name(&message)).or_default() += 1;
        let verdict = match &mut self.filter {
            Some(filter) => filter(from, to, &message),
            None => Verdict::Deliver,
        };
        let delay = self.draw_delay();
        let Some(stream) = self.streams.get_mut(&(from, to)) else { return };
        let connection = stream.connection;
        let at = match verdict {
            Verdict::Drop => return,
            Verdict::Delay(ns) => self.now + delay + ns,
            Verdict::Deliver | Verdict::Twice(_) => {
                stream.busy_until = stream.busy_until.max(self.now + delay);
                stream.busy_until
            }
        };
        if let Verdict::Twice(later) = verdict {
            let message = message.clone();
            self.schedule(at + later, Event::Deliver { from, to, connection, message });
        }
        self.schedule(at, Event::Deliver { from, to, connection, message });
    }

    /// Crashes the member that was to crash here.
    fn crash_here(&mut self) {
        let Some(CrashPoint { member, record, is_durable, returns }) = self.crash_point else {
            return;
        };
        let kinds = &self.node(member).host.disk.kinds[usize::from(is_durable)];
        if kinds.len() >= record && self.is_up(member) {
            self.crash_point = None;
            self.crash(member, 0);
            if returns {
                self.start(member);
            }
        }
    }

    /// One step; whether there was one before `until`.
    pub(super) fn step(&mut self, until: u64) -> bool {
        self.crash_here();
        let (at, count) = self.stuck;
        self.stuck = if at == self.now { (at, count + 1) } else { (self.now, 0) };
        assert!(count < 100_000, "time stands still: {}", self.describe());
        let due = |node: &Node| node.member.as_ref().and_then(Member::next_deadline);
        let deadline = self
            .members()
            .into_iter()
            .filter_map(|id| Some((due(self.node(id))?.0.max(self.now), id)))
            .min();
        let event = self.events.peek().map(|scheduled| scheduled.0);
        match (event, deadline) {
            (Some(at), other) if other.is_none_or(|(due, _)| at <= due) && at <= until => {
                let Scheduled(at, _, event) = self.events.pop().unwrap();
                self.now = self.now.max(at);
                self.on_event(event);
                true
            }
            (_, Some((due, id))) if due <= until => {
                self.now = due;
                self.act(id, |member, now, host| member.on_deadline(now, host));
                true
            }
            _ => {
                self.now = until;
                false
            }
        }
    }

    #[allow(clippy::print_stdout, reason = "a person asked for it")]
    pub(super) fn trace(&self, what: &str) {
        println!("{}.{:03} {what}", self.now / NS_PER_MS, self.now / NS_PER_US % 1_000);
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Deliver { from, to, connection, message } => {
                let lingers = self
                    .lingering
                    .get(&(from, to))
                    .is_some_and(|those| those.contains(&connection));
                let is_broken = self.broken.contains(&connection) && !lingers;
                if is_broken || self.cut.contains(&(from, to)) || !self.is_up(to) {
                    return;
                }
                let node = self.node_mut(to);
                let life = node.lives.entry(connection).or_default();
                // A member that recovers says which life it is from then on.
                if let Message::Recover { member, attempt } = &message
                    && *member == from
                {
                    *life = (*life).max(attempt.incarnation);
                }
                let life = *life;
                if self.traces {
                    self.trace(&format!("{from} -> {to} {message:?}"));
                }
                self.act(to, |member, now, host| {
                    member.on_message(now, (from, life), message, host);
                });
            }
            Event::Open { from, to, connection, lives } => {
                if self.broken.contains(&connection) || self.cut.contains(&(from, to)) {
                    return;
                }
                self.node_mut(to).lives.insert(connection, lives[usize::from(from.0)]);
                // Whoever hears of a newer connection listens to no older one of an ended process.
                self.lingering.remove(&(from, to));
                self.act(to, |member, now, host| {
                    member.on_crash_vector(now, &lives, host);
                    member.on_peer_connected(now, from, host);
                });
            }
            Event::Durable { node, process } if self.node(node).process == process => {
                let persisted = self.node_mut(node).host.disk.make_durable();
                if let Some(persisted) = persisted {
                    if self.traces {
                        self.trace(&format!("{node} {persisted:?}"));
                    }
                    self.act(node, |member, now, host| member.on_persisted(now, persisted, host));
                }
            }
            Event::Stored { node, process, to, stored } if self.node(node).process == process => {
                self.serve(node, to, *stored);
            }
            Event::Chunk { node, process, outcome } if self.node(node).process == process => {
                self.act(node, |member, now, host| member.on_chunk(now, outcome, host));
            }
            Event::Connect { a, b } => {
                if !self.cut.contains(&(a, b)) {
                    self.connect(a, b);
                }
            }
            Event::Durable { .. } | Event::Stored { .. } | Event::Chunk { .. } => {}
        }
    }

    /// Sends what a member has on its disk.
    fn serve(&mut self, id: MemberId, to: MemberId, stored: Stored) {
        if !self.is_up(id) {
            return;
        }
        for message in served(&self.node(id).host.disk.written, stored) {
            self.send(id, to, message);
        }
    }

    pub(super) fn run_for(&mut self, ns: u64) {
        let until = self.now + ns;
        while self.step(until) {}
    }

    /// Runs until something is so; panics if that takes a minute.
    pub(super) fn run_until(&mut self, is_so: impl Fn(&Self) -> bool) {
        let until = self.now + 60_000 * NS_PER_MS;
        while !is_so(self) {
            assert!(self.step(until), "it takes a minute: {}", self.describe());
        }
    }

    /// Takes a checkpoint of a member's stable state and cuts its log there.
    pub(super) fn checkpoint(&mut self, id: MemberId) {
        let node = &mut self.nodes[usize::from(id.0)];
        let Some(member) = &mut node.member else { return };
        node.host.checkpoint(member);
    }

    /// Whether all members that run are part of one view and equally far.
    pub(super) fn is_settled(&self) -> bool {
        let up: Vec<&Member<u64>> =
            self.nodes.iter().filter_map(|node| node.member.as_ref()).collect();
        let first = up[0].replica();
        up.iter().map(|member| member.replica()).all(|replica| {
            replica.status() == Status::Normal
                && replica.view() == first.view()
                && replica.log().last() == first.log().last()
                && replica.sync_point() == replica.log().last()
        })
    }

    /// Heals everything and demands that all goes on: a command is answered, all members agree.
    pub(super) fn finish(&mut self) {
        self.filter = None;
        self.heal();
        for id in self.members() {
            if !self.is_up(id) {
                self.start(id);
            }
        }
        self.heal();
        let until = self.now + 60_000 * NS_PER_MS;
        let mut op = None;
        loop {
            let answered = op.is_some_and(|op| self.observer.answer_of(op).is_some());
            if answered && self.is_settled() {
                break;
            }
            let is_over = op.is_none_or(|op| self.given_back.contains_key(&op));
            if is_over && self.stamping().is_some() {
                op = self.submit();
            }
            assert!(self.step(until), "no progress after all is healed: {}", self.describe());
        }
        let states: Vec<u128> = self.nodes.iter().map(|node| node.host.machine.state).collect();
        assert!(states.windows(2).all(|pair| pair[0] == pair[1]), "I10: states differ at the end");
        self.observer.check_end();
    }

    /// How everything stands, for a failed test.
    pub(super) fn describe(&self) -> String {
        let mut text = format!("at {} ms\n", self.now / NS_PER_MS);
        for (id, node) in self.nodes.iter().enumerate() {
            let Some(member) = &node.member else {
                text += &format!("  {id}: down\n");
                continue;
            };
            let replica = member.replica();
            text += &format!(
                "  {id}: {:?} view {} normal {} base {} last {} durable {} prepared {} sync {} \
                 applied {} first {} life {:?}\n",
                replica.status(),
                replica.view(),
                replica.last_normal(),
                replica.base(),
                replica.log().last(),
                replica.durable(),
                replica.prepared(),
                replica.sync_point(),
                replica.applied(),
                replica.first(),
                replica.crash_vector(),
            );
        }
        text
    }

    pub(super) fn sent_count(&self, name: &str) -> u64 {
        self.sent.get(name).copied().unwrap_or_default()
    }
}

/// The name of a message.
pub(super) fn name(message: &Message) -> &'static str {
    match message {
        Message::Command(_) => "Command",
        Message::CommandResponse { .. } => "CommandResponse",
        Message::Query { .. } => "Query",
        Message::QueryResponse { .. } => "QueryResponse",
        Message::SlotLookup { .. } => "SlotLookup",
        Message::GapCommitRequest { .. } => "GapCommitRequest",
        Message::GapCommitResponse { .. } => "GapCommitResponse",
        Message::ViewChangeRequest { .. } => "ViewChangeRequest",
        Message::ViewChange { .. } => "ViewChange",
        Message::ViewChangeRepair { .. } => "ViewChangeRepair",
        Message::ViewChangeRepairResponse { .. } => "ViewChangeRepairResponse",
        Message::StartView { .. } => "StartView",
        Message::ViewRepair { .. } => "ViewRepair",
        Message::ViewRepairResponse { .. } => "ViewRepairResponse",
        Message::SyncPrepare { .. } => "SyncPrepare",
        Message::SyncRepair { .. } => "SyncRepair",
        Message::SyncRepairResponse { .. } => "SyncRepairResponse",
        Message::SyncResponse { .. } => "SyncResponse",
        Message::SyncCommit { .. } => "SyncCommit",
        Message::Recover { .. } => "Recover",
        Message::RecoverResponse { .. } => "RecoverResponse",
        Message::Ping { .. } => "Ping",
    }
}
