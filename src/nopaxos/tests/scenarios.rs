//! The scenario table of the specification (7): each with several seeds, all invariants checked at
//! every step.

use std::cell::Cell;
use std::rc::Rc;

use super::cluster::{Cluster, Verdict, m, name};
use crate::base::ids::{Index, MemberId, MessageId, TermId};
use crate::base::time::{NS_PER_MS, NS_PER_S};
use crate::nopaxos::message::Message;
use crate::nopaxos::{IgnoreReason, Settings, Status, Survival};

const SEEDS: std::ops::Range<u64> = 0..20;
const A: MemberId = MemberId(0);
const B: MemberId = MemberId(1);
const C: MemberId = MemberId(2);

/// Messages of one kind that are lost on their way to a member, so many times.
fn lose(
    cluster: &mut Cluster,
    count: u64,
    is_it: impl Fn(MemberId, MemberId, &Message) -> bool + 'static,
) -> Rc<Cell<u64>> {
    let lost = Rc::new(Cell::new(0));
    let counted = Rc::clone(&lost);
    cluster.filter = Some(Box::new(move |from, to, message| {
        if counted.get() < count && is_it(from, to, message) {
            counted.set(counted.get() + 1);
            return Verdict::Drop;
        }
        Verdict::Deliver
    }));
    lost
}

fn is_command(message: &Message, id: u64) -> bool {
    matches!(message, Message::Command(command) if command.message_id == MessageId(id))
}

fn quiet_all(cluster: &mut Cluster) {
    cluster.run_until(|cluster| cluster.is_settled());
    cluster.sent.clear();
}

#[test]
fn s01_new_group_starts_one_view_and_answers() {
    for seed in SEEDS {
        let mut cluster = Cluster::new(seed, 3, 0, Settings::default());
        for id in cluster.members() {
            cluster.lose_disk(id);
        }
        cluster.start_all();
        let ops = cluster.submit_all(100);
        assert_eq!(cluster.observer.start_views_count(), 1);
        assert_eq!(cluster.observer.start_view(1).unwrap().last, Index(0));
        for (op, index) in (1..).zip(ops) {
            assert_eq!(cluster.observer.answer_of(op), Some(Index(index)));
        }
        cluster.finish();
    }
}

#[test]
fn s02_gap_is_filled_from_the_leader_when_a_follower_missed_a_command() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 0);
        cluster.submit_all(4);
        quiet_all(&mut cluster);
        lose(&mut cluster, 1, |_, to, message| to == C && is_command(message, 5));
        for _ in 0..2 {
            cluster.submit();
        }
        cluster.run_until(|cluster| cluster.member(C).replica().log().last() == Index(6));
        assert_eq!(cluster.sent_count("SlotLookup"), 1);
        assert_eq!(cluster.sent_count("GapCommitRequest"), 0);
        cluster.finish();
    }
}

#[test]
fn s03_command_that_was_overtaken_is_not_asked_for() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 0);
        quiet_all(&mut cluster);
        cluster.filter = Some(Box::new(|_, to, message| match message {
            Message::Command(command) if to == C && command.message_id == MessageId(1) => {
                Verdict::Delay(3 * NS_PER_MS)
            }
            _ => Verdict::Deliver,
        }));
        for _ in 0..2 {
            cluster.submit();
        }
        cluster.run_until(|cluster| cluster.member(C).replica().log().last() == Index(2));
        assert_eq!(cluster.sent_count("SlotLookup"), 0);
        cluster.finish();
    }
}

#[test]
fn s04_command_that_nobody_else_has_becomes_a_no_op_and_is_stamped_anew() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 1);
        cluster.submit_all(4);
        quiet_all(&mut cluster);
        lose(&mut cluster, u64::MAX, |_, _, message| is_command(message, 5));
        let lost = cluster.submit().unwrap();
        cluster.submit();
        cluster.run_until(|cluster| cluster.observer.answer_of(lost).is_some());
        assert!(cluster.observer.answer_of(lost) > Some(Index(6)));
        cluster.finish();
        assert_eq!(cluster.observer.stable_value(5), Some(None));
        assert_eq!(cluster.observer.places_of(lost).len(), 1);
    }
}

