//! Scenarios 30 to 35: members that forget what they have promised, in the modes `none` and
//! `async`.

use super::*;
use crate::base::ids::Incarnation;
use crate::nopaxos::Survival;
use crate::nopaxos::tests::observer::Observer;

fn lossy(seed: u64, count: usize, offset: u8, survival: Survival) -> Cluster {
    let settings = Settings { survival, ..Settings::default() };
    let mut cluster = Cluster::new(seed, count, offset, settings);
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
        let mut cluster = lossy(seed, 3, 0, Survival::Never);
        cluster.submit_all(20);
        cluster.restart(C);
        cluster.submit_all(20);
        cluster.run_until(|cluster| cluster.is_whole(C));
        assert_eq!(cluster.member(C).replica().incarnation(), Incarnation(2));
        cluster.finish();
        assert_eq!(cluster.node(C).host.disk.durable.last, Index(41));
    }
}

/// B would lead view 2 with C's vote of a life that C has forgotten: then C had not acknowledged
/// what A and C hold now.
#[test]
pub(super) fn s31_vote_of_a_forgotten_life_does_not_count() {
    for seed in SEEDS {
        let mut cluster = lossy(seed, 3, 0, Survival::Never);
        cluster.submit_all(5);
        quiet_all(&mut cluster);
        // C votes for term 2; its vote is still under way when it is forgotten.
        let vote = keep_vote(&mut cluster, C);
        let life = cluster.member(C).replica().incarnation();
        cluster.act(C, |member, now, host| {
            let ping = Message::Ping { term: TermId(2) };
            member.on_message(now, (B, member.replica().crash_vector()[1]), ping, host);
        });
        let waits = Rc::clone(&vote);
        cluster.run_until(move |_| waits.borrow().is_some());
        cluster.crash(C, 0);
        cluster.filter = None;
        cluster.start(C);
        cluster.run_until(|cluster| cluster.is_whole(C));
        assert_eq!(cluster.member(C).replica().view(), TermId(1));
        // A and C commit what B doesn't hear of.
        cluster.cut(A, B);
        let ops = cluster.submit_all(3);
        cluster.act(B, |member, now, host| {
            assert_eq!(member.replica().log().last(), Index(5));
            let ping = Message::Ping { term: TermId(2) };
            member.on_message(now, (C, member.replica().crash_vector()[2]), ping, host);
            assert_eq!(member.replica().status(), Status::ViewChange);
        });
        cluster.run_until(|cluster| cluster.node(B).host.disk.durable.view == TermId(2));
        // With its own vote this would be a quorum.
        let vote = vote.borrow_mut().take().unwrap();
        cluster.act(B, move |member, now, host| member.on_message(now, (C, life), vote, host));
        cluster.run_for(10 * NS_PER_MS);
        assert!(cluster.observer.start_view(2).is_none(), "a forgotten vote counts");
        let ignored = cluster.member(B).ignored();
        assert_eq!(ignored.of(IgnoreReason::StaleIncarnation), 1);
        cluster.finish();
        for (op, index) in ops.into_iter().zip(6..) {
            assert_eq!(cluster.observer.stable_value(index), Some(Some(op)));
        }
    }
}

