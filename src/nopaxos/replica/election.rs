//! Who wants which view (3.4). To *endorse* a view is to ask all members for it: it promises
//! nothing and needs no write. Endorsed by a quorum, it is moved to. A single member's wish is
//! followed only when it is the leader's or the sequencer's own, or doesn't end: so one flapping
//! member deposes nobody, and one that is stuck in a higher view isn't left there. Nothing here
//! matters for safety: a member may move to any higher view at any time.
//!
//! Timeouts grow. Where hosts stand still for longer than a leader may be silent, every view would
//! be left soon after it was adopted, and nothing be written. So a view that is left soon makes the
//! next one's timeouts half as long again, up to a bound, and a view that lasts makes them shorter.

use super::*;
use crate::base::limits::BRIEF_VIEW_COUNT_MAX;

/// What is known of the members' wishes.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Election {
    /// Each member's: the view it names, since when without a pause, and when last.
    seen: Vec<Seen>,
    /// The view that this member endorses, if any.
    mine: Option<Endorsed>,
    /// View changes in a row that came to nothing.
    attempts_count: u32,
    /// When the present view was adopted, or the last one that was.
    adopted: Monotonic,
    /// Of the views adopted lately, those that were left soon: what members do takes longer than
    /// the timeouts allow for.
    brief_count: u32,
    leader_heard: Monotonic,
    sequencer_heard: Monotonic,
    jitter_ns: u64,
    /// A leader that nobody hears: it says nothing and stamps nothing (T4).
    pub(super) is_isolated: bool,
    /// Something of what this member lacks to be part of a view has come since it was looked last.
    has_progressed: bool,
    /// Members that have lost what they held and were not part of a view since.
    recovering: MemberSet,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    term: TermId,
    since: Monotonic,
    at: Monotonic,
}

#[derive(Clone, Copy, Debug)]
struct Endorsed {
    term: TermId,
    /// The reason ends when the leader is heard again.
    is_silence: bool,
    /// The reason ends anyway.
    until: Option<Monotonic>,
}

impl Election {
    pub(super) fn new(count: usize) -> Self {
        Self {
            seen: vec![Seen::default(); count],
            mine: None,
            attempts_count: 0,
            adopted: Monotonic(0),
            brief_count: 0,
            leader_heard: Monotonic(0),
            sequencer_heard: Monotonic(0),
            jitter_ns: 0,
            is_isolated: false,
            has_progressed: false,
            recovering: MemberSet::default(),
        }
    }
}

impl Replica {
    /// Begins a process's life. A restarted leader or sequencer never goes on in its old term (S3,
    /// T3).
    ///
    /// # Panics
    /// If the replica has started already.
    pub(in crate::nopaxos) fn start(&mut self, first_term: TermId, world: &mut impl World) {
        assert!(self.view == TermId(0) || self.election.mine.is_none(), "a replica starts once");
        let now = world.now();
        for peer in &mut self.peers {
            peer.heard = now;
        }
        let me = self.group.me();
        if self.status == Status::Recovering {
            self.note_first_term(first_term);
            self.start_recovery(world);
        } else if self.view == TermId(0) {
            self.want_first_view(first_term, world);
        } else if self.leader() == me && !stamps_on() {
            mark!("restarted-leader");
            self.is_barred = true;
            let term = self.view.next();
            let term = if self.group.is_alone() { term.max(first_term) } else { term };
            self.endorse(self.next_led_by_others(term), None, world);
        } else if self.last_normal == self.view {
            self.start_as_follower(world);
        } else {
            mark!("restarted-in-view-change");
            self.cast_vote(world);
            self.arm_view_change(world);
        }
    }

    /// Asks for the first view of a new group.
    pub(super) fn want_first_view(&mut self, first_term: TermId, world: &mut impl World) {
        self.endorse(first_term.max(TermId(1)), None, world);
    }

