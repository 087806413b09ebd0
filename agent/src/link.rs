//! The way to the services, as the agent needs it. [`HttpLink`] is the real one; the simulator puts its bus here.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use epu_bus::http::Client;
use epu_core::Fault;
use epu_core::request::{Answer, Caller, Request};

/// Doors for which a connection is kept; with more all are made anew. Each counts twice: as claimant, and as instance.
const DOORS_MAX: usize = 2 * epu_core::request::DOORS_MAX;

/// Where to ask, and as whom.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Door {
    /// The address, as `http://host:port`.
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
}

/// The services over HTTP.
#[derive(Debug, Default)]
pub struct HttpLink {
    clients: Mutex<BTreeMap<Door, Arc<Client>>>,
}

impl HttpLink {
    /// No connection yet; each is made when first needed.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn client(&self, door: &Door) -> Arc<Client> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(door) {
            return client.clone();
        }
        if clients.len() >= DOORS_MAX {
            clients.clear();
        }
        let client = Arc::new(Client::new(&door.url, &door.token));
        clients.insert(door.clone(), client.clone());
        client
    }
}

#[async_trait]
impl Link for HttpLink {
    async fn ask(&self, door: &Door, _caller: &Caller, request: &Request, within: Duration) -> Result<Answer, Fault> {
        self.client(door).ask(request, within).await.map(Answer::Json)
    }
}
