//! Dead letters: messages that cannot be handled, kept for somebody to look at.
//!
//! One quorum queue holds those of the whole installation, each with why and whence it came beside it. They are listed without
//! taking them: each is got, shown, and goes back when the channel closes. A letter is replayed by whoever replays it, under his own
//! name and to the key it came by, and only once the broker confirms that is it taken out. So a replay that breaks off doubles a
//! request at the worst, which is harmless, and loses none.

use std::sync::Arc;

use epu_core::Fault;
use epu_core::time::Timestamp;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation};
use serde::{Deserialize, Serialize};

use super::common::Common;
use super::connection::{ANSWER_WITHIN, Link, Session};
use super::error::{Error, Why};
use super::names::{self, DEAD_KEY, Declared, Names, ON_BEHALF_OF, Sort, short};
use super::wire;
use crate::http::text::shortened;

/// The header with the key by which the message came.
const KEY: &str = "epu-key";
/// The header with the queue in which it was.
const QUEUE: &str = "epu-queue";
/// The header with why it is here, in a word.
const REASON: &str = "epu-reason";
/// The header with why it is here, in a sentence.
const TEXT: &str = "epu-text";
/// The header with who sent it.
const USER: &str = "epu-user";
/// The header with when it was put here, in milliseconds since 1970.
const AT: &str = "epu-at";
/// The most of a fault's text that is kept, in characters.
const TEXT_MAX: usize = 600;

pub(super) fn declared(names: &Names) -> Declared {
    Declared {
        sort: Sort::Dead,
        name: names.dead(),
        keys: vec![DEAD_KEY.to_owned()],
    }
}

/// Puts a message among the dead letters; when this returns the broker has it.
pub(super) async fn bury(
    common: &Arc<Common>,
    session: &Session,
    from: &Declared,
    delivery: &lapin::message::Delivery,
    reason: &str,
    fault: &Fault,
) -> Result<(), Error> {
    let mut headers = FieldTable::default();
    let mut put = |key: &str, text: &str| {
        headers.insert(key.into(), AMQPValue::LongString(text.into()));
    };
    let user = delivery.properties.user_id().as_ref().map_or("", ShortString::as_str);
    put(KEY, delivery.routing_key.as_str());
    put(QUEUE, &from.name);
    put(REASON, reason);
    put(TEXT, &shortened(&fault.text, TEXT_MAX));
    put(USER, user);
    if let Some(on_behalf) = wire::header_text(&delivery.properties, ON_BEHALF_OF) {
        put(ON_BEHALF_OF, &String::from_utf8_lossy(on_behalf));
    }
    headers.insert(AT.into(), AMQPValue::LongLongInt(common.clock.now().0));
    let mut properties = BasicProperties::default()
        .with_type("dead".into())
        .with_message_id(common.nonce()[..12].into())
        .with_user_id(short(session.user()))
        .with_delivery_mode(wire::PERSISTENT)
        .with_headers(headers);
    if let Some(content) = delivery.properties.content_type() {
        properties = properties.with_content_type(content.clone());
    }
    if let Some(app) = delivery.properties.app_id() {
        properties = properties.with_app_id(app.clone());
    }
    let channel = confirming(session).await?;
    publish(session, &channel, &common.names, DEAD_KEY, &delivery.data, properties).await?;
    names::close(session, &channel).await;
    Ok(())
}

async fn confirming(session: &Session) -> Result<Channel, Error> {
    let channel = session.channel().await?;
    let confirming = channel.confirm_select(ConfirmSelectOptions::default());
    session.bounded("ask for confirms", confirming).await?;
    Ok(channel)
}

