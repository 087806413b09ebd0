//! What can be wrong with a site for a while. Troubles begin and end each by itself, and several may last at once: the worst of them is
//! what is seen. While there is none, nothing is asked of chance.
//!
//! A list that lies is still only a list: what the site says of a machine by its name stays true. That is what a real site owes, since it is
//! by the name that a machine is believed gone.

use std::collections::BTreeMap;
use std::time::Duration;

use epu_core::time::Timestamp;
use epu_provisioner::iaas::{Class, Machine as Listed};

use super::{Call, Mishap};
use crate::fault::Luck;
use crate::process::Process;

/// What is wrong with a site.
#[derive(Debug, Clone, PartialEq)]
pub enum Trouble {
    /// It answers nothing.
    Away,
    /// It has no way to one process and back. What is asked has no effect; what was asked before has, and its answer does not arrive.
    Cut(Process),
    /// This share of such calls is refused, without effect.
    Refuses(Call, Class, f64),
    /// This share of such calls has its effect, and the answer is lost.
    LosesAnswers(Call, f64),
    /// Such calls have neither effect nor answer.
    Hangs(Call),
    /// Machines take so many times longer to boot.
    BootsSlowly(f64),
    /// So many machines never start their agents.
    Stuck(u32),
    /// So many machines are gone before they are up.
    Stillborn(u32),
    /// This share of the machines is missing from each list, others each time.
    ListsShort(f64),
    /// Each list is as old as chance says, up to this: it shows machines that have ended since, and not those that came.
    ListsLate(Duration),
    /// Lists are in no order.
    ListsShuffled,
    /// This share of the machines is listed without launch and index, the same ones all the time.
    Untagged(f64),
    /// This share of the machines is not listed, the same ones all the time.
    Unlisted(f64),
    /// There is room for so many machines.
    Room(u32),
    /// A launch gives this share of the machines that it asks for, and one at the least.
    Partial(f64),
}

impl Trouble {
    /// For how long after it has ended the services may still not know that the site works: by the longest wait before they ask again, after
    /// the longest call. None for what keeps nobody from seeing what is there and ending it.
    pub(super) fn delays(&self) -> Option<Duration> {
        /// The longest call of the provisioner, and its longest wait after a passing error with the most that chance adds.
        const AGAIN: Duration = Duration::from_secs(60 + 72);
        /// The longest wait after a call that was one too many.
        const THROTTLED: Duration = Duration::from_secs(60 + 4 * 72);
        match self {
            Self::Refuses(Call::Launch, ..) | Self::LosesAnswers(Call::Launch, _) | Self::Hangs(Call::Launch) => None,
            Self::Refuses(_, Class::Throttled, _) => Some(THROTTLED),
            Self::Away | Self::Cut(_) | Self::Refuses(..) | Self::LosesAnswers(..) | Self::Hangs(_) => Some(AGAIN),
            Self::ListsShort(_) | Self::ListsLate(_) | Self::Untagged(_) | Self::Unlisted(_) => Some(Duration::ZERO),
            Self::BootsSlowly(_) | Self::Stuck(_) | Self::Stillborn(_) | Self::ListsShuffled | Self::Room(_) | Self::Partial(_) => None,
        }
    }
}

/// How a machine will come up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Boot {
    /// It takes so many times as long.
    pub(super) factor: f64,
    /// It never starts its agent.
    pub(super) is_stuck: bool,
    /// It is gone before it is up.
    pub(super) is_stillborn: bool,
}

/// The troubles of one site.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    lasting: BTreeMap<u64, Trouble>,
    ever: u64,
}

impl Troubles {
    pub(super) fn begins(&mut self, trouble: Trouble) -> u64 {
        self.ever += 1;
        self.lasting.insert(self.ever, trouble);
        self.ever
    }

    pub(super) fn ends(&mut self, id: u64) -> Option<Trouble> {
        self.lasting.remove(&id)
    }

    pub(super) fn is_cut_from(&self, process: Process) -> bool {
        self.lasting.values().any(|trouble| *trouble == Trouble::Cut(process))
    }

