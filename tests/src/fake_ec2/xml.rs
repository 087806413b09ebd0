//! XML as EC2 writes it, and enough of a reader to look at answers.

use std::fmt::{self, Write as _};

/// Namespace of EC2's answers. Source: "Making requests to the Amazon EC2 API" (the example response),
/// <https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-requests.html>.
pub const NAMESPACE: &str = "http://ec2.amazonaws.com/doc/2016-11-15/";

/// Deepest nesting that is read. EC2's answers have about a dozen levels.
const MAX_DEPTH: usize = 64;

/// A piece of XML that is being written.
#[derive(Debug, Default)]
pub struct Xml(pub String);

impl Xml {
    /// `<name>value</name>`, escaped.
    pub fn leaf(&mut self, name: &str, value: impl fmt::Display) -> &mut Self {
        self.open(name);
        write!(Escaping(&mut self.0), "{value}").ok();
        self.close(name)
    }

    /// `<name/>`.
    pub fn empty(&mut self, name: &str) -> &mut Self {
        self.0.push('<');
        self.0.push_str(name);
        self.0.push_str("/>");
        self
    }

    /// `<name>`.
    pub fn open(&mut self, name: &str) -> &mut Self {
        self.0.push('<');
        self.0.push_str(name);
        self.0.push('>');
        self
    }

    /// `</name>`.
    pub fn close(&mut self, name: &str) -> &mut Self {
        self.0.push_str("</");
        self.0.push_str(name);
        self.0.push('>');
        self
    }

    /// An element with what `inside` writes.
    pub fn within(&mut self, name: &str, inside: impl FnOnce(&mut Self)) -> &mut Self {
        self.open(name);
        inside(self);
        self.close(name)
    }
}

/// A whole answer of an action: `<ActionResponse xmlns=...><requestId>...</requestId>...`.
pub fn answer(action: &str, request: &str, inside: impl FnOnce(&mut Xml)) -> String {
    let mut xml = Xml(format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{action}Response xmlns=\"{NAMESPACE}\">"
    ));
    xml.leaf("requestId", request);
    inside(&mut xml);
    xml.0.push_str("</");
    xml.0.push_str(action);
    xml.0.push_str("Response>");
    xml.0
}

/// Writes text with what XML gives a meaning escaped.
struct Escaping<'a>(&'a mut String);

impl fmt::Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for letter in text.chars() {
            match letter {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                // A bare carriage return would be read back as a line feed.
                '\r' => self.0.push_str("&#xD;"),
                other => self.0.push(other),
            }
        }
        Ok(())
    }
}

/// An element that was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its text; empty when it has elements.
    pub text: String,
    /// Its elements.
    pub inside: Vec<Node>,
}

impl Node {
    /// The first element of that name, or of a path of names such as `instanceState/name`.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Self> {
        path.split('/')
            .try_fold(self, |node, name| node.inside.iter().find(|inner| inner.name == name))
    }

    /// The text at a path; empty when there is none.
    #[must_use]
    pub fn text_of(&self, path: &str) -> &str {
        self.get(path).map_or("", |node| &node.text)
    }

    /// Every element of that name, at any depth, in document order.
    #[must_use]
    pub fn all(&self, name: &str) -> Vec<&Self> {
        let mut found = Vec::new();
        for inner in &self.inside {
            if inner.name == name {
                found.push(inner);
            }
            found.extend(inner.all(name));
        }
        found
    }
}

/// Reads a document: elements, text, the five named entities and numeric ones; attributes are passed over.
///
/// # Errors
/// When it is not well-formed, with the place.
pub fn read(text: &str) -> Result<Node, String> {
    let mut stack = vec![Node::default()];
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        let (before, tag) = rest.split_at(at);
        if let Some(open) = stack.last_mut() {
            open.text.push_str(&unescape(before)?);
        }
        let end = tag.find('>').ok_or("it ends within a tag")?;
        let (inner, after) = (&tag[1..end], &tag[end + 1..]);
        rest = after;
        if inner.starts_with('?') || inner.starts_with('!') {
            continue;
        }
        if let Some(name) = inner.strip_prefix('/') {
            let mut node = stack.pop().ok_or("more is closed than was opened")?;
            if node.name != name.trim() {
                return Err(format!("{} is closed by {name}", node.name));
            }
            if !node.inside.is_empty() {
                node.text.clear();
            }
            stack.last_mut().ok_or("more is closed than was opened")?.inside.push(node);
            continue;
        }
        let alone = inner.ends_with('/');
        let name = inner.trim_end_matches('/').split_ascii_whitespace().next().unwrap_or("");
        let node = Node {
            name: name.to_owned(),
            ..Node::default()
        };
        if alone {
            stack.last_mut().ok_or("nothing is open")?.inside.push(node);
        } else if stack.len() < MAX_DEPTH {
            stack.push(node);
        } else {
            return Err(format!("nested deeper than {MAX_DEPTH}"));
        }
    }
    match stack.as_mut_slice() {
        [root] if root.inside.len() == 1 => Ok(root.inside.remove(0)),
        [root] => Err(format!("{} elements at the top", root.inside.len())),
        [.., open] => Err(format!("it ends with {} open", open.name)),
        [] => Err("more is closed than was opened".to_owned()),
    }
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        let (entity, tail) = after.split_once(';').ok_or("an entity without end")?;
        rest = tail;
        let hex = |digits: &str| u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
        let letter = match entity {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            other => match (other.strip_prefix("#x"), other.strip_prefix('#')) {
                (Some(digits), _) => hex(digits),
                (None, Some(digits)) => digits.parse().ok().and_then(char::from_u32),
                (None, None) => None,
            },
        };
        out.push(letter.ok_or_else(|| format!("unknown entity {entity}"))?);
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let odd = "a<b>&\"c\"\r\n'ü'";
        let text = answer("DescribeThings", "id-1", |xml| {
            xml.within("things", |xml| {
                xml.leaf("item", odd).empty("nothing");
            });
        });
        let root = read(&text).unwrap();
        assert_eq!((root.name.as_str(), root.text_of("requestId")), ("DescribeThingsResponse", "id-1"));
        assert_eq!(root.text_of("things/item"), odd);
        assert_eq!(root.all("nothing").len(), 1);
        assert!(text.contains(" xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\""));
    }

    #[test]
    fn what_is_cut_off_is_noticed() {
        let text = answer("A", "id", |_| {});
        for end in 45..text.len() {
            assert!(read(&text[..end]).is_err(), "{}", &text[..end]);
        }
        for wrong in ["<a></b>", "</a>", "<a/><b/>", "<a>&what;</a>"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
