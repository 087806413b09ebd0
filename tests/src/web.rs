//! Plain HTTP to servers on loopback that are not ours: RabbitMQ's management, Prometheus. Ours are asked with `epu_bus::http::Client`.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::{Result, Trouble};

/// Longest body that is read.
const MAX_BODY: usize = 16 << 20;
/// Longest time that one exchange may take.
const MAX_TIME: Duration = Duration::from_secs(15);

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Page {
    /// The body as JSON.
    ///
    /// # Errors
    /// When the status is not one of success or the body is no JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        if !(200..300).contains(&self.status) {
            return Err(Trouble::new(format!("HTTP {}", self.status), &self.body));
        }
        serde_json::from_str(&self.body).map_err(|e| Trouble::new("read JSON", e))
    }
}

/// Fetches a page. `authorization` is the whole header, such as `Basic ...` or `Bearer ...`.
///
/// # Errors
/// When nobody answers in time; an answer with any status is an answer.
pub async fn get(url: &str, authorization: Option<&str>) -> Result<Page> {
    ask(Method::GET, url, authorization, String::new()).await
}

/// Sends a request with a body (JSON when it is not empty).
///
/// # Errors
/// When nobody answers in time; an answer with any status is an answer.
pub async fn ask(method: Method, url: &str, authorization: Option<&str>, body: String) -> Result<Page> {
    let doing = format!("{method} {url}");
    let trouble = |why: &dyn std::error::Error| Trouble::new(&doing, epu_core::code::Chain(why));
    let mut request = Request::builder().method(method).uri(url);
    if let Some(authorization) = authorization {
        request = request.header("authorization", authorization);
    }
    if !body.is_empty() {
        request = request.header("content-type", "application/json");
    }
    let request = request.body(Full::new(Bytes::from(body))).map_err(|e| trouble(&e))?;
    let exchange = async {
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let response = client.request(request).await.map_err(|e| trouble(&e))?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let body = body.map_err(|e| Trouble::new(&doing, e))?.to_bytes();
        Ok(Page {
            status,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    };
    let answered = tokio::time::timeout(MAX_TIME, exchange).await;
    answered.unwrap_or_else(|_| Err(Trouble::new(&doing, format!("no answer within {}", epu_core::Span(MAX_TIME)))))
}

/// A text as part of a query: everything but letters, digits, `-._~` becomes `%XX` (RFC 3986, section 2.3).
#[must_use]
pub fn escape(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

/// The header for a user and password: base64 as in RFC 4648, which is all that is needed of it here.
#[must_use]
pub fn basic(user: &str, password: &str) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::from("Basic ");
    for group in format!("{user}:{password}").as_bytes().chunks(3) {
        let at = |i: usize| usize::from(group.get(i).copied().unwrap_or(0));
        let bits = (at(0) << 16) | (at(1) << 8) | at(2);
        for (i, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            out.push(if i <= group.len() {
                char::from(LETTERS[(bits >> shift) & 63])
            } else {
                '='
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_authorization_is_that_of_rfc_7617() {
        assert_eq!(basic("Aladdin", "open sesame"), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(basic("a", "bc"), "Basic YTpiYw==");
        assert_eq!(basic("ab", "cde"), "Basic YWI6Y2Rl");
    }

    #[test]
    fn what_has_a_meaning_in_a_query_is_escaped() {
        assert_eq!(escape("up{job=\"x\"} > 0"), "up%7Bjob%3D%22x%22%7D%20%3E%200");
        assert_eq!(escape("/"), "%2F");
    }

    #[tokio::test]
    async fn nobody_there_is_said_so() {
        let port = crate::ports::free().unwrap();
        let trouble = get(&format!("http://127.0.0.1:{port}/"), None).await.unwrap_err();
        assert!(trouble.0.contains("refused"), "{trouble}");
    }
}
