//! Texts as parts of YAML and of a shell's line, whatever is in them. What is written is read the same by YAML 1.1, which cloud-init's
//! reader speaks, and by YAML 1.2.

use std::fmt::Write as _;

use minijinja::value::Value;
use minijinja::{Error, ErrorKind};

/// The most levels of lists within lists that are written.
const DEPTH_MAX: u32 = 16;

/// Any value in one line of YAML.
pub(super) fn yaml(value: &Value) -> Result<String, Error> {
    given(value)?;
    let value = serde_json::to_value(value)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, "yaml: the value cannot be written").with_source(error))?;
    let mut out = String::new();
    write_value(&mut out, &value, 0)?;
    Ok(out)
}

fn write_value(out: &mut String, value: &serde_json::Value, depth: u32) -> Result<(), Error> {
    if depth > DEPTH_MAX {
        return Err(Error::new(ErrorKind::InvalidOperation, "yaml: lists within lists within lists"));
    }
    match value {
        serde_json::Value::Null => out.push_str("null"),
        serde_json::Value::Bool(is) => out.push_str(if *is { "true" } else { "false" }),
        serde_json::Value::Number(number) => out.push_str(&number.to_string()),
        serde_json::Value::String(text) => out.push_str(&quoted(text)),
        serde_json::Value::Array(values) => {
            out.push('[');
            for (at, value) in values.iter().enumerate() {
                out.push_str(if at == 0 { "" } else { ", " });
                write_value(out, value, depth + 1)?;
            }
            out.push(']');
        }
        serde_json::Value::Object(fields) => {
            out.push('{');
            for (at, (name, value)) in fields.iter().enumerate() {
                out.push_str(if at == 0 { "" } else { ", " });
                out.push_str(&quoted(name));
                out.push_str(": ");
                write_value(out, value, depth + 1)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

/// A text as a YAML block whose lines are indented by so much; one that a block would change is written in one line instead.
pub(super) fn block(value: &Value, indent: usize) -> Result<String, Error> {
    given(value)?;
    let text = value
        .as_str()
        .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "block: it is no text"))?;
    let begins_plainly = text.chars().next().is_some_and(|first| !first.is_whitespace());
    let ends_plainly = text.ends_with('\n') && !text.ends_with("\n\n");
    let is_plain = |c: char| c == '\n' || is_printable(c);
    if !begins_plainly || !ends_plainly || !text.chars().all(is_plain) || indent == 0 || indent > 40 {
        return Ok(quoted(text));
    }
    let mut out = String::from("|");
    for line in text.lines() {
        out.push('\n');
        if !line.is_empty() {
            out.extend(std::iter::repeat_n(' ', indent));
            out.push_str(line);
        }
    }
    Ok(out)
}

/// A text as one word of a shell.
pub(super) fn shell(value: &Value) -> Result<String, Error> {
    given(value)?;
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    Ok(shell_word(&text))
}

/// A text as one word of a shell, as it is where nothing in it has a meaning there. Within single quotes nothing has but the quote.
pub(super) fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn given(value: &Value) -> Result<(), Error> {
    if value.is_undefined() {
        return Err(Error::new(ErrorKind::UndefinedError, "there is no such value"));
    }
    Ok(())
}

/// In double quotes, with every character escaped that a reader refuses or changes.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if is_printable(c) => out.push(c),
            c if u32::from(c) <= 0xff => drop(write!(out, "\\x{:02X}", u32::from(c))),
            c if u32::from(c) <= 0xffff => drop(write!(out, "\\u{:04X}", u32::from(c))),
            c => drop(write!(out, "\\U{:08X}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

/// Whether YAML takes a character as it is: its printable ones (<https://yaml.org/spec/1.2.2/#51-character-set>) without those that end
/// a line in YAML 1.1, tabs, and the byte order mark.
fn is_printable(c: char) -> bool {
    match c {
        '\u{2028}' | '\u{2029}' | '\u{feff}' => false,
        ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}' => true,
        _ => false,
    }
}
