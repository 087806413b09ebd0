//! One fault with its place, and all of them together.

use std::fmt;

use super::{FLAW_MAX, FOUND_MAX, shortened};
use crate::code::Fault;

/// How many faults are shown; the rest is counted. Nobody mends more at once.
const SHOWN_MAX: usize = 100;
/// How much of a line is shown around a fault, in characters.
const LINE_MAX: usize = 160;

/// One fault in what was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flaw {
    /// What the text is called.
    pub file: String,
    /// The line, from 1; 0 when it was not read from a text.
    pub line: u32,
    /// The column, from 1.
    pub column: u32,
    /// What it is about, such as `pools.web.max`; empty for the whole.
    pub path: String,
    /// What is wrong.
    pub text: String,
    /// What to write instead, when that can be guessed.
    pub help: Option<String>,
}

impl Flaw {
    /// The same flaw with advice.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(shortened(without_passwords(&help.into()), FLAW_MAX));
        self
    }

    /// The same flaw with `did you mean ...?` when `known` holds something near to `word`.
    #[must_use]
    pub fn did_you_mean<'a>(self, word: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        match nearest(word, known) {
            Some(near) => self.help(format!("did you mean {near:?}?")),
            None => self,
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.file)?;
        if self.line > 0 {
            write!(out, ":{}:{}", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(out, ": {}", self.path)?;
        }
        write!(out, ": {}", self.text)?;
        match &self.help {
            Some(help) => write!(out, "; {help}"),
            None => Ok(()),
        }
    }
}

/// Every fault that was found, in the order of their places, each once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaws(Vec<Flaw>);

impl Flaws {
    /// All of these, up to [`FOUND_MAX`]; none when there are none.
    #[must_use]
    pub fn found(mut flaws: Vec<Flaw>) -> Option<Self> {
        flaws.sort();
        flaws.dedup();
        flaws.truncate(FOUND_MAX);
        (!flaws.is_empty()).then_some(Self(flaws))
    }

    /// `Ok` when there are none.
    ///
    /// # Errors
    /// All of these.
    pub fn none_in(flaws: Vec<Flaw>) -> Result<(), Self> {
        Self::found(flaws).map_or(Ok(()), Err)
    }

    /// In the order of their places.
    #[must_use]
    pub fn as_slice(&self) -> &[Flaw] {
        &self.0
    }

    /// Taken apart, to be put together with others.
    #[must_use]
    pub fn into_vec(self) -> Vec<Flaw> {
        self.0
    }

    /// For a terminal: every fault with the line of `text` that it is in, pointing at the place.
    #[must_use]
    pub fn with_lines(&self, text: &str, colour: bool) -> String {
        let (red, dim, plain) = if colour {
            ("\x1b[1;31m", "\x1b[2m", "\x1b[0m")
        } else {
            ("", "", "")
        };
        let mut shown = String::new();
        for flaw in self.0.iter().take(SHOWN_MAX) {
            shown.push_str(&format!("{flaw}\n"));
            let line = usize::try_from(flaw.line).ok().filter(|line| *line > 0);
            let Some(written) = line.and_then(|line| text.lines().nth(line - 1)) else {
                continue;
            };
            let struck = without_passwords(written);
            let shorter_by = written.chars().count().saturating_sub(struck.chars().count());
            let column = usize::try_from(flaw.column.max(1)).unwrap_or(1) - 1;
            // What stands after a struck-out password has moved.
            let column = match struck.find(":***@") {
                Some(at) if column > at => column.saturating_sub(shorter_by),
                Some(_) | None => column,
            };
            // A very long line is shown from shortly before the place.
            let skip = column.saturating_sub(LINE_MAX / 2);
            let piece: String = struck.chars().skip(skip).take(LINE_MAX).collect();
            let number = flaw.line.to_string();
            let margin = " ".repeat(number.len());
            // Tabs are kept in front of the caret, so that it stands where the terminal puts the text.
            let lead: String = piece
                .chars()
                .take(column - skip)
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            shown.push_str(&format!(
                "{dim}{number} |{plain} {piece}\n{dim}{margin} |{plain} {lead}{red}^{plain}\n"
            ));
        }
        shown.push_str(&self.rest());
        shown
    }

    fn rest(&self) -> String {
        match self.0.len().saturating_sub(SHOWN_MAX) {
            0 => String::new(),
            more if self.0.len() >= FOUND_MAX => format!("and {more} more, and perhaps others\n"),
            more => format!("and {more} more\n"),
        }
    }
}

impl fmt::Display for Flaws {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, flaw) in self.0.iter().take(SHOWN_MAX).enumerate() {
            if i > 0 {
                out.write_str("\n")?;
            }
            write!(out, "{flaw}")?;
        }
        match self.rest().trim_end() {
            "" => Ok(()),
            rest => write!(out, "\n{rest}"),
        }
    }
}

impl std::error::Error for Flaws {}

impl From<Flaw> for Flaws {
    fn from(flaw: Flaw) -> Self {
        Self(vec![flaw])
    }
}

impl From<Flaws> for Fault {
    fn from(flaws: Flaws) -> Self {
        Self::new("bad-config", flaws.to_string())
    }
}

/// A text with the password of an address in it struck out, whatever stands around the address.
pub(super) fn without_passwords(text: &str) -> String {
    let Some(scheme) = text.find("://") else {
        return text.to_owned();
    };
    let (before, rest) = text.split_at(scheme + 3);
    match rest.rsplit_once('@') {
        Some((who, host)) if who.contains(':') => {
            let name = who.split(':').next().unwrap_or_default();
            format!("{before}{name}:***@{host}")
        }
        Some(_) | None => text.to_owned(),
    }
}

/// The known word that `word` was probably meant to be, if there is one.
#[must_use]
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace(['_', ' '], "-");
    let word = plain(word);
    let within = (word.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &plain(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= within && *distance < candidate.chars().count())
        .min()
        .map(|(_, candidate)| candidate)
}