#[test]
fn s05_leader_gets_a_command_from_any_member_that_has_it() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 1);
        cluster.submit_all(4);
        quiet_all(&mut cluster);
        // The sequencer's own ring seems to be lost: only what C was sent first is there.
        lose(&mut cluster, u64::MAX, |from, to, message| {
            is_command(message, 5) && (to == A && from == B)
        });
        for _ in 0..2 {
            cluster.submit();
        }
        cluster.run_until(|cluster| cluster.observer.answered().count() == 6);
        assert_eq!(cluster.sent_count("GapCommitRequest"), 0);
        cluster.finish();
    }
}

#[test]
fn s06_nothing_above_a_no_op_is_answered_before_a_quorum_holds_it() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 1);
        cluster.submit_all(4);
        quiet_all(&mut cluster);
        lose(&mut cluster, u64::MAX, |_, _, message| {
            is_command(message, 5) || name(message) == "GapCommitResponse"
        });
        let ops: Vec<u64> = (0..6).map(|_| cluster.submit().unwrap()).collect();
        cluster.run_for(100 * NS_PER_MS);
        for id in cluster.members() {
            assert_eq!(cluster.member(id).replica().log().last(), Index(10));
        }
        assert_eq!(cluster.observer.answered().count(), 4);
        lose(&mut cluster, u64::MAX, |_, _, message| is_command(message, 5));
        cluster.run_until(move |cluster| {
            ops.iter().all(|op| cluster.observer.answer_of(*op).is_some())
        });
        cluster.finish();
    }
}

#[test]
fn s07_no_op_of_a_quorum_survives_its_leader() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 2);
        quiet_all(&mut cluster);
        // C stamps; A leads. B hears of the no-op, C keeps its value.
        lose(&mut cluster, u64::MAX, |_, to, message| {
            is_command(message, 1)
                || (name(message) == "GapCommitRequest" && to == C)
                || name(message) == "SyncPrepare"
        });
        cluster.submit();
        let kept = cluster.submit().unwrap();
        cluster.run_until(|cluster| cluster.observer.answer_of(kept).is_some());
        assert!(cluster.member(C).replica().log().slot(Index(1)).unwrap().value.is_some());
        cluster.crash(A, 0);
        cluster.filter = None;
        cluster.run_until(|cluster| cluster.observer.start_views_count() == 2);
        cluster.finish();
        assert_eq!(cluster.observer.stable_value(1), Some(None));
        assert_eq!(cluster.observer.stable_value(2), Some(Some(kept)));
    }
}

#[test]
fn s08_no_op_that_no_quorum_held_is_replaced_by_the_value() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 1);
        quiet_all(&mut cluster);
        lose(&mut cluster, u64::MAX, |_, to, message| {
            (to == A && is_command(message, 1))
                || name(message) == "GapCommitRequest"
                || name(message) == "SyncPrepare"
        });
        let op = cluster.submit().unwrap();
        cluster.submit();
        cluster.run_until(|cluster| cluster.member(A).replica().log().no_ops().len() == 1);
        cluster.run_for(NS_PER_MS);
        cluster.crash(A, 100);
        cluster.filter = None;
        cluster.run_until(|cluster| cluster.observer.start_views_count() == 2);
        cluster.start(A);
        cluster.finish();
        assert_eq!(cluster.observer.stable_value(1), Some(Some(op)));
        assert!(cluster.node(A).host.disk.durable.slots[&Index(1)].value.is_some());
    }
}

#[test]
fn s09_lost_end_of_a_burst_is_sent_again() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 0);
        cluster.submit_all(5);
        quiet_all(&mut cluster);
        lose(&mut cluster, 2, |_, _, message| is_command(message, 6));
        let op = cluster.submit().unwrap();
        let before = cluster.now;
        cluster.run_until(|cluster| cluster.observer.answer_of(op).is_some());
        assert!(cluster.now - before < 50 * NS_PER_MS);
        cluster.finish();
    }
}

