//! The scenarios of the specification (7), as tests over the sans-io core: each with several seeds,
//! all invariants checked at every step. Those that concern sessions, maps and whole messages are
//! in `shard/tests/cluster/scenarios.rs`, over whole shards with their logs. Leases (38) aren't
//! built. That this table and the tests agree is a test itself (`table`).
//!
//! | scenario | file | test |
//! | --- | --- | --- |
//! | 1 | scenarios.rs | `s01_new_group_starts_one_view_and_answers` |
//! | 2 | scenarios.rs | `s02_gap_is_filled_from_the_leader_when_a_follower_missed_a_command` |
//! | 3 | scenarios.rs | `s03_command_that_was_overtaken_is_not_asked_for` |
//! | 4 | scenarios.rs | `s04_command_that_nobody_else_has_becomes_a_no_op_and_is_stamped_anew` |
//! | 5 | scenarios.rs | `s05_leader_gets_a_command_from_any_member_that_has_it` |
//! | 6 | scenarios.rs | `s06_nothing_above_a_no_op_is_answered_before_a_quorum_holds_it` |
//! | 6 | scenarios.rs | `s06_sync_point_passes_a_no_op_though_nobody_writes_any_more` |
//! | 7 | scenarios.rs | `s07_no_op_of_a_quorum_survives_its_leader` |
//! | 8 | scenarios.rs | `s08_no_op_that_no_quorum_held_is_replaced_by_the_value` |
//! | 9 | scenarios.rs | `s09_lost_end_of_a_burst_is_sent_again` |
//! | 10 | scenarios.rs | `s10_answered_commands_survive_their_leader` |
//! | 11 | scenarios.rs | `s11_leader_that_was_deposed_undoes_what_only_it_has_executed` |
//! | 12 | scenarios.rs | `s12_late_vote_gets_the_log_that_was_decided_without_it` |
//! | 13 | scenarios.rs | `s13_new_leader_that_lags_fetches_what_it_lacks` |
//! | 14 | scenarios.rs | `s14_merge_goes_on_with_another_voter_when_the_best_one_dies` |
//! | 14 | scenarios.rs | `s14_term_ends_without_a_view_when_nobody_else_has_the_slots` |
//! | 15 | scenarios.rs | `s15_log_of_an_older_view_is_discarded` |
//! | 16 | scenarios.rs | `s16_no_op_below_a_voters_truncation_is_preserved` |
//! | 17 | scenarios.rs | `s17_member_that_missed_a_views_start_is_told_again` |
//! | 18 | scenarios.rs | `s18_messages_of_an_older_view_have_no_effect` |
//! | 19 | scenarios.rs | `s19_messages_that_come_twice_change_nothing_more` |
//! | 20 | scenarios.rs | `s20_terms_go_up_until_one_succeeds` |
//! | 21 | scenarios.rs | `s21_member_that_only_the_leader_doesnt_reach_deposes_nobody` |
//! | 22 | scenarios.rs | `s22_leader_that_hears_nobody_gives_way` |
//! | 23 | scenarios.rs | `s23_member_that_is_stuck_in_a_higher_view_is_followed` |
//! | 24 | scenarios.rs | `s24_restarted_sequencer_never_stamps_in_its_old_term` |
//! | 25 | scenarios.rs | `s25_crash_before_and_after_any_write_loses_no_answer` |
//! | 25b | scenarios.rs | `s25b_vote_of_a_life_before_a_disk_was_lost_is_void` |
//! | 26 | scenarios.rs | `s26_adopted_log_and_its_view_become_durable_together_or_not_at_all` |
//! | 27 | scenarios.rs | `s27_sync_commit_without_its_prepare_applies_nothing` |
//! | 27 | scenarios.rs | `s27_sync_prepares_in_any_order_prepare_what_the_last_one_says` |
//! | 28 | scenarios.rs | `s28_no_op_comes_with_the_sync_when_its_announcement_was_lost` |
//! | 29 | scenarios.rs | `s29_member_far_behind_gets_a_checkpoint_across_broken_connections` |
//! | 29 | shard | `s29_large_transfer_goes_on_across_broken_connections_and_stops_nobody` |
//! | 30 | recovery.rs | `s30_member_that_forgot_everything_recovers_under_load` |
//! | 31 | recovery.rs | `s31_vote_of_a_forgotten_life_does_not_count` |
//! | 32 | recovery.rs | `s32_ack_of_a_forgotten_life_completes_nothing` |
//! | 33 | recovery.rs | `s33_restarted_leader_recovers_into_a_later_term` |
//! | 33b | recovery.rs | `s33b_recovered_member_has_the_no_ops_above_the_frontier` |
//! | 34 | recovery.rs | `s34_two_of_three_that_forgot_everything_stay_down` |
//! | 34 | recovery.rs | `s34_group_that_forgot_everything_begins_anew_once_all_members_say_so` |
//! | 35 | recovery.rs | `s35_member_that_lost_the_end_of_its_log_recovers_it` |
//! | 36 | clients.rs | `s36_deposed_leader_that_doesnt_know_it_answers_no_read` |
//! | 37 | clients.rs | `s37_reads_see_every_write_that_was_answered_before` |
//! | 39 | shard | `s39_command_of_a_session_is_executed_once_wherever_it_is_retried` |
//! | 40 | shard | `s40_group_goes_on_whatever_a_member_or_a_client_sends` |
//! | 41 | clients.rs | `s41_leader_hands_its_place_over_without_losing_a_command` |
//! | 41 | clients.rs | `s41_member_that_lags_is_handed_the_leaders_place_once_it_has_caught_up` |
//! | 41 | clients.rs | `s41_leader_goes_on_when_the_member_that_was_to_follow_it_is_dead` |
//! | 42 | clients.rs | `s42_time_in_the_log_never_goes_back` |
//! | 43 | clients.rs | `s43_one_member_that_is_away_stops_nobody_however_much_is_written` |
//! | 43 | clients.rs | `s43_nothing_more_is_stamped_while_too_much_has_no_quorum` |
//! | 44 | shard | `s44_each_of_two_clients_gets_its_own_answer_to_what_was_doubled_or_dropped` |

