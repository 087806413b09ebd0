//! Two text forms of Python: templates with `$name`, and JSON as `json.dumps` wrote it. Pure.

use std::fmt::Write as _;
use std::io;

use serde::Serialize as _;
use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};

/// A part of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece<'a> {
    /// It stands for itself.
    Text(&'a str),
    /// `$$`, which is `$`.
    Dollar,
    /// `$name` or `${name}`.
    Name(&'a str),
}

/// Why a template gives nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wrong {
    /// A `$` that begins nothing.
    Placeholder {
        /// Its line, from 1.
        line: usize,
        /// Its column, from 1.
        column: usize,
    },
    /// There is no such variable.
    Variable(String),
}

/// Replaces `$name` and `${name}` by what `value` says, and passes what is between through `text`.
///
/// Names are of ASCII letters, digits and `_`, and do not begin with a digit, as in Python's `string.Template`
/// (<https://docs.python.org/3/library/string.html#template-strings>).
///
/// # Errors
/// The first thing that is wrong.
pub(super) fn substituted(template: &str, text: impl Fn(&str) -> String, value: impl Fn(&str) -> Option<String>) -> Result<String, Wrong> {
    let mut out = String::with_capacity(template.len());
    for piece in pieces(template)? {
        match piece {
            Piece::Text(plain) => out.push_str(&text(plain)),
            Piece::Dollar => out.push_str(&text("$")),
            Piece::Name(name) => out.push_str(&value(name).ok_or_else(|| Wrong::Variable(name.to_owned()))?),
        }
    }
    Ok(out)
}

fn pieces(template: &str) -> Result<Vec<Piece<'_>>, Wrong> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('$') {
        if !before.is_empty() {
            pieces.push(Piece::Text(before));
        }
        let braced = after.strip_prefix('{').and_then(|inner| {
            let (name, _) = inner.split_once('}')?;
            (name_at(inner) == name && !name.is_empty()).then_some(name)
        });
        let bare = name_at(after);
        rest = if let Some(after) = after.strip_prefix('$') {
            pieces.push(Piece::Dollar);
            after
        } else if let Some(name) = braced {
            pieces.push(Piece::Name(name));
            &after[name.len() + 2..]
        } else if !bare.is_empty() {
            pieces.push(Piece::Name(bare));
            &after[bare.len()..]
        } else {
            let dollar = template.len() - after.len() - 1;
            let line = template[..dollar].rsplit('\n').next().unwrap_or_default();
            return Err(Wrong::Placeholder {
                line: template[..dollar].matches('\n').count() + 1,
                column: line.chars().count() + 1,
            });
        };
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    Ok(pieces)
}

/// The name that a text begins with; empty when there is none.
fn name_at(text: &str) -> &str {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return "";
    }
    let end = text.find(|c| !is_of_name(c)).unwrap_or(text.len());
    &text[..end]
}

/// A value as `json.dumps` writes it: a space after `,` and `:`, and only ASCII.
pub(super) fn json(value: &Value) -> String {
    let mut out = Vec::new();
    // Writing to memory does not fail, and a JSON value has a text.
    match value.serialize(&mut Serializer::with_formatter(&mut out, Pythonic)) {
        Ok(()) => String::from_utf8(out).unwrap_or_default(),
        Err(_) => String::new(),
    }
}

/// A variable as Python's `str` has it; lists and mappings as JSON.
pub(super) fn variable(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Array(_) | Value::Object(_) => json(value),
    }
}

struct Pythonic;

impl Formatter for Pythonic {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut ascii = String::with_capacity(fragment.len());
        for c in fragment.chars() {
            if c.is_ascii() {
                ascii.push(c);
                continue;
            }
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(ascii, "\\u{unit:04x}").map_err(io::Error::other)?;
            }
        }
        writer.write_all(ascii.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json as of;

    use super::*;

    fn filled(template: &str) -> Result<String, Wrong> {
        let value = |name: &str| match name {
            "a" => Some("1".to_owned()),
            "long_Name2" => Some("$a".to_owned()),
            _ => None,
        };
        substituted(template, str::to_owned, value)
    }

    #[test]
    fn variables_are_replaced_as_python_replaces_them() {
        assert_eq!(filled("x$a-${a}y $$a ${long_Name2}").as_deref(), Ok("x1-1y $a $a"));
        assert_eq!(filled("").as_deref(), Ok(""));
        assert_eq!(filled("$a$a").as_deref(), Ok("11"));
        assert_eq!(filled("$b"), Err(Wrong::Variable("b".to_owned())));
        assert_eq!(filled("é$ab"), Err(Wrong::Variable("ab".to_owned())));
        let at = |line, column| Err(Wrong::Placeholder { line, column });
        assert_eq!(filled("cost: $5"), at(1, 7));
        assert_eq!(filled("$a\n ${}"), at(2, 2));
        assert_eq!(filled("é${a"), at(1, 2));
        assert_eq!(filled("${a b}"), at(1, 1));
        assert_eq!(filled("$é"), at(1, 1));
        assert_eq!(filled("$"), at(1, 1));
    }

    #[test]
    fn what_is_between_is_passed_through() {
        let doubled = |text: &str| text.replace('$', "$$");
        let filled = substituted("a $$ ${x}", doubled, |_| Some("${Y}".to_owned()));
        assert_eq!(filled.as_deref(), Ok("a $$ ${Y}"));
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        let value = of!({"a": [1, 2.5, null, true, {}], "b": {"é😀": "\"\\\n"}, "c": []});
        assert_eq!(
            json(&value),
            r#"{"a": [1, 2.5, null, true, {}], "b": {"\u00e9\ud83d\ude00": "\"\\\n"}, "c": []}"#
        );
        let words = [of!(true), of!(null), of!(3), of!("x"), of!([1, "y"])].map(|value| variable(&value));
        assert_eq!(words, ["True", "None", "3", "x", r#"[1, "y"]"#]);
    }
}
