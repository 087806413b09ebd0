//! What goes over the wire of dashi 0.3, as pure functions: names, message properties, requests in, replies and fires out.
//!
//! A request is a JSON object `{"op": <text>, "args": {<name>: <value>}}`; a call names its reply queue in the *header* `reply-to` (not
//! the AMQP property), every message its sender in the header `sender`. A reply is `{"result": <value or null>, "error": null}` or
//! `{"result": null, "error": {"exc_type", "value", "traceback"}}`, published to the same exchange with an empty table of headers.
//! The original decoded whatever serializer a message named, pickle and YAML among them, which hands the process to whoever may publish.
//! Here only JSON is read; everything else is answered by an error in JSON.

use std::borrow::Cow;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The exchange that dashi uses unless another is named.
pub const DEFAULT_EXCHANGE: &str = "default_dashi_exchange";
/// The largest request that is read, in bytes. Too low: a definition with long variables is refused. Too high: memory.
pub const REQUEST_MAX: usize = 1 << 20;
/// The largest reply, in bytes; RabbitMQ's own limit is 128 MiB unless configured otherwise.
pub const REPLY_MAX: usize = 64 << 20;
/// The longest routing key, in bytes: a short string of AMQP.
pub const KEY_MAX: usize = 255;
/// The longest operation name that is repeated in an error.
const OP_SHOWN: usize = 200;

/// The class that dashi's clients know for a request that cannot be understood.
pub const BAD_REQUEST: &str = "dashi.exceptions.BadRequestError";
/// The class that dashi's clients know for an operation that the service does not have.
pub const UNKNOWN_OPERATION: &str = "dashi.exceptions.UnknownOperationError";
/// The class that dashi's clients know for something that is not there.
pub const NOT_FOUND: &str = "dashi.exceptions.NotFoundError";
/// The class that dashi's clients know for something that exists already or was changed meanwhile.
pub const WRITE_CONFLICT: &str = "dashi.exceptions.WriteConflictError";

/// Names of one deployment on a broker: with a `sysname` they are apart from those of every other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The exchange, without the prefix.
    pub exchange: String,
    /// The prefix.
    pub sysname: Option<String>,
}

impl Names {
    /// The exchange's name on the broker.
    #[must_use]
    pub fn exchange(&self) -> String {
        self.prefixed(&self.exchange)
    }

    /// A name with the prefix: a service's queue and its routing key, or a sender.
    #[must_use]
    pub fn prefixed(&self, name: &str) -> String {
        match &self.sysname {
            Some(sysname) => format!("{sysname}.{name}"),
            None => name.to_owned(),
        }
    }
}

/// What went wrong, as a Python client sees it: the class of an exception and its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The class: one of dashi's own with its module, any other by its bare name.
    pub exc_type: Cow<'static, str>,
    /// The text.
    pub value: String,
}

impl Problem {
    /// A problem of the given class.
    #[must_use]
    pub fn new(exc_type: &'static str, value: impl Into<String>) -> Self {
        Self {
            exc_type: Cow::Borrowed(exc_type),
            value: value.into(),
        }
    }

    /// The request itself is no request.
    #[must_use]
    pub fn invalid(why: impl std::fmt::Display) -> Self {
        Self::new(BAD_REQUEST, format!("Invalid request: {why}"))
    }

    /// An argument is missing, unknown, or of the wrong kind.
    #[must_use]
    pub fn type_error(why: impl std::fmt::Display) -> Self {
        Self::new(BAD_REQUEST, format!("Type error: {why}"))
    }

    /// The service has no such operation.
    #[must_use]
    pub fn unknown_operation(op: &str) -> Self {
        let shown: String = op.chars().take(OP_SHOWN).collect();
        Self::new(UNKNOWN_OPERATION, format!("Unknown operation: {shown}"))
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}: {}", self.exc_type, self.value)
    }
}

/// A request that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// Which operation.
    pub op: String,
    /// Its arguments by name.
    pub args: Map<String, Value>,
    /// Who says to have sent it; nothing vouches for that.
    pub sender: Option<String>,
}

/// What is known of a message before its body is understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    /// Where the answer goes; none for a fire.
    pub reply_to: Option<String>,
    /// The request, or why there is none.
    pub asked: Result<Asked, Problem>,
}

