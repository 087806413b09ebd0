//! How long nobody leads after the leader was killed: 20 kills with default settings, of provisioners and controllers in turn, over a
//! real broker and a real database.

use std::time::Duration;

use epu_core::lease::{Domain, SHARDS};
use epu_tests::cluster::Cluster;
use epu_tests::{Result, Trouble};

use crate::clock::wall;
use crate::{Goal, Report, serving};

const KILLS: usize = 20;
/// Longer than this and something is broken.
const GIVE_UP: Duration = Duration::from_secs(60);

pub(crate) fn measure() -> Result<Report> {
    serving::runtime()?.block_on(kill())
}

async fn kill() -> Result<Report> {
    let mut report = Report::default();
    let mut cluster = Cluster::of(2, 2, 1, "").await;
    let mut took = Vec::new();
    for n in 0..KILLS {
        let of_provisioner = n % 2 == 0;
        let victim = if of_provisioner {
            cluster
                .acting_provisioner()
                .await
                .map_err(|e| Trouble::new("find the acting provisioner", e))?
        } else {
            format!("controller-{}", n / 2 % 2 + 1)
        };
        let other = |name: &str| {
            if name.ends_with('1') {
                name.replace('1', "2")
            } else {
                name.replace('2', "1")
            }
        };
        let heir = other(&victim);
        cluster.kill9(&victim);
        let began = wall();
        loop {
            // The metric says that the heir acts: it has loaded what it leads.
            let leads = if of_provisioner {
                cluster.metric(&heir, "epu_provisioner_leader").await == 1.0
            } else {
                cluster.metric(&heir, "epu_controller_shards").await == f64::from(SHARDS)
            };
            if leads {
                break;
            }
            if began.elapsed() > GIVE_UP {
                return Err(Trouble::new(
                    "fail over",
                    format!("nobody took over from {victim}\n{}", cluster.logs()),
                ));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        took.push(began.elapsed().as_secs_f64());
        cluster.start(&victim).await;
        // Until both have a share again.
        let share = format!("controller-{}", n % 2 + 1);
        while cluster.metric(&share, "epu_controller_shards").await < 1.0 && began.elapsed() < GIVE_UP {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    took.sort_by(f64::total_cmp);
    let worst = took.last().copied().unwrap_or(f64::INFINITY);
    let epoch = cluster
        .status()
        .await
        .ok()
        .and_then(|status| status.standing.lease(Domain::Provisioner).map(|lease| lease.epoch));
    report.note(format!(
        "{KILLS} kills: median {:.2} s, provisioner's epoch at the end {epoch:?}",
        took[KILLS / 2]
    ));
    // Of 20, the 99th percentile is the longest.
    report.figure("failover-p99", worst, "s", Goal::Below(10.0));
    Ok(report)
}
