//! Who may ask what: a function of the caller and the request, and of nothing else.
//!
//! Operators and services may ask everything that is not an agent's own word; services alone pass on what several agents said. An agent speaks for itself only: with its launch
//! token it may claim its context, with its instance token it may report and send heartbeats. So a stolen instance token says
//! things about one instance, and commands nothing.

use epu_core::Fault;
use epu_core::request::{Caller, Request};
use epu_core::time::Timestamp;

use crate::token::{Bearer, Keyring, OperatorToken, Wrong, looks_like_agents};

/// Whether this caller may ask this.
///
/// # Errors
/// `forbidden`, saying what the caller may do instead.
pub fn may(caller: &Caller, request: &Request) -> Result<(), Fault> {
    let op = request.op();
    match caller {
        Caller::Reader(name) if !request.is_question() => Err(Fault::new(
            "forbidden",
            format!("ask {op}: {name} has the role `reader`, which may look and not change; the config's `users` gives roles"),
        )),
        Caller::Operator(_) | Caller::OwnersOperator(..) if matches!(request, Request::Heartbeats(_)) => Err(Fault::new(
            "forbidden",
            format!("ask {op}: only a service passes on what instances say; an operator cannot speak for them"),
        )),
        Caller::OwnersOperator(name, _) if concerns_all(request) => Err(Fault::new(
            "forbidden",
            format!("ask {op}: {name} acts for certain owners only, and this concerns everybody's pools"),
        )),
        Caller::Service(_) | Caller::Operator(_) | Caller::OwnersOperator(..) | Caller::Reader(_) => {
            if request.is_for_agents() {
                return Err(Fault::new(
                    "forbidden",
                    format!("ask {op}: only the instance's own agent may say this, with its own token"),
                ));
            }
            Ok(())
        }
        Caller::Launch(launch) => {
            let Request::Context(claim) = request else {
                return Err(Fault::new(
                    "forbidden",
                    format!("ask {op}: a launch token is good for `context` only, which gives the instance's own token"),
                ));
            };
            if claim.launch != *launch {
                return Err(Fault::new(
                    "forbidden",
                    format!("ask {op}: the token is good for launch {launch}, not for {}", claim.launch),
                ));
            }
            Ok(())
        }
        Caller::Instance(instance) => {
            let about = if let Request::Report(report) = request {
                report.instance
            } else if let Request::Heartbeat(heartbeat) = request {
                heartbeat.instance
            } else {
                return Err(Fault::new(
                    "forbidden",
                    format!("ask {op}: an instance token is good for `report` and `heartbeat` only; use an operator token"),
                ));
            };
            if about != *instance {
                return Err(Fault::new(
                    "forbidden",
                    format!("ask {op}: the token is good for instance {instance}, not for {about}"),
                ));
            }
            Ok(())
        }
    }
}

/// Whether it is about the installation, or about instances by their ids alone, and so about everybody's.
fn concerns_all(request: &Request) -> bool {
    matches!(
        request,
        Request::Teardown(_)
            | Request::Open(_)
            | Request::Launch(_)
            | Request::Terminate(_)
            | Request::Drain(_)
            | Request::WithdrawDrain(_)
            | Request::Protect(_)
    )
}

