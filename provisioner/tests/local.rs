//! The local driver with real processes.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use epu_core::id::{InstanceId, LaunchId, PoolName};
use epu_core::pool::Template;
use epu_core::random::Random;
use epu_core::time::{Clock, SystemClock, Timestamp};
use epu_provisioner::iaas::local::{AgentProgram, Local, LocalSettings};
use epu_provisioner::iaas::{Class, Iaas, IaasLaunch, LaunchToken, Machine, MachineState, contract};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// A stand-in for the agent: it writes a line, starts a worker, and ends when it is told to, with its worker.
const AGENT: &str = r#"#!/bin/sh
echo "agent of $EPU_INSTANCE, index $EPU_INDEX, secret ${EPU_TEST_SECRET:-none}"
sleep 1000 &
trap 'kill $!; exit 0' TERM
wait
"#;
/// One that takes no hints, with a child that has left its session and one that has cleaned its environment.
const STUBBORN: &str = r#"#!/bin/sh
trap '' TERM
setsid sh -c 'trap "" TERM; sleep 1000; sleep 1000' &
env -i /bin/sh -c 'trap "" TERM; sleep 1000; sleep 1000' &
while :; do sleep 1; done
"#;

/// A site in a directory of its own. When it is dropped, whatever still carries its tag is killed.
struct Site {
    home: tempfile::TempDir,
    program: PathBuf,
    installation: String,
    random: Random,
}

impl Site {
    fn with(script: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let program = home.path().join("agent.sh");
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let random = Random::from_system();
        Self {
            installation: format!("test-{}", random.number()),
            home,
            program,
            random,
        }
    }

    fn driver(&self) -> Local {
        self.driver_with(LocalSettings::default())
    }

    fn driver_with(&self, settings: LocalSettings) -> Local {
        let agent = AgentProgram {
            program: self.program.clone(),
            arguments: vec!["agent".to_owned()],
        };
        Local::new(&self.installation, self.home.path(), agent, settings)
    }

    fn request(&self, instances: usize, stop_grace: &str) -> IaasLaunch {
        let now = SystemClock::start().now();
        IaasLaunch {
            installation: self.installation.clone(),
            launch: LaunchId(self.random.uuid(now)),
            pool: PoolName::new("web").unwrap(),
            instances: (0..instances).map(|_| InstanceId(self.random.uuid(now))).collect(),
            min: 1,
            launch_token: LaunchToken("l.secret".to_owned()),
            url: "http://127.0.0.1:1".to_owned(),
            template: template(stop_grace),
            doubtful: false,
        }
    }

    fn directory(&self, instance: InstanceId) -> PathBuf {
        self.home.path().join("instances").join(instance.to_string())
    }

