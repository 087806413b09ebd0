//! Refreshes: which versions run, and how far replacing the old ones is.

use std::collections::BTreeMap;

use epu_core::Timestamp;
use epu_core::pool::Refresh;
use epu_core::request::RefreshView;

use super::{age, brief};
use crate::commands::Style;

/// How far a pool's refresh is.
#[must_use]
pub(crate) fn refresh(view: &RefreshView, now: Timestamp, style: Style) -> String {
    let (yellow, plain) = if style.colour { ("\x1b[33m", "\x1b[0m") } else { ("", "") };
    let mut text = format!("pool {}\n", view.pool);
    let mut fact = |name: &str, value: String| text.push_str(&format!("  {name:<12} {value}\n"));
    fact("template", versions(&view.version, &view.versions));
    fact(
        "refresh",
        match &view.refresh {
            Some(refresh) if view.outdated == 0 => format!("{}; nothing is left to be replaced", under_way(refresh, now)),
            Some(refresh) => format!("{}; {}", under_way(refresh, now), left(view)),
            None if view.outdated == 0 => "none; every instance is of this version".to_owned(),
            None => format!(
                "none; {} of another version: `epumgmt pool refresh {}` replaces them",
                instances(view.outdated),
                view.pool
            ),
        },
    );
    if let Some(held) = &view.held {
        fact("held up", format!("{yellow}{}{plain}", brief(held)));
    }
    if let Some(previous) = &view.previous {
        fact("before", format!("{}, which `--rollback` goes back to", brief(previous)));
    }
    text
}

/// What is left to do and what holds it up, in one line.
#[must_use]
pub(crate) fn refreshing(view: &RefreshView) -> String {
    let held = view.held.as_ref().map_or_else(String::new, |held| format!("; {}", brief(held)));
    format!("{}{held}", left(view))
}

fn left(view: &RefreshView) -> String {
    let total: u64 = view.versions.values().copied().map(u64::from).sum();
    let new = total.saturating_sub(u64::from(view.outdated));
    format!(
        "{} to be replaced, {} of them draining; {new} of the new version",
        view.outdated, view.draining
    )
}

/// A refresh that is under way: since when, by whom, and whether it is held.
pub(super) fn under_way(refresh: &Refresh, now: Timestamp) -> String {
    let back = if refresh.back { ", back to what was before" } else { "" };
    let held = match &refresh.paused {
        Some(why) if why.is_empty() => ", HELD".to_owned(),
        Some(why) => format!(", HELD: {}", brief(why)),
        None => String::new(),
    };
    format!("for {} by {}{back}{held}", age(now.since(refresh.since)), brief(&refresh.by))
}

/// What is launched, and how many run which version.
pub(super) fn versions(launched: &str, running: &BTreeMap<String, u32>) -> String {
    let mut text = brief(launched);
    if let Some(live) = running.get(launched) {
        text.push_str(&format!(" ({live} live)"));
    }
    for (version, live) in running.iter().filter(|(version, _)| *version != launched) {
        text.push_str(&format!(", also {} ({live} live)", brief(version)));
    }
    text
}

fn instances(count: u32) -> String {
    if count == 1 {
        "1 instance is".to_owned()
    } else {
        format!("{count} instances are")
    }
}