/// Publishes and waits until the broker has it in a queue.
async fn publish(
    session: &Session,
    channel: &Channel,
    names: &Names,
    key: &str,
    body: &[u8],
    properties: BasicProperties,
) -> Result<(), Error> {
    let mandatory = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let exchange: ShortString = names.exchange().as_str().into();
    let doing = format!("publish to {key}");
    let publishing = async {
        channel
            .basic_publish(exchange, key.into(), mandatory, body, properties)
            .await?
            .await
    };
    match session.bounded(&doing, publishing).await? {
        Confirmation::Ack(None) | Confirmation::NotRequested => Ok(()),
        Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => {
            let text = format!("{doing}: no queue of broker {} takes this; does the service run?", session.shown());
            Err(Error::new(Why::Missing, text))
        }
        Confirmation::Nack(None) => {
            let text = format!(
                "{doing}: broker {} did not take it: its queue is full, or the broker is in trouble",
                session.shown()
            );
            Err(Error::new(Why::Refused, text))
        }
    }
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Letter {
    /// What it is called, for showing, replaying and dropping it.
    pub id: String,
    /// Why it is here, in a word: `bad-request` or `poison`.
    pub reason: String,
    /// Why, in a sentence.
    pub text: String,
    /// The key by which it came, and by which it is replayed.
    pub key: String,
    /// The queue in which it was.
    pub queue: String,
    /// The broker's user who sent it.
    pub user: String,
    /// For whom it was sent, as the sender said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
    /// When it was put here.
    pub at: Timestamp,
    /// Its length in bytes.
    pub bytes: usize,
    /// What it says, as text.
    pub body: String,
}

fn letter(delivery: &lapin::message::Delivery) -> Letter {
    let properties = &delivery.properties;
    let text = |key: &str| wire::header_text(properties, key).map_or_else(String::new, |text| String::from_utf8_lossy(text).into_owned());
    Letter {
        id: properties
            .message_id()
            .as_ref()
            .map_or_else(|| "none".to_owned(), |id| id.as_str().to_owned()),
        reason: text(REASON),
        text: text(TEXT),
        key: text(KEY),
        queue: text(QUEUE),
        user: text(USER),
        on_behalf_of: Some(text(ON_BEHALF_OF)).filter(|text| !text.is_empty()),
        at: Timestamp(
            wire::header_number(properties, AT)
                .and_then(|at| i64::try_from(at).ok())
                .unwrap_or(0),
        ),
        bytes: delivery.data.len(),
        body: String::from_utf8_lossy(&delivery.data).into_owned(),
    }
}

/// What is to be done with some letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Send them again to where they came from, under the name of whoever does it.
    Replay,
    /// Forget them.
    Drop,
}

/// The dead letters of an installation.
#[derive(Debug)]
pub struct DeadLetters {
    link: Arc<Link>,
    names: Names,
}

impl DeadLetters {
    /// Those behind this link.
    #[must_use]
    pub fn new(link: Arc<Link>) -> Self {
        let names = Names::new(&link.settings().sysname);
        Self { link, names }
    }

    /// The letters, oldest first, `most` at the most; they stay where they are. May be repeated.
    ///
    /// # Errors
    /// When the broker does not answer or does not let us look. An installation that never ran has no letters.
    pub async fn list(&self, most: usize) -> Result<Vec<Letter>, Error> {
        let mut letters = Vec::new();
        self.each(most, async |_, _, letter| {
            letters.push(letter);
            Ok(())
        })
        .await?;
        Ok(letters)
    }

    /// Replays or drops the letters for which `wanted` says so, and gives them. What breaks off in the middle may be repeated: each
    /// letter is taken out only after it was replayed.
    ///
    /// # Errors
    /// When the broker does not answer or refuses; letters before that are done with.
    pub async fn settle(&self, fate: Fate, wanted: impl Fn(&Letter) -> bool) -> Result<Vec<Letter>, Error> {
        let mut settled = Vec::new();
        let again = match fate {
            Fate::Replay => {
                let session = self.link.session(ANSWER_WITHIN).await?;
                Some((confirming(&session).await?, session))
            }
            Fate::Drop => None,
        };
        self.each(usize::MAX, async |session, delivery, letter| {
            if !wanted(&letter) {
                return Ok(());
            }
            if let Some((channel, session)) = &again {
                let mut properties = BasicProperties::default()
                    .with_type("request".into())
                    .with_user_id(short(session.user()))
                    .with_app_id(short(&self.link.settings().name))
                    .with_delivery_mode(wire::PERSISTENT);
                if let Some(content) = delivery.properties.content_type() {
                    properties = properties.with_content_type(content.clone());
                }
                publish(session, channel, &self.names, &letter.key, &delivery.data, properties).await?;
            }
            let taking = delivery.acker.ack(BasicAckOptions::default());
            session.bounded("take a dead letter out", taking).await?;
            settled.push(letter);
            Ok(())
        })
        .await?;
        Ok(settled)
    }

    /// Gets each letter in turn; those that `with` does not acknowledge go back in the end.
    async fn each(
        &self,
        most: usize,
        mut with: impl AsyncFnMut(&Session, &lapin::message::Delivery, Letter) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let session = self.link.session(ANSWER_WITHIN).await?;
        let channel = session.channel().await?;
        let queue = self.names.dead();
        // How many there are now: what is put there meanwhile is for the next time.
        let mut left = most;
        while left > 0 {
            left -= 1;
            let getting = channel.basic_get(queue.as_str().into(), BasicGetOptions::default());
            let got = match session.bounded(&format!("look at queue {queue}"), getting).await {
                Ok(Some(got)) => got,
                Ok(None) => break,
                Err(error) if error.why() == Why::Missing => return Ok(()),
                Err(error) => return Err(error),
            };
            left = left.min(usize::try_from(got.message_count).unwrap_or(usize::MAX));
            with(&session, &got.delivery, letter(&got.delivery)).await?;
        }
        names::close(&session, &channel).await;
        Ok(())
    }
}
