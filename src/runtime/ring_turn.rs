//! Other cores in a loop's turn: what came over the rings is handled, frames that can't be
//! forwarded are given back to their connections, accepted connections change cores, and the cores
//! of a node go down together.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;

use super::connection::{Phase, Protocol, Wait};
use super::connections::key_of;
use super::core::Progress;
use super::event_loop::{Accepting, EventLoop, TURN_FRAME_SIZE_BYTES, output};
use super::mesh::{Head, Kind, ask_of};
use super::pass::Stored;
use super::ring::Consumer;
use super::service::{Frame, Service};
use super::uring::Key;
use crate::base::cast::{u16_from, u64_from};
use crate::base::ids::ShardId;
use crate::base::limits::{PASS_COUNT_MAX, RETIRE_NS_MAX, TURN_REQUEST_COUNT_MAX};
use crate::base::time::Monotonic;

/// Answers that a turn takes from each of them.
const TURN_ANSWER_COUNT_MAX: usize = 1_024;
/// Connections that a turn takes over from other cores.
const TURN_ARRIVAL_COUNT_MAX: usize = 64;

/// How far a core is on its way down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Descent {
    /// When others must lead what this node has led.
    pub(super) retire_by: Option<Monotonic>,
    /// They do, or that time is up, and it has told so.
    pub(super) retired: bool,
    /// It forwards no more writes, and has told so.
    pub(super) closing: bool,
    /// Nobody does: its service was told to close.
    pub(super) closed: bool,
    /// It will ask for nothing any more, and has told so.
    pub(super) quiet: bool,
}

impl<S: Service> EventLoop<S> {
    /// Takes what came from other shards. True: there was something.
    pub(super) fn drain_rings(&mut self) -> bool {
        let count = self.mesh.links.len();
        // Another one is the first in each turn, so that none always is the last.
        self.first_link = (self.first_link + 1) % count;
        let mut requests_left = TURN_REQUEST_COUNT_MAX;
        let mut busy = false;
        for place in 0..count {
            let from = (self.first_link + place) % count;
            busy |= self.take_answers(from);
            busy |= self.take_requests(from, &mut requests_left);
        }
        self.mesh.next_served(&mut self.served);
        for key in self.served.drain(..) {
            busy = true;
            self.connections.stop_waiting(key);
        }
        busy
    }

    fn take_answers(&mut self, from: usize) -> bool {
        let end = self.mesh.links[from].as_mut().and_then(|link| link.answers_in.take());
        let Some(mut answers) = end else { return false };
        let count = answers.available().min(TURN_ANSWER_COUNT_MAX);
        for place in 0..count {
            let large = answers.take_large(place);
            let (head, inline) = answers.message(place);
            if let Some(link) = &mut self.mesh.links[from] {
                link.take_credit_back(large.as_ref().map_or(0, |large| large.len()));
            }
            match head.kind {
                Kind::Request => {
                    self.connections.answered(head.origin, inline, large, &mut self.metrics);
                }
                Kind::Share => {
                    let ask = ask_of(head.origin);
                    let (service, output) = output!(self);
                    service.share_answered(
                        self.now,
                        ask,
                        large.as_deref().unwrap_or(inline),
                        output,
                    );
                }
            }
        }
        answers.release(count);
        if let Some(link) = &mut self.mesh.links[from] {
            if count > 0 {
                link.publish_taken();
            }
            link.answers_in = Some(answers);
        }
        count > 0
    }

    /// Handles requests of another shard, in passes as those of this one.
    fn take_requests(&mut self, from: usize, left: &mut usize) -> bool {
        let end = self.mesh.links[from].as_mut().and_then(|link| link.requests_in.take());
        let Some(mut requests) = end else { return false };
        let unread_size = self.node.cores[from].unread_size.load(Ordering::Relaxed);
        let mut busy = false;
        while *left > 0 {
            let available = requests.available();
            if available == 0 {
                break;
            }
            let much = self.node.unread_size_max;
            let most = self.mesh.serves_count_max(ShardId(u16_from(from)), unread_size, much);
            // While the node goes down nothing may be left; what is too much is dropped there.
            let most = most.max(usize::from(self.is_going_down()));
            let count = available.min(most);
            if count == 0 {
                break;
            }
            busy = true;
            // What they weigh is counted for them alone: this shard's own clients have their turn.
            let own = std::mem::replace(&mut self.turn_frames, TURN_REQUEST_COUNT_MAX - *left);
            let count = self.serve(&requests, count);
            let weight = std::mem::replace(&mut self.turn_frames, own);
            requests.release(count);
            let given = self.mesh.give_answers();
            *left = TURN_REQUEST_COUNT_MAX.saturating_sub(weight + given / TURN_FRAME_SIZE_BYTES);
            if most < PASS_COUNT_MAX {
                break;
            }
        }
        if let Some(link) = &mut self.mesh.links[from] {
            link.requests_in = Some(requests);
        }
        busy
    }

