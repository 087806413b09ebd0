//! The store in a real PostgreSQL: the one contract, and what happens when the server, the way to it, or its room goes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use epu_core::code::Chain;
use epu_core::journal::{Entry, Event};
use epu_core::lease::{Domain, LeaseAsk, Member, Term};
use epu_core::life::State;
use epu_core::request::Service;
use epu_core::secret::SecretUrl;
use epu_core::time::{Span, Timestamp};
use epu_store::contract::filled::{everything, fill};
use epu_store::contract::samples::{entry, events, instance, instance_id, launch, launch_id, moved};
use epu_store::portable::{Imported, check, export, import};
use epu_store::{AnyStore, Error, JournalQuery, PgSettings, PgStore, Place, ProvisionCommit, Store, contract};
use epu_tests::postgres::{Postgres, Room};
use epu_tests::{process, wait};
use sqlx::{Connection as _, Executor as _};

/// What a caller may be kept waiting by a server that does not answer.
const ANSWERED: Duration = Duration::from_secs(12);
/// What going on again may take once the server is there.
const AGAIN: Duration = Duration::from_secs(20);

fn settings(server: &Postgres, database: &str) -> PgSettings {
    PgSettings::new(SecretUrl::new(server.url(database)))
}

async fn store(server: &Postgres, database: &str) -> PgStore {
    PgStore::connect(&settings(server, database)).await.unwrap()
}

async fn new_store(server: &Postgres) -> (PgStore, String) {
    let database = server.database().await.unwrap();
    (store(server, &database).await, database)
}

/// A round of writes that belong together: a launch with three instances, then all of them moved on; each with a journal entry.
async fn round(store: &dyn Store, n: u64) -> Result<(), Error> {
    let members: Vec<u64> = (3 * n..3 * n + 3).collect();
    let at = i64::try_from(n).unwrap();
    let new: Vec<_> = members.iter().map(|member| instance(*member, n, at)).collect();
    store
        .record_launch(&launch(n, &members, at), &new, vec![entry(2 * at)], &[])
        .await?;
    let commit = ProvisionCommit {
        instances: new.iter().map(|one| moved(one, State::Running, at)).collect(),
        journal: vec![entry(2 * at + 1)],
        ..ProvisionCommit::default()
    };
    store.commit_provision(commit).await
}

/// How far a round came; panics when a part of it is there by half.
async fn came(store: &dyn Store, n: u64, journal: &BTreeSet<i64>) -> u64 {
    let at = i64::try_from(n).unwrap();
    let steps = u64::from(journal.contains(&(2 * at))) + u64::from(journal.contains(&(2 * at + 1)));
    let recorded = store.launch(launch_id(n)).await.unwrap().is_some();
    assert_eq!(recorded, steps > 0, "launch {n} and its journal entry");
    for member in 3 * n..3 * n + 3 {
        let version = store.instance(instance_id(member)).await.unwrap().map_or(0, |one| one.version);
        assert_eq!(version, steps, "instance {member} of launch {n} and the journal");
    }
    steps
}

#[tokio::test]
async fn it_holds_what_every_store_must() {
    let server = Postgres::shared().await.unwrap();
    contract::holds_with_time(async || new_store(&server).await.0, tokio::time::sleep).await;
}

#[tokio::test]
async fn several_that_start_at_once_migrate_one_after_the_other() {
    let server = Postgres::shared().await.unwrap();
    let database = server.database().await.unwrap();
    let settings = settings(&server, &database);
    let all = [(); 6].map(|()| PgStore::connect(&settings));
    for done in futures_of(all).await {
        done.unwrap();
    }
    let added = "CREATE TABLE of_a_later_release (x TEXT); ALTER TABLE instances ADD COLUMN later TEXT NOT NULL DEFAULT ''; \
         INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (999, 'added', TRUE, 'x', 0)";
    server.execute(&database, added).await.unwrap();
    let store = PgStore::connect(&settings)
        .await
        .expect("what a later release added does not matter");
    round(&store, 1).await.unwrap();
    let changed =
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (1000, 'changed', TRUE, 'x', 0)";
    server.execute(&database, changed).await.unwrap();
    let said = Chain(&PgStore::connect(&settings).await.unwrap_err()).to_string();
    assert!(
        said.contains("was made by another release; use that release or a newer one"),
        "{said}"
    );
}

