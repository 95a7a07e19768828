//! A core's ends of the rings to all others: requests go to the shard that owns their partition,
//! and each is answered by exactly one message back.
//!
//! A request takes a *credit* of its ring, which comes back with its answer. There are as many as
//! slots either way, so a request that has one fits, and so will its answer: nothing here blocks,
//! and nothing is queued without bound. Without a credit the request's connection isn't read any
//! further (`EventLoop::put_back`) until there are credits again. Requests to one shard stay in the
//! order in which they came.
//!
//! What is owed to other shards is written to one buffer in the order of the answers and goes out
//! from there. How many bytes of answers may be on their way is bounded by the shard that gives
//! them: it leaves requests in the ring while the one that asks has too much that its clients don't
//! read (`Mesh::serves_count_max`).

use std::collections::VecDeque;
use std::sync::Arc;

use arrayvec::ArrayVec;
use bytes::BytesMut;
use crossbeam::utils::CachePadded;
use slab::Slab;

use super::atomics::{AtomicUsize, Ordering};
use super::ring::{Consumer, Producer, ring, slot_size_bytes};
use super::uring::Key;
use crate::base::cast::{u16_from, u32_from, usize_from_u32};
use crate::base::ids::{AskId, Origin, ShardId};
use crate::base::limits::{
    PASS_COUNT_MAX, RING_INLINE_SIZE_BYTES, RING_SLOT_COUNT_MAX, RING_SLOT_COUNT_MIN,
    RING_SLOTS_PER_SHARD,
};

/// Bytes of gathered answers at which they are handed to the rings.
const GATHERED_SIZE_BYTES: usize = 64 << 10;

/// What a message is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    /// A client's request, as it came, or its answer in whole frames.
    #[default]
    Request,
    /// A part of an operation on a whole map, or its answer: between shards only.
    Share,
}

/// What stands before a message's bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Head {
    /// Where the request came from, in the words of the shard that sent it.
    pub(super) origin: Origin,
    pub(super) kind: Kind,
}

// Four cache lines: a request with a value of 100 bytes fits into one slot, and so does its answer.
const _: () = assert!(slot_size_bytes::<Head>() == 256);

/// The rings between this shard and another.
#[derive(Debug)]
pub(super) struct Link {
    requests: Producer<Head>,
    /// `None` while its messages are being handled.
    pub(super) answers_in: Option<Consumer<Head>>,
    /// The other shard's requests; `None` while they are being handled.
    pub(super) requests_in: Option<Consumer<Head>>,
    answers: Producer<Head>,
    credits: usize,
    /// Shares that wait for a credit. As many as operations on whole maps at most.
    shares: VecDeque<(AskId, BytesMut)>,
    /// Connections that wait for a credit.
    waiting: VecDeque<Key>,
    /// Bytes of all answers that were given in buffers of their own; it wraps around.
    given_size: usize,
    /// How many of these the other shard has taken.
    taken_by_other: Arc<CachePadded<AtomicUsize>>,
    /// The same of the answers that this shard takes.
    taken_size: usize,
    taken: Arc<CachePadded<AtomicUsize>>,
}

/// A request of another shard that isn't answered yet.
#[derive(Debug)]
struct Guest {
    head: Head,
    /// Frames of an answer that has more than one.
    begun: BytesMut,
}

/// An answer that is ready.
#[derive(Debug)]
struct Answer {
    head: Head,
    /// Where it begins among the gathered ones.
    start: usize,
    /// It has a buffer of its own instead, unless that is empty.
    own: BytesMut,
}

/// A core's ends of the rings to all others.
#[derive(Debug)]
pub struct Mesh {
    me: ShardId,
    /// By shard; none to itself.
    pub(super) links: Vec<Option<Link>>,
    guests: Slab<Guest>,
    answers: Vec<Answer>,
    gathered: BytesMut,
    /// Shards to which something was published and that were not rung yet.
    bells: Vec<ShardId>,
    /// Frames of the pass under way that can't be forwarded yet, and to whom; to this shard itself:
    /// they are for the next turn.
    pub(super) deferred: ArrayVec<(usize, ShardId), PASS_COUNT_MAX>,
}

