//! What a rented machine can learn of itself: which machine of its launch it is, and whether its site takes it away.
//!
//! Read over plain HTTP from an address that only the machine itself reaches. A session token is asked for first (IMDSv2), since most sites
//! demand one; a site that says that it has no such thing (404 or 405) is asked without. A time-out is never taken for that: on a machine
//! that demands a token it would only hide why. Sources: "Use the Instance Metadata Service to access instance metadata" and "Spot Instance
//! interruption notices" in the EC2 user guide.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use epu_core::code::root_cause;
use epu_core::random::Random;
use epu_core::time::Span;
use epu_core::{Clock, Timestamp};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::HeaderValue;
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tracing::{debug, info, warn};

use crate::error::Error;

/// The longest answer that is read, in bytes; what is asked for here has some hundred.
const ANSWER_MAX: usize = 8_192;
/// How long one question may take. Too low: a slow start of the machine's network looks like none. Too high: an answer that was lost
/// delays the instance.
const ASK_WITHIN: Duration = Duration::from_secs(5);
/// How long a session token is good for, in seconds: the most that is granted. A new one is asked for when it is refused.
const SESSION: &str = "21600";
const TTL_HEADER: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const SESSION_HEADER: &str = "x-aws-ec2-metadata-token";
/// How long the index is asked for. Too low: a machine whose network comes up late is lost. Too high: one that can never know idles.
const INDEX_MOST: Duration = Duration::from_secs(600);
/// Wait after the first attempt that failed; doubled each time.
const BACKOFF_LEAST: Duration = Duration::from_millis(250);
/// The longest such wait.
const BACKOFF_MOST: Duration = Duration::from_secs(5);
/// How often it is asked whether the machine is taken away. The user guide: "We recommend that you check for these interruption notices
/// every 5 seconds."
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long there is from the notice to the end, where the notice does not say it in a way that can be believed. The user guide: "issued
/// two minutes before".
const NOTICE: Duration = Duration::from_secs(120);

/// The machine's metadata.
pub struct Metadata {
    base: String,
    client: legacy::Client<HttpConnector, Empty<Bytes>>,
    session: Mutex<Session>,
}

impl fmt::Debug for Metadata {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Metadata").field("base", &self.base).finish_non_exhaustive()
    }
}

#[derive(Clone)]
enum Session {
    /// It is not known whether one is needed.
    Unknown,
    /// There is no such thing here.
    None,
    Token(HeaderValue),
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Nobody answered.
    #[error("{what}: no answer: {why}")]
    NoAnswer {
        /// What was asked for.
        what: String,
        /// Why.
        why: String,
    },
    /// It was refused.
    #[error("{what}: answered {status}")]
    Refused {
        /// What was asked for.
        what: String,
        /// The status.
        status: u16,
    },
    /// The answer is none.
    #[error("{what}: the answer {shown:?} is not what it should be")]
    Garbage {
        /// What was asked for.
        what: String,
        /// Its beginning.
        shown: String,
    },
}

