//! What things are called on the broker, and how they are declared.
//!
//! | what | name | how |
//! |---|---|---|
//! | exchange | `<sysname>.epu` | direct, durable |
//! | a service's queue, shared by its processes | `<sysname>.epu.<service>`, key `<service>` | quorum |
//! | a member's queue | `<sysname>.epu.member.<name>.<nonce>`, key `member.<name>` | exclusive, auto-delete |
//! | a listener's queue | `<sysname>.epu.facts.<name>.<nonce>`, keys `fact.<kind>` | exclusive, auto-delete |
//! | where a process gets its replies | `<sysname>.epu.reply.<user>.<nonce>`, key the same | exclusive, auto-delete |
//! | dead letters | `<sysname>.epu.dead`, key `dead` | quorum |
//!
//! Everything goes through the one exchange, replies too, so that no user needs the right to write to the default exchange, which
//! would be a right to write to every queue of the virtual host. The nonce differs with every connection: a connection that the
//! broker has not yet noticed to be dead keeps its exclusive queues, and must not be waited for.
//!
//! Declaring is idempotent, and done by whoever uses a thing, at the beginning of each session and whenever it turns out to be gone.
//! All processes must declare the same, so arguments are changed under a new name only.

use std::time::Duration;

use epu_core::fact::Kind;
use epu_core::request::Service;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ExchangeKind};

use super::connection::Session;
use super::error::{Error, Why};

/// The header that says for whom a service asks.
pub const ON_BEHALF_OF: &str = "epu-on-behalf-of";
/// The header with a fact's number among those of its kind from its sender.
pub(super) const SEQUENCE: &str = "epu-sequence";
/// The header with how many facts of this kind its sender had to drop right before this one.
pub(super) const DROPPED: &str = "epu-dropped";

/// Requests that may wait for one service. Beyond that the broker refuses more, which their askers learn at once. Too low: a burst is
/// refused. Too high: what is answered is long out of date.
const CALLS_WAITING: i64 = 100_000;
/// The same for one member.
const MEMBER_WAITING: i64 = 10_000;
/// Facts that may wait on the broker for one listener; the oldest are lost beyond that.
pub(super) const FACTS_WAITING: usize = 8_192;
/// Their bytes.
const FACTS_BYTES: i64 = 64 * 1024 * 1024;
/// Replies that may wait for one process.
const REPLIES_WAITING: i64 = 10_000;
/// Dead letters that are kept; the oldest are lost beyond that. Too high: listing them takes long.
const DEAD_KEPT: i64 = 10_000;
/// How often what is declared is declared again. Too low: needless work. Too high: a deleted exchange is missed that long.
const DECLARE_EVERY: Duration = Duration::from_secs(5);
/// How often a dead letter may be looked at. Looking gives it back, which brokers count, and newer ones drop what comes too often.
const DEAD_LOOKS: i64 = 1_000_000_000;

/// The names of one installation.
#[derive(Debug, Clone)]
pub struct Names {
    sysname: String,
}

impl Names {
    /// Of the installation with this sysname.
    #[must_use]
    pub fn new(sysname: &str) -> Self {
        Self {
            sysname: sysname.to_owned(),
        }
    }

    /// The exchange that everything goes through.
    #[must_use]
    pub fn exchange(&self) -> String {
        format!("{}.epu", self.sysname)
    }

    /// The queue that all processes of a service share.
    #[must_use]
    pub fn service(&self, service: Service) -> String {
        format!("{}.epu.{}", self.sysname, service.name())
    }

    /// The queue of dead letters.
    #[must_use]
    pub fn dead(&self) -> String {
        format!("{}.epu.dead", self.sysname)
    }

    pub(super) fn member(&self, name: &str, nonce: &str) -> String {
        format!("{}.epu.member.{name}.{nonce}", self.sysname)
    }

    pub(super) fn facts(&self, name: &str, nonce: &str) -> String {
        format!("{}.epu.facts.{name}.{nonce}", self.sysname)
    }

    pub(super) fn reply(&self, user: &str, nonce: &str) -> String {
        format!("{}.epu.reply.{user}.{nonce}", self.sysname)
    }

    /// Whether this is where replies to this user go; to anybody's, for somebody whom the broker does not name. Answering anywhere else
    /// would let an asker make a service send to another service, or to somebody who waits for another answer.
    pub(super) fn is_reply(&self, key: &str, user: Option<&str>) -> bool {
        let rest = key.strip_prefix(&self.sysname).and_then(|rest| rest.strip_prefix(".epu.reply."));
        let Some(user) = user else { return rest.is_some() };
        let nonce = rest
            .and_then(|rest| rest.strip_prefix(user))
            .and_then(|rest| rest.strip_prefix('.'));
        // A user `a` is not one `a.b`.
        nonce.is_some_and(|nonce| !nonce.is_empty() && !nonce.contains('.'))
    }
}

/// The key of dead letters.
pub(super) const DEAD_KEY: &str = "dead";

/// The key of one member.
pub(super) fn member_key(name: &str) -> String {
    format!("member.{name}")
}

/// The key of facts of a kind.
#[must_use]
pub fn fact_key(kind: Kind) -> &'static str {
    match kind {
        Kind::Instances => "fact.instances",
        Kind::Snapshot => "fact.snapshot",
        Kind::Pools => "fact.pools",
        Kind::Listening => "fact.listening",
    }
}

/// What a queue is for, which says how it is declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Service,
    Member,
    Facts,
    Replies,
    Dead,
}

