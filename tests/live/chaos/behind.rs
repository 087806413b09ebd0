//! Things are broken behind the services' backs, and the judges see it: without this, a run in which they say nothing would prove little.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use epu_core::{InstanceId, PoolName};
use epu_tests::chaos::judge::{self, Broken, Moment};
use epu_tests::chaos::seen::{self, Place, Seen};
use epu_tests::chaos::spool::Spool;
use epu_tests::chaos::watch::Watch;
use epu_tests::chaos::wire::Aside;
use epu_tests::cluster::Cluster;
use epu_tests::keeper::{self, Kept};
use epu_tests::wait::eventually;
use rustix::process::Signal;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use crate::pools::sleeping;

const SOON: std::time::Duration = std::time::Duration::from_secs(20);

/// A process that says that it is the agent of this instance.
fn pretender(cluster: &Cluster, place: &Place, id: InstanceId) -> Kept {
    let mut command = keeper::command("sleep");
    command.arg("300").env("EPU_INSTALLATION", &place.installation);
    command.env("EPU_INSTANCE", id.to_string()).env("EPU_POOL", "web");
    command.env("EPU_HOME", cluster.path("data/instances/pretender"));
    Kept::start(command).unwrap()
}

fn rules(found: &[Broken]) -> BTreeSet<&'static str> {
    found.iter().map(|broken| broken.rule).collect()
}

fn names(found: &[Broken], rule: &str, what: &str) -> bool {
    found.iter().any(|broken| broken.rule == rule && broken.what.contains(what))
}

#[tokio::test]
async fn what_is_broken_behind_the_services_backs_is_seen() {
    let mut cluster = Cluster::of(1, 1, 1, "").await;
    cluster.add(&sleeping(&[("web", 2)]));
    let ids: Vec<InstanceId> = cluster.until_running(2).await.iter().map(|view| view.instance.id).collect();
    let place = Place {
        installation: seen::installation(&cluster.database_url()).await.unwrap(),
        database: cluster.database_url(),
        data: cluster.path("data"),
    };
    let spool = Spool::new(&cluster.path("jobs")).unwrap();
    let engines = |seen: Seen| {
        let engines = seen
            .pools
            .iter()
            .map(|(name, pool)| (name.clone(), pool.spec.engine.clone().into_iter().collect()));
        let engines = engines.collect();
        Seen { engines, ..seen }
    };
    let look = async || engines(seen::look(&place, &spool).await.unwrap());
    let targets = BTreeMap::from([(PoolName::new("web").unwrap(), 2)]);
    eventually(SOON, "all is well", async || {
        let seen = look().await;
        judge::unsettled(&seen, &targets).is_empty() && judge::history(&seen).is_empty()
    })
    .await;
    // From now on nobody mends anything.
    for name in cluster.running() {
        cluster.stop(&name).await;
    }
    let aside = Aside::new().unwrap();
    let watch = Watch::over(&aside, place.clone());
    eventually(SOON, "the watch has looked at all of it", async || watch.found().whole > 2).await;
    assert_eq!(watch.found().broken, BTreeSet::new(), "workers alone are well");
    let mut database = PgConnection::connect(&place.database).await.unwrap();
    let mut change = async |statement: String| database.execute(AssertSqlSafe(statement)).await.unwrap();

    // A machine that nobody asked for.
    let nobody: InstanceId = "0198f000-0000-7000-8000-000000000001".parse().unwrap();
    let stray = pretender(&cluster, &place, nobody);
    let seen = look().await;
    assert!(names(&judge::unsettled(&seen, &targets), "I1", &nobody.to_string()));
    assert!(names(&judge::history(&seen), "I7", "an agent of nobody that was recorded"));
    let all_seen = |rule: &'static str, what: String| {
        let watch = &watch;
        async move {
            let what = what.as_str();
            eventually(SOON, &format!("the watch sees that {rule} is broken"), async || {
                names(&watch.found().broken.into_iter().collect::<Vec<_>>(), rule, what)
            })
            .await;
        }
    };
    all_seen("I7", nobody.to_string()).await;
    drop(stray);

    // A second machine for one instance.
    let double = pretender(&cluster, &place, ids[0]);
    assert!(names(&judge::unsettled(&look().await, &targets), "I1", "2 machines"));
    all_seen("I1", ids[0].to_string()).await;
    drop(double);

    // A machine that the site started and of which there is no record.
    let forged = place.data.join("instances").join(nobody.to_string());
    fs::create_dir(&forged).unwrap();
    let marker = place.data.join("instances").join(ids[0].to_string()).join("started.json");
    fs::copy(marker, forged.join("started.json")).unwrap();
    assert!(names(&judge::history(&look().await), "I7", "the site started"));
    fs::remove_dir_all(&forged).unwrap();
    assert!(judge::history(&look().await).is_empty(), "all as it was");

    // A worker that is gone, and one that is frozen.
    let worker = cluster.worker_of(ids[0]).unwrap();
    worker.signal(Signal::STOP);
    eventually(SOON, "a frozen worker is missed", async || {
        names(&judge::unsettled(&look().await, &targets), "I6", "has no worker")
    })
    .await;
    worker.signal(Signal::CONT);
    eventually(SOON, "it is back", async || judge::unsettled(&look().await, &targets).is_empty()).await;

    // An end that was recorded and is none.
    let (ended, at) = (ids[1], epu_core::time::Timestamp(i64::MAX / 2));
    let seen = look().await;
    let mut record = seen.instances[&ended].clone();
    record.state = epu_core::State::Terminated;
    let body = serde_json::to_string(&record).unwrap().replace('\'', "''");
    change(format!(
        "UPDATE instances SET state = '800-TERMINATED', state_since = {}, body = '{body}' WHERE id = '{ended}'",
        at.0
    ))
    .await;
    let seen = look().await;
    assert!(names(&judge::unsettled(&seen, &targets), "I1", "without a live record"));
    assert!(names(&judge::history(&seen), "I12", "its journal ends otherwise"));
    assert!(names(&judge::left_over(&seen), "I12", "left after teardown"));
    all_seen("I12", ended.to_string()).await;

    // A launch that was never recorded, and a decision that nothing explains.
    change("DELETE FROM launches".to_owned()).await;
    assert!(names(&judge::history(&look().await), "I7", "at no place of a recorded launch"));
    change("UPDATE journal SET body = replace(body, '\"desired\":2', '\"desired\":9') WHERE kind = 'decided'".to_owned()).await;
    assert!(names(&judge::history(&look().await), "I8", "became"));

    let found: Vec<Broken> = watch.found().broken.into_iter().collect();
    assert_eq!(rules(&found), BTreeSet::from(["I1", "I12", "I7"]));
    assert_eq!(judge::moment(&Moment::default()), Vec::new());
}
