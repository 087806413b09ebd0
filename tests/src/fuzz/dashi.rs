//! The wire of the original's clients.

use epu_bus::amqp::dashi::wire::{self, KEY_MAX, Problem};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::Value;

use super::{Verdict, saying, so};

/// Words of that wire.
pub(super) const WORDS: &[&str] = &[
    "op",
    "args",
    "describe_domain",
    "add_domain",
    "domain_id",
    "definition",
    "config",
    "caller",
    "engine_conf",
    "preserve_n",
    "NaN",
    "reply-to",
    "heartbeat",
    "node_id",
    "state",
    "result",
    "exc_type",
];
/// The longest text of a problem, in characters.
const PROBLEM_MAX: usize = 600;

/// The input is a body, and where it has a first line of its own, that is the content type and both headers.
pub(super) fn call(input: &[u8]) -> Verdict {
    let (head, body) = match input.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&input[..at], &input[at + 1..]),
        None => (&b"application/json"[..], input),
    };
    let text = String::from_utf8_lossy(head);
    let mut headers = FieldTable::default();
    headers.insert("reply-to".into(), AMQPValue::LongString(head.into()));
    headers.insert("sender".into(), AMQPValue::LongString(head.into()));
    // A short string of AMQP has no more than 255 bytes.
    let kind: String = text.chars().take(60).collect();
    for properties in [
        wire::properties(headers.clone()),
        wire::properties(headers).with_content_type(kind.as_str().into()),
    ] {
        let received = wire::read(&properties, body);
        so(
            received.reply_to.as_ref().is_none_or(|key| key.len() <= KEY_MAX && !key.is_empty()),
            || "a reply goes where nothing can be sent".to_owned(),
        )?;
        match received.asked {
            Ok(asked) => {
                so(asked.sender.as_ref().is_none_or(|sender| sender.chars().count() <= KEY_MAX), || {
                    "a sender without bounds".to_owned()
                })?;
                let again = wire::read(&wire::properties(wire::fire_headers("x")), &wire::fire(&asked.op, &asked.args));
                let again = again
                    .asked
                    .map_err(|problem| format!("what was written cannot be read: {problem}"))?;
                so((&again.op, &again.args) == (&asked.op, &asked.args), || {
                    "it is another after being written and read".to_owned()
                })?;
                problem(&Problem::unknown_operation(&asked.op))?;
                reply(&Ok(Value::Object(asked.args)))?;
            }
            Err(refused) => {
                problem(&refused)?;
                reply(&Err(refused))?;
            }
        }
    }
    Ok(())
}

fn problem(problem: &Problem) -> Verdict {
    so(problem.exc_type.starts_with("dashi.exceptions."), || {
        format!("no class of dashi: {}", problem.exc_type)
    })?;
    saying::bounded(&problem.value, PROBLEM_MAX)
}

/// A reply is JSON with both keys, one of which is null.
fn reply(answer: &Result<Value, Problem>) -> Verdict {
    let body: Value = serde_json::from_slice(&wire::reply(answer)).map_err(|error| format!("a reply is no JSON: {error}"))?;
    let of = |key: &str| body.get(key).cloned().ok_or_else(|| format!("a reply has no {key}"));
    let expected = answer.as_ref().ok().cloned().unwrap_or(Value::Null);
    so(of("result")? == expected, || "a reply has another result".to_owned())?;
    so(of("error")?.is_null() == answer.is_ok(), || "a reply has a wrong error".to_owned())
}
