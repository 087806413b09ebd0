//! A domain's configuration as the original had it: three sections, merged one level deep.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The three sections. Anything else at the top is ignored, as the original did.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Sections {
    /// The engine's class.
    pub general: Map<String, Value>,
    /// Whether and how health is watched.
    pub health: Map<String, Value>,
    /// The engine's settings.
    pub engine_conf: Map<String, Value>,
}

impl Sections {
    /// The sections of a mapping.
    ///
    /// # Errors
    /// The name of a section that is no mapping.
    pub(crate) fn of(config: &Map<String, Value>) -> Result<Self, String> {
        let section = |name: &str| match config.get(name) {
            None | Some(Value::Null) => Ok(Map::new()),
            Some(Value::Object(section)) => Ok(section.clone()),
            Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
                Err(format!("section {name} must be a mapping"))
            }
        };
        Ok(Self {
            general: section("general")?,
            health: section("health")?,
            engine_conf: section("engine_conf")?,
        })
    }

    /// These with others over them: a key's new value replaces the whole old one.
    #[must_use]
    pub(crate) fn merged(&self, over: &Self) -> Self {
        let merge = |below: &Map<String, Value>, above: &Map<String, Value>| {
            let mut all = below.clone();
            all.extend(above.iter().map(|(key, value)| (key.clone(), value.clone())));
            all
        };
        Self {
            general: merge(&self.general, &over.general),
            health: merge(&self.health, &over.health),
            engine_conf: merge(&self.engine_conf, &over.engine_conf),
        }
    }

    /// As clients see it.
    #[must_use]
    pub(crate) fn json(&self) -> Value {
        json!({ "general": self.general, "health": self.health, "engine_conf": self.engine_conf })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sections(value: Value) -> Sections {
        Sections::of(value.as_object().expect("a mapping")).expect("sections")
    }

    #[test]
    fn sections_are_merged_one_level_deep_and_the_rest_is_ignored() {
        let below = sections(json!({"general": {"a": 1}, "engine_conf": {"vars": {"x": 1}, "n": 1}, "other": {"b": 1}}));
        let over = sections(json!({"engine_conf": {"vars": {"y": 2}}, "health": null}));
        let merged = below.merged(&over);
        assert_eq!(
            merged.json(),
            json!({"general": {"a": 1}, "health": {}, "engine_conf": {"vars": {"y": 2}, "n": 1}})
        );
        let wrong = json!({"health": [1]});
        assert!(Sections::of(wrong.as_object().expect("a mapping")).is_err());
    }
}
