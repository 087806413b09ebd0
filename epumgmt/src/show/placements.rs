//! Placements: what each lets through, and how launching there went.

use comfy_table::{Cell, Color};
use epu_core::Timestamp;
use epu_core::pool::Placement;
use epu_core::request::{PlacementView, Scoreboard};

use super::{age, brief, count, lines, table};
use crate::commands::Style;

/// Placements, a line each.
#[must_use]
pub(crate) fn placements(all: &[PlacementView], now: Timestamp, style: Style) -> String {
    if all.is_empty() {
        return "there are no placements\n".to_owned();
    }
    rows(all, true, now, style)
}

/// Those of one pool.
pub(super) fn of_pool(all: &[PlacementView], now: Timestamp, style: Style) -> String {
    rows(all, false, now, style)
}

/// Whether a person may want to do something about it: it is parked, or waits for room.
#[must_use]
pub(crate) fn is_held_back(placement: &PlacementView) -> bool {
    !matches!(placement.gate.as_str(), "open" | "full")
}

/// A placement as it is written, in words.
pub(super) fn in_words(placement: &Placement) -> String {
    let name = placement.called();
    let site = placement.site.as_str();
    let place = if name == site {
        name.to_owned()
    } else {
        format!("{name} on {site}")
    };
    match placement.max {
        Some(max) => format!("{place} (at most {max})"),
        None => place,
    }
}

fn rows(all: &[PlacementView], with_pool: bool, now: Timestamp, style: Style) -> String {
    let mut columns = vec![
        "RANK",
        "PLACEMENT",
        "SITE",
        "MACHINE",
        "LIVE",
        "MAX",
        "GATE",
        "READY",
        "FAILED",
        "BOOT P50",
        "P95",
        "PRICE",
        "NOTE",
    ];
    if with_pool {
        columns.insert(0, "POOL");
    }
    let mut table = table(style, &columns);
    for place in all {
        let score = &place.score;
        let mut row = vec![
            Cell::new(place.rank.map_or_else(|| "-".to_owned(), |rank| rank.to_string())),
            Cell::new(brief(&place.placement)),
            Cell::new(&place.site),
            Cell::new(if place.machine.is_empty() {
                "-".to_owned()
            } else {
                brief(&place.machine)
            }),
            Cell::new(count(place.live)),
            Cell::new(place.max),
            gate(&place.gate),
            Cell::new(score.ready),
            Cell::new(failed(score)),
            Cell::new(boot(score.boot_p50_ms)),
            Cell::new(boot(score.boot_p95_ms)),
            Cell::new(score.price.map_or_else(|| "-".to_owned(), |price| price.to_string())),
            Cell::new(note(place, now)),
        ];
        if with_pool {
            row.insert(0, Cell::new(&place.pool));
        }
        table.add_row(row);
    }
    lines(&table)
}

fn gate(gate: &str) -> Cell {
    let cell = Cell::new(brief(gate));
    match gate {
        "open" => cell.fg(Color::Green),
        "parked" => cell.fg(Color::Red),
        "full" => cell,
        _ => cell.fg(Color::Yellow),
    }
}

/// How many failed, and of those how many for want of room.
fn failed(score: &Scoreboard) -> String {
    match (score.failed, score.capacity) {
        (failed, 0) => failed.to_string(),
        (failed, capacity) => format!("{failed}, {capacity} no room"),
    }
}

fn boot(ms: Option<i64>) -> String {
    let length = ms.map(|ms| std::time::Duration::from_millis(u64::try_from(ms).unwrap_or(0)));
    length.map_or_else(
        || "-".to_owned(),
        |length| {
            if length.as_secs() < 10 {
                format!("{:.1}s", length.as_secs_f64())
            } else {
                age(length)
            }
        },
    )
}

fn note(place: &PlacementView, now: Timestamp) -> String {
    let mut notes = Vec::new();
    if place.rank.is_none() {
        notes.push("the pool has it no more, it empties".to_owned());
    }
    if let Some(until) = place.until.filter(|until| *until > now) {
        notes.push(format!("for {}", age(until.since(now))));
    }
    if place.score.interrupted > 0 {
        notes.push(format!("{} taken away", place.score.interrupted));
    }
    notes.extend(place.fault.as_ref().map(|fault| brief(&fault.to_string())));
    notes.join("; ")
}
