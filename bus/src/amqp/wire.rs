//! Messages as they are on the broker: a JSON body in the one envelope, and what stands beside it.
//!
//! | property | in a request | in a reply | in a fact |
//! |---|---|---|---|
//! | `type` | `request` | `reply` | `fact` |
//! | `content_type` | `application/json` | the same | the same |
//! | `user_id` | who sends; the broker checks it | the service's user | the service's user |
//! | `app_id` | the service or process that asks | the process that answers | the process that tells |
//! | `correlation_id` | the asker's, not to be guessed | the same | |
//! | `reply_to` | the key by which the asker's queue is bound to the exchange, `<sysname>.epu.reply.<his user>.<nonce>`; none: no reply is wanted | | |
//! | `expiration` | the milliseconds that the asker waits | | |
//! | `delivery_mode` | 2 for commands, 1 for questions | 1 | 1 |
//!
//! **Nothing is believed that the broker has not checked.** `user_id` is the one property that it compares with the connection; the
//! role that config gives to that user says whether the message counts.

use epu_core::Fault;
use epu_core::fact::Fact;
use epu_core::request::{Answer, Caller, Request};
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::names::{DROPPED, Names, ON_BEHALF_OF, SEQUENCE, short};
use crate::http::auth::may;
use crate::http::text::shortened;
use crate::users::{OnBehalf, Users};

/// The only content that is taken.
const JSON: &str = "application/json";
/// The longest text of a fault that repeats what was sent, in characters.
const ECHO_MAX: usize = 600;
/// The longest word on whose behalf is asked, in bytes.
const ON_BEHALF_MAX: usize = 16 * 1024;
/// The type of a probe.
const PROBE: &str = "probe";
/// Survives a restart of the broker.
pub(super) const PERSISTENT: u8 = 2;
/// Does not.
const TRANSIENT: u8 = 1;

/// A message that was understood and is allowed.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) caller: Caller,
    pub(super) request: Request,
}

/// Why a message is not handled.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) fault: Fault,
    /// Whether it is put aside for somebody to look at, and under which word. Strangers' messages are not: they would fill the place.
    pub(super) dead: Option<&'static str>,
}

impl Refusal {
    fn of(fault: Fault) -> Self {
        Self { fault, dead: None }
    }
}

/// What a body may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) bytes: usize,
}

/// Reads a request, and finds out who asks and whether he may.
pub(super) fn request(delivery: &Delivery, users: &Users, limits: Limits) -> Result<Incoming, Refusal> {
    let properties = &delivery.properties;
    let user = properties.user_id().as_ref().map(ShortString::as_str);
    users.caller(user).map_err(Refusal::of)?;
    if delivery.data.len() > limits.bytes {
        let text = format!(
            "the request is {} bytes long, and {} bytes are the most that is taken",
            delivery.data.len(),
            limits.bytes
        );
        return Err(Refusal::of(Fault::new("too-large", text)));
    }
    let dead = |text: String| Refusal {
        fault: Fault::new("bad-request", shortened(&text, ECHO_MAX)),
        dead: Some("bad-request"),
    };
    let content = properties.content_type().as_ref().map_or("", ShortString::as_str);
    if content != JSON {
        return Err(dead(format!(
            "read the request: its content_type is {content:?}, and {JSON} is the only one taken"
        )));
    }
    let request: Request = serde_json::from_slice(&delivery.data).map_err(|error| {
        dead(format!(
            "read the request: {error}; it must be {{\"op\": ..., \"args\": ...}}, see docs/wire.md"
        ))
    })?;
    let claimed = match header_text(properties, ON_BEHALF_OF) {
        Some(text) if text.len() <= ON_BEHALF_MAX => {
            let claimed = serde_json::from_slice::<OnBehalf>(text);
            Some(claimed.map_err(|error| dead(format!("read the header {ON_BEHALF_OF}: {error}")))?)
        }
        Some(_) => {
            return Err(dead(format!(
                "read the header {ON_BEHALF_OF}: it is longer than {ON_BEHALF_MAX} bytes"
            )));
        }
        None => None,
    };
    let app = properties.app_id().as_ref().map(ShortString::as_str);
    let caller = users.asker(user, app, claimed, &request).map_err(Refusal::of)?;
    may(&caller, &request).map_err(Refusal::of)?;
    Ok(Incoming { caller, request })
}

