//! Being on the list of members, so that agents are told of this aggregator's door and `status` shows it.
//!
//! An aggregator leads nothing and keeps no records: this is all that it asks of the store. Whether the store answers makes no
//! difference to what is heard and told.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use epu_core::Clock;
use epu_core::code::Chain;
use epu_core::leading::{LASTS, Leading};
use epu_core::lease::Member;
use epu_core::request::Service;
use epu_store::Store;
use tracing::{info, warn};

/// The longest wait for the store when leaving. Too low: agents are told of a door that is shut. Too high: so does a stop.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);
/// The shortest and the longest sleep.
const SLEEP: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(60));

/// This process on the list.
pub(crate) struct Membership {
    pub(crate) member: Member,
    /// Who keeps the list; without one there is none.
    pub(crate) store: Option<Arc<dyn Store>>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Whether others were on it when the store last answered, for as long as a member is listed without renewal.
    pub(crate) others: Arc<AtomicBool>,
}

impl Membership {
    pub(crate) fn new(member: Member, store: Option<Arc<dyn Store>>, clock: Arc<dyn Clock>) -> Self {
        Self {
            member,
            store,
            clock,
            others: Arc::default(),
        }
    }

    /// Says again and again that it is there; to be polled beside everything else.
    pub(crate) async fn renew(&self) -> Infallible {
        let Some(store) = &self.store else {
            return pending().await;
        };
        let mut leading = Leading::new(self.member.clone(), self.clock.now());
        let mut answers = true;
        let mut answered_at = self.clock.now();
        loop {
            let now = self.clock.now();
            if let Some((ask, _)) = leading.ask(now) {
                let answer = tokio::time::timeout(*LASTS, store.lease(ask)).await;
                let failed = match answer {
                    Ok(Ok(standing)) => {
                        let others = standing.of(Service::Aggregator).any(|other| other.name != self.member.name);
                        self.others.store(others, Ordering::Relaxed);
                        answered_at = now;
                        leading.took(now, standing, self.clock.now());
                        None
                    }
                    Ok(Err(error)) => Some(Chain(&error).to_string()),
                    Err(_) => Some(format!("no answer within {LASTS}")),
                };
                match failed {
                    Some(why) => {
                        leading.failed(self.clock.now());
                        if self.clock.now().since(answered_at) >= *LASTS {
                            // Whoever was there then may be gone: what each hears is then told by each, rather than by nobody.
                            self.others.store(false, Ordering::Relaxed);
                        }
                        if std::mem::replace(&mut answers, false) {
                            warn!(error = why, "the store does not list this aggregator; listening goes on");
                        }
                    }
                    None if !answers => {
                        answers = true;
                        info!("the store lists this aggregator again");
                    }
                    None => {}
                }
            }
            tokio::time::sleep(leading.next_due().since(self.clock.now()).clamp(SLEEP.0, SLEEP.1)).await;
        }
    }

    /// Takes itself off the list.
    pub(crate) async fn leave(&self) {
        let Some(store) = &self.store else { return };
        match tokio::time::timeout(LEAVE_WITHIN, store.leave(&self.member.name)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(error = %Chain(&error), "this aggregator stays on the list for a moment"),
            Err(_) => warn!("this aggregator stays on the list for a moment: the store does not answer"),
        }
    }
}
