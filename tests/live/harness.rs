//! The harness does what it says. Without this, a passing live test would prove little.

use std::collections::BTreeSet;
use std::time::Duration;

use epu_tests::keeper::{self, Kept};
use epu_tests::processes::{EndsTagged, Proc};
use epu_tests::prometheus::{self, Prometheus};
use epu_tests::rabbit::{PASSWORD, Rabbit, USER};
use epu_tests::wait::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_queue_given_three_messages_has_three_and_the_held_ones_are_counted_apart() {
    let rabbit = Rabbit::shared().await.unwrap();
    rabbit.declare("three").await.unwrap();
    rabbit.publish("three", 3).await.unwrap();
    assert_eq!(rabbit.ready("three").await.unwrap(), 3);

    let held = rabbit.take("three", 2).await.unwrap();
    assert_eq!((held.count, rabbit.ready("three").await.unwrap()), (2, 1));
    eventually(SOON, "management counts one ready and two unacknowledged", async || {
        let page = rabbit.management("GET", "/api/queues/%2F/three", "").await.unwrap().json().unwrap();
        page["messages_ready"] == 1 && page["messages_unacknowledged"] == 2
    })
    .await;

    held.give_back().await.unwrap();
    eventually(SOON, "the held ones are back", async || rabbit.ready("three").await.unwrap() == 3).await;
    rabbit.delete("three").await.unwrap();
    let trouble = rabbit.ready("three").await.unwrap_err();
    assert!(trouble.0.contains("NOT_FOUND") || trouble.0.contains("NOT-FOUND"), "{trouble}");
}

#[tokio::test]
async fn a_killed_broker_keeps_its_durable_queue_and_leaves_no_process() {
    let mut rabbit = Rabbit::start().await.unwrap();
    rabbit.declare("kept").await.unwrap();
    rabbit.publish("kept", 3).await.unwrap();
    let broker = Proc::of(rabbit.pid().unwrap()).unwrap();
    assert!(broker.command_line().contains("beam"), "{}", broker.command_line());
    let below = Proc::descendants_of(broker.pid);

    rabbit.kill9();
    assert!(!broker.is_alive() && rabbit.pid().is_none());
    assert!(rabbit.connect().await.is_err());
    eventually(SOON, "what the broker had started is gone too", async || {
        !below.iter().any(|proc| proc.is_alive())
    })
    .await;

    rabbit.restart().await.unwrap();
    assert_eq!(rabbit.ready("kept").await.unwrap(), 3);

    let everything: BTreeSet<Proc> = Proc::descendants_of(std::process::id());
    let ours: Vec<Proc> = everything
        .into_iter()
        .filter(|proc| proc.variable("HOME") == rabbit_home(&rabbit))
        .collect();
    assert!(ours.len() >= 2, "the broker and its port mapper: {ours:?}");
    drop(rabbit);
    eventually(SOON, "nothing of it is left", async || !ours.iter().any(|proc| proc.is_alive())).await;
}

fn rabbit_home(rabbit: &Rabbit) -> Option<String> {
    Proc::of(rabbit.pid()?)?.variable("HOME")
}

#[tokio::test]
async fn a_broker_refuses_a_wrong_password() {
    let rabbit = Rabbit::shared().await.unwrap();
    let connect = |url: String| async move { lapin::Connection::connect(&url, lapin::ConnectionProperties::default()).await };
    assert!(connect(rabbit.url_as(USER, PASSWORD)).await.is_ok());
    assert!(connect(rabbit.url_as(USER, "wrong")).await.is_err());
}

#[test]
fn promtool_passes_a_good_page_and_refuses_bad_ones() {
    prometheus::check("# HELP epu_x_total What x counts.\n# TYPE epu_x_total counter\nepu_x_total{pool=\"web\"} 3\n").unwrap();
    let no_help = prometheus::check("# TYPE epu_x_total counter\nepu_x_total 3\n").unwrap_err();
    assert!(no_help.0.contains("help"), "{no_help}");
    let bad_name = prometheus::check("# HELP epu_x X.\n# TYPE epu_x counter\nepu_x 3\n").unwrap_err();
    assert!(bad_name.0.contains("_total"), "{bad_name}");
    let no_syntax = prometheus::check("epu_x{pool=} 3\n").unwrap_err();
    assert!(
        no_syntax.0.contains("error while linting") || no_syntax.0.contains("parsing"),
        "{no_syntax}"
    );
}

/// Answers every request with one page, for as long as it is not dropped.
async fn page_server(page: &'static str) -> (String, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            if stream.read(&mut request).await.is_ok() {
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    page.len()
                );
                stream.write_all(format!("{head}{page}").as_bytes()).await.ok();
            }
        }
    });
    (address, serving)
}

