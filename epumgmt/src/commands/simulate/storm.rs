//! `simulate storm`: hours in which everything goes wrong, by the thousand; what breaks is told as short as it can be.
#![expect(
    clippy::let_underscore_must_use,
    reason = "writing to a text does not fail, and progress that cannot be shown is not worth failing for"
)]

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use epu_core::time::{Clock, Span, Timestamp};
use epu_simulator::fault::Fault;
use epu_simulator::storm::campaign::quietly;
use epu_simulator::storm::shrink::{Shrunk, shrink};
use epu_simulator::storm::story::story;
use epu_simulator::storm::{Campaign, Failure as Broke, Plan, Report, Settings, play};
use serde_json::{Value, json};

use crate::cli::storm::Storm;
use crate::commands::Screen;
use crate::config::text_of;
use crate::exit::{Exit, Failure};

/// Failures of one kind that are shrunk and told; more of the kind are named by their seeds.
const TOLD_OF_EACH: usize = 1;
/// How often progress is shown on a terminal, and elsewhere.
const PROGRESS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(15)];

/// Plays what was asked for.
///
/// # Errors
/// When kinds of fault are unknown, a plan cannot be read, or what was found cannot be written.
pub(crate) fn storm(screen: &mut Screen, args: &Storm, clock: &dyn Clock) -> Result<Exit, Failure> {
    if args.kinds {
        let kinds = Fault::kinds();
        screen.answer(&kinds, |_| kinds.iter().map(|kind| format!("{kind}\n")).collect())?;
        return Ok(Exit::Done);
    }
    if !args.replay.is_empty() {
        return replay(screen, &args.replay);
    }
    let settings = settings(args)?;
    let from = args.from.unwrap_or_else(|| if args.fresh { fresh(clock.now()) } else { 0 });
    let campaign = Campaign {
        from,
        seeds: args.seeds,
        threads: args
            .threads
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
        settings,
    };
    let stop = stopped_by_hand();
    let began = clock.now();
    let mut progress = Progress::new(args.seeds, began);
    let report = quietly(|| {
        campaign.run(|report| {
            progress.show(report, clock.now());
            !stop.load(Ordering::Relaxed)
        })
    });
    progress.end();
    let took = clock.now().since(began);
    let shrunk = quietly(|| shrunk(args, &report, &stop));
    if let Some(directory) = &args.save {
        save(directory, &shrunk)?;
    }
    let answer = as_json(&report, &shrunk, from, took);
    screen.answer(&answer, |_| told(args, &report, &shrunk, from, took))?;
    Ok(if report.failures.is_empty() { Exit::Done } else { Exit::Failed })
}

/// Seeds that nobody played before.
fn fresh(now: Timestamp) -> u64 {
    u64::try_from(now.0).unwrap_or(0)
}

/// Set when somebody presses Ctrl-C: what was found until then is still told.
fn stopped_by_hand() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let set = stop.clone();
    std::thread::spawn(move || {
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() {
            let pressed = runtime.block_on(async { tokio::signal::ctrl_c().await });
            set.store(pressed.is_ok(), Ordering::Relaxed);
        }
    });
    stop
}

fn settings(args: &Storm) -> Result<Settings, Failure> {
    let kinds = Fault::kinds();
    let named = args.only.iter().chain(&args.without).chain(args.rate.iter().map(|(kind, _)| kind));
    let mut wrong = String::new();
    for kind in named.filter(|kind| !kinds.contains(&kind.as_str())) {
        let near = epu_core::input::nearest(kind, kinds.iter().copied());
        let near = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        let _ = writeln!(wrong, "there is no kind of fault {kind:?}{near}");
    }
    if !wrong.is_empty() {
        wrong.push_str("`epumgmt simulate storm --kinds` lists them");
        return Err(Failure::Usage(wrong));
    }
    Ok(Settings {
        lasts: args.lasts,
        only: args.only.clone(),
        without: args.without.clone(),
        rates: args.rate.iter().cloned().collect(),
    })
}

