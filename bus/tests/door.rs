//! The door over a real socket, with the local bus behind it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::sync::Arc;
use std::time::Duration;

use epu_bus::http::{self, Client, Door, Limits, Metrics};
use epu_bus::local::LocalBus;
use epu_bus::token::{Keyring, OperatorToken};
use epu_bus::{Bus, Calls};
use epu_core::code::Chain;
use epu_core::heartbeat::{Heartbeat, Orders};
use epu_core::id::{InstanceId, LaunchId};
use epu_core::instance::{Cause, Drain};
use epu_core::request::{Answer, Caller, ContextClaim, Nothing, PoolRef, Reply, Request, Service};
use epu_core::time::{ManualClock, Timestamp};
use epu_core::{Fault, PoolName};
use futures::FutureExt;
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const OPERATOR: &str = "operator-token-0123456789";
const SOON: Duration = Duration::from_secs(10);
const NOW: Timestamp = Timestamp(1_763_840_236_000);

struct World {
    url: String,
    bus: Arc<LocalBus>,
    keys: Keyring,
    metrics: Metrics,
    stop: CancellationToken,
    serving: JoinHandle<Result<(), http::server::Error>>,
}

impl World {
    async fn new() -> Self {
        Self::with(Limits::default()).await
    }

    async fn with(limits: Limits) -> Self {
        let bus = LocalBus::new();
        let keys = Keyring::new(&[7; 32]).unwrap();
        let metrics = Metrics::new().unwrap();
        let door = Door {
            bus: bus.clone(),
            keys: keys.clone(),
            operator: OperatorToken::new(OPERATOR).unwrap(),
            clock: Arc::new(ManualClock::at(NOW)),
            metrics: metrics.clone(),
            render: Arc::new(|| Ok("# all is well\n".to_owned())),
            ready: Arc::new(|| async { Err(Fault::new("no-contact", "still loading")) }.boxed()),
            limits,
        };
        let listener = http::bind("127.0.0.1:0", false).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let serving = tokio::spawn(http::serve(listener, door, stop.clone()));
        Self {
            url,
            bus,
            keys,
            metrics,
            stop,
            serving,
        }
    }

    fn operator(&self) -> Client {
        Client::new(&self.url, OPERATOR)
    }

    fn agent(&self) -> Client {
        Client::new(&self.url, self.keys.mint_instance(instance()))
    }

    fn refused(&self, why: &str) -> u64 {
        self.metrics.refused.with_label_values(&[why]).get()
    }

    /// Sends bytes as they are and reads until the door closes the connection.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        read_all(&mut stream).await
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.url.trim_start_matches("http://")).await.unwrap()
    }

    async fn post(&self, token: &str, body: &str) -> (u16, Reply) {
        let length = body.len();
        let answer = self
            .raw(
                format!(
                    "POST /v1/ask HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\ncontent-length: {length}\r\n\r\n{body}"
                )
                .as_bytes(),
            )
            .await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {body}")))
    }
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    tokio::time::timeout(SOON, stream.read_to_end(&mut answer))
        .await
        .expect("the door keeps the connection open")
        .ok();
    String::from_utf8(answer).unwrap()
}

fn instance() -> InstanceId {
    "0193a5a0-0000-7000-8000-000000000011".parse().unwrap()
}

fn launch() -> LaunchId {
    "0193a5a0-0000-7000-8000-000000000001".parse().unwrap()
}

fn heartbeat() -> Request {
    let heartbeat: Heartbeat = serde_json::from_value(json!({
        "instance": instance(), "sequence": 1, "started_at_ms": 1, "sent_at_ms": 1, "condition": {"is": "ok"}, "work": "busy"
    }))
    .unwrap();
    Request::Heartbeat(Box::new(heartbeat))
}

fn status() -> Request {
    Request::Status(Nothing {})
}

fn answering(mut calls: Calls, answer: Result<Answer, Fault>) -> JoinHandle<Vec<Caller>> {
    tokio::spawn(async move {
        let mut callers = Vec::new();
        while let Some(call) = calls.recv().await {
            callers.push(call.caller.clone());
            call.answer(answer.clone());
        }
        callers
    })
}

