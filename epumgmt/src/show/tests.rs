use std::collections::BTreeMap;

use epu_core::health::Health;
use epu_core::instance::{Cause, Drain, Exit, Instance};
use epu_core::journal::{Action, Decided, Entry, Event};
use epu_core::reading::{Reading, Staleness};
use epu_core::request::{PoolBrief, PoolCounts, ReadingView, RefreshView, SiteReport, SweepView};
use epu_core::{Fault, InstanceId, LaunchId, PoolName, SensorName, SiteName};
use serde_json::json;

use super::*;

pub(crate) const NOW: Timestamp = Timestamp(1_795_000_000_000);

pub(crate) fn id(n: u128) -> InstanceId {
    InstanceId(uuid::Uuid::from_u128(0x019a_0000_0000_7000_8000_0000_0000_0000 + n))
}

fn before(seconds: u64) -> Timestamp {
    NOW - Duration::from_secs(seconds)
}

/// A pool in the middle of growing, with everything that can be shown of one.
pub(crate) fn a_pool() -> PoolView {
    let limits = Staleness {
        stale_after: Span::secs(15),
        missing_after: Span::secs(60),
    };
    let jobs = Reading {
        value: Some(61.0),
        taken_at: Some(before(2)),
        source: "rabbitmq queue jobs (ready)".to_owned(),
        ..Reading::never(before(600), limits)
    };
    let load = Reading {
        value: Some(0.5),
        taken_at: Some(before(30)),
        source: "heartbeats: load (mean)".to_owned(),
        fault: Some(Fault::new("timeout", "nobody\x1b[2J reported\nin time")),
        reported: 1,
        of: 3,
        ..Reading::never(before(600), limits)
    };
    let readings = [("jobs", jobs), ("load", load)]
        .into_iter()
        .map(|(name, reading)| {
            let status = reading.status(NOW);
            (SensorName::new(name).unwrap(), ReadingView { reading, status })
        })
        .collect();
    serde_json::from_value(json!({
        "pool": {
            "name": "web",
            "spec": {
                "template": "sleeper", "min": 1, "max": 5,
                "engine": {"queue-length": {"sensor": "jobs", "high-water": 50, "low-water": 10}},
                "placements": [{"site": "local", "max": 3}, {"site": "other", "name": "spot"}],
            },
            "template": {"run": ["sleep", "60"]},
            "template_version": "sleeper@0123456789ab",
            "origin": {"is": "file", "path": "/etc/epu/epu.yaml", "line": 6},
            "revision": 4,
            "paused": {"shrink": true, "why": "release"},
            "added_at": before(900),
        },
        "counts": PoolCounts { live: 4, running: 2, booting: 1, draining: 0, ending: 0, unhealthy: 1, busy: 2, idle: 0 },
        "target": 4,
        "decision": Decided {
            at: before(3),
            engine: "queue-length/1".to_owned(),
            revision: 4,
            observed: json!({}),
            desired: 5,
            target: 4,
            reasons: vec![Reason::new("above-high-water", "61 wait, more than 50").with("value", 61.0).with("high", 50.0)],
            suppressed: vec![Reason::new("step-limit", "at most 1 at a time").with("step-up", 1.0)],
            actions: vec![
                Action::Launch {
                    launch: LaunchId(uuid::Uuid::from_u128(7)),
                    site: SiteName::new("local").unwrap(),
                    placement: None,
                    instances: vec![(id(9), None)],
                },
                Action::Launch {
                    launch: LaunchId(uuid::Uuid::from_u128(8)),
                    site: SiteName::new("other").unwrap(),
                    placement: Some("spot".parse().unwrap()),
                    instances: vec![(id(10), None), (id(11), None)],
                },
                Action::Terminate { instances: vec![id(1), id(2), id(3), id(4)], why: Cause::Unhealthy },
            ],
        },
        "readings": BTreeMap::<SensorName, ReadingView>::from_iter::<Vec<_>>(readings),
        "slots": {"left": id(1), "right": null},
        "concerns": ["sensor load is stale: nobody reported in time"],
        "boot_ms": 1_500,
        "versions": {"sleeper@0123456789ab": 3, "sleeper@ba9876543210": 1},
    }))
    .unwrap()
}

pub(crate) fn an_instance(n: u128, state: State) -> InstanceView {
    InstanceView {
        instance: serde_json::from_value::<Instance>(json!({
            "id": id(n), "pool": "web", "launch": LaunchId(uuid::Uuid::from_u128(7)), "index": n, "site": "local",
            "template": "sleeper@0123456789ab", "state": state, "version": 3, "created_at": before(3_700), "state_since": before(60),
        }))
        .unwrap(),
        health: Health::Ok,
        work: Work::Busy,
        heard_at: Some(before(2)),
    }
}

