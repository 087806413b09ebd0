//! From a tree and a schema to every flaw, in words for people.

use jsonschema::ValidationError;
use jsonschema::error::{TypeKind, ValidationErrorKind as Kind};
use serde_json::Value;

use super::flaw::without_passwords;
use super::{FOUND_MAX, Flaw, SPAN_FORMAT, Tree, nearest, push, shortened};
use crate::id::NAME_PATTERN;
use crate::secret::REF_PATTERN;
use crate::time::{SPAN_PATTERN, Span};

/// How much of a value is shown in a message, in characters.
const SHOWN_MAX: usize = 60;

/// Every fault of the tree against the schema, with repeated keys; empty when there is none.
#[must_use]
pub fn check(tree: &Tree, schema: &Value) -> Vec<Flaw> {
    let mut flaws = tree.repeated.clone();
    let validator = jsonschema::options()
        .should_validate_formats(true)
        .with_format(SPAN_FORMAT, |text: &str| text.parse::<Span>().is_ok())
        .build(schema);
    match validator {
        Ok(validator) => {
            for error in validator.iter_errors(&tree.value) {
                if flaws.len() >= FOUND_MAX {
                    break;
                }
                Check { tree, schema }.explain(&error, &mut flaws);
            }
        }
        Err(error) => flaws.push(tree.flaw("", format!("the schema itself is wrong: {error}"))),
    }
    // A wrong length of time fails both its pattern and its format; one is enough.
    flaws.sort();
    flaws.dedup();
    flaws
}

struct Check<'a> {
    tree: &'a Tree,
    schema: &'a Value,
}

