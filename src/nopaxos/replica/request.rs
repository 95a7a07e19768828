//! The normal case: stamped commands are appended, executed by the leader ahead of commitment, and
//! answered once they are durable (`NOPaxos`, normal operation; 3.1).

use super::*;
use crate::nopaxos::Stamp;
use bytes::Bytes;

impl Replica {
    /// A command that the sequencer stamped.
    ///
    /// # Panics
    /// If the stamp isn't the next one of the view: the sequencer is this member's own, and the
    /// commands of one core come in order.
    pub fn on_command(&mut self, stamp: Stamp, value: Bytes, effects: &mut impl Effects) {
        assert_eq!(self.status, Status::Normal, "a sequencer is active in a normal view only");
        assert_eq!(stamp.term, self.view, "a sequencer stamps in the view of its replica");
        assert_eq!(stamp.index, self.log.last().next(), "stamps leave no gap on one member");
        let index = self.log.append(Slot {
            term: stamp.term,
            message_id: stamp.message_id,
            timestamp: stamp.timestamp,
            value: Some(value),
        });
        let slot = self.log.slot(index).expect("it was just appended");
        effects.persist(Persist::Slot(index, slot));
        if self.is_leading() {
            self.execute(effects);
        }
    }

    /// Executes what was appended and keeps the results until they may be given out.
    pub(super) fn execute(&mut self, effects: &mut impl Effects) {
        while self.applied < self.log.last() {
            let index = self.applied.next();
            let slot = self.log.slot(index).expect("what isn't executed is in memory");
            let result = match slot.value {
                Some(_) => effects.execute(index, slot),
                None => ResultBytes::new(),
            };
            self.results_size_bytes += result.len();
            self.results.push_back(result);
            self.applied = index;
        }
    }

    /// Forgets the results of slots for which nobody waits any more.
    pub(super) fn drop_results(&mut self) {
        self.results.clear();
        self.results_size_bytes = 0;
    }

    /// Gives the results of what is durable to the collector (W3).
    pub(super) fn respond(&mut self, effects: &mut impl Effects) {
        while self.responded < self.durable.min(self.applied) {
            let index = self.responded.next();
            let result = self.results.pop_front().expect("an executed slot has a result");
            self.results_size_bytes -= result.len();
            effects.respond(index, result);
            self.responded = index;
        }
    }
}
