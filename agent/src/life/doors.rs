//! Which door to ask at.
//!
//! Every door of the installation passes on whatever an agent asks, so any one will do, and the loss of any one must not matter.
//! Each agent has its own order among them, by a hash of both names, so that agents spread themselves without talking about it, and
//! those of a door that goes spread over the others. The first that is not shut is asked. One where nobody answered is shut for a
//! while, longer each time, and then tried again; when all are shut the one that opens first is asked, since an agent that gives up
//! asking helps nobody.
//!
//! Heartbeats prefer doors of aggregators, and all agents of a pool the same one: what a pool's workers say is then put together in
//! one place.

use std::time::Duration;

use epu_core::Timestamp;
use epu_core::hash::hash;
use epu_core::request::DOORS_MAX;

/// How long a door where nobody answered is left alone; each further time twice as long, up to [`SHUT_MOST`]. Too low: much is sent
/// in vain. Too high: a door that is back stays idle.
const SHUT_LEAST: Duration = Duration::from_secs(1);
/// The longest such time.
const SHUT_MOST: Duration = Duration::from_secs(30);
/// The longest url; a longer one is no door.
const URL_MAX: usize = 300;

/// Doors, and how they were found.
#[derive(Debug, Clone)]
pub(super) struct Doors {
    /// What decides this agent's order among them.
    key: String,
    doors: Vec<Door>,
    /// Those from the launch, which stay known whatever is told later.
    first: Vec<String>,
}

#[derive(Debug, Clone)]
struct Door {
    url: String,
    /// Preferred to all that are not.
    is_preferred: bool,
    /// In vain, in a row.
    failed: u32,
    shut_since: Timestamp,
    again_at: Timestamp,
}

impl Doors {
    pub(super) fn new(key: String, first: &[String], now: Timestamp) -> Self {
        let mut doors = Self {
            key,
            doors: Vec::new(),
            first: first.to_vec(),
        };
        doors.know(&[], &[], now);
        doors
    }

    /// These are the doors now, the preferred ones among or beside them; what is known of each stays known.
    pub(super) fn know(&mut self, all: &[String], preferred: &[String], now: Timestamp) {
        let mut before = std::mem::take(&mut self.doors);
        for url in preferred.iter().chain(all).chain(&self.first) {
            let is_one = ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme)) && url.len() <= URL_MAX;
            if !is_one || self.doors.len() >= DOORS_MAX || self.doors.iter().any(|door| door.url == *url) {
                continue;
            }
            let known = before.iter().position(|door| door.url == *url).map(|at| before.swap_remove(at));
            self.doors.push(Door {
                is_preferred: preferred.contains(url),
                ..known.unwrap_or_else(|| Door {
                    url: url.clone(),
                    is_preferred: false,
                    failed: 0,
                    shut_since: now,
                    again_at: now,
                })
            });
        }
        let key = &self.key;
        self.doors
            .sort_by_cached_key(|door| (!door.is_preferred, std::cmp::Reverse(weight(key, &door.url)), door.url.clone()));
    }

    /// Changes what decides the order.
    pub(super) fn order_by(&mut self, key: &str) {
        key.clone_into(&mut self.key);
    }

    /// Where to ask now; none when no door is known.
    pub(super) fn choose(&self, now: Timestamp) -> Option<&str> {
        let open = self.doors.iter().find(|door| door.again_at <= now);
        let chosen = open.or_else(|| self.doors.iter().min_by_key(|door| door.again_at));
        chosen.map(|door| door.url.as_str())
    }

    /// Whether one is worth trying now.
    pub(super) fn any_open(&self, now: Timestamp) -> bool {
        self.doors.iter().any(|door| door.again_at <= now)
    }

    /// Somebody answered there.
    pub(super) fn answered(&mut self, url: &str, now: Timestamp) {
        if let Some(door) = self.doors.iter_mut().find(|door| door.url == url) {
            door.failed = 0;
            door.again_at = now;
        }
    }

    /// Nobody answered there.
    pub(super) fn in_vain(&mut self, url: &str, now: Timestamp, luck: f64) {
        if let Some(door) = self.doors.iter_mut().find(|door| door.url == url) {
            if door.failed == 0 {
                door.shut_since = now;
            }
            let wait = SHUT_LEAST.saturating_mul(1 << door.failed.min(10)).min(SHUT_MOST);
            door.failed = door.failed.saturating_add(1);
            door.again_at = now + wait.mul_f64(0.75 + 0.5 * luck);
        }
    }

    /// Whether one has been shut for so long that there may be another in its place.
    pub(super) fn one_is_lost(&self, after: Duration, now: Timestamp) -> bool {
        self.doors.iter().any(|door| door.failed > 0 && now.since(door.shut_since) >= after)
    }
}

