//! Faults with codes. A code is kebab-case, stable, and explained in `docs/errors.md`; the text is for the person who reads it.

use std::borrow::Cow;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What went wrong, in the form that travels in replies, records and logs: never a secret, never a trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fault {
    /// What kind of fault, for programs.
    pub code: Cow<'static, str>,
    /// What was being done, what went wrong, and what to do, for people.
    pub text: String,
}

impl Fault {
    /// A fault of the given kind.
    #[must_use]
    pub fn new(code: &'static str, text: impl Into<String>) -> Self {
        Self {
            code: Cow::Borrowed(code),
            text: text.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ({})", self.text, self.code)
    }
}

impl std::error::Error for Fault {}

/// Shows an error with its causes: `read pool web: database did not answer`.
pub struct Chain<'a>(pub &'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(out, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Every code that a fault can carry, with what it means and what to do. `docs/errors.md` is generated from it.
pub const CODES: &[(&str, &str, &str)] = &[
    (
        "bad-config",
        "the file or the text has faults",
        "every fault is listed with its place; mend them and run `epumgmt config check FILE`",
    ),
    (
        "bad-request",
        "the request cannot be understood",
        "the text names the field; see docs/wire.md",
    ),
    (
        "capacity-short",
        "the site launched fewer machines than asked",
        "the missing ones are planned again by themselves",
    ),
    (
        "claim-refused",
        "an instance's launch token was used a second time",
        "somebody else holds the launch token, or an agent lost its directory",
    ),
    (
        "closed",
        "the installation is closed by `teardown`",
        "reopen it with `epumgmt open`",
    ),
    (
        "conflict",
        "it exists already, or was changed by somebody else meanwhile",
        "look again, then repeat",
    ),
    ("forbidden", "the caller may not do this", "use an operator token"),
    (
        "from-file",
        "the pool's settings belong to the config file",
        "edit the file at the line named, then reload with SIGHUP",
    ),
    ("internal", "a fault of ours", "see the log of the service; please report it"),
    (
        "launch-failed",
        "the site did not launch the instance",
        "the text is the site's own",
    ),
    (
        "launch-timeout",
        "no answer to a launch, and the site lists nothing for it",
        "launched again by itself",
    ),
    (
        "no-contact",
        "nobody answers there",
        "is `epumgmt serve` running? does --url fit its `listen`?",
    ),
    ("no-such-instance", "no instance has this id", "see `epumgmt instance list --all`"),
    ("no-such-pool", "no pool has this name", "see `epumgmt pool list`"),
    ("no-such-site", "no site has this name", "see `sites:` in the config file"),
    (
        "not-ready",
        "set-up did not finish in time",
        "see `epumgmt instance logs`; raise the template's `ready-within`",
    ),
    (
        "pool-not-empty",
        "the pool still has instances",
        "they are being drained; repeat, or use --force",
    ),
    (
        "set-up-failed",
        "the set-up program failed",
        "the text ends with its output; see `epumgmt instance logs`",
    ),
    (
        "stale-epoch",
        "the sender is no longer the leader",
        "nothing to do: the new leader acts",
    ),
    (
        "store-failed",
        "the store did not take or give the record",
        "see disk space and permissions of the data directory",
    ),
    (
        "timeout",
        "no answer in time",
        "repeat; the request is harmless when it arrives twice",
    ),
    ("unauthorized", "no token, or a wrong one", "pass --token-file, or EPU_TOKEN"),
    (
        "unknown-instance",
        "an agent speaks for an instance that is not known here",
        "it is told to stop once its end is known",
    ),
    (
        "worker-failed",
        "the run program could not be started or ended by itself",
        "see `epumgmt instance logs`",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_kebab_case_unique_and_in_order() {
        for pair in CODES.windows(2) {
            assert!(pair[0].0 < pair[1].0, "{} stands before {}", pair[0].0, pair[1].0);
        }
        for (code, means, todo) in CODES {
            assert!(code.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{code}");
            assert!(!means.is_empty() && !todo.is_empty());
        }
    }
}
