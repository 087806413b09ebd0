//! Why: the machine-readable reasons that every decision and every action not taken carries, with the numbers they came from.

use std::borrow::Cow;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One reason, such as `above-high-water` with `{value: 61, high: 50}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Reason {
    /// What kind of reason; a small closed set, usable as a metric label.
    pub code: Cow<'static, str>,
    /// For people.
    pub text: String,
    /// The numbers it came from, in the order they matter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub numbers: Vec<(Cow<'static, str>, f64)>,
}

impl Reason {
    /// A reason without numbers.
    #[must_use]
    pub fn new(code: &'static str, text: impl Into<String>) -> Self {
        Self {
            code: Cow::Borrowed(code),
            text: text.into(),
            numbers: Vec::new(),
        }
    }

    /// Adds a number it came from.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<f64>) -> Self {
        self.numbers.push((Cow::Borrowed(name), value.into()));
        self
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}
