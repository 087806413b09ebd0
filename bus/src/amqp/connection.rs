//! One connection to the broker, kept alive.
//!
//! A [`Link`] connects, notices when the connection is lost, and connects again, waiting longer and longer, with jitter, so that the
//! processes of an installation do not all come at once. Each connection that comes about is a [`Session`]. Whatever uses the broker
//! does so within one session: it opens channels, declares all it needs, and when the session ends it does the same in the next
//! one ([`Link::next`]). So nothing is ever half recovered.
//!
//! lapin's own recovery is not used: it hides that the broker is away, a confirm that is in flight when the connection breaks never
//! resolves with it, and what it declares again it knows only by having watched. Here every wait on the broker goes through
//! [`Session::bounded`], which ends with the session or when the time is over.
//!
//! A broker that is out of memory or disk *blocks* connections that publish: lapin then writes nothing at all, neither
//! acknowledgements. [`Session::blocked`] has the broker's reason, and errors name it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use epu_core::code::Chain;
use epu_core::random::Random;
use epu_core::time::{Clock, Span, SystemClock};
use futures::StreamExt;
use lapin::{Channel, Connection, ConnectionProperties, Event};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info, warn};

use super::error::{Error, Why};
use super::metrics::Metrics;
use super::settings::Settings;
use super::{address, cut};

/// How long the broker's host may take to be reached, and TLS to be agreed upon.
const REACH_WITHIN: Duration = Duration::from_secs(4);
/// How long a connection may take to come about, the broker's own handshake included.
const CONNECT_WITHIN: Duration = Duration::from_secs(8);
/// How long the broker may take over one step: a channel, a declaration. Too low: a broker under load looks dead. Too high: one
/// that is dead is noticed late.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The wait before the first attempt to connect again. Too low: a broker that refuses is asked too often.
pub const AGAIN_FIRST: Duration = Duration::from_millis(100);
/// The longest wait between two attempts. Too high: a broker that is back is noticed late.
pub const AGAIN_MOST: Duration = Duration::from_secs(5);
/// How much more or less each wait is.
const JITTER: f64 = 0.3;
/// A session that lasted so long counts as good: the next attempt comes soon.
const LASTING: Duration = Duration::from_secs(5);
/// How often the state of the connection is looked at, beside what is told of it.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long closing in good order may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// One connection to the broker, kept alive until this is dropped or closed.
pub struct Link {
    settings: Settings,
    state: watch::Receiver<State>,
    closing: CancellationToken,
    closed: CancellationToken,
    _guard: DropGuard,
}

#[derive(Clone)]
enum State {
    /// Not connected; with the last reason, if there was an attempt.
    Down(Option<Error>),
    Up(Arc<Session>),
    Closed,
}

impl fmt::Debug for Link {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let up = matches!(*self.state.borrow(), State::Up(_));
        out.debug_struct("Link")
            .field("settings", &self.settings)
            .field("up", &up)
            .finish_non_exhaustive()
    }
}

impl Link {
    /// Begins to connect, and keeps at it whatever happens. Returns at once.
    #[must_use]
    pub fn start(settings: Settings, metrics: Metrics) -> Arc<Self> {
        Self::kept(settings, metrics, None)
    }

    /// Connects once, and keeps the connection from then on.
    ///
    /// # Errors
    /// When the first attempt fails; [`Error::may_pass`] says whether another one makes sense.
    pub async fn connect(settings: Settings, metrics: Metrics) -> Result<Arc<Self>, Error> {
        let session = open(&settings).await?;
        Ok(Self::kept(settings, metrics, Some(session)))
    }

    fn kept(settings: Settings, metrics: Metrics, first: Option<Session>) -> Arc<Self> {
        let (closing, closed) = (CancellationToken::new(), CancellationToken::new());
        let first = first.map(Arc::new);
        let begin = first.clone().map_or(State::Down(None), State::Up);
        let (tell, state) = watch::channel(begin);
        let keeper = Keeper {
            settings: settings.clone(),
            metrics,
            random: Random::from_system(),
            clock: SystemClock::start(),
            closing: closing.clone(),
            state: tell,
        };
        let over = closed.clone().drop_guard();
        tokio::spawn(async move {
            keeper.run(first).await;
            drop(over);
        });
        Arc::new(Self {
            settings,
            state,
            closing: closing.clone(),
            closed,
            _guard: closing.drop_guard(),
        })
    }

