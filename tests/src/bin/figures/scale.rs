//! How cost grows with size: installations of 12,500 to 500,000 instances, fifty to a pool, under virtual time.
//!
//! Of each size: what one second costs in which nothing changes but every instance speaks once in half a minute; what it costs beyond
//! that when the workers of a hundred instances fail and are replaced; the memory of everything together; and a restart of controller
//! and provisioner. Each size is measured in a process of its own, so that none has the memory of another.
//!
//! Processor time is that of the one thread in which everything runs, with the stand-ins for site and agents in it.
//!
//! The same for real: RabbitMQ between all, records in PostgreSQL, the clock on the wall, and the processor time of this process, of the
//! broker and of the database each by itself.

mod ground;
mod plot;
mod town;

use std::process::Command;
use std::time::Duration;

use epu_tests::{Result, Trouble};
use serde::{Deserialize, Serialize};

use crate::clock::{ThreadCpu, cpu_of, ms, rss_of, wall};
use crate::{Goal, Report};
use ground::Ground;
use town::Town;

/// Members of each pool.
const OF_EACH: u32 = 50;
/// The sizes, as pools.
const SIZES: [u32; 5] = [250, 500, 1_000, 2_000, 10_000];
/// The two that are compared.
const SMALL: u32 = 1_000;
const LARGE: u32 = 10_000;
/// Until everybody was heard and every deadline came once.
const WARM: u32 = 200;
/// Seconds of one measurement: whole rounds of whatever is done now and then.
const SECONDS: u32 = 120;
/// Seconds from one change to the next, and workers that fail at each: many, so that it shows beside what goes on anyway.
const BETWEEN: u32 = 10;
const FAIL: u32 = 500;
/// Of how many the cost is told.
const TOLD: u32 = 100;
/// Measurements, of which the best counts.
const TIMES: u32 = 3;

/// What was measured at one size.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Size {
    instances: u32,
    /// Of a second in which nothing changes, the mean and the longest.
    idle_ms: f64,
    longest_ms: f64,
    /// Of [`TOLD`] instances being replaced, beyond that: the median of all changes, since what is done now and then may be put off by one.
    change_ms: f64,
    /// Of everything together, an instance.
    bytes: f64,
    restart_s: f64,
    /// How often the site was listed, a change.
    lists: f64,
    /// Of the broker and of the database in a second in which nothing changes; zero where there are none.
    #[serde(default)]
    others_ms: (f64, f64),
}

/// How a size is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// One thread, virtual time, everything in memory.
    Virtual,
    /// RabbitMQ, PostgreSQL, real time.
    Real,
}

impl How {
    /// As this program is asked for it.
    const REAL: &str = "--real";

    /// Seconds until everybody was heard and what a start leaves behind is done.
    fn warm(self) -> u32 {
        match self {
            Self::Virtual => WARM,
            Self::Real => 120,
        }
    }

    /// Measurements, of which the best counts.
    fn times(self) -> u32 {
        match self {
            Self::Virtual => TIMES,
            Self::Real => 1,
        }
    }
}

/// Processor time.
enum Meter {
    /// Of this thread.
    Thread(ThreadCpu),
    /// Of this process, to 10 ms.
    Process,
}

impl Meter {
    fn used(&self) -> Result<Duration> {
        match self {
            Self::Thread(cpu) => cpu.used(),
            Self::Process => cpu_of(std::process::id()),
        }
    }
}