    /// Goes on in the view that an earlier life had adopted.
    fn start_as_follower(&mut self, world: &mut impl World) {
        mark!("restarted-follower");
        self.status = Status::Normal;
        self.hear_leader(world.now());
        let term = self.view;
        world.view_started(ViewStarted {
            term,
            base: self.base,
            last_timestamp: self.log.last_timestamp(),
            sequencing: stamps_on() && self.sequencer() == self.group.me(),
        });
        self.ack_later(world);
        self.arm_silence(world);
        if self.sequencer() == self.group.me() {
            mark!("restarted-sequencer");
            self.endorse(self.next_led_by_others(term.next()), None, world);
        }
    }

    /// The first term from `term` on whose leader and sequencer aren't suspected. A member that
    /// recovers is there, but votes and stamps nothing: its terms would end by T2.
    fn next_led_by_others(&self, term: TermId) -> TermId {
        let is_suspect = |member: MemberId| {
            let is_connected = self.peers[usize::from(member.0)].is_connected;
            let recovers = self.election.recovering.contains(member);
            member != self.group.me() && (!is_connected || recovers)
        };
        let count = crate::base::cast::u64_from(self.group.count());
        (0..count)
            .map(|step| term.plus(step))
            .find(|term| {
                !is_suspect(self.group.leader(*term)) && !is_suspect(self.group.sequencer(*term))
            })
            .unwrap_or(term)
    }

    /// The same, and the present leader and sequencer are suspected as well.
    fn next_without_present(&self) -> TermId {
        let (leader, sequencer) = (self.leader(), self.sequencer());
        let mut term = self.next_led_by_others(self.view.next());
        if !self.group.is_alone() {
            let count = crate::base::cast::u64_from(self.group.count());
            let others =
                (0..count).map(|step| self.next_led_by_others(self.view.next().plus(step)));
            let is_other = |term: &TermId| {
                let is = self.group.leader(*term);
                is != leader && (sequencer == leader || self.group.sequencer(*term) != sequencer)
            };
            let mut others = others.filter(is_other);
            term = others.next().unwrap_or(term);
        }
        term
    }

    /// Asks all members for a view, from now on until the reason ends.
    fn endorse(&mut self, term: TermId, until: Option<Monotonic>, world: &mut impl World) {
        self.endorse_because(Endorsed { term, is_silence: false, until }, world);
    }

    fn endorse_because(&mut self, endorsed: Endorsed, world: &mut impl World) {
        let present = self.election.mine.map_or(TermId(0), |mine| mine.term);
        if endorsed.term <= self.view || self.status == Status::Recovering {
            return;
        }
        if endorsed.term >= present {
            self.election.mine = Some(endorsed);
        }
        if endorsed.term > present {
            mark!("endorse");
            self.send_endorsement(world);
        }
        let retry = world.now().after_ns(self.settings.timing.view_change_retry_ns);
        if !self.group.is_alone() {
            self.timeouts.arm(Timeout::Endorse, retry);
        }
        self.move_if_endorsed(world);
    }

    /// A member that recovers has promised a view that nobody has come to, and can't go back to
    /// theirs: it asks for one from that on which it needn't lead itself, for as long as a lasting
    /// wish takes to be followed (E3). It moves nowhere by that.
    pub(super) fn ask_for_promised_view(&mut self, world: &mut impl World) {
        mark!("promised-view-asked-for");
        let (me, now) = (self.group.me(), world.now());
        let is_led_by_others =
            |term: &TermId| self.group.leader(*term) != me && self.group.sequencer(*term) != me;
        let count = crate::base::cast::u64_from(self.group.count());
        let mut terms = (0..count).map(|step| self.view.plus(step));
        let term = terms.find(is_led_by_others).unwrap_or(self.view);
        let until = Some(now.after_ns(2 * self.settings.timing.endorsement_ns()));
        self.election.mine = Some(Endorsed { term, is_silence: false, until });
        self.send_endorsement(world);
        let retry = now.after_ns(self.settings.timing.view_change_retry_ns);
        self.timeouts.set(Timeout::Endorse, retry);
    }

    fn send_endorsement(&mut self, world: &mut impl World) {
        let Some(mine) = self.election.mine else { return };
        for member in self.group.others() {
            world.send(member, Message::ViewChangeRequest { term: mine.term });
        }
    }

