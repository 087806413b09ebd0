//! Several processes on one database: who may write, and in which order it becomes visible.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use epu_core::code::Chain;
use epu_core::journal::{Entry, Event};
use epu_core::lease::{Domain, LeaseAsk, Member, Term};
use epu_core::request::Service;
use epu_core::time::{Clock as _, Span, SystemClock, Timestamp};
use epu_store::contract::samples::{entry, events, instance, launch};
use epu_store::{Error, JournalQuery, PgStore, ProvisionCommit, Store};
use epu_tests::postgres::Postgres;
use sqlx::Executor as _;

use super::{new_store, settings};

/// Readers page with the last number they saw: nothing may come below it later.
#[tokio::test]
async fn the_journal_becomes_visible_in_the_order_of_its_numbers() {
    let server = Postgres::shared().await.unwrap();
    let (store, database) = new_store(&server).await;
    let store = Arc::new(store);
    // Two processes, since one's connections could take turns by themselves.
    let beside = Arc::new(super::store(&server, &database).await);
    let writers: Vec<_> = (0..8)
        .map(|writer: i64| {
            let store = Arc::clone(if writer % 2 == 0 { &store } else { &beside });
            tokio::spawn(async move {
                for n in 0..50 {
                    let some = (0..=n % 3).map(|_| entry(writer * 1_000 + n)).collect();
                    store.append(some).await.unwrap();
                }
            })
        })
        .collect();
    let mut seen = Vec::new();
    let mut after = 0;
    loop {
        let ended = writers.iter().all(tokio::task::JoinHandle::is_finished);
        let query = JournalQuery {
            after: Some(after),
            limit: 7,
            ..JournalQuery::default()
        };
        let page = store.journal(query).await.unwrap();
        if page.is_empty() && ended {
            break;
        }
        after = page.last().map_or(after, |entry| entry.sequence);
        seen.extend(page.iter().map(|entry| entry.at.0));
    }
    let all = events(&*store).await;
    assert_eq!(seen, all, "paging missed something");
    let expected: i64 = (0..50).map(|n| n % 3 + 1).sum::<i64>() * 8;
    assert_eq!(i64::try_from(all.len()).unwrap(), expected);
}

/// Eight processes race for all shards, with stalls longer than a lease. What each writes under a term it writes with its name.
#[tokio::test]
async fn of_eight_that_race_no_two_ever_have_one_epoch_and_nobody_writes_after_its_term() {
    let server = Postgres::shared().await.unwrap();
    let (store, database) = new_store(&server).await;
    let held: Arc<Mutex<BTreeMap<(String, u64), String>>> = Arc::default();
    let mut racers = Vec::new();
    for racer in 0..8 {
        let mut settings = settings(&server, &database);
        settings.connections = 2;
        let mine = PgStore::connect(&settings).await.unwrap();
        let held = Arc::clone(&held);
        racers.push(tokio::spawn(async move {
            let me = format!("racer-{racer}");
            let mut written = 0;
            for turn in 0..25_u64 {
                let ask = LeaseAsk {
                    member: Member {
                        name: me.clone(),
                        service: Service::Controller,
                        url: None,
                        since: Timestamp(0),
                    },
                    want: Domain::all(Service::Controller)
                        .into_iter()
                        .filter(|_| fastrand::u8(0..4) > 0)
                        .collect(),
                    lasts: Span::millis(250),
                };
                let standing = mine.lease(ask).await.unwrap();
                let mut terms = Vec::new();
                for lease in standing.leases.iter().filter(|lease| lease.holder.as_deref() == Some(&me)) {
                    let key = (lease.name.to_string(), lease.epoch);
                    let before = held.lock().unwrap().insert(key, me.clone());
                    assert!(
                        before.as_ref().is_none_or(|before| *before == me),
                        "{} at epoch {}: {before:?} and {me}",
                        lease.name,
                        lease.epoch
                    );
                    terms.push(Term {
                        domain: Domain::named(&lease.name).unwrap(),
                        epoch: lease.epoch,
                    });
                }
                tokio::time::sleep(Duration::from_millis(fastrand::u64(0..400))).await;
                for term in terms.into_iter().take(5) {
                    let says = Entry::new(Timestamp(i64::try_from(turn).unwrap()), format!("{me} {term}"), Event::Opened);
                    let commit = ProvisionCommit {
                        term: Some(term),
                        journal: vec![says],
                        ..ProvisionCommit::default()
                    };
                    match mine.commit_provision(commit).await {
                        Ok(()) => written += 1,
                        Err(Error::Deposed(over)) => assert_eq!(over, term),
                        Err(error) => panic!("{}", Chain(&error)),
                    }
                }
            }
            written
        }));
    }
    let mut written = 0;
    for racer in racers {
        written += racer.await.unwrap();
    }
    let asked = JournalQuery {
        after: Some(0),
        limit: 100_000,
        ..JournalQuery::default()
    };
    let journal = store.journal(asked).await.unwrap();
    assert!(
        written > 50 && journal.len() == written,
        "{written} were written, {} are there",
        journal.len()
    );
    let mut newest: BTreeMap<String, (u64, String)> = BTreeMap::new();
    for entry in journal {
        let (me, term) = entry.who.split_once(' ').unwrap();
        let (domain, epoch) = term.split_once(" at epoch ").unwrap();
        let (epoch, before) = (epoch.parse::<u64>().unwrap(), newest.get(domain));
        if let Some((newest, holder)) = before {
            assert!(
                epoch > *newest || (epoch == *newest && holder == me),
                "{} came after epoch {newest} of {holder}",
                entry.who
            );
        }
        newest.insert(domain.to_owned(), (epoch, me.to_owned()));
    }
    assert!(newest.values().any(|(epoch, _)| *epoch > 1), "no lease ever moved");
}

