//! How processes talk.
//!
//! A [`Bus`] carries facts up and requests down. The services know only this trait, so that the same code runs in one process
//! ([`local`]), over a broker, and in the simulator. [`http`] is the door for agents and operators; [`amqp`] is the only place that
//! names lapin. What every bus must do is checked by one suite, [`contract`]. [`token`] is what agents and operators show at the door.
//!
//! **Facts may be lost, doubled, delayed or reordered** by a bus; nobody waits for them. **Requests are answered** or fail with a
//! [`Fault`] within the time the asker gave; a request that failed may still have had its effect, which is why every request can be
//! repeated.

pub mod amqp;
pub mod contract;
pub mod http;
pub mod local;
pub mod token;
pub mod users;

use std::time::Duration;

use async_trait::async_trait;
use epu_core::Fault;
use epu_core::fact::{Fact, Kind};
use epu_core::request::{Answer, Caller, Request, Service};
use tokio::sync::{mpsc, oneshot};

/// Carries facts and requests.
#[async_trait]
pub trait Bus: Send + Sync {
    /// Tells everyone who listens. Never waits: a listener that is too slow loses facts and is told so by
    /// [`Facts::lost`].
    fn tell(&self, fact: Fact);

    /// Asks a service and waits for its answer, `within` at the longest.
    ///
    /// # Errors
    /// `no-contact` when nobody serves there, `timeout` when no answer came in time (the effect may still happen), otherwise the
    /// fault that the service answered with.
    async fn ask(&self, caller: Caller, request: Request, within: Duration) -> Result<Answer, Fault>;

    /// Asks one member of a service, and no other: what it alone knows.
    ///
    /// # Errors
    /// As [`Bus::ask`]; `no-contact` when this member is not there.
    async fn ask_member(&self, member: &str, caller: Caller, request: Request, within: Duration) -> Result<Answer, Fault>;

    /// Begins to listen to facts of these kinds.
    fn listen(&self, kinds: &[Kind]) -> Facts;

    /// Answers for a service, in place of whoever did before in this process; with other processes that do it shares the calls, each
    /// of which goes to one of them.
    fn serve(&self, service: Service) -> Calls;

    /// Answers what is asked of this member alone, see [`Bus::ask_member`].
    fn serve_member(&self, member: &str) -> Calls;

    /// Whether what is told now reaches other processes. Who hears something and cannot pass it on must not be the one that is told: a
    /// bus that is not in touch refuses heartbeats, so that agents go to another door.
    ///
    /// # Errors
    /// `no-contact`, saying what is wrong. A bus within one process is always in touch.
    fn in_touch(&self) -> Result<(), Fault> {
        Ok(())
    }
}

/// A request that waits for its answer. Dropping it unanswered gives its asker `no-contact`.
#[derive(Debug)]
pub struct Call {
    /// Who asks, as the transport found it out.
    pub caller: Caller,
    /// What.
    pub request: Request,
    answer: oneshot::Sender<Result<Answer, Fault>>,
}

impl Call {
    /// A call and where its answer will arrive.
    #[must_use]
    pub fn new(caller: Caller, request: Request) -> (Self, oneshot::Receiver<Result<Answer, Fault>>) {
        let (answer, arrives) = oneshot::channel();
        (Self { caller, request, answer }, arrives)
    }

    /// Answers. An asker who has gone away misses it.
    pub fn answer(self, answer: Result<Answer, Fault>) {
        drop(self.answer.send(answer));
    }

    /// The request, and what is needed to answer it later.
    #[must_use]
    pub fn into_parts(self) -> (Caller, Request, Answering) {
        (self.caller, self.request, Answering(self.answer))
    }
}

/// The duty to answer a call that was taken apart.
#[derive(Debug)]
pub struct Answering(oneshot::Sender<Result<Answer, Fault>>);

impl Answering {
    /// Answers. An asker who has gone away misses it.
    pub fn answer(self, answer: Result<Answer, Fault>) {
        drop(self.0.send(answer));
    }
}

/// Calls to a service, in the order they came.
pub type Calls = mpsc::Receiver<Call>;

/// Facts to a listener, in the order they came.
#[derive(Debug)]
pub struct Facts {
    arriving: mpsc::Receiver<Fact>,
    lost: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl Facts {
    /// Facts that arrive on a channel, and how many were lost because it was full.
    #[must_use]
    pub fn new(arriving: mpsc::Receiver<Fact>, lost: std::sync::Arc<std::sync::atomic::AtomicU64>) -> Self {
        Self { arriving, lost }
    }

    /// The next fact; none when the bus is gone. Safe to cancel.
    pub async fn next(&mut self) -> Option<Fact> {
        self.arriving.recv().await
    }

    /// A fact that has already arrived, without waiting.
    pub fn next_now(&mut self) -> Option<Fact> {
        self.arriving.try_recv().ok()
    }

    /// How many facts were lost because this listener was too slow; the count starts anew with each call.
    pub fn lost(&self) -> u64 {
        self.lost.swap(0, std::sync::atomic::Ordering::Relaxed)
    }
}
