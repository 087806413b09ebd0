//! From text to tree: YAML's own rules, its traps, and its bombs.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_yaml::options::DuplicateKeyPolicy;
use serde_yaml::{Location, Options, Spanned};

use super::flaw::without_passwords;
use super::{
    ALIASED_MAX, DEPTH_MAX, FLAW_MAX, FOUND_MAX, Flaw, Flaws, Inside, Mark, Place, Spot, TEXT_MAX, Tree, VALUES_MAX, push, shortened,
};

/// Any YAML value with its place.
struct Node(Spanned<Content>);

enum Content {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<(Spanned<String>, Node)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::deserialize(deserializer).map(Self)
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Anything)
    }
}

struct Anything;

impl<'de> Visitor<'de> for Anything {
    type Value = Content;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Content, E> {
        // `3.0` is the whole number 3 wherever a whole number is wanted. Beyond 2^53 not every whole number can be told apart.
        let whole = (value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0)
            .then(|| format!("{value:.0}").parse::<i64>().ok())
            .flatten();
        match whole {
            Some(whole) => Ok(Content::Scalar(whole.into())),
            None => Number::from_f64(value)
                .map(|number| Content::Scalar(Value::Number(number)))
                .ok_or_else(|| E::custom("not a finite number")),
        }
    }

    fn visit_str<E>(self, value: &str) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        Content::deserialize(deserializer)
    }

    fn visit_bytes<E: serde::de::Error>(self, _: &[u8]) -> Result<Content, E> {
        Err(E::custom("binary data has no use here"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Content, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Content::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Content, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            // Written as JSON it is still one that YAML reads: with its quotes at most 1,024 characters.
            if key.value.len() > 1_000 {
                return Err(A::Error::custom("a key longer than 1,000 bytes"));
            }
            map.push((key, entries.next_value()?));
        }
        Ok(Content::Map(map))
    }
}

pub(super) fn read(file: &str, text: &str) -> Result<Tree, Flaws> {
    let flaw = |mark: Mark, text: String| Flaw {
        file: file.to_owned(),
        line: mark.line,
        column: mark.column,
        path: String::new(),
        text,
        help: None,
    };
    if text.len() > TEXT_MAX {
        let found = format!("{} bytes is more than the {TEXT_MAX} that are read", text.len());
        return Err(flaw(Mark::default(), found).into());
    }
    if let Some(mark) = lone_return(text) {
        let found = "a carriage return that no line feed follows";
        return Err(flaw(mark, found.to_owned()).help("end lines with a line feed").into());
    }
    let root = parse(text).map_err(|error| {
        let Some(error) = error else {
            return flaw(Mark::default(), "the parser failed on this text; please report it".to_owned());
        };
        let mark = error.location().map_or(Mark { line: 1, column: 1 }, |location| mark(&location));
        let (text, help) = words(error.without_snippet());
        let flaw = flaw(mark, shortened(without_passwords(&text), FLAW_MAX));
        match help {
            Some(help) => flaw.help(help),
            None => flaw,
        }
    })?;
    let mut tree = Tree::of(file, Value::Null);
    let (value, root) = place(root, None, &mut String::new(), &mut tree);
    (tree.value, tree.root) = (value, Some(root));
    Ok(tree)
}

/// Where a carriage return stands alone. To YAML that ends a line and to most editors it does not, so that every place after it would be
/// another one.
fn lone_return(text: &str) -> Option<Mark> {
    let is_alone = |(at, _): &(usize, &str)| !text[at + 1..].starts_with('\n');
    let (at, _) = text.match_indices('\r').find(is_alone)?;
    let before = &text[..at];
    let line = before.rsplit('\n').next().unwrap_or_default();
    let after = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).saturating_add(1);
    Some(Mark {
        line: after(before.matches('\n').count()),
        column: after(line.chars().count()),
    })
}

/// Parses on a stack of its own: every level of nesting costs the parser tens of kilobytes in a debug build, and the caller may be
/// on the small stack of a runtime's thread. The caller waits, so that nothing runs beside it. No error means that no thread could be had or
/// that the parser panicked.
fn parse(text: &str) -> Result<Node, Option<Box<serde_yaml::Error>>> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("read-yaml".to_owned())
            .stack_size(STACK)
            .spawn_scoped(scope, || serde_yaml::from_str_with_options(text, options()).map_err(Box::new));
        match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(parsed)) => parsed.map_err(Some),
            Ok(Err(_)) | Err(_) => Err(None),
        }
    })
}

/// Room for [`DEPTH_MAX`] levels, four times over. Only what is used of it costs memory.
const STACK: usize = 32 * 1024 * 1024;

