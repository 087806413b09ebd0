//! Heartbeats, one a line, as an aggregator hears them.

use std::sync::Arc;
use std::time::Duration;

use epu_core::fact::{Instances, Snapshot};
use epu_core::heartbeat::{Condition, Heartbeat};
use epu_core::instance::Instance;
use epu_core::time::Timestamp;
use epu_sensor_aggregator::window::{Keep, Window};
use serde_json::json;

use super::{Verdict, saying, so};

/// Words of heartbeats.
pub(super) const WORDS: &[&str] = &[
    "instance",
    "sequence",
    "started_at_ms",
    "sent_at_ms",
    "condition",
    "is",
    "ok",
    "process-error",
    "monitor-error",
    "fault",
    "code",
    "text",
    "work",
    "busy",
    "idle",
    "unknown",
    "work_for_ms",
    "draining",
    "readings",
    "load",
    "worker-failed",
    "0198f000-0000-7000-8000-000000000002",
];
/// The most instances that lines are about.
const INSTANCES: u32 = 3;
/// The longest time that a worker may claim to have been idle or busy.
const WORK_FOR_MAX_MS: i64 = 366 * 86_400 * 1_000;

/// What is refused changes nothing; what is taken comes out again, once, within bounds.
pub(super) fn heard(input: &[u8]) -> Verdict {
    let keep = Keep {
        ended: Duration::from_secs(600),
        silent: Duration::from_secs(3_600),
    };
    let mut window = Window::new("aggregator", Timestamp(0), keep);
    window.instances(&known()?, Timestamp(0));
    let mut now = Timestamp(0);
    for line in input.split(|byte| *byte == b'\n').take(20) {
        let Ok(heartbeat) = serde_json::from_slice::<Heartbeat>(line) else {
            continue;
        };
        saying::survives(&heartbeat)?;
        now = now + Duration::from_secs(7);
        let before = format!("{window:?}");
        match window.hear(&heartbeat, now) {
            Err(refusal) => {
                saying::fault(&refusal.fault(heartbeat.instance))?;
                so(format!("{window:?}") == before, || {
                    format!("refused ({}), and yet it changed something", refusal.label())
                })?;
            }
            Ok(_) => {
                let repeated = window.hear(&heartbeat, now);
                so(repeated.is_err(), || "the same heartbeat was news twice".to_owned())?;
                told(&window.snapshot(now, false), &heartbeat)?;
                so(window.snapshot(now, false).iter().all(|page| page.instances.is_empty()), || {
                    "what was told is told again as news".to_owned()
                })?;
            }
        }
    }
    Ok(())
}

fn known() -> Result<Instances, String> {
    let instances = (1..=INSTANCES).map(|n| {
        let id = format!("0198f000-0000-7000-8000-00000000000{n}");
        let record = json!({
            "id": id, "pool": "web", "launch": id, "index": 0, "site": "local", "state": "600-RUNNING", "version": 1, "created_at": 0,
            "state_since": 0,
        });
        serde_json::from_value::<Instance>(record)
            .map(Arc::new)
            .map_err(|error| error.to_string())
    });
    Ok(Instances {
        changed: instances.collect::<Result<_, _>>()?,
        complete: true,
        ..Instances::default()
    })
}

fn told(pages: &[Snapshot], heartbeat: &Heartbeat) -> Verdict {
    let told: Vec<_> = pages.iter().flat_map(|page| &page.instances).collect();
    let [one] = told.as_slice() else {
        return Err(format!("one heartbeat is told as {}", told.len()));
    };
    so(
        one.instance == heartbeat.instance && one.condition == heartbeat.condition && one.ago_ms == 0,
        || "what is told is not what was heard".to_owned(),
    )?;
    so((0..=WORK_FOR_MAX_MS).contains(&one.work_for_ms), || {
        format!("a worker was {:?} for {} ms", one.work, one.work_for_ms)
    })?;
    match &one.condition {
        Condition::ProcessError(fault) | Condition::MonitorError(fault) => {
            so(fault.text.len() <= 4_096, || "a fault without bounds".to_owned())
        }
        Condition::Ok => Ok(()),
    }
}
