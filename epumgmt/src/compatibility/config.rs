//! What the config file says about old clients.

use std::collections::{BTreeMap, BTreeSet};

use epu_bus::amqp::Settings;
use epu_bus::amqp::dashi::wire::{DEFAULT_EXCHANGE, Names};
use epu_core::input::{Flaw, Tree};
use epu_core::machine::AgentSource;
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
    /// The name of the service `dtrs`, as clients call it.
    #[schemars(length(min = 1, max = 100))]
    pub dtrs_name: String,
    /// Who a client is that names no `caller`. Left out: it is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    pub default_user: Option<String>,
    /// What callers may do with what is theirs, by name; `*` is everybody who is not named. What belongs to another is never theirs.
    pub callers: BTreeMap<String, Right>,
    /// What may be done by operations that name no caller: domain definitions, sites for everybody, `terminate_all`, `enable`, `dump_state`,
    /// heartbeats.
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
    /// What instances of a deployable type run that has no `run` of its own. The default does nothing until it is ended: the machine itself is the
    /// worker, as in the original.
    #[schemars(length(min = 1, max = 100))]
    pub run: Vec<String>,
    /// Where machines of deployable types get the agent from.
    pub agent: AgentSource,
    /// Secrets that callers may name instead of sending them, as `env:NAME` or `file:/path`, whole or as a beginning that ends with `*`. Whoever
    /// may name a secret can have it used at a site of his own, so name none that is not meant for that.
    #[schemars(length(max = 100), inner(regex(pattern = r"^(env:[A-Za-z_][A-Za-z0-9_]*\*?|env:\*|file:/.*)$")))]
    pub references: Vec<String>,
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
            services: BTreeSet::from([Role::Provisioner, Role::EpuManagement, Role::Dtrs]),
            provisioner_name: "provisioner".to_owned(),
            management_name: "epu_management_service".to_owned(),
            dtrs_name: "dtrs".to_owned(),
            default_user: None,
            callers: BTreeMap::from([(ANYBODY.to_owned(), Right::Operate)]),
            without_caller: Right::Operate,
            instance_info_to: Vec::new(),
            definitions: BTreeMap::new(),
            provisioner_vars: BTreeMap::new(),
            default_site: None,
            default_template: None,
            run: vec!["/bin/sleep".to_owned(), "infinity".to_owned()],
            agent: AgentSource::default(),
            references: Vec::new(),
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

    /// How its broker is reached by a process of this name; `own` is the installation's own broker. None when there is neither.
    #[must_use]
    pub(crate) fn settings(&self, own: Option<Settings>, name: &str) -> Option<Settings> {
        let name = format!("{name}.dashi");
        match (&self.url, own) {
            (Some(url), Some(own)) => Some(Settings {
                url: url.clone(),
                name,
                ..own
            }),
            (None, Some(own)) => Some(Settings { name, ..own }),
            (Some(url), None) => Some(Settings::new(url.clone(), "epu", name)),
            (None, None) => None,
        }
    }

    /// What a caller may do with what is its own.
    #[must_use]
    pub(crate) fn right_of(&self, caller: &str) -> Right {
        let named = self.callers.get(caller).filter(|_| caller != ANYBODY);
        named.or_else(|| self.callers.get(ANYBODY)).copied().unwrap_or(Right::None)
    }
}

