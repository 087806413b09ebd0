//! Who is who: which user of the broker, or which token, has which role.
//!
//! A transport finds out a *name* that it vouches for: the broker's `user_id`, which RabbitMQ compares with the connection's user, or
//! the name of a token. What that name may do is said here, by config, and nowhere else; [`crate::http::auth::may`] then decides as on
//! every other transport. Nobody who is not named may do anything.

use std::collections::BTreeMap;

use epu_core::Fault;
use epu_core::request::{Caller, Request};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::http::text::shortened;

/// The most of a name that is repeated in a fault, in characters.
const NAME_MAX: usize = 80;

/// What a name may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Looks at everything and changes nothing.
    Reader,
    /// Does everything that is not an agent's own word; with `owners`, to what belongs to them.
    Operator,
    /// A process of this installation: its facts and replies count, and it may ask for others.
    Service,
}

/// One name's rights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(deny_unknown_fields)]
pub struct User {
    /// What it may do.
    pub role: Role,
    /// For an operator: whose pools it may change; none: everybody's. What it adds belongs to the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(min = 1, max = 200)))]
    pub owners: Vec<String>,
}

/// Rights by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Users(BTreeMap<String, User>);

/// For whom a service asks, when it is not for itself. Travels beside a request, and counts from services only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub(crate) enum OnBehalf {
    Operator { name: String },
    Owners { name: String, owners: Vec<String> },
    Reader { name: String },
    Instance { id: epu_core::InstanceId },
    Launch { id: epu_core::LaunchId },
}

impl OnBehalf {
    /// What says of this caller who it is; none for a service, which asks for itself.
    pub(crate) fn of(caller: &Caller) -> Option<Self> {
        match caller {
            Caller::Service(_) => None,
            Caller::Operator(name) => Some(Self::Operator { name: name.clone() }),
            Caller::OwnersOperator(name, owners) => Some(Self::Owners {
                name: name.clone(),
                owners: owners.clone(),
            }),
            Caller::Reader(name) => Some(Self::Reader { name: name.clone() }),
            Caller::Instance(id) => Some(Self::Instance { id: *id }),
            Caller::Launch(id) => Some(Self::Launch { id: *id }),
        }
    }

    fn caller(self) -> Caller {
        match self {
            Self::Operator { name } => Caller::Operator(name),
            Self::Owners { name, owners } => Caller::OwnersOperator(name, owners),
            Self::Reader { name } => Caller::Reader(name),
            Self::Instance { id } => Caller::Instance(id),
            Self::Launch { id } => Caller::Launch(id),
        }
    }
}

/// The names that services ask under. Another process's name for itself must not grow this list.
const SERVICES: [&str; 6] = ["provisioner", "controller", "aggregator", "http", "compatibility", "figures"];

fn service_name(said: Option<&str>) -> &'static str {
    let known = SERVICES.iter().find(|name| said == Some(**name));
    known.copied().unwrap_or("service")
}

impl Users {
    /// Rights by name.
    #[must_use]
    pub fn new(users: impl IntoIterator<Item = (String, User)>) -> Self {
        Self(users.into_iter().collect())
    }

