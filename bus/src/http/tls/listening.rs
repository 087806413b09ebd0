//! The door's side: one certificate for all connections, exchanged while it is open.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use epu_core::code::Chain;
use epu_core::time::{Clock, Span, Timestamp};
use rustls::{AlertDescription, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, error, info, warn};

use super::files::{Error, Files, Texts};
use super::why;
use crate::http::metrics::Metrics;

/// With less time left than this it is said each day that the certificate expires. Too low: nobody has time to renew it. Too high: one
/// that is renewed by itself in its last month is complained about.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 86_400);
/// How often that is said.
const SAY_AGAIN: Duration = Duration::from_secs(86_400);
/// How often what clients do wrong is said.
const SELDOM: Duration = Duration::from_secs(60);
/// The first byte of whoever speaks TLS (RFC 8446, section 5.1: a record with a handshake).
const HANDSHAKE: u8 = 22;
/// How much of what a client that does not speak TLS sends is read and thrown away, in bytes, and for how long: a client that is cut
/// off while it writes never reads its answer.
const DISCARD: (usize, Duration) = (256 * 1024, Duration::from_secs(2));
/// The answer to a client that does not speak TLS, in the one form that every reply has.
const PLAIN: &str =
    r#"{"result":null,"error":{"code":"bad-url","text":"this door speaks TLS only: write https:// instead of http:// in the address"}}"#;

/// The door's certificate and key.
pub struct Tls {
    files: Files,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    current: Mutex<Current>,
    said: Mutex<Said>,
}

struct Current {
    texts: Texts,
    config: Arc<ServerConfig>,
    expires: Timestamp,
}

/// What was said when, so that the log stays readable.
#[derive(Default)]
struct Said {
    /// Why new files are not used.
    unusable: Option<String>,
    /// That the certificate expires.
    expires: Option<Timestamp>,
    plain: Option<Timestamp>,
    distrusted: Option<Timestamp>,
}

/// What came of looking at the files.
#[derive(Debug)]
pub enum Look {
    /// They are the same.
    Same,
    /// There is a new certificate, good until then.
    New(Timestamp),
    /// There is something new that cannot be used; the one before stays.
    Kept(Error),
}

/// Why a connection did not come to speak HTTP over TLS.
#[derive(Debug)]
pub(in crate::http) enum Unmet {
    /// It speaks no TLS.
    Plain(TcpStream),
    /// It said nothing in time.
    Slow,
    /// It went away.
    Left,
    /// TLS did not come about.
    Failed(io::Error),
}