/// The first failures of each kind, shrunk.
fn shrunk(args: &Storm, report: &Report, stop: &AtomicBool) -> Vec<Shrunk> {
    let mut told: Vec<Shrunk> = Vec::new();
    for Broke { plan, found } in &report.failures {
        let same = told.iter().filter(|other| other.found.trouble.name() == found.trouble.name());
        if same.count() >= TOLD_OF_EACH {
            continue;
        }
        let shows = std::io::stderr().is_terminal();
        let tries = if stop.load(Ordering::Relaxed) { 0 } else { args.shrink };
        let shrunk = shrink(plan, found.clone(), tries, |so_far| {
            if shows {
                let _ = write!(
                    std::io::stderr(),
                    "\rseed {}: {} of {} events left after {} tries ",
                    plan.seed,
                    so_far.plan.events.len(),
                    plan.events.len(),
                    so_far.tries
                );
            }
        });
        if shows {
            let _ = writeln!(std::io::stderr());
        }
        told.push(shrunk);
    }
    told
}

fn save(directory: &Path, shrunk: &[Shrunk]) -> Result<(), Failure> {
    std::fs::create_dir_all(directory)?;
    for one in shrunk {
        let name = |ending: &str| directory.join(format!("storm-{}.{ending}", one.plan.seed));
        let plan = serde_json::to_string_pretty(&one.plan).map_err(std::io::Error::from)?;
        std::fs::write(name("json"), plan + "\n")?;
        std::fs::write(name("txt"), &one.found.transcript)?;
    }
    Ok(())
}

fn replay(screen: &mut Screen, files: &[PathBuf]) -> Result<Exit, Failure> {
    let mut plans = Vec::new();
    for file in files {
        let text = text_of(file).map_err(|flaws| Failure::Flaws {
            flaws,
            text: String::new(),
        })?;
        let plan: Plan = serde_json::from_str(&text)
            .map_err(|error| Failure::Usage(format!("{}: this is no plan of a storm: {error}", file.display())))?;
        plans.push((file, plan));
    }
    let mut worst = Exit::Done;
    let mut answers = Vec::new();
    let mut text = String::new();
    for (file, plan) in plans {
        let outcome = quietly(|| play(&plan));
        let _ = match &outcome.found {
            None => writeln!(text, "{}: all is well ({} events)", file.display(), plan.events.len()),
            Some(found) => {
                worst = Exit::Failed;
                writeln!(text, "{}: {}", file.display(), story(&plan, found))
            }
        };
        answers.push(json!({
            "file": file.display().to_string(),
            "found": outcome.found.as_ref().map(|found| json!({ "name": found.trouble.name(), "what": found.trouble.to_string(), "at": found.at })),
            "simulated-seconds": outcome.simulated.as_secs_f64(),
            "print": format!("{:016x}", outcome.print),
        }));
    }
    screen.answer(&answers, |_| text)?;
    Ok(worst)
}

fn as_json(report: &Report, shrunk: &[Shrunk], from: u64, took: Duration) -> Value {
    let failures = report.failures.iter().map(|failure| {
        json!({
            "seed": failure.plan.seed,
            "name": failure.found.trouble.name(),
            "what": failure.found.trouble.to_string(),
            "at": failure.found.at,
        })
    });
    let told = shrunk
        .iter()
        .map(|one| json!({ "plan": one.plan, "story": story(&one.plan, &one.found), "tries": one.tries }));
    let (met, pairs) = report.coverage.pairs();
    let blind = report.coverage.blind_spots();
    json!({
        "from": from,
        "played": report.played,
        "seconds": took.as_secs_f64(),
        "simulated-hours": report.simulated.as_secs_f64() / 3_600.0,
        "machines": report.machines,
        "faults": report.coverage.hits(),
        "failures": failures.collect::<Vec<_>>(),
        "told": told.collect::<Vec<_>>(),
        "coverage": { "met": met, "pairs": pairs, "never": blind },
        "slowest": report.slowest.map(|(took, seed)| json!({ "seed": seed, "converged-in": Span(took) })),
        "print": format!("{:016x}", report.print),
    })
}

