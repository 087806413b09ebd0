//! Sites come, change and go while the provisioner runs.
//!
//! Whoever builds drivers offers them ([`Offers`]): those of the config file, and those that are kept as records ([`SiteRecord`]). The
//! provisioner takes in what is offered between two turns:
//!
//! - A **new** site is looked at at once.
//! - A **changed** one goes on with what is known of it. Calls under way end as they began; the next are made by the new driver.
//! - One that **went away**, whose driver cannot be built any more, or that is another place under the same name (another region: what
//!   lives in the former one is not there) *leaves*: nothing is launched there, and for as long as anything is recorded there the former
//!   driver watches, ends and sweeps. `sites` says so. Then it is dropped, and whatever is offered under its name takes its place.
//!
//! A leaving site's driver is in the memory of the process alone: after a restart there is none, and `sites` says what lives where.
//!
//! Adding and removing a site writes its record here, where what lives there is known; what may stand in one is the [`Desk`]'s to say.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use epu_bus::Answering;
use epu_core::Fault;
use epu_core::id::{SiteName, TemplateName};
use epu_core::journal::{Entry, Event as Remembered};
use epu_core::life::State;
use epu_core::pool::Template;
use epu_core::request::{Answer, Caller, SiteFile, SiteOrigin, SiteRemove, TemplateFile};
use epu_store::Document;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::iaas::Iaas;
use crate::iaas::spec::SiteSpec;
use crate::keeping::must_own;
use crate::service::Service;
use crate::site::{Done, Driver, Site};
use crate::turn::store_failed;

/// The kind of a site's document.
pub const KIND: &str = "site";
/// Who describes a site that clients of the original EPU described.
pub const BY_DTRS: &str = "dtrs";
/// Most sites that are kept as records. Too low: clients that describe their own are refused. Too high: reading them all takes long.
pub const RECORDS_MOST: usize = 1_000;

/// How long whoever added a site waits for it to be in use. It is used all the same.
const LOOK_WITHIN: Duration = Duration::from_secs(10);
/// Pools that are named of those that keep a site from being removed.
const NAMED_MOST: usize = 3;

/// Sites as they are now.
pub type Offers = BTreeMap<SiteName, Offer>;

/// A site as whoever builds drivers has it. The same driver as before is the same `Arc`.
#[derive(Clone)]
pub struct Offer {
    /// Its driver, or what keeps it from having one.
    pub driver: Result<Arc<dyn Iaas>, Unusable>,
    /// Where it is, in words that differ when machines of before would not be found there.
    pub place: String,
    /// Where it is written.
    pub origin: Option<SiteOrigin>,
}

/// A site without a driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    /// The driver that it wants.
    pub driver: String,
    /// Why it is not there.
    pub fault: Fault,
}

impl Offer {
    fn driver_name(&self) -> String {
        match &self.driver {
            Ok(iaas) => iaas.capabilities().driver.to_owned(),
            Err(unusable) => unusable.driver.clone(),
        }
    }
}

/// Sites that never change, as they are offered.
#[must_use]
pub fn fixed(drivers: BTreeMap<SiteName, Arc<dyn Iaas>>) -> watch::Receiver<Arc<Offers>> {
    let offer = |(name, iaas): (SiteName, Arc<dyn Iaas>)| {
        let (place, origin) = (name.to_string(), None);
        let driver = Ok(iaas);
        (name, Offer { driver, place, origin })
    };
    watch::channel(Arc::new(drivers.into_iter().map(offer).collect())).1
}

/// A site as it is kept as a record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SiteRecord {
    /// What it is.
    pub spec: SiteSpec,
    /// Whose it is; none: nobody's in particular.
    #[serde(default)]
    pub owner: Option<String>,
    /// Who put it there.
    #[serde(default)]
    pub by: String,
}

/// Knows what may stand in the description of a site or template, and has drivers built.
#[async_trait]
pub trait Desk: Send + Sync {
    /// The one site that is meant by a text, by the rules of the config file.
    ///
    /// # Errors
    /// Every fault of it at once.
    fn read(&self, file: &SiteFile) -> Result<(SiteName, SiteSpec), Fault>;

    /// The one template that is meant by a text, by the rules of the config file.
    ///
    /// # Errors
    /// Every fault of it at once.
    fn read_template(&self, file: &TemplateFile) -> Result<(TemplateName, Template), Fault>;

    /// Has the records of sites and templates read again, and returns once what is in them is in use.
    async fn look(&self);
}

/// Where there are no sites but those that it began with.
#[derive(Debug, Clone, Copy)]
pub struct NoDesk;

#[async_trait]
impl Desk for NoDesk {
    fn read(&self, file: &SiteFile) -> Result<(SiteName, SiteSpec), Fault> {
        Err(Fault::new("bad-request", format!("{}: no sites are added here", file.file)))
    }

