//! Schemas as the checker and editors want them: whole, without references, and as strict as serde is.

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::time::SPAN_PATTERN;

/// The format of a length of time: what [`crate::Span`] can read.
pub const SPAN_FORMAT: &str = "epu-duration";

/// The schema of a type, made [`strict`].
#[must_use]
pub fn schema_of<T: JsonSchema>() -> Value {
    let generated = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>();
    strict(generated.to_value())
}

/// Puts referenced definitions in their places, takes `null` out of what may be left out (a key is there or it is not), gives whole
/// numbers the bounds of their type and lengths of time their format.
#[must_use]
pub fn strict(schema: Value) -> Value {
    let definitions = schema
        .get("$defs")
        .or_else(|| schema.get("definitions"))
        .cloned()
        .unwrap_or_default();
    let mut whole = tighten(schema, &definitions, 0);
    if let Some(map) = whole.as_object_mut() {
        for unneeded in ["$defs", "definitions", "$schema"] {
            map.remove(unneeded);
        }
    }
    whole
}

/// How deep definitions may lie in each other; a definition that contains itself ends here as "anything".
const REFERENCES_MAX: usize = 32;

fn tighten(schema: Value, definitions: &Value, depth: usize) -> Value {
    if depth > REFERENCES_MAX {
        return Value::Bool(true);
    }
    match schema {
        Value::Object(map) => tighten_map(map, definitions, depth),
        Value::Array(list) => list.into_iter().map(|one| tighten(one, definitions, depth)).collect(),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => other,
    }
}

fn tighten_map(mut map: Map<String, Value>, definitions: &Value, depth: usize) -> Value {
    if let Some(Value::String(reference)) = map.remove("$ref") {
        let name = reference.rsplit('/').next().unwrap_or_default();
        let mut target = match definitions.get(name) {
            Some(Value::Object(target)) => target.clone(),
            Some(_) | None => Map::new(),
        };
        // What stands beside a reference (a description, a default) says more than what it refers to.
        target.extend(map);
        return tighten_map(target, definitions, depth + 1);
    }
    // `anyOf: [X, null]` and `type: [x, null]` are X.
    if let Some(Value::Array(mut options)) = map.remove("anyOf") {
        options.retain(|option| *option != json!({ "type": "null" }));
        if options.len() == 1
            && let Some(Value::Object(only)) = options.pop()
        {
            let mut merged = only;
            merged.extend(map);
            return tighten_map(merged, definitions, depth);
        }
        map.insert("anyOf".to_owned(), Value::Array(options));
    }
    if let Some(Value::Array(types)) = map.get_mut("type") {
        types.retain(|one| one != "null");
        if types.len() == 1 {
            let only = types.remove(0);
            map.insert("type".to_owned(), only);
        }
    }
    if map.get("default").is_some_and(Value::is_null) {
        map.remove("default");
    }
    let highest = match map.get("format").and_then(Value::as_str) {
        Some("uint8") => Some(u64::from(u8::MAX)),
        Some("uint16") => Some(u64::from(u16::MAX)),
        Some("uint32") => Some(u64::from(u32::MAX)),
        Some("uint64" | "uint") => Some(u64::MAX),
        Some(_) | None => None,
    };
    if let Some(highest) = highest {
        map.entry("maximum").or_insert_with(|| highest.into());
    }
    if map.get("pattern").and_then(Value::as_str) == Some(SPAN_PATTERN) {
        map.insert("format".to_owned(), SPAN_FORMAT.into());
    }
    map.into_iter()
        .map(|(key, value)| {
            // Data, not schemas.
            let value = if matches!(key.as_str(), "default" | "examples" | "const" | "enum" | "$defs" | "definitions") {
                value
            } else {
                tighten(value, definitions, depth + usize::from(key == "properties"))
            };
            (key, value)
        })
        .collect()
}