/// With five members: B stamps and A leads. B and C hold a command, C forgets it, and then A has
/// it too: two of five.
#[test]
pub(super) fn s32_ack_of_a_forgotten_life_completes_nothing() {
    for seed in SEEDS {
        let mut cluster = lossy(seed, 5, 1, Survival::Never);
        assert_eq!(cluster.stamping(), Some(B));
        cluster.submit_all(4);
        quiet_all(&mut cluster);
        let holds = |cluster: &Cluster, id| cluster.member(id).replica().log().last() == Index(5);
        let only_to = |reached: &'static [MemberId]| {
            move |_: MemberId, to: MemberId, message: &Message| {
                let repairs = matches!(
                    name(message),
                    "SyncPrepare" | "SyncRepairResponse" | "ViewRepairResponse"
                );
                (is_command(message, 5) && !reached.contains(&to)) || (repairs && to != B)
            }
        };
        lose(&mut cluster, u64::MAX, only_to(&[C]));
        let op = cluster.submit().unwrap();
        cluster.run_until(move |cluster| holds(cluster, C));
        // Its ack is counted.
        cluster.run_for(5 * NS_PER_MS);
        lose(&mut cluster, u64::MAX, only_to(&[]));
        cluster.restart(C);
        cluster.run_until(|cluster| cluster.is_whole(C));
        assert_eq!(cluster.member(C).replica().log().last(), Index(4), "A had no more");
        assert_eq!(cluster.member(C).replica().view(), TermId(1));
        lose(&mut cluster, u64::MAX, only_to(&[A]));
        cluster.run_until(move |cluster| holds(cluster, A));
        cluster.run_for(100 * NS_PER_MS);
        assert_eq!(cluster.observer.answer_of(op), None, "answered with two of five");
        lose(&mut cluster, u64::MAX, only_to(&[A, C]));
        cluster.run_until(|cluster| cluster.observer.answer_of(op) == Some(Index(5)));
        assert!(!holds(&cluster, D) && !holds(&cluster, E));
        cluster.finish();
    }
}

#[test]
fn s33_restarted_leader_recovers_into_a_later_term() {
    for seed in SEEDS {
        for survival in [Survival::Never, Survival::Clean] {
            let mut cluster = lossy(seed, 3, 0, survival);
            cluster.submit_all(10);
            cluster.restart(A);
            cluster.run_until(|cluster| cluster.is_whole(A));
            assert!(cluster.member(A).replica().view() > TermId(1));
            cluster.submit_all(3);
            cluster.finish();
        }
    }
}

/// A raised crash vector counts once it is durable. While that of one new life was being written,
/// that of another was written without it: a restart would have forgotten the first (W7).
#[test]
fn lives_that_become_known_at_once_are_all_durable() {
    for seed in SEEDS {
        let mut cluster = lossy(seed, 5, 0, Survival::Clean);
        cluster.submit_all(5);
        quiet_all(&mut cluster);
        cluster.disk_us = (5_000, 9_000);
        cluster.crash(D, 0);
        cluster.crash(E, 0);
        cluster.start(D);
        cluster.start(E);
        cluster.run_until(|cluster| cluster.is_whole(D) && cluster.is_whole(E));
        cluster.run_for(50 * NS_PER_MS);
        for id in cluster.members() {
            let lives = &cluster.node(id).host.disk.durable.crash_vector;
            assert_eq!(lives[3..], [Incarnation(2); 2], "seed {seed}: {id}");
        }
        cluster.finish();
    }
}

