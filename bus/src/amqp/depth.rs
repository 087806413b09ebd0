//! How many messages wait in a RabbitMQ queue.
//!
//! [`QueueProbe::ready`] asks by a passive declare, which every broker answers and which needs no plug-in and no right beyond
//! seeing the queue. It counts messages that wait, and cannot count those that a worker holds; [`QueueProbe::with_unacked`] asks
//! the management API for both. Which of the two is asked is the sensor's choice and is never changed here: two sources that
//! count different things must not stand in for each other.
//!
//! **Nothing here ever becomes zero by failing.** A queue that is gone, a broker that is down, a password that is wrong and a
//! statistic that is not there yet are faults with codes of their own, and say which broker, which queue and what to do.
//!
//! One connection is kept and opened again after a loss, the wait doubling from [`AGAIN_FIRST`] to [`AGAIN_MOST`]; until then the
//! last fault is the answer. lapin's own recovery is not used: it hides that a broker is away, and a probe has nothing to
//! recover. A broker answers a passive declare of a missing queue by closing the channel, so a channel is opened again after
//! each fault while the connection stays.

use std::sync::Arc;
use std::time::Duration;

use epu_core::Fault;
use epu_core::secret::SecretUrl;
use epu_core::time::{Clock, Span, Timestamp};
use lapin::options::QueueDeclareOptions;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::tcp::OwnedTLSConfig;
use lapin::types::{FieldTable, ShortString};
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties, Error, ErrorKind};
use tracing::{debug, info};

use super::address::{self, shown};
use super::cut;
use super::management::{Broker, Management};
use crate::http::text::shortened;

/// How long the broker's host may take to be reached. Too low: a far one never is. Too high: a reading is late.
const REACH_WITHIN: Duration = Duration::from_secs(4);
/// How long a connection may take to come about, reaching the host and the broker's own handshake together.
const CONNECT_WITHIN: Duration = Duration::from_secs(6);
/// How long a channel and an answer may take. Too low: a broker under load looks dead. Too high: a reading is late.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// The wait before the first attempt to connect again. Too low: a broker that refuses is asked too often.
pub const AGAIN_FIRST: Duration = Duration::from_millis(500);
/// The longest wait between two attempts. Too high: a broker that is back is noticed late.
pub const AGAIN_MOST: Duration = Duration::from_secs(15);
/// Seconds between AMQP heartbeats, which find a connection that is dead without a word.
const HEARTBEAT: u16 = 10;
/// The longest queue name that AMQP can carry, in bytes.
const NAME_MAX: usize = 255;

/// Asks one broker how long its queues are.
pub struct QueueProbe {
    url: SecretUrl,
    management: Option<Management>,
    clock: Arc<dyn Clock>,
    link: Option<Link>,
    again: Option<Again>,
}

impl std::fmt::Debug for QueueProbe {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("QueueProbe")
            .field("url", &self.url)
            .field("connected", &self.link.is_some())
            .finish_non_exhaustive()
    }
}

struct Link {
    connection: Connection,
    channel: Option<Channel>,
    /// The broker as messages name it.
    shown: String,
}

/// What came of the last attempt to connect, and when the next one may be made.
struct Again {
    not_before: Timestamp,
    wait: Duration,
    fault: Fault,
}

impl QueueProbe {
    /// A probe of the broker at `url` (`amqp://user:password@host:port/vhost`). Nothing is opened yet. The addresses are read
    /// from where they are kept at each connection, so that a new password is seen. `management` is the address of the broker's
    /// management API (`http://host:15672`); the user and the password of `url` go there too unless it has its own.
    #[must_use]
    pub fn new(url: SecretUrl, management: Option<SecretUrl>, clock: Arc<dyn Clock>) -> Self {
        Self {
            url,
            management: management.map(Management::new),
            clock,
            link: None,
            again: None,
        }
    }