    /// Whether something has come from another shard for which anything can be done.
    pub(super) fn has_incoming(&self) -> bool {
        let is_served = |from| !self.node.is_full_of_unread(from) || self.is_going_down();
        self.mesh.links.iter().enumerate().any(|(from, link)| {
            let Some(link) = link else { return false };
            link.has_answer() || link.has_request() && is_served(from)
        })
    }

    /// Handles the oldest requests of a ring: `count`, or fewer if the turn has enough to do with
    /// them. Returns how many.
    fn serve(&mut self, requests: &Consumer<Head>, count: usize) -> usize {
        let mut served = 0;
        let mut frames: ArrayVec<Frame<'_>, PASS_COUNT_MAX> = ArrayVec::new();
        for place in 0..count {
            if self.turn_frames >= TURN_REQUEST_COUNT_MAX {
                break;
            }
            served += 1;
            self.turn_frames += 1;
            let (head, bytes) = requests.message(place);
            let origin = self.mesh.admit(head);
            match head.kind {
                Kind::Request => frames.push(Frame { origin, payload: bytes }),
                Kind::Share => {
                    self.serve_frames(&mut frames);
                    let (service, output) = output!(self);
                    service.share_asked(self.now, origin, bytes, output);
                }
            }
        }
        self.serve_frames(&mut frames);
        self.metrics.guests_count += u64_from(served);
        served
    }

    fn serve_frames(&mut self, frames: &mut ArrayVec<Frame<'_>, PASS_COUNT_MAX>) {
        if !frames.is_empty() {
            self.begin_pass();
            self.metrics.passes_count += 1;
            let (service, output) = output!(self);
            service.frames(self.now, frames, output);
            frames.clear();
        }
    }

    /// Gives the frames of the pass that can't be forwarded back to their connections, which are
    /// stopped until they can.
    pub(super) fn put_back(&mut self) {
        let deferred = std::mem::take(&mut self.mesh.deferred);
        for (n, &(place, to)) in deferred.iter().enumerate() {
            let key = key_of(self.pass.origin(place));
            let is_of_key = |(place, _): &(usize, _)| key_of(self.pass.origin(*place)) == key;
            if !deferred[..n].iter().any(is_of_key) {
                let places = deferred[n..].iter().filter(|d| is_of_key(d)).map(|(place, _)| *place);
                let places: ArrayVec<usize, PASS_COUNT_MAX> = places.collect();
                self.put_back_to(key, to, &places);
            }
        }
    }

    /// Gives frames back to one connection: they come before whatever it holds already.
    fn put_back_to(&mut self, key: Key, to: ShardId, places: &[usize]) {
        self.connections.uncount_requests(key, places.len());
        if self.connections.of(key).phase != Phase::Open {
            return;
        }
        self.connections.stop(key, &mut self.metrics);
        let is_elsewhere = to != self.mesh.me();
        let connection = self.connections.of(key);
        connection.wait = if !is_elsewhere {
            Wait::None
        } else if connection.forwarded_count < connection.forwarded_count_max {
            self.mesh.wait_for(to, key);
            Wait::Credit
        } else {
            Wait::Forwarded
        };
        if !is_elsewhere {
            self.connections.resume_next_turn(key);
        }
        if matches!(self.connections.of(key).protocol, Protocol::Grpc(_)) {
            self.put_messages_back(key, places);
        } else if !self.put_frames_back(key, places) {
            self.refuse_holding(key);
        }
    }

    /// False: all connections together hold too much already.
    fn put_frames_back(&mut self, key: Key, places: &[usize]) -> bool {
        if let Some((frames, begin)) = self.pass.take_frames(places) {
            return self.connections.hold_again(key, frames, begin);
        }
        let later = self.connections.take_held(key);
        let mut fits = true;
        for &place in places {
            let Stored::Frame(frame) = self.pass.stored(place, self.ring.buffers()) else {
                unreachable!("frames of raw connections lie in chunks");
            };
            fits &= self.connections.hold(key, frame);
        }
        fits && self.connections.hold(key, &later)
    }

    fn put_messages_back(&mut self, key: Key, places: &[usize]) {
        for &place in places.iter().rev() {
            let stream = self.pass.stream(place);
            let Stored::Payload(payload) = self.pass.stored(place, self.ring.buffers()) else {
                unreachable!("messages of gRPC connections are cut out");
            };
            self.connections.of(key).given_back.push_front((stream, payload.clone()));
        }
        self.connections.recount_held(key);
    }

