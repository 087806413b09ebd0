//! Launches and their instances.

use std::sync::Arc;

use epu_core::instance::Instance;
use epu_core::life::State;

use super::is_conflict;
use super::samples::{done, entry, events, instance, instance_id, launch, launch_id, moved};
use crate::{Error, ProvisionCommit, Store};

/// As many as the largest decision is expected to launch at once.
const MANY: u64 = 1_000;

fn instances(of: &[Arc<Instance>]) -> ProvisionCommit {
    ProvisionCommit {
        instances: of.to_vec(),
        ..ProvisionCommit::default()
    }
}

pub(super) async fn a_launch_is_recorded_once(store: &dyn Store) {
    let (asked, both) = (launch(1, &[10, 11], 5), [instance(10, 1, 5), instance(11, 1, 5)]);
    let new = store.record_launch(&asked, &both, vec![entry(1)], &[]).await.expect("a launch");
    assert!(new, "a new launch counts as repeated");
    assert_eq!(store.launch(launch_id(1)).await.expect("launch"), Some(asked.clone()));
    assert_eq!(store.launch(launch_id(2)).await.expect("launch"), None);

    let went_on = ProvisionCommit {
        term: None,
        also: Vec::new(),
        instances: vec![moved(&both[0], State::Pending, 6)],
        launches: vec![done(asked.clone())],
        journal: vec![entry(2)],
    };
    store.commit_provision(went_on).await.expect("it goes on");
    let again = store
        .record_launch(&asked, &both, vec![entry(3)], &[])
        .await
        .expect("the launch again");
    assert!(!again, "a repeated launch counts as new");
    assert_eq!(
        store.launch(launch_id(1)).await.expect("launch"),
        Some(done(asked.clone())),
        "repeating changed the launch"
    );
    let first = store.instance(instance_id(10)).await.expect("instance").expect("it is there");
    assert_eq!((first.state, first.version), (State::Pending, 2), "repeating changed an instance");
    assert_eq!(events(store).await, [1, 2], "repeating was journalled");

    store.set_closed(true, None, Vec::new()).await.expect("close");
    let again = store.record_launch(&asked, &both, Vec::new(), &[]).await;
    assert!(
        matches!(again, Ok(false)),
        "what was recorded before closing stays accepted: {again:?}"
    );
}

pub(super) async fn a_closed_installation_records_no_launch(store: &dyn Store) {
    store.set_closed(true, None, Vec::new()).await.expect("close");
    let refused = store
        .record_launch(&launch(1, &[10], 5), &[instance(10, 1, 5)], vec![entry(1)], &[])
        .await;
    assert!(matches!(refused, Err(Error::Closed)), "{refused:?}");
    assert_eq!(store.launch(launch_id(1)).await.expect("launch"), None);
    assert_eq!(store.instance(instance_id(10)).await.expect("instance"), None);
    assert!(events(store).await.is_empty(), "a refused launch was journalled");
    store.set_closed(false, None, Vec::new()).await.expect("open");
    let taken = store
        .record_launch(&launch(1, &[10], 5), &[instance(10, 1, 5)], Vec::new(), &[])
        .await;
    assert!(matches!(taken, Ok(true)), "{taken:?}");
}

pub(super) async fn an_instance_has_one_launch(store: &dyn Store) {
    let first = [instance(10, 1, 5)];
    store
        .record_launch(&launch(1, &[10], 5), &first, Vec::new(), &[])
        .await
        .expect("a launch");
    let thief = [instance(9, 2, 6), instance(10, 2, 6)];
    let refused = store.record_launch(&launch(2, &[9, 10], 6), &thief, vec![entry(1)], &[]).await;
    assert!(matches!(refused, Err(Error::Exists(_))), "{refused:?}");
    let doubled = [instance(12, 3, 6), instance(12, 3, 6)];
    let refused = store.record_launch(&launch(3, &[12, 12], 6), &doubled, vec![entry(1)], &[]).await;
    assert!(matches!(refused, Err(Error::Exists(_))), "one id twice in a launch: {refused:?}");

    assert_eq!(
        store.launch(launch_id(2)).await.expect("launch"),
        None,
        "a refused launch was recorded"
    );
    assert_eq!(
        store.instances(false).await.expect("instances"),
        [Instance::clone(&first[0])],
        "a refused launch left an instance"
    );
    assert!(events(store).await.is_empty(), "a refused launch was journalled");
}

pub(super) async fn one_version_after_another(store: &dyn Store) {
    let requested = instance(10, 1, 5);
    let asked = launch(1, &[10], 5);
    store
        .record_launch(&asked, std::slice::from_ref(&requested), Vec::new(), &[])
        .await
        .expect("a launch");
    let pending = moved(&requested, State::Pending, 6);
    let started = moved(&pending, State::Started, 7);
    store
        .commit_provision(instances(&[Arc::clone(&pending), Arc::clone(&started)]))
        .await
        .expect("two versions at once");
    let adopted = moved(&moved(&instance(11, 1, 5), State::Pending, 6), State::Started, 7);
    let commit = ProvisionCommit {
        term: None,
        also: Vec::new(),
        instances: vec![Arc::clone(&adopted)],
        launches: vec![done(asked.clone()), launch(2, &[], 8)],
        journal: vec![entry(1)],
    };
    store.commit_provision(commit).await.expect("a new instance, at whatever version");
    let stored = store.instances(false).await.expect("instances");
    assert_eq!(stored, [Instance::clone(&started), Instance::clone(&adopted)]);
    assert_eq!(store.launch(launch_id(1)).await.expect("launch"), Some(done(asked)));
    assert_eq!(store.launch(launch_id(2)).await.expect("launch"), Some(launch(2, &[], 8)));
    assert_eq!(events(store).await, [1]);
}

