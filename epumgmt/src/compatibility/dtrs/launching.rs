//! Types and sites of callers where `provision` and domains name them.
//!
//! A name in the config file goes before a caller's: a template before a type, a site before a site. A domain keeps the template that was made
//! of its type, and is given another when the type is updated, which new instances get.

use std::collections::BTreeMap;
use std::time::Duration;

use epu_bus::amqp::dashi::Failed;
use epu_core::id::{SiteName, TemplateName};
use epu_core::pool::Template;
use epu_core::request::{PoolChange, Request};
use epu_provisioner::iaas::spec::SiteSpec;
use epu_provisioner::sites::{BY_DTRS, KIND, SiteRecord};
use serde_json::Value;
use tracing::{info, warn};

use super::credentials::{self, Credentials};
use super::kept::{self, CREDENTIALS};
use super::lookup::{self, Known, lookup_error};
use super::template::{self, With};
use crate::compatibility::domains::{Domain, Kept};
use crate::compatibility::engines::{self, Wanted};
use crate::compatibility::problem::value_error;
use crate::compatibility::{Office, Role};

/// How long a site that was just made may take to be known to whoever launches. Too low: what is launched on it at once fails. Too high: the client
/// of one that never is does not wait for its answer.
const KNOWN_WITHIN: Duration = Duration::from_secs(7);

/// The site that a caller means by a name.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::compatibility) struct Meant {
    /// Its name among ours.
    pub site: SiteName,
    /// Whether machines are rented there. Otherwise, or when that is not known, it is the machine of the services.
    is_rented: bool,
    /// Whether it is made of a site and credentials of the caller.
    is_own: bool,
}

impl Office {
    /// A template of the config file.
    pub(in crate::compatibility) fn template_of_file(&self, name: &str) -> Option<Template> {
        let name = TemplateName::new(name).ok()?;
        self.file.borrow().known.templates.get(&name).cloned()
    }

    /// The site that a caller means: one of the config file or of the operators, otherwise his own. A site of another is none, whatever it is called
    /// among ours.
    pub(in crate::compatibility) async fn site_meant(&self, caller: &str, name: &str) -> Result<Option<Meant>, Failed> {
        let Ok(site) = SiteName::new(name) else {
            return Ok(None);
        };
        let meant = |site: SiteName, spec: Option<&SiteSpec>, is_own| {
            Some(Meant {
                site,
                is_rented: spec.is_some_and(|spec| spec.ec2.is_some()),
                is_own,
            })
        };
        if let Some(spec) = self.sites.get(&site) {
            return Ok(meant(site, Some(spec), false));
        }
        let records: Vec<Kept<SiteRecord>> = self.documents.all(KIND).await?;
        let named = |name: &str| records.iter().find(|kept| kept.name == name).map(|kept| &kept.is);
        match named(name) {
            Some(record) if record.by != BY_DTRS && record.owner.as_deref().is_none_or(|owner| owner == caller) => {
                return Ok(meant(site, Some(&record.spec), false));
            }
            Some(_) => {}
            // The config file was read anew.
            None if self.file.borrow().known.sites.contains(&site) => return Ok(meant(site, None, false)),
            None => {}
        }
        let Some(own) = kept::native_name(name, caller) else {
            return Ok(None);
        };
        let record = named(&own).filter(|record| record.by == BY_DTRS && record.owner.as_deref() == Some(caller));
        let site = SiteName::new(&own).ok();
        Ok(record.zip(site).and_then(|(record, site)| meant(site, Some(&record.spec), true)))
    }

    /// Waits until a site of a caller is known to whoever launches, which takes a moment after it was made.
    pub(in crate::compatibility) async fn until_known(&self, meant: &Meant) {
        if !meant.is_own {
            return;
        }
        let mut file = self.file.clone();
        let known = file.wait_for(|file| file.known.sites.contains(&meant.site));
        if tokio::time::timeout(KNOWN_WITHIN, known).await.is_err() {
            warn!(site = %meant.site, "a site of a caller is not known to whoever launches");
        }
    }

    /// The site of whoever names none: the only one of the config file. Those of callers do not count.
    fn only_site(&self) -> Option<&SiteName> {
        self.sites.keys().next().filter(|_| self.sites.len() == 1)
    }