    fn read_template(&self, file: &TemplateFile) -> Result<(TemplateName, Template), Fault> {
        Err(Fault::new("bad-request", format!("{}: no templates are added here", file.file)))
    }

    async fn look(&self) {}
}

/// What watched a site that left, for the next term of this process.
#[derive(Clone)]
pub(crate) struct Former {
    iaas: Arc<dyn Iaas>,
    place: String,
    fault: Fault,
}

/// Sites that left and on which something lives.
pub(crate) type Formers = Arc<Mutex<BTreeMap<SiteName, Former>>>;

impl Service {
    // ---- what is offered

    /// Takes in what is offered now.
    pub(crate) fn take_sites(&mut self, offers: Arc<Offers>) {
        let before = std::mem::replace(&mut self.offers, offers);
        self.remember_sites(&before);
        self.fit_sites();
    }

    /// At the beginning of a term: sites that left in a former one of this process and on which something lives are watched again.
    pub(crate) fn recall_sites(&mut self) {
        let formers = self.formers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (name, former) in formers {
            if self.has_records(&name) {
                self.enter(&name, former.iaas, former.place);
                self.leave_site(&name, former.fault);
            }
        }
    }

    /// Makes sites what is offered, as far as nothing is left where they were.
    pub(crate) fn fit_sites(&mut self) {
        let offers = self.offers.clone();
        for name in self.sites.keys().cloned().collect::<Vec<_>>() {
            if !offers.contains_key(&name) {
                let fault = Fault::new("no-such-site", format!("site {name} was removed"));
                self.leave_site(&name, fault);
            }
        }
        for (name, offer) in offers.iter() {
            self.fit_site(name, offer);
        }
        let gone: Vec<SiteName> = self
            .sites
            .values()
            .filter(|site| self.is_left(site))
            .map(|site| site.name.clone())
            .collect();
        for name in gone {
            info!(site = %name, "nothing is left on this site, and it is dropped");
            self.sites.remove(&name);
            self.formers.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
            if let Some(offer) = offers.get(&name) {
                self.fit_site(&name, offer);
            }
        }
    }

    fn fit_site(&mut self, name: &SiteName, offer: &Offer) {
        let iaas = match &offer.driver {
            Ok(iaas) => iaas.clone(),
            Err(unusable) => return self.leave_site(name, unusable.fault.clone()),
        };
        let now = self.clock.now();
        let Some(site) = self.sites.get_mut(name) else {
            return self.enter(name, iaas, offer.place.clone());
        };
        if site.place != offer.place {
            let text = format!("site {name} is {} now, and {} before", offer.place, site.place);
            return self.leave_site(name, Fault::new("no-such-site", text));
        }
        if site.leaving.take().is_some() {
            self.formers.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        }
        if !Arc::ptr_eq(&site.driver.iaas, &iaas) {
            info!(site = %name, "the site's settings changed");
            site.take_driver(iaas, now);
        }
    }

    /// A site that was not there.
    fn enter(&mut self, name: &SiteName, iaas: Arc<dyn Iaas>, place: String) {
        let now = self.clock.now();
        let driver = Driver {
            site: name.clone(),
            iaas,
            right: self.right.clone(),
            within: *self.config.call_within,
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
        };
        let at_once = usize::from(self.config.calls_at_once.max(1));
        let mut site = Site::new(name.clone(), driver, at_once, now);
        site.place = place;
        let ending = self.book.live().filter(|i| i.site == *name && i.state == State::Terminating);
        site.to_end = ending.filter_map(|i| i.machine.clone()).collect();
        self.sites.insert(name.clone(), site);
        // Calls that found no site are made again.
        let open = self.book.open_launches().filter(|known| known.launch.request.site == *name);
        for id in open.map(|known| known.launch.id).collect::<Vec<_>>() {
            if let Some(known) = self.book.launch_mut(id).filter(|known| !known.calling) {
                known.next_at = known.next_at.min(now);
            }
        }
    }

