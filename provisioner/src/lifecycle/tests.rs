use std::collections::BTreeMap;

use epu_core::id::{InstanceId, LaunchId, PoolName, SiteName};
use proptest::prelude::*;

use super::*;

const LIMITS: Deadlines = Deadlines {
    launch_window: Duration::from_secs(3_600),
    ready_within: Duration::from_secs(600),
    failed_grace: Duration::from_secs(600),
    terminate_within: Duration::from_secs(60),
};
const NOW: Timestamp = Timestamp(1_000_000);

fn requested() -> Instance {
    Instance {
        id: InstanceId("0198f000-0000-7000-8000-000000000001".parse().unwrap()),
        pool: PoolName::new("web").unwrap(),
        launch: LaunchId("0198f000-0000-7000-8000-00000000000a".parse().unwrap()),
        index: 0,
        site: SiteName::new("here").unwrap(),
        placement: None,
        slot: None,
        variables: BTreeMap::new(),
        template: "worker@1".to_owned(),
        state: State::Requested,
        version: 1,
        created_at: NOW,
        state_since: NOW,
        deadline: Some(NOW + LIMITS.launch_window),
        machine: None,
        address: None,
        ready_at: None,
        drain: None,
        ending: None,
        fault: None,
        exit: None,
        protected: false,
        claim: None,
    }
}

fn after(instance: &Instance, happenings: impl IntoIterator<Item = Happening>) -> (Instance, Vec<Effect>) {
    let mut instance = instance.clone();
    let mut last = Vec::new();
    for happening in happenings {
        (instance, last) = step(&instance, happening, NOW, &LIMITS).unwrap();
    }
    (instance, last)
}

fn launched() -> Happening {
    Happening::Launched {
        machine: "m-1".to_owned(),
        address: None,
    }
}

fn running() -> Instance {
    after(&requested(), [launched(), Happening::Up, Happening::Ready { address: None }]).0
}

fn exit(code: i32) -> Exit {
    Exit {
        code: Some(code),
        signal: None,
        output: String::new(),
    }
}

fn drain(deadline: Timestamp) -> Happening {
    Happening::Drain(Drain {
        since: NOW,
        deadline,
        why: Cause::ScaleIn,
    })
}

fn interruption(after: u64) -> Happening {
    Happening::Drain(Drain {
        since: NOW,
        deadline: NOW + Duration::from_secs(after),
        why: Cause::Interrupted,
    })
}

fn terminate(why: Cause) -> Happening {
    Happening::Terminate { why, work: Work::Unknown }
}

#[test]
fn the_way_up_has_a_deadline_until_it_runs() {
    let (pending, _) = after(&requested(), [launched()]);
    assert_eq!((pending.state, pending.deadline), (State::Pending, Some(NOW + LIMITS.ready_within)));
    let later = NOW + Duration::from_secs(100);
    let (started, _) = step(&pending, Happening::Up, later, &LIMITS).unwrap();
    assert_eq!((started.state, started.deadline), (State::Started, Some(NOW + LIMITS.ready_within)));
    assert_eq!((running().state, running().deadline, running().version), (State::Running, None, 4));
}

#[test]
fn an_answer_that_comes_after_the_order_to_end_names_the_machine_to_end() {
    let (leaving, effects) = after(&requested(), [terminate(Cause::Operator)]);
    assert_eq!((leaving.state, effects), (State::Terminating, vec![]));
    let (leaving, effects) = after(&leaving, [launched()]);
    assert_eq!(leaving.machine.as_deref(), Some("m-1"));
    assert_eq!(
        (leaving.state, effects),
        (State::Terminating, vec![Effect::EndMachine("m-1".to_owned())])
    );
    assert_eq!(after(&leaving, [Happening::Gone]).0.state, State::Terminated);
}

#[test]
fn one_that_never_becomes_ready_fails_and_is_ended_later() {
    let (pending, _) = after(&requested(), [launched()]);
    let at = pending.deadline.unwrap();
    let (failed, effects) = step(&pending, Happening::Overdue, at, &LIMITS).unwrap();
    assert_eq!(failed.state, State::RunningFailed);
    assert_eq!(failed.fault.as_ref().unwrap().code, READY_UNHEARD);
    assert_eq!(effects, [Effect::DeadlinePassed(State::Pending)]);
    let (ended, effects) = step(&failed, Happening::Overdue, failed.deadline.unwrap(), &LIMITS).unwrap();
    assert_eq!((ended.state, ended.ending.unwrap().why), (State::Terminating, Cause::NotReady));
    assert_eq!(effects[1], Effect::EndMachine("m-1".to_owned()));
}

