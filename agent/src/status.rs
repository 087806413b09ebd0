//! What a worker says of itself through files in `$EPU_DIR`. Anything that is not understood is no statement, never a fault: a
//! worker must not fail because of what it wrote here.

use std::collections::BTreeMap;

use epu_core::heartbeat::READINGS_MAX;
use epu_core::instance::Work;
use epu_core::{SensorName, Timestamp};

/// The longest `status` that is read, in bytes.
pub const STATUS_MAX: usize = 64;
/// The longest `readings` that is read, in bytes: enough for every line a heartbeat may carry.
pub const READINGS_FILE_MAX: usize = 8_192;

/// What a worker says of itself now.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Seen {
    /// Whether it has work.
    pub work: Work,
    /// When it last said so, if that is known.
    pub written_at: Option<Timestamp>,
    /// Its readings.
    pub readings: BTreeMap<SensorName, f64>,
    /// How many lines of its readings were not understood, or too many.
    pub ignored: u32,
}

/// `busy` or `idle`, white space around it aside; anything else is unknown.
#[must_use]
pub fn work(text: &str) -> Work {
    match text.trim() {
        "busy" => Work::Busy,
        "idle" => Work::Idle,
        _ => Work::Unknown,
    }
}

/// One `name value` a line, later lines over earlier ones; empty lines and those that begin with `#` aside. Also gives how many
/// lines were ignored.
#[must_use]
pub fn readings(text: &str) -> (BTreeMap<SensorName, f64>, u32) {
    let mut understood = BTreeMap::new();
    let mut ignored = 0;
    for line in text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        match reading(line) {
            Some((name, value)) if understood.len() < READINGS_MAX || understood.contains_key(&name) => {
                understood.insert(name, value);
            }
            Some(_) | None => ignored += 1,
        }
    }
    (understood, ignored)
}

fn reading(line: &str) -> Option<(SensorName, f64)> {
    let mut words = line.split_whitespace();
    let (name, value) = (words.next()?, words.next()?);
    let value: f64 = value.parse().ok()?;
    (words.next().is_none() && value.is_finite()).then_some(())?;
    Some((SensorName::new(name).ok()?, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_one_of_two_words_or_unknown() {
        assert_eq!(work(" busy\n"), Work::Busy);
        assert_eq!(work("idle"), Work::Idle);
        for other in ["", "Busy", "busy idle", "\0\0", "1"] {
            assert_eq!(work(other), Work::Unknown, "{other:?}");
        }
    }

    #[test]
    fn bad_lines_are_ignored_and_counted() {
        let (understood, ignored) = readings("load 0.5\n\n# note\nload 0.7\nnan NaN\nbad/name 1\nthree 1 2\nalone\nlow -1e3\n");
        let shown: Vec<_> = understood.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(shown, ["load=0.7", "low=-1000"]);
        assert_eq!(ignored, 4);
    }

    #[test]
    fn there_are_only_so_many() {
        let text: String = (0..40).map(|n| format!("r{n} {n}\n")).collect();
        let (understood, ignored) = readings(&text);
        assert_eq!((understood.len(), ignored), (READINGS_MAX, 8));
    }
}