impl Unmet {
    /// For the metrics; none for what is nobody's fault.
    pub(in crate::http) fn label(&self) -> Option<&'static str> {
        match self {
            Self::Plain(_) => Some("plain-http"),
            Self::Slow => Some("slow-handshake"),
            Self::Failed(_) => Some("tls-handshake"),
            Self::Left => None,
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads certificate and key. Reads files, and so blocks for a moment. One that has expired is taken, and complained about: what
    /// else the process does goes on.
    ///
    /// # Errors
    /// [`Error`] names the file and says what is wrong with it.
    pub fn load(files: Files, clock: Arc<dyn Clock>, metrics: Metrics) -> Result<Arc<Self>, Error> {
        let texts = files.texts()?;
        let (config, expires) = files.understood(&texts)?;
        let tls = Self {
            files,
            clock,
            metrics,
            current: Mutex::new(Current { texts, config, expires }),
            said: Mutex::default(),
        };
        tls.tell_when_it_expires(expires);
        Ok(Arc::new(tls))
    }

    /// Looks at the files, and takes what is new and good. Open connections stay. Reads files, and so blocks for a moment.
    pub fn look(&self) -> Look {
        let look = match self.read_anew() {
            Ok(None) => {
                held(&self.said).unusable = None;
                Look::Same
            }
            Ok(Some(expires)) => {
                held(&self.said).unusable = None;
                self.metrics.tls_reloads.with_label_values(&["ok"]).inc();
                info!(file = %self.files.certificate.display(), until = %expires, "the door has a new certificate");
                Look::New(expires)
            }
            Err(error) => {
                self.metrics.tls_reloads.with_label_values(&["failed"]).inc();
                let text = Chain(&error).to_string();
                let mut said = held(&self.said);
                if said.unusable.as_ref() != Some(&text) {
                    error!(
                        why = text,
                        "the door keeps its former certificate, since the new one cannot be used"
                    );
                    said.unusable = Some(text);
                }
                Look::Kept(error)
            }
        };
        let expires = self.expires();
        self.tell_when_it_expires(expires);
        look
    }

    /// Until when the certificate is good, or what is between it and its authority, whichever ends first.
    #[must_use]
    pub fn expires(&self) -> Timestamp {
        held(&self.current).expires
    }

    fn read_anew(&self) -> Result<Option<Timestamp>, Error> {
        let texts = self.files.texts()?;
        if held(&self.current).texts == texts {
            return Ok(None);
        }
        let (config, expires) = self.files.understood(&texts)?;
        let now = self.clock.now();
        let mut current = held(&self.current);
        if expires <= now && current.expires > now {
            return Err(Error::Expired {
                path: self.files.certificate.clone(),
                on: expires,
            });
        }
        *current = Current { texts, config, expires };
        Ok(Some(expires))
    }

    fn tell_when_it_expires(&self, expires: Timestamp) {
        let now = self.clock.now();
        let left_ms = expires.0.saturating_sub(now.0);
        self.metrics.tls_expires.with_label_values::<&str>(&[]).set(left_ms / 1_000);
        if expires > now && expires.since(now) >= EXPIRES_SOON {
            return;
        }
        if !seldom(&mut held(&self.said).expires, now, SAY_AGAIN) {
            return;
        }
        let file = self.files.certificate.display();
        if expires <= now {
            error!(%file, on = %expires, "the door's certificate has expired, and nobody trusts it: put a new one into its file");
        } else {
            warn!(%file, on = %expires, days = expires.since(now).as_secs() / 86_400, "the door's certificate expires soon: put a new one into its file");
        }
    }

    /// Comes to an agreement with whoever connected, `within` at the longest.
    pub(in crate::http) async fn greet(&self, stream: TcpStream, within: Duration) -> Result<TlsStream<TcpStream>, Unmet> {
        let greeting = async {
            let mut first = [0];
            match stream.peek(&mut first).await {
                Ok(0) => return Err(Unmet::Left),
                Ok(_) if first[0] != HANDSHAKE => return Err(Unmet::Plain(stream)),
                Ok(_) => {}
                Err(error) => return Err(Unmet::Failed(error)),
            }
            let config = held(&self.current).config.clone();
            TlsAcceptor::from(config).accept(stream).await.map_err(Unmet::Failed)
        };
        let met = tokio::time::timeout(within, greeting).await.unwrap_or(Err(Unmet::Slow));
        if let Err(unmet) = &met {
            self.say(unmet, within);
        }
        met
    }

    fn say(&self, unmet: &Unmet, within: Duration) {
        let from = |stream: &TcpStream| {
            stream
                .peer_addr()
                .map_or_else(|_| "somebody".to_owned(), |address| address.to_string())
        };
        let now = self.clock.now();
        match unmet {
            Unmet::Left => {}
            Unmet::Slow => debug!(within = %Span(within), "a client did not agree on TLS in time"),
            Unmet::Plain(stream) => {
                if seldom(&mut held(&self.said).plain, now, SELDOM) {
                    warn!(from = %from(stream), "somebody speaks plain HTTP at the door, which speaks TLS: the address is to begin with https://");
                }
            }
            Unmet::Failed(error) if distrusts(error) => {
                if seldom(&mut held(&self.said).distrusted, now, SELDOM) {
                    warn!(%error, "a client does not trust the door's certificate: does it have the right authority, and use a name that the certificate has?");
                }
            }
            Unmet::Failed(error) => debug!(%error, "a client did not agree on TLS"),
        }
    }
}

/// Tells a client that does not speak TLS what to do, and takes leave.
pub(in crate::http) async fn refuse_plain(mut stream: TcpStream) {
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{PLAIN}",
        PLAIN.len()
    );
    let leaving = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        let mut seen = 0;
        let mut rest = [0; 4_096];
        while seen < DISCARD.0 {
            match stream.read(&mut rest).await? {
                0 => break,
                read => seen += read,
            }
        }
        io::Result::Ok(())
    };
    // Whoever does not listen is left.
    drop(tokio::time::timeout(DISCARD.1, leaving).await);
}

/// Whether the client says that it does not believe the certificate.
fn distrusts(error: &io::Error) -> bool {
    why::rustls_error(error).is_some_and(|error| {
        matches!(
            error,
            rustls::Error::AlertReceived(
                AlertDescription::UnknownCA
                    | AlertDescription::BadCertificate
                    | AlertDescription::CertificateExpired
                    | AlertDescription::CertificateUnknown
            )
        )
    })
}

/// Whether it is time to say something again; it counts as said.
fn seldom(last: &mut Option<Timestamp>, now: Timestamp, every: Duration) -> bool {
    let due = last.is_none_or(|last| now.since(last) >= every);
    if due {
        *last = Some(now);
    }
    due
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