fn arguments(sort: Sort) -> (QueueDeclareOptions, FieldTable) {
    let mut table = FieldTable::default();
    let mut put = |key: &str, value: AMQPValue| {
        table.insert(key.into(), value);
    };
    let text = |text: &str| AMQPValue::LongString(text.into());
    let own = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let options = match sort {
        Sort::Service => {
            put("x-queue-type", text("quorum"));
            put("x-max-length", AMQPValue::LongLongInt(CALLS_WAITING));
            put("x-overflow", text("reject-publish"));
            QueueDeclareOptions::durable()
        }
        Sort::Member => {
            put("x-max-length", AMQPValue::LongLongInt(MEMBER_WAITING));
            put("x-overflow", text("reject-publish"));
            own
        }
        Sort::Facts => {
            put(
                "x-max-length",
                AMQPValue::LongLongInt(i64::try_from(FACTS_WAITING).unwrap_or(i64::MAX)),
            );
            put("x-max-length-bytes", AMQPValue::LongLongInt(FACTS_BYTES));
            put("x-overflow", text("drop-head"));
            own
        }
        Sort::Replies => {
            put("x-max-length", AMQPValue::LongLongInt(REPLIES_WAITING));
            put("x-overflow", text("drop-head"));
            own
        }
        Sort::Dead => {
            put("x-queue-type", text("quorum"));
            put("x-max-length", AMQPValue::LongLongInt(DEAD_KEPT));
            put("x-overflow", text("drop-head"));
            put("x-delivery-limit", AMQPValue::LongLongInt(DEAD_LOOKS));
            QueueDeclareOptions::durable()
        }
    };
    (options, table)
}

/// A queue and the keys by which it is bound.
#[derive(Debug, Clone)]
pub(super) struct Declared {
    pub(super) sort: Sort,
    pub(super) name: String,
    pub(super) keys: Vec<String>,
}

/// Declares the exchange.
pub(super) async fn exchange(session: &Session, channel: &Channel, names: &Names) -> Result<(), Error> {
    let name = names.exchange();
    let options = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let declaring = channel.exchange_declare(name.as_str().into(), ExchangeKind::Direct, options, FieldTable::default());
    session.bounded(&format!("declare exchange {name}"), declaring).await
}

/// Declares a queue and binds it; the exchange is declared when it turns out to be missing, so that who only asks needs no right to
/// configure it. On channels of its own, since a refusal closes the channel.
pub(super) async fn declare(session: &Session, names: &Names, queue: &Declared) -> Result<(), Error> {
    let channel = session.channel().await?;
    let (options, table) = arguments(queue.sort);
    let declaring = channel.queue_declare(queue.name.as_str().into(), options, table);
    session.bounded(&format!("declare queue {}", queue.name), declaring).await?;
    let bound = match bind(session, &channel, names, queue).await {
        Err(error) if error.why() == Why::Missing => {
            let channel = session.channel().await?;
            exchange(session, &channel, names).await?;
            bind(session, &channel, names, queue).await?;
            close(session, &channel).await;
            return Ok(());
        }
        other => other,
    };
    bound?;
    close(session, &channel).await;
    Ok(())
}

async fn bind(session: &Session, channel: &Channel, names: &Names, queue: &Declared) -> Result<(), Error> {
    let exchange = names.exchange();
    for key in &queue.keys {
        let binding = channel.queue_bind(
            queue.name.as_str().into(),
            exchange.as_str().into(),
            key.as_str().into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        session
            .bounded(&format!("bind queue {} to {exchange} by {key}", queue.name), binding)
            .await?;
    }
    Ok(())
}

/// Closes a channel that is not needed any more; one that is closed already is no fault.
pub(super) async fn close(session: &Session, channel: &Channel) {
    let closed = session.bounded("close a channel", channel.close(200, "done".into())).await;
    closed.ok();
}

/// Declares these again and again, in case somebody deletes one or a binding, which its user is not told. Ends with the error.
pub(super) async fn keep_declared(session: &Session, names: &Names, queues: &[Declared]) -> Error {
    loop {
        tokio::time::sleep(DECLARE_EVERY).await;
        for queue in queues {
            // While the broker takes nothing, nothing is asked of it: it goes on from where it is.
            if session.blocked().is_some() {
                break;
            }
            match declare(session, names, queue).await {
                Ok(()) => {}
                Err(error) if error.why() == Why::Blocked => break,
                Err(error) => return error,
            }
        }
    }
}

/// A text as AMQP has it, cut at 255 bytes, the most that it can carry.
pub(super) fn short(text: &str) -> ShortString {
    let mut end = text.len().min(255);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_go_where_replies_go_and_nowhere_else() {
        let names = Names::new("a.b");
        assert!(names.is_reply(&names.reply("guest", "1"), Some("guest")));
        assert!(names.is_reply(&names.reply("guest", "1"), None));
        for (owner, asker) in [
            ("ada", "guest"),
            ("guest2", "guest"),
            ("guest.x", "guest"),
            ("guest", "guest.x"),
            ("guest", ""),
        ] {
            let key = names.reply(owner, "1");
            assert!(!names.is_reply(&key, Some(asker)), "{asker} is answered at {key}");
            assert!(names.is_reply(&key, Some(owner)));
        }
        for other in [
            "provisioner",
            "dead",
            "fact.pools",
            "member.x",
            "a.b.epu.provisioner",
            "x.epu.reply.guest.1",
            "a.b.epu.replyx",
            "a.b.epu.reply.guest.",
            "a.b.epu.reply.guest",
        ] {
            assert!(!names.is_reply(other, Some("guest")), "{other}");
        }
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(short("abc").as_str(), "abc");
        assert_eq!(short(&"é".repeat(200)).as_str().len(), 254);
    }
}