#[tokio::test]
async fn an_operator_is_answered() {
    let world = World::new().await;
    let serving = answering(world.bus.serve(Service::Controller), Ok(Answer::Json(json!({"pools": ["wéb"]}))));
    let client = world.operator();
    for _ in 0..3 {
        assert_eq!(client.ask(&status(), SOON).await, Ok(json!({"pools": ["wéb"]})));
    }
    drop(world.bus.serve(Service::Controller));
    assert_eq!(serving.await.unwrap(), vec![Caller::Operator("operator".to_owned()); 3]);
    assert_eq!(world.metrics.requests.with_label_values(&["status", "ok"]).get(), 3);
    assert_eq!(world.metrics.seconds.with_label_values(&["status"]).get_sample_count(), 3);
    assert_eq!(world.metrics.connections.get(), 1, "the connection is kept between requests");
}

#[tokio::test]
async fn a_service_s_fault_arrives_with_its_status() {
    let world = World::new().await;
    let show = Request::PoolShow(PoolRef {
        pool: PoolName::new("web").unwrap(),
    });
    let body = serde_json::to_string(&show).unwrap();
    for (code, status) in [("no-such-pool", 404), ("closed", 409), ("internal", 500), ("site-on-fire", 500)] {
        let fault = Fault::new(code, "in words");
        answering(world.bus.serve(Service::Controller), Err(fault.clone()));
        assert_eq!(world.operator().ask(&show, SOON).await, Err(fault.clone()));
        let (got, reply) = world.post(OPERATOR, &body).await;
        assert_eq!((got, reply.error, reply.result), (status, Some(fault), Value::Null));
    }
    assert_eq!(world.metrics.requests.with_label_values(&["pool_show", "other"]).get(), 2);
}

#[tokio::test]
async fn an_agent_gets_its_orders_for_a_heartbeat() {
    let world = World::new().await;
    let orders = Orders {
        drain: Some(Drain {
            since: Timestamp(1),
            deadline: Timestamp(2),
            why: Cause::ScaleIn,
        }),
        stop: false,
    };
    answering(world.bus.serve(Service::Aggregator), Ok(Answer::Orders(orders.clone())));
    let answer = world.agent().ask(&heartbeat(), SOON).await.unwrap();
    assert_eq!(serde_json::from_value::<Orders>(answer).unwrap(), orders);
}

#[tokio::test]
async fn a_launch_token_claims_a_context_until_it_expires() {
    let world = World::new().await;
    answering(world.bus.serve(Service::Provisioner), Ok(Answer::Json(json!("context"))));
    let claim = Request::Context(ContextClaim {
        launch: launch(),
        index: 0,
        nonce: "n".to_owned(),
    });
    let good = Client::new(&world.url, world.keys.mint_launch(launch(), NOW + SOON));
    assert_eq!(good.ask(&claim, SOON).await, Ok(json!("context")));
    let late = Client::new(&world.url, world.keys.mint_launch(launch(), NOW));
    let fault = late.ask(&claim, SOON).await.unwrap_err();
    assert_eq!(fault.code, "unauthorized");
    assert!(fault.text.contains("expired"), "{fault}");
    assert_eq!(world.refused("launch-token-expired"), 1);
    assert_eq!(good.ask(&heartbeat(), SOON).await.unwrap_err().code, "forbidden");
    assert_eq!(world.refused("forbidden"), 1);
}

#[tokio::test]
async fn a_wrong_token_is_refused_and_counted_by_kind() {
    let world = World::new().await;
    let others = Keyring::new(&[8; 32]).unwrap();
    for (token, why) in [
        ("wrong-but-long-enough", "operator-token"),
        (&others.mint_instance(instance()), "instance-token"),
        (&others.mint_launch(launch(), Timestamp::NEVER), "launch-token"),
        ("i.junk", "malformed-token"),
    ] {
        let body = serde_json::to_string(&heartbeat()).unwrap();
        let (status, reply) = world.post(token, &body).await;
        assert_eq!((status, reply.error.unwrap().code.as_ref()), (401, "unauthorized"), "{token}");
        assert_eq!(world.refused(why), 1, "{token}");
        assert_eq!(
            Client::new(&world.url, token).ask(&heartbeat(), SOON).await.unwrap_err().code,
            "unauthorized"
        );
    }
    let answer = world
        .raw(b"POST /v1/ask HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}")
        .await;
    assert!(
        answer.starts_with("HTTP/1.1 401") && answer.contains("www-authenticate: Bearer"),
        "{answer}"
    );
    assert_eq!(world.refused("no-token"), 1);
}

