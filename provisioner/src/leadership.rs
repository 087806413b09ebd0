//! Whether this process acts: one provisioner does at a time, the others stand by.
//!
//! [`Leadership::renew`] keeps the member's name on the list and its lease alive for as long as the process runs, beside whatever
//! else it does, so that a store that is slow with records is not slow with leases too. What it is granted is a [`Right`]: one
//! term, with the question "still?" that is asked again at the moment of every call to a site. By this process's own clock it ends
//! before the store gives the lease to anybody else.
//!
//! A process that was held up (stopped, starved, out of memory) finds its right over when it goes on, because the clock went on
//! without it; what it was about to write is refused by the store, whose word on this is the last.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use epu_core::code::Chain;
use epu_core::leading::{LASTS, Leading};
use epu_core::lease::{Domain, Member, Standing, Term};
use epu_core::time::{Clock, Timestamp};
use epu_store::Store;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

/// The longest wait for the store when leaving. Too low: whoever takes over waits for the lease to run out. Too high: so does a stop.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);
/// The longest sleep; timers have a limit.
const SLEEP_MOST: Duration = Duration::from_secs(3_600);

type Asking = Pin<Box<dyn Future<Output = Result<Result<Standing, epu_store::Error>, tokio::time::error::Elapsed>> + Send>>;

/// This process as one of several provisioners.
pub(crate) struct Leadership {
    leading: Arc<Mutex<Leading>>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    news: watch::Sender<()>,
    /// There is reason to look at the leases before it is time to.
    sooner: Notify,
}

/// The right to act, for one term.
#[derive(Clone)]
pub(crate) struct Right {
    pub(crate) term: Term,
    leading: Arc<Mutex<Leading>>,
    clock: Arc<dyn Clock>,
    over: Arc<AtomicBool>,
}

impl Right {
    /// Whether it stands at this moment.
    pub(crate) fn stands(&self) -> bool {
        !self.over.load(Ordering::Relaxed) && held(&self.leading).term(self.term.domain, self.clock.now()) == Some(self.term)
    }

    /// Nobody acts on it any more, whatever the clock says.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn held(leading: &Mutex<Leading>) -> MutexGuard<'_, Leading> {
    leading.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Leadership {
    pub(crate) fn new(member: Member, store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        let leading = Leading::new(member, clock.now());
        Self {
            leading: Arc::new(Mutex::new(leading)),
            store,
            clock,
            news: watch::Sender::new(()),
            sooner: Notify::new(),
        }
    }

    /// What changes when anything is known anew: who is there, who leads, that a right is over.
    pub(crate) fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// How things stood at the last answer of the store.
    pub(crate) fn standing(&self) -> Arc<Standing> {
        held(&self.leading).standing().clone()
    }

    /// Renews without end; to be polled beside everything else.
    pub(crate) async fn renew(&self) -> Infallible {
        let mut under_way: Option<(Timestamp, Asking)> = None;
        let mut answers = true;
        loop {
            let now = self.clock.now();
            let (ask, is_lost, due) = {
                let mut leading = held(&self.leading);
                let mut lost = leading.lapse(now);
                let ask = leading.ask(now).map(|(ask, given)| {
                    lost.extend(given);
                    ask
                });
                (ask, !lost.is_empty(), leading.next_due())
            };
            if is_lost {
                self.news.send_replace(());
            }
            if let Some(ask) = ask {
                let store = self.store.clone();
                let asking = async move { store.lease(ask).await };
                under_way = Some((now, Box::pin(tokio::time::timeout(*LASTS, asking))));
            }
            let wait = due.since(now).clamp(Duration::from_millis(1), SLEEP_MOST);
            tokio::select! {
                biased;
                (asked_at, answer) = answered(&mut under_way) => {
                    let failed = match answer {
                        Ok(Ok(standing)) => {
                            let moved = held(&self.leading).took(asked_at, standing, self.clock.now());
                            if moved.is_news {
                                self.news.send_replace(());
                            }
                            None
                        }
                        Ok(Err(error)) => Some(Chain(&error).to_string()),
                        Err(_) => Some(format!("no answer within {LASTS}")),
                    };
                    match failed {
                        Some(why) => {
                            held(&self.leading).failed(self.clock.now());
                            if std::mem::replace(&mut answers, false) {
                                warn!(error = why, "the lease was not renewed; trying again");
                            }
                        }
                        None if !answers => {
                            answers = true;
                            info!("leases are renewed again");
                        }
                        None => {}
                    }
                }
                () = self.sooner.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Waits until there is a right to act.
    pub(crate) async fn gained(&self) -> Right {
        let mut news = self.news();
        loop {
            let term = held(&self.leading).term(Domain::Provisioner, self.clock.now());
            if let Some(term) = term {
                return Right {
                    term,
                    leading: self.leading.clone(),
                    clock: self.clock.clone(),
                    over: Arc::default(),
                };
            }
            self.changed(&mut news).await;
        }
    }

    /// Waits until a right is over.
    pub(crate) async fn over(&self, right: &Right) {
        let mut news = self.news();
        while right.stands() {
            self.changed(&mut news).await;
        }
    }

    async fn changed(&self, news: &mut watch::Receiver<()>) {
        // The sender lives as long as this does.
        drop(news.changed().await);
    }

    /// The store called this term over.
    pub(crate) fn deposed(&self, right: &Right) {
        held(&self.leading).deposed(right.term, self.clock.now());
        self.sooner.notify_one();
        self.news.send_replace(());
    }

    /// Gives everything back, so that nobody has to wait for it to run out.
    pub(crate) async fn leave(&self) {
        let name = held(&self.leading).member().name.clone();
        match tokio::time::timeout(LEAVE_WITHIN, self.store.leave(&name)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(error = %Chain(&error), "the lease was not given back and runs out by itself"),
            Err(_) => warn!("the lease was not given back in time and runs out by itself"),
        }
    }
}

async fn answered(
    under_way: &mut Option<(Timestamp, Asking)>,
) -> (Timestamp, Result<Result<Standing, epu_store::Error>, tokio::time::error::Elapsed>) {
    let answer = match under_way {
        Some((asked_at, asking)) => (*asked_at, asking.await),
        None => std::future::pending().await,
    };
    *under_way = None;
    answer
}