mod clients;
mod recovery;
mod room;
mod table;
mod transfers;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use super::cluster::{Cluster, CrashPoint, Verdict, name};
use super::host::CHUNK_SIZE_BYTES;
use crate::base::cast::usize_from;
use crate::base::ids::{Index, MemberId, MessageId, TermId};
use crate::base::prng::Prng;
use crate::base::time::{NS_PER_MS, NS_PER_S};
use crate::nopaxos::message::Message;
use crate::nopaxos::{IgnoreReason, Settings, Status};

const SEEDS: std::ops::Range<u64> = 0..20;
const A: MemberId = MemberId(0);
const B: MemberId = MemberId(1);
const C: MemberId = MemberId(2);
const D: MemberId = MemberId(3);
const E: MemberId = MemberId(4);

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
fn s06_sync_point_passes_a_no_op_though_nobody_writes_any_more() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 1);
        quiet_all(&mut cluster);
        lose(&mut cluster, u64::MAX, |_, _, message| {
            is_command(message, 1) || name(message) == "GapCommitResponse"
        });
        for _ in 0..2 {
            cluster.submit();
        }
        cluster.run_for(100 * NS_PER_MS);
        assert_eq!(cluster.member(A).replica().log().no_ops().len(), 1);
        // What is dropped isn't stamped anew: nobody waits for it.
        cluster.act(B, |member, _, _| drop(member.give_up(|_| true)));
        lose(&mut cluster, u64::MAX, |_, _, message| is_command(message, 1));
        cluster.run_for(200 * NS_PER_MS);
        assert_eq!(cluster.member(A).replica().sync_point(), Index(2));
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
        cluster.observer.check_once(&ops);
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

