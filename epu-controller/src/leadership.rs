//! Which shards of pools this controller leads, and the way in and out.
//!
//! Leases are asked for through [`Leading`]; asking and loading are tasks, so that a slow store holds up nobody. What is gained is
//! loaded first and decided on afterwards; what is over is dropped at once, with everything that was known, wanted or under way:
//! whoever leads next finds in the store all that counts. A pool is managed exactly while its shard is in [`Leads::led`], and even
//! then every look and every command asks for the term anew, since time passes while others are waited for.
//!
//! Nothing may keep renewals from being sent and their answers from being read: whatever costs the store's time pool by pool is done
//! in bites, or calls [`Controller::lead`] in between. Otherwise whoever takes over much would lose it at once, and so would the next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use epu_core::code::Chain;
use epu_core::fact::{Fact, Listener};
use epu_core::id::PoolName;
use epu_core::leading::{LASTS, Leading};
use epu_core::lease::{Domain, Standing, Term};
use epu_core::time::Timestamp;
use tokio::task::{JoinError, JoinSet};
use tracing::{info, warn};

use crate::error::Error;
use crate::loading::{self, Loaded};
use crate::orders;
use crate::service::{Back, Controller, JOURNAL_MOST};

/// What renewing is called when it fails.
const RENEWING: &str = "renew leases";
/// Rounds of asking after which a member knows its share: in the first it hears of the others.
const ROUNDS_TO_KNOW: u8 = 2;
/// How long what is given away may take to be written before leases are renewed. Too high: the others lapse meanwhile.
const WRITE_FOR: Duration = Duration::from_secs(1);

/// What this controller leads, and what it is about to.
pub(crate) struct Leads {
    pub(crate) leading: Leading,
    /// Loaded and acted on.
    pub(crate) led: BTreeSet<Domain>,
    /// Gained and to be loaded.
    to_load: BTreeSet<Term>,
    /// Being loaded.
    loading: Option<BTreeSet<Term>>,
    /// Grows with everything that is loaded: what a task brings back for an earlier stint is not for this one.
    pub(crate) stint: u64,
    rounds: u8,
    since: Timestamp,
    settled: bool,
    /// Questions to the store under way. Apart from all other tasks: many of those may be waiting to be taken back.
    pub(crate) renewals: JoinSet<Renewed>,
    /// The newest question's number.
    asked: u64,
}

/// The answer to the question of this number, which was asked then.
pub(crate) struct Renewed {
    number: u64,
    asked_at: Timestamp,
    answer: Result<Standing, String>,
}

impl Leads {
    pub(crate) fn new(leading: Leading, now: Timestamp) -> Self {
        Self {
            leading,
            led: BTreeSet::new(),
            to_load: BTreeSet::new(),
            loading: None,
            stint: 0,
            rounds: 0,
            since: now,
            settled: false,
            renewals: JoinSet::new(),
            asked: 0,
        }
    }

    /// Whether it is known what there is to answer for: its share is loaded, or could not be had for a while.
    pub(crate) fn is_settled(&mut self, now: Timestamp) -> bool {
        let knows = self.rounds >= ROUNDS_TO_KNOW && self.to_load.is_empty() && self.loading.is_none();
        self.settled |= knows || now.since(self.since) >= *LASTS;
        self.settled
    }

    /// Whether a shard is led and not loaded yet.
    pub(crate) fn is_coming(&self, domain: Domain) -> bool {
        let coming = |terms: &BTreeSet<Term>| terms.iter().any(|term| term.domain == domain);
        coming(&self.to_load) || self.loading.as_ref().is_some_and(coming)
    }
}

impl Controller {
    /// The term under which to act on a pool now; none when it is not for this controller to act on it.
    pub(crate) fn term_of(&self, pool: &PoolName) -> Option<Term> {
        let domain = Domain::of(pool);
        let led = self.leads.led.contains(&domain);
        self.leads.leading.term(domain, self.parts.clock.now()).filter(|_| led)
    }

