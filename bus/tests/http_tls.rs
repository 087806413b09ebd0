//! The door over TLS: what clients believe, what they are told, and that nobody who does not speak it can be in the way.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use epu_bus::Bus;
use epu_bus::http::tls::{self, Files, Look};
use epu_bus::http::{self, Client, Door, Limits, Metrics, Roots, Tls};
use epu_bus::local::LocalBus;
use epu_bus::token::{Keyring, OperatorToken};
use epu_core::Fault;
use epu_core::request::{Answer, Nothing, Request, Service};
use epu_core::time::{ManualClock, Timestamp};
use futures::FutureExt;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const OPERATOR: &str = "operator-token-0123456789";
const SOON: Duration = Duration::from_secs(10);
/// 2026-01-01.
const NOW: Timestamp = Timestamp(1_767_225_600_000);
const DAY_S: i64 = 86_400;

/// An authority, and what it signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// A certificate and its key.
    fn signs(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let mut params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn pinned(&self) -> Roots {
        Roots::Pinned(self.pem.clone())
    }
}

struct World {
    address: String,
    metrics: Metrics,
    clock: Arc<ManualClock>,
    tls: Arc<Tls>,
    stop: CancellationToken,
    serving: JoinHandle<Result<(), http::Error>>,
    home: TempDir,
    _bus: Arc<LocalBus>,
}

impl World {
    async fn showing(pair: &(String, String)) -> Self {
        Self::with(pair, Limits::default()).await
    }

    async fn with(pair: &(String, String), limits: Limits) -> Self {
        let home = tempfile::tempdir().unwrap();
        write(home.path(), pair);
        let clock = Arc::new(ManualClock::at(NOW));
        let metrics = Metrics::new().unwrap();
        let tls = Tls::load(files(home.path()), clock.clone(), metrics.clone()).unwrap();
        let bus = LocalBus::new();
        let mut calls = bus.serve(Service::Controller);
        tokio::spawn(async move {
            while let Some(call) = calls.recv().await {
                call.answer(Ok(Answer::Json(json!("fine"))));
            }
        });
        let door = Door {
            bus: bus.clone(),
            keys: Keyring::new(&[7; 32]).unwrap(),
            operator: OperatorToken::new(OPERATOR).unwrap(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            render: Arc::new(|| Ok(String::new())),
            ready: Arc::new(|| async { Ok(()) }.boxed()),
            limits,
        };
        let listener = http::bind("127.0.0.1:0", false).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(http::serve_tls(listener, door, tls.clone(), stop.clone()));
        Self {
            address,
            metrics,
            clock,
            tls,
            stop,
            serving,
            home,
            _bus: bus,
        }
    }

    fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    async fn asks(&self, roots: Roots) -> Result<Value, Fault> {
        asks(&Client::with_roots(self.url(), OPERATOR, roots)).await
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).await.unwrap()
    }

    fn refused(&self, why: &str) -> u64 {
        self.metrics.refused.with_label_values(&[why]).get()
    }

    fn reloads(&self, outcome: &str) -> u64 {
        self.metrics.tls_reloads.with_label_values(&[outcome]).get()
    }
}

async fn asks(client: &Client) -> Result<Value, Fault> {
    client.ask(&Request::Status(Nothing {}), SOON).await
}

fn files(home: &Path) -> Files {
    Files {
        certificate: home.join("door.pem"),
        key: home.join("door.key"),
    }
}

fn write(home: &Path, (certificate, key): &(String, String)) {
    fs::write(home.join("door.pem"), certificate).unwrap();
    fs::write(home.join("door.key"), key).unwrap();
}

fn good(_: &mut CertificateParams) {}

async fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut bytes)).await;
    read.expect("the door keeps the connection open").ok();
    bytes
}

