//! Edits of the tree that a JSON text is: fields dropped, types swapped, values put elsewhere, nested, grown.

use serde_json::{Map, Value};

use super::{INPUT_MAX, size};

/// How many edits there are.
const EDITS: u8 = 10;
/// How deep a value is nested at the most: deeper than any reader goes.
const NEST_MOST: u16 = 200;
/// How much longer a text is made at the most, and how many keys or items are added.
const GROW_MOST: usize = 600;

/// Changes the JSON that the bytes are, or that one of their lines is.
pub(super) fn apply(bytes: &mut Vec<u8>, edit: u8, numbers: (u32, u32, u16), word: &str) {
    if let Ok(mut value) = serde_json::from_slice::<Value>(bytes) {
        change(&mut value, edit % EDITS, numbers, word);
        *bytes = value.to_string().into_bytes();
        return;
    }
    let mut lines: Vec<Vec<u8>> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let at = size(numbers.1) % lines.len();
    if let Ok(mut value) = serde_json::from_slice::<Value>(&lines[at]) {
        change(&mut value, edit % EDITS, numbers, word);
        lines[at] = value.to_string().into_bytes();
        *bytes = lines.join(&b'\n');
    }
}

fn change(root: &mut Value, edit: u8, (a, b, c): (u32, u32, u16), word: &str) {
    let count = count(root);
    let (one, two) = (size(a) % count, size(b) % count);
    let Some(at) = nth(root, &mut { one }) else { return };
    match edit {
        0 => match at {
            Value::Object(map) => {
                let key = map.keys().nth(usize::from(c) % map.len().max(1)).cloned();
                drop(key.and_then(|key| map.remove(&key)));
            }
            Value::Array(list) if !list.is_empty() => drop(list.remove(usize::from(c) % list.len())),
            Value::Array(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => *at = Value::Null,
        },
        // Another value: the word, read as JSON where it is some.
        1 => *at = serde_json::from_str(word).unwrap_or_else(|_| word.into()),
        2 => *at = word.into(),
        3 => {
            let taken = at.take();
            if let Some(there) = nth(root, &mut { two }) {
                *there = taken;
            }
        }
        4 => {
            let copied = at.clone();
            if let Some(there) = nth(root, &mut { two }).filter(|_| copied.to_string().len() < INPUT_MAX / 8) {
                *there = copied;
            }
        }
        5 => {
            for level in 0..c % NEST_MOST {
                let inner = at.take();
                *at = if (level ^ c) % 2 == 0 {
                    Value::Array(vec![inner])
                } else {
                    Value::Object(Map::from_iter([("a".to_owned(), inner)]))
                };
            }
        }
        6 => {
            if let Value::Object(map) = at {
                let key = map.keys().nth(usize::from(c) % map.len().max(1)).cloned();
                if let Some(value) = key.and_then(|key| map.remove(&key)) {
                    map.insert(word.to_owned(), value);
                }
            }
        }
        7 => match at {
            Value::String(text) => {
                let more = text.repeat(1 + usize::from(c) % GROW_MOST);
                if more.len() < INPUT_MAX {
                    *text = more;
                }
            }
            Value::Array(list) => {
                let item = list.first().cloned().unwrap_or(Value::Null);
                if item.to_string().len() < 64 {
                    list.extend(std::iter::repeat_n(item, usize::from(c) % GROW_MOST));
                }
            }
            Value::Object(map) => {
                let value = map.values().next().cloned().unwrap_or(Value::Null);
                if value.to_string().len() < 64 {
                    map.extend((0..usize::from(c) % GROW_MOST).map(|n| (format!("k{n}"), value.clone())));
                }
            }
            Value::Number(number) => *at = number.to_string().repeat(1 + usize::from(c) % 30).into(),
            Value::Null | Value::Bool(_) => {}
        },
        8 => match at {
            Value::Object(map) => drop(map.insert(word.to_owned(), c.into())),
            Value::Array(list) => list.push(word.into()),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => *at = Value::Array(vec![at.take()]),
        },
        _ => {
            // The same value as another type.
            *at = match at.take() {
                Value::Null => false.into(),
                Value::Bool(so) => u8::from(so).into(),
                Value::Number(number) => number.to_string().into(),
                Value::String(text) => text.parse::<f64>().map_or_else(|_| Value::Array(vec![text.into()]), Value::from),
                Value::Array(list) => list.into_iter().enumerate().map(|(n, item)| (n.to_string(), item)).collect(),
                Value::Object(map) => map.into_iter().map(|(_, value)| value).collect(),
            };
        }
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// The n-th value, each before what is in it.
fn nth<'a>(value: &'a mut Value, n: &mut usize) -> Option<&'a mut Value> {
    if *n == 0 {
        return Some(value);
    }
    *n -= 1;
    match value {
        Value::Array(list) => list.iter_mut().find_map(|item| nth(item, n)),
        Value::Object(map) => map.values_mut().find_map(|item| nth(item, n)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}