    /// How many messages wait in `queue`, by passive declare. May be repeated; takes 11 s at the longest.
    ///
    /// # Errors
    /// `queue-missing`, `queue-refused` when the user may not see it or it is another connection's own, `broker-unreachable`,
    /// `broker-refused` when the user, password or vhost is not taken, `broker-timeout`, `bad-url` when the address is none or
    /// cannot be read.
    pub async fn ready(&mut self, queue: &str) -> Result<u64, Fault> {
        if queue.is_empty() || queue.len() > NAME_MAX {
            let text = format!("{:?} is no queue name: it has 1 to {NAME_MAX} bytes", shortened(queue, 80));
            return Err(Fault::new("queue-missing", text));
        }
        let link = self.link().await?;
        let shown = link.shown.clone();
        let asked = tokio::time::timeout(ANSWER_WITHIN, link.ask(queue.into())).await;
        match asked {
            Ok(Ok(count)) => Ok(count),
            Ok(Err(error)) => {
                // Whatever it was, the channel has been closed or is of no use.
                link.channel = None;
                let lost = !link.connection.status().connected();
                if lost {
                    self.link = None;
                }
                Err(asking_fault(&error, queue, &shown))
            }
            Err(_) => {
                // A connection that does not answer is given up: what comes late must not be taken for the next answer.
                self.link = None;
                Err(Fault::new(
                    "broker-timeout",
                    format!(
                        "ask for queue {queue:?}: broker {shown} did not answer within {}; it is asked again",
                        Span(ANSWER_WITHIN)
                    ),
                ))
            }
        }
    }

    /// How many messages wait in `queue` or are held by workers, by the management API. The broker renews this number every few
    /// seconds (5 unless configured otherwise). May be repeated; takes 10 s at the longest.
    ///
    /// # Errors
    /// `queue-missing`, `management-refused` when the user or password is not taken or has no right to look,
    /// `management-unreachable`, `management-timeout`, `management-failed` when the answer makes no sense, `queue-uncounted` when
    /// the broker has not counted yet, `bad-url` when an address is none or cannot be read.
    pub async fn with_unacked(&self, queue: &str) -> Result<u64, Fault> {
        let Some(management) = &self.management else {
            return Err(Fault::new(
                "bad-url",
                format!(
                    "ask for queue {queue:?}: held messages can only be counted by the management API; give its address as `management-url`"
                ),
            ));
        };
        let uri = resolved(&self.url)?;
        let broker = Broker {
            user: &uri.authority.userinfo.username,
            password: &uri.authority.userinfo.password,
            vhost: &uri.vhost,
        };
        management.with_unacked(&broker, queue).await
    }

    /// The open connection, or one opened now if it is time for that.
    async fn link(&mut self) -> Result<&mut Link, Fault> {
        // In two steps, since a borrow that may be returned cannot be given up in the same breath.
        if self.link.as_ref().is_none_or(|link| !link.connection.status().connected()) {
            self.link = None;
            let now = self.clock.now();
            if let Some(again) = &self.again
                && now < again.not_before
            {
                return Err(again.fault.clone());
            }
            match open(&self.url).await {
                Ok(link) => {
                    info!(broker = %link.shown, "connected to ask for queues");
                    self.again = None;
                    self.link = Some(link);
                }
                Err(fault) => {
                    let wait = self.again.take().map_or(AGAIN_FIRST, |again| (again.wait * 2).min(AGAIN_MOST));
                    debug!(%fault, wait = %Span(wait), "no connection to ask for queues");
                    self.again = Some(Again {
                        not_before: self.clock.now() + wait,
                        wait,
                        fault: fault.clone(),
                    });
                    return Err(fault);
                }
            }
        }
        self.link
            .as_mut()
            .ok_or_else(|| Fault::new("internal", "a connection to a broker was lost between two lines"))
    }
}

impl Link {
    async fn ask(&mut self, queue: ShortString) -> Result<u64, Error> {
        let channel = match self.channel.take() {
            Some(channel) if channel.status().connected() => channel,
            Some(_) | None => self.connection.create_channel().await?,
        };
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let declared = channel.queue_declare(queue, passive, FieldTable::default()).await?;
        self.channel = Some(channel);
        Ok(u64::from(declared.message_count()))
    }
}

fn resolved(url: &SecretUrl) -> Result<AMQPUri, Fault> {
    address::resolved(url, HEARTBEAT).map_err(|why| Fault::new("bad-url", why))
}