/// The placements of [`a_pool`]: one that is full, one that waits, one that is parked, and one that it has no more.
pub(crate) fn its_placements() -> Vec<PlacementView> {
    let place = |name: &str, rank: Option<u32>, more: serde_json::Value| {
        let mut whole = json!({
            "pool": "web", "placement": name, "rank": rank, "site": "other", "machine": "", "live": 0, "max": 5, "gate": "open",
            "until": null, "fault": null, "score": {},
        });
        for (key, value) in more.as_object().unwrap() {
            whole[key] = value.clone();
        }
        serde_json::from_value(whole).unwrap()
    };
    vec![
        place(
            "local",
            Some(1),
            json!({"site": "local", "live": 3, "max": 3, "gate": "full", "score": {"ready": 12, "failed": 1, "boot_p50_ms": 1_500, "boot_p95_ms": 2_250}}),
        ),
        place(
            "spot",
            Some(2),
            json!({
                "live": 1, "gate": "paused", "until": NOW + Duration::from_secs(240), "machine": "ami-1 m7i.large us-east-1a spot",
                "fault": Fault::new("site-capacity", "no room for\x1b[2J m7i.large"),
                "score": {"ready": 3, "failed": 9, "capacity": 8, "interrupted": 2, "boot_p50_ms": 41_000, "boot_p95_ms": 95_000, "price": 0.0416},
            }),
        ),
        place(
            "dear",
            Some(3),
            json!({"gate": "parked", "machine": "ami-2 m7i.large", "fault": Fault::new("site-refused", "there is no image ami-2")}),
        ),
        place("gone", None, json!({"live": 1, "max": 0})),
    ]
}

fn several() -> Vec<InstanceView> {
    let mut draining = an_instance(2, State::Running);
    draining.work = Work::Unknown;
    draining.instance.protected = true;
    draining.instance.drain = Some(Drain {
        since: before(10),
        deadline: NOW + Duration::from_secs(3_590),
        why: Cause::ScaleIn,
    });
    let mut failed = an_instance(3, State::RunningFailed);
    failed.health = Health::ProcessError;
    failed.heard_at = None;
    failed.instance.ready_at = Some(before(3_600));
    failed.instance.deadline = Some(NOW);
    failed.instance.fault = Some(Fault::new("worker-failed", "exit code 3\n\x1b]0;evil\x07last line"));
    failed.instance.exit = Some(Exit {
        code: Some(3),
        signal: None,
        output: String::new(),
    });
    failed.instance.placement = Some("spot".parse().unwrap());
    vec![an_instance(1, State::Running), draining, failed]
}

#[test]
fn a_list_of_pools() {
    let mut removed = a_pool();
    removed.pool.name = PoolName::new("a-pool-with-a-long-name").unwrap();
    removed.pool.removed = true;
    removed.pool.origin = Origin::Operator;
    removed.target = None;
    removed.counts = PoolCounts::default();
    insta::assert_snapshot!(pools(&[a_pool(), removed], Style::default()));
    assert_eq!(
        pools(&[], Style::default()),
        "there are no pools; add some with `epumgmt pool add -f FILE`\n"
    );
}

#[test]
fn a_pool_explains_itself() {
    insta::assert_snapshot!(pool(&a_pool(), &its_placements(), NOW, Style::default()));
    let mut new = a_pool();
    (new.decision, new.target, new.boot_ms) = (None, None, None);
    (new.readings, new.slots, new.concerns) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    assert!(pool(&new, &[], NOW, Style::default()).ends_with("no decision yet\n"));
}

#[test]
fn a_list_of_instances() {
    insta::assert_snapshot!(instances(&several(), NOW, Style::default()));
    assert_eq!(instances(&[], NOW, Style::default()), "there are no instances\n");
}

#[test]
fn an_instance_whole() {
    let shown: Vec<String> = several().iter().map(|view| instance(view, NOW, Style::default())).collect();
    insta::assert_snapshot!(shown.join("\n"));
}

