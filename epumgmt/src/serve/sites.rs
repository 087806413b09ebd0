//! Sites (and templates) of the config file and those that are kept as records, put together: drivers of both for the provisioner of this process, and
//! for its controller what pools may name.
//!
//! Records are read at start, every few seconds, and after each change that this process made. The file's sites go first: a record of
//! the same name is left out. A record that is not valid, or whose driver cannot be built, is offered with what is wrong with it and
//! touches no other. A driver is built once for the same settings, so that the provisioner sees what changed.
//!
//! Reading the config file again applies its sites whole or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use epu_controller::service::FileConfig;
use epu_core::code::Chain;
use epu_core::id::{SiteName, TemplateName};
use epu_core::pool::Template;
use epu_core::request::{SiteFile, SiteOrigin, TemplateFile};
use epu_core::{Fault, input::Flaws};
use epu_provisioner::iaas::Iaas;
use epu_provisioner::iaas::ec2::{self, Ec2Parts};
use epu_provisioner::iaas::local::{AgentProgram, Local};
use epu_provisioner::iaas::spec::SiteSpec;
use epu_provisioner::sites::{Desk, KIND, Offer, Offers, Unusable};
use epu_provisioner::templates;
use epu_store::{Document, Store};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{self, Config, sites};

/// How often records are looked at. Too high: a site that another process added is not known here for long. Too low: reads for nothing.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The sites of a process.
pub(super) struct Sites {
    /// As it was at the start: what a driver needs besides its site does not change.
    config: Config,
    program: PathBuf,
    rented: Ec2Parts,
    store: Arc<dyn Store>,
    /// Whether this process launches, and needs drivers.
    launches: bool,
    now: Mutex<Now>,
    /// Credentials that the config file names now.
    named: std::sync::Mutex<sites::Named>,
    offers: watch::Sender<Arc<Offers>>,
    file: watch::Sender<Arc<FileConfig>>,
}

/// What was put together last.
struct Now {
    /// The config file as it was last read without faults.
    file: Config,
    /// Whether it was read anew since it was last published.
    is_new: bool,
    records: Vec<Document>,
    /// Templates that are kept as records.
    templates: BTreeMap<TemplateName, Template>,
    built: Built,
    /// Records that are left out, since the file has sites of their names.
    shadowed: BTreeSet<SiteName>,
}

/// Drivers, each with the settings that it was built for.
type Built = BTreeMap<SiteName, (SiteSpec, Arc<dyn Iaas>)>;

/// A site that may be used, or what is wrong with it.
type Usable = Result<SiteSpec, Unusable>;

impl Sites {
    /// Puts together what there is at the start.
    ///
    /// # Errors
    /// When a site of the config file has no driver.
    pub(super) async fn start(
        config: Config,
        program: PathBuf,
        rented: Ec2Parts,
        store: Arc<dyn Store>,
        launches: bool,
        file: watch::Sender<Arc<FileConfig>>,
    ) -> Result<Arc<Self>, Fault> {
        let now = Now {
            file: config.clone(),
            is_new: true,
            records: Vec::new(),
            templates: BTreeMap::new(),
            built: BTreeMap::new(),
            shadowed: BTreeSet::new(),
        };
        let sites = Arc::new(Self {
            config,
            program,
            rented,
            store,
            launches,
            named: std::sync::Mutex::new(now.file.credentials.clone()),
            now: Mutex::new(now),
            offers: watch::channel(Arc::default()).0,
            file,
        });
        {
            let mut now = sites.now.lock().await;
            now.built = sites.drivers_of(&now.file, &BTreeMap::new())?;
            sites.put_together(&mut now).await;
        }
        Ok(sites)
    }

    /// What is offered to the provisioner.
    pub(super) fn offers(&self) -> watch::Receiver<Arc<Offers>> {
        self.offers.subscribe()
    }

