//! An installation of the real program in a directory of its own: its config, `serve all`, operator commands, its processes.
//!
//! Everything it started is ended when it is dropped: first the control process, then whoever carries its data directory in
//! `EPU_HOME`, which are its agents, workers, and whatever these started.

#![expect(clippy::unwrap_used, reason = "a part of the tests: one that cannot go on says why")]

use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use epu_bus::http::Client;
use epu_core::journal::Entry;
use epu_core::request::{EventsAfter, InstanceFilter, InstanceView, Nothing, PoolRef, PoolView, Request, StatusView};
use epu_core::{Fault, InstanceId, PoolName};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tempfile::TempDir;

use crate::fleet::{Fleet, all_run};
use crate::process::{self, Running};
use crate::processes::Proc;
use crate::{Result, Trouble, ports, tail_of, wait, web};

/// How long a thing may take that takes a second on an idle machine.
pub const SOON: Duration = Duration::from_secs(40);
/// Longest time for one request.
const REQUEST: Duration = Duration::from_secs(10);
/// Most lines of the journal that are read at once.
const EVENTS: u32 = 1_000;

/// What a command said, and its exit code.
#[derive(Debug, Clone)]
pub struct Said {
    /// The exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// What went to standard output.
    pub out: String,
    /// What went to standard error.
    pub err: String,
}

/// An installation.
#[derive(Debug)]
pub struct Installation {
    // Fields drop in this order: who starts others first, the directory last.
    serve: Option<Running>,
    fleet: Fleet,
    dir: TempDir,
    port: u16,
}

impl Installation {
    /// One that is not running yet. `rest` is the config below `data-dir`, `listen` and `tick`.
    ///
    /// # Panics
    /// When there is no room or port for it.
    #[must_use]
    pub fn new(rest: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("epu-live.")
            .tempdir()
            .expect("a temporary directory");
        let data = dir.path().join("data");
        let installation = Self {
            serve: None,
            fleet: Fleet::of(&data),
            dir,
            port: ports::free().expect("a free port"),
        };
        installation.configure(rest);
        installation
    }

    /// One that serves.
    pub async fn serving(rest: &str) -> Self {
        let mut installation = Self::new(rest);
        installation.start().await;
        installation
    }