/// The meshes of a node's shards, in their order.
#[must_use]
pub fn meshes(shard_count: usize) -> Vec<Mesh> {
    let share = RING_SLOTS_PER_SHARD / shard_count.saturating_sub(1).max(1);
    meshes_of(shard_count, 1 << share.clamp(RING_SLOT_COUNT_MIN, RING_SLOT_COUNT_MAX).ilog2())
}

/// The same with so many slots in each ring.
pub(super) fn meshes_of(shard_count: usize, slot_count: usize) -> Vec<Mesh> {
    let mut meshes: Vec<Mesh> =
        (0..shard_count).map(|me| Mesh::new(ShardId(u16_from(me)), shard_count)).collect();
    for low in 0..shard_count {
        for high in low + 1..shard_count {
            let (up, down) = Link::pair(slot_count);
            meshes[low].links[high] = Some(up);
            meshes[high].links[low] = Some(down);
        }
    }
    meshes
}

impl Link {
    /// The two ends of what is between two shards.
    fn pair(slot_count: usize) -> (Self, Self) {
        let (up, up_end) = (ring(slot_count), ring(slot_count));
        let (down, down_end) = (ring(slot_count), ring(slot_count));
        let taken: [Arc<CachePadded<AtomicUsize>>; 2] = Default::default();
        let new = |requests, answers_in, requests_in, answers, taken_by_other, taken| Self {
            requests,
            answers_in: Some(answers_in),
            requests_in: Some(requests_in),
            answers,
            credits: slot_count,
            shares: VecDeque::new(),
            waiting: VecDeque::new(),
            given_size: 0,
            taken_by_other,
            taken_size: 0,
            taken,
        };
        let [low, high] = taken;
        let (low_again, high_again) = (Arc::clone(&low), Arc::clone(&high));
        (
            new(up.0, up_end.1, down.1, down_end.0, high, low),
            new(down.0, down_end.1, up.1, up_end.0, low_again, high_again),
        )
    }

    /// Sends what has a credit.
    fn send(&mut self, head: Head, bytes: &[u8]) {
        assert!(self.credits > 0, "a request has a credit");
        self.credits -= 1;
        assert!(self.requests.push(head, bytes), "a request with a credit fits");
    }

    fn send_shares(&mut self, me: ShardId) {
        while self.credits > 0
            && let Some((ask, bytes)) = self.shares.pop_front()
        {
            self.send(Head { origin: origin_of(me, ask), kind: Kind::Share }, &bytes);
        }
    }

    fn give(&mut self, head: Head, bytes: &[u8]) {
        let fits = self.answers.push(head, bytes);
        assert!(fits, "an answer's slot was reserved by its request");
        if bytes.len() > RING_INLINE_SIZE_BYTES {
            self.given_size = self.given_size.wrapping_add(bytes.len());
        }
    }

    fn give_owned(&mut self, head: Head, mut bytes: BytesMut) {
        self.given_size = self.given_size.wrapping_add(bytes.len());
        let fits = self.answers.push_owned(head, &mut bytes);
        assert!(fits, "an answer's slot was reserved by its request");
    }

    /// An answer was taken, with so many bytes in a buffer of its own: its credit is free again.
    pub(super) fn take_credit_back(&mut self, large_size: usize) {
        self.credits += 1;
        self.taken_size = self.taken_size.wrapping_add(large_size);
    }

    /// Tells the other shard what was taken.
    pub(super) fn publish_taken(&self) {
        self.taken.store(self.taken_size, Ordering::Relaxed);
    }

