//! Plays the config file's pools against a workload.
//!
//! Each variant is a world of its own in a thread of its own, a few at a time. What is shown depends on nothing but the settings and the seed:
//! not on how many threads there are, nor on which is first.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use epu_controller::spec::Resolved;
use epu_core::time::{Clock as _, SystemClock};
use epu_core::{Fault, PoolName, SiteName, Span};
use epu_simulator::play::boot::Boot;
use epu_simulator::play::outcome::Billing;
use epu_simulator::play::upsets::Upsets;
use epu_simulator::play::workload::Workload;
use epu_simulator::play::{Play, Played, Pool, Unplayed};
use serde::Serialize;
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::super::Screen;
use super::variants::{self, Variant};
use super::{plot, show, work};
use crate::cli::Output;
use crate::cli::simulate::{RunArgs, Trouble, Unit};
use crate::config::{self, Config};
use crate::exit::{Exit, Failure};

/// How many worlds run at once at the most. More only need more memory where machines have more processors than that.
const THREADS_MAX: usize = 4;
/// How often progress is shown.
const SHOWN_EVERY: Duration = Duration::from_millis(200);

/// The answer, whole.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    /// What chance went by.
    pub seed: u64,
    /// How machines came up.
    pub boot: String,
    /// What went wrong: `none`, `light` or `heavy`.
    pub faults: String,
    /// What was left out of workloads, and changed in pools so that they can be played.
    pub notes: Vec<String>,
    /// What came of each; the first is the file's own settings.
    pub variants: Vec<Column>,
}

/// What came of one variant.
#[derive(Debug, Serialize)]
pub(super) struct Column {
    /// Its name.
    pub name: String,
    /// What differs from the file, by dotted path.
    pub settings: BTreeMap<String, Value>,
    /// What came of it.
    #[serde(flatten)]
    pub played: Played,
}

/// Plays.
///
/// # Errors
/// Every fault of config, workload and settings; that it was ended, or came to nothing.
pub(super) fn run(screen: &mut Screen, file: &Path, args: &RunArgs) -> Result<Exit, Failure> {
    let text = config::text_of(file).map_err(|flaws| Failure::Flaws {
        flaws,
        text: String::new(),
    })?;
    let config = Config::read(file, &text).map_err(|flaws| Failure::Flaws { flaws, text })?;
    let variants = variants::read(&args.compare)?;
    let (plays, notes) = plays(&config, &variants, args)?;
    let played = all(&plays)?;
    let base = played.first().cloned();
    let mut columns = Vec::new();
    for (variant, mut played) in variants.into_iter().zip(played) {
        compare(&mut played, base.as_ref().filter(|_| !columns.is_empty()));
        columns.push(Column {
            name: variant.name,
            settings: variant.set,
            played,
        });
    }
    let answer = Answer {
        seed: args.seed,
        boot: args.boot.to_string(),
        faults: format!("{:?}", args.faults).to_lowercase(),
        notes,
        variants: columns,
    };
    if let Some(file) = &args.plot {
        std::fs::write(file, plot::draw(&answer))
            .map_err(|error| Failure::while_doing(format!("write {}", file.display()), Fault::new("internal", error.to_string())))?;
    }
    screen.answer(&answer, |_| show::text(&answer))?;
    if screen.output == Output::Table && args.plot.is_some() {
        let file = args.plot.as_deref().unwrap_or(Path::new(""));
        screen.line(&format!("\nplot: {}", file.display()))?;
    }
    let is_broken = answer.variants.iter().any(|column| !column.played.broken.is_empty());
    Ok(if is_broken { Exit::LeftOver } else { Exit::Done })
}

/// How much better than the first it is.
fn compare(played: &mut Played, base: Option<&Played>) {
    let Some(base) = base else { return };
    for (outcome, base) in played.pools.iter_mut().zip(&base.pools) {
        outcome.elasticity.speedup = outcome.elasticity.speedup_over(&base.elasticity);
    }
}

/// A play for each variant, and what is to be said of all of them.
fn plays(config: &Config, variants: &[Variant], args: &RunArgs) -> Result<(Vec<Play>, Vec<String>), Failure> {
    let names: Vec<PoolName> = config.pools.iter().map(|pool| pool.name.clone()).collect();
    let work = work::gather(args, &names)?;
    let held: BTreeMap<_, _> = args.sensor.iter().cloned().collect();
    let is_played =
        |pool: &&Resolved| args.all_pools || args.pool.contains(&pool.name) || (args.pool.is_empty() && work.contains_key(&pool.name));
    let pools: Vec<&Resolved> = config.pools.iter().filter(is_played).collect();
    if let Some(pool) = work.keys().find(|name| !pools.iter().any(|pool| pool.name == **name)) {
        return Err(Failure::Usage(format!(
            "there is work for pool {pool}, which is not played; add --pool {pool}, or leave --pool away"
        )));
    }
    for sensor in held.keys() {
        if !pools.iter().any(|pool| pool.spec.sensors.contains_key(sensor)) {
            let known: BTreeSet<&str> = pools
                .iter()
                .flat_map(|pool| pool.spec.sensors.keys())
                .map(|name| name.as_str())
                .collect();
            let known = known.into_iter().collect::<Vec<_>>().join(", ");
            return Err(Failure::Usage(format!(
                "--sensor {sensor}: no pool that is played has such a sensor; there are: {known}"
            )));
        }
    }
    let mut notes: Vec<String> = work.values().flat_map(|workload| workload.notes.clone()).collect();
    let work: BTreeMap<PoolName, Arc<Workload>> = work.into_iter().map(|(name, workload)| (name, Arc::new(workload))).collect();
    let known = config.known();
    let mut plays = Vec::new();
    for variant in variants {
        let mut played = Vec::new();
        for pool in &pools {
            let Resolved { name, spec, template, .. } = variants::applied(pool, variant, &known)?;
            let workload = work.get(&name).cloned().unwrap_or_default();
            played.push(Pool::new(name, spec, template, workload, &held).map_err(Failure::Usage)?);
        }
        if plays.is_empty() {
            notes.extend(played.iter().flat_map(|pool| pool.notes.clone()));
        }
        let used: BTreeSet<SiteName> = played
            .iter()
            .flat_map(|pool| &pool.spec.placements)
            .map(|place| place.site.clone())
            .collect();
        plays.push(play(config, played, used, args));
    }
    Ok((plays, notes))
}

