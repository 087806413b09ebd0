//! An installation of several processes: a broker, a database, and as many provisioners, controllers and aggregators as wanted, all
//! real, all on this machine.
//!
//! Everything it started is ended when it is dropped: first the services, then whoever carries its data directory in `EPU_HOME`, then
//! broker and database.

#![expect(clippy::unwrap_used, reason = "a part of the tests: one that cannot go on says why")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use epu_bus::http::Client;
use epu_core::Fault;
use epu_core::InstanceId;
use epu_core::journal::Entry;
use epu_core::request::{EventsAfter, InstanceFilter, InstanceView, Nothing, Request, Service, StatusView};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tempfile::TempDir;

use crate::fleet::{Fleet, all_run};
use crate::installation::{SOON, Said};
use crate::postgres::Postgres;
use crate::process::{self, Running};
use crate::processes::Proc;
use crate::rabbit::Rabbit;
use crate::{Result, Trouble, ports, tail_of, wait, web};

/// Longest time for one request.
const REQUEST: Duration = Duration::from_secs(10);

/// One process of a service.
#[derive(Debug)]
struct Copy {
    service: Service,
    port: u16,
    running: Option<Running>,
}

/// Several processes that are one installation.
#[derive(Debug)]
pub struct Cluster {
    // Fields drop in this order: who starts others first, the directory last.
    copies: BTreeMap<String, Copy>,
    fleet: Fleet,
    /// The broker.
    pub rabbit: Rabbit,
    /// The database.
    pub postgres: Postgres,
    database: String,
    /// The words before every copy that is started, see [`Cluster::live_on`].
    through: Vec<String>,
    /// Where the data directory is seen from here.
    data: PathBuf,
    /// Where copies reach broker and database, of those that do not reach them directly.
    ways: BTreeMap<String, (String, String)>,
    dir: TempDir,
}

impl Cluster {
    /// One with nothing but broker and database running. `rest` is the config below `data-dir`, `store`, `amqp`, `users` and `tick`.
    ///
    /// # Panics
    /// When broker or database cannot be started.
    pub async fn new(rest: &str) -> Self {
        let (rabbit, postgres) = tokio::join!(Rabbit::start(), Postgres::start());
        let (rabbit, postgres) = (rabbit.unwrap(), postgres.unwrap());
        let database = postgres.database().await.unwrap();
        let dir = tempfile::Builder::new()
            .prefix("epu-live.")
            .tempdir()
            .expect("a temporary directory");
        let text = format!(
            "data-dir: data\ntick: 100ms\nstore: {{postgres: {{url: \"env:EPU_POSTGRES_URL\"}}}}\namqp: {{url: \"env:EPU_AMQP_URL\"}}\n\
             users: {{{}: {{role: service}}}}\n{rest}",
            crate::rabbit::USER
        );
        fs::write(dir.path().join("epu.yaml"), text).expect("write the config");
        Self {
            copies: BTreeMap::new(),
            fleet: Fleet::of(&dir.path().join("data")),
            rabbit,
            postgres,
            database,
            through: Vec::new(),
            data: dir.path().join("data"),
            ways: BTreeMap::new(),
            dir,
        }
    }

    /// One with so many copies of each service, all ready.
    ///
    /// # Panics
    /// When one does not become ready, with what it said.
    pub async fn of(provisioners: usize, controllers: usize, aggregators: usize, rest: &str) -> Self {
        let mut cluster = Self::new(rest).await;
        for (service, copies) in [
            (Service::Provisioner, provisioners),
            (Service::Controller, controllers),
            (Service::Aggregator, aggregators),
        ] {
            for copy in 1..=copies {
                cluster.start(&format!("{}-{copy}", service.name())).await;
            }
        }
        cluster
    }

    /// A path in its directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Copies that are started from now on are started through another program that becomes them: `words` come before theirs. `data` is
    /// where their data directory is seen from here.
    pub fn live_on(&mut self, words: Vec<String>, data: PathBuf) {
        self.through = words;
        self.data = data;
    }

    /// This copy reaches broker and database at these addresses when it is started from now on.
    pub fn reach_through(&mut self, name: &str, broker: String, database: String) {
        self.ways.insert(name.to_owned(), (broker, database));
    }

    /// Starts a copy such as `controller-2`, or starts it again at the same address, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready, with what it said.
    pub async fn start(&mut self, name: &str) {
        self.start_unready(name);
        self.until_ready(name).await;
    }

