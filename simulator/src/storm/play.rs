//! Carries out a plan.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use epu_core::time::{Span, Timestamp};

use super::coverage::Coverage;
use super::plan::Plan;
use super::settle;
use crate::fault::Lift;
use crate::time::{BEGIN, millis, minutes};
use crate::world::{Broken, World};

/// Events of a storm's few pools within a minute, of which 250 are many. Too low: a storm of lost replies counts. Too high: a storm in
/// which something flaps takes hours and all memory before it is found.
const LINES_A_MINUTE: usize = 3_000;

/// What goes wrong in a storm that must not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Something that must always be true was not, or a process panicked.
    Broken(Broken),
    /// Faults had ended, and so long after it a pool was not as it is to be.
    NotConverged(String),
    /// Work was lost.
    JobsLost(String),
    /// A teardown left something.
    NotEmpty(String),
    /// So much happened in so little time that it cannot have been for a reason: something is done and undone again and again.
    Restless(String),
    /// The simulator itself panicked.
    Simulator(String),
}

impl Trouble {
    /// What it is called: the invariant, or `panic`, `jobs-lost`, `simulator`. Two troubles of one name count as the same.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Broken(Broken::Violated(violation)) => violation.invariant.id(),
            Self::Broken(Broken::Panicked(..) | Broken::AgentPanicked(..)) => "panic",
            Self::NotConverged(_) => "I6",
            Self::NotEmpty(_) => "I12",
            Self::JobsLost(_) => "jobs-lost",
            Self::Restless(_) => "restless",
            Self::Simulator(_) => "simulator",
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(broken) => broken.fmt(out),
            Self::NotConverged(what) => write!(out, "I6: {what}"),
            Self::NotEmpty(what) => write!(out, "I12: {what}"),
            Self::JobsLost(what) => write!(out, "jobs were lost: {what}"),
            Self::Restless(what) => write!(out, "no rest: {what}"),
            Self::Simulator(what) => write!(out, "the simulator panicked: {what}"),
        }
    }
}

/// A trouble with where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What.
    pub trouble: Trouble,
    /// When, since the world began.
    pub at: Span,
    /// What happened in that world, up to then.
    pub transcript: String,
}

/// What came of a storm.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// What went wrong; none when all was well.
    pub found: Option<Found>,
    /// Which faults met what.
    pub coverage: Coverage,
    /// How much time passed in the world.
    pub simulated: Duration,
    /// How long it took from the end of the faults until every pool was as it is to be.
    pub converged_in: Option<Duration>,
    /// Machines that there ever were.
    pub machines: usize,
    /// Made from everything that happened: the same for two runs that were the same.
    pub print: u64,
}

/// Plays a plan. Everything it says is a matter of the plan alone.
#[must_use]
pub fn play(plan: &Plan) -> Outcome {
    let mut outcome = Outcome::default();
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let mut world = plan.setup().world();
        let trouble = storm(plan, &mut world, &mut outcome)
            .and_then(|()| settle::settle(plan, &mut world, &mut outcome))
            .err();
        let at = world.now().since(BEGIN);
        (outcome.simulated, outcome.machines, outcome.print) = (at, world.machines_ever(), world.print());
        trouble.map(|trouble| Found {
            trouble,
            at: Span(at),
            transcript: world.transcript(),
        })
    }));
    outcome.found = ended.unwrap_or_else(|panic| {
        let words = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned()));
        Some(Found {
            trouble: Trouble::Simulator(words.unwrap_or_default()),
            at: Span::default(),
            transcript: String::new(),
        })
    });
    outcome
}

/// The events of a plan, then calm.
fn storm(plan: &Plan, world: &mut World, outcome: &mut Outcome) -> Result<(), Trouble> {
    let calm = BEGIN + *plan.calm_at;
    // Ends come in the order in which they are due.
    let mut lifts: BTreeMap<(Timestamp, usize), Lift> = BTreeMap::new();
    for (n, event) in plan.events.iter().enumerate() {
        let at = (BEGIN + *event.at).min(calm);
        lift_until(world, &mut lifts, at)?;
        pass_until(world, at)?;
        let met = world.situation();
        let begun = event.fault.begin(world);
        outcome.coverage.met(event.fault.kind(), begun.bit, &met);
        world.tell(format_args!(
            "!! {} for {}{}",
            event.fault,
            event.lasts,
            if begun.bit { "" } else { " (nothing to hit)" }
        ));
        if let Some(lift) = begun.lift {
            lifts.insert(((at + *event.lasts).min(calm), n), lift);
        }
    }
    lift_until(world, &mut lifts, calm)?;
    pass_until(world, calm)
}

fn lift_until(world: &mut World, lifts: &mut BTreeMap<(Timestamp, usize), Lift>, until: Timestamp) -> Result<(), Trouble> {
    while let Some(next) = lifts.first_entry().filter(|next| next.key().0 <= until) {
        let ((at, n), lift) = next.remove_entry();
        pass_until(world, at)?;
        world.tell(format_args!("!! event {n} ends"));
        lift(world);
    }
    Ok(())
}

fn pass_until(world: &mut World, until: Timestamp) -> Result<(), Trouble> {
    let left = until.since(world.now());
    if left < millis(1) { Ok(()) } else { pass(world, left) }
}

/// Lets time pass, as long as no more happens than there can be a reason for.
pub(super) fn pass(world: &mut World, length: Duration) -> Result<(), Trouble> {
    let end = world.now() + length;
    while world.now() < end {
        world.pass(end.since(world.now()).min(minutes(1))).map_err(Trouble::Broken)?;
        // Of the last minute, in however short steps it passed.
        rests(world.lines_since(world.now() - minutes(1)))?;
    }
    Ok(())
}

fn rests(lines: usize) -> Result<(), Trouble> {
    if lines <= LINES_A_MINUTE {
        return Ok(());
    }
    let what = format!("{lines} events in a minute, where {LINES_A_MINUTE} are far more than these pools have reason for");
    Err(Trouble::Restless(what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storm::Settings;
    use crate::time::seconds;

    #[test]
    fn what_happens_again_and_again_is_not_waited_for() {
        assert_eq!(rests(LINES_A_MINUTE), Ok(()));
        let Err(trouble) = rests(LINES_A_MINUTE + 1) else {
            panic!("that is restless")
        };
        assert_eq!(trouble.name(), "restless");
        assert!(trouble.to_string().contains("3001 events in a minute"), "{trouble}");
    }

    #[test]
    fn a_minute_is_a_minute_in_however_short_steps_it_passes() {
        let mut world = Plan::draw(1, &Settings::default()).setup().world();
        let second = |world: &mut World, lines: usize| {
            (0..lines).for_each(|n| world.tell(n));
            pass(world, seconds(1))
        };
        assert!((0..120).all(|_| second(&mut world, 20).is_ok()), "that is a minute's worth in two");
        let ended = (0..60).find_map(|_| second(&mut world, 100).err());
        assert_eq!(ended.map(|trouble| trouble.name()), Some("restless"));
    }
}
