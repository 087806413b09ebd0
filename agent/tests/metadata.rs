//! An agent on a rented machine: its metadata as sites of different kinds give it, notices of interruption, and doors that speak TLS.

#![expect(clippy::unwrap_used, reason = "tests")]

mod services;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use epu_agent::Error;
use epu_agent::metadata::{Metadata, Trouble};
use epu_bus::http::tls::Files;
use epu_core::random::Random;
use epu_core::request::Happened;
use epu_core::time::SystemClock;
use epu_core::{Clock, Timestamp};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use services::{Services, WORKER, exit_of, term};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// How a site's metadata behaves.
#[derive(Clone)]
struct Manner {
    /// The status of the answer to whoever wants a session: 200 gives one.
    session: u16,
    /// Whether a session is demanded.
    demanded: bool,
    /// How long every answer takes.
    takes: Duration,
    index: String,
    life_cycle: Option<&'static str>,
    notice: Option<String>,
    /// Sessions of a lower number are over.
    least_session: u32,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            session: 200,
            demanded: true,
            takes: Duration::ZERO,
            index: "3".to_owned(),
            life_cycle: Some("spot"),
            notice: None,
            least_session: 0,
        }
    }
}

struct Site {
    manner: Arc<Mutex<Manner>>,
    asked: Arc<Mutex<Vec<String>>>,
    url: String,
}

impl Site {
    async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let site = Self {
            manner: Arc::new(Mutex::new(manner)),
            asked: Arc::default(),
            url,
        };
        let (manner, asked) = (site.manner.clone(), site.asked.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, manner.clone(), asked.clone()));
            }
        });
        site
    }

    fn metadata(&self) -> Metadata {
        Metadata::new(&self.url)
    }

    fn change(&self, change: impl FnOnce(&mut Manner)) {
        change(&mut self.manner.lock().unwrap());
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    async fn index(&self) -> Result<u32, Error> {
        self.metadata().launch_index(&SystemClock::start(), &Random::seeded(7)).await
    }
}