#[tokio::test]
async fn a_client_that_pins_the_authority_is_answered() {
    let authority = Authority::new("one");
    let world = World::showing(&authority.signs(&["127.0.0.1", "localhost"], good)).await;
    assert_eq!(world.asks(authority.pinned()).await, Ok(json!("fine")));
    let by_name = Client::with_roots(world.url().replace("127.0.0.1", "localhost"), OPERATOR, authority.pinned());
    assert_eq!(asks(&by_name).await, Ok(json!("fine")));
    // A bundle of several will do, too.
    let bundle = format!("{}{}", Authority::new("two").pem, authority.pem);
    assert_eq!(world.asks(Roots::Pinned(bundle)).await, Ok(json!("fine")));
    // And the token still counts.
    let fault = asks(&Client::with_roots(world.url(), "somebody-else-entirely", authority.pinned()))
        .await
        .unwrap_err();
    assert_eq!(fault.code, "unauthorized");
}

#[tokio::test]
async fn a_certificate_that_proves_nothing_gets_no_token_and_the_reason_is_said() {
    let (ours, strange) = (Authority::new("ours"), Authority::new("strange"));
    let cases = [
        (strange.signs(&["127.0.0.1"], good), "authority that is not trusted here", "--ca"),
        (
            ours.signs(&["other.example.org", "10.1.2.3"], good),
            "for other.example.org, 10.1.2.3, and not for 127.0.0.1",
            "self-made.names",
        ),
        (ours.signs(&[], good), "for no name at all", "127.0.0.1"),
        (
            ours.signs(&["127.0.0.1"], |params| params.not_after = date_time_ymd(2020, 2, 3)),
            "expired on 2020-02-03",
            "renew",
        ),
        (
            ours.signs(&["127.0.0.1"], |params| params.not_before = date_time_ymd(2999, 1, 1)),
            "from 2999-01-01",
            "clock",
        ),
        (
            ours.signs(&["127.0.0.1"], |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            "an authority's own",
            "sign",
        ),
    ];
    for (pair, why, hint) in cases {
        let world = World::showing(&pair).await;
        let fault = world.asks(ours.pinned()).await.unwrap_err();
        assert_eq!(fault.code, "not-trusted", "{fault}");
        assert!(fault.text.contains(why) && fault.text.contains(hint), "{fault}");
        assert!(fault.text.contains(&world.url()), "{fault}");
        assert_eq!(world.metrics.requests.with_label_values(&["status", "ok"]).get(), 0);
    }
}

#[tokio::test]
async fn who_speaks_plain_http_is_told_to_speak_tls() {
    let authority = Authority::new("one");
    let world = World::showing(&authority.signs(&["127.0.0.1"], good)).await;
    let fault = asks(&Client::new(format!("http://{}", world.address), OPERATOR)).await.unwrap_err();
    assert_eq!(fault.code, "bad-url");
    assert!(fault.text.contains("https://"), "{fault}");
    let mut stream = world.connect().await;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let answer = String::from_utf8(read_all(&mut stream).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("https://"), "{answer}");
    assert_eq!(world.refused("plain-http"), 2);
    // One with much to say reads the answer all the same.
    let long = Request::PoolAdd(serde_json::from_value(json!({"file": "f", "text": "t".repeat(100_000)})).unwrap());
    let fault = Client::new(format!("http://{}", world.address), OPERATOR)
        .ask(&long, SOON)
        .await
        .unwrap_err();
    assert_eq!(fault.code, "bad-url");
}

#[tokio::test]
async fn who_speaks_tls_to_a_plain_door_is_told_so() {
    let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", plain.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = plain.accept().await {
            stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")
                .await
                .ok();
        }
    });
    let fault = asks(&Client::with_roots(&url, OPERATOR, Authority::new("one").pinned()))
        .await
        .unwrap_err();
    assert_eq!(fault.code, "no-contact");
    assert!(
        fault.text.contains("does not speak TLS") && fault.text.contains("http://"),
        "{fault}"
    );
}