#[test]
fn s10_answered_commands_survive_their_leader() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 0);
        quiet_all(&mut cluster);
        lose(&mut cluster, u64::MAX, |_, _, message| name(message) == "SyncPrepare");
        let ops = cluster.submit_all(10);
        cluster.crash(A, 0);
        cluster.filter = None;
        cluster.run_until(|cluster| cluster.observer.start_views_count() == 2);
        cluster.finish();
        for op in ops {
            assert_eq!(cluster.observer.places_of(op).len(), 1);
        }
    }
}

#[test]
fn s11_leader_that_was_deposed_undoes_what_only_it_has_executed() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 0);
        cluster.submit_all(6);
        quiet_all(&mut cluster);
        cluster.isolate(A);
        let lost = cluster.submit_at(A);
        assert_eq!(cluster.member(A).replica().applied(), Index(7));
        cluster.run_until(|cluster| cluster.observer.start_views_count() == 2);
        cluster.run_until(|cluster| cluster.stamping().is_some_and(|id| id != A));
        let kept = cluster.submit().unwrap();
        cluster.run_until(|cluster| cluster.observer.answer_of(kept).is_some());
        cluster.finish();
        assert_eq!(cluster.observer.places_of(lost), []);
        assert_eq!(cluster.observer.places_of(kept), [Index(7)]);
    }
}

#[test]
fn s12_late_vote_gets_the_log_that_was_decided_without_it() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 1);
        quiet_all(&mut cluster);
        // A makes slot 1 a no-op that nobody hears of; B and C have its value.
        lose(&mut cluster, u64::MAX, |_, to, message| {
            (to == A && is_command(message, 1))
                || name(message) == "GapCommitRequest"
                || name(message) == "SyncPrepare"
        });
        cluster.submit();
        cluster.submit();
        cluster.run_until(|cluster| cluster.member(A).replica().log().no_ops().len() == 1);
        // A's vote comes late.
        cluster.filter = Some(Box::new(|from, _, message| match name(message) {
            "ViewChange" if from == A => Verdict::Delay(80 * NS_PER_MS),
            "GapCommitRequest" | "SyncPrepare" => Verdict::Drop,
            _ => Verdict::Deliver,
        }));
        let term = TermId(2);
        cluster.act(A, |member, now, host| {
            let request = Message::ViewChangeRequest { term };
            member.on_message(now, (B, Default::default()), request.clone(), host);
            member.on_message(now, (C, Default::default()), request, host);
        });
        cluster.run_until(|cluster| cluster.observer.start_views_count() >= 2);
        cluster.run_for(200 * NS_PER_MS);
        cluster.filter = None;
        let before = cluster.observer.start_views_count();
        cluster.crash(B, 100);
        cluster.run_until(move |cluster| cluster.observer.start_views_count() > before);
        cluster.finish();
    }
}

#[test]
fn s13_new_leader_that_lags_fetches_what_it_lacks() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 0);
        cluster.cut(A, B);
        cluster.submit_all(100);
        cluster.crash(A, 0);
        cluster.run_until(|cluster| cluster.observer.start_views_count() == 2);
        assert_eq!(cluster.observer.start_view(2).unwrap().last, Index(100));
        assert!(cluster.sent_count("ViewChangeRepair") > 0);
        cluster.finish();
        assert!((1..=100).all(|index| cluster.observer.stable_value(index) != Some(None)));
    }
}

#[test]
fn s14_merge_goes_on_with_another_voter_or_ends_with_its_term() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 5, 0);
        cluster.cut(A, B);
        cluster.submit_all(50);
        lose(&mut cluster, u64::MAX, |from, _, message| {
            from == C && name(message) == "ViewRepairResponse"
        });
        cluster.crash(A, 0);
        cluster.run_until(|cluster| cluster.observer.start_views_count() == 2);
        cluster.finish();
        assert!((1..=50).all(|index| cluster.observer.stable_value(index) != Some(None)));
    }
}

#[test]
fn s15_log_of_an_older_view_is_discarded() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 0);
        cluster.submit_all(5);
        quiet_all(&mut cluster);
        cluster.isolate(A);
        for _ in 0..3 {
            cluster.submit_at(A);
        }
        cluster.run_until(|cluster| cluster.stamping().is_some_and(|id| id != A));
        cluster.submit_all(10);
        let leader = cluster.stamping().unwrap();
        cluster.restart(leader);
        cluster.run_until(|cluster| cluster.observer.start_views_count() >= 3);
        cluster.finish();
        assert!(cluster.member(A).replica().last_normal() > TermId(2));
    }
}

