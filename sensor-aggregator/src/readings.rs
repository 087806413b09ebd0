//! What each sensor last said. Pure.
//!
//! A sensor that cannot be read keeps its last value, whose age grows, and carries the fault beside it: whoever decides sees
//! both how old the value is and why. Put-together readings of workers differ in one thing: when no worker reports there is no
//! value at all, since the workers that the last one came from may be gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use epu_core::heartbeat::FAULT_MAX;
use epu_core::reading::SensorReport;
use epu_core::time::millis;
use epu_core::{Fault, PoolName, SensorName, Timestamp};

use crate::sensors::Value;

/// Whose sensor, and which.
pub type Key = (PoolName, SensorName);

/// The workers' readings of one name, put together.
#[derive(Debug, Clone, PartialEq)]
pub struct Together {
    /// The value and when the newest of those it came from was heard; none when nobody reports.
    pub value: Option<(f64, Timestamp)>,
    /// How many workers reported.
    pub reported: u32,
    /// How many there are to report.
    pub of: u32,
    /// How many of them were heard lately, whether they report it or not.
    pub heard: u32,
}

impl Together {
    /// Whether this is about most of the workers that there are. Among several aggregators only such a one is told: of two that
    /// each heard a part neither has the whole, and a part is not the whole, only smaller. Most hear at most one.
    #[must_use]
    pub fn is_of_most(&self) -> bool {
        u64::from(self.heard) * 2 > u64::from(self.of)
    }
}

/// What each sensor last said.
#[derive(Debug, Default)]
pub struct Readings {
    sensors: BTreeMap<Key, Said>,
    /// Attempted since the last telling.
    untold: BTreeSet<Key>,
    /// Those of them that say something else than was told.
    news: BTreeSet<Key>,
}

#[derive(Debug, Default, Clone)]
struct Said {
    source: String,
    value: Option<f64>,
    taken_at: Option<Timestamp>,
    fault: Option<Fault>,
    reported: u32,
    of: u32,
    covers_in_progress: bool,
    /// Another aggregator hears those that it is put together from, and tells it.
    left_to_others: bool,
}

impl Readings {
    /// A sensor is now watched. What it said before, it still says.
    pub fn watch(&mut self, key: Key, source: String) {
        self.sensors.entry(key).or_default().source = source;
    }

    /// A sensor is no longer watched.
    pub fn forget(&mut self, key: &Key) {
        self.sensors.remove(key);
        self.untold.remove(key);
        self.news.remove(key);
    }

    /// An attempt to read a sensor came to this.
    pub fn record(&mut self, key: &Key, outcome: Result<Value, Fault>, now: Timestamp) {
        self.change(key, |said| match outcome {
            Ok(value) => {
                said.covers_in_progress = value.covers_in_progress;
                said.source = value.source;
                said.take(value.amount, now);
            }
            Err(fault) => said.fault = Some(shortened(fault)),
        });
    }

    /// The workers' readings were put together.
    pub fn record_together(&mut self, key: &Key, together: &Together) {
        self.change(key, |said| {
            said.left_to_others = false;
            (said.reported, said.of) = (together.reported, together.of);
            if let Some((amount, taken_at)) = together.value {
                said.take(amount, taken_at);
            } else {
                (said.value, said.taken_at) = (None, None);
                said.fault = Some(Fault::new(
                    "no-reports",
                    format!("none of {} running workers reports it", together.of),
                ));
            }
        });
    }

    /// Another aggregator hears most of the workers that this sensor's value is put together from.
    pub fn leave_to_others(&mut self, key: &Key) {
        if let Some(said) = self.sensors.get_mut(key) {
            said.left_to_others = true;
            self.untold.remove(key);
            self.news.remove(key);
        }
    }

    fn change(&mut self, key: &Key, change: impl FnOnce(&mut Said)) {
        let Some(said) = self.sensors.get_mut(key) else {
            return;
        };
        let before = said.clone();
        change(said);
        if !said.says_the_same(&before) {
            self.news.insert(key.clone());
        }
        self.untold.insert(key.clone());
    }

    /// Whether some sensor says something else than was last told.
    #[must_use]
    pub fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// What is new, which then counts as told.
    pub fn take_news(&mut self, now: Timestamp) -> Vec<SensorReport> {
        let news = std::mem::take(&mut self.news);
        for key in &news {
            self.untold.remove(key);
        }
        self.reports_of(&news, now)
    }

    /// What was attempted since the last telling, or of `all` sensors; it then counts as told.
    pub fn take_reports(&mut self, all: bool, now: Timestamp) -> Vec<SensorReport> {
        self.news.clear();
        let untold = std::mem::take(&mut self.untold);
        if all {
            self.reports(now).collect()
        } else {
            self.reports_of(&untold, now)
        }
    }

    fn reports_of(&self, keys: &BTreeSet<Key>, now: Timestamp) -> Vec<SensorReport> {
        keys.iter()
            .filter_map(|key| Some((key, self.sensors.get(key)?)))
            .filter(|(_, said)| !said.left_to_others)
            .map(|(key, said)| said.report(key, now))
            .collect()
    }

    /// What every sensor last said that is told here.
    pub fn reports(&self, now: Timestamp) -> impl Iterator<Item = SensorReport> {
        let told = self.sensors.iter().filter(|(_, said)| !said.left_to_others);
        told.map(move |(key, said)| said.report(key, now))
    }

