//! The bus over a broker.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use epu_core::Fault;
use epu_core::fact::{Fact, Kind};
use epu_core::request::{Answer, Caller, Request, Service};
use epu_core::time::{Span, SystemClock};
use tokio_util::sync::DropGuard;
use tracing::warn;

use super::asking::{Asking, To};
use super::common::Common;
use super::connection::Link;
use super::error::{Error, Why};
use super::facts::{self, Telling};
use super::metrics::Metrics;
use super::serving::{Of, Serving};
use super::settings::Settings;
use crate::local::ask_at;
use crate::users::Users;
use crate::{Bus, Calls, Facts};

/// How long the tasks of a bus may take to end when it is closed.
const END_WITHIN: Duration = Duration::from_secs(4);

/// The bus over a broker. Cheap for who only asks: one connection and three channels.
pub struct AmqpBus {
    common: Arc<Common>,
    asking: Arc<Asking>,
    telling: Arc<Telling>,
    serving: Mutex<Doors>,
    _guard: DropGuard,
}

#[derive(Debug, Default)]
struct Doors {
    services: BTreeMap<Service, Serving>,
    members: BTreeMap<String, Serving>,
}

impl fmt::Debug for AmqpBus {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("AmqpBus").field("link", &self.common.link).finish_non_exhaustive()
    }
}

impl AmqpBus {
    /// Connects; from then on the connection is kept. `users` says whose messages count; a client that serves nothing may know
    /// nobody.
    ///
    /// # Errors
    /// When the broker is not there or does not let us in, saying what to do. [`Error::may_pass`] tells whether to wait.
    pub async fn connect(settings: Settings, users: impl Into<Arc<Users>>, metrics: Metrics) -> Result<Arc<Self>, Error> {
        let link = Link::connect(settings, metrics.clone()).await?;
        Ok(Self::over(link, users, metrics))
    }

    /// The bus over a link, whether it is connected already or not.
    #[must_use]
    pub fn over(link: Arc<Link>, users: impl Into<Arc<Users>>, metrics: Metrics) -> Arc<Self> {
        let users = users.into();
        if let Ok(session) = link.now()
            && !users.is_empty()
            && !users.is_service(session.user())
        {
            warn!(
                user = session.user(),
                "this process's own user has not the role `service` among `users`: what it tells and answers does not count"
            );
        }
        let common = Arc::new(Common::new(link, users, metrics, Arc::new(SystemClock::start())));
        let guard = common.closing.clone().drop_guard();
        Arc::new(Self {
            asking: Asking::start(&common),
            telling: Telling::new(&common),
            serving: Mutex::default(),
            common,
            _guard: guard,
        })
    }

    /// The connection, for others that talk over the same broker.
    #[must_use]
    pub fn link(&self) -> &Arc<Link> {
        &self.common.link
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.common.metrics
    }

    /// Whether requests can be asked and taken now: the broker is connected and takes messages, and all queues are there.
    ///
    /// # Errors
    /// `no-contact`, `broker-refused`, or another fault that says what is wrong.
    pub fn ready(&self) -> Result<(), Fault> {
        self.common.link.status().map_err(|error| error.fault())?;
        self.common.first_trouble().map_or(Ok(()), |error| Err(error.fault()))
    }

    /// Waits until all that was begun before is in effect on the broker: what is served is consumed, who listens hears, and what was
    /// told is told.
    ///
    /// # Errors
    /// When that is not so in time, with the reason.
    pub async fn settled(&self, within: Duration) -> Result<(), Error> {
        let settling = async {
            self.common.progress.done().await;
            self.telling.flushed().await;
        };
        tokio::time::timeout(within, settling).await.map_err(|_| {
            let reason = self.common.first_trouble().map_or_else(|| self.common.link.status().err(), Some);
            reason.unwrap_or_else(|| {
                let text = format!("declare what is served and listened to: not done within {}", Span(within));
                Error::new(Why::Timeout, text)
            })
        })
    }

    /// Takes no more requests, answers those taken, tells what waits to be told, and closes the connection. Takes some seconds at the
    /// longest.
    pub async fn close(&self) {
        let telling = async {
            if self.common.link.status().is_ok() {
                self.telling.flushed().await;
            }
        };
        // Facts may be lost; what could not be told in time is told by others, later.
        tokio::time::timeout(Duration::from_secs(1), telling).await.ok();
        self.common.closing.cancel();
        self.common.tasks.close();
        if tokio::time::timeout(END_WITHIN, self.common.tasks.wait()).await.is_err() {
            warn!("not everything that uses the broker ended in time");
        }
        self.common.link.close().await;
    }

    fn doors(&self) -> MutexGuard<'_, Doors> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Bus for AmqpBus {
    fn tell(&self, fact: Fact) {
        self.telling.tell(fact);
    }

    async fn ask(&self, caller: Caller, request: Request, within: Duration) -> Result<Answer, Fault> {
        let service = request.service();
        let door = self.doors().services.get(&service).and_then(Serving::door);
        if door.is_some() {
            if service == Service::Aggregator
                && let Err(fault) = self.in_touch()
            {
                return Err(Fault::new("no-contact", format!("ask {}: {}", request.op(), fault.text)));
            }
            return ask_at(door, caller, request, within).await;
        }
        self.asking.ask(&To::Service(service), &caller, &request, within).await
    }

    async fn ask_member(&self, member: &str, caller: Caller, request: Request, within: Duration) -> Result<Answer, Fault> {
        let door = self.doors().members.get(member).and_then(Serving::door);
        if door.is_some() {
            return ask_at(door, caller, request, within).await;
        }
        self.asking.ask(&To::Member(member.to_owned()), &caller, &request, within).await
    }

    fn listen(&self, kinds: &[Kind]) -> Facts {
        facts::listen(&self.common, kinds)
    }

    fn serve(&self, service: Service) -> Calls {
        let mut doors = self.doors();
        if let Some(serving) = doors.services.get(&service) {
            return serving.replace(&self.common);
        }
        let (serving, calls) = Serving::start(&self.common, Of::Service(service));
        doors.services.insert(service, serving);
        calls
    }

    fn serve_member(&self, member: &str) -> Calls {
        let mut doors = self.doors();
        if let Some(serving) = doors.members.get(member) {
            return serving.replace(&self.common);
        }
        // A member that went away does not come back under its name: names are of one start.
        doors.members.retain(|_, serving| !serving.is_over());
        let (serving, calls) = Serving::start(&self.common, Of::Member(member.to_owned()));
        doors.members.insert(member.to_owned(), serving);
        calls
    }

    fn in_touch(&self) -> Result<(), Fault> {
        self.common.link.status().map_err(|error| {
            let text = format!("nobody would hear of it: {}; try another process", error.fault().text);
            Fault::new("no-contact", text)
        })
    }
}
