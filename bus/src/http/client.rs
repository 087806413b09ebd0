//! Asks at the door of another process.
//!
//! A client keeps connections and may be cloned and used from many tasks. It never repeats a request by itself once any of it was
//! sent: whether to ask again is the asker's decision, and every request may be asked again.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use epu_core::Fault;
use epu_core::request::{Reply, Request};
use epu_core::secret::strike_password;
use epu_core::time::Span;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, StatusCode, Uri};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::Value;

use super::text::shortened;

/// The longest answer, in bytes. Too low: a list of very many instances is refused. Too high: memory.
const ANSWER_MAX: usize = 64 * 1024 * 1024;
/// How long a connection may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long an unused connection is kept: less than the door keeps it, so that none is used while it is being closed.
const IDLE: Duration = Duration::from_secs(20);
/// How long [`Client::get_text`] waits.
const TEXT_WITHIN: Duration = Duration::from_secs(10);
/// The longest foreign text repeated in a fault, in characters.
const ECHO_MAX: usize = 300;

/// Asks at one door with one token.
#[derive(Clone)]
pub struct Client {
    base: Result<String, Fault>,
    shown: String,
    bearer: Result<HeaderValue, Fault>,
    transport: Transport,
}

impl fmt::Debug for Client {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Client").field("url", &self.shown).finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the door at `base_url`, which is `http://host:port`. Nothing is sent yet; what is wrong with the address or
    /// the token is said at the first use.
    #[must_use]
    pub fn new(base_url: impl AsRef<str>, token: impl AsRef<str>) -> Self {
        let url = base_url.as_ref().trim().trim_end_matches('/');
        let bearer = HeaderValue::from_str(&format!("Bearer {}", token.as_ref().trim())).map_or_else(
            |_| {
                Err(Fault::new(
                    "unauthorized",
                    "the token has characters that no token has; see its file",
                ))
            },
            |mut value| {
                value.set_sensitive(true);
                Ok(value)
            },
        );
        Self {
            base: checked(url).map(|()| url.to_owned()),
            shown: shortened(&strike_password(url), ECHO_MAX),
            bearer,
            transport: Transport::new(),
        }
    }

    /// Where it asks, for messages.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.shown
    }

    /// Asks, and waits `within` at the longest. May be repeated.
    ///
    /// # Errors
    /// `no-contact` when nobody answers there, `unauthorized` when the token is not good there, `timeout` when no answer came in
    /// time (the effect may still happen), `bad-url` when the address is none; otherwise the fault that was answered.
    pub async fn ask(&self, request: &Request, within: Duration) -> Result<Value, Fault> {
        let op = request.op();
        let body = serde_json::to_vec(request).map_err(|e| Fault::new("internal", format!("ask {op}: write it as JSON: {e}")))?;
        let (status, answer) = self.exchange(op, Method::POST, "/v1/ask", body.into(), within).await?;
        match serde_json::from_slice::<Reply>(&answer) {
            Ok(Reply { error: Some(fault), .. }) => Err(fault),
            Ok(Reply { result, error: None }) if status.is_success() => Ok(result),
            Ok(_) | Err(_) => Err(self.foreign(op, status, &answer)),
        }
    }

    /// The text at a path such as `/metrics` or `/readyz`.
    ///
    /// # Errors
    /// As [`Client::ask`]; a status other than 200 is a fault with the text in it.
    pub async fn get_text(&self, path: &str) -> Result<String, Fault> {
        let (status, answer) = self.exchange("get", Method::GET, path, Bytes::new(), TEXT_WITHIN).await?;
        if status != StatusCode::OK {
            return Err(self.foreign(path, status, &answer));
        }
        String::from_utf8(answer.into()).map_err(|_| Fault::new("internal", format!("get {path} from {}: not text", self.shown)))
    }

    async fn exchange(&self, op: &str, method: Method, path: &str, body: Bytes, within: Duration) -> Result<(StatusCode, Bytes), Fault> {
        let base = self.base.as_ref().map_err(Clone::clone)?;
        let bearer = self.bearer.as_ref().map_err(Clone::clone)?;
        let request = hyper::Request::builder()
            .method(method)
            .uri(format!("{base}{path}"))
            .header(AUTHORIZATION, bearer)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|e| Fault::new("bad-url", format!("ask {op} at {}{path}: {e}", self.shown)))?;
        let url = &self.shown;
        self.transport
            .exchange(request, within, ANSWER_MAX)
            .await
            .map_err(|trouble| match trouble {
                Trouble::Unreachable(why) => Fault::new(
                    "no-contact",
                    format!("ask {op}: nobody answers at {url} ({why}); is `epumgmt serve` running? does --url fit its `listen`?"),
                ),
                Trouble::Broken(why) => Fault::new(
                    "no-contact",
                    format!(
                        "ask {op}: the connection to {url} broke before the answer came ({why}); it may have been done: look, then repeat"
                    ),
                ),
                Trouble::Timeout => Fault::new(
                    "timeout",
                    format!("ask {op}: no answer from {url} within {}; repeating is harmless", Span(within)),
                ),
                Trouble::TooLarge => Fault::new(
                    "too-large",
                    format!("ask {op}: the answer from {url} is longer than {ANSWER_MAX} bytes; ask for less"),
                ),
            })
    }

    /// An answer that is no reply of ours: a proxy's, or another program's on that port.
    fn foreign(&self, op: &str, status: StatusCode, answer: &[u8]) -> Fault {
        let url = &self.shown;
        let said = shortened(String::from_utf8_lossy(answer).trim(), ECHO_MAX);
        if status == StatusCode::UNAUTHORIZED {
            return Fault::new("unauthorized", format!("ask {op}: {url} does not take the token: {said}"));
        }
        let code = match status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY => "no-contact",
            StatusCode::GATEWAY_TIMEOUT => "timeout",
            StatusCode::FORBIDDEN => "forbidden",
            _ => "internal",
        };
        Fault::new(code, format!("ask {op}: {url} answered {status}: {said}"))
    }
}

