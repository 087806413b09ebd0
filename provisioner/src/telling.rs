//! Telling others how instances are: every change at once, everything when somebody begins to listen, and a page now and then so
//! that a lost fact does no lasting harm. Instances that ended a moment ago are told with the rest; and every page says among which
//! ids it names all that live, so that whoever missed an end altogether sees that one is not named, and asks.

use std::sync::Arc;

use epu_core::fact::{Covers, Fact, Instances};
use epu_core::id::InstanceId;
use epu_core::instance::Instance;
use epu_core::time::Timestamp;

use crate::service::Service;

/// Instances in one fact. Too low: many messages. Too high: large ones.
const PAGE: usize = 500;

/// Where telling is.
#[derive(Debug)]
pub(crate) struct Telling {
    all: bool,
    pub(crate) next_page: Timestamp,
    after: Option<InstanceId>,
}

impl Telling {
    pub(crate) fn new(next_page: Timestamp) -> Self {
        Self {
            all: false,
            next_page,
            after: None,
        }
    }

    /// Has everything told at the end of this turn.
    pub(crate) fn all_at_once(&mut self) {
        self.all = true;
    }
}

impl Service {
    pub(crate) fn tell(&self, changed: Vec<Arc<Instance>>) {
        for page in changed.chunks(PAGE) {
            self.tell_one(page.to_vec(), false, None);
        }
    }

    pub(crate) fn tell_one(&self, changed: Vec<Arc<Instance>>, complete: bool, covers: Option<Covers>) {
        let told = Instances {
            changed,
            closed: self.closed,
            complete,
            covers,
        };
        self.bus.tell(Fact::Instances(Arc::new(told)));
    }

    pub(crate) fn tell_all_if_asked(&mut self) {
        if !std::mem::take(&mut self.telling.all) {
            return;
        }
        let all: Vec<_> = self.book.recent().chain(self.book.live()).cloned().collect();
        let pages = all.len().div_ceil(PAGE).max(1);
        let mut chunks = all.chunks(PAGE);
        for number in 1..=pages {
            let page = chunks.next().unwrap_or_default().to_vec();
            self.tell_one(page, number == pages, None);
        }
    }

    /// The next page, when it is time. Only a page that names every live instance by itself is called complete: between two pages
    /// of a slow round something may have changed.
    pub(crate) fn tell_page(&mut self, now: Timestamp) {
        if self.telling.next_page > now {
            return;
        }
        self.telling.next_page = now + *self.config.tell_every;
        for site in self.sites.values() {
            // Asked for what it shows, it also shows it as metrics.
            drop(site.driver.iaas.standing());
        }
        let mut page = self.book.page(self.telling.after, PAGE);
        let complete = self.telling.after.is_none() && page.len() == self.book.live_count();
        let covers = Covers {
            after: self.telling.after,
            up_to: page.last().filter(|_| page.len() == PAGE).map(|instance| instance.id),
        };
        self.telling.after = covers.up_to;
        if self.telling.after.is_none() {
            page.extend(self.book.recent().take(PAGE).cloned());
        }
        self.tell_one(page, complete, Some(covers));
    }
}
