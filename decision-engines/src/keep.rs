//! Holds a number of workers, some of which may be unique.
//!
//! The pool is to have `n` workers, brought within its bounds. A failed one is replaced because it no longer counts as capacity
//! while `n` stays; the plan does that.
//!
//! # Unique instances
//!
//! A slot is a label with variables of its own. Each label is to be filled by exactly one instance, which gets the variables; the
//! rest of `n` is interchangeable.
//!
//! | what changes | what happens |
//! |---|---|
//! | a label is added | an instance is launched with its variables; no running one is turned into it |
//! | a label is removed | the instance that fills it is drained, even when the number stays |
//! | a label's variables change | the running instance stays; its replacement gets the new ones |
//! | an instance that fills a slot fails | its replacement gets the slot, with the variables as they are then |
//! | the controller restarts | nothing: which instance fills which slot is in the instance's record |
//!
//! What counts is the label, not its variables, so two labels may have the same ones. More labels than `n` are refused. Should the
//! pool's maximum leave no room for all of them, those already filled come first, then the others in order of label.

use std::collections::{BTreeMap, BTreeSet};

use epu_core::Reason;
use epu_core::id::SlotLabel;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::registry::Configured;
use crate::settings::Problem;
use crate::{Decision, Engine, Memory, Observation, bounds};

/// The most slots. Every decision carries them all.
pub const SLOTS_MAX: usize = 1_000;
/// The most variables of one slot.
pub const VARIABLES_MAX: usize = 100;
/// The longest value of a variable, in characters.
pub const VALUE_MAX: usize = 4_096;
/// So many labels stand in a reason's text.
const SHOWN: u32 = 3;
/// Variables whose names start like this are the agent's own.
const RESERVED: &str = "EPU_";

/// Keeps a number of workers: failed ones are replaced, and nothing else changes the size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(deny_unknown_fields)]
pub struct Settings {
    /// How many workers. The pool's `min` and `max` hold over it.
    #[schemars(range(max = 1_000_000))]
    pub n: u32,
    /// Instances with variables of their own, by label. They count in `n`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = SLOTS_MAX))]
    pub unique: BTreeMap<SlotLabel, Variables>,
}

/// Variables of a slot: in the environment of set-up and worker, over those of the template.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Variables(pub BTreeMap<String, String>);

impl JsonSchema for Variables {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Variables".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "description": "variables, by names of letters, digits and _ that start with no digit and not with EPU_",
            "patternProperties": { "^[A-Za-z_][A-Za-z0-9_]{0,127}$": { "type": "string", "maxLength": VALUE_MAX } },
            "additionalProperties": false,
            "maxProperties": VARIABLES_MAX,
        })
    }
}

/// The engine.
#[derive(Debug, Clone, PartialEq)]
pub struct Keep {
    n: u32,
    unique: BTreeMap<SlotLabel, BTreeMap<String, String>>,
}

impl Configured for Keep {
    type Settings = Settings;
    const NAME: &'static str = "keep";
    const ALIASES: &'static [&'static str] = &["n-preserving", "npreserving"];

    fn faults(tree: &Value) -> Vec<Problem> {
        let mut problems = Vec::new();
        let Some(unique) = tree.get("unique").and_then(Value::as_object) else {
            return problems;
        };
        if let Some(n) = tree.get("n").and_then(Value::as_u64)
            && usize::try_from(n).is_ok_and(|n| unique.len() > n)
        {
            let text = format!("{} unique instances are more than n, which is {n}", unique.len());
            problems.push(Problem::at(&["unique"], text));
        }
        for (label, variables) in unique {
            let names = variables.as_object().into_iter().flat_map(|variables| variables.keys());
            for name in names.filter(|name| name.starts_with(RESERVED)) {
                let text = format!("names that start with {RESERVED} are the agent's own");
                problems.push(Problem::at(&["unique", label, name], text));
            }
        }
        problems
    }

    fn from_settings(settings: Settings) -> Self {
        Self {
            n: settings.n,
            unique: settings.unique.into_iter().map(|(label, variables)| (label, variables.0)).collect(),
        }
    }
}

impl Engine for Keep {
    fn decide(&self, seen: &Observation) -> Decision {
        let mut reasons = vec![Reason::new("keep", format!("keeps {}", self.n)).with("n", self.n)];
        let desired = bounds::hold(seen, self.n, &mut reasons);
        let slots = self.slots(seen, desired, &mut reasons);
        Decision {
            desired,
            stepwise: false,
            slots,
            reasons,
            memory: Memory::default(),
            look_again_at: None,
        }
    }

    fn version(&self) -> &'static str {
        "keep/1"
    }
}

