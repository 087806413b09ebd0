//! The machine as the agent sees it, with real processes: shell scripts as set-up and worker.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use epu_agent::Error;
use epu_agent::host::{Host, Kept, Signal, Stage};
use epu_agent::process::ProcessHost;
use epu_core::instance::{Exit, Work};
use epu_core::pool::DrainSignal;
use epu_core::request::Context;
use epu_core::{PoolName, Span, Timestamp};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

struct Machine {
    home: TempDir,
    host: ProcessHost,
}

impl Machine {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let host = ProcessHost::open(home.path()).unwrap();
        Self { home, host }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    async fn runs(&self, script: &str) -> Context {
        let context = sh("true", script);
        self.host.start(&context).await.unwrap();
        context
    }

    async fn ended(&self) -> Exit {
        timeout(Duration::from_secs(10), self.host.ended()).await.expect("the worker ends")
    }

    async fn has(&self, name: &str, content: &str) {
        for _ in 0..500 {
            if fs::read_to_string(self.path(name)).is_ok_and(|text| text.contains(content)) {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("{name} never held {content:?}: {:?}", fs::read_to_string(self.path(name)));
    }
}

fn sh(set_up: &str, run: &str) -> Context {
    let program = |script: &str| vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()];
    Context {
        instance: "01890000-0000-7000-8000-000000000001".parse().unwrap(),
        pool: PoolName::new("web").unwrap(),
        token: "i.secret".to_owned(),
        run: program(run),
        set_up: program(set_up),
        variables: BTreeMap::from([
            ("GREETING".to_owned(), "hello".to_owned()),
            ("EPU_HOME".to_owned(), "/elsewhere".to_owned()),
        ]),
        directory: None,
        drain_signal: DrainSignal::TERM,
        stop_grace: Span::secs(1),
        heartbeat: Span::secs(1),
        ready_within: Span::secs(10),
        aggregators: Vec::new(),
        doors: Vec::new(),
    }
}

#[tokio::test]
async fn set_up_gives_its_exit_and_the_end_of_its_output() {
    let machine = Machine::new();
    fs::write(machine.path("worker.log"), "from before\n").unwrap();
    let exit = machine.host.set_up(&sh("echo out; echo err >&2; exit 3", "true")).await.unwrap();
    assert_eq!((exit.code, exit.signal), (Some(3), None));
    assert_eq!(exit.output, "out\nerr");
    let exit = machine
        .host
        .set_up(&sh("head -c 9000 /dev/zero | tr '\\0' x; exit 1", "true"))
        .await
        .unwrap();
    assert_eq!(exit.output, "x".repeat(4_000));
    assert!(machine.host.set_up(&sh("true", "true")).await.unwrap().is_success());
}

#[tokio::test]
async fn set_up_is_killed_when_it_is_dropped() {
    let machine = Machine::new();
    let context = sh("echo $$ > pid; for i in $(seq 400); do sleep 0.05; done", "true");
    let ended = timeout(Duration::from_millis(500), machine.host.set_up(&context)).await;
    assert!(ended.is_err(), "set-up still runs when it is dropped");
    let pid = fs::read_to_string(machine.path("pid")).unwrap().trim().to_owned();
    for _ in 0..200 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if stat.is_empty() || stat.contains(") Z ") {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("set-up {pid} still runs");
}

#[tokio::test]
async fn a_program_that_cannot_run_is_named_with_what_to_do() {
    let machine = Machine::new();
    fs::write(machine.path("plain"), "#!/bin/sh\n").unwrap();
    fs::write(machine.path("lost"), "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(machine.path("lost"), fs::Permissions::from_mode(0o755)).unwrap();
    for (program, says) in [
        (
            "/no/such/worker",
            ["run program /no/such/worker does not exist", "mend the template"],
        ),
        ("./plain", ["plain is not executable", "chmod +x"]),
        ("/tmp", ["/tmp is not a file", "name a program"]),
        ("no-such-command", ["no-such-command is not in PATH", "install it"]),
        ("./lost", ["lost could not be started", "interpreter"]),
    ] {
        let mut context = sh("true", "true");
        context.run = vec![program.to_owned()];
        let fault = machine.host.start(&context).await.unwrap_err();
        assert_eq!(fault.code, "worker-failed");
        for part in says {
            assert!(fault.text.contains(part), "{}", fault.text);
        }
    }
    let mut context = sh("true", "true");
    context.set_up = vec!["/no/such/set-up".to_owned()];
    let fault = machine.host.set_up(&context).await.unwrap_err();
    assert_eq!(fault.code, "set-up-failed");
    context.directory = Some(PathBuf::from("/no/such/directory"));
    let fault = machine.host.start(&context).await.unwrap_err();
    assert!(fault.text.contains("directory /no/such/directory"), "{}", fault.text);
}

#[tokio::test]
async fn the_worker_has_its_variables_and_its_directory_but_no_other_tags() {
    let machine = Machine::new();
    machine
        .runs("echo $GREETING $EPU_POOL $EPU_INSTANCE $EPU_DIR [$EPU_HOME] $(pwd); cat; exit 7")
        .await;
    let exit = machine.ended().await;
    assert_eq!(exit.code, Some(7));
    let home = machine.home.path().display();
    assert_eq!(
        exit.output,
        format!("hello web 01890000-0000-7000-8000-000000000001 {home}/run [] {home}")
    );
}

#[tokio::test]
async fn a_signal_that_ends_a_worker_is_told_apart_from_a_code() {
    let machine = Machine::new();
    machine.runs("echo here; kill -9 $$").await;
    let exit = machine.ended().await;
    assert_eq!((exit.code, exit.signal, exit.output.as_str()), (None, Some(9), "here"));
}

#[tokio::test]
async fn drain_is_the_file_then_the_signal() {
    let machine = Machine::new();
    machine
        .runs("trap 'cat $EPU_DIR/drain; exit 0' USR1; echo up; for i in $(seq 999); do sleep 0.02; done")
        .await;
    machine.has("worker.log", "up").await;
    assert!(!machine.host.find().unwrap().told);
    machine.host.tell_drain(Timestamp(1_234), DrainSignal::USR1).unwrap();
    let exit = machine.ended().await;
    assert_eq!((exit.code, exit.output.as_str()), (Some(0), "up\n1234"));
    assert!(machine.host.find().unwrap().told);
}

#[tokio::test]
async fn a_worker_may_watch_for_the_file_alone() {
    let machine = Machine::new();
    machine.runs("until test -e $EPU_DIR/drain; do sleep 0.02; done; exit 5").await;
    machine.host.tell_drain(Timestamp(1), DrainSignal::None).unwrap();
    assert_eq!(machine.ended().await.code, Some(5));
}

#[tokio::test]
async fn a_drain_that_cannot_be_written_still_goes_by_signal() {
    let machine = Machine::new();
    machine
        .runs("trap 'exit 6' TERM; echo up; for i in $(seq 999); do sleep 0.02; done")
        .await;
    machine.has("worker.log", "up").await;
    // A directory in the file's place cannot be replaced by it, whoever tries.
    fs::create_dir(machine.path("run/drain")).unwrap();
    assert!(machine.host.tell_drain(Timestamp(1), DrainSignal::None).is_err());
    machine.host.tell_drain(Timestamp(1), DrainSignal::TERM).unwrap();
    assert_eq!(machine.ended().await.code, Some(6));
}

#[tokio::test]
async fn a_worker_that_ignores_term_does_not_survive_kill() {
    let machine = Machine::new();
    machine
        .runs("trap '' TERM; echo up; for i in $(seq 999); do sleep 0.02; done")
        .await;
    machine.has("worker.log", "up").await;
    machine.host.signal(Signal::Term);
    assert!(timeout(Duration::from_millis(300), machine.host.ended()).await.is_err());
    machine.host.signal(Signal::Kill);
    assert_eq!(machine.ended().await.signal, Some(9));
    // Nobody is hit when there is no worker any more.
    machine.host.signal(Signal::Kill);
}

#[tokio::test]
async fn the_worker_says_how_it_is_through_files() {
    let machine = Machine::new();
    assert_eq!(machine.host.look().work, Work::Unknown);
    machine
        .runs("echo busy > $EPU_DIR/status; printf 'load 0.5\\nnonsense\\n' > $EPU_DIR/readings; exec sleep 60")
        .await;
    machine.has("run/readings", "nonsense").await;
    let seen = machine.host.look();
    assert_eq!(seen.work, Work::Busy);
    assert!(seen.written_at.is_some());
    assert_eq!((seen.readings.values().copied().collect::<Vec<_>>(), seen.ignored), (vec![0.5], 1));
    for (garbage, says) in [
        ("idle", Work::Idle),
        ("I am busy", Work::Unknown),
        (&"busy ".repeat(9_999), Work::Unknown),
    ] {
        fs::write(machine.path("run/status"), garbage).unwrap();
        assert_eq!(machine.host.look().work, says);
    }
    fs::remove_file(machine.path("run/status")).unwrap();
    assert!(
        std::process::Command::new("mkfifo")
            .arg(machine.path("run/status"))
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(machine.host.look().work, Work::Unknown, "a pipe is not waited for");
    machine.host.signal(Signal::Kill);
    machine.ended().await;
}

#[test]
fn a_second_agent_is_refused_and_the_first_is_named() {
    let machine = Machine::new();
    let refused = ProcessHost::open(machine.home.path()).unwrap_err();
    assert_eq!(refused.exit_code(), 3);
    assert!(matches!(&refused, Error::Locked { pid: Some(pid), .. } if *pid == std::process::id()));
    drop(machine.host);
    ProcessHost::open(machine.home.path()).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn what_is_kept_is_private_and_found_again() {
    let Machine { home, host } = Machine::new();
    assert!(host.find().unwrap().kept.is_none());
    let (one, other) = (host.nonce().unwrap(), host.nonce().unwrap());
    assert!(one.len() == 32 && one != other);
    let kept = Kept {
        nonce: one,
        context: Some(sh("true", "true")),
        launch: None,
        index: Some(3),
        stage: Stage::SettingUp,
    };
    host.keep(&kept).unwrap();
    let exit = Exit {
        code: Some(1),
        signal: None,
        output: "x".to_owned(),
    };
    host.keep_exit(&exit).unwrap();
    assert_eq!(mode(&home.path().join("agent.json")), 0o600);
    drop(host);
    let found = ProcessHost::open(home.path()).unwrap().find().unwrap();
    assert_eq!((found.kept, found.exit, found.worker_lives), (Some(kept), Some(exit), false));
}

#[tokio::test]
async fn a_damaged_record_is_an_error_and_not_a_fresh_start() {
    let machine = Machine::new();
    fs::write(machine.path("agent.json"), "{\"nonce\":").unwrap();
    let error = machine.host.find().unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }) && error.exit_code() == 1);
}

#[tokio::test]
async fn a_worker_of_an_earlier_agent_is_adopted_and_its_end_noticed() {
    let Machine { home, host } = Machine::new();
    let context = sh("true", "echo up; exec sleep 60");
    let mark = host.start(&context).await.unwrap();
    host.keep(&Kept {
        nonce: "n".to_owned(),
        context: Some(context),
        launch: None,
        index: None,
        stage: Stage::Running(mark.clone()),
    })
    .unwrap();
    drop(host);

    let host = ProcessHost::open(home.path()).unwrap();
    assert!(host.find().unwrap().worker_lives);
    assert!(timeout(Duration::from_millis(200), host.ended()).await.is_err());
    host.signal(Signal::Kill);
    let exit = timeout(Duration::from_secs(5), host.ended()).await.unwrap();
    assert_eq!((exit.code, exit.signal, exit.output.as_str()), (None, None, "up"));
    drop(host);
    assert!(!ProcessHost::open(home.path()).unwrap().find().unwrap().worker_lives);
}
