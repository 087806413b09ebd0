//! What the running system counts.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::{IntCounterVec, Opts};

use super::{ALL, Invariant, Violation};

/// Violations that are kept with their texts; the newest are.
const KEPT_MAX: usize = 20;

/// The counter of a process, `epu_invariant_violations_total{invariant}`, shared by all services in it and registered once by whoever
/// puts the process together: two services that each registered their own could not run in one process.
#[derive(Debug, Clone)]
pub struct Violations {
    counter: IntCounterVec,
    kept: Arc<Mutex<VecDeque<Violation>>>,
}

impl Violations {
    /// All invariants at zero, so that the first violation is seen as an increase.
    ///
    /// # Errors
    /// Never in practice: the name is a constant.
    pub fn new() -> Result<Self, prometheus::Error> {
        let opts = Opts::new("epu_invariant_violations_total", "Something that must always be true was not.");
        let counter = IntCounterVec::new(opts, &["invariant"])?;
        for invariant in ALL {
            counter.with_label_values(&[invariant.id()]).inc_by(0);
        }
        Ok(Self {
            counter,
            kept: Arc::default(),
        })
    }

    /// Counts one.
    pub fn count(&self, violation: &Violation) {
        self.counter.with_label_values(&[violation.invariant.id()]).inc();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.truncate(KEPT_MAX - 1);
        kept.push_front(violation.clone());
    }

    /// How often an invariant was violated.
    #[must_use]
    pub fn of(&self, invariant: Invariant) -> u64 {
        self.counter.with_label_values(&[invariant.id()]).get()
    }

    /// Takes the newest, newest first.
    #[must_use]
    pub fn take_kept(&self) -> Vec<Violation> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *kept).into()
    }

    /// To be registered and described, once in a process.
    #[must_use]
    pub fn all(&self) -> Vec<Box<dyn Collector>> {
        vec![Box::new(self.counter.clone())]
    }
}