    pub(super) fn on_endorse_timeout(&mut self, world: &mut impl World) {
        let now = world.now();
        let ends = |mine: &mut Endorsed| mine.until.is_some_and(|until| until <= now);
        self.election.mine.take_if(ends);
        if self.election.mine.is_some() {
            self.send_endorsement(world);
            let retry = now.after_ns(self.settings.timing.view_change_retry_ns);
            self.timeouts.set(Timeout::Endorse, retry);
        }
    }

    /// A member asks for a view above the present one; `has_left`: it has voted in it.
    ///
    /// A vote shows that a quorum wanted the view, or that it began: if that lasts, and this member
    /// has not heard of it from a quorum itself, it isn't joined with one but through the voter. It
    /// moves all the same, or those that only the voter joins would stay behind for ever.
    pub(super) fn on_endorsement(
        &mut self,
        from: MemberId,
        (term, has_left): (TermId, bool),
        world: &mut impl World,
    ) {
        let (now, lasting_ns) = (world.now(), self.settings.timing.endorsement_ns());
        let view = self.view;
        let seen = &mut self.election.seen[usize::from(from.0)];
        if seen.term <= view || now.since_ns(seen.at) > lasting_ns {
            *seen = Seen { term, since: now, at: now };
        }
        seen.term = seen.term.max(term);
        seen.at = now;
        let (wanted, since) = (seen.term, seen.since);
        let until = Some(now.after_ns(lasting_ns));
        let is_silent = self.status == Status::Normal
            && !self.is_leading()
            && now.since_ns(self.election.leader_heard)
                > self.patient_ns(self.settings.timing.leader_timeout_ns, now);
        let is_its_own =
            self.status == Status::Normal && (from == self.leader() || from == self.sequencer());
        if is_its_own {
            mark!("endorse-leaders-wish");
            self.endorse(wanted, until, world);
        } else if now.since_ns(since) >= lasting_ns {
            mark!("endorse-lasting-wish");
            self.endorse(wanted, until, world);
            if has_left && term > self.view {
                mark!("follow-lasting-votes");
                self.move_to(term, world);
            }
        } else if is_silent {
            self.endorse_for_silence(world);
        }
        self.move_if_endorsed(world);
    }

    /// A quorum's wish is followed (E1).
    fn move_if_endorsed(&mut self, world: &mut impl World) {
        if self.status == Status::Recovering {
            return;
        }
        let (now, lasting_ns) = (world.now(), self.settings.timing.endorsement_ns());
        let me = usize::from(self.group.me().0);
        let mut terms: arrayvec::ArrayVec<TermId, MEMBER_COUNT_MAX> = self
            .election
            .seen
            .iter()
            .enumerate()
            .map(|(place, seen)| match place == me {
                true => self.election.mine.map_or(TermId(0), |mine| mine.term),
                false if now.since_ns(seen.at) > lasting_ns => TermId(0),
                false => seen.term,
            })
            .collect();
        terms.sort_unstable_by(|a, b| b.cmp(a));
        let wanted = terms[self.group.quorum_count() - 1];
        if wanted > self.view {
            mark!("move");
            self.move_to(wanted, world);
        }
    }

    // ---- who is there ----

    /// A member says that it is in the present view.
    pub(super) fn on_ping(
        &mut self,
        from: MemberId,
        world: &mut impl World,
    ) -> Result<(), IgnoreReason> {
        if self.status != Status::Normal {
            // The view has begun without this member: whoever leads it is asked for its log.
            return Err(IgnoreReason::NotNormal);
        }
        self.on_sign_of_life(from, world);
        // Leader and sequencer ping by themselves: echoing each other they would never end.
        let me = self.group.me();
        let is_echoed = from == self.leader() || from == self.sequencer();
        if is_echoed && me != self.leader() && me != self.sequencer() {
            world.send(from, Message::Ping { term: self.view });
        }
        Ok(())
    }

    /// A member is there, in the present view.
    pub(in crate::nopaxos) fn on_sign_of_life(&mut self, from: MemberId, world: &mut impl World) {
        let now = world.now();
        if self.status != Status::Normal {
            return;
        }
        self.peers[usize::from(from.0)].heard = now;
        if from == self.sequencer() {
            self.election.sequencer_heard = now;
        }
        if from == self.leader() {
            self.election.leader_heard = now;
            if self.election.mine.is_some_and(|mine| mine.is_silence) {
                self.election.mine = None;
                self.timeouts.cancel(Timeout::Endorse);
                self.arm_silence(world);
            }
        }
    }

