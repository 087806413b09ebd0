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

impl Fault {
    /// Whether a command that was refused with it is refused again, whoever receives it: it is not sent again, and what it asked for
    /// never comes.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(
            self.code.as_ref(),
            "closed" | "no-such-site" | "conflict" | "no-such-instance" | "too-large" | "above-max"
        )
    }
}

impl Fault {
    /// Whether what was asked was turned down, so that nothing may come of it. After anything else it is not known what was done.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        !matches!(self.code.as_ref(), "internal" | "no-contact" | "store-failed" | "timeout")
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

/// The innermost cause in words: where libraries wrap one error in others, the one that says something.
#[must_use]
pub fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Not ready in time for all the provisioner knows, as opposed to what an agent itself reports. Who writes it and who judges by it are
/// two services.
pub const READY_UNHEARD: &str = "ready-unheard";

/// Every code that a fault can carry, with what it means and what to do. `docs/errors.md` is generated from it.
pub const CODES: &[(&str, &str, &str)] = &[
    (
        "above-max",
        "a launch was refused, since with it more instances would stay than the pool's maximum",
        "nothing: the controller plans anew with what there is now",
    ),
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
        "bad-url",
        "an address cannot be used",
        "the text says what is wrong with it; correct `url`, `management-url` or `--url`",
    ),
    (
        "broker-refused",
        "the broker does not let us in",
        "correct user, password and virtual host in the sensor's `url`; the reading goes stale meanwhile",
    ),
    (
        "broker-timeout",
        "the broker did not answer in time",
        "see the broker's load and log; it is asked again by itself",
    ),
    (
        "broker-unreachable",
        "nobody answers at the broker's address, or the connection was lost",
        "start the broker or correct the sensor's `url`; it is connected to again by itself",
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
    (
        "directory-missing",
        "the directory that a sensor counts does not exist",
        "make it, or mend the sensor's `path` or `in-progress`",
    ),
    (
        "directory-unreadable",
        "the directory that a sensor counts cannot be read",
        "let the user that runs the aggregator read and enter it",
    ),
    (
        "driver-missing",
        "this program was built without the driver that a site wants",
        "install the release package, which has every driver, or build with the feature that the text names",
    ),
    ("forbidden", "the caller may not do this", "use an operator token"),
    (
        "from-file",
        "the pool's settings belong to the config file",
        "edit the file at the line named, then reload with SIGHUP",
    ),
    (
        "in-use",
        "another process has the data directory or the port",
        "end that process, or choose another `data-dir` or `listen`",
    ),
    ("internal", "a fault of ours", "see the log of the service; please report it"),
    (
        "invalid-reading",
        "what a sensor gave is not a number",
        "look at what the source says; nothing is decided on it",
    ),
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
        "launch-undone",
        "fewer machines of a launch became ready than make it worth having, so the rest was ended",
        "see why the others did not come up; `limits.launch-least` is the number",
    ),
    (
        "left-over",
        "a command ended and not all of it was done",
        "the text says what is left; `epumgmt instance list` shows it",
    ),
    (
        "machine-stopped",
        "the site shows the machine as stopped: nothing works on it",
        "it is ended and replaced by itself; find out who or what stopped it",
    ),
    (
        "management-failed",
        "the broker's management API gave an answer that is none",
        "see the broker's log; does `management-url` point to a management API?",
    ),
    (
        "management-refused",
        "the broker's management API does not let us in",
        "give the user the tag `monitoring` and rights on the virtual host, and the right password",
    ),
    (
        "management-timeout",
        "the broker's management API did not answer in time",
        "see the broker's load and log; it is asked again by itself",
    ),
    (
        "management-unreachable",
        "nobody answers at the management API's address",
        "enable the plugin `rabbitmq_management`, or correct `management-url`",
    ),
    (
        "no-contact",
        "nobody answers there",
        "start the service with `epumgmt serve`, or the broker; or correct where it is looked for: `--url` over HTTP, `--amqp-url` over the broker",
    ),
    (
        "no-reports",
        "no running worker of the pool reports the reading",
        "let the workers write it to `$EPU_DIR/readings`; it is never taken as zero",
    ),
    ("no-such-instance", "no instance has this id", "see `epumgmt instance list --all`"),
    (
        "no-such-placement",
        "the pool has no placement of this name",
        "see `epumgmt placement list`",
    ),
    ("no-such-pool", "no pool has this name", "see `epumgmt pool list`"),
    ("no-such-site", "no site has this name", "see `epumgmt site list`"),
    (
        "no-such-template",
        "no pool launches a template of this name",
        "see `epumgmt template list`",
    ),
    (
        "not-ready",
        "set-up did not finish in time",
        "see `epumgmt instance logs`; raise the template's `ready-within`",
    ),
    (
        "not-trusted",
        "the certificate shown at an address does not prove that it is the right place",
        "the text says what is wrong with it: name the authority with `--ca` or `EPU_CA`, use a name that the certificate has, or renew it",
    ),
    (
        "queue-missing",
        "the broker has no such queue",
        "declare it, or correct the sensor's `queue`",
    ),
    (
        "queue-refused",
        "the broker does not let the queue be looked at",
        "the text is the broker's; an exclusive queue belongs to one connection, others need the right to it",
    ),
    (
        "queue-uncounted",
        "the broker has not counted the queue's messages yet",
        "wait some seconds: it counts after a start and for a new queue",
    ),
    (
        READY_UNHEARD,
        "its agent did not report in time that set-up succeeded; its worker may be running all the same",
        "see `epumgmt instance logs`, and whether its agent reaches the provisioner; raise the template's `ready-within`",
    ),
    (
        "set-up-failed",
        "the set-up program failed",
        "the text ends with its output; see `epumgmt instance logs`",
    ),
    (
        "site-account",
        "the account behind a site could not be found out",
        "see the site's credentials; its calls are paced by the site's name until then",
    ),
    (
        "site-capacity",
        "the site has no room now",
        "nothing to do: it is tried again, more rarely each time",
    ),
    (
        "site-credentials",
        "the site does not accept who we are",
        "correct the site's credentials",
    ),
    (
        "site-quota-exceeded",
        "the account may not have more on this site",
        "raise the quota, or lower the pools' `max`",
    ),
    (
        "site-refused",
        "the site will never do what was asked as it was asked",
        "the text is the site's own: correct the template, the placement or the site's permissions, then `epumgmt placement reset`",
    ),
    (
        "site-throttled",
        "the site refuses so many calls",
        "nothing to do: calls are repeated later and made less often",
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
    (
        "too-large",
        "what was sent, or what would be answered, is larger than allowed",
        "send less; the text names the limit",
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
