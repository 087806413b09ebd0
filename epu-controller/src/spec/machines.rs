//! What a schema cannot say about machines, in a template or over it in a placement.

use std::collections::BTreeMap;

use epu_core::input::{Flaw, pointer};
use serde_json::Value;

use super::rules::Spot;

/// Tags that begin so are ours, or the cloud's own.
const TAGS_TAKEN: [(&str, &str); 2] = [("epu:", "are this system's own"), ("aws:", "are the cloud's own")];

/// Checks a machine, if there is one at `at`.
pub(super) fn check(at: &Spot<'_>, flaws: &mut Vec<Flaw>) {
    launch_template(&at.inside(["launch-template"]), flaws);
    let mut devices: BTreeMap<&str, String> = BTreeMap::new();
    let volumes = at.value("volumes").and_then(Value::as_array).map_or(0, Vec::len);
    for i in 0..volumes {
        let key = format!("volumes/{i}/device");
        let Some(device) = at.text(&key) else { continue };
        match devices.get(device) {
            Some(first) => flaws.push(at.flaw(&key, format!("volume {device:?} is here a second time, first {first}"))),
            None => drop(devices.insert(device, at.whereabouts(&key))),
        }
    }
    let tags = at.value("tags").and_then(Value::as_object);
    for key in tags.into_iter().flat_map(|tags| tags.keys()) {
        if let Some((begin, whose)) = TAGS_TAKEN.iter().find(|(begin, _)| key.to_ascii_lowercase().starts_with(begin)) {
            let inside = format!("{}{}", at.pointer(), pointer(["tags", key]));
            flaws.push(at.tree().flaw_at_key(&inside, format!("tags that begin with {begin} {whose}")));
        }
    }
}

fn launch_template(at: &Spot<'_>, flaws: &mut Vec<Flaw>) {
    if !at.value("").is_some_and(Value::is_object) {
        return;
    }
    let given = ["id", "name"].into_iter().filter(|key| at.value(key).is_some()).count();
    if given != 1 {
        let found = if given == 0 { "neither id nor name" } else { "both id and name" };
        let flaw = at.tree().flaw_at_key(at.pointer(), format!("a launch template with {found}"));
        flaws.push(flaw.help("give exactly one of id, name"));
    }
}