#[tokio::test]
async fn prometheus_scrapes_a_page_and_answers_questions_about_it() {
    let (target, serving) = page_server("# TYPE epu_depth gauge\nepu_depth{pool=\"web\"} 7\nepu_depth{pool=\"mail\"} 2\n").await;
    let prometheus = Prometheus::scraping(&target, None).await.unwrap();
    assert_eq!(prometheus.value("epu_depth{pool=\"web\"}", SOON).await.unwrap(), 7.0);
    assert_eq!(prometheus.value("sum(epu_depth)", SOON).await.unwrap(), 9.0);
    assert_eq!(prometheus.query("up").await.unwrap()[0].value, 1.0);
    assert!(prometheus.query("epu_nothing").await.unwrap().is_empty());
    assert!(prometheus.query("sum(").await.is_err());

    serving.abort();
    drop(serving.await);
    eventually(SOON, "Prometheus sees the page gone", async || {
        prometheus.query("up").await.unwrap()[0].value == 0.0
    })
    .await;
}

#[tokio::test]
async fn a_kept_program_ends_with_its_children_when_its_handle_is_dropped() {
    let mut command = keeper::command("sh");
    command.args(["-c", "sleep 300 & sleep 300 & wait"]);
    let kept = Kept::start(command).unwrap();
    let main = kept.main;
    eventually(SOON, "it has two children", async || Proc::descendants_of(main.pid).len() == 2).await;
    let below = Proc::descendants_of(main.pid);
    drop(kept);
    assert!(!main.is_alive());
    eventually(SOON, "they are gone", async || !below.iter().any(|proc| proc.is_alive())).await;
}

#[tokio::test]
async fn a_kept_program_ends_when_the_test_panics() {
    let seen = std::sync::Arc::new(std::sync::Mutex::new(None));
    let told = seen.clone();
    let panicked = std::thread::spawn(move || {
        let mut command = keeper::command("sleep");
        command.arg("300");
        let kept = Kept::start(command).unwrap();
        *told.lock().unwrap() = Some(kept.main);
        std::panic::resume_unwind(Box::new("as a failing test would"));
    })
    .join();
    assert!(panicked.is_err());
    let main = seen.lock().unwrap().take().unwrap();
    assert!(!main.is_alive());
}

#[tokio::test]
async fn a_kept_program_ends_when_its_starter_is_killed_and_not_when_a_thread_of_it_ends() {
    // A thread that starts a program and ends must not take it along ...
    let kept = std::thread::spawn(|| {
        let mut command = keeper::command("sleep");
        command.arg("300");
        Kept::start(command).unwrap()
    });
    let kept = kept.join().unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(kept.main.is_alive());

    // ... but a starter that is killed does. The shell stands for the test program; what it starts is started as the keeper does it.
    let mut command = keeper::command("sh");
    command.args(["-c", "setpriv --pdeathsig KILL -- sleep 300 & wait"]);
    let mut starter = Kept::start(command).unwrap();
    let pid = starter.pid();
    let sleeps = async || {
        Proc::descendants_of(pid)
            .iter()
            .any(|proc| proc.command_line().starts_with("sleep"))
    };
    eventually(SOON, "it has started its own", sleeps).await;
    let below = Proc::descendants_of(pid);
    starter.kill_alone();
    eventually(SOON, "its own is gone", async || !below.iter().any(|proc| proc.is_alive())).await;
}

#[tokio::test]
async fn processes_are_found_by_the_tag_that_their_children_inherit_and_ended_by_it() {
    let tag: String = std::iter::repeat_with(fastrand::alphanumeric).take(16).collect();
    let mut command = std::process::Command::new("setsid");
    // A session of its own and a parent that is gone: what workers look like after the control process has died.
    command.args(["--fork", "sh", "-c", "sleep 300 & wait"]).env("EPU_TESTS_TAG", &tag);
    assert!(command.status().unwrap().success());
    let ends = EndsTagged::new("EPU_TESTS_TAG", tag.clone());
    eventually(SOON, "both are found", async || Proc::carrying("EPU_TESTS_TAG", &tag).len() == 2).await;
    let found = ends.alive();
    assert!(Proc::carrying("EPU_TESTS_TAG", "another").is_empty());
    drop(ends);
    eventually(SOON, "both are ended", async || !found.iter().any(|proc| proc.is_alive())).await;
}

#[test]
fn a_process_is_not_mistaken_for_another_with_the_same_id() {
    let me = Proc::of(std::process::id()).unwrap();
    assert!(me.is_alive() && Proc::all().contains(&me));
    assert!(Proc::of(0).is_none());
}
