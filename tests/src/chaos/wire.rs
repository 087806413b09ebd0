//! Wires between a service and the broker or the database, which can be cut and mended for one service alone.
//!
//! They run on threads of their own: a test that waits for a command must not hold up what the command waits for.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::{Result, Trouble};

/// Threads that outlive no test and are waited for by none.
#[derive(Debug)]
pub struct Aside(Option<Runtime>);

impl Aside {
    /// Starts them.
    ///
    /// # Errors
    /// When the system has no threads left.
    pub fn new() -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime
            .map(|runtime| Self(Some(runtime)))
            .map_err(|error| Trouble::new("start a thread", error))
    }

    /// What runs there is started through this.
    ///
    /// # Panics
    /// Never: it is there until this is dropped.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.0.as_ref().expect("it is there until this is dropped").handle().clone()
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// How a wire is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It passes on what comes.
    Whole,
    /// Nothing gets through, and nobody is told: as when packets vanish. What was under way comes through once it is whole again.
    Silent,
    /// Every connection is ended, and new ones end at once: as when somebody in between says that there is no way.
    Cut,
}

/// A wire.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    state: watch::Sender<State>,
    task: JoinHandle<()>,
}

impl Wire {
    /// From a port of this address to a port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port is to be had.
    pub fn from_to(aside: &Aside, from: Ipv4Addr, to: u16) -> Result<Self> {
        let doing = format!("make a wire from {from} to port {to}");
        let open = || {
            let door = std::net::TcpListener::bind((from, 0))?;
            door.set_nonblocking(true)?;
            let address = door.local_addr()?;
            let handle = aside.handle();
            let _inside = handle.enter();
            io::Result::Ok((TcpListener::from_std(door)?, address))
        };
        let (door, address) = open().map_err(|error| Trouble::new(doing, error))?;
        let (state, watched) = watch::channel(State::Whole);
        let task = aside.handle().spawn(serve(door, to, watched));
        Ok(Self { address, state, task })
    }

    /// From loopback.
    ///
    /// # Errors
    /// When no port is to be had.
    pub fn to(aside: &Aside, port: u16) -> Result<Self> {
        Self::from_to(aside, Ipv4Addr::LOCALHOST, port)
    }

    /// The same url through this wire; its port is the only thing it has in this form.
    #[must_use]
    pub fn url(&self, url: &str, port: u16) -> String {
        let here = match self.address.ip() {
            IpAddr::V4(ip) => format!("{ip}:{}/", self.address.port()),
            IpAddr::V6(ip) => format!("[{ip}]:{}/", self.address.port()),
        };
        url.replace(&format!("127.0.0.1:{port}/"), &here)
    }

    /// Makes it so.
    pub fn set(&self, state: State) {
        self.state.send_replace(state);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(door: TcpListener, to: u16, state: watch::Receiver<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            came = door.accept() => match came {
                Ok((near, _)) => drop(connections.spawn(connect(near, to, state.clone()))),
                // No descriptors just now, as a rule.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            },
        }
    }
}

async fn connect(near: TcpStream, to: u16, mut state: watch::Receiver<State>) {
    if !gets_through(&mut state).await {
        return;
    }
    let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await else {
        return;
    };
    if near.set_nodelay(true).and_then(|()| far.set_nodelay(true)).is_err() {
        return;
    }
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::select! {
        biased;
        _ = pass(near_in, far_out, state.clone()) => {}
        _ = pass(far_in, near_out, state) => {}
    }
}

/// Waits while nothing gets through; false when the connection is to end.
async fn gets_through(state: &mut watch::Receiver<State>) -> bool {
    let found = state.wait_for(|state| *state != State::Silent).await;
    found.is_ok_and(|state| *state == State::Whole)
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) -> io::Result<()> {
    let mut held = vec![0; 16 << 10];
    while gets_through(&mut state).await {
        let read = tokio::select! {
            biased;
            changed = state.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return Ok(()),
            },
            read = from.read(&mut held) => read?,
        };
        if read == 0 || !gets_through(&mut state).await {
            return Ok(());
        }
        to.write_all(&held[..read]).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echoes() -> u16 {
        let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = door.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = door.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await.ok();
                });
            }
        });
        port
    }

    #[tokio::test]
    async fn a_silent_wire_holds_and_a_cut_one_ends() {
        let (aside, port) = (Aside::new().unwrap(), echoes().await);
        let wire = Wire::to(&aside, port).unwrap();
        assert_eq!(
            wire.url(&format!("amqp://a:b@127.0.0.1:{port}/x"), port),
            format!("amqp://a:b@{}/x", wire.address)
        );
        let mut stream = TcpStream::connect(wire.address).await.unwrap();
        let mut one = [0];
        stream.write_all(b"a").await.unwrap();
        stream.read_exact(&mut one).await.unwrap();

        wire.set(State::Silent);
        stream.write_all(b"b").await.unwrap();
        let silent = tokio::time::timeout(Duration::from_millis(300), stream.read_exact(&mut one)).await;
        assert!(silent.is_err(), "nothing comes and nothing ends");
        wire.set(State::Whole);
        stream.read_exact(&mut one).await.unwrap();
        assert_eq!(&one, b"b", "it was only late");

        wire.set(State::Cut);
        assert!(stream.read_exact(&mut one).await.is_err());
        let mut late = TcpStream::connect(wire.address).await.unwrap();
        assert!(late.read_exact(&mut one).await.is_err());
        wire.set(State::Whole);
        let mut again = TcpStream::connect(wire.address).await.unwrap();
        again.write_all(b"c").await.unwrap();
        again.read_exact(&mut one).await.unwrap();
    }
}