/// All at once, on one task.
async fn futures_of<T, const N: usize>(all: [impl Future<Output = T>; N]) -> Vec<T> {
    let mut all: Vec<_> = all.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<T>> = (0..N).map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, done) in all.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *done = Some(value);
            }
        }
        if done.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test]
async fn what_cannot_be_reached_is_said_without_the_password() {
    let server = Postgres::shared().await.unwrap();
    let good = server.url("postgres");
    let cases = [
        (
            good.replace("only-for-tests", "wrong-word"),
            "does not let us in; correct user and password",
        ),
        (server.url("nowhere"), "there is no database 127.0.0.1:"),
        (format!("{good}?sslmode=require"), "no trusted connection"),
        (
            "postgres://epu:wrong-word@127.0.0.1:9/epu".to_owned(),
            "no connection to the database 127.0.0.1:9/epu",
        ),
    ];
    for (url, why) in cases {
        let begun = Instant::now();
        let error = PgStore::connect(&PgSettings::new(SecretUrl::new(url))).await.unwrap_err();
        let said = format!("{}\n{error:?}", Chain(&error));
        assert!(said.contains(why), "{said}");
        assert!(!said.contains("wrong-word") && !said.contains("only-for-tests"), "{said}");
        assert!(begun.elapsed() < ANSWERED, "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn connections_that_are_cut_in_the_middle_leave_nothing_by_half() {
    let server = Postgres::shared().await.unwrap();
    let (store, database) = new_store(&server).await;
    let store = Arc::new(store);
    let said: Arc<Mutex<BTreeMap<u64, bool>>> = Arc::default();
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (store, said) = (Arc::clone(&store), Arc::clone(&said));
            tokio::spawn(async move {
                for n in (0..60).map(|n| n * 4 + writer) {
                    let done = round(&*store, n).await;
                    said.lock().unwrap().insert(n, done.is_ok());
                }
            })
        })
        .collect();
    let mut cuts = 0;
    while writers.iter().any(|writer| !writer.is_finished()) {
        server.cut(&database).await.unwrap();
        cuts += 1;
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let journal: BTreeSet<i64> = events(&*store).await.into_iter().collect();
    let said = said.lock().unwrap().clone();
    let good = said.values().filter(|good| **good).count();
    assert!(cuts > 5 && good > 0, "{cuts} cuts, {good} rounds were done");
    for (n, good) in said {
        let steps = came(&*store, n, &journal).await;
        assert!(
            !good || steps == 2,
            "round {n} was acknowledged, and {steps} of 2 parts of it are there"
        );
    }
    round(&*store, 1_000).await.expect("it goes on by itself");
}

#[tokio::test]
async fn a_server_that_is_killed_pauses_work_and_loses_nothing() {
    let mut server = Postgres::start().await.unwrap();
    let (store, _) = new_store(&server).await;
    let mut acknowledged = BTreeSet::new();
    let mut n = 0;
    for _ in 0..2 {
        let before = n + 20;
        while n < before {
            round(&store, n).await.unwrap();
            acknowledged.insert(n);
            n += 1;
        }
        // Killed while something is written.
        let (done, ()) = tokio::join!(round(&store, n), async {
            tokio::time::sleep(Duration::from_millis(2)).await;
            server.kill9();
        });
        if done.is_ok() {
            acknowledged.insert(n);
        }
        n += 1;
        let begun = Instant::now();
        let error = store.append(vec![entry(-1)]).await.expect_err("nobody is there");
        let said = Chain(&error).to_string();
        assert!(
            said.contains("connected to again by itself") || said.contains("tried again by itself"),
            "{said}"
        );
        assert!(begun.elapsed() < ANSWERED, "{:?}", begun.elapsed());
        server.restart().await.unwrap();
        let again = wait::until(AGAIN, "the store works again", async || store.check().await).await;
        again.unwrap();
    }
    let journal: BTreeSet<i64> = events(&store).await.into_iter().collect();
    for round in 0..n {
        let steps = came(&store, round, &journal).await;
        assert!(
            !acknowledged.contains(&round) || steps == 2,
            "round {round} was acknowledged and is lost"
        );
    }
}

#[tokio::test]
async fn a_server_that_hangs_becomes_an_error_and_then_work_goes_on() {
    let server = Postgres::start().await.unwrap();
    let (store, _) = new_store(&server).await;
    let all = async || {
        let reads = tokio::join!(store.pools(), store.instances(true), store.standing());
        let writes = tokio::join!(store.append(vec![entry(1)]), round(&store, 7), store.check());
        [
            reads.0.err(),
            reads.1.err(),
            reads.2.err(),
            writes.0.err(),
            writes.1.err(),
            writes.2.err(),
        ]
    };
    assert!(all().await.iter().all(Option::is_none));
    server.freeze();
    let begun = Instant::now();
    let (read, written) = tokio::join!(store.pools(), store.append(vec![entry(2)]));
    let took = begun.elapsed();
    let said = Chain(&written.expect_err("it was written")).to_string();
    assert!(said.contains("by itself"), "{said}");
    read.expect_err("it was read");
    assert!(took < ANSWERED, "{took:?}");
    server.thaw();
    let again = wait::until(AGAIN, "the store works again", async || store.append(vec![entry(3)]).await).await;
    again.unwrap();
    assert!(events(&store).await.contains(&3));
}

#[tokio::test]
async fn a_deadlock_and_a_failed_serialization_are_tried_again() {
    let server = Postgres::shared().await.unwrap();
    let (store, database) = new_store(&server).await;
    round(&store, 1).await.unwrap();
    let one = store.instance(instance_id(3)).await.unwrap().unwrap();
    let change = || ProvisionCommit {
        instances: vec![moved(&Arc::new(one.clone()), State::Terminating, 9)],
        launches: vec![launch(1, &[3], 1)],
        journal: vec![entry(100)],
        ..ProvisionCommit::default()
    };
    // Somebody has the launch and then wants the instance, which the store has as it wants the launch: a circle.
    let mut other = server.connect(&database).await.unwrap();
    other.execute("BEGIN").await.unwrap();
    other
        .execute(sqlx::AssertSqlSafe(format!(
            "UPDATE launches SET done = done WHERE id = '{}'",
            launch_id(1)
        )))
        .await
        .unwrap();
    let (done, ()) = tokio::join!(store.commit_provision(change()), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let wanted = format!("UPDATE instances SET state = state WHERE id = '{}'", instance_id(3));
        other.execute(sqlx::AssertSqlSafe(wanted)).await.expect("the store gives way");
        other.execute("COMMIT").await.unwrap();
    });
    done.expect("it is done once the other is");
    other.close().await.unwrap();
    let now = store.instance(instance_id(3)).await.unwrap().unwrap();
    assert_eq!((now.version, now.state), (one.version + 1, State::Terminating));
    assert_eq!(events(&store).await.iter().filter(|at| **at == 100).count(), 1, "it was done twice");

    let fails = "CREATE SEQUENCE tries; CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF nextval('tries') <= 2 THEN RAISE EXCEPTION 'not now' USING ERRCODE = '40001'; END IF; RETURN NEW; END $$; \
         CREATE TRIGGER refuse BEFORE INSERT ON journal FOR EACH ROW EXECUTE FUNCTION refuse()";
    server.execute(&database, fails).await.unwrap();
    round(&store, 2).await.expect("the third try is good");
    server
        .execute(&database, "ALTER SEQUENCE tries MINVALUE -1000 RESTART WITH -1000")
        .await
        .unwrap();
    let error = round(&store, 3).await.expect_err("it is not tried for ever");
    assert!(Chain(&error).to_string().contains("others changed the same"), "{}", Chain(&error));
    assert!(
        store.launch(launch_id(3)).await.unwrap().is_none(),
        "what was given up left something"
    );
}

