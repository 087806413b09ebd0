//! Every operation of the original that is answered: what is dispatched by, and what `docs/wire-compatibility.md` is written from.

mod dtrs;

use super::config::{Right, Role};

/// What an argument must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Text.
    Text,
    /// Text or null.
    TextOrNull,
    /// A list of texts.
    Texts,
    /// A list of texts, or null.
    TextsOrNull,
    /// A mapping.
    Mapping,
    /// A mapping or null.
    MappingOrNull,
    /// Anything.
    Anything,
}

impl Kind {
    /// For messages and the reference.
    #[must_use]
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::TextOrNull => "text or null",
            Self::Texts => "list of texts",
            Self::TextsOrNull => "list of texts, or null",
            Self::Mapping => "mapping",
            Self::MappingOrNull => "mapping or null",
            Self::Anything => "anything",
        }
    }
}

/// For whom something is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// For nobody: there is no argument `caller`.
    Nobody,
    /// For a caller, or the default user.
    Caller,
    /// For a caller, or for everybody when none is named.
    CallerOrEverybody,
}

/// An argument.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Argument {
    /// Its name.
    pub name: &'static str,
    /// What it must be.
    pub kind: Kind,
    /// Whether it must be there; otherwise null stands for it.
    pub required: bool,
}

const fn wanted(name: &'static str, kind: Kind) -> Argument {
    let required = true;
    Argument { name, kind, required }
}

const fn optional(name: &'static str, kind: Kind) -> Argument {
    let required = false;
    Argument { name, kind, required }
}

/// What is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Provision,
    TerminateNodes,
    TerminateAll,
    Enable,
    DescribeNodes,
    DumpState,
    AddDomain,
    RemoveDomain,
    ReconfigureDomain,
    ListDomains,
    DescribeDomain,
    SubscribeDomain,
    UnsubscribeDomain,
    AddDefinition,
    UpdateDefinition,
    RemoveDefinition,
    ListDefinitions,
    DescribeDefinition,
    OuHeartbeat,
    InstanceInfo,
    AddType,
    UpdateType,
    DescribeType,
    RemoveType,
    ListTypes,
    AddSite,
    UpdateSite,
    DescribeSite,
    RemoveSite,
    ListSites,
    AddCredentials,
    UpdateCredentials,
    DescribeCredentials,
    RemoveCredentials,
    ListCredentials,
    Lookup,
}

/// An operation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operation {
    /// Its name on the wire.
    pub name: &'static str,
    /// What is carried out.
    pub op: Op,
    /// Its arguments, without `caller`.
    pub arguments: &'static [Argument],
    /// For whom it is asked.
    pub whose: Whose,
    /// What is needed to ask it.
    pub right: Right,
    /// How the original's own clients send it.
    pub sent_as: &'static str,
    /// Whether a fire of it must wait for those before it.
    pub in_order: bool,
    /// What it does.
    pub about: &'static str,
    /// What comes back.
    pub reply: &'static str,
    /// What can go wrong, besides bad arguments and rights.
    pub errors: &'static str,
}

/// The operations of a service.
#[must_use]
pub(crate) fn of(role: Role) -> &'static [Operation] {
    match role {
        Role::Provisioner => PROVISIONER,
        Role::EpuManagement => EPU_MANAGEMENT,
        Role::Dtrs => dtrs::DTRS,
    }
}

/// One operation of a service.
#[must_use]
pub(crate) fn find(role: Role, name: &str) -> Option<&'static Operation> {
    of(role).iter().find(|operation| operation.name == name)
}

