//! Listens, and gives each connection its time.
//!
//! Connections are accepted here and not by axum's own loop, because the limits that matter are on connections: how many, how
//! long one may take to say what it wants, how long it may not read its answer. When most places are taken, new connections are
//! answered once and closed, so that clients that stay connected cannot lock others out. Agreeing on TLS, where the door speaks it, takes
//! place within these limits too, beside all other connections.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use epu_core::code::Chain;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus::IntGauge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::door::{Door, Limits, router};
use super::metrics::Metrics;
use super::patient::Patient;
use super::tls::{Tls, Unmet, refuse_plain};

/// How long to look up a host name to listen on.
const LOOK_UP_WITHIN: Duration = Duration::from_secs(5);
/// The wait after a connection could not be accepted. Too low: a process out of open files spins.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// So many failures in a row to accept, none of which passes by itself, and the listener is given up.
const ACCEPT_FAILURES: u32 = 100;
/// What one connection may have in its buffers, in bytes; longer headers are refused with 431.
const BUFFER: usize = 64 * 1024;

/// Why there is no door.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not an address.
    #[error("listen on {given:?}: not an address; write 127.0.0.1:PORT, [::1]:PORT or localhost:PORT")]
    BadAddress {
        /// What was given.
        given: String,
        /// Why not.
        source: io::Error,
    },
    /// Reachable by others, which nobody asked for.
    #[error(
        "listen on {address}: that is reachable from other machines, and there is no TLS; listen on 127.0.0.1, or give the door a certificate"
    )]
    BeyondLoopback {
        /// Which.
        address: SocketAddr,
    },
    /// Somebody else listens there.
    #[error(
        "listen on {address}: the port is taken; is another `epumgmt serve` running? end the program that has it, \
         or choose another `listen`"
    )]
    Taken {
        /// Which.
        address: SocketAddr,
    },
    /// Not allowed there.
    #[error("listen on {address}: not permitted; choose a port above 1023")]
    NotPermitted {
        /// Which.
        address: SocketAddr,
    },
    /// It could not be done.
    #[error("listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The listener does not accept any more.
    #[error("accept connections")]
    Accept(#[source] io::Error),
}

/// Begins to listen on `address`, which is `host:port`; port 0 is any free one. Addresses that other machines can reach are
/// refused unless `beyond_loopback` is set.
///
/// # Errors
/// [`Error`] names the address and says what to do.
pub async fn bind(address: &str, beyond_loopback: bool) -> Result<TcpListener, Error> {
    let bad = |source| Error::BadAddress {
        given: address.chars().take(80).collect(),
        source,
    };
    let look_up = tokio::time::timeout(LOOK_UP_WITHIN, tokio::net::lookup_host(address));
    let found = look_up.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(bad)?;
    let mut found: Vec<SocketAddr> = found.collect();
    found.sort_by_key(SocketAddr::is_ipv6);
    let Some(&address) = found.first() else {
        return Err(bad(io::ErrorKind::NotFound.into()));
    };
    if !beyond_loopback && let Some(&address) = found.iter().find(|address| !address.ip().is_loopback()) {
        return Err(Error::BeyondLoopback { address });
    }
    TcpListener::bind(address).await.map_err(|source| {
        if source.kind() == io::ErrorKind::AddrInUse {
            Error::Taken { address }
        } else if source.kind() == io::ErrorKind::PermissionDenied {
            Error::NotPermitted { address }
        } else {
            Error::Listen { address, source }
        }
    })
}

/// Serves until cancelled; then accepts no more, lets open requests end within [`Limits::stop`], and cuts off the rest.
///
/// # Errors
/// When the listener is broken.
pub async fn serve(listener: TcpListener, door: Door, cancel: CancellationToken) -> Result<(), Error> {
    attending(listener, door, None, cancel).await
}

/// The same over TLS. A client that speaks plain HTTP is told so.
///
/// # Errors
/// When the listener is broken.
pub async fn serve_tls(listener: TcpListener, door: Door, tls: Arc<Tls>, cancel: CancellationToken) -> Result<(), Error> {
    attending(listener, door, Some(tls), cancel).await
}

async fn attending(listener: TcpListener, door: Door, tls: Option<Arc<Tls>>, cancel: CancellationToken) -> Result<(), Error> {
    let door = Arc::new(door);
    let limits = door.limits;
    let router = router(door.clone());
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut attended = JoinSet::new();
    let mut failures = 0_u32;
    let broken = loop {
        let next = async {
            let place = places.clone().acquire_owned().await;
            (listener.accept().await, place)
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => break None,
            Some(ended) = attended.join_next() => {
                if let Err(error) = ended {
                    error!(%error, "a connection at the door ended badly");
                }
            }
            (accepted, place) = next => match accepted {
                Ok((stream, _)) => {
                    failures = 0;
                    let many = places.available_permits() < limits.connections / 4;
                    let connection = attend(stream, tls.clone(), router.clone(), door.metrics.clone(), limits, !many, cancel.clone());
                    let counted = Counted::new(&door.metrics.connections);
                    attended.spawn(async move {
                        connection.await;
                        drop((counted, place));
                    });
                }
                Err(error) => {
                    if failures == 0 {
                        warn!(%error, "a connection could not be accepted");
                    }
                    failures += 1;
                    if failures >= ACCEPT_FAILURES && !passes_by_itself(&error) {
                        break Some(error);
                    }
                    drop(place);
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    };
    drop(listener);
    let ending = async { while attended.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.stop, ending).await.is_err() {
        warn!(open = attended.len(), "requests at the door did not end in time and are cut off");
        attended.shutdown().await;
    }
    broken.map_or(Ok(()), |error| Err(Error::Accept(error)))
}

/// Counts a connection for as long as it lives, however it ends.
struct Counted(IntGauge);

impl Counted {
    fn new(connections: &IntGauge) -> Self {
        connections.inc();
        Self(connections.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Whether waiting may help: the client gave up, or the process has no free file or memory just now.
fn passes_by_itself(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOBUFS: i32 = 105;
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted | io::ErrorKind::OutOfMemory
    ) || matches!(error.raw_os_error(), Some(ENFILE | EMFILE | ENOBUFS))
}

/// One connection, from its first byte to its end.
async fn attend(
    stream: TcpStream,
    tls: Option<Arc<Tls>>,
    router: Router,
    metrics: Metrics,
    limits: Limits,
    keep_alive: bool,
    stopping: CancellationToken,
) {
    // Answers are small and awaited: waiting to fill a packet would only delay them. Failing to say so costs time, nothing else.
    stream.set_nodelay(true).ok();
    let Some(tls) = tls else {
        return converse(stream, router, limits, keep_alive, stopping).await;
    };
    let met = tokio::select! {
        biased;
        () = stopping.cancelled() => return,
        met = tls.greet(stream, limits.handshake) => met,
    };
    match met {
        Ok(stream) => converse(stream, router, limits, keep_alive, stopping).await,
        Err(unmet) => {
            if let Some(why) = unmet.label() {
                metrics.refuse(why);
            }
            if let Unmet::Plain(stream) = unmet {
                refuse_plain(stream).await;
            }
        }
    }
}

async fn converse<S>(stream: S, router: Router, limits: Limits, keep_alive: bool, stopping: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .keep_alive(keep_alive)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(Patient::new(stream, limits.stalled)), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(error = %Chain(&error), "a connection at the door broke");
    }
}