async fn answer(mut stream: TcpStream, manner: Arc<Mutex<Manner>>, asked: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut some = [0; 1_024];
        match stream.read(&mut some).await {
            Ok(read) if read > 0 => head.extend_from_slice(&some[..read]),
            _ => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let first = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
    let header = |name: &str| {
        head.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
    };
    let session = header("x-aws-ec2-metadata-token").map(|text| text.trim_start_matches("session-").parse::<u32>().unwrap());
    let number = {
        let mut asked = asked.lock().unwrap();
        asked.push(first.clone());
        u32::try_from(asked.len()).unwrap()
    };
    let manner = manner.lock().unwrap().clone();
    sleep(manner.takes).await;
    let is_good = session.is_some_and(|session| session >= manner.least_session);
    let (status, body) = match first.as_str() {
        "PUT /latest/api/token" if manner.session == 200 => {
            assert_eq!(header("x-aws-ec2-metadata-token-ttl-seconds").as_deref(), Some("21600"));
            (200, format!("session-{number}"))
        }
        "PUT /latest/api/token" => (manner.session, "<html>no</html>".to_owned()),
        _ if manner.demanded && !is_good => (401, "Unauthorized".to_owned()),
        "GET /latest/meta-data/ami-launch-index" => (200, manner.index),
        "GET /latest/meta-data/instance-life-cycle" if manner.life_cycle.is_some() => (200, manner.life_cycle.unwrap().to_owned()),
        "GET /latest/meta-data/spot/instance-action" if manner.notice.is_some() => (200, manner.notice.unwrap()),
        _ => (404, "<html>not found</html>".to_owned()),
    };
    let text = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    // Whoever gave up waiting is not there any more.
    drop(stream.write_all(text.as_bytes()).await);
}

#[tokio::test]
async fn a_site_that_demands_a_session_gets_one() {
    let site = Site::start(Manner::default()).await;
    assert_eq!(site.index().await.unwrap(), 3);
    assert_eq!(site.asked(), ["PUT /latest/api/token", "GET /latest/meta-data/ami-launch-index"]);
}

#[tokio::test]
async fn a_session_that_is_over_is_begun_anew_once() {
    let site = Site::start(Manner::default()).await;
    let metadata = site.metadata();
    assert_eq!(metadata.get("meta-data/ami-launch-index").await, Ok(Some("3".to_owned())));
    site.change(|manner| manner.least_session = 2);
    assert_eq!(metadata.get("meta-data/ami-launch-index").await, Ok(Some("3".to_owned())));
    assert_eq!(site.asked().iter().filter(|asked| asked.starts_with("PUT")).count(), 2);
    site.change(|manner| manner.least_session = 1_000);
    assert!(matches!(
        metadata.get("meta-data/ami-launch-index").await,
        Err(Trouble::Refused { status: 401, .. })
    ));
    assert_eq!(site.asked().len(), 8, "it does not go round and round: {:?}", site.asked());
}

#[tokio::test]
async fn a_site_without_sessions_is_asked_without_and_one_that_refuses_is_not() {
    for status in [404, 405] {
        let manner = Manner {
            session: status,
            demanded: false,
            ..Manner::default()
        };
        let site = Site::start(manner).await;
        assert_eq!(site.index().await.unwrap(), 3);
        assert_eq!(site.metadata().get("meta-data/nothing").await, Ok(None));
    }
    let manner = Manner {
        session: 403,
        demanded: false,
        ..Manner::default()
    };
    let site = Site::start(manner).await;
    let trouble = site.metadata().get("meta-data/ami-launch-index").await;
    assert!(matches!(trouble, Err(Trouble::Refused { status: 403, .. })), "{trouble:?}");
}

#[tokio::test]
async fn a_slow_answer_is_waited_for_and_a_very_slow_one_is_no_leave_to_ask_without_session() {
    let site = Site::start(Manner {
        takes: Duration::from_millis(1_500),
        ..Manner::default()
    })
    .await;
    assert_eq!(site.index().await.unwrap(), 3);
    site.change(|manner| manner.takes = Duration::from_secs(60));
    let before = site.asked().len();
    let trouble = site.metadata().get("meta-data/ami-launch-index").await;
    assert!(
        matches!(&trouble, Err(Trouble::NoAnswer { what, .. }) if what == "api/token"),
        "{trouble:?}"
    );
    assert_eq!(site.asked()[before..], ["PUT /latest/api/token"]);
}

#[tokio::test]
async fn nonsense_and_absence_are_asked_again_until_there_is_an_index() {
    let site = Site::start(Manner {
        index: "<html>starting</html>".to_owned(),
        ..Manner::default()
    })
    .await;
    let asking = async {
        sleep(Duration::from_millis(600)).await;
        site.change(|manner| manner.index = "17\n".to_owned());
    };
    let (index, ()) = tokio::join!(site.index(), asking);
    assert_eq!(index.unwrap(), 17);
}

/// The clock that time is measured by; the network does not wait for it.
#[derive(Debug)]
struct Hurried(tokio::time::Instant);

impl Clock for Hurried {
    fn now(&self) -> Timestamp {
        Timestamp(0) + self.0.elapsed() * 400
    }
}

#[tokio::test]
async fn an_index_that_never_comes_is_given_up_and_the_text_says_what_to_do() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    #[expect(clippy::disallowed_methods, reason = "this is the clock of the test")]
    let clock = Hurried(tokio::time::Instant::now());
    let error = Metadata::new(&url).launch_index(&clock, &Random::seeded(7)).await.unwrap_err();
    assert_eq!(error.exit_code(), 7);
    let text = error.to_string();
    assert!(
        text.contains(&url) && text.contains("for 10m") && text.contains("hops: 2"),
        "{text}"
    );
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let site = Site::start(Manner {
        index: "9".repeat(1_000_000),
        ..Manner::default()
    })
    .await;
    let trouble = site.metadata().get("meta-data/ami-launch-index").await;
    assert!(matches!(trouble, Err(Trouble::NoAnswer { .. })), "{trouble:?}");
}

