//! What goes wrong with a broker, told apart by what to do about it.

use epu_core::Fault;
use epu_core::time::Span;
use lapin::ErrorKind;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};

use super::cut::NotSecured;
use crate::http::text::shortened;

/// The most of what a broker says that is repeated, in characters.
const SAID_MAX: usize = 300;

/// What went wrong with the broker. Its text says what was being done, what went wrong and what to do, and never holds a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Error {
    why: Why,
    text: String,
}

/// What kind of thing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The address cannot be read or understood, or a file that TLS needs.
    Settings,
    /// User or password are not taken.
    Credentials,
    /// There is no such virtual host, or this user may not use it.
    Vhost,
    /// TLS was not agreed upon.
    Tls,
    /// Nobody answers at the address.
    Unreachable,
    /// The broker did not answer in time.
    Timeout,
    /// The connection or the channel was lost.
    Lost,
    /// The user may not do this.
    NotPermitted,
    /// There is no such queue or exchange.
    Missing,
    /// Something of this name is there and is different.
    Different,
    /// It belongs to another connection.
    Locked,
    /// The broker takes no messages now.
    Blocked,
    /// We are closing.
    Closing,
    /// The broker refuses for another reason.
    Refused,
}

impl Error {
    pub(super) fn new(why: Why, text: impl Into<String>) -> Self {
        Self { why, text: text.into() }
    }

    /// What kind of thing went wrong.
    #[must_use]
    pub fn why(&self) -> Why {
        self.why
    }

    /// Whether it may pass by itself: the broker starts, the network comes back. Otherwise somebody has to correct something.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self.why {
            Why::Unreachable | Why::Timeout | Why::Lost | Why::Locked | Why::Blocked | Why::Closing | Why::Refused => true,
            Why::Settings | Why::Credentials | Why::Vhost | Why::Tls | Why::NotPermitted | Why::Missing | Why::Different => false,
        }
    }

    /// The fault with which a request fails for this reason.
    #[must_use]
    pub fn fault(&self) -> Fault {
        let code = match self.why {
            Why::Settings => "bad-url",
            Why::Credentials | Why::Vhost | Why::Tls | Why::NotPermitted | Why::Different => "broker-refused",
            Why::Timeout => "broker-timeout",
            Why::Unreachable | Why::Lost | Why::Missing | Why::Locked | Why::Blocked | Why::Closing | Why::Refused => "no-contact",
        };
        Fault::new(code, self.text.clone())
    }

    /// Why a connection did not come about.
    pub(super) fn opening(error: &lapin::Error, shown: &str) -> Self {
        let said = shortened(&error.to_string(), SAID_MAX);
        let of = |why, what: &str| Self::new(why, format!("connect to broker {shown}: {what}"));
        match error.kind() {
            ErrorKind::ProtocolError(refusal) => match refusal.kind() {
                AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => of(
                    Why::Credentials,
                    &format!("it does not take the user or the password ({said}); see where the address is kept"),
                ),
                AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => of(
                    Why::Vhost,
                    &format!(
                        "the vhost does not exist or is not open to this user ({said}); vhost / is written %2f; see `rabbitmqctl \
                         add_vhost` and `set_permissions`"
                    ),
                ),
                AMQPErrorKind::Soft(_) | AMQPErrorKind::Hard(_) => {
                    of(Why::Refused, &format!("it refuses the connection ({said}); see the broker's log"))
                }
            },
            ErrorKind::AuthProviderError(_) => of(Why::Credentials, &format!("it takes no user and password ({said})")),
            ErrorKind::IOError(io) if NotSecured::is(io) || said.contains("received fatal alert") => of(
                Why::Tls,
                &format!(
                    "{said}; does `ca` name the authority that signed its certificate, is the certificate made out for this host, and \
                     does the broker want a certificate of ours (`certificate` and `key`)?"
                ),
            ),
            ErrorKind::ChannelsLimitReached
            | ErrorKind::InvalidProtocolVersion(_)
            | ErrorKind::InvalidChannel(_)
            | ErrorKind::InvalidChannelState(..)
            | ErrorKind::InvalidConnectionState(_)
            | ErrorKind::IOError(_)
            | ErrorKind::RuntimeShutdownError(_)
            | ErrorKind::ParsingError(_)
            | ErrorKind::SerialisationError(_)
            | ErrorKind::FutureCompleted
            | ErrorKind::NoDefaultRuntime
            | ErrorKind::MissingHeartbeatError => of(
                Why::Unreachable,
                &format!("{said}; is it running, is that its address, and does it speak TLS there if and only if the address says amqps?"),
            ),
            // The list of what lapin knows may grow.
            _ => of(Why::Unreachable, &said),
        }
    }

    /// Why something asked of the broker on an open connection was not done.
    pub(super) fn asking(doing: &str, error: &lapin::Error, shown: &str) -> Self {
        let said = shortened(&error.to_string(), SAID_MAX);
        let of = |why, what: &str| Self::new(why, format!("{doing}: {what}"));
        let lost = || {
            of(
                Why::Lost,
                &format!("the connection to broker {shown} is lost ({said}); it is opened again"),
            )
        };
        let ErrorKind::ProtocolError(refusal) = error.kind() else {
            return lost();
        };
        match refusal.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => of(Why::Missing, &format!("broker {shown} has no such thing ({said})")),
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => of(
                Why::NotPermitted,
                &format!("broker {shown} does not let this user do it ({said}); docs/trust.md has the rights that each role needs"),
            ),
            AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => of(
                Why::Different,
                &format!("on broker {shown} it is there and is different ({said}); delete it, or use another `sysname`"),
            ),
            AMQPErrorKind::Soft(AMQPSoftError::RESOURCELOCKED) => of(
                Why::Locked,
                &format!("on broker {shown} it belongs to another connection ({said}); it is tried again"),
            ),
            AMQPErrorKind::Soft(_) => of(Why::Refused, &format!("broker {shown} refuses ({said}); see the broker's log")),
            AMQPErrorKind::Hard(_) => lost(),
        }
    }

    pub(super) fn late(doing: &str, within: std::time::Duration, shown: &str) -> Self {
        let text = format!(
            "{doing}: broker {shown} did not answer within {}; see its load and log",
            Span(within)
        );
        Self::new(Why::Timeout, text)
    }
}
