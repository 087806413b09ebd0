//! The door beyond loopback: TLS with a certificate that the program makes itself, operators and agents that know it by its authority.

use std::fs;
use std::time::Duration;

use epu_bus::http::{Client, Roots};
use epu_core::request::{Nothing, Request};
use epu_tests::fleet::Fleet;
use epu_tests::process::{self, Running};
use epu_tests::{Trouble, ports, wait};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::pools::keeping;

const SOON: Duration = Duration::from_secs(40);
const REQUEST: Duration = Duration::from_secs(10);

/// An installation whose config is all its own.
struct Site {
    // Fields drop in this order: who starts others first, the directory last.
    serve: Option<Running>,
    _fleet: Fleet,
    dir: TempDir,
    port: u16,
}

impl Site {
    fn new(config: impl FnOnce(u16) -> String) -> Self {
        let dir = tempfile::Builder::new().prefix("epu-live.").tempdir().unwrap();
        let port = ports::free().unwrap();
        fs::write(
            dir.path().join("epu.yaml"),
            format!("data-dir: data\ntick: 100ms\n{}", config(port)),
        )
        .unwrap();
        Self {
            serve: None,
            _fleet: Fleet::of(&dir.path().join("data")),
            dir,
            port,
        }
    }

    async fn start(&mut self) {
        let mut running = self.spawn();
        let ready = running
            .until_ready(SOON, async || match self.client("127.0.0.1").get_text("/readyz").await {
                Ok(_) => Ok(()),
                Err(fault) => Err(Trouble::new("readyz", fault)),
            })
            .await;
        self.serve = Some(running);
        ready.unwrap();
    }

    fn spawn(&self) -> Running {
        Running::start_through(&[], &["serve", "all"], &self.dir.path().join("serve.log"), |command| {
            command.current_dir(self.dir.path()).env_remove("EPU_LOG");
        })
        .unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("serve.log")).unwrap_or_default()
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.dir.path().join(file)).unwrap_or_default()
    }

    /// An operator who pins the authority that the program made.
    fn client(&self, host: &str) -> Client {
        let url = format!("https://{host}:{}", self.port);
        Client::with_roots(url, self.read("data/operator.token"), Roots::Pinned(self.read("data/tls/ca.pem")))
    }

    /// Runs an operator command in its directory, with nothing else said about where to ask; gives exit code, output and errors.
    fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
        let output = process::run(arguments, |command| {
            command.current_dir(self.dir.path());
            for name in ["EPU_URL", "EPU_CA", "EPU_TOKEN", "EPU_CONFIG"] {
                command.env_remove(name);
            }
            command.envs(variables.iter().copied());
        });
        let output = output.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }
}

/// A certificate for `names`, of an authority of its own: the authority, and a file with certificate and key.
fn strange(names: &[&str]) -> (String, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let door = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap().pem();
    (authority, format!("{door}{}", key.serialize_pem()))
}

#[tokio::test]
async fn beyond_loopback_there_is_no_door_without_tls() {
    let site = Site::new(|port| format!("listen: 0.0.0.0:{port}\npools: {{}}\n"));
    let mut refusing = site.spawn();
    let status = refusing.process.wait(SOON).await.unwrap();
    assert_eq!(status.code(), Some(2), "{}", site.log());
    assert!(
        site.log().contains("beyond loopback") && site.log().contains("self-made"),
        "{}",
        site.log()
    );
    let (code, _, err) = site.run(&["config", "check", "epu.yaml"], &[]);
    assert_eq!(code, Some(2), "{err}");
    // The same file may be served on the command line's own responsibility no more than on the file's.
    let site = Site::new(|_| "pools: {}\n".to_owned());
    let (code, _, err) = site.run(&["serve", "all", "--listen", &format!("0.0.0.0:{}", site.port)], &[]);
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("--listen") && err.contains("tls"), "{err}");
}