const PROVISIONER: &[Operation] = &[
    Operation {
        name: "provision",
        op: Op::Provision,
        arguments: &[
            wanted("launch_id", Kind::TextOrNull),
            wanted("deployable_type", Kind::TextOrNull),
            wanted("instance_ids", Kind::Anything),
            wanted("site", Kind::TextOrNull),
            optional("allocation", Kind::TextOrNull),
            optional("vars", Kind::MappingOrNull),
        ],
        whose: Whose::Caller,
        right: Right::Operate,
        sent_as: "fire",
        in_order: true,
        about: "Launches one instance that belongs to no pool: it is watched and swept, and never replaced or resized. Asking again with the same \
                ids launches nothing more. `deployable_type` is a template of the config file or a deployable type of the caller, `site` a site of the \
                config file or of the caller; `vars` are put over its variables.",
        reply: "a list with one node record, with `__version`; a launch that is refused is a record in `900-FAILED` or `950-REJECTED` and no error",
        errors: "`ProvisioningError` when an id, the type or the site is empty, or not exactly one instance is asked for",
    },
    Operation {
        name: "terminate_nodes",
        op: Op::TerminateNodes,
        arguments: &[wanted("nodes", Kind::Texts)],
        whose: Whose::Caller,
        right: Right::Operate,
        sent_as: "fire",
        in_order: true,
        about: "Ends instances at once. An id that nobody knows is remembered as ended, so that a `provision` that comes after it launches nothing.",
        reply: "a list of node records, with `__version`, in the order of the ids",
        errors: "`UserNotPermittedError` when one belongs to another; then none is ended",
    },
    Operation {
        name: "terminate_all",
        op: Op::TerminateAll,
        arguments: &[],
        whose: Whose::Nobody,
        right: Right::Operate,
        sent_as: "call",
        in_order: true,
        about: "Closes the whole installation and ends every instance at once (`epumgmt teardown --force`). Clients repeat it until it says true.",
        reply: "true when no live instance is left",
        errors: "none",
    },
    Operation {
        name: "enable",
        op: Op::Enable,
        arguments: &[],
        whose: Whose::Nobody,
        right: Right::Operate,
        sent_as: "call",
        in_order: true,
        about: "Opens the installation again after `terminate_all` (`epumgmt open`).",
        reply: "null",
        errors: "none",
    },
    Operation {
        name: "describe_nodes",
        op: Op::DescribeNodes,
        arguments: &[optional("nodes", Kind::TextsOrNull)],
        whose: Whose::Caller,
        right: Right::Read,
        sent_as: "call",
        in_order: true,
        about: "Instances of the caller, ended ones too as long as they are kept: all of them when none is named. Those of others are left out.",
        reply: "a list of node records",
        errors: "`KeyError` for an id that nobody knows",
    },
    Operation {
        name: "dump_state",
        op: Op::DumpState,
        arguments: &[wanted("nodes", Kind::TextsOrNull), optional("force_subscribe", Kind::TextOrNull)],
        whose: Whose::Nobody,
        right: Right::Read,
        sent_as: "fire",
        in_order: true,
        about: "Sends the record of each known instance as `instance_info` to those listed in `instance-info-to`, and to `force_subscribe`, which \
                the final original refused although its own client sends it.",
        reply: "null",
        errors: "none; ids that nobody knows are only logged",
    },
];

const DOMAIN: Argument = wanted("domain_id", Kind::Text);
const DEFINITION: Argument = wanted("definition_id", Kind::Text);

