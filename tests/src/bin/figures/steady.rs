//! 1,000 pools with 50,000 instances in steady state, over a real broker and a real database: what one controller and one aggregator
//! use together, and what they write.
//!
//! Both are the real program. Instances exist on record only. This program stands in for the provisioner, which has nothing to do,
//! and tells facts as it does; and for the agents: every instance sends its heartbeat to the aggregator's door every 30 s, each over a
//! connection of its own, since an agent does not keep one open for so long.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use epu_bus::Bus;
use epu_bus::amqp::{AmqpBus, Settings};
use epu_bus::token::Keyring;
use epu_bus::users::{Role, User, Users};
use epu_core::fact::{Fact, Instances as Told, Kind, Listener};
use epu_core::heartbeat::{Condition, Heartbeat};
use epu_core::instance::{Instance, Work};
use epu_core::pool::Pool;
use epu_core::request::{Answer, Request, Service, SiteWord};
use epu_core::secret::SecretUrl;
use epu_core::{InstanceId, State};
use epu_store::{PgSettings, PgStore, ProvisionCommit, Store};
use epu_tests::cluster::Cluster;
use epu_tests::{Result, Trouble};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};

use crate::clock::{cpu_of, rss_of, wall};
use crate::samples::{self, BEGIN, Instances};
use crate::{Goal, Report, serving};

const POOLS: u32 = 1_000;
const OF_EACH: u32 = 50;
const EVERY: Duration = Duration::from_secs(30);
/// From the first heartbeat until everything is in its rhythm.
const SETTLE: Duration = Duration::from_secs(75);
const WATCH: Duration = Duration::from_secs(60);
/// Instances of one fact, as the provisioner has it.
const PAGE: usize = 500;

pub(crate) fn measure() -> Result<Report> {
    serving::runtime()?.block_on(watch())
}

fn failed(doing: &str) -> impl Fn(&dyn std::error::Error) -> Trouble {
    let doing = doing.to_owned();
    move |error| Trouble::new(&doing, epu_core::code::Chain(error))
}

