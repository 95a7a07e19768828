use bytes::Bytes;

use super::*;
use crate::base::ids::{MemberId, MessageId, PartitionId};
use crate::nopaxos::{Sequencer, ViewStarted};

/// What a replica asked for, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    PersistSlot(u64),
    PersistView(u64),
    PersistAdopt { term: u64, base: u64, kept: u64 },
    PersistSyncPoint(u64),
    Execute(u64),
    UndoTo(u64),
    Stabilise(u64),
    Respond(u64),
    Started { term: u64, base: u64, sequencing: bool },
    Left,
}

#[derive(Debug, Default)]
struct Recorder(Vec<Asked>);

impl Recorder {
    fn take(&mut self) -> Vec<Asked> {
        std::mem::take(&mut self.0)
    }
}

impl Effects for Recorder {
    fn persist(&mut self, record: Persist<'_>) {
        self.0.push(match record {
            Persist::Slot(index, _) => Asked::PersistSlot(index.0),
            Persist::View(term) => Asked::PersistView(term.0),
            Persist::Adopt { term, base, kept, .. } => {
                Asked::PersistAdopt { term: term.0, base: base.0, kept: kept.0 }
            }
            Persist::SyncPoint(index) => Asked::PersistSyncPoint(index.0),
        });
    }

    fn execute(&mut self, index: Index, _slot: &Slot) -> ResultBytes {
        self.0.push(Asked::Execute(index.0));
        ResultBytes::from_slice(b"result")
    }

    fn undo_to(&mut self, index: Index) {
        self.0.push(Asked::UndoTo(index.0));
    }

    fn stabilise(&mut self, index: Index, _size_bytes: usize) {
        self.0.push(Asked::Stabilise(index.0));
    }

    fn respond(&mut self, index: Index, _result: ResultBytes) {
        self.0.push(Asked::Respond(index.0));
    }

    fn view_started(&mut self, started: ViewStarted) {
        let ViewStarted { term, base, sequencing, .. } = started;
        self.0.push(Asked::Started { term: term.0, base: base.0, sequencing });
    }

    fn view_left(&mut self) {
        self.0.push(Asked::Left);
    }
}

fn replica(restored: Restored) -> Replica {
    Replica::new(Group::new(PartitionId(0), vec!["a".into()], "a"), restored)
}

fn slot(message_id: u64, value: Option<&'static [u8]>) -> Slot {
    Slot {
        term: TermId(1),
        message_id: MessageId(message_id),
        timestamp: Timestamp(message_id),
        value: value.map(Bytes::from_static),
    }
}

/// A replica that leads term 1, and the sequencer of that term.
fn leader() -> (Replica, Sequencer, Recorder) {
    let mut effects = Recorder::default();
    let mut replica = replica(Restored::default());
    replica.start(TermId(1), &mut effects);
    replica.on_persisted(Persisted::View(TermId(1)), &mut effects);
    replica.on_persisted(Persisted::Adopted(TermId(1)), &mut effects);
    let mut sequencer = Sequencer::default();
    sequencer.activate(TermId(1), Index(0), Timestamp(0));
    effects.take();
    (replica, sequencer, effects)
}

#[test]
fn new_group_of_one_starts_its_first_view_with_its_own_vote() {
    let mut effects = Recorder::default();
    let mut replica = replica(Restored::default());
    replica.start(TermId(1), &mut effects);
    assert_eq!(effects.take(), [Asked::Left, Asked::PersistView(1)]);
    assert_eq!(replica.status(), Status::ViewChange);

    replica.on_persisted(Persisted::View(TermId(1)), &mut effects);
    let adopt = Asked::PersistAdopt { term: 1, base: 0, kept: 0 };
    assert_eq!(effects.take(), [Asked::UndoTo(0), adopt]);
    assert_eq!(replica.status(), Status::ViewChange, "nothing is adopted before W2 is durable");

    replica.on_persisted(Persisted::Adopted(TermId(1)), &mut effects);
    assert_eq!(effects.take(), [Asked::Started { term: 1, base: 0, sequencing: true }]);
    assert_eq!(replica.status(), Status::Normal);
}