/// What the schema cannot say of these settings.
pub(crate) fn rules(tree: &Tree, flaws: &mut Vec<Flaw>) {
    const SECTION: &str = "/compatibility";
    let Some(section) = tree.value().get("compatibility").filter(|section| section.is_object()) else {
        return;
    };
    for key in ["url", "queue-url", "queue-management-url"] {
        let Some(written) = section.get(key).and_then(Value::as_str) else {
            continue;
        };
        let schemes: &[&str] = if key == "queue-management-url" {
            &["http://", "https://"]
        } else {
            &["amqp://", "amqps://"]
        };
        let (place, url) = (format!("{SECTION}/{key}"), SecretUrl::new(written));
        let is_reference = written.starts_with("env:") || written.starts_with("file:");
        if url.has_open_password() {
            let flaw = tree.flaw(&place, "a password stands in the file");
            flaws.push(flaw.help("put the address into a variable or file and write env:NAME or file:/path"));
        } else if !is_reference && !schemes.iter().any(|scheme| written.starts_with(scheme)) {
            let flaw = tree.flaw(&place, format!("{} is no such address", url.shown()));
            flaws.push(flaw.help(format!(
                "it begins with {}, or is written env:NAME or file:/path",
                schemes.join(" or ")
            )));
        }
    }
    let given = |value: Option<&Value>| value.is_some_and(|value| !value.is_null());
    if !given(section.get("url")) && !given(tree.value().get("amqp")) {
        let flaw = tree.flaw(SECTION, "there is no broker on which old clients could be answered");
        flaws.push(flaw.help("give `url`, such as env:EPU_DASHI_URL, or the broker of the installation as `amqp`"));
    }
    let name = |key: &str, default: &str| section.get(key).and_then(Value::as_str).unwrap_or(default).to_owned();
    let names = [
        ("provisioner-name", "provisioner"),
        ("management-name", "epu_management_service"),
        ("dtrs-name", "dtrs"),
    ];
    for (at, (key, default)) in names.into_iter().enumerate() {
        let same = names
            .into_iter()
            .skip(at + 1)
            .find(|(other, or)| name(other, or) == name(key, default));
        if let Some((other, _)) = same {
            flaws.push(tree.flaw(
                SECTION,
                format!("`{key}` and `{other}` are the same: each service has a queue of its own"),
            ));
        }
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
    /// Keeps deployable types, sites and credentials.
    Dtrs,
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
        assert_eq!(
            (config.right_of("alice"), config.right_of("bob"), config.right_of("*")),
            (Right::Operate, Right::Read, Right::Read)
        );
        config.callers.remove(ANYBODY);
        assert_eq!((config.right_of("alice"), config.right_of("bob")), (Right::Operate, Right::None));
    }

    #[test]
    fn a_broker_is_wanted_and_no_password_in_the_open() {
        let flaws = |text: &str| {
            let tree = Tree::read("epu.yaml", text).expect("yaml");
            let mut flaws = Vec::new();
            rules(&tree, &mut flaws);
            flaws.into_iter().map(|flaw| flaw.text).collect::<Vec<_>>()
        };
        assert_eq!(flaws("compatibility: {url: env:URL}\n").len(), 0);
        assert_eq!(flaws("compatibility: {}\namqp: {url: env:URL}\n").len(), 0);
        assert_eq!(
            flaws("compatibility: {}\n"),
            ["there is no broker on which old clients could be answered"]
        );
        assert_eq!(flaws("compatibility: {url: 'amqp://a:b@c'}\n"), ["a password stands in the file"]);
        assert_eq!(
            flaws("compatibility: {url: 'http://c', queue-management-url: 'amqp://c'}\n").len(),
            2
        );
        assert_eq!(
            flaws("compatibility: {url: env:URL, provisioner-name: epu_management_service}\n").len(),
            1
        );
        assert_eq!(
            flaws("compatibility: {url: env:URL, dtrs-name: provisioner}\n"),
            ["`provisioner-name` and `dtrs-name` are the same: each service has a queue of its own"]
        );
    }

    #[test]
    fn its_broker_is_its_own_or_that_of_the_installation() {
        let none = Compatibility::default();
        assert!(none.settings(None, "p1").is_none());
        let own = Settings::new(SecretUrl::new("env:OWN"), "epu", "p1");
        assert_eq!(
            none.settings(Some(own.clone()), "p1").map(|s| (s.url, s.name)),
            Some((own.url.clone(), "p1.dashi".to_owned()))
        );
        let other = Compatibility {
            url: Some(SecretUrl::new("env:OTHER")),
            ..none
        };
        assert_eq!(other.settings(Some(own), "p1").map(|s| s.url), Some(SecretUrl::new("env:OTHER")));
    }

    #[test]
    fn an_empty_section_is_the_original() {
        let config: Compatibility = serde_json::from_str("{}").expect("the defaults");
        assert_eq!(config, Compatibility::default());
        assert_eq!(config.names().exchange(), "default_dashi_exchange");
    }
}
