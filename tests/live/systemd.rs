//! The unit that is shipped, and what stopping it does to the processes in it.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use epu_tests::process::{program, run};
use epu_tests::processes::Proc;
use epu_tests::systemd::{KillMode, Unit, UnitFile};
use epu_tests::wait::{always, eventually, until};
use epu_tests::{Result, Trouble, keeper, ports};

const SOON: Duration = Duration::from_secs(20);

/// For one process that does everything, and for one of each role.
const SHIPPED: [(&str, &str); 2] = [("epu.service", "serve all --config "), ("epu@.service", "serve %i --config ")];

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}

fn read(name: &str) -> UnitFile {
    UnitFile::read(&std::fs::read_to_string(shipped(name)).unwrap()).unwrap()
}

fn unit_file() -> UnitFile {
    read(SHIPPED[0].0)
}

#[test]
fn the_shipped_units_leave_workers_running_and_never_give_up() {
    for (name, command) in SHIPPED {
        leaves_workers_running(&read(name), command);
    }
}

fn leaves_workers_running(unit: &UnitFile, command: &str) {
    assert_eq!(unit.kill_mode().unwrap(), KillMode::Process);
    let service = |key| unit.value("Service", key);
    assert!(service("ExecStart").unwrap().contains(&format!("epumgmt {command}")));
    assert_eq!(
        (service("Restart"), unit.value("Unit", "StartLimitIntervalSec")),
        (Some("always"), Some("0"))
    );
    // A worker that runs out of memory must not take the service down, which is what systemd does by default.
    assert_eq!(service("OOMPolicy"), Some("continue"));
    assert_eq!(service("TasksMax"), Some("infinity"));
    // What these set up is taken down at stop, under the workers that live on.
    for takes_away in [
        "PrivateTmp",
        "DynamicUser",
        "RuntimeDirectory",
        "PrivateMounts",
        "TemporaryFileSystem",
    ] {
        assert_eq!(service(takes_away), None, "{takes_away} breaks workers that outlive the service");
    }
}

/// `systemd-analyze verify` reads the unit as systemd does. It wants the program to exist, so that it is shown one that does. Run by
/// root it would leave a mark in `/run/systemd`; so it is run by nobody then.
#[test]
fn systemd_itself_finds_nothing_wrong_with_the_units() {
    for (name, _) in SHIPPED {
        verifies(name);
    }
}