    /// The same without waiting.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_unready(&mut self, name: &str) {
        let service = match name.split('-').next() {
            Some("provisioner") => Service::Provisioner,
            Some("controller") => Service::Controller,
            _ => Service::Aggregator,
        };
        let port = self
            .copies
            .get(name)
            .map_or_else(|| ports::free().expect("a free port"), |copy| copy.port);
        let way = self.ways.get(name).cloned();
        let (amqp, postgres) = way.unwrap_or_else(|| (self.rabbit.url(), self.database_url()));
        let config = self.path("epu.yaml");
        let listen = format!("127.0.0.1:{port}");
        let arguments = [
            "serve",
            service.name(),
            "--listen",
            &listen,
            "--config",
            config.to_str().expect("a readable path"),
        ];
        let through: Vec<&str> = self.through.iter().map(String::as_str).collect();
        let running = Running::start_through(&through, &arguments, &self.log_of(name), |command| {
            command
                .current_dir(self.dir.path())
                .env_remove("EPU_LOG")
                .env("EPU_POSTGRES_URL", postgres)
                .env("EPU_AMQP_URL", amqp);
        });
        let running = Some(running.unwrap());
        self.copies.insert(name.to_owned(), Copy { service, port, running });
    }

    /// Waits until a copy that was started is ready.
    ///
    /// # Panics
    /// When it does not become ready, with what it said.
    pub async fn until_ready(&mut self, name: &str) {
        let copy = self.copies.get_mut(name).expect("it was started");
        let ready = format!("http://127.0.0.1:{}/readyz", copy.port);
        let outcome = copy
            .running
            .as_mut()
            .expect("it runs")
            .until_ready(SOON, async || match web::get(&ready, None).await?.status {
                200 => Ok(()),
                status => Err(Trouble::new("readyz", status)),
            });
        outcome.await.unwrap();
    }

    fn log_of(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.log"))
    }

    /// The end of what every copy said.
    #[must_use]
    pub fn logs(&self) -> String {
        let logs = self
            .copies
            .keys()
            .map(|name| format!("== {name}\n{}", tail_of(&self.log_of(name), 30)));
        logs.collect::<Vec<_>>().join("\n")
    }

    /// The names of the copies that run.
    #[must_use]
    pub fn running(&self) -> Vec<String> {
        self.copies
            .iter()
            .filter(|(_, copy)| copy.running.is_some())
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Whether a copy's process runs.
    pub fn is_alive(&mut self, name: &str) -> bool {
        let running = self.copies.get_mut(name).and_then(|copy| copy.running.as_mut());
        running.is_some_and(|running| running.process.ended().is_none())
    }

    /// Where the installation's database is.
    #[must_use]
    pub fn database_url(&self) -> String {
        self.postgres.url(&self.database)
    }

    /// A copy's whole page of metrics, or nothing while it does not answer.
    pub async fn metrics(&self, name: &str) -> String {
        web::get(&format!("{}/metrics", self.url(name)), None)
            .await
            .map(|page| page.body)
            .unwrap_or_default()
    }

    /// The process of a copy.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn process(&self, name: &str) -> Proc {
        self.copies[name].running.as_ref().expect("it runs").process.main
    }

    /// Kills a copy as a crash would.
    ///
    /// # Panics
    /// When it was never started.
    pub fn kill9(&mut self, name: &str) {
        let copy = self.copies.get_mut(name).expect("it was started");
        if let Some(mut running) = copy.running.take() {
            running.kill9();
        }
    }

    /// Asks a copy to stop; it must end well.
    ///
    /// # Panics
    /// When it does not.
    pub async fn stop(&mut self, name: &str) {
        let copy = self.copies.get_mut(name).expect("it was started");
        if let Some(mut running) = copy.running.take() {
            let status = running.stop(Duration::from_secs(20)).await.unwrap();
            assert!(status.success(), "{name} stopped with {status}\n{}", running.output_tail());
        }
    }

    /// The operators' token.
    #[must_use]
    pub fn token(&self) -> String {
        fs::read_to_string(self.data.join("operator.token")).unwrap_or_default()
    }

    /// The door of a copy.
    #[must_use]
    pub fn url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}", self.copies[name].port)
    }

    /// Asks as an operator at the door of a copy.
    ///
    /// # Errors
    /// What is answered, or that nobody does.
    pub async fn ask_at<T: DeserializeOwned>(&self, name: &str, request: Request) -> std::result::Result<T, Fault> {
        let answer = Client::new(self.url(name), self.token()).ask(&request, REQUEST).await?;
        serde_json::from_value(answer).map_err(|error| Fault::new("internal", error.to_string()))
    }

    /// Asks as an operator at any door that answers.
    ///
    /// # Errors
    /// What the last one said.
    pub async fn ask<T: DeserializeOwned>(&self, request: Request) -> std::result::Result<T, Fault> {
        let mut last = Fault::new("no-contact", "nothing runs");
        for name in self.running() {
            match self.ask_at(&name, request.clone()).await {
                Err(fault) if fault.code == "no-contact" || fault.code == "timeout" => last = fault,
                answer => return answer,
            }
        }
        Err(last)
    }

    /// Runs an operator command over the broker.
    ///
    /// # Panics
    /// When it does not end.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Said {
        let output = process::run(arguments, |command| {
            command
                .current_dir(self.dir.path())
                .env("EPU_POSTGRES_URL", self.postgres.url(&self.database))
                .env("EPU_AMQP_URL", self.rabbit.url())
                .stdin(Stdio::null());
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
        assert_eq!(said.code, Some(0), "epumgmt {}: {said:?}\n{}", arguments.join(" "), self.logs());
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

    /// Adds the pools of a file, as an operator does.
    ///
    /// # Panics
    /// When they are refused.
    pub fn add(&self, text: &str) {
        let file = self.path("added.yaml");
        fs::write(&file, text).expect("write the pools");
        self.does(&["pool", "add", "--file", file.to_str().expect("a readable path")]);
    }

    /// The state of the whole.
    ///
    /// # Errors
    /// What is answered, or that nobody does.
    pub async fn status(&self) -> std::result::Result<StatusView, Fault> {
        self.ask(Request::Status(Nothing {})).await
    }

    /// Live instances, or none while nobody answers.
    pub async fn live(&self) -> Vec<InstanceView> {
        let asked = Request::InstanceList(InstanceFilter { pool: None, all: false });
        self.ask(asked).await.unwrap_or_default()
    }

    /// Every instance there ever was, ended ones too.
    pub async fn ever(&self) -> Vec<InstanceView> {
        let asked = Request::InstanceList(InstanceFilter { pool: None, all: true });
        self.ask(asked).await.unwrap_or_default()
    }

    /// The journal, oldest first.
    pub async fn events(&self) -> Vec<Entry> {
        let (mut all, mut after) = (Vec::new(), 0);
        loop {
            let asked = EventsAfter {
                after: Some(after),
                pool: None,
                limit: Some(1_000),
            };
            let page: Vec<Entry> = self.ask(Request::Events(asked)).await.unwrap_or_default();
            let Some(last) = page.last() else { return all };
            after = last.sequence;
            all.extend(page);
        }
    }

    /// One metric's value at a copy, named as on the page, labels and all; zero when it is not there.
    pub async fn metric(&self, name: &str, metric: &str) -> f64 {
        let page = self.metrics(name).await;
        let line = page.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or(0.0)
    }

    /// Looks until there is something.
    ///
    /// # Panics
    /// When there was nothing in time, with what every copy said.
    pub async fn until<T, E: Display>(&self, what: &str, look: impl AsyncFnMut() -> std::result::Result<T, E>) -> T {
        let found: Result<T> = wait::until(SOON, what, look).await;
        found.unwrap_or_else(|trouble| panic!("{trouble}\n{}", self.logs()))
    }

    /// Waits until exactly `count` instances live, all of them running, heard from, and not leaving; gives them.
    ///
    /// # Panics
    /// When it does not come to that in time.
    pub async fn until_running(&self, count: usize) -> Vec<InstanceView> {
        self.until(&format!("exactly {count} run"), async || all_run(self.live().await, count))
            .await
    }

    /// The agents.
    #[must_use]
    pub fn agents(&self) -> BTreeSet<Proc> {
        self.fleet.agents()
    }

    /// The workers, and whatever they started.
    #[must_use]
    pub fn workers(&self) -> BTreeSet<Proc> {
        self.fleet.workers()
    }

    /// The worker of one instance, the first process of it that was started.
    #[must_use]
    pub fn worker_of(&self, id: InstanceId) -> Option<Proc> {
        self.fleet.worker_of(id)
    }

    /// Which copy leads the provisioners now, by its log's own name for itself.
    ///
    /// # Errors
    /// When nobody does, or nobody answers.
    pub async fn acting_provisioner(&self) -> std::result::Result<String, Fault> {
        for (name, copy) in &self.copies {
            if copy.service == Service::Provisioner && copy.running.is_some() && self.metric(name, "epu_provisioner_leader").await == 1.0 {
                return Ok(name.clone());
            }
        }
        Err(Fault::new("no-contact", "no provisioner acts"))
    }
}