/// Whom the `Authorization` header stands for.
///
/// # Errors
/// [`Wrong`] says why for nobody.
pub fn recognise(header: Option<&str>, keys: &Keyring, operator: &OperatorToken, now: Timestamp) -> Result<Caller, Wrong> {
    let header = header.ok_or(Wrong::Missing)?.trim();
    let (scheme, token) = header.split_once(' ').ok_or(Wrong::Malformed)?;
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Wrong::Malformed);
    }
    if looks_like_agents(token) {
        return keys.verify(token, now).map(|bearer| match bearer {
            Bearer::Launch(launch) => Caller::Launch(launch),
            Bearer::Instance(instance) => Caller::Instance(instance),
        });
    }
    match operator.is(token) {
        true => Ok(Caller::Operator("operator".to_owned())),
        false if token.is_empty() => Err(Wrong::Missing),
        false => Err(Wrong::Operator),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const LAUNCH: &str = "0193a5a0-0000-7000-8000-000000000001";
    const OTHER_LAUNCH: &str = "0193a5a0-0000-7000-8000-000000000002";
    const INSTANCE: &str = "0193a5a0-0000-7000-8000-000000000011";
    const OTHER_INSTANCE: &str = "0193a5a0-0000-7000-8000-000000000012";

    /// Which of operator, service, launch, instance, other launch, other instance may ask it.
    const OPERATORS: &str = "os";
    const SERVICES: &str = "s";
    const THE_LAUNCH: &str = "l";
    const THE_INSTANCE: &str = "i";

    fn requests() -> Vec<(Request, &'static str)> {
        let heartbeat = json!({"instance": INSTANCE, "sequence": 1, "started_at_ms": 1, "sent_at_ms": 1, "condition": {"is": "ok"}});
        let launch = json!({
            "launch": LAUNCH, "pool": "web", "site": "here", "template": {"run": ["true"]}, "template_version": "t",
            "instances": [{"id": INSTANCE}], "min": 1
        });
        let drain = json!({"instances": [INSTANCE], "drain": {"since": 1, "deadline": 2, "why": "operator"}});
        [
            ("launch", launch, OPERATORS),
            (
                "terminate",
                json!({"instances": [[INSTANCE, "idle"]], "why": "operator"}),
                OPERATORS,
            ),
            ("drain", drain, OPERATORS),
            ("withdraw_drain", json!({"instances": [INSTANCE]}), OPERATORS),
            ("look", json!({"instances": [INSTANCE]}), OPERATORS),
            ("protect", json!({"instances": [INSTANCE], "on": true}), OPERATORS),
            ("logs", json!({"instance": INSTANCE, "lines": 5}), OPERATORS),
            ("teardown", json!({}), OPERATORS),
            ("open", json!({}), OPERATORS),
            ("sites", json!({}), OPERATORS),
            ("sweep", json!({}), OPERATORS),
            ("site_check", json!({"site": "here"}), OPERATORS),
            ("site_add", json!({"file": "f", "text": "t"}), OPERATORS),
            ("site_remove", json!({"site": "here"}), OPERATORS),
            ("template_add", json!({"file": "f", "text": "t"}), OPERATORS),
            ("template_remove", json!({"template": "worker"}), OPERATORS),
            ("templates", json!({}), OPERATORS),
            ("records", json!({"instances": [INSTANCE]}), OPERATORS),
            ("context", json!({"launch": LAUNCH, "index": 0, "nonce": "n"}), THE_LAUNCH),
            ("report", json!({"instance": INSTANCE, "happened": {"is": "ready"}}), THE_INSTANCE),
            ("heartbeat", heartbeat.clone(), THE_INSTANCE),
            ("heartbeats", json!([heartbeat]), SERVICES),
            ("pool_add", json!({"file": "f", "text": "t"}), OPERATORS),
            ("pool_list", json!({}), OPERATORS),
            ("pool_show", json!({"pool": "web"}), OPERATORS),
            ("pool_reconfigure", json!({"pool": "web", "set": {}}), OPERATORS),
            ("pool_pause", json!({"pool": "web", "paused": {}}), OPERATORS),
            ("pool_resume", json!({"pool": "web"}), OPERATORS),
            ("pool_refresh", json!({"pool": "web", "do": "start"}), OPERATORS),
            ("placement_list", json!({}), OPERATORS),
            ("placement_reset", json!({"pool": "web"}), OPERATORS),
            ("pool_remove", json!({"pool": "web"}), OPERATORS),
            ("instance_list", json!({}), OPERATORS),
            ("instance_show", json!({"instance": INSTANCE}), OPERATORS),
            ("status", json!({}), OPERATORS),
            ("events", json!({}), OPERATORS),
        ]
        .into_iter()
        .map(|(op, args, allowed)| {
            let request: Request = serde_json::from_value(json!({"op": op, "args": args})).unwrap_or_else(|e| panic!("{op}: {e}"));
            assert_eq!(request.op(), op);
            (request, allowed)
        })
        .collect()
    }

    /// The ops that `Request` has, in the words of its own parser, so that a new one cannot be forgotten above.
    fn every_op() -> Vec<String> {
        let error = serde_json::from_value::<Request>(json!({"op": "?", "args": {}}))
            .unwrap_err()
            .to_string();
        let (_, listed) = error.split_once("expected one of ").expect("a list of ops");
        listed.split(", ").map(|op| op.trim_matches('`').to_owned()).collect()
    }

    #[test]
    fn every_request_is_for_exactly_those_who_may_ask_it() {
        let callers = [
            ('o', Caller::Operator("me".to_owned())),
            ('s', Caller::Service("controller")),
            ('l', Caller::Launch(LAUNCH.parse().unwrap())),
            ('i', Caller::Instance(INSTANCE.parse().unwrap())),
            ('L', Caller::Launch(OTHER_LAUNCH.parse().unwrap())),
            ('I', Caller::Instance(OTHER_INSTANCE.parse().unwrap())),
        ];
        let mut seen = Vec::new();
        for (request, allowed) in requests() {
            for (mark, caller) in &callers {
                let answer = may(caller, &request);
                assert_eq!(
                    answer.is_ok(),
                    allowed.contains(*mark),
                    "{caller:?} asks {}: {answer:?}",
                    request.op()
                );
                if let Err(fault) = answer {
                    assert_eq!(fault.code, "forbidden");
                    assert!(fault.text.contains(request.op()), "{fault}");
                }
            }
            seen.push(request.op().to_owned());
        }
        assert_eq!(seen, every_op(), "a request is missing from this test");
    }

    #[test]
    fn who_asks_is_told_by_the_bearer() {
        let keys = Keyring::new(&[7; 32]).unwrap();
        let operator = OperatorToken::new("operator-0123456789").unwrap();
        let now = Timestamp(1_000);
        let who = |header: Option<&str>| recognise(header, &keys, &operator, now);
        let instance = keys.mint_instance(INSTANCE.parse().unwrap());
        let launch = keys.mint_launch(LAUNCH.parse().unwrap(), Timestamp(1_001));
        let late = keys.mint_launch(LAUNCH.parse().unwrap(), now);
        assert_eq!(who(Some("Bearer operator-0123456789")), Ok(Caller::Operator("operator".to_owned())));
        assert_eq!(
            who(Some("bearer   operator-0123456789 ")),
            Ok(Caller::Operator("operator".to_owned()))
        );
        assert_eq!(
            who(Some(&format!("Bearer {instance}"))),
            Ok(Caller::Instance(INSTANCE.parse().unwrap()))
        );
        assert_eq!(who(Some(&format!("Bearer {launch}"))), Ok(Caller::Launch(LAUNCH.parse().unwrap())));
        assert_eq!(who(Some(&format!("Bearer {late}"))), Err(Wrong::LaunchExpired));
        assert_eq!(who(None), Err(Wrong::Missing));
        assert_eq!(who(Some("Bearer  ")), Err(Wrong::Malformed));
        assert_eq!(who(Some("Basic b3BlcmF0b3I=")), Err(Wrong::Malformed));
        assert_eq!(who(Some("Bearer operator-012345678")), Err(Wrong::Operator));
        assert_eq!(who(Some("Bearer i.junk")), Err(Wrong::Malformed));
        assert_eq!(
            who(Some(&format!("Bearer {}0", &instance[..instance.len() - 1])))
                .err()
                .map(Wrong::label),
            {
                // The last digit may happen to be 0 already.
                if instance.ends_with('0') { None } else { Some("instance-token") }
            }
        );
    }

    #[test]
    fn the_sample_requests_survive_a_round_trip() {
        for (request, _) in requests() {
            let value: Value = serde_json::to_value(&request).unwrap();
            assert_eq!(serde_json::from_value::<Request>(value).unwrap(), request);
        }
    }
}