impl Metadata {
    /// The metadata at `base`, such as `http://169.254.169.254`. Nothing is asked yet.
    #[must_use]
    pub fn new(base: &str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(ASK_WITHIN));
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(0)
            .build(connector);
        Self {
            base: base.trim_end_matches('/').to_owned(),
            client,
            session: Mutex::new(Session::Unknown),
        }
    }

    /// The text at a path below `latest/`; none when there is nothing. May be repeated.
    ///
    /// # Errors
    /// When nobody answers, or it is refused.
    pub async fn get(&self, path: &str) -> Result<Option<String>, Trouble> {
        let mut is_fresh = false;
        loop {
            let session = match self.session() {
                Session::Unknown => {
                    is_fresh = true;
                    self.begin_session().await?
                }
                known @ (Session::None | Session::Token(_)) => known,
            };
            let token = match &session {
                Session::Token(token) => Some((SESSION_HEADER, token.clone())),
                Session::None | Session::Unknown => None,
            };
            let (status, text) = self.ask(Method::GET, path, token).await?;
            match status {
                StatusCode::OK => return Ok(Some(text)),
                StatusCode::NOT_FOUND => return Ok(None),
                // The session ended, or one is demanded since.
                StatusCode::UNAUTHORIZED => {
                    self.remember(Session::Unknown);
                    if is_fresh {
                        return Err(refused(path, status));
                    }
                }
                _ => return Err(refused(path, status)),
            }
        }
    }

    async fn begin_session(&self) -> Result<Session, Trouble> {
        let path = "api/token";
        let ttl = (TTL_HEADER, HeaderValue::from_static(SESSION));
        let (status, text) = self.ask(Method::PUT, path, Some(ttl)).await?;
        let session = match status {
            StatusCode::OK => match HeaderValue::from_str(text.trim()) {
                Ok(mut token) if !token.is_empty() => {
                    token.set_sensitive(true);
                    Session::Token(token)
                }
                Ok(_) | Err(_) => return Err(garbage(path, &text)),
            },
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Session::None,
            _ => return Err(refused(path, status)),
        };
        self.remember(session.clone());
        Ok(session)
    }

    async fn ask(&self, method: Method, path: &str, header: Option<(&'static str, HeaderValue)>) -> Result<(StatusCode, String), Trouble> {
        let no_answer = |why: String| Trouble::NoAnswer {
            what: path.to_owned(),
            why,
        };
        let mut request = Request::builder().method(method).uri(format!("{}/latest/{path}", self.base));
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let request = request.body(Empty::new()).map_err(|error| no_answer(error.to_string()))?;
        let asking = async {
            let response = self.client.request(request).await.map_err(|error| root_cause(&error))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_MAX)
                .collect()
                .await
                .map_err(|error| root_cause(error.as_ref()))?;
            Ok((head.status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
        };
        tokio::time::timeout(ASK_WITHIN, asking)
            .await
            .unwrap_or_else(|_| Err(format!("none within {}", Span(ASK_WITHIN))))
            .map_err(no_answer)
    }

    fn session(&self) -> Session {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember(&self, session: Session) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = session;
    }

    /// Which machine of its launch this one is, asked for again and again while the machine comes up.
    ///
    /// # Errors
    /// [`Error::NoIndex`] when ten minutes did not bring it.
    pub async fn launch_index(&self, clock: &dyn Clock, random: &Random) -> Result<u32, Error> {
        let path = "meta-data/ami-launch-index";
        let begun = clock.now();
        let mut wait = BACKOFF_LEAST;
        let mut is_said = false;
        loop {
            let why = match self.get(path).await {
                Ok(Some(text)) => match text.trim().parse() {
                    Ok(index) => return Ok(index),
                    Err(_) => garbage(path, &text),
                },
                Ok(None) => refused(path, StatusCode::NOT_FOUND),
                Err(trouble) => trouble,
            };
            if clock.now().since(begun) >= INDEX_MOST {
                return Err(Error::NoIndex {
                    at: self.base.clone(),
                    within: Span(INDEX_MOST),
                    why,
                });
            }
            if is_said {
                debug!(%why, "the launch index is still not known");
            } else {
                warn!(at = self.base, %why, "the launch index is not known yet; asked for again");
                is_said = true;
            }
            tokio::time::sleep(wait.mul_f64(0.75 + 0.5 * random.fraction())).await;
            wait = wait.saturating_mul(2).min(BACKOFF_MOST);
        }
    }

    /// Looks for the notice that the machine is taken away, and sends when that will be. Goes on until there is nobody to tell; ends at
    /// once on a machine that says that it is not of the kind that is taken away.
    pub async fn watch(&self, clock: Arc<dyn Clock>, told: watch::Sender<Option<Timestamp>>) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_known = false;
        let mut is_heard = true;
        loop {
            tokio::select! {
                biased;
                () = told.closed() => return,
                _ = ticks.tick() => {}
            }
            let looked = match self.is_kept(&mut is_known).await {
                Ok(true) => {
                    debug!("this machine is not of the kind that its site takes away");
                    // Whoever waits for a word waits on: none will come.
                    return told.closed().await;
                }
                Ok(false) => self.notice(clock.now()).await,
                Err(trouble) => Err(trouble),
            };
            match looked {
                Ok(Some(at)) => {
                    info!(%at, "the site takes the machine away");
                    told.send_replace(Some(at));
                    return told.closed().await;
                }
                Ok(None) => is_heard = true,
                Err(trouble) => {
                    if is_heard {
                        warn!(at = self.base, %trouble, "it cannot be learnt whether the site takes the machine away; asked again");
                    }
                    is_heard = false;
                }
            }
        }
    }

    /// Whether this is surely no machine that its site takes away. Asked until it was answered once.
    async fn is_kept(&self, is_known: &mut bool) -> Result<bool, Trouble> {
        if *is_known {
            return Ok(false);
        }
        let cycle = self.get("meta-data/instance-life-cycle").await?;
        *is_known = true;
        Ok(matches!(
            cycle.as_deref().map(str::trim),
            Some("on-demand" | "scheduled" | "capacity-block")
        ))
    }

    async fn notice(&self, now: Timestamp) -> Result<Option<Timestamp>, Trouble> {
        let path = "meta-data/spot/instance-action";
        match self.get(path).await? {
            None => Ok(None),
            Some(text) => notice(&text, now).map(Some).ok_or_else(|| garbage(path, &text)),
        }
    }
}