pub(super) async fn a_conflict_writes_nothing(store: &dyn Store) {
    let (one, other) = (instance(10, 1, 5), instance(11, 1, 5));
    store
        .record_launch(&launch(1, &[10, 11], 5), &[Arc::clone(&one), Arc::clone(&other)], Vec::new(), &[])
        .await
        .expect("a launch");
    let second = moved(&one, State::Pending, 6);
    let third = moved(&second, State::Started, 7);
    for wrong in [Arc::clone(&one), third] {
        let commit = ProvisionCommit {
            term: None,
            also: Vec::new(),
            instances: vec![moved(&other, State::Pending, 6), Arc::clone(&wrong), instance(12, 1, 6)],
            launches: vec![done(launch(1, &[10, 11], 5))],
            journal: vec![entry(1)],
        };
        let refused = store.commit_provision(commit).await;
        assert!(is_conflict(&refused), "version {} after 1: {refused:?}", wrong.version);
    }
    let stored = store.instances(false).await.expect("instances");
    assert_eq!(
        stored,
        [Instance::clone(&one), Instance::clone(&other)],
        "a conflict wrote an instance"
    );
    let stored = store.launch(launch_id(1)).await.expect("launch").expect("it is there");
    assert!(stored.outcome.is_none(), "a conflict wrote a launch");
    assert!(events(store).await.is_empty(), "a conflict was journalled");
}

pub(super) async fn of_two_writers_one_wins(store: &dyn Store) {
    let (asked, one) = (launch(1, &[10], 5), [instance(10, 1, 5)]);
    let (a, b) = tokio::join!(
        store.record_launch(&asked, &one, vec![entry(1)], &[]),
        store.record_launch(&asked, &one, vec![entry(1)], &[])
    );
    assert!(
        a.expect("a launch") != b.expect("a launch"),
        "recorded at once, one is new and one is not"
    );
    let next = moved(&one[0], State::Pending, 6);
    let other = moved(&one[0], State::ErrorRetrying, 6);
    let (a, b) = tokio::join!(
        store.commit_provision(instances(&[next])),
        store.commit_provision(instances(&[other]))
    );
    assert!(a.is_ok() != b.is_ok(), "of two changes of one version one is written: {a:?} {b:?}");
    assert!(is_conflict(&a) || is_conflict(&b), "the other one is a conflict: {a:?} {b:?}");
    assert_eq!(events(store).await, [1]);
}

pub(super) async fn live_ones_are_told_from_ended_ones(store: &dyn Store) {
    let mut all = Vec::new();
    // From the last to the first, so that the order of reading is not the order of writing.
    for (n, state) in (10..).zip(State::ALL).collect::<Vec<_>>().into_iter().rev() {
        all.push(moved(&instance(n, 1, 5), state, 6));
    }
    store.commit_provision(instances(&all)).await.expect("one in each state");
    all.reverse();
    let all: Vec<Instance> = all.iter().map(|instance| Instance::clone(instance)).collect();
    assert_eq!(store.instances(false).await.expect("instances"), all, "all, by id");
    let live: Vec<Instance> = all.iter().filter(|instance| instance.is_live()).cloned().collect();
    assert_eq!(store.instances(true).await.expect("instances"), live, "live ones, by id");
    for expected in all {
        let found = store.instance(expected.id).await.expect("instance");
        assert_eq!(found, Some(expected));
    }
    assert_eq!(store.instance(instance_id(999)).await.expect("instance"), None);
}

pub(super) async fn open_launches_have_a_live_instance_or_no_outcome(store: &dyn Store) {
    for (n, with_outcome, state) in [
        (4, false, State::Running),
        (3, true, State::Running),
        (2, false, State::Terminated),
        (1, true, State::Terminated),
    ] {
        let (asked, one) = (launch(n, &[10 + n], 5), instance(10 + n, n, 5));
        store
            .record_launch(&asked, std::slice::from_ref(&one), Vec::new(), &[])
            .await
            .expect("a launch");
        let commit = ProvisionCommit {
            term: None,
            also: Vec::new(),
            instances: vec![moved(&one, state, 6)],
            launches: if with_outcome { vec![done(asked)] } else { Vec::new() },
            journal: Vec::new(),
        };
        store.commit_provision(commit).await.expect("it goes on");
    }
    let open = store.open_launches().await.expect("open launches");
    let ids: Vec<_> = open.iter().map(|launch| launch.id).collect();
    assert_eq!(ids, [launch_id(2), launch_id(3), launch_id(4)]);
    assert_eq!(open[1], done(launch(3, &[13], 5)));
}

pub(super) async fn many_at_once(store: &dyn Store) {
    let ids: Vec<u64> = (0..MANY).collect();
    let requested: Vec<_> = ids.iter().map(|n| instance(*n, 5_000, 5)).collect();
    let journal = requested.iter().map(|instance| entry(1).on(instance.id)).collect();
    store
        .record_launch(&launch(5_000, &ids, 5), &requested, journal, &[])
        .await
        .expect("a large launch");
    let pending: Vec<_> = requested.iter().map(|instance| moved(instance, State::Pending, 6)).collect();
    store.commit_provision(instances(&pending)).await.expect("a large change");
    let stored = store.instances(true).await.expect("instances");
    assert_eq!(stored.len(), pending.len());
    assert!(stored.iter().zip(&pending).all(|(stored, pending)| *stored == **pending));
    let size = store.size().await.expect("size");
    assert_eq!((size.instances, size.journal), (MANY, MANY));
}