async fn open(url: &SecretUrl) -> Result<Link, Fault> {
    let uri = resolved(url)?;
    let shown = shown(&uri);
    let properties = ConnectionProperties::default().with_connection_name("epu queue probe".into());
    let opened = tokio::time::timeout(
        CONNECT_WITHIN,
        cut::connect(uri, properties, OwnedTLSConfig::default(), REACH_WITHIN),
    )
    .await;
    match opened {
        Ok(Ok((connection, _))) => Ok(Link {
            connection,
            channel: None,
            shown,
        }),
        Ok(Err(error)) => Err(opening_fault(&error, &shown)),
        Err(_) => Err(Fault::new(
            "broker-timeout",
            format!(
                "connect to broker {shown}: no connection within {}; is it RabbitMQ that listens there, and is it well?",
                Span(CONNECT_WITHIN)
            ),
        )),
    }
}

fn opening_fault(error: &Error, shown: &str) -> Fault {
    let said = shortened(&error.to_string(), 300);
    let fault = |code, what: &str| Fault::new(code, format!("connect to broker {shown}: {what}"));
    if let ErrorKind::ProtocolError(refusal) = error.kind() {
        let what = match refusal.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
                format!("it does not take the user or the password ({said}); see where the address is kept")
            }
            AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => {
                format!("the vhost does not exist or is not open to this user ({said}); vhost / is written %2f")
            }
            AMQPErrorKind::Soft(_) | AMQPErrorKind::Hard(_) => format!("it refuses the connection ({said}); see the broker's log"),
        };
        return fault("broker-refused", &what);
    }
    if let ErrorKind::AuthProviderError(_) = error.kind() {
        return fault("broker-refused", &format!("it takes no user and password ({said})"));
    }
    fault("broker-unreachable", &format!("{said}; is it running, and is that its address?"))
}

