//! A site as the provisioner sees it: the driver, what is known of it, and calls with a deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use epu_core::Fault;
use epu_core::id::{InstanceId, LaunchId, SiteName};
use epu_core::launch::Purpose;
use epu_core::time::{Clock, Timestamp};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::iaas::{Admission, Capabilities, Class, Iaas, IaasError, Machine, MachineState};
use crate::leadership::Right;
use crate::metrics::Metrics;

/// Machines in one call that ends or describes them; the rest follow with the next. Too high: one that the site refuses concerns many.
pub(crate) const BATCH: usize = 500;

/// What came of a call to a site.
#[derive(Debug)]
pub(crate) enum Done {
    Launched {
        launch: LaunchId,
        result: Result<Vec<Machine>, IaasError>,
    },
    /// A launch whose call was withdrawn before it was made.
    Withdrawn(LaunchId),
    /// A launch that was not called, since the store has it otherwise or not at all.
    Unrecorded(LaunchId),
    Terminated {
        site: SiteName,
        machines: Vec<String>,
        result: Result<(), IaasError>,
    },
    Listed {
        site: SiteName,
        /// When the call began: what changed after that is not in the list.
        began: Timestamp,
        /// When it was asked whose account it is: whether somebody could say.
        vouched: Option<bool>,
        result: Result<Vec<Machine>, IaasError>,
    },
    Described {
        site: SiteName,
        result: Result<Vec<(String, Option<MachineState>)>, IaasError>,
    },
    /// Whether the site is where its machines are, asked because so many of them are gone.
    Vouched {
        site: SiteName,
        gone: Vec<InstanceId>,
        result: Result<(), IaasError>,
    },
    /// What ended machines left behind was removed, of so many.
    Tidied(u32),
    /// Whoever asked has been answered, and with these sites it went wrong.
    Answered(Vec<(SiteName, IaasError)>),
}

/// A call that waits for its turn: once it is made it cannot be withdrawn, and the other way round.
#[derive(Debug, Default)]
pub(crate) struct Ticket {
    used: AtomicBool,
    withdrawn: CancellationToken,
}

impl Ticket {
    /// The call is about to be made. False when it was withdrawn.
    pub(crate) fn make(&self) -> bool {
        !self.used.swap(true, Ordering::SeqCst)
    }

    /// The call is not to be made. Nothing, when it was made already.
    pub(crate) fn withdraw(&self) {
        if !self.used.swap(true, Ordering::SeqCst) {
            self.withdrawn.cancel();
        }
    }

    pub(crate) async fn withdrawn(&self) {
        self.withdrawn.cancelled().await;
    }

    pub(crate) fn is_waiting(&self) -> bool {
        !self.used.load(Ordering::SeqCst)
    }
}

/// Permits for calls that launch, given to the most urgent first, and among equals to the first that came: a replacement does not wait
/// behind growth that had its turn before. As with [`crate::pace`], nobody waits for ever.
#[derive(Debug)]
pub(crate) struct Permits {
    line: Mutex<Line>,
    moved: Notify,
}

#[derive(Debug)]
struct Line {
    free: usize,
    came: u64,
    waiting: BTreeSet<(Timestamp, u64)>,
}

/// A place in line, and once it is served a permit; dropped, either is given back.
#[derive(Debug)]
pub(crate) struct Permit {
    permits: Arc<Permits>,
    place: (Timestamp, u64),
    is_served: bool,
}

impl Permits {
    pub(crate) fn new(at_once: usize) -> Arc<Self> {
        Arc::new(Self {
            line: Mutex::new(Line {
                free: at_once,
                came: 0,
                waiting: BTreeSet::new(),
            }),
            moved: Notify::new(),
        })
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a permit. Dropped while it waits, the place in line is free.
    pub(crate) async fn acquire(self: &Arc<Self>, purpose: Purpose, now: Timestamp) -> Permit {
        let place = {
            let mut line = self.line();
            line.came += 1;
            let place = (now + crate::pace::handicap(purpose), line.came);
            line.waiting.insert(place);
            place
        };
        let mut permit = Permit {
            permits: self.clone(),
            place,
            is_served: false,
        };
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            // From here on no move is missed.
            moved.as_mut().enable();
            {
                let mut line = self.line();
                if line.free > 0 && line.waiting.first() == Some(&place) {
                    line.free -= 1;
                    line.waiting.remove(&place);
                    permit.is_served = true;
                }
            }
            if permit.is_served {
                // The next may have one too.
                self.moved.notify_waiters();
                return permit;
            }
            moved.await;
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        {
            let mut line = self.permits.line();
            if self.is_served {
                line.free += 1;
            } else {
                line.waiting.remove(&self.place);
            }
        }
        self.permits.moved.notify_waiters();
    }
}

/// An absence, or a machine that does no work, that is being looked into.
#[derive(Debug, Default)]
pub(crate) struct Suspicion {
    /// How often in a row the site has said that it is gone or halted.
    pub(crate) gone: u32,
}

/// A machine that no record explains.
#[derive(Debug)]
pub(crate) struct Stray {
    /// When it was first listed.
    pub(crate) since: Timestamp,
    /// Whether it was counted as a violation that it is there still.
    pub(crate) is_counted: bool,
    /// The same until its end is asked for; then its grace begins anew.
    pub(crate) first_seen: Timestamp,
    pub(crate) looks: u32,
    /// As it was last listed.
    pub(crate) machine: Machine,
}

/// A machine of the last list that the sweep has no more to do with.
#[derive(Debug)]
pub(crate) struct Spared {
    pub(crate) machine: Machine,
    pub(crate) why: Why,
}

/// Why the sweep has no more to do with a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// That look took it in as this instance's.
    Adopted(InstanceId),
    /// It is, or may become, the machine of another site's instance.
    Elsewhere,
}