#[test]
fn s16_no_op_below_a_voters_truncation_is_preserved() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 1);
        quiet_all(&mut cluster);
        // Slot 1 becomes a no-op at A and C; B, the sequencer, keeps its value.
        lose(&mut cluster, u64::MAX, |from, to, message| {
            is_command(message, 1)
                || (to == B && matches!(name(message), "GapCommitRequest" | "SyncPrepare"))
                || (from == A && to == B && name(message) == "SyncCommit")
        });
        cluster.submit();
        let ops: Vec<u64> = (0..5).map(|_| cluster.submit().unwrap()).collect();
        cluster.run_until(|cluster| cluster.member(C).replica().sync_point() >= Index(6));
        cluster.checkpoint(C);
        assert!(cluster.member(B).replica().log().slot(Index(1)).unwrap().value.is_some());
        assert!(cluster.member(C).replica().first() > Index(6));
        cluster.crash(A, 100);
        cluster.filter = None;
        cluster.run_until(|cluster| cluster.observer.start_views_count() >= 2);
        cluster.finish();
        assert_eq!(cluster.observer.stable_value(1), Some(None));
        for op in ops {
            assert_eq!(cluster.observer.places_of(op).len(), 1);
        }
    }
}

#[test]
fn s17_member_that_missed_a_views_start_is_told_again() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 0);
        cluster.submit_all(3);
        lose(&mut cluster, 1, |_, to, message| to == C && name(message) == "StartView");
        cluster.crash(A, 0);
        cluster.run_until(|cluster| cluster.stamping() == Some(B));
        cluster.submit_all(3);
        cluster.run_until(|cluster| cluster.member(C).replica().log().last() == Index(6));
        cluster.finish();
    }
}

#[test]
fn s18_messages_of_an_older_view_have_no_effect() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 0);
        cluster.submit_all(3);
        cluster.restart(A);
        cluster.run_until(|cluster| cluster.observer.start_views_count() >= 2);
        cluster.run_until(|cluster| cluster.is_settled());
        let before = cluster.describe();
        let (term, index) = (TermId(1), Index(2));
        let log = cluster.observer.start_view(1).unwrap().clone();
        let messages = [
            Message::StartView { term, source_term: TermId(0), log },
            Message::SyncCommit { term, message_id: MessageId(9), sync_point: Index(9) },
            Message::GapCommitRequest { term, index },
            Message::GapCommitResponse { term, index },
            Message::SyncResponse { term, index },
        ];
        for message in messages {
            for id in cluster.members() {
                let from = if id == A { B } else { A };
                let message = message.clone();
                cluster.act(id, |member, now, host| {
                    member.on_message(now, (from, Default::default()), message, host);
                    assert!(member.ignored().of(IgnoreReason::StaleView) > 0);
                });
            }
        }
        assert_eq!(cluster.describe(), before);
        cluster.finish();
    }
}

#[test]
fn s19_messages_that_come_twice_change_nothing_more() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, u8::from(seed % 2 == 1));
        cluster.submit_all(10);
        // Each connection is replaced while the old one still delivers, and everything that has no
        // answer yet is sent again on the new one.
        for _ in 0..20 {
            cluster.submit();
            for (a, b) in [(A, B), (A, C), (B, C)] {
                cluster.connect(a, b);
            }
            cluster.run_for(NS_PER_MS);
        }
        cluster.finish();
    }
}

#[test]
fn s20_terms_go_up_until_one_succeeds() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 5, 0);
        cluster.submit_all(3);
        for _ in 0..5 {
            let leader = cluster.stamping().unwrap();
            let before = cluster.member(leader).replica().view();
            cluster.crash(leader, 0);
            cluster.run_until(move |cluster| {
                let next = cluster.stamping();
                next.is_some_and(|id| cluster.member(id).replica().view() > before)
            });
            cluster.start(leader);
            cluster.run_for(20 * NS_PER_MS);
        }
        cluster.finish();
    }
}