/// Where the answer goes, if one is wanted and the place is one for answers to whoever asks. Somebody whom the broker does not name
/// only ever learns that nobody may ask namelessly, and only an asker who waits for an answer with just this correlation hears it.
pub(super) fn reply_to(properties: &BasicProperties, names: &Names) -> Option<ShortString> {
    let user = properties.user_id().as_ref().map(ShortString::as_str);
    properties
        .reply_to()
        .as_ref()
        .filter(|key| names.is_reply(key.as_str(), user))
        .cloned()
}

/// What stands beside a request.
pub(super) struct Asked<'a> {
    pub(super) user: &'a str,
    pub(super) app: &'a str,
    pub(super) correlation: &'a str,
    pub(super) reply_to: &'a str,
    pub(super) expires_ms: u128,
    pub(super) persistent: bool,
    pub(super) on_behalf: Option<OnBehalf>,
}

impl Asked<'_> {
    pub(super) fn properties(&self) -> BasicProperties {
        let mut properties = common("request", self.user, self.app)
            .with_correlation_id(self.correlation.into())
            .with_reply_to(self.reply_to.into())
            .with_expiration(self.expires_ms.to_string().as_str().into())
            .with_delivery_mode(if self.persistent { PERSISTENT } else { TRANSIENT });
        if let Some(text) = self.on_behalf.as_ref().and_then(|on_behalf| serde_json::to_string(on_behalf).ok()) {
            let mut headers = FieldTable::default();
            headers.insert(ON_BEHALF_OF.into(), AMQPValue::LongString(text.into()));
            properties = properties.with_headers(headers);
        }
        properties
    }
}

fn common(sort: &str, user: &str, app: &str) -> BasicProperties {
    BasicProperties::default()
        .with_type(sort.into())
        .with_content_type(JSON.into())
        .with_user_id(short(user))
        .with_app_id(short(app))
        .with_delivery_mode(TRANSIENT)
}

/// What stands beside a probe: a message that says nothing, and comes back when nobody is there to take it.
pub(super) fn probing(user: &str, app: &str, correlation: &str, expires_ms: u128) -> BasicProperties {
    common(PROBE, user, app)
        .with_correlation_id(correlation.into())
        .with_expiration(expires_ms.to_string().as_str().into())
}

/// Whether it is a probe.
pub(super) fn is_probe(properties: &BasicProperties) -> bool {
    properties.kind().as_ref().is_some_and(|kind| kind.as_str() == PROBE)
}

/// What stands beside every reply; the correlation is the asker's.
pub(super) fn replying(user: &str, app: &str) -> BasicProperties {
    common("reply", user, app)
}

/// [`epu_core::request::Reply`], written without making a JSON tree first.
#[derive(Serialize)]
struct Written<'a, T> {
    result: Option<&'a T>,
    error: Option<&'a Fault>,
}

/// The body of a reply; one that would be longer than allowed says so instead.
pub(super) fn reply(answer: &Result<Answer, Fault>, limits: Limits) -> Vec<u8> {
    let body = match answer {
        Ok(Answer::Orders(orders)) => serde_json::to_vec(&Written {
            result: Some(orders),
            error: None,
        }),
        Ok(Answer::Json(value)) => serde_json::to_vec(&Written {
            result: Some(value),
            error: None,
        }),
        Err(fault) => serde_json::to_vec(&Written::<Value> {
            result: None,
            error: Some(fault),
        }),
    };
    let problem = match body {
        Ok(body) if body.len() <= limits.bytes => return body,
        Ok(body) => {
            let text = format!(
                "the answer would be {} bytes long, and {} bytes are the most that is sent; ask for less",
                body.len(),
                limits.bytes
            );
            Fault::new("too-large", text)
        }
        Err(error) => Fault::new("internal", format!("write the answer as JSON: {error}")),
    };
    let written = Written::<Value> {
        result: None,
        error: Some(&problem),
    };
    serde_json::to_vec(&written).unwrap_or_default()
}