/// Reads a message.
#[must_use]
pub fn read(properties: &BasicProperties, body: &[u8]) -> Received {
    let reply_to = header(properties, "reply-to").filter(|key| !key.is_empty() && key.len() <= KEY_MAX);
    let sender = header(properties, "sender").map(|sender| sender.chars().take(KEY_MAX).collect());
    Received {
        reply_to,
        asked: request(properties, body).map(|(op, args)| Asked { op, args, sender }),
    }
}

fn request(properties: &BasicProperties, body: &[u8]) -> Result<(String, Map<String, Value>), Problem> {
    let content_type = properties.content_type().as_ref().map_or("application/json", |kind| kind.as_str());
    if !content_type.eq_ignore_ascii_case("application/json") {
        let shown: String = content_type.chars().take(80).collect();
        return Err(Problem::invalid(format!("only application/json is read here, not {shown}")));
    }
    if body.len() > REQUEST_MAX {
        let text = format!("{} bytes are more than the {REQUEST_MAX} that are read", body.len());
        return Err(Problem::invalid(text));
    }
    // Python writes NaN and Infinity where it has them; they are no JSON and are refused here as such.
    let value: Value = serde_json::from_slice(body).map_err(|error| Problem::invalid(format!("it is no JSON: {error}")))?;
    let Value::Object(mut request) = value else {
        return Err(Problem::invalid("it is not an object with op and args"));
    };
    let op = match request.remove("op") {
        None => return Err(Problem::invalid("it has no op")),
        Some(op) => text_of(&op),
    };
    match request.remove("args") {
        None | Some(Value::Null) => Ok((op, Map::new())),
        Some(Value::Object(args)) => Ok((op, args)),
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            let shown: String = op.chars().take(OP_SHOWN).collect();
            Err(Problem::type_error(format!(
                "{shown}() arguments must be a mapping of names to values"
            )))
        }
    }
}

/// What `str()` makes of a value in Python, as far as it can name an operation.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

fn header(properties: &BasicProperties, name: &str) -> Option<String> {
    let headers = properties.headers().as_ref()?;
    match headers.inner().get(name)? {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        AMQPValue::ByteArray(bytes) => Some(String::from_utf8_lossy(bytes.as_slice()).into_owned()),
        AMQPValue::Boolean(_)
        | AMQPValue::ShortShortInt(_)
        | AMQPValue::ShortShortUInt(_)
        | AMQPValue::ShortInt(_)
        | AMQPValue::ShortUInt(_)
        | AMQPValue::LongInt(_)
        | AMQPValue::LongUInt(_)
        | AMQPValue::LongLongInt(_)
        | AMQPValue::Float(_)
        | AMQPValue::Double(_)
        | AMQPValue::DecimalValue(_)
        | AMQPValue::FieldArray(_)
        | AMQPValue::Timestamp(_)
        | AMQPValue::FieldTable(_)
        | AMQPValue::Void => None,
    }
}

/// The body of an answer. What is too large becomes an error in its place, so that the asker does not wait for nothing.
#[must_use]
pub fn reply(answer: &Result<Value, Problem>) -> Vec<u8> {
    let failed = |problem: &Problem| {
        json!({
            "result": null,
            "error": { "exc_type": problem.exc_type, "value": problem.value, "traceback": "" },
        })
    };
    let whole = match answer {
        Ok(result) => json!({ "result": result, "error": null }),
        Err(problem) => failed(problem),
    };
    // A JSON value has no NaN and always has a text.
    let body = whole.to_string().into_bytes();
    if body.len() <= REPLY_MAX {
        return body;
    }
    let text = format!("the answer has {} bytes, more than the {REPLY_MAX} that are sent", body.len());
    failed(&Problem::new("ValueError", text)).to_string().into_bytes()
}

/// The body of a fire.
#[must_use]
pub fn fire(op: &str, args: &Map<String, Value>) -> Vec<u8> {
    json!({ "op": op, "args": args }).to_string().into_bytes()
}

/// The properties of everything that is published.
#[must_use]
pub fn properties(headers: FieldTable) -> BasicProperties {
    BasicProperties::default()
        .with_content_type("application/json".into())
        .with_content_encoding("utf-8".into())
        .with_delivery_mode(2)
        .with_priority(0)
        .with_headers(headers)
}

