//! What the parts of an AMQP bus share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use epu_core::random::Random;
use epu_core::time::Clock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::connection::{Link, Session};
use super::error::Error;
use super::metrics::Metrics;
use super::names::Names;
use super::settings::Settings;
use super::wire::Limits;
use crate::users::Users;

/// The wait before something is declared again on a session on which it failed.
const AGAIN_FIRST: Duration = Duration::from_millis(100);
/// The longest such wait.
const AGAIN_MOST: Duration = Duration::from_secs(5);

/// What the parts of one bus share.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) link: Arc<Link>,
    pub(super) names: Names,
    pub(super) users: Arc<Users>,
    pub(super) metrics: Metrics,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Random,
    /// Cancelled when the bus is closed or dropped.
    pub(super) closing: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) progress: Progress,
    troubles: Mutex<BTreeMap<String, Error>>,
}

impl Common {
    pub(super) fn new(link: Arc<Link>, users: Arc<Users>, metrics: Metrics, clock: Arc<dyn Clock>) -> Self {
        Self {
            names: Names::new(&link.settings().sysname),
            link,
            users,
            metrics,
            clock,
            random: Random::from_system(),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
            progress: Progress::default(),
            troubles: Mutex::default(),
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        self.link.settings()
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            bytes: self.settings().message_bytes,
        }
    }

    /// Letters that nobody else has, and that nobody can guess.
    pub(super) fn nonce(&self) -> String {
        format!("{:016x}", self.unguessable())
    }

    /// A number that nobody can guess, whatever others he saw.
    pub(super) fn unguessable(&self) -> u64 {
        let secret = ring::rand::generate::<[u8; 8]>(&ring::rand::SystemRandom::new());
        // The operating system has none only before it has begun.
        secret.map_or_else(|_| self.random.number(), |secret| u64::from_ne_bytes(secret.expose()))
    }

    /// Runs `part` in each session in turn, until the bus closes; `what` names it. A part that fails while its session lives is begun
    /// again after a while.
    pub(super) async fn in_each_session<F: Future<Output = Result<(), Error>>>(&self, what: &str, mut part: impl FnMut(Arc<Session>) -> F) {
        let mut wait = AGAIN_FIRST;
        loop {
            let session = tokio::select! {
                biased;
                () = self.closing.cancelled() => return,
                session = self.link.next() => match session {
                    Some(session) => session,
                    None => return,
                },
            };
            let began = self.clock.now();
            let Err(error) = part(session.clone()).await else { return };
            if self.closing.is_cancelled() {
                return;
            }
            if !session.is_up() {
                wait = AGAIN_FIRST;
                // The link says so, once, and gives the next session.
                session.end();
                continue;
            }
            if self.clock.now().since(began) > AGAIN_MOST * 2 {
                wait = AGAIN_FIRST;
            }
            if self.trouble(what, Some(error.clone())) {
                warn!(what, %error, "it is tried again");
            }
            let pause = self.random.jitter(wait, 0.3);
            wait = (wait * 2).min(AGAIN_MOST);
            tokio::select! {
                biased;
                () = self.closing.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Notes what is wrong with a part, or that nothing is; whether that is new.
    pub(super) fn trouble(&self, what: &str, error: Option<Error>) -> bool {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            Some(error) => troubles.insert(what.to_owned(), error.clone()) != Some(error),
            None => troubles.remove(what).is_some(),
        }
    }

    /// What is wrong now, if anything.
    pub(super) fn first_trouble(&self) -> Option<Error> {
        let troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        troubles.values().next().cloned()
    }
}

/// How many queues were asked for and are not yet there.
#[derive(Debug)]
pub(super) struct Progress(Arc<watch::Sender<usize>>);

impl Default for Progress {
    fn default() -> Self {
        Self(Arc::new(watch::channel(0).0))
    }
}

impl Progress {
    /// One more is asked for.
    pub(super) fn begin(&self) -> Step {
        self.0.send_modify(|count| *count += 1);
        Step(self.0.clone())
    }

    /// Waits until all are there. Safe to cancel.
    pub(super) async fn done(&self) {
        // The sender is here: it cannot be gone.
        self.0.subscribe().wait_for(|count| *count == 0).await.ok();
    }
}

/// One that was asked for; it is there, or not wanted any more, when this is dropped.
#[derive(Debug)]
pub(super) struct Step(Arc<watch::Sender<usize>>);

impl Drop for Step {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}