/// Slot 1 is a no-op at A alone, B and C have its value; then B merges without the vote of `late`.
fn late_vote(seed: u64, late: MemberId) {
    let mut cluster = Cluster::started(seed, 3, 1);
    quiet_all(&mut cluster);
    lose(&mut cluster, u64::MAX, |_, to, message| {
        (to == A && is_command(message, 1))
            || name(message) == "GapCommitRequest"
            || name(message) == "SyncPrepare"
    });
    let (op, other) = (cluster.submit().unwrap(), cluster.submit().unwrap());
    cluster.run_until(|cluster| cluster.member(A).replica().log().no_ops().len() == 1);
    cluster.run_until(|cluster| cluster.member(C).replica().log().last() == Index(2));
    let vote = Rc::new(RefCell::new(None));
    let kept = Rc::clone(&vote);
    cluster.filter = Some(Box::new(move |from, to, message| match name(message) {
        "ViewChange" if from == late => {
            *kept.borrow_mut() = Some(message.clone());
            Verdict::Drop
        }
        "StartView" if to == late => Verdict::Drop,
        "GapCommitRequest" | "SyncPrepare" => Verdict::Drop,
        _ => Verdict::Deliver,
    }));
    let term = TermId(2);
    cluster.act(A, |member, now, host| {
        let request = Message::ViewChangeRequest { term };
        member.on_message(now, (B, Default::default()), request.clone(), host);
        member.on_message(now, (C, Default::default()), request, host);
    });
    cluster.run_until(|cluster| cluster.observer.start_view(2).is_some());
    cluster.run_until(|cluster| cluster.member(B).replica().is_leading());
    assert_eq!(cluster.member(B).replica().view(), TermId(2));
    // What the quorum without it decided: the no-op if A was in it, else the value.
    let decided = cluster.observer.start_view(2).unwrap().clone();
    let no_ops = if late == A { vec![] } else { vec![Index(1)] };
    assert_eq!(decided.no_ops.iter().copied().collect::<Vec<_>>(), no_ops);
    assert_eq!(decided.last, Index(2));
    let vote = vote.borrow_mut().take().expect("it has voted");
    assert!(matches!(&vote, Message::ViewChange { log, .. } if log.no_ops != decided.no_ops));
    // Each time that it comes it is answered with the log that was decided.
    for _ in 0..3 {
        let (vote, decided) = (vote.clone(), decided.clone());
        cluster.act(B, move |member, now, host| {
            member.on_message(now, (late, Default::default()), vote, host);
            let answers: Vec<_> = host.sent.iter().filter(|(to, _)| *to == late).collect();
            let source_term = TermId(1);
            assert_eq!(answers, [&(late, Message::StartView { term, source_term, log: decided })]);
        });
    }
    cluster.filter = None;
    cluster.run_until(|cluster| cluster.is_settled());
    assert_eq!(cluster.observer.start_views_count(), 2);
    cluster.crash(B, 100);
    cluster.run_until(|cluster| cluster.observer.start_views_count() > 2);
    cluster.finish();
    let expected = if late == A { Some(op) } else { None };
    assert_eq!(cluster.observer.stable_value(1), Some(expected));
    assert_eq!(cluster.observer.stable_value(2), Some(Some(other)));
}

#[test]
fn s12_late_vote_gets_the_log_that_was_decided_without_it() {
    for seed in SEEDS {
        late_vote(seed, A);
        late_vote(seed, C);
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

/// B, which lags, merges with the votes of two others of five while `cut_off` are not heard by it;
/// whoever it asks first for the slots dies before it answers. That one.
fn best_voter_dies(cluster: &mut Cluster, cut_off: &[MemberId]) -> MemberId {
    for id in [A].iter().chain(cut_off) {
        cluster.cut(*id, B);
    }
    let asked = Rc::new(Cell::new(None));
    let first = Rc::clone(&asked);
    cluster.filter = Some(Box::new(move |from, to, message| {
        if name(message) == "ViewChangeRepair" && first.get().is_none() {
            first.set(Some(to));
        }
        let is_answer = matches!(name(message), "ViewRepairResponse" | "ViewChangeRepairResponse");
        if is_answer && first.get() == Some(from) { Verdict::Drop } else { Verdict::Deliver }
    }));
    cluster.crash(A, 0);
    let waits = Rc::clone(&asked);
    cluster.run_until(move |_| waits.get().is_some());
    assert!(cluster.observer.start_view(2).is_none());
    let best = asked.get().unwrap();
    cluster.crash(best, 0);
    best
}

#[test]
fn s14_merge_goes_on_with_another_voter_when_the_best_one_dies() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 5, 0);
        cluster.cut(A, B);
        let ops = cluster.submit_all(50);
        cluster.run_until(|cluster| {
            [C, D].map(|id| cluster.member(id).replica().log().last()) == [Index(50); 2]
        });
        assert_eq!(cluster.member(B).replica().log().last(), Index(0));
        best_voter_dies(&mut cluster, &[E]);
        cluster.run_until(|cluster| cluster.observer.start_views_count() == 2);
        let started = cluster.observer.start_view(2).expect("the term goes on");
        assert_eq!((started.last, started.no_ops.len()), (Index(50), 0));
        cluster.finish();
        for (op, index) in ops.into_iter().zip(1..) {
            assert_eq!(cluster.observer.stable_value(index), Some(Some(op)));
        }
    }
}

