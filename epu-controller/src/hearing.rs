//! What aggregators say, and when all of it has been heard.
//!
//! A pool may shrink only once everybody who could know of its workers has told all there is to know: each aggregator among the
//! members. Each hears some of the workers only, so that what one of several tells is no more than its part. Where no aggregator is
//! among the members one telling is enough. Lost facts begin it anew.

use std::collections::{BTreeMap, BTreeSet};

use epu_core::fact::{Fact, Listener, Snapshot};
use epu_core::id::PoolName;
use epu_core::request::Service;
use epu_core::time::Timestamp;

use crate::managing::Managed;
use crate::service::Controller;
use crate::view::Changed;

impl Controller {
    pub(crate) fn take_snapshot(&mut self, snapshot: &Snapshot, now: Timestamp) {
        let mut changes: BTreeMap<PoolName, Changed> = BTreeMap::new();
        for heard in &snapshot.instances {
            if let Some(managed) = self.pools.get_mut(&heard.pool) {
                let changed = managed.view.heard(heard, now);
                if changed != Changed::default() {
                    changes.entry(heard.pool.clone()).or_default().absorb(changed);
                }
            }
        }
        // Who was heard comes before who was silent all the time.
        let listening = self.ears.take(snapshot, now);
        let standing = self.leads.leading.standing().clone();
        let aggregators: BTreeSet<&str> = standing.of(Service::Aggregator).map(|member| member.name.as_str()).collect();
        // All others read it off when they need it. They are as many as there are pools, and a telling has as many pages as that: only its
        // last one says more than that somebody listened.
        let mut names = std::mem::take(&mut self.waiting);
        if snapshot.complete {
            names.extend(self.unheard.iter().cloned());
        }
        for name in names {
            let Some(managed) = self.pools.get_mut(&name) else { continue };
            let complete = snapshot.complete && managed.has_heard_all(&snapshot.aggregator, &aggregators);
            let changed = managed.view.listened(listening, complete, now);
            if managed.view.has_heard_all() {
                self.unheard.remove(&name);
            }
            if managed.view.waits() {
                self.waiting.insert(name.clone());
            }
            if changed != Changed::default() {
                changes.entry(name).or_default().absorb(changed);
            }
        }
        for report in &snapshot.sensors {
            if let Some(managed) = self.pools.get_mut(&report.pool)
                && managed.view.sensor(report, now)
            {
                changes.entry(report.pool.clone()).or_default().decision = true;
            }
        }
        for (name, changed) in changes {
            self.take_changed(&name, changed, now);
        }
    }

    /// Facts were lost, and nobody knows which: all of it is to be told again, and until then it is not known who is silent.
    pub(crate) fn hear_anew(&mut self, now: Timestamp) {
        for (name, managed) in &mut self.pools {
            managed.heard_from.clear();
            managed.view.hear_anew(now);
            self.unheard.insert(name.clone());
        }
        self.parts.bus.tell(Fact::Listening(Listener::Controller));
    }
}

impl Managed {
    /// Whether everybody among these has told all there is, now that this one has.
    fn has_heard_all(&mut self, teller: &str, aggregators: &BTreeSet<&str>) -> bool {
        self.view.has_heard_all() || is_all(&mut self.heard_from, teller, aggregators)
    }
}

/// Whether all aggregators have told all they have, now that one more has, of whom these had before.
fn is_all(heard_from: &mut BTreeSet<String>, teller: &str, aggregators: &BTreeSet<&str>) -> bool {
    // Who is no member any more counts no more, and there are only so many who are.
    heard_from.retain(|name| aggregators.contains(name.as_str()));
    heard_from.insert(teller.to_owned());
    aggregators.iter().all(|name| heard_from.contains(*name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_aggregator_among_the_members_is_to_tell_all_it_has() {
        let mut heard = BTreeSet::new();
        let both = BTreeSet::from(["a", "b"]);
        assert!(!is_all(&mut heard, "a", &both), "b may have heard of others");
        assert!(!is_all(&mut heard, "c", &both), "what somebody else has is not what b has");
        assert!(is_all(&mut heard, "b", &both));
        assert!(!is_all(&mut heard, "a", &BTreeSet::from(["a", "b", "d"])), "d joined meanwhile");
        let mut heard = BTreeSet::new();
        assert!(!is_all(&mut heard, "a", &both));
        assert!(is_all(&mut heard, "a", &BTreeSet::from(["a"])), "b is gone");
    }

    #[test]
    fn where_no_members_are_listed_one_telling_is_enough() {
        assert!(is_all(&mut BTreeSet::new(), "a", &BTreeSet::new()));
    }
}