    pub(super) fn hear_leader(&mut self, now: Monotonic) {
        (self.election.leader_heard, self.election.sequencer_heard) = (now, now);
    }

    pub(super) fn arm_silence(&mut self, world: &mut impl World) {
        if self.group.is_alone() {
            return;
        }
        let jitter_ns = self.settings.timing.leader_timeout_jitter_ns;
        self.election.jitter_ns = self.prng.below(jitter_ns.max(1));
        let now = world.now();
        self.timeouts.set(Timeout::Silence, now.after_ns(self.silence_ns(now)));
    }

    fn silence_ns(&self, now: Monotonic) -> u64 {
        let timing = self.settings.timing;
        // With heartbeats unchanged views are quiet, and their host says that they are alive.
        self.patient_ns(timing.leader_timeout_ns + self.election.jitter_ns, now)
    }

    /// A timeout, longer after views that were left soon. Hosts that stand still for longer than
    /// any fixed one would depose each of their leaders before it has done anything. What was added
    /// goes again while a view lasts.
    fn patient_ns(&self, timeout_ns: u64, now: Monotonic) -> u64 {
        longer(timeout_ns, self.brief_count(now))
    }

    /// Brief views that still count: the longer the timeouts, the longer a view has to last.
    fn brief_count(&self, now: Monotonic) -> u32 {
        let mut left_ns = now.since_ns(self.election.adopted);
        let mut count = self.election.brief_count;
        while count > 0 {
            let period_ns = longer(self.settings.timing.brief_view_ns(), count);
            if left_ns < period_ns {
                break;
            }
            left_ns -= period_ns;
            count -= 1;
        }
        count
    }

    /// The present view, which was adopted, is about to be left.
    pub(super) fn note_view_left(&mut self, now: Monotonic) {
        let brief_ns = longer(self.settings.timing.brief_view_ns(), self.election.brief_count);
        let is_brief = now.since_ns(self.election.adopted) < brief_ns;
        let count = self.brief_count(now) + u32::from(is_brief);
        self.election.brief_count = count.min(BRIEF_VIEW_COUNT_MAX);
    }

    /// Somebody may have been silent for too long (T1, T4).
    pub(super) fn on_silence_timeout(&mut self, world: &mut impl World) {
        if self.status != Status::Normal {
            return;
        }
        let now = world.now();
        let silence_ns = self.silence_ns(now);
        if self.is_leading() && self.heard_count(now) + 1 < self.group.quorum_count() {
            if !self.election.is_isolated {
                mark!("leader-unheard");
                self.election.is_isolated = true;
                self.timeouts.cancel(Timeout::Ping);
                world.stop_stamping();
                let term = self.next_without_present();
                self.endorse_because(Endorsed { term, is_silence: false, until: None }, world);
            }
            return;
        }
        let me = self.group.me();
        let leader = if self.leader() == me { now } else { self.election.leader_heard };
        let sequencer = if self.sequencer() == me { now } else { self.election.sequencer_heard };
        let heard = leader.min(sequencer);
        if now.since_ns(heard) >= silence_ns {
            mark!("leader-silent");
            self.endorse_for_silence(world);
        } else {
            let due = if self.is_leading() { now.after_ns(silence_ns / 2) } else { heard };
            let due = due.max(heard.after_ns(silence_ns));
            self.timeouts.set(Timeout::Silence, due);
        }
    }

    /// Asks for a view without the leader that isn't heard, for a while, and then not for a longer
    /// while: a wish that lasts is followed by others even if no quorum has it (E3), and one member
    /// that doesn't hear a leader whom the others hear shall depose nobody (E4). Those who don't
    /// hear it either join at once, so that a quorum's wishes always meet.
    fn endorse_for_silence(&mut self, world: &mut impl World) {
        let (now, timeout_ns) = (world.now(), self.settings.timing.leader_timeout_ns);
        let term = self.next_without_present();
        let until = Some(now.after_ns(3 * timeout_ns));
        let rested = now.after_ns(5 * timeout_ns + self.settings.timing.endorsement_ns());
        self.timeouts.set(Timeout::Silence, rested);
        self.endorse_because(Endorsed { term, is_silence: true, until }, world);
    }