#[test]
fn s14_term_ends_without_a_view_when_nobody_else_has_the_slots() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 5, 0);
        // A quorum holds them: A, C and E; of these B hears only C's vote.
        cluster.cut(A, B);
        cluster.cut(A, D);
        let ops = cluster.submit_all(50);
        cluster.run_until(|cluster| {
            [C, E].map(|id| cluster.member(id).replica().log().last()) == [Index(50); 2]
        });
        let best = best_voter_dies(&mut cluster, &[E]);
        assert_eq!(best, C);
        cluster.run_for(NS_PER_S);
        assert_eq!(cluster.observer.start_views_count(), 1, "a view began without its slots");
        // A has the slots, and leads no view that began before it returned.
        cluster.cut.retain(|(from, to)| (*from, *to) != (A, D) && (*from, *to) != (D, A));
        cluster.start(A);
        cluster.run_until(|cluster| cluster.observer.start_views_count() == 2);
        assert!(cluster.observer.start_view(2).is_none());
        cluster.finish();
        for (op, index) in ops.into_iter().zip(1..) {
            assert_eq!(cluster.observer.stable_value(index), Some(Some(op)));
        }
    }
}

/// Only D hears the two others of a quorum: B and E see one wish beside their own, however long
/// that lasts. D's votes show them that a quorum wanted the view.
#[test]
fn quorum_that_only_one_of_its_members_joins_begins_a_view() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 5, 0);
        cluster.submit_all(5);
        cluster.cut(B, E);
        cluster.crash(A, 0);
        cluster.crash(C, 0);
        cluster.run_until(|cluster| {
            let view = |id| cluster.member(id).replica().view();
            let is_normal = |id: &MemberId| {
                cluster.member(*id).replica().status() == Status::Normal && view(*id) == view(D)
            };
            view(D) > TermId(1) && [B, D, E].iter().all(is_normal)
        });
        cluster.finish();
    }
}

#[test]
fn s15_log_of_an_older_view_is_discarded() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 0);
        cluster.submit_all(5);
        quiet_all(&mut cluster);
        cluster.isolate(A);
        let discarded = [(); 3].map(|()| cluster.submit_at(A));
        cluster.run_until(|cluster| cluster.stamping().is_some_and(|id| id != A));
        cluster.submit_all(10);
        let leader = cluster.stamping().unwrap();
        cluster.restart(leader);
        cluster.run_until(|cluster| cluster.observer.start_views_count() >= 3);
        assert_eq!(cluster.member(A).replica().log().last(), Index(8));
        cluster.finish();
        assert!(cluster.member(A).replica().last_normal() > TermId(2));
        for op in discarded {
            assert_eq!(cluster.observer.places_of(op), []);
        }
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
        cluster.observer.check_once(&ops);
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
    let mut kinds = BTreeSet::new();
    for seed in SEEDS {
        let offset = u8::from(seed % 2 == 1);
        let settings = Settings { retained_size_bytes: 100, ..Settings::default() };
        let mut cluster = Cluster::new(seed, 3, offset, settings);
        // What comes a second time comes at once, or when much else has come.
        let mut prng = Prng::new(seed, "twice");
        cluster.filter = Some(Box::new(move |_, to, message| {
            let is_lost = to != B && is_command(message, 13);
            let later = if prng.one_in(2) { 0 } else { prng.below(200 * NS_PER_MS) };
            if is_lost { Verdict::Drop } else { Verdict::Twice(later) }
        }));
        cluster.start_all();
        cluster.run_until(|cluster| cluster.is_settled());
        let mut ops = cluster.submit_all(10);
        cluster.read_at(cluster.stamping().unwrap());
        ops.extend((0..5).filter_map(|_| cluster.submit()));
        cluster.run_for(100 * NS_PER_MS);
        // B lags, and then it leads: it fetches.
        cluster.cut(A, B);
        ops.extend((0..20).filter_map(|_| cluster.submit()));
        cluster.run_for(50 * NS_PER_MS);
        cluster.heal();
        cluster.crash(A, 0);
        cluster.run_for(NS_PER_S);
        cluster.start(A);
        cluster.run_until(|cluster| cluster.is_settled());
        // One that neither leads nor stamps falls far behind, and then forgets everything.
        let is_needed = |id: &MemberId| {
            cluster.stamping() == Some(*id) || cluster.member(*id).replica().is_leading()
        };
        let other = cluster.members().into_iter().find(|id| !is_needed(id)).unwrap();
        cluster.isolate(other);
        cluster.submit_all(40);
        cluster.run_for(50 * NS_PER_MS);
        for id in cluster.members() {
            cluster.checkpoint(id);
        }
        cluster.heal();
        cluster.run_until(|cluster| cluster.is_settled());
        cluster.crash(other, 0);
        cluster.lose_disk(other);
        cluster.start(other);
        cluster.run_until(|cluster| cluster.is_settled());
        kinds.extend(cluster.sent.keys().copied());
        // All invariants were checked at each step; what was answered is there once.
        cluster.finish();
        for op in ops {
            let places = cluster.observer.places_of(op).len();
            assert!(places <= 1 && (places == 1 || cluster.observer.answer_of(op).is_none()));
        }
    }
    assert_eq!(kinds.len(), 22, "messages of each kind came twice: {kinds:?}");
}

