//! What every refusal must be like, whoever refuses.

use epu_core::Fault;
use epu_core::code::CODES;
use epu_core::input::{DEPTH_MAX, FOUND_MAX, Flaw, Flaws, TEXT_MAX, Tree};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{Verdict, so};

/// The longest text of a fault that refuses input, in characters: what is repeated of the input is shorter.
const FAULT_TEXT_MAX: usize = 1_000;
/// The longest text of one flaw, in characters: it may list what is known in its place, and ends with a mark where it was cut.
const FLAW_MAX: usize = 2_001;
/// The longest path of one flaw, in characters: a key is shown up to 80 characters, each of which may be escaped.
const PATH_MAX: usize = (DEPTH_MAX + 1) * (10 * 81 + 4);
/// What stands in the corpus as a password, wherever an address may have one.
pub(super) const SECRET: &str = "hunter2hunter2";

/// A code that is documented.
pub(super) fn known_code(code: &str) -> Verdict {
    so(CODES.iter().any(|(known, _, _)| *known == code), || {
        format!("the code {code:?} is not documented")
    })
}

/// A code that is documented, and a text of bounded length.
pub(super) fn fault(fault: &Fault) -> Verdict {
    known_code(&fault.code)?;
    bounded(&fault.text, FAULT_TEXT_MAX)
}

/// A text that says something and not too much.
pub(super) fn bounded(text: &str, most: usize) -> Verdict {
    so(!text.is_empty(), || "a refusal without a text".to_owned())?;
    let length = text.chars().count();
    so(length <= most, || {
        let shown: String = text.chars().take(300).collect();
        format!("a text of {length} characters, {most} are the most: {shown}")
    })
}

/// Every flaw has a place within the text that was read, and says something that is bounded; no password that stands in an address in the
/// text is repeated.
pub(super) fn flaws(flaws: &Flaws, text: &str) -> Verdict {
    let count = flaws.as_slice().len();
    so((1..=FOUND_MAX).contains(&count), || format!("refused with {count} flaws"))?;
    let lengths: Vec<usize> = text.split('\n').map(|line| line.chars().count()).collect();
    for flaw in flaws.as_slice() {
        // A text that is too long is not looked at.
        if text.len() > TEXT_MAX {
            break;
        }
        place(flaw, &lengths).map_err(|why| format!("{why}: {flaw}"))?;
        bounded(&flaw.text, FLAW_MAX)?;
        bounded(flaw.help.as_deref().unwrap_or("none"), FLAW_MAX)?;
        so(flaw.path.chars().count() <= PATH_MAX, || "a path that is far too long".to_owned())?;
    }
    let shown = flaws.with_lines(text, false);
    if only_in_addresses(text) {
        so(!shown.contains(SECRET), || format!("a password is shown: {shown}"))?;
        so(!flaws.to_string().contains(SECRET), || format!("a password is repeated: {flaws}"))?;
    }
    Ok(())
}

fn place(flaw: &Flaw, lengths: &[usize]) -> Verdict {
    // One line more than there are: what is missing at the end is missed there.
    let line = usize::try_from(flaw.line).unwrap_or(usize::MAX);
    so((1..=lengths.len() + 1).contains(&line), || {
        format!("line {line}, and the text has {}", lengths.len())
    })?;
    let length = lengths.get(line - 1).copied().unwrap_or(0);
    let column = usize::try_from(flaw.column).unwrap_or(usize::MAX);
    so((1..=length + 1).contains(&column), || {
        format!("column {column}, and line {line} has {length} characters")
    })
}

/// Whether the password is in the text, and nowhere but where an address has it: `scheme://user:password@host`.
fn only_in_addresses(text: &str) -> bool {
    let mut rest = text;
    let mut any = false;
    while let Some(at) = rest.find(SECRET) {
        let after = &rest[at + SECRET.len()..];
        let user_at = rest[..at].rfind("://");
        let user = user_at.map(|from| &rest[from + 3..at]);
        let is_user = user.is_some_and(|user| user.ends_with(':') && user.chars().all(|c| c.is_ascii_alphanumeric() || c == ':'));
        let is_scheme = user_at.is_some_and(|to| rest[..to].ends_with(|c: char| c.is_ascii_alphanumeric()));
        if !is_user || !is_scheme || !after.starts_with('@') {
            return false;
        }
        any = true;
        rest = after;
    }
    any
}

/// What was read from JSON is the same after it was written and read again, and is written the same then.
pub(super) fn survives<T: Serialize + DeserializeOwned + PartialEq>(read: &T) -> Verdict {
    let written = serde_json::to_string(read).map_err(|error| format!("what was read cannot be written: {error}"))?;
    let again: T = serde_json::from_str(&written).map_err(|error| format!("what was written cannot be read: {error}: {written}"))?;
    so(again == *read, || format!("it is another after being written and read: {written}"))?;
    let twice = serde_json::to_string(&again).map_err(|error| error.to_string())?;
    so(twice == written, || format!("written twice, it differs: {written} and {twice}"))
}

/// Everything in a tree has a place within the text.
pub(super) fn places(tree: &Tree, text: &str) -> Verdict {
    let lengths: Vec<usize> = text.split('\n').map(|line| line.chars().count()).collect();
    let mut pointer = Vec::new();
    every(tree.value(), &mut pointer, &mut 300, &mut |keys| {
        let at = epu_core::input::pointer(keys.iter().map(String::as_str));
        place(&tree.flaw(&at, "a value"), &lengths).map_err(|why| format!("the value at {at:?}: {why}"))?;
        place(&tree.flaw_at_key(&at, "a key"), &lengths).map_err(|why| format!("the key at {at:?}: {why}"))
    })
}

/// Goes through the first values of a tree.
fn every(value: &Value, keys: &mut Vec<String>, left: &mut u32, look: &mut impl FnMut(&[String]) -> Verdict) -> Verdict {
    if *left == 0 {
        return Ok(());
    }
    *left -= 1;
    look(keys)?;
    let mut inside = |key: String, value: &Value| {
        keys.push(key);
        let verdict = every(value, keys, left, look);
        keys.pop();
        verdict
    };
    match value {
        Value::Array(list) => list.iter().enumerate().try_for_each(|(n, item)| inside(n.to_string(), item)),
        Value::Object(map) => map.iter().try_for_each(|(key, item)| inside(key.clone(), item)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}
