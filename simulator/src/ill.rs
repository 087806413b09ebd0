//! What can be the matter with one machine, its agent and its worker for a while, and with those that come up meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use epu_core::instance::Work;
use epu_core::time::Timestamp;

use crate::host::Behaviour;

/// For how long after a lie a decision may still rest on it: longer than anything is believed that was not heard again.
const LIES_LAST: Duration = Duration::from_secs(120);

/// What is the matter with a machine that runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ill {
    /// Its agent reaches nobody.
    Silent,
    /// Its agent reaches nobody for so long, then everybody for so long, and so on.
    Flaps(Duration),
    /// Its agent goes on when it is told to stop.
    Zombie,
    /// Its agent says this of the worker's work, whatever it does.
    Says(Work),
    /// Its worker says this of itself, also what is no number.
    Reads(f64),
    /// Its worker has something to do that does not end.
    Occupied,
    /// Its worker does nothing any more, and does not say so.
    Hangs,
}

/// What is the matter with one machine.
#[derive(Debug, Default)]
pub(crate) struct Ills {
    lasting: BTreeMap<u64, (Timestamp, Ill)>,
    ever: u64,
    lied_at: Option<Timestamp>,
}

impl Ills {
    pub(crate) fn begins(&mut self, ill: Ill, now: Timestamp) -> u64 {
        self.ever += 1;
        self.lasting.insert(self.ever, (now, ill));
        self.ever
    }

    pub(crate) fn ends(&mut self, id: u64, now: Timestamp) -> Option<Ill> {
        let (_, ill) = self.lasting.remove(&id)?;
        if matches!(ill, Ill::Says(_)) {
            self.lied_at = Some(now);
        }
        Some(ill)
    }

    fn any(&self, is_it: impl Fn(Ill) -> bool) -> bool {
        self.lasting.values().any(|(_, ill)| is_it(*ill))
    }

    pub(crate) fn silence(&self, now: Timestamp) -> bool {
        self.lasting.values().any(|(since, ill)| match ill {
            Ill::Silent => true,
            Ill::Flaps(every) => (now.since(*since).as_millis() / every.as_millis().max(1)).is_multiple_of(2),
            Ill::Zombie | Ill::Says(_) | Ill::Reads(_) | Ill::Occupied | Ill::Hangs => false,
        })
    }

    pub(crate) fn is_zombie(&self) -> bool {
        self.any(|ill| ill == Ill::Zombie)
    }

    pub(crate) fn occupy(&self) -> bool {
        self.any(|ill| ill == Ill::Occupied)
    }

    pub(crate) fn hang(&self) -> bool {
        self.any(|ill| ill == Ill::Hangs)
    }

    /// What the agent says instead of what is so: the last of several.
    pub(crate) fn says(&self) -> Option<Work> {
        let of = |ill: Ill| if let Ill::Says(work) = ill { Some(work) } else { None };
        self.lasting.values().rev().find_map(|(_, ill)| of(*ill))
    }

    pub(crate) fn reads(&self) -> Option<f64> {
        let of = |ill: Ill| if let Ill::Reads(amount) = ill { Some(amount) } else { None };
        self.lasting.values().rev().find_map(|(_, ill)| of(*ill))
    }

    pub(crate) fn may_lie(&self, now: Timestamp) -> bool {
        self.says().is_some() || self.lied_at.is_some_and(|at| now.since(at) < LIES_LAST)
    }
}

/// What is the matter with machines that come up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quirk {
    /// Set-up ends with this code.
    SetUpFails(i32),
    /// Set-up takes so long.
    SetUpTakes(Duration),
    /// The run program is missing.
    Missing,
    /// The worker does not listen when it is told to drain.
    IgnoresDrain,
    /// The agent says that it is ready before it is.
    ReadyEarly,
}

impl Quirk {
    pub(crate) fn shape(self, behaviour: &mut Behaviour) {
        match self {
            Self::SetUpFails(code) => behaviour.set_up_exit = code,
            Self::SetUpTakes(time) => behaviour.set_up_takes = time,
            Self::Missing => behaviour.missing = true,
            Self::IgnoresDrain => behaviour.ignores_drain = true,
            Self::ReadyEarly => behaviour.ready_early = true,
        }
    }
}

#[cfg(test)]
mod tests;