/// A leads and C stamps. B holds slot 5, which is a no-op only at A, and the no-op of slot 7,
/// which is thereby one of a quorum; C holds 7's value. B forgets all of it, and A dies: only what
/// B has copied from A above the frontier says that 7 is a no-op.
#[test]
fn s33b_recovered_member_has_the_no_ops_above_the_frontier() {
    for seed in SEEDS {
        let mut cluster = lossy(seed, 3, 2, Survival::Never);
        assert_eq!(cluster.stamping(), Some(C));
        cluster.submit_all(4);
        quiet_all(&mut cluster);
        let is_gap = |message: &Message, at| match message {
            Message::GapCommitRequest { index, .. } => *index == Index(at),
            _ => false,
        };
        lose(&mut cluster, u64::MAX, move |_, to, message| {
            (is_command(message, 5) && to == A)
                || (is_command(message, 7) && to != C)
                || is_gap(message, 5)
                || (is_gap(message, 7) && to == C)
                || name(message) == "SyncPrepare"
        });
        let ops = [(); 4].map(|()| cluster.submit().unwrap());
        let slot = |cluster: &Cluster, id, at| {
            let log = cluster.member(id).replica().log();
            log.slot(Index(at)).map(|slot| slot.value.is_some())
        };
        cluster.run_until(move |cluster| {
            let a = [5, 6, 7, 8].map(|at| slot(cluster, A, at));
            let b = [5, 6, 7, 8].map(|at| slot(cluster, B, at));
            a == [Some(false), Some(true), Some(false), Some(true)]
                && b == [Some(true), Some(true), Some(false), Some(true)]
        });
        cluster.run_for(5 * NS_PER_MS);
        assert!(cluster.sent_count("GapCommitResponse") > 0);
        assert_eq!(cluster.observer.answered().count(), 4, "slot 5 keeps all back");
        // B forgets everything, and hears of the slots only what it is given as it recovers.
        lose(&mut cluster, u64::MAX, move |_, to, message| {
            matches!(name(message), "Command" if to == B)
                || (is_command(message, 5) || is_command(message, 7)) && to == A
                || name(message) == "GapCommitRequest" && to == B
                || is_gap(message, 5)
                || (is_gap(message, 7) && to == C)
                || name(message) == "SyncPrepare"
        });
        cluster.restart(B);
        cluster.run_until(|cluster| cluster.is_whole(B));
        assert_eq!(cluster.member(B).replica().view(), TermId(1));
        assert_eq!([5, 7].map(|at| slot(&cluster, B, at)), [Some(false); 2]);
        // Now A and C agree upon slot 5: what follows is answered.
        lose(&mut cluster, u64::MAX, move |_, to, message| {
            matches!(name(message), "Command" | "GapCommitRequest" if to == B)
                || (is_command(message, 5) || is_command(message, 7)) && to == A
                || (is_gap(message, 7) && to == C)
                || name(message) == "SyncPrepare"
        });
        let last = ops[3];
        cluster.run_until(move |cluster| cluster.observer.answer_of(last) == Some(Index(8)));
        assert_eq!(slot(&cluster, C, 7), Some(true));
        lose(&mut cluster, u64::MAX, |_, _, message| name(message) == "SyncPrepare");
        cluster.crash(A, 0);
        cluster.run_until(|cluster| cluster.observer.start_views_count() == 2);
        cluster.finish();
        assert_eq!(cluster.observer.stable_value(7), Some(None));
        assert_eq!(cluster.observer.stable_value(8), Some(Some(last)));
    }
}