#[test]
fn s21_member_that_only_the_leader_doesnt_reach_deposes_nobody() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 0);
        cluster.submit_all(3);
        cluster.cut(A, C);
        cluster.run_for(5 * NS_PER_S);
        cluster.submit_all(3);
        assert_eq!(cluster.member(A).replica().view(), TermId(1));
        assert_eq!(cluster.observer.start_views_count(), 1);
        cluster.finish();
        assert_eq!(cluster.observer.start_views_count(), 1);
    }
}

#[test]
fn s22_leader_that_hears_nobody_gives_way() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 0);
        cluster.submit_all(3);
        cluster.cut.extend([(B, A), (C, A)]);
        cluster.run_until(|cluster| cluster.stamping().is_some_and(|id| id != A));
        cluster.submit_all(3);
        cluster.finish();
    }
}

#[test]
fn s23_member_that_is_stuck_in_a_higher_view_is_followed() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 0);
        cluster.submit_all(3);
        cluster.act(C, |member, now, host| {
            let ping = Message::Ping { term: TermId(9) };
            member.on_message(now, (A, Default::default()), ping, host);
            assert_eq!(member.replica().status(), Status::ViewChange);
        });
        cluster.run_until(|cluster| {
            cluster.is_settled() && cluster.member(A).replica().view() >= TermId(9)
        });
        cluster.submit_all(3);
        cluster.finish();
    }
}

#[test]
fn s24_restarted_sequencer_never_stamps_in_its_old_term() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, u8::from(seed % 2 == 1));
        cluster.submit_all(3);
        let sequencer = cluster.stamping().unwrap();
        cluster.restart(sequencer);
        cluster.run_until(|cluster| cluster.stamping().is_some());
        let id = cluster.stamping().unwrap();
        assert!(cluster.member(id).replica().view() > TermId(1));
        cluster.submit_all(3);
        cluster.finish();
    }
}

#[test]
fn s25_crash_between_any_two_writes_loses_no_answer() {
    for seed in 0..200 {
        let mut cluster = Cluster::started(seed, 3, u8::from(seed % 2 == 1));
        cluster.disk_us = (500, 3_000);
        for round in 0..6 {
            for _ in 0..5 {
                cluster.submit();
                cluster.run_for(cluster.delay_us.0 * 1_000 * (seed % 7));
            }
            let id = m(u8::try_from((seed + round) % 3).unwrap());
            let survivors = usize::try_from(seed % 5).unwrap();
            if round % 2 == 0 {
                cluster.crash(id, survivors);
                cluster.run_for(seed % 11 * 30 * NS_PER_MS);
                cluster.start(id);
            }
        }
        cluster.finish();
    }
}

#[test]
fn s25b_vote_of_a_life_before_a_disk_was_lost_is_void() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 0);
        cluster.submit_all(5);
        quiet_all(&mut cluster);
        cluster.crash(C, 0);
        cluster.lose_disk(C);
        cluster.start(C);
        cluster.run_until(|cluster| cluster.member(B).replica().crash_vector()[2].0 == 1);
        cluster.run_for(NS_PER_MS);
        cluster.crash(B, 0);
        assert_eq!(cluster.node(B).host.disk.durable.crash_vector[2].0, 1);
        cluster.start(B);
        cluster.finish();
        let ignored = |id| cluster.member(id).ignored().of(IgnoreReason::ChangedVote);
        assert_eq!(ignored(A) + ignored(B) + ignored(C), 0);
    }
}

#[test]
fn s27_sync_commit_without_its_prepare_applies_nothing() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 0);
        cluster.submit_all(3);
        quiet_all(&mut cluster);
        lose(&mut cluster, u64::MAX, |_, to, message| to == C && name(message) == "SyncPrepare");
        let ops = cluster.submit_all(5);
        cluster.run_until(|cluster| cluster.member(B).replica().sync_point() == Index(8));
        cluster.run_for(100 * NS_PER_MS);
        assert_eq!(cluster.member(C).replica().applied(), Index(3));
        cluster.finish();
        assert_eq!(ops.len(), 5);
    }
}

