//! Finding an engine by its name, and making it from its settings.
//!
//! An engine of one's own is a type with [`Configured`], added with [`Registry::with`]; nothing else needs to know it, since
//! names, schema and checks all come from there.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Engine;
use crate::keep::Keep;
use crate::queue_length::QueueLength;
use crate::settings::{Checker, Problem};

/// An engine that is made from settings.
pub trait Configured: Engine + Sized + 'static {
    /// Its settings. The schema made from them is published, and is what refuses unknown keys.
    type Settings: DeserializeOwned + JsonSchema;
    /// The name under which pools ask for it.
    const NAME: &'static str;
    /// Other names for it.
    const ALIASES: &'static [&'static str] = &[];

    /// The faults that a schema cannot tell. The tree may have any form: what cannot be read is left to the schema.
    fn faults(_tree: &Value) -> Vec<Problem> {
        Vec::new()
    }
    /// Made from settings that were checked.
    fn from_settings(settings: Self::Settings) -> Self;
}

/// An engine, or every fault of its settings.
type Made = Result<Box<dyn Engine>, Vec<Problem>>;

/// One engine, known by one or more names.
struct Kind {
    name: &'static str,
    checker: Checker,
    make: fn(&Checker, &Value) -> Made,
}

/// The engines that there are.
#[derive(Clone, Default)]
pub struct Registry {
    by_name: BTreeMap<&'static str, Arc<Kind>>,
}

impl Registry {
    /// The engines of this crate.
    #[must_use]
    pub fn standard() -> Self {
        Self::default().with::<Keep>().with::<QueueLength>()
    }

    /// And this one too. A name that is taken goes to the newcomer.
    #[must_use]
    pub fn with<E: Configured>(mut self) -> Self {
        let kind = Arc::new(Kind {
            name: E::NAME,
            checker: Checker::of::<E::Settings>(),
            make: |checker, tree| {
                let settings = checker.read(tree, E::faults(tree))?;
                Ok(Box::new(E::from_settings(settings)))
            },
        });
        for name in E::ALIASES.iter().chain([&E::NAME]) {
            self.by_name.insert(name, kind.clone());
        }
        self
    }

    /// Every name that [`make`](Self::make) takes, in order: engines and their aliases.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.by_name.keys().copied()
    }

    /// The name an engine goes by, when `name` is it or stands for it: `npreserving` is `keep`.
    #[must_use]
    pub fn canonical(&self, name: &str) -> Option<&'static str> {
        self.by_name.get(name).map(|kind| kind.name)
    }

    /// The JSON schema (draft 2020-12) of an engine's settings. It has no references, so that it can stand within another one.
    #[must_use]
    pub fn schema(&self, name: &str) -> Option<&Value> {
        self.by_name.get(name).map(|kind| kind.checker.schema())
    }

    /// The engine of that name with these settings.
    ///
    /// # Errors
    /// Every fault of the settings at once, at most [`PROBLEMS_MAX`](crate::settings::PROBLEMS_MAX), in order of place. A name that nothing has is one
    /// problem, at the settings as a whole.
    pub fn make(&self, name: &str, settings: &Value) -> Result<Box<dyn Engine>, Vec<Problem>> {
        let Some(kind) = self.by_name.get(name) else {
            let known = self.names().collect::<Vec<_>>().join(", ");
            return Err(vec![Problem::at(&[], format!("no engine is named {name:?}; there are {known}"))]);
        };
        (kind.make)(&kind.checker, settings)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_set().entries(self.names()).finish()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_alias_makes_the_same_engine() {
        let all = Registry::standard();
        let names: Vec<_> = all.names().collect();
        assert_eq!(names, ["keep", "n-preserving", "npreserving", "queue-length", "queuelen-bounded"]);
        for (name, canonical) in [
            ("npreserving", "keep"),
            ("n-preserving", "keep"),
            ("queuelen-bounded", "queue-length"),
            ("keep", "keep"),
        ] {
            assert_eq!(all.canonical(name), Some(canonical));
            assert_eq!(all.schema(name), all.schema(canonical));
        }
        assert_eq!(all.make("npreserving", &json!({"n": 1})).expect("an engine").version(), "keep/1");
        assert_eq!(all.canonical("greedy"), None);
        assert_eq!(all.schema("greedy"), None);
    }

    #[test]
    fn a_name_that_nothing_has_is_a_problem_that_lists_those_there_are() {
        let problems = Registry::standard().make("greedy", &json!({})).expect_err("no such engine");
        assert_eq!(problems.len(), 1);
        assert!(problems[0].text.contains("\"greedy\""), "{}", problems[0]);
        assert!(
            problems[0].text.contains("keep, n-preserving, npreserving, queue-length"),
            "{}",
            problems[0]
        );
    }

    #[test]
    fn a_schema_can_stand_within_another_and_is_what_reviewers_saw() {
        let all = Registry::standard();
        for name in ["keep", "queue-length"] {
            let schema = all.schema(name).expect("a schema");
            let text = schema.to_string();
            assert!(!text.contains("$ref") && !text.contains("$schema"), "{text}");
            insta::assert_json_snapshot!(format!("schema-{name}"), schema);
        }
    }

    #[test]
    fn a_flood_of_problems_is_cut_and_counted() {
        let settings: serde_json::Map<_, _> = (0..250)
            .map(|i| (format!("key-{i:03}"), json!(1)))
            .chain([("n".into(), json!(1))])
            .collect();
        let problems = Registry::standard().make("keep", &settings.into()).expect_err("faults");
        assert_eq!(problems.len(), crate::settings::PROBLEMS_MAX + 1);
        assert_eq!(problems.last().map(|last| last.text.as_str()), Some("and 150 more problems"));
    }

    #[test]
    fn a_name_that_is_taken_goes_to_the_newcomer() {
        #[derive(Debug)]
        struct Always(u32);
        #[derive(serde::Deserialize, JsonSchema)]
        struct Settings {
            size: u32,
        }
        impl Engine for Always {
            fn decide(&self, seen: &crate::Observation) -> crate::Decision {
                crate::Decision {
                    desired: seen.within(self.0),
                    stepwise: false,
                    slots: BTreeMap::new(),
                    reasons: Vec::new(),
                    memory: crate::Memory::default(),
                    look_again_at: None,
                }
            }
            fn version(&self) -> &'static str {
                "always/1"
            }
        }
        impl Configured for Always {
            type Settings = Settings;
            const NAME: &'static str = "keep";
            fn from_settings(settings: Settings) -> Self {
                Self(settings.size)
            }
        }
        let all = Registry::standard().with::<Always>();
        assert_eq!(all.make("keep", &json!({"size": 2})).expect("an engine").version(), "always/1");
        assert_eq!(all.make("npreserving", &json!({"n": 2})).expect("an engine").version(), "keep/1");
    }
}
