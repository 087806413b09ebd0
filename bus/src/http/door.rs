//! Answers what comes in at the door: recognises, reads, allows, asks the bus, replies.
//!
//! The order matters. Nothing of a body is kept before the bearer is known, since the bearer says how long it may be; nothing is
//! asked before [`may`] allowed it. Whatever is turned away is counted by its reason. The body of a refused request is still
//! read and thrown away, within limits, because a client that is cut off while it writes never sees why.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request as HttpRequest, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::{Bytes, BytesMut};
use epu_core::Fault;
use epu_core::request::{Answer, Caller, Request};
use epu_core::time::{Clock, Span};
use futures::future::BoxFuture;
use http_body_util::BodyExt;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, WWW_AUTHENTICATE};
use hyper::{Method, StatusCode};
use serde::Serialize;
use tracing::debug;

use super::auth::{may, recognise};
use super::metrics::Metrics;
use super::status_of;
use super::text::shortened;
use crate::Bus;
use crate::token::{Keyring, OperatorToken, Wrong};

/// Gives the text of `/metrics`.
pub type Render = Arc<dyn Fn() -> Result<String, Fault> + Send + Sync>;
/// Says whether the process is ready, for `/readyz`.
pub type Ready = Arc<dyn Fn() -> BoxFuture<'static, Result<(), Fault>> + Send + Sync>;

/// How much of a refused body is read and thrown away, in bytes. Too low: the client is cut off and never learns why. Too high:
/// a stranger keeps us reading.
const DISCARD_MAX: usize = 4 * 1024 * 1024;
/// How long that may take.
const DISCARD_WITHIN: Duration = Duration::from_secs(2);
/// How long `/readyz` waits for the process's own word.
const READY_WITHIN: Duration = Duration::from_secs(5);
/// The longest text of a fault that repeats what a client sent, in characters.
const ECHO_MAX: usize = 600;

/// What a door needs.
#[derive(Clone)]
pub struct Door {
    /// Where requests go.
    pub bus: Arc<dyn Bus>,
    /// Checks agents' tokens.
    pub keys: Keyring,
    /// Checks operators' tokens.
    pub operator: OperatorToken,
    /// Tells when launch tokens have expired.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: Metrics,
    /// Gives the text of `/metrics`.
    pub render: Render,
    /// Says whether the process is ready.
    pub ready: Ready,
    /// How much and how long.
    pub limits: Limits,
}

impl fmt::Debug for Door {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Door").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// How much a client may send and how long it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most connections at a time; more wait in the kernel's queue. Too low: agents wait for each other. Too high: more than the
    /// process may have open files.
    pub connections: usize,
    /// From connecting to an agreement on TLS, where the door speaks it. Too low: far agents on slow machines do not get in. Too high:
    /// idle strangers hold connections.
    pub handshake: Duration,
    /// From the end of one request, or from connecting, to the end of the next one's headers. Too low: agents connect anew for
    /// every heartbeat. Too high: idle strangers hold connections.
    pub header: Duration,
    /// From the headers to the end of the body.
    pub body: Duration,
    /// How long a client may not read while an answer is written to it.
    pub stalled: Duration,
    /// How long a service may take to answer.
    pub ask: Duration,
    /// How long open requests may take once the door closes.
    pub stop: Duration,
    /// The longest body from an operator, in bytes.
    pub operator_bytes: usize,
    /// The longest body from an agent, in bytes.
    pub agent_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4_096,
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(30),
            body: Duration::from_secs(10),
            stalled: Duration::from_secs(30),
            ask: Duration::from_secs(30),
            stop: Duration::from_secs(5),
            operator_bytes: 1024 * 1024,
            agent_bytes: 64 * 1024,
        }
    }
}

/// The door's paths.
pub(super) fn router(door: Arc<Door>) -> Router {
    Router::new()
        .route("/v1/ask", post(ask))
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .method_not_allowed_fallback(wrong_method)
        .fallback(wrong_path)
        .with_state(door)
}

async fn ask(State(door): State<Arc<Door>>, request: HttpRequest) -> Response {
    let (head, mut body) = request.into_parts();
    let caller = match door.caller(&head.headers) {
        Ok(caller) => caller,
        Err(wrong) => {
            door.metrics.refuse(wrong.label());
            discard(&mut body).await;
            let text = format!("{wrong}; send `Authorization: Bearer <token>`");
            return refused(Fault::new("unauthorized", text));
        }
    };
    let bytes = match door.read(&mut body, &caller).await {
        Ok(bytes) => bytes,
        Err((why, status, fault)) => {
            door.metrics.refuse(why);
            return reply(status, None::<&()>, Some(&fault));
        }
    };
    let request = match serde_json::from_slice::<Request>(&bytes) {
        Ok(request) => request,
        Err(error) => {
            door.metrics.refuse("bad-json");
            let text = format!("read the request: {error}; it must be {{\"op\": ..., \"args\": ...}}, see docs/wire.md");
            return refused(Fault::new("bad-request", shortened(&text, ECHO_MAX)));
        }
    };
    drop(bytes);
    if let Err(fault) = may(&caller, &request) {
        door.metrics.refuse("forbidden");
        return refused(fault);
    }
    let op = request.op();
    let timer = door.metrics.seconds.with_label_values(&[op]).start_timer();
    let answer = door.bus.ask(caller, request, door.limits.ask).await;
    drop(timer);
    door.metrics.answered(op, answer.as_ref().err());
    match answer {
        Ok(Answer::Orders(orders)) => reply(StatusCode::OK, Some(&orders), None),
        Ok(Answer::Json(value)) => reply(StatusCode::OK, Some(&value), None),
        Err(fault) => {
            debug!(op, code = %fault.code, "a request was answered with a fault");
            refused(fault)
        }
    }
}