    /// Looks at records now and then, until cancelled.
    pub(super) async fn keep_looking(&self, cancel: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let mut now = self.now.lock().await;
            self.put_together(&mut now).await;
        }
    }

    /// Takes what the config file says now. What was before stays when a site of it has no driver.
    ///
    /// # Errors
    /// Why not.
    pub(super) async fn reload(&self, config: Config) -> Result<(), Fault> {
        let mut now = self.now.lock().await;
        let built = self.drivers_of(&config, &now.built)?;
        if let Some(difference) = sites::difference(&now.file.sites, &config.sites) {
            info!(sites = difference, "the sites of the config file changed");
        }
        now.built.extend(built);
        self.named
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(&config.credentials);
        now.file = config;
        now.is_new = true;
        self.put_together(&mut now).await;
        Ok(())
    }

    /// The drivers of a config file's sites; those of before where nothing changed.
    fn drivers_of(&self, config: &Config, before: &Built) -> Result<Built, Fault> {
        let mut built = BTreeMap::new();
        for (name, spec) in config.sites.iter().filter(|_| self.launches) {
            let driver = match before.get(name) {
                Some((known, driver)) if known == spec => driver.clone(),
                Some(_) | None => self.build(name, spec)?,
            };
            built.insert(name.clone(), (spec.clone(), driver));
        }
        Ok(built)
    }

    fn build(&self, name: &SiteName, spec: &SiteSpec) -> Result<Arc<dyn Iaas>, Fault> {
        if let Some(settings) = &spec.ec2 {
            return ec2::build(name, settings, &self.rented);
        }
        let agent = AgentProgram {
            program: self.program.clone(),
            arguments: vec!["agent".to_owned()],
        };
        let settings = spec.local.clone().unwrap_or_default();
        let local = Local::new(&self.rented.installation, &self.config.data_dir, agent, settings);
        Ok(Arc::new(local.pinning(self.rented.ca_pem.clone())))
    }

    /// Reads records, and publishes what is other than before.
    async fn put_together(&self, now: &mut Now) {
        match self.store.documents(KIND).await {
            Ok(records) => now.records = records,
            // What was read before is as good as it was.
            Err(error) => warn!(error = %Chain(&error), "the records of sites cannot be read; the next look tries again"),
        }
        match self.store.documents(templates::KIND).await {
            Ok(records) => {
                let kept = templates::in_documents(&records);
                now.templates = kept.into_iter().map(|kept| (kept.name, kept.template)).collect();
            }
            Err(error) => warn!(error = %Chain(&error), "the records of templates cannot be read; the next look tries again"),
        }
        let mut offers = Offers::new();
        let mut usable = now.file.sites.clone();
        let (mut shadowed, mut owned) = (BTreeSet::new(), BTreeSet::new());
        for (name, spec) in &now.file.sites {
            let line = now.file.site_lines.get(name).copied().unwrap_or_default();
            let path = now.file.file.display().to_string();
            if let Some((_, driver)) = now.built.get(name) {
                offers.insert(name.clone(), offer(Ok(driver.clone()), spec, SiteOrigin::File { path, line }));
            }
        }
        let records = std::mem::take(&mut now.records);
        for record in &records {
            let Ok(name) = SiteName::new(&record.name) else {
                continue;
            };
            if now.file.sites.contains_key(&name) {
                if !now.shadowed.contains(&name) {
                    warn!(site = %name, "the config file has a site of the name of one that is kept as a record, which is left out");
                }
                shadowed.insert(name);
                continue;
            }
            let origin = SiteOrigin::Record {
                by: text(record, "by").unwrap_or("?").to_owned(),
                owner: text(record, "owner").map(str::to_owned),
            };
            let spec = self.usable(&name, record, &now.file.credentials, &usable);
            if let Ok(spec) = &spec {
                usable.insert(name.clone(), spec.clone());
                if text(record, "owner").is_some() {
                    owned.insert(name.clone());
                }
            }
            if self.launches {
                offers.insert(name.clone(), self.offer_of(&name, spec, origin, now));
            }
        }
        now.records = records;
        now.shadowed = shadowed;
        now.built
            .retain(|name, _| offers.get(name).is_some_and(|offer| offer.driver.is_ok()));
        self.offers.send_if_modified(|before| {
            let is_other = !is_same(before, &offers);
            if is_other {
                *before = Arc::new(offers);
            }
            is_other
        });
        self.tell_controller(now, &usable, &owned);
    }

    /// A record that can be used.
    fn usable(&self, name: &SiteName, record: &Document, named: &sites::Named, others: &BTreeMap<SiteName, SiteSpec>) -> Usable {
        let read: Result<SiteSpec, Flaws> = sites::written::kept(name, &record.body["spec"], &self.config, named);
        let unusable = |driver: &str, fault: Fault| Unusable {
            driver: driver.to_owned(),
            fault,
        };
        let spec = read.map_err(|flaws| {
            let driver = if record.body["spec"].get("ec2").is_some() { "ec2" } else { "none" };
            unusable(driver, flaws.into())
        })?;
        if spec.ec2.is_none()
            && let Some((other, _)) = others.iter().find(|(_, other)| other.ec2.is_none())
        {
            let text = format!("site {name}: site {other} has the driver `local` already, and this machine is one site");
            return Err(unusable("local", Fault::new("conflict", text)));
        }
        Ok(spec)
    }

    fn offer_of(&self, name: &SiteName, spec: Usable, origin: SiteOrigin, now: &mut Now) -> Offer {
        let spec = match spec {
            Ok(spec) => spec,
            Err(unusable) => {
                return Offer {
                    driver: Err(unusable),
                    place: String::new(),
                    origin: Some(origin),
                };
            }
        };
        let known = now.built.get(name).filter(|(known, _)| *known == spec);
        let driver = match known.map(|(_, driver)| driver.clone()).map_or_else(|| self.build(name, &spec), Ok) {
            Ok(driver) => {
                now.built.insert(name.clone(), (spec.clone(), driver.clone()));
                Ok(driver)
            }
            Err(fault) => Err(Unusable {
                driver: spec.driver().to_owned(),
                fault,
            }),
        };
        offer(driver, &spec, origin)
    }

    /// What pools may name, told when it is other than before.
    fn tell_controller(&self, now: &mut Now, usable: &BTreeMap<SiteName, SiteSpec>, owned: &BTreeSet<SiteName>) {
        let is_new = std::mem::take(&mut now.is_new);
        let facts = sites::facts(usable);
        let mut templates = now.templates.clone();
        templates.extend(now.file.templates.clone());
        self.file.send_if_modified(|before| {
            let is_other = is_new || before.sites != facts || before.known.owned != *owned || before.known.templates != templates;
            if is_other {
                let mut next = file_config(&now.file);
                next.known.sites = usable.keys().cloned().collect();
                next.known.owned.clone_from(owned);
                if !sites::all_local(usable) {
                    next.known.search = None;
                }
                next.known.templates = templates;
                next.sites = facts;
                *before = Arc::new(next);
            }
            is_other
        });
    }
}

