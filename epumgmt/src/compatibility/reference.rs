//! Records as the reference shows them: made by what makes them in earnest.

use epu_core::instance::Instance;
use epu_core::request::InstanceView;
use serde_json::{Map, Value};

use super::records::{self, About};

fn about() -> About {
    About {
        creator: Some("alice".to_owned()),
        allocation: Some("small".to_owned()),
        deployable_type: Some("worker".to_owned()),
        ..About::default()
    }
}

/// A node record.
#[must_use]
pub(crate) fn node(instance: &Instance) -> Map<String, Value> {
    records::node(instance, &about())
}

/// An instance of a domain.
#[must_use]
pub(crate) fn instance(view: &InstanceView) -> Value {
    records::instance(view, &about())
}
