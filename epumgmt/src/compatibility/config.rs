//! What the config file says about old clients.

use std::collections::{BTreeMap, BTreeSet};

use epu_bus::amqp::dashi::wire::{DEFAULT_EXCHANGE, Names};
use epu_core::pool::Limits;
use epu_core::secret::SecretUrl;
use epu_core::{SiteName, TemplateName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Stands for every caller that is not named.
pub(crate) const ANYBODY: &str = "*";

/// Answers for Python clients of the original EPU, over the wire of dashi 0.3. Its messages carry no identity that anybody has checked:
/// whoever may publish to its exchange is who he says he is, with the rights given here. Off unless this section is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default)]
#[schemars(deny_unknown_fields)]
pub(crate) struct Compatibility {
    /// The broker, as `amqp://`; left out: the broker of the installation itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<SecretUrl>,
    /// The exchange, as clients name it (`server.amqp.exchange`, `ceictl -x`).
    #[schemars(length(min = 1, max = 100))]
    pub exchange: String,
    /// What stands before the names of exchange and queues, as clients have it (`dashi.sysname`, `ceictl -s`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    pub sysname: Option<String>,
    /// Which of the original's services are answered for. Another one may still be the Python service.
    #[schemars(extend("minItems" = 1))]
    pub services: BTreeSet<Role>,
    /// The name of the service `provisioner`, as clients call it.
    #[schemars(length(min = 1, max = 100))]
    pub provisioner_name: String,
    /// The name of the EPU Management service, as clients call it.
    #[schemars(length(min = 1, max = 100))]
    pub management_name: String,
    /// Who a client is that names no `caller`. Left out: it is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    pub default_user: Option<String>,
    /// What callers may do with what is theirs, by name; `*` is everybody who is not named. What belongs to another is never theirs.
    pub callers: BTreeMap<String, Right>,
    /// What may be done by operations that name no caller: domain definitions, `terminate_all`, `enable`, `dump_state`, heartbeats.
    pub without_caller: Right,
    /// Services that are sent every change of an instance as `instance_info`, such as a Python EPU Management service.
    #[schemars(extend("maxItems" = 16))]
    pub instance_info_to: Vec<String>,
    /// Domain definitions that are there from the start, by name: mappings with `general`, `health` and `engine_conf`.
    pub definitions: BTreeMap<String, Value>,
    /// Variables that every instance of a domain gets; those of the domain go over them.
    pub provisioner_vars: BTreeMap<String, Value>,
    /// The site of a domain that names none (`force_site`). Left out: the only site there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_site: Option<SiteName>,
    /// The template of a domain that names no `epuworker_type`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_template: Option<TemplateName>,
    /// The largest size of a domain: the most that `preserve_n` may be, and the maximum of a domain that follows a queue. The original had none.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub most: u32,
    /// How fast a domain may change: its pool's limits.
    pub limits: Limits,
    /// The broker whose queue QueueLengthBoundedEngine follows, as `amqp://`. Left out: `url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_url: Option<SecretUrl>,
    /// The management API of that broker. With it messages that workers hold count too, as they did in the original.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_management_url: Option<SecretUrl>,
}

impl Default for Compatibility {
    fn default() -> Self {
        Self {
            url: None,
            exchange: DEFAULT_EXCHANGE.to_owned(),
            sysname: None,
            services: BTreeSet::from([Role::Provisioner, Role::EpuManagement]),
            provisioner_name: "provisioner".to_owned(),
            management_name: "epu_management_service".to_owned(),
            default_user: None,
            callers: BTreeMap::from([(ANYBODY.to_owned(), Right::Operate)]),
            without_caller: Right::Operate,
            instance_info_to: Vec::new(),
            definitions: BTreeMap::new(),
            provisioner_vars: BTreeMap::new(),
            default_site: None,
            default_template: None,
            most: 1_000,
            limits: Limits::default(),
            queue_url: None,
            queue_management_url: None,
        }
    }
}

impl Compatibility {
    /// The names of the deployment on the broker.
    #[must_use]
    pub(crate) fn names(&self) -> Names {
        Names {
            exchange: self.exchange.clone(),
            sysname: self.sysname.clone(),
        }
    }

    /// What a caller may do with what is its own.
    #[must_use]
    pub(crate) fn right_of(&self, caller: &str) -> Right {
        let named = self.callers.get(caller).filter(|_| caller != ANYBODY);
        named.or_else(|| self.callers.get(ANYBODY)).copied().unwrap_or(Right::None)
    }
}

/// A service of the original.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    /// Launches and terminates.
    Provisioner,
    /// Keeps domains.
    EpuManagement,
}

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Right {
    /// Nothing.
    None,
    /// Look.
    Read,
    /// Look and change.
    Operate,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_caller_has_its_own_right_and_the_rest_what_the_star_says() {
        let mut config = Compatibility {
            callers: BTreeMap::from([("alice".to_owned(), Right::Operate), (ANYBODY.to_owned(), Right::Read)]),
            ..Compatibility::default()
        };
        assert_eq!((config.right_of("alice"), config.right_of("bob"), config.right_of("*")), (Right::Operate, Right::Read, Right::Read));
        config.callers.remove(ANYBODY);
        assert_eq!((config.right_of("alice"), config.right_of("bob")), (Right::Operate, Right::None));
    }

    #[test]
    fn an_empty_section_is_the_original() {
        let config: Compatibility = serde_json::from_str("{}").expect("the defaults");
        assert_eq!(config, Compatibility::default());
        assert_eq!(config.names().exchange(), "default_dashi_exchange");
    }
}
