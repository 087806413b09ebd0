//! How input is made up: good examples, changed here and there; words that matter, in any order; and plain bytes.
//!
//! An edit is four numbers, and an input an example's number with a list of edits. So proptest makes a failing input smaller by leaving
//! out edits and by making numbers smaller, whatever the edits do; and a case costs microseconds. An edit that does not fit what it is
//! applied to does nothing.

use std::fmt;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any};
use proptest::prop_oneof;
use proptest::strategy::BoxedStrategy;

mod tree;

/// The longest input that is made up, in bytes.
pub const INPUT_MAX: usize = 64 * 1024;
/// How much of an input is shown.
const SHOWN_MAX: usize = 2_000;
/// Words that matter to any reader of text.
const ANYWHERE: &[&str] = &[
    "",
    "\0",
    "\n",
    "\r\n",
    "\t",
    " ",
    "\u{feff}",
    "é",
    "\u{1F600}",
    "\u{85}",
    "\u{2028}",
    "\u{7f}",
    "'",
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "{",
    "}",
    "[",
    "]",
    ":",
    ": ",
    ",",
    "-",
    "- ",
    "#",
    "&a ",
    "*a",
    "<<: *a",
    "|",
    ">",
    "!!binary x",
    "? ",
    "---",
    "...",
    "%",
    "@",
    "`",
    "~",
    "0",
    "-1",
    "1",
    "-0",
    "1e999",
    "1e-999",
    "0x7f",
    "0755",
    "1_000",
    ".inf",
    ".nan",
    "NaN",
    "Infinity",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551616",
    "-9223372036854775809",
    "0.1",
    "3.0",
    "null",
    "true",
    "false",
    "no",
    "[]",
    "{}",
    "\"\"",
    "1s",
    "366d",
    "1000y",
    "18446744073709551615s",
    "9999999999999999999999s",
    "unpooled",
    "..",
    "/",
    "../../etc/passwd",
    "://",
    "amqp://me:hunter2hunter2@host/",
    "%2f",
    "%zz",
    "${EPU_INSTANCE}",
    "${",
    "{{",
    "0198f000-0000-7000-8000-000000000001",
    "00000000-0000-0000-0000-000000000000",
];

/// An input; shown as text, shortened.
#[derive(Clone, PartialEq, Eq)]
pub struct Input(pub Vec<u8>);

impl fmt::Debug for Input {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(SHOWN_MAX)];
        write!(out, "{} bytes: {:?}", self.0.len(), String::from_utf8_lossy(shown))
    }
}

/// One change. What `kind` means stands in [`apply`].
#[derive(Debug, Clone, Copy)]
struct Edit {
    kind: u8,
    a: u32,
    b: u32,
    c: u16,
}

/// How many kinds of edits there are.
const KINDS: u8 = 26;

fn edit() -> impl Strategy<Value = Edit> {
    (0..KINDS, any::<u32>(), any::<u32>(), any::<u16>()).prop_map(|(kind, a, b, c)| Edit { kind, a, b, c })
}

/// Inputs made from examples and from words.
pub(super) fn made_from(seeds: Arc<Vec<Vec<u8>>>, words: &'static [&'static str]) -> BoxedStrategy<Input> {
    let edited = (any::<u16>(), vec(edit(), 0..8)).prop_map(move |(seed, edits)| {
        let mut bytes = seeds[usize::from(seed) % seeds.len()].clone();
        for edit in edits {
            apply(&mut bytes, edit, &seeds, words);
            bytes.truncate(INPUT_MAX);
        }
        Input(bytes)
    });
    let soup = vec(any::<u16>(), 0..60).prop_map(move |picks| {
        let all = picks.iter().map(|pick| word(*pick, words));
        Input(all.collect::<Vec<&str>>().concat().into_bytes())
    });
    let bytes = vec(any::<u8>(), 0..300).prop_map(Input);
    prop_oneof![14 => edited, 2 => soup, 1 => bytes, 1 => Just(Input(Vec::new()))].boxed()
}

fn word(pick: u16, words: &'static [&'static str]) -> &'static str {
    let pick = usize::from(pick);
    // Half of all are the reader's own.
    if pick % 2 == 0 && !words.is_empty() {
        words[pick / 2 % words.len()]
    } else {
        ANYWHERE[pick / 2 % ANYWHERE.len()]
    }
}

fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(0)
}

fn apply(bytes: &mut Vec<u8>, edit: Edit, seeds: &[Vec<u8>], words: &'static [&'static str]) {
    let Edit { kind, a, b, c } = edit;
    let length = bytes.len();
    // A place in it, or its end.
    let at = size(a) % (length + 1);
    let other = size(b) % (length + 1);
    let word = word(c, words);
    match kind {
        0 if at < length => bytes[at] ^= 1 << (b % 8),
        1 if at < length => bytes[at] = c.to_le_bytes()[0],
        2 => drop(bytes.drain(at..length.min(at + size(b) % 16))),
        3 => bytes.truncate(at),
        4 => {
            let piece = bytes[at..length.min(at + size(b) % 64)].to_vec();
            let to = usize::from(c) % (length + 1);
            bytes.splice(to..to, piece);
        }
        5 => drop(bytes.splice(at..at, word.bytes())),
        6 => drop(bytes.splice(at..length.min(at + size(b) % 8), word.bytes())),
        7 => {
            let seed = &seeds[usize::from(c) % seeds.len()];
            bytes.truncate(at);
            bytes.extend_from_slice(&seed[size(b) % (seed.len() + 1)..]);
        }
        8 => {
            let piece = bytes[at..length.min(at + 1 + size(b) % 16)].to_vec();
            let most = (INPUT_MAX - length.min(INPUT_MAX)) / piece.len().max(1);
            bytes.splice(at..at, piece.repeat(most.min(usize::from(c) % 1_000)));
        }
        9 => lines(bytes, |all| drop(all.remove(size(a) % all.len()))),
        10 => lines(bytes, |all| all.insert(size(b) % all.len(), all[size(a) % all.len()].clone())),
        11 => lines(bytes, |all| {
            let (one, two) = (size(a) % all.len(), size(b) % all.len());
            all.swap(one, two);
        }),
        12 => lines(bytes, |all| {
            let at = size(a) % all.len();
            let line = &mut all[at];
            if b % 2 == 0 {
                let blanks = line.iter().take_while(|byte| **byte == b' ').count();
                line.drain(..blanks.min(usize::from(c) % 5));
            } else {
                line.splice(0..0, b"    ".iter().copied().take(usize::from(c) % 5));
            }
        }),
        13 => lines(bytes, |all| {
            let at = size(a) % all.len();
            let line = &mut all[at];
            if let Some(colon) = line.windows(2).position(|pair| pair == b": ") {
                line.splice(colon + 2.., word.bytes());
            }
        }),
        14 => lines(bytes, |all| {
            let (one, two) = (size(a) % all.len(), size(b) % all.len());
            for (at, mark) in [(one, "&a "), (two, "*a ")] {
                if let Some(colon) = all[at].windows(2).position(|pair| pair == b": ") {
                    all[at].splice(colon + 2..colon + 2, mark.bytes());
                }
            }
        }),
        15 => key_twice(bytes, at, other, word),
        0 | 1 => {}
        _ => tree::apply(bytes, kind - 16, (a, b, c), word),
    }
}

/// Changes it as lines, of which there is always one.
fn lines(bytes: &mut Vec<u8>, change: impl FnOnce(&mut Vec<Vec<u8>>)) {
    let mut all: Vec<Vec<u8>> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    change(&mut all);
    *bytes = all.join(&b'\n');
}

/// A key that stands somewhere is written once more, with another value, where another mapping begins.
fn key_twice(bytes: &mut Vec<u8>, from: usize, to: usize, word: &str) {
    let Some(colon) = bytes[from..].windows(2).position(|pair| pair == b"\":").map(|at| from + at) else {
        return;
    };
    let Some(open) = bytes[..colon].iter().rposition(|byte| *byte == b'"') else {
        return;
    };
    let Some(brace) = bytes[to..].iter().position(|byte| *byte == b'{').map(|at| to + at + 1) else {
        return;
    };
    let mut entry = bytes[open..=colon].to_vec();
    entry.push(b':');
    match serde_json::from_str::<serde_json::Value>(word) {
        Ok(_) => entry.extend_from_slice(word.as_bytes()),
        Err(_) => entry.extend_from_slice(serde_json::Value::from(word).to_string().as_bytes()),
    }
    entry.push(b',');
    bytes.splice(brace..brace, entry);
}
