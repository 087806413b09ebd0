//! A run of the real program on the faulty fake EC2, with real agents on its machines: killed at random moments, and checked from
//! outside, by what EC2 counted, not by what the program says.
//!
//! What is checked once faults have stopped: the pool is what was asked for last (all converge); every machine that EC2 bills is one that
//! runs for a live record (none leaked); no machine of a launch existed twice at a time (none doubled); every live record has a machine
//! that lives (none lost); after `teardown` there is no machine.

#![expect(clippy::unwrap_used, reason = "a part of the tests: one that cannot go on says why")]

use std::collections::BTreeSet;
use std::time::Duration;

use epu_core::Span;
use epu_core::time::{Clock as _, SystemClock};

use crate::fake_ec2::FakeEc2Process;
use crate::fake_ec2::catalogue::{ACCESS_KEY, IMAGE};
use crate::fake_ec2::count::Report;
use crate::fake_ec2::plan::{Between, Chance, Effect, Fate, Fault, Plan, Room, Timings};
use crate::installation::Installation;
use crate::{Result, Trouble, process, wait};

/// How long a pool may take to be as it should once faults have stopped: the longest deadline in the settings below, twice.
const CONVERGES: Duration = Duration::from_secs(90);
/// How long the last machine may take to go.
const EMPTIES: Duration = Duration::from_secs(60);

/// What came of a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outcome {
    /// How often the control process was killed.
    pub kills: u32,
    /// How many machines there ever were.
    pub machines: u64,
    /// How many calls the site got.
    pub calls: u64,
    /// How many of them met a fault.
    pub faults: u64,
    /// From the end of faults until the pool was as it should be.
    pub converged: Duration,
}

/// The plan of a run: everything goes wrong now and then.
fn harm(random: &mut fastrand::Rng) -> Plan {
    let some = |action: &str, effect, share: f64| Fault::on(action, effect).probability(share);
    let mut faults = vec![
        some("RunInstances", Effect::Dropped, 0.15),
        some("RunInstances", Effect::Lost, 0.05),
        some("RunInstances", Effect::error("InternalError"), 0.05),
        some("RunInstances", Effect::error("RequestLimitExceeded"), 0.05),
        some("RunInstances", Effect::error("InsufficientInstanceCapacity"), 0.05),
        some("TerminateInstances", Effect::Dropped, 0.1),
        some("TerminateInstances", Effect::error("InternalError"), 0.1),
        some("DescribeInstances", Effect::Lost, 0.05),
        some("DescribeInstances", Effect::error("RequestLimitExceeded"), 0.05),
        some("DescribeInstances", Effect::Malformed, 0.03),
        some("DescribeInstances", Effect::Missing { share: 0.3 }, 0.05),
        some("DescribeInstances", Effect::Empty, 0.03),
        some("CreateTags", Effect::error("InternalError"), 0.3),
    ];
    if random.bool() {
        let stale = Effect::Stale { by: Span::secs(1) };
        faults.push(some("DescribeInstances", stale, 0.1));
    }
    let chance = |fate, share| Chance::always(fate).probability(share);
    let after = Span::millis(random.u64(500..4_000));
    Plan {
        capacity: if random.u8(0..3) == 0 {
            vec![Room::in_zone("us-east-1a", 3)]
        } else {
            Vec::new()
        },
        faults,
        fates: vec![
            chance(Fate::LaunchFails, 0.03),
            chance(Fate::Slow { by: Span::secs(2) }, 0.1),
            chance(Fate::Vanishes { after }, 0.03),
            chance(Fate::Stops { after }, 0.03),
            chance(Fate::Terminated { after }, 0.03),
        ],
        timings: Some(Timings {
            lag: Between(Span::millis(0), Span::millis(1_500)),
            ..Timings::default()
        }),
        ..Plan::default()
    }
}

fn config(endpoint: &str, n: u64) -> String {
    format!(
        "sites:
  east:
    ec2:
      region: us-east-1
      endpoint: {endpoint}
      identity-endpoint: {endpoint}
      credentials: {{access-key-id: env:EC2_KEY, secret-access-key: env:EC2_SECRET}}
      consistency-grace: 3s
      look-fast: 1s
      look-steady: 1s
      sweep-grace: 4s
templates:
  worker:
    run: [/usr/bin/sleep, infinity]
    heartbeat: 1s
    stop-grace: 1s
    ready-within: 15s
    machine: {{image: {IMAGE}, size: t3.micro}}
pools:
  jobs:
    template: worker
    min: 0
    max: 12
    engine: {{keep: {{n: {n}}}}}
    placements:
      - {{site: east, name: first, max: 6, machine: {{zone: us-east-1a}}}}
      - {{site: east, name: second, machine: {{zone: us-east-1b}}}}
    limits: {{launch-failures: 5, launch-backoff: 2s, capacity-memory: 2s, drain: 5s, cooldown-down: 1s, stabilization: 1s}}
"
    )
}

