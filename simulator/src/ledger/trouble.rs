//! What goes wrong between the store and one process or all of them. Several such things may be so at once; each is taken back by
//! itself. While none is, nothing is drawn and nothing waits.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use epu_core::random::Random;
use epu_store::Error;

use crate::lock;
use crate::process::Process;

/// How long a process waits for its database before it gives up: what PostgreSQL's side of the store waits for a connection and for an
/// answer.
const PATIENCE: Duration = Duration::from_secs(13);
/// The least part of the time that a slow store takes that it takes.
const QUICKEST: f64 = 0.1;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Trouble {
    /// Nothing is done, and that is said at once, for this reason.
    Away(&'static str),
    /// It is not reached: nothing is done, and nobody answers.
    Cut,
    /// Each write and read takes some of this long; when that is longer than a process waits, it was done and nobody hears so.
    Slow(Duration),
    /// So large a share of writes is not done, as others changed the same.
    Conflicts(f64),
    /// So large a share of writes is done and said to have failed.
    RepliesLost(f64),
}

/// What is asked of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    Read,
    /// A record that has a version: one of two that change it hears that it was changed meanwhile.
    Change,
    Write,
}

/// What is to happen to one question.
#[derive(Debug, Default)]
pub(super) struct Fate {
    pub(super) before: Duration,
    /// It fails without being done.
    pub(super) refused: Option<Error>,
    pub(super) after: Duration,
    /// It is done and fails.
    pub(super) lost: Option<Error>,
}

/// All troubles there are.
#[derive(Debug)]
pub(super) struct Troubles {
    how_many: AtomicUsize,
    all: Mutex<All>,
    random: Random,
}

#[derive(Debug, Default)]
struct All {
    last: u64,
    troubles: BTreeMap<u64, (Option<Process>, Trouble)>,
}

impl Troubles {
    pub(super) fn seeded(seed: u64) -> Self {
        Self {
            how_many: AtomicUsize::new(0),
            all: Mutex::default(),
            random: Random::seeded(seed),
        }
    }

    pub(super) fn begin(&self, whose: Option<Process>, trouble: Trouble) -> u64 {
        let mut all = lock(&self.all);
        all.last += 1;
        let number = all.last;
        all.troubles.insert(number, (whose, trouble));
        self.how_many.store(all.troubles.len(), Ordering::Relaxed);
        number
    }

    pub(super) fn end(&self, number: u64) {
        let mut all = lock(&self.all);
        all.troubles.remove(&number);
        self.how_many.store(all.troubles.len(), Ordering::Relaxed);
    }

    pub(super) fn are_there(&self) -> bool {
        self.how_many.load(Ordering::Relaxed) > 0
    }

    /// Whether nothing that this process asks is done.
    pub(super) fn bar(&self, process: Process) -> bool {
        let all = lock(&self.all);
        all.troubles
            .values()
            .any(|(whose, trouble)| whose.is_none_or(|whose| whose == process) && matches!(trouble, Trouble::Away(_) | Trouble::Cut))
    }

    /// What happens to a question; none: nothing but what was asked.
    pub(super) fn fate(&self, process: Process, doing: &str, ask: Ask) -> Option<Fate> {
        if !self.are_there() {
            return None;
        }
        let mut fate = Fate::default();
        let all = lock(&self.all);
        let ours = all
            .troubles
            .values()
            .filter(|(whose, _)| whose.is_none_or(|whose| whose == process));
        for (_, trouble) in ours {
            self.adds(*trouble, doing, ask, &mut fate);
        }
        Some(fate)
    }

    fn adds(&self, trouble: Trouble, doing: &str, ask: Ask, fate: &mut Fate) {
        let failed = |why: &str| Error::Database {
            doing: doing.to_owned(),
            source: why.to_owned().into(),
        };
        match trouble {
            Trouble::Away(why) => fate.refused = Some(failed(why)),
            Trouble::Cut => {
                fate.before = PATIENCE;
                fate.refused = Some(failed("the database did not answer in time"));
            }
            Trouble::Slow(most) => {
                let takes = most.mul_f64(QUICKEST + (1.0 - QUICKEST) * self.random.fraction());
                if takes > PATIENCE {
                    fate.lost = Some(failed("whether it was done is not known: the database did not answer in time"));
                }
                let half = takes.min(PATIENCE) / 2;
                fate.before += half;
                fate.after += half;
            }
            Trouble::Conflicts(share) => {
                if ask != Ask::Read && self.random.fraction() < share {
                    let both = ask == Ask::Change && self.random.number().is_multiple_of(2);
                    fate.refused = Some(if both {
                        Error::Conflict(doing.to_owned())
                    } else {
                        failed("others changed the same in the database again and again")
                    });
                }
            }
            Trouble::RepliesLost(share) => {
                if ask != Ask::Read && self.random.fraction() < share {
                    fate.lost = Some(failed("whether it was done is not known: the connection was lost before the reply"));
                }
            }
        }
    }
}
