//! Keeping a wish within the pool's bounds, and saying so when that changes it.
//!
//! The plan enforces the bounds again, for engines that do not.

use epu_core::Reason;

use crate::Observation;

/// `wanted` within the bounds of what was seen, with a reason added when they change it.
pub(crate) fn hold(seen: &Observation, wanted: u32, reasons: &mut Vec<Reason>) -> u32 {
    let held = seen.within(wanted);
    if wanted > held {
        reasons.push(
            Reason::new("at-maximum", format!("the maximum of {} holds", seen.max))
                .with("wanted", wanted)
                .with("max", seen.max),
        );
    } else if wanted < held {
        reasons.push(
            Reason::new("at-minimum", format!("the minimum of {} holds", seen.min))
                .with("wanted", wanted)
                .with("min", seen.min),
        );
    }
    held
}
