//! What starts the agent on a rented machine: the script that user data puts there, run as cloud-init runs it, with a directory of this
//! test in place of `/var/lib/epu`.

#![expect(clippy::unwrap_used, reason = "tests")]

mod services;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use services::{Services, WORKER};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::sleep;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../provisioner/src/iaas/ec2/user_data/start.sh");
/// Writes down what it was given.
const PRETENDER: &str = "#!/bin/sh\n{ env; echo pid=$$; cat /proc/$$/stat; } >\"$EPU_HOME/given.new\"\necho x >>\"$EPU_HOME/starts\"\n\
                         mv \"$EPU_HOME/given.new\" \"$EPU_HOME/given\"\n";
const PATH_END: &str = ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\"";

struct Machine {
    root: TempDir,
    home: PathBuf,
    bin: PathBuf,
}

impl Machine {
    fn new(settings: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let (home, bin) = (root.path().join("with space"), root.path().join("bin"));
        fs::create_dir(&home).unwrap();
        fs::create_dir(&bin).unwrap();
        fs::copy(SCRIPT, home.join("start.sh")).unwrap();
        fs::write(home.join("agent.env"), settings).unwrap();
        Self { root, home, bin }
    }

    fn program(&self, name: &str, text: &str) {
        let path = self.bin.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new("sh");
        command
            .arg(self.home.join("start.sh"))
            .args(arguments)
            .current_dir("/")
            .env("PATH", format!("{}:{path}", self.bin.display()))
            .env("EPU_START_PAUSE", "0")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.home.join(name)).unwrap_or_default()
    }

    async fn until(&self, name: &str) -> String {
        for _ in 0..1_000 {
            let text = self.read(name);
            if !text.is_empty() {
                return text;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("no {name}: {}{}", self.read("start.log"), self.read("agent.log"));
    }

    /// Only the programs that the script cannot do without, and these.
    fn with_little(&self, more: &[&str]) {
        let needed = [
            "sh", "date", "dirname", "wc", "mv", "rm", "mkdir", "chmod", "cut", "sed", "sleep", "id", "env", "cat",
        ];
        for name in needed.iter().chain(more) {
            let found = ["/usr/bin", "/bin"]
                .iter()
                .map(|folder| Path::new(folder).join(name))
                .find(|path| path.exists());
            symlink(found.unwrap_or_else(|| panic!("this machine has no {name}")), self.bin.join(name)).unwrap();
        }
        let script = self.read("start.sh");
        assert!(script.contains(PATH_END));
        fs::write(self.home.join("start.sh"), script.replace(PATH_END, "\"")).unwrap();
    }

    fn run_with_little(&self) -> Output {
        self.command(&["run"]).env("PATH", &self.bin).output().unwrap()
    }
}

fn code_and_text(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A server of one file; how often it was fetched.
async fn serving(content: &'static str) -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://me:secret@{}/epu-agent?sig=hidden", listener.local_addr().unwrap());
    let fetched = Arc::new(AtomicU32::new(0));
    let count = fetched.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4_096];
            let read = stream.read(&mut head).await.unwrap_or(0);
            if read > 0 {
                count.fetch_add(1, Ordering::Relaxed);
            }
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{content}",
                content.len()
            );
            drop(stream.write_all(answer.as_bytes()).await);
        }
    });
    (url, fetched)
}