#[test]
fn a_drain_waits_for_a_worker_that_may_have_become_ready_unheard() {
    let (pending, _) = after(&requested(), [launched()]);
    let claimed = after(&pending, [Happening::Up, Happening::Claimed { digest: "d".to_owned() }]).0;
    let at = claimed.deadline.unwrap();
    let unheard = step(&claimed, Happening::Overdue, at, &LIMITS).unwrap().0;
    let draining = step(&unheard, drain(at + LIMITS.ready_within * 2), at, &LIMITS).unwrap().0;
    assert_eq!((draining.state, draining.drain.is_some()), (State::RunningFailed, true));
    let later = step(&draining, Happening::Overdue, draining.deadline.unwrap(), &LIMITS).unwrap().0;
    assert_eq!(
        (later.state, due_at(&later)),
        (State::RunningFailed, draining.drain.as_ref().map(|drain| drain.deadline)),
        "the time to drain is the longer one"
    );
    let stays = step(&later, Happening::WithdrawDrain, at, &LIMITS).unwrap().0;
    assert_eq!(due_at(&stays), Some(at + LIMITS.failed_grace), "it is not left without any");
    let (ended, _) = step(&draining, Happening::Drained(exit(0)), at, &LIMITS).unwrap();
    assert_eq!((ended.state, ended.ending.unwrap().why), (State::Terminating, Cause::Drained));
    // One whose agent says itself that it failed has no worker, and neither has a machine whose agent never came.
    let failed = after(&claimed, [Happening::NotReady(Fault::new("set-up-failed", "x"))]).0;
    let silent = step(&pending, Happening::Overdue, at, &LIMITS).unwrap().0;
    for instance in [failed, silent] {
        assert_eq!(instance.state, State::RunningFailed);
        assert_eq!(
            step(&instance, drain(at + LIMITS.ready_within), at, &LIMITS).unwrap().0.state,
            State::Terminating
        );
    }
}

#[test]
fn a_deadline_that_has_not_passed_does_nothing() {
    let (pending, _) = after(&requested(), [launched()]);
    let (same, effects) = step(&pending, Happening::Overdue, NOW, &LIMITS).unwrap();
    assert_eq!((same, effects), (pending, vec![]));
}

#[test]
fn ending_is_asked_for_again_until_it_is_confirmed() {
    let (leaving, _) = after(&running(), [terminate(Cause::ScaleIn)]);
    let (still, effects) = step(&leaving, Happening::Overdue, leaving.deadline.unwrap(), &LIMITS).unwrap();
    assert_eq!(still.state, State::Terminating);
    assert!(still.deadline > leaving.deadline);
    assert_eq!(
        effects,
        [Effect::DeadlinePassed(State::Terminating), Effect::EndMachine("m-1".to_owned())]
    );
}

#[test]
fn a_drained_worker_is_ended_and_remembers_why_it_was_drained() {
    let (draining, _) = after(&running(), [drain(NOW + Duration::from_secs(50))]);
    assert_eq!(
        (draining.state, due_at(&draining)),
        (State::Running, Some(NOW + Duration::from_secs(50)))
    );
    let (ended, _) = after(&draining, [Happening::Drained(exit(0))]);
    let ending = ended.ending.unwrap();
    assert_eq!(
        (ended.state, ending.why, ending.drained_for),
        (State::Terminating, Cause::Drained, Some(Cause::ScaleIn))
    );
}

#[test]
fn a_drain_that_takes_too_long_is_cut_short() {
    let (draining, _) = after(&running(), [drain(NOW + Duration::from_secs(50))]);
    let (ended, effects) = step(&draining, Happening::Overdue, NOW + Duration::from_secs(50), &LIMITS).unwrap();
    assert_eq!(ended.ending.unwrap().why, Cause::DrainDeadline);
    assert!(effects.contains(&Effect::DrainCutShort));
}

#[test]
fn a_withdrawn_drain_leaves_no_trace() {
    let (back, _) = after(&running(), [drain(NOW), Happening::WithdrawDrain]);
    assert_eq!((back.drain.clone(), due_at(&back), back.state), (None, None, State::Running));
}

#[test]
fn what_the_site_announced_is_not_withdrawn() {
    let (draining, _) = after(&running(), [interruption(120), Happening::WithdrawDrain]);
    assert_eq!(draining.drain.unwrap().why, Cause::Interrupted);
}

#[test]
fn one_that_is_halted_has_vanished_and_its_machine_is_ended() {
    let (ending, effects) = after(&running(), [Happening::Halted]);
    assert_eq!(
        (ending.state, ending.ending.as_ref().unwrap().why),
        (State::Terminating, Cause::Vanished)
    );
    assert_eq!(ending.fault.as_ref().unwrap().code, "machine-stopped");
    assert_eq!(effects, [Effect::EndMachine("m-1".to_owned())]);
    assert_eq!(
        after(&ending, [Happening::Halted]),
        (ending, vec![]),
        "it is no news of one that is being ended"
    );
}

#[test]
fn one_that_is_undone_keeps_its_own_fault() {
    let undone = || Happening::Undone(Fault::new("launch-undone", "too few"));
    let (ending, _) = after(&running(), [undone()]);
    assert_eq!(
        (ending.fault.unwrap().code.as_ref(), ending.ending.unwrap().why),
        ("launch-undone", Cause::NotReady)
    );
    let (ending, _) = after(
        &requested(),
        [launched(), Happening::NotReady(Fault::new("set-up-failed", "no disk")), undone()],
    );
    assert_eq!(ending.fault.unwrap().code, "set-up-failed");
}