#[tokio::test]
async fn with_a_pinned_authority_nothing_goes_out_in_the_clear() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let fault = asks(&Client::with_roots(&url, OPERATOR, Authority::new("one").pinned()))
        .await
        .unwrap_err();
    assert_eq!(fault.code, "bad-url");
    assert!(fault.text.contains("https://") && !fault.text.contains(OPERATOR), "{fault}");
    let connected = tokio::time::timeout(Duration::from_millis(200), listener.accept()).await;
    assert!(connected.is_err(), "somebody connected");
}

#[tokio::test]
async fn who_does_not_come_to_an_agreement_does_not_keep_his_place() {
    let authority = Authority::new("one");
    let limits = Limits {
        connections: 2,
        handshake: Duration::from_millis(300),
        ..Limits::default()
    };
    let world = World::with(&authority.signs(&["127.0.0.1"], good), limits).await;
    let mut silent = world.connect().await;
    let mut begins = world.connect().await;
    begins.write_all(&[22, 3, 1]).await.unwrap();
    // Both places are taken; whoever comes now waits until they are free again.
    assert_eq!(world.asks(authority.pinned()).await, Ok(json!("fine")));
    assert_eq!(read_all(&mut silent).await, b"");
    read_all(&mut begins).await;
    assert_eq!(world.refused("slow-handshake"), 2);
    // A probe that connects and leaves is nobody's fault.
    drop(world.connect().await);
    let mut junk = world.connect().await;
    junk.write_all(&[22, 3, 1, 0, 4, 1, 2, 3, 4]).await.unwrap();
    read_all(&mut junk).await;
    assert_eq!(
        (
            world.refused("tls-handshake"),
            world.refused("plain-http"),
            world.refused("slow-handshake")
        ),
        (1, 0, 2)
    );
}

#[tokio::test]
async fn a_handshake_in_progress_does_not_hold_up_the_end() {
    let authority = Authority::new("one");
    let limits = Limits {
        handshake: Duration::from_secs(60),
        ..Limits::default()
    };
    let world = World::with(&authority.signs(&["127.0.0.1"], good), limits).await;
    let mut silent = world.connect().await;
    assert_eq!(world.asks(authority.pinned()).await, Ok(json!("fine")));
    world.stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(3), world.serving)
        .await
        .expect("it waits for a handshake");
    ended.unwrap().unwrap();
    assert_eq!(read_all(&mut silent).await, b"");
}

#[tokio::test]
async fn what_is_older_than_tls_1_2_is_refused() {
    let authority = Authority::new("one");
    let world = World::showing(&authority.signs(&["127.0.0.1"], good)).await;
    // The hello of a client that knows TLS 1.1 (RFC 4346, section 7.4.1.2): version, random, no session, two ciphers, no compression. And
    // the extension signature_algorithms, without which newer doors do not even look at the version.
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 4, 0xc0, 0x13, 0x00, 0x2f, 1, 0]);
    hello.extend([0, 8, 0, 13, 0, 4, 0, 2, 4, 1]);
    let length = u8::try_from(hello.len()).unwrap();
    let mut record = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(hello);
    let mut old = world.connect().await;
    old.write_all(&record).await.unwrap();
    let answer = read_all(&mut old).await;
    // A record with an alert (21): fatal (2), protocol_version (70).
    assert_eq!((answer.first(), answer.get(5..7)), (Some(&21), Some(&[2, 70][..])), "{answer:?}");
    assert_eq!(world.refused("tls-handshake"), 1);
}

#[tokio::test]
async fn a_new_certificate_counts_for_new_connections_and_open_ones_stay() {
    let (before, after) = (Authority::new("before"), Authority::new("after"));
    let world = World::showing(&before.signs(&["127.0.0.1"], good)).await;
    let staying = Client::with_roots(world.url(), OPERATOR, before.pinned());
    assert_eq!(asks(&staying).await, Ok(json!("fine")));
    assert!(matches!(world.tls.look(), Look::Same));

    write(world.home.path(), &after.signs(&["127.0.0.1"], good));
    assert!(matches!(world.tls.look(), Look::New(_)));
    assert_eq!(world.asks(after.pinned()).await, Ok(json!("fine")));
    assert_eq!(asks(&staying).await, Ok(json!("fine")), "an open connection was dropped");
    assert_eq!(world.asks(before.pinned()).await.unwrap_err().code, "not-trusted");
    assert_eq!((world.reloads("ok"), world.reloads("failed")), (1, 0));
}