fn play(config: &Config, pools: Vec<Pool>, used: BTreeSet<SiteName>, args: &RunArgs) -> Play {
    let room = |name: &SiteName| {
        let local = config.sites.get(name).and_then(|site| site.local.as_ref());
        local.map(|local| local.max_instances)
    };
    Play {
        pools,
        sites: used.into_iter().map(|name| (name.clone(), room(&name))).collect(),
        boot: Boot {
            takes: args.boot,
            failing: args.boot_failures,
        },
        set_up: *args.set_up,
        upsets: match args.faults {
            Trouble::None => Upsets::None,
            Trouble::Light => Upsets::Light,
            Trouble::Heavy => Upsets::Heavy,
        },
        seed: args.seed,
        before: *args.before,
        after: *args.after,
        target_wait: *args.target_wait,
        price: args.price,
        billing: Billing(match args.billing {
            Unit::Second => Duration::from_secs(1),
            Unit::Minute => Duration::from_secs(60),
            Unit::Hour => Duration::from_secs(3_600),
        }),
        points: usize::from(args.points),
    }
}

/// Plays all of them, some at a time, and shows how far that is. Ctrl-C ends it.
fn all(plays: &[Play]) -> Result<Vec<Played>, Failure> {
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(THREADS_MAX)
        .min(plays.len());
    let (next, ended) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let stop = AtomicBool::new(false);
    let far: Vec<AtomicU64> = plays.iter().map(|_| AtomicU64::new(0)).collect();
    let results: Mutex<BTreeMap<usize, Result<Played, Unplayed>>> = Mutex::default();
    let one = || {
        while let Some((number, play)) = Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|number| Some((number, plays.get(number)?))) {
            let heed = |at: Duration| {
                if let Some(far) = far.get(number) {
                    far.store(at.as_secs(), Ordering::Relaxed);
                }
                !stop.load(Ordering::Relaxed)
            };
            let result = play.run(&heed);
            results.lock().unwrap_or_else(PoisonError::into_inner).insert(number, result);
        }
    };
    let whole: u64 = plays.iter().map(|play| play.lasts().as_secs()).sum();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let is_whole = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let _ended = Counts(&ended);
                    one();
                })
            })
            .collect();
        let far = || (far.iter().map(|far| far.load(Ordering::Relaxed)).sum::<u64>(), whole);
        runtime.block_on(watch(&ended, threads, &stop, far));
        workers.into_iter().all(|worker| worker.join().is_ok())
    });
    let doing = "simulate";
    if !is_whole {
        return Err(Failure::while_doing(
            doing,
            Fault::new("internal", "the simulated world panicked; its words are above"),
        ));
    }
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    let failed = |unplayed| match unplayed {
        ended @ Unplayed::Ended(_) => Failure::LeftOver(ended.to_string()),
        Unplayed::Refused(fault) => Failure::while_doing(doing, fault),
        panicked @ Unplayed::Panicked(_) => Failure::while_doing(doing, Fault::new("internal", panicked.to_string())),
    };
    results.into_values().collect::<Result<Vec<_>, _>>().map_err(failed)
}

/// Counts a thread's end, also by a panic.
struct Counts<'a>(&'a AtomicUsize);

impl Drop for Counts<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Until every thread has ended.
async fn watch(ended: &AtomicUsize, threads: usize, stop: &AtomicBool, far: impl Fn() -> (u64, u64)) {
    let clock = SystemClock::start();
    let began = clock.now();
    let is_seen = std::io::stderr().is_terminal();
    let mut is_first = true;
    // Where signals cannot be listened for, Ctrl-C ends the process as ever.
    let mut interrupt = signal(SignalKind::interrupt()).ok();
    while ended.load(Ordering::Relaxed) < threads {
        tokio::select! {
            biased;
            () = interrupted(interrupt.as_mut()) => stop.store(true, Ordering::Relaxed),
            () = tokio::time::sleep(if is_first { SHOWN_EVERY / 20 } else { SHOWN_EVERY }) => {}
        }
        is_first = false;
        if is_seen {
            let (far, whole) = far();
            let took = clock.now().since(began).as_secs_f64().max(0.001);
            let speed = far as f64 / took;
            let shown = format!(
                "\rsimulated {} of {} ({:.0} times as fast as life)\x1b[K",
                Span::secs(far),
                Span::secs(whole),
                speed
            );
            // Nobody is to be told when this cannot be shown.
            drop(std::io::stderr().write_all(shown.as_bytes()));
        }
    }
    if is_seen {
        drop(std::io::stderr().write_all(b"\r\x1b[K"));
    }
}

/// Until Ctrl-C; for ever where that cannot be heard.
async fn interrupted(signal: Option<&mut Signal>) {
    if let Some(signal) = signal
        && signal.recv().await.is_some()
    {
        return;
    }
    std::future::pending().await
}
