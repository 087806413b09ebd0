//! Scale-in: who is busy finishes, who is protected stays, and what an operator says holds.

use std::fs;
use std::time::Duration;

use epu_core::InstanceId;
use epu_core::instance::{Cause, Work};
use epu_core::request::InstanceView;
use epu_tests::installation::{Installation, brief};
use epu_tests::wait::always;

use crate::pools::{HEALTH, LIMITS};

/// A worker that is busy until its job is done, which is when a file of that name appears, and that then waits for the order to
/// drain. It writes down that it left in peace. The signal to drain only wakes it.
const WORKER: &str = r#"
trap : TERM
[ -e "$EPU_DIR/told" ] || echo busy >"$EPU_DIR/status"
until [ -e "$EPU_DIR/done" ]; do sleep 0.1; done
echo idle >"$EPU_DIR/status"
until [ -e "$EPU_DIR/drain" ]; do sleep 0.1; done
echo peace >"$EPU_HOME/left"
"#;

/// A pool of an operator's, of `n` such workers.
async fn pool_of(n: u32, drain: &str) -> Installation {
    let installation = Installation::serving("pools: {}\n").await;
    let script = installation.path("worker.sh");
    fs::write(&script, WORKER).unwrap();
    let file = installation.path("web.yaml");
    let pools = format!(
        "templates:\n  worker: {{run: [sh, {script}], heartbeat: 200ms, stop-grace: 1s}}\n\
         pools:\n  web:\n    template: worker\n    max: 10\n    engine: {{keep: {{n: {n}}}}}\n    health: {HEALTH}\n    limits: {{{LIMITS}, drain: {drain}}}\n",
        script = epu_tests::installation::quoted(&script)
    );
    fs::write(&file, pools).unwrap();
    installation.does(&["pool", "add", "--file", file.to_str().unwrap()]);
    installation
}

async fn until_busy(installation: &Installation, count: usize) -> Vec<InstanceView> {
    installation
        .until("all are busy", async || {
            let live = installation.live().await;
            let busy = live.iter().filter(|view| view.work == Work::Busy).count();
            if busy == count && live.len() == count {
                return Ok(live);
            }
            Err(live
                .iter()
                .map(|view| format!("{} {:?}", brief(view), view.work))
                .collect::<Vec<_>>()
                .join(", "))
        })
        .await
}

async fn until_draining(installation: &Installation, count: usize) -> Vec<InstanceId> {
    installation
        .until("some drain", async || {
            let live = installation.live().await;
            let draining: Vec<InstanceId> = live
                .iter()
                .filter(|view| view.instance.drain.is_some())
                .map(|view| view.instance.id)
                .collect();
            if draining.len() == count {
                Ok(draining)
            } else {
                Err(draining.len())
            }
        })
        .await
}

fn finish_job(installation: &Installation, id: InstanceId) {
    fs::write(installation.home_of(id).join("run/done"), "").unwrap();
}

#[tokio::test]
async fn a_busy_worker_finishes_its_job_before_it_goes() {
    let installation = pool_of(2, "1h").await;
    until_busy(&installation, 2).await;
    installation.does(&["pool", "resize", "web", "--n", "1"]);
    let [leaving] = until_draining(&installation, 1).await[..] else {
        panic!("one drains")
    };
    let worker = installation.worker_of(leaving).unwrap();
    always(Duration::from_secs(3), "it is left to work", async || worker.is_alive()).await;

    finish_job(&installation, leaving);
    let record = installation.until_ended(leaving).await.instance;
    assert_eq!(fs::read_to_string(installation.home_of(leaving).join("left")).unwrap(), "peace\n");
    let ending = record.ending.unwrap();
    assert_eq!((ending.why, ending.drained_for), (Cause::Drained, Some(Cause::ScaleIn)));
    assert!(!worker.is_alive());
    assert_eq!(installation.live().await.len(), 1, "the other stays");
}

#[tokio::test]
async fn the_idle_one_goes_and_the_busy_one_stays() {
    let installation = pool_of(3, "1h").await;
    let all = until_busy(&installation, 3).await;
    let idle = all[1].instance.id;
    finish_job(&installation, idle);
    installation
        .until("it is idle", async || match installation.instance(idle).await.work {
            Work::Idle => Ok(()),
            other => Err(other.word()),
        })
        .await;
    installation.does(&["pool", "resize", "web", "--n", "2"]);
    let record = installation.until_ended(idle).await.instance;
    assert_eq!(record.ending.unwrap().why, Cause::Drained);
    assert!(installation.live().await.iter().all(|view| view.instance.drain.is_none()));
}

