//! The journal, and what is forgotten when.

use epu_core::code::Fault;
use epu_core::journal::{Entry, Event};
use epu_core::life::State;
use epu_core::time::Timestamp;

use super::samples::{done, entry, events, instance, instance_id, launch, launch_id, moved, name};
use crate::{JournalQuery, ProvisionCommit, Store};

async fn read(store: &dyn Store, query: JournalQuery) -> Vec<i64> {
    let entries = store.journal(query).await.expect("journal");
    assert!(
        entries.windows(2).all(|pair| pair[0].sequence < pair[1].sequence),
        "entries are out of order: {entries:?}"
    );
    entries.iter().map(|entry| entry.at.0).collect()
}

fn page(after: Option<i64>, limit: u32) -> JournalQuery {
    JournalQuery {
        after,
        limit,
        ..JournalQuery::default()
    }
}

pub(super) async fn it_is_read_in_order_and_in_pages(store: &dyn Store) {
    // The order is that of writing, whatever the times say.
    store.append(vec![entry(10), entry(30), entry(20)]).await.expect("append");
    store.append(vec![entry(5), entry(50)]).await.expect("append");
    assert_eq!(read(store, page(Some(0), 100)).await, [10, 30, 20, 5, 50]);
    assert_eq!(
        read(store, page(None, 2)).await,
        [5, 50],
        "without a number the newest ones, oldest of them first"
    );
    assert_eq!(read(store, page(None, 100)).await, [10, 30, 20, 5, 50]);
    assert!(read(store, page(None, 0)).await.is_empty());
    assert!(read(store, page(Some(0), 0)).await.is_empty());

    let mut seen = Vec::new();
    let mut after = 0;
    loop {
        let entries = store.journal(page(Some(after), 2)).await.expect("journal");
        let Some(last) = entries.last() else { break };
        after = last.sequence;
        seen.extend(entries.iter().map(|entry| entry.at.0));
    }
    assert_eq!(seen, [10, 30, 20, 5, 50], "pages miss or repeat something");
    assert!(read(store, page(Some(after), 2)).await.is_empty());
    assert!(read(store, page(Some(i64::MAX), 2)).await.is_empty());
}

pub(super) async fn it_is_read_by_pool_and_by_instance(store: &dyn Store) {
    let (web, batch) = (name("web"), name("batch"));
    let (one, two) = (instance_id(1), instance_id(2));
    let entries = vec![
        entry(1),
        entry(2).of(&web),
        entry(3).of(&web).on(one),
        entry(4).of(&batch).on(two),
        entry(5).on(one),
        entry(6).of(&web).on(one),
    ];
    store.append(entries).await.expect("append");
    for after in [None, Some(0)] {
        let by = |pool: Option<&_>, instance, limit| JournalQuery {
            after,
            pool: pool.cloned(),
            instance,
            limit,
        };
        assert_eq!(read(store, by(Some(&web), None, 100)).await, [2, 3, 6]);
        assert_eq!(read(store, by(None, Some(one), 100)).await, [3, 5, 6]);
        assert_eq!(read(store, by(Some(&web), Some(one), 100)).await, [3, 6]);
        assert!(read(store, by(Some(&batch), Some(one), 100)).await.is_empty());
        assert!(read(store, by(Some(&name("Web")), None, 100)).await.is_empty());
        let limited = read(store, by(Some(&web), None, 2)).await;
        assert_eq!(limited, if after.is_none() { [3, 6] } else { [2, 3] });
    }
}

pub(super) async fn what_is_written_is_what_is_read(store: &dyn Store) {
    let moved = Event::Moved {
        from: State::Running,
        to: State::Terminating,
        why: None,
        fault: Some(Fault::new("worker-failed", "it said 'ä\u{0}\"🦀'")),
    };
    let mut written = vec![
        Entry::new(Timestamp::NEVER, "an operator".to_owned(), moved)
            .of(&name("web"))
            .on(instance_id(1)),
        Entry::new(Timestamp::START, "store", Event::Stopped),
        Entry::new(Timestamp(-1), "", Event::Started { version: String::new() }),
    ];
    // The number is the store's to give.
    written[1].sequence = 12_345;
    store.append(written.clone()).await.expect("append");
    let read = store.journal(page(Some(0), 10)).await.expect("journal");
    for (written, read) in written.iter_mut().zip(&read) {
        written.sequence = read.sequence;
    }
    assert_eq!(read, written);
    assert!(read[0].sequence > 0 && read[2].sequence < 12_345);
}

