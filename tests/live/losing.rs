//! Nothing that was acknowledged is lost: every kind of process, the broker and the database are killed at random moments under load,
//! and afterwards everything is checked from outside: the process table, the database, and what operators were told.
//!
//! `EPU_TESTS_SEED` repeats a run's choices (their timing is the machine's), `EPU_TESTS_LOSSES` makes it longer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use epu_core::request::{PoolChange, PoolFile, Request};
use epu_core::{InstanceId, PoolName};
use epu_tests::cluster::Cluster;
use epu_tests::processes::Proc;
use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection, Row as _};

use crate::pools::sleeping;

/// What is killed, each once in this many losses on average.
const PARTS: [&str; 8] = [
    "provisioner-1",
    "provisioner-2",
    "controller-1",
    "controller-2",
    "aggregator-1",
    "aggregator-2",
    "broker",
    "database",
];
const POOLS: [&str; 4] = ["alpha", "beta", "gamma", "delta"];

/// What operators asked for: the last size that was acknowledged, and those of which it is not known.
#[derive(Debug, Clone, Default)]
struct Wish {
    sure: u64,
    unsure: BTreeSet<u64>,
}

impl Wish {
    fn allows(&self, n: u64) -> bool {
        n == self.sure || self.unsure.contains(&n)
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_whatever_is_killed() {
    let seed = std::env::var("EPU_TESTS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    let losses: usize = std::env::var("EPU_TESTS_LOSSES").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    eprintln!("EPU_TESTS_SEED={seed} EPU_TESTS_LOSSES={losses}");
    let mut random = fastrand::Rng::with_seed(seed);

    let mut cluster = Cluster::of(2, 2, 2, "").await;
    cluster.add(&sleeping(&POOLS.map(|pool| (pool, 2))));
    cluster.until_running(8).await;
    let mut wishes: BTreeMap<String, Wish> = POOLS
        .iter()
        .map(|pool| {
            (
                (*pool).to_owned(),
                Wish {
                    sure: 2,
                    ..Wish::default()
                },
            )
        })
        .collect();

    for loss in 0..losses {
        let part = PARTS[random.usize(..PARTS.len())];
        load(&cluster, &mut random, &mut wishes, loss).await;
        eprintln!("loss {loss}: {part}");
        match part {
            "broker" => cluster.rabbit.kill9(),
            "database" => cluster.postgres.kill9(),
            process => cluster.kill9(process),
        }
        // Into the gap: nobody may be there to acknowledge, and what is not acknowledged may or may not be done.
        for _ in 0..random.usize(0..3) {
            tokio::time::sleep(Duration::from_millis(random.u64(0..1_500))).await;
            load(&cluster, &mut random, &mut wishes, loss).await;
        }
        match part {
            "broker" => cluster.rabbit.restart().await.unwrap(),
            "database" => cluster.postgres.restart().await.unwrap(),
            process => cluster.start_unready(process),
        }
        for name in PARTS.iter().take(6) {
            // A process that could not begin while broker or database were away has ended; a service manager starts it again.
            if !cluster.is_alive(name) {
                cluster.start_unready(name);
            }
        }
        tokio::time::sleep(Duration::from_millis(random.u64(0..2_000))).await;
    }
    for name in PARTS.iter().take(6) {
        if !cluster.is_alive(name) {
            cluster.start_unready(name);
        }
        cluster.until_ready(name).await;
    }
    check(&cluster, &wishes).await;
}

/// Operators change sizes and add pools; workers die.
async fn load(cluster: &Cluster, random: &mut fastrand::Rng, wishes: &mut BTreeMap<String, Wish>, loss: usize) {
    let names: Vec<String> = wishes.keys().cloned().collect();
    let pool = names[random.usize(..names.len())].clone();
    match random.u8(0..10) {
        0..6 => {
            let n = random.u64(1..5);
            let change = PoolChange {
                pool: PoolName::new(&pool).unwrap(),
                set: BTreeMap::from([("engine.keep.n".to_owned(), json!(n))]),
                template: None,
                if_revision: None,
            };
            let done = cluster.ask::<Value>(Request::PoolReconfigure(change)).await;
            let wish = wishes.get_mut(&pool).unwrap();
            match done {
                Ok(_) => {
                    *wish = Wish {
                        sure: n,
                        unsure: BTreeSet::new(),
                    }
                }
                Err(fault) if fault.code == "bad-request" => panic!("{fault}"),
                Err(_) => drop(wish.unsure.insert(n)),
            }
        }
        6 if wishes.len() < 8 => {
            let name = format!("added-{loss}-{}", random.u16(..));
            let file = PoolFile {
                file: "added".to_owned(),
                text: sleeping(&[(&name, 1)]),
            };
            // An addition that was not acknowledged is left out of account: it may be there or not.
            if cluster.ask::<Value>(Request::PoolAdd(file)).await.is_ok() {
                wishes.insert(
                    name,
                    Wish {
                        sure: 1,
                        ..Wish::default()
                    },
                );
            }
        }
        _ => {
            let workers: Vec<Proc> = cluster.workers().into_iter().collect();
            if !workers.is_empty() {
                workers[random.usize(..workers.len())].signal(Signal::KILL);
            }
        }
    }
}

async fn check(cluster: &Cluster, wishes: &BTreeMap<String, Wish>) {
    // Every pool is there with a size that somebody asked for last, and comes to it.
    let sizes = cluster
        .until("every pool has its size", async || {
            let pools: Vec<epu_core::request::PoolView> = cluster
                .ask(Request::PoolList(epu_core::request::Nothing {}))
                .await
                .map_err(|f| f.to_string())?;
            let mut sizes = BTreeMap::new();
            for (name, wish) in wishes {
                let view = pools
                    .iter()
                    .find(|view| view.pool.name.as_str() == name)
                    .ok_or_else(|| format!("pool {name} is lost"))?;
                let n = view.pool.spec.engine["keep"]["n"].as_u64().unwrap_or_default();
                assert!(wish.allows(n), "pool {name} keeps {n}, and {wish:?} was asked for");
                if u64::from(view.counts.live) != n || u64::from(view.counts.running) != n {
                    return Err(format!("pool {name}: {:?}, wanted {n}; {:?}", view.counts, view.concerns));
                }
                sizes.insert(name.clone(), n);
            }
            Ok(sizes)
        })
        .await;

    // The database: as many live records, each with a machine of its own; nothing is under way.
    let mut database = PgConnection::connect(&cluster.database_url()).await.unwrap();
    let (live, launches) = cluster
        .until("nothing is under way", async || {
            let rows = sqlx::query("SELECT body FROM instances WHERE state < '800'")
                .fetch_all(&mut database)
                .await
                .map_err(|e| e.to_string())?;
            let live: Vec<Value> = rows
                .iter()
                .map(|row| serde_json::from_str(row.get::<&str, _>(0)).unwrap())
                .collect();
            let count = async |database: &mut PgConnection, statement: &'static str| -> i64 {
                sqlx::query(statement).fetch_one(database).await.unwrap().get(0)
            };
            let waiting = count(&mut database, "SELECT count(*) FROM outbox").await;
            let undone = count(&mut database, "SELECT count(*) FROM launches WHERE NOT done").await;
            if waiting == 0 && undone == 0 {
                Ok((live, count(&mut database, "SELECT count(*) FROM launches").await))
            } else {
                Err(format!("{waiting} commands, {undone} launches"))
            }
        })
        .await;
    let machines: BTreeSet<&str> = live.iter().filter_map(|instance| instance["machine"].as_str()).collect();
    assert_eq!(
        machines.len(),
        live.len(),
        "two records have one machine, or one has none: {live:#?}"
    );
    assert!(launches > 0);
    for (pool, n) in &sizes {
        let of_pool = live.iter().filter(|instance| instance["pool"] == pool.as_str()).count();
        assert_eq!(of_pool as u64, *n, "records of {pool}");
    }

    // The process table: exactly one agent a record, none beside.
    let recorded: BTreeSet<InstanceId> = live
        .iter()
        .map(|instance| serde_json::from_value(instance["id"].clone()).unwrap())
        .collect();
    cluster
        .until("every machine has a record and every record its machine", async || {
            let mut running = Vec::new();
            for agent in cluster.agents() {
                running.extend(agent.variable("EPU_INSTANCE").and_then(|id| id.parse::<InstanceId>().ok()));
            }
            let distinct: BTreeSet<InstanceId> = running.iter().copied().collect();
            if distinct.len() == running.len() && distinct == recorded {
                Ok(())
            } else {
                Err(format!(
                    "{} agents of {} instances, {} records",
                    running.len(),
                    distinct.len(),
                    recorded.len()
                ))
            }
        })
        .await;

    // What must always be true was.
    for name in cluster.running() {
        let page = cluster.metrics(&name).await;
        let broken: Vec<&str> = page
            .lines()
            .filter(|line| line.starts_with("epu_invariant_violations_total") && !line.ends_with(" 0"))
            .collect();
        assert!(broken.is_empty(), "{name}: {broken:?}\n{}", cluster.logs());
    }
}
