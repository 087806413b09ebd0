//! The management API of a RabbitMQ broker, as far as a queue's length needs it: `GET /api/queues/<vhost>/<queue>`, whose
//! `messages` is what waits and what workers hold together.

use std::time::Duration;

use bytes::Bytes;
use epu_core::Fault;
use epu_core::secret::SecretUrl;
use epu_core::time::Span;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::{StatusCode, Uri};
use serde::Deserialize;
use serde_json::Value;

use crate::http::client::{Transport, Trouble};
use crate::http::text::{base64, percent_decode, percent_encode, shortened};

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The longest answer, in bytes: only a few numbers are asked for.
const ANSWER_MAX: usize = 1024 * 1024;

/// Whom and what to ask about; from the broker's AMQP address.
pub(super) struct Broker<'a> {
    pub(super) user: &'a str,
    pub(super) password: &'a str,
    pub(super) vhost: &'a str,
}

/// One management API.
pub(super) struct Management {
    url: SecretUrl,
    transport: Result<Transport, Fault>,
}

/// What the API says when it refuses.
#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    reason: String,
}

/// An address taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Address {
    /// `http://host:port` and a path if there is one, without user and password.
    base: String,
    user: Option<String>,
    password: Option<String>,
}

impl Management {
    pub(super) fn new(url: SecretUrl) -> Self {
        Self {
            url,
            transport: Transport::new(),
        }
    }

    pub(super) async fn with_unacked(&self, broker: &Broker<'_>, queue: &str) -> Result<u64, Fault> {
        let Address { base, user, password } = self.address()?;
        let user = user.as_deref().unwrap_or(broker.user);
        let password = password.as_deref().unwrap_or(broker.password);
        let vhost = broker.vhost;
        let at = |what: &str| format!("ask for queue {queue:?} of vhost {vhost:?} at {base} as {user}: {what}");
        let uri = format!(
            "{base}/api/queues/{}/{}?columns=messages,state",
            percent_encode(vhost),
            percent_encode(queue)
        );
        let mut basic = HeaderValue::from_str(&format!("Basic {}", base64(format!("{user}:{password}").as_bytes())))
            .map_err(|_| Fault::new("bad-url", at("the user or password cannot be sent")))?;
        basic.set_sensitive(true);
        let request = hyper::Request::get(uri)
            .header(AUTHORIZATION, basic)
            .body(Full::new(Bytes::new()))
            .map_err(|e| Fault::new("bad-url", at(&e.to_string())))?;
        let transport = self.transport.as_ref().map_err(Clone::clone)?;
        let (status, answer) = transport
            .exchange(request, ANSWER_WITHIN, ANSWER_MAX)
            .await
            .map_err(|trouble| match trouble {
                Trouble::Unreachable(why) => Fault::new(
                    "management-unreachable",
                    at(&format!(
                        "nobody answers ({why}); is the plug-in rabbitmq_management enabled, and is that its address?"
                    )),
                ),
                Trouble::Untrusted(why) | Trouble::Tls(why) => Fault::new("management-unreachable", at(&why)),
                Trouble::Broken(why) => Fault::new(
                    "management-unreachable",
                    at(&format!("the connection broke ({why}); it is asked again")),
                ),
                Trouble::Timeout => Fault::new(
                    "management-timeout",
                    at(&format!("no answer within {}; the broker may be under load", Span(ANSWER_WITHIN))),
                ),
                Trouble::TooLarge => Fault::new(
                    "management-failed",
                    at("the answer is far too long for a queue; is that a management API?"),
                ),
            })?;
        understood(status.as_u16(), &answer).map_err(|(code, what)| Fault::new(code, at(&what)))
    }

    fn address(&self) -> Result<Address, Fault> {
        let shown = &self.url;
        let bad = |why: String| Fault::new("bad-url", format!("management API {shown}: {why}; write http://HOST:15672"));
        let text = self.url.resolve().map_err(|e| bad(epu_core::code::Chain(&e).to_string()))?;
        take_apart(text.trim()).map_err(|why| bad(why.to_owned()))
    }
}

/// Takes an address apart. Errors repeat nothing of it: it may hold a password.
fn take_apart(url: &str) -> Result<Address, &'static str> {
    let rest = match url.split_once("://") {
        Some(("http", rest)) => rest,
        Some(("https", _)) => return Err("https is not supported"),
        Some(_) | None => return Err("it does not begin with http://"),
    };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let (userinfo, host) = authority
        .rsplit_once('@')
        .map_or((None, authority), |(info, host)| (Some(info), host));
    let (user, password) = match userinfo.map(|info| info.split_once(':').map_or((info, None), |(user, password)| (user, Some(password)))) {
        None => (None, None),
        Some((user, password)) => {
            let decode = |coded| percent_decode(coded).ok_or("its user or password is not well percent-coded");
            (
                Some(decode(user)?).filter(|user| !user.is_empty()),
                password.map(decode).transpose()?,
            )
        }
    };
    let base = format!("http://{host}{}", path.trim_end_matches('/'));
    let fine = base
        .parse::<Uri>()
        .is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty()) && uri.query().is_none());
    if !fine {
        return Err("it cannot be read");
    }
    Ok(Address { base, user, password })
}