#[tokio::test]
async fn what_somebody_keeps_locked_is_given_up_and_others_go_on() {
    let server = Postgres::shared().await.unwrap();
    let (store, database) = new_store(&server).await;
    round(&store, 1).await.unwrap();
    let mut other = server.connect(&database).await.unwrap();
    other.execute("BEGIN; LOCK TABLE instances IN EXCLUSIVE MODE").await.unwrap();
    let begun = Instant::now();
    let error = round(&store, 2).await.expect_err("it is locked");
    assert!(begun.elapsed() < ANSWERED, "{:?}", begun.elapsed());
    assert!(Chain(&error).to_string().contains("something held a lock"), "{}", Chain(&error));
    store.append(vec![entry(50)]).await.expect("what is not locked is written");
    other.execute("ROLLBACK").await.unwrap();
    round(&store, 2).await.expect("then it is written");
}

/// Readers page with the last number they saw: nothing may come below it later.
#[tokio::test]
async fn the_journal_becomes_visible_in_the_order_of_its_numbers() {
    let server = Postgres::shared().await.unwrap();
    let (store, database) = new_store(&server).await;
    let store = Arc::new(store);
    // Two processes, since one's connections could take turns by themselves.
    let beside = Arc::new(self::store(&server, &database).await);
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

#[tokio::test]
async fn no_room_is_named_loses_nothing_and_passes() {
    // Another way to run out of room needs no rights: the most that the server may write into one file.
    assert!(
        rustix::process::geteuid().is_root(),
        "making a file system of a few megabytes takes root, as in tests/run on CI"
    );
    let server = Postgres::start_with(Room::Megabytes(90)).await.unwrap();
    let (store, database) = new_store(&server).await;
    for n in 0..5 {
        round(&store, n).await.unwrap();
    }
    let filler = "CREATE TABLE filler AS SELECT 1 AS x; ALTER TABLE filler ALTER COLUMN x TYPE TEXT; ALTER TABLE filler ALTER COLUMN x SET STORAGE PLAIN";
    server.execute(&database, filler).await.unwrap();
    for chunk in [1_000, 100, 10, 1] {
        // Each fails at last, and leaves less room than one of it.
        let more = format!("INSERT INTO filler SELECT repeat('x', 7000) FROM generate_series(1, {chunk})");
        while server.execute(&database, &more).await.is_ok() {}
    }
    let mut n = 5;
    let error = loop {
        match round(&store, n).await {
            Ok(()) => n += 1,
            Err(error) => break error,
        }
        assert!(n < 20_000, "there is room for ever");
    };
    let said = Chain(&error).to_string();
    assert!(
        said.contains("no room is left on the server") && said.contains("it goes on by itself"),
        "{said}"
    );
    store.pools().await.expect("reading goes on");
    let journal: BTreeSet<i64> = events(&store).await.into_iter().collect();
    for round in 0..=n {
        let steps = came(&store, round, &journal).await;
        assert!(round == n || steps == 2, "round {round} was acknowledged and is lost");
    }
    server.execute(&database, "DROP TABLE filler").await.unwrap();
    round(&store, n + 1).await.expect("there is room again");
}

#[tokio::test]
async fn an_installation_moves_from_sqlite_to_postgresql_and_back() {
    let server = Postgres::shared().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let now = Timestamp(1_700_000_000_000);
    let (first, _) = AnyStore::open(Place::Directory(&dir.path().join("first"))).await.unwrap();
    fill(first.records()).await.unwrap();
    let there = everything(first.records()).await.unwrap();
    let file = dir.path().join("moving");
    let written = export(&first, &file, now, false).await.unwrap();

    let database = server.database().await.unwrap();
    let settings = settings(&server, &database);
    let (second, migrated) = AnyStore::open(Place::Database(&settings)).await.unwrap();
    assert_eq!((migrated.from, migrated.to), (0, 2));
    assert_eq!(import(&second, &file).await.unwrap(), Imported::Done(written.clone()));
    assert!(everything(second.records()).await.unwrap() == there, "something did not arrive");
    assert!(matches!(import(&second, &file).await.unwrap(), Imported::NotEmpty(_)), "twice");
    let report = check(&second).await.unwrap();
    assert!(
        report.is_sound() && report.rows == written.rows && report.installation == "the one",
        "{report:?}"
    );

    let back = dir.path().join("back");
    export(&second, &back, now, false).await.unwrap();
    let lines = |path| -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        let mut lines: Vec<String> = text.lines().skip(1).map(str::to_owned).collect();
        lines.pop();
        lines
    };
    assert!(lines(&back) == lines(&file), "what comes back is not what went");
    let (third, _) = AnyStore::open(Place::Directory(&dir.path().join("third"))).await.unwrap();
    assert!(matches!(import(&third, &back).await.unwrap(), Imported::Done(_)));
    assert!(everything(third.records()).await.unwrap() == there, "something did not come back");
    // Numbers go on where they were, in both alike.
    let mut newest = Vec::new();
    for store in [&first, &second, &third] {
        store.records().append(vec![entry(1)]).await.unwrap();
        let asked = JournalQuery {
            limit: 1,
            ..JournalQuery::default()
        };
        newest.push(store.records().journal(asked).await.unwrap()[0].sequence);
    }
    assert_eq!(newest, [newest[0]; 3]);
}