fn options() -> Options {
    let mut options = Options::default();
    options.budget = serde_yaml::budget! {
        max_depth: DEPTH_MAX,
        max_nodes: VALUES_MAX,
        max_events: 2 * VALUES_MAX,
        max_documents: 1,
    };
    options.alias_limits = serde_yaml::alias_limits! { max_total_replayed_events: ALIASED_MAX };
    // Repeated keys are collected and shown with everything else.
    options.duplicate_keys = DuplicateKeyPolicy::PassThrough;
    // `no` is a country, `0755` is a mode: what is not plainly a boolean or a number is text, and the schema says what was wanted.
    options.strict_booleans = true;
    options.leading_zero_numbers_as_strings = true;
    options.underscored_numbers_as_strings = true;
    options.reject_unsupported_tags = true;
    options.with_snippet = false;
    options
}

/// What a parser's error means, and what to do about it.
fn words(error: &serde_yaml::Error) -> (String, Option<String>) {
    use serde_yaml::Error as E;
    use serde_yaml::budget::BudgetBreach as Breach;
    let plain = |text: &str| (text.to_owned(), None);
    #[expect(clippy::wildcard_enum_match_arm, reason = "the parser's many errors are shown in its own words")]
    match error {
        E::AliasReplayLimitExceeded { .. } | E::AliasExpansionLimitExceeded { .. } | E::AliasReplayStackDepthExceeded { .. } => {
            plain("aliases unfold to too much")
        }
        E::Budget { breach, .. } => match breach {
            Breach::Depth { .. } => (format!("nested deeper than {DEPTH_MAX} levels"), None),
            Breach::Aliases { .. } | Breach::Anchors { .. } | Breach::AliasAnchorRatio { .. } => plain("aliases unfold to too much"),
            Breach::Documents { .. } => plain("more than one document"),
            other => (format!("too large: {other:?}"), None),
        },
        E::MultipleDocuments { .. } => (
            "more than one document".to_owned(),
            Some("a line `---` begins another; one file is one document".to_owned()),
        ),
        E::Eof { .. } => plain("it is empty"),
        E::Unexpected {
            expected: "string scalar", ..
        } => plain("a key must be a text"),
        E::AliasError { error, .. } => words(error),
        other => {
            let text = other.to_string();
            // The place is said once, in front.
            let text = text.split(" at line ").next().unwrap_or_default();
            let help = text
                .contains("tab")
                .then(|| "indent with spaces, not with tabs".to_owned())
                .or_else(|| (text.contains("mapping values")).then(|| "put a text that contains `: ` in quotes".to_owned()));
            (format!("not YAML: {text}"), help)
        }
    }
}

fn mark(location: &Location) -> Mark {
    Mark {
        line: u32::try_from(location.line()).unwrap_or(u32::MAX),
        column: u32::try_from(location.column()).unwrap_or(u32::MAX),
    }
}

/// Takes the values out of a node and notes where each stands.
fn place(node: Node, key: Option<Mark>, pointer: &mut String, tree: &mut Tree) -> (Value, Spot) {
    let value = mark(&node.0.referenced);
    let stands = Place { key, value };
    let here = pointer.len();
    let (value, inside) = match node.0.value {
        Content::Scalar(value) => (value, Inside::Nothing),
        Content::List(items) => {
            let (mut list, mut spots) = (Vec::with_capacity(items.len()), Vec::with_capacity(items.len()));
            for (i, item) in items.into_iter().enumerate() {
                push(pointer, &i.to_string());
                let (value, spot) = place(item, None, pointer, tree);
                list.push(value);
                spots.push(spot);
                pointer.truncate(here);
            }
            (Value::Array(list), Inside::List(spots))
        }
        Content::Map(entries) => {
            let mut map = Map::new();
            let mut spots: BTreeMap<String, Spot> = BTreeMap::new();
            for (key, value) in entries {
                let at = mark(&key.referenced);
                push(pointer, &key.value);
                if let Some(before) = spots.get(&key.value) {
                    let line = before.place.key.map_or(0, |key| key.line);
                    let text = format!("the key stands here a second time; the first is on line {line}");
                    if tree.repeated.len() < FOUND_MAX {
                        let flaw = tree.flaw_at(at, pointer, text);
                        tree.repeated.push(flaw);
                    }
                } else {
                    let (value, spot) = place(value, Some(at), pointer, tree);
                    spots.insert(key.value.clone(), spot);
                    map.insert(key.value, value);
                }
                pointer.truncate(here);
            }
            (Value::Object(map), Inside::Map(spots))
        }
    };
    (value, Spot { place: stands, inside })
}
