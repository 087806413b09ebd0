//! What a broker's management API answers about a queue.

use epu_bus::amqp::management::understood;
use serde_json::Value;

use super::{Verdict, saying, so};

/// Words of its answers.
pub(super) const WORDS: &[&str] = &[
    "messages",
    "state",
    "running",
    "error",
    "reason",
    "not_authorised",
    "Object Not Found",
    "messages_ready",
    "<html>",
    "crashed",
    "down",
];
/// The longest text, in characters.
const TEXT_MAX: usize = 600;

/// Only a number that stands there is one; everything else says what is wrong, whatever the status.
pub(super) fn answers(input: &[u8]) -> Verdict {
    for status in [200, 204, 301, 401, 403, 404, 429, 500, 599, 999] {
        match understood(status, input) {
            Ok(amount) => {
                let answer: Value = serde_json::from_slice(input).map_err(|error| format!("{amount} was read from no JSON: {error}"))?;
                let said = answer.get("messages").and_then(Value::as_u64);
                so(status == 200 && said == Some(amount), || {
                    format!("{amount} was read of status {status}, said were {said:?}")
                })?;
            }
            Err((code, text)) => {
                saying::known_code(code)?;
                saying::bounded(&text, TEXT_MAX)?;
                so(!text.chars().any(char::is_control), || format!("a text that is no line: {text:?}"))?;
            }
        }
    }
    Ok(())
}