#[test]
fn s28_no_op_comes_with_the_sync_when_its_announcement_was_lost() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 1);
        quiet_all(&mut cluster);
        lose(&mut cluster, u64::MAX, |_, to, message| {
            is_command(message, 1) || (to == B && name(message) == "GapCommitRequest")
        });
        for _ in 0..4 {
            cluster.submit();
        }
        cluster.run_until(|cluster| cluster.member(B).replica().sync_point() >= Index(4));
        cluster.finish();
        assert_eq!(cluster.observer.stable_value(1), Some(None));
    }
}

#[test]
fn s29_member_that_is_far_behind_gets_a_checkpoint_across_broken_connections() {
    for seed in SEEDS {
        let settings = Settings { retained_size_bytes: 100, ..Settings::default() };
        let mut cluster = Cluster::new(seed, 3, 0, settings);
        cluster.start_all();
        cluster.submit_all(5);
        cluster.isolate(C);
        cluster.submit_all(60);
        cluster.run_until(|cluster| cluster.member(A).replica().sync_point() == Index(65));
        cluster.run_for(5 * NS_PER_MS);
        cluster.checkpoint(A);
        assert!(cluster.member(A).replica().first() > Index(60));
        cluster.heal();
        for _ in 0..6 {
            cluster.submit();
            cluster.run_for(2 * NS_PER_MS);
            cluster.reconnect(A, C);
        }
        cluster.finish();
    }
}

/// Found by harsh seed 540: the member's disk still held a value where the leader has a no-op, and
/// would have gone on doing so after a crash.
#[test]
fn checkpoint_that_came_in_is_confirmed_once_it_is_durable() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 1);
        quiet_all(&mut cluster);
        // Slot 1 is a no-op at A and B; C keeps its value and hears of nothing.
        lose(&mut cluster, u64::MAX, |_, to, message| {
            let is_told = matches!(name(message), "GapCommitRequest" | "SyncPrepare");
            (to == A && is_command(message, 1)) || (to == C && is_told)
        });
        for _ in 0..6 {
            cluster.submit();
        }
        cluster.run_until(|cluster| cluster.member(A).replica().sync_point() >= Index(6));
        cluster.run_for(5 * NS_PER_MS);
        cluster.checkpoint(A);
        assert!(cluster.member(A).replica().first() > Index(6));
        assert!(cluster.member(C).replica().log().slot(Index(1)).unwrap().value.is_some());
        cluster.submit_all(2);
        cluster.disk_us = (5_000, 9_000);
        cluster.filter = None;
        cluster.run_until(|cluster| cluster.member(C).replica().sync_point() >= Index(6));
        cluster.finish();
        assert_eq!(cluster.observer.stable_value(1), Some(None));
    }
}

fn lossy(seed: u64, count: usize, survival: Survival) -> Cluster {
    let settings = Settings { survival, ..Settings::default() };
    let mut cluster = Cluster::new(seed, count, 0, settings);
    for id in cluster.members() {
        cluster.lose_disk(id);
    }
    cluster.start_all();
    cluster.run_until(|cluster| cluster.is_settled());
    cluster
}

#[test]
fn s30_member_that_forgot_everything_recovers_under_load() {
    for seed in SEEDS {
        let mut cluster = lossy(seed, 3, Survival::Never);
        cluster.submit_all(20);
        cluster.restart(C);
        cluster.submit_all(20);
        cluster.run_until(|cluster| cluster.is_whole(C));
        cluster.finish();
    }
}

#[test]
fn s31_vote_of_a_forgotten_life_does_not_count() {
    for seed in SEEDS {
        let mut cluster = lossy(seed, 3, Survival::Never);
        cluster.submit_all(5);
        quiet_all(&mut cluster);
        // C votes for term 2; the vote and all that leads to it stays on its way to B.
        cluster.cut.extend([(C, B), (C, A)]);
        cluster.act(C, |member, now, host| {
            let ping = Message::Ping { term: TermId(2) };
            member.on_message(now, (B, member.replica().crash_vector()[1]), ping, host);
        });
        cluster.run_for(10 * NS_PER_MS);
        cluster.crash(C, 0);
        cluster.heal();
        cluster.start(C);
        cluster.run_until(|cluster| cluster.is_whole(C));
        cluster.cut(A, B);
        cluster.submit_all(3);
        let old = Message::ViewChange {
            term: TermId(2),
            last_normal: TermId(1),
            base: Index(0),
            log: crate::nopaxos::message::LogSummary {
                first: Index(1),
                last: Index(5),
                ..Default::default()
            },
        };
        cluster.act(B, |member, now, host| {
            let before = member.ignored().of(IgnoreReason::StaleIncarnation);
            member.on_message(now, (C, crate::base::ids::Incarnation(1)), old, host);
            assert!(member.ignored().of(IgnoreReason::StaleIncarnation) > before);
        });
        cluster.finish();
    }
}

