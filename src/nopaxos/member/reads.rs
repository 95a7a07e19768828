//! Linearizable reads at the sequencer: rounds, and queries for a leader elsewhere (3.7).

use super::*;

impl<W: Copy> Member<W> {
    /// A linearizable read may be answered once the returned round is complete
    /// ([`Effects::readable`]). `None`: not here, only at a leader that is also the sequencer; in a
    /// group of one no round is needed ([`Member::readable`]).
    pub fn barrier(&mut self, now: Now, effects: &mut impl Effects<W>) -> Option<Round> {
        let leads = self.beside.sequencer.is_active() && self.replica.is_leading();
        if !leads || self.beside.group.is_alone() {
            return None;
        }
        let (round, begins) = self.beside.queries.join();
        if begins {
            self.begin_round(now, effects);
        }
        self.settle(now, effects);
        Some(round)
    }

    /// Stamps a query for the leader, which is another member, or gives it back.
    pub fn query(&mut self, now: Now, query: Bytes, waiter: W, effects: &mut impl Effects<W>) {
        let is_here = self.beside.sequencer.is_active() && !self.replica.is_leading();
        if !is_here || query.is_empty() || self.beside.queries.count() >= QUERY_COUNT_MAX {
            effects.give_back(waiter, GivenBack::NotTaken);
            return;
        }
        mark!("query-stamped");
        let covers = self.beside.collector.commit();
        let asked = self.beside.queries.stamp(covers, query, waiter);
        let me = self.beside.group.me();
        self.beside.queries.on_response(me, asked.query_id, None);
        self.ask(now, asked, effects);
        self.settle(now, effects);
    }

    fn begin_round(&mut self, now: Now, effects: &mut impl Effects<W>) {
        mark!("read-round");
        let covers = self.readable();
        let asked = self.beside.queries.begin(covers);
        let me = self.beside.group.me();
        // A leader's commit and sync point are durable and executed here.
        self.beside.collector.on_ack(me, covers);
        self.beside.queries.on_response(me, asked.query_id, None);
        self.ask(now, asked, effects);
    }

    fn ask(&mut self, now: Now, asked: Unanswered, effects: &mut impl Effects<W>) {
        let term = self.beside.present.term;
        let Unanswered { query_id, covers, value, responded } = asked;
        for member in self.beside.group.others().filter(|member| !responded.contains(*member)) {
            let value = value.clone();
            effects.send(member, Message::Query { term, query_id, covers, value });
        }
        let due = now.monotonic.after_ns(self.settings.timing.retransmit_ns);
        self.timeouts.arm(Timeout::QueryRetry, due);
    }

    pub(super) fn on_query_retry_timeout(&mut self, now: Monotonic, effects: &mut impl Effects<W>) {
        if self.beside.queries.is_idle() {
            return;
        }
        mark!("query-repeated");
        let term = self.beside.present.term;
        for asked in self.beside.queries.unanswered() {
            let Unanswered { query_id, covers, value, responded } = asked;
            for member in self.beside.group.others().filter(|member| !responded.contains(*member)) {
                let value = value.clone();
                effects.send(member, Message::Query { term, query_id, covers, value });
            }
        }
        let due = now.after_ns(self.settings.timing.retransmit_ns);
        self.timeouts.set(Timeout::QueryRetry, due);
    }

    /// Tells those who wait for rounds and queries that are complete.
    pub(super) fn complete_reads(&mut self, now: Now, effects: &mut impl Effects<W>) {
        let Present { leader, .. } = self.beside.present;
        let quorum_count = match mutant::is(Mutant::ReadWithoutQuorum) {
            true => 1,
            false => self.beside.group.quorum_count(),
        };
        while !self.beside.queries.is_idle() {
            let collector = &self.beside.collector;
            let is_complete = |asked: &Asked| {
                let is_held = asked.covers == Index(0)
                    || (collector.holders_count(asked.covers) >= quorum_count
                        && collector.ack(leader) >= asked.covers);
                asked.responded.count() >= quorum_count
                    && asked.responded.contains(leader)
                    && is_held
            };
            if let Some(answered) = self.beside.queries.take_answered(is_complete) {
                effects.answer_query(answered.waiter, answered.index, &answered.value);
                continue;
            }
            let Some((round, asked, gathers)) = self.beside.queries.take_round(is_complete) else {
                return;
            };
            let mut index = asked.covers.max(self.replica.sync_point());
            if mutant::is(Mutant::ReadAtApplied) {
                index = self.replica.applied();
            }
            effects.readable(round, index);
            if gathers {
                self.begin_round(now, effects);
            }
        }
    }
}