async fn watch() -> Result<Report> {
    let mut report = Report::default();
    let mut cluster = Cluster::new("").await;
    let live = fill(&cluster).await?;
    let bus = stand_in(&cluster, live.clone()).await?;
    cluster.start("aggregator-1").await;
    cluster.start("controller-1").await;

    let key = std::fs::read_to_string(cluster.path("data/installation.key")).map_err(|e| Trouble::new("read the key", e))?;
    let keys = Keyring::new(key.trim().as_bytes()).map_err(|e| failed("use the key")(&e))?;
    let (sent, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let address = cluster.url("aggregator-1").trim_start_matches("http://").to_owned();
    let beating = tokio::spawn(beat(
        live.iter().map(|i| i.id).collect(),
        keys,
        address,
        sent.clone(),
        refused.clone(),
    ));
    tokio::time::sleep(SETTLE).await;

    let pids = ["controller-1", "aggregator-1"].map(|name| (name, cluster.process(name).pid));
    let page = async |name: &str| cluster.metrics(name).await;
    let before = [page("controller-1").await, page("aggregator-1").await];
    let cpu_before = [cpu_of(pids[0].1)?, cpu_of(pids[1].1)?];
    let (began, sent_before) = (wall(), sent.load(Ordering::Relaxed));
    let mut rss = [0.0_f64; 2];
    while began.elapsed() < WATCH {
        tokio::time::sleep(Duration::from_secs(1)).await;
        for (most, (_, pid)) in rss.iter_mut().zip(pids) {
            *most = most.max(rss_of(pid)?);
        }
    }
    let took = began.elapsed().as_secs_f64();
    let after = [page("controller-1").await, page("aggregator-1").await];
    let mut cores = 0.0;
    for (i, (name, pid)) in pids.into_iter().enumerate() {
        let used = cpu_of(pid)?.saturating_sub(cpu_before[i]).as_secs_f64() / took;
        cores += used;
        report.note(format!("{name}: {used:.3} of a core, {:.0} MB", rss[i]));
    }
    let sent = sent.load(Ordering::Relaxed) - sent_before;
    let status = cluster.status().await.map_err(|e| Trouble::new("ask for the status", e))?;
    let well: u32 = status.pools.iter().map(|pool| pool.counts.busy).sum();
    if well != POOLS * OF_EACH {
        return Err(Trouble::new(
            "keep steady",
            format!("{well} instances are heard to be busy; {:?}", status.concerns.first()),
        ));
    }
    beating.abort();
    drop(bus);

    let mut others = 0.0;
    let mut writes = BTreeMap::new();
    for (before, after) in before.iter().zip(&after) {
        for (op, count) in written(after) {
            let more = count - written(before).get(&op).copied().unwrap_or(0.0);
            *writes.entry(op.clone()).or_insert(0.0) += more;
            // What is remembered of pools is written by commit_decision, without a decision.
            if more > 0.0 && !["lease", "commit_decision", "check"].contains(&op.as_str()) {
                others += more;
            }
        }
    }
    writes.retain(|_, count| *count > 0.0);
    report.note(format!(
        "{sent} heartbeats in {took:.0} s ({} refused), each over a connection of its own; writes: {writes:?}",
        refused.load(Ordering::Relaxed)
    ));
    report.figure("steady-50k-cores", cores, "cores", Goal::Below(0.5));
    report.figure("steady-50k-rss", rss.iter().sum(), "MB", Goal::Below(300.0));
    report.figure("steady-50k-writes", others, "writes-beside-leases-and-memory", Goal::Below(1.0));
    Ok(report)
}

/// Writes by their kind, from a page of metrics.
fn written(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter_map(|line| line.strip_prefix("epu_store_writes_total{op=\""));
    lines
        .filter_map(|rest| {
            let (op, value) = rest.split_once("\"} ")?;
            Some((op.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

/// Writes pools and instances, all of them running.
async fn fill(cluster: &Cluster) -> Result<Arc<Vec<Arc<Instance>>>> {
    let store = PgStore::connect(&PgSettings::new(SecretUrl::new(cluster.database_url()))).await;
    let store = store.map_err(|e| failed("connect to the database")(&e))?;
    let mut pools: Vec<Pool> = Vec::new();
    let mut live = Vec::new();
    let now = epu_core::time::Clock::now(&epu_core::time::SystemClock::start());
    for n in 0..POOLS {
        let mut pool = samples::pool(&format!("pool-{n}"), &json!({"keep": {"n": OF_EACH}}), &json!({}))?;
        pool.spec.sensors.clear();
        pool.template.heartbeat = epu_core::Span(EVERY);
        pool.spec.health = serde_json::from_value(json!({"boot": "5m", "missing": "2m"})).map_err(|e| Trouble::new("make up limits", e))?;
        let mut made = Instances::seeded(&pool.name, u64::from(n))?;
        live.extend((0..OF_EACH).map(|_| {
            let at = now - Duration::from_secs(3_600);
            Arc::new(Instance {
                version: 1,
                ..made.make(State::Running, at.max(BEGIN))
            })
        }));
        pools.push(pool);
    }
    store.put_pools(&pools, Vec::new()).await.map_err(|e| failed("write pools")(&e))?;
    for instances in live.chunks(2_000) {
        let commit = ProvisionCommit {
            instances: instances.to_vec(),
            ..ProvisionCommit::default()
        };
        store.commit_provision(commit).await.map_err(|e| failed("write instances")(&e))?;
    }
    store.close().await;
    Ok(Arc::new(live))
}

/// Tells what a provisioner tells, and answers as one that has nothing to do.
async fn stand_in(cluster: &Cluster, live: Arc<Vec<Arc<Instance>>>) -> Result<Arc<AmqpBus>> {
    let settings = Settings::new(SecretUrl::new(cluster.rabbit.url()), "epu", "figures");
    let user = User {
        role: Role::Service,
        owners: Vec::new(),
    };
    let users = Arc::new(Users::new([(epu_tests::rabbit::USER.to_owned(), user)]));
    let metrics = epu_bus::amqp::Metrics::new().map_err(|e| failed("make the metrics")(&e))?;
    let bus = AmqpBus::connect(settings, users, metrics)
        .await
        .map_err(|e| failed("reach the broker")(&e))?;
    let mut calls = bus.serve(Service::Provisioner);
    tokio::spawn(async move {
        while let Some(call) = calls.recv().await {
            let answer = if let Request::Look(ids) = &call.request {
                Answer::of(&ids.instances.iter().map(|id| (*id, SiteWord::Running)).collect::<Vec<_>>())
            } else {
                Ok(Answer::Json(Value::Null))
            };
            call.answer(answer);
        }
    });
    let mut facts = bus.listen(&[Kind::Listening]);
    let telling = bus.clone();
    tokio::spawn(async move {
        let mut slowly = tokio::time::interval(Duration::from_secs(10));
        let mut next = 0;
        let pages: Vec<&[Arc<Instance>]> = live.chunks(PAGE).collect();
        let page = |n: usize, complete| {
            telling.tell(Fact::Instances(Arc::new(Told {
                changed: pages[n].to_vec(),
                complete,
                ..Told::default()
            })));
        };
        loop {
            tokio::select! {
                biased;
                fact = facts.next() => match fact {
                    Some(Fact::Listening(Listener::Aggregator | Listener::Controller)) => {
                        for n in 0..pages.len() {
                            page(n, n + 1 == pages.len());
                        }
                    }
                    Some(_) => {}
                    None => return,
                },
                _ = slowly.tick() => {
                    page(next % pages.len(), false);
                    next += 1;
                }
            }
        }
    });
    Ok(bus)
}

/// Every instance speaks once in [`EVERY`], evenly spread.
async fn beat(ids: Vec<InstanceId>, keys: Keyring, address: String, sent: Arc<AtomicU64>, refused: Arc<AtomicU64>) {
    let count = u32::try_from(ids.len()).unwrap_or(u32::MAX);
    // In small groups, so that the timer is not what is measured.
    let group = 10;
    let mut tick = tokio::time::interval(EVERY * group / count);
    let tokens: Vec<Arc<str>> = ids.iter().map(|id| keys.mint_instance(*id).into()).collect();
    let doors = Arc::new(tokio::sync::Semaphore::new(256));
    for sequence in 1.. {
        for start in (0..ids.len()).step_by(group as usize) {
            tick.tick().await;
            for n in start..(start + group as usize).min(ids.len()) {
                let heartbeat = Heartbeat {
                    instance: ids[n],
                    sequence,
                    started_at_ms: 1,
                    sent_at_ms: 1,
                    condition: Condition::Ok,
                    work: Work::Busy,
                    work_for_ms: 1,
                    draining: false,
                    readings: BTreeMap::new(),
                };
                let Ok(body) = serde_json::to_vec(&Request::Heartbeat(Box::new(heartbeat))) else {
                    return;
                };
                let (token, address, sent, refused) = (tokens[n].clone(), address.clone(), sent.clone(), refused.clone());
                let Ok(place) = doors.clone().acquire_owned().await else { return };
                tokio::spawn(async move {
                    let counter = if say(&address, &token, body).await.unwrap_or(false) {
                        sent
                    } else {
                        refused
                    };
                    counter.fetch_add(1, Ordering::Relaxed);
                    drop(place);
                });
            }
        }
    }
}

/// One heartbeat over a connection of its own; whether it was taken.
async fn say(address: &str, token: &str, body: Vec<u8>) -> std::result::Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    let stream = tokio::net::TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await?;
    let driving = tokio::spawn(connection);
    let request = hyper::Request::post("/v1/ask")
        .header("host", address)
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json")
        .header("connection", "close")
        .body(Full::new(Bytes::from(body)))?;
    let answer = sender.send_request(request).await?;
    let taken = answer.status() == 200;
    answer.into_body().collect().await?;
    drop(sender);
    driving.await??;
    Ok(taken)
}
