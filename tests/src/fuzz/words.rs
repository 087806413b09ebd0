//! The smallest readers: lengths of time, points in time, names, ids, addresses with passwords.

use epu_core::id::{InstanceId, NAME_MAX, PoolName, SensorName};
use epu_core::secret::{SecretRef, SecretUrl};
use epu_core::time::{Span, Timestamp};

use super::saying::{self, SECRET, survives};
use super::{Verdict, so};

/// Words of these.
pub(super) const WORDS: &[&str] = &[
    "ns",
    "us",
    "ms",
    "s",
    "m",
    "h",
    "days",
    "w",
    "M",
    "y",
    "months",
    "years",
    "1h 30m",
    " ",
    "2026-11-22T19:37:16Z",
    "T",
    "+00:00",
    "-",
    "env:",
    "file:",
    "amqps://",
    "hunter2hunter2",
    "@",
    ":",
    "0198f000-0000-7000-8000-000000000001",
];
/// The longest text that says why a word is refused, in characters.
const REFUSAL_MAX: usize = 400;
/// Units that a length of time is written with, as the schema knows them.
const UNITS: &[&str] = &["ns", "us", "ms", "s", "m", "h", "day", "days"];

/// Each line is one word.
pub(super) fn words(input: &[u8]) -> Verdict {
    let text = String::from_utf8_lossy(input);
    for word in text.split('\n').take(50) {
        span(word)?;
        name(word)?;
        secret(word)?;
        if let Ok(id) = word.parse::<InstanceId>() {
            survives(&id)?;
            so(id.to_string().parse() == Ok(id) && id.short().len() == 12, || {
                format!("the id {id} is another")
            })?;
        }
        if let Some(time) = Timestamp::from_rfc3339(word) {
            let again = Timestamp::from_rfc3339(&time.rfc3339());
            // It is shown in whole seconds.
            so(again.is_some_and(|again| again.0.abs_diff(time.0) < 1_000), || {
                format!("{word:?} is shown as {time}, which is {again:?}")
            })?;
        }
    }
    Ok(())
}

fn span(word: &str) -> Verdict {
    let span = match word.parse::<Span>() {
        Ok(span) => span,
        Err(why) => return saying::bounded(&why, REFUSAL_MAX),
    };
    survives(&span)?;
    let shown = span.to_string();
    let is_written_right = shown.split(' ').all(|part| {
        let unit = part.trim_start_matches(|c: char| c.is_ascii_digit());
        unit.len() < part.len() && UNITS.contains(&unit)
    });
    so(is_written_right, || {
        format!("{word:?} is written {shown:?}, which the schema refuses")
    })
}

fn name(word: &str) -> Verdict {
    match PoolName::new(word) {
        Ok(name) => {
            survives(&name)?;
            so(word.len() <= NAME_MAX && !word.contains('/') && !word.starts_with('.'), || {
                format!("{word:?} was taken for a name")
            })?;
            so(SensorName::new(word).is_ok(), || {
                format!("{word:?} names one thing and not another")
            })
        }
        Err(why) => saying::bounded(&why.to_string(), 2_000),
    }
}

fn secret(word: &str) -> Verdict {
    survives(&SecretUrl::new(word))?;
    let in_the_open = SecretRef::new(word);
    let is_reference = word.starts_with("env:") || word.starts_with("file:");
    so(is_reference || in_the_open.to_string() == "***", || {
        "a secret in the open is shown".to_owned()
    })?;
    let url = SecretUrl::new(word);
    if url.has_open_password() {
        let authority = word
            .split_once("://")
            .map_or("", |(_, rest)| rest.split('/').next().unwrap_or_default());
        let user = authority.split(':').next().unwrap_or_default();
        let elsewhere = word.matches(SECRET).count() > authority.matches(SECRET).count()
            || user.contains(SECRET)
            || authority.rsplit('@').next().is_some_and(|host| host.contains(SECRET));
        so(elsewhere || !url.to_string().contains(SECRET), || {
            format!("a password is shown: {url}")
        })?;
    }
    Ok(())
}