pub(super) async fn retiring_takes_the_oldest_and_no_more_than_told(store: &dyn Store) {
    // One launch an instance; ended at 100, 200, 300, 400, written in another order.
    for n in [3, 1, 4, 2] {
        let at = i64::try_from(n).expect("small") * 100;
        let (asked, one) = (launch(n, &[10 + n], at), instance(10 + n, n, at));
        store
            .record_launch(&asked, std::slice::from_ref(&one), vec![entry(at)], &[])
            .await
            .expect("a launch");
        let commit = ProvisionCommit {
            term: None,
            also: Vec::new(),
            instances: vec![moved(&one, State::Terminated, at)],
            launches: vec![done(asked)],
            journal: Vec::new(),
        };
        store.commit_provision(commit).await.expect("it ends");
    }
    assert_eq!(
        store.retire(Timestamp(100), 10).await.expect("retire"),
        0,
        "at the very time is not before"
    );
    assert_eq!(store.retire(Timestamp(400), 0).await.expect("retire"), 0);
    let gone = store.retire(Timestamp(400), 2).await.expect("retire");
    assert_eq!(gone, 6, "two instances, two launches, two entries");
    assert_eq!(events(store).await, [300, 400]);
    let left: Vec<_> = store.instances(false).await.expect("instances").iter().map(|i| i.id).collect();
    assert_eq!(left, [instance_id(13), instance_id(14)]);
    for (n, there) in [(1, false), (2, false), (3, true), (4, true)] {
        let found = store.launch(launch_id(n)).await.expect("launch");
        assert_eq!(found.is_some(), there, "launch {n}");
    }
    assert_eq!(store.retire(Timestamp(400), 2).await.expect("retire"), 3, "the rest from before");
    assert_eq!(store.retire(Timestamp(400), 2).await.expect("retire"), 0);
    let size = store.size().await.expect("size");
    assert_eq!((size.instances, size.journal), (1, 1));
}

pub(super) async fn retiring_keeps_what_is_needed(store: &dyn Store) {
    // Launch 1: one ended, one live. Launch 2: both ended, one of them lately. Launch 3: ended, nobody knows its outcome.
    let ends = [
        (1, 11, State::Terminated, 5),
        (1, 12, State::Running, 5),
        (2, 21, State::Failed, 5),
        (2, 22, State::Terminated, 1_000),
        (3, 31, State::Rejected, 5),
    ];
    for (n, with_outcome) in [(1, true), (2, true), (3, false)] {
        let of_it = ends.iter().filter(|(of, ..)| *of == n);
        let requested: Vec<_> = of_it.clone().map(|(_, id, ..)| instance(*id, n, 1)).collect();
        let asked = launch(n, &[], 1);
        store.record_launch(&asked, &requested, Vec::new(), &[]).await.expect("a launch");
        let later = requested.iter().zip(of_it).map(|(one, (_, _, state, at))| moved(one, *state, *at));
        let commit = ProvisionCommit {
            term: None,
            also: Vec::new(),
            instances: later.collect(),
            launches: if with_outcome { vec![done(asked)] } else { Vec::new() },
            journal: Vec::new(),
        };
        store.commit_provision(commit).await.expect("it goes on");
    }
    assert_eq!(store.retire(Timestamp(500), 100).await.expect("retire"), 3, "three ended before");
    let left: Vec<_> = store.instances(false).await.expect("instances").iter().map(|i| i.id).collect();
    assert_eq!(left, [instance_id(12), instance_id(22)]);
    for n in 1..=3 {
        assert!(store.launch(launch_id(n)).await.expect("launch").is_some(), "launch {n} is needed");
    }
    assert_eq!(
        store.retire(Timestamp(2_000), 100).await.expect("retire"),
        2,
        "the last of launch 2, and launch 2"
    );
    assert!(
        store.launch(launch_id(1)).await.expect("launch").is_some(),
        "a live instance's launch"
    );
    assert!(store.launch(launch_id(2)).await.expect("launch").is_none());
    assert!(store.launch(launch_id(3)).await.expect("launch").is_some(), "no outcome yet");
}

pub(super) async fn a_number_is_never_given_twice(store: &dyn Store) {
    store.append(vec![entry(1), entry(2)]).await.expect("append");
    let before = store.journal(page(None, 1)).await.expect("journal");
    assert_eq!(store.retire(Timestamp(100), 100).await.expect("retire"), 2);
    assert!(events(store).await.is_empty());
    store.append(vec![entry(3)]).await.expect("append");
    let after = store.journal(page(Some(before[0].sequence), 10)).await.expect("journal");
    assert_eq!(after.len(), 1, "a reader that remembers a number misses what came after");
}