    /// Writes the config anew.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn configure(&self, rest: &str) {
        let text = format!("data-dir: data\nlisten: 127.0.0.1:{}\ntick: 100ms\n{rest}", self.port);
        fs::write(self.config(), text).expect("write the config");
    }

    /// A path in its directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Its config file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.path("epu.yaml")
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The address of a path of its door.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    /// Starts `serve all` and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready, with what it said.
    pub async fn start(&mut self) {
        self.start_through(&[], |_| {}).await;
    }

    /// The same through another program that becomes it, see [`Running::start_through`], and with a changed environment.
    ///
    /// # Panics
    /// When it does not become ready, with what it said.
    pub async fn start_through(&mut self, through: &[&str], set: impl FnOnce(&mut Command)) {
        let mut running = self.spawn(through, set);
        let ready = self.url("/readyz");
        let outcome = running
            .until_ready(SOON, async || match web::get(&ready, None).await?.status {
                200 => Ok(()),
                status => Err(Trouble::new("readyz", status)),
            })
            .await;
        self.serve = Some(running);
        outcome.unwrap();
    }

    fn spawn(&self, through: &[&str], set: impl FnOnce(&mut Command)) -> Running {
        let config = self.config();
        let arguments = ["serve", "all", "--config", config.to_str().expect("a readable path")];
        Running::start_through(through, &arguments, &self.path("serve.log"), |command| {
            command.current_dir(self.dir.path()).env_remove("EPU_LOG");
            set(command);
        })
        .unwrap()
    }

    /// Starts `serve all` where it should refuse to serve, and waits for its end.
    ///
    /// # Panics
    /// When it serves nevertheless.
    pub async fn refuses_to_serve(&self) -> Said {
        self.refuses_to_serve_through(&[]).await
    }

    /// The same through another program that becomes it, see [`Running::start_through`].
    ///
    /// # Panics
    /// When it serves nevertheless.
    pub async fn refuses_to_serve_through(&self, through: &[&str]) -> Said {
        let before = fs::read(self.path("serve.log")).unwrap_or_default().len();
        let mut running = self.spawn(through, |_| {});
        let status = running.process.wait(SOON).await.unwrap();
        let said = fs::read(self.path("serve.log")).unwrap_or_default();
        Said {
            code: status.code(),
            out: String::new(),
            err: String::from_utf8_lossy(said.get(before..).unwrap_or_default()).into_owned(),
        }
    }

    /// The control process.
    ///
    /// # Panics
    /// When it was not started.
    pub fn control(&mut self) -> &mut Running {
        self.serve.as_mut().expect("it was started")
    }

    /// Kills the control process as a crash would.
    pub fn kill9(&mut self) {
        self.control().kill9();
    }

    /// Asks the control process to stop; it must end well.
    ///
    /// # Panics
    /// When it does not.
    pub async fn stop(&mut self) {
        let status = self.control().stop(Duration::from_secs(15)).await.unwrap();
        assert!(status.success(), "it stopped with {status}\n{}", self.log());
    }

    /// The end of what the control process said.
    #[must_use]
    pub fn log(&self) -> String {
        tail_of(&self.path("serve.log"), 60)
    }

    /// Runs an operator command.
    ///
    /// # Panics
    /// When it does not end.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Said {
        self.run_with(arguments, |_| {})
    }

    /// The same with a changed environment.
    ///
    /// # Panics
    /// When it does not end.
    #[must_use]
    pub fn run_with(&self, arguments: &[&str], set: impl FnOnce(&mut Command)) -> Said {
        let output = process::run(arguments, |command| {
            // In its directory the command finds address and token by itself, but for the port.
            command.current_dir(self.dir.path()).env("EPU_URL", self.url(""));
            command.stdin(Stdio::null());
            set(command);
        });
        let output = output.unwrap();
        Said {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs an operator command that must succeed, and gives what it said.
    ///
    /// # Panics
    /// When it fails.
    pub fn does(&self, arguments: &[&str]) -> String {
        let said = self.run(arguments);
        assert_eq!(said.code, Some(0), "epumgmt {}: {said:?}\n{}", arguments.join(" "), self.log());
        said.out
    }

    /// The same with `--output json`.
    ///
    /// # Panics
    /// When it fails or what it says is no JSON.
    #[must_use]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let out = self.does(&[arguments, &["--output", "json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("epumgmt {}: {error}: {out}", arguments.join(" ")))
    }

    /// The operators' token.
    #[must_use]
    pub fn token(&self) -> String {
        fs::read_to_string(self.data().join("operator.token")).unwrap_or_default()
    }

    /// Asks as an operator.
    ///
    /// # Errors
    /// What the program answers, or that it does not.
    pub async fn ask<T: DeserializeOwned>(&self, request: Request) -> std::result::Result<T, Fault> {
        let answer = Client::new(self.url(""), self.token()).ask(&request, REQUEST).await?;
        serde_json::from_value(answer).map_err(|error| Fault::new("internal", error.to_string()))
    }

    /// A pool as the program shows it.
    ///
    /// # Errors
    /// What the program answers, or that it does not.
    pub async fn pool(&self, pool: &str) -> std::result::Result<PoolView, Fault> {
        let pool = PoolName::new(pool).map_err(|error| Fault::new("bad-request", error.to_string()))?;
        self.ask(Request::PoolShow(PoolRef { pool })).await
    }

    /// The state of the whole.
    ///
    /// # Errors
    /// What the program answers, or that it does not.
    pub async fn status(&self) -> std::result::Result<StatusView, Fault> {
        self.ask(Request::Status(Nothing {})).await
    }

    /// Live instances, or none while the program does not answer.
    pub async fn live(&self) -> Vec<InstanceView> {
        let asked = Request::InstanceList(InstanceFilter { pool: None, all: false });
        self.ask(asked).await.unwrap_or_default()
    }

    /// Every instance there ever was, ended ones too.
    pub async fn ever(&self) -> Vec<InstanceView> {
        let asked = Request::InstanceList(InstanceFilter { pool: None, all: true });
        self.ask(asked).await.unwrap_or_default()
    }

    /// One instance, live or ended.
    ///
    /// # Panics
    /// When there is none.
    pub async fn instance(&self, id: InstanceId) -> InstanceView {
        let found = self.ever().await.into_iter().find(|view| view.instance.id == id);
        found.unwrap_or_else(|| panic!("there is no instance {id}\n{}", self.log()))
    }

    /// The journal, oldest first.
    pub async fn events(&self) -> Vec<Entry> {
        let asked = EventsAfter {
            after: Some(0),
            pool: None,
            limit: Some(EVENTS),
        };
        self.ask(Request::Events(asked)).await.unwrap_or_default()
    }

    /// The whole page of metrics, or nothing while nobody answers.
    pub async fn metrics(&self) -> String {
        web::get(&self.url("/metrics"), None)
            .await
            .map(|page| page.body)
            .unwrap_or_default()
    }

    /// One metric's value, named as on the page, labels and all; zero when it is not there.
    pub async fn metric(&self, name: &str) -> f64 {
        let page = self.metrics().await;
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or(0.0)
    }

    /// Looks until there is something.
    ///
    /// # Panics
    /// When there was nothing in time, with what the control process said.
    pub async fn until<T, E: Display>(&self, what: &str, look: impl AsyncFnMut() -> std::result::Result<T, E>) -> T {
        let found: Result<T> = wait::until(SOON, what, look).await;
        found.unwrap_or_else(|trouble| panic!("{trouble}\n{}", self.log()))
    }

    /// Waits until exactly `count` instances live, all of them running, heard from, and not leaving; gives them.
    ///
    /// # Panics
    /// When it does not come to that in time.
    pub async fn until_running(&self, count: usize) -> Vec<InstanceView> {
        self.until(&format!("exactly {count} run"), async || all_run(self.live().await, count))
            .await
    }

    /// Waits until an instance has ended, and gives its record.
    ///
    /// # Panics
    /// When it lives on.
    pub async fn until_ended(&self, id: InstanceId) -> InstanceView {
        self.until(&format!("{id} has ended"), async || {
            let view = self.instance(id).await;
            if view.instance.state.is_end() {
                Ok(view)
            } else {
                Err(brief(&view))
            }
        })
        .await
    }

    /// Every living process of its agents and workers.
    #[must_use]
    pub fn processes(&self) -> BTreeSet<Proc> {
        self.fleet.alive()
    }

    /// The agents.
    #[must_use]
    pub fn agents(&self) -> BTreeSet<Proc> {
        self.fleet.agents()
    }

    /// The workers, set-up programs, and whatever these started.
    #[must_use]
    pub fn workers(&self) -> BTreeSet<Proc> {
        self.fleet.workers()
    }

    /// The agent of one instance.
    #[must_use]
    pub fn agent_of(&self, id: InstanceId) -> Option<Proc> {
        self.fleet.agent_of(id)
    }

    /// The worker of one instance, the first process of it that was started.
    #[must_use]
    pub fn worker_of(&self, id: InstanceId) -> Option<Proc> {
        self.fleet.worker_of(id)
    }

    /// The directory of an instance.
    #[must_use]
    pub fn home_of(&self, id: InstanceId) -> PathBuf {
        self.data().join("instances").join(id.to_string())
    }
}

/// An instance in a few words, for messages.
#[must_use]
pub fn brief(view: &InstanceView) -> String {
    let drains = if view.instance.drain.is_some() { " draining" } else { "" };
    format!("{} {:?} {}{drains}", view.instance.id, view.instance.state, view.health)
}

/// A path as it is written in YAML.
#[must_use]
pub fn quoted(path: &Path) -> String {
    Value::from(path.to_string_lossy()).to_string()
}