/// `{"action": "terminate", "time": "2017-09-18T08:22:00Z"}`; stopping and hibernating take the machine away just as well.
#[derive(Deserialize)]
struct Action {
    action: String,
    #[serde(default)]
    time: String,
}

/// When the machine goes, by its own clock. The notice names a time by the site's clock: one that is past, or further ahead than notices
/// are given, shows that this machine's clock is wrong, and then the time that every notice gives counts from now. None when it is no notice.
#[must_use]
pub fn notice(text: &str, now: Timestamp) -> Option<Timestamp> {
    let action: Action = serde_json::from_str(text).ok()?;
    if !matches!(action.action.as_str(), "terminate" | "stop" | "hibernate") {
        return None;
    }
    let said = Timestamp::from_rfc3339(&action.time).filter(|at| *at > now && *at <= now + NOTICE);
    Some(said.unwrap_or(now + NOTICE))
}

fn refused(what: &str, status: StatusCode) -> Trouble {
    Trouble::Refused {
        what: what.to_owned(),
        status: status.as_u16(),
    }
}

fn garbage(what: &str, text: &str) -> Trouble {
    Trouble::Garbage {
        what: what.to_owned(),
        shown: text.trim().chars().take(60).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_says_when_and_a_clock_that_cannot_be_right_does_not_count() {
        let now = Timestamp::from_rfc3339("2026-11-22T08:20:00Z").unwrap();
        let at = |text: &str| notice(text, now).map(|at| at.since(now).as_secs());
        assert_eq!(at(r#"{"action": "terminate", "time": "2026-11-22T08:22:00Z"}"#), Some(120));
        assert_eq!(at(r#"{"action": "stop", "time": "2026-11-22T08:20:30Z", "more": 1}"#), Some(30));
        for doubtful in [
            "2026-11-22T08:19:00Z",
            "2026-11-22T08:22:01Z",
            "2026-11-22T08:29:00Z",
            "2026-11-22T09:22:00Z",
            "soon",
            "",
        ] {
            let text = format!(r#"{{"action": "hibernate", "time": "{doubtful}"}}"#);
            assert_eq!(at(&text), Some(120), "{doubtful}");
        }
        assert_eq!(at(r#"{"action": "terminate"}"#), Some(120));
        for none in [
            "",
            "<html>",
            "{}",
            r#"{"action": "none"}"#,
            r#"{"action": "rebalance", "time": "2026-11-22T08:22:00Z"}"#,
        ] {
            assert_eq!(at(none), None, "{none}");
        }
    }
}
