//! Commands that members have not acknowledged are sent to them again (3.1.6): nobody sees the loss
//! of a burst's end but who has sent it.

use super::*;

impl<W: Copy> Member<W> {
    pub(super) fn retransmit_later(&mut self, member: MemberId, now: Monotonic) {
        let last = self.beside.sequencer.last_index().unwrap_or_default();
        if self.beside.collector.ack(member) >= last && !self.lacks_results(member) {
            return;
        }
        let delay_ns = self.settings.timing.retransmit_ns;
        let due = now.after_ns(delay_ns);
        self.retransmit[usize::from(member.0)].get_or_insert((due, delay_ns));
        self.timeouts.arm(Timeout::Retransmit, due);
    }

    fn lacks_results(&self, member: MemberId) -> bool {
        member == self.beside.present.leader
            && self.beside.collector.lacks_result().next().is_some()
    }

    pub(super) fn on_retransmit_timeout(&mut self, now: Monotonic, effects: &mut impl Effects<W>) {
        if !self.beside.sequencer.is_active() {
            self.retransmit = [None; MEMBER_COUNT_MAX];
            return;
        }
        let mut next: Option<Monotonic> = None;
        for member in self.beside.group.others() {
            let place = usize::from(member.0);
            let Some((mut due, mut delay_ns)) = self.retransmit[place] else { continue };
            if due <= now {
                if !self.retransmit_to(member, effects) {
                    self.retransmit[place] = None;
                    continue;
                }
                delay_ns = (delay_ns * 2).min(self.settings.timing.retransmit_ns_max);
                due = now.after_ns(delay_ns);
                self.retransmit[place] = Some((due, delay_ns));
            }
            next = Some(next.map_or(due, |next| next.min(due)));
        }
        if let Some(due) = next {
            self.timeouts.set(Timeout::Retransmit, due);
        }
    }

    /// Sends the oldest commands again that a member has not acked; whether there are any.
    pub(super) fn retransmit_to(&self, member: MemberId, effects: &mut impl Effects<W>) -> bool {
        let Present { term, base, .. } = self.beside.present;
        let last = self.beside.sequencer.last_index().unwrap_or_default();
        let acked = self.beside.collector.ack(member).max(base);
        let lost: Vec<Index> = match self.lacks_results(member) {
            true => self.beside.collector.lacks_result().take(RETRANSMIT_COUNT_MAX).collect(),
            false => Vec::new(),
        };
        if acked >= last && lost.is_empty() {
            return false;
        }
        let behind = (acked.0 + 1..=last.0)
            .map(Index)
            .take(RETRANSMIT_COUNT_MAX)
            .filter(|_| last.since(acked) <= RETRANSMIT_LAG_COUNT_MAX);
        for index in lost.into_iter().chain(behind) {
            let Some(slot) = self.replica.log().slot(index) else { continue };
            if let Some(value) = slot.value.clone() {
                mark!("retransmit");
                let message_id = MessageId(index.since(base));
                let command = Stamped { term, message_id, timestamp: slot.timestamp, value };
                effects.send(member, Message::Command(command));
            }
        }
        true
    }
}
