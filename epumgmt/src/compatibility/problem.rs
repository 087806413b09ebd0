//! From our faults to what a Python client of the original catches.

use epu_bus::amqp::dashi::Failed;
use epu_bus::amqp::dashi::wire::{NOT_FOUND, Problem, WRITE_CONFLICT};
use epu_core::Fault;
use epu_core::code::Chain;

/// A caller may not do this.
pub(crate) const NOT_PERMITTED: &str = "UserNotPermittedError";
/// Settings or names that cannot be used.
pub(crate) const VALUE_ERROR: &str = "ValueError";
/// A launch that cannot be asked for like this.
pub(crate) const PROVISIONING_ERROR: &str = "ProvisioningError";
/// An engine class that is not there.
pub(crate) const IMPORT_ERROR: &str = "ImportError";
/// A key that is not there.
pub(crate) const KEY_ERROR: &str = "KeyError";
/// Everything else.
const EXCEPTION: &str = "Exception";

/// A `ValueError`.
pub(crate) fn value_error(text: impl Into<String>) -> Problem {
    Problem::new(VALUE_ERROR, text)
}

/// A `NotFoundError` of dashi's.
pub(crate) fn not_found(text: impl Into<String>) -> Problem {
    Problem::new(NOT_FOUND, text)
}

/// A `WriteConflictError` of dashi's.
pub(crate) fn write_conflict(text: impl Into<String>) -> Problem {
    Problem::new(WRITE_CONFLICT, text)
}

/// What a fault of ours is to a client. Its code stays in the text, since the classes say little.
pub(crate) fn of_fault(fault: &Fault) -> Failed {
    let class = match fault.code.as_ref() {
        "no-such-pool" | "no-such-instance" | "unknown-instance" => NOT_FOUND,
        "conflict" => WRITE_CONFLICT,
        "forbidden" | "unauthorized" | "from-file" => NOT_PERMITTED,
        "bad-config" | "bad-request" | "no-such-site" | "too-large" => VALUE_ERROR,
        _ => EXCEPTION,
    };
    Failed {
        problem: Problem::new(class, fault.to_string()),
        passing: passes(fault),
    }
}

/// Whether asking again may help without anybody having to mend anything.
pub(crate) fn passes(fault: &Fault) -> bool {
    matches!(
        fault.code.as_ref(),
        "no-contact" | "timeout" | "store-failed" | "stale-epoch" | "broker-timeout" | "broker-unreachable"
    )
}

/// What trouble with the store is to a client.
pub(crate) fn of_store(error: &epu_store::Error) -> Failed {
    let conflict = matches!(error, epu_store::Error::Conflict(_) | epu_store::Error::Exists(_));
    Failed {
        problem: Problem::new(if conflict { WRITE_CONFLICT } else { EXCEPTION }, Chain(error).to_string()),
        passing: !conflict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_the_classes_they_know() {
        let class = |code| of_fault(&Fault::new(code, "why")).problem.exc_type.into_owned();
        assert_eq!(class("no-such-pool"), "dashi.exceptions.NotFoundError");
        assert_eq!(class("conflict"), "dashi.exceptions.WriteConflictError");
        assert_eq!(class("bad-config"), "ValueError");
        assert_eq!(class("closed"), "Exception");
        assert!(of_fault(&Fault::new("no-contact", "")).passing && !of_fault(&Fault::new("conflict", "")).passing);
    }
}