/// The headers of a fire.
#[must_use]
pub fn fire_headers(sender: &str) -> FieldTable {
    let mut headers = FieldTable::default();
    headers.insert("sender".into(), AMQPValue::LongString(sender.into()));
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(content_type: &str, body: &str) -> Received {
        let mut headers = fire_headers("ceiclient");
        headers.insert("reply-to".into(), AMQPValue::LongString("0123456789abcdef0123456789abcdef".into()));
        let properties = properties(headers).with_content_type(content_type.into());
        read(&properties, body.as_bytes())
    }

    fn problem(content_type: &str, body: &str) -> Problem {
        let received = call(content_type, body);
        assert_eq!(received.reply_to.as_deref(), Some("0123456789abcdef0123456789abcdef"));
        received.asked.expect_err("no request")
    }

    #[test]
    fn a_call_is_read_with_its_headers() {
        let received = call("application/json", r#"{"op": "describe_domain", "args": {"domain_id": "web"}}"#);
        let asked = received.asked.expect("a request");
        assert_eq!((asked.op.as_str(), asked.sender.as_deref()), ("describe_domain", Some("ceiclient")));
        assert_eq!(asked.args.get("domain_id"), Some(&json!("web")));
        let fire = read(&properties(fire_headers("x")), br#"{"op": "o", "args": null}"#);
        assert_eq!((fire.reply_to, fire.asked.expect("a request").args), (None, Map::new()));
    }

    #[test]
    fn nothing_but_json_is_read_and_a_malformed_body_is_an_answer() {
        for kind in ["application/x-python-serialize", "application/x-yaml", "application/x-msgpack", ""] {
            let problem = problem(kind, r#"{"op": "list_domains", "args": {}}"#);
            assert_eq!(problem.exc_type, BAD_REQUEST, "{kind}");
            assert!(problem.value.starts_with("Invalid request: "), "{problem}");
        }
        for body in [
            "",
            "no json",
            "[1, 2]",
            "3",
            r#"{"args": {}}"#,
            r#"{"op": "x", "args": {"n": NaN}}"#,
        ] {
            let problem = problem("application/json", body);
            assert!(problem.value.starts_with("Invalid request: "), "{body}: {problem}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(problem("application/json", &deep).exc_type, BAD_REQUEST);
        let list = problem("application/json", r#"{"op": "x", "args": [1]}"#);
        assert!(list.value.starts_with("Type error: "), "{list}");
    }

    #[test]
    fn an_operation_is_what_python_would_call_it() {
        let op = |body: &str| call("application/json", body).asked.expect("a request").op;
        assert_eq!(op(r#"{"op": null}"#), "None");
        assert_eq!(op(r#"{"op": true}"#), "True");
        assert_eq!(op(r#"{"op": 5}"#), "5");
    }

    #[test]
    fn replies_have_both_keys_and_no_traceback() {
        let body = reply(&Ok(json!(["web"])));
        assert_eq!(String::from_utf8(body).expect("text"), r#"{"error":null,"result":["web"]}"#);
        let body = reply(&Err(Problem::unknown_operation("nope")));
        let value: Value = serde_json::from_slice(&body).expect("json");
        assert_eq!(value["error"]["exc_type"], "dashi.exceptions.UnknownOperationError");
        assert_eq!(value["error"]["value"], "Unknown operation: nope");
        assert_eq!((&value["result"], &value["error"]["traceback"]), (&Value::Null, &json!("")));
    }

    #[test]
    fn names_have_the_sysname_before_them() {
        let plain = Names {
            exchange: DEFAULT_EXCHANGE.into(),
            sysname: None,
        };
        assert_eq!(
            (plain.exchange(), plain.prefixed("dtrs")),
            (DEFAULT_EXCHANGE.to_owned(), "dtrs".to_owned())
        );
        let named = Names {
            sysname: Some("s1".into()),
            ..plain
        };
        assert_eq!(named.exchange(), "s1.default_dashi_exchange");
        assert_eq!(named.prefixed("provisioner"), "s1.provisioner");
    }
}
