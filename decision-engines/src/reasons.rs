//! The codes of the reasons that the engines here give: a small closed set, usable as a metric label.
//!
//! A decision's first reason says what called for its size, the following ones what changed it. Codes are stable; texts are for
//! people, and hold readings and ages, so whoever asks "is this the same decision as before?" compares sizes and codes.

/// Every code, in order, with what it means.
pub const CODES: &[(&str, &str)] = &[
    ("above-high-water", "the reading is above the high water: one step up"),
    (
        "above-maximum",
        "the size aimed at is above the maximum, which was lowered: down to it at once",
    ),
    ("at-maximum", "more is wanted, but the maximum holds"),
    ("at-minimum", "fewer are wanted, but the minimum holds"),
    ("below-low-water", "the reading is below the low water: one step down"),
    ("below-minimum", "the size aimed at is below the minimum: up to it at once"),
    (
        "growth-pending",
        "the reading is above the high water, but the last growth has not arrived yet",
    ),
    ("keep", "the number asked for is kept"),
    ("last-worker", "the last worker stays while work is waiting or in progress"),
    ("no-reading", "the sensor has no fresh reading: the size is held"),
    ("slots-cut", "the maximum leaves no room for every unique instance"),
    ("slots-empty", "unique instances to be launched"),
    ("slots-removed", "unique instances that are no longer asked for, to be drained"),
    ("within-band", "the reading is between the waters: the size is held"),
    ("work-waits", "work is waiting and there is no worker: the first one"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_kebab_case_unique_and_in_order() {
        for pair in CODES.windows(2) {
            assert!(pair[0].0 < pair[1].0, "{} stands before {}", pair[0].0, pair[1].0);
        }
        for (code, means) in CODES {
            assert!(code.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{code}");
            assert!(!means.is_empty());
        }
    }
}
