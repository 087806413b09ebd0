//! A wire to the broker that a test can cut and mend, for one process alone.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Passes on what comes until it is dropped, except while it is cut.
pub(crate) struct Relay {
    address: SocketAddr,
    whole: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Relay {
    /// To a port of this machine.
    pub(crate) async fn to(port: u16) -> io::Result<Self> {
        let door = TcpListener::bind("127.0.0.1:0").await?;
        let (whole, state) = watch::channel(true);
        Ok(Self {
            address: door.local_addr()?,
            whole,
            task: tokio::spawn(pass(door, port, state)),
        })
    }

    /// The same url through this wire.
    pub(crate) fn url(&self, url: &str, port: u16) -> String {
        url.replace(&format!(":{port}/"), &format!(":{}/", self.address.port()))
    }

    /// Ends every connection, and lets none through.
    pub(crate) fn cut(&self) {
        self.whole.send_replace(false);
    }

    /// Lets connections through again.
    pub(crate) fn mend(&self) {
        self.whole.send_replace(true);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The port in a broker's url.
pub(crate) fn port_of(url: &str) -> u16 {
    let rest = url.rsplit_once('@').map_or(url, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default();
    host.rsplit_once(':').unwrap().1.parse().unwrap()
}

async fn pass(door: TcpListener, port: u16, mut whole: watch::Receiver<bool>) {
    let mut wires = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            changed = whole.changed() => {
                if changed.is_err() {
                    return;
                }
                if !*whole.borrow_and_update() {
                    wires.abort_all();
                }
            }
            came = door.accept() => {
                let Ok((mut near, _)) = came else { return };
                if *whole.borrow() {
                    wires.spawn(async move {
                        if let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await {
                            tokio::io::copy_bidirectional(&mut near, &mut far).await.ok();
                        }
                    });
                }
            }
            Some(_) = wires.join_next(), if !wires.is_empty() => {}
        }
    }
}