impl Check<'_> {
    fn explain(&self, error: &ValidationError<'_>, flaws: &mut Vec<Flaw>) {
        let at = error.instance_path().as_str();
        let found = error.instance();
        let say = |text: String| self.tree.flaw(at, text);
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "keywords that our schemas do not use are shown in the validator's words"
        )]
        let flaw = match error.kind() {
            Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
                if self.beside(error, "patternProperties").and_then(|p| p.get(NAME_PATTERN)).is_some() {
                    flaws.extend(unexpected.iter().take(FOUND_MAX).map(|key| self.bad_name(at, key)));
                    return;
                }
                let known = self.beside(error, "properties");
                let known: Vec<&str> = known
                    .and_then(Value::as_object)
                    .into_iter()
                    .flatten()
                    .map(|(key, _)| key.as_str())
                    .collect();
                flaws.extend(unexpected.iter().take(FOUND_MAX).map(|key| self.unknown_key(at, key, &known)));
                return;
            }
            Kind::Required { property } => {
                let key = property.as_str().unwrap_or_default();
                if self.is_misspelt(error, key) {
                    return;
                }
                let flaw = self.tree.flaw_at_key(at, format!("the key {key:?} is missing"));
                match self.beside(error, "properties").and_then(|p| p.get(key)).and_then(first_sentence) {
                    Some(meaning) => flaw.help(format!("{key}: {meaning}")),
                    None => flaw,
                }
            }
            Kind::Type { .. } if self.beside(error, "format") == Some(&Value::from(SPAN_FORMAT)) => {
                let flaw = self.wrong_type(at, found, "a length of time, such as 30s");
                if found.is_number() {
                    flaw.help(format!("give it a unit: {found}s"))
                } else {
                    flaw
                }
            }
            Kind::Type { kind } => self.wrong_type(at, found, &wanted(kind)),
            Kind::Minimum { limit } => say(format!("{} is less than {limit}, the least allowed", shown(found))),
            Kind::Maximum { limit } => say(format!("{} is more than {limit}, the most allowed", shown(found))),
            Kind::ExclusiveMinimum { limit } => say(format!("{} is not more than {limit}", shown(found))),
            Kind::ExclusiveMaximum { limit } => say(format!("{} is not less than {limit}", shown(found))),
            Kind::Pattern { pattern } if pattern == SPAN_PATTERN => say(not_a_span(found)),
            Kind::Format { format } if format == SPAN_FORMAT => say(not_a_span(found)),
            Kind::Pattern { pattern } if pattern == NAME_PATTERN => say(not_a_name(found)),
            // What is written may be the secret itself: it is not repeated.
            Kind::Pattern { pattern } if pattern == REF_PATTERN => {
                say("it is no reference to a secret".to_owned()).help("write env:NAME or file:/path")
            }
            Kind::Pattern { pattern } => say(format!("{} does not match {pattern}", shown(found))),
            Kind::Enum { options } => self.none_of(at, found, options.as_array().into_iter().flatten()),
            Kind::Constant { expected_value } => self.none_of(at, found, [expected_value.as_ref()]),
            Kind::MinItems { limit: 1 } | Kind::MinLength { limit: 1 } => say("it is empty".to_owned()),
            Kind::MinItems { limit } => say(format!("has fewer than {limit} entries")),
            Kind::MaxItems { limit } => say(format!("has more than {limit} entries")),
            Kind::MinLength { limit } => say(format!("{} is shorter than {limit} characters", shown(found))),
            Kind::MaxLength { limit } => say(format!("{} is longer than {limit} characters", shown(found))),
            Kind::MinProperties { limit } => self.properties(error, format!("has fewer than {limit} keys")),
            Kind::MaxProperties { limit } => self.properties(error, format!("has more than {limit} keys")),
            Kind::UniqueItems => say("an entry stands in it twice".to_owned()),
            Kind::PropertyNames { error: inner } => {
                let key = inner.instance().as_str().unwrap_or_default();
                let mut pointer = at.to_owned();
                push(&mut pointer, key);
                let text = match inner.kind() {
                    Kind::Pattern { pattern } if pattern == NAME_PATTERN => not_a_name(inner.instance()),
                    other => format!("{key:?} cannot be a key here ({})", other.keyword()),
                };
                self.tree.flaw_at_key(&pointer, text)
            }
            Kind::AnyOf { context } | Kind::OneOfNotValid { context } => return self.no_branch(error, context, flaws),
            Kind::OneOfMultipleValid { .. } => say("fits more than one of the forms it may have".to_owned()),
            _ => say(format!("{}", error.masked_with(shown(found)))),
        };
        flaws.push(flaw);
    }

    /// The keyword that stands beside the one that found the fault.
    fn beside(&self, error: &ValidationError<'_>, keyword: &str) -> Option<&Value> {
        let path = error.schema_path().as_str();
        let parent = &path[..path.rfind('/')?];
        self.schema.pointer(parent)?.get(keyword)
    }

    /// Whether the missing key is there under a name that is unknown and near to it: one mistake is one flaw.
    fn is_misspelt(&self, error: &ValidationError<'_>, key: &str) -> bool {
        let closed = self.beside(error, "additionalProperties") == Some(&Value::Bool(false));
        let known = self.beside(error, "properties").and_then(Value::as_object);
        let (true, Some(known), Some(found)) = (closed, known, error.instance().as_object()) else {
            return false;
        };
        let mut unknown = found.keys().filter(|written| !known.contains_key(*written));
        unknown.any(|written| nearest(written, known.keys().map(String::as_str)) == Some(key))
    }

    fn unknown_key(&self, at: &str, key: &str, known: &[&str]) -> Flaw {
        let mut pointer = at.to_owned();
        push(&mut pointer, key);
        let mut flaw = self.tree.flaw_at_key(&pointer, format!("unknown key {key:?}"));
        flaw.path = super::dotted(at);
        match nearest(key, known.iter().copied()) {
            Some(near) => flaw.help(format!("did you mean {near:?}?")),
            None if known.is_empty() => flaw,
            None => flaw.help(format!("known here: {}", known.join(", "))),
        }
    }

    fn bad_name(&self, at: &str, key: &str) -> Flaw {
        let mut pointer = at.to_owned();
        push(&mut pointer, key);
        let mut flaw = self.tree.flaw_at_key(&pointer, not_a_name(&key.into()));
        flaw.path = super::dotted(at);
        flaw
    }

    fn wrong_type(&self, at: &str, found: &Value, wanted: &str) -> Flaw {
        if found.is_null() && at.is_empty() {
            return self.tree.flaw(at, "it is empty".to_owned());
        }
        if found.is_null() {
            let flaw = self.tree.flaw_at_key(at, format!("has no value; wanted {wanted}"));
            return flaw.help("write one, or leave the key out");
        }
        let flaw = self.tree.flaw(at, format!("found {}; wanted {wanted}", described(found)));
        let text_wanted = wanted == "text";
        match found {
            Value::Number(_) | Value::Bool(_) if text_wanted => flaw.help(format!("write \"{found}\", in quotes")),
            Value::String(text) if text.parse::<f64>().is_ok() && wanted.contains("number") => flaw.help("leave out the quotes"),
            Value::String(_) if wanted == "a list" => flaw.help(format!("write [{}]", shown(found))),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => flaw,
        }
    }

    fn none_of<'v>(&self, at: &str, found: &Value, options: impl IntoIterator<Item = &'v Value>) -> Flaw {
        let options: Vec<&Value> = options.into_iter().collect();
        let words: Vec<String> = options.iter().map(|option| shown(option)).collect();
        let flaw = self.tree.flaw(at, format!("{} is none of {}", shown(found), words.join(", ")));
        match found.as_str() {
            Some(word) => flaw.did_you_mean(word, options.iter().filter_map(|option| option.as_str())),
            None => flaw,
        }
    }

    /// When keys are counted, the schema may say in its own words what is wanted, as `x-count`.
    fn properties(&self, error: &ValidationError<'_>, otherwise: String) -> Flaw {
        let at = error.instance_path().as_str();
        let words = self
            .beside(error, "x-count")
            .and_then(Value::as_str)
            .map_or(otherwise, str::to_owned);
        self.tree.flaw_at_key(at, words)
    }

    /// Nothing that it may be fits. When all that it may be are words, they are named; otherwise the nearest form is explained.
    fn no_branch(&self, error: &ValidationError<'_>, branches: &[Vec<ValidationError<'static>>], flaws: &mut Vec<Flaw>) {
        let at = error.instance_path().as_str();
        let mut words: Vec<&Value> = Vec::new();
        let mut only_words = true;
        for branch in branches {
            let before = words.len();
            for error in branch {
                #[expect(clippy::wildcard_enum_match_arm, reason = "only words are looked for")]
                match error.kind() {
                    Kind::Constant { expected_value } => words.push(expected_value),
                    Kind::Enum { options } => words.extend(options.as_array().into_iter().flatten()),
                    _ => {}
                }
            }
            only_words &= words.len() > before;
        }
        if only_words && !words.is_empty() {
            flaws.push(self.none_of(at, error.instance(), words));
            return;
        }
        // The form that was meant is the one of the right type with the fewest faults.
        let meant = branches.iter().min_by_key(|branch| {
            let of_another_type = branch
                .iter()
                .any(|e| matches!(e.kind(), Kind::Type { .. }) && e.instance_path().as_str() == at);
            (of_another_type, branch.len())
        });
        for error in meant.into_iter().flatten().take(FOUND_MAX) {
            self.explain(error, flaws);
        }
    }
}

