//! Asks at the door of another process.
//!
//! A client keeps connections and may be cloned and used from many tasks. It never repeats a request by itself once any of it was
//! sent: whether to ask again is the asker's decision, and every request may be asked again.
//!
//! The token goes to the door and to nobody else: over `https://` nothing is sent before the door's certificate was checked, and with a
//! pinned authority ([`Roots::Pinned`]) nothing is sent over plain HTTP at all.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use epu_core::Fault;
use epu_core::code::root_cause;
use epu_core::request::{Reply, Request};
use epu_core::secret::strike_password;
use epu_core::time::Span;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, StatusCode, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use serde_json::Value;

use super::text::shortened;
use super::tls::{Roots, why};

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
    transport: Result<Transport, Fault>,
}

impl fmt::Debug for Client {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Client").field("url", &self.shown).finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the door at `base_url`, which is `http://host:port`, or `https://host:port` with a certificate of an authority that
    /// this machine trusts. Nothing is sent yet; what is wrong with the address or the token is said at the first use.
    #[must_use]
    pub fn new(base_url: impl AsRef<str>, token: impl AsRef<str>) -> Self {
        Self::with_roots(base_url, token, Roots::System)
    }

    /// The same, believing these authorities. With pinned ones the address must begin with `https://`.
    #[must_use]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "read more easily where it is called, and once for each door"
    )]
    pub fn with_roots(base_url: impl AsRef<str>, token: impl AsRef<str>, roots: Roots) -> Self {
        let url = base_url.as_ref().trim().trim_end_matches('/');
        let speaks_tls = url.starts_with("https://");
        let open = matches!(roots, Roots::Pinned(_)) && !speaks_tls;
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
            base: checked(url).and_then(|()| if open { Err(in_the_open(url)) } else { Ok(url.to_owned()) }),
            shown: shortened(&strike_password(url), ECHO_MAX),
            bearer,
            transport: if speaks_tls {
                Transport::over_tls(&roots)
            } else {
                Transport::new()
            },
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
        let transport = self.transport.as_ref().map_err(|fault| Fault {
            code: fault.code.clone(),
            text: format!("ask {op} at {url}: {}", fault.text),
        })?;
        transport
            .exchange(request, within, ANSWER_MAX)
            .await
            .map_err(|trouble| match trouble {
                Trouble::Unreachable(why) => Fault::new(
                    "no-contact",
                    format!("ask {op}: nobody answers at {url} ({why}); is `epumgmt serve` running? does --url fit its `listen`?"),
                ),
                Trouble::Untrusted(why) => Fault::new(
                    "not-trusted",
                    format!("ask {op}: {url} is not trusted, and nothing was sent: {why}"),
                ),
                Trouble::Tls(why) => Fault::new("no-contact", format!("ask {op}: no connection to {url}: {why}")),
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
            format!("{shown:?} is not an address to ask at: {why}; write http://HOST:PORT or https://HOST:PORT"),
        ))
    };
    let Ok(uri) = url.parse::<Uri>() else {
        return bad("it cannot be read");
    };
    match uri.scheme_str() {
        Some("http" | "https") => {}
        Some(_) | None => return bad("it does not begin with http:// or https://"),
    }
    match uri.authority() {
        Some(authority) if authority.as_str().contains('@') => bad("a user or password has no place in it, the token says who asks"),
        Some(authority) if authority.host().is_empty() => bad("it names no host"),
        Some(_) if uri.query().is_some() => bad("it has a query"),
        Some(_) => Ok(()),
        None => bad("it names no host"),
    }
}

fn in_the_open(url: &str) -> Fault {
    let shown = shortened(&strike_password(url), ECHO_MAX);
    let text = format!(
        "{shown:?} is not asked: an authority was given for its certificate, and without TLS the token would travel in the open; write https://"
    );
    Fault::new("bad-url", text)
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// No connection came about; nothing was sent.
    Unreachable(String),
    /// Who answers did not prove to be the right one; nothing was sent.
    Untrusted(String),
    /// TLS did not come about; nothing was sent.
    Tls(String),
    /// The connection broke; something may have been sent.
    Broken(String),
    /// Time ran out.
    Timeout,
    /// The answer is too long.
    TooLarge,
}

/// HTTP requests over kept connections, with a limit on time and length.
#[derive(Clone)]
pub(crate) struct Transport(legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl Transport {
    /// For plain HTTP; over TLS it believes nobody.
    pub(crate) fn new() -> Result<Self, Fault> {
        Roots::nobody().map(Self::with)
    }

    fn over_tls(roots: &Roots) -> Result<Self, Fault> {
        roots.client().map(Self::with)
    }

    fn with(tls: Arc<ClientConfig>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_WITHIN));
        connector.enforce_http(false);
        let connector = HttpsConnector::from((connector, tls));
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
                if let Some(word) = why::rustls_error(&error).filter(|_| error.is_connect()) {
                    let why = why::explained(word);
                    return if why.untrusted {
                        Trouble::Untrusted(why.text)
                    } else {
                        Trouble::Tls(why.text)
                    };
                }
                let why = root_cause(&error);
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
                    Trouble::Broken(root_cause(error.as_ref()))
                }
            })?;
            Ok((head.status, body.to_bytes()))
        };
        tokio::time::timeout(within, exchanging).await.unwrap_or(Err(Trouble::Timeout))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_cannot_be_asked_says_why() {
        for (url, why) in [
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
        for url in ["http://127.0.0.1:7480", "http://[::1]:7480", "http://proxy/epu", "https://host:1"] {
            assert_eq!(checked(url), Ok(()), "{url}");
        }
    }

    #[test]
    fn a_client_shows_no_token() {
        let client = Client::new("http://127.0.0.1:1/", "very-secret-token");
        assert_eq!(format!("{client:?}"), r#"Client { url: "http://127.0.0.1:1", .. }"#);
    }
}
