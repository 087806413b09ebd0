//! Launching and watching on EC2, against the fake EC2 as a process of its own: how many calls it takes, and what watching 10,000
//! machines costs the real program. And, with `--long`, 200 runs on a faulty one with kill -9 at random moments.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use epu_core::id::{LaunchId, PoolName, SiteName};
use epu_core::instance::Instance;
use epu_core::pool::Template;
use epu_core::random::Random;
use epu_core::secret::SecretUrl;
use epu_core::time::{Clock, SystemClock, Timestamp};
use epu_core::{InstanceId, State};
use epu_provisioner::iaas::ec2::{self, Accounts, Ec2Parts, Ec2Settings};
use epu_provisioner::iaas::{Iaas, IaasLaunch, LaunchToken};
use epu_provisioner::pace::Pacers;
use epu_store::{PgSettings, PgStore, ProvisionCommit, Store};
use epu_tests::cluster::Cluster;
use epu_tests::ec2_runs::{self, Outcome};
use epu_tests::fake_ec2::FakeEc2Process;
use epu_tests::fake_ec2::catalogue::{ACCESS_KEY, IMAGE};
use epu_tests::fake_ec2::count::Report as Counted;
use epu_tests::fake_ec2::plan::{Plan, Timings};
use epu_tests::installation::Installation;
use epu_tests::{Result, Trouble, wait};
use futures::StreamExt as _;
use serde_json::json;

use crate::clock::{cpu_of, wall};
use crate::{Goal, Report, samples, serving};

const PATIENCE: Duration = Duration::from_secs(180);
/// How often the site is listed: four times as often as by default, so that a minute shows something.
const LOOK: Duration = Duration::from_secs(15);
const WATCHED: usize = 10_000;
const WATCH: Duration = Duration::from_secs(60);
const RUNS: u64 = 200;
/// Runs at a time: they mostly wait.
const AT_ONCE: usize = 4;

/// A site at this endpoint. More machines are asked for than EC2 lets anybody have at once, so the pace is another.
fn site(endpoint: &str, credentials: &str, look: Duration) -> String {
    let look = epu_core::Span(look);
    format!(
        "sites:
  east:
    ec2:
      region: us-east-1
      endpoint: {endpoint}
      identity-endpoint: {endpoint}
      credentials: {{access-key-id: '{credentials}', secret-access-key: '{credentials}'}}
      look-fast: {look}
      look-steady: {look}
      pace: {{run-instances-machines: {{capacity: 10000, refill: 100}}}}
"
    )
}

fn pools(sizes: &[u32]) -> String {
    let mut text = format!(
        "templates:
  worker: {{run: [/usr/bin/sleep, infinity], ready-within: 1d, machine: {{image: {IMAGE}, size: t3.micro}}}}
pools:
"
    );
    for (n, size) in sizes.iter().enumerate() {
        text.push_str(&format!(
            "  pool-{n}: {{template: worker, max: {size}, engine: {{keep: {{n: {size}}}}}}}\n"
        ));
    }
    text
}

fn plan() -> Plan {
    Plan {
        timings: Some(Timings::instant()),
        ..Plan::default()
    }
}

/// A file with the access key, which stands for both keys: the fake looks at one.
fn key_file(directory: &std::path::Path) -> Result<String> {
    let path = directory.join("key");
    std::fs::write(&path, ACCESS_KEY).map_err(|e| Trouble::new("write the key", e))?;
    Ok(format!("file:{}", path.display()))
}