    /// How many others were heard lately.
    fn heard_count(&self, now: Monotonic) -> usize {
        let silence_ns = self.silence_ns(now);
        let is_heard =
            |member: &MemberId| now.since_ns(self.peers[usize::from(member.0)].heard) < silence_ns;
        self.group.others().filter(is_heard).count()
    }

    /// The process of a member is gone (T7).
    pub(super) fn on_peer_gone(&mut self, member: MemberId, world: &mut impl World) {
        let is_missed = member == self.leader() || member == self.sequencer();
        if self.status == Status::Normal && is_missed && member != self.group.me() {
            mark!("leader-gone");
            self.endorse_for_silence(world);
        }
    }

    /// The leader, and a sequencer elsewhere, shows that it is there.
    pub(super) fn on_ping_timeout(&mut self, world: &mut impl World) {
        let me = self.group.me();
        let pings = self.leader() == me || self.sequencer() == me;
        if self.status != Status::Normal || !pings || self.election.is_isolated {
            return;
        }
        for member in self.group.others() {
            world.send(member, Message::Ping { term: self.view });
        }
        if self.is_leading() {
            self.refresh_sync_point(world);
        }
        self.arm_ping(world);
    }

    pub(super) fn arm_ping(&mut self, world: &mut impl World) {
        let timing = self.settings.timing;
        let interval_ns = match self.settings.heartbeats && !self.sync_is_moving() {
            true => timing.idle_ping_interval_ns,
            false => timing.ping_interval_ns,
        };
        self.timeouts.set(Timeout::Ping, world.now().after_ns(interval_ns));
    }

    /// The view change takes too long (T2).
    pub(super) fn on_view_change_timeout(&mut self, world: &mut impl World) {
        if self.status != Status::ViewChange {
            return;
        }
        if self.adoption.is_some() && self.take_progress() {
            // The view was started, or is being merged, and what this member lacks is on its way:
            // to ask for another view would end the one in which others are at work, and lose what
            // has come.
            mark!("view-change-goes-on");
            self.arm_view_change(world);
            return;
        }
        mark!("view-change-timeout");
        self.election.attempts_count += 1;
        let term = self.next_led_by_others(self.view.next());
        self.endorse(term, None, world);
        if self.status == Status::ViewChange {
            self.arm_view_change(world);
        }
    }

    /// Something of what this member lacks has come.
    pub(super) fn note_progress(&mut self) {
        self.election.has_progressed = true;
    }

    /// Whether anything has come since this was asked last, or it isn't the leader's fault.
    pub(super) fn take_progress(&mut self) -> bool {
        let waits_for_room = self.adoption.as_ref().is_some_and(Adoption::waits_for_room);
        std::mem::take(&mut self.election.has_progressed) || waits_for_room
    }

    /// Waits for a view to be adopted: longer each time.
    pub(super) fn arm_view_change(&mut self, world: &mut impl World) {
        if self.group.is_alone() {
            return;
        }
        let (timing, now) = (self.settings.timing, world.now());
        // What was added goes while a view lasts, not while there is none.
        let mut timeout_ns = longer(timing.view_change_timeout_ns, self.election.brief_count);
        for _ in 0..self.election.attempts_count.min(16) {
            timeout_ns = (timeout_ns * 3 / 2).min(timing.view_change_timeout_ns_max);
        }
        timeout_ns += self.prng.below((timeout_ns / 8).max(1));
        self.timeouts.set(Timeout::ViewChange, now.after_ns(timeout_ns));
    }

    /// A view was adopted: nobody is waited for any more.
    pub(super) fn settle_election(&mut self, now: Monotonic) {
        self.election.adopted = now;
        self.election.attempts_count = 0;
        self.election.is_isolated = false;
        self.election.mine = None;
        self.timeouts.cancel(Timeout::Endorse);
        self.timeouts.cancel(Timeout::ViewChange);
        self.hear_leader(now);
        for peer in &mut self.peers {
            peer.heard = now;
        }
    }