/// Measures every size and compares.
pub(crate) fn measure() -> Result<Report> {
    let mut report = Report::default();
    let sizes: Vec<Size> = SIZES.iter().map(|pools| elsewhere(*pools, How::Virtual)).collect::<Result<_>>()?;
    let of = |pools: u32| {
        let found = sizes.iter().find(|size| size.instances == pools * OF_EACH);
        found.ok_or_else(|| Trouble::new("compare sizes", format!("{pools} pools were not measured")))
    };
    let (small, large) = (of(SMALL)?, of(LARGE)?);
    report.figure("scale-50k-second", small.idle_ms, "ms", Goal::Below(30.0));
    report.figure("scale-500k-second", large.idle_ms, "ms", Goal::Below(300.0));
    report.figure(
        "scale-500k-to-50k-second",
        large.idle_ms / small.idle_ms,
        "times",
        Goal::Below(12.0),
    );
    report.figure("scale-500k-to-50k-change", change_ratio(large, small), "times", Goal::Below(1.5));
    report.figure("scale-500k-rss", large.bytes / 1_000.0, "kB-an-instance", Goal::Below(8.0));
    report.figure("scale-500k-restart", large.restart_s, "s", Goal::Below(15.0));
    table(&mut report, &sizes);
    if let Some(file) = crate::written_to() {
        std::fs::write(&file, plot::draw(&sizes)).map_err(|e| Trouble::new(format!("write {}", file.display()), e))?;
    }
    Ok(report)
}

/// Measures two sizes for real and compares.
pub(crate) fn measure_real() -> Result<Report> {
    let mut report = Report::default();
    let (small, large) = (elsewhere(SMALL, How::Real)?, elsewhere(LARGE, How::Real)?);
    report.figure("scale-real-50k-second", small.idle_ms, "ms", Goal::Below(100.0));
    report.figure("scale-real-500k-second", large.idle_ms, "ms", Goal::Below(1_000.0));
    let change = change_ratio(&large, &small);
    report.figure("scale-real-500k-to-50k-change", change, "times", Goal::Below(1.5));
    report.figure("scale-real-500k-rss", large.bytes / 1_000.0, "kB-an-instance", Goal::Below(8.0));
    report.figure("scale-real-500k-restart", large.restart_s, "s", Goal::Below(60.0));
    table(&mut report, &[small, large]);
    Ok(report)
}

/// How many times as much a change costs in the large one; not a number, and so not met, where that is lost in the noise.
fn change_ratio(large: &Size, small: &Size) -> f64 {
    let is_seen = large.change_ms > 0.0 && small.change_ms > 0.0;
    if is_seen { large.change_ms / small.change_ms } else { f64::NAN }
}

fn table(report: &mut Report, sizes: &[Size]) {
    report.note("| instances | pools | idle second | longest | broker, database | 100 replaced | lists | memory each | restart |");
    report.note("|---|---|---|---|---|---|---|---|---|");
    for size in sizes {
        let (broker, database) = size.others_ms;
        report.note(format!(
            "| {} | {} | {:.1} ms | {:.0} ms | {broker:.0}, {database:.0} ms | {:.1} ms | {:.1} | {:.1} kB | {:.2} s |",
            size.instances,
            size.instances / OF_EACH,
            size.idle_ms,
            size.longest_ms,
            size.change_ms,
            size.lists,
            size.bytes / 1_000.0,
            size.restart_s,
        ));
    }
}

/// Measures one size in a process of its own.
fn elsewhere(pools: u32, how: How) -> Result<Size> {
    let doing = format!("measure {pools} pools");
    let program = std::env::current_exe().map_err(|e| Trouble::new(&doing, e))?;
    let mut asked = Command::new(program);
    asked.args(["--size", &pools.to_string()]);
    if how == How::Real {
        asked.arg(How::REAL);
    }
    let ended = asked.output();
    let ended = ended.map_err(|e| Trouble::new(&doing, e))?;
    let said = String::from_utf8_lossy(&ended.stdout);
    serde_json::from_str(&said).map_err(|e| Trouble::new(&doing, format!("{e}: {said}{}", String::from_utf8_lossy(&ended.stderr))))
}

/// Measures one size here; what it came to, as JSON.
pub(crate) fn measure_one(pools: u32, arguments: &[String]) -> Result<String> {
    let how = if arguments.iter().any(|a| a == How::REAL) {
        How::Real
    } else {
        How::Virtual
    };
    let runtime = match how {
        How::Virtual => tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build(),
        How::Real => tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build(),
    };
    let size = runtime.map_err(|e| Trouble::new("start a runtime", e))?.block_on(one(pools, how))?;
    serde_json::to_string(&size).map_err(|e| Trouble::new("tell a size", e))
}

