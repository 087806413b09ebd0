//! Whether a site is still the one where its machines are.
//!
//! Credentials of another account, or another region under the same name, show an empty list and know no machine: all would be believed
//! gone, and be launched anew. So whose account a site is and where is remembered with the first list, and compared before the first
//! list of each term and each driver, and when more than a few machines at once are unknown there. Where they differ and something lives
//! on the site, it cannot be looked at until a person has put that right. Where nobody can say whose account it is, more than a few
//! are believed gone only while the site still knows another.

use std::sync::Arc;

use epu_core::id::{InstanceId, SiteName};
use epu_core::time::{Span, Timestamp};
use epu_store::{Document, Store};
use serde_json::Value;

use crate::iaas::{Class, IaasError};
use crate::lifecycle::Happening;
use crate::service::Service;
use crate::site::{Done, Driver, Site};

/// The kind of the document that remembers whose account a site is.
pub(crate) const KIND: &str = "site-account";
/// So many machines may be unknown to a site at once without its being asked who we are.
const FEW: usize = 3;
/// Wait before it is asked again where nobody could say.
const AGAIN: Span = Span::secs(300);

/// Asks a site whose account it is, and compares. False: nobody can say.
///
/// # Errors
/// It is not the one where its machines are.
pub(crate) async fn vouch(driver: &Driver, store: &Arc<dyn Store>, has_machines: bool) -> Result<bool, IaasError> {
    let is = match driver.call("identity", |iaas| async move { iaas.identity().await }).await {
        Ok(Some(is)) if is.is_empty() => return Ok(true),
        Ok(Some(is)) => is,
        Ok(None) | Err(_) => return Ok(false),
    };
    let Ok(documents) = store.documents(KIND).await else {
        return Ok(false);
    };
    let before = documents.into_iter().find(|document| document.name == driver.site.as_str());
    let was = before.as_ref().and_then(|document| document.body.as_str());
    match was {
        Some(was) if was == is => return Ok(true),
        Some(was) if has_machines => {
            return Err(IaasError::new(
                Class::Credentials,
                format!(
                    "site {} is account {is} now, and its machines are in {was}: nothing is concluded from what it does not show; correct \
                     its credentials, region or endpoint, or give the other account to a site of another name",
                    driver.site
                ),
            ));
        }
        Some(_) | None => {}
    }
    let document = Document {
        kind: KIND.to_owned(),
        name: driver.site.to_string(),
        revision: before.map_or(0, |document| document.revision) + 1,
        body: Value::String(is),
    };
    Ok(store.put_document(&document, Vec::new()).await.is_ok())
}

impl Site {
    /// Whether it is to be asked whose account it is before it is listed.
    pub(crate) fn must_vouch(&self, now: Timestamp) -> bool {
        match self.vouched {
            None => true,
            Some((_, true)) => false,
            Some((at, false)) => now.since(at) >= *AGAIN,
        }
    }
}

impl Service {
    /// Whether anything lives on a site.
    pub(crate) fn has_machines(&self, site: &SiteName) -> bool {
        self.book.on_site(site).is_some_and(|on_site| !on_site.machines.is_empty())
    }

    /// Whether these are too many to be gone merely because a site that may be another does not know them.
    pub(crate) fn are_many(&self, site: &SiteName, unknown: usize, absent: usize) -> bool {
        let all = self.book.on_site(site).map_or(0, |on_site| on_site.machines.len());
        unknown > FEW && absent * 2 > all
    }

    /// Asks whose account a site is before these are believed gone.
    pub(crate) fn ask_before_they_are_gone(&mut self, site: &SiteName, gone: Vec<InstanceId>, is_known: bool) {
        let Some(known) = self.sites.get(site) else { return };
        let (name, driver, store) = (site.clone(), known.driver.clone(), self.store.clone());
        self.tasks.spawn(async move {
            let result = match vouch(&driver, &store, true).await {
                Ok(false) if !is_known => Err(IaasError::new(
                    Class::Retryable,
                    format!(
                        "site {name} knows none of its machines any more, and cannot say whose account it is: they are not believed gone; \
                         see that its credentials, region and endpoint are right (with an `identity-endpoint` it could be asked)"
                    ),
                )),
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            Done::Vouched { site: name, gone, result }
        });
    }

    pub(crate) fn vouched(&mut self, site: &SiteName, gone: Vec<InstanceId>, result: Result<(), IaasError>) {
        if let Err(error) = result {
            if let Some(known) = self.sites.get_mut(site) {
                known.vouched = None;
            }
            return self.look_failed(site, "describe", &error);
        }
        for id in gone {
            if self.instance(id).is_some_and(|instance| instance.is_live()) {
                self.happen_quietly(id, Happening::Gone);
            }
        }
        self.looked(site, self.clock.now());
    }
}
