//! The program itself, over a real door: an `epu-agent` process against the bus's HTTP server.

#![expect(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use epu_bus::Bus;
use epu_bus::http::{Door, Limits, Metrics, serve};
use epu_bus::local::LocalBus;
use epu_bus::token::{Keyring, OperatorToken, fresh_secret};
use epu_core::Fault;
use epu_core::heartbeat::{Heartbeat, Orders};
use epu_core::instance::{Cause, Drain, Work};
use epu_core::pool::DrainSignal;
use epu_core::request::{Answer, Context, Happened, Request, Service};
use epu_core::time::SystemClock;
use epu_core::{InstanceId, LaunchId, PoolName, Span, Timestamp};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

#[derive(Default)]
struct Seen {
    claims: Vec<String>,
    happened: Vec<Happened>,
    beats: Vec<Heartbeat>,
    orders: Orders,
}

/// A provisioner and an aggregator of a few lines behind a real door, and an instance's directory.
struct Services {
    seen: Arc<Mutex<Seen>>,
    url: String,
    home: TempDir,
    launch: LaunchId,
    cancel: CancellationToken,
}

fn instance() -> InstanceId {
    "01890000-0000-7000-8000-000000000001".parse().unwrap()
}

impl Services {
    async fn start(set_up: &str, run: &str) -> Self {
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
        let url = format!("http://{}", listener.local_addr().unwrap());
        let cancel = CancellationToken::new();
        let door = Door {
            bus,
            keys: keys.clone(),
            operator: OperatorToken::new(&fresh_secret().unwrap()).unwrap(),
            clock: Arc::new(SystemClock::start()),
            metrics: Metrics::new().unwrap(),
            render: Arc::new(|| Ok(String::new())),
            ready: Arc::new(|| Box::pin(async { Ok(()) })),
            limits: Limits::default(),
        };
        tokio::spawn(serve(listener, door, cancel.clone()));
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

    fn agent(&self) -> Child {
        let log = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.home.path().join("agent.log"))
            .unwrap();
        Command::new(env!("CARGO_BIN_EXE_epu-agent"))
            .env("EPU_HOME", self.home.path())
            .env("EPU_URL", &self.url)
            .env("EPU_LAUNCH", self.launch.to_string())
            .env("EPU_INDEX", "0")
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Seen) -> bool) {
        for _ in 0..1_000 {
            if holds(&self.seen.lock().unwrap()) {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("never {what}: {}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("agent.log")).unwrap_or_default()
    }

    fn happened(&self) -> Vec<Happened> {
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
            Ok(Answer::Orders(seen.orders.clone()))
        }
        Request::Heartbeat(beat) => {
            seen.beats.push((**beat).clone());
            Ok(Answer::Orders(seen.orders.clone()))
        }
        other => Err(Fault::new("bad-request", other.op())),
    }
}

async fn exit_of(mut agent: Child) -> ExitStatus {
    for _ in 0..1_000 {
        if let Some(status) = agent.try_wait().unwrap() {
            return status;
        }
        sleep(Duration::from_millis(10)).await;
    }
    agent.kill().unwrap();
    panic!("the agent does not end");
}

fn term(agent: &Child) {
    signal(agent, rustix::process::Signal::TERM);
}

fn signal(agent: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(agent), signal).unwrap();
}

const WORKER: &str = "trap 'echo draining; exit 0' USR1; echo idle > $EPU_DIR/status; for i in $(seq 999); do sleep 0.02; done";