fn calls(report: &Counted, action: &str) -> u64 {
    report.calls.get(action).copied().unwrap_or(0)
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn number(count: u64) -> f64 {
    count as f64
}

// ---- calls

pub(crate) fn measure_calls() -> Result<Report> {
    serving::runtime()?.block_on(async {
        let mut report = Report::default();
        let (launched, pages) = pages_of(&mut report, &[1_000]).await?;
        report.figure("ec2-launch-1000-calls", launched, "RunInstances", Goal::Below(10.5));
        report.figure("ec2-pages-1000-in-1-pool", pages, "pages-a-look", Goal::Below(1.001));
        let (_, pages) = pages_of(&mut report, &[400; 6]).await?;
        report.figure("ec2-pages-2400-in-6-pools", pages, "pages-a-look", Goal::Below(3.001));
        Ok(report)
    })
}

/// RunInstances calls until pools of these sizes are there, and pages of a list afterwards.
async fn pages_of(report: &mut Report, sizes: &[u32]) -> Result<(f64, f64)> {
    let ec2 = FakeEc2Process::start(1, &unthrottled(), &[]).await?;
    let directory = tempfile::tempdir().map_err(|e| Trouble::new("make a directory", e))?;
    let key = key_file(directory.path())?;
    let settings = format!("{}{}", site(ec2.url(), &key, Duration::from_secs(1)), pools(sizes));
    let began = wall();
    let installation = Installation::serving(&settings).await;
    let wanted = u64::from(sizes.iter().sum::<u32>());
    let there = wait::until(PATIENCE, "all machines are there and recorded", async || {
        let live = installation.live().await;
        let up = live
            .iter()
            .filter(|view| view.instance.state >= State::Started && view.instance.machine.is_some());
        let (up, ever) = (up.count() as u64, ec2.summary().await.map_err(|e| e.to_string())?.ever);
        if up == wanted && ever == wanted {
            Ok(())
        } else {
            Err(format!("{up} recorded, {ever} there"))
        }
    });
    there
        .await
        .map_err(|trouble| Trouble(format!("{trouble}\n{}", installation.log())))?;
    let launched = ec2.summary().await?;
    report.note(format!(
        "{wanted} machines in {} pools: {:.1} s until all were launched and recorded, {} RunInstances, errors {:?}",
        sizes.len(),
        began.elapsed().as_secs_f64(),
        calls(&launched, "RunInstances"),
        launched.errors
    ));
    const LOOKS: &str = "epu_provisioner_iaas_calls_total{call=\"list\",outcome=\"ok\",site=\"east\"}";
    // A look that is under way would be counted on one side only.
    let (looks, pages) = between_looks(&installation, &ec2, LOOKS).await?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (looks_after, pages_after) = between_looks(&installation, &ec2, LOOKS).await?;
    let looks = looks_after - looks;
    if looks < 3.0 {
        return Err(Trouble::new("watch", format!("{looks} looks in 10 s\n{}", installation.log())));
    }
    Ok((
        number(calls(&launched, "RunInstances")),
        (number(pages_after) - number(pages)) / looks,
    ))
}

/// Looks and pages, read just after a look: the next one is a while away.
async fn between_looks(installation: &Installation, ec2: &FakeEc2Process, looks: &str) -> Result<(f64, u64)> {
    let before = installation.metric(looks).await;
    for _ in 0..1_000 {
        let now = installation.metric(looks).await;
        if now > before {
            return Ok((now, calls(&ec2.summary().await?, "DescribeInstances")));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(Trouble::new("watch", format!("no look in 20 s\n{}", installation.log())))
}

// ---- watching

pub(crate) fn measure_watch() -> Result<Report> {
    serving::runtime()?.block_on(watch())
}

async fn watch() -> Result<Report> {
    let mut report = Report::default();
    let ec2 = FakeEc2Process::start(2, &unthrottled(), &[]).await?;
    let directory = tempfile::tempdir().map_err(|e| Trouble::new("make a directory", e))?;
    let key = key_file(directory.path())?;
    let mut cluster = Cluster::new(&site(ec2.url(), &key, LOOK)).await;
    fill(&cluster, &ec2, &key).await?;
    cluster.start("provisioner-1").await;
    let looks = "epu_provisioner_iaas_calls_total{call=\"list\",outcome=\"ok\",site=\"east\"}";
    wait::until(PATIENCE, "the site has been listed", async || {
        let looked = cluster.metric("provisioner-1", looks).await;
        if looked >= 3.0 { Ok(()) } else { Err(format!("{looked} looks")) }
    })
    .await
    .map_err(|trouble| Trouble(format!("{trouble}\n{}", cluster.logs())))?;

    let pid = cluster.process("provisioner-1").pid;
    let (cpu, looked, pages) = (
        cpu_of(pid)?,
        cluster.metric("provisioner-1", looks).await,
        calls(&ec2.summary().await?, "DescribeInstances"),
    );
    let (began, before) = (wall(), writes(&cluster).await);
    tokio::time::sleep(WATCH).await;
    let took = began.elapsed().as_secs_f64();
    let used = cpu_of(pid)?.saturating_sub(cpu).as_secs_f64() / took;
    let written = writes(&cluster).await - before;
    let looked = cluster.metric("provisioner-1", looks).await - looked;
    let pages = calls(&ec2.summary().await?, "DescribeInstances") - pages;
    let live = cluster
        .metric("provisioner-1", "epu_provisioner_instances{state=\"600-RUNNING\"}")
        .await;
    if (live - 10_000.0).abs() > 0.5 {
        return Err(Trouble::new("watch", format!("{live} of {WATCHED} are left\n{}", cluster.logs())));
    }
    report.note(format!(
        "{looked} looks of {:.1} pages each in {took:.0} s, one every {} (the default is 60 s): {:.0} ms of processor time a look",
        number(pages) / looked,
        epu_core::Span(LOOK),
        used * took / looked * 1e3
    ));
    report.figure("ec2-watch-10k-cores", used, "cores", Goal::Below(0.3));
    report.figure("ec2-watch-10k-writes", written, "writes-beside-leases", Goal::Below(1.0));
    Ok(report)
}

fn unthrottled() -> Plan {
    let off = serde_json::from_value(json!({"on": false}));
    Plan {
        throttle: off.ok(),
        ..plan()
    }
}

async fn writes(cluster: &Cluster) -> f64 {
    let page = cluster.metrics("provisioner-1").await;
    let lines = page.lines().filter_map(|line| line.strip_prefix("epu_store_writes_total{op=\""));
    lines
        .filter_map(|rest| rest.split_once("\"} "))
        .filter(|(op, _)| !["lease", "check"].contains(op))
        .filter_map(|(_, value)| value.trim().parse::<f64>().ok())
        .sum()
}

/// Machines on the site and as many records, all of them running.
async fn fill(cluster: &Cluster, ec2: &FakeEc2Process, key: &str) -> Result<()> {
    let failed = |doing: &'static str| move |e: &dyn std::error::Error| Trouble::new(doing, epu_core::code::Chain(e));
    let store = PgStore::connect(&PgSettings::new(SecretUrl::new(cluster.database_url()))).await;
    let store = store.map_err(|e| failed("connect to the database")(&e))?;
    let installation = store
        .keep("installation", "epu-figures")
        .await
        .map_err(|e| failed("name the installation")(&e))?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let random = Arc::new(Random::seeded(7));
    let metrics = Arc::new(epu_provisioner::Metrics::new().map_err(|e| failed("make metrics")(&e))?);
    let settings: Ec2Settings = serde_json::from_value(json!({
        "region": "us-east-1", "endpoint": ec2.url(), "identity-endpoint": ec2.url(),
        "credentials": {"access-key-id": key, "secret-access-key": key}
    }))
    .map_err(|e| Trouble::new("make settings", e))?;
    let site = SiteName::new("east").map_err(|e| Trouble::new("name the site", e))?;
    let parts = Ec2Parts {
        installation: installation.clone(),
        ca_pem: None,
        pacers: Pacers::new(clock.clone(), metrics),
        accounts: Accounts::default(),
        clock: clock.clone(),
        random: random.clone(),
    };
    let driver = ec2::build(&site, &settings, &parts).map_err(|e| failed("make the driver")(&e))?;
    let template: Template = serde_json::from_value(json!({
        "run": ["true"], "machine": {"image": IMAGE, "size": "t3.micro"}
    }))
    .map_err(|e| Trouble::new("make a template", e))?;
    let now = clock.now();
    for _ in 0..WATCHED / 1_000 {
        launch(&store, driver.as_ref(), &random, &installation, &template, now).await?;
    }
    store.close().await;
    Ok(())
}

async fn launch(
    store: &PgStore,
    driver: &dyn Iaas,
    random: &Random,
    installation: &str,
    template: &Template,
    now: Timestamp,
) -> Result<()> {
    let pool = PoolName::new("jobs").map_err(|e| Trouble::new("name the pool", e))?;
    let launch = IaasLaunch {
        installation: installation.to_owned(),
        launch: LaunchId(random.uuid(now)),
        pool: pool.clone(),
        instances: (0..1_000).map(|_| InstanceId(random.uuid(now))).collect(),
        min: 1_000,
        launch_token: LaunchToken("l.figures".to_owned()),
        url: "http://127.0.0.1:9".to_owned(),
        template: template.clone(),
        doubtful: false,
    };
    let machines = driver.launch(&launch).await.map_err(|e| Trouble::new("launch", e))?;
    let site = SiteName::new("east").map_err(|e| Trouble::new("name the site", e))?;
    let mut made = samples::Instances::seeded(&pool, 1)?;
    let instances = (0..).zip(launch.instances.iter().zip(&machines)).map(|(index, (id, machine))| {
        Arc::new(Instance {
            id: *id,
            launch: launch.launch,
            index,
            site: site.clone(),
            machine: Some(machine.id.clone()),
            version: 1,
            ..made.make(State::Running, now - Duration::from_secs(3_600))
        })
    });
    let commit = ProvisionCommit {
        instances: instances.collect(),
        ..ProvisionCommit::default()
    };
    let written = store.commit_provision(commit).await;
    written.map_err(|e| Trouble::new("write instances", epu_core::code::Chain(&e)))
}

// ---- losing

pub(crate) fn measure_losing() -> Result<Report> {
    serving::runtime()?.block_on(async {
        let mut report = Report::default();
        let (mut total, mut bad, mut slowest) = (Outcome::default(), 0_u64, Duration::ZERO);
        let began = wall();
        let runs = futures::stream::iter(1..=RUNS).map(|seed| async move { (seed, ec2_runs::endure(seed).await) });
        let mut runs = pin!(runs.buffer_unordered(AT_ONCE));
        while let Some((seed, result)) = runs.next().await {
            match result {
                Ok(outcome) => {
                    total.kills += outcome.kills;
                    total.machines += outcome.machines;
                    total.calls += outcome.calls;
                    total.faults += outcome.faults;
                    slowest = slowest.max(outcome.converged);
                }
                Err(trouble) => {
                    bad += 1;
                    report.note(format!("run {seed}: {trouble}"));
                }
            }
        }
        report.note(format!(
            "{RUNS} runs in {:.0} s: {} kills of the control process, {} machines, {} calls of which {} met a fault; slowest to converge {:.1} s",
            began.elapsed().as_secs_f64(),
            total.kills,
            total.machines,
            total.calls,
            total.faults,
            slowest.as_secs_f64()
        ));
        report.figure("ec2-200-faulty-runs-broken", number(bad), "runs", Goal::Below(0.5));
        Ok(report)
    })
}
