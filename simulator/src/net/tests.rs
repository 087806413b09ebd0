#![expect(clippy::disallowed_methods, reason = "tokio's paused time is the world's")]

use epu_bus::contract::{self, Ends};
use epu_core::fact::Snapshot;
use epu_core::request::Nothing;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::*;
use crate::time::{SimClock, millis, minutes, seconds};

const CONTROLLER: Process = Process {
    service: Service::Controller,
    copy: 0,
};
const PROVISIONER: Process = Process {
    service: Service::Provisioner,
    copy: 0,
};
const SECOND: Process = Process {
    service: Service::Provisioner,
    copy: 1,
};

fn net() -> Arc<SimNet> {
    let clock = Arc::new(SimClock::start(Handle::current()));
    Arc::new(SimNet::new(Arc::new(Transcript::new(clock))).seeded(1))
}

fn line(net: &Arc<SimNet>, process: Process) -> Arc<Line> {
    let name = format!("{process}");
    net.enter(process, &name);
    net.line(&name)
}

fn open() -> Request {
    Request::Open(Nothing {})
}

fn caller() -> Caller {
    Caller::Service("test")
}

async fn ask(line: &Arc<Line>, request: Request) -> Result<Answer, Fault> {
    line.ask(caller(), request, seconds(10)).await
}

/// A process that answers every call at once with its name, and how many it has had.
fn serve(line: &Arc<Line>, service: Service) -> (JoinHandle<()>, Arc<AtomicUsize>) {
    let (mut calls, count) = (line.serve(service), Arc::new(AtomicUsize::new(0)));
    let (counts, name) = (count.clone(), line.name.clone());
    let serving = tokio::spawn(async move {
        while let Some(call) = calls.recv().await {
            counts.fetch_add(1, Ordering::Relaxed);
            call.answer(Ok(Answer::Json(json!(name))));
        }
    });
    (serving, count)
}

fn had(count: &AtomicUsize) -> usize {
    count.load(Ordering::Relaxed)
}

fn snapshot(number: i64) -> Fact {
    Fact::Snapshot(Arc::new(Snapshot {
        aggregator: "test".to_owned(),
        listening_for_ms: number,
        instances: Vec::new(),
        sensors: Vec::new(),
        complete: false,
    }))
}