    /// The last value of every sensor, where it has one, and its age.
    pub fn values(&self, now: Timestamp) -> impl Iterator<Item = (&Key, Option<(f64, Duration)>)> {
        let told = self.sensors.iter().filter(|(_, said)| !said.left_to_others);
        told.map(move |(key, said)| (key, said.value.zip(said.taken_at.map(|at| now.since(at)))))
    }
}

impl Said {
    fn take(&mut self, amount: f64, taken_at: Timestamp) {
        if amount.is_finite() {
            (self.value, self.taken_at, self.fault) = (Some(amount), Some(taken_at), None);
        } else {
            (self.value, self.taken_at) = (None, None);
            self.fault = Some(Fault::new("invalid-reading", format!("it says {amount}")));
        }
    }

    /// The same but for its time.
    fn says_the_same(&self, other: &Self) -> bool {
        // Bits, so that nothing is lost to rounding; a value is never NaN.
        self.value.map(f64::to_bits) == other.value.map(f64::to_bits)
            && self.left_to_others == other.left_to_others
            && self.fault == other.fault
            && self.source == other.source
            && (self.reported, self.of, self.covers_in_progress) == (other.reported, other.of, other.covers_in_progress)
    }

    fn report(&self, (pool, sensor): &Key, now: Timestamp) -> SensorReport {
        SensorReport {
            pool: pool.clone(),
            sensor: sensor.clone(),
            value: self.value,
            age_ms: self.taken_at.map(|at| millis(now.since(at))),
            source: self.source.clone(),
            fault: self.fault.clone(),
            reported: self.reported,
            of: self.of,
            covers_in_progress: self.covers_in_progress,
        }
    }
}

/// The fault with a text no longer than a heartbeat's may be.
fn shortened(mut fault: Fault) -> Fault {
    if fault.text.len() > FAULT_MAX {
        let end = (0..=FAULT_MAX).rev().find(|at| fault.text.is_char_boundary(*at)).unwrap_or(0);
        fault.text.truncate(end);
    }
    fault
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        (PoolName::new("web").unwrap(), SensorName::new("queue").unwrap())
    }

    fn amount(amount: f64) -> Result<Value, Fault> {
        Ok(Value {
            amount,
            covers_in_progress: false,
            source: "rabbitmq queue jobs (ready)".to_owned(),
        })
    }

    fn watched() -> Readings {
        let mut readings = Readings::default();
        readings.watch(key(), "rabbitmq queue jobs (ready)".to_owned());
        readings
    }

    fn only(readings: &Readings, now: i64) -> SensorReport {
        readings.reports(Timestamp(now)).next().unwrap()
    }

    #[test]
    fn a_sensor_that_fails_keeps_its_value_grows_old_and_says_why() {
        let mut readings = watched();
        readings.record(&key(), amount(7.0), Timestamp(1_000));
        readings.record(&key(), Err(Fault::new("timeout", "no answer")), Timestamp(6_000));
        let report = only(&readings, 9_000);
        assert_eq!((report.value, report.age_ms), (Some(7.0), Some(8_000)));
        assert_eq!(report.fault.unwrap().code, "timeout");
        readings.record(&key(), amount(0.0), Timestamp(9_000));
        let report = only(&readings, 9_000);
        assert_eq!((report.value, report.age_ms, report.fault), (Some(0.0), Some(0), None));
    }

    #[test]
    fn a_sensor_that_never_gave_a_value_has_none() {
        let mut readings = watched();
        readings.record(&key(), Err(Fault::new("timeout", "no answer")), Timestamp(6_000));
        let report = only(&readings, 9_000);
        assert_eq!((report.value, report.age_ms), (None, None));
        assert_eq!(report.source, "rabbitmq queue jobs (ready)");
    }

    #[test]
    fn what_is_not_a_number_is_no_value() {
        for wrong in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut readings = watched();
            readings.record(&key(), amount(wrong), Timestamp(0));
            let report = only(&readings, 0);
            assert_eq!((report.value, report.fault.unwrap().code.as_ref()), (None, "invalid-reading"));
        }
    }

    #[test]
    fn what_was_read_is_told_once_and_what_changed_is_news() {
        let mut readings = watched();
        assert!(readings.take_reports(false, Timestamp(0)).is_empty());
        readings.record(&key(), amount(3.0), Timestamp(0));
        assert!(readings.has_news());
        assert_eq!(readings.take_news(Timestamp(0)).len(), 1);
        assert!(readings.take_reports(false, Timestamp(0)).is_empty());
        // The same value again: no news, and yet told with the next snapshot, since it is fresh.
        readings.record(&key(), amount(3.0), Timestamp(5_000));
        assert!(!readings.has_news());
        assert_eq!(readings.take_reports(false, Timestamp(5_000))[0].age_ms, Some(0));
        assert_eq!(readings.take_reports(true, Timestamp(5_000)).len(), 1);
    }

    #[test]
    fn a_sensor_no_longer_watched_says_nothing() {
        let mut readings = watched();
        readings.record(&key(), amount(3.0), Timestamp(0));
        readings.forget(&key());
        readings.record(&key(), amount(4.0), Timestamp(0));
        assert!(readings.take_reports(true, Timestamp(0)).is_empty());
    }

    #[test]
    fn a_fault_of_any_length_is_cut_between_characters() {
        let mut readings = watched();
        readings.record(&key(), Err(Fault::new("timeout", "é".repeat(FAULT_MAX))), Timestamp(0));
        assert_eq!(only(&readings, 0).fault.unwrap().text.len(), FAULT_MAX);
    }
}
