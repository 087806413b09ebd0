//! The control process of the demo: this program again, as `serve all`, which the demo starts, kills and asks.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use epu_bus::http::Client;
use epu_core::Fault;
use epu_core::request::{InstanceFilter, InstanceView, Nothing, PoolBrief, Request, StatusView};
use rustix::process::Signal;
use serde::de::DeserializeOwned;
use tokio::process::{Child, Command};

use super::table;

/// The demo's only pool.
pub(crate) const POOL: &str = "sleepers";

/// The control process.
pub(crate) struct Control {
    program: PathBuf,
    directory: PathBuf,
    url: String,
    child: Child,
}

impl Control {
    /// Writes the config and starts the process.
    pub(crate) async fn start(directory: &Path, max: u32) -> io::Result<Self> {
        let program = std::env::current_exe()?;
        // A port that was free a moment ago; should another take it, `serve` says so and the demo ends.
        let port = tokio::net::TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port();
        std::fs::write(directory.join("epu.yaml"), config(&program, directory, port, max))?;
        let child = spawn(&program, directory)?;
        Ok(Self {
            program,
            directory: directory.to_owned(),
            url: format!("http://127.0.0.1:{port}"),
            child,
        })
    }

    /// Starts it again after it was killed.
    pub(crate) fn restart(&mut self) -> io::Result<()> {
        self.child = spawn(&self.program, &self.directory)?;
        Ok(())
    }

    /// Kills it as a power cut would.
    pub(crate) async fn kill(&mut self) -> io::Result<()> {
        self.child.kill().await
    }

    /// Asks it to stop, and waits. True when it stopped by itself and said that all was well.
    pub(crate) async fn stop(&mut self) -> io::Result<bool> {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            table::send(pid, Signal::TERM);
        }
        match tokio::time::timeout(Duration::from_secs(10), self.child.wait()).await {
            Ok(status) => Ok(status?.success()),
            Err(_) => self.child.kill().await.map(|()| false),
        }
    }

    /// Whether it ended without being asked to.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// The end of what it printed, for when something goes wrong.
    pub(crate) fn last_words(&self) -> String {
        let text = std::fs::read_to_string(self.directory.join("serve.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    pub(crate) async fn ask<T: DeserializeOwned>(&self, request: Request) -> Result<T, Fault> {
        let token = std::fs::read_to_string(self.directory.join("data").join("operator.token")).unwrap_or_default();
        let answer = Client::new(&self.url, token).ask(&request, Duration::from_secs(5)).await?;
        serde_json::from_value(answer).map_err(|e| Fault::new("internal", e.to_string()))
    }

    pub(crate) async fn status(&self) -> Result<StatusView, Fault> {
        self.ask(Request::Status(Nothing {})).await
    }

    pub(crate) async fn pool(&self) -> Result<PoolBrief, Fault> {
        let pools = self.status().await?.pools;
        pools
            .into_iter()
            .find(|p| p.name.as_str() == POOL)
            .ok_or_else(|| Fault::new("no-such-pool", "the demo's pool is not there yet"))
    }

    pub(crate) async fn instances(&self) -> Result<Vec<InstanceView>, Fault> {
        self.ask(Request::InstanceList(InstanceFilter { pool: None, all: true })).await
    }
}

fn spawn(program: &Path, directory: &Path) -> io::Result<Child> {
    let log: File = OpenOptions::new().create(true).append(true).open(directory.join("serve.log"))?;
    Command::new(program)
        .args(["serve", "all", "--config"])
        .arg(directory.join("epu.yaml"))
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
}

/// What the demo's control process is told. Times are short, so that in a minute there is something to see.
fn config(program: &Path, directory: &Path, port: u16, max: u32) -> String {
    let quoted = |path: &Path| serde_json::Value::from(path.to_string_lossy().into_owned()).to_string();
    let (program, spool) = (quoted(program), directory.join("spool"));
    format!(
        r#"# Written by `epumgmt demo`.
data-dir: data
listen: 127.0.0.1:{port}
tick: 100ms
templates:
  sleeper:
    run: [{program}, demo-worker]
    variables: {{DEMO_SPOOL: {spool}}}
    drain-signal: TERM
    stop-grace: 3s
    heartbeat: 300ms
    ready-within: 20s
pools:
  {POOL}:
    template: sleeper
    min: 1
    max: {max}
    engine:
      queue-length: {{sensor: jobs, high-water: 6, low-water: 3, step: 2}}
    sensors:
      jobs:
        directory: {{path: {waiting}, in-progress: {claimed}}}
        every: 200ms
        stale-after: 2s
    health: {{boot: 5s, missing: 2s, really-missing: 500ms, zombie: 5s}}
    limits: {{cooldown-down: 300ms, stabilization: 1s, replace-at-once: 2, replace-window: 10s, drain: 30s}}
"#,
        spool = quoted(&spool),
        waiting = quoted(&spool.join("new")),
        claimed = quoted(&spool.join("claimed")),
    )
}
