//! A network of its own for one service, with one cable to each of several things, each of which can be pulled out.
//!
//! The network belongs to the service's process and has no name: when the process ends, however it ends, the kernel takes the network and
//! with it both ends of every cable away. Nothing is left to clean up, also after a kill.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::processes::Proc;
use crate::{Result, Trouble, wait};

/// Tells the cables of one test program apart.
static CABLES: AtomicU32 = AtomicU32::new(0);
/// Longest that a new process may take until it has its network.
const SOON: Duration = Duration::from_secs(20);

/// A cable: its end outside, its end inside, and the addresses of both.
#[derive(Debug)]
pub struct Cable {
    outer: String,
    inner: String,
    /// The address outside, to which whoever is inside connects.
    pub address: Ipv4Addr,
    inside: Ipv4Addr,
}

/// Why networks cannot be made here, where that is so: who has no right to, or no program for it.
#[must_use]
pub fn cannot() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("only root may make networks".to_owned());
    }
    let found = Command::new("ip").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    match found {
        Ok(status) if status.success() => None,
        Ok(status) => Some(format!("`ip -V` ended with {status}")),
        Err(error) => Some(format!("there is no program `ip` (Debian package iproute2): {error}")),
    }
}

fn run(program: &str, words: &[&str]) -> Result<()> {
    let shown = format!("{program} {}", words.join(" "));
    let output = Command::new(program).args(words).stdin(Stdio::null()).output();
    let output = output.map_err(|error| Trouble::new(&shown, error))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Trouble::new(shown, String::from_utf8_lossy(&output.stderr).trim()))
}

impl Cable {
    /// A new one, not connected to anything yet. Its addresses are of the range for measurements between networks (RFC 2544), which nobody
    /// uses for anything else.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new() -> Result<Self> {
        let number = CABLES.fetch_add(1, Ordering::Relaxed);
        // A name has 15 characters at the most.
        let name = format!("epu{:x}x{number:x}", std::process::id());
        let (outer, inner) = (format!("{name}o"), format!("{name}i"));
        let [second, third] = [fastrand::u8(18..=19), fastrand::u8(..)];
        let last = fastrand::u8(0..64) * 4;
        let address = Ipv4Addr::new(198, second, third, last + 1);
        let cable = Self {
            outer,
            inner,
            address,
            inside: Ipv4Addr::new(198, second, third, last + 2),
        };
        run("ip", &["link", "add", &cable.outer, "type", "veth", "peer", "name", &cable.inner])?;
        run("ip", &["addr", "add", &format!("{address}/30"), "dev", &cable.outer])?;
        run("ip", &["link", "set", &cable.outer, "up"])?;
        Ok(cable)
    }

    /// Pulls it out: packets vanish in both directions and nobody is told.
    ///
    /// # Errors
    /// When it cannot be done.
    pub fn pull(&self) -> Result<()> {
        run("ip", &["link", "set", &self.outer, "down"])
    }

    /// Puts it in again.
    ///
    /// # Errors
    /// When it cannot be done.
    pub fn plug(&self) -> Result<()> {
        run("ip", &["link", "set", &self.outer, "up"])
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        // Gone already when the process inside ended before.
        drop(run("ip", &["link", "del", &self.outer]));
    }
}

/// The words before a program that is to have a network of its own with these cables. It begins once they are [`connect`]ed.
#[must_use]
pub fn words(cables: &[Cable]) -> Vec<String> {
    let mut script = "ip link set lo up || exit 1; ".to_owned();
    for cable in cables {
        script.push_str(&format!(
            "until ip -4 addr show dev {} 2>/dev/null | grep -q inet; do sleep 0.05; done; ",
            cable.inner
        ));
    }
    script.push_str("exec \"$@\"");
    ["unshare", "--net", "--", "sh", "-c", &script, "sh"].map(str::to_owned).into()
}

/// Connects the cables with the network of a process that was started with [`words`].
///
/// # Errors
/// When the process ends, or has none in time, or something cannot be done.
pub async fn connect(cables: &[Cable], proc: Proc) -> Result<()> {
    let network = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let pid = proc.pid.to_string();
    wait::until(SOON, "the process has a network of its own", async || match network(&pid) {
        Some(its) if Some(&its) != network("self").as_ref() => Ok(()),
        Some(_) => Err("it has ours".to_owned()),
        None => Err(format!("process {pid} is gone")),
    })
    .await?;
    for cable in cables {
        run("ip", &["link", "set", &cable.inner, "netns", &pid])?;
        let within = ["-t", pid.as_str(), "-n", "--", "ip"];
        let inside = |words: &[&str]| run("nsenter", &[within.as_slice(), words].concat());
        inside(&["link", "set", &cable.inner, "up"])?;
        inside(&["addr", "add", &format!("{}/30", cable.inside), "dev", &cable.inner])?;
    }
    Ok(())
}
