//! Reading what people write, and saying where it is wrong.
//!
//! Serde stops at the first fault, and does not say where. So text is parsed once into a [`Tree`], which keeps the line and column of
//! every key and value; the tree is checked against a JSON schema by [`check`], which finds *all* faults; and what the schema
//! cannot say is checked afterwards on the typed form, by code that asks the tree where a value stands ([`Tree::flaw`]). A key
//! that stands twice is a [`Flaw`] like any other. Only text that is no YAML at all stops at its first fault.
//!
//! Strictness is deliberate: an unknown key is refused with the nearest known one, `no` is a text and not a boolean, and a key
//! without a value is not the same as a key left out.
//!
//! **Limits**: [`TEXT_MAX`] bytes of text, [`DEPTH_MAX`] levels, one document, and a bound on what aliases may unfold to, so that no
//! file, however short, makes a service run out of memory. For the same reason places are kept as a tree beside the values, and not under the
//! whole path of each: long keys around a long list would be kept once for each item of it. Flaws are collected up to [`FOUND_MAX`].

mod check;
mod flaw;
mod read;
mod schema;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

pub use check::check;
pub use flaw::{Flaw, Flaws, nearest};
pub use schema::{SPAN_FORMAT, schema_of, strict};

/// The longest text that is read. Too low: a large installation's file is refused. Too high: a mistaken file eats memory.
pub const TEXT_MAX: usize = 4 * 1024 * 1024;
/// The deepest nesting. A file with pools needs about ten levels.
pub const DEPTH_MAX: usize = 64;
/// The most flaws that are collected; the rest is not looked for. Far more than anybody mends at once. Too high: a long file of nothing but
/// faults takes many times its own memory.
pub const FOUND_MAX: usize = 1_000;
/// The longest text of a flaw, and of its advice, in characters.
const FLAW_MAX: usize = 2_000;
/// The longest key that is shown whole in a path, in characters.
const KEY_SHOWN_MAX: usize = 80;
/// How many values aliases (`*name`) may unfold to, and how many values there may be in all.
const ALIASED_MAX: usize = 50_000;
const VALUES_MAX: usize = 500_000;

/// Where something stands: counted from 1, in characters. Line 0 means nowhere: it was not read from a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mark {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
}

/// Where a value and, in a mapping, its key stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// The key.
    pub key: Option<Mark>,
    /// The value.
    pub value: Mark,
}

/// What was read, with the place of everything in it.
#[derive(Debug, Clone)]
pub struct Tree {
    file: String,
    value: Value,
    /// None: it was not read from a text.
    root: Option<Spot>,
    repeated: Vec<Flaw>,
}

/// Where a value stands, and where what is in it does.
#[derive(Debug, Clone)]
struct Spot {
    place: Place,
    inside: Inside,
}

#[derive(Debug, Clone)]
enum Inside {
    Nothing,
    List(Vec<Spot>),
    Map(BTreeMap<String, Spot>),
}

impl Tree {
    /// Reads YAML, of which JSON is a part. `file` is what the text is called in messages. Keys that stand twice are found by [`check`].
    ///
    /// # Errors
    /// One [`Flaw`] with its place when the text is no YAML, or exceeds a limit.
    pub fn read(file: &str, text: &str) -> Result<Self, Flaws> {
        read::read(file, text)
    }

    /// A tree of something that was not read from a text: its flaws have a path and no line.
    #[must_use]
    pub fn of(file: &str, value: Value) -> Self {
        Self {
            file: file.to_owned(),
            value,
            root: None,
            repeated: Vec::new(),
        }
    }

    /// What the text is called.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// What was read.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The value at a JSON pointer as a type. The schema has been checked before, so that this fails only on what no schema can say.
    ///
    /// # Errors
    /// A flaw at the value's place.
    pub fn get<T: for<'de> Deserialize<'de>>(&self, pointer: &str) -> Result<T, Flaw> {
        let value = self.value.pointer(pointer).unwrap_or(&Value::Null);
        T::deserialize(value).map_err(|e| self.flaw(pointer, e.to_string()))
    }

    /// Where the value at a JSON pointer stands, or the nearest thing that contains it.
    #[must_use]
    pub fn place(&self, pointer: &str) -> Place {
        self.find(pointer).0
    }

    /// Where it stands and whether it exists.
    fn find(&self, pointer: &str) -> (Place, bool) {
        let Some(mut at) = self.root.as_ref() else {
            return (Place::default(), false);
        };
        for key in pointer.split('/').skip(1) {
            let next = match &at.inside {
                Inside::Nothing => None,
                Inside::List(items) => key.parse().ok().and_then(|n: usize| items.get(n)),
                Inside::Map(entries) => entries.get(&key.replace("~1", "/").replace("~0", "~")),
            };
            match next {
                Some(next) => at = next,
                None => return (at.place, false),
            }
        }
        (at.place, true)
    }

    /// A flaw at the value that a JSON pointer names; at the nearest thing that contains it when it does not exist.
    #[must_use]
    pub fn flaw(&self, pointer: &str, text: impl Into<String>) -> Flaw {
        let (place, exists) = self.find(pointer);
        let mark = if exists { place.value } else { place.key.unwrap_or(place.value) };
        self.flaw_at(mark, pointer, text.into())
    }

    /// A flaw at the key that a JSON pointer names.
    #[must_use]
    pub fn flaw_at_key(&self, pointer: &str, text: impl Into<String>) -> Flaw {
        let place = self.place(pointer);
        self.flaw_at(place.key.unwrap_or(place.value), pointer, text.into())
    }

    fn flaw_at(&self, mark: Mark, pointer: &str, text: String) -> Flaw {
        Flaw {
            file: self.file.clone(),
            line: mark.line,
            column: mark.column,
            path: dotted(pointer),
            // Whoever finds a fault repeats what he found, which may be long, or hold a password.
            text: shortened(flaw::without_passwords(&text), FLAW_MAX),
            help: None,
        }
    }
}

/// A JSON pointer from keys.
#[must_use]
pub fn pointer<'a>(keys: impl IntoIterator<Item = &'a str>) -> String {
    let mut pointer = String::new();
    for key in keys {
        push(&mut pointer, key);
    }
    pointer
}

/// Makes a JSON pointer one key longer.
fn push(pointer: &mut String, key: &str) {
    pointer.push('/');
    pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
}

/// A JSON pointer as people write it: `pools.web.placements[0].site`.
fn dotted(pointer: &str) -> String {
    let mut path = String::new();
    for key in pointer.split('/').skip(1) {
        let key = flaw::without_passwords(&key.replace("~1", "/").replace("~0", "~"));
        let key = shortened(key, KEY_SHOWN_MAX);
        if !key.is_empty() && key.bytes().all(|b| b.is_ascii_digit()) {
            path.push_str(&format!("[{key}]"));
            continue;
        }
        if !path.is_empty() {
            path.push('.');
        }
        if key.contains(['.', ' ', '/']) || key.is_empty() {
            path.push_str(&format!("{key:?}"));
        } else {
            path.push_str(&key);
        }
    }
    path
}

/// At most so many characters of a text.
fn shortened(text: String, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests;
