//! The world behind a port: reads requests, gives answers, and does to processes what the world says is to be done.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use epu_core::time::{Clock, Timestamp};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, DATE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustix::process::Signal;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::imds;
use super::machines::{self, Boot};
use super::plan::{Fate, Plan};
use super::world::{Doing, Heard, World};

/// Longest body of a request.
const MAX_BODY: usize = 4 << 20;
/// Time between two looks at what happens by itself. Too long: machines boot late.
const TICK: Duration = Duration::from_millis(20);
/// Time between two looks at the process table while machines are ending.
const ENDING_LOOK: Duration = Duration::from_millis(100);

/// What the parts of a running server share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) world: Mutex<World>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) boot: Option<Boot>,
    pub(super) address: SocketAddr,
    /// Machines whose processes are to end, and until when they may take.
    ending: Mutex<BTreeMap<String, Deadline>>,
    /// Machines also boot when a thread outside of the runtime makes time pass.
    runtime: tokio::runtime::Handle,
}

/// Until when a machine's processes may take to end, and whether they were asked to.
#[derive(Debug, Clone, Copy)]
struct Deadline {
    until: Timestamp,
    is_asked: bool,
    /// How many looks in a row saw nothing of it. One alone proves nothing: a process that is just becoming another program shows no
    /// environment for a moment.
    unseen: u8,
}

impl Shared {
    /// To be called within a runtime.
    pub(super) fn new(world: World, clock: Arc<dyn Clock>, boot: Option<Boot>, address: SocketAddr) -> Self {
        Self {
            world: Mutex::new(world),
            clock,
            boot,
            address,
            ending: Mutex::new(BTreeMap::new()),
            runtime: tokio::runtime::Handle::current(),
        }
    }

    /// Does something with the world, and afterwards what it says is to be done.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut World, Timestamp) -> T) -> T {
        let now = self.clock.now();
        let mut world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = act(&mut world, now);
        let doings = world.doings();
        // Machines start and end in the order in which the world says so: the lock is held until that is noted.
        for doing in doings {
            self.act(doing, now);
        }
        outcome
    }

    /// Its address.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn act(&self, doing: Doing, now: Timestamp) {
        let Some(boot) = &self.boot else { return };
        let (id, grace) = match doing {
            Doing::Boot { id, user_data } => {
                let _within = self.runtime.enter();
                match machines::boot(boot, &id, &user_data, &self.url()) {
                    // Someone must wait for it, or it stays in the process table.
                    Ok(mut child) => drop(tokio::spawn(async move { child.wait().await })),
                    Err(trouble) => tracing::warn!(machine = id, %trouble, "it does not boot"),
                }
                return;
            }
            Doing::End(id) => (id, boot.grace),
            Doing::Kill(id) => (id, Duration::ZERO),
        };
        let mut ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        let until = now + grace;
        let entry = ending.entry(id).or_insert(Deadline {
            until,
            is_asked: false,
            unseen: 0,
        });
        entry.until = entry.until.min(until);
    }

    /// One round of ending machines; those that are gone are reported to the world.
    fn end_machines(&self) {
        let wanted: Vec<(String, Deadline)> = {
            let ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
            ending.iter().map(|(id, deadline)| (id.clone(), *deadline)).collect()
        };
        let now = self.clock.now();
        let alive = machines::processes(&self.url());
        let mut gone = Vec::new();
        for (id, deadline) in wanted {
            let procs = alive.get(&id).map_or(&[][..], Vec::as_slice);
            let signal = match (now >= deadline.until, deadline.is_asked) {
                (true, _) => Some(Signal::KILL),
                (false, false) => Some(Signal::TERM),
                (false, true) => None,
            };
            for proc in procs {
                signal.into_iter().for_each(|signal| proc.signal(signal));
            }
            let mut ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(entry) = ending.get_mut(&id) {
                entry.is_asked = true;
                entry.unseen = if procs.is_empty() { entry.unseen.saturating_add(1) } else { 0 };
                if entry.unseen >= 2 {
                    gone.push(id);
                }
            }
        }
        for id in gone {
            self.ending.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            self.with(|world, now| world.is_down(&id, now));
        }
    }

    fn has_ending(&self) -> bool {
        !self.ending.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// Serves until told to stop.
pub(super) async fn serve(shared: Arc<Shared>, listener: TcpListener, stop: CancellationToken) {
    let ticking = tokio::spawn(tick(Arc::clone(&shared), stop.clone()));
    let ending = tokio::spawn(end(Arc::clone(&shared), stop.clone()));
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // Out of files: others will be closed.
            tokio::time::sleep(TICK).await;
            continue;
        };
        stream.set_nodelay(true).ok();
        let (shared, stop) = (Arc::clone(&shared), stop.clone());
        tokio::spawn(async move {
            let service = hyper::service::service_fn(|request| answer(Arc::clone(&shared), request));
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                // An error is a connection that was closed, on either side.
                _ = connection => {}
            }
        });
    }
    for task in [ticking, ending] {
        task.await.ok();
    }
}