fn told(args: &Storm, report: &Report, shrunk: &[Shrunk], from: u64, took: Duration) -> String {
    let mut text = String::new();
    let last = from + report.played.saturating_sub(1);
    let hours = report.simulated.as_secs_f64() / 3_600.0;
    let _ = writeln!(
        text,
        "{} storms (seeds {from} to {last}): {hours:.1} hours with {} faults and {} machines, played in {}",
        report.played,
        report.coverage.hits(),
        report.machines,
        Span(Duration::from_secs(took.as_secs()))
    );
    let (met, pairs) = report.coverage.pairs();
    let _ = writeln!(text, "{met} of {pairs} pairs of a fault and a situation met");
    if let Some((slowest, seed)) = report.slowest {
        let _ = writeln!(
            text,
            "after calm every pool was as it is to be within {}, at the longest (seed {seed})",
            Span(Duration::from_secs(slowest.as_secs()))
        );
    }
    if args.coverage {
        let _ = write!(text, "\nHow often each fault began in each situation:\n{}", report.coverage.table());
    }
    if report.failures.is_empty() {
        text.push_str("nothing that must always be true was broken\n");
        return text;
    }
    let _ = writeln!(text, "\n{} broke something:", report.failures.len());
    for failure in &report.failures {
        let _ = writeln!(
            text,
            "  seed {} at {}: {}",
            failure.plan.seed, failure.found.at, failure.found.trouble
        );
    }
    for one in shrunk {
        let _ = writeln!(
            text,
            "\nThe shortest story of seed {} ({} events, {} plans tried):\n{}",
            one.plan.seed,
            one.plan.events.len(),
            one.tries,
            story(&one.plan, &one.found)
        );
        let _ = match &args.save {
            Some(directory) => writeln!(
                text,
                "Play it again: epumgmt simulate storm --replay {}",
                directory.join(format!("storm-{}.json", one.plan.seed)).display()
            ),
            None => writeln!(
                text,
                "Keep it, to play it again: epumgmt simulate storm --from {} --seeds 1 --save DIR",
                one.plan.seed
            ),
        };
    }
    text
}

/// Shows how far it is.
struct Progress {
    seeds: u64,
    began: Timestamp,
    shown: Timestamp,
    terminal: bool,
}

impl Progress {
    fn new(seeds: u64, now: Timestamp) -> Self {
        Self {
            seeds,
            began: now,
            shown: now,
            terminal: std::io::stderr().is_terminal(),
        }
    }

    fn show(&mut self, report: &Report, now: Timestamp) {
        if now.since(self.shown) < PROGRESS[usize::from(!self.terminal)] {
            return;
        }
        self.shown = now;
        let passed = now.since(self.began).as_secs_f64();
        let played = f64::from(u32::try_from(report.played).unwrap_or(u32::MAX));
        let left = f64::from(u32::try_from(self.seeds.saturating_sub(report.played)).unwrap_or(u32::MAX));
        let line = format!(
            "{} of {} storms, {} broke something, {:.0} a minute, {} left",
            report.played,
            self.seeds,
            report.failures.len(),
            played / passed * 60.0,
            Span(Duration::from_secs_f64((left * passed / played.max(1.0)).round()))
        );
        // Progress that cannot be shown is not worth failing for.
        let _ = if self.terminal {
            write!(std::io::stderr(), "\r{line:<78}")
        } else {
            writeln!(std::io::stderr(), "{line}")
        };
    }

    fn end(&self) {
        if self.terminal && self.shown != self.began {
            let _ = writeln!(std::io::stderr());
        }
    }
}
