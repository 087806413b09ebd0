//! Whether a launch is worth having: when fewer of it became ready in time than its `min`, the rest is ended too, since half of what
//! works only as a whole is paid for and of no use.
//!
//! Judged is a launch once none of its instances is coming up any more: each has become ready, or failed, or its time to become ready
//! is over. One of which as many as `min` were ready at some time is never undone, whatever became of them afterwards. Instances that
//! were told to go for another reason before they were ready are not missed. What nobody remembers counts as having been ready.
//!
//! It follows from the records alone, in the transaction that records the last failure; and after a restart, for launches that are
//! young enough, once more.

use std::sync::Arc;
use std::time::Duration;

use epu_core::id::LaunchId;
use epu_core::instance::{Cause, Instance};
use epu_core::launch::Launch;
use epu_core::time::Timestamp;

use crate::service::Service;

/// After the time in which a launch's last instance must have become ready, it is judged anew by a process that begins for so long.
/// Too high: a start reads many records of old launches. Too low: one that was to be undone while nobody acted is not.
const JUDGED_FOR: Duration = Duration::from_secs(3_600);

/// What became of the instances of a launch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Became {
    coming_up: u32,
    ready: u32,
    dismissed: u32,
    stay: u32,
}

impl Became {
    fn count(&mut self, instance: Option<&Instance>) {
        let Some(instance) = instance else {
            self.ready += 1;
            return;
        };
        if instance.state.is_booting() {
            self.coming_up += 1;
        } else if instance.ready_at.is_some() {
            self.ready += 1;
        } else if was_dismissed(instance) {
            self.dismissed += 1;
        }
        self.stay += u32::from(instance.is_live() && !instance.is_leaving());
    }

    fn is_too_few(self, min: u32) -> bool {
        self.coming_up == 0 && self.stay > 0 && self.ready < min.saturating_sub(self.dismissed)
    }
}

/// Whether it was told to go before it could show whether it becomes ready.
fn was_dismissed(instance: &Instance) -> bool {
    instance.ending.as_ref().is_some_and(|ending| match ending.why {
        Cause::ScaleIn
        | Cause::SlotRemoved
        | Cause::PlacementLeft
        | Cause::Refresh
        | Cause::PoolRemoved
        | Cause::Operator
        | Cause::Teardown
        | Cause::Drained
        | Cause::DrainDeadline
        | Cause::Finished => true,
        Cause::Unhealthy | Cause::Interrupted | Cause::Vanished | Cause::NotReady | Cause::StartFailed | Cause::Stray => false,
    })
}

impl Service {
    /// An instance of this launch comes up no longer.
    pub(crate) fn judge_soon(&mut self, launch: LaunchId) {
        if self.book.launch(launch).is_some_and(|known| known.launch.request.min > 1) {
            self.to_judge.insert(launch);
        }
    }

    /// After the records were read: whoever wrote them may have ended before it judged.
    pub(crate) fn judge_all(&mut self, now: Timestamp) {
        let window = self.launch_window();
        let is_young = |launch: &Launch| now < launch.accepted_at + window + *launch.request.template.ready_within + JUDGED_FOR;
        let some = self
            .book
            .launches()
            .filter(|known| known.launch.request.min > 1 && is_young(&known.launch));
        self.to_judge = some.map(|known| known.launch.id).collect();
    }

    pub(crate) async fn judge(&mut self) {
        for id in std::mem::take(&mut self.to_judge) {
            let Some(launch) = self.book.launch(id).map(|known| known.launch.clone()) else {
                continue;
            };
            match self.became(&launch).await {
                Ok(became) if became.is_too_few(launch.request.min) => self.undo(&launch, became.ready, "became ready in time"),
                Ok(_) => {}
                Err(error) => {
                    self.to_judge.insert(id);
                    return self.not_written(&error);
                }
            }
        }
    }

    async fn became(&self, launch: &Launch) -> Result<Became, epu_store::Error> {
        let mut became = Became::default();
        let mut ended = Vec::new();
        for wanted in &launch.request.instances {
            match self.instance(wanted.id) {
                Some(instance) => became.count(Some(instance)),
                None => ended.push(wanted.id),
            }
        }
        // Only where they make a difference are those read that ended a while ago.
        let enough = became.coming_up > 0 || became.stay == 0 || became.ready >= launch.request.min;
        for id in ended.into_iter().filter(|_| !enough) {
            let recorded: Option<Arc<Instance>> = self.store.instance(id).await?.map(Arc::new);
            became.count(recorded.as_deref());
        }
        Ok(became)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_is_judged_when_all_have_shown_what_becomes_of_them() {
        let became = |coming_up, ready, dismissed, stay| Became {
            coming_up,
            ready,
            dismissed,
            stay,
        };
        assert!(became(0, 1, 0, 1).is_too_few(2));
        assert!(!became(1, 0, 0, 3).is_too_few(2), "one may still become ready");
        assert!(!became(0, 2, 0, 1).is_too_few(2), "as many were ready once");
        assert!(!became(0, 1, 1, 1).is_too_few(2), "one was told to go");
        assert!(!became(0, 0, 0, 0).is_too_few(2), "nothing is left to end");
        let mut unknown = Became::default();
        unknown.count(None);
        assert_eq!(unknown, became(0, 1, 0, 0), "what nobody remembers is not held against the others");
    }
}
