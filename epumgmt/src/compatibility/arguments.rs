//! Arguments of an operation, bound as Python binds keyword arguments: unknown and missing ones are a `Type error`.

use epu_bus::amqp::dashi::wire::Problem;
use serde_json::{Map, Value};

use super::table::{Kind, Operation, Whose};

/// The longest id, name or caller, in characters.
pub(crate) const TEXT_MAX: usize = 255;
/// The most ids in one request.
pub(crate) const IDS_MAX: usize = 10_000;

/// Bound arguments: every one of the table is there, null where it was left out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Arguments {
    values: Map<String, Value>,
    /// Who says to ask.
    pub caller: Option<String>,
}

impl Arguments {
    /// Binds what was given to what the operation takes.
    ///
    /// # Errors
    /// A `Type error` that names the argument.
    pub(crate) fn bind(operation: &Operation, mut given: Map<String, Value>) -> Result<Self, Problem> {
        let op = operation.name;
        let named = if operation.whose == Whose::Nobody {
            None
        } else {
            given.remove("caller")
        };
        let caller = match named {
            Some(Value::String(caller)) if caller.chars().count() <= TEXT_MAX => Some(caller).filter(|caller| !caller.is_empty()),
            Some(Value::Null) | None => None,
            Some(other) => return Err(wrong(op, "caller", "text or null", &other)),
        };
        let mut values = Map::new();
        for argument in operation.arguments {
            let value = match given.remove(argument.name) {
                Some(value) => value,
                None if argument.required => {
                    return Err(Problem::type_error(format!(
                        "{op}() missing required argument: '{}'",
                        argument.name
                    )));
                }
                None => Value::Null,
            };
            let absent = value.is_null() && !argument.required;
            if !absent && !fits(argument.kind, &value) {
                return Err(wrong(op, argument.name, argument.kind.words(), &value));
            }
            values.insert(argument.name.to_owned(), value);
        }
        if let Some(unknown) = given.keys().next() {
            let unknown: String = unknown.chars().take(TEXT_MAX).collect();
            return Err(Problem::type_error(format!(
                "{op}() got an unexpected keyword argument '{unknown}'"
            )));
        }
        Ok(Self { values, caller })
    }

    /// A text; empty when it is null.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.values.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// A text that is not empty.
    pub(crate) fn some_text(&self, name: &str) -> Option<&str> {
        Some(self.text(name)).filter(|text| !text.is_empty())
    }

    /// A list of texts; empty when it is null.
    pub(crate) fn texts(&self, name: &str) -> Vec<&str> {
        let list = self.values.get(name).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// A mapping; empty when it is null.
    pub(crate) fn mapping(&self, name: &str) -> Map<String, Value> {
        self.values.get(name).and_then(Value::as_object).cloned().unwrap_or_default()
    }

    /// Anything.
    pub(crate) fn value(&self, name: &str) -> &Value {
        self.values.get(name).unwrap_or(&Value::Null)
    }
}

fn fits(kind: Kind, value: &Value) -> bool {
    let short = |text: &str| text.chars().count() <= TEXT_MAX;
    let texts = |list: &Vec<Value>| list.len() <= IDS_MAX && list.iter().all(|item| item.as_str().is_some_and(short));
    match kind {
        Kind::Text => value.as_str().is_some_and(short),
        Kind::TextOrNull => value.is_null() || value.as_str().is_some_and(short),
        Kind::Texts => value.as_array().is_some_and(texts),
        Kind::TextsOrNull => value.is_null() || value.as_array().is_some_and(texts),
        Kind::Mapping => value.is_object(),
        Kind::MappingOrNull => value.is_null() || value.is_object(),
        Kind::Anything => true,
    }
}

fn wrong(op: &str, name: &str, wanted: &str, found: &Value) -> Problem {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text that is too long",
        Value::Array(_) => "a list of other things, or too long",
        Value::Object(_) => "a mapping",
    };
    Problem::type_error(format!("{op}() argument '{name}' must be {wanted}, not {found}"))
}

#[cfg(test)]
mod tests {
    use epu_bus::amqp::dashi::wire::BAD_REQUEST;
    use serde_json::json;

    use super::super::config::Role;
    use super::super::table;
    use super::*;

    fn bind(op: &str, given: Value) -> Result<Arguments, Problem> {
        let operation = table::find(Role::EpuManagement, op).expect("an operation");
        Arguments::bind(operation, given.as_object().cloned().expect("a mapping"))
    }

    #[test]
    fn arguments_are_bound_as_python_binds_them() {
        let bound = bind(
            "add_domain",
            json!({"domain_id": "web", "definition_id": "d", "config": null, "caller": "alice"}),
        )
        .expect("bound");
        assert_eq!((bound.text("domain_id"), bound.caller.as_deref()), ("web", Some("alice")));
        assert_eq!((bound.some_text("subscriber_name"), bound.mapping("config").len()), (None, 0));
    }

    #[test]
    fn unknown_missing_and_wrong_ones_are_type_errors() {
        for (given, says) in [
            (json!({"domain_id": "web", "force": true}), "unexpected keyword argument 'force'"),
            (json!({}), "missing required argument: 'domain_id'"),
            (json!({"domain_id": null}), "'domain_id' must be text, not null"),
            (json!({"domain_id": "x".repeat(300)}), "too long"),
            (
                json!({"domain_id": "web", "caller": 5}),
                "'caller' must be text or null, not a number",
            ),
        ] {
            let problem = bind("describe_domain", given).expect_err("a type error");
            assert_eq!(problem.exc_type, BAD_REQUEST);
            assert!(
                problem.value.starts_with("Type error: describe_domain() ") && problem.value.contains(says),
                "{problem}"
            );
        }
        // Definitions belong to nobody, so that there is no caller to name.
        let problem = bind("list_domain_definitions", json!({"caller": "x"})).expect_err("a type error");
        assert!(problem.value.contains("unexpected keyword argument 'caller'"), "{problem}");
    }
}
