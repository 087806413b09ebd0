//! The unit that is shipped, and what stopping it does to the processes in it.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use epu_tests::keeper;
use epu_tests::systemd::{KillMode, Unit, UnitFile};
use epu_tests::wait::{always, eventually};

const SOON: Duration = Duration::from_secs(20);

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/epu.service")
}

fn unit_file() -> UnitFile {
    UnitFile::read(&std::fs::read_to_string(shipped()).unwrap()).unwrap()
}

#[test]
fn the_shipped_unit_leaves_workers_running_and_never_gives_up() {
    let unit = unit_file();
    assert_eq!(unit.kill_mode().unwrap(), KillMode::Process);
    let service = |key| unit.value("Service", key);
    assert!(service("ExecStart").unwrap().contains("epumgmt serve all --config "));
    assert_eq!((service("Restart"), unit.value("Unit", "StartLimitIntervalSec")), (Some("always"), Some("0")));
    // A worker that runs out of memory must not take the service down, which is what systemd does by default.
    assert_eq!(service("OOMPolicy"), Some("continue"));
    assert_eq!(service("TasksMax"), Some("infinity"));
    // What these set up is taken down at stop, under the workers that live on.
    for takes_away in ["PrivateTmp", "DynamicUser", "RuntimeDirectory", "PrivateMounts", "TemporaryFileSystem"] {
        assert_eq!(service(takes_away), None, "{takes_away} breaks workers that outlive the service");
    }
}

/// `systemd-analyze verify` reads the unit as systemd does. It wants the program to exist, so that it is shown one that does. Run by
/// root it would leave a mark in `/run/systemd`; so it is run by nobody then.
#[test]
fn systemd_itself_finds_nothing_wrong_with_the_unit() {
    let dir = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().unwrap();
    let text = std::fs::read_to_string(shipped()).unwrap();
    let text = text.replace("/usr/local/bin/epumgmt", "/bin/true").replace("User=epu\n", "").replace("Group=epu\n", "");
    let path = dir.path().join("epu.service");
    let verify = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let mut command = Command::new("timeout");
        command.arg("60");
        if rustix::process::geteuid().is_root() {
            command.args(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]);
        }
        command.args(["systemd-analyze", "verify", "--recursive-errors=no", "--man=no"]).arg(&path);
        let output = command.output().unwrap();
        assert_ne!(output.status.code(), Some(127), "systemd-analyze is not installed; it is in the Debian package systemd");
        String::from_utf8_lossy(&output.stderr).lines().filter(|line| line.contains("epu.service")).collect::<Vec<_>>().join("\n")
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

async fn workers(unit: &Unit) -> Vec<epu_tests::processes::Proc> {
    let found = || unit.others().into_iter().filter(|proc| proc.command_line() == "sleep 300").collect::<Vec<_>>();
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
    always(Duration::from_millis(500), "both workers run on", async || workers.iter().all(|proc| proc.is_alive())).await;
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
