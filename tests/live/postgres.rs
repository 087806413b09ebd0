//! The store in a real PostgreSQL: the one contract, and what happens when the server, the way to it, or its room goes.

mod moving;
mod racing;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use epu_core::code::Chain;
use epu_core::life::State;
use epu_core::secret::SecretUrl;
use epu_core::time::{Clock as _, SystemClock};
use epu_store::contract::samples::{entry, events, instance, instance_id, launch, launch_id, moved};
use epu_store::{Error, PgSettings, PgStore, ProvisionCommit, Store, contract};
use epu_tests::postgres::{Postgres, Room};
use epu_tests::wait;
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
    let connect = || {
        let settings = settings.clone();
        tokio::spawn(async move { PgStore::connect(&settings).await })
    };
    for done in [(); 6].map(|()| connect()) {
        done.await.unwrap().unwrap();
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
        let clock = SystemClock::start();
        let begun = clock.now();
        let error = PgStore::connect(&PgSettings::new(SecretUrl::new(url))).await.unwrap_err();
        let said = format!("{}\n{error:?}", Chain(&error));
        assert!(said.contains(why), "{said}");
        assert!(!said.contains("wrong-word") && !said.contains("only-for-tests"), "{said}");
        assert!(clock.now().since(begun) < ANSWERED, "{:?}", clock.now().since(begun));
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
        let clock = SystemClock::start();
        let begun = clock.now();
        let error = store.append(vec![entry(-1)]).await.expect_err("nobody is there");
        let said = Chain(&error).to_string();
        assert!(
            said.contains("connected to again by itself") || said.contains("tried again by itself"),
            "{said}"
        );
        assert!(clock.now().since(begun) < ANSWERED, "{:?}", clock.now().since(begun));
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
    let clock = SystemClock::start();
    let begun = clock.now();
    let (read, written) = tokio::join!(store.pools(), store.append(vec![entry(2)]));
    let took = clock.now().since(begun);
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
    let clock = SystemClock::start();
    let begun = clock.now();
    let error = round(&store, 2).await.expect_err("it is locked");
    assert!(clock.now().since(begun) < ANSWERED, "{:?}", clock.now().since(begun));
    assert!(Chain(&error).to_string().contains("something held a lock"), "{}", Chain(&error));
    store.append(vec![entry(50)]).await.expect("what is not locked is written");
    other.execute("ROLLBACK").await.unwrap();
    round(&store, 2).await.expect("then it is written");
}

/// A file system of few megabytes where that can be made, which takes root; and everywhere the most that the server may write into
/// one file, which to the server is the same: it could write a part, and the rest found no room.
#[tokio::test]
async fn no_room_is_named_loses_nothing_and_passes() {
    full(Room::EachFile(6 << 20), "", "DELETE FROM journal WHERE at = -7").await;
    if rustix::process::geteuid().is_root() {
        let filler = "CREATE TABLE filler (x TEXT); ALTER TABLE filler ALTER COLUMN x SET STORAGE PLAIN";
        full(Room::Megabytes(90), filler, "DROP TABLE filler").await;
    }
}

async fn full(room: Room, filler: &str, empty: &str) {
    let server = Postgres::start_with(room).await.unwrap();
    let (store, database) = new_store(&server).await;
    for n in 0..5 {
        round(&store, n).await.unwrap();
    }
    if filler.is_empty() {
        for entries in [500, 50, 5, 1] {
            // Each fails at last, and leaves less room than one of it.
            while store.append((0..entries).map(|_| entry(-7)).collect()).await.is_ok() {}
        }
    } else {
        server.execute(&database, filler).await.unwrap();
        for rows in [1_000, 100, 10, 1] {
            let more = format!("INSERT INTO filler SELECT repeat('x', 7000) FROM generate_series(1, {rows})");
            while server.execute(&database, &more).await.is_ok() {}
        }
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
    assert!(said.contains("no room is left on the server"), "{room:?}: {said}");
    assert!(said.contains("it goes on by itself"), "{room:?}: {said}");
    store.pools().await.expect("reading goes on");
    let journal: BTreeSet<i64> = events(&store).await.into_iter().collect();
    for round in 0..=n {
        let steps = came(&store, round, &journal).await;
        assert!(round == n || steps == 2, "{room:?}: round {round} was acknowledged and is lost");
    }
    server.execute(&database, empty).await.unwrap();
    server.execute(&database, "VACUUM").await.unwrap();
    round(&store, n + 1).await.expect("there is room again");
}