impl Door {
    fn caller(&self, headers: &HeaderMap) -> Result<Caller, Wrong> {
        let header = match headers.get(AUTHORIZATION) {
            Some(value) => Some(value.to_str().map_err(|_| Wrong::Malformed)?),
            None => None,
        };
        recognise(header, &self.keys, &self.operator, self.clock.now())
    }

    /// The whole body, or why it was not read: a word for metrics, a status, and a fault.
    async fn read(&self, body: &mut Body, caller: &Caller) -> Result<Bytes, (&'static str, StatusCode, Fault)> {
        let limit = match caller {
            Caller::Operator(_) | Caller::OwnersOperator(..) | Caller::Reader(_) | Caller::Service(_) => self.limits.operator_bytes,
            Caller::Launch(_) | Caller::Instance(_) => self.limits.agent_bytes,
        };
        let reading = async {
            let mut bytes = BytesMut::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| {
                    let text = format!("read the request's body: {}", shortened(&error.to_string(), ECHO_MAX));
                    ("broken-body", StatusCode::BAD_REQUEST, Fault::new("bad-request", text))
                })?;
                if let Ok(data) = frame.into_data() {
                    if bytes.len() + data.len() > limit {
                        let text = format!("the request is longer than {limit} bytes, the most that this caller may send");
                        return Err(("too-large", StatusCode::PAYLOAD_TOO_LARGE, Fault::new("too-large", text)));
                    }
                    bytes.extend_from_slice(&data);
                }
            }
            Ok(bytes.freeze())
        };
        let result = tokio::time::timeout(self.limits.body, reading).await.unwrap_or_else(|_| {
            let text = format!("the request's body did not arrive within {}", Span(self.limits.body));
            Err(("slow-body", StatusCode::REQUEST_TIMEOUT, Fault::new("timeout", text)))
        });
        if matches!(result, Err(("too-large", _, _))) {
            discard(body).await;
        }
        result
    }
}

/// Reads the rest of a body and throws it away, so that the client comes to read its answer.
async fn discard(body: &mut Body) {
    let discarding = async {
        let mut seen = 0_usize;
        while let Some(Ok(frame)) = body.frame().await {
            seen += frame.into_data().map_or(0, |data| data.len());
            if seen > DISCARD_MAX {
                return;
            }
        }
    };
    // Whether it ended or not, the answer goes out now; an unread rest closes the connection.
    drop(tokio::time::timeout(DISCARD_WITHIN, discarding).await);
}

fn refused(fault: Fault) -> Response {
    let mut response = reply(status_of(&fault.code), None::<&()>, Some(&fault));
    if response.status() == StatusCode::UNAUTHORIZED {
        response
            .headers_mut()
            .insert(WWW_AUTHENTICATE, hyper::header::HeaderValue::from_static("Bearer"));
    }
    response
}

/// [`epu_core::request::Reply`], written without making a JSON tree first: this is the answer to every heartbeat.
#[derive(Serialize)]
struct Written<'a, T> {
    result: Option<&'a T>,
    error: Option<&'a Fault>,
}

fn reply<T: Serialize>(status: StatusCode, result: Option<&T>, error: Option<&Fault>) -> Response {
    match serde_json::to_vec(&Written { result, error }) {
        Ok(text) => (status, [(CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => {
            let fault = Fault::new("internal", format!("write the answer as JSON: {error}"));
            let text = format!(r#"{{"result":null,"error":{{"code":"internal","text":{:?}}}}}"#, fault.text);
            (StatusCode::INTERNAL_SERVER_ERROR, [(CONTENT_TYPE, "application/json")], text).into_response()
        }
    }
}

async fn metrics(State(door): State<Arc<Door>>) -> Response {
    match (door.render)() {
        Ok(text) => ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(fault) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{fault}\n")).into_response(),
    }
}

async fn readyz(State(door): State<Arc<Door>>) -> Response {
    let word = tokio::time::timeout(READY_WITHIN, (door.ready)()).await.unwrap_or_else(|_| {
        let text = format!("the process did not say within {} whether it is ready", Span(READY_WITHIN));
        Err(Fault::new("timeout", text))
    });
    match word {
        Ok(()) => "ready\n".into_response(),
        Err(fault) => (StatusCode::SERVICE_UNAVAILABLE, format!("{fault}\n")).into_response(),
    }
}

async fn wrong_path(State(door): State<Arc<Door>>, request: HttpRequest) -> Response {
    door.metrics.refuse("wrong-path");
    let text = format!(
        "{} is not a path here; there are POST /v1/ask, GET /metrics, /healthz and /readyz",
        shortened(request.uri().path(), 80)
    );
    reply(StatusCode::NOT_FOUND, None::<&()>, Some(&Fault::new("bad-request", text)))
}

async fn wrong_method(State(door): State<Arc<Door>>, method: Method) -> Response {
    door.metrics.refuse("wrong-method");
    let text = format!(
        "{} is not how to ask here: POST to /v1/ask, GET everything else",
        shortened(method.as_str(), 20)
    );
    reply(StatusCode::METHOD_NOT_ALLOWED, None::<&()>, Some(&Fault::new("bad-request", text)))
}
