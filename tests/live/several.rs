//! Several processes are one installation: over a real broker and a real database, operators reach all of it, and the loss of any
//! one process costs seconds and nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use epu_core::InstanceId;
use epu_core::lease::Domain;
use epu_core::request::InstanceView;
use epu_tests::cluster::Cluster;
use epu_tests::process::Running;
use epu_tests::wait::always;
use epu_tests::{Trouble, ports, web};
use rustix::process::Signal;

use crate::pools::sleeping;

#[path = "relay.rs"]
pub(crate) mod relay;

/// How long it may take until somebody else acts, with default settings.
const FAILOVER: Duration = Duration::from_secs(10);

fn ids(live: &[InstanceView]) -> BTreeSet<InstanceId> {
    live.iter().map(|view| view.instance.id).collect()
}

#[tokio::test]
async fn separate_services_keep_a_pool_and_operators_reach_them_over_the_broker() {
    let mut cluster = Cluster::of(1, 1, 1, "").await;
    cluster.add(&sleeping(&[("web", 2), ("mail", 1)]));
    let before = ids(&cluster.until_running(3).await);
    let status = cluster.does(&["status"]);
    for word in ["web", "mail", "all sites", "LEADS", "EPOCH"] {
        assert!(status.contains(word), "{word} is not in\n{status}");
    }
    let shown = cluster.json(&["pool", "show", "web"]);
    assert_eq!(shown["counts"]["running"], 2, "{shown}");
    cluster.does(&["pool", "pause", "web", "--why", "a look"]);
    cluster.does(&["pool", "resume", "web"]);
    let said = cluster.run(&["pool", "show", "webb"]);
    assert!(said.code != Some(0) && said.err.contains("webb"), "{said:?}");

    for name in cluster.running() {
        cluster.stop(&name).await;
    }
    always(Duration::from_secs(1), "workers live on when every service stops", async || {
        cluster.agents().len() == 3
    })
    .await;
    for name in ["provisioner-1", "controller-1", "aggregator-1"] {
        cluster.start(name).await;
    }
    assert_eq!(ids(&cluster.until_running(3).await), before, "the same instances");
    cluster.does(&["teardown", "--yes", "--force"]);
    cluster
        .until("nothing is left", async || match cluster.agents().len() {
            0 => Ok(()),
            some => Err(format!("{some} agents")),
        })
        .await;
}

#[tokio::test]
async fn pools_of_a_killed_controller_move_and_are_kept() {
    let pools: Vec<(String, u32)> = (0..8).map(|n| (format!("p{n}"), 1)).collect();
    let pools: Vec<(&str, u32)> = pools.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    let mut cluster = Cluster::of(1, 2, 1, "").await;
    cluster.add(&sleeping(&pools));
    let before = ids(&cluster.until_running(8).await);
    cluster
        .until("both controllers lead pools", async || {
            let shares = [
                cluster.metric("controller-1", "epu_controller_shards").await,
                cluster.metric("controller-2", "epu_controller_shards").await,
            ];
            if shares.iter().all(|share| *share > 8.0) && shares.iter().sum::<f64>() == 64.0 {
                Ok(())
            } else {
                Err(format!("{shares:?}"))
            }
        })
        .await;

    cluster.kill9("controller-1");
    #[expect(clippy::disallowed_methods, reason = "a real process is timed")]
    let killed = std::time::Instant::now();
    // One worker of each pool dies while nobody decides for half of them.
    let victim = cluster
        .live()
        .await
        .into_iter()
        .find_map(|view| Some((view.instance.id, cluster.worker_of(view.instance.id)?)));
    let (victim, worker) = victim.expect("a worker");
    worker.signal(Signal::KILL);
    cluster
        .until("the other one leads all", async || {
            let share = cluster.metric("controller-2", "epu_controller_shards").await;
            if share == 64.0 { Ok(()) } else { Err(share.to_string()) }
        })
        .await;
    assert!(killed.elapsed() < FAILOVER, "it took {:?}", killed.elapsed());
    let live = cluster.until_running(8).await;
    let after = ids(&live);
    assert!(!after.contains(&victim), "the dead one is replaced");
    assert_eq!(before.difference(&after).count(), 1, "and no other");
    assert_eq!(cluster.agents().len(), 8);

    cluster.start("controller-1").await;
    cluster
        .until("the newcomer gets a share", async || {
            let share = cluster.metric("controller-1", "epu_controller_shards").await;
            if share > 8.0 { Ok(()) } else { Err(share.to_string()) }
        })
        .await;
    assert_eq!(ids(&cluster.until_running(8).await), after, "moving pools disturbs nobody");
}