#[tokio::test]
async fn what_is_not_a_request_is_refused_with_its_place() {
    let world = World::new().await;
    let nested = format!(
        r#"{{"op": "pool_reconfigure", "args": {{"pool": "web", "set": {{"a": {}"#,
        "[".repeat(1000)
    );
    for (body, says) in [
        ("", "line 1 column 0"),
        ("{\"op\": \"status\",\n \"args\": {},}", "line 2 column"),
        ("{\"op\": \"pool_show\", \"args\": {}}", "missing field `pool` at line 1 column"),
        (
            "{\"op\": \"dance\", \"args\": {}}",
            "unknown variant `dance`, expected one of `launch`",
        ),
        ("{\"op\": \"pool_show\", \"args\": {\"pool\": \"a b\"}}", "is not a name"),
        ("[1]", "docs/wire.md"),
        (&nested, "recursion limit exceeded at line 1 column"),
        ("\u{0}\u{1}", "line 1 column 1"),
    ] {
        let (status, reply) = world.post(OPERATOR, body).await;
        let fault = reply.error.unwrap();
        assert_eq!((status, fault.code.as_ref()), (400, "bad-request"), "{body:?}");
        assert!(fault.text.contains(says), "{body:?}: {fault}");
    }
    let long = format!("{{\"op\": \"{}\", \"args\": {{}}}}", "x".repeat(100_000));
    let (_, reply) = world.post(OPERATOR, &long).await;
    assert!(reply.error.unwrap().text.len() < 1_000, "the whole of a long mistake is repeated");
    assert_eq!(world.refused("bad-json"), 9);
}