fn uncounted(state: &str) -> (&'static str, String) {
    let state = if state.is_empty() {
        String::new()
    } else {
        format!(", its state is {:?}", shortened(state, 40))
    };
    let text = format!("the broker has not counted its messages{state}; after a start, or for a new queue, that takes some seconds");
    ("queue-uncounted", text)
}

/// The number of messages in an answer with this status, which is never guessed.
///
/// # Errors
/// A code and what to say.
pub fn understood(status: u16, answer: &[u8]) -> Result<u64, (&'static str, String)> {
    let said = || {
        serde_json::from_slice::<Refusal>(answer)
            .ok()
            .filter(|refusal| !refusal.reason.is_empty())
            .map_or_else(
                || shortened(String::from_utf8_lossy(answer).trim(), 200),
                |refusal| shortened(&refusal.reason, 200),
            )
    };
    let Ok(status) = StatusCode::from_u16(status) else {
        return Err(("management-failed", format!("{status} is no status; is that a management API?")));
    };
    match status {
        StatusCode::OK => {
            let queue: Value = serde_json::from_slice(answer).map_err(|e| {
                (
                    "management-failed",
                    format!("the answer cannot be read ({e}); is that a management API?"),
                )
            })?;
            match &queue {
                // A queue none of whose asked numbers is known yet comes as an empty list, one whose node is down without number.
                Value::Array(list) if list.is_empty() => Err(uncounted("")),
                Value::Object(fields) => match fields.get("messages") {
                    None | Some(Value::Null) => Err(uncounted(fields.get("state").and_then(Value::as_str).unwrap_or_default())),
                    Some(messages) => messages.as_u64().ok_or_else(|| {
                        let text = format!("{} is no number of messages", shortened(&messages.to_string(), 40));
                        ("management-failed", text)
                    }),
                },
                Value::Array(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Err((
                    "management-failed",
                    "the answer describes no queue; is that a management API?".to_owned(),
                )),
            }
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err((
            "management-refused",
            format!(
                "{status}: {}; the user needs the tag `monitoring` or `management`, the right password, and rights on the vhost",
                said()
            ),
        )),
        StatusCode::NOT_FOUND => Err((
            "queue-missing",
            format!(
                "{status}: {}; no such queue or vhost: declare it, or correct the sensor's `queue`",
                said()
            ),
        )),
        _ => Err(("management-failed", format!("{status}: {}; see the broker's log", said()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_apart() {
        let parts = |url: &str| take_apart(url).map(|a| (a.base, a.user, a.password));
        let owned = |text: &str| Some(text.to_owned());
        assert_eq!(parts("http://host:15672/"), Ok(("http://host:15672".to_owned(), None, None)));
        assert_eq!(parts("http://me@host:1"), Ok(("http://host:1".to_owned(), owned("me"), None)));
        assert_eq!(
            parts("http://me:p%40ss@word@[::1]:1/rabbit/"),
            Ok(("http://[::1]:1/rabbit".to_owned(), owned("me"), owned("p@ss@word")))
        );
        assert_eq!(parts("http://:secret@host"), Ok(("http://host".to_owned(), None, owned("secret"))));
        for wrong in [
            "https://host",
            "amqp://host",
            "host:15672",
            "http://",
            "http://me:%zz@host",
            "http://host?x=1",
            "http://a b",
        ] {
            let why = take_apart(wrong).expect_err(wrong);
            assert!(!why.contains("zz"));
        }
    }

    #[test]
    fn an_answer_without_a_number_is_a_fault_and_not_zero() {
        let read = |status: u16, answer: &str| understood(status, answer.as_bytes()).map_err(|(code, _)| code);
        assert_eq!(read(200, r#"{"messages": 7, "state": "running"}"#), Ok(7));
        assert_eq!(read(200, r#"{"messages": 0}"#), Ok(0));
        assert_eq!(read(200, r#"{"state": "running"}"#), Err("queue-uncounted"));
        assert_eq!(read(200, r#"{"messages": null}"#), Err("queue-uncounted"));
        assert_eq!(read(200, r#"{"messages": -1}"#), Err("management-failed"));
        assert_eq!(read(200, "[]"), Err("queue-uncounted"));
        for nonsense in ["<html>", "[7]", "7", r#"{"messages": "7"}"#, r#"{"messages": 1.5}"#, ""] {
            assert_eq!(read(200, nonsense), Err("management-failed"), "{nonsense}");
        }
        assert_eq!(
            read(401, r#"{"error":"not_authorised","reason":"Login failed"}"#),
            Err("management-refused")
        );
        assert_eq!(read(403, ""), Err("management-refused"));
        assert_eq!(
            read(404, r#"{"error":"Object Not Found","reason":"Not Found"}"#),
            Err("queue-missing")
        );
        assert_eq!(read(500, "oops"), Err("management-failed"));
        assert_eq!(read(301, ""), Err("management-failed"));
        let (_, text) = understood(401, br#"{"error":"not_authorised","reason":"Login failed"}"#).unwrap_err();
        assert!(text.contains("Login failed"), "{text}");
    }
}