/// A site.
pub(crate) struct Site {
    pub(crate) name: SiteName,
    pub(crate) driver: Driver,
    /// How many launches may be called at once; looking and ending never wait for them.
    pub(crate) launch_permits: Arc<Permits>,
    /// The same for what is asked by others.
    pub(crate) question_permits: Arc<Semaphore>,
    pub(crate) can: Capabilities,
    /// Where it is, in words: one that is elsewhere is another.
    pub(crate) place: String,
    /// Why nothing is launched there any more.
    pub(crate) leaving: Option<Fault>,
    // ---- looking
    /// When it was last asked whose account it is, and whether somebody could say.
    pub(crate) vouched: Option<(Timestamp, bool)>,
    /// Whether the last list showed a machine of an instance.
    pub(crate) shows_some: bool,
    pub(crate) looking: bool,
    pub(crate) next_look: Timestamp,
    /// Since when something has been changing there without a pause.
    pub(crate) changing_since: Option<Timestamp>,
    pub(crate) listed_at: Option<Timestamp>,
    /// When the look under way began, if it asks for machines by name only.
    pub(crate) by_name: Option<Timestamp>,
    /// What went wrong last, and with which call; forgotten when that works again.
    pub(crate) fault: Option<(&'static str, Fault)>,
    pub(crate) look_failures: u32,
    /// After a failure it is not asked anything of itself before this.
    pub(crate) rests_until: Timestamp,
    /// It refused us, or so many calls: nobody's questions are passed on before this.
    pub(crate) barred_until: Timestamp,
    pub(crate) suspects: BTreeMap<InstanceId, Suspicion>,
    pub(crate) strays: BTreeMap<String, Stray>,
    pub(crate) spared: Vec<Spared>,
    /// Since when every call has worked; never while one does not.
    pub(crate) works_since: Timestamp,
    /// Instances that more than one machine is listed for, and in how many lists in a row.
    pub(crate) doubles: BTreeMap<InstanceId, u32>,
    /// Instances whose machine the site has called gone, or not known, when it was last asked for it by name.
    pub(crate) called_gone: BTreeSet<InstanceId>,
    // ---- ending
    pub(crate) to_end: BTreeSet<String>,
    /// When the site first agreed to end a machine that is not gone yet; never, once it was asked again because of that.
    pub(crate) agreed: BTreeMap<String, Timestamp>,
    /// How often the end of one of those was asked for alone, and refused.
    pub(crate) end_tries: BTreeMap<String, u32>,
    pub(crate) ending: bool,
    pub(crate) end_at: Timestamp,
    pub(crate) end_failures: u32,
    /// Most machines of the next call that ends some: fewer after one was refused, so that one machine that cannot be ended keeps no
    /// other from its end.
    pub(crate) end_most: usize,
}

impl Site {
    pub(crate) fn new(name: SiteName, driver: Driver, at_once: usize, now: Timestamp) -> Self {
        Self {
            can: driver.iaas.capabilities(),
            name,
            driver,
            launch_permits: Permits::new(at_once),
            question_permits: Arc::new(Semaphore::new(at_once)),
            place: String::new(),
            leaving: None,
            vouched: None,
            shows_some: false,
            looking: false,
            next_look: now,
            changing_since: None,
            listed_at: None,
            by_name: None,
            fault: None,
            look_failures: 0,
            rests_until: now,
            barred_until: now,
            suspects: BTreeMap::new(),
            strays: BTreeMap::new(),
            spared: Vec::new(),
            works_since: now,
            doubles: BTreeMap::new(),
            called_gone: BTreeSet::new(),
            to_end: BTreeSet::new(),
            agreed: BTreeMap::new(),
            end_tries: BTreeMap::new(),
            ending: false,
            end_at: now,
            end_failures: 0,
            end_most: BATCH,
        }
    }