async fn one(pools: u32, how: How) -> Result<Size> {
    let (ground, cpu) = match how {
        How::Virtual => (Ground::in_memory(), Meter::Thread(ThreadCpu::here()?)),
        How::Real => (Ground::real().await?, Meter::Process),
    };
    let instances = pools * OF_EACH;
    let me = std::process::id();
    let before = rss_of(me)?;
    let mut town = Town::found(ground, pools, OF_EACH).await?;
    for _ in 0..how.warm() {
        town.second().await?;
    }
    is_whole(&town, instances).await?;
    let bytes = (rss_of(me)? - before) * 1e6 / f64::from(instances);
    let others = town.ground.others()?;
    let mut changes = 0;
    let mut idle: Vec<Seconds> = Vec::new();
    for _ in 0..how.times() {
        idle.push(pass(&mut town, &cpu, None).await?);
    }
    let after = town.ground.others()?;
    let each_ms = |after: Duration, before: Duration| ms(after.saturating_sub(before)) / f64::from(how.times() * SECONDS);
    let others_ms = (each_ms(after.0, others.0), each_ms(after.1, others.1));
    let lists = town.site.lists();
    let mut changing: Vec<Seconds> = Vec::new();
    for _ in 0..how.times() {
        changing.push(pass(&mut town, &cpu, Some(&mut changes)).await?);
    }
    let lists = count(town.site.lists() - lists) / f64::from(changes);
    for _ in 0..SECONDS {
        town.second().await?;
    }
    is_whole(&town, instances).await?;
    let (began, began_at) = (cpu.used()?, wall());
    let town = town.restart().await?;
    let restart_s = match how {
        How::Virtual => cpu.used()?.saturating_sub(began),
        How::Real => began_at.elapsed(),
    };
    town.end().await?;
    let best = idle.iter().min_by_key(|seconds| seconds.iter().sum::<Duration>());
    let best = best.ok_or_else(|| Trouble::new("measure a second", "none was"))?;
    Ok(Size {
        instances,
        idle_ms: ms(best.iter().sum()) / f64::from(SECONDS),
        longest_ms: ms(best.iter().copied().max().unwrap_or_default()),
        change_ms: beyond(&idle, &changing) * f64::from(TOLD) / f64::from(FAIL),
        bytes,
        restart_s: restart_s.as_secs_f64(),
        lists,
        others_ms,
    })
}

/// What each second of a pass cost.
type Seconds = Vec<Duration>;

/// Lets time pass; with workers failing, again and again, when these changes are counted.
async fn pass(town: &mut Town, cpu: &Meter, mut changes: Option<&mut u32>) -> Result<Seconds> {
    let mut seconds = Vec::new();
    for second in 0..SECONDS {
        let before = cpu.used()?;
        if let Some(changes) = changes.as_deref_mut().filter(|_| second % BETWEEN == 0) {
            town.fail(FAIL, *changes).await?;
            *changes += 1;
        }
        town.second().await?;
        seconds.push(cpu.used()?.saturating_sub(before));
    }
    Ok(seconds)
}

/// What a change costs beyond what goes on anyway, in milliseconds: from one to the next, the median of all but the first of each pass,
/// beside which nothing is left of one before.
fn beyond(idle: &[Seconds], changing: &[Seconds]) -> f64 {
    let between = |seconds: &Seconds| -> Vec<Duration> { seconds.chunks(BETWEEN as usize).map(|some| some.iter().sum()).collect() };
    let idle: Vec<Vec<Duration>> = idle.iter().map(between).collect();
    let mut all = Vec::new();
    for changing in changing.iter().map(between) {
        for (nth, cost) in changing.into_iter().enumerate().skip(1) {
            let usual = idle.iter().filter_map(|idle| idle.get(nth)).min();
            all.extend(usual.map(|usual| ms(cost) - ms(*usual)));
        }
    }
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

async fn is_whole(town: &Town, instances: u32) -> Result<()> {
    let busy = town.busy().await?;
    if busy == instances {
        return Ok(());
    }
    Err(Trouble::new(
        "have everybody at work",
        format!("{busy} of {instances} are heard to be busy"),
    ))
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn count(n: u64) -> f64 {
    n as f64
}
