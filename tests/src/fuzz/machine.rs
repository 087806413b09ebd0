//! What an agent reads on its machine: metadata of the site, and the files that its worker writes.

use std::fmt::Write as _;
use std::time::Duration;

use epu_agent::metadata::notice;
use epu_agent::status;
use epu_core::heartbeat::READINGS_MAX;
use epu_core::time::Timestamp;

use super::{Verdict, so};

/// Words of metadata.
pub(super) const NOTICE_WORDS: &[&str] = &[
    "action",
    "time",
    "terminate",
    "stop",
    "hibernate",
    "rebalance",
    "2026-11-22T08:22:00Z",
    "-05:00",
];
/// Words of a worker's files.
pub(super) const STATUS_WORDS: &[&str] = &[
    "busy",
    "idle",
    "load ",
    "load 0.7\n",
    "#",
    "1e308",
    "-1e309",
    "inf",
    "NaN",
    "a.b-c_d ",
    "\u{2003}",
];

/// A notice that the machine is taken away: whatever it says, the end is ahead, and no further than notices are given.
pub(super) fn notices(input: &[u8]) -> Verdict {
    let text = String::from_utf8_lossy(input);
    for now in [Timestamp(0), Timestamp(1_795_335_600_000), Timestamp::NEVER] {
        if let Some(at) = notice(&text, now) {
            let ahead = at.since(now);
            so(at >= now && ahead <= Duration::from_secs(120), || {
                format!("the machine is taken away {ahead:?} from now")
            })?;
        }
    }
    Ok(())
}

/// The files `status` and `readings`: numbers under names, so many at the most, and the same when they are written again.
pub(super) fn files(input: &[u8]) -> Verdict {
    let text = String::from_utf8_lossy(input);
    let work = status::work(&text);
    so(status::work(&format!(" {text}\n")) == work, || {
        "white space around it matters".to_owned()
    })?;
    let (readings, ignored) = status::readings(&text);
    so(readings.len() <= READINGS_MAX, || format!("{} readings", readings.len()))?;
    so(readings.values().all(|value| value.is_finite()), || {
        "a reading that is no number".to_owned()
    })?;
    let lines = text.lines().count();
    so(readings.len() + usize::try_from(ignored).unwrap_or(usize::MAX) <= lines, || {
        format!("{} readings and {ignored} ignored in {lines} lines", readings.len())
    })?;
    let mut written = String::new();
    for (name, value) in &readings {
        writeln!(written, "{name} {value}").map_err(|error| error.to_string())?;
    }
    so(status::readings(&written) == (readings, 0), || {
        format!("written again they are others: {written}")
    })
}