    /// A member has lost what it held.
    pub(super) fn note_recovering(&mut self, member: MemberId) {
        self.election.recovering.insert(member);
    }

    /// A member is part of a view, or votes for one.
    pub(super) fn note_whole(&mut self, member: MemberId) {
        self.election.recovering.remove(member);
    }

    /// What an earlier life of a member wished counts no longer.
    pub(super) fn void_election(&mut self, member: MemberId) {
        self.election.seen[usize::from(member.0)] = Seen::default();
    }

    /// Hands the leader's place over (L1): the others follow their leader's own wish.
    pub(in crate::nopaxos) fn endorse_leader(&mut self, to: MemberId, world: &mut impl World) {
        let count = crate::base::cast::u64_from(self.group.count());
        let terms = (1..=count).map(|step| self.view.plus(step));
        let mut led = terms.filter(|term| self.group.leader(*term) == to);
        if let Some(term) = led.next() {
            mark!("leader-transfer");
            let until = Some(world.now().after_ns(self.settings.timing.transfer_timeout_ns));
            self.endorse(term, until, world);
        }
    }

    /// The leader's or the sequencer's process has restarted (T3).
    pub(super) fn on_leader_restarted(&mut self, world: &mut impl World) {
        let term = self.next_without_present();
        let until = world.now().after_ns(self.settings.timing.endorsement_ns());
        self.endorse(term, Some(until), world);
    }
}

/// Half as long again, so many times.
fn longer(ns: u64, times: u32) -> u64 {
    (0..times).fold(ns, |ns, _| ns * 3 / 2)
}

/// A planted bug: a restarted leader or sequencer goes on in its old term.
fn stamps_on() -> bool {
    crate::base::mutant::is(crate::base::mutant::Mutant::StampAfterRestart)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::PartitionId;
    use crate::base::time::NS_PER_MS;

    fn ms(ms: u64) -> Monotonic {
        Monotonic(ms * NS_PER_MS)
    }

    fn replica() -> Replica {
        let members = ["a", "b", "c"].map(str::to_owned).to_vec();
        let group = Group::new(PartitionId(0), members, "a");
        Replica::new(group, Settings::default(), Restored::default(), 1)
    }

    #[test]
    fn views_that_are_left_soon_make_timeouts_longer_up_to_a_bound() {
        let mut replica = replica();
        for expected in [100, 150, 225, 337, 506, 759, 759, 759] {
            replica.settle_election(ms(0));
            assert_eq!(replica.patient_ns(100 * NS_PER_MS, ms(1)) / NS_PER_MS, expected);
            replica.note_view_left(ms(1_000));
        }
    }

    #[test]
    fn view_that_lasts_makes_timeouts_as_short_as_they_were() {
        let mut replica = replica();
        for _ in 0..3 {
            replica.settle_election(ms(0));
            replica.note_view_left(ms(500));
        }
        replica.settle_election(ms(10_000));
        // It has to last the longer the longer they are: 4,050 ms, then 2,700 ms, then 1,800 ms.
        for (at, expected) in [
            (14_000, 337),
            (14_100, 225),
            (16_700, 225),
            (16_800, 150),
            (18_500, 150),
            (18_600, 100),
        ] {
            assert_eq!(replica.patient_ns(100 * NS_PER_MS, ms(at)) / NS_PER_MS, expected, "{at}");
        }
        // And a leader that dies after that costs nothing.
        replica.note_view_left(ms(18_600));
        replica.settle_election(ms(18_700));
        assert_eq!(replica.brief_count(ms(18_700)), 0);
    }

    #[test]
    fn lasting_views_leave_timeouts_as_they_are() {
        let mut replica = replica();
        for view in 0..20 {
            replica.settle_election(ms(view * 2_000));
            replica.note_view_left(ms(view * 2_000 + 1_300));
            assert_eq!(replica.brief_count(ms(view * 2_000 + 1_300)), 0);
        }
    }
}
