//! How answers look to people: tables without lines, one fact a row, the rest as indented text. JSON does not pass through here.
//!
//! Whatever comes from outside (a worker's output, a fault's text) loses its control characters, so that it cannot write to the terminal.

mod events;
mod placements;
mod refresh;
mod sites;
mod standing;
mod templates;

use std::time::Duration;

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};
use epu_core::instance::Work;
use epu_core::pool::{Origin, Paused};
use epu_core::reading::Status;
use epu_core::request::{InstanceView, PlacementView, PoolView, SiteStatus, StatusView};
use epu_core::{Reason, Span, State, Timestamp};

use crate::commands::Style;

pub(crate) use events::{event, events};
pub(crate) use placements::{is_held_back, placements};
pub(crate) use refresh::{refresh, refreshing};
pub(crate) use sites::{site_report, sites, sweep};
pub(crate) use templates::{template, templates};

/// How much of a foreign text stands in a table's cell, in characters.
const CELL_MAX: usize = 80;

/// A table with these columns.
fn table(style: Style, columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    if let Some(width) = style.width {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(width);
    }
    if style.colour {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table.set_header(columns.iter().map(|column| Cell::new(column).add_attribute(Attribute::Bold)));
    table
}

/// A table as lines without trailing blanks.
fn lines(table: &Table) -> String {
    let mut text = String::new();
    for line in table.to_string().lines() {
        // The table sets its first column apart from a border that it does not have.
        text.push_str(line.strip_prefix(' ').unwrap_or(line).trim_end());
        text.push('\n');
    }
    text
}

/// A text without control characters, but for line ends and tabs.
#[must_use]
pub(crate) fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c })
        .collect()
}

/// A text as one short line.
#[must_use]
pub(crate) fn brief(text: &str) -> String {
    let mut line: String = harmless(text).split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((at, _)) = line.char_indices().nth(CELL_MAX) {
        line.truncate(at);
        line.push('…');
    }
    line
}

/// A length of time with one or two units: `45s`, `12m`, `3h 5m`, `9d`.
#[must_use]
pub(crate) fn age(length: Duration) -> String {
    let seconds = length.as_secs();
    match (seconds / 86_400, seconds / 3_600, seconds / 60) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) if minutes < 10 => format!("{minutes}m {}s", seconds % 60),
        (0, 0, minutes) => format!("{minutes}m"),
        (0, hours, minutes) => format!("{hours}h {}m", minutes % 60),
        (days, hours, _) => format!("{days}d {}h", hours % 24),
    }
}

fn count(n: u32) -> String {
    if n == 0 { "-".to_owned() } else { n.to_string() }
}

fn target(target: Option<u32>) -> String {
    target.map_or_else(|| "?".to_owned(), |target| target.to_string())
}

/// What a pause keeps a pool from, as the end of a sentence about it.
#[must_use]
pub(crate) fn paused(paused: &Paused) -> String {
    let what: Vec<&str> = [
        (paused.grow, "grow"),
        (paused.shrink, "shrink"),
        (paused.replace, "replace failed workers"),
    ]
    .into_iter()
    .filter_map(|(on, what)| on.then_some(what))
    .collect();
    if what.is_empty() {
        return "does everything".to_owned();
    }
    let why = if paused.why.is_empty() {
        String::new()
    } else {
        format!(": {}", brief(&paused.why))
    };
    format!("does not {}{why}", what.join(", "))
}

/// Every pool, a line each.
#[must_use]
pub(crate) fn pools(pools: &[PoolView], style: Style) -> String {
    if pools.is_empty() {
        return "there are no pools; add some with `epumgmt pool add -f FILE`\n".to_owned();
    }
    let columns = [
        "POOL",
        "ENGINE",
        "TARGET",
        "BOUNDS",
        "RUNNING",
        "BUSY",
        "BOOTING",
        "DRAINING",
        "UNHEALTHY",
        "SETTINGS",
        "NOTE",
    ];
    let mut table = table(style, &columns);
    for view in pools {
        let spec = &view.pool.spec;
        let note = if view.pool.removed {
            "being removed".to_owned()
        } else if view.pool.paused.any() {
            paused(&view.pool.paused)
        } else {
            view.concerns.first().map_or_else(String::new, |concern| brief(concern))
        };
        table.add_row(vec![
            Cell::new(&view.pool.name),
            Cell::new(spec.engine.keys().next().map_or("?", String::as_str)),
            Cell::new(target(view.target)),
            Cell::new(format!("{}..{}", spec.min, spec.max)),
            Cell::new(count(view.counts.running)),
            Cell::new(count(view.counts.busy)),
            Cell::new(count(view.counts.booting)),
            Cell::new(count(view.counts.draining)),
            unhealthy(view.counts.unhealthy),
            Cell::new(match &view.pool.origin {
                Origin::File { .. } => "file",
                Origin::Operator => "operator",
            }),
            Cell::new(note),
        ]);
    }
    lines(&table)
}

