//! A provisioner and an aggregator of a few lines behind a real door, for an `epu-agent` process.

#![allow(dead_code, reason = "each test uses a part")]
#![expect(clippy::wildcard_enum_match_arm, reason = "an agent asks three things")]

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use epu_bus::Bus;
use epu_bus::http::tls::Files;
use epu_bus::http::{Door, Limits, Metrics, Tls, serve, serve_tls};
use epu_bus::local::LocalBus;
use epu_bus::token::{Keyring, OperatorToken, fresh_secret};
use epu_core::Fault;
use epu_core::heartbeat::{Heartbeat, Orders};
use epu_core::instance::{Cause, Drain};
use epu_core::pool::DrainSignal;
use epu_core::request::{Answer, Context, Happened, Request, Service};
use epu_core::time::SystemClock;
use epu_core::{Clock, InstanceId, LaunchId, PoolName, Span, Timestamp};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// A worker that says that it is idle, and ends when it is told to drain.
pub(crate) const WORKER: &str = "trap 'echo draining; exit 0' USR1; echo idle > $EPU_DIR/status; for i in $(seq 999); do sleep 0.02; done";

#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) claims: Vec<String>,
    pub(crate) happened: Vec<Happened>,
    pub(crate) beats: Vec<Heartbeat>,
    pub(crate) orders: Orders,
}

/// A provisioner and an aggregator of a few lines behind a real door, and an instance's directory.
pub(crate) struct Services {
    pub(crate) seen: Arc<Mutex<Seen>>,
    pub(crate) url: String,
    pub(crate) home: TempDir,
    pub(crate) launch: LaunchId,
    cancel: CancellationToken,
}

pub(crate) fn instance() -> InstanceId {
    "01890000-0000-7000-8000-000000000001".parse().unwrap()
}

impl Services {
    pub(crate) async fn start(set_up: &str, run: &str) -> Self {
        Self::behind(set_up, run, None).await
    }

    /// Behind a door that shows this certificate, or one that speaks plain HTTP.
    pub(crate) async fn behind(set_up: &str, run: &str, certificate: Option<Files>) -> Self {
        let keys = Keyring::new(fresh_secret().unwrap().as_bytes()).unwrap();
        let launch: LaunchId = "01890000-0000-7000-8000-000000000009".parse().unwrap();
        let program = |script: &str| vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()];
        let context = Context {
            instance: instance(),
            pool: PoolName::new("web").unwrap(),
            token: keys.mint_instance(instance()),
            run: program(run),
            set_up: program(set_up),
            variables: BTreeMap::new(),
            directory: None,
            drain_signal: DrainSignal::USR1,
            stop_grace: Span::millis(500),
            heartbeat: Span::millis(200),
            ready_within: Span::secs(20),
            aggregators: Vec::new(),
            doors: Vec::new(),
        };
        let bus = LocalBus::new();
        let seen = Arc::new(Mutex::new(Seen::default()));
        for service in [Service::Provisioner, Service::Aggregator] {
            let mut calls = bus.serve(service);
            let (seen, context) = (seen.clone(), context.clone());
            tokio::spawn(async move {
                while let Some(call) = calls.recv().await {
                    let answer = answer(&seen, &context, &call.request);
                    call.answer(answer);
                }
            });
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cancel = CancellationToken::new();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
        let metrics = Metrics::new().unwrap();
        let door = Door {
            bus,
            keys: keys.clone(),
            operator: OperatorToken::new(&fresh_secret().unwrap()).unwrap(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            render: Arc::new(|| Ok(String::new())),
            ready: Arc::new(|| Box::pin(async { Ok(()) })),
            limits: Limits::default(),
        };
        let url = match certificate {
            None => {
                tokio::spawn(serve(listener, door, cancel.clone()));
                format!("http://{address}")
            }
            Some(files) => {
                let tls = Tls::load(files, clock, metrics).unwrap();
                tokio::spawn(serve_tls(listener, door, tls, cancel.clone()));
                format!("https://localhost:{}", address.port())
            }
        };
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("launch-token"), keys.mint_launch(launch, Timestamp::NEVER)).unwrap();
        Self {
            seen,
            url,
            home,
            launch,
            cancel,
        }
    }

    pub(crate) fn agent(&self) -> Child {
        self.command().spawn().unwrap()
    }

    /// An agent as a local site starts it.
    pub(crate) fn command(&self) -> Command {
        let log = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.home.path().join("agent.log"))
            .unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_epu-agent"));
        command
            .env("EPU_HOME", self.home.path())
            .env("EPU_URL", &self.url)
            .env("EPU_LAUNCH", self.launch.to_string())
            .env("EPU_INDEX", "0")
            .stdin(Stdio::null())
            .stderr(log);
        command
    }

    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Seen) -> bool) {
        for _ in 0..1_000 {
            if holds(&self.seen.lock().unwrap()) {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("never {what}: {}", self.log());
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("agent.log")).unwrap_or_default()
    }

    pub(crate) fn happened(&self) -> Vec<Happened> {
        self.seen.lock().unwrap().happened.clone()
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

fn answer(seen: &Mutex<Seen>, context: &Context, request: &Request) -> Result<Answer, Fault> {
    let mut seen = seen.lock().unwrap();
    match request {
        Request::Context(claim) => {
            if seen.claims.first().is_some_and(|first| *first != claim.nonce) {
                return Err(Fault::new("claim-refused", "the launch's index 0 was claimed before"));
            }
            seen.claims.push(claim.nonce.clone());
            Answer::of(context)
        }
        Request::Report(report) => {
            assert_eq!(report.instance, instance());
            seen.happened.push(report.happened.clone());
            if let Happened::Interruption { .. } = report.happened {
                seen.orders.drain = Some(Drain {
                    since: Timestamp(1),
                    deadline: Timestamp(2),
                    why: Cause::Interrupted,
                });
            }
            Ok(Answer::Orders(seen.orders.clone()))
        }
        Request::Heartbeat(beat) => {
            seen.beats.push((**beat).clone());
            Ok(Answer::Orders(seen.orders.clone()))
        }
        other => Err(Fault::new("bad-request", other.op())),
    }
}

pub(crate) async fn exit_of(mut agent: Child) -> ExitStatus {
    for _ in 0..1_000 {
        if let Some(status) = agent.try_wait().unwrap() {
            return status;
        }
        sleep(Duration::from_millis(10)).await;
    }
    agent.kill().unwrap();
    panic!("the agent does not end");
}

pub(crate) fn term(agent: &Child) {
    signal(agent, rustix::process::Signal::TERM);
}

pub(crate) fn signal(agent: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(agent), signal).unwrap();
}