impl Keep {
    /// The slots to fill, at most `room` of them.
    fn slots(&self, seen: &Observation, room: u32, reasons: &mut Vec<Reason>) -> BTreeMap<SlotLabel, BTreeMap<String, String>> {
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let filled = |label: &&SlotLabel| seen.slots.contains_key(*label);
        let slots = if self.unique.len() <= room {
            self.unique.clone()
        } else {
            let first = self.unique.keys().filter(filled);
            let then = self.unique.keys().filter(|label| !filled(label));
            let chosen: BTreeSet<_> = first.chain(then).take(room).collect();
            let cut = self.unique.keys().filter(|label| !chosen.contains(label));
            reasons.extend(about("slots-cut", "no room below the maximum for", cut));
            let chosen = self.unique.iter().filter(|(label, _)| chosen.contains(label));
            chosen.map(|(label, variables)| (label.clone(), variables.clone())).collect()
        };
        let empty = slots.keys().filter(|label| !filled(label));
        reasons.extend(about("slots-empty", "to be launched:", empty));
        let removed = seen.slots.keys().filter(|label| !self.unique.contains_key(*label));
        reasons.extend(about("slots-removed", "no longer asked for:", removed));
        slots
    }
}

/// A reason about some slots, when there are any. It names the first few.
fn about<'a>(code: &'static str, what: &str, labels: impl Iterator<Item = &'a SlotLabel>) -> Option<Reason> {
    let (mut text, mut count) = (what.to_owned(), 0_u32);
    for label in labels {
        if count < SHOWN {
            text.push_str(if count > 0 { ", " } else { " " });
            text.push_str(label.as_str());
        }
        count += 1;
    }
    if count > SHOWN {
        text.push_str(&format!(" and {} more", count - SHOWN));
    }
    (count > 0).then(|| Reason::new(code, text).with("slots", count))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Registry;

    fn problems(settings: &Value) -> Vec<String> {
        let made = Registry::standard().make("keep", settings);
        made.expect_err("faults").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn both_settings_are_read_and_unique_may_be_left_out() {
        let all = Registry::standard();
        for fine in [json!({"n": 0}), json!({"n": 2, "unique": {"left": {"PORT": "1"}, "right": {}}})] {
            assert_eq!(all.make("keep", &fine).expect("an engine").version(), "keep/1");
        }
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let faulty = json!({
            "n": 1,
            "unique": { "a": { "PORT": 8080, "1ST": "x", "EPU_URL": "x" }, "b c": {}, "d": "x" },
            "site": "here",
        });
        assert_eq!(
            problems(&faulty),
            [
                r#"/site: "site" is not known here; known are n, unique"#,
                "/unique: 3 unique instances are more than n, which is 1",
                r#"/unique/a/1ST: "1ST" is not known here; a name here fits ^[A-Za-z_][A-Za-z0-9_]{0,127}$"#,
                "/unique/a/EPU_URL: names that start with EPU_ are the agent's own",
                r#"/unique/a/PORT: 8080 is not of type "string": write "8080" in quotes"#,
                r#"/unique/b c: "b c" is not known here; a name here fits ^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"#,
                r#"/unique/d: "x" is not of type "object""#,
            ]
        );
    }

    #[test]
    fn n_must_be_a_whole_number_in_reach() {
        for wrong in [json!("asd"), json!(-1), json!(1.5), json!(1_000_001), json!(null)] {
            let problems = problems(&json!({ "n": wrong }));
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].starts_with("/n: "), "{problems:?}");
        }
        assert_eq!(
            problems(&json!({"n": 3.0})),
            ["settings: invalid type: floating point `3.0`, expected u32"]
        );
        assert_eq!(problems(&json!({})), [r#"settings: "n" is a required property"#]);
        assert_eq!(problems(&json!(null)), [r#"settings: null is not of type "object""#]);
    }

    #[test]
    fn what_is_too_large_is_named_without_repeating_it() {
        let many = |count: usize| (0..count).map(|i| (format!("v{i}"), json!("x"))).collect::<serde_json::Map<_, _>>();
        let faulty = json!({"n": 1, "unique": {"a": {"LONG": "x".repeat(VALUE_MAX + 1)}}});
        let long = problems(&faulty);
        assert_eq!(long, ["/unique/a/LONG: what stands here is longer than 4096 characters"]);
        let problems = problems(&json!({"n": 1, "unique": {"a": many(VARIABLES_MAX + 1)}}));
        assert_eq!(problems, ["/unique/a: what stands here has more than 100 properties"]);
    }

    #[test]
    fn a_reason_names_only_the_first_few_slots() {
        let labels: Vec<_> = ["a", "b", "c", "d", "e"].iter().filter_map(|l| SlotLabel::new(l).ok()).collect();
        let text = |n: usize| about("slots-empty", "to be launched:", labels.iter().take(n)).map(|reason| reason.text);
        assert_eq!(text(0), None);
        assert_eq!(text(3).as_deref(), Some("to be launched: a, b, c"));
        assert_eq!(text(5).as_deref(), Some("to be launched: a, b, c and 2 more"));
    }
}