/// The answer in the body of a reply.
pub(super) fn answer(body: &[u8]) -> Result<Answer, Fault> {
    #[derive(Deserialize)]
    struct Read {
        #[serde(default)]
        result: Value,
        #[serde(default)]
        error: Option<Fault>,
    }
    let read: Read = serde_json::from_slice(body).map_err(|error| {
        let text = format!("read the answer: {}", shortened(&error.to_string(), ECHO_MAX));
        Fault::new("internal", text)
    })?;
    read.error.map_or(Ok(Answer::Json(read.result)), Err)
}

/// What stands beside a fact.
pub(super) fn telling(user: &str, app: &str, sequence: u64, dropped: u64) -> BasicProperties {
    let mut headers = FieldTable::default();
    let number = |number: u64| AMQPValue::LongLongInt(i64::try_from(number).unwrap_or(i64::MAX));
    headers.insert(SEQUENCE.into(), number(sequence));
    if dropped > 0 {
        headers.insert(DROPPED.into(), number(dropped));
    }
    common("fact", user, app).with_headers(headers)
}

/// A fact and where it stands among those of its sender.
pub(super) struct Told {
    pub(super) fact: Fact,
    pub(super) sender: String,
    pub(super) sequence: Option<u64>,
    pub(super) dropped: u64,
}

/// Reads a fact; a word for metrics when it does not count.
pub(super) fn fact(delivery: &Delivery, users: &Users, limits: Limits) -> Result<Told, &'static str> {
    let properties = &delivery.properties;
    let user = properties.user_id().as_ref().ok_or("no-user")?;
    if !users.is_service(user.as_str()) {
        return Err("no-service");
    }
    if delivery.data.len() > limits.bytes {
        return Err("too-large");
    }
    if properties.content_type().as_ref().map(ShortString::as_str) != Some(JSON) {
        return Err("not-json");
    }
    let fact = serde_json::from_slice(&delivery.data).map_err(|_| "bad-json")?;
    Ok(Told {
        fact,
        sender: properties.app_id().as_ref().map_or_else(String::new, |app| app.as_str().to_owned()),
        sequence: header_number(properties, SEQUENCE),
        dropped: header_number(properties, DROPPED).unwrap_or(0),
    })
}

/// The bytes of a header that is a text.
#[expect(clippy::wildcard_enum_match_arm, reason = "a text is a text, and nothing else is")]
pub(super) fn header_text<'a>(properties: &'a BasicProperties, key: &str) -> Option<&'a [u8]> {
    match properties.headers().as_ref()?.inner().get(key)? {
        AMQPValue::LongString(text) => Some(text.as_bytes()),
        AMQPValue::ShortString(text) => Some(text.as_str().as_bytes()),
        _ => None,
    }
}

