//! Every message of another member comes through here: what may be ignored is ignored with its
//! reason, what shows that a higher view has begun makes the member follow, and what is of the
//! present view goes to its place (2.0).

use super::*;
use crate::base::limits::STALE_ANSWER_INTERVAL_NS;

impl Replica {
    /// A message of a member, and which of its lives sent it. What is for the collector or the
    /// sequencer comes back.
    pub(in crate::nopaxos) fn on_message(
        &mut self,
        from: MemberId,
        incarnation: Incarnation,
        message: Message,
        world: &mut impl World,
    ) -> Option<Message> {
        let taken = self.take(from, incarnation, message, world);
        self.assert_watermarks();
        match taken {
            Ok(rest) => rest,
            Err(reason) => {
                world.ignore(reason);
                None
            }
        }
    }

    fn take(
        &mut self,
        from: MemberId,
        incarnation: Incarnation,
        message: Message,
        world: &mut impl World,
    ) -> Result<Option<Message>, IgnoreReason> {
        if from == self.group.me() || usize::from(from.0) >= self.group.count() {
            return Err(IgnoreReason::BadSender);
        }
        // Who has lost everything doesn't know yet which life it is.
        if let Message::Recover { member, attempt } = message {
            return self.on_recover(from, member, attempt, world).map(|()| None);
        }
        self.check_life(from, incarnation, world)?;
        if is_of_whole_member(&message) {
            self.note_whole(from);
        }
        if self.status == Status::Recovering {
            return self.take_recovering(from, message, world).map(|()| None);
        }
        let term = message.term().ok_or(IgnoreReason::NoView)?;
        if term < self.view {
            self.tell_stale(from, &message, world);
            return Err(IgnoreReason::StaleView);
        }
        if term > self.view {
            if let Message::ViewChangeRequest { .. } | Message::ViewChange { .. } = message {
                let has_left = matches!(message, Message::ViewChange { .. });
                self.note_vote(from, message, world)?;
                self.on_endorsement(from, (term, has_left), world);
                return Ok(None);
            }
            if !proves_that_its_view_began(&message) {
                return Err(IgnoreReason::UnknownView);
            }
            mark!("jump");
            self.jump_to(term, world);
        }
        if self.is_barred {
            return Err(IgnoreReason::Barred);
        }
        self.take_present(from, message, world)
    }

    /// A message of the present view.
    fn take_present(
        &mut self,
        from: MemberId,
        message: Message,
        world: &mut impl World,
    ) -> Result<Option<Message>, IgnoreReason> {
        match message {
            Message::CommandResponse { .. }
            | Message::Query { .. }
            | Message::QueryResponse { .. } => {
                if self.status != Status::Normal {
                    return Err(IgnoreReason::NotNormal);
                }
                return Ok(Some(message));
            }
            Message::Command(command) => self.on_command(from, command, world),
            Message::SlotLookup { message_id, .. } => self.on_slot_lookup(from, message_id, world),
            Message::GapCommitRequest { index, .. } => {
                self.on_gap_commit_request(from, index, world)
            }
            Message::GapCommitResponse { index, .. } => {
                self.on_gap_commit_response(from, index, world)
            }
            Message::ViewChangeRequest { .. } => self.on_view_change_request(from, world),
            Message::ViewChange { .. } => self.on_view_change(from, message, world),
            Message::ViewChangeRepair { request, wanted, .. } => {
                self.on_view_change_repair(from, request, &wanted, world)
            }
            Message::ViewChangeRepairResponse { request, chunk, values, .. } => {
                self.on_view_change_repair_response(from, request, (chunk, &values), world)
            }
            Message::StartView { source_term, log, .. } => {
                self.on_start_view(from, source_term, log, world)
            }
            Message::ViewRepair { request, wanted, .. } => {
                self.on_view_repair(from, request, &wanted, world)
            }
            Message::ViewRepairResponse { chunk, entries, .. } => {
                self.on_view_repair_response(from, chunk, entries, world)
            }
            Message::SyncPrepare { message_id, log, .. } => {
                self.on_sync_prepare(from, message_id, log, world)
            }
            Message::SyncRepair { wanted, .. } => self.on_sync_repair(from, &wanted, world),
            Message::SyncRepairResponse { chunk, entries, .. } => {
                self.on_sync_repair_response(from, chunk, entries, world)
            }
            Message::SyncResponse { index, .. } => self.on_sync_response(from, index, world),
            Message::SyncCommit { sync_point, .. } => self.on_sync_commit(from, sync_point, world),
            Message::Ping { .. } => self.on_ping(from, world),
            Message::RecoverResponse { .. } => Err(IgnoreReason::Unasked),
            Message::Recover { .. } => Err(IgnoreReason::Malformed),
        }
        .map(|()| None)
    }