#[test]
fn restarted_leader_never_goes_on_in_its_old_term() {
    let mut effects = Recorder::default();
    let mut replica = replica(Restored {
        view: TermId(4),
        last_normal: TermId(4),
        base: Index(5),
        first: Index(1),
        sync_point: Index(6),
        slots: vec![slot(7, Some(b"x")), slot(8, None)],
        ..Restored::default()
    });
    replica.start(TermId(1), &mut effects);
    assert_eq!(effects.take(), [Asked::Left, Asked::PersistView(5)]);
    replica.on_persisted(Persisted::View(TermId(5)), &mut effects);
    replica.on_persisted(Persisted::Adopted(TermId(5)), &mut effects);
    assert_eq!(
        effects.take(),
        [
            Asked::UndoTo(6),
            Asked::PersistAdopt { term: 5, base: 8, kept: 8 },
            Asked::Started { term: 5, base: 8, sequencing: true },
            Asked::Execute(7),
            Asked::Stabilise(8),
            Asked::PersistSyncPoint(8),
        ]
    );
    assert_eq!((replica.base(), replica.sync_point()), (Index(8), Index(8)));
}

#[test]
fn result_is_given_out_only_after_its_slot_is_durable() {
    let (mut replica, mut sequencer, mut effects) = leader();
    for _ in 0..2 {
        let stamp = sequencer.stamp(Timestamp(1)).unwrap();
        replica.on_command(stamp, Bytes::from_static(b"x"), &mut effects);
    }
    assert_eq!(
        effects.take(),
        [Asked::PersistSlot(1), Asked::Execute(1), Asked::PersistSlot(2), Asked::Execute(2)]
    );
    assert_eq!((replica.applied(), replica.sync_point()), (Index(2), Index(0)));

    replica.on_persisted(Persisted::Slots(Index(1)), &mut effects);
    assert_eq!(effects.take(), [Asked::Respond(1), Asked::Stabilise(1)]);
    assert_eq!(replica.log().floor(), Index(1), "what is stable leaves memory");
}

#[test]
fn leader_that_moves_on_undoes_what_was_not_stable_and_executes_it_again() {
    let (mut replica, mut sequencer, mut effects) = leader();
    let stamp = sequencer.stamp(Timestamp(1)).unwrap();
    replica.on_command(stamp, Bytes::from_static(b"x"), &mut effects);
    effects.take();

    replica.on_view_change_request(MemberId(0), TermId(2), &mut effects);
    replica.on_persisted(Persisted::Slots(Index(1)), &mut effects);
    replica.on_persisted(Persisted::View(TermId(2)), &mut effects);
    replica.on_persisted(Persisted::Adopted(TermId(2)), &mut effects);
    assert_eq!(
        effects.take(),
        [
            Asked::Left,
            Asked::PersistView(2),
            Asked::UndoTo(0),
            Asked::PersistAdopt { term: 2, base: 1, kept: 1 },
            Asked::Started { term: 2, base: 1, sequencing: true },
            Asked::Execute(1),
            Asked::Stabilise(1),
            Asked::PersistSyncPoint(1),
        ],
        "and the collector of term 1 hears nothing of it"
    );
}

#[test]
fn promise_that_was_overtaken_has_no_effect_when_it_becomes_durable() {
    let mut effects = Recorder::default();
    let mut replica = replica(Restored::default());
    replica.start(TermId(1), &mut effects);
    replica.on_view_change_request(MemberId(0), TermId(2), &mut effects);
    effects.take();
    replica.on_persisted(Persisted::View(TermId(1)), &mut effects);
    assert_eq!(effects.take(), []);
    replica.on_persisted(Persisted::View(TermId(2)), &mut effects);
    assert_eq!(
        effects.take(),
        [Asked::UndoTo(0), Asked::PersistAdopt { term: 2, base: 0, kept: 0 }]
    );
}

#[test]
fn sync_point_is_written_from_time_to_time() {
    let (mut replica, mut sequencer, mut effects) = leader();
    for index in 1..=crate::base::limits::SYNC_BATCH_COUNT {
        let stamp = sequencer.stamp(Timestamp(1)).unwrap();
        replica.on_command(stamp, Bytes::from_static(b"x"), &mut effects);
        replica.on_persisted(Persisted::Slots(Index(index)), &mut effects);
    }
    let written: Vec<_> = effects
        .take()
        .into_iter()
        .filter(|asked| matches!(asked, Asked::PersistSyncPoint(_)))
        .collect();
    assert_eq!(written, [Asked::PersistSyncPoint(256)]);
}