    /// Whether nobody is named: then nobody may do anything here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One name's rights.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&User> {
        self.0.get(name)
    }

    /// Everybody.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &User)> {
        self.0.iter().map(|(name, user)| (name.as_str(), user))
    }

    /// Whether facts and replies of this name count.
    #[must_use]
    pub fn is_service(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|user| user.role == Role::Service)
    }

    /// Every entry that cannot be meant: whose, and what is wrong with it.
    #[must_use]
    pub fn faults(&self) -> Vec<(&str, String)> {
        let mut faults = Vec::new();
        for (name, user) in &self.0 {
            if user.role != Role::Operator && !user.owners.is_empty() {
                faults.push((
                    name.as_str(),
                    "only an operator has `owners`: a reader sees everything, a service serves everybody".to_owned(),
                ));
            }
            if name.is_empty() || name.len() > 200 || name.chars().any(char::is_control) {
                faults.push((name.as_str(), "a name has 1 to 200 bytes and no control characters".to_owned()));
            }
        }
        faults
    }

    /// Whom a name that the transport vouches for stands for.
    ///
    /// # Errors
    /// `unauthorized` without a name, `forbidden` for one that config does not know.
    pub fn caller(&self, name: Option<&str>) -> Result<Caller, Fault> {
        self.user(name).map(|(name, user)| match user.role {
            Role::Reader => Caller::Reader(name.to_owned()),
            Role::Operator if user.owners.is_empty() => Caller::Operator(name.to_owned()),
            Role::Operator => Caller::OwnersOperator(name.to_owned(), user.owners.clone()),
            Role::Service => Caller::Service("service"),
        })
    }

    fn user<'a>(&self, name: Option<&'a str>) -> Result<(&'a str, &User), Fault> {
        let name = name.filter(|name| !name.is_empty()).ok_or_else(|| {
            Fault::new(
                "unauthorized",
                "the request does not say who sends it: set the property `user_id` to the broker's user, which the broker then checks",
            )
        })?;
        let user = self.0.get(name).ok_or_else(|| {
            let text = format!(
                "{:?} is nobody here; give the name a role under `users` in the services' config: reader, operator or service",
                shortened(name, NAME_MAX)
            );
            Fault::new("forbidden", text)
        })?;
        Ok((name, user))
    }

    /// Who asks this: the one that the broker vouches for, or for whom a service says that it asks. A heartbeat that a service sends
    /// for itself is its instance's: a service may pass on what agents say.
    ///
    /// # Errors
    /// As [`Users::caller`]; `forbidden` when somebody who is no service claims to ask for another.
    pub(crate) fn asker(
        &self,
        name: Option<&str>,
        app: Option<&str>,
        claimed: Option<OnBehalf>,
        request: &Request,
    ) -> Result<Caller, Fault> {
        let caller = self.caller(name)?;
        match (&caller, claimed) {
            (Caller::Service(_), Some(claimed)) => Ok(claimed.caller()),
            (Caller::Service(_), None) => Ok(if let Request::Heartbeat(heartbeat) = request {
                Caller::Instance(heartbeat.instance)
            } else {
                Caller::Service(service_name(app))
            }),
            (_, None) => Ok(caller),
            (_, Some(_)) => Err(Fault::new(
                "forbidden",
                format!(
                    "ask {}: {} claims to ask for somebody else, which only the role `service` may; leave out the header `{}`",
                    request.op(),
                    caller.name(),
                    crate::amqp::names::ON_BEHALF_OF
                ),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use epu_core::request::Nothing;

    use super::*;

    fn users() -> Users {
        let user = |role, owners: &[&str]| User {
            role,
            owners: owners.iter().map(|&o| o.to_owned()).collect(),
        };
        Users::new([
            ("ada".to_owned(), user(Role::Operator, &[])),
            ("ben".to_owned(), user(Role::Operator, &["web", "batch"])),
            ("cy".to_owned(), user(Role::Reader, &[])),
            ("epu".to_owned(), user(Role::Service, &[])),
        ])
    }

    #[test]
    fn a_name_has_the_role_that_config_gives_it_and_nobody_else_has_any() {
        let users = users();
        assert_eq!(users.caller(Some("ada")), Ok(Caller::Operator("ada".into())));
        assert_eq!(
            users.caller(Some("ben")),
            Ok(Caller::OwnersOperator("ben".into(), vec!["web".into(), "batch".into()]))
        );
        assert_eq!(users.caller(Some("cy")), Ok(Caller::Reader("cy".into())));
        assert_eq!(users.caller(Some("epu")), Ok(Caller::Service("service")));
        for nobody in [None, Some("")] {
            assert_eq!(users.caller(nobody).unwrap_err().code, "unauthorized");
        }
        let stranger = users.caller(Some("guest")).unwrap_err();
        assert_eq!(stranger.code, "forbidden");
        assert!(stranger.text.contains("guest") && stranger.text.contains("users"), "{stranger}");
        assert_eq!(Users::default().caller(Some("ada")).unwrap_err().code, "forbidden");
    }

    #[test]
    fn only_a_service_may_ask_for_somebody_else() {
        let users = users();
        let status = Request::Status(Nothing {});
        let claimed = || Some(OnBehalf::Operator { name: "ada".into() });
        let asker = |name, app, claimed| users.asker(Some(name), app, claimed, &status);
        assert_eq!(asker("epu", Some("controller"), None), Ok(Caller::Service("controller")));
        assert_eq!(asker("epu", Some("made up"), None), Ok(Caller::Service("service")));
        assert_eq!(asker("epu", Some("controller"), claimed()), Ok(Caller::Operator("ada".into())));
        for name in ["ada", "ben", "cy"] {
            assert_eq!(asker(name, Some("controller"), claimed()).unwrap_err().code, "forbidden", "{name}");
        }
        assert_eq!(asker("ada", Some("controller"), None), Ok(Caller::Operator("ada".into())));
    }

    #[test]
    fn a_heartbeat_is_its_instance_s_when_a_service_passes_it_on_and_nobody_else_s() {
        let users = users();
        let heartbeat = serde_json::json!({"op": "heartbeat", "args": {
            "instance": "0193a5a0-0000-7000-8000-000000000011", "sequence": 1, "started_at_ms": 1, "sent_at_ms": 1,
            "condition": {"is": "ok"}}});
        let heartbeat: Request = serde_json::from_value(heartbeat).unwrap();
        let may = |name: &str| {
            let caller = users.asker(Some(name), None, None, &heartbeat)?;
            crate::http::auth::may(&caller, &heartbeat)
        };
        assert_eq!(may("epu"), Ok(()));
        for name in ["ada", "ben", "cy"] {
            assert_eq!(may(name).unwrap_err().code, "forbidden", "{name}");
        }
    }

    #[test]
    fn every_caller_survives_being_passed_on() {
        for caller in [
            Caller::Operator("a".into()),
            Caller::OwnersOperator("a".into(), vec!["b".into()]),
            Caller::Reader("a".into()),
            Caller::Instance(epu_core::InstanceId(Default::default())),
            Caller::Launch(epu_core::LaunchId(Default::default())),
        ] {
            let text = serde_json::to_string(&OnBehalf::of(&caller).unwrap()).unwrap();
            assert_eq!(serde_json::from_str::<OnBehalf>(&text).unwrap().caller(), caller, "{text}");
        }
        assert_eq!(OnBehalf::of(&Caller::Service("controller")), None);
    }

    #[test]
    fn what_cannot_be_meant_is_named() {
        assert_eq!(users().faults(), []);
        let wrong: Users =
            serde_json::from_value(serde_json::json!({"": {"role": "operator"}, "r": {"role": "reader", "owners": ["x"]}})).unwrap();
        let names: Vec<&str> = wrong.faults().iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["", "r"]);
        assert!(serde_json::from_value::<Users>(serde_json::json!({"a": {"role": "king"}})).is_err());
    }
}