#[test]
fn where_nothing_works_yet_draining_is_ending() {
    let (ended, _) = after(&requested(), [launched(), drain(NOW)]);
    assert_eq!((ended.state, ended.ending.unwrap().why), (State::Terminating, Cause::ScaleIn));
    let claimed = Happening::Claimed { digest: "d".to_owned() };
    let (kept, _) = after(&requested(), [launched(), claimed, drain(NOW)]);
    assert_eq!((kept.state, kept.drain.is_some()), (State::Pending, true));
}

#[test]
fn an_exit_without_fault_ends_and_one_with_is_left_to_the_pool() {
    let (finished, _) = after(&running(), [Happening::Exited(exit(0))]);
    assert_eq!(finished.ending.unwrap().why, Cause::Finished);
    let (failed, _) = after(&running(), [Happening::Exited(exit(3))]);
    assert_eq!(
        (failed.state, failed.fault.unwrap().code.as_ref()),
        (State::Running, "worker-failed")
    );
    assert_eq!(failed.exit.unwrap().code, Some(3));
}

#[test]
fn saying_it_twice_changes_nothing() {
    let running = running();
    for happening in [
        Happening::Ready { address: None },
        Happening::Up,
        launched(),
        Happening::Protect(false),
        Happening::WithdrawDrain,
    ] {
        let (same, _) = step(&running, happening.clone(), NOW + Duration::from_secs(9), &LIMITS).unwrap();
        assert_eq!(same, running, "{happening:?}");
    }
    let (gone, _) = after(&running, [Happening::Gone]);
    assert_eq!(gone.ending.as_ref().unwrap().why, Cause::Vanished);
    assert_eq!(after(&gone, [terminate(Cause::Operator)]), (gone, vec![]));
}

fn any_happening() -> impl Strategy<Value = Happening> {
    let fault = || Fault::new("launch-failed", "no");
    prop_oneof![
        Just(Happening::Retrying(fault())),
        Just(launched()),
        Just(Happening::LaunchFailed(fault())),
        Just(Happening::Up),
        Just(Happening::Claimed { digest: "d".to_owned() }),
        Just(Happening::Ready { address: None }),
        Just(Happening::NotReady(fault())),
        Just(Happening::Drained(exit(0))),
        (0..2i32).prop_map(|code| Happening::Exited(exit(code))),
        (0..200u64).prop_map(|after| drain(NOW + Duration::from_secs(after))),
        (0..200u64).prop_map(interruption),
        Just(Happening::WithdrawDrain),
        Just(Happening::Halted),
        Just(Happening::Undone(Fault::new("launch-undone", "too few"))),
        any::<bool>().prop_map(Happening::Protect),
        Just(terminate(Cause::ScaleIn)),
        Just(Happening::Gone),
        Just(Happening::Overdue),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_it_moves_forward_and_versions_count_changes(
        happenings in proptest::collection::vec((any_happening(), 0..2_000u64), 0..40)
    ) {
        let mut instance = requested();
        let mut now = NOW;
        for (happening, wait) in happenings {
            now = now + Duration::from_secs(wait);
            let Ok((next, effects)) = step(&instance, happening, now, &LIMITS) else { continue };
            prop_assert!(next.state >= instance.state);
            prop_assert_eq!(next.version, instance.version + u64::from(without_version(&next) != without_version(&instance)));
            prop_assert!(next.state.is_end() || next.state == State::Running || next.deadline.is_some(), "{} has no deadline", next.state);
            prop_assert!(next.deadline.is_none() || !next.state.is_end());
            prop_assert!(next.state != State::Terminating || next.ending.is_some());
            if let (Some(before), Some(after)) = (&instance.drain, &next.drain) {
                prop_assert!(after.deadline <= before.deadline, "a worker's time grew");
            }
            let is_announced = |instance: &Instance| instance.drain.as_ref().is_some_and(|drain| drain.why == Cause::Interrupted);
            prop_assert!(!is_announced(&instance) || is_announced(&next), "what the site announced was forgotten");
            if instance.state.is_end() {
                prop_assert!(effects.is_empty());
                prop_assert_eq!(next.state, instance.state);
            }
            instance = next;
        }
    }

    #[test]
    fn a_passed_deadline_always_does_something(happenings in proptest::collection::vec(any_happening(), 0..12)) {
        let mut instance = requested();
        for happening in happenings {
            if let Ok((next, _)) = step(&instance, happening, NOW, &LIMITS) {
                instance = next;
            }
        }
        if let Some(due) = due_at(&instance) {
            let (next, effects) = step(&instance, Happening::Overdue, due, &LIMITS).unwrap();
            prop_assert!(matches!(effects[..], [Effect::DeadlinePassed(_), ..]));
            prop_assert!(due_at(&next).is_none_or(|again| again > due), "it would be due at once again");
        }
    }
}

fn without_version(instance: &Instance) -> Instance {
    Instance {
        version: 0,
        ..instance.clone()
    }
}
