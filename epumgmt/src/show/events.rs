//! Journal entries as sentences.

use epu_core::instance::Cause;
use epu_core::journal::{Action, Entry, Event};

use super::{brief, paused, reason};
use crate::commands::Style;

/// Entries, a line each.
#[must_use]
pub(crate) fn events(entries: &[Entry], style: Style) -> String {
    if entries.is_empty() {
        return "nothing has happened\n".to_owned();
    }
    entries.iter().map(|entry| event(entry, style.colour) + "\n").collect()
}

/// One entry as a line: when, its number, whose, which instance, what.
#[must_use]
pub(crate) fn event(entry: &Entry, colour: bool) -> String {
    let (dim, plain) = if colour { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
    let pool = entry.pool.as_ref().map_or("-", |pool| pool.as_str());
    let instance = entry.instance.map_or_else(|| "-".to_owned(), |id| id.short());
    let what = sentence(&entry.event);
    let who = brief(&entry.who);
    format!(
        "{dim}{} #{:<6}{plain} {pool:<12} {instance:<12} {what} {dim}[{who}]{plain}",
        entry.at, entry.sequence
    )
}

fn sentence(event: &Event) -> String {
    let with = |text: String, fault: &Option<epu_core::Fault>| match fault {
        Some(fault) => format!("{text}: {}", brief(&fault.to_string())),
        None => text,
    };
    match event {
        Event::Started { version } => format!("started, release {version}"),
        Event::Stopped => "stopped".to_owned(),
        Event::Closed { force: false } => "closed: every instance drains".to_owned(),
        Event::Closed { force: true } => "closed: every instance is ended at once".to_owned(),
        Event::Opened => "opened".to_owned(),
        Event::PoolAdded => "added".to_owned(),
        Event::PoolChanged { revision, set } => format!("changed to revision {revision}: {}", brief(&set.to_string())),
        Event::PoolPaused(what) => paused(what),
        Event::PoolRemoved => "is being removed".to_owned(),
        Event::PoolForgotten => "removed".to_owned(),
        Event::TemplateChanged { from, to } => format!("launches {} from now on, no longer {}", brief(to), brief(from)),
        Event::Refresh { step, version, why } => {
            let why = if why.is_empty() {
                String::new()
            } else {
                format!(": {}", brief(why))
            };
            format!("refresh to {} {}{why}", brief(version), brief(step))
        }
        Event::PlacementParked { placement, fault } => format!("placement {} is parked: {}", brief(placement), brief(&fault.to_string())),
        Event::PlacementReset { placement } => format!("placement {} may launch again", brief(placement)),
        Event::SiteAdded { site, driver } => format!("site {site} was added, driver {}", brief(driver)),
        Event::SiteChanged { site, driver } => format!("site {site} was changed, driver {}", brief(driver)),
        Event::SiteRemoved { site } => format!("site {site} was removed: nothing is launched there any more"),
        Event::TemplateKept { template } => format!("template {template} is there for pools to name"),
        Event::TemplateForgotten { template } => format!("template {template} is there no longer; pools keep what they have"),
        Event::Interruption { by } => format!("the site takes the machine away by {by}"),
        Event::Decided(decided) => {
            let why: Vec<String> = decided.reasons.iter().map(reason).collect();
            let done: Vec<String> = decided.actions.iter().map(action).collect();
            let done = if done.is_empty() {
                String::new()
            } else {
                format!("; {}", done.join(", "))
            };
            format!("target {}: {}{done}", decided.target, why.join(", "))
        }
        Event::LaunchRecorded { launch, site, instances } => format!("launch {launch} of {instances} on {site}"),
        Event::LaunchEnded { launch, machines, fault } => with(format!("launch {launch} brought {machines}"), fault),
        Event::Moved { from, to, why, fault } => {
            let why = why.map_or_else(String::new, |why| format!(" ({})", cause(why)));
            with(format!("{from} -> {to}{why}"), fault)
        }
        Event::DrainOrdered { why, deadline } => format!("drains until {deadline} ({})", cause(*why)),
        Event::DrainWithdrawn => "no longer drains".to_owned(),
        Event::Protected { on: true } => "protected".to_owned(),
        Event::Protected { on: false } => "no longer protected".to_owned(),
        Event::HealthChanged { from, to, why } => format!("health {from} -> {to}: {}", brief(why)),
        Event::SensorChanged { sensor, status, fault } => with(format!("sensor {sensor} is {}", brief(status)), fault),
        Event::BreakerOpened { breaker, reason: why } => format!("{} breaker opened: {}", brief(breaker), reason(why)),
        Event::BreakerClosed { breaker } => format!("{} breaker closed", brief(breaker)),
        Event::SweepAdopted { machine } => format!("found machine {} and took it in", brief(machine)),
        Event::SweepTerminated { machine, site } => {
            format!("found machine {} on {site}, which nothing explains, and ended it", brief(machine))
        }
        Event::ClaimRefused { launch, index } => format!("a second claim to launch {launch} index {index} was refused"),
        Event::InvariantViolated { invariant, what } => format!("INVARIANT {} VIOLATED: {}", brief(invariant), brief(what)),
        Event::MemoryDropped { why } => format!("what the engine remembered was dropped: {}", brief(why)),
        Event::Unknown(unknown) => {
            let says = serde_json::to_string(unknown.says()).unwrap_or_default();
            format!("something that a later release remembers: {}", brief(&says))
        }
    }
}

/// What is done about a decision.
pub(super) fn action(action: &Action) -> String {
    let ids = |instances: &[epu_core::InstanceId]| {
        let shown: Vec<String> = instances.iter().take(3).map(epu_core::InstanceId::short).collect();
        let dots = if instances.len() > 3 { ", ..." } else { "" };
        format!("{} ({}{dots})", instances.len(), shown.join(", "))
    };
    match action {
        Action::Launch {
            site,
            placement,
            instances,
            ..
        } => match placement {
            Some(placement) => format!("launch {} by {placement} on {site}", instances.len()),
            None => format!("launch {} on {site}", instances.len()),
        },
        Action::Drain { instances, why } => format!("drain {}: {}", ids(instances), cause(*why)),
        Action::WithdrawDrain { instances } => format!("let {} go on", ids(instances)),
        Action::Terminate { instances, why } => format!("end {}: {}", ids(instances), cause(*why)),
    }
}

/// Why an instance goes, in words.
pub(super) fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::ScaleIn => "the pool shrinks",
        Cause::Unhealthy => "unhealthy",
        Cause::SlotRemoved => "its slot was removed",
        Cause::PlacementLeft => "its placement takes no more",
        Cause::Refresh => "its template is out of date",
        Cause::Interrupted => "the site takes it away",
        Cause::PoolRemoved => "its pool was removed",
        Cause::Operator => "an operator asked for it",
        Cause::Teardown => "teardown",
        Cause::Drained => "drained",
        Cause::DrainDeadline => "did not finish draining in time",
        Cause::Finished => "its worker finished",
        Cause::Vanished => "the site took it away",
        Cause::NotReady => "was not ready in time",
        Cause::StartFailed => "did not start",
        Cause::Stray => "nothing explains it",
    }
}