/// How much a door weighs for a key: near texts have far weights.
pub(super) fn weight(key: &str, url: &str) -> u64 {
    hash(key.bytes().chain([0]).chain(url.bytes()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const T0: Timestamp = Timestamp(1_000);

    fn urls(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| format!("http://{name}")).collect()
    }

    #[test]
    fn agents_spread_and_each_keeps_to_its_own() {
        let all = urls(&["a", "b", "c"]);
        let mut chosen: BTreeMap<String, usize> = BTreeMap::new();
        for agent in 0..300 {
            let doors = Doors::new(format!("agent {agent}"), &all, T0);
            let door = doors.choose(T0).unwrap().to_owned();
            let reversed: Vec<String> = all.iter().rev().cloned().collect();
            assert_eq!(Doors::new(format!("agent {agent}"), &reversed, T0).choose(T0), Some(door.as_str()));
            *chosen.entry(door).or_default() += 1;
        }
        assert!(chosen.len() == 3 && chosen.values().all(|count| *count > 60), "{chosen:?}");
    }

    #[test]
    fn one_that_does_not_answer_is_passed_over_ever_longer_and_used_again_when_it_is_back() {
        let mut doors = Doors::new("x".to_owned(), &urls(&["a", "b"]), T0);
        let first = doors.choose(T0).unwrap().to_owned();
        doors.in_vain(&first, T0, 0.5);
        let second = doors.choose(T0).unwrap().to_owned();
        assert_ne!(first, second);
        assert!(doors.any_open(T0));
        let later = T0 + Duration::from_secs(1);
        assert_eq!(doors.choose(later), Some(first.as_str()), "it is tried again");
        doors.in_vain(&first, later, 0.5);
        assert_eq!(
            doors.choose(later + Duration::from_millis(1_999)),
            Some(second.as_str()),
            "twice as long"
        );
        doors.answered(&first, later);
        assert_eq!(doors.choose(later), Some(first.as_str()));
    }

    #[test]
    fn with_all_shut_the_one_that_opens_first_is_asked() {
        let mut doors = Doors::new("x".to_owned(), &urls(&["a", "b"]), T0);
        doors.in_vain("http://b", T0, 0.5);
        doors.in_vain("http://a", T0 + Duration::from_millis(10), 0.5);
        let now = T0 + Duration::from_millis(20);
        assert!(!doors.any_open(now));
        assert_eq!(doors.choose(now), Some("http://b"));
        assert_eq!(Doors::new("x".to_owned(), &[], T0).choose(T0), None);
    }

    #[test]
    fn preferred_doors_come_first_those_of_the_launch_stay_and_nonsense_is_no_door() {
        let mut doors = Doors::new("x".to_owned(), &urls(&["launch"]), T0);
        doors.in_vain("http://launch", T0, 0.5);
        let told = ["ftp://x".to_owned(), "http://p".to_owned(), format!("http://{}", "x".repeat(400))];
        doors.know(&told, &urls(&["agg"]), T0);
        assert_eq!(doors.choose(T0), Some("http://agg"));
        doors.in_vain("http://agg", T0, 0.5);
        assert_eq!(doors.choose(T0), Some("http://p"), "the launch's door is known to be shut");
        doors.in_vain("http://p", T0, 0.5);
        assert!(!doors.any_open(T0), "{doors:?}");
        doors.know(&urls(&["1", "2"]), &[], T0);
        assert!(doors.doors.iter().any(|door| door.url == "http://launch" && door.failed == 1));
        let many: Vec<String> = (0..100).map(|n| format!("http://{n}")).collect();
        doors.know(&many, &[], T0);
        assert_eq!(doors.doors.len(), DOORS_MAX);
    }
}