    /// The template that a caller's type is at a site; none when the caller has no such type. `site` is as the caller names it; `variables` are as templates
    /// have them.
    pub(in crate::compatibility) async fn template_of_type(
        &self,
        caller: &str,
        type_name: &str,
        site: &str,
        allocation: Option<&str>,
        variables: &BTreeMap<String, String>,
    ) -> Result<Option<Template>, Failed> {
        if !self.has_types() {
            return Ok(None);
        }
        let Some(dt) = self.deployable_type(caller, type_name).await? else {
            return Ok(None);
        };
        let all: Vec<Kept<Credentials>> = self.documents.all(CREDENTIALS).await?;
        let of = |kind: &str, name: &str| {
            let key = kept::credentials_key(caller, kind, name);
            all.iter().find(|kept| kept.name == key).map(|kept| &kept.is)
        };
        let meant = self.site_meant(caller, site).await?;
        let is_for_all = meant.as_ref().is_some_and(|meant| !meant.is_own);
        let known = Known {
            key: &|| match of(credentials::SITE, site) {
                Some(found) => Ok(found.key_name()),
                // A site of the config file has credentials of its own.
                None if is_for_all => Ok(None),
                None => Err(lookup_error(format!("Credentials missing for caller {caller} and site {site}"))),
            },
            chef: &|name| of(credentials::CHEF, name).is_some(),
            chef_credential: variables.get("chef_credential").cloned(),
        };
        let allocation = allocation.map(|allocation| Value::String(allocation.to_owned()));
        let found = lookup::find(type_name, &dt, site, allocation.as_ref(), &known)?;
        let with = With {
            variables,
            run: &self.config.run,
            agent: &self.config.agent,
            is_here: meant.is_some_and(|meant| !meant.is_rented),
        };
        Ok(Some(template::template(type_name, &found, &with)?))
    }

    /// What a domain's pool launches: the template of the config file, or one made of the caller's type, in which case true comes with it. None when
    /// there is neither.
    pub(in crate::compatibility) async fn template_wanted(
        &self,
        caller: &str,
        wanted: &Wanted,
    ) -> Result<Option<(Template, bool)>, Failed> {
        if let Some(template) = self.template_of_file(&wanted.template) {
            return Ok(Some((template, false)));
        }
        let Some(site) = wanted.site().or_else(|| self.only_site().map(SiteName::as_str)).map(str::to_owned) else {
            return Ok(None);
        };
        let allocation = wanted.allocation.as_deref();
        let made = self.template_of_type(caller, &wanted.template, &site, allocation, &wanted.variables);
        Ok(made.await?.map(|template| (template, true)))
    }

    /// Puts the site that a caller means in place of what he calls it.
    pub(in crate::compatibility) async fn place(&self, caller: &str, wanted: &mut Wanted) -> Result<(), Failed> {
        let Some(named) = wanted.site().map(str::to_owned) else {
            if let Some(only) = self.only_site() {
                wanted.place_on(only);
            }
            return Ok(());
        };
        let meant = self.site_meant(caller, &named).await?;
        let meant = meant.ok_or_else(|| {
            value_error(format!(
                "no site is named {named}, and {caller} has none with credentials under names that fit"
            ))
        })?;
        self.until_known(&meant).await;
        wanted.place_on(&meant.site);
        Ok(())
    }

    /// Gives the domains that were made from a type what it is now. What fails is said in the log: the type itself is updated.
    pub(super) async fn renew_domains(&self, caller: &str, type_name: &str) {
        let renewed = async {
            let pools = self.documents.pools().await?;
            for kept in self.documents.domains().await? {
                let domain = kept.is;
                if domain.made && domain.owner == caller && pools.contains(&domain.pool) {
                    self.renew(&domain, type_name).await?;
                }
            }
            Ok::<(), Failed>(())
        };
        if let Err(failed) = renewed.await {
            warn!(caller, deployable_type = type_name, problem = %failed.problem, "not every domain of an updated type launches by it");
        }
    }

    async fn renew(&self, domain: &Domain, type_name: &str) -> Result<(), Failed> {
        let wanted = engines::wanted(&domain.config, &self.config)?;
        if wanted.template != type_name {
            return Ok(());
        }
        let Some((template, true)) = self.template_wanted(&domain.owner, &wanted).await? else {
            return Ok(());
        };
        let change = PoolChange {
            pool: domain.pool.clone(),
            set: BTreeMap::new(),
            template: Some(Box::new(engines::with_variables(&template, &wanted.variables))),
            if_revision: None,
        };
        self.ask::<Value>(Self::owner(&domain.owner), Request::PoolReconfigure(change))
            .await?;
        info!(domain = domain.id, owner = domain.owner, "a domain launches by its updated type");
        Ok(())
    }

    /// Whether this process answers for types: a Python service that still does has its own.
    fn has_types(&self) -> bool {
        self.config.services.contains(&Role::Dtrs)
    }
}
