use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use clap::Parser as _;
use clap_complete::Shell;
use epu_core::State;
use epu_core::journal::{Entry, Event};
use epu_core::time::ManualClock;
use serde_json::json;

use super::*;
use crate::cli::Cli;
use crate::show::tests::{NOW, a_pool, an_instance, id, its_placements};

type Answers = Vec<Result<Value, Fault>>;

/// A service that answers each operation with what was put in, the last one again and again, and remembers what it was asked.
#[derive(Clone, Default)]
struct Fake {
    answers: Arc<Mutex<BTreeMap<&'static str, Answers>>>,
    asked: Arc<Mutex<Vec<Value>>>,
}

impl Fake {
    fn answers(self, op: &'static str, answer: impl Serialize) -> Self {
        self.put(op, Ok(serde_json::to_value(answer).unwrap()))
    }

    fn fails(self, op: &'static str, code: &'static str) -> Self {
        self.put(op, Err(Fault::new(code, "because")))
    }

    fn put(self, op: &'static str, answer: Result<Value, Fault>) -> Self {
        self.answers.lock().unwrap().entry(op).or_default().push(answer);
        self
    }

    fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The arguments of the only request of this kind.
    fn arguments(&self, op: &str) -> Value {
        let mut all: Vec<Value> = self.asked().into_iter().filter(|asked| asked["op"] == op).collect();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)["args"].take()
    }
}

#[async_trait]
impl Service for Fake {
    async fn ask(&self, request: &Request) -> Result<Value, Fault> {
        self.asked.lock().unwrap().push(serde_json::to_value(request).unwrap());
        let mut answers = self.answers.lock().unwrap();
        let queue = answers
            .get_mut(request.op())
            .unwrap_or_else(|| panic!("{} was not expected", request.op()));
        if queue.len() > 1 { queue.remove(0) } else { queue[0].clone() }
    }
}

/// What was written.
#[derive(Clone, Default)]
pub(super) struct Paper(Arc<Mutex<Vec<u8>>>);

impl Paper {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// What writes on it: no terminal.
    pub(super) fn screen(&self, output: Output) -> Screen {
        Screen {
            to: Box::new(self.clone()),
            output,
            colour: false,
            width: None,
        }
    }
}

