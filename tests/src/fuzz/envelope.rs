//! The one envelope: requests, replies and facts in JSON, as the door and the broker take them.

use epu_bus::http::auth::may;
use epu_core::fact::Fact;
use epu_core::heartbeat::Orders;
use epu_core::id::{InstanceId, LaunchId};
use epu_core::request::{Caller, Context, Reply, Reported, Request};
use serde_json::Value;

use super::saying::{self, survives};
use super::{Verdict, so};

/// Words of the envelope.
pub(super) const WORDS: &[&str] = &[
    "op",
    "args",
    "result",
    "error",
    "fact",
    "of",
    "is",
    "launch",
    "terminate",
    "drain",
    "withdraw_drain",
    "look",
    "report",
    "context",
    "heartbeat",
    "heartbeats",
    "pool_add",
    "pool_reconfigure",
    "status",
    "events",
    "instances",
    "instance",
    "why",
    "operator",
    "happened",
    "ready",
    "failed",
    "drained",
    "exited",
    "interruption",
    "within",
    "fault",
    "code",
    "text",
    "epoch",
    "nonce",
    "index",
    "pool",
    "set",
    "template",
    "run",
    "placements",
    "readings",
    "condition",
    "process-error",
    "sequence",
    "deadline",
    "since",
    "snapshot",
    "pools",
    "listening",
    "2m",
    "busy",
    "idle",
];

/// A request: what is taken survives a round trip, belongs to a service, and is allowed or refused in words.
pub(super) fn request(input: &[u8]) -> Verdict {
    let Ok(request) = serde_json::from_slice::<Request>(input) else {
        return Ok(());
    };
    survives(&request)?;
    let written = serde_json::to_value(&request).map_err(|error| error.to_string())?;
    so(written.get("op").and_then(Value::as_str) == Some(request.op()), || {
        format!("it is written as another op: {}", request.op())
    })?;
    let mut changed = request.clone();
    changed.set_epoch(u64::MAX);
    so(changed.service() == request.service() && changed.op() == request.op(), || {
        "its epoch changes what it is".to_owned()
    })?;
    let callers = [
        Caller::Service("controller"),
        Caller::Operator("operator".to_owned()),
        Caller::OwnersOperator("own".to_owned(), vec!["team".to_owned()]),
        Caller::Reader("reader".to_owned()),
        Caller::Instance(InstanceId(uuid::Uuid::nil())),
        Caller::Launch(LaunchId(uuid::Uuid::nil())),
    ];
    for caller in callers {
        match may(&caller, &request) {
            Err(fault) => saying::fault(&fault)?,
            Ok(()) => so(!matches!(caller, Caller::Reader(_)) || request.is_question(), || {
                format!("a reader may ask {}", request.op())
            })?,
        }
    }
    Ok(())
}

/// What comes back, and what is told: what is taken survives a round trip.
pub(super) fn answer(input: &[u8]) -> Verdict {
    fn look<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq>(input: &[u8]) -> Verdict {
        serde_json::from_slice::<T>(input).map_or(Ok(()), |read| survives(&read))
    }
    look::<Reply>(input)?;
    look::<Fact>(input)?;
    let Ok(result) = serde_json::from_slice::<Value>(input).map(|reply| reply.get("result").cloned()) else {
        return Ok(());
    };
    let result = result.unwrap_or(Value::Null).to_string().into_bytes();
    look::<Orders>(&result)?;
    look::<Reported>(&result)?;
    look::<Context>(&result)
}
