//! Templates that are kept by themselves, for pools that are added by command to name. A pool has a copy of what it launches, so that nothing
//! is launched otherwise because one of these is changed or removed.

use epu_bus::Answering;
use epu_core::Fault;
use epu_core::id::TemplateName;
use epu_core::journal::{Entry, Event as Remembered};
use epu_core::pool::Template;
use epu_core::request::{Answer, Caller, KeptTemplate, TemplateFile, TemplateRef};
use epu_store::Document;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::keeping::must_own;
use crate::service::Service;
use crate::turn::store_failed;

/// The kind of a template's document.
pub const KIND: &str = "template";
/// Most templates that are kept. Too low: users of many are refused. Too high: reading them all takes long.
pub const MOST: usize = 1_000;

/// A template as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TemplateRecord {
    /// What it is.
    pub template: Template,
    /// Whose it is; none: nobody's in particular.
    #[serde(default)]
    pub owner: Option<String>,
    /// Who put it there.
    #[serde(default)]
    pub by: String,
}

/// Those of these documents that are templates, by name.
#[must_use]
pub fn in_documents(documents: &[Document]) -> Vec<KeptTemplate> {
    let read = |document: &Document| {
        let TemplateRecord { template, owner, by } = serde_json::from_value(document.body.clone()).ok()?;
        let name = TemplateName::new(&document.name).ok()?;
        Some(KeptTemplate { name, template, by, owner })
    };
    documents.iter().filter_map(read).collect()
}

impl Service {
    pub(crate) async fn templates(&self) -> Result<Answer, Fault> {
        let documents = self.store.documents(KIND).await.map_err(|error| store_failed(&error))?;
        Answer::of(&in_documents(&documents))
    }

    pub(crate) async fn template_add(&mut self, caller: &Caller, file: &TemplateFile, answering: Answering) {
        let kept = self.keep_template(caller, file).await;
        self.answer_in_use(kept.and_then(|name| Answer::of(&name)), answering);
    }

    pub(crate) async fn template_remove(&mut self, caller: &Caller, which: &TemplateRef, answering: Answering) {
        let gone = self.forget_template(caller, &which.template).await;
        self.answer_in_use(gone.map(|()| Answer::Json(Value::Null)), answering);
    }

    async fn keep_template(&self, caller: &Caller, file: &TemplateFile) -> Result<TemplateName, Fault> {
        let (name, template) = self.desk.read_template(file)?;
        let doing = format!("add template {name}");
        let documents = self.store.documents(KIND).await.map_err(|error| store_failed(&error))?;
        let before = documents.iter().find(|document| document.name == name.as_str());
        let (revision, owner) = match before {
            None if documents.len() >= MOST => {
                let text = format!("{doing}: there are {MOST} templates already, and more are not kept");
                return Err(Fault::new("too-large", text));
            }
            None => (1, caller.owner_of_new().map(str::to_owned)),
            Some(document) => {
                must_own(&doing, caller, owner(document))?;
                if document.body.get("template") == serde_json::to_value(&template).ok().as_ref() {
                    return Ok(name);
                }
                (document.revision + 1, owner(document).map(str::to_owned))
            }
        };
        let by = caller.name();
        let event = Remembered::TemplateKept { template: name.clone() };
        let record = TemplateRecord { template, owner, by };
        self.keep(&doing, (KIND, name.as_str(), revision), &record, event, &record.by)
            .await?;
        Ok(name)
    }

    async fn forget_template(&self, caller: &Caller, name: &TemplateName) -> Result<(), Fault> {
        let doing = format!("remove template {name}");
        let documents = self.store.documents(KIND).await.map_err(|error| store_failed(&error))?;
        let Some(document) = documents.iter().find(|document| document.name == name.as_str()) else {
            let text = format!("{doing}: no such template is kept by itself; those of the config file are changed there");
            return Err(Fault::new("no-such-template", text));
        };
        must_own(&doing, caller, owner(document))?;
        let event = Remembered::TemplateForgotten { template: name.clone() };
        let journal = vec![Entry::new(self.clock.now(), caller.name(), event)];
        let forgotten = self.store.forget_document(KIND, name.as_str(), journal).await;
        forgotten.map_err(|error| store_failed(&error))
    }
}

fn owner(document: &Document) -> Option<&str> {
    document.body.get("owner").and_then(Value::as_str)
}