impl Write for Paper {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(text);
        Ok(text.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Ran {
    ended: Result<Exit, Failure>,
    text: String,
}

impl Ran {
    fn exit(&self) -> u8 {
        self.ended.as_ref().map_or_else(Failure::exit, |exit| *exit).number()
    }
}

fn run_with(service: &Fake, line: &str, confirm: Option<fn(&str) -> std::io::Result<String>>) -> Ran {
    let cli = Cli::try_parse_from(std::iter::once("epumgmt").chain(line.split(' '))).unwrap();
    let paper = Paper::default();
    let mut session = Session {
        service: Box::new(service.clone()),
        screen: paper.screen(cli.reach.output),
        clock: Arc::new(ManualClock::at(NOW)),
        confirm,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let ended = runtime.block_on(session.run(cli.command));
    let text = String::from_utf8(paper.0.lock().unwrap().clone()).unwrap();
    Ran { ended, text }
}

fn run(service: &Fake, line: &str) -> Ran {
    run_with(service, line, None)
}

#[test]
fn answers_are_tables_for_people_and_json_for_programs() {
    let service = Fake::default().answers("pool_list", [a_pool()]);
    let table = run(&service, "pool list");
    assert_eq!(table.exit(), 0);
    assert!(table.text.starts_with("POOL"), "{}", table.text);
    let json = run(&service, "pool list -o json");
    assert_eq!(serde_json::from_str::<Value>(&json.text).unwrap()[0]["pool"]["name"], "web");
}

#[test]
fn a_fault_becomes_an_exit_code() {
    for (code, exit) in [
        ("internal", 1),
        ("bad-config", 2),
        ("no-contact", 3),
        ("timeout", 3),
        ("unauthorized", 4),
        ("forbidden", 4),
        ("no-such-pool", 5),
        ("from-file", 6),
        ("closed", 6),
    ] {
        let ran = run(&Fake::default().fails("pool_show", code), "pool show web");
        assert_eq!(ran.exit(), exit, "{code}");
        assert_eq!(ran.text, "");
    }
}

#[test]
fn an_answer_of_another_form_is_said_to_be_one() {
    let ran = run(&Fake::default().answers("pool_list", "what?"), "pool list");
    assert_eq!(ran.exit(), 1);
    assert!(ran.ended.unwrap_err().shown(false).contains("same release"));
}

#[test]
fn pools_are_added_from_a_file_whose_whole_path_is_sent() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("web.yaml");
    std::fs::write(&file, "pools: {}\n").unwrap();
    let service = Fake::default().answers("pool_add", ["web", "db"]);
    let ran = run(&service, &format!("pool add -f {}", file.display()));
    assert_eq!((ran.exit(), ran.text.as_str()), (0, "pool web added\npool db added\n"));
    assert_eq!(service.arguments("pool_add"), json!({"file": file, "text": "pools: {}\n"}));

    let ran = run(&service, "pool add -f /no/such/file.yaml");
    assert_eq!(ran.exit(), 2);
}

#[test]
fn settings_are_sent_by_dotted_path() {
    let service = Fake::default().answers("pool_reconfigure", 5);
    let ran = run(&service, "pool reconfigure web engine.keep.n=5 min= --if-revision 4");
    assert_eq!((ran.exit(), ran.text.as_str()), (0, "pool web is now at revision 5\n"));
    let wanted = json!({"pool": "web", "set": {"engine.keep.n": 5, "min": null}, "if_revision": 4});
    assert_eq!(service.arguments("pool_reconfigure"), wanted);
    assert_eq!(run(&service, "pool reconfigure web n=5 n=6").exit(), 2);
}

#[test]
fn resizing_knows_the_engine_and_the_owner() {
    let mut pool = a_pool();
    assert_eq!(
        run(&Fake::default().answers("pool_show", &pool), "pool resize web --max 9").exit(),
        6
    );
    pool.pool.origin = epu_core::pool::Origin::Operator;
    let service = Fake::default().answers("pool_show", &pool).answers("pool_reconfigure", 5);
    assert_eq!(run(&service, "pool resize web").exit(), 2);
    let computed = run(&service, "pool resize web --n 3");
    assert_eq!(computed.exit(), 2);
    assert!(computed.ended.unwrap_err().shown(false).contains("--min and --max"));
    assert_eq!(run(&service, "pool resize web --min 2 --max 9").exit(), 0);
    assert_eq!(
        service.arguments("pool_reconfigure"),
        json!({"pool": "web", "set": {"min": 2, "max": 9}, "if_revision": 4})
    );

    pool.pool.spec.engine = [("npreserving".to_owned(), json!({"n": 2}))].into();
    let service = Fake::default().answers("pool_show", &pool).answers("pool_reconfigure", 5);
    assert_eq!(run(&service, "pool resize web --n 3").exit(), 0);
    assert_eq!(service.arguments("pool_reconfigure")["set"], json!({"engine.npreserving.n": 3}));
}

#[test]
fn a_pause_is_of_everything_unless_something_is_named() {
    for (line, paused, said) in [
        (
            "pool pause web",
            json!({"grow": true, "shrink": true, "replace": true}),
            "does not grow, shrink, replace failed workers",
        ),
        (
            "pool pause web --shrink --why release",
            json!({"grow": false, "shrink": true, "replace": false, "why": "release"}),
            "does not shrink: release",
        ),
    ] {
        let service = Fake::default().answers("pool_pause", Value::Null);
        let ran = run(&service, line);
        assert_eq!(service.arguments("pool_pause"), json!({"pool": "web", "paused": paused}));
        assert_eq!(ran.text, format!("pool web {said}\n"));
    }
    let service = Fake::default().answers("pool_resume", Value::Null).answers("pool_remove", 2);
    assert_eq!(run(&service, "pool resume web").exit(), 0);
    assert_eq!(
        run(&service, "pool remove web --force").text,
        "pool web is being removed; its 2 instances are being ended\n"
    );
}

#[test]
fn an_instance_is_found_by_the_end_of_its_id() {
    let mut other = an_instance(0x1_0001, State::Running);
    other.instance.id = epu_core::InstanceId(uuid::Uuid::from_u128(id(1).0.as_u128() + (1 << 32)));
    let service = Fake::default()
        .answers(
            "instance_list",
            [an_instance(1, State::Running), an_instance(2, State::Running), other],
        )
        .answers("instance_show", an_instance(2, State::Running))
        .answers("logs", "one\n\u{1b}[2Jtwo");
    assert_eq!(run(&service, "instance show 00000002").exit(), 0);
    assert_eq!(service.arguments("instance_show"), json!({"instance": id(2)}));
    let logs = run(&service, "instance logs 2 --lines 2");
    assert_eq!(logs.text, "one\n\u{fffd}[2Jtwo\n");
    assert_eq!(service.arguments("logs"), json!({"instance": id(2), "lines": 2}));

    let ambiguous = run(&service, "instance show 0001");
    assert_eq!(ambiguous.exit(), 2);
    assert!(ambiguous.ended.unwrap_err().shown(false).contains("2 instances end with"));
    assert_eq!(run(&service, "instance show ffff").exit(), 5);
    assert_eq!(run(&service, "instance show nonsense").exit(), 2);
    // A whole id is not looked for.
    let service = Fake::default().answers("instance_show", an_instance(2, State::Running));
    assert_eq!(run(&service, &format!("instance show {}", id(2))).exit(), 0);
}

#[test]
fn what_is_done_to_an_instance() {
    let service = Fake::default()
        .answers("instance_show", an_instance(2, State::Running))
        .answers("pool_show", a_pool())
        .answers("drain", Value::Null)
        .answers("protect", Value::Null)
        .answers("terminate", Value::Null);
    let id = id(2).to_string();
    assert_eq!(run(&service, &format!("instance drain {id}")).exit(), 0);
    let drain = service.arguments("drain");
    assert_eq!(
        drain["drain"],
        json!({"since": NOW, "deadline": NOW.0 + 3_600_000, "why": "operator"})
    );
    assert_eq!(run(&service, &format!("instance protect {id} --off")).exit(), 0);
    assert_eq!(service.arguments("protect"), json!({"instances": [id], "on": false}));
    let killed = run(&service, &format!("instance kill {id}"));
    assert!(killed.text.ends_with("its worker was busy\n"), "{}", killed.text);
    assert_eq!(service.arguments("terminate")["instances"], json!([[id, "busy"]]));
}

#[test]
fn teardown_asks_first() {
    let service = Fake::default().answers("instance_list", [an_instance(1, State::Running)]);
    let refused = run(&service, "teardown");
    assert_eq!(refused.exit(), 2);
    assert!(refused.ended.unwrap_err().shown(false).contains("--yes"));
    let no: fn(&str) -> std::io::Result<String> = |question| {
        assert!(question.contains("drains and ends its instance"), "{question}");
        Ok("y\n".to_owned())
    };
    assert_eq!(run_with(&service, "teardown", Some(no)).exit(), 2);
    assert!(service.asked().iter().all(|asked| asked["op"] == "instance_list"));
}

#[test]
fn teardown_waits_until_nothing_is_left() {
    let yes: fn(&str) -> std::io::Result<String> = |_| Ok("yes\n".to_owned());
    let running = an_instance(1, State::Running);
    let ending = an_instance(1, State::Terminating);
    let service = Fake::default()
        .answers("instance_list", [&running])
        .answers("instance_list", [&running])
        .fails("instance_list", "no-contact")
        .answers("instance_list", [&ending])
        .answers("instance_list", Vec::<u8>::new())
        .answers("sweep", strays(&["wait"]))
        .answers("sweep", strays(&["leave"]))
        .answers("teardown", 1);
    let ran = run_with(&service, "teardown --force", Some(yes));
    assert_eq!(ran.exit(), 0);
    assert_eq!(
        ran.text,
        "0 gone, 1 live: 0 draining, 0 ending\n\
         0 gone, 1 live: 0 draining, 1 ending (waiting for local to say that they are gone)\n\
         no instance is live; 1 machine with our tags that no record explains, to be ended by the sweep\n\
         closed; no live instance is left\n"
    );
    assert_eq!(service.arguments("teardown"), json!({"force": true}));
}

/// What the sweep makes of machines, one of each verdict.
fn strays(verdicts: &[&str]) -> Value {
    let stray = |verdict: &&str| {
        json!({
            "site": "aws", "machine": "i-1", "launch": null, "index": null, "first_seen": NOW, "verdict": verdict, "at": null,
            "why": "no record names it",
        })
    };
    json!({"now": NOW, "sites": [], "machines": verdicts.iter().map(stray).collect::<Vec<_>>()})
}

#[test]
fn teardown_does_without_a_sweep_of_another_release() {
    let service = Fake::default()
        .answers("instance_list", Vec::<u8>::new())
        .fails("sweep", "bad-request")
        .answers("teardown", 0);
    let ran = run(&service, "teardown --yes");
    assert_eq!((ran.exit(), ran.text.as_str()), (0, "closed; no live instance is left\n"));
}

#[test]
fn teardown_that_leaves_something_says_so_with_exit_code_7() {
    let service = Fake::default()
        .answers("instance_list", [an_instance(1, State::Running)])
        .answers("teardown", 1);
    let cli = Cli::try_parse_from(["epumgmt", "teardown", "--yes", "--wait", "10s"]).unwrap();
    // A clock that goes on while it is waited.
    #[derive(Debug, Default)]
    struct Running(ManualClock);
    impl Clock for Running {
        fn now(&self) -> epu_core::Timestamp {
            self.0.advance(std::time::Duration::from_secs(1));
            self.0.now()
        }
    }
    let mut session = Session {
        service: Box::new(service),
        screen: Paper::default().screen(Output::Table),
        clock: Arc::new(Running::default()),
        confirm: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let failure = runtime.block_on(session.run(cli.command)).unwrap_err();
    assert_eq!(failure.exit().number(), 7);
    assert!(failure.shown(false).contains("1 live"), "{}", failure.shown(false));
    // Without waiting it is none of this command's business.
    let service = Fake::default()
        .answers("instance_list", [an_instance(1, State::Running)])
        .answers("teardown", 1);
    assert_eq!(run(&service, "teardown --yes --no-wait").text, "closed; 1 instance is still live\n");
}

#[test]
fn events_are_shown_and_followed_through_a_restart() {
    let entry = |sequence| Entry {
        sequence,
        ..Entry::new(NOW, "operator", Event::Opened)
    };
    let service = Fake::default().answers("events", [entry(1)]);
    let ran = run(&service, "events --pool web --limit 5");
    assert_eq!(
        ran.text,
        "2026-11-18T11:06:40Z #1      -            -            opened [operator]\n"
    );
    assert_eq!(service.arguments("events"), json!({"pool": "web", "limit": 5}));

    let service = Fake::default()
        .answers("events", [entry(1)])
        .answers("events", Vec::<u8>::new())
        .fails("events", "no-contact")
        .fails("events", "no-contact")
        .answers("events", [entry(2), entry(3)])
        .fails("events", "unauthorized");
    let ran = run(&service, "events --follow");
    assert_eq!(ran.exit(), 4);
    assert_eq!(ran.text.lines().count(), 4, "{}", ran.text);
    assert_eq!(ran.text.matches("nobody answers").count(), 1);
    let after: Vec<Value> = service.asked().iter().map(|asked| asked["args"]["after"].clone()).collect();
    assert_eq!(after, [Value::Null, json!(1), json!(1), json!(1), json!(1), json!(3)]);
}

#[test]
fn opening_and_status() {
    let status = json!({"installation": "i", "version": "v", "closed": false, "since": 0, "now": NOW, "pools": [], "concerns": []});
    let service = Fake::default()
        .answers("open", Value::Null)
        .answers("status", status)
        .answers("sites", Vec::<u8>::new())
        .answers("placement_list", its_placements());
    assert_eq!(run(&service, "open").text, "open: pools are kept again\n");
    assert!(run(&service, "status").text.starts_with("installation i, release v"));
    let json: Value = serde_json::from_str(&run(&service, "status -o json").text).unwrap();
    assert!(json["status"]["closed"].is_boolean() && json["sites"].is_array());
    // Those that are open or full need nobody.
    let held: Vec<&str> = json["placements"]
        .as_array()
        .unwrap()
        .iter()
        .map(|place| place["placement"].as_str().unwrap())
        .collect();
    assert_eq!(held, ["spot", "dear"]);
}

#[test]
fn a_file_with_faults_ends_with_exit_code_2() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("epu.yaml");
    let paper = Paper::default();
    let mut screen = paper.screen(Output::Table);
    let check = crate::cli::ConfigCommand::Check { file: file.clone() };
    assert_eq!(config(&mut screen, &check).unwrap_err().exit().number(), 2);
    std::fs::write(&file, "tick: 5\npols: {}\n").unwrap();
    let failure = config(&mut screen, &check).unwrap_err();
    assert_eq!(failure.exit().number(), 2);
    let shown = failure.shown(false);
    assert!(
        shown.contains("1 | tick: 5\n  |       ^\n") && shown.ends_with("error: 2 faults\n"),
        "{shown}"
    );
    std::fs::write(&file, "tick: 5s\n").unwrap();
    assert_eq!(config(&mut screen, &check).unwrap(), Exit::Done);
    let text = String::from_utf8(paper.0.lock().unwrap().clone()).unwrap();
    assert!(text.ends_with("epu.yaml: no faults; 1 site, 0 templates, 0 pools\n"), "{text}");
}

#[test]
fn a_pool_is_shown_with_its_placements() {
    let service = Fake::default()
        .answers("pool_show", a_pool())
        .answers("placement_list", its_placements());
    assert!(run(&service, "pool show web").text.contains("m7i.large us-east-1a spot"));
    let service = Fake::default()
        .answers("pool_show", a_pool())
        .answers("placement_list", its_placements());
    let json: Value = serde_json::from_str(&run(&service, "pool show web -o json").text).unwrap();
    assert_eq!(
        (&json["pool"]["name"], &json["placements"][1]["gate"]),
        (&json!("web"), &json!("paused"))
    );
    assert_eq!(service.arguments("placement_list"), json!({"pool": "web"}));
    // A controller of another release does not know them.
    let service = Fake::default()
        .answers("pool_show", a_pool())
        .fails("placement_list", "bad-request");
    assert_eq!(run(&service, "pool show web").exit(), 0);
}

#[test]
fn placements_are_listed_and_reset() {
    let service = Fake::default().answers("placement_list", its_placements());
    let ran = run(&service, "placement list");
    assert!(ran.exit() == 0 && ran.text.starts_with("POOL"), "{}", ran.text);
    assert_eq!(service.arguments("placement_list"), json!({}));

    let service = Fake::default().answers("placement_reset", ["spot", "dear"]);
    let ran = run(&service, "placement reset web");
    assert_eq!(
        ran.text,
        "placement spot of pool web may launch again\nplacement dear of pool web may launch again\n"
    );
    assert_eq!(service.arguments("placement_reset"), json!({"pool": "web"}));
    let service = Fake::default().answers("placement_reset", Vec::<String>::new());
    assert_eq!(
        run(&service, "placement reset web spot").text,
        "placement spot of pool web was neither parked nor paused\n"
    );
    assert_eq!(service.arguments("placement_reset"), json!({"pool": "web", "placement": "spot"}));
    let json: Value = serde_json::from_str(&run(&service, "placement reset web -o json").text).unwrap();
    assert_eq!(json, json!({"pool": "web", "reset": []}));
    assert_eq!(
        run(
            &Fake::default().fails("placement_reset", "no-such-placement"),
            "placement reset web x"
        )
        .exit(),
        5
    );
}

#[test]
fn a_check_of_a_site_ends_badly_when_something_is_bad() {
    let report =
        |verdict: &str| json!({"site": "local", "driver": "local", "findings": [{"what": "machine", "verdict": verdict, "text": "seen"}]});
    for (verdict, exit) in [("good", 0), ("unknown", 0), ("doubtful", 0), ("bad", 1)] {
        let service = Fake::default()
            .answers("pool_list", [a_pool()])
            .answers("site_check", report(verdict));
        let ran = run(&service, "site check local");
        assert_eq!(ran.exit(), exit, "{verdict}");
        assert!(ran.text.contains("machine"), "{}", ran.text);
        let asked = service.arguments("site_check");
        assert_eq!(
            (&asked["site"], &asked["templates"][0]["name"]),
            (&json!("local"), &json!("pool web, placement local"))
        );
        assert_eq!(run(&service, "site check local -o json").exit(), exit);
    }
    let service = Fake::default().answers("pool_show", a_pool()).answers("site_check", report("good"));
    assert_eq!(run(&service, "site check local --pool web").exit(), 0);
    assert_eq!(run(&service, "site check elsewhere --pool web").exit(), 2);
    let service = Fake::default().answers("sites", Vec::<u8>::new());
    assert_eq!(run(&service, "site list -o json").text, "[]\n");
}

#[test]
fn the_sweep_is_only_looked_at() {
    let refused = run(&Fake::default(), "sweep");
    assert_eq!(refused.exit(), 2);
    assert!(refused.ended.unwrap_err().shown(false).contains("--dry-run"));
    let service = Fake::default().answers("sweep", strays(&["terminate"]));
    assert!(run(&service, "sweep --dry-run --site aws").text.contains("end it"));
    assert_eq!(service.arguments("sweep"), json!({"site": "aws"}));
}

fn refreshing(outdated: u32, draining: u32, is_on: bool) -> Value {
    let refresh = is_on.then(|| json!({"since": NOW, "by": "ada"}));
    json!({
        "pool": "web", "refresh": refresh, "version": "sleeper@new", "previous": "sleeper@old",
        "versions": {"sleeper@new": 3 - outdated, "sleeper@old": outdated}, "outdated": outdated, "draining": draining, "held": null,
    })
}

#[test]
fn a_refresh_is_asked_for_and_waited_for() {
    for (option, step) in [
        ("", "start"),
        (" --pause", "pause"),
        (" --resume", "resume"),
        (" --stop", "stop"),
        (" --rollback", "rollback"),
        (" --show", "show"),
    ] {
        let service = Fake::default().answers("pool_refresh", refreshing(2, 1, true));
        assert_eq!(run(&service, &format!("pool refresh web{option}")).exit(), 0);
        assert_eq!(service.arguments("pool_refresh"), json!({"pool": "web", "do": step}), "{option}");
    }
    let service = Fake::default()
        .answers("pool_refresh", refreshing(2, 0, true))
        .answers("pool_refresh", refreshing(2, 0, true))
        .fails("pool_refresh", "no-contact")
        .answers("pool_refresh", refreshing(1, 1, true))
        .answers("pool_refresh", refreshing(0, 0, false));
    let ran = run(&service, "pool refresh web --wait --why new");
    assert_eq!(ran.exit(), 0);
    let progress: Vec<&str> = ran.text.lines().take(2).collect();
    assert_eq!(
        progress,
        [
            "2 to be replaced, 0 of them draining; 1 of the new version",
            "1 to be replaced, 1 of them draining; 2 of the new version"
        ]
    );
    assert!(ran.text.contains("every instance is of this version"), "{}", ran.text);
    let steps: Vec<Value> = service.asked().iter().map(|asked| asked["args"]["do"].clone()).collect();
    assert_eq!(steps[0], "start");
    assert!(steps[1..].iter().all(|step| step == "show"), "{steps:?}");
}

#[test]
fn a_refresh_that_is_stopped_leaves_something() {
    let service = Fake::default()
        .answers("pool_refresh", refreshing(2, 1, true))
        .answers("pool_refresh", refreshing(1, 0, false));
    let ran = run(&service, "pool refresh web --rollback --wait");
    assert_eq!(ran.exit(), 7);
    assert!(ran.ended.unwrap_err().shown(false).contains("was stopped"));
    let service = Fake::default().fails("pool_refresh", "conflict");
    assert_eq!(run(&service, "pool refresh web --rollback").exit(), 6);
}

#[test]
fn templates_are_those_of_the_pools() {
    let service = Fake::default().answers("pool_list", [a_pool()]).answers("templates", json!([]));
    assert!(run(&service, "template list").text.contains("sleeper@0123456789ab"));
    let shown = run(&service, "template show sleeper");
    assert!(shown.exit() == 0 && shown.text.contains("sleep"), "{}", shown.text);
    assert_eq!(run(&service, "template show other").exit(), 5);
    let json: Value = serde_json::from_str(&run(&service, "template list -o json").text).unwrap();
    assert_eq!((&json[0]["live"], &json[0]["content"]), (&json!(3), &Value::Null));
}

#[test]
fn every_command_that_is_shown_has_a_man_page() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(man(directory.path()).unwrap(), Exit::Done);
    for (page, says) in [
        ("epumgmt.1", "teardown"),
        ("epumgmt-pool-refresh.1", "rollback"),
        ("epumgmt-site-check.1", "Exit code 1"),
        ("epumgmt-sweep.1", "dry"),
    ] {
        let text = std::fs::read_to_string(directory.path().join(page)).unwrap();
        assert!(text.contains(says), "{page}");
    }
    assert!(!directory.path().join("epumgmt-demo-worker.1").exists());
    assert_eq!(man(&directory.path().join("none")).unwrap_err().exit(), Exit::Failed);
}

#[test]
fn completions_are_written_for_every_shell() {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut text = Vec::new();
        completions(shell, &mut text).unwrap();
        assert!(String::from_utf8(text).unwrap().contains("reconfigure"), "{shell}");
    }
}