    /// Takes the store's answer, drops what is over and asks for leases when it is time to: before anything else in each turn, and
    /// between the parts of whatever takes long.
    pub(crate) async fn lead(&mut self) {
        if !self.leads.renewals.is_empty() {
            // A question waits in this worker's own slot, which no other takes from, until this task makes room.
            tokio::task::yield_now().await;
        }
        while let Some(renewed) = self.leads.renewals.try_join_next() {
            self.take_renewed(renewed);
        }
        let now = self.parts.clock.now();
        let over = self.leads.leading.lapse(now);
        self.lose(&over, "lapsed");
        let Some((ask, given)) = self.leads.leading.ask(now) else { return };
        // Until the store has read the question these terms stand, and what is not written yet would be missed by the next leader.
        self.write_what_is_unwritten(&given, WRITE_FOR).await;
        self.lose(&given, "given");
        let store = self.parts.store.clone();
        self.leads.asked += 1;
        let number = self.leads.asked;
        self.leads.renewals.spawn(async move {
            let answer = match tokio::time::timeout(*LASTS, store.lease(ask)).await {
                Ok(answer) => answer.map_err(|error| Chain(&error).to_string()),
                Err(_) => Err(format!("no answer within {LASTS}")),
            };
            Renewed {
                number,
                asked_at: now,
                answer,
            }
        });
    }

    /// Takes what a question came to. Only the newest one counts: what an older one says was so before.
    pub(crate) fn take_renewed(&mut self, renewed: Result<Renewed, JoinError>) {
        match renewed {
            Ok(renewed) if renewed.number == self.leads.asked => self.take_leased(renewed.asked_at, renewed.answer),
            Ok(_) => {}
            Err(error) => {
                warn!(%error, "a question for leases was lost");
                self.leads.leading.failed(self.parts.clock.now());
            }
        }
    }

    /// Takes the store's answer to what was asked at `asked_at`.
    fn take_leased(&mut self, asked_at: Timestamp, answer: Result<Standing, String>) {
        let now = self.parts.clock.now();
        match answer {
            Ok(standing) => {
                // Other things may still fail; only this one is known to work.
                if self.store_fault.as_ref().is_some_and(|fault| fault.starts_with(RENEWING)) {
                    self.noted(Ok(()), RENEWING);
                }
                self.leads.rounds = self.leads.rounds.saturating_add(1);
                let moved = self.leads.leading.took(asked_at, standing, now);
                self.lose(&moved.lost, "taken");
                self.count("gained", moved.gained.len());
                self.leads.to_load.extend(moved.gained);
                self.load_gained();
            }
            Err(why) => {
                self.leads.leading.failed(now);
                self.noted(Err(why), RENEWING);
            }
        }
    }

    /// A task ended without a word, and it may have been one of these.
    pub(crate) fn lost_a_task(&mut self) {
        if let Some(terms) = self.leads.loading.take() {
            self.leads.to_load.extend(terms);
        }
        self.refresh.lost();
    }

    /// Somebody who must know says that a term is over.
    pub(crate) fn depose(&mut self, term: Term, by: &'static str) {
        self.parts.metrics.refused.with_label_values(&[by]).inc();
        let now = self.parts.clock.now();
        if self.leads.leading.deposed(term, now) {
            warn!(%term, by, "somebody else leads by now");
            self.lose(&[term], "deposed");
        }
    }

    /// Does nothing more for these: forgets their pools and whatever was on its way.
    fn lose(&mut self, terms: &[Term], how: &'static str) {
        if terms.is_empty() {
            return;
        }
        self.count(how, terms.len());
        for term in terms {
            self.leads.led.remove(&term.domain);
            self.leads.to_load.remove(term);
        }
        let led = &self.leads.led;
        let over = self.pools.keys().filter(|name| !led.contains(&Domain::of(name)));
        let over: Vec<PoolName> = over.cloned().collect();
        info!(shards = terms.len(), pools = over.len(), how, "no longer led here");
        for name in over {
            self.drop_pool(&name);
        }
        self.show_shards();
    }

    fn count(&self, what: &str, terms: usize) {
        let by = u64::try_from(terms).unwrap_or(u64::MAX);
        self.parts.metrics.leadership_changes.with_label_values(&[what]).inc_by(by);
    }

    fn show_shards(&self) {
        self.parts
            .metrics
            .shards
            .set(i64::try_from(self.leads.led.len()).unwrap_or(i64::MAX));
    }

    /// Begins to load what was gained, all in one. While something is being loaded, what is gained meanwhile waits for it.
    pub(crate) fn load_gained(&mut self) {
        if self.leads.to_load.is_empty() || self.leads.loading.is_some() {
            return;
        }
        let terms = std::mem::take(&mut self.leads.to_load);
        let domains: BTreeSet<Domain> = terms.iter().map(|term| term.domain).collect();
        self.leads.loading = Some(terms);
        let store = self.parts.store.clone();
        self.tasks
            .spawn(async move { Back::Loaded(Box::new(loading::load(store.as_ref(), &domains).await)) });
    }