#[tokio::test]
async fn a_stand_by_takes_over_from_a_killed_and_from_a_frozen_provisioner() {
    let mut cluster = Cluster::of(2, 1, 1, "").await;
    cluster.add(&sleeping(&[("web", 3)]));
    let before = ids(&cluster.until_running(3).await);
    let first = cluster.acting_provisioner().await.unwrap();
    let other = if first == "provisioner-1" {
        "provisioner-2"
    } else {
        "provisioner-1"
    };

    cluster.kill9(&first);
    #[expect(clippy::disallowed_methods, reason = "a real process is timed")]
    let killed = std::time::Instant::now();
    cluster
        .until("the other one acts", async || match cluster.acting_provisioner().await {
            Ok(name) if name == other => Ok(()),
            answer => Err(format!("{answer:?}")),
        })
        .await;
    assert!(killed.elapsed() < FAILOVER, "it took {:?}", killed.elapsed());
    cluster.does(&["pool", "resize", "web", "--n", "4"]);
    let grown = ids(&cluster.until_running(4).await);
    assert!(before.is_subset(&grown), "nobody was ended");

    // Frozen, it does not know that its term is over when it wakes.
    cluster.start(&first).await;
    cluster.process(other).signal(Signal::STOP);
    cluster
        .until("the first one acts again", async || match cluster.acting_provisioner().await {
            Ok(name) if name == first => Ok(()),
            answer => Err(format!("{answer:?}")),
        })
        .await;
    cluster.does(&["pool", "resize", "web", "--n", "5"]);
    cluster.process(other).signal(Signal::CONT);
    let five = ids(&cluster.until_running(5).await);
    assert!(grown.is_subset(&five));
    always(Duration::from_secs(4), "the one that woke does nothing", async || {
        cluster.agents().len() == 5
    })
    .await;
    let status = cluster.status().await.unwrap();
    let lease = status.standing.lease(Domain::Provisioner).cloned().expect("a lease");
    assert!(lease.epoch >= 3, "{lease:?}");
}