fn first_sentence(schema: &Value) -> Option<String> {
    let text = schema.get("description")?.as_str()?;
    let text = text.split('\n').next().unwrap_or_default();
    Some(text.trim_end_matches('.').to_owned())
}

fn wanted(kind: &TypeKind) -> String {
    let word = |name: &str| match name {
        "string" => "text".to_owned(),
        "integer" => "a whole number".to_owned(),
        "number" => "a number".to_owned(),
        "boolean" => "true or false".to_owned(),
        "array" => "a list".to_owned(),
        "object" => "a mapping (key: value)".to_owned(),
        other => other.to_owned(),
    };
    match kind {
        TypeKind::Single(one) => word(&one.to_string()),
        TypeKind::Multiple(several) => {
            let words: Vec<String> = several.iter().map(|one| word(&one.to_string())).collect();
            words.join(" or ")
        }
    }
}

fn described(found: &Value) -> String {
    match found {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => format!("{value}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(_) => format!("the text {}", shown(found)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    }
}

/// A value as it is shown in a message: short, and without a password.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::String(text) => format!("{:?}", without_passwords(text)),
        Value::Array(_) | Value::Object(_) => without_passwords(&value.to_string()),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    };
    shortened(text, SHOWN_MAX)
}

fn not_a_span(found: &Value) -> String {
    match found.as_str().map(str::parse::<Span>) {
        Some(Err(why)) => why,
        Some(Ok(_)) | None => format!("{} is not a length of time: write 500ms, 30s, 5m or 1h 30m", shown(found)),
    }
}

fn not_a_name(found: &Value) -> String {
    format!(
        "{} is not a name: use 1 to 63 letters, digits, '.', '_' or '-', starting with a letter or digit",
        shown(found)
    )
}