    /// Whether the other shard has asked for something that isn't taken in.
    pub(super) fn has_request(&self) -> bool {
        self.requests_in.as_ref().is_some_and(Consumer::has_message)
    }

    /// Whether the other shard has answered something.
    pub(super) fn has_answer(&self) -> bool {
        self.answers_in.as_ref().is_some_and(Consumer::has_message)
    }
}

impl Mesh {
    fn new(me: ShardId, shard_count: usize) -> Self {
        Self {
            me,
            links: (0..shard_count).map(|_| None).collect(),
            guests: Slab::new(),
            answers: Vec::new(),
            gathered: BytesMut::new(),
            bells: Vec::with_capacity(shard_count),
            deferred: ArrayVec::new(),
        }
    }

    /// Whose it is.
    #[must_use]
    pub fn me(&self) -> ShardId {
        self.me
    }

    fn link(&mut self, shard: ShardId) -> &mut Link {
        let link = self.links[usize::from(shard.0)].as_mut();
        link.expect("a shard has rings to all others and none to itself")
    }

    /// Forwards a client's request. False: it has to wait for a credit, or for others that do.
    pub(super) fn forward(&mut self, to: ShardId, origin: Origin, payload: &[u8]) -> bool {
        let link = self.link(to);
        if link.credits == 0 || !link.shares.is_empty() {
            return false;
        }
        link.send(Head { origin, kind: Kind::Request }, payload);
        true
    }

    /// Asks another shard for its share; it goes as soon as there is a credit.
    pub(super) fn ask(&mut self, to: ShardId, ask: AskId, request: &[u8]) {
        let me = self.me;
        let link = self.link(to);
        link.shares.push_back((ask, BytesMut::from(request)));
        link.send_shares(me);
    }

    /// A connection waits until requests can be forwarded to `to` again.
    pub(super) fn wait_for(&mut self, to: ShardId, key: Key) {
        self.link(to).waiting.push_back(key);
    }

    /// Connections that may be read on: no more than have a pass of credits each.
    pub(super) fn next_served(&mut self, served: &mut Vec<Key>) {
        let me = self.me;
        for link in self.links.iter_mut().flatten() {
            link.send_shares(me);
            // Of a small ring never more than half has to be free at once.
            let pass = PASS_COUNT_MAX.min(link.requests.slot_count() / 2).max(1);
            let count = (link.credits / pass).min(link.waiting.len());
            served.extend(link.waiting.drain(..count));
        }
    }

    /// Takes a request of another shard in, and returns under which origin it is answered here.
    pub(super) fn admit(&mut self, head: Head) -> Origin {
        let home = head.origin.home;
        let place = self.guests.insert(Guest { head, begun: BytesMut::new() });
        Origin { home, connection: u32_from(place), generation: 0, stream: 0 }
    }

    /// Where the next frame of the answer to another shard's request goes.
    ///
    /// # Panics
    /// If it was answered already.
    pub(super) fn answer_buffer(&mut self, origin: Origin, last: bool) -> &mut BytesMut {
        let place = usize_from_u32(origin.connection);
        if !last {
            return &mut self.guests[place].begun;
        }
        if self.gathered.len() >= GATHERED_SIZE_BYTES {
            let _ = self.give_answers();
        }
        let Guest { head, begun } = self.guests.remove(place);
        let has_own = !begun.is_empty();
        self.answers.push(Answer { head, start: self.gathered.len(), own: begun });
        match self.answers.last_mut() {
            Some(answer) if has_own => &mut answer.own,
            _ => &mut self.gathered,
        }
    }