async fn tick(shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TICK) => shared.with(World::advance),
        }
    }
}

async fn end(shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(ENDING_LOOK) => {}
        }
        if shared.has_ending() {
            let shared = Arc::clone(&shared);
            tokio::task::spawn_blocking(move || shared.end_machines()).await.ok();
        }
    }
}

/// The connection is closed without an answer.
#[derive(Debug)]
struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("closed by plan")
    }
}

impl std::error::Error for Closed {}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Closed> {
    let (head, body) = request.into_parts();
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let path = head.uri.path().to_owned();
    let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
        return Ok(plain(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long"));
    };
    let body = body.to_bytes();
    if let Some(rest) = path.strip_prefix("/_imds/") {
        let (id, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (token, ttl) = (header("x-aws-ec2-metadata-token"), header("x-aws-ec2-metadata-token-ttl-seconds"));
        let asking = imds::Asking {
            id,
            is_put: head.method == Method::PUT,
            path,
            token: token.as_deref(),
            ttl: ttl.as_deref(),
        };
        let (status, text) = shared.with(|world, now| world.metadata(asking, now));
        return Ok(response(status, "text/plain", text));
    }
    if path.starts_with("/_fake/") {
        return Ok(manage(&shared, &head.method, &path, head.uri.query().unwrap_or(""), &body));
    }
    let Ok(body) = String::from_utf8(body.to_vec()) else {
        return Ok(plain(StatusCode::BAD_REQUEST, "the body is not UTF-8"));
    };
    let heard = Heard {
        authorization: header("authorization"),
        date: header("x-amz-date"),
        query: head.uri.query().unwrap_or("").to_owned(),
        body,
    };
    let reply = shared.with(|world, now| world.handle(&heard, now));
    if !reply.delay.is_zero() {
        tokio::time::sleep(reply.delay).await;
    }
    if reply.close {
        return Err(Closed);
    }
    let mut response = response(reply.status, "text/xml;charset=UTF-8", reply.body.into_bytes());
    if let Some(date) = http_date(reply.date).and_then(|text| HeaderValue::from_str(&text).ok()) {
        response.headers_mut().insert(DATE, date);
    }
    Ok(response)
}

/// What is to become of a machine.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Befall {
    instance: String,
    fate: Fate,
}

fn manage(shared: &Shared, method: &Method, path: &str, query: &str, body: &[u8]) -> Response<Full<Bytes>> {
    let json = |value: serde_json::Result<Vec<u8>>| match value {
        Ok(bytes) => response(200, "application/json", bytes),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    };
    match (method.as_str(), path) {
        ("GET", "/_fake/state") => {
            let report = shared.with(|world, now| {
                world.advance(now);
                world.report(query != "summary")
            });
            json(serde_json::to_vec(&report))
        }
        ("GET", "/_fake/calls") => json(serde_json::to_vec(&shared.with(|world, _| world.recent()))),
        ("GET", "/_fake/plan") => json(serde_json::to_vec(&shared.with(|world, _| world.plan().clone()))),
        ("POST", "/_fake/plan") => match serde_json::from_slice::<Plan>(body) {
            Ok(plan) => {
                shared.with(|world, _| world.set_plan(plan));
                plain(StatusCode::OK, "{}")
            }
            Err(error) => plain(StatusCode::BAD_REQUEST, &format!("read the plan: {error}")),
        },
        ("POST", "/_fake/befall") => {
            let read = serde_json::from_slice::<Befall>(body).map_err(|error| error.to_string());
            let done = read.and_then(|order| shared.with(|world, now| world.befall(&order.instance, order.fate, now)));
            match done {
                Ok(()) => plain(StatusCode::OK, "{}"),
                Err(why) => plain(StatusCode::BAD_REQUEST, &why),
            }
        }
        _ => plain(
            StatusCode::NOT_FOUND,
            "there are GET /_fake/state, /_fake/state?summary, /_fake/calls, /_fake/plan and POST /_fake/plan, /_fake/befall",
        ),
    }
}

fn response(status: u16, kind: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    response(status.as_u16(), "text/plain", text.as_bytes().to_vec())
}

/// `Sun, 22 Nov 2026 19:37:16 GMT`, as RFC 9110 wants it, section 5.6.7.
fn http_date(at: Timestamp) -> Option<String> {
    let at = jiff::Timestamp::from_millisecond(at.0).ok()?;
    Some(at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_as_http_wants_them() {
        assert_eq!(http_date(Timestamp(784_111_777_000)).unwrap(), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