    /// Pids of everything that carries this site's tag, or lives in the session of one that does: counted by itself, not by the
    /// driver.
    fn processes(&self) -> BTreeSet<i32> {
        let tag = format!("EPU_INSTALLATION={}", self.installation);
        let all = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        all.filter(|pid: &i32| {
            let tagged = std::fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|text| text.split(|byte| *byte == 0).any(|entry| entry == tag.as_bytes()));
            tagged && !is_zombie(*pid)
        })
        .collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for _ in 0..20 {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            for pid in left {
                signal(pid, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn template(stop_grace: &str) -> Template {
    serde_json::from_value(serde_json::json!({ "run": ["worker"], "stop-grace": stop_grace })).unwrap()
}

fn is_zombie(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|text| text.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
}

fn session(pid: i32) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit(") ").next()?.split(' ').nth(3)?.parse().ok()
}

fn signal(pid: i32, signal: Signal) {
    let _gone_is_fine = kill_process(Pid::from_raw(pid).unwrap(), signal);
}

async fn eventually(what: &str, is_so: impl AsyncFn() -> bool) {
    for _ in 0..500 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what}: not within 10 s");
}

fn ids(machines: &[Machine]) -> Vec<String> {
    machines.iter().map(|machine| machine.id.clone()).collect()
}

async fn end_all(driver: &Local, machines: &[String]) {
    driver.terminate(machines).await.unwrap();
    eventually("everything is gone", async || driver.list().await.unwrap().is_empty()).await;
}

async fn state(driver: &Local, machine: &str) -> Option<MachineState> {
    driver.describe(&[machine.to_owned()]).await.unwrap()[0].1
}

/// One of two provisioners was stopped in the middle of a launch and the other repeats it; then the first goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_drivers_on_one_directory_start_each_instance_once() {
    let site = Site::with(AGENT);
    for _ in 0..3 {
        let request = site.request(12, "1s");
        let (one, two) = (site.driver(), site.driver());
        let (a, b) = (request.clone(), request.clone());
        let one = tokio::spawn(async move { one.launch(&a).await });
        let two = tokio::spawn(async move { two.launch(&b).await });
        let ids = |machines: Vec<Machine>| machines.into_iter().map(|machine| machine.id).collect::<Vec<_>>();
        let wanted: Vec<String> = request.instances.iter().map(ToString::to_string).collect();
        assert_eq!(ids(one.await.unwrap().unwrap()), wanted);
        assert_eq!(ids(two.await.unwrap().unwrap()), wanted);
        for id in &request.instances {
            let log = site.directory(*id).join("agent.log");
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            eventually("its agent speaks", async || !said().is_empty()).await;
            let started = said();
            assert_eq!(started.matches("agent of").count(), 1, "{id}: {started}");
        }
        let listed = site.driver().list().await.unwrap();
        let of_launch = listed.iter().filter(|machine| machine.launch == Some(request.launch)).count();
        assert_eq!(of_launch, request.instances.len());
        let left: Vec<String> = std::fs::read_dir(site.directory(request.instances[0]))
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
            .filter(|name| name.contains("draft"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
        // Whoever acts now can end what the other started.
        let later = site.driver();
        later.terminate(&wanted).await.unwrap();
        eventually("all are gone", async || site.processes().is_empty()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_the_contract() {
    let site = Site::with(AGENT);
    let setting = contract::Setting {
        installation: site.installation.clone(),
        template: template("1s"),
        patience: Duration::from_secs(20),
        seed: 1,
    };
    contract::holds(&site.driver(), &setting).await;
    assert_eq!(site.processes(), BTreeSet::new());
}

#[tokio::test]
async fn one_that_is_killed_is_gone_and_its_output_stays() {
    let site = Site::with(AGENT);
    let driver = site.driver();
    let request = site.request(3, "1s");
    let machines = ids(&driver.launch(&request).await.unwrap());
    let log = site.directory(request.instances[1]).join("agent.log");
    eventually("the agent has written", async || {
        std::fs::read_to_string(&log).is_ok_and(|text| !text.is_empty())
    })
    .await;

    let victim = request.instances[1].to_string();
    for pid in site.processes() {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        if String::from_utf8_lossy(&environment).contains(&victim) {
            signal(pid, Signal::KILL);
        }
    }
    eventually("the killed one is gone", async || {
        state(&driver, &victim).await == Some(MachineState::Gone)
    })
    .await;
    assert_eq!(driver.list().await.unwrap().len(), 2);
    let output = driver.output(request.instances[1], None, 10).await.unwrap().unwrap();
    assert_eq!(output, format!("agent of {victim}, index 1, secret none\n"));

    // Its parent is this very process: a zombie must not count as running.
    let again = driver.launch(&request).await.unwrap();
    assert_eq!(ids(&again), machines);
    let states: Vec<MachineState> = again.iter().map(|machine| machine.state).collect();
    assert_eq!(states, [MachineState::Running, MachineState::Gone, MachineState::Running]);
    end_all(&driver, &machines).await;
    assert_eq!(site.processes(), BTreeSet::new());
}

#[tokio::test]
async fn a_driver_made_anew_finds_what_runs_and_starts_nothing_twice() {
    let site = Site::with(AGENT);
    let request = site.request(3, "1s");
    let first = site.driver();
    let before = first.launch(&request).await.unwrap();
    drop(first);
    let driver = site.driver();
    let mut listed = ids(&driver.list().await.unwrap());
    listed.sort();
    let mut launched = ids(&before);
    launched.sort();
    assert_eq!(listed, launched);
    assert_eq!(driver.launch(&request).await.unwrap(), before);
    eventually("each agent has its worker", async || site.processes().len() == 6).await;
    end_all(&driver, &launched).await;
    assert_eq!(site.processes(), BTreeSet::new());
}

#[tokio::test]
async fn a_frozen_machine_counts_as_running_and_can_be_ended() {
    let site = Site::with(STUBBORN);
    let driver = site.driver();
    let machines = ids(&driver.launch(&site.request(1, "300s")).await.unwrap());
    eventually("it has its children", async || site.processes().len() >= 3).await;
    let agent = site.processes().into_iter().find(|pid| session(*pid) == Some(*pid)).unwrap();
    kill_process_group(Pid::from_raw(agent).unwrap(), Signal::STOP).unwrap();
    eventually("it is listed as running", async || {
        state(&driver, &machines[0]).await == Some(MachineState::Running)
    })
    .await;
    driver.terminate(&machines).await.unwrap();
    assert_eq!(state(&driver, &machines[0]).await, Some(MachineState::Stopping));
    // Long before its `stop-grace`, which nobody would use.
    eventually("it is gone", async || {
        state(&driver, &machines[0]).await == Some(MachineState::Gone)
    })
    .await;
    assert_eq!(site.processes(), BTreeSet::new());
}

#[tokio::test]
async fn one_that_takes_no_hints_is_killed_with_all_its_children() {
    let site = Site::with(STUBBORN);
    let driver = site.driver();
    let request = site.request(1, "100ms");
    let machines = ids(&driver.launch(&request).await.unwrap());
    eventually("it has its children", async || site.processes().len() >= 3).await;
    let agent = site.processes().into_iter().find(|pid| session(*pid) == Some(*pid)).unwrap();
    let cleaned = || {
        let all = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        let tagged = site.processes();
        all.filter(|pid: &i32| session(*pid) == Some(agent) && !tagged.contains(pid) && !is_zombie(*pid))
            .count()
    };
    eventually("a child has cleaned its environment", async || cleaned() >= 2).await;
    driver.terminate(&machines).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(
        state(&driver, &machines[0]).await,
        Some(MachineState::Stopping),
        "it was killed before its time"
    );
    eventually("it is gone", async || {
        state(&driver, &machines[0]).await == Some(MachineState::Gone)
    })
    .await;
    assert_eq!(site.processes(), BTreeSet::new());
    assert_eq!(cleaned(), 0, "the child with a clean environment is left");
}

#[tokio::test]
async fn a_full_site_says_so_and_starts_nothing_when_too_few_would_come() {
    let site = Site::with(AGENT);
    let driver = site.driver_with(LocalSettings {
        max_instances: 2,
        ..LocalSettings::default()
    });
    let mut request = site.request(3, "1s");
    request.min = 3;
    assert_eq!(driver.launch(&request).await.unwrap_err().class, Class::Capacity);
    assert_eq!(driver.list().await.unwrap(), []);
    request.min = 1;
    let machines = ids(&driver.launch(&request).await.unwrap());
    assert_eq!(machines.len(), 2);
    assert_eq!(driver.launch(&site.request(1, "1s")).await.unwrap_err().class, Class::Capacity);
    end_all(&driver, &machines).await;
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_a_permanent_error_that_can_be_mended() {
    let site = Site::with(AGENT);
    let request = site.request(1, "1s");
    let driver = site.driver();
    std::fs::set_permissions(&site.program, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = driver.launch(&request).await.unwrap_err();
    assert_eq!(error.class, Class::Permanent);
    assert!(error.text.contains("agent.sh"), "{error}");
    std::fs::remove_file(&site.program).unwrap();
    assert_eq!(driver.launch(&request).await.unwrap_err().class, Class::Permanent);
    // None of the failures counts as the one start that there may be.
    std::fs::write(&site.program, AGENT).unwrap();
    std::fs::set_permissions(&site.program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let machines = ids(&driver.launch(&request).await.unwrap());
    assert_eq!(machines.len(), 1);
    end_all(&driver, &machines).await;
}

#[tokio::test]
async fn another_installation_is_not_ours() {
    let (ours, theirs) = (Site::with(AGENT), Site::with(AGENT));
    let driver = ours.driver();
    let other = theirs.driver();
    let foreign = ids(&other.launch(&theirs.request(1, "1s")).await.unwrap());
    assert_eq!(driver.list().await.unwrap(), []);
    assert_eq!(state(&driver, &foreign[0]).await, None);
    driver.terminate(&foreign).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(state(&other, &foreign[0]).await, Some(MachineState::Running));
    assert_eq!(driver.launch(&theirs.request(1, "1s")).await.unwrap_err().class, Class::Permanent);
    end_all(&other, &foreign).await;
}

#[tokio::test]
async fn secrets_are_in_files_for_the_owner_and_old_directories_go() {
    let site = Site::with(AGENT);
    let driver = site.driver();
    let request = site.request(2, "1s");
    let machines = ids(&driver.launch(&request).await.unwrap());
    let directory = site.directory(request.instances[0]);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&directory), mode(&directory.join("launch-token"))), (0o700, 0o600));
    assert_eq!(std::fs::read_to_string(directory.join("launch-token")).unwrap(), "l.secret");

    driver.terminate(&machines[..1]).await.unwrap();
    eventually("the first is gone", async || {
        state(&driver, &machines[0]).await == Some(MachineState::Gone)
    })
    .await;
    assert_eq!(driver.tidy(Timestamp::START).await.unwrap(), 0);
    assert_eq!(driver.tidy(Timestamp(i64::MAX / 2)).await.unwrap(), 1);
    assert!(!directory.exists() && site.directory(request.instances[1]).exists());
    end_all(&driver, &machines).await;
}

#[tokio::test]
async fn looking_at_a_hundred_machines_is_cheap() {
    let site = Site::with("#!/bin/sh\nexec sleep 1000\n");
    let driver = site.driver();
    let machines = ids(&driver.launch(&site.request(100, "1s")).await.unwrap());
    assert_eq!(driver.list().await.unwrap().len(), 100);
    // Once all are older than a second, what they carry is known and is not read again.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    driver.list().await.unwrap();
    let before = cpu();
    let passes = 50u32;
    for _ in 0..passes {
        assert_eq!(driver.list().await.unwrap().len(), 100);
    }
    let each = cpu().saturating_sub(before) / passes;
    eprintln!("one look at 100 machines: {each:?} of CPU");
    // At one look in 5 s this is under a thousandth of a core, with room for a slow machine and for the processes of other tests.
    assert!(each < Duration::from_millis(40), "one look took {each:?}");
    end_all(&driver, &machines).await;
}

fn cpu() -> Duration {
    // Fields 14 and 15 of proc_pid_stat(5), in hundredths of a second.
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

#[tokio::test]
async fn nothing_ties_a_machine_to_the_process_that_started_it() {
    let site = Site::with(AGENT);
    let driver = site.driver();
    let machines = ids(&driver.launch(&site.request(1, "1s")).await.unwrap());
    eventually("the agent has its worker", async || site.processes().len() == 2).await;
    let ours = session(i32::try_from(std::process::id()).unwrap());
    for pid in site.processes() {
        assert!(session(pid).is_some() && session(pid) != ours, "it lives in our session");
        for number in 0..3 {
            let target = std::fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap();
            let allowed = target == Path::new("/dev/null") || target.starts_with(site.home.path());
            assert!(allowed, "its output {number} is {}", target.display());
        }
    }
    end_all(&driver, &machines).await;
}
