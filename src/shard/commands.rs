//! A client's command on its way to a slot.

use bytes::Bytes;

use super::admission::Refused;
use super::execute::{Parsed, World};
use super::forwarding::Passable;
use super::partition::{Asker, Partition, Recipient, Waiter};
use super::{Effects, RoutedRequest, Shard};
use crate::base::ids::PartitionId;
use crate::base::limits::{OPERATION_TIMEOUT_NS_DEFAULT, OPERATION_TIMEOUT_NS_MAX};
use crate::base::time::{Monotonic, NS_PER_MS};
use crate::map::hasher::KeyHash;
use crate::map::operation::Command;
use crate::proto::p2pmap::v1::error::Code;
use crate::storage::wal::Durability;
use crate::wire::request::Kind;

impl Shard {
    /// A client's command to one partition.
    pub(super) fn on_command(
        &mut self,
        partition: PartitionId,
        request: &RoutedRequest<'_>,
        bytes: &[u8],
        command: &Command<'_>,
        hash: Option<KeyHash>,
        effects: &mut impl Effects,
    ) {
        let waiter = Waiter::Asker(Asker {
            to: Recipient::Client(request.origin),
            correlation: request.request.correlation,
            kind: Kind::Command,
            deadline: self.deadline(command.timeout_ms),
        });
        self.submit(partition, waiter, bytes, command, hash, effects);
    }

    /// Stamps a command and appends it, or tells `waiter` why not.
    pub(super) fn submit(
        &mut self,
        partition: PartitionId,
        waiter: Waiter,
        bytes: &[u8],
        command: &Command<'_>,
        hash: Option<KeyHash>,
        effects: &mut impl Effects,
    ) {
        let place = self.place(partition);
        let admitted = self.core.admit(&self.partitions[place], bytes.len());
        let admitted =
            admitted.and_then(|()| self.core.admit_growth(&self.partitions[place], command, hash));
        let Partition { member, view } = &mut self.partitions[place];
        if let Err(refused) = admitted {
            let sequencer = member.sequencer();
            let is_elsewhere = sequencer.is_some_and(|member| member != view.group.me());
            let mut world = World::new(view, &mut self.core, effects);
            if is_elsewhere && matches!(refused, Refused::NoView | Refused::Closing) {
                let request = || Passable {
                    kind: Kind::Command,
                    value: Bytes::copy_from_slice(bytes),
                    no_forward: command.no_forward,
                    is_repeatable: command.session.is_some(),
                };
                return world.pass_on(waiter, request, sequencer);
            }
            refused.count(&mut world.core.counters);
            return world.fail(waiter, refused.code(), refused.message());
        }
        self.core.counters.commands += 1;
        let index = member.next_index().expect("an admitted command is stamped");
        let value = self.core.payloads.copy(bytes);
        let (now, parsed) = (self.core.now, Parsed { index, command, hash });
        let mut world = World::new(view, &mut self.core, effects).with_parsed(parsed);
        member.submit(now, value, waiter, &mut world);
        self.core.after_step(&mut self.partitions[place]);
        if self.core.config.durability == Durability::Sync {
            self.core.sweep_later();
        } else {
            self.settle(effects);
        }
    }

    /// When an operation that may take `timeout_ms` (0: the default) is given up.
    pub(super) fn deadline(&self, timeout_ms: u32) -> Monotonic {
        let timeout_ns = match timeout_ms {
            0 => OPERATION_TIMEOUT_NS_DEFAULT,
            ms => (u64::from(ms) * NS_PER_MS).min(OPERATION_TIMEOUT_NS_MAX),
        };
        self.core.now.monotonic.after_ns(timeout_ns)
    }

    /// Tells everybody whose time is up that the outcome is unknown: the command is in the log and
    /// goes on without them.
    pub(super) fn give_up_expired(&mut self, effects: &mut impl Effects) {
        let now = self.core.now.monotonic;
        let mut waiting = false;
        for Partition { member, view } in &mut self.partitions {
            let expired = member.give_up(|waiter| waiter.deadline() <= now);
            waiting |= member.waiting_count() > 0;
            let mut world = World::new(view, &mut self.core, effects);
            for waiter in expired {
                world.fail(
                    waiter,
                    Code::OutcomeUnknown,
                    "the write was not durable in time; it may or may not take effect",
                );
            }
        }
        waiting |= self.give_up_round_reads(effects);
        self.give_up_left_behind(effects);
        waiting |= self.give_up_late_forwards(effects);
        waiting |= self.core.give_up_shares(effects);
        waiting |= self.give_up_asked_streams(effects);
        if waiting || !self.core.waiting_reads.is_empty() {
            self.core.sweep_later();
        }
    }
}