/// The value of a header that is a number that is not negative. Brokers and clients choose among several sizes.
#[expect(clippy::wildcard_enum_match_arm, reason = "a number is a number, and nothing else is")]
pub(super) fn header_number(properties: &BasicProperties, key: &str) -> Option<u64> {
    match properties.headers().as_ref()?.inner().get(key)? {
        AMQPValue::LongLongInt(number) => u64::try_from(*number).ok(),
        AMQPValue::LongInt(number) => u64::try_from(*number).ok(),
        AMQPValue::LongUInt(number) => Some(u64::from(*number)),
        AMQPValue::ShortInt(number) => u64::try_from(*number).ok(),
        AMQPValue::ShortUInt(number) => Some(u64::from(*number)),
        AMQPValue::ShortShortInt(number) => u64::try_from(*number).ok(),
        AMQPValue::ShortShortUInt(number) => Some(u64::from(*number)),
        AMQPValue::Timestamp(number) => Some(*number),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use epu_core::request::Nothing;
    use serde_json::json;

    use super::*;
    use crate::users::{Role, User};

    const LIMITS: Limits = Limits { bytes: 1_000 };

    fn users() -> Users {
        let user = |role| User { role, owners: Vec::new() };
        Users::new([
            ("ada".to_owned(), user(Role::Operator)),
            ("cy".to_owned(), user(Role::Reader)),
            ("epu".to_owned(), user(Role::Service)),
        ])
    }

    fn delivery(user: Option<&str>, content: &str, body: &str) -> Delivery {
        let mut delivery = Delivery::mock(1, "".into(), "".into(), false, body.as_bytes().to_vec());
        delivery.properties = BasicProperties::default().with_content_type(content.into());
        if let Some(user) = user {
            delivery.properties = delivery.properties.with_user_id(user.into());
        }
        delivery
    }

    #[test]
    fn what_is_not_understood_is_put_aside_and_what_is_not_allowed_is_not() {
        let status = r#"{"op":"status","args":{}}"#;
        let open = r#"{"op":"open","args":{}}"#;
        let long = format!("{status}{}", " ".repeat(1_000));
        for (user, content, body, code, dead) in [
            (Some("ada"), JSON, status, "", false),
            (Some("cy"), JSON, status, "", false),
            (Some("epu"), JSON, open, "", false),
            (None, JSON, status, "unauthorized", false),
            (Some("eve"), JSON, "nonsense", "forbidden", false),
            (Some("cy"), JSON, open, "forbidden", false),
            (Some("ada"), JSON, "nonsense", "bad-request", true),
            (Some("ada"), JSON, r#"{"op":"dance","args":{}}"#, "bad-request", true),
            (Some("ada"), "application/x-python-serialize", status, "bad-request", true),
            (Some("ada"), JSON, &long, "too-large", false),
        ] {
            let read = request(&delivery(user, content, body), &users(), LIMITS);
            let (was, aside) = read.map_or_else(|r| (r.fault.code.into_owned(), r.dead.is_some()), |_| (String::new(), false));
            assert_eq!((was.as_str(), aside), (code, dead), "{user:?} {content} {body}");
        }
    }

    #[test]
    fn who_is_asked_for_comes_with_the_request() {
        let asked = |user: &str, on_behalf| {
            let mut delivery = delivery(Some(user), JSON, r#"{"op":"status","args":{}}"#);
            let asked = Asked {
                user,
                app: "controller",
                correlation: "1",
                reply_to: "r",
                expires_ms: 5,
                persistent: false,
                on_behalf,
            };
            delivery.properties = asked.properties();
            request(&delivery, &users(), LIMITS)
        };
        let claimed = || Some(OnBehalf::Reader { name: "zed".into() });
        assert_eq!(asked("epu", None).unwrap().caller, Caller::Service("controller"));
        assert_eq!(asked("epu", claimed()).unwrap().caller, Caller::Reader("zed".into()));
        assert_eq!(asked("epu", claimed()).unwrap().request, Request::Status(Nothing {}));
        assert_eq!(asked("ada", claimed()).unwrap_err().fault.code, "forbidden");
    }

    #[test]
    fn an_answer_goes_there_and_back_and_never_gets_too_long() {
        for given in [
            Ok(Answer::Json(json!({"is": [1, null]}))),
            Ok(Answer::Json(Value::Null)),
            Err(Fault::new("conflict", "no")),
        ] {
            assert_eq!(answer(&reply(&given, LIMITS)), given);
        }
        let long = Ok(Answer::Json(json!("x".repeat(2_000))));
        assert_eq!(answer(&reply(&long, LIMITS)).unwrap_err().code, "too-large");
        assert_eq!(answer(b"junk").unwrap_err().code, "internal");
    }

    #[test]
    fn facts_count_from_services_only() {
        let body = r#"{"fact":"listening","of":"controller"}"#;
        let told =
            |user: Option<&str>, content: &str, body: &str| fact(&delivery(user, content, body), &users(), LIMITS).map(|told| told.fact);
        assert_eq!(
            told(Some("epu"), JSON, body),
            Ok(Fact::Listening(epu_core::fact::Listener::Controller))
        );
        assert_eq!(told(None, JSON, body), Err("no-user"));
        assert_eq!(told(Some("ada"), JSON, body), Err("no-service"));
        assert_eq!(told(Some("eve"), JSON, body), Err("no-service"));
        assert_eq!(told(Some("epu"), "text/plain", body), Err("not-json"));
        assert_eq!(told(Some("epu"), JSON, "{}"), Err("bad-json"));
    }
}