#[test]
fn the_whole_on_one_screen() {
    let view = StatusView {
        installation: "epu-1".to_owned(),
        version: "0.1.0".to_owned(),
        closed: true,
        since: before(90_000),
        now: NOW,
        pools: vec![PoolBrief {
            name: PoolName::new("web").unwrap(),
            engine: "queue-length".to_owned(),
            target: Some(4),
            counts: a_pool().counts,
            condition: "growing".to_owned(),
            why: "61 wait, more than 50".to_owned(),
        }],
        concerns: vec!["pool web: a storm".to_owned()],
        standing: epu_core::lease::Standing::default(),
    };
    let sites = [SiteStatus {
        launch_most: 1_000,
        waiting: 0,
        site: SiteName::new("local").unwrap(),
        driver: "local".to_owned(),
        live: 4,
        listed_at: Some(before(1)),
        fault: None,
        account: None,
        pace: Vec::new(),
        origin: None,
    }];
    insta::assert_snapshot!(status(&view, &sites, &[], Style::default()));
    let held: Vec<PlacementView> = its_placements().into_iter().filter(is_held_back).collect();
    let shown = status(&view, &sites, &held, Style::default());
    assert!(shown.contains("placements that do not launch\n"), "{shown}");
    assert!(shown.contains("parked") && !shown.contains("full"), "{shown}");
}

#[test]
fn placements_with_what_they_let_through() {
    insta::assert_snapshot!(placements(&its_placements(), NOW, Style::default()));
    assert_eq!(placements(&[], NOW, Style::default()), "there are no placements\n");
}

#[test]
fn sites_and_what_waits_there() {
    let all: Vec<SiteStatus> = serde_json::from_value(json!([
        {"site": "local", "driver": "local", "live": 4, "listed_at": before(1), "fault": null},
        {
            "site": "aws", "driver": "ec2", "live": 0, "listed_at": null, "fault": Fault::new("site-credentials", "AuthFailure"),
            "account": "123456789012", "waiting": 2, "launch_most": 1_000,
            "pace": [
                {"what": "RunInstances", "level": -1.5, "capacity": 5.0, "refill": 2.0, "waiting": 2},
                {"what": "DescribeInstances", "level": 50.0, "capacity": 50.0, "refill": 10.0, "waiting": 0},
            ],
        },
    ]))
    .unwrap();
    insta::assert_snapshot!(sites(&all, NOW, Style::default()));
}

#[test]
fn a_check_says_what_is_missing() {
    let mut report: SiteReport = serde_json::from_value(json!({
        "site": "aws", "driver": "ec2",
        "findings": [
            {"what": "credentials", "verdict": "good", "text": "account 123456789012"},
            {"what": "clock", "verdict": "doubtful", "text": "it is 40 s ahead; set up time synchronisation"},
            {"what": "quota (pool web)", "verdict": "unknown", "text": "the site does not say"},
            {"what": "image ami-1 (pool web)", "verdict": "bad", "text": "there is no such image in us-east-1\n\u{1b}[2Jname another"},
        ],
    }))
    .unwrap();
    insta::assert_snapshot!(site_report(&report, Style::default()));
    for (verdict, end) in [
        (epu_core::request::FindingVerdict::Doubtful, "launching works"),
        (epu_core::request::FindingVerdict::Unknown, "nothing is known"),
        (epu_core::request::FindingVerdict::Good, "all is well"),
    ] {
        report.findings.iter_mut().for_each(|finding| finding.verdict = verdict);
        let shown = site_report(&report, Style::default());
        assert!(shown.lines().last().unwrap().starts_with(end), "{shown}");
    }
}

#[test]
fn what_the_sweep_would_do() {
    let stray = |machine: &str, verdict: &str, at: Option<Timestamp>| {
        json!({
            "site": "aws", "machine": machine, "launch": null, "index": null, "first_seen": before(90), "verdict": verdict, "at": at,
            "why": "no record names it",
        })
    };
    let later = NOW + Duration::from_secs(510);
    let view: SweepView = serde_json::from_value(json!({
        "now": NOW,
        "sites": [
            {"site": "aws", "driver": "ec2", "live": 1, "listed_at": before(5), "fault": null},
            {"site": "far", "driver": "ec2", "live": 0, "listed_at": null, "fault": Fault::new("no-contact", "nobody answers")},
        ],
        "machines": [
            stray("i-1", "adopt", None), stray("i-2", "terminate", Some(before(1))), stray("i-3", "wait", Some(later)), stray("i-4", "leave", None),
        ],
    }))
    .unwrap();
    insta::assert_snapshot!(sweep(&view, Style::default()));
    let nothing = SweepView {
        sites: Vec::new(),
        machines: Vec::new(),
        ..view
    };
    assert_eq!(
        sweep(&nothing, Style::default()),
        "every machine with our tags is explained by a record\n"
    );
}

