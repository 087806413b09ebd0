//! Where the agent asks, and what it does when it is not answered.
//!
//! It learns of doors at its launch, with its context, and with the answer to every report. New ones are asked about only when an
//! old one stays shut: until then each that it knows is as good as any other.

use std::sync::Arc;
use std::time::Duration;

use epu_core::request::{Context, Happened};
use epu_core::{Fault, Timestamp};

use super::doors::weight;
use super::{Life, Phase};

/// So many heartbeats refused in a row as an unknown instance's, and the provisioner is asked. Too low: every restart of an
/// aggregator makes every agent ask.
const STRANGE_MOST: u32 = 6;
/// A door that nobody answered at for so long is lost: there may be another in its place, and the provisioner, who knows, is asked.
/// Up to twice as long, so that not all ask at once. Too low: a process that is being restarted makes many ask.
const DOOR_LOST: Duration = Duration::from_secs(300);
/// How long it is not asked again after that. Too high: a new door is known that much later.
const DOORS_TOLD: Duration = Duration::from_secs(3_600);
impl Life {
    /// A heartbeat came to nothing.
    pub(super) fn not_heard(&mut self, fault: &Fault, now: Timestamp, luck: f64) {
        self.beats.in_vain(&self.beats_at, now, luck);
        // Another door may know: the next time when this one answered, and at once when nobody did.
        if is_shut(fault) && self.beats.any_open(now) {
            self.beat_at = now;
        }
        self.strange = if fault.code == "unknown-instance" { self.strange + 1 } else { 0 };
        // Those who hear heartbeats forget what ended; the provisioner's records know more. Should they say that
        // this instance is over, its answer is to stop.
        if self.strange >= STRANGE_MOST && self.reports.is_empty() && matches!(self.phase, Phase::Running) {
            self.strange = 0;
            self.reports.push_back(Happened::Ready { address: None });
        }
    }

    /// Reports once more that it is ready, which changes nothing, to be told which doors there are now.
    pub(super) fn ask_for_doors(&mut self, now: Timestamp) {
        let spread = weight(&self.claim.nonce, "") % (DOOR_LOST.as_secs() + 1);
        let after = DOOR_LOST + Duration::from_secs(spread);
        let is_lost = self.beats.one_is_lost(after, now) || self.asks.one_is_lost(after, now);
        if is_lost && now >= self.doors_at && self.reports.is_empty() && self.phase == Phase::Running {
            self.doors_at = now + DOORS_TOLD;
            self.reports.push_back(Happened::Ready { address: None });
        }
    }

    pub(super) fn is_to_be(&mut self, context: Arc<Context>, now: Timestamp) {
        self.asks.know(&context.doors, &[], now);
        self.beats.order_by(context.pool.as_str());
        self.beats.know(&context.doors, &context.aggregators, now);
        self.context = Some(context);
    }

    /// What was asked at a door was answered, or not.
    pub(super) fn door_answered(&mut self, fault: Option<&Fault>, now: Timestamp, luck: f64) {
        match fault {
            Some(fault) if is_shut(fault) => self.asks.in_vain(&self.asks_at, now, luck),
            Some(_) | None => self.asks.answered(&self.asks_at, now),
        }
    }

    /// Asks again, somewhere else at once or, where there is nowhere else, after a while.
    pub(super) fn ask_again(&mut self, fault: &Fault, now: Timestamp, luck: f64) {
        if is_shut(fault) && self.asks.any_open(now) {
            self.asking.elsewhere(now);
        } else {
            self.asking.failed(now, luck);
        }
    }

    pub(super) fn choose_door(&mut self, now: Timestamp) {
        self.asks_at = self.asks.choose(now).unwrap_or_default().to_owned();
    }
}

/// Whether nobody answered, at the door or behind it, or somebody who could not prove to be the right one.
fn is_shut(fault: &Fault) -> bool {
    matches!(&*fault.code, "no-contact" | "timeout" | "not-trusted")
}
