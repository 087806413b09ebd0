//! What a process says about its broker.

use std::path::PathBuf;
use std::time::Duration;

use epu_core::secret::SecretUrl;
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};

use super::error::{Error, Why};

/// Where the broker is and how it is talked to. Holds no secret: the address is a reference, TLS is files, both read at each
/// connection, so that a new password or certificate is seen.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where, as `amqp://user:password@host:5672/vhost`, or `amqps://` with TLS; usually a reference to that.
    pub url: SecretUrl,
    /// Before the names of all queues and exchanges, so that several installations can share a broker.
    pub sysname: String,
    /// What this process is called, unique among all that run: its own queues and connection bear it.
    pub name: String,
    /// The authority that signed the broker's certificate, a PEM file, beside those that this machine trusts.
    pub ca: Option<PathBuf>,
    /// Our own certificate and its private key (PKCS #8), PEM files, for a broker that wants one.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// How long the broker may be silent before the connection counts as lost. Too low: a busy broker is lost. Too high: a network
    /// that went away is noticed late.
    pub heartbeat: Duration,
    /// Most calls of one service that this process takes before it has answered some. Too low: throughput. Too high: one process
    /// hoards what others could answer.
    pub prefetch: u16,
    /// The longest body that is sent or taken, in bytes. Too low: a page of facts does not fit. Too high: memory.
    pub message_bytes: usize,
}

impl Settings {
    /// The usual ones.
    #[must_use]
    pub fn new(url: SecretUrl, sysname: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            url,
            sysname: sysname.into(),
            name: name.into(),
            ca: None,
            identity: None,
            heartbeat: Duration::from_secs(10),
            prefetch: 256,
            message_bytes: 8 * 1024 * 1024,
        }
    }

    /// The heartbeat as AMQP has it: whole seconds, at least one, since none would mean never.
    pub(super) fn heartbeat_s(&self) -> u16 {
        u16::try_from(self.heartbeat.as_secs().clamp(1, 3_600)).unwrap_or(10)
    }

    /// What TLS needs, read from the files.
    pub(super) fn tls(&self) -> Result<OwnedTLSConfig, Error> {
        let read = |what: &str, path: &PathBuf| {
            std::fs::read(path).map_err(|e| {
                let text = format!("read {what} {}: {e}; correct it among the broker's settings", path.display());
                Error::new(Why::Settings, text)
            })
        };
        let cert_chain = match &self.ca {
            Some(path) => {
                let text = String::from_utf8(read("`ca`", path)?)
                    .ok()
                    .filter(|text| text.contains("-----BEGIN CERTIFICATE-----"));
                Some(text.ok_or_else(|| {
                    Error::new(
                        Why::Settings,
                        format!("read `ca` {}: there is no PEM certificate in it", path.display()),
                    )
                })?)
            }
            None => None,
        };
        let identity = match &self.identity {
            Some((certificate, key)) => Some(OwnedIdentity::PKCS8 {
                pem: read("`certificate`", certificate)?,
                key: read("`key`", key)?,
            }),
            None => None,
        };
        Ok(OwnedTLSConfig { identity, cert_chain })
    }
}
