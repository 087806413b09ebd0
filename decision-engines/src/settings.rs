//! Checking an engine's settings: every fault is found at once, with its place.
//!
//! Serde stops at the first fault and may pass over unknown keys, so settings are first checked against the schema made from
//! their type, which finds all faults of form. What a schema cannot say (low water above high water) each engine checks on the
//! untyped tree, so that it is found beside them and not only after they are mended. Only a tree without faults is deserialized.

use jsonschema::Validator;
use jsonschema::error::ValidationErrorKind;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The most problems that one check names; a note says how many more there are. Too low: mending takes rounds. Too high: a file
/// of nonsense fills the screen.
pub const PROBLEMS_MAX: usize = 100;
/// The longest text of a problem, in characters: a faulty key stands in it.
const TEXT_MAX: usize = 400;
/// The longest value, in bytes of JSON, that is repeated in the text of its problem.
const VALUE_SHOWN_MAX: usize = 100;

/// A fault in an engine's settings.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, thiserror::Error)]
#[error("{}: {text}", if path.is_empty() { "settings" } else { path.as_str() })]
pub struct Problem {
    /// Where within the settings, as a JSON pointer such as `/unique/left/PORT`; empty for the settings as a whole.
    pub path: String,
    /// What is wrong and what would be right, for people.
    pub text: String,
}

impl Problem {
    /// A fault at a place given as keys from the outside in.
    #[must_use]
    pub fn at(keys: &[&str], text: impl Into<String>) -> Self {
        let path = keys.iter().map(|key| format!("/{}", escaped(key))).collect();
        Self { path, text: text.into() }
    }
}

/// A key as it stands in a JSON pointer (RFC 6901).
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Checks trees against the schema of one settings type.
pub(crate) struct Checker {
    schema: Value,
    /// An error only when a settings type has a schema that is none, which is then every check's only problem.
    validator: Result<Validator, String>,
}

impl Checker {
    /// For the settings `S`.
    pub(crate) fn of<S: JsonSchema>() -> Self {
        let plain = SchemaSettings::draft2020_12().with(|settings| {
            // It becomes a part of the configuration's schema, so it refers to nothing and says no draft of its own.
            settings.meta_schema = None;
            settings.inline_subschemas = true;
        });
        let schema = plain.into_generator().into_root_schema_for::<S>().to_value();
        let validator = jsonschema::validator_for(&schema).map_err(|error| error.to_string());
        Self { schema, validator }
    }

    /// The schema.
    pub(crate) fn schema(&self) -> &Value {
        &self.schema
    }

    /// The settings as their type, when they have no fault: neither of form nor among `others`, found by other checks.
    pub(crate) fn read<S: DeserializeOwned>(&self, tree: &Value, others: Vec<Problem>) -> Result<S, Vec<Problem>> {
        let mut problems = others;
        match &self.validator {
            Ok(validator) => {
                for error in validator.iter_errors(tree) {
                    self.describe(&error, &mut problems);
                }
            }
            Err(why) => problems.push(Problem::at(&[], format!("this engine's schema is faulty: {why}"))),
        }
        if problems.is_empty() {
            return S::deserialize(tree).map_err(|error| vec![Problem::at(&[], shortened(&error.to_string()))]);
        }
        problems.sort();
        problems.dedup();
        if problems.len() > PROBLEMS_MAX {
            let more = problems.len() - PROBLEMS_MAX;
            problems.truncate(PROBLEMS_MAX);
            problems.push(Problem::at(&[], format!("and {more} more problems")));
        }
        Err(problems)
    }

    fn describe(&self, error: &jsonschema::ValidationError<'_>, problems: &mut Vec<Problem>) {
        let path = error.instance_path().as_str();
        let keyword = error.schema_path().as_str();
        let rule = keyword.rsplit_once('/').and_then(|(parent, _)| self.schema.pointer(parent));
        if let ValidationErrorKind::AdditionalProperties { unexpected } = error.kind() {
            let allowed = rule.map_or_else(String::new, allowed_keys);
            problems.extend(unexpected.iter().map(|key| Problem {
                path: format!("{path}/{}", escaped(key)),
                text: shortened(&format!("{key:?} is not known here{allowed}")),
            }));
            return;
        }
        let wants_text = rule.is_some_and(|rule| rule.get("type").is_some_and(|kind| kind == "string"));
        let found = error.instance();
        let hint = if wants_text && (found.is_number() || found.is_boolean()) {
            format!(": write \"{found}\" in quotes")
        } else {
            String::new()
        };
        // A long value would push what is wrong with it out of sight.
        let text = if found.to_string().len() > VALUE_SHOWN_MAX {
            error.masked_with("what stands here").to_string()
        } else {
            error.to_string()
        };
        problems.push(Problem {
            path: path.to_owned(),
            text: format!("{}{hint}", shortened(&text)),
        });
    }
}

/// Which keys an object may have, as the end of a sentence.
fn allowed_keys(rule: &Value) -> String {
    let keys = |name| {
        let under = rule.get(name).and_then(Value::as_object);
        under.map(|under| under.keys().map(String::as_str).collect::<Vec<_>>())
    };
    if let Some(known) = keys("properties") {
        return format!("; known are {}", known.join(", "));
    }
    keys("patternProperties").map_or_else(String::new, |patterns| format!("; a name here fits {}", patterns.join(" or ")))
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}