fn sha256(text: &str) -> String {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("x");
    fs::write(&path, text).unwrap();
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

fn fetching(url: &str, digest: &str) -> Machine {
    Machine::new(&format!("EPU_LAUNCH='l'\nEPU_AGENT_URL='{url}'\nEPU_AGENT_SHA256='{digest}'\n"))
}

/// The whole way, with the agent itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_baked_agent_is_started_once_however_often_the_script_is_run() {
    let services = Services::start("true", &format!("echo $EPU_METADATA > metadata; {WORKER}")).await;
    let machine = Machine::new(&format!(
        "EPU_URL='{}'\nEPU_LAUNCH='{}'\nEPU_INDEX='0'\nEPU_METADATA='http://169.254.169.254'\n",
        services.url, services.launch
    ));
    fs::copy(services.home.path().join("launch-token"), machine.home.join("launch-token")).unwrap();
    symlink(env!("CARGO_BIN_EXE_epu-agent"), machine.bin.join("epu-agent")).unwrap();

    let run = || machine.command(&[]).env("EPU_METADATA", "http://127.0.0.1:9").output().unwrap();
    assert_eq!(code_and_text(&run()).0, Some(0));
    services.until("heard", |seen| !seen.beats.is_empty()).await;
    assert_eq!(machine.read("metadata"), "http://127.0.0.1:9\n", "what was set before stands");

    assert_eq!(code_and_text(&run()).0, Some(0));
    for _ in 0..500 {
        if machine.read("agent.log").contains("another agent") {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    assert!(machine.read("agent.log").contains("another agent"), "{}", machine.read("agent.log"));
    assert_eq!(services.seen.lock().unwrap().claims.len(), 1);
    services.seen.lock().unwrap().orders.stop = true;
    services.until("told", |seen| seen.happened.len() == 1).await;
    let lock = machine.home.join("lock");
    for _ in 0..500 {
        let held = fs::File::open(&lock).unwrap().try_lock().is_err();
        if !held {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("the agent does not end: {}", machine.read("agent.log"));
}

#[tokio::test]
async fn the_agent_runs_apart_from_whoever_started_it_and_hears_what_it_needs() {
    let machine = Machine::new("EPU_URL='http://a http://b'\nEPU_LAUNCH='it'\\''s'\nEPU_INDEX='metadata'\nEPU_METADATA='http://m'\n");
    machine.program("epu-agent", PRETENDER);
    let (code, text) = code_and_text(&machine.run(&[]));
    assert_eq!(code, Some(0), "{text}");
    let given = machine.until("given").await;
    for line in [
        "EPU_URL=http://a http://b",
        "EPU_LAUNCH=it's",
        "EPU_INDEX=metadata",
        "EPU_METADATA=http://m",
    ] {
        assert!(given.lines().any(|given| given == line), "{line}: {given}");
    }
    assert!(
        given.lines().any(|line| *line == format!("EPU_HOME={}", machine.home.display())),
        "{given}"
    );
    assert!(!given.contains("EPU_START_"), "{given}");
    // Its session is its own: field 6 is its own number.
    let pid = given.lines().find_map(|line| line.strip_prefix("pid=")).unwrap().to_owned();
    let stat = given.lines().find(|line| line.starts_with(&format!("{pid} ("))).unwrap();
    assert_eq!(
        stat.rsplit_once(')').unwrap().1.split_whitespace().nth(3),
        Some(pid.as_str()),
        "{stat}"
    );
    assert!(
        machine.read("start.log").contains("for launch it's"),
        "{}",
        machine.read("start.log")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetched_agent_is_checked_kept_and_not_fetched_again() {
    let (url, fetched) = serving(PRETENDER).await;
    let machine = fetching(&url, &sha256(PRETENDER));
    assert_eq!(code_and_text(&machine.run(&["run"])).0, Some(0));
    assert!(machine.read("given").contains("EPU_LAUNCH=l\n"));
    assert!(!machine.read("given").contains("EPU_AGENT_"), "its worker need not know the url");
    assert_eq!(code_and_text(&machine.run(&["run"])).0, Some(0));
    assert_eq!((machine.read("starts").as_str(), fetched.load(Ordering::Relaxed)), ("x\nx\n", 1));

    // A file that was damaged meanwhile is fetched anew.
    fs::write(machine.home.join("bin/epu-agent"), "#!/bin/sh\nexit 77\n").unwrap();
    assert_eq!(code_and_text(&machine.run(&["run"])).0, Some(0));
    assert_eq!(fetched.load(Ordering::Relaxed), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_not_the_one_that_is_meant_is_not_started() {
    let (url, fetched) = serving(PRETENDER).await;
    let machine = fetching(&url, &"0".repeat(64));
    let (code, text) = code_and_text(&machine.run(&["run"]));
    assert_eq!(code, Some(11), "{text}");
    assert!(text.contains(&sha256(PRETENDER)) && text.contains("it is not started"), "{text}");
    assert!(!text.contains("secret") && !text.contains("hidden"), "{text}");
    assert_eq!((machine.read("starts").as_str(), fetched.load(Ordering::Relaxed)), ("", 1));
    assert!(
        fs::read_dir(machine.home.join("bin")).unwrap().next().is_none(),
        "nothing of it stays"
    );
}

#[tokio::test]
async fn a_server_that_is_not_there_is_tried_five_times() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/a", free.local_addr().unwrap());
    drop(free);
    let machine = fetching(&url, &"0".repeat(64));
    let (code, text) = code_and_text(&machine.run(&["run"]));
    assert_eq!(code, Some(10), "{text}");
    assert!(
        text.contains("try 5 of 5 failed") && text.contains("can this machine reach it?"),
        "{text}"
    );
    assert_eq!(machine.read("start.log").matches(" of 5 failed").count(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wget_and_openssl_will_do() {
    let (url, fetched) = serving(PRETENDER).await;
    let url = url.replace("me:secret@", "");
    for tools in [["wget", "openssl"], ["wget", "sha256sum"], ["curl", "sha256sum"]] {
        let machine = fetching(&url, &sha256(PRETENDER));
        machine.with_little(&tools);
        let (code, text) = code_and_text(&machine.run_with_little());
        assert_eq!((code, machine.read("starts").as_str()), (Some(0), "x\n"), "{tools:?}: {text}");
    }
    assert_eq!(fetched.load(Ordering::Relaxed), 3);

    let machine = fetching(&url, &sha256(PRETENDER));
    machine.with_little(&["sha256sum"]);
    let (code, text) = code_and_text(&machine.run_with_little());
    assert!(code == Some(10) && text.contains("neither curl nor wget"), "{text}");
    let machine = fetching(&url, &sha256(PRETENDER));
    machine.with_little(&["curl"]);
    let (code, text) = code_and_text(&machine.run_with_little());
    assert!(code == Some(11) && text.contains("computes SHA-256"), "{text}");
}

#[tokio::test]
async fn what_is_missing_is_said() {
    let machine = Machine::new("EPU_LAUNCH='l'\n");
    machine.with_little(&[]);
    let (code, text) = code_and_text(&machine.run_with_little());
    assert!(
        code == Some(10) && text.contains("epu-agent is not on the path") && text.contains("agent: {url, sha256}"),
        "{text}"
    );
    let (code, text) = code_and_text(&machine.run(&["stop"]));
    assert!(code == Some(12) && text.contains("stop is not known"), "{text}");
    fs::remove_file(machine.home.join("agent.env")).unwrap();
    let (code, text) = code_and_text(&machine.run(&[]));
    assert!(code == Some(12) && text.contains("agent.env is missing"), "{text}");
}

#[tokio::test]
async fn where_systemd_runs_the_agent_is_a_service_that_outlives_a_reboot() {
    let machine = Machine::new("EPU_LAUNCH='l'\n");
    machine.program("epu-agent", PRETENDER);
    machine.program("systemctl", "#!/bin/sh\necho \"$*\" >>\"$CALLS\"\n");
    let (units, calls) = (machine.root.path().join("units"), machine.root.path().join("calls"));
    let run = |units: &Path| {
        let mut command = machine.command(&[]);
        command
            .env("EPU_START_BY", "systemd")
            .env("EPU_START_UNITS", units)
            .env("CALLS", &calls);
        code_and_text(&command.output().unwrap())
    };
    for _ in 0..2 {
        let (code, text) = run(&units);
        assert_eq!(code, Some(0), "{text}");
    }
    let called = fs::read_to_string(&calls).unwrap();
    let once = ["daemon-reload", "enable epu-agent.service", "start --no-block epu-agent.service"];
    assert_eq!(called.lines().collect::<Vec<_>>(), [once, once].concat());
    assert_eq!(machine.read("starts"), "", "systemd starts it");

    let unit = fs::read_to_string(units.join("epu-agent.service")).unwrap();
    assert!(
        unit.contains(&format!("ExecStart=/bin/sh \"{}/start.sh\" run\n", machine.home.display())),
        "{unit}"
    );
    for line in [
        "Restart=on-failure",
        "RestartPreventExitStatus=2 3 4 5 6 11",
        "KillMode=process",
        "OOMPolicy=continue",
        "WantedBy=multi-user.target",
    ] {
        assert!(unit.lines().any(|found| found == line), "{line}: {unit}");
    }
    // What the unit runs is the agent.
    assert_eq!(code_and_text(&machine.run(&["run"])).0, Some(0));
    assert_eq!(machine.read("starts"), "x\n");

    // A systemd that refuses is done without.
    machine.program("systemctl", "#!/bin/sh\nexit 1\n");
    let (code, text) = run(&units);
    assert_eq!(code, Some(0), "{text}");
    for _ in 0..500 {
        if machine.read("starts") == "x\nx\n" {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("not started: {text}");
}