fn unhealthy(n: u32) -> Cell {
    let cell = Cell::new(count(n));
    if n == 0 { cell } else { cell.fg(Color::Red) }
}

/// One pool: what it is to be, what it is, and why.
#[must_use]
pub(crate) fn pool(view: &PoolView, places: &[PlacementView], now: Timestamp, style: Style) -> String {
    let pool = &view.pool;
    let mut text = format!("pool {}\n", pool.name);
    let mut fact = |name: &str, value: String| text.push_str(&format!("  {name:<12} {value}\n"));
    let engine: Vec<String> = pool
        .spec
        .engine
        .iter()
        .map(|(name, settings)| format!("{name} {settings}"))
        .collect();
    fact("engine", engine.join(", "));
    fact(
        "size",
        format!("target {} within {}..{}", target(view.target), pool.spec.min, pool.spec.max),
    );
    let counts = &view.counts;
    fact(
        "instances",
        format!(
            "{} live: {} running ({} busy, {} idle), {} booting, {} draining, {} ending, {} unhealthy",
            counts.live, counts.running, counts.busy, counts.idle, counts.booting, counts.draining, counts.ending, counts.unhealthy
        ),
    );
    fact("template", refresh::versions(&pool.template_version, &view.versions));
    if let Some(under_way) = &pool.refresh {
        fact("refresh", refresh::under_way(under_way, now));
    }
    let sites: Vec<String> = pool.spec.placements.iter().map(placements::in_words).collect();
    fact("placements", sites.join(", then "));
    fact(
        "settings",
        match &pool.origin {
            Origin::File { path, line } => format!("revision {}, from {path}, line {line}", pool.revision),
            Origin::Operator => format!("revision {}, an operator's", pool.revision),
        },
    );
    if let Some(boot) = view.boot_ms {
        fact(
            "boot",
            format!("{} from launch to ready, lately", Span::millis(u64::try_from(boot).unwrap_or(0))),
        );
    }
    if pool.removed {
        fact("removed", "it is forgotten when its last instance is gone".to_owned());
    }
    if pool.paused.any() {
        fact("paused", paused(&pool.paused));
    }
    decision(view, now, &mut text);
    if !places.is_empty() {
        text.push('\n');
        text.push_str(&placements::of_pool(places, now, style));
    }
    readings(view, now, style, &mut text);
    slots(view, style, &mut text);
    concerns(&view.concerns, style, &mut text);
    text
}

fn decision(view: &PoolView, now: Timestamp, text: &mut String) {
    let Some(decided) = &view.decision else {
        text.push_str("\nno decision yet\n");
        return;
    };
    let ago = age(now.since(decided.at));
    let (engine, desired, target) = (&decided.engine, decided.desired, decided.target);
    text.push_str(&format!("\nlast decision, {ago} ago: {engine} wants {desired}"));
    if desired == target {
        text.push('\n');
    } else {
        text.push_str(&format!(", guardrails leave {target}\n"));
    }
    for why in &decided.reasons {
        text.push_str(&format!("  because     {}\n", reason(why)));
    }
    for why in &decided.suppressed {
        text.push_str(&format!("  held back   {}\n", reason(why)));
    }
    for action in &decided.actions {
        text.push_str(&format!("  done        {}\n", events::action(action)));
    }
}

/// A reason with its code and the numbers it came from.
fn reason(reason: &Reason) -> String {
    let numbers: Vec<String> = reason.numbers.iter().map(|(name, value)| format!("{name} {value}")).collect();
    let numbers = if numbers.is_empty() {
        String::new()
    } else {
        format!("; {}", numbers.join(", "))
    };
    format!("{} ({}{numbers})", brief(&reason.text), reason.code)
}