    /// Takes what was loaded, as far as it is still led.
    ///
    /// # Errors
    /// When nothing could be loaded ever.
    pub(crate) async fn take_loaded(&mut self, loaded: Result<Loaded, Error>) -> Result<(), Error> {
        let now = self.parts.clock.now();
        let Some(mut terms) = self.leads.loading.take() else {
            return Ok(());
        };
        terms.retain(|term| self.leads.leading.term(term.domain, now) == Some(*term));
        match loaded {
            Ok(loaded) => {
                self.leads.stint += 1;
                self.leads.led.extend(terms.iter().map(|term| term.domain));
                // Given up and gained again meanwhile under the same term: nobody else had it.
                self.leads.to_load.retain(|term| !terms.contains(term));
                if !terms.is_empty() {
                    self.begin(terms.len(), loaded, now).await;
                }
                self.load_gained();
            }
            Err(error) if self.leads.stint == 0 => return Err(error),
            Err(error) => {
                self.leads.to_load.extend(terms);
                self.noted(Err(Chain(&error).to_string()), "take over pools");
            }
        }
        self.take_parked().await;
        self.refresh_if_told();
        Ok(())
    }

    /// Begins to manage what was loaded.
    async fn begin(&mut self, shards: usize, loaded: Loaded, now: Timestamp) {
        self.closed = loaded.closed;
        let mut begun = 0_u64;
        let mut instances = loaded.instances;
        let mut outbox: BTreeMap<PoolName, VecDeque<_>> = BTreeMap::new();
        for command in loaded.outbox {
            outbox.entry(command.pool.clone()).or_default().push_back(command);
        }
        for (pool, memory) in loaded.pools {
            let name = pool.name.clone();
            // Given up meanwhile, or taken in from the store's list of pools already.
            if !self.leads.led.contains(&Domain::of(&name)) || self.pools.contains_key(&name) {
                continue;
            }
            begun += 1;
            // Many pools take long, and what is led is to stay so; what is not any more is left out above.
            self.lead().await;
            self.write_noted(JOURNAL_MOST).await;
            if !self.leads.led.contains(&Domain::of(&name)) {
                continue;
            }
            self.manage(pool, memory, now);
            let Some(managed) = self.pools.get_mut(&name) else { continue };
            let changed = managed.view.load(instances.remove(&name).unwrap_or_default(), now);
            for command in outbox.remove(&name).unwrap_or_default() {
                orders::note(&mut managed.view, &command, now);
                self.to_send.insert(name.clone());
                managed.outbox.push([command]);
                self.commanding.insert(name.clone());
            }
            self.take_changed(&name, changed, now);
        }
        self.show_shards();
        info!(shards, pools = begun, "led from now on");
        self.apply_file().await;
        // What happened while it was loaded is told again, and what nobody has told yet is waited for.
        self.parts.bus.tell(Fact::Listening(Listener::Controller));
        self.tell_pools();
    }

    /// Goes: what is not written yet is written, then others may take over.
    pub(crate) async fn leave(&mut self) {
        // A renewal that came after the farewell would keep others waiting.
        self.leads.renewals.shutdown().await;
        self.tasks.shutdown().await;
        let now = self.parts.clock.now();
        let led = self.leads.led.iter().filter_map(|domain| self.leads.leading.term(*domain, now));
        let led: Vec<Term> = led.collect();
        let store = self.parts.store.clone();
        let name = self.leads.leading.member().name.clone();
        let going = async {
            self.write_noted(1).await;
            self.write_what_is_unwritten(&led, *LASTS).await;
            if let Err(error) = store.leave(&name).await {
                warn!(error = %Chain(&error), "could not say that it goes; others take over a few seconds later");
            }
        };
        if tokio::time::timeout(*LASTS, going).await.is_err() {
            warn!("the store did not take in that it goes; others take over a few seconds later");
        }
    }

    /// Writes what is remembered of pools that are given away, for as long as there is time: what is led beside them must not lapse
    /// over it. What is left out is as old for the next leader as it would be had this one been lost.
    async fn write_what_is_unwritten(&mut self, terms: &[Term], within: Duration) {
        let now = self.parts.clock.now();
        for term in terms {
            let unwritten = |name: &&PoolName| self.pools.get(*name).is_some_and(|managed| managed.unwritten);
            let of_it = self
                .unwritten
                .iter()
                .filter(|name| Domain::of(name) == term.domain)
                .filter(unwritten);
            let names: Vec<PoolName> = of_it.cloned().collect();
            for name in names {
                if self.parts.clock.now().since(now) >= within {
                    warn!("there is no time to write all that is remembered of pools that are given away");
                    return;
                }
                if !self.remember_one(&name, *term, now).await {
                    return;
                }
            }
        }
    }
}
