//! What operators keep in the store by name, such as sites and templates: who may change it, and how it is written.

use epu_core::Fault;
use epu_core::journal::{Entry, Event as Remembered};
use epu_core::request::Caller;
use epu_store::Document;
use serde::Serialize;

use crate::service::Service;
use crate::turn::store_failed;

impl Service {
    /// Writes a document, and that it was written; `doing` is for what goes wrong.
    pub(crate) async fn keep(
        &self,
        doing: &str,
        (kind, name, revision): (&str, &str, u64),
        record: &impl Serialize,
        event: Remembered,
        by: &str,
    ) -> Result<(), Fault> {
        let body = serde_json::to_value(record);
        let document = Document {
            kind: kind.to_owned(),
            name: name.to_owned(),
            revision,
            body: body.map_err(|error| Fault::new("internal", format!("{doing}: {error}")))?,
        };
        let journal = vec![Entry::new(self.clock.now(), by.to_owned(), event)];
        match self.store.put_document(&document, journal).await {
            Ok(()) => Ok(()),
            Err(epu_store::Error::Conflict(_)) => Err(Fault::new("conflict", format!("{doing}: it was changed just now; repeat"))),
            Err(error) => Err(store_failed(&error)),
        }
    }
}

/// Refuses whoever acts for others than the owner of what he changes.
pub(crate) fn must_own(doing: &str, caller: &Caller, owner: Option<&str>) -> Result<(), Fault> {
    if caller.owns(owner) {
        return Ok(());
    }
    let whose = owner.map_or_else(|| "nobody's in particular".to_owned(), |owner| format!("{owner}'s"));
    let text = format!("{doing}: it is {whose}, and {} acts for others", caller.name());
    Err(Fault::new("forbidden", text))
}