#[async_trait]
impl Desk for Sites {
    fn read(&self, file: &SiteFile) -> Result<(SiteName, SiteSpec), Fault> {
        let named = self.named.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(sites::written::read(file, &self.config, &named)?)
    }

    fn read_template(&self, file: &TemplateFile) -> Result<(TemplateName, Template), Fault> {
        let known = self.file.borrow().known.clone();
        Ok(config::templates::read(file, &known)?)
    }

    async fn look(&self) {
        let mut now = self.now.lock().await;
        self.put_together(&mut now).await;
    }
}

/// What a config file says to a controller.
pub(super) fn file_config(config: &Config) -> FileConfig {
    FileConfig {
        path: config.file.display().to_string(),
        pools: config.pools.clone(),
        known: config.known(),
        sites: sites::facts(&config.sites),
    }
}

fn offer(driver: Result<Arc<dyn Iaas>, Unusable>, spec: &SiteSpec, origin: SiteOrigin) -> Offer {
    let place = match &spec.ec2 {
        Some(ec2) => match &ec2.endpoint {
            Some(endpoint) => format!("{} at {endpoint}", ec2.region),
            None => format!("{} of Amazon EC2", ec2.region),
        },
        None => "this machine".to_owned(),
    };
    let origin = Some(origin);
    Offer { driver, place, origin }
}

fn text<'a>(record: &'a Document, key: &str) -> Option<&'a str> {
    record.body.get(key).and_then(serde_json::Value::as_str)
}

fn is_same(before: &Offers, after: &Offers) -> bool {
    let same = |(one, other): (&Offer, &Offer)| {
        let is_driver = match (&one.driver, &other.driver) {
            (Ok(one), Ok(other)) => Arc::ptr_eq(one, other),
            (Err(one), Err(other)) => one == other,
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
        };
        is_driver && one.place == other.place && one.origin == other.origin
    };
    before.len() == after.len() && before.keys().eq(after.keys()) && before.values().zip(after.values()).all(same)
}

#[cfg(test)]
mod tests;
