//! What goes wrong while pools are played: faults of the world, drawn beforehand by a seed of their own, so that every variant that is compared
//! meets the same ones.
//!
//! Left out are what operators do, who leads (there is one copy of each service), and work, which the workload has.

use std::time::Duration;

use crate::fault::{Fault, Luck, Scene};

/// How much goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Upsets {
    /// Nothing.
    #[default]
    None,
    /// What a good month has: something about every half hour, over within a minute or two.
    Light,
    /// What the worst day has: something about every three minutes, over within ten.
    Heavy,
}

/// Something that goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Upset {
    /// When, since the run began.
    pub at: Duration,
    /// For how long, where it lasts.
    pub lasts: Duration,
    /// What.
    pub fault: Fault,
}

/// Most of one run: enough for a year of light ones.
const MOST: usize = 20_000;

impl Upsets {
    fn pace(self) -> Option<(f64, Duration)> {
        match self {
            Self::None => None,
            Self::Light => Some((1_800.0, Duration::from_secs(120))),
            Self::Heavy => Some((180.0, Duration::from_secs(600))),
        }
    }

    /// What goes wrong between these times of a run, in order.
    #[must_use]
    pub fn plan(self, scene: &Scene, from: Duration, to: Duration, seed: u64) -> Vec<Upset> {
        let Some((every, longest)) = self.pace() else { return Vec::new() };
        let luck = Luck::seeded(seed);
        let kinds = Fault::kinds();
        let mut at = from;
        let mut plan = Vec::new();
        while plan.len() < MOST {
            // In thousandths of the mean, exponentially distributed.
            let thousandths = u32::try_from(luck.below(1_000)).unwrap_or(0);
            let gap = -(1.0 - (f64::from(thousandths) + 0.5) / 1_000.0).ln() * every;
            at += Duration::from_secs_f64(gap);
            if at >= to {
                break;
            }
            let drawn = luck.of(&kinds).and_then(|kind| Fault::draw(kind, &luck, scene));
            let lasts = luck.time(longest);
            match drawn {
                Some(Fault::Operators(_) | Fault::Leaders(_) | Fault::Work(_)) | None => {}
                Some(
                    fault @ (Fault::Messages(_)
                    | Fault::Processes(_)
                    | Fault::Stores(_)
                    | Fault::Site(_)
                    | Fault::Machines(_)
                    | Fault::Sensors(_)),
                ) => plan.push(Upset { at, lasts, fault }),
            }
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use epu_core::request::Service;

    use super::*;
    use crate::process::Process;
    use crate::time::hours;

    fn scene() -> Scene {
        Scene {
            pools: vec!["jobs".to_owned()],
            following: vec!["jobs".to_owned()],
            sites: vec!["here".to_owned()],
            processes: vec![Process::from(Service::Controller)],
            most: 10,
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_plan_and_more_goes_wrong_when_it_is_heavy() {
        let plan = |upsets: Upsets, seed| upsets.plan(&scene(), hours(1), hours(25), seed);
        assert_eq!(plan(Upsets::None, 1), []);
        assert_eq!(plan(Upsets::Light, 1), plan(Upsets::Light, 1));
        assert_ne!(plan(Upsets::Light, 1), plan(Upsets::Light, 2));
        let (light, heavy) = (plan(Upsets::Light, 1), plan(Upsets::Heavy, 1));
        assert!(light.len() > 5 && heavy.len() > 4 * light.len(), "{} {}", light.len(), heavy.len());
        assert!(heavy.iter().all(|upset| upset.at >= hours(1) && upset.at < hours(25)));
        assert!(heavy.windows(2).all(|two| two[0].at <= two[1].at));
    }
}
