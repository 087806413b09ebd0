//! Requests that are made up, at the real services in a simulated world: whatever is refused changes nothing.

use epu_core::heartbeat::FAULT_MAX;
use epu_core::id::InstanceId;
use epu_core::request::{Caller, Happened, Report, Request};
use epu_core::{Fault, code::CODES};
use epu_simulator::time::minutes;
use epu_simulator::world::World;
use serde_json::{Value, json};

use super::{ALONE, number};

/// Asked at each run.
const REQUESTS: u64 = 400;
/// The longest output of a worker that is kept, in characters.
const OUTPUT_MAX: usize = 4_000;

/// Everything that is recorded of pools and instances.
fn recorded(world: &World) -> String {
    let records: Vec<Value> = world
        .records()
        .iter()
        .map(|record| serde_json::to_value(&**record).unwrap())
        .collect();
    json!([world.pool().pool, records]).to_string()
}

fn fits(fault: &Fault) {
    assert!(CODES.iter().any(|(code, _, _)| *code == fault.code), "{fault}");
}

/// Requests of every op, their ids and texts those of the world or not, with values swapped by a simple rule that the seed decides.
fn made_up(seed: u64, world: &World) -> Value {
    let id = world
        .running()
        .first()
        .map_or_else(|| json!("0198f000-0000-7000-8000-000000000001"), |id| json!(id.to_string()));
    let values = [
        json!(null),
        json!(0),
        json!(-1),
        json!(1e9),
        json!("x".repeat(5_000)),
        json!([]),
        json!({}),
        json!("web"),
        json!("5m"),
        json!(true),
        id.clone(),
        json!("amqp://me:hunter2hunter2@host"),
        json!(u64::MAX),
        json!("../.."),
        json!([[[]]]),
    ];
    let pick = |of: u64| values[usize::try_from(seed / of % 15).unwrap()].clone();
    let pool = world.pool().pool.name.to_string();
    let paths = [
        "max",
        "min",
        "engine.keep.n",
        "engine.keep",
        "engine",
        "limits.drain",
        "template",
        "placements",
        "a.b",
        "sensors.x",
        "",
        "health",
    ];
    let path = paths[usize::try_from(seed % 12).unwrap()];
    match seed % 9 {
        0..=3 => json!({"op": "pool_reconfigure", "args": {"pool": pool, "set": {path: pick(12)}}}),
        4 => {
            json!({"op": "pool_add", "args": {"file": "f", "text": json!({"pools": {"other": pick(12)}, "templates": pick(200)}).to_string()}})
        }
        5 => json!({"op": "pool_pause", "args": {"pool": pick(12), "paused": pick(200)}}),
        6 => json!({"op": "pool_refresh", "args": {"pool": pool, "do": "rollback", "why": pick(12)}}),
        7 => json!({"op": "placement_reset", "args": {"pool": pool, "placement": pick(12)}}),
        _ => json!({"op": "template_add", "args": {"file": "f", "text": pick(12).to_string()}}),
    }
}

#[test]
fn a_refused_request_changes_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut world = World::keeping(2);
    world.elapse(minutes(5));
    let (mut refused, mut taken) = (0, 0);
    let seed = number("EPU_FUZZ_SEED", 1);
    for n in 0..REQUESTS {
        let number = (n + 1).wrapping_mul(seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15)) >> 8;
        let made = made_up(number, &world);
        let Ok(request) = serde_json::from_value::<Request>(made.clone()) else {
            continue;
        };
        let before = recorded(&world);
        match world.ask(request) {
            Ok(_) => taken += 1,
            Err(fault) => {
                refused += 1;
                fits(&fault);
                assert!(fault.text.len() < 300_000, "{made}: {} bytes of text", fault.text.len());
                assert!(!fault.text.contains("hunter2hunter2"), "{made}: {fault}");
                assert_eq!(
                    recorded(&world),
                    before,
                    "{made} was refused ({fault}), and yet it changed something"
                );
            }
        }
    }
    assert!(
        refused > 20 && taken > 5,
        "{refused} were refused and {taken} taken: that shows nothing"
    );
}

#[test]
fn what_agents_report_is_bounded_before_it_is_recorded() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut world = World::keeping(3);
    world.elapse(minutes(5));
    let long = "é\0\u{1F600}".repeat(20_000);
    let stranger = InstanceId(uuid::Uuid::nil());
    let reports = [
        json!({"is": "ready", "address": long}),
        json!({"is": "failed", "fault": {"code": long, "text": long}}),
        json!({"is": "exited", "exit": {"code": i32::MIN, "signal": i32::MAX, "output": long}}),
        json!({"is": "drained", "exit": {"code": null, "signal": null, "output": long}}),
        json!({"is": "interruption", "within": "366d"}),
    ];
    for happened in reports {
        let happened: Happened = serde_json::from_value(happened).unwrap();
        let Some(id) = world.running().first().copied() else { break };
        let before = recorded(&world);
        let report = |instance| {
            Request::Report(Report {
                instance,
                happened: happened.clone(),
            })
        };
        for (caller, instance) in [(Caller::Instance(stranger), id), (Caller::Instance(stranger), stranger)] {
            fits(&world.ask_as(caller, report(instance)).unwrap_err());
            assert_eq!(recorded(&world), before, "a stranger's report changed something");
        }
        world.ask_as(Caller::Instance(id), report(id)).unwrap();
        let record = world.record(&id);
        assert!(
            record.address.as_ref().is_none_or(|address| address.len() <= 255),
            "an address without bounds"
        );
        assert!(
            record.exit.as_ref().is_none_or(|exit| exit.output.chars().count() <= OUTPUT_MAX),
            "an output without bounds"
        );
        if let Some(fault) = &record.fault {
            fits(fault);
            // Where its worker ended by itself, the text has the end of its output.
            let most = FAULT_MAX.max(OUTPUT_MAX) + 200;
            assert!(fault.text.chars().count() <= most, "a fault without bounds");
        }
    }
}