    /// Takes another driver for the same place. What went wrong with the former one is forgotten.
    pub(crate) fn take_driver(&mut self, iaas: Arc<dyn Iaas>, now: Timestamp) {
        self.can = iaas.capabilities();
        self.driver.iaas = iaas;
        self.fault = None;
        self.works_since = now;
        (self.look_failures, self.end_failures) = (0, 0);
        (self.rests_until, self.barred_until, self.end_at) = (now, now, now);
        self.end_most = BATCH;
        self.end_tries.clear();
        self.vouched = None;
        self.look_by(now);
    }

    /// The machines of the next call that ends some. One that was refused alone waits for all that were not, and is not mixed with them.
    pub(crate) fn next_to_end(&self) -> Vec<String> {
        let tries = |machine: &String| self.end_tries.get(machine).copied().unwrap_or(0);
        let least = self.to_end.iter().map(tries).min();
        let first = self.to_end.iter().filter(|machine| Some(tries(machine)) == least);
        first.take(self.end_most).cloned().collect()
    }

    /// This machine's end is not asked for any more.
    pub(crate) fn ends_no_more(&mut self, machine: &str) {
        self.to_end.remove(machine);
        self.end_tries.remove(machine);
    }

    /// Has it looked at by then at the latest, but not while it rests after a failure.
    pub(crate) fn look_by(&mut self, at: Timestamp) {
        self.next_look = self.next_look.min(at.max(self.rests_until));
    }
}

/// A driver, with what every call to it needs.
#[derive(Clone)]
pub(crate) struct Driver {
    pub(crate) site: SiteName,
    pub(crate) iaas: Arc<dyn Iaas>,
    pub(crate) right: Right,
    pub(crate) within: Duration,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Driver {
    /// Waits for a call's turn, for as long as that takes: the deadline of the call begins afterwards.
    pub(crate) async fn admitted(&self, call: Admission) {
        let iaas = self.iaas.clone();
        let mut task = JoinSet::new();
        task.spawn(async move { iaas.admit(call).await });
        if let Some(Err(error)) = task.join_next().await {
            warn!(site = %self.site, %error, "the driver failed to pace a call, which is made at once");
        }
    }

    /// Makes a call with the usual deadline.
    pub(crate) async fn call<T, F>(&self, name: &'static str, make: impl FnOnce(Arc<dyn Iaas>) -> F) -> Result<T, IaasError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, IaasError>> + Send + 'static,
    {
        self.call_within(self.within, name, make).await
    }

    /// Makes a call as a task of its own, so that a driver that panics or never answers harms only this call. Whether this process
    /// still leads is asked in the moment before: it may have waited, or been stopped, since the call was decided on.
    pub(crate) async fn call_within<T, F>(
        &self,
        within: Duration,
        name: &'static str,
        make: impl FnOnce(Arc<dyn Iaas>) -> F,
    ) -> Result<T, IaasError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, IaasError>> + Send + 'static,
    {
        let began = self.clock.now();
        let mut task = JoinSet::new();
        let (iaas, right) = (self.iaas.clone(), self.right.clone());
        let call = make(iaas);
        task.spawn(async move {
            if right.stands() {
                call.await
            } else {
                Err(IaasError::new(
                    Class::Retryable,
                    format!("{name}: not made, this provisioner leads no longer"),
                ))
            }
        });
        let result = match tokio::time::timeout(within, task.join_next()).await {
            Ok(Some(Ok(result))) => result,
            Ok(Some(Err(error))) => Err(IaasError::new(Class::Retryable, format!("{name}: the driver failed: {error}"))),
            Ok(None) => Err(IaasError::new(Class::Retryable, format!("{name}: the driver did not run"))),
            Err(_) => Err(IaasError::new(
                Class::Retryable,
                format!("{name}: no answer within {}", epu_core::Span(within)),
            )),
        };
        let outcome = result.as_ref().map_or_else(|error| error.class.word(), |_| "ok");
        self.metrics
            .called(self.site.as_str(), name, outcome, self.clock.now().since(began));
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_replacement_gets_the_next_permit_before_growth_that_came_first() {
        let permits = Permits::new(1);
        let now = Timestamp(1_763_840_236_000);
        let held = permits.acquire(Purpose::Grow, now).await;
        let served = Arc::<Mutex<Vec<&str>>>::default();
        let mut tasks = JoinSet::new();
        let order = [
            ("refresh", Purpose::Refresh),
            ("g1", Purpose::Grow),
            ("g2", Purpose::Grow),
            ("replace", Purpose::Replace),
        ];
        for (name, purpose) in order {
            let (permits, served) = (permits.clone(), served.clone());
            tasks.spawn(async move {
                let _permit = permits.acquire(purpose, now).await;
                served.lock().unwrap().push(name);
            });
            tokio::task::yield_now().await;
        }
        let gone = tokio::time::timeout(Duration::from_secs(1), permits.acquire(Purpose::Replace, now)).await;
        assert!(gone.is_err(), "more permits than there are");
        drop(held);
        while tasks.join_next().await.is_some() {}
        assert_eq!(*served.lock().unwrap(), ["replace", "g1", "g2", "refresh"]);
        assert_eq!(permits.line().free, 1);
    }
}