    /// Pushes the answers that are ready, and returns how many bytes they have.
    pub(super) fn give_answers(&mut self) -> usize {
        let mut given = 0;
        let mut answers = std::mem::take(&mut self.answers);
        let mut gathered = std::mem::take(&mut self.gathered);
        for place in 0..answers.len() {
            let next = answers.get(place + 1).map_or(gathered.len(), |next| next.start);
            let Answer { head, start, ref mut own } = answers[place];
            given += next - start + own.len();
            let link = self.link(head.origin.home);
            if !own.is_empty() {
                link.give_owned(head, std::mem::take(own));
            } else if next - start >= GATHERED_SIZE_BYTES && next == gathered.len() {
                // The longest ones aren't copied: each is the last one of its round.
                link.give_owned(head, gathered.split_off(start));
            } else {
                link.give(head, &gathered[start..next]);
            }
        }
        answers.clear();
        gathered.clear();
        (self.answers, self.gathered) = (answers, gathered);
        given
    }

    /// How many requests of `from` may be served in a pass, whose clients leave `unread_size` bytes
    /// unread. When that is `much` it is one in a turn, for those that do read; when it is twice as
    /// much it is none: `from` will soon have cut who is behind.
    pub(super) fn serves_count_max(
        &mut self,
        from: ShardId,
        unread_size: usize,
        much: usize,
    ) -> usize {
        let link = self.link(from);
        let taken = link.taken_by_other.load(Ordering::Relaxed);
        match unread_size + link.given_size.wrapping_sub(taken) {
            size if size < much => PASS_COUNT_MAX,
            size if size < 2 * much => 1,
            _ => 0,
        }
    }

    /// Shows the others what was pushed for them in this turn. True: there was something.
    pub(super) fn publish(&mut self) -> bool {
        let _ = self.give_answers();
        let mut published = false;
        for (shard, link) in self.links.iter_mut().enumerate() {
            let Some(link) = link else { continue };
            // Both: the answers must not wait for the requests.
            if link.requests.publish() | link.answers.publish() {
                published = true;
                let shard = ShardId(u16_from(shard));
                if !self.bells.contains(&shard) {
                    self.bells.push(shard);
                }
            }
        }
        published
    }

    /// Another shard is to be woken at the end of the turn, if it sleeps.
    pub(super) fn ring_later(&mut self, shard: ShardId) {
        if !self.bells.contains(&shard) {
            self.bells.push(shard);
        }
    }

    /// All others are.
    pub(super) fn ring_all_later(&mut self) {
        let others = (0..self.links.len()).map(|shard| ShardId(u16_from(shard)));
        for shard in others.filter(|shard| *shard != self.me) {
            if !self.bells.contains(&shard) {
                self.bells.push(shard);
            }
        }
    }

    /// The shards to which something was published, each once, to be woken if they sleep.
    pub(super) fn bells(&mut self) -> impl Iterator<Item = ShardId> + '_ {
        self.bells.drain(..)
    }

    /// Whether something has come from another shard.
    #[must_use]
    pub fn has_incoming(&self) -> bool {
        self.links.iter().flatten().any(|link| link.has_request() || link.has_answer())
    }

    /// Whether other shards have asked for nothing that isn't taken in.
    #[must_use]
    pub fn has_no_requests(&self) -> bool {
        !self.links.iter().flatten().any(Link::has_request)
    }

    /// Whether a share waits for a credit.
    #[must_use]
    pub fn has_waiting_shares(&self) -> bool {
        self.links.iter().flatten().any(|link| !link.shares.is_empty())
    }

    /// Whether nothing is asked of others that isn't answered, and nothing that others asked.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let idle = |link: &Link| link.credits == link.requests.slot_count();
        self.guests.is_empty()
            && !self.has_waiting_shares()
            && self.links.iter().flatten().all(idle)
            && !self.has_incoming()
    }
}

/// How a share that is asked for is called in a message.
fn origin_of(me: ShardId, ask: AskId) -> Origin {
    Origin { home: me, connection: ask.place, generation: ask.number, stream: 0 }
}

/// The share that a message's origin names.
pub(super) fn ask_of(origin: Origin) -> AskId {
    AskId { place: origin.connection, number: origin.generation }
}

#[cfg(test)]
mod tests;