#[tokio::test]
async fn a_notice_is_told_once_it_is_there_and_machines_that_stay_are_not_watched() {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let kept = Site::start(Manner {
        life_cycle: Some("on-demand"),
        notice: Some(r#"{"action": "terminate", "time": ""}"#.to_owned()),
        ..Manner::default()
    })
    .await;
    let (told, mut taken) = watch::channel(None);
    let metadata = kept.metadata();
    let watching = tokio::spawn({
        let clock = clock.clone();
        async move { metadata.watch(clock, told).await }
    });
    assert!(timeout(Duration::from_millis(500), taken.changed()).await.is_err());
    assert_eq!(kept.asked().last().unwrap(), "GET /latest/meta-data/instance-life-cycle");
    drop(taken);
    timeout(Duration::from_secs(5), watching).await.unwrap().unwrap();

    // Of what kind it is need not be known.
    let at = clock.now() + Duration::from_secs(100);
    let site = Site::start(Manner {
        life_cycle: None,
        notice: Some(format!(r#"{{"action": "terminate", "time": "{}"}}"#, at.rfc3339())),
        ..Manner::default()
    })
    .await;
    let (told, mut taken) = watch::channel(None);
    let metadata = site.metadata();
    tokio::spawn(async move { metadata.watch(clock, told).await });
    let said = timeout(Duration::from_secs(5), taken.wait_for(Option::is_some))
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(said.0 / 1_000, at.0 / 1_000);
}

fn on_a_rented_machine(services: &Services, site: &Site) -> Command {
    let mut command = services.command();
    command.env("EPU_INDEX", "metadata").env("EPU_METADATA", &site.url);
    command
}

#[tokio::test]
async fn a_machine_that_is_taken_away_says_so_and_drains() {
    let site = Site::start(Manner {
        index: "0".to_owned(),
        ..Manner::default()
    })
    .await;
    let services = Services::start("echo $EPU_INDEX > index", WORKER).await;
    let agent = on_a_rented_machine(&services, &site).spawn().unwrap();
    services.until("idle", |seen| !seen.beats.is_empty()).await;
    assert_eq!(
        fs::read_to_string(services.home.path().join("index")).unwrap(),
        "0\n",
        "its programs know it too"
    );

    let at = SystemClock::start().now() + Duration::from_secs(110);
    let notice = format!(r#"{{"action": "terminate", "time": "{}"}}"#, at.rfc3339());
    site.change(|manner| manner.notice = Some(notice));
    assert_eq!(exit_of(agent).await.code(), Some(0), "{}", services.log());
    let happened = services.happened();
    let [
        Happened::Ready { .. },
        Happened::Interruption { within },
        Happened::Drained { exit },
    ] = &happened[..]
    else {
        panic!("{happened:?}");
    };
    assert!((95..=110).contains(&within.as_secs()), "{within}");
    assert_eq!(exit.output, "draining");
}

#[tokio::test]
async fn a_restarted_agent_needs_no_metadata_and_another_launchs_agent_is_not_its_own() {
    let site = Site::start(Manner {
        index: "0".to_owned(),
        ..Manner::default()
    })
    .await;
    let services = Services::start("echo x >> set-ups", WORKER).await;
    let mut first = on_a_rented_machine(&services, &site).spawn().unwrap();
    services.until("heard", |seen| !seen.beats.is_empty()).await;
    first.kill().unwrap();
    first.wait().unwrap();

    // Its worker lives on, and its index was kept.
    site.change(|manner| manner.session = 500);
    let heard = services.seen.lock().unwrap().beats.len();
    let second = on_a_rented_machine(&services, &site).spawn().unwrap();
    services.until("heard again", |seen| seen.beats.len() > heard).await;
    assert_eq!(fs::read_to_string(services.home.path().join("set-ups")).unwrap(), "x\n");
    term(&second);
    exit_of(second).await;

    // The same directory in an image, booted for another launch.
    site.change(|manner| manner.session = 200);
    fs::write(services.home.path().join("run/drain"), "1").unwrap();
    services.seen.lock().unwrap().claims.clear();
    let third = on_a_rented_machine(&services, &site)
        .env("EPU_LAUNCH", "01890000-0000-7000-8000-00000000000a")
        .spawn()
        .unwrap();
    services
        .until("refused", |_| services.log().contains("an agent of another launch"))
        .await;
    // The door refuses it: the token is the first launch's.
    services.until("asked", |_| services.log().contains("not accepted")).await;
    assert!(!services.home.path().join("run/drain").exists() && !services.home.path().join("exit.json").exists());
    term(&third);
    exit_of(third).await;
}

/// An authority, and a certificate for localhost that it signed.
fn certificate(directory: &Path, name: &str, expired: bool) -> (PathBuf, Files) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    if expired {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    }
    let key = KeyPair::generate().unwrap();
    let signed = params.signed_by(&key, &issuer).unwrap();
    let write = |suffix: &str, text: String| {
        let path = directory.join(format!("{name}-{suffix}.pem"));
        fs::write(&path, text).unwrap();
        path
    };
    let files = Files {
        certificate: write("certificate", signed.pem()),
        key: write("key", key.serialize_pem()),
    };
    (write("ca", authority.pem()), files)
}

#[tokio::test]
async fn over_tls_an_agent_believes_its_own_authority_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let (ca, files) = certificate(directory.path(), "good", false);
    let (other, expired) = certificate(directory.path(), "expired", true);

    let services = Services::behind("true", WORKER, Some(files)).await;
    fs::copy(&ca, services.home.path().join("ca.pem")).unwrap();
    let mut stranger = services.command().env("EPU_CA", &other).spawn().unwrap();
    services
        .until("mistrusted", |_| services.log().contains("not trusted, and nothing was sent"))
        .await;
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    let mut open = services.command().spawn().unwrap();
    let before = services.log().len();
    services
        .until("mistrusted by the machine's own authorities", |_| {
            let log = services.log();
            log[before..].contains("not trusted, and nothing was sent") || log[before..].contains("trusts no authority")
        })
        .await;
    open.kill().unwrap();
    open.wait().unwrap();
    assert!(services.seen.lock().unwrap().claims.is_empty(), "nothing of it arrived");

    let agent = services.command().env("EPU_CA", "ca.pem").spawn().unwrap();
    services.until("heard", |seen| !seen.beats.is_empty()).await;
    term(&agent);
    assert_eq!(exit_of(agent).await.code(), Some(0), "{}", services.log());

    let services = Services::behind("true", WORKER, Some(expired)).await;
    let mut agent = services.command().env("EPU_CA", &other).spawn().unwrap();
    services
        .until("mistrusted for its age", |_| {
            services.log().contains("certificate expired on 2021-01-01")
        })
        .await;
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert!(services.seen.lock().unwrap().claims.is_empty());
}

#[tokio::test]
async fn settings_that_would_send_tokens_in_the_open_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (ca, _) = certificate(directory.path(), "a", false);
    let services = Services::start("true", "true").await;
    let agent = services
        .command()
        .env("EPU_CA", &ca)
        .env("EPU_URL", "http://192.0.2.1:7311")
        .spawn()
        .unwrap();
    assert_eq!(exit_of(agent).await.code(), Some(2));
    assert!(services.log().contains("only https:// is asked at"), "{}", services.log());

    // Within the machine there is nothing to protect a token from.
    let agent = services.command().env("EPU_CA", &ca).spawn().unwrap();
    services.until("ready", |seen| !seen.happened.is_empty()).await;
    term(&agent);
    exit_of(agent).await;
}