    /// Nothing is launched there from now on.
    fn leave_site(&mut self, name: &SiteName, fault: Fault) {
        let Some(site) = self.sites.get_mut(name) else { return };
        if site.leaving.as_ref() == Some(&fault) {
            return;
        }
        info!(site = %name, why = %fault, "nothing is launched on this site any more");
        let former = Former {
            iaas: site.driver.iaas.clone(),
            place: site.place.clone(),
            fault: fault.clone(),
        };
        site.leaving = Some(fault);
        site.look_by(self.clock.now());
        self.formers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.clone(), former);
        self.withdraw_unwanted(self.clock.now());
    }

    /// Whether a site that leaves has nothing left: no record, no machine that is to end, and no call under way.
    fn is_left(&self, site: &Site) -> bool {
        let is_quiet = !site.looking && !site.ending && site.to_end.is_empty() && site.strays.is_empty();
        site.leaving.is_some() && is_quiet && !self.has_records(&site.name)
    }

    fn has_records(&self, site: &SiteName) -> bool {
        let has_open = || self.book.open_launches().any(|known| known.launch.request.site == *site);
        self.book.on_site(site).is_some_and(|on_site| on_site.live > 0) || has_open()
    }

    /// Whether any site leaves.
    pub(crate) fn sites_leave(&self) -> bool {
        self.sites.values().any(|site| site.leaving.is_some())
    }

    /// Why nothing can be launched there; none: it can.
    pub(crate) fn no_launches_on(&self, site: &SiteName) -> Option<Fault> {
        match self.sites.get(site).map(|known| known.leaving.as_ref()) {
            Some(None) => None,
            Some(Some(fault)) => Some(Fault::new("no-such-site", format!("launch: {}", fault.text))),
            None => Some(match self.offers.get(site).map(|offer| &offer.driver) {
                Some(Err(unusable)) => Fault::new("no-such-site", format!("launch: {}", unusable.fault.text)),
                Some(Ok(_)) | None => Fault::new("no-such-site", format!("launch: there is no site {site}")),
            }),
        }
    }

    /// What operators did is remembered with the record; what came by itself is remembered here.
    fn remember_sites(&mut self, before: &Offers) {
        let now = self.clock.now();
        let who = |offer: &Offer| match &offer.origin {
            Some(SiteOrigin::File { .. }) => Some("config"),
            Some(SiteOrigin::Record { by, .. }) if by == BY_DTRS => Some(BY_DTRS),
            Some(SiteOrigin::Record { .. }) | None => None,
        };
        let mut entries = Vec::new();
        for (name, offer) in self.offers.iter() {
            let (site, driver) = (name.clone(), offer.driver_name());
            let event = match before.get(name) {
                None => Remembered::SiteAdded { site, driver },
                Some(was) if is_same(was, offer) => continue,
                Some(_) => Remembered::SiteChanged { site, driver },
            };
            entries.extend(who(offer).map(|who| Entry::new(now, who, event)));
        }
        for (name, was) in before.iter().filter(|(name, _)| !self.offers.contains_key(*name)) {
            let event = Remembered::SiteRemoved { site: name.clone() };
            entries.extend(who(was).map(|who| Entry::new(now, who, event)));
        }
        self.turn.journal.extend(entries);
    }

    // ---- adding and removing

    pub(crate) async fn site_add(&mut self, caller: &Caller, file: &SiteFile, answering: Answering) {
        let kept = self.keep_site(caller, file).await;
        self.answer_in_use(kept.and_then(|name| Answer::of(&name)), answering);
    }

    pub(crate) async fn site_remove(&mut self, caller: &Caller, remove: &SiteRemove, answering: Answering) {
        let gone = self.forget_site(caller, remove).await;
        self.answer_in_use(gone.and_then(|live| Answer::of(&live)), answering);
    }

    /// Answers once what was written is in use.
    pub(crate) fn answer_in_use(&mut self, answer: Result<Answer, Fault>, answering: Answering) {
        let answer = answer.and_then(|answer| self.may_wait().map(|()| answer));
        if answer.is_err() {
            return answering.answer(answer);
        }
        let desk = self.desk.clone();
        self.tasks.spawn(async move {
            if tokio::time::timeout(LOOK_WITHIN, desk.look()).await.is_err() {
                warn!("what was added or removed is written, and not in use yet");
            }
            answering.answer(answer);
            Done::Answered(Vec::new())
        });
    }

    async fn keep_site(&mut self, caller: &Caller, file: &SiteFile) -> Result<SiteName, Fault> {
        let (name, spec) = self.desk.read(file)?;
        let doing = format!("add site {name}");
        self.refuse_site_of_file(&doing, &name)?;
        if spec.driver() == "local"
            && let Some((other, _)) = self
                .offers
                .iter()
                .find(|(other, offer)| **other != name && offer.driver_name() == "local")
        {
            let text = format!("{doing}: site {other} has the driver `local` already, and this machine is one site");
            return Err(Fault::new("conflict", text));
        }
        let documents = self.store.documents(KIND).await.map_err(|error| store_failed(&error))?;
        let before = documents.iter().find(|document| document.name == name.as_str());
        let (revision, owner) = match before {
            None if documents.len() >= RECORDS_MOST => {
                let text = format!("{doing}: there are {RECORDS_MOST} sites already, and more are not kept");
                return Err(Fault::new("too-large", text));
            }
            None => (1, caller.owner_of_new().map(str::to_owned)),
            Some(document) => {
                let record = recorded(document);
                must_own(&doing, caller, owner(record.as_ref()))?;
                if record.as_ref().is_some_and(|record| record.by == BY_DTRS) {
                    let text = format!("{doing}: a client of the original EPU described it through `dtrs`; change it there");
                    return Err(Fault::new("conflict", text));
                }
                if record.as_ref().is_some_and(|record| record.spec == spec) {
                    return Ok(name);
                }
                (document.revision + 1, record.and_then(|record| record.owner))
            }
        };
        let (site, driver) = (name.clone(), spec.driver().to_owned());
        let event = if revision == 1 {
            Remembered::SiteAdded { site, driver }
        } else {
            Remembered::SiteChanged { site, driver }
        };
        let by = caller.name();
        let record = SiteRecord { spec, owner, by };
        self.keep(&doing, (KIND, name.as_str(), revision), &record, event, &record.by)
            .await?;
        Ok(name)
    }

    /// How many instances live there.
    async fn forget_site(&mut self, caller: &Caller, remove: &SiteRemove) -> Result<u32, Fault> {
        let name = &remove.site;
        let doing = format!("remove site {name}");
        let documents = self.store.documents(KIND).await.map_err(|error| store_failed(&error))?;
        let Some(document) = documents.iter().find(|document| document.name == name.as_str()) else {
            self.refuse_site_of_file(&doing, name)?;
            return Err(Fault::new("no-such-site", format!("{doing}: there is no such site")));
        };
        let record = recorded(document);
        must_own(&doing, caller, owner(record.as_ref()))?;
        if !remove.force && record.is_some_and(|record| record.by == BY_DTRS) {
            let text = format!("{doing}: a client of the original EPU described it through `dtrs`; remove it there, or use force");
            return Err(Fault::new("conflict", text));
        }
        // One of the same name in the config file goes on.
        let is_shadowed = self.refuse_site_of_file(&doing, name).is_err();
        let live = self.book.on_site(name).map_or(0, |on_site| on_site.live);
        if !remove.force && !is_shadowed {
            self.refuse_site_in_use(&doing, name, live).await?;
        }
        let event = Remembered::SiteRemoved { site: name.clone() };
        let journal = vec![Entry::new(self.clock.now(), caller.name(), event)];
        let forgotten = self.store.forget_document(KIND, name.as_str(), journal).await;
        forgotten.map_err(|error| store_failed(&error))?;
        Ok(if is_shadowed { 0 } else { live })
    }

    fn refuse_site_of_file(&self, doing: &str, name: &SiteName) -> Result<(), Fault> {
        match self.offers.get(name).and_then(|offer| offer.origin.as_ref()) {
            Some(SiteOrigin::File { path, line }) => {
                let text = format!("{doing}: it belongs to {path}, line {line}; edit that file, then reload with SIGHUP");
                Err(Fault::new("from-file", text))
            }
            Some(SiteOrigin::Record { .. }) | None => Ok(()),
        }
    }

    async fn refuse_site_in_use(&self, doing: &str, name: &SiteName, live: u32) -> Result<(), Fault> {
        let pools = self.store.pools().await.map_err(|error| store_failed(&error))?;
        let places = |pool: &&epu_core::pool::Pool| !pool.removed && pool.spec.placements.iter().any(|placement| placement.site == *name);
        let users: Vec<&str> = pools.iter().filter(places).map(|pool| pool.name.as_str()).collect();
        if !users.is_empty() {
            let more = users.len().saturating_sub(NAMED_MOST);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let named = users.iter().take(NAMED_MOST).copied().collect::<Vec<_>>().join(", ");
            let text = format!("{doing}: pools place instances on it: {named}{more}; take the placement out of them first, or use force");
            return Err(Fault::new("conflict", text));
        }
        if live > 0 || self.has_records(name) {
            let text = format!(
                "{doing}: {live} instances live there; wait until they have ended, or use force, by which they are watched until then"
            );
            return Err(Fault::new("conflict", text));
        }
        Ok(())
    }
}

/// Whether nothing changed but perhaps the line.
fn is_same(was: &Offer, is: &Offer) -> bool {
    match (&was.driver, &is.driver) {
        (Ok(was), Ok(is)) => Arc::ptr_eq(was, is),
        (Err(was), Err(is)) => was == is,
        (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
    }
}

fn owner(record: Option<&SiteRecord>) -> Option<&str> {
    record?.owner.as_deref()
}

/// What a document says; none when it is no site, which anybody may put right who may change what is nobody's.
fn recorded(document: &Document) -> Option<SiteRecord> {
    serde_json::from_value(document.body.clone()).ok()
}