#[tokio::test]
async fn files_that_cannot_be_used_change_nothing() {
    let authority = Authority::new("one");
    let world = World::showing(&authority.signs(&["127.0.0.1"], good)).await;
    let (other, other_key) = authority.signs(&["127.0.0.1"], good);
    let expired = authority.signs(&["127.0.0.1"], |params| params.not_after = date_time_ymd(2025, 12, 31));
    let (_, its_key) = (
        fs::read_to_string(world.home.path().join("door.pem")),
        fs::read_to_string(world.home.path().join("door.key")).unwrap(),
    );
    let nonsense = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n".to_owned();
    let cases = [
        ((other.clone(), its_key), "another pair's"),
        ((String::new(), other_key.clone()), "no PEM certificate"),
        (
            (
                other.clone(),
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n".to_owned(),
            ),
            "no PEM private key",
        ),
        ((nonsense, other_key.clone()), "cannot be read"),
        ((" ".repeat(1024 * 1024 + 1), other_key.clone()), "longer than"),
        (expired, "expired on 2025-12-31"),
    ];
    let mut failed = 0;
    for (pair, why) in cases {
        write(world.home.path(), &pair);
        let Look::Kept(error) = world.tls.look() else {
            panic!("{why}: it was taken")
        };
        let text = epu_core::code::Chain(&error).to_string();
        assert!(text.contains(why) && text.contains("door."), "{text}");
        failed += 1;
        assert_eq!(world.asks(authority.pinned()).await, Ok(json!("fine")), "{why}");
        assert_eq!(world.reloads("failed"), failed);
    }
    fs::remove_file(world.home.path().join("door.pem")).unwrap();
    assert!(matches!(world.tls.look(), Look::Kept(tls::Error::Read { .. })));
    assert_eq!(world.asks(authority.pinned()).await, Ok(json!("fine")));
    // Mended, it is taken.
    write(world.home.path(), &(other, other_key));
    assert!(matches!(world.tls.look(), Look::New(_)));
    assert_eq!(world.asks(authority.pinned()).await, Ok(json!("fine")));
}

#[tokio::test]
async fn how_long_the_certificate_is_good_is_counted_down() {
    let authority = Authority::new("one");
    // Ten days after NOW.
    let pair = authority.signs(&["127.0.0.1"], |params| params.not_after = date_time_ymd(2026, 1, 11));
    let world = World::showing(&pair).await;
    let left = || world.metrics.tls_expires.with_label_values::<&str>(&[]).get();
    assert_eq!(left(), 10 * DAY_S);
    world.clock.advance(Duration::from_secs(11 * 86_400));
    // Nothing better is there, so what expired is still shown: a client says why it does not believe it.
    assert!(matches!(world.tls.look(), Look::Same));
    assert_eq!(left(), -DAY_S);
    write(
        world.home.path(),
        &authority.signs(&["127.0.0.1"], |params| params.not_after = date_time_ymd(2026, 2, 11)),
    );
    assert!(matches!(world.tls.look(), Look::New(_)));
    assert_eq!(left(), 30 * DAY_S);
    assert_eq!(world.tls.expires(), NOW + Duration::from_secs(41 * 86_400));
}

#[test]
fn a_certificate_says_what_it_is_for() {
    let (pem, _) = Authority::new("one").signs(&["a.example.org", "*.b.example.org", "10.0.0.1", "fd00::1"], |params| {
        params.not_after = date_time_ymd(2026, 1, 1);
    });
    let facts = tls::facts_of(&pem).unwrap();
    assert_eq!(facts.names, ["a.example.org", "*.b.example.org", "10.0.0.1", "fd00::1"]);
    assert_eq!(facts.expires, NOW);
    assert!(tls::facts_of("nothing").unwrap_err().contains("no PEM certificate"));
}