#[tokio::test]
async fn a_thousand_instances_are_one_launch_in_well_under_a_second() {
    let server = Postgres::shared().await.unwrap();
    let (store, _) = new_store(&server).await;
    let ids: Vec<u64> = (0..1_000).collect();
    let new: Vec<_> = ids.iter().map(|n| instance(*n, 1, 5)).collect();
    let journal = new.iter().map(|one| entry(1).on(one.id)).collect();
    let clock = SystemClock::start();
    let begun = clock.now();
    store.record_launch(&launch(1, &ids, 5), &new, journal, &[]).await.unwrap();
    let took = clock.now().since(begun);
    assert!(
        took < Duration::from_secs(2),
        "{took:?}, also on a busy machine and without optimisation"
    );
}

/// Held up by somebody else's lock, a write is in the middle for as long as a test likes.
#[tokio::test]
async fn a_takeover_and_a_teardown_come_before_or_after_a_write_and_never_in_the_middle() {
    let server = Postgres::shared().await.unwrap();
    let (store, database) = new_store(&server).await;
    let (store, other) = (Arc::new(store), super::store(&server, &database).await);
    let ask = |name: &str, lasts: Span| LeaseAsk {
        member: Member {
            name: name.to_owned(),
            service: Service::Provisioner,
            url: None,
            since: Timestamp(0),
        },
        want: [Domain::Provisioner].into(),
        lasts,
    };
    let soon = Duration::from_millis(700);
    store
        .record_launch(&launch(1, &[1], 5), &[instance(1, 1, 5)], Vec::new(), &[])
        .await
        .unwrap();
    store.lease(ask("first", Span::millis(100))).await.unwrap();
    let term = Term {
        domain: Domain::Provisioner,
        epoch: 1,
    };

    // Between looking at its term and its commit, the first waits for the launch's row. Its lease runs out meanwhile.
    let mut holdup = server.connect(&database).await.unwrap();
    holdup.execute("BEGIN; UPDATE launches SET done = done").await.unwrap();
    let commit = ProvisionCommit {
        term: Some(term),
        launches: vec![launch(1, &[1], 5)],
        journal: vec![entry(1)],
        ..ProvisionCommit::default()
    };
    let writing = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.commit_provision(commit).await }
    });
    tokio::time::sleep(soon).await;
    let takeover = other.lease(ask("second", Span::secs(60)));
    tokio::pin!(takeover);
    let early = tokio::time::timeout(soon, &mut takeover).await;
    assert!(
        early.is_err() && !writing.is_finished(),
        "a lease was taken over in the middle of a write: {early:?}"
    );
    holdup.execute("COMMIT").await.unwrap();
    writing
        .await
        .unwrap()
        .expect("it began under a term that stood, and ends before the next");
    let standing = takeover.await.unwrap();
    assert_eq!(standing.leader(Domain::Provisioner), Some("second"));
    let late = ProvisionCommit {
        term: Some(term),
        ..ProvisionCommit::default()
    };
    assert!(matches!(store.commit_provision(late).await, Err(Error::Deposed(_))));

    // The same with a launch that is being recorded while the installation is closed.
    holdup.execute("BEGIN").await.unwrap();
    let taken = format!(
        "INSERT INTO instances VALUES ('{}', 'x', 1, '200-REQUESTED', 0, '')",
        instance(2, 2, 5).id
    );
    holdup.execute(sqlx::AssertSqlSafe(taken)).await.unwrap();
    let recording = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            store
                .record_launch(&launch(2, &[2], 5), &[instance(2, 2, 5)], Vec::new(), &[])
                .await
        }
    });
    tokio::time::sleep(soon).await;
    let closing = other.set_closed(true, None, Vec::new());
    tokio::pin!(closing);
    let early = tokio::time::timeout(soon, &mut closing).await;
    assert!(
        early.is_err() && !recording.is_finished(),
        "closed in the middle of a launch: {early:?}"
    );
    holdup.execute("ROLLBACK").await.unwrap();
    assert!(
        recording.await.unwrap().unwrap(),
        "it was recorded before the installation was closed"
    );
    closing.await.unwrap();
    let refused = store
        .record_launch(&launch(3, &[3], 5), &[instance(3, 3, 5)], Vec::new(), &[])
        .await;
    assert!(matches!(refused, Err(Error::Closed)), "{refused:?}");
}