    /// What goes wrong with a call.
    pub(super) fn mishap(&self, call: Call, luck: &Luck) -> Option<Mishap> {
        let hits = |of: Call, share: f64| of == call && happens(share, luck);
        self.lasting.values().find_map(|trouble| match *trouble {
            Trouble::Away => Some(Mishap::Nothing),
            Trouble::Hangs(of) if of == call => Some(Mishap::Nothing),
            Trouble::Refuses(of, class, share) if hits(of, share) => Some(Mishap::Refused(class)),
            Trouble::LosesAnswers(of, share) if hits(of, share) => Some(Mishap::AnswerLost),
            Trouble::Hangs(_)
            | Trouble::Refuses(..)
            | Trouble::LosesAnswers(..)
            | Trouble::Cut(_)
            | Trouble::BootsSlowly(_)
            | Trouble::Stuck(_)
            | Trouble::Stillborn(_)
            | Trouble::ListsShort(_)
            | Trouble::ListsLate(_)
            | Trouble::ListsShuffled
            | Trouble::Untagged(_)
            | Trouble::Unlisted(_)
            | Trouble::Room(_)
            | Trouble::Partial(_) => None,
        })
    }

    /// Most machines that there is room for.
    pub(super) fn room(&self) -> Option<u32> {
        let of = |trouble: &Trouble| {
            if let Trouble::Room(machines) = trouble {
                Some(*machines)
            } else {
                None
            }
        };
        self.lasting.values().filter_map(of).min()
    }

    /// How many of so many machines a launch gives.
    pub(super) fn part(&self, wanted: usize) -> usize {
        let of = |trouble: &Trouble| {
            if let Trouble::Partial(share) = trouble {
                Some(*share)
            } else {
                None
            }
        };
        let share = self.lasting.values().filter_map(of).fold(1.0, f64::min);
        match share < 1.0 {
            true => (1..=wanted).take_while(|n| *n == 1 || count(*n) <= count(wanted) * share).count(),
            false => wanted,
        }
    }

    /// How the next machine comes up; of those that are to fail it is one.
    pub(super) fn boot(&mut self) -> Boot {
        let mut boot = Boot {
            factor: 1.0,
            is_stuck: false,
            is_stillborn: false,
        };
        for trouble in self.lasting.values_mut() {
            if let Trouble::BootsSlowly(factor) = trouble {
                boot.factor *= *factor;
            }
            if let Trouble::Stuck(left) = trouble {
                boot.is_stuck |= *left > 0;
                *left = left.saturating_sub(1);
            }
            if let Trouble::Stillborn(left) = trouble {
                boot.is_stillborn |= *left > 0;
                *left = left.saturating_sub(1);
            }
        }
        boot
    }

    /// As of when the next list is.
    pub(super) fn as_of(&self, now: Timestamp, luck: &Luck) -> Timestamp {
        let of = |trouble: &Trouble| if let Trouble::ListsLate(by) = trouble { Some(*by) } else { None };
        match self.lasting.values().filter_map(of).max() {
            Some(by) => now - by.mul_f64(luck.share(0.0, 1.0)),
            None => now,
        }
    }

    /// A list as the site tells it.
    pub(super) fn tell(&self, mut list: Vec<Listed>, luck: &Luck) -> Vec<Listed> {
        for (salt, trouble) in &self.lasting {
            match *trouble {
                Trouble::ListsShort(share) => list.retain(|_| !happens(share, luck)),
                Trouble::Unlisted(share) => list.retain(|machine| !is_among(&machine.id, *salt, share)),
                Trouble::Untagged(share) => {
                    for machine in list.iter_mut().filter(|machine| is_among(&machine.id, *salt, share)) {
                        (machine.launch, machine.index, machine.instance) = (None, None, None);
                    }
                }
                Trouble::ListsShuffled => shuffle(&mut list, luck),
                Trouble::Away
                | Trouble::Cut(_)
                | Trouble::Refuses(..)
                | Trouble::LosesAnswers(..)
                | Trouble::Hangs(_)
                | Trouble::BootsSlowly(_)
                | Trouble::Stuck(_)
                | Trouble::Stillborn(_)
                | Trouble::ListsLate(_)
                | Trouble::Room(_)
                | Trouble::Partial(_) => {}
            }
        }
        list
    }
}

/// Whether something that happens in this share of all cases happens now.
fn happens(share: f64, luck: &Luck) -> bool {
    luck.share(0.0, 0.99) < share
}

/// Whether a machine is among this share of all: the same answer each time, and others for another salt.
fn is_among(machine: &str, salt: u64, share: f64) -> bool {
    let print = machine
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325 ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15), |print, byte| {
            (print ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    Luck::seeded(print).share(0.0, 0.99) < share
}

fn shuffle<T>(list: &mut [T], luck: &Luck) {
    for last in (1..list.len()).rev() {
        let other = luck.below(u64::try_from(last + 1).unwrap_or(1));
        list.swap(last, usize::try_from(other).unwrap_or(last));
    }
}

fn count(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}
