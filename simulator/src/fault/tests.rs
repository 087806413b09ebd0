use super::*;
use crate::{Service, Setup, minutes, seconds};

fn scene() -> Scene {
    let process = |service| Process { service, copy: 0 };
    Scene {
        pools: vec!["pool".to_owned(), "jobs".to_owned()],
        following: vec!["jobs".to_owned()],
        sites: vec!["here".to_owned()],
        processes: [Service::Controller, Service::Provisioner, Service::Aggregator]
            .map(process)
            .to_vec(),
        most: 10,
    }
}

#[test]
fn every_kind_can_be_drawn_written_down_and_read_again() {
    let luck = Luck::seeded(1);
    for kind in Fault::kinds() {
        for _ in 0..50 {
            let Some(fault) = Fault::draw(kind, &luck, &scene()) else {
                continue;
            };
            assert_eq!(fault.kind(), kind);
            assert!(!fault.to_string().is_empty());
            let text = serde_json::to_string(&fault).unwrap();
            assert_eq!(serde_json::from_str::<Fault>(&text).unwrap(), fault, "{text}");
        }
        assert!((0..50).any(|_| Fault::draw(kind, &luck, &scene()).is_some()), "{kind}");
    }
}

#[test]
fn kinds_have_names_of_their_own() {
    let mut kinds = Fault::kinds();
    let all = kinds.len();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds.len(), all);
}

/// Each kind begins in a world where something runs, lasts, and ends; nothing that must always be true is broken by it alone.
#[test]
fn every_kind_alone_breaks_nothing() {
    for kind in Fault::kinds() {
        let following = serde_json::json!({
            "template": "worker", "max": 10, "min": 1,
            "engine": { "queue-length": { "sensor": "jobs", "low-water": 2, "high-water": 8 } },
            "sensors": { "jobs": { "directory": { "path": "/queue" }, "every": "5s" } },
        });
        let mut world = Setup::keeping(3).beside("jobs", following).world();
        world.submit(3, minutes(5)).elapse(minutes(2));
        let luck = Luck::seeded(7);
        let fault = (0..50).find_map(|_| Fault::draw(kind, &luck, &scene())).unwrap();
        let begun = fault.begin(&mut world);
        assert!(begun.bit, "{fault} had nothing to bite on");
        world.elapse(seconds(40));
        if let Some(lift) = begun.lift {
            lift(&mut world);
        }
        world.elapse(minutes(10));
    }
}