fn heard(facts: &mut Facts) -> Vec<i64> {
    std::iter::from_fn(|| facts.next_now())
        .map(|fact| match fact {
            Fact::Snapshot(snapshot) => snapshot.listening_for_ms,
            Fact::Instances(_) | Fact::Pools(_) | Fact::Listening(_) => panic!("{fact:?}"),
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_line_keeps_the_contract_of_a_bus() {
    contract::all(|| async { Ends::same(line(&net(), CONTROLLER), FACTS_WAITING) }).await;
}

/// The way that rules go is the same bus, as long as they do nothing.
#[tokio::test(start_paused = true)]
async fn a_line_under_rules_that_never_bite_keeps_it_too() {
    contract::all(|| async {
        let net = net();
        net.begin(Rule::new(Effect::Lost).share(0.0));
        Ends::same(line(&net, CONTROLLER), FACTS_WAITING)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_request_runs_out_of_time_and_is_not_carried_out() {
    let net = net();
    let (asker, server) = (line(&net, CONTROLLER), line(&net, PROVISIONER));
    let (_serving, count) = serve(&server, Service::Provisioner);
    let rule = net.begin(Rule::new(Effect::Lost).only(Message::Request("open")));
    let began = tokio::time::Instant::now();
    assert_eq!(ask(&asker, open()).await.unwrap_err().code, "timeout");
    assert_eq!((began.elapsed(), had(&count)), (seconds(10), 0));
    net.end(rule);
    assert!(net.is_calm() && ask(&asker, open()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_runs_out_of_time_and_has_had_its_effect() {
    let net = net();
    let (asker, server) = (line(&net, CONTROLLER), line(&net, PROVISIONER));
    let (_serving, count) = serve(&server, Service::Provisioner);
    net.begin(Rule::new(Effect::Lost).only(Message::Answer("open")));
    assert_eq!(ask(&asker, open()).await.unwrap_err().code, "timeout");
    assert_eq!(had(&count), 1);
}

#[tokio::test(start_paused = true)]
async fn a_doubled_request_is_carried_out_twice_and_answered_once() {
    let net = net();
    let (asker, one, other) = (line(&net, CONTROLLER), line(&net, PROVISIONER), line(&net, SECOND));
    let (_one, first) = serve(&one, Service::Provisioner);
    let (_other, second) = serve(&other, Service::Provisioner);
    net.begin(Rule::new(Effect::Doubled));
    assert!(ask(&asker, open()).await.is_ok());
    tokio::time::sleep(seconds(11)).await;
    assert_eq!((had(&first), had(&second)), (1, 1), "the copy went to the other process");
}

#[tokio::test(start_paused = true)]
async fn a_late_request_is_carried_out_although_nobody_waits_any_more() {
    let net = net();
    let (asker, server) = (line(&net, CONTROLLER), line(&net, PROVISIONER));
    let (_serving, count) = serve(&server, Service::Provisioner);
    let rule = net.begin(Rule::new(Effect::Late(minutes(2), minutes(2))).only(Message::Request("open")));
    assert_eq!(ask(&asker, open()).await.unwrap_err().code, "timeout");
    net.end(rule);
    assert!(ask(&asker, open()).await.is_ok(), "the one that was sent later is there first");
    tokio::time::sleep(seconds(109)).await;
    assert_eq!(had(&count), 1);
    tokio::time::sleep(seconds(2)).await;
    assert_eq!(had(&count), 2);
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_is_waited_for_and_no_longer_than_the_asker_has_time() {
    let net = net();
    let (asker, server) = (line(&net, CONTROLLER), line(&net, PROVISIONER));
    let (_serving, _) = serve(&server, Service::Provisioner);
    for (late, arrives) in [(seconds(9), true), (seconds(11), false)] {
        let rule = net.begin(Rule::new(Effect::Late(late, late)).only(Message::Answer("open")));
        assert_eq!(ask(&asker, open()).await.is_ok(), arrives, "{late:?}");
        net.end(rule);
    }
}

#[tokio::test(start_paused = true)]
async fn facts_that_are_overtaken_all_arrive_in_another_order() {
    let net = net();
    let (teller, hearer) = (line(&net, PROVISIONER), line(&net, CONTROLLER));
    let mut facts = hearer.listen(&[Kind::Snapshot]);
    net.begin(Rule::new(Effect::Overtaken).share(0.5));
    for number in 0..100 {
        teller.tell(snapshot(number));
        tokio::time::sleep(millis(100)).await;
    }
    tokio::time::sleep(seconds(6)).await;
    let mut all = heard(&mut facts);
    assert!(!all.is_sorted(), "{all:?}");
    all.sort_unstable();
    assert_eq!(all, (0..100).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn facts_that_are_doubled_arrive_twice_and_a_share_of_them_is_lost() {
    let net = net();
    let (teller, hearer) = (line(&net, PROVISIONER), line(&net, CONTROLLER));
    let mut facts = hearer.listen(&[Kind::Snapshot]);
    let doubled = net.begin(Rule::new(Effect::Doubled));
    (0..10).for_each(|number| teller.tell(snapshot(number)));
    tokio::time::sleep(seconds(11)).await;
    assert_eq!(heard(&mut facts).len(), 20);
    net.end(doubled);
    net.begin(Rule::new(Effect::Lost).share(0.3));
    (0..10_000).for_each(|number| teller.tell(snapshot(number)));
    let left = heard(&mut facts).len();
    assert!((6_800..7_200).contains(&left), "{left}");
}

#[tokio::test(start_paused = true)]
async fn what_is_damaged_is_refused_or_missing_and_never_something_else() {
    let net = net();
    let (asker, server) = (line(&net, CONTROLLER), line(&net, PROVISIONER));
    let (_serving, count) = serve(&server, Service::Provisioner);
    let mut facts = asker.listen(&[Kind::Snapshot]);
    let requests = Rule::new(Effect::Corrupted).only(Message::Request("open"));
    let rule = net.begin(requests);
    let mut codes: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..100 {
        let code = ask(&asker, open())
            .await
            .map_or_else(|fault| fault.code.into_owned(), |_| "done".to_owned());
        *codes.entry(code).or_default() += 1;
    }
    assert!(
        codes["bad-request"] > 50 && codes.keys().all(|code| ["bad-request", "timeout", "done"].contains(&code.as_str())),
        "{codes:?}"
    );
    assert_eq!(u32::try_from(had(&count)).unwrap(), codes.get("done").copied().unwrap_or(0));
    net.end(rule);
    net.begin(Rule::new(Effect::Corrupted));
    (0..1_000).for_each(|number| server.tell(snapshot(number)));
    let left = heard(&mut facts);
    assert!(
        left.len() < 200 && left.is_sorted() && left.iter().all(|number| (0..1_000).contains(number)),
        "{left:?}"
    );
    let answers = ask(&asker, open()).await.map_err(|fault| fault.code.into_owned());
    assert!(answers != Ok(Answer::Json(json!("something else"))));
}

#[tokio::test(start_paused = true)]
async fn a_partition_in_one_direction_lets_the_other_through() {
    let net = net();
    let (controller, provisioner) = (line(&net, CONTROLLER), line(&net, PROVISIONER));
    let (_served, at_provisioner) = serve(&provisioner, Service::Provisioner);
    let (_serving, at_controller) = serve(&controller, Service::Controller);
    let (mut here, mut there) = (controller.listen(&[Kind::Snapshot]), provisioner.listen(&[Kind::Snapshot]));
    net.begin(Rule::new(Effect::Lost).between(Place::Process(CONTROLLER), Place::Process(PROVISIONER)));
    controller.tell(snapshot(1));
    provisioner.tell(snapshot(2));
    assert_eq!(
        (heard(&mut here), heard(&mut there)),
        (vec![1, 2], vec![2]),
        "to oneself there is no way"
    );
    assert_eq!(ask(&controller, open()).await.unwrap_err().code, "timeout");
    assert_eq!(ask(&provisioner, Request::Status(Nothing {})).await.unwrap_err().code, "timeout");
    assert_eq!(
        (had(&at_provisioner), had(&at_controller)),
        (0, 1),
        "what the provisioner asked arrived, its answer did not"
    );
}

#[tokio::test(start_paused = true)]
async fn a_partition_concerns_two_and_nobody_else() {
    let net = net();
    let (asker, one, other) = (line(&net, CONTROLLER), line(&net, PROVISIONER), line(&net, SECOND));
    let (_one, first) = serve(&one, Service::Provisioner);
    let (_other, second) = serve(&other, Service::Provisioner);
    let (mut at_one, mut at_other) = (one.listen(&[Kind::Snapshot]), other.listen(&[Kind::Snapshot]));
    net.begin(Rule::new(Effect::Lost).between(Place::Process(CONTROLLER), Place::Process(PROVISIONER)));
    asker.tell(snapshot(1));
    assert_eq!((heard(&mut at_one), heard(&mut at_other)), (vec![], vec![1]));
    let (a, b) = (ask(&asker, open()).await, ask(&asker, open()).await);
    assert_eq!((a.is_ok(), b.is_ok()), (false, true), "in turn");
    assert_eq!((had(&first), had(&second)), (0, 1));
    assert!(net.operator_asks(caller(), open(), seconds(1)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn while_the_broker_is_away_nobody_is_reached_and_what_is_told_is_kept() {
    let net = net();
    let (controller, provisioner) = (line(&net, CONTROLLER), line(&net, PROVISIONER));
    let (_serving, count) = serve(&provisioner, Service::Provisioner);
    let _calls = controller.serve(Service::Aggregator);
    let (mut facts, _hears) = (controller.listen(&[Kind::Snapshot]), provisioner.listen(&[Kind::Listening]));
    net.broker_goes_away();
    net.broker_goes_away();
    let began = tokio::time::Instant::now();
    assert_eq!(ask(&controller, open()).await.unwrap_err().code, "no-contact");
    assert_eq!(
        (began.elapsed(), had(&count)),
        (seconds(2), 0),
        "it might have been back in a moment"
    );
    assert_eq!(
        net.operator_asks(caller(), open(), seconds(9)).await.unwrap_err().code,
        "no-contact"
    );
    assert!(controller.in_touch().is_err());
    let agent = |request| net.agent_asks(None, caller(), request, seconds(1));
    assert!(agent(open()).await.is_ok(), "agents come over HTTP");
    let refused = agent(Request::Heartbeats(Vec::new())).await.unwrap_err();
    assert_eq!(refused.code, "no-contact", "nobody would hear of it");
    (0..5_000).for_each(|number| provisioner.tell(snapshot(number)));
    net.broker_comes_back();
    assert_eq!((heard(&mut facts), facts.lost()), (vec![], 0), "it is away twice over");
    net.broker_comes_back();
    assert_eq!(heard(&mut facts), (904..5_000).collect::<Vec<_>>(), "the oldest made room");
    assert_eq!(facts.lost(), 1);
    assert!(net.is_calm() && controller.in_touch().is_ok() && ask(&controller, open()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_a_process_kept_ends_with_it() {
    let net = net();
    let (controller, provisioner) = (line(&net, CONTROLLER), line(&net, PROVISIONER));
    let mut facts = controller.listen(&[Kind::Snapshot]);
    for restarted in [false, true] {
        net.broker_goes_away();
        let hears = provisioner.listen(&[Kind::Listening]);
        provisioner.tell(snapshot(1));
        drop(hears);
        let _hears_again = restarted.then(|| line(&net, PROVISIONER).listen(&[Kind::Listening]));
        net.broker_comes_back();
        assert_eq!(heard(&mut facts), Vec::<i64>::new(), "restarted: {restarted}");
    }
}

#[tokio::test(start_paused = true)]
async fn rules_stand_beside_each_other_and_lifting_one_leaves_the_others() {
    let net = net();
    let (asker, server) = (line(&net, CONTROLLER), line(&net, PROVISIONER));
    let (_serving, _) = serve(&server, Service::Provisioner);
    net.cut_off(Service::Provisioner, true);
    net.cut_off(Service::Provisioner, true);
    let late = net.begin(Rule::new(Effect::Late(seconds(3), seconds(3))));
    net.cut_off(Service::Provisioner, false);
    assert_eq!(ask(&asker, open()).await.unwrap_err().code, "no-contact");
    net.cut_off(Service::Provisioner, false);
    let began = tokio::time::Instant::now();
    assert!(ask(&asker, open()).await.is_ok());
    assert_eq!(began.elapsed(), seconds(6), "there and back");
    net.cut_off(Service::Provisioner, false);
    net.end(late);
    assert!(net.is_calm());
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_receiver_ends_is_delivered_to_another() {
    let net = net();
    let (asker, one, other) = (line(&net, CONTROLLER), line(&net, PROVISIONER), line(&net, SECOND));
    let mut dies = one.serve(Service::Provisioner);
    let (_other, second) = serve(&other, Service::Provisioner);
    let asking = tokio::spawn(async move { ask(&asker, open()).await });
    let taken = dies.recv().await;
    assert!(taken.is_some());
    drop((dies, taken));
    assert_eq!(asking.await.unwrap(), Ok(Answer::Json(json!("Provisioner 1"))));
    assert_eq!(had(&second), 1);
}

#[tokio::test(start_paused = true)]
async fn an_agents_request_is_not_delivered_again() {
    let net = net();
    let one = line(&net, PROVISIONER);
    let mut dies = one.serve(Service::Provisioner);
    let (_other, second) = serve(&line(&net, SECOND), Service::Provisioner);
    let asking = tokio::spawn({
        let net = net.clone();
        async move { net.agent_asks(None, caller(), open(), seconds(5)).await }
    });
    let taken = dies.recv().await;
    drop((dies, taken));
    assert_eq!(asking.await.unwrap().unwrap_err().code, "no-contact");
    assert_eq!(had(&second), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_drawn_while_there_is_no_rule() {
    let net = net();
    let (asker, server) = (line(&net, CONTROLLER), line(&net, PROVISIONER));
    let (_serving, _) = serve(&server, Service::Provisioner);
    let _facts = asker.listen(&[Kind::Snapshot]);
    server.tell(snapshot(1));
    assert!(ask(&asker, open()).await.is_ok());
    let fresh = Rules::seeded(1);
    assert_eq!(lock(&net.rules).luck.below(u64::MAX), fresh.luck.below(u64::MAX));
}