#[test]
fn s33_restarted_leader_recovers_into_a_later_term() {
    for seed in SEEDS {
        for survival in [Survival::Never, Survival::Clean] {
            let mut cluster = lossy(seed, 3, survival);
            cluster.submit_all(10);
            cluster.restart(A);
            cluster.run_until(|cluster| cluster.is_whole(A));
            assert!(cluster.member(A).replica().view() > TermId(1));
            cluster.submit_all(3);
            cluster.finish();
        }
    }
}

#[test]
fn s34_two_of_three_that_forgot_everything_stay_down() {
    for seed in SEEDS {
        let mut cluster = lossy(seed, 3, Survival::Never);
        cluster.submit_all(10);
        cluster.crash(B, 0);
        cluster.crash(C, 0);
        cluster.start(B);
        cluster.start(C);
        cluster.run_for(20 * NS_PER_S);
        assert_eq!(cluster.member(B).replica().status(), Status::Recovering);
        assert_eq!(cluster.member(C).replica().status(), Status::Recovering);
        assert_eq!(cluster.observer.start_views_count(), 1);
    }
}

#[test]
fn s35_member_that_lost_the_end_of_its_log_recovers_it() {
    for seed in SEEDS {
        let mut cluster = lossy(seed, 3, Survival::Clean);
        cluster.disk_us = (1_000, 4_000);
        cluster.submit_all(20);
        for _ in 0..10 {
            cluster.submit();
        }
        cluster.crash(C, 3);
        cluster.start(C);
        cluster.submit_all(5);
        cluster.run_until(|cluster| cluster.is_whole(C));
        cluster.finish();
    }
}

#[test]
fn s36_deposed_leader_that_doesnt_know_it_answers_no_read() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 0);
        cluster.submit_all(3);
        cluster.isolate(A);
        cluster.run_until(|cluster| cluster.stamping().is_some_and(|id| id != A));
        cluster.submit_all(3);
        let before = cluster.observer.reads_count;
        cluster.read_at(A);
        cluster.run_for(100 * NS_PER_MS);
        assert_eq!(cluster.observer.reads_count, before);
        let leader = cluster.stamping().unwrap();
        cluster.read_at(leader);
        cluster.run_until(move |cluster| cluster.observer.reads_count > before);
        cluster.finish();
    }
}

#[test]
fn s37_reads_see_every_write_that_was_answered_before() {
    for seed in SEEDS {
        for offset in [0, 1] {
            let mut cluster = Cluster::started(seed, 3, offset);
            for _ in 0..100 {
                cluster.submit();
                let id = cluster.stamping().unwrap();
                cluster.read_at(id);
                cluster.run_for(200_000);
                cluster.read_at(id);
            }
            cluster.run_until(|cluster| cluster.observer.reads_count == 200);
            cluster.finish();
        }
    }
}

#[test]
fn leader_and_sequencer_do_not_echo_each_others_pings() {
    let mut cluster = Cluster::started(3_005, 3, 1);
    quiet_all(&mut cluster);
    cluster.run_for(NS_PER_S);
    // Two of them ping two others every 25 ms, one of whom echoes each.
    assert!(cluster.sent_count("Ping") <= 2 * 3 * 41, "{}", cluster.sent_count("Ping"));
}

#[test]
fn leader_hands_its_place_over_without_losing_a_command() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 0);
        cluster.submit_all(10);
        cluster.act(A, |member, now, host| member.transfer_leadership(now, C, host));
        cluster.run_until(|cluster| cluster.stamping() == Some(C));
        assert_eq!(cluster.observer.start_views_count(), 2);
        cluster.submit_all(3);
        cluster.finish();
    }
}
