//! Pools, what is remembered of them, and commands on their way.

use uuid::Uuid;

use super::is_conflict;
use super::samples::{entry, events, memory, name, outgoing, pool};
use crate::{DecisionCommit, Store};

pub(super) async fn one_revision_after_another(store: &dyn Store) {
    store
        .put_pools(&[pool("web", 1), pool("batch", 1)], vec![entry(1)])
        .await
        .expect("new pools");
    let mut changed = pool("web", 2);
    changed.spec.max = 77;
    store
        .put_pools(&[changed.clone()], vec![entry(2)])
        .await
        .expect("the next revision");
    let pools = store.pools().await.expect("pools");
    assert_eq!(pools, [pool("batch", 1), changed], "pools come by name, as they were last put");
    store
        .put_pools(&[pool("web", 3), pool("web", 4)], Vec::new())
        .await
        .expect("two revisions at once");
    assert_eq!(events(store).await, [1, 2]);
}

pub(super) async fn a_conflict_keeps_nothing(store: &dyn Store) {
    store.put_pools(&[pool("web", 1)], vec![entry(1)]).await.expect("a new pool");
    for wrong in [pool("web", 0), pool("web", 1), pool("web", 3), pool("new", 0), pool("new", 2)] {
        let done = store.put_pools(&[pool("other", 1), wrong.clone()], vec![entry(2)]).await;
        assert!(is_conflict(&done), "{} at revision {}: {done:?}", wrong.name, wrong.revision);
    }
    let done = store.put_pools(&[pool("twice", 1), pool("twice", 1)], vec![entry(2)]).await;
    assert!(is_conflict(&done), "one revision twice: {done:?}");
    assert_eq!(store.pools().await.expect("pools"), [pool("web", 1)], "a conflict kept something");
    assert_eq!(events(store).await, [1], "a conflict was journalled");
}

pub(super) async fn a_decision_is_kept_whole(store: &dyn Store) {
    let web = name("web");
    let first = DecisionCommit {
        term: None,
        memory: Some(memory(1)),
        outbox: vec![outgoing(1, "web", 10)],
        journal: vec![entry(10), entry(11)],
    };
    store.commit_decision(&web, first).await.expect("a decision");
    assert_eq!(store.memories().await.expect("memories"), [(web.clone(), memory(1))]);
    assert_eq!(store.outbox().await.expect("outbox"), [outgoing(1, "web", 10)]);
    assert_eq!(events(store).await, [10, 11]);

    let quiet = DecisionCommit {
        term: None,
        journal: vec![entry(12)],
        ..DecisionCommit::default()
    };
    store.commit_decision(&web, quiet).await.expect("a decision without memory");
    assert_eq!(
        store.memories().await.expect("memories"),
        [(web.clone(), memory(1))],
        "no memory left what was there"
    );

    for (pool, n) in [("web", 2), ("Zeta", 3), ("alpha", 4)] {
        let commit = DecisionCommit {
            term: None,
            memory: Some(memory(n)),
            ..DecisionCommit::default()
        };
        store.commit_decision(&name(pool), commit).await.expect("a decision");
    }
    let memories = store.memories().await.expect("memories");
    let expected = [(name("Zeta"), memory(3)), (name("alpha"), memory(4)), (web, memory(2))];
    assert_eq!(memories, expected, "memories come by name, upper case first");
}

pub(super) async fn commands_are_kept_in_order_until_accepted(store: &dyn Store) {
    let one_moment = DecisionCommit {
        term: None,
        outbox: vec![outgoing(9, "web", 20), outgoing(5, "web", 20), outgoing(7, "web", 20)],
        ..DecisionCommit::default()
    };
    let earlier = DecisionCommit {
        term: None,
        outbox: vec![outgoing(8, "batch", 10)],
        ..DecisionCommit::default()
    };
    store.commit_decision(&name("web"), one_moment.clone()).await.expect("a decision");
    store.commit_decision(&name("batch"), earlier).await.expect("a decision");
    // Whoever does not know whether a commit arrived repeats it.
    store.commit_decision(&name("web"), one_moment).await.expect("the same again");
    assert_eq!(
        ids(store).await,
        [8, 9, 5, 7],
        "oldest first; those of one moment as given; each once"
    );

    let accepted: Vec<Uuid> = [9, 7].map(super::samples::uuid).to_vec();
    for _ in 0..2 {
        store.accepted(&accepted).await.expect("accepted");
        assert_eq!(ids(store).await, [8, 5]);
    }
    store.accepted(&[]).await.expect("none accepted");
    assert_eq!(ids(store).await, [8, 5]);
}

pub(super) async fn a_forgotten_pool_leaves_nothing(store: &dyn Store) {
    store
        .put_pools(&[pool("web", 1), pool("batch", 1)], Vec::new())
        .await
        .expect("new pools");
    for (pool, n) in [("web", 1), ("batch", 2)] {
        let commit = DecisionCommit {
            term: None,
            memory: Some(memory(n)),
            outbox: vec![outgoing(n, pool, 10)],
            journal: Vec::new(),
        };
        store.commit_decision(&name(pool), commit).await.expect("a decision");
    }
    for at in [1, 2] {
        let done = store.forget_pool(&name("web"), 1, None, vec![entry(at)]).await;
        done.expect("forget, twice");
    }
    assert_eq!(store.pools().await.expect("pools"), [pool("batch", 1)]);
    assert_eq!(store.memories().await.expect("memories"), [(name("batch"), memory(2))]);
    assert_eq!(ids(store).await, [2]);
    assert_eq!(events(store).await, [1], "it was forgotten once");
    store
        .put_pools(&[pool("web", 1)], Vec::new())
        .await
        .expect("a pool of the same name begins anew");
}

pub(super) async fn another_revision_is_not_forgotten(store: &dyn Store) {
    store
        .put_pools(&[pool("web", 1), pool("web", 2)], Vec::new())
        .await
        .expect("a pool");
    let commit = DecisionCommit {
        memory: Some(memory(1)),
        outbox: vec![outgoing(1, "web", 10)],
        ..DecisionCommit::default()
    };
    store.commit_decision(&name("web"), commit).await.expect("a decision");
    for other in [0, 1, 3] {
        let done = store.forget_pool(&name("web"), other, None, vec![entry(1)]).await;
        assert!(is_conflict(&done), "at revision 2, not {other}: {done:?}");
    }
    assert_eq!(store.pools().await.expect("pools"), [pool("web", 2)]);
    assert_eq!(store.memories().await.expect("memories"), [(name("web"), memory(1))]);
    assert_eq!(ids(store).await, [1]);
    assert!(events(store).await.is_empty());
    store.forget_pool(&name("web"), 2, None, Vec::new()).await.expect("forget");
    assert!(store.pools().await.expect("pools").is_empty() && store.memories().await.expect("memories").is_empty());
    assert!(ids(store).await.is_empty());
}

async fn ids(store: &dyn Store) -> Vec<u64> {
    let outbox = store.outbox().await.expect("outbox");
    let number = |id: Uuid| u64::try_from(id.as_u128() >> 80).expect("a sample's id");
    outbox.iter().map(|outgoing| number(outgoing.id)).collect()
}
