//! Opening a connection that can be given up.
//!
//! lapin runs each connection on a thread of its own, and dropping the attempt to open one does not end that thread while the
//! other end is silent: a broker that accepts connections and says nothing would cost one thread for every attempt. So the socket
//! is opened here, and a second handle to it is kept; when the attempt is given up, the socket is shut down, which ends the thread.

use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::tcp::{AMQPUriTcpExt, OwnedTLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{AsyncTcpStream, Connection, ConnectionProperties, Error};

/// Shuts a socket down when dropped, unless the attempt that it belongs to succeeded.
#[derive(Debug, Default, Clone)]
struct Cutter(Arc<Mutex<State>>);

#[derive(Debug, Default)]
enum State {
    /// No socket yet.
    #[default]
    Waiting,
    /// A second handle to the socket.
    Open(TcpStream),
    /// The attempt is over: a socket that comes now is not wanted.
    Over,
}

impl Cutter {
    fn holds(&self, socket: TcpStream) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *state {
            State::Waiting => *state = State::Open(socket),
            State::Open(_) | State::Over => shut(&socket),
        }
    }

    /// The attempt succeeded: whoever wants the connection now looks after its socket.
    fn let_go(&self) -> Cut {
        let before = std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), State::Over);
        Cut(match before {
            State::Open(socket) => Some(socket),
            State::Waiting | State::Over => None,
        })
    }
}

/// A second handle to the socket of a connection. Dropping it does nothing to the connection.
#[derive(Debug)]
pub(super) struct Cut(Option<TcpStream>);

impl Cut {
    /// Ends the connection without a word, for one that does not end otherwise.
    pub(super) fn shut(&self) {
        if let Some(socket) = &self.0 {
            shut(socket);
        }
    }
}

/// Gives an attempt up when it is dropped before it succeeded.
struct Attempt(Cutter);

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut state = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Open(socket) = &*state {
            shut(socket);
        }
        *state = State::Over;
    }
}

fn shut(socket: &TcpStream) {
    // A socket that is closed already needs no shutting down.
    socket.shutdown(Shutdown::Both).ok();
}

/// Opens a connection; `within` bounds reaching the broker, and dropping this future ends whatever it began.
pub(super) async fn connect(
    uri: AMQPUri,
    properties: ConnectionProperties,
    tls: OwnedTLSConfig,
    within: Duration,
) -> Result<(Connection, Cut), Error> {
    let cutter = Cutter::default();
    let attempt = Attempt(cutter.clone());
    let runtime = lapin::runtime::default_runtime()?;
    // The same runtime as the one that comes as an argument, but with a type that is known here.
    let here = runtime.clone();
    let opening = async move |uri: AMQPUri, _| {
        // The plain socket first, which gives the second handle; TLS, if any, is spoken over it.
        let mut plain = uri.clone();
        plain.scheme = AMQPScheme::AMQP;
        let secured = async {
            let stream = plain.connect_with_config_async(OwnedTLSConfig::default().as_ref(), &here).await?;
            if let AsyncTcpStream::Plain(socket) = &stream {
                cutter.holds(TcpStream::from(socket.get_ref().as_fd().try_clone_to_owned()?));
            }
            match uri.scheme {
                AMQPScheme::AMQP => Ok(stream),
                AMQPScheme::AMQPS => stream.into_tls(&uri.authority.host, tls.as_ref()).await.map_err(NotSecured::mark),
            }
        };
        let opened: std::io::Result<_> = tokio::time::timeout(within, secured)
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        opened.map_err(Error::from)
    };
    let connection = Connection::connector(uri, runtime, opening, properties).await?;
    Ok((connection, attempt.0.let_go()))
}

/// Says of an error that it came while TLS was agreed upon, where errors otherwise look the same.
#[derive(Debug, thiserror::Error)]
#[error("TLS: {0}")]
pub(super) struct NotSecured(std::io::Error);

impl NotSecured {
    fn mark(error: std::io::Error) -> std::io::Error {
        std::io::Error::new(error.kind(), Self(error))
    }

    /// Whether an error, or what it comes from, is one.
    pub(super) fn is(error: &std::io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Self>())
    }
}