    /// A message while this member recovers: only what answers its questions is of use.
    fn take_recovering(
        &mut self,
        from: MemberId,
        message: Message,
        world: &mut impl World,
    ) -> Result<(), IgnoreReason> {
        match message {
            Message::RecoverResponse { .. } => self.on_recover_response(from, message, world),
            Message::StartView { term, source_term, log } => {
                self.on_start_view_recovering(from, term, (source_term, log), world)
            }
            Message::ViewRepairResponse { term, chunk, entries }
                if self.recovering_into() == Some(term) =>
            {
                self.on_view_repair_response(from, chunk, entries, world)
            }
            _ => Err(IgnoreReason::Recovering),
        }
    }

    /// Tells a member that it is behind, if its message says that it doesn't know.
    fn tell_stale(&mut self, to: MemberId, message: &Message, world: &mut impl World) {
        let is_stuck = matches!(
            message,
            Message::Ping { .. }
                | Message::GapCommitRequest { .. }
                | Message::SyncPrepare { .. }
                | Message::SyncCommit { .. }
                | Message::ViewChangeRequest { .. }
                | Message::ViewChange { .. }
        );
        let now = world.now();
        let peer = &mut self.peers[usize::from(to.0)];
        let is_early = peer.told.is_some_and(|at| now.since_ns(at) < STALE_ANSWER_INTERVAL_NS);
        if !is_stuck || is_early {
            return;
        }
        mark!("stale-member-told");
        peer.told = Some(now);
        let term = self.view;
        world.send(
            to,
            match self.status {
                Status::Normal => Message::Ping { term },
                Status::ViewChange | Status::Recovering => Message::ViewChangeRequest { term },
            },
        );
    }
}

/// Whether a member that recovers doesn't send such a message.
fn is_of_whole_member(message: &Message) -> bool {
    match message {
        Message::ViewChange { .. } => true,
        // Of a group that is new as well.
        Message::RecoverResponse { .. } => false,
        _ => proves_that_its_view_began(message),
    }
}

/// Whether a message can only come from a member that has adopted the view.
fn proves_that_its_view_began(message: &Message) -> bool {
    match message {
        Message::Command(_)
        | Message::CommandResponse { .. }
        | Message::Query { .. }
        | Message::QueryResponse { .. }
        | Message::SlotLookup { .. }
        | Message::GapCommitRequest { .. }
        | Message::GapCommitResponse { .. }
        | Message::StartView { .. }
        | Message::SyncPrepare { .. }
        | Message::SyncRepair { .. }
        | Message::SyncRepairResponse { .. }
        | Message::SyncResponse { .. }
        | Message::SyncCommit { .. }
        | Message::RecoverResponse { .. }
        | Message::Ping { .. } => true,
        Message::ViewChangeRequest { .. }
        | Message::ViewChange { .. }
        | Message::ViewChangeRepair { .. }
        | Message::ViewChangeRepairResponse { .. }
        | Message::ViewRepair { .. }
        | Message::ViewRepairResponse { .. }
        | Message::Recover { .. } => false,
    }
}