/// With the program itself, as an operator does it.
#[tokio::test]
async fn the_program_moves_an_installation_into_a_database_and_checks_it() {
    let server = Postgres::shared().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (data, file) = (dir.path().join("data"), dir.path().join("moving"));
    let (first, _) = AnyStore::open(Place::Directory(&data)).await.unwrap();
    fill(first.records()).await.unwrap();
    let there = everything(first.records()).await.unwrap();
    let database = server.database().await.unwrap();
    let url = server.url(&database);
    let run = |words: &[&str]| {
        let mut all = vec!["store"];
        all.extend(words);
        let ended = process::run(&all, |command| {
            command.env("EPU_TESTS_DATABASE", &url);
        });
        let ended = ended.unwrap();
        let said = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
        assert!(!said.contains("only-for-tests"), "the password is in it: {said}");
        (ended.status.code(), said)
    };
    let (data, file) = (data.to_str().unwrap(), file.to_str().unwrap());
    let place = ["--postgres", "env:EPU_TESTS_DATABASE"];
    let with = |words: &[&str]| run(&[words, &place].concat());
    let (code, said) = with(&["check"]);
    assert!(code == Some(1) && said.contains("it has no tables yet"), "{code:?} {said}");
    // The store is in use meanwhile.
    let (code, said) = run(&["export", file, "--sqlite", data]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = with(&["migrate"]);
    assert!(code == Some(0) && said.contains("was made, with form 2"), "{code:?} {said}");
    let (code, said) = with(&["import", file]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = with(&["import", file]);
    assert!(code == Some(6) && said.contains("nothing was changed"), "{code:?} {said}");
    let (code, said) = with(&["check", "-o", "json"]);
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (code, &report["faults_total"], &report["writable"]),
        (Some(0), &0.into(), &true.into()),
        "{said}"
    );
    let moved = store(&server, &database).await;
    assert!(everything(&moved).await.unwrap() == there, "something did not arrive");
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
                    let key = (lease.name.clone(), lease.epoch);
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
    let begun = Instant::now();
    store.record_launch(&launch(1, &ids, 5), &new, journal, &[]).await.unwrap();
    let took = begun.elapsed();
    assert!(
        took < Duration::from_secs(2),
        "{took:?}, also on a busy machine and without optimisation"
    );
}