#[tokio::test]
async fn one_that_does_not_finish_is_ended_at_its_deadline_and_counted() {
    let installation = pool_of(2, "2s").await;
    until_busy(&installation, 2).await;
    installation.does(&["pool", "resize", "web", "--n", "1"]);
    let [leaving] = until_draining(&installation, 1).await[..] else {
        panic!("one drains")
    };
    let record = installation.until_ended(leaving).await.instance;
    let ending = record.ending.unwrap();
    assert_eq!(ending.why, Cause::DrainDeadline);
    assert_ne!(ending.work, Work::Idle, "it is not taken for an idle one");
    assert!(!installation.home_of(leaving).join("left").exists(), "it did not leave in peace");
    assert_eq!(installation.metric("epu_provisioner_drains_cut_short_total").await, 1.0);
}

#[tokio::test]
async fn a_drain_is_withdrawn_when_the_pool_grows_again_before_its_worker_was_told() {
    let installation = pool_of(2, "1h").await;
    until_busy(&installation, 2).await;
    // Both settings are stored before any agent's next heartbeat can bring the order, most of the time. Where it came too late, the
    // worker was told and goes, and another one comes. Either way two work in the end and no busy one was killed.
    installation.does(&["pool", "resize", "web", "--n", "1"]);
    installation.does(&["pool", "resize", "web", "--n", "2"]);
    installation
        .until("two stay", async || {
            let live = installation.live().await;
            let staying = live.iter().filter(|view| view.instance.drain.is_none()).count();
            if staying == 2 { Ok(()) } else { Err(staying) }
        })
        .await;
    let ended = installation.ever().await.into_iter().filter(|view| view.instance.state.is_end());
    assert_eq!(ended.count(), 0, "nobody was ended");
}

#[tokio::test]
async fn a_protected_instance_is_not_chosen() {
    let installation = pool_of(3, "1h").await;
    let all = until_busy(&installation, 3).await;
    // The idle one would go first.
    let protected = all[0].instance.id;
    finish_job(&installation, protected);
    installation
        .until("it is idle", async || match installation.instance(protected).await.work {
            Work::Idle => Ok(()),
            other => Err(other.word()),
        })
        .await;
    installation.does(&["instance", "protect", &protected.to_string()]);
    installation
        .until("its protection is known", async || {
            if installation.instance(protected).await.instance.protected {
                Ok(())
            } else {
                Err("it is not")
            }
        })
        .await;
    installation.does(&["pool", "resize", "web", "--n", "1"]);
    let draining = until_draining(&installation, 2).await;
    assert!(!draining.contains(&protected));

    installation.does(&["instance", "protect", &protected.to_string(), "--off"]);
    installation.does(&["pool", "resize", "web", "--n", "0"]);
    assert_eq!(
        installation.until_ended(protected).await.instance.ending.unwrap().why,
        Cause::Drained
    );
}

#[tokio::test]
async fn an_operator_may_drain_one_and_kill_another_and_both_are_replaced() {
    let installation = pool_of(2, "1h").await;
    let all = until_busy(&installation, 2).await;
    let (drained, killed) = (all[0].instance.id, all[1].instance.id);
    installation.does(&["instance", "drain", &drained.to_string(), "--within", "10m"]);
    // The end of an id, as tables show it, will do.
    let short = killed.to_string().rsplit('-').next().unwrap_or_default().to_owned();
    installation.does(&["instance", "kill", &short]);
    let record = installation.until_ended(killed).await.instance;
    let ending = record.ending.unwrap();
    assert_eq!((ending.why, ending.work), (Cause::Operator, Work::Busy));
    finish_job(&installation, drained);
    let ending = installation.until_ended(drained).await.instance.ending.unwrap();
    assert_eq!((ending.why, ending.drained_for), (Cause::Drained, Some(Cause::Operator)));
    until_busy(&installation, 2).await;
}

/// A drain that was ordered holds over a restart of the control process, with the deadline it had.
#[tokio::test]
async fn a_drain_goes_on_over_kill_9_of_the_control_process() {
    let mut installation = pool_of(2, "1h").await;
    until_busy(&installation, 2).await;
    installation.does(&["pool", "resize", "web", "--n", "1"]);
    let [leaving] = until_draining(&installation, 1).await[..] else {
        panic!("one drains")
    };
    let deadline = installation.instance(leaving).await.instance.drain.unwrap().deadline;
    installation.kill9();
    // It may finish while nobody controls; its agent says so until somebody hears it.
    finish_job(&installation, leaving);
    tokio::time::sleep(Duration::from_secs(1)).await;
    installation.start().await;
    let record = installation.until_ended(leaving).await.instance;
    assert_eq!(record.ending.unwrap().why, Cause::Drained);
    assert!(record.drain.is_none_or(|drain| drain.deadline == deadline));
    assert_eq!(installation.live().await.len(), 1);
}