#[test]
fn s34_two_of_three_that_forgot_everything_stay_down() {
    for seed in SEEDS {
        let mut cluster = lossy(seed, 3, 0, Survival::Never);
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
fn s34_group_that_forgot_everything_begins_anew_once_all_members_say_so() {
    for seed in SEEDS {
        let mut cluster = lossy(seed, 3, 0, Survival::Never);
        cluster.submit_all(10);
        let before = cluster.member(A).replica().view();
        for id in cluster.members() {
            cluster.crash(id, 0);
        }
        cluster.start(A);
        cluster.start(B);
        cluster.run_for(20 * NS_PER_S);
        for id in [A, B] {
            assert_eq!(cluster.member(id).replica().status(), Status::Recovering);
        }
        // Nothing is left of what was seen.
        cluster.observer = Observer::default();
        cluster.start(C);
        cluster.run_until(|cluster| cluster.is_settled());
        for id in cluster.members() {
            assert!(cluster.member(id).replica().view() > before, "a term is used again");
            assert_eq!(cluster.member(id).replica().base(), Index(0));
        }
        cluster.finish();
    }
}

#[test]
fn s35_member_that_lost_the_end_of_its_log_recovers_it() {
    for seed in SEEDS {
        let mut cluster = lossy(seed, 3, 0, Survival::Clean);
        cluster.disk_us = (1_000, 4_000);
        cluster.submit_all(20);
        for _ in 0..10 {
            cluster.submit();
        }
        cluster.crash(C, 3);
        let votes = cluster.sent_count("ViewChange");
        cluster.start(C);
        assert_eq!(cluster.member(C).replica().status(), Status::Recovering);
        cluster.submit_all(5);
        cluster.run_until(|cluster| cluster.is_whole(C));
        assert_eq!(cluster.sent_count("ViewChange"), votes);
        cluster.finish();
    }
}

/// C has promised view 6, of which nobody else has heard, and loses the end of its log: it can't
/// become part of the others' view again, so they come to a later one.
#[test]
fn member_that_has_promised_a_view_that_nobody_began_recovers() {
    for seed in SEEDS {
        let mut cluster = lossy(seed, 3, 0, Survival::Clean);
        cluster.submit_all(5);
        quiet_all(&mut cluster);
        cluster.cut(A, C);
        cluster.cut(B, C);
        let term = TermId(6);
        cluster.act(C, |member, now, host| {
            let life = |of: usize| member.replica().crash_vector()[of];
            let (a, b) = ((A, life(0)), (B, life(1)));
            member.on_message(now, a, Message::ViewChangeRequest { term }, host);
            member.on_message(now, b, Message::ViewChangeRequest { term }, host);
        });
        cluster.run_until(|cluster| cluster.node(C).host.disk.durable.view == term);
        cluster.crash(C, 0);
        cluster.heal();
        cluster.start(C);
        assert_eq!(cluster.member(C).replica().status(), Status::Recovering);
        cluster.run_until(|cluster| cluster.is_whole(C));
        assert!(cluster.member(C).replica().view() > term, "which it would lead itself");
        assert_eq!(cluster.observer.start_views_count(), 2, "it took more than one view");
        cluster.finish();
    }
}

/// A client asks every millisecond for so long: the longest time in which it had no answer.
fn standstill_ms(cluster: &mut Cluster, ms: u64) -> u64 {
    let (mut open, mut since, mut longest) = (Vec::new(), cluster.now, 0);
    for _ in 0..ms {
        open.extend(cluster.submit());
        cluster.run_for(NS_PER_MS);
        let open_count = open.len();
        open.retain(|op| cluster.observer.answer_of(*op).is_none());
        if open.len() < open_count {
            since = cluster.now;
        }
        longest = longest.max(cluster.now - since);
    }
    longest / NS_PER_MS
}

/// C has an empty disk and can't recover yet. Where leader and sequencer are two, it would be one
/// of them in two of three terms: A and B find the third at once when they have lost each other.
#[test]
fn member_that_recovers_is_neither_leader_nor_sequencer_of_the_next_view() {
    for seed in SEEDS {
        for (lost, others) in [(A, (B, C)), (B, (A, C)), (C, (A, B))] {
            let mut cluster = Cluster::started(seed, 3, 1);
            cluster.submit_all(5);
            cluster.crash(lost, 0);
            standstill_ms(&mut cluster, 500);
            cluster.lose_disk(lost);
            let keeps_recovering = |message: &Message| name(message) == "RecoverResponse";
            lose(&mut cluster, u64::MAX, move |_, _, message| keeps_recovering(message));
            cluster.start(lost);
            let begun = standstill_ms(&mut cluster, 1_000);
            lose(&mut cluster, u64::MAX, move |from, to, message| {
                keeps_recovering(message) || [(from, to), (to, from)].contains(&others)
            });
            cluster.run_for(400 * NS_PER_MS);
            lose(&mut cluster, u64::MAX, move |_, _, message| keeps_recovering(message));
            let views = cluster.observer.start_views_count();
            let still = standstill_ms(&mut cluster, 5_000);
            let views_count = cluster.observer.start_views_count() - views;
            assert_eq!(views_count, 1, "seed {seed}: views with {lost} came to nothing");
            assert!(begun < 20 && still < 100, "seed {seed}: no answer for {begun}, {still} ms");
            assert_eq!(cluster.member(lost).replica().status(), Status::Recovering);
            cluster.finish();
        }
    }
}