#[tokio::test]
async fn with_a_self_made_certificate_operators_and_agents_come_in_over_tls() {
    let mut site = Site::new(|port| {
        format!(
            "listen: 0.0.0.0:{port}\nadvertise: https://localhost:{port}\ntls: {{self-made: {{names: [epu.example.org]}}}}\n{}",
            keeping(1)
        )
    });
    site.start().await;

    // Whoever is where it was started names nothing.
    let (code, out, err) = site.run(&["status"], &[]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{}", site.log());
    assert!(out.contains("web"), "{out}");

    // The worker's agent knows the door by the authority, too: without it there is no `600-RUNNING`.
    let running = wait::until(SOON, "one runs", async || {
        let (_, out, err) = site.run(&["instance", "list"], &[]);
        if out.contains("RUNNING") {
            Ok(())
        } else {
            Err(format!("{out}{err}"))
        }
    });
    running.await.unwrap_or_else(|trouble: Trouble| panic!("{trouble}\n{}", site.log()));
    let metrics = site.client("127.0.0.1").get_text("/metrics").await.unwrap();
    let left = metrics.lines().find_map(|line| line.strip_prefix("epu_bus_tls_expires_seconds "));
    let left: i64 = left.unwrap().parse().unwrap();
    assert!((364 * 86_400..=365 * 86_400).contains(&left), "{left}");

    // Another authority is believed in nothing, and the exit code says that it is a matter of trust.
    fs::write(site.dir.path().join("strange.pem"), strange(&["x"]).0).unwrap();
    let (code, _, err) = site.run(&["status", "--ca", "strange.pem"], &[]);
    assert_eq!(code, Some(4), "{err}");
    assert!(err.contains("not trusted") && err.contains("--ca"), "{err}");
    let (code, _, err) = site.run(&["status"], &[("EPU_CA", "strange.pem")]);
    assert_eq!(code, Some(4), "{err}");
    // A name that the certificate does not have: every address of 127/8 leads here.
    let (code, _, err) = site.run(&["status", "--url", &format!("https://127.0.0.2:{}", site.port)], &[]);
    assert_eq!(code, Some(4), "{err}");
    assert!(err.contains("epu.example.org") && err.contains("not for 127.0.0.2"), "{err}");
    // Nor is the token sent in the clear, and a client without TLS is told what to do.
    let plain = format!("http://127.0.0.1:{}", site.port);
    let (code, _, err) = site.run(&["status", "--url", &plain, "--ca", "data/tls/ca.pem"], &[]);
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("write https://"), "{err}");
    let (code, _, err) = site.run(&["status", "--url", &plain], &[]);
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("speaks TLS only"), "{err}");

    // From elsewhere, with what one would copy there: address, token, authority; or the authority among those that the machine trusts.
    let (token, url) = (site.read("data/operator.token"), format!("https://localhost:{}", site.port));
    let away = [
        ("EPU_CONFIG", "elsewhere.yaml"),
        ("EPU_URL", url.as_str()),
        ("EPU_TOKEN", token.trim()),
    ];
    let (code, _, err) = site.run(&["status", "--ca", "data/tls/ca.pem"], &away);
    assert_eq!(code, Some(0), "{err}");
    let trusting = [&away[..], &[("SSL_CERT_FILE", "data/tls/ca.pem")]].concat();
    let (code, _, err) = site.run(&["status"], &trusting);
    assert_eq!(code, Some(0), "{err}");
    let distrusting = [&away[..], &[("SSL_CERT_FILE", "strange.pem"), ("SSL_CERT_DIR", "/nonexistent")]].concat();
    let (code, _, err) = site.run(&["status"], &distrusting);
    assert_eq!(code, Some(4), "{err}");

    // The certificate outlives a restart, and so does the agent's trust in it.
    let (authority, door) = (site.read("data/tls/ca.pem"), site.read("data/tls/door.pem"));
    let mut serve = site.serve.take().unwrap();
    assert!(serve.stop(Duration::from_secs(15)).await.unwrap().success(), "{}", site.log());
    site.start().await;
    assert_eq!((site.read("data/tls/ca.pem"), site.read("data/tls/door.pem")), (authority, door));
    let (code, out, _) = site.run(&["instance", "list"], &[]);
    assert_eq!(code, Some(0));
    assert_eq!(out.matches("RUNNING").count(), 1, "{out}");
    let (code, _, err) = site.run(&["teardown", "--yes"], &[]);
    assert_eq!(code, Some(0), "{err}\n{}", site.log());
}

#[tokio::test]
async fn a_certificate_of_ones_own_is_exchanged_while_it_serves() {
    let mut site = Site::new(|port| {
        format!(
            "listen: 127.0.0.1:{port}\ntls: {{certificate: data/tls/door.pem, key: data/tls/door.pem, ca: data/tls/ca.pem}}\npools: {{}}\n"
        )
    });
    let tls = site.dir.path().join("data/tls");
    fs::create_dir_all(&tls).unwrap();
    let (first_authority, first) = strange(&["127.0.0.1"]);
    fs::write(tls.join("ca.pem"), &first_authority).unwrap();
    fs::write(tls.join("door.pem"), &first).unwrap();
    site.start().await;
    let (code, _, err) = site.run(&["status"], &[]);
    assert_eq!(code, Some(0), "{err}");
    let ask = Request::Status(Nothing {});
    let staying = site.client("127.0.0.1");
    staying.ask(&ask, REQUEST).await.unwrap();

    // What cannot be used changes nothing.
    let serving = site.serve.as_ref().unwrap().process.pid();
    let hang_up = || {
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(i32::try_from(serving).unwrap()).unwrap(),
            Signal::HUP,
        )
        .unwrap()
    };
    fs::write(tls.join("door.pem"), "half a certificate").unwrap();
    hang_up();
    let said = wait::until(SOON, "it says that the new one cannot be used", async || {
        if site.log().contains("keeps its former certificate") {
            Ok(())
        } else {
            Err("not yet")
        }
    });
    said.await.unwrap();
    site.client("127.0.0.1").ask(&ask, REQUEST).await.unwrap();

    // What can, counts for new connections; the open one stays.
    let (second_authority, second) = strange(&["127.0.0.1"]);
    fs::write(tls.join("ca.pem"), &second_authority).unwrap();
    fs::write(tls.join("door.pem"), &second).unwrap();
    hang_up();
    let taken = wait::until(SOON, "the new one counts", async || {
        site.client("127.0.0.1").ask(&ask, REQUEST).await.map(drop)
    });
    taken.await.unwrap();
    staying.ask(&ask, REQUEST).await.unwrap();
    let (code, _, err) = site.run(&["status"], &[]);
    assert_eq!(code, Some(0), "{err}");
}