fn verifies(name: &str) {
    let dir = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o755))
        .tempdir()
        .unwrap();
    let text = std::fs::read_to_string(shipped(name)).unwrap();
    let text = text
        .replace("/usr/local/bin/epumgmt", "/bin/true")
        .replace("User=epu\n", "")
        .replace("Group=epu\n", "");
    let path = dir.path().join(name);
    let verify = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let mut command = Command::new("timeout");
        command.arg("60");
        if rustix::process::geteuid().is_root() {
            command.args(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]);
        }
        command
            .args(["systemd-analyze", "verify", "--recursive-errors=no", "--man=no"])
            .arg(&path);
        let output = command.output().unwrap();
        assert_ne!(
            output.status.code(),
            Some(127),
            "systemd-analyze is not installed; it is in the Debian package systemd"
        );
        String::from_utf8_lossy(&output.stderr)
            .lines()
            .filter(|line| line.contains("epu.service") || line.contains("epu@"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(verify(&text), "");
    let wrong = verify(&text.replace("KillMode=process", "KillMode=everything"));
    assert!(wrong.contains("everything"), "{wrong}");
}

/// A control process with two workers, each in a session of its own as the local driver starts them. The control process ends at
/// SIGTERM and leaves them alone, or ignores it when it is to be stubborn.
fn control_with_workers(stubborn: bool) -> Unit {
    let at_term = if stubborn { "trap '' TERM" } else { "trap 'exit 0' TERM" };
    // Ignored signals are inherited; what is caught is not. So the workers are started before.
    let script = format!("setsid --fork sleep 300; setsid --fork sleep 300; {at_term}; while :; do sleep 0.1; done");
    let mut command = keeper::command("sh");
    command.args(["-c", &script]);
    Unit::start(command).unwrap()
}

async fn workers(unit: &Unit) -> Vec<Proc> {
    let found = || {
        unit.others()
            .into_iter()
            .filter(|proc| proc.command_line() == "sleep 300")
            .collect::<Vec<_>>()
    };
    eventually(SOON, "two workers run", async || found().len() == 2).await;
    found()
}

#[tokio::test]
async fn a_stop_as_shipped_ends_the_control_process_and_no_worker() {
    let file = unit_file();
    let mut unit = control_with_workers(false);
    let workers = workers(&unit).await;
    let stopped = unit.stop(file.kill_mode().unwrap(), file.timeout_stop().unwrap()).await;
    assert!(stopped && !unit.main.main.is_alive());
    always(Duration::from_millis(500), "both workers run on", async || {
        workers.iter().all(|proc| proc.is_alive())
    })
    .await;
}

#[tokio::test]
async fn a_control_process_that_does_not_stop_is_killed_alone() {
    let mut unit = control_with_workers(true);
    let workers = workers(&unit).await;
    // The trap is set right after the second worker was started.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let stopped = unit.stop(KillMode::Process, Duration::from_secs(1)).await;
    assert!(!stopped && !unit.main.main.is_alive());
    assert!(workers.iter().all(|proc| proc.is_alive()));
}

/// What the shipped setting protects from: the default ends workers too, whatever session they are in.
#[tokio::test]
async fn a_stop_with_the_default_mode_would_end_the_workers() {
    for mode in [KillMode::ControlGroup, KillMode::Mixed] {
        let mut unit = control_with_workers(false);
        let workers = workers(&unit).await;
        assert!(unit.stop(mode, Duration::from_secs(10)).await);
        eventually(SOON, "no worker runs", async || !workers.iter().any(|proc| proc.is_alive())).await;
    }
}

/// An installation of the real program with one pool of two workers, in a directory of its own.
struct Installation {
    dir: tempfile::TempDir,
    port: u16,
}

impl Installation {
    fn new() -> Self {
        let installation = Self {
            dir: tempfile::tempdir().unwrap(),
            port: ports::free().unwrap(),
        };
        let config = format!(
            "data-dir: data\nlisten: 127.0.0.1:{}\n\
             templates: {{ sleeper: {{ run: [sleep, '300'], heartbeat: 1s, stop-grace: 1s }} }}\n\
             pools: {{ web: {{ template: sleeper, max: 2, engine: {{ keep: {{ n: 2 }} }} }} }}\n",
            installation.port
        );
        std::fs::write(installation.dir.path().join("epu.yaml"), config).unwrap();
        installation
    }

    /// The command of the shipped unit, with this installation's config.
    fn start(&self) -> Unit {
        let mut command = keeper::command(program().unwrap());
        let output = std::fs::File::create(self.dir.path().join("output.log")).unwrap();
        command
            .args(["serve", "all", "--config"])
            .arg(self.dir.path().join("epu.yaml"))
            .current_dir(&self.dir)
            .stderr(output);
        // Agents are started with a clean environment and carry the installation's own tags.
        let data = self.dir.path().join("data");
        Unit::start(command).unwrap().also("EPU_HOME", data.to_str().unwrap())
    }

    fn workers(unit: &Unit) -> Vec<Proc> {
        unit.others()
            .into_iter()
            .filter(|proc| proc.command_line().ends_with("sleep 300"))
            .collect()
    }

    /// Waits until the program itself says that both workers run.
    async fn until_both_run(&self, unit: &mut Unit) -> Vec<Proc> {
        let url = format!("http://127.0.0.1:{}", self.port);
        let token = self.dir.path().join("data/operator.token");
        let look = async || -> Result<Vec<Proc>> {
            let listed = run(&["instance", "list", "--output", "json", "--url", &url], |command| {
                command.arg("--token-file").arg(&token).current_dir(&self.dir);
            })?;
            let said = String::from_utf8_lossy(&listed.stdout).into_owned();
            let running = said.matches("600-RUNNING").count();
            let workers = Self::workers(unit);
            if running == 2 && workers.len() == 2 {
                return Ok(workers);
            }
            let why = String::from_utf8_lossy(&listed.stderr).into_owned();
            Err(Trouble(format!("{running} said to run, {} found; {said}{why}", workers.len())))
        };
        let found = until(Duration::from_secs(60), "two workers run", look).await;
        found.unwrap_or_else(|trouble| panic!("{trouble}\n{}", epu_tests::tail_of(&self.dir.path().join("output.log"), 40)))
    }
}

#[tokio::test]
async fn the_real_service_is_stopped_and_started_as_shipped_and_its_workers_never_notice() {
    let file = unit_file();
    let installation = Installation::new();
    let mut first = installation.start();
    let before = installation.until_both_run(&mut first).await;

    assert!(
        first.stop(file.kill_mode().unwrap(), file.timeout_stop().unwrap()).await,
        "it stops in time"
    );
    assert!(first.main.ended().unwrap().success(), "a stop is no failure");
    always(Duration::from_secs(1), "both workers run on", async || {
        before.iter().all(|proc| proc.is_alive())
    })
    .await;

    let mut second = installation.start();
    let after = installation.until_both_run(&mut second).await;
    assert_eq!(after, before, "the same workers, none lost and none doubled");

    // And with the default mode they would all have gone.
    second.stop(KillMode::ControlGroup, Duration::from_secs(15)).await;
    eventually(SOON, "nothing is left of the unit", async || second.processes().is_empty()).await;
}