    /// What it was made with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether the broker can be used now.
    ///
    /// # Errors
    /// Why not: no connection, or the broker takes no messages.
    pub fn status(&self) -> Result<(), Error> {
        match &*self.state.borrow() {
            State::Up(session) if session.is_up() => session.blocked().map_or(Ok(()), Err),
            State::Up(session) => Err(session.lost_error("use the broker")),
            State::Down(Some(error)) => Err(error.clone()),
            State::Down(None) => Err(Error::new(
                Why::Unreachable,
                format!("connect to broker {}: not yet connected", self.settings.url),
            )),
            State::Closed => Err(closed()),
        }
    }

    /// The session that is open now.
    ///
    /// # Errors
    /// As [`Link::status`], but a broker that takes no messages is no error here.
    pub fn now(&self) -> Result<Arc<Session>, Error> {
        if let State::Up(session) = &*self.state.borrow()
            && session.is_up()
        {
            return Ok(session.clone());
        }
        self.status().and(Err(closed()))
    }

    /// The open session, waited for.
    ///
    /// # Errors
    /// When there is none in time, with the reason for that.
    pub async fn session(&self, within: Duration) -> Result<Arc<Session>, Error> {
        match tokio::time::timeout(within, self.next()).await {
            Ok(Some(session)) => Ok(session),
            Ok(None) => Err(closed()),
            Err(_) => self.now(),
        }
    }

    /// The open session, waited for as long as it takes; none once the link is closed. Safe to cancel.
    pub async fn next(&self) -> Option<Arc<Session>> {
        let mut state = self.state.clone();
        loop {
            match &*state.borrow_and_update() {
                State::Up(session) if session.is_up() => return Some(session.clone()),
                State::Closed => return None,
                State::Up(_) | State::Down(_) => {}
            }
            state.changed().await.ok()?;
        }
    }

    /// A channel on the open session.
    ///
    /// # Errors
    /// When there is none in [`ANSWER_WITHIN`].
    pub async fn channel(&self) -> Result<Channel, Error> {
        self.session(ANSWER_WITHIN).await?.channel().await
    }

    /// Closes the connection in good order and opens none again. Takes a few seconds at the longest.
    pub async fn close(&self) {
        self.closing.cancel();
        self.closed.cancelled().await;
    }
}

fn closed() -> Error {
    Error::new(Why::Closing, "use the broker: this process is closing its connection")
}

struct Keeper {
    settings: Settings,
    metrics: Metrics,
    random: Random,
    clock: SystemClock,
    closing: CancellationToken,
    state: watch::Sender<State>,
}

impl Keeper {
    async fn run(&self, mut first: Option<Arc<Session>>) {
        let mut wait = AGAIN_FIRST;
        loop {
            let opened = match first.take() {
                Some(session) => Ok(session),
                None => tokio::select! {
                    biased;
                    () = self.closing.cancelled() => break,
                    opened = open(&self.settings) => opened.map(Arc::new),
                },
            };
            match opened {
                Ok(session) => {
                    info!(broker = %session.shown, "connected to the broker");
                    self.metrics.connects.inc();
                    self.metrics.connected.set(1);
                    self.state.send_replace(State::Up(session.clone()));
                    let began = self.clock.now();
                    session.watch(&self.closing, &self.metrics).await;
                    self.metrics.connected.set(0);
                    self.metrics.blocked.set(0);
                    if self.closing.is_cancelled() {
                        session.close().await;
                        break;
                    }
                    session.end();
                    if self.clock.now().since(began) >= LASTING {
                        wait = AGAIN_FIRST;
                    }
                    let error = session.lost_error("use the broker");
                    warn!(%error, "the connection to the broker is lost");
                    self.state.send_replace(State::Down(Some(error)));
                }
                Err(error) => {
                    let before = self.state.borrow().clone();
                    if matches!(&before, State::Down(Some(last)) if *last == error) {
                        debug!(%error, wait = %Span(wait), "still no connection");
                    } else {
                        warn!(%error, "it is tried again");
                    }
                    self.state.send_replace(State::Down(Some(error)));
                }
            }
            let pause = self.random.jitter(wait, JITTER);
            wait = (wait * 2).min(AGAIN_MOST);
            tokio::select! {
                biased;
                () = self.closing.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.state.send_replace(State::Closed);
    }
}

/// One connection from its beginning to its end.
pub struct Session {
    connection: Connection,
    cut: cut::Cut,
    user: String,
    shown: String,
    over: CancellationToken,
    alarm: Mutex<Option<String>>,
}

impl fmt::Debug for Session {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Session").field("broker", &self.shown).finish_non_exhaustive()
    }
}

impl Session {
    /// The broker's name for who we are; what `user_id` must say.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The broker as messages name it.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Whether it is still open.
    #[must_use]
    pub fn is_up(&self) -> bool {
        !self.over.is_cancelled() && self.connection.status().connected()
    }