/// One run.
///
/// # Errors
/// What was not as it must be, with the end of what the control process said.
pub async fn endure(seed: u64) -> Result<Outcome> {
    let mut random = fastrand::Rng::with_seed(seed);
    let boots = tempfile::Builder::new().prefix("epu-ec2-machines.").tempdir();
    let boots = boots.map_err(|e| Trouble::new("make a directory for machines", e))?;
    let agent = process::program()?;
    let boot = ["--boot", boots.path().to_str().unwrap(), "--agent", agent.to_str().unwrap()];
    let ec2 = FakeEc2Process::start(seed, &harm(&mut random), &boot).await?;
    let mut installation = Installation::new(&config(ec2.url(), random.u64(2..7)));
    let mut outcome = Outcome::default();

    let mut wanted = random.u64(2..7);
    installation.configure(&config(ec2.url(), wanted));
    begin(&mut installation).await;
    for _ in 0..random.u32(1..5) {
        tokio::time::sleep(Duration::from_millis(random.u64(0..2_500))).await;
        if random.bool() {
            wanted = random.u64(1..9);
            installation.configure(&config(ec2.url(), wanted));
            installation.control().process.signal(rustix::process::Signal::HUP);
            tokio::time::sleep(Duration::from_millis(random.u64(0..800))).await;
        }
        installation.kill9();
        outcome.kills += 1;
        tokio::time::sleep(Duration::from_millis(random.u64(0..1_000))).await;
        begin(&mut installation).await;
    }

    // Faults stop; what they did to machines that are there already goes on until it is found.
    ec2.set_plan(&Plan::default()).await?;
    let clock = SystemClock::start();
    let began = clock.now();
    let good = wait::until(CONVERGES, "the pool is as it should be", async || {
        let report = ec2.report().await.map_err(|trouble| trouble.to_string())?;
        converged(&installation, &report, wanted).await
    });
    let said = |trouble: Trouble| Trouble(format!("seed {seed}: {trouble}\n{}", installation.log()));
    good.await.map_err(said)?;
    outcome.converged = clock.now().since(began);
    let report = ec2.report().await?;
    outcome.machines = report.ever;
    outcome.calls = report.calls.values().sum();
    outcome.faults = report.faults.values().sum();
    if report.doubled > 0 {
        let doubled: Vec<_> = report.tallies.iter().filter(|tally| tally.most > 1).collect();
        return Err(said(Trouble::new("look for doubled machines", format!("{doubled:?}"))));
    }

    let torn = installation.run(&["teardown", "--yes", "--force", "--wait", "40s"]);
    if torn.code != Some(0) {
        let report = ec2.report().await?;
        let left: Vec<_> = report.machines.iter().filter(|machine| machine.is_alive()).collect();
        return Err(said(Trouble::new(
            "tear down",
            format!("{torn:?}; alive: {left:?}\n{}", ec2.output_tail()),
        )));
    }
    wait::until(EMPTIES, "no machine is left", async || {
        let report = ec2.report().await.map_err(|trouble| trouble.to_string())?;
        let left = report.machines.iter().filter(|machine| machine.is_alive()).count();
        if left == 0 {
            Ok(())
        } else {
            Err(format!("{left} machines are left"))
        }
    })
    .await
    .map_err(said)?;
    Ok(outcome)
}

async fn begin(installation: &mut Installation) {
    installation
        .start_through(&[], |command| {
            command
                .env("EC2_KEY", ACCESS_KEY)
                .env("EC2_SECRET", "secret")
                .env_remove("AWS_PROFILE");
        })
        .await;
}

/// Whether as many run as are wanted, each with a machine of its own, and nothing else is billed.
async fn converged(installation: &Installation, report: &Report, wanted: u64) -> std::result::Result<(), String> {
    let live = installation.live().await;
    let running = live
        .iter()
        .filter(|view| view.instance.state == epu_core::State::Running && view.instance.drain.is_none());
    let (count, records) = (running.count() as u64, live.len() as u64);
    let recorded: BTreeSet<&str> = live.iter().filter_map(|view| view.instance.machine.as_deref()).collect();
    let billed: BTreeSet<&str> = report
        .machines
        .iter()
        .filter(|machine| machine.is_alive())
        .map(|machine| machine.id.as_str())
        .collect();
    if count == wanted && records == wanted && recorded.len() as u64 == records && recorded == billed {
        return Ok(());
    }
    let stray: Vec<_> = billed.difference(&recorded).collect();
    let lost: Vec<_> = recorded.difference(&billed).collect();
    let states: Vec<String> = live.iter().map(crate::installation::brief).collect();
    Err(format!(
        "{count} of {wanted} run, {records} live; without a record: {stray:?}; without a machine: {lost:?}; {states:?}"
    ))
}