#[tokio::test]
async fn heartbeats_go_to_another_aggregator_when_theirs_is_gone() {
    let mut cluster = Cluster::of(1, 1, 2, "").await;
    cluster.add(&sleeping(&[("web", 4)]));
    let before = ids(&cluster.until_running(4).await);
    cluster.kill9("aggregator-1");
    always(Duration::from_secs(8), "nobody is condemned", async || {
        let now = ids(&cluster.live().await);
        now.is_empty() || now == before
    })
    .await;
    let (victim, worker) = before.iter().find_map(|id| Some((*id, cluster.worker_of(*id)?))).expect("a worker");
    worker.signal(Signal::KILL);
    let after = cluster
        .until("the dead worker is replaced", async || {
            let live = cluster.until_running(4).await;
            if ids(&live).contains(&victim) {
                Err("not yet")
            } else {
                Ok(ids(&live))
            }
        })
        .await;
    assert_eq!(before.difference(&after).count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aggregator_that_is_cut_off_from_the_broker_alone_costs_no_instance() {
    let pools: Vec<String> = (0..10).map(|n| format!("p{n}")).collect();
    let pools: Vec<(&str, u32)> = pools.iter().map(|name| (name.as_str(), 1)).collect();
    let cluster = Cluster::of(1, 1, 1, "").await;
    let broker = cluster.rabbit.url();
    let port = relay::port_of(&broker);
    let wire = relay::Relay::to(port).await.unwrap();
    let door = format!("127.0.0.1:{}", ports::free().unwrap());
    let config = cluster.path("epu.yaml");
    let arguments = ["serve", "aggregator", "--listen", &door, "--config", config.to_str().unwrap()];
    let mut other = Running::start(&arguments, &cluster.path("other.log"), |command| {
        command
            .current_dir(config.parent().unwrap())
            .env_remove("EPU_LOG")
            .env("EPU_POSTGRES_URL", cluster.database_url())
            .env("EPU_AMQP_URL", wire.url(&broker, port));
    })
    .unwrap();
    let ready = format!("http://{door}/readyz");
    let outcome = other.until_ready(FAILOVER, async || match web::get(&ready, None).await?.status {
        200 => Ok(()),
        status => Err(Trouble::new("readyz", status)),
    });
    outcome.await.unwrap();
    const TAKEN: &str = "epu_aggregator_heartbeats_total{outcome=\"taken\"} ";
    let taken_there = async || -> u64 {
        let page = web::get(&format!("http://{door}/metrics"), None).await.unwrap().body;
        let line = page.lines().find_map(|line| line.strip_prefix(TAKEN));
        line.map_or(0, |value| value.trim().parse().unwrap())
    };

    cluster.add(&sleeping(&pools));
    let before = ids(&cluster.until_running(10).await);
    cluster
        .until("some agents prefer the one that will be cut off", async || {
            let first = taken_there().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            if taken_there().await > first {
                Ok(())
            } else {
                Err(first.to_string())
            }
        })
        .await;

    wire.cut();
    cluster
        .until("it is no more ready", async || match web::get(&ready, None).await {
            Ok(page) if page.status != 200 => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    let at_cut = taken_there().await;
    // Several times as long as silence may last here.
    always(Duration::from_secs(20), "nobody is condemned", async || {
        let now = ids(&cluster.live().await);
        now.is_empty() || now == before
    })
    .await;
    assert_eq!(
        taken_there().await,
        at_cut,
        "heartbeats are refused where nobody would hear of them"
    );
    assert_eq!(ids(&cluster.until_running(10).await), before);

    wire.mend();
    cluster
        .until("agents come back to it", async || match taken_there().await {
            now if now > at_cut => Ok(()),
            now => Err(now.to_string()),
        })
        .await;
    always(Duration::from_secs(6), "and still nobody is condemned", async || {
        let now = ids(&cluster.live().await);
        now.is_empty() || now == before
    })
    .await;
    let ever: BTreeSet<InstanceId> = ids(&cluster.ever().await);
    assert_eq!(ever, before, "no instance was replaced");
    other.stop(FAILOVER).await.unwrap();
}

#[tokio::test]
async fn without_broker_or_database_workers_work_on_and_all_goes_on_afterwards() {
    let mut cluster = Cluster::of(1, 1, 1, "").await;
    cluster.add(&sleeping(&[("web", 3)]));
    let before = ids(&cluster.until_running(3).await);

    cluster.rabbit.kill9();
    always(Duration::from_secs(6), "workers work on without the broker", async || {
        cluster.agents().len() == 3
    })
    .await;
    cluster.rabbit.restart().await.unwrap();
    assert_eq!(
        ids(&cluster.until_running(3).await),
        before,
        "nobody was condemned for the broker's silence"
    );

    cluster.postgres.kill9();
    always(Duration::from_secs(8), "workers work on without the database", async || {
        cluster.agents().len() == 3
    })
    .await;
    cluster.postgres.restart().await.unwrap();
    let said = cluster.run(&["pool", "resize", "web", "--n", "4"]);
    assert!(said.code == Some(0) || said.err.contains("takes over within seconds"), "{said:?}");
    cluster
        .until("the pool is led again", async || {
            match cluster.run(&["pool", "resize", "web", "--n", "4"]) {
                said if said.code == Some(0) => Ok(()),
                said => Err(said.err),
            }
        })
        .await;
    let after = ids(&cluster.until_running(4).await);
    assert!(before.is_subset(&after), "and none was lost");
}