#[tokio::test]
async fn a_megabyte_long_heartbeat_is_refused_and_its_sender_learns_why() {
    let world = World::new().await;
    let megabyte = "x".repeat(1024 * 1024);
    let token = world.keys.mint_instance(instance());
    let (status, reply) = world.post(&token, &megabyte).await;
    let fault = reply.error.unwrap();
    assert_eq!((status, fault.code.as_ref()), (413, "too-large"));
    assert!(fault.text.contains("65536 bytes"), "{fault}");
    // In chunks it is no different, and an operator may send more than an agent.
    let chunked = format!(
        "POST /v1/ask HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{megabyte}\r\n0\r\n\r\n",
        megabyte.len()
    );
    let answer = world.raw(chunked.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert_eq!(world.refused("too-large"), 2);
    let (status, _) = world.post(OPERATOR, &megabyte).await;
    assert_eq!(status, 400, "as long as an operator's may be, but no JSON");
    let (status, _) = world.post(OPERATOR, &format!("{megabyte}x")).await;
    assert_eq!(status, 413);
    let (status, _) = world.post("nobody-that-is-known", &megabyte).await;
    assert_eq!(status, 401);
    // And the door still works.
    answering(world.bus.serve(Service::Aggregator), Ok(Answer::Orders(Orders::default())));
    assert!(world.agent().ask(&heartbeat(), SOON).await.is_ok());
}

#[tokio::test]
async fn where_nobody_serves_and_where_nobody_answers_is_told_apart() {
    let world = World::with(Limits {
        ask: Duration::from_millis(200),
        ..Limits::default()
    })
    .await;
    let fault = world.operator().ask(&status(), SOON).await.unwrap_err();
    assert_eq!(fault.code, "no-contact");
    let calls = world.bus.serve(Service::Controller);
    let (code, reply) = world.post(OPERATOR, r#"{"op":"status","args":{}}"#).await;
    assert_eq!((code, reply.error.unwrap().code.as_ref()), (504, "timeout"));
    let fault = world.operator().ask(&status(), Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(fault.code, "timeout");
    assert!(fault.text.contains(&world.url) && fault.text.contains("50ms"), "{fault}");
    drop(calls);
}

#[tokio::test]
async fn other_paths_and_methods_say_what_there_is() {
    let world = World::new().await;
    let client = world.operator();
    assert_eq!(client.get_text("/healthz").await.unwrap(), "ok\n");
    assert_eq!(client.get_text("/metrics").await.unwrap(), "# all is well\n");
    let fault = client.get_text("/readyz").await.unwrap_err();
    assert_eq!(fault.code, "no-contact");
    assert!(fault.text.contains("503") && fault.text.contains("still loading"), "{fault}");
    let fault = client.get_text("/admin").await.unwrap_err();
    assert!(fault.text.contains("404") && fault.text.contains("/v1/ask"), "{fault}");
    let fault = client.get_text("/v1/ask").await.unwrap_err();
    assert!(fault.text.contains("405") && fault.text.contains("POST"), "{fault}");
    assert_eq!((world.refused("wrong-path"), world.refused("wrong-method")), (1, 1));
}

#[tokio::test]
async fn slow_clients_do_not_keep_their_place() {
    let world = World::with(Limits {
        connections: 2,
        header: Duration::from_millis(300),
        body: Duration::from_millis(300),
        ..Limits::default()
    })
    .await;
    answering(world.bus.serve(Service::Controller), Ok(Answer::Json(json!(1))));
    let mut silent = world.connect().await;
    let mut slow = world.connect().await;
    slow.write_all(
        format!("POST /v1/ask HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {OPERATOR}\r\ncontent-length: 100\r\n\r\n{{").as_bytes(),
    )
    .await
    .unwrap();
    // Both places are taken; whoever comes now waits until they are free again.
    assert_eq!(world.operator().ask(&status(), SOON).await, Ok(json!(1)));
    assert_eq!(read_all(&mut silent).await, "");
    let answer = read_all(&mut slow).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert_eq!(world.refused("slow-body"), 1);
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_cut_off() {
    let world = World::with(Limits {
        stalled: Duration::from_millis(300),
        ..Limits::default()
    })
    .await;
    answering(
        world.bus.serve(Service::Controller),
        Ok(Answer::Json(json!("x".repeat(32 * 1024 * 1024)))),
    );
    let mut stalled = world.connect().await;
    let body = r#"{"op":"status","args":{}}"#;
    let length = body.len();
    let head = format!("POST /v1/ask HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {OPERATOR}\r\ncontent-length: {length}\r\n\r\n");
    stalled.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let gone = async {
        while world.metrics.requests.with_label_values(&["status", "ok"]).get() == 0 || world.metrics.connections.get() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, gone)
        .await
        .expect("the connection is kept for a client that does not read");
    // One that reads gets it all.
    let answer = world.operator().ask(&status(), SOON).await.unwrap();
    assert_eq!(answer.as_str().unwrap().len(), 32 * 1024 * 1024);
}

#[tokio::test]
async fn clients_that_stay_connected_do_not_lock_others_out() {
    let world = World::with(Limits {
        connections: 8,
        ..Limits::default()
    })
    .await;
    answering(world.bus.serve(Service::Controller), Ok(Answer::Json(json!(1))));
    let staying: Vec<Client> = (0..20).map(|_| world.operator()).collect();
    for round in 0..2 {
        for answer in join_all(staying.iter().map(|client| async { client.ask(&status(), SOON).await })).await {
            assert_eq!(answer, Ok(json!(1)), "round {round}");
        }
    }
}

#[tokio::test]
async fn a_hundred_agents_at_once_are_answered() {
    let world = World::new().await;
    let serving = answering(world.bus.serve(Service::Aggregator), Ok(Answer::Orders(Orders::default())));
    let client = world.agent();
    let beats = (0..100).map(|_| {
        let client = client.clone();
        async move { client.ask(&heartbeat(), SOON).await }
    });
    for answer in join_all(beats).await {
        assert!(answer.is_ok(), "{answer:?}");
    }
    drop(world.bus.serve(Service::Aggregator));
    assert_eq!(serving.await.unwrap(), vec![Caller::Instance(instance()); 100]);
}

#[tokio::test]
async fn stopping_lets_an_open_request_end_and_takes_no_new_one() {
    let world = World::new().await;
    let mut calls = world.bus.serve(Service::Controller);
    let client = world.operator();
    let asking = tokio::spawn(async move { client.ask(&status(), SOON).await });
    let call = calls.recv().await.unwrap();
    let idle = world.connect().await;
    world.stop.cancel();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let fault = world.operator().ask(&status(), SOON).await.unwrap_err();
    assert_eq!(fault.code, "no-contact", "{fault}");
    call.answer(Ok(Answer::Json(json!("done"))));
    assert_eq!(asking.await.unwrap(), Ok(json!("done")));
    tokio::time::timeout(Duration::from_secs(7), world.serving)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    drop(idle);
}

#[tokio::test]
async fn stopping_does_not_wait_for_ever() {
    let world = World::with(Limits {
        stop: Duration::from_millis(200),
        ..Limits::default()
    })
    .await;
    let mut calls = world.bus.serve(Service::Controller);
    let client = world.operator();
    let asking = tokio::spawn(async move { client.ask(&status(), SOON).await });
    let call = calls.recv().await.unwrap();
    world.stop.cancel();
    tokio::time::timeout(Duration::from_secs(3), world.serving)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let fault = asking.await.unwrap().unwrap_err();
    assert_eq!(fault.code, "no-contact", "{fault}");
    assert!(fault.text.contains("may have been done"), "{fault}");
    assert_eq!(world.metrics.connections.get(), 0, "a connection that was cut off is still counted");
    drop(call);
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let first = http::bind("127.0.0.1:0", false).await.unwrap();
    let address = first.local_addr().unwrap().to_string();
    let error = http::bind(&address, false).await.unwrap_err();
    let text = Chain(&error).to_string();
    assert!(
        text.contains(&address) && text.contains("taken") && text.contains("`listen`"),
        "{text}"
    );
}

#[tokio::test]
async fn nothing_listens_beyond_loopback_unless_allowed() {
    for address in ["0.0.0.0:0", "[::]:0"] {
        let text = http::bind(address, false).await.unwrap_err().to_string();
        assert!(text.contains("reachable from other machines"), "{text}");
    }
    http::bind("0.0.0.0:0", true).await.unwrap();
    http::bind("localhost:0", false).await.unwrap();
    for wrong in ["", "127.0.0.1", "127.0.0.1:99999", "not an address:1"] {
        let error = http::bind(wrong, false).await.unwrap_err();
        assert!(matches!(error, http::server::Error::BadAddress { .. }), "{wrong}: {error}");
    }
}

#[tokio::test]
async fn a_client_says_what_it_found_instead_of_a_door() {
    // Nobody there.
    let url = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let fault = Client::new(&url, OPERATOR).ask(&status(), SOON).await.unwrap_err();
    assert_eq!(fault.code, "no-contact");
    assert!(
        fault.text.contains(&url) && fault.text.contains("refused") && fault.text.contains("epumgmt serve"),
        "{fault}"
    );
    assert_eq!(
        Client::new("ftp://127.0.0.1:1", OPERATOR)
            .ask(&status(), SOON)
            .await
            .unwrap_err()
            .code,
        "bad-url"
    );
    assert_eq!(
        Client::new(&url, "a\nb").ask(&status(), SOON).await.unwrap_err().code,
        "unauthorized"
    );

    // Somebody else there.
    for (said, code) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", "internal"),
        ("HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\nno", "unauthorized"),
        ("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n", "no-contact"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{", "no-contact"),
        ("SSH-2.0-OpenSSH\r\n", "no-contact"),
        ("", "no-contact"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let other = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            assert!(length > 0);
            stream.write_all(said.as_bytes()).await.unwrap();
        });
        let fault = Client::new(&url, OPERATOR).ask(&status(), SOON).await.unwrap_err();
        assert_eq!(fault.code, code, "{said:?}: {fault}");
        assert!(fault.text.contains(&url), "{fault}");
        other.await.unwrap();
    }
}

#[tokio::test]
async fn an_endless_answer_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let length = stream.read(&mut [0; 4096]).await.unwrap();
        assert!(length > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let much = vec![b'x'; 1024 * 1024];
        while stream.write_all(&much).await.is_ok() {}
    });
    let fault = Client::new(&url, OPERATOR)
        .ask(&status(), Duration::from_secs(60))
        .await
        .unwrap_err();
    assert_eq!(fault.code, "too-large", "{fault}");
}
