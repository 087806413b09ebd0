//! `epumgmt serve all` with 100 idle local workers in steady state: what the control process uses, and apart from it its agents and
//! workers.

use std::collections::BTreeSet;
use std::time::Duration;

use epu_tests::processes::Proc;
use epu_tests::{Result, Trouble};

use crate::clock::{cpu_of, pss_of, rss_of, wall};
use crate::serving::{self, Serving};
use crate::{Goal, Report};

const WORKERS: u32 = 100;
/// From when all run until everything is in its rhythm.
const SETTLE: Duration = Duration::from_secs(45);
/// How long it is watched: twice what comes every 30 s.
const WATCH: Duration = Duration::from_secs(60);

pub(crate) fn measure() -> Result<Report> {
    serving::runtime()?.block_on(watch())
}

/// What some processes used.
struct Used {
    count: f64,
    cpu: Duration,
    rss: f64,
    pss: f64,
}

async fn watch() -> Result<Report> {
    let mut report = Report::default();
    let serving = Serving::start(|_| {
        format!(
            r#"
templates:
  idler:
    run: [/bin/sh, -c, "echo idle > $EPU_DIR/status; exec sleep infinity"]
    drain-signal: TERM
pools:
  idlers: {{template: idler, min: {WORKERS}, max: {WORKERS}, engine: {{keep: {{n: {WORKERS}}}}}}}
"#
        )
    })
    .await?;
    let all_idle = |pool: &epu_core::request::PoolBrief| pool.counts.running == WORKERS && pool.counts.idle == WORKERS;
    serving
        .until(Duration::from_secs(120), "all workers run and are idle", all_idle)
        .await?;
    tokio::time::sleep(SETTLE).await;

    let pid = serving.pid();
    let before = serving
        .client
        .get_text("/metrics")
        .await
        .map_err(|e| Trouble::new("read the metrics", e))?;
    let (agents, workers): (BTreeSet<Proc>, BTreeSet<Proc>) =
        serving.workers().into_iter().partition(|p| p.command_line().ends_with(" agent"));
    let [agents_before, workers_before] = [used(&agents)?, used(&workers)?];
    let (began, cpu_before) = (wall(), cpu_of(pid)?);
    let mut rss = 0.0_f64;
    while began.elapsed() < WATCH {
        tokio::time::sleep(Duration::from_secs(1)).await;
        rss = rss.max(rss_of(pid)?);
    }
    let (took, cpu) = (began.elapsed().as_secs_f64(), cpu_of(pid)?.saturating_sub(cpu_before));
    let [agents, workers] = [used(&agents)?, used(&workers)?];
    let after = serving
        .client
        .get_text("/metrics")
        .await
        .map_err(|e| Trouble::new("read the metrics", e))?;
    if !serving.pools().await?.iter().all(all_idle) {
        return Err(Trouble::new("keep steady", format!("{:?}", serving.pools().await?)));
    }

    report.figure(
        "serve-100-idle-cpu",
        cpu.as_secs_f64() / took * 100.0,
        "%-of-a-core",
        Goal::Below(2.0),
    );
    report.figure("serve-100-idle-rss", rss, "MB", Goal::Below(60.0));
    report.note(format!(
        "of the control process, the most resident within {took:.0} s; apart from it:"
    ));
    for (what, was, is) in [("agents", agents_before, agents), ("workers", workers_before, workers)] {
        let percent = is.cpu.saturating_sub(was.cpu).as_secs_f64() / took * 100.0;
        report.note(format!(
            "{} {what}: each {:.4} % of a core, {:.2} MB of its own (proportional), {:.2} MB resident; all together {percent:.2} %, {:.0} MB",
            is.count,
            percent / is.count.max(1.0),
            is.pss / is.count.max(1.0),
            is.rss / is.count.max(1.0),
            is.pss
        ));
    }
    let counted = |name: &str| sum_of(&after, name) - sum_of(&before, name);
    report.note(format!(
        "{:.0} heartbeats taken and {:.0} writes to the store in that time",
        counted("epu_aggregator_heartbeats_total"),
        counted("epu_store_writes_total")
    ));
    serving.tear_down().await?;
    Ok(report)
}

fn used(processes: &BTreeSet<Proc>) -> Result<Used> {
    let mut used = Used {
        count: 0.0,
        cpu: Duration::ZERO,
        rss: 0.0,
        pss: 0.0,
    };
    for process in processes {
        used.count += 1.0;
        used.cpu += cpu_of(process.pid)?;
        used.rss += rss_of(process.pid)?;
        used.pss += pss_of(process.pid)?;
    }
    Ok(used)
}

/// All samples of one name, added up.
fn sum_of(metrics: &str, name: &str) -> f64 {
    let samples = metrics
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