#[test]
fn s20_terms_go_up_until_one_succeeds() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 5, 0);
        let ops = cluster.submit_all(3);
        // No vote arrives for the terms up to this one.
        let last_failed = TermId(12);
        cluster.filter = Some(Box::new(move |_, _, message| match message {
            Message::ViewChange { term, .. } if *term <= last_failed => Verdict::Drop,
            _ => Verdict::Deliver,
        }));
        cluster.crash(A, 0);
        let highest = |cluster: &Cluster| {
            let views = [B, C, D, E].map(|id| cluster.member(id).replica().view());
            views.into_iter().max().unwrap()
        };
        let mut begun = vec![(TermId(1), cluster.now)];
        while cluster.observer.start_views_count() == 1 {
            let before = begun.last().unwrap().0;
            cluster.run_until(move |cluster| {
                highest(cluster) > before || cluster.observer.start_views_count() > 1
            });
            if highest(&cluster) > before {
                begun.push((highest(&cluster), cluster.now));
            }
        }
        let failed = begun.iter().filter(|(term, _)| (2..=12).contains(&term.0)).count();
        assert!(failed >= 5, "seed {seed}: {begun:?}");
        // The longer it takes, the longer they wait: the first term lasts for 300 ms and more.
        let lasted: Vec<u64> = begun[1..].windows(2).map(|pair| pair[1].1 - pair[0].1).collect();
        assert!(lasted[3] > lasted[0] * 2, "seed {seed}: no back-off in {lasted:?}");
        cluster.finish();
        cluster.observer.check_once(&ops);
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

/// A run that writes records of every kind that a durable group writes: commands, a no-op (with a
/// remote sequencer), promises and adoptions of views, staged slots.
fn run_with_all_writes(offset: u8, point: Option<CrashPoint>) -> Cluster {
    let mut cluster = Cluster::new(0, 3, offset, Settings::default());
    cluster.crash_point = point;
    cluster.start_all();
    cluster.run_for(100 * NS_PER_MS);
    lose(&mut cluster, u64::MAX, |_, _, message| is_command(message, 2));
    for _ in 0..4 {
        cluster.submit();
    }
    cluster.run_for(100 * NS_PER_MS);
    // A goes on for a while with slots that nobody else has, and is deposed.
    cluster.isolate(A);
    for _ in 0..2 {
        cluster.submit();
    }
    cluster.run_for(300 * NS_PER_MS);
    cluster.submit();
    cluster.run_for(100 * NS_PER_MS);
    // The others are two views further: of A's log only the stable part is of use.
    let other = if cluster.stamping() == Some(C) { C } else { B };
    if cluster.is_up(other) {
        cluster.restart(other);
        cluster.isolate(A);
    }
    cluster.run_for(300 * NS_PER_MS);
    cluster.submit();
    cluster.heal();
    cluster.run_for(300 * NS_PER_MS);
    let restarts = cluster.stamping().unwrap_or(B);
    if cluster.is_up(restarts) {
        cluster.restart(restarts);
    }
    cluster.run_for(300 * NS_PER_MS);
    for _ in 0..3 {
        cluster.submit();
    }
    cluster.run_for(300 * NS_PER_MS);
    cluster
}