#[test]
fn a_refresh_says_how_far_it_is() {
    let going: RefreshView = serde_json::from_value(json!({
        "pool": "web", "refresh": {"since": before(95), "by": "ada", "paused": "the night", "back": true}, "version": "sleeper@new",
        "previous": "sleeper@old", "versions": {"sleeper@new": 2, "sleeper@old": 3}, "outdated": 3, "draining": 1,
        "held": "it is held",
    }))
    .unwrap();
    let none = RefreshView {
        refresh: None,
        held: None,
        ..going.clone()
    };
    let back = RefreshView {
        outdated: 0,
        held: None,
        ..going.clone()
    };
    let done = RefreshView {
        outdated: 0,
        draining: 0,
        versions: BTreeMap::from([("sleeper@new".to_owned(), 5)]),
        ..none.clone()
    };
    let shown: Vec<String> = [going, none, back, done]
        .iter()
        .map(|view| refresh(view, NOW, Style::default()))
        .collect();
    insta::assert_snapshot!(shown.join("\n"));
}

#[test]
fn templates_and_their_content() {
    use crate::commands::Version;
    let web = PoolName::new("web").unwrap();
    let versions = [
        Version {
            template: "sleeper".to_owned(),
            version: "sleeper@0123456789ab".to_owned(),
            pools: [web.clone()].into(),
            live: 3,
            content: Some(a_pool().pool.template),
            ..Version::default()
        },
        Version {
            template: "sleeper".to_owned(),
            version: "sleeper@ba9876543210".to_owned(),
            before: [web].into(),
            live: 1,
            ..Version::default()
        },
    ];
    insta::assert_snapshot!(format!("{}\n{}", templates(&versions, Style::default()), template(&versions)));
    assert_eq!(
        templates(&[], Style::default()),
        "no pool launches anything, and no template is kept by itself\n"
    );
}

#[test]
fn events_are_sentences() {
    let decided = a_pool().decision.unwrap();
    let web = PoolName::new("web").unwrap();
    let mut entries = vec![
        Entry::new(
            before(9),
            "serve",
            Event::Started {
                version: "0.1.0".to_owned(),
            },
        ),
        Entry::new(before(8), "operator", Event::PoolAdded).of(&web),
        Entry::new(before(7), "controller", Event::Decided(Box::new(decided))).of(&web),
        Entry::new(
            before(6),
            "provisioner",
            Event::Moved {
                from: State::Running,
                to: State::Terminating,
                why: Some(Cause::DrainDeadline),
                fault: Some(Fault::new("worker-failed", "it\nfailed")),
            },
        )
        .of(&web)
        .on(id(1)),
        Entry::new(before(5), "controller", Event::PoolPaused(Paused::default())).of(&web),
    ];
    for (sequence, entry) in (1..).zip(&mut entries) {
        entry.sequence = sequence;
    }
    insta::assert_snapshot!(events(&entries, Style::default()));
    assert!(events(&entries, Style { colour: true, width: None }).contains("\x1b[2m"));
}

#[test]
fn nothing_from_outside_writes_to_the_terminal() {
    let shown = [
        pool(&a_pool(), &its_placements(), NOW, Style::default()),
        placements(&its_placements(), NOW, Style::default()),
        instances(&several(), NOW, Style::default()),
        instance(&several()[2], NOW, Style::default()),
        harmless("\x1b[2Jcleared\u{9b}31m\r\n"),
    ];
    for text in shown {
        assert!(!text.chars().any(|c| c.is_control() && c != '\n' && c != '\t'), "{text:?}");
    }
}

#[test]
fn a_table_fits_the_terminal_and_has_colours_only_when_asked() {
    let narrow = Style {
        colour: false,
        width: Some(70),
    };
    let text = instances(&several(), NOW, narrow);
    assert!(text.lines().all(|line| line.chars().count() <= 70), "{text}");
    let coloured = Style { colour: true, width: None };
    assert!(instances(&several(), NOW, coloured).contains("\x1b["));
    assert!(!instances(&several(), NOW, Style::default()).contains('\x1b'));
}

#[test]
fn ages_are_short() {
    for (seconds, text) in [
        (0, "0s"),
        (59, "59s"),
        (90, "1m 30s"),
        (600, "10m"),
        (3_700, "1h 1m"),
        (90_000, "1d 1h"),
    ] {
        assert_eq!(age(Duration::from_secs(seconds)), text);
    }
}
