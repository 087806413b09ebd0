//! The operations of the service `dtrs`.

use super::{Argument, Kind, Op, Operation, Whose, optional, wanted};
use crate::compatibility::config::Right;

const TYPE: Argument = wanted("dt_name", Kind::Text);
const DEFINITION: Argument = wanted("dt_definition", Kind::Anything);
const SITE: Argument = wanted("site_name", Kind::Text);
const SITE_DEFINITION: Argument = wanted("site_definition", Kind::Mapping);
const CREDENTIALS: Argument = wanted("site_credentials", Kind::Anything);
const CREDENTIAL_TYPE: Argument = optional("credential_type", Kind::TextOrNull);

const fn operation(name: &'static str, op: Op, arguments: &'static [Argument], right: Right, whose: Whose) -> Operation {
    Operation {
        name,
        op,
        arguments,
        whose,
        right,
        sent_as: "call",
        in_order: true,
        about: "",
        reply: "null",
        errors: "none",
    }
}

const fn reads(name: &'static str, op: Op, arguments: &'static [Argument], whose: Whose) -> Operation {
    operation(name, op, arguments, Right::Read, whose)
}

const fn changes(name: &'static str, op: Op, arguments: &'static [Argument], whose: Whose) -> Operation {
    operation(name, op, arguments, Right::Operate, whose)
}

pub(super) const DTRS: &[Operation] = &[
    Operation {
        about: "Adds a deployable type of the caller: `{mappings: {site: {iaas_image, iaas_allocation, needs_elastic_ip?}}, contextualization?: \
                {method, ...}, run?: [text]}`. Its content is looked at when it is used.",
        errors: "`WriteConflictError` when the caller has it already; `DeployableTypeValidationError` when it is empty or no mapping",
        ..changes("add_dt", Op::AddType, &[TYPE, DEFINITION], Whose::Caller)
    },
    Operation {
        about: "Replaces a deployable type of the caller. Domains that were made from it launch new instances by it.",
        errors: "`NotFoundError`; `DeployableTypeValidationError` when it is empty or no mapping",
        ..changes("update_dt", Op::UpdateType, &[TYPE, DEFINITION], Whose::Caller)
    },
    Operation {
        about: "A deployable type of the caller.",
        reply: "the definition, or null when there is none",
        ..reads("describe_dt", Op::DescribeType, &[TYPE], Whose::Caller)
    },
    Operation {
        about: "Takes a deployable type of the caller away. Domains that were made from it stay as they are.",
        errors: "`NotFoundError`",
        ..changes("remove_dt", Op::RemoveType, &[TYPE], Whose::Caller)
    },
    Operation {
        about: "The caller's deployable types.",
        reply: "a list of names",
        ..reads("list_dts", Op::ListTypes, &[], Whose::Caller)
    },
    Operation {
        about: "Adds a site of the caller, or without `caller` a common one, which everybody sees: `{type, region?, host?, port?, path?, secure?}` with a \
                type of `ec2`, `nimbus`, `openstack`, `fake` or `mock-ec2`. With credentials of a caller it can be launched on, by that caller; a site of the \
                same name in the config file goes before it. `fake` and `mock-ec2` are kept and never launched on.",
        errors: "`BadRequestError` for a bad definition, and for a name that begins with `common::`; `WriteConflictError` when it is there",
        ..changes("add_site", Op::AddSite, &[SITE, SITE_DEFINITION], Whose::CallerOrEverybody)
    },
    Operation {
        about: "Replaces a site of the caller, or without `caller` a common one. A caller cannot replace a common one.",
        errors: "`NotFoundError`; `BadRequestError` for a bad definition",
        ..changes("update_site", Op::UpdateSite, &[SITE, SITE_DEFINITION], Whose::CallerOrEverybody)
    },
    Operation {
        about: "A site of the caller, otherwise the common one of that name.",
        reply: "the definition, or null when there is none",
        ..reads("describe_site", Op::DescribeSite, &[SITE], Whose::CallerOrEverybody)
    },
    Operation {
        about: "Takes a site of the caller away, or without `caller` a common one. A caller cannot take away a common one.",
        errors: "`NotFoundError`",
        ..changes("remove_site", Op::RemoveSite, &[SITE], Whose::CallerOrEverybody)
    },
    Operation {
        about: "The common sites and the caller's own. Those of the config file are not among them.",
        reply: "a list of names",
        ..reads("list_sites", Op::ListSites, &[], Whose::CallerOrEverybody)
    },
    Operation {
        about: "Adds credentials of the caller: of type `site` for a site, `{access_key, secret_key, key_name}`; of type `chef`, under any name, `{url, \
                client_key, validator_key, client_name?, validation_client_name?}`. A secret is put into a file of the service's data directory and nowhere \
                else; in its place a reference may be given that the config permits (`references`).",
        errors: "`BadRequestError` for an unknown type, a bad name, an empty or bad mapping, or a reference that is not permitted; `NotFoundError` for an \
                 unknown site; `WriteConflictError` when they are there",
        ..changes(
            "add_credentials",
            Op::AddCredentials,
            &[SITE, CREDENTIALS, CREDENTIAL_TYPE],
            Whose::Caller,
        )
    },
    Operation {
        about: "Replaces credentials of the caller. A secret given as `***`, as it is described, stays what it is.",
        errors: "`NotFoundError`; `BadRequestError` as in `add_credentials`",
        ..changes(
            "update_credentials",
            Op::UpdateCredentials,
            &[SITE, CREDENTIALS, CREDENTIAL_TYPE],
            Whose::Caller,
        )
    },
    Operation {
        about: "Credentials of the caller, with `***` in place of each secret.",
        reply: "a mapping, or null when there are none",
        ..reads(
            "describe_credentials",
            Op::DescribeCredentials,
            &[SITE, CREDENTIAL_TYPE],
            Whose::Caller,
        )
    },
    Operation {
        about: "Takes credentials of the caller away, and the files that hold their secrets.",
        errors: "`NotFoundError`",
        ..changes("remove_credentials", Op::RemoveCredentials, &[SITE, CREDENTIAL_TYPE], Whose::Caller)
    },
    Operation {
        about: "The names of the caller's credentials of a type.",
        reply: "a list of names",
        ..reads("list_credentials", Op::ListCredentials, &[CREDENTIAL_TYPE], Whose::Caller)
    },
    Operation {
        about: "What a deployable type is at a site. `dtrs_request_node` is `{site, allocation?, count?}`; its allocation goes before the type's. In the document \
                `${name}` and `$name` are replaced by `vars`, lists and mappings as JSON.",
        reply: "`{document, node}`: the cluster document as XML, and `{iaas_image, iaas_allocation, iaas_sshkeyname, needs_elastic_ip, ctx_method, \
                needs_nimbus_ctx}` with what the method adds",
        errors: "`DeployableTypeLookupError` when the type, the site in it, its image or allocation, or credentials are missing; \
                 `DeployableTypeValidationError` for a method that is unknown or lacks something, and for variables that are missing or badly written",
        ..reads(
            "lookup",
            Op::Lookup,
            &[TYPE, wanted("dtrs_request_node", Kind::Mapping), wanted("vars", Kind::Anything)],
            Whose::Caller,
        )
    },
];
