//! A site as the provisioner sees it: the driver, what is known of it, and calls with a deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use epu_core::Fault;
use epu_core::id::{InstanceId, LaunchId, SiteName};
use epu_core::time::{Clock, Timestamp};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::iaas::{Capabilities, Class, Iaas, IaasError, Machine, MachineState};
use crate::leadership::Right;
use crate::metrics::Metrics;

/// What came of a call to a site.
#[derive(Debug)]
pub(crate) enum Done {
    Launched {
        launch: LaunchId,
        result: Result<Vec<Machine>, IaasError>,
    },
    Terminated {
        site: SiteName,
        machines: Vec<String>,
        result: Result<(), IaasError>,
    },
    Listed {
        site: SiteName,
        /// When the call began: what changed after that is not in the list.
        began: Timestamp,
        result: Result<Vec<Machine>, IaasError>,
    },
    Described {
        site: SiteName,
        result: Result<Vec<(String, Option<MachineState>)>, IaasError>,
    },
    /// What ended machines left behind was removed, of so many.
    Tidied(u32),
    /// Whoever asked has been answered.
    Answered,
}

/// An absence that is being looked into.
#[derive(Debug, Default)]
pub(crate) struct Suspicion {
    /// How often in a row the site has said gone.
    pub(crate) gone: u32,
}

/// A machine that no record explains.
#[derive(Debug)]
pub(crate) struct Stray {
    pub(crate) first_seen: Timestamp,
    pub(crate) looks: u32,
}

/// A site.
pub(crate) struct Site {
    pub(crate) name: SiteName,
    pub(crate) driver: Driver,
    /// How many launches may be called at once; looking and ending never wait for them.
    pub(crate) launch_permits: Arc<Semaphore>,
    /// The same for what is asked by others.
    pub(crate) question_permits: Arc<Semaphore>,
    pub(crate) can: Capabilities,
    // ---- looking
    pub(crate) looking: bool,
    pub(crate) next_look: Timestamp,
    /// Since when something has been changing there without a pause.
    pub(crate) changing_since: Option<Timestamp>,
    pub(crate) listed_at: Option<Timestamp>,
    /// What went wrong last, and with which call; forgotten when that works again.
    pub(crate) fault: Option<(&'static str, Fault)>,
    pub(crate) look_failures: u32,
    pub(crate) suspects: BTreeMap<InstanceId, Suspicion>,
    pub(crate) strays: BTreeMap<String, Stray>,
    // ---- ending
    pub(crate) to_end: BTreeSet<String>,
    pub(crate) ending: bool,
    pub(crate) end_at: Timestamp,
    pub(crate) end_failures: u32,
}

impl Site {
    pub(crate) fn new(name: SiteName, driver: Driver, at_once: usize, now: Timestamp) -> Self {
        Self {
            can: driver.iaas.capabilities(),
            name,
            driver,
            launch_permits: Arc::new(Semaphore::new(at_once)),
            question_permits: Arc::new(Semaphore::new(at_once)),
            looking: false,
            next_look: now,
            changing_since: None,
            listed_at: None,
            fault: None,
            look_failures: 0,
            suspects: BTreeMap::new(),
            strays: BTreeMap::new(),
            to_end: BTreeSet::new(),
            ending: false,
            end_at: now,
            end_failures: 0,
        }
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
    /// Makes a call as a task of its own, so that a driver that panics or never answers harms only this call. Whether this process
    /// still leads is asked in the moment before: it may have waited, or been stopped, since the call was decided on.
    pub(crate) async fn call<T, F>(&self, name: &'static str, make: impl FnOnce(Arc<dyn Iaas>) -> F) -> Result<T, IaasError>
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
        let result = match tokio::time::timeout(self.within, task.join_next()).await {
            Ok(Some(Ok(result))) => result,
            Ok(Some(Err(error))) => Err(IaasError::new(Class::Retryable, format!("{name}: the driver failed: {error}"))),
            Ok(None) => Err(IaasError::new(Class::Retryable, format!("{name}: the driver did not run"))),
            Err(_) => Err(IaasError::new(
                Class::Retryable,
                format!("{name}: no answer within {}", epu_core::Span(self.within)),
            )),
        };
        let outcome = result.as_ref().map_or_else(|error| error.class.word(), |_| "ok");
        self.metrics
            .called(self.site.as_str(), name, outcome, self.clock.now().since(began));
        result
    }
}
