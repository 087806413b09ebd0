//! Keeps what is made of the documents in step with them: sites of ours, and files of secrets.
//!
//! A site and credentials for it make a document of the kind `site`, which whoever launches reads. All of them are made anew after each change, and now
//! and then, so that nothing depends on who was killed in between.

use std::collections::BTreeSet;
use std::time::Duration;

use epu_bus::amqp::dashi::Failed;
use epu_provisioner::sites::{BY_DTRS, KIND, RECORDS_MOST, SiteRecord};
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::credentials::Credentials;
use super::kept::{self, CREDENTIALS, Definition, SITE};
use crate::compatibility::Office;
use crate::compatibility::domains::Kept;

/// How often sites of ours are compared with the documents they are made from. Too high: one that was missed is not there for long.
const COMPARE_EVERY: Duration = Duration::from_secs(60);
/// How often old files of secrets are looked through.
const TIDY_EVERY: Duration = Duration::from_secs(3_600);

/// Keeps sites of ours and files in step with the documents until cancelled.
pub(in crate::compatibility) async fn run(office: &Office, cancel: &CancellationToken) {
    let (mut compare, mut tidy) = (interval(COMPARE_EVERY), interval(TIDY_EVERY));
    compare.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tidy.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let done = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            _ = tidy.tick() => office.tidy_secrets().await,
            _ = compare.tick() => office.make_sites().await,
        };
        if let Err(failed) = done {
            debug!(problem = %failed.problem, "what the dtrs keeps could not be looked through; it is tried again");
        }
    }
}

impl Office {
    async fn tidy_secrets(&self) -> Result<(), Failed> {
        // As they are written: what another release recorded, which cannot be read here, is named all the same.
        let all: Vec<Kept<Value>> = self.documents.all(CREDENTIALS).await?;
        let mut named = BTreeSet::new();
        all.iter().for_each(|kept| references_in(&kept.is, &mut named));
        self.registry.drawer.tidy(named, self.clock.now()).await;
        Ok(())
    }

    /// Makes them, and leaves it to the next time when that fails: what was asked for is done.
    pub(super) async fn make_sites_now(&self) {
        if let Err(failed) = self.make_sites().await {
            warn!(problem = %failed.problem, "sites of callers could not be brought up to date; that is tried again");
        }
    }

    /// Brings sites of ours in step with the documents they are made from.
    async fn make_sites(&self) -> Result<(), Failed> {
        let there: Vec<Kept<SiteRecord>> = self.documents.all(KIND).await?;
        let all_sites: Vec<Kept<Definition>> = self.documents.all(SITE).await?;
        let credentials: Vec<Kept<Credentials>> = self.documents.all(CREDENTIALS).await?;
        let mut wanted = kept::natives(&all_sites, &credentials);
        // The config file's own goes before it, and nobody is to take its name.
        wanted.retain(|name, _| !self.sites.keys().any(|site| site.as_str() == name));
        let is_ours = |kept: &Kept<SiteRecord>| kept.is.by == BY_DTRS;
        for kept in there.iter().filter(|kept| is_ours(kept) && !wanted.contains_key(&kept.name)) {
            self.documents.forget(KIND, &kept.name).await?;
            info!(site = kept.name, "a site of a caller is gone");
        }
        let mut room = RECORDS_MOST.saturating_sub(
            there
                .iter()
                .filter(|kept| !is_ours(kept) || wanted.contains_key(&kept.name))
                .count(),
        );
        for (name, native) in wanted {
            let before = there.iter().find(|kept| kept.name == name);
            if before.is_some_and(|kept| kept.is == native || !is_ours(kept)) {
                continue;
            }
            if before.is_none() && room == 0 {
                warn!(
                    site = name,
                    "a site of a caller cannot be launched on: there are {RECORDS_MOST} sites, which is the most"
                );
                continue;
            }
            room = room.saturating_sub(usize::from(before.is_none()));
            let kept = Kept {
                revision: before.map_or(0, |kept| kept.revision),
                is: native,
                name,
            };
            // One that somebody else changes at this moment is looked at again.
            if self.documents.put(KIND, &kept).await? {
                info!(site = kept.name, "a site of a caller can be launched on");
            }
        }
        Ok(())
    }
}

/// Every reference to a file in a record.
fn references_in(record: &Value, found: &mut BTreeSet<String>) {
    match record {
        Value::String(text) if text.starts_with("file:") => drop(found.insert(text.clone())),
        Value::Array(list) => list.iter().for_each(|inner| references_in(inner, found)),
        Value::Object(map) => map.values().for_each(|inner| references_in(inner, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::credentials::{self, Field};
    use super::*;

    #[test]
    fn every_file_of_a_record_is_named_also_in_one_that_cannot_be_read() {
        let kept = Field::Kept {
            file: "file:/a".to_owned(),
            shown: None,
        };
        let known = credentials::of("alice", "ec2", [("secret_key".to_owned(), kept)].into());
        let mut found = BTreeSet::new();
        references_in(&serde_json::to_value(&known).expect("JSON"), &mut found);
        references_in(&json!({"version": 2, "fields": [{"where": "file:/b"}, 5]}), &mut found);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["file:/a", "file:/b"]);
        assert_eq!(known.files(), ["file:/a"]);
    }
}