#[test]
fn s25_crash_before_and_after_any_write_loses_no_answer() {
    for offset in [0, 1] {
        let whole = run_with_all_writes(offset, None);
        let mut crashed_at = BTreeSet::new();
        for member in [A, B, C] {
            for is_durable in [false, true] {
                let kinds = &whole.node(member).host.disk.kinds[usize::from(is_durable)];
                for (record, kind) in (1..).zip(kinds) {
                    for returns in [false, true] {
                        let point = CrashPoint { member, record, is_durable, returns };
                        let mut cluster = run_with_all_writes(offset, Some(point));
                        assert!(cluster.crash_point.is_none(), "it doesn't come to {point:?}");
                        cluster.finish();
                    }
                    crashed_at.insert((member, is_durable, *kind));
                }
            }
        }
        // W1, W2, W3 at every member; W4 where there are no-ops.
        for member in [A, B, C] {
            for is_durable in [false, true] {
                for kind in ["View", "Adopt", "Slot"] {
                    assert!(crashed_at.contains(&(member, is_durable, kind)), "{member} {kind}");
                }
            }
        }
        let has = |kind| crashed_at.iter().any(|(_, _, at)| *at == kind);
        assert!(has("Stage"));
        assert_eq!(has("NoOp"), offset == 1, "{crashed_at:?}");
    }
}

#[test]
fn s26_adopted_log_and_its_view_become_durable_together_or_not_at_all() {
    let mut seen = BTreeSet::new();
    for survivors in 0..12 {
        let mut cluster = Cluster::started(1, 3, 0);
        cluster.submit_all(5);
        quiet_all(&mut cluster);
        cluster.isolate(A);
        for _ in 0..3 {
            cluster.submit_at(A);
        }
        cluster.run_until(|cluster| cluster.stamping().is_some_and(|id| id != A));
        cluster.submit_all(4);
        let deposed = cluster.node(A).host.disk.durable.clone();
        assert_eq!(deposed.last, Index(8));
        // The new view's slots and the view itself are on their way to A's disk when it crashes.
        cluster.disk_us = (50_000, 60_000);
        cluster.heal();
        cluster.run_until(|cluster| {
            let disk = &cluster.node(A).host.disk;
            disk.written.last_normal > disk.durable.last_normal && disk.in_flight_count() > 0
        });
        cluster.crash(A, survivors);
        let image = &cluster.node(A).host.disk.durable;
        let is_old = image.last_normal == TermId(1);
        seen.insert(is_old);
        if is_old {
            assert_eq!(image.slots, deposed.slots, "an old view with slots of another");
            assert_eq!((image.base, image.last), (deposed.base, deposed.last));
        } else {
            let leader = cluster.stamping().unwrap();
            assert!(image.last_normal > TermId(1) && image.base == Index(5));
            let leaders = &cluster.node(leader).host.disk.durable.slots;
            for (index, slot) in &image.slots {
                assert_eq!(slot.value, leaders[index].value, "a new view with an old slot");
            }
        }
        cluster.disk_us = (20, 200);
        cluster.finish();
    }
    assert_eq!(seen.len(), 2, "both sides of the record were seen");
}