#[tokio::test]
async fn an_agent_claims_sets_up_runs_drains_and_ends() {
    let services = Services::start("echo setting up", WORKER).await;
    let agent = services.agent();
    services
        .until("idle", |seen| seen.beats.iter().any(|beat| beat.work == Work::Idle))
        .await;
    assert!(matches!(services.happened()[..], [Happened::Ready { .. }]));
    fs::write(services.home.path().join("run/status"), "busy").unwrap();
    services
        .until("busy", |seen| seen.beats.last().is_some_and(|beat| beat.work == Work::Busy))
        .await;
    services.seen.lock().unwrap().orders.drain = Some(Drain {
        since: Timestamp(1),
        deadline: Timestamp(2),
        why: Cause::ScaleIn,
    });
    assert_eq!(exit_of(agent).await.code(), Some(0), "{}", services.log());
    let happened = services.happened();
    let Some(Happened::Drained { exit }) = happened.last() else {
        panic!("{happened:?}");
    };
    assert_eq!((exit.code, exit.output.as_str()), (Some(0), "draining"));
    let kept = fs::read_to_string(services.home.path().join("exit.json")).unwrap();
    assert_eq!(&serde_json::from_str::<epu_core::instance::Exit>(&kept).unwrap(), exit);
    assert_eq!(
        fs::read_to_string(services.home.path().join("worker.log")).unwrap(),
        "setting up\ndraining\n"
    );
}

#[tokio::test]
async fn kill_nine_of_an_agent_and_its_restart_lose_nothing_and_double_nothing() {
    let services = Services::start("echo x >> set-ups", &format!("echo x >> starts; {WORKER}")).await;
    let mut first = services.agent();
    services.until("heard", |seen| !seen.beats.is_empty()).await;

    let beside = services.agent();
    assert_eq!(exit_of(beside).await.code(), Some(3));
    assert!(services.log().contains(&format!("another agent (process {}) runs in", first.id())));

    first.kill().unwrap();
    first.wait().unwrap();
    let heard = services.seen.lock().unwrap().beats.len();
    let second = services.agent();
    services.until("heard again", |seen| seen.beats.len() > heard + 2).await;
    signal(&second, rustix::process::Signal::HUP);
    term(&second);
    assert_eq!(exit_of(second).await.code(), Some(0), "{}", services.log());
    for once in ["set-ups", "starts"] {
        assert_eq!(fs::read_to_string(services.home.path().join(once)).unwrap(), "x\n", "{once}");
    }
    assert_eq!(services.seen.lock().unwrap().claims.len(), 1);
}

#[tokio::test]
async fn a_failed_set_up_is_reported_and_stop_is_obeyed() {
    let services = Services::start("echo no such package; exit 100", "true").await;
    let agent = services.agent();
    services.until("failed", |seen| !seen.happened.is_empty()).await;
    let happened = services.happened();
    let Happened::Failed { fault } = &happened[0] else {
        panic!("{happened:?}");
    };
    assert_eq!(fault.code, "set-up-failed");
    assert!(
        fault.text.contains("code 100") && fault.text.ends_with("no such package"),
        "{}",
        fault.text
    );
    services.seen.lock().unwrap().orders.stop = true;
    assert_eq!(exit_of(agent).await.code(), Some(0));
}

#[tokio::test]
async fn term_to_the_agent_ends_a_stubborn_worker_after_the_grace() {
    let services = Services::start(
        "true",
        "trap '' TERM; echo $$ > pid; echo idle > $EPU_DIR/status; for i in $(seq 999); do sleep 0.02; done",
    )
    .await;
    let agent = services.agent();
    services
        .until("idle", |seen| seen.beats.iter().any(|beat| beat.work == Work::Idle))
        .await;
    let pid = fs::read_to_string(services.home.path().join("pid")).unwrap().trim().to_owned();
    term(&agent);
    assert_eq!(exit_of(agent).await.code(), Some(0));
    assert!(!fs::exists(format!("/proc/{pid}")).unwrap(), "the worker outlived its agent");
}

#[tokio::test]
async fn a_second_claimant_is_refused_for_good() {
    let services = Services::start("true", "true").await;
    services.seen.lock().unwrap().claims.push("somebody else's".to_owned());
    assert_eq!(exit_of(services.agent()).await.code(), Some(4), "{}", services.log());
}

#[test]
fn missing_settings_are_all_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_epu-agent")).env_clear().output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    for name in ["EPU_HOME", "EPU_URL", "EPU_LAUNCH", "EPU_INDEX"] {
        assert!(said.contains(name), "{said}");
    }
}