fn readings(view: &PoolView, now: Timestamp, style: Style, text: &mut String) {
    if view.readings.is_empty() {
        return;
    }
    text.push('\n');
    let mut table = table(style, &["SENSOR", "SAYS", "AGE", "STATUS", "SOURCE", "FAULT"]);
    for (name, seen) in &view.readings {
        let reading = &seen.reading;
        let says = match &seen.status {
            Status::Fresh { value } => value.to_string(),
            Status::Stale { value, .. } => format!("was {value}"),
            Status::Missing | Status::Invalid { .. } => "-".to_owned(),
        };
        let reported = if reading.of > 0 {
            format!(", {} of {} report", reading.reported, reading.of)
        } else {
            String::new()
        };
        let status = Cell::new(format!("{}{reported}", seen.status.word()));
        table.add_row(vec![
            Cell::new(name),
            Cell::new(says),
            Cell::new(reading.taken_at.map_or_else(|| "never".to_owned(), |at| age(now.since(at)))),
            if seen.status.fresh().is_some() {
                status
            } else {
                status.fg(Color::Yellow)
            },
            Cell::new(brief(&reading.source)),
            Cell::new(reading.fault.as_ref().map_or_else(String::new, |fault| brief(&fault.to_string()))),
        ]);
    }
    text.push_str(&lines(&table));
}

fn slots(view: &PoolView, style: Style, text: &mut String) {
    if view.slots.is_empty() {
        return;
    }
    text.push('\n');
    let mut table = table(style, &["SLOT", "INSTANCE"]);
    for (label, instance) in &view.slots {
        table.add_row([label.to_string(), instance.map_or_else(|| "nobody yet".to_owned(), |id| id.short())]);
    }
    text.push_str(&lines(&table));
}

fn concerns(concerns: &[String], style: Style, text: &mut String) {
    let (yellow, plain) = if style.colour { ("\x1b[33m", "\x1b[0m") } else { ("", "") };
    if !concerns.is_empty() {
        text.push_str("\nconcerns\n");
    }
    for concern in concerns {
        text.push_str(&format!("  {yellow}{}{plain}\n", harmless(concern).replace('\n', "\n  ")));
    }
}

/// Instances, a line each.
#[must_use]
pub(crate) fn instances(instances: &[InstanceView], now: Timestamp, style: Style) -> String {
    if instances.is_empty() {
        return "there are no instances\n".to_owned();
    }
    let mut table = table(
        style,
        &["INSTANCE", "POOL", "STATE", "HEALTH", "WORK", "PLACEMENT", "AGE", "HEARD", "NOTE"],
    );
    for view in instances {
        let instance = &view.instance;
        let health = Cell::new(view.health);
        table.add_row(vec![
            Cell::new(instance.id.short()),
            Cell::new(&instance.pool),
            state(instance.state),
            if view.health.is_good() { health } else { health.fg(Color::Red) },
            Cell::new(if view.work == Work::Unknown { "-" } else { view.work.word() }),
            Cell::new(placement_of(instance)),
            Cell::new(age(now.since(instance.created_at))),
            Cell::new(view.heard_at.map_or_else(|| "-".to_owned(), |at| age(now.since(at)))),
            Cell::new(note(view, now)),
        ]);
    }
    lines(&table)
}

fn state(state: State) -> Cell {
    let cell = Cell::new(state);
    match state {
        State::Running => cell.fg(Color::Green),
        State::RunningFailed | State::Failed | State::Rejected => cell.fg(Color::Red),
        State::Requesting | State::Requested | State::ErrorRetrying | State::Pending | State::Started => cell.fg(Color::Yellow),
        State::Terminating | State::Terminated => cell,
    }
}

/// By which placement it is where it is; with the site when that is called otherwise.
fn placement_of(instance: &epu_core::Instance) -> String {
    let placement = instance.placed_by();
    if placement == instance.site.as_str() {
        placement.to_owned()
    } else {
        format!("{placement} ({})", instance.site)
    }
}

/// What is special about an instance.
fn note(view: &InstanceView, now: Timestamp) -> String {
    let instance = &view.instance;
    let mut notes = Vec::new();
    notes.extend(instance.slot.as_ref().map(|slot| format!("slot {slot}")));
    notes.extend(instance.protected.then(|| "protected".to_owned()));
    if let Some(ending) = &instance.ending {
        notes.push(format!("ended: {}", events::cause(ending.drained_for.unwrap_or(ending.why))));
    } else if let Some(drain) = &instance.drain {
        let left = age(drain.deadline.since(now));
        notes.push(format!("draining: {}, {left} left", events::cause(drain.why)));
    }
    notes.extend(instance.fault.as_ref().map(|fault| brief(&fault.text)));
    notes.join("; ")
}

