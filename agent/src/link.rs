//! The way to the services, as the agent needs it. [`HttpLink`] is the real one; the simulator puts its bus here.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use epu_bus::http::tls::facts_of;
use epu_bus::http::{Client, Roots};
use epu_core::Fault;
use epu_core::request::{Answer, Caller, Request};

/// Doors for which a connection is kept; with more all are made anew. Each counts twice: as claimant, and as instance.
const DOORS_MAX: usize = 2 * epu_core::request::DOORS_MAX;

/// Where to ask, and as whom.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Door {
    /// The address, as `http://host:port` or `https://host:port`.
    pub url: String,
    /// What proves who asks.
    pub token: String,
}

impl fmt::Debug for Door {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.url)
    }
}

/// Asks the services.
#[async_trait]
pub trait Link: Send + Sync {
    /// Asks once, and waits for the answer `within` at the longest. `caller` is who asks; over a network it is the door's token
    /// that shows it. Dropping the future gives up; the request may still have its effect.
    ///
    /// # Errors
    /// What the service answered, or `no-contact` and `timeout` when it did not.
    async fn ask(&self, door: &Door, caller: &Caller, request: &Request, within: Duration) -> Result<Answer, Fault>;

    /// Whether it asks at such an address at all; others are no doors.
    fn asks_at(&self, url: &str) -> bool {
        let _ = url;
        true
    }
}

/// The services over HTTP.
#[derive(Debug)]
pub struct HttpLink {
    roots: Roots,
    /// Whether tokens are sent over TLS only, within this machine aside.
    is_closed: bool,
    clients: Mutex<BTreeMap<Door, Arc<Client>>>,
}

impl HttpLink {
    /// The services at addresses like these, urls with spaces between. Where one begins with `https://`, or the authority of their
    /// certificates is given, tokens never leave this machine over plain HTTP: whoever is told of other doors later is not talked into it.
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// When `ca` is no certificate, or an address would not be asked; each fault in a line of its own.
    pub fn new(urls: &str, ca: Option<String>) -> Result<Self, Vec<String>> {
        let mut faults = Vec::new();
        if let Some(Err(why)) = ca.as_deref().map(facts_of) {
            faults.push(format!("EPU_CA: {why}"));
        }
        let link = Self {
            is_closed: ca.is_some() || urls.split_whitespace().any(|url| url.starts_with("https://")),
            roots: ca.map_or(Roots::System, Roots::Pinned),
            clients: Mutex::default(),
        };
        for url in urls.split_whitespace().filter(|url| !link.asks_at(url)) {
            faults.push(format!(
                "EPU_URL has {url:?}: with certificates only https:// is asked at, or http:// on this machine"
            ));
        }
        if faults.is_empty() { Ok(link) } else { Err(faults) }
    }

    fn client(&self, door: &Door) -> Arc<Client> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(door) {
            return client.clone();
        }
        if clients.len() >= DOORS_MAX {
            clients.clear();
        }
        let roots = if door.url.starts_with("https://") {
            self.roots.clone()
        } else {
            Roots::System
        };
        let client = Arc::new(Client::with_roots(&door.url, &door.token, roots));
        clients.insert(door.clone(), client.clone());
        client
    }
}

#[async_trait]
impl Link for HttpLink {
    async fn ask(&self, door: &Door, _caller: &Caller, request: &Request, within: Duration) -> Result<Answer, Fault> {
        if !self.asks_at(&door.url) {
            return Err(Fault::new(
                "no-contact",
                format!("{} is not asked at: it is no https:// address", door.url),
            ));
        }
        self.client(door).ask(request, within).await.map(Answer::Json)
    }

    fn asks_at(&self, url: &str) -> bool {
        url.starts_with("https://") || url.starts_with("http://") && (!self.is_closed || is_loopback(url))
    }
}

/// Whether a url's host is this machine, by its very address: a name could be made to mean another one.
fn is_loopback(url: &str) -> bool {
    let authority = url
        .strip_prefix("http://")
        .and_then(|rest| rest.split(['/', '?', '#']).next())
        .unwrap_or_default();
    if let Ok(address) = authority.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let host = authority
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(authority);
    host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_does_not_leave_the_machine_in_the_open_where_there_are_certificates() {
        let open = HttpLink::new("http://10.0.0.1:1", None).unwrap();
        assert!(open.asks_at("http://10.0.0.2:1") && open.asks_at("https://a") && !open.asks_at("ftp://a"));
        let closed = HttpLink::new("https://a:1 http://127.0.0.1:2", None).unwrap();
        for fit in [
            "https://b",
            "http://127.0.0.1:1",
            "http://127.9.9.9",
            "http://[::1]:7/x",
            "http://[::1]",
        ] {
            assert!(closed.asks_at(fit), "{fit}");
        }
        for unfit in [
            "http://10.0.0.1",
            "http://127.0.0.1@evil",
            "http://127.0.0.1.evil",
            "http://localhost",
            "http://[::2]:1",
            "http://",
            "",
        ] {
            assert!(!closed.asks_at(unfit), "{unfit}");
        }
    }

    #[test]
    fn what_cannot_work_is_said_at_once() {
        let faults = HttpLink::new("http://10.0.0.1:1 https://b", None).unwrap_err();
        assert!(faults.len() == 1 && faults[0].contains("http://10.0.0.1:1"), "{faults:?}");
        let faults = HttpLink::new("https://b", Some("nonsense".to_owned())).unwrap_err();
        assert!(faults.len() == 1 && faults[0].starts_with("EPU_CA: "), "{faults:?}");
    }
}