#[test]
fn s25b_vote_of_a_life_before_a_disk_was_lost_is_void() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 0);
        cluster.submit_all(5);
        quiet_all(&mut cluster);
        // C votes for the view that B would lead; the vote stays on its way.
        let vote = keep_vote(&mut cluster, C);
        let life = cluster.member(C).replica().incarnation();
        cluster.act(C, |member, now, host| {
            let ping = Message::Ping { term: TermId(2) };
            member.on_message(now, (B, Default::default()), ping, host);
        });
        let waits = Rc::clone(&vote);
        cluster.run_until(move |_| waits.borrow().is_some());
        cluster.crash(C, 0);
        cluster.lose_disk(C);
        cluster.filter = None;
        cluster.start(C);
        cluster.run_until(|cluster| cluster.member(B).replica().crash_vector()[2].0 == 1);
        cluster.run_for(NS_PER_MS);
        cluster.crash(B, 0);
        assert_eq!(cluster.node(B).host.disk.durable.crash_vector[2].0, 1);
        cluster.start(B);
        let vote = vote.borrow_mut().take().unwrap();
        cluster.act(B, move |member, now, host| {
            let before = member.ignored().of(IgnoreReason::StaleIncarnation);
            member.on_message(now, (C, life), vote, host);
            assert_eq!(member.ignored().of(IgnoreReason::StaleIncarnation), before + 1);
        });
        cluster.finish();
        let ignored = |id| cluster.member(id).ignored().of(IgnoreReason::ChangedVote);
        assert_eq!(ignored(A) + ignored(B) + ignored(C), 0);
    }
}

/// Loses a member's votes, and keeps the last one.
fn keep_vote(cluster: &mut Cluster, voter: MemberId) -> Rc<RefCell<Option<Message>>> {
    let vote = Rc::new(RefCell::new(None));
    let kept = Rc::clone(&vote);
    cluster.filter = Some(Box::new(move |from, _, message| {
        if from != voter {
            return Verdict::Deliver;
        }
        if name(message) == "ViewChange" {
            *kept.borrow_mut() = Some(message.clone());
        }
        Verdict::Drop
    }));
    vote
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
fn s27_sync_prepares_in_any_order_prepare_what_the_last_one_says() {
    for seed in SEEDS {
        let mut cluster = Cluster::started(seed, 3, 0);
        quiet_all(&mut cluster);
        let mut prng = Prng::new(seed, "order");
        cluster.filter = Some(Box::new(move |_, to, message| match name(message) {
            "SyncPrepare" | "SyncCommit" if to == C => Verdict::Delay(prng.below(150 * NS_PER_MS)),
            _ => Verdict::Deliver,
        }));
        for _ in 0..10 {
            cluster.submit_all(3);
            cluster.run_for(15 * NS_PER_MS);
            let replica = cluster.member(C).replica();
            assert!(replica.applied() <= replica.prepared());
        }
        cluster.run_until(|cluster| cluster.member(C).replica().applied() == Index(30));
        cluster.finish();
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
fn leader_and_sequencer_do_not_echo_each_others_pings() {
    let mut cluster = Cluster::started(3_005, 3, 1);
    quiet_all(&mut cluster);
    cluster.run_for(NS_PER_S);
    // Two of them ping two others every 25 ms, one of whom echoes each.
    assert!(cluster.sent_count("Ping") <= 2 * 3 * 41, "{}", cluster.sent_count("Ping"));
}

#[test]
fn s29_member_far_behind_gets_a_checkpoint_across_broken_connections() {
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
        let asked = Rc::new(RefCell::new(Vec::new()));
        let asks = Rc::clone(&asked);
        cluster.filter = Some(Box::new(move |from, _, message| {
            if let Message::ViewRepair { request, wanted, .. } = message
                && from == C
                && wanted.checkpoint > Index(0)
            {
                asks.borrow_mut().push(*request);
            }
            Verdict::Deliver
        }));
        cluster.heal();
        // The connection breaks after each chunk.
        let chunk_count = 40_u64.div_ceil(u64::from(CHUNK_SIZE_BYTES));
        for chunk in 1..chunk_count {
            cluster.run_until(move |cluster| {
                let incoming = cluster.node(C).host.incoming.len();
                incoming >= usize_from(chunk * u64::from(CHUNK_SIZE_BYTES))
            });
            cluster.reconnect(A, C);
            let (op, before) = (cluster.submit().unwrap(), cluster.now);
            cluster.run_until(|cluster| cluster.observer.answer_of(op).is_some());
            assert!(cluster.now - before < 5 * NS_PER_MS, "others wait for the transfer");
        }
        cluster.finish();
        assert_eq!(cluster.node(C).host.received.unwrap().index, Index(65));
        let asked = asked.borrow();
        assert!(asked.is_sorted() && asked[0] > 0, "a transfer began anew: {asked:?}");
        assert_eq!(*asked.last().unwrap(), chunk_count - 1);
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