/// One instance, whole.
#[must_use]
pub(crate) fn instance(view: &InstanceView, now: Timestamp, _style: Style) -> String {
    let instance = &view.instance;
    let mut text = format!("instance {}\n", instance.id);
    let mut fact = |name: &str, value: String| text.push_str(&format!("  {name:<12} {value}\n"));
    let ago = |at: Timestamp| format!("{at} ({} ago)", age(now.since(at)));
    fact("pool", instance.pool.to_string());
    fact("state", format!("{} since {}", instance.state, ago(instance.state_since)));
    if let Some(deadline) = instance.deadline {
        fact("deadline", format!("{deadline}, when this state is given up"));
    }
    fact(
        "health",
        format!(
            "{}, {}",
            view.health,
            view.heard_at
                .map_or_else(|| "never heard from".to_owned(), |at| format!("heard {}", ago(at)))
        ),
    );
    fact("work", view.work.word().to_owned());
    fact("created", ago(instance.created_at));
    if let Some(ready) = instance.ready_at {
        fact(
            "ready",
            format!("{}, {} after it was decided on", ago(ready), age(ready.since(instance.created_at))),
        );
    }
    fact(
        "site",
        format!("{}, launch {} index {}", instance.site, instance.launch, instance.index),
    );
    fact("placement", instance.placed_by().to_owned());
    if let Some(machine) = &instance.machine {
        fact("machine", brief(machine));
    }
    if let Some(address) = &instance.address {
        fact("address", brief(address));
    }
    fact("template", instance.template.clone());
    if let Some(slot) = &instance.slot {
        fact("slot", slot.to_string());
    }
    if instance.protected {
        fact("protected", "not chosen when the pool shrinks".to_owned());
    }
    if let Some(drain) = &instance.drain {
        fact(
            "draining",
            format!(
                "{} since {}, until {} at the latest",
                events::cause(drain.why),
                ago(drain.since),
                drain.deadline
            ),
        );
    }
    if let Some(ending) = &instance.ending {
        let first = ending
            .drained_for
            .map_or_else(String::new, |why| format!(", drained: {}", events::cause(why)));
        let (why, since) = (events::cause(ending.why), ago(ending.since));
        fact(
            "ended",
            format!("{why} since {since}, its worker then {}{first}", ending.work.word()),
        );
    }
    if let Some(fault) = &instance.fault {
        fact("fault", harmless(&fault.to_string()).replace('\n', "\n               "));
    }
    if let Some(exit) = &instance.exit {
        let how = match (exit.code, exit.signal) {
            (Some(code), _) => format!("code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "unknown how".to_owned(),
        };
        fact("exit", how);
    }
    text
}

/// The whole, on one screen.
#[must_use]
pub(crate) fn status(status: &StatusView, sites: &[SiteStatus], places: &[PlacementView], style: Style) -> String {
    let closed = if status.closed {
        ", CLOSED by teardown (`epumgmt open` opens it)"
    } else {
        ""
    };
    let up = age(status.now.since(status.since));
    let mut text = format!(
        "installation {}, release {}, up {up}{closed}\n\n",
        status.installation, status.version
    );
    if status.pools.is_empty() {
        text.push_str("no pools\n");
    } else {
        let mut table = table(
            style,
            &[
                "POOL",
                "ENGINE",
                "IS",
                "TARGET",
                "RUNNING",
                "BUSY",
                "BOOTING",
                "DRAINING",
                "UNHEALTHY",
                "WHY",
            ],
        );
        for pool in &status.pools {
            let condition = Cell::new(&pool.condition);
            table.add_row(vec![
                Cell::new(&pool.name),
                Cell::new(&pool.engine),
                match pool.condition.as_str() {
                    "trouble" => condition.fg(Color::Red),
                    "steady" => condition.fg(Color::Green),
                    _ => condition.fg(Color::Yellow),
                },
                Cell::new(target(pool.target)),
                Cell::new(count(pool.counts.running)),
                Cell::new(count(pool.counts.busy)),
                Cell::new(count(pool.counts.booting)),
                Cell::new(count(pool.counts.draining)),
                unhealthy(pool.counts.unhealthy),
                Cell::new(brief(&pool.why)),
            ]);
        }
        text.push_str(&lines(&table));
    }
    text.push('\n');
    text.push_str(&sites::sites(sites, status.now, style));
    if !places.is_empty() {
        text.push_str("\nplacements that do not launch\n");
        text.push_str(&placements::placements(places, status.now, style));
    }
    if standing::is_of_several(&status.standing) {
        text.push('\n');
        text.push_str(&standing::standing(&status.standing, status.now, style));
    }
    concerns(&status.concerns, style, &mut text);
    text
}

#[cfg(test)]
pub(crate) mod tests;