    /// Takes in a connection that this core accepted, or gives it to one with fewer.
    pub(super) fn place(&mut self, socket: OwnedFd) {
        match self.node.hand_over(self.mesh.me(), socket) {
            Ok(core) => {
                self.metrics.handed_over_count += 1;
                self.mesh.ring_later(ShardId(u16_from(core)));
            }
            Err(socket) => self.take_in(socket),
        }
    }

    fn take_in(&mut self, socket: OwnedFd) {
        self.counted_connections += 1;
        // One that comes while the node goes down is closed: the peer tries another node.
        if !matches!(self.accepting, Accepting::Ended) {
            self.connections.open(socket, self.now.monotonic, &mut self.metrics);
        }
    }

    /// Takes in connections that other cores have accepted.
    pub(super) fn take_arrivals(&mut self) -> bool {
        for taken in 0..TURN_ARRIVAL_COUNT_MAX {
            let Some(socket) = self.core().next_arrival() else { return taken > 0 };
            self.take_in(socket);
        }
        true
    }

    /// Keeps what other cores are told of this one's connections true.
    pub(super) fn publish_connections(&mut self) {
        let count = self.connections.count();
        let gone = self.counted_connections - count;
        if gone > 0 {
            self.counted_connections = count;
            self.core().connection_count.fetch_sub(gone, Ordering::Relaxed);
        }
        let unread_size = self.connections.queued_size();
        if unread_size != self.told_unread_size {
            let was_full = self.node.is_full_of_unread(usize::from(self.mesh.me().0));
            self.told_unread_size = unread_size;
            self.core().unread_size.store(unread_size, Ordering::Relaxed);
            if was_full {
                // They may sleep although they have requests of this one.
                self.mesh.ring_all_later();
            }
        }
    }

    /// Wakes the shards to which something was published and that sleep.
    pub(super) fn ring_doorbells(&mut self) {
        for shard in self.mesh.bells() {
            self.node.cores[usize::from(shard.0)].ring_doorbell();
        }
    }

    /// Lets other nodes take over before anything is refused. True: that is done on all cores, or
    /// its time is up.
    pub(super) fn retire(&mut self) -> bool {
        if self.node.network.is_none() {
            return true;
        }
        let now = self.now.monotonic;
        let by = match self.descent.retire_by {
            Some(by) => by,
            None => {
                let by = now.after_ns(RETIRE_NS_MAX);
                self.descent.retire_by = Some(by);
                let (service, output) = output!(self);
                service.retire(self.now, output);
                by
            }
        };
        if !self.descent.retired && (self.service.has_retired() || now >= by) {
            self.descent.retired = true;
            let in_time = self.service.has_retired();
            tracing::info!(in_time, "other nodes lead what this one has led");
            self.node.arrive(|progress| &progress.retired_count);
        }
        self.descent.retired && (now >= by || self.all_have_retired())
    }

    fn all_have_retired(&self) -> bool {
        self.node.all_arrived(|progress: &Progress| &progress.retired_count)
    }

    /// Whether a client waits for something, here or at another node.
    pub(super) fn keeps_clients_waiting(&self) -> bool {
        self.connections.requests_in_flight() > 0 || self.service.waits_for_members()
    }

    /// Goes on with a shutdown as far as the other cores have come.
    pub(super) fn descend(&mut self) {
        // What was forwarded is published by now, and nothing more will be that changes anything.
        if !self.descent.closing && !self.mesh.has_waiting_shares() {
            self.descent.closing = true;
            self.node.arrive(|progress| &progress.closing_count);
        }
        if !self.descent.closed && self.all_are_closing() && self.mesh.has_no_requests() {
            self.descent.closed = true;
            let (service, output) = output!(self);
            service.close(self.now, output);
        }
        let quiet = self.is_drained() && self.connections.count() == 0 && self.mesh.is_idle();
        if !self.descent.quiet && quiet {
            self.descent.quiet = true;
            self.node.arrive(|progress| &progress.quiet_count);
        }
    }

    /// Whether everything of this core is finished, whatever its clients do.
    pub(super) fn is_drained(&self) -> bool {
        self.descent.closed && self.service.is_drained() && self.disk.is_idle()
    }

    /// Whether nothing can come any more, from clients or from other cores.
    pub(super) fn all_are_quiet(&self) -> bool {
        self.node.all_arrived(|progress: &Progress| &progress.quiet_count)
    }

    fn all_are_closing(&self) -> bool {
        self.node.all_arrived(|progress: &Progress| &progress.closing_count)
    }

    /// Whether the other cores have got on in a way that this one waits for.
    pub(super) fn progress_is_news(&self) -> bool {
        let Descent { retired, closing, closed, quiet, .. } = self.descent;
        matches!(self.accepting, Accepting::Waiting) && self.may_accept()
            || retired && !self.is_going_down() && self.all_have_retired()
            || closing && !closed && self.all_are_closing()
            || quiet && self.all_are_quiet()
    }
}

#[cfg(test)]
mod tests;