    /// Waits until it is over. Safe to cancel.
    pub async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Ends it: whoever uses it goes on in the next one. For a session on which something cannot be put right.
    pub fn end(&self) {
        self.over.cancel();
        self.cut.shut();
    }

    /// That the broker takes no messages now, and why.
    #[must_use]
    pub fn blocked(&self) -> Option<Error> {
        let alarm = self.alarm.lock().unwrap_or_else(PoisonError::into_inner);
        let said = match (&*alarm, self.connection.status().blocked()) {
            (Some(said), true) => said.clone(),
            (None, true) => "it does not say why".to_owned(),
            (Some(_) | None, false) => return None,
        };
        Some(Error::new(
            Why::Blocked,
            format!(
                "use broker {}: it takes no messages ({said}): it is short of memory or disk; free some, or raise \
                 `vm_memory_high_watermark` or lower `disk_free_limit`; it goes on by itself",
                self.shown
            ),
        ))
    }

    /// Opens a channel.
    ///
    /// # Errors
    /// When the broker does not give one in time.
    pub async fn channel(&self) -> Result<Channel, Error> {
        self.bounded("open a channel", self.connection.create_channel()).await
    }

    /// Waits for something of the broker, until [`ANSWER_WITHIN`] or the session is over.
    ///
    /// # Errors
    /// When the broker refuses it, does not answer in time, or is lost. `doing` begins the text.
    pub async fn bounded<T>(&self, doing: &str, asked: impl Future<Output = lapin::Result<T>>) -> Result<T, Error> {
        tokio::select! {
            biased;
            done = asked => done.map_err(|error| Error::asking(doing, &error, &self.shown)),
            () = self.over.cancelled() => Err(self.lost_error(doing)),
            () = tokio::time::sleep(ANSWER_WITHIN) => Err(self.blocked().unwrap_or_else(|| Error::late(doing, ANSWER_WITHIN, &self.shown))),
        }
    }

    pub(super) fn lost_error(&self, doing: &str) -> Error {
        let text = format!("{doing}: the connection to broker {} is lost; it is opened again", self.shown);
        Error::new(Why::Lost, text)
    }

    /// Ends when the connection does, or when it is to be closed. Keeps what the broker says of an alarm.
    async fn watch(&self, closing: &CancellationToken, metrics: &Metrics) {
        let mut events = Box::pin(self.connection.events_listener());
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut blocked = false;
        while self.connection.status().connected() {
            tokio::select! {
                biased;
                () = closing.cancelled() => return,
                () = self.over.cancelled() => return,
                event = events.next() => if let Some(Event::ConnectionBlocked(said)) = event {
                    *self.alarm.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
                },
                _ = look.tick() => {}
            }
            if blocked != self.connection.status().blocked() {
                blocked = !blocked;
                metrics.blocked.set(i64::from(blocked));
                match self.blocked() {
                    Some(alarm) => warn!(%alarm, "the broker takes no messages"),
                    None => info!("the broker takes messages again"),
                }
            }
        }
    }

    async fn close(&self) {
        let closing = self.connection.close(200, "done".into());
        match tokio::time::timeout(CLOSE_WITHIN, closing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(error = %Chain(&error), "close the connection to the broker"),
            Err(_) => debug!("the broker did not take leave in time"),
        }
        self.end();
    }
}

async fn open(settings: &Settings) -> Result<Session, Error> {
    let uri = address::resolved(&settings.url, settings.heartbeat_s()).map_err(|text| Error::new(Why::Settings, text))?;
    let shown = address::shown(&uri);
    let tls = if uri.scheme == lapin::uri::AMQPScheme::AMQPS {
        settings.tls()?
    } else {
        lapin::tcp::OwnedTLSConfig::default()
    };
    let user = uri.authority.userinfo.username.clone();
    let properties = ConnectionProperties::default()
        .with_connection_name(format!("{} {}", settings.sysname, settings.name).into())
        .with_client_property("product".into(), "epu".into())
        .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
    let opened = tokio::time::timeout(CONNECT_WITHIN, cut::connect(uri, properties, tls, REACH_WITHIN)).await;
    match opened {
        Ok(Ok((connection, cut))) => Ok(Session {
            connection,
            cut,
            user,
            shown,
            over: CancellationToken::new(),
            alarm: Mutex::default(),
        }),
        Ok(Err(error)) => Err(Error::opening(&error, &shown)),
        Err(_) => Err(Error::late(&format!("connect to broker {shown}"), CONNECT_WITHIN, &shown)),
    }
}