fn asking_fault(error: &Error, queue: &str, shown: &str) -> Fault {
    let said = shortened(&error.to_string(), 300);
    let fault = |code, what: &str| Fault::new(code, format!("ask for queue {queue:?}: {what}"));
    let ErrorKind::ProtocolError(refusal) = error.kind() else {
        return fault(
            "broker-unreachable",
            &format!("the connection to broker {shown} is lost ({said}); it is opened again"),
        );
    };
    match refusal.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => fault(
            "queue-missing",
            &format!("broker {shown} has no such queue ({said}); declare it, or correct the sensor's `queue`"),
        ),
        AMQPErrorKind::Soft(AMQPSoftError::RESOURCELOCKED) => fault(
            "queue-refused",
            &format!("on broker {shown} it belongs to one other connection only ({said}); name another queue"),
        ),
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => fault(
            "queue-refused",
            &format!("broker {shown} does not let this user see it ({said}); give the user rights on it"),
        ),
        AMQPErrorKind::Soft(_) => fault("queue-refused", &format!("broker {shown} refuses ({said}); see the broker's log")),
        AMQPErrorKind::Hard(_) => fault(
            "broker-unreachable",
            &format!("broker {shown} closed the connection ({said}); it is opened again"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use epu_core::time::ManualClock;
    use lapin::protocol::AMQPError;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    fn probe(url: &str) -> (QueueProbe, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::at(Timestamp(1_000)));
        (QueueProbe::new(SecretUrl::new(url), None, clock.clone()), clock)
    }

    #[test]
    fn an_address_is_understood_and_never_shows_its_password() {
        let of = |url: &str| resolved(&SecretUrl::new(url)).map(|uri| (shown(&uri), uri.query.heartbeat));
        assert_eq!(
            of("amqp://host"),
            Ok(("amqp://guest@host:5672 vhost \"/\"".to_owned(), Some(HEARTBEAT)))
        );
        assert_eq!(
            of("amqps://me:p%40ss@host/my%2Fown?heartbeat=3"),
            Ok(("amqps://me@host:5671 vhost \"my/own\"".to_owned(), Some(3)))
        );
        assert_eq!(of("amqp://me:secret@[::1]:1/v").unwrap().0, "amqp://me@[::1]:1 vhost \"v\"");
        for wrong in [
            "",
            "host",
            "http://me:secret@host",
            "amqp://",
            "amqp://me:secret@h o/x",
            "amqp://me:secret@/v",
            "amqp:me:secret",
        ] {
            let fault = of(wrong).expect_err(wrong);
            assert_eq!(fault.code, "bad-url", "{wrong}");
            assert!(!fault.text.contains("secret") || !wrong.contains("://"), "{fault}");
        }
        let unset = of("env:EPU_TEST_VARIABLE_THAT_NOBODY_SETS").unwrap_err();
        assert!(unset.text.contains("is not set"), "{unset}");
    }

    #[test]
    fn what_a_broker_says_is_told_apart() {
        let soft = |kind| Error::from(ErrorKind::ProtocolError(AMQPError::new(AMQPErrorKind::Soft(kind), "".into())));
        let hard = |kind| Error::from(ErrorKind::ProtocolError(AMQPError::new(AMQPErrorKind::Hard(kind), "".into())));
        let lost = Error::from(ErrorKind::MissingHeartbeatError);
        for (error, opening, asking) in [
            (soft(AMQPSoftError::ACCESSREFUSED), "broker-refused", "queue-refused"),
            (soft(AMQPSoftError::RESOURCELOCKED), "broker-refused", "queue-refused"),
            (soft(AMQPSoftError::NOTFOUND), "broker-refused", "queue-missing"),
            (soft(AMQPSoftError::PRECONDITIONFAILED), "broker-refused", "queue-refused"),
            (hard(AMQPHardError::NOTALLOWED), "broker-refused", "broker-unreachable"),
            (hard(AMQPHardError::CONNECTIONFORCED), "broker-refused", "broker-unreachable"),
            (lost, "broker-unreachable", "broker-unreachable"),
        ] {
            assert_eq!(opening_fault(&error, "B").code, opening, "{error}");
            let fault = asking_fault(&error, "jobs", "B");
            assert_eq!(fault.code, asking, "{error}");
            assert!(fault.text.contains("jobs") && fault.text.contains('B'), "{fault}");
        }
    }

    #[tokio::test]
    async fn a_name_that_no_queue_has_is_not_cut_to_one_that_some_queue_has() {
        let (mut probe, _) = probe("amqp://127.0.0.1:1");
        for name in ["", &"x".repeat(256)] {
            assert_eq!(probe.ready(name).await.unwrap_err().code, "queue-missing");
        }
    }

    /// A listener that counts who comes and hangs up at once.
    async fn nobody_s_broker() -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("amqp://me:secret@{}", listener.local_addr().unwrap());
        let came = Arc::new(AtomicUsize::new(0));
        let counting = came.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                counting.fetch_add(1, Ordering::Relaxed);
                drop(socket);
            }
        });
        (url, came)
    }

    #[tokio::test]
    async fn a_lost_broker_is_tried_again_after_longer_and_longer_waits() {
        let (url, came) = nobody_s_broker().await;
        let (mut probe, clock) = probe(&url);
        for attempt in 1..10_u32 {
            for _ in 0..5 {
                let fault = probe.ready("jobs").await.unwrap_err();
                assert_eq!(fault.code, "broker-unreachable");
                assert!(!fault.text.contains("secret"), "{fault}");
            }
            assert_eq!(
                came.load(Ordering::Relaxed),
                usize::try_from(attempt).unwrap(),
                "asked again before it was time"
            );
            let wait = (AGAIN_FIRST * 2_u32.pow(attempt - 1)).min(AGAIN_MOST);
            clock.advance(wait.checked_sub(Duration::from_millis(1)).unwrap());
            probe.ready("jobs").await.unwrap_err();
            assert_eq!(
                came.load(Ordering::Relaxed),
                usize::try_from(attempt).unwrap(),
                "asked again too early"
            );
            clock.advance(Duration::from_millis(1));
        }
    }

    #[tokio::test]
    async fn an_attempt_that_is_given_up_leaves_no_socket_open() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = SecretUrl::new(format!("amqp://{}", listener.local_addr().unwrap()));
        let uri = resolved(&url).unwrap();
        // A broker that accepts and says nothing.
        let attempt = cut::connect(uri, ConnectionProperties::default(), OwnedTLSConfig::default(), REACH_WITHIN);
        assert!(tokio::time::timeout(Duration::from_millis(300), attempt).await.is_err());
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut said = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(10), socket.read_to_end(&mut said)).await;
        assert!(ended.is_ok(), "the socket is still open");
        assert_eq!(said, b"AMQP\x00\x00\x09\x01", "lapin began, and nothing more came of it");
    }

    #[tokio::test]
    async fn held_messages_are_never_guessed_from_the_other_source() {
        let (probe, _) = probe("amqp://127.0.0.1:1");
        let fault = probe.with_unacked("jobs").await.unwrap_err();
        assert_eq!(fault.code, "bad-url");
        assert!(fault.text.contains("management-url"), "{fault}");
    }
}