const EPU_MANAGEMENT: &[Operation] = &[
    Operation {
        name: "add_domain",
        op: Op::AddDomain,
        arguments: &[
            DOMAIN,
            wanted("definition_id", Kind::Text),
            wanted("config", Kind::MappingOrNull),
            optional("subscriber_name", Kind::TextOrNull),
            optional("subscriber_op", Kind::TextOrNull),
        ],
        whose: Whose::Caller,
        right: Right::Operate,
        sent_as: "call",
        in_order: true,
        about: "Adds a domain: a pool of the caller. Its config is the definition with each section of `config` merged over it, one level deep.",
        reply: "null",
        errors: "`ValueError` for an unknown definition, a bad name or bad settings; `WriteConflictError` when the caller has it already; \
                 `ImportError` for an engine class that is not supported",
    },
    Operation {
        name: "remove_domain",
        op: Op::RemoveDomain,
        arguments: &[DOMAIN],
        whose: Whose::Caller,
        right: Right::Operate,
        sent_as: "call",
        in_order: true,
        about: "Ends the domain's instances at once and forgets it when the last one is gone; until then it is listed.",
        reply: "null",
        errors: "`NotFoundError`",
    },
    Operation {
        name: "reconfigure_domain",
        op: Op::ReconfigureDomain,
        arguments: &[DOMAIN, wanted("config", Kind::MappingOrNull)],
        whose: Whose::Caller,
        right: Right::Operate,
        sent_as: "call",
        in_order: true,
        about: "Merges `config` over the domain's, section by section, one level deep; keys cannot be taken out.",
        reply: "null",
        errors: "`NotFoundError`; `ValueError` for bad settings, which then change nothing (the original only logged them)",
    },
    Operation {
        name: "list_domains",
        op: Op::ListDomains,
        arguments: &[],
        whose: Whose::Caller,
        right: Right::Read,
        sent_as: "call",
        in_order: true,
        about: "The caller's domains.",
        reply: "a list of ids",
        errors: "none",
    },
    Operation {
        name: "describe_domain",
        op: Op::DescribeDomain,
        arguments: &[DOMAIN],
        whose: Whose::Caller,
        right: Right::Read,
        sent_as: "call",
        in_order: true,
        about: "A domain with its merged config, its readings and its instances, ended ones too as long as they are kept.",
        reply: "`{name, config: {general, health, engine_conf}, sensor_data, instances: [instance]}`",
        errors: "`NotFoundError`",
    },
    Operation {
        name: "subscribe_domain",
        op: Op::SubscribeDomain,
        arguments: &[DOMAIN, wanted("subscriber_name", Kind::Text), wanted("subscriber_op", Kind::Text)],
        whose: Whose::Caller,
        right: Right::Operate,
        sent_as: "fire",
        in_order: true,
        about: "From now on a service is told when an instance of the domain runs or ends. Subscribing again replaces the operation.",
        reply: "null",
        errors: "`NotFoundError`",
    },
    Operation {
        name: "unsubscribe_domain",
        op: Op::UnsubscribeDomain,
        arguments: &[DOMAIN, wanted("subscriber_name", Kind::Text)],
        whose: Whose::Caller,
        right: Right::Operate,
        sent_as: "fire",
        in_order: true,
        about: "A service is told no longer.",
        reply: "null",
        errors: "`NotFoundError` for the domain; a service that was not told is fine",
    },
    Operation {
        name: "add_domain_definition",
        op: Op::AddDefinition,
        arguments: &[DEFINITION, wanted("definition", Kind::Mapping)],
        whose: Whose::Nobody,
        right: Right::Operate,
        sent_as: "call",
        in_order: true,
        about: "Adds a domain definition. Its content is looked at only when a domain is made from it.",
        reply: "null",
        errors: "`WriteConflictError` when it is there; `ValueError` for a bad name",
    },
    Operation {
        name: "update_domain_definition",
        op: Op::UpdateDefinition,
        arguments: &[DEFINITION, wanted("definition", Kind::Mapping)],
        whose: Whose::Nobody,
        right: Right::Operate,
        sent_as: "call",
        in_order: true,
        about: "Replaces a domain definition. Domains that were made from it stay as they are.",
        reply: "null",
        errors: "`NotFoundError`",
    },
    Operation {
        name: "remove_domain_definition",
        op: Op::RemoveDefinition,
        arguments: &[DEFINITION],
        whose: Whose::Nobody,
        right: Right::Operate,
        sent_as: "call",
        in_order: true,
        about: "Takes a domain definition away. Domains that were made from it stay as they are.",
        reply: "null",
        errors: "`NotFoundError`",
    },
    Operation {
        name: "list_domain_definitions",
        op: Op::ListDefinitions,
        arguments: &[],
        whose: Whose::Nobody,
        right: Right::Read,
        sent_as: "call",
        in_order: true,
        about: "Every domain definition.",
        reply: "a list of ids",
        errors: "none",
    },
    Operation {
        name: "describe_domain_definition",
        op: Op::DescribeDefinition,
        arguments: &[DEFINITION],
        whose: Whose::Nobody,
        right: Right::Read,
        sent_as: "call",
        in_order: true,
        about: "A domain definition.",
        reply: "`{name, definition, documentation}`; no `documentation` for an engine that has none",
        errors: "`NotFoundError`",
    },
    Operation {
        name: "ou_heartbeat",
        op: Op::OuHeartbeat,
        arguments: &[wanted("heartbeat", Kind::Anything)],
        whose: Whose::Nobody,
        right: Right::Operate,
        sent_as: "fire",
        in_order: false,
        about: "What an agent on an instance says: `{node_id, state, error?, error_time?, failed_processes?}` with a state of `OK`, \
                `PROCESS_ERROR` or `MONITOR_ERROR`. Where our own agent speaks for the instance too, that one is listened to. Carries no orders back.",
        reply: "null",
        errors: "none; what cannot be understood is only logged",
    },
    Operation {
        name: "instance_info",
        op: Op::InstanceInfo,
        arguments: &[wanted("record", Kind::Anything)],
        whose: Whose::Nobody,
        right: Right::Operate,
        sent_as: "fire",
        in_order: false,
        about: "A node record from a provisioner. Accepted and ignored: here the provisioner's word comes over the installation's own bus, which nobody \
                else can speak on.",
        reply: "null",
        errors: "none",
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_optional_arguments_come_last() {
        for role in [Role::Provisioner, Role::EpuManagement, Role::Dtrs] {
            let names: BTreeSet<_> = of(role).iter().map(|operation| operation.name).collect();
            assert_eq!(names.len(), of(role).len());
            for operation in of(role) {
                assert!(
                    operation.arguments.iter().is_sorted_by_key(|argument| !argument.required),
                    "{}",
                    operation.name
                );
                assert!(
                    operation.arguments.iter().all(|argument| argument.name != "caller"),
                    "{}",
                    operation.name
                );
            }
        }
        assert!(find(Role::Provisioner, "list_domains").is_none());
        assert_eq!(
            find(Role::EpuManagement, "list_domains").map(|operation| operation.op),
            Some(Op::ListDomains)
        );
    }
}
