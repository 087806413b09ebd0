//! A queue of a former service in the place of ours.

use tracing::{error, info, warn};

use crate::amqp::error::Error;

/// After so many attempts, which are a second apart, the queue has outlived the 60 s that the original gave it.
const LIVES: u32 = 75;
/// After so many more it is complained of again.
const COMPLAIN_AFTER: u32 = 60;

/// How often it was met.
#[derive(Debug, Default)]
pub(super) struct Former {
    met: u32,
}

impl Former {
    /// The queue is there with other settings.
    pub(super) fn met(&mut self, topic: &str, error: &Error) {
        if self.met == 0 {
            warn!(topic, %error, "a queue of a former service is in the way; the broker deletes it 60 s after its last consumer left: waiting");
        } else if self.met >= LIVES && (self.met - LIVES).is_multiple_of(COMPLAIN_AFTER) {
            error!(topic, %error, "the queue is still in the way: end the former Python service that consumes it, or delete the queue");
        }
        self.met = self.met.saturating_add(1);
    }

    /// Ours could be declared.
    pub(super) fn gone(&mut self, topic: &str) {
        if std::mem::take(&mut self.met) > 0 {
            info!(topic, "the former service's queue is gone");
        }
    }
}