fn checked(url: &str) -> Result<(), Fault> {
    let bad = |why: &str| {
        let shown = shortened(&strike_password(url), ECHO_MAX);
        Err(Fault::new(
            "bad-url",
            format!("{shown:?} is not an address to ask at: {why}; write http://HOST:PORT"),
        ))
    };
    let Ok(uri) = url.parse::<Uri>() else {
        return bad("it cannot be read");
    };
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return bad("https is not supported"),
        Some(_) | None => return bad("it does not begin with http://"),
    }
    match uri.authority() {
        Some(authority) if authority.as_str().contains('@') => bad("a user or password has no place in it, the token says who asks"),
        Some(authority) if authority.host().is_empty() => bad("it names no host"),
        Some(_) if uri.query().is_some() => bad("it has a query"),
        Some(_) => Ok(()),
        None => bad("it names no host"),
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// No connection came about; nothing was sent.
    Unreachable(String),
    /// The connection broke; something may have been sent.
    Broken(String),
    /// Time ran out.
    Timeout,
    /// The answer is too long.
    TooLarge,
}

/// HTTP requests over kept connections, with a limit on time and length.
#[derive(Clone)]
pub(crate) struct Transport(legacy::Client<HttpConnector, Full<Bytes>>);

impl Transport {
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_WITHIN));
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(16)
            .build(connector);
        Self(client)
    }

    pub(crate) async fn exchange(
        &self,
        request: hyper::Request<Full<Bytes>>,
        within: Duration,
        longest: usize,
    ) -> Result<(StatusCode, Bytes), Trouble> {
        let exchanging = async {
            let response = self.0.request(request).await.map_err(|error| {
                let why = root(&error);
                if error.is_connect() {
                    Trouble::Unreachable(why)
                } else {
                    Trouble::Broken(why)
                }
            })?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, longest).collect().await.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    Trouble::TooLarge
                } else {
                    Trouble::Broken(root(error.as_ref()))
                }
            })?;
            Ok((head.status, body.to_bytes()))
        };
        tokio::time::timeout(within, exchanging).await.unwrap_or(Err(Trouble::Timeout))
    }
}

/// The innermost cause, which is the one that says something.
fn root(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_cannot_be_asked_says_why() {
        for (url, why) in [
            ("https://host:1", "https is not supported"),
            ("host:1", "does not begin with http://"),
            ("", "cannot be read"),
            ("http://", "cannot be read"),
            ("http://me:secret@host:1", "no place in it"),
            ("ftp://host", "does not begin with http://"),
            ("http://host:1/?a=b", "query"),
        ] {
            let fault = checked(url).expect_err(url);
            assert_eq!(fault.code, "bad-url");
            assert!(fault.text.contains(why), "{url}: {fault}");
            assert!(!fault.text.contains("secret"), "{fault}");
        }
        for url in ["http://127.0.0.1:7480", "http://[::1]:7480", "http://proxy/epu"] {
            assert_eq!(checked(url), Ok(()), "{url}");
        }
    }

    #[test]
    fn a_client_shows_no_token() {
        let client = Client::new("http://127.0.0.1:1/", "very-secret-token");
        assert_eq!(format!("{client:?}"), r#"Client { url: "http://127.0.0.1:1", .. }"#);
    }
}
